"""The documents: links that lead somewhere, programs that compile."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from zerowait.settings import Settings
from zerowait.settings_channels import ChannelSettings
from zerowait.settings_fields import documentation

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])

_FENCED = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def called(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(path: Path) -> set[str]:
    """What a page's headings are linked by, as GitHub makes them."""
    text = _FENCED.sub("", path.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(text)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=called)
def test_links_lead_somewhere(path: Path) -> None:
    text = _FENCED.sub("", path.read_text(encoding="utf-8"))
    for link in _LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        page = (path.parent / target).resolve() if target else path
        assert page.exists(), f"{called(path)} links to {link}: there is no such file"
        if anchor and page.suffix == ".md":
            assert anchor in anchors(page), f"{called(path)} links to {link}: there is no such heading"


@pytest.mark.parametrize("path", DOCUMENTS, ids=called)
def test_programs_compile(path: Path) -> None:
    for indent, language, program in _FENCED.findall(path.read_text(encoding="utf-8")):
        if language == "python":
            lines = [line.removeprefix(indent) for line in program.splitlines()]
            compile("\n".join(lines), called(path), "exec")


def test_every_test_that_the_guarantees_name_is_there() -> None:
    page = (ROOT / "docs/topics/guarantees.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    tests = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(named) > 20
    assert named <= tests, f"not there: {sorted(named - tests)}"


def table(of: type[msgspec.Struct]) -> str:
    """What each setting is, in the order of the code."""
    lines, words = ["| setting | default | |", "|---|---|---|"], documentation(of)
    for field in msgspec.structs.fields(of):
        default: object = "none" if field.default in ((), msgspec.NODEFAULT) else field.default
        if isinstance(default, int) and not isinstance(default, bool):
            default = f"{default:,}"
        shown = "unset" if default is None else str(default).lower()
        lines.append(f"| `{field.name}` | {shown} | {words[field.name]} |")
    return "\n".join(lines)


@pytest.mark.parametrize("of", [Settings, ChannelSettings])
def test_the_page_says_what_each_setting_is(of: type[msgspec.Struct]) -> None:
    page = (ROOT / "docs/topics/running.md").read_text(encoding="utf-8")
    assert table(of) in page, f"docs/topics/running.md: its table is to be\n{table(of)}"
