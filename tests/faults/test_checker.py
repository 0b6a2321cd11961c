"""The checker sees what it is for: each defect that is planted into a right history is named."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.checker import Cut, check
from tests.faults.history import SIZE, Kind, Record, hash_of, payload, read
from zerowait.snapshot import ChannelStatus

SENDER, WORKER, SECOND = 100, 200, 201  # process ids
KILLED = 50.0
CUTS = [Cut(WORKER, KILLED - 0.5, KILLED - 0.1, KILLED, concurrency=2)]


def right_history() -> list[Record]:
    """Ten messages at a worker that is killed while it runs 8 and 9; a second one runs these again. 7 had ended just
    before the kill and ran again too. 10 was refused; of 11 its sender does not know."""
    records: list[Record] = []

    def note(kind: Kind, number: int, at: float, pid: int) -> None:
        records.append(Record(kind, 1, len(records), 1, number, hash_of(payload(1, number, 100)), at, pid))

    for number in range(12):
        note(Kind.ATTEMPT, number, float(number), SENDER)
        if number < 10:
            note(Kind.ACCEPTED, number, number + 0.1, SENDER)
    note(Kind.REFUSED, 10, 10.1, SENDER)
    for number in range(8):
        end = KILLED - 0.1 if number == 7 else number + 20.5
        note(Kind.STARTED, number, number + 20.0, WORKER)
        note(Kind.HANDLED, number, end, WORKER)
        note(Kind.SETTLED, number, KILLED + 9, SENDER)
    for number in (8, 9):
        note(Kind.STARTED, number, KILLED - 0.2, WORKER)
    for number in (7, 8, 9, 11):
        note(Kind.STARTED, number, KILLED + 1, SECOND)
        note(Kind.HANDLED, number, KILLED + 2, SECOND)
    return records


LEDGER = ChannelStatus(channel="faults", accepted=11, handled=11)


def test_a_right_history_has_no_violation() -> None:
    report = check(right_history(), [LEDGER], CUTS)
    assert report.violations == []
    assert (report.accepted, report.refused, report.recovered, report.repeated) == (10, 1, 1, 3)


def without(kind: Kind, number: int) -> Callable[[list[Record]], None]:
    def plant(records: list[Record]) -> None:
        records[:] = [record for record in records if (record.kind, record.number) != (kind, number)]

    return plant


def with_(kind: Kind, number: int, at: float, pid: int, *, hash: int | None = None) -> Callable[[list[Record]], None]:
    def plant(records: list[Record]) -> None:
        right = hash_of(payload(1, number, 100))
        records.append(Record(kind, 1, 99, 1, number, right if hash is None else hash, at, pid))

    return plant


def both(*plants: Callable[[list[Record]], None]) -> Callable[[list[Record]], None]:
    def plant(records: list[Record]) -> None:
        for each in plants:
            each(records)

    return plant


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (without(Kind.HANDLED, 3), r"lost: \(1, 3\)"),
        (both(without(Kind.HANDLED, 3), without(Kind.STARTED, 3)), r"lost: \(1, 3\)"),
        (both(without(Kind.HANDLED, 3), without(Kind.STARTED, 3)), r"false: .* \(1, 3\)"),
        (with_(Kind.STARTED, 77, 60.0, SECOND), r"unexpected: \(1, 77\) was delivered"),
        (with_(Kind.ACCEPTED, 77, 60.0, SENDER), r"unexpected: \(1, 77\) was accepted"),
        (with_(Kind.STARTED, 11, 60.0, SECOND, hash=5), r"another payload"),
        (with_(Kind.STARTED, 10, 60.0, SECOND), r"refused, and delivered: \(1, 10\)"),
        (with_(Kind.REFUSED, 2, 60.0, SENDER), r"contradiction: \(1, 2\)"),
        # A message that had long ended at the killed worker, that ended nowhere near a kill, or in the same process.
        (with_(Kind.STARTED, 3, KILLED + 1, SECOND), r"repeated without cause: \(1, 3\)"),
        (with_(Kind.STARTED, 8, KILLED + 5, SECOND), r"repeated without cause: \(1, 8\)"),
        (with_(Kind.STARTED, 3, 23.7, WORKER), r"repeated without cause: \(1, 3\)"),
        (with_(Kind.STARTED, 8, KILLED - 0.15, SECOND), r"repeated without cause: \(1, 8\)"),
        (with_(Kind.ATTEMPT, 2, 60.0, SENDER), r"the test itself"),
        # Three were unfinished where two can run.
        (without(Kind.HANDLED, 7), r"repeated too often: 3"),
    ],
)
def test_a_planted_defect_is_named(plant: Callable[[list[Record]], None], said: str) -> None:
    records = right_history()
    plant(records)
    if said.startswith("repeated too often"):
        records.append(Record(Kind.HANDLED, 1, 99, 1, 7, 0, KILLED + 2, SECOND))
    report = check(records, [LEDGER], CUTS)
    assert any(_found(said, each) for each in report.violations), report


def _found(said: str, violation: str) -> bool:
    return re.search(said, violation) is not None


def test_without_the_kill_each_repetition_is_a_violation() -> None:
    report = check(right_history(), [LEDGER], [])
    assert sum("repeated without cause" in each for each in report.violations) == 3


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (ChannelStatus(channel="faults", accepted=11, handled=10), "add up"),
        (ChannelStatus(channel="faults", accepted=11, handled=12, waiting=-1), "less than nothing"),
        (ChannelStatus(channel="faults", accepted=11, handled=10, in_flight=1), "not at rest"),
        (ChannelStatus(channel="faults", accepted=11, handled=10, dropped=1), "nobody gave up"),
        (ChannelStatus(channel="faults", accepted=11, handled=10, dead=1), "nobody gave up"),
        (ChannelStatus(channel="faults", accepted=12, handled=12), "only 11 can have been"),
        (ChannelStatus(channel="faults", accepted=10, handled=10), "counts 10 messages, and 11"),
    ],
)
def test_a_ledger_that_is_not_exact_is_named(row: ChannelStatus, said: str) -> None:
    report = check(right_history(), [row], CUTS)
    assert any(said in each for each in report.violations), report


def test_a_ledger_may_count_less_where_an_empty_outbox_was_removed() -> None:
    row = ChannelStatus(channel="faults", accepted=4, handled=4)
    assert check(right_history(), [row], CUTS, whole=False).violations == []


def test_a_history_survives_its_process_and_one_that_is_torn_is_refused(tmp_path: Path) -> None:
    program = (
        "import os\nfrom pathlib import Path\nfrom tests.faults.history import *\n"
        f"history = History(Path({str(tmp_path)!r}), 7)\n"
        "for number in range(5): history.note(Kind.ATTEMPT, 1, number, 3)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=False)
    file = tmp_path / "7.history"
    records = read(file)
    assert [(record.kind, record.number, record.pid) for record in records] == [(Kind.ATTEMPT, n, 7) for n in range(5)]
    with file.open("ab") as torn:
        torn.write(bytes(SIZE - 1))
    with pytest.raises(AssertionError, match="within a record"):
        read(file)
