"""Half a minute of it; `make soak MINUTES=n` for longer, and for the picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.history import History, Kind
from tests.faults.scene import Scene
from tests.faults.soak import Soak, Terms
from tests.faults.tally import OVER_S, Tally
from tests.faults.watch import MIB, Watch, slope
from zerowait.snapshot import ChannelStatus

Told = Callable[[str], None]


@pytest.mark.long
@pytest.mark.timeout(240)
def test_under_load_with_a_fault_every_second_nothing_is_lost_and_nothing_grows_without_end(
    scene: Scene, home: Path, told: Told
) -> None:
    terms = Terms(seconds=30, seed=4, faults=(0.5, 2.0), look=0.25)
    soak = Soak(scene, home, terms, print)
    try:
        outcome = soak.run()
    finally:
        soak.close()
    told(f"soak of {terms.seconds:g} s: {sum(outcome.faults.values())} faults, {outcome.report}")
    assert not outcome.wrong, outcome.wrong
    assert outcome.report.accepted > 1_000
    assert outcome.faults.keys() == soak.faults().keys(), "each kind of fault was met"
    assert "no cause" not in outcome.causes
    assert {growth.what for growth in outcome.growths} == {"memory", "descriptors", "threads", "outbox", "log"}


# -- what judges it ----------------------------------------------------------------------------------------------------


def climbing(a_second: float, seconds: int = 600, *, from_: float = 30.0) -> list[tuple[float, float]]:
    return [(float(at), from_ + a_second * at) for at in range(seconds)]


def test_a_slope_is_that_of_most_of_the_time_and_not_that_of_a_peak() -> None:
    assert slope(climbing(0.5)) == pytest.approx(0.5)
    peak = [(at, value + (500.0 if 300 < at < 380 else 0.0)) for at, value in climbing(0.0)]
    assert slope(peak) == pytest.approx(0.0)
    saw = [(float(at), float(at % 50)) for at in range(600)]
    assert abs(slope(saw)) < 0.02


@pytest.mark.parametrize(("what", "a_second", "is_leak"), [
    ("memory", 0.02, True), ("memory", 0.0002, False), ("descriptors", 0.1, True), ("threads", 0.01, True),
    ("threads", 0.0, False), ("outbox", 0.1, True), ("log", 0.05, False),
])  # fmt: skip
def test_what_grows_without_end_is_called_a_leak(what: str, a_second: float, is_leak: bool) -> None:
    watch = Watch(0.0)
    scale = MIB if what in ("memory", "outbox", "log") else 1
    for at, value in climbing(a_second):
        watch.note("somebody", what, value * scale, at)
    [growth] = watch.growths(warm_up=60, least=300)
    assert growth.is_leak is is_leak, str(growth)


def test_who_has_warmed_up_late_is_no_leak() -> None:
    watch = Watch(0.0)
    for at, value in climbing(0.1):
        watch.note("somebody", "memory", min(value, 60.0) * MIB, at)
    [growth] = watch.growths(warm_up=60, least=300)
    assert growth.grown > 8
    assert not growth.is_leak, str(growth)


def test_what_is_not_looked_at_for_long_is_not_judged() -> None:
    watch = Watch(0.0)
    for at, value in climbing(1.0, seconds=50):
        watch.note("somebody", "memory", value * MIB, at)
    assert not watch.growths(warm_up=20, least=40)


def history(folder: Path, pid: int, *said: tuple[Kind, int]) -> None:
    written = History(folder, pid)
    for kind, number in said:
        written.note(kind, sender=1, number=number, hash=number)


RUN = (Kind.ATTEMPT, Kind.ACCEPTED, Kind.STARTED, Kind.HANDLED, Kind.SETTLED)


def test_what_is_over_is_checked_and_forgotten_and_all_is_counted(tmp_path: Path) -> None:
    history(tmp_path, 7, *[(kind, number) for number in range(50) for kind in RUN])
    tally = Tally(tmp_path, list)
    tally.look(0.0)
    assert tally.waiting() == 50
    tally.look(1e9)
    assert tally.waiting() == 0
    assert tally.knows_all(7)
    assert tally.end([ChannelStatus(channel="faults", accepted=50, handled=50)]).violations == []
    assert (tally.report.accepted, tally.report.runs, tally.report.repeated) == (50, 50, 0)


def test_a_lost_message_and_one_that_is_repeated_without_a_cause_are_found(tmp_path: Path) -> None:
    history(tmp_path, 7, *[(kind, 1) for kind in RUN], (Kind.STARTED, 1), (Kind.HANDLED, 1))
    history(tmp_path, 8, (Kind.ATTEMPT, 2), (Kind.ACCEPTED, 2))
    tally = Tally(tmp_path, list)
    tally.look(1e9)
    found = tally.end([]).violations
    assert len(found) == 2, found
    assert "repeated without cause: (1, 1)" in found[0]
    assert found[1].startswith("lost: (1, 2)")
    assert tally.causes({}) == {"no cause": 1}


def test_a_run_of_what_was_over_is_a_violation(tmp_path: Path) -> None:
    history(tmp_path, 7, *[(kind, 1) for kind in RUN])
    tally = Tally(tmp_path, list)
    tally.look(1e9)
    history(tmp_path, 8, (Kind.STARTED, 1))
    tally.look(1e9)
    assert f"STARTED {OVER_S:g} s after all was over: (1, 1)" in tally.end([]).violations


def test_a_ledger_that_counts_more_than_was_pushed_is_wrong(tmp_path: Path) -> None:
    history(tmp_path, 7, *[(kind, 1) for kind in RUN])
    tally = Tally(tmp_path, list)
    assert "only 1 can have been accepted" in tally_end(tally)


def tally_end(tally: Tally) -> str:
    tally.look(0.0)
    return " ".join(tally.end([ChannelStatus(channel="faults", accepted=2, handled=2)]).violations)
