"""Some dozens of kills at any time; thousands with `make campaign`."""

from __future__ import annotations

import pytest

from tests.faults.history import Kind
from tests.faults.kills import kill_at_random
from tests.faults.scene import Scene


@pytest.mark.parametrize("seed", [1, 2])
def test_whoever_is_killed_whenever_every_message_is_accounted_for(scene: Scene, seed: int) -> None:
    report = kill_at_random(scene, seed, kills=20)
    print(f"seed {seed}: {report}")
    assert not report.violations, report
    assert report.runs >= 10
    assert len(scene.cuts) >= 5
    assert len({record.pid for record in scene.of(Kind.ATTEMPT)}) >= 5
