"""Who finds a planted bug: the tests that it names; else the simulation, else the tests of what that has found, and
those of the protocol."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from msgspec import Struct

from tests.mutants.planting import FOUND_BY, planted
from zerowait.testing.simulation import simulate

ROOT = Path(__file__).parents[2]
TESTS = (
    "tests/simulation/test_found.py",
    "tests/unit/outbox/test_suspects.py",
    "tests/unit/outbox/test_keys.py",
    "tests/protocol/test_keys.py",
    "tests/protocol/test_suspects.py",
    "tests/protocol/test_rules.py",
    "tests/protocol/test_tables.py",
    "tests/protocol/test_scenarios.py",
    "tests/protocol/test_outputs.py",
    "tests/unit/outbox/test_claims.py",
    "tests/protocol/test_requests.py",
    "tests/protocol/test_streams.py",
    "tests/protocol/test_feeds.py",
    "tests/protocol/test_long_silences.py",
    "tests/unit/test_streams.py",
    "tests/unit/test_reopening.py",
    "tests/unit/test_outboxes.py",
    "tests/unit/outbox/test_known.py",
    "tests/unit/outbox/test_outbox.py",
)


class Find(Struct, frozen=True):
    """by: who found it; empty if nobody has. words: what was wrong."""

    bug: str
    by: str
    words: str
    seconds: float


def hunt(bug: str, seeds: int) -> Find:
    began = monotonic()
    named = FOUND_BY.get(bug, ())
    with planted(bug):
        for seed in range(1, 0 if named else seeds + 1):
            words = _symptom(seed)
            if words:
                return Find(bug, f"seed {seed}", words, monotonic() - began)
    failed = _by_tests(bug, named or TESTS)
    return Find(bug, "a test" if failed else "", failed, monotonic() - began)


def _symptom(seed: int) -> str:
    try:
        report = simulate(seed)
    except Exception as error:  # whatever a bug leads to
        return repr(error)
    return report.wrong[0] if report.wrong else ""


def _by_tests(bug: str, tests: Sequence[str]) -> str:
    """The name of the first test that fails."""
    program = (
        "import sys, pytest; from tests.mutants.planting import FOUND_BY, planted\n"
        "with planted(sys.argv[1]): sys.exit(pytest.main(['-x', '-q', '-p', 'no:cacheprovider', *sys.argv[2:]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, bug, *tests], cwd=ROOT, capture_output=True, text=True, check=False
    )
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    return failed[0].removeprefix("FAILED ").split(" - ")[0] if failed else ""
