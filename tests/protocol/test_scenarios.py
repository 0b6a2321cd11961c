"""The stories of the rules, section by section. ZEROWAIT_REWRITE=1 writes down what is seen now: then read the
difference."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.protocol.scenario import Scenario

FOLDER = Path(__file__).parent / "scenarios"
REWRITE = bool(os.environ.get("ZEROWAIT_REWRITE"))  # at import: the tests' own settings leave the environment
DASHES = "----"


def play(text: str) -> str:
    """The same text, with what is seen below each command."""
    scenario = Scenario()
    written: list[str] = []
    for block in text.strip().split("\n\n"):
        commands = [line for line in block.split(DASHES)[0].splitlines() if line]
        seen: list[str] = []
        for line in commands:
            if not line.startswith("#"):
                seen.extend(scenario.play(line))
        written.append("\n".join([*commands, *([DASHES, *seen] if DASHES in block or seen else [])]))
    return "\n\n".join(written) + "\n"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_the_story_goes_as_it_is_told(path: Path) -> None:
    told = path.read_text(encoding="utf-8")
    seen = play(told)
    if REWRITE:
        path.write_text(seen, encoding="utf-8")
    assert seen == told


def test_each_section_of_the_rules_has_its_story() -> None:
    sections = {path.stem.split("-")[0] for path in FOLDER.glob("*.txt")}
    assert {"1", "2", "3", "4", "5", "7", "8", "9", "10"} <= sections
