"""kill -9 at each step of a message's way, on both sides."""

from __future__ import annotations

import pytest

from tests.faults.kills import kill_at_point
from tests.faults.points import POINTS
from tests.faults.scene import Scene


@pytest.mark.parametrize("point", [point for point in POINTS if point.startswith("sender")])
def test_a_sender_killed_there_loses_nothing_and_repeats_nothing(scene: Scene, point: str) -> None:
    report = kill_at_point(scene, point, nth=1 if "adopting" in point else 7)
    assert not report.violations, report
    assert report.repeated == 0, "its workers live: they know what they have run"


@pytest.mark.parametrize("point", [point for point in POINTS if point.startswith("worker")])
def test_of_a_worker_killed_there_only_what_was_not_settled_runs_again(scene: Scene, point: str) -> None:
    report = kill_at_point(scene, point, nth=1 if "drain" in point else 9)
    assert not report.violations, report
