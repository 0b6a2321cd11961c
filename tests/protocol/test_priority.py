"""Priority orders what waits at its owner (rules §8.3)."""

from __future__ import annotations

import pytest

from tests.protocol.puppet import BOX, CHANNEL, Puppet, Stage
from tests.protocol.store import Store, segment
from zerowait.engines.brokerless.protocol.frames import Batch, Outcome, Part
from zerowait.engines.brokerless.protocol.owner.dispatch import Dispatch, Taker
from zerowait.engines.brokerless.protocol.owner.flights import Slice
from zerowait.message import Verdict

LOW, NORMAL, HIGH = -1, 0, 1
X, Y = 21, 22


def owner() -> Stage:
    return Stage(store=Store(BOX))


def worker(stage: Stage, instance: int = X, credit: int = 100, **how: object) -> Puppet:
    return stage.peer(instance, channels=[CHANNEL], credit=credit, **how)


def sent(*puppets: Puppet) -> list[tuple[int, int]]:
    """Since they were asked last: (first, count)."""
    found = [frame.ranges[0] for puppet in puppets for frame in puppet.all(Batch)]
    for puppet in puppets:
        puppet.forget()
    return found


def ends(puppet: Puppet, batch: Batch, first: int, count: int = 1, verdict: Verdict = Verdict.HANDLED) -> None:
    notes = tuple((batch.epoch, first + index, 50, b"") for index in range(count)) if verdict == Verdict.RETRY else ()
    puppet.say(Outcome(BOX, verdict, (Part(batch.epoch, first, count, batch.fence, batch.n),), notes))


def test_high_goes_before_normal_before_low_and_each_in_the_order_of_pushing() -> None:
    stage = owner()
    for priority in (LOW, NORMAL, HIGH, LOW, HIGH, NORMAL):
        stage.push(2, priority=priority)
    x = worker(stage)
    assert sent(x) == [(5, 2), (9, 2), (3, 2), (11, 2), (1, 2), (7, 2)]


def test_what_is_sent_is_not_overtaken_and_of_what_waits_the_higher_goes_next() -> None:
    stage = owner()
    stage.push(100, priority=LOW)
    x = worker(stage, credit=3)
    assert sent(x) == [(1, 3)]
    stage.push(1)
    stage.push(2, priority=HIGH)
    assert sent(x) == []
    x.grant(7, serial=2)
    assert sent(x) == [(102, 2), (101, 1), (4, 1)]


def test_all_workers_share_what_is_high_before_one_has_what_is_low() -> None:
    stage = owner()
    stage.push(50, priority=LOW)
    stage.push(8, priority=HIGH)
    x, y = worker(stage, X, credit=4), worker(stage, Y, credit=4)
    assert sorted(number for first, count in sent(x, y) for number in range(first, first + count)) == list(
        range(51, 59)
    )


def test_a_high_one_of_one_outbox_goes_before_a_low_one_of_another_and_equals_in_turn() -> None:
    dispatch = Dispatch()
    for box, first, priority in ((1, 1, LOW), (1, 2, HIGH), (2, 1, LOW), (2, 2, NORMAL), (1, 3, NORMAL), (2, 3, HIGH)):
        dispatch.ready([Slice(box, segment(CHANNEL, 5, first, [10], priority=priority), first, 1)])
    picked = dispatch.pick(CHANNEL, [Taker(7, 100, {1, 2}, 1_000)])
    assert [(piece.box, piece.first) for _, piece in picked] == [(1, 2), (2, 3), (2, 2), (1, 3), (1, 1), (2, 1)]


@pytest.mark.parametrize("verdict", [Verdict.UNSTARTED, Verdict.RETRY])
def test_what_comes_back_waits_with_its_own_priority_and_first_of_it_unless_it_had_to_wait(verdict: Verdict) -> None:
    stage = owner()
    x = worker(stage, credit=1)
    stage.push(1, priority=LOW)
    (first,) = x.all(Batch)
    sent(x)
    stage.push(1, priority=LOW)
    stage.push(1)
    stage.push(1, priority=HIGH)
    ends(x, first, 1, verdict=verdict)
    stage.step(0.2)
    assert stage.store is not None
    stage.core.owner.offer(BOX, stage.store.due_now(stage.wall_us(stage.now)))
    x.grant(100, serial=2)
    low = [(1, 1), (2, 1)] if verdict == Verdict.UNSTARTED else [(2, 1), (1, 1)]
    assert sent(x) == [(4, 1), (3, 1), *low]


def test_what_one_worker_hands_back_goes_to_another_with_its_priority() -> None:
    stage = owner()
    x = worker(stage, X, credit=2)
    stage.push(2, priority=HIGH)
    (batch,) = x.all(Batch)
    stage.push(5, priority=LOW)
    stage.push(5)
    y = worker(stage, Y, credit=1)
    assert sent(y) == [(8, 1)]
    ends(x, batch, 1, 2, Verdict.UNSTARTED)
    y.grant(4, serial=2)
    assert sent(y) == [(1, 2), (9, 1)]


def test_a_key_keeps_its_order_whatever_the_priority_and_others_go_by_theirs() -> None:
    stage = owner()
    stage.push(1, key=b"a", priority=LOW)
    stage.push(3)
    stage.push(1, key=b"a", priority=HIGH)
    stage.push(1, key=b"b", priority=HIGH)
    x = worker(stage)
    found = x.all(Batch)
    assert sent(x) == [(6, 1), (2, 3), (1, 1)], "5 waits for 1, which is low"
    ends(x, found[-1], 1)
    assert sent(x) == [(5, 1)]


def test_what_is_too_large_for_one_worker_waits_for_another_with_its_priority() -> None:
    stage = owner()
    stage.push(1, size=500, priority=LOW)
    stage.push(1, size=500, priority=HIGH)
    x = worker(stage, X, message_bytes=100)
    assert sent(x) == []
    stage.push(1)
    assert sent(x) == [(3, 1)]
    x.grant(0, serial=2)
    stage.push(1)
    y = worker(stage, Y)
    assert sent(y) == [(2, 1), (4, 1), (1, 1)]


def test_what_is_withdrawn_settled_and_dropped_is_found_in_every_priority() -> None:
    stage = owner()
    dispatch = stage.core.owner.dispatch
    for priority in (LOW, NORMAL, HIGH):
        stage.push(3, priority=priority)
    assert stage.store is not None
    epoch = stage.store.epoch
    for first in (2, 5, 8):
        assert [(piece.first, piece.count) for piece in dispatch.remove(BOX, epoch, first, 1)] == [(first, 1)]
    assert dispatch.waiting(CHANNEL) == 6
    taken = dispatch.empty(CHANNEL, BOX, (epoch, 6))
    assert sorted(piece.first for piece in taken) == [1, 3, 4, 6]
    assert sorted(piece.first for piece in dispatch.pieces(BOX)) == [7, 9]
    dispatch.disown(BOX)
    assert dispatch.channels() == []


def test_who_uses_no_priority_has_one_level_to_look_at() -> None:
    stage = owner()
    stage.push(3)
    assert list(stage.core.owner.dispatch._queues[CHANNEL].levels) == [NORMAL]
    stage.push(3, priority=LOW)
    stage.push(3, priority=HIGH)
    assert list(stage.core.owner.dispatch._queues[CHANNEL].levels) == [HIGH, NORMAL, LOW]
