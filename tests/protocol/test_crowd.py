"""Thousands of peers: what those who are well cost, and that nobody is given up who was only not read."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from types import FrameType
from typing import Any

from tests.protocol.puppet import BOX, CHANNEL, Puppet, Stage
from tests.protocol.store import Store
from zerowait.engines.brokerless.protocol.core import UNREAD_MOST
from zerowait.engines.brokerless.protocol.due import Due
from zerowait.engines.brokerless.protocol.frames import Ping, Pong, Room, Subscribed
from zerowait.engines.brokerless.protocol.subscriber.inbox import Inbox
from zerowait.engines.brokerless.protocol.subscriber.subscriber import Wanted

INF = float("inf")


def steps_of(fn: Callable[[], object]) -> int:
    """How many steps the interpreter takes for it: exact, whatever else the machine does."""
    steps = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        fn()
    finally:
        sys.settrace(before)
    return steps


def pings_of(peer: Puppet) -> list[Ping]:
    return [frame for frame in peer.heard if isinstance(frame, Ping)]


def steps_of_one_ping_among(many: int) -> int:
    stage = Stage(store=Store(BOX))
    for index in range(many):
        stage.peer(300 + index)
    stage.step(0.5)
    last = stage.peer(200)
    stage.step(0.5)
    stage.step(0.49)
    pings = len(pings_of(last))
    stage.now += 0.02
    core, now = stage.core, stage.now
    steps = sum(steps_of(fn) for fn in (lambda: core.wake(now), core.next_wake))
    stage.step()
    assert len(pings_of(last)) == pings + 1, "it was asked"
    return steps


def test_a_turn_in_which_one_peer_is_due_costs_as_much_among_four_hundred_as_among_four() -> None:
    """Each turn looked at all of them eight times, and with three thousand each turn found that somebody was due."""
    assert steps_of_one_ping_among(400) <= 1.1 * steps_of_one_ping_among(4)


def test_who_falls_silent_just_after_it_came_is_noticed_no_later_than_others() -> None:
    # given a worker that said something a moment after it came, and nothing since
    stage = Stage()
    one = stage.peer(200, channels=[CHANNEL], credit=1, answers=False)
    came = stage.now
    stage.step(0.02)
    one.say(Ping(1))
    # when it is looked at for the first time, as it would be late had it said nothing then
    stage.step(came + stage.config.silence - stage.now)
    assert not one.closed
    # then it is looked at again when it is late, and not a tenth of a second after that look
    stage.step(0.021)
    assert one.closed


def test_nobody_is_silent_or_gone_whose_words_may_lie_unread() -> None:
    # given two workers; what came in the last four seconds may lie unread
    stage = Stage(store=Store(BOX))
    one, other = stage.peer(200, channels=[CHANNEL], credit=1, answers=False), stage.peer(201, answers=False)
    stage.core.read_until = stage.now
    # when both are not heard for longer than silence
    for _ in range(20):
        stage.step(0.2)
    # then neither is given up, or told of as one that does not answer
    assert not one.closed
    assert not other.closed
    assert all(peer.stuck_since is None for peer in stage.core.peers)
    # and asked once: one more answer to read would make it no sooner
    assert len(pings_of(one)) == 1
    # and when all is read they are silent after all
    stage.core.read_until = INF
    stage.step(0.2)
    assert one.closed
    assert other.closed


def test_what_was_taken_is_told_also_while_much_lies_unread() -> None:
    """A publisher that leaves waits for who tells it that, and for nobody else."""
    # given a subscription, whose publisher has not answered a PING yet, for all that is known
    stage = Stage()
    inbox = Inbox(nullcontext(), 10, renew=lambda: None, notify=lambda: None)
    stage.core.subscriber.add(Wanted(1, "a.*", inbox))
    bank = stage.peer(200, name="bank", answers=False)
    bank.say(Subscribed(1, 200, 3, 3, 0))
    stage.core.read_until = stage.now
    # when one event is taken, which is little, and the time has come for the next PING
    inbox.source(200, "bank").taken += 1
    stage.step(1.1)
    # then there is room for one more
    assert len(pings_of(bank)) == 1
    assert bank.last(Room).limit == 11


def test_who_is_known_to_stand_still_costs_no_turns_and_is_found_again() -> None:
    # given a peer that speaks and does not answer
    stage = Stage(store=Store(BOX))
    one = stage.peer(200, channels=[CHANNEL], credit=1, answers=False)
    (peer,) = [each for each in stage.core.peers if each.instance == 200]

    def rests() -> list[float]:
        """For how long there is nothing to do, step after step; until it is known to stand still, or not."""
        found: list[float] = []
        for serial in range(20):
            one.say(Ping(serial))
            stage.step(0.2)
            found.append((stage.core.next_wake() or INF) - stage.now)
        return found

    rests()
    assert peer.stuck_since is not None
    # then nobody looks after it more often than it is asked
    assert max(rests()[:4]) > 0.3
    # when it answers, and then does not again
    one.say(Pong(pings_of(one)[-1].serial, 0))
    stage.step(0.01)
    assert peer.stuck_since is None
    rests()
    # then that is known in its time
    assert peer.stuck_since is not None


def test_nobody_is_stuck_whose_answer_may_lie_behind_all_that_he_says() -> None:
    # given a worker that says much, while only the first word of each is surely read
    stage = Stage(store=Store(BOX))
    one = stage.peer(200, channels=[CHANNEL], credit=1, answers=False)
    # when no PONG has come of it for longer than a peer may stand still
    for serial in range(25):
        one.say(Ping(serial))
        stage.core.read_until = stage.now
        stage.step(0.2)
    # then it is not told of as one that does not answer
    (peer,) = [each for each in stage.core.peers if each.instance == 200]
    assert peer.stuck_since is None
    # and when all that it has said is read, it is
    one.say(Ping(25))
    stage.core.read_until = INF
    stage.step(0.2)
    assert not one.closed
    assert peer.stuck_since is not None


def test_nobody_is_silent_while_something_lies_before_the_thread_that_takes_it_off_the_network() -> None:
    # given two peers that are not heard, and a word of one of them that was not taken off the network
    unread: set[int] = set()
    stage = Stage(store=Store(BOX), has_unread=unread.__contains__)
    one, other = stage.peer(200, answers=False), stage.peer(201, answers=False)
    unread.add(one.conn)
    # when both are not heard for longer than silence
    for _ in range(20):
        stage.step(0.2)
    # then neither is given up: the other's word may have been taken off just now
    assert not one.closed
    assert not other.closed
    assert all(peer.stuck_since is None for peer in stage.core.peers)
    # and when nothing is left there, they are
    unread.clear()
    stage.step(0.2)
    assert one.closed
    assert other.closed


def test_who_trickles_words_keeps_neither_itself_nor_others_from_being_judged_for_ever() -> None:
    # given two peers that are not heard, one that has not even said HELLO, and words of one that always lie unread
    unread: set[int] = set()
    stage = Stage(store=Store(BOX), has_unread=unread.__contains__)
    one, other = stage.peer(200, answers=False), stage.peer(201, answers=False)
    mute = Puppet(stage, 202)
    unread.update((one.conn, mute.conn))
    # when that goes on for longer than words may lie there
    judged = stage.now + stage.config.silence + UNREAD_MOST
    while stage.now < judged - 0.5:
        stage.step(0.2)
        assert not one.closed
        assert not other.closed
    while stage.now < judged + 0.5:
        stage.step(0.2)
    # then those are given up that are late for so long, and nobody before
    assert one.closed
    assert other.closed
    assert not mute.closed
    for _ in range(20):
        stage.step(0.2)
    assert mute.closed


def test_who_was_heard_meanwhile_has_as_long_again_before_he_is_judged_in_spite_of_what_lies_unread() -> None:
    unread: set[int] = set()
    stage = Stage(store=Store(BOX), has_unread=unread.__contains__)
    one = stage.peer(200, answers=False)
    unread.add(one.conn)
    # when it is late almost for so long, is heard, and is late again
    for _ in range(2):
        began = stage.now
        while stage.now < began + stage.config.silence + UNREAD_MOST - 0.5:
            stage.step(0.2)
        assert not one.closed
        one.say(Ping(25))
    assert not one.closed


def test_a_peer_whose_state_lies_unread_is_not_refused_for_want_of_it() -> None:
    unread: set[int] = set()
    stage = Stage(store=Store(BOX), has_unread=unread.__contains__)
    one = Puppet(stage, 200)
    unread.add(one.conn)
    for _ in range(30):
        stage.step(0.2)
    assert not one.closed
    unread.clear()
    stage.step(0.2)
    assert one.closed


def test_of_timers_those_are_taken_whose_time_has_come_and_each_once() -> None:
    due = Due()
    for key, at in ((1, 3.0), (2, 1.0), (3, 1.0), (4, 2.0)):
        due.set(key, at)
    due.set(2, 5.0)
    due.discard(4)
    assert due.next() == 1.0
    assert due.take(3.0) == [3, 1]
    assert due.take(3.0) == []
    assert due.next() == 5.0
    due.set(2, 5.0)
    assert due.take(9.0) == [2]
    assert due.next() == INF
