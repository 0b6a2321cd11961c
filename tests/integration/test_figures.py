"""The figures that the library is held to, small and with room for a machine that has other work: `make figures`
measures them whole. Each program of it is thereby run, too."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from bench.__main__ import Run
from bench.figures import crowd, limits, waiting
from bench.figures.report import Row

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="they read /proc"),
]


@pytest.fixture
def run(home: Path) -> Run:
    return Run(str(home))


def measured(rows: Iterable[Row]) -> list[dict[str, float]]:
    return [row.measured for row in rows]


def test_a_backlog_goes_on_at_once_and_drains_about_as_fast_as_it_would_be_sent(run: Run) -> None:
    first, drained = measured(waiting.backlog(run, count=20_000, rounds=1))
    assert first["max"] < 10
    assert drained["median"] > 0.2


@pytest.mark.long
def test_what_waits_lies_on_disk_and_the_memory_of_its_sender_stays(run: Run) -> None:
    alone, with_worker = measured(waiting.memory(run, 100_000))
    assert alone["messages"] == 100_001
    assert alone["most"] < 90, "MiB, of 100 that were pushed"
    assert with_worker["most"] < 90


def test_leaving_with_everybody_absent_takes_no_time_and_says_what_is_lost(run: Run) -> None:
    durable, memory = waiting.leaving(run, rounds=1)
    assert durable.measured["max"] < 4
    assert memory.measured["seconds"] < 4
    assert "bench-sender ends with 10000 messages (10000 for bench.memory) that lay only in memory" in memory.note


@pytest.mark.long
def test_a_hundred_peers_cost_little_and_are_back_soon_after_a_restart(run: Run) -> None:
    [cost] = measured(crowd.cost(run, 100))
    assert cost["grown"] < 32 + cost["credit"]
    [back] = measured(crowd.storm(run, 100, rounds=1))
    assert back["max"] < 10


def test_a_process_without_descriptors_rests_and_goes_on_with_whom_it_knows(run: Run) -> None:
    limit, at_limit = measured(limits.descriptors(run, seconds=2.0))
    assert limit["soft"] >= min(limit["hard"], 65_536)
    assert at_limit["processor"] < 0.6
    assert at_limit["messages"] > 20


def test_slow_greetings_and_a_storm_of_dials_leave_who_works_at_work(run: Run) -> None:
    [flood] = measured(limits.flood(run, 200, seconds=4.0))
    assert flood["p99"] < 3
    [storm] = measured(limits.storm(run, 100, seconds=5.0))
    assert storm["p99"] < 3
