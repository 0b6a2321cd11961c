"""What the simulation has found, each in as few steps as it needs."""

from __future__ import annotations

from random import Random

import pytest

from tests.simulation.test_disk import PATH
from zerowait.errors import Room, StoreError
from zerowait.message import Segment, Settle, Verdict
from zerowait.outbox.intake import Intake, Limits
from zerowait.outbox.lane import Lane
from zerowait.outbox.outbox import Outbox
from zerowait.testing.disk import SimulatedDisk
from zerowait.testing.timeline import Timeline


def no_room() -> Room:
    raise AssertionError("there is room")


def opened(disk: SimulatedDisk, time: Timeline) -> Outbox:
    def now_us() -> int:
        return time.steady_ns() // 1_000

    intake = Intake(Limits(), durable=True, wake=lambda: None, room=no_room, now_us=now_us)
    return Outbox.open(PATH, "x", now_us=now_us, id=7, intake=intake, disk=disk, steady=time.steady_ns)


def push(box: Outbox, count: int) -> None:
    for _ in range(count):
        Lane(box.intake, "work").append(b"\xc0" * 3_000)


def there(segments: list[Segment]) -> int:
    return sum(segment.count for segment in segments)


def test_what_is_accepted_after_a_restart_survives_although_a_sync_had_failed_before_it() -> None:
    """Seed 20058: the log went on behind a part of it that was in the cache only, and lost both in a power cut."""
    for seed in range(12):
        disk, time = SimulatedDisk(Random(seed)), Timeline()
        box = opened(disk, time)
        push(box, 3)
        disk.trouble = "sync"
        with pytest.raises(StoreError):
            box.turn()
        disk.trouble = ""
        disk.part(power=False)
        next_life = opened(disk, time)
        found = there(next_life.turn())
        push(next_life, 5)
        assert there(next_life.turn()) == 5  # on disk, and its receipts have been told so
        disk.part(power=True)
        assert there(opened(disk, time).turn()) == found + 5


@pytest.mark.parametrize("step", range(1, 25))
def test_a_power_cut_while_an_outbox_is_opened_again_after_a_failed_sync_leaves_it_whole(step: int) -> None:
    """Seed 5541: pages went into the file from a log that was in the cache only, and the file was damaged."""
    for seed in range(12):
        # given a commit whose sync failed, and which changes pages that the log has not held before
        disk, time = SimulatedDisk(Random(seed)), Timeline()
        box = opened(disk, time)
        segments: list[Segment] = []
        for _ in range(4):
            push(box, 4)
            segments += box.turn()
        assert box._file.database is not None
        box._file.database.checkpoint(truncate=True)
        push(box, 1)
        box.turn()
        disk.trouble = "sync"
        with pytest.raises(StoreError):
            box.turn([Settle("work", s.epoch, s.first, s.count, Verdict.HANDLED, s.seq) for s in segments[:12]])
        disk.trouble = ""
        # when the power goes while it is opened again
        disk.light(step, power=True)
        box.turn()
        disk.part(power=True)
        # then it is as before that commit, or as after
        again = opened(disk, time)
        assert again.read("PRAGMA integrity_check") == [("ok",)]
        assert again.ledger.rows()["work"].handled in (0, 12)
        assert there(again.turn()) in (17, 5)
