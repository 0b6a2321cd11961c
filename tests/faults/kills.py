"""Kills at any time, of anybody: a sender that pushes without end and two workers, one of the three killed again and
again. The seed decides who and when as far as a seed can, with real processes."""

from __future__ import annotations

import random
import signal

from tests.faults.checker import Report
from tests.faults.history import Kind
from tests.faults.points import POINTS
from tests.faults.scene import Life, Scene
from tests.waiting import wait_until


def kill_at_random(scene: Scene, seed: int, kills: int) -> Report:
    """Kills so often, heals, waits until nothing is under way. `make campaign` and the test differ in the numbers."""
    chance = random.Random(seed)
    workers = [_worker(scene, chance) for _ in range(2)]
    sender = scene.sender(pace=0.002)
    for _ in range(kills):
        _let_pass(chance.choice((0.0, 0.02, 0.1, 0.3)) * chance.random())
        side = chance.choice(("sender", "worker", "both"))
        dying = [sender] if side == "sender" else [chance.choice(workers)]
        if side == "both":
            dying.append(sender)
        for life in dying:
            scene.kill(life)
        if chance.random() < 0.3:
            _let_pass(0.3 * chance.random())  # nobody is there meanwhile
        for life in dying:
            if life is sender:
                sender = scene.next_sender(pace=0.002)
            else:
                workers[workers.index(life)] = _worker(scene, chance)
    scene.until(Kind.ACCEPTED, 10, by=sender)
    sender.signal(signal.SIGUSR1)
    scene.until(Kind.READY, by=sender)
    until_stored(scene, sender)
    return scene.report(within=30)


def until_stored(scene: Scene, sender: Life) -> None:
    """Until the sender knows of each of its pushes what became of it."""

    def known() -> bool:
        kinds = [record.kind for record in scene.of_pid(sender.pid)]
        return kinds.count(Kind.ATTEMPT) == sum(
            kinds.count(kind) for kind in (Kind.ACCEPTED, Kind.REFUSED, Kind.UNKNOWN)
        )

    wait_until(known, within=15, that="every push is stored or refused")


def kill_at_point(scene: Scene, point: str, nth: int) -> Report:
    """Kills at that passage of a named point, then goes on."""
    worker_dies = point.startswith("worker")
    worker = scene.worker(point=point if worker_dies else "", nth=nth)
    adopting = "adopting" in point
    sender = scene.sender(point="" if worker_dies or adopting else point, nth=nth, pace=0.0005)
    if adopting:
        scene.until(Kind.HANDLED, 10)
        scene.kill(sender)
        sender = scene.sender(point=point, count=1)
    elif "drain" in point:
        scene.until(Kind.HANDLED, 10)
        worker.signal(signal.SIGTERM)
    dying = worker if worker_dies else sender
    dying.until_over()
    scene.killed(dying)
    if worker_dies:
        scene.worker()
    else:
        sender = scene.next_sender(count=50)
    scene.until(Kind.ACCEPTED, 50, by=sender)
    sender.signal(signal.SIGUSR1)
    scene.until(Kind.READY, by=sender)
    until_stored(scene, sender)
    return scene.report()


def _worker(scene: Scene, chance: random.Random) -> Life:
    return scene.worker(seconds=chance.choice((0.0, 0.001, 0.02)))


def _let_pass(seconds: float) -> None:
    """The time of a kill is what these tests choose: nothing is waited for."""
    import time

    time.sleep(seconds)


__all__ = ["POINTS", "kill_at_point", "kill_at_random"]
