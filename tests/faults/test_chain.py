"""Three stages, whose processes are killed at any time and at each step of what handlers send: each output of each
message leaves once, whoever ran it (rules §6)."""

from __future__ import annotations

import random
import signal
import time
from collections import defaultdict

import pytest

from tests.faults.history import Kind
from tests.faults.kills import until_stored
from tests.faults.lives import ARRIVED, PARTS
from tests.faults.points import CHAIN_POINTS
from tests.faults.scene import Life, Scene
from tests.waiting import wait_until

Name = tuple[int, int]  # sender, number


def arrived(scene: Scene) -> dict[Name, set[str]]:
    """Under which ids each part has come to the last stage. Its handler may run twice: the same id is the same
    message."""
    found: dict[Name, set[str]] = defaultdict(set)
    path = scene.folder / ARRIVED
    for line in path.read_text().splitlines() if path.exists() else ():
        sender, number, id = line.split()
        found[int(sender), int(number)].add(id)
    return found


def assert_each_output_once(scene: Scene, sender: Life) -> int:
    """When all is quiet. Gives how many parts have come."""
    sender.signal(signal.SIGUSR1)
    scene.until(Kind.READY, by=sender)
    until_stored(scene, sender)
    accepted = {(record.sender, record.number) for record in scene.of(Kind.ACCEPTED)}

    def lacking() -> list[Name]:
        there = arrived(scene)
        return [
            (sender, part)
            for sender, number in accepted
            for part in range(number * PARTS, (number + 1) * PARTS)
            if (sender, part) not in there
        ]

    try:
        wait_until(
            lambda: scene.whole() and not lacking(), within=40, that="everything that was accepted has come through"
        )
    except AssertionError as error:
        raise AssertionError(f"{error}: {lacking()[:5]} of {len(accepted)}\n{scene.testimony()}") from None
    scene.until_quiet()
    there = arrived(scene)
    twice = {name: ids for name, ids in there.items() if len(ids) > 1}
    assert not twice, f"{len(twice)} outputs have left twice, such as {next(iter(twice.items()))}"
    attempted = {(record.sender, record.number) for record in scene.of(Kind.ATTEMPT)}
    assert {(sender, part // PARTS) for sender, part in there} <= attempted
    return len(there)


@pytest.mark.parametrize("point", CHAIN_POINTS)
@pytest.mark.parametrize("side", ["first", pytest.param("second", marks=pytest.mark.long)])
def test_killed_at_any_step_each_output_leaves_once(scene: Scene, point: str, side: str) -> None:
    """Between the sender and the first stage, and between that one and the second."""
    owner_dies = point.startswith("owner")
    armed = {"point": point, "nth": 5}
    at = (0 if owner_dies else 1) + (side == "second")  # the sender is 0
    stages = [scene.stage(number, **(armed if at == number else {})) for number in (1, 2, 3)]
    sender = scene.sender(pace=0.002, **(armed if at == 0 else {}))
    dying = stages[at - 1] if at else sender
    dying.until_over()
    scene.killed(dying)
    if at:
        scene.stage(at)
    else:
        sender = scene.next_sender(pace=0.002)
    scene.until(Kind.ACCEPTED, 20, by=sender)
    assert assert_each_output_once(scene, sender) >= 40


@pytest.mark.parametrize("point", ["stage: prepared, on its disk", "stage: on CONFIRM"])
def test_who_takes_over_what_was_sent_for_its_own_messages_asks_itself_and_finds_who_takes_it(
    scene: Scene, point: str
) -> None:
    """Nothing waited in the dead stage's outbox when it was taken over: what leaves it begins to wait only then."""
    stage = scene.stage(1, point=point)
    sender = scene.sender(pace=0.002)
    stage.until_over()
    scene.killed(stage)
    wait_until(lambda: "faults-stage1" in scene.boxes_of(sender), within=15, that="the sender has its outbox")
    for number in (1, 2, 3):
        scene.stage(number)
    scene.until(Kind.ACCEPTED, 20, by=sender)
    assert assert_each_output_once(scene, sender) >= 40


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_any_time_each_output_leaves_once(scene: Scene, seed: int) -> None:
    chance = random.Random(seed)
    seconds = {1: 0.005, 2: 0.0, 3: 0.0}
    inbox = "disk" if seed % 2 else "memory"
    stages = {number: [scene.stage(number, seconds=seconds[number], inbox=inbox)] for number in (1, 2, 3)}
    stages[1].append(scene.stage(1, seconds=0.01))  # two of one name share the work
    sender = scene.sender(pace=0.002)
    for _ in range(14):
        time.sleep(chance.choice((0.02, 0.1, 0.3)) * chance.random())  # the time of a kill is what is chosen here
        who = chance.choice((0, 1, 1, 2, 2, 3))
        if not who:
            scene.kill(sender)
            sender = scene.next_sender(pace=0.002)
            continue
        index = chance.randrange(len(stages[who]))
        scene.kill(stages[who][index])
        if chance.random() < 0.3:
            time.sleep(0.2 * chance.random())
        stages[who][index] = scene.stage(who, seconds=seconds[who], inbox=inbox)
    scene.until(Kind.ACCEPTED, 10, by=sender)
    assert assert_each_output_once(scene, sender) >= 20


def test_what_had_ended_before_a_kill_is_told_by_the_next_life_and_not_run_again(scene: Scene) -> None:
    """It dies when its outcome is on its disk, and nobody has been told."""
    worker = scene.worker(inbox="disk", point="stage: prepared, on its disk")
    sender = scene.sender(count=1)
    worker.until_over()
    scene.killed(worker)
    assert len(scene.of(Kind.HANDLED)) == 1
    assert not scene.of(Kind.SETTLED)
    scene.worker(inbox="disk")
    scene.until(Kind.SETTLED, by=sender)
    assert len(scene.of(Kind.STARTED)) == 1, "it ran again"
