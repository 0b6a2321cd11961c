"""Processes that stop and go on, loops that are blocked; and how soon the living notice, and go on themselves."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from tests.faults.history import Kind
from tests.faults.kills import until_stored
from tests.faults.scene import Life, Scene
from tests.waiting import wait_until

Told = Callable[[str], None]


def finish(scene: Scene, sender: Life) -> None:
    sender.signal(signal.SIGUSR1)
    scene.until(Kind.READY, by=sender)
    until_stored(scene, sender)


def test_a_sender_that_is_to_stop_pushing_at_its_birth_lives_and_says_so(scene: Scene) -> None:
    """Of the scene itself: else what it is to take over would wait for ever."""
    scene.worker()
    for _ in range(5):
        finish(scene, scene.sender(pace=0.002))
    scene.assert_accounted()


@pytest.mark.parametrize(("role", "seconds"), [("sender", 2.0), ("worker", 0.5)])
def test_a_stop_shorter_than_silence_changes_nothing(scene: Scene, role: str, seconds: float) -> None:
    worker, sender = scene.worker(), scene.sender(pace=0.002)
    scene.until(Kind.SETTLED, 20)
    stopped = worker if role == "worker" else sender
    stopped.signal(signal.SIGSTOP)
    time.sleep(seconds)  # the fault
    stopped.signal(signal.SIGCONT)
    again = time.monotonic()
    scene.until(Kind.SETTLED, 20, after=again)
    finish(scene, sender)
    assert scene.assert_accounted().repeated == 0
    assert "is lost" not in worker.log() + sender.log()


@pytest.mark.long
def test_a_worker_that_stands_for_six_seconds_is_noticed_and_nothing_of_it_is_done_twice(
    scene: Scene, told: Told
) -> None:
    worker = scene.worker(seconds=0.05)
    sender = scene.sender(pace=0.005)
    scene.until(Kind.SETTLED, 20)
    worker.signal(signal.SIGSTOP)
    stopped = time.monotonic()
    wait_until(lambda: "is lost" in sender.log(), within=8, that="the silence is noticed")
    noticed = time.monotonic() - stopped
    other = scene.worker(seconds=0.001)
    flow = scene.until(Kind.SETTLED, 10, after=stopped + noticed) - stopped - noticed
    time.sleep(max(0.0, stopped + 6 - time.monotonic()))  # silent for 3 s, and back before the grace of 5 is over
    worker.signal(signal.SIGCONT)
    back = time.monotonic()
    other.signal(signal.SIGTERM)  # it is quicker, and what comes one by one would all be its
    scene.until(Kind.STARTED, 5, by=worker, after=back)
    finish(scene, sender)
    told(f"stopped worker: noticed after {noticed:.2f} s; a new one took over {flow:.2f} s after its start")
    assert scene.assert_accounted().repeated == 0
    assert noticed < 5
    assert other.log().count("WARNING") == 0


def test_a_sender_that_stands_longer_than_silence_finds_its_messages_handled(scene: Scene) -> None:
    quick = {"ping": 0.3, "silence": 1.0, "resume_grace": 2.0}
    worker = scene.worker(seconds=0.01, settings=quick)
    sender = scene.sender(pace=0.001, settings=quick)
    scene.until(Kind.SETTLED, 50)
    sender.signal(signal.SIGSTOP)
    stopped = time.monotonic()
    wait_until(lambda: "is lost" in worker.log(), within=8, that="the silence is noticed")
    time.sleep(max(0.0, stopped + 2.5 - time.monotonic()))
    scene.away(stopped)
    sender.signal(signal.SIGCONT)
    scene.back()
    scene.until(Kind.SETTLED, 20, after=time.monotonic())
    finish(scene, sender)
    assert scene.assert_accounted().repeated == 0


def test_while_a_workers_loop_is_blocked_another_does_the_rest_and_what_it_runs_is_not_done_twice(
    scene: Scene,
) -> None:
    blocked = scene.worker(block_at=10, block_s=3.0)
    sender = scene.sender(pace=0.005)
    scene.until(Kind.SETTLED, 5)
    wait_until(lambda: [record for record in scene.of(Kind.STARTED) if record.number == 10], within=10)
    began = time.monotonic()
    other = scene.worker()
    scene.until(Kind.HANDLED, 100, by=other, after=began, within=3)
    assert not [record for record in scene.of(Kind.HANDLED, by=blocked) if record.number == 10], "it still stands"
    wait_until(lambda: [record for record in scene.of(Kind.HANDLED) if record.number == 10], within=10)
    finish(scene, sender)
    assert scene.assert_accounted().repeated == 0


def test_a_killed_worker_is_noticed_at_once_and_the_next_one_begins_at_once(scene: Scene, told: Told) -> None:
    noticed: list[float] = []
    first: list[float] = []
    sender = scene.sender(pace=0.005)
    for number in range(5):
        worker = scene.worker(seconds=0.005)
        born = time.monotonic()
        first.append(scene.until(Kind.STARTED, by=worker) - born)
        scene.until(Kind.HANDLED, 10, by=worker)
        at = scene.kill(worker)
        wait_until(lambda number=number: sender.log().count("has died") > number, within=5)  # type: ignore[misc]
        noticed.append(time.monotonic() - at)
    scene.worker()
    finish(scene, sender)
    told(
        f"killed worker: noticed after {max(noticed):.3f} s at most; start to first delivery {max(first):.2f} s at most"
    )
    scene.assert_accounted()
    assert max(noticed) < 1
    assert max(first) < 4


def test_a_restarted_sender_delivers_what_it_left_at_once(scene: Scene, told: Told) -> None:
    scene.worker(seconds=0.02)
    sender = scene.sender(count=300, pace=0)
    scene.until(Kind.ACCEPTED, 300, by=sender)
    scene.kill(sender)
    born = time.monotonic()
    second = scene.next_sender(count=1)
    # What was queued at the worker from before waits for its owner's word; what is handled again flows.
    first = scene.until(Kind.SETTLED, by=second, after=born) - born
    told(f"restarted sender: first of its messages settled after {first:.2f} s, with a backlog of its last life")
    assert scene.assert_accounted().repeated == 0
    assert first < 15
