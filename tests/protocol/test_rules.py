"""The rules that go wrong quietly: each test is a mistake that was made once, or that its rule warns of."""

from __future__ import annotations

import pytest

from tests.protocol.puppet import BOX, CHANNEL, Puppet, Stage
from tests.protocol.store import Store
from tests.protocol.world import Process, World
from tests.protocol.world import Store as WorldStore
from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.config import Config
from zerowait.engines.brokerless.protocol.effects import Dispatched, Effects, Met, Reopen, Say, Send, Withdrawn
from zerowait.engines.brokerless.protocol.frames import (
    Batch,
    Confirm,
    Credit,
    Drop,
    Goodbye,
    Held,
    Hello,
    Obituary,
    Outcome,
    Owned,
    Part,
    Ping,
    Pong,
    ProtocolError,
    Served,
    State,
    Want,
)
from zerowait.engines.brokerless.protocol.link import Link
from zerowait.engines.brokerless.protocol.owner.credit import units
from zerowait.message import Again, Service, Verdict
from zerowait.message import Outcome as Ended

X, Y = 201, 202
DAY = 86_400_000


def said(stage: Stage, topic: str) -> list[str]:
    return [effect.words for effect in stage.effects if isinstance(effect, Say) and effect.topic == topic]


def owner(**how: object) -> Stage:
    return Stage(store=Store(BOX), **how)  # type: ignore[arg-type]


def worker(runners: int = 1) -> Stage:
    return Stage(services={CHANNEL: runners})


# -- §1 names, fences, connections -------------------------------------------------------------------------------------


def test_an_owner_that_is_fenced_is_told_to_open_above_the_fence() -> None:
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL], credit=5)
    stage.push()
    fence = stage.core.owner.custody[BOX].epoch + 1_000
    x.say(Goodbye(frames.FENCED, "opened by somebody else", BOX, fence))
    assert stage.effects[-1] == Reopen(BOX, fence, "opened by somebody else")
    assert not x.closed

    epoch = stage.open(floor_epoch=fence)
    assert epoch > fence
    x.held()
    x.grant(5, serial=2)
    assert x.last(Batch).fence == epoch


def test_a_fence_a_day_ahead_is_reported_and_never_followed() -> None:
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL], credit=5)
    y = stage.peer(Y, channels=[CHANNEL])
    stage.push()
    epoch = stage.core.owner.custody[BOX].epoch
    x.say(Goodbye(frames.FENCED, "", BOX, epoch + 30 * DAY))
    assert not stage.effect(Reopen)
    assert "30 days ahead" in said(stage, "fenced")[0]
    y.grant(1)
    assert y.last(Batch).ranges == ((1, 1),), "what the confused worker had was not given to another"
    x.forget()
    stage.push(3)
    assert not x.all(Batch)


def test_a_fence_of_an_outbox_in_memory_is_nobodys_and_others_get_what_waits() -> None:
    """Without: what a process pushes in memory, or asks, stands still for ever because one peer is confused."""
    stage = Stage(store=Store(BOX, durable=False))
    x = stage.peer(X, channels=[CHANNEL], credit=5)
    y = stage.peer(Y, channels=[CHANNEL])
    stage.push()
    x.say(Goodbye(frames.FENCED, "", BOX, stage.core.owner.custody[BOX].epoch + 1_000))
    assert not stage.effect(Reopen)
    assert "in memory" in said(stage, "fenced")[0]
    y.grant(1)
    assert y.last(Batch).ranges == ((1, 1),)


def test_an_owner_of_an_older_opening_cannot_take_an_outbox_back_with_its_state() -> None:
    stage = worker()
    new = stage.peer(X, boxes=[Owned(BOX, 5, "new")])
    old = stage.peer(Y, boxes=[Owned(BOX, 4, "old")])
    assert not old.all(Held)
    assert (old.last(Goodbye).code, old.last(Goodbye).fence) == (frames.FENCED, 5)
    new.send(1, epoch=5, fence=5)
    stage.end(stage.take())
    assert new.last(Outcome).parts[0].first == 1


def test_what_a_refused_batch_cost_is_given_back() -> None:
    """Without: each refused batch takes credit away for ever."""
    stage = worker(runners=4)
    x = stage.peer(X, boxes=[Owned(BOX, 5, "owner")])
    window = stage.core.worker.windows[CHANNEL]
    for n in range(1, 4):
        x.send(n, n=n, epoch=4, fence=4)
    assert window.held() == 0
    x.want(1, sent=3, seen=x.last(Credit).serial)
    x.want(0, sent=3, seen=x.last(Credit).serial)
    assert x.last(Credit).limit > 3


def test_a_held_that_answers_an_earlier_opening_changes_nothing() -> None:
    """The outbox is opened again while a HELD is on its way. Without: what is sent after the first answer is not in the
    second HELD, and runs twice."""
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL])
    first = stage.core.owner.custody[BOX].epoch
    second = stage.open()
    assert second > first
    stage.push(2)
    x.say(Held(BOX, 2, (), (), first))
    x.grant(5)
    assert not x.all(Batch), "sent before the present opening was answered"
    x.held()
    assert sum(count for batch in x.all(Batch) for _, count in batch.ranges) == 2


def test_a_hello_older_than_one_that_was_accepted_is_refused() -> None:
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL], serial=7)
    late = Puppet(stage, X, serial=6)
    late.greet()
    assert late.last(Goodbye).code == frames.STALE
    assert late.closed
    assert not x.closed
    assert not late.all(Hello), "who is dialled says HELLO only to what it accepts"


def test_this_process_does_not_take_itself_for_a_peer() -> None:
    stage = owner(instance=100)
    mirror = Puppet(stage, 100)
    mirror.greet()
    assert mirror.last(Goodbye).code == frames.DUPLICATE
    assert stage.core.peers.get(100) is None


@pytest.mark.parametrize("slow", [0, 1, 2])
def test_of_two_that_dial_each_other_one_connection_stays(slow: int) -> None:
    """Whatever arrives first. Without: each side closes what the other keeps, again and again."""
    for small_first in (True, False):
        world = World()
        a = Process(world, "a", boxes=[WorldStore(1)])
        b = Process(world, "b", services={CHANNEL: 1})
        ways = [(a, b), (b, a)] if small_first else [(b, a), (a, b)]
        for dialler, dialled in ways:
            if slow == 1:
                world.latency_s = 0.2 if dialler is a else 0.001
            elif slow == 2:
                world.latency_s = 0.2 if dialler is b else 0.001
            world.dial(dialler, dialled)
            if slow:
                world.run(world.now + 0.0001)
        world.latency_s = 0.001
        a.push(CHANNEL, 3)
        world.run(world.now + 3.0)
        assert len(world.connections(a, b)) == 1
        assert len(world.connections(b, a)) == 1
        assert world.ended() == 3
        kept = a.core.peers.get(b.instance)
        assert kept is not None
        assert kept.link is not None
        if not slow:
            assert kept.link.ours, "that dialled by the smaller instance id stays"


def test_of_two_connections_of_one_dialler_the_later_stays() -> None:
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL], credit=3)
    stage.push(3)
    later = Puppet(stage, X, channels=[CHANNEL], serial=2)
    later.greet()
    assert not x.closed, "replaced before its other end has accepted the new one"
    later.say(State((Served(CHANNEL),)))
    assert x.last(Goodbye).code == frames.DUPLICATE
    assert x.closed
    assert stage.core.owner.in_flight(BOX) == {CHANNEL: 3}, "the work of the session goes on"
    assert [effect.conn for effect in stage.effect(Met)][-1:] == [later.conn]


def test_who_greets_and_says_no_more_is_given_up() -> None:
    stage = owner()
    mute = Puppet(stage, X)
    mute.greet()
    stage.step(stage.config.handshake + 0.1)
    assert mute.last(Goodbye).code == frames.SILENT
    assert mute.closed


def test_a_refusal_is_understood_before_any_hello() -> None:
    stage = owner()
    refuser = Puppet(stage, X, dials=False)
    refuser.say(Goodbye(frames.TOO_MANY, "4,096 connections are enough"))
    assert refuser.closed
    assert said(stage, "refused by") == ["4,096 connections are enough"]


def test_what_waits_for_a_commit_does_not_leave_on_another_connection() -> None:
    stage = owner()
    stage.holds_commits = True
    x = stage.peer(X, channels=[CHANNEL], credit=5)
    stage.push(3)
    assert stage.core.owner.in_flight(BOX) == {CHANNEL: 3}
    x.lose()
    again = Puppet(stage, X, channels=[CHANNEL], serial=2)
    again.greet()
    again.say(State((Served(CHANNEL),)))
    stage.commit()
    stage.step()
    assert not again.all(Batch)
    again.held()
    again.grant(1)
    assert again.all(Batch), "it waits again, and goes by the new session's credit"
    assert stage.core.links[again.conn].credit(CHANNEL).sent == 1


# -- §2 custody --------------------------------------------------------------------------------------------------------


def test_a_repeated_outcome_is_not_confirmed_before_the_first_is_durable() -> None:
    """Without: its worker forgets it, the owner dies with it unwritten, and a dead letter runs again."""
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL], credit=1)
    stage.push()
    sent = x.last(Batch)
    outcome = Outcome(BOX, Verdict.DEAD, (Part(sent.epoch, 1, 1, sent.fence, sent.n),), ((sent.epoch, 1, 0, b""),))
    stage.holds_commits = True
    x.say(outcome)
    x.say(outcome)
    assert not x.all(Confirm)
    stage.commit()
    stage.step()
    assert sum(len(confirm.parts) for confirm in x.all(Confirm)) == 2


def test_what_comes_after_a_batch_that_waits_does_not_pass_it() -> None:
    """A DROP that arrives before its BATCH drops nothing."""
    stage = owner()
    stage.holds_commits = True
    x = stage.peer(X, channels=[CHANNEL], credit=5)
    y = stage.peer(Y, channels=[CHANNEL])
    stage.push(2)
    epoch = stage.core.owner.custody[BOX].epoch
    y.say(Outcome(BOX, Verdict.HANDLED, (Part(epoch, 1, 1, 1, 1),)))
    stage.push(1)
    assert not x.all(Batch)
    x.forget()
    stage.commit()
    stage.step()
    kinds = [type(frame) for frame in x.heard if isinstance(frame, (Batch, Drop))]
    assert kinds == [Batch, Drop, Batch]
    drop = next(effect for effect in stage.effects if isinstance(effect, Send) and effect.behind)
    assert not drop.passable


def test_a_second_batch_waits_for_the_same_note_and_no_other() -> None:
    stage = owner()
    stage.holds_commits = True
    x = stage.peer(X, channels=[CHANNEL], credit=50)
    stage.push()
    assert len(stage.tickets) == 1
    stage.push()
    assert len(stage.tickets) == 1, "a commit of its own for a batch that only waits for another's"
    stage.commit()
    stage.step()
    assert len(x.all(Batch)) == 2


def test_how_a_run_ended_that_an_opening_before_this_had_sent_counts() -> None:
    """Without: a restart of its sender makes a dead letter run again, and a failure uncounted."""
    store = Store(BOX)
    stage = Stage(store=store)
    x = stage.peer(X, channels=[CHANNEL], credit=3)
    stage.push(3)
    sent = x.last(Batch)

    again = Stage(instance=101, store=store)
    back = Puppet(again, X, channels=[CHANNEL])
    back.greet()
    back.say(State((Served(CHANNEL),)))
    back.say(Outcome(BOX, Verdict.DEAD, (Part(sent.epoch, 1, 1, sent.fence, sent.n),), ((sent.epoch, 1, 0, b"no"),)))
    back.say(Outcome(BOX, Verdict.RETRY, (Part(sent.epoch, 2, 1, sent.fence, sent.n),), ((sent.epoch, 2, 9_000, b""),)))
    back.held(running=(Part(sent.epoch, 3, 1, sent.fence, sent.n),))
    back.grant(10)
    assert list(store.letters) == [(sent.epoch, 1)]
    assert store.rows[sent.epoch, 2].failures == 1
    assert not back.all(Batch), "none of them is to run now"
    assert again.core.owner.in_flight(BOX) == {CHANNEL: 1}


def test_what_a_worker_runs_is_adopted_before_its_row_was_read() -> None:
    store = Store(BOX)
    stage = Stage(store=store)
    x = stage.peer(X, channels=[CHANNEL], credit=3)
    stage.push(3)
    sent = x.last(Batch)

    epoch = store.open(stage.wall_us(stage.now) // 1_000 + 5)
    again = Stage(instance=101)
    again.store = store
    again.core.own(BOX, epoch, "tested", durable=True, noted=store.noted, now=again.now)
    back = again.peer(X, channels=[CHANNEL])
    assert back.last(Drop).ranges == ()
    back.lose()
    back = Puppet(again, X, channels=[CHANNEL], serial=2)
    back.greet()
    back.say(State((Served(CHANNEL),)))
    back.held(running=(Part(sent.epoch, 2, 1, sent.fence, sent.n),))
    assert again.core.owner.in_flight(BOX) == {}, "what has not been read does not count as in flight"

    # It comes back once more, and says an older number: the row is read only now.
    back.lose()
    back = Puppet(again, X, channels=[CHANNEL], serial=3)
    back.greet()
    back.say(State((Served(CHANNEL),)))
    back.held(running=(Part(sent.epoch, 2, 1, sent.fence - 1, 1),))
    again.core.owner.offer(BOX, store.unread(10))
    back.grant(10)
    numbers = [number for batch in back.all(Batch) for number, _ in batch.ranges]
    assert sorted(numbers) == [1, 3], "what runs there was sent again"
    assert again.core.owner.in_flight(BOX) == {CHANNEL: 3}
    back.say(Outcome(BOX, Verdict.HANDLED, (Part(sent.epoch, 2, 1, sent.fence - 1, 1),)))
    assert again.core.owner.in_flight(BOX) == {CHANNEL: 2}


def test_what_is_settled_on_disk_unread_is_not_sent_when_it_is_read_too_late() -> None:
    """A late `handled` for what waits on disk: until that is durable, what was read before does not go out."""
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL])
    assert stage.store is not None
    segment = stage.store.accept(CHANNEL, [10] * 3)  # on disk, and not offered yet
    stage.holds_commits = True
    x.say(Outcome(BOX, Verdict.HANDLED, (Part(segment.epoch, 2, 1, 1, 1),)))
    stage.core.owner.offer(BOX, [segment])
    x.grant(10)
    stage.commit()
    stage.step()
    assert sorted(number for batch in x.all(Batch) for number, _ in batch.ranges) == [1, 3]
    assert stage.store.counts[Verdict.HANDLED] == 1


@pytest.mark.parametrize("verdict", [Verdict.HANDLED, Verdict.DEAD, Verdict.RETRY])
def test_what_was_adopted_unread_and_ends_before_it_is_read_does_not_run_again(verdict: Verdict) -> None:
    """Its row was read while the settlement was on its way to the disk."""
    store = Store(BOX)
    stage = Stage(store=store)
    x = stage.peer(X, channels=[CHANNEL], credit=3)
    stage.push(3)
    sent = x.last(Batch)

    again = Stage(instance=101)
    again.store = store
    again.holds_commits = True
    epoch = store.open(stage.wall_us(stage.now) // 1_000 + 5)
    again.core.own(BOX, epoch, "tested", durable=True, noted=store.noted, now=again.now)
    back = Puppet(again, X, channels=[CHANNEL])
    back.greet()
    back.say(State((Served(CHANNEL),)))
    part = Part(sent.epoch, 2, 1, sent.fence, sent.n)
    back.held(running=(part,))
    back.say(Outcome(BOX, verdict, (part,), ((sent.epoch, 2, 60_000, b""),)))
    again.core.owner.offer(BOX, store.unread(10))
    back.grant(10)
    again.commit()
    again.step()
    assert sorted(number for batch in back.all(Batch) for number, _ in batch.ranges) == [1, 3]


def test_noted_workers_are_forgotten_when_they_are_gone() -> None:
    """Without: each restart waits the whole grace for workers of last year."""
    store = Store(BOX)
    stage = Stage(store=store)
    x = stage.peer(X, channels=[CHANNEL], credit=1)
    y = stage.peer(Y, channels=[CHANNEL])
    stage.push(1)
    y.grant(1)
    stage.push(1)
    assert store.noted == {X, Y}
    stage.core.buried(X, stage.now)
    stage.step()
    assert store.noted == {Y}
    assert x.closed
    y.lose()
    stage.step(stage.config.resume_grace + 0.1)
    assert store.noted == set()

    store.noted.add(999)  # and one that never comes back after a restart
    again = Stage(instance=101, store=store)
    again.step(again.config.resume_grace + 0.1)
    assert store.noted == set()


def test_outcomes_never_fill_more_than_a_frame() -> None:
    """A larger one goes in fragments, and the HELD that must come after it would pass it."""
    stage = worker(runners=200)
    x = Puppet(stage, X, boxes=[Owned(BOX, 3, "owner")])
    x.greet()
    x.tell()
    x.send(1, 100, epoch=3, fence=3)
    for _ in range(100):
        stage.end(stage.take(), Ended(Verdict.RETRY, 1.0, bytes(16_000)))
    x.lose()
    again = Puppet(stage, X, boxes=[Owned(BOX, 3, "owner")], serial=2)
    again.greet()
    again.say(State((), (Owned(BOX, 3, "owner"),)))
    outcomes = again.all(Outcome)
    assert sum(part.count for outcome in outcomes for part in outcome.parts) == 100
    assert max(len(frames.encode(outcome)) for outcome in outcomes) <= frames.FRAME_BYTES
    assert [type(frame) for frame in again.heard if isinstance(frame, (Outcome, Held))][-1] is Held


def test_what_ended_out_of_order_is_said_in_one_range() -> None:
    stage = worker(runners=8)
    x = stage.peer(X, boxes=[Owned(BOX, 3, "owner")])
    x.send(1, 8, epoch=3, fence=3)
    runs = [stage.take() for _ in range(8)]
    stage.core.finish([(run, run.start, run.stop, None) for run in reversed(runs) if run is not None])
    stage.step()
    assert x.last(Outcome).parts == (Part(3, 1, 8, 3, 1),)


def test_only_its_owner_confirms_and_drops() -> None:
    stage = worker()
    x = stage.peer(X, boxes=[Owned(BOX, 3, "owner")])
    y = stage.peer(Y)
    part = x.send(1, epoch=3, fence=3)
    y.say(Drop(BOX, 0, ((3, 1, 1),)))
    stage.end(stage.take())
    y.say(Confirm(BOX, (part,)))
    assert stage.core.worker.memory.unconfirmed(BOX) == 1
    x.say(Confirm(BOX, (part,)))
    assert stage.core.worker.memory.unconfirmed(BOX) == 0


def test_what_came_back_after_withdraw_is_dropped_and_goes_to_nobody() -> None:
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL], credit=2)
    stage.push(2)
    epoch = stage.core.owner.custody[BOX].epoch
    x.lose()
    stage.core.owner.withdrawals.withdraw(BOX, epoch, 1)
    stage.step()
    assert not stage.effect(Withdrawn), "its worker may have begun it"
    y = stage.peer(Y, channels=[CHANNEL], credit=5)
    stage.step(stage.config.resume_grace + 0.1)
    assert [number for batch in y.all(Batch) for number, _ in batch.ranges] == [2]
    assert stage.effect(Withdrawn) == [Withdrawn(BOX, epoch, 1, True)]


def test_what_is_queued_at_a_worker_that_comes_back_can_still_be_withdrawn() -> None:
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL], credit=2)
    stage.push(2)
    sent = x.last(Batch)
    x.lose()
    stage.core.owner.withdrawals.withdraw(BOX, sent.epoch, 2)
    again = Puppet(stage, X, channels=[CHANNEL], serial=2)
    again.greet()
    again.say(State((Served(CHANNEL),)))
    again.held(queued=(Part(sent.epoch, 1, 2, sent.fence, sent.n),))
    assert again.last(Drop).ranges == ((sent.epoch, 2, 1),)
    again.say(Outcome(BOX, Verdict.UNSTARTED, (Part(sent.epoch, 2, 1, sent.fence, sent.n),)))
    assert stage.effect(Withdrawn) == [Withdrawn(BOX, sent.epoch, 2, True)]
    assert stage.core.owner.in_flight(BOX) == {CHANNEL: 1}


def test_dropping_a_channel_leaves_alone_what_is_in_flight_and_what_came_later() -> None:
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL], credit=2)
    segment = stage.push(4)
    other = stage.push(1, channel="other")
    later = stage.push(1)
    epoch, last = segment.epoch, (other.epoch, other.first)

    name = stage.core.owner.withdrawals.drop(BOX, CHANNEL, last, [(epoch, segment.first, 4)])
    stage.step()

    assert name is not None
    assert stage.effect(Withdrawn) == [Withdrawn(BOX, *name, True)]
    assert stage.store is not None
    assert stage.store.waiting_or_in_flight() == 4, "two at the worker, one of the other channel, and the later one"
    assert stage.core.owner.in_flight(BOX) == {CHANNEL: 2}
    x.grant(10, serial=2)
    assert x.last(Batch).ranges == ((later.first, 1),)
    assert stage.core.owner.withdrawals.drop(BOX, CHANNEL, last, [(epoch, segment.first, 2)]) is None, (
        "in flight, all of it"
    )


def test_what_lies_on_disk_is_dropped_though_it_is_read_before_that_is_durable() -> None:
    stage = owner()
    assert stage.store is not None
    x = stage.peer(X, channels=[CHANNEL], credit=5)
    stage.push(1)  # the note of this worker is durable
    unread = stage.store.accept(CHANNEL, [10] * 3)
    stage.holds_commits = True
    stage.core.owner.withdrawals.drop(BOX, CHANNEL, (unread.epoch, unread.first + 2), [(unread.epoch, unread.first, 3)])
    stage.core.owner.offer(BOX, [unread])  # the store thread had just read it
    stage.step()
    assert len(x.all(Batch)) == 1
    assert not stage.effect(Withdrawn)
    stage.commit()
    stage.step()
    assert stage.store.waiting_or_in_flight() == 1
    assert len(stage.effect(Withdrawn)) == 1


def test_what_waits_for_workers_of_an_earlier_life_can_be_dropped() -> None:
    stage = owner()
    assert stage.store is not None
    stage.peer(X, channels=[CHANNEL], credit=1).lose()
    segment = stage.push(1)
    stage.store.noted.add(X)
    stage.open()
    stage.core.owner.withdrawals.drop(BOX, CHANNEL, (segment.epoch, segment.first), [])
    stage.step()
    assert stage.store.waiting_or_in_flight() == 0


def test_a_worker_of_another_kind_is_sent_no_batch_until_it_serves_pushes() -> None:
    stage = owner()
    x = Puppet(stage, X, channels=[CHANNEL])
    x.greet()
    x.say(State((Served(CHANNEL, "request"),)))
    x.held()
    x.grant(5)
    stage.push()
    assert not x.all(Batch)
    assert not stage.core.owner.workers(CHANNEL)
    assert stage.core.owner.sender.kinds_served() == {CHANNEL: ("request", X)}
    x.say(State((Served(CHANNEL),)))
    x.grant(5, serial=2)
    assert len(x.all(Batch)) == 1
    x.say(State((Served(CHANNEL, "stream"),)))
    stage.push()
    assert len(x.all(Batch)) == 1
    x.lose()
    assert not stage.core.owner.sender.kinds_served()


# -- §3 sessions -------------------------------------------------------------------------------------------------------


def test_an_outbox_that_is_opened_later_is_served_at_once() -> None:
    """Without: what it sends waits for the next PONG, up to a second."""
    stage = worker()
    x = stage.peer(X)
    stage.step(0.3)
    x.boxes.append(Owned(BOX, 3, "later"))
    x.tell()
    x.send(1, epoch=3, fence=3)
    assert stage.take() is not None


def test_a_pong_that_is_late_renews_the_permission_among_many_links() -> None:
    stage = owner()
    many = [stage.peer(300 + index, answers=False) for index in range(40)]
    first = many[0].last(Ping)
    stage.step(1.5)
    assert many[0].last(Ping).serial > first.serial
    many[0].say(Pong(first.serial))
    assert stage.core.links[many[0].conn].permitted_until > stage.now


def test_pings_that_are_never_answered_are_not_kept_for_ever() -> None:
    link = Link(1, ours=True, side="both", now=0.0)
    for serial in range(1, 100):
        link.ping(serial, float(serial))
    assert len(link.pings) <= 16
    assert link.unanswered_since() == 1.0


def test_a_pause_of_this_process_is_not_held_against_its_peers() -> None:
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL], credit=1)
    stage.push()
    stage.step(30.0, pause=True)
    assert not x.closed
    assert stage.core.owner.in_flight(BOX) == {CHANNEL: 1}


def test_a_wake_up_never_asks_for_the_same_moment_again() -> None:
    """Times are compared as they were reckoned: a sum that is rounded otherwise would wake for ever."""
    for began in (0.1, 0.7, 1_000.3, 123_456.789):
        stage = owner()
        stage.now = began
        x = stage.peer(X, channels=[CHANNEL])
        x.lose()
        for _ in range(400):
            at = stage.core.next_wake()
            if at is None:
                break
            stage.now = max(stage.now, at)
            stage.core.wake(stage.now)
            stage.core.flush(stage.now)
            stage._perform()
        assert stage.core.peers.get(X) is None
        assert said(stage, "gone")


def test_a_batch_on_a_new_connection_waits_for_the_note_that_one_on_the_old_one_waits_for() -> None:
    """Simulated seed 30025: it left at once; its sender died before the note was durable, and it was run again."""
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL], credit=5)
    stage.holds_commits = True
    stage.push()
    x.lose()
    again = stage.peer(X, channels=[CHANNEL], credit=5, serial=2)
    stage.push()
    assert not again.all(Batch)
    stage.commit()
    stage.holds_commits = False
    stage.step()
    assert again.all(Batch)


# -- §4 gone, stuck, leaving -------------------------------------------------------------------------------------------


def test_proof_is_looked_for_at_once_on_the_same_machine_only() -> None:
    stage = owner(boot="this boot")
    here, there = stage.peer(X, boot="this boot"), stage.peer(Y, boot="another boot")
    here.lose()
    there.lose()
    stage.step(0.3)
    assert set(stage.proofs()) == {X}
    assert 4 <= len(stage.proofs()) <= 8


def test_an_obituary_is_a_proof_and_is_handed_on() -> None:
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL], credit=1)
    stage.push()
    y = stage.peer(Y, channels=[CHANNEL])
    y.tell(obituaries=(Obituary(X, None, 9),))
    assert x.closed
    assert not stage.core.owner.in_flight(BOX)
    again = Puppet(stage, X, serial=2)
    again.greet()
    assert again.last(Goodbye).code == frames.BURIED

    for instance in range(900, 912):
        stage.core.obituary(Obituary(instance, 1), stage.now)
    stage.core.obituary(Obituary(911, 1), stage.now)
    stage.step()
    assert [each.instance for each in stage.core.obituaries] == list(range(904, 912))
    assert [each.instance for each in y.last(State).obituaries] == list(range(904, 912))


def test_a_worker_whose_loop_stands_gets_nothing_and_loses_nothing_that_runs() -> None:
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL], credit=5, answers=False)
    stage.push()
    x.say(Pong(x.last(Ping).serial, 4_000))
    x.forget()
    stage.push()
    assert not x.all(Batch)
    assert "4.0 s" in said(stage, "stuck")[0]
    assert stage.core.owner.in_flight(BOX) == {CHANNEL: 1}
    stage.step(1.1)
    x.say(Pong(x.last(Ping).serial, 0))
    assert x.all(Batch)


def test_a_peer_that_answers_no_ping_while_its_transport_lives_is_stuck() -> None:
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL], credit=5, answers=False)
    for _ in range(10):
        stage.step(0.5)
        x.say(Credit(CHANNEL, 0, 5, 1))  # some sign of life
    assert said(stage, "stuck")
    assert not x.closed
    x.forget()
    stage.push()
    assert not x.all(Batch)


def test_a_worker_hands_back_what_has_not_begun_while_its_loop_stands() -> None:
    stage = worker(runners=4)
    x = stage.peer(X, boxes=[Owned(BOX, 3, "owner")])
    x.want(9, sent=0, seen=1)
    assert x.last(Credit).limit == 4
    x.send(1, 3, epoch=3, fence=3)
    stage.core.still_ms = 3_500
    stage.step(0.05)
    assert x.last(Outcome).parts == (Part(3, 1, 3, 3, 1),)
    assert x.last(Credit).limit == 3
    stage.core.still_ms = 0
    x.want(3, sent=3, seen=x.last(Credit).serial)
    stage.step(0.05)
    assert x.last(Credit).limit > 3


def test_leaving_is_not_held_up_by_a_link_that_broke() -> None:
    """What was handed back and not confirmed is not in the next HELD: its owner will see."""
    stage = worker()
    x = stage.peer(X, boxes=[Owned(BOX, 3, "owner")])
    x.send(1, 3, epoch=3, fence=3)
    stage.core.drain()
    stage.step()
    assert x.last(State).draining
    assert x.last(Outcome).verdict == Verdict.UNSTARTED
    assert not stage.core.is_drained()
    x.lose()
    again = Puppet(stage, X, boxes=[Owned(BOX, 3, "owner")], serial=2)
    again.greet()
    again.tell()
    assert again.last(State).draining, "also on a session that opens later"
    assert again.last(Held).queued == ()
    assert stage.core.is_drained()


def test_leaving_waits_until_the_lowered_limit_is_confirmed() -> None:
    stage = worker()
    x = stage.peer(X, boxes=[Owned(BOX, 3, "owner")])
    before = x.last(Credit)
    assert before.limit > 0
    stage.core.drain()
    stage.step()
    assert x.last(Credit).limit == 0
    x.want(0, sent=0, seen=before.serial)
    assert not stage.core.is_drained(), "it has not seen the last CREDIT yet"
    x.want(0, sent=0, seen=x.last(Credit).serial)
    assert stage.core.is_drained()


def test_an_outbox_that_is_owned_no_more_is_forgotten_like_an_owner_that_is_gone() -> None:
    stage = worker()
    x = stage.peer(X, boxes=[Owned(BOX, 3, "owner")])
    x.send(1, 2, epoch=3, fence=3)
    x.boxes.clear()
    x.tell()
    assert stage.take() is None, "started although nobody owns it"
    stage.step(stage.config.resume_grace + 0.1)
    assert stage.core.worker.desk.queued(CHANNEL) == 0
    assert stage.core.worker.windows[CHANNEL].held() == 0


def test_a_final_goodbye_leaves_nothing_to_remember() -> None:
    stage = worker()
    x = stage.peer(X, boxes=[Owned(BOX, 3, "owner")])
    x.send(1, epoch=3, fence=3)
    stage.end(stage.take())
    assert stage.core.worker.memory.unconfirmed() == 1
    x.say(Goodbye())
    assert stage.core.worker.memory.unconfirmed() == 0


def test_outcomes_of_a_durable_outbox_are_kept_for_days_and_then_go() -> None:
    stage = Stage(services={CHANNEL: 1}, config=Config(outcome_keep=20.0))
    x = stage.peer(X, boxes=[Owned(BOX, 3, "owner")])
    x.send(1, epoch=3, fence=3)
    stage.end(stage.take())
    x.lose()
    stage.step(15.0)
    assert stage.core.worker.memory.unconfirmed() == 1
    stage.step(15.0)
    assert stage.core.worker.memory.unconfirmed() == 0


# -- §7 credit ---------------------------------------------------------------------------------------------------------


def test_what_its_owner_says_it_has_sent_may_still_come() -> None:
    """A batch may wait for a commit while a WANT passes it. Without: its credit is given to others, and the window
    exceeded."""
    stage = worker(runners=4)
    x = stage.peer(X, boxes=[Owned(BOX, 3, "owner")])
    y = stage.peer(Y, boxes=[Owned(BOX + 1, 3, "other")])
    x.want(9, sent=0, seen=x.last(Credit).serial)
    given = x.last(Credit).limit
    assert given >= 3
    y.want(9, sent=y.last(Credit).limit, seen=y.last(Credit).serial)
    x.want(9, sent=given, seen=x.last(Credit).serial)
    x.want(0, sent=given, seen=99)
    assert x.last(Credit).limit + y.last(Credit).limit <= 4 + 1
    window = stage.core.worker.windows[CHANNEL]
    assert window.room() <= 4 - given


def test_a_lowered_limit_counts_as_given_back_by_its_number() -> None:
    stage = worker(runners=4)
    x = stage.peer(X, boxes=[Owned(BOX, 3, "owner")])
    x.want(9, sent=0, seen=1)
    window = stage.core.worker.windows[CHANNEL]
    assert window.room() == 0
    before = x.last(Credit)
    y = stage.peer(Y, boxes=[Owned(BOX + 1, 3, "other")])
    y.want(9, sent=0, seen=0)
    lowered = x.last(Credit)
    assert lowered.limit < before.limit
    assert not y.all(Credit), "given on before it was given back"
    x.want(9, sent=0, seen=before.serial)
    assert not y.all(Credit)
    x.want(9, sent=0, seen=lowered.serial)
    assert y.all(Credit)


def test_the_last_message_may_overdraw_and_none_before_it() -> None:
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL])
    assert stage.store is not None
    sizes = [100_000, 100_000, *[10] * 200]
    segment = stage.store.accept(CHANNEL, sizes)
    stage.core.owner.offer(BOX, [segment])
    x.grant(5)
    batch = x.last(Batch)
    assert batch.ranges == ((1, 1),), "the first one alone costs more than there is"
    x.grant(2 * units(1, 100_000) + 3, serial=2)
    assert sum(count for each in x.all(Batch) for _, count in each.ranges) == 5
    credit = stage.core.links[x.conn].credit(CHANNEL)
    assert credit.sent == credit.limit


def test_a_message_above_a_workers_own_limit_is_not_offered_to_it() -> None:
    stage = owner()
    small = stage.peer(X, channels=[CHANNEL], credit=2_000, message_bytes=50_000)
    assert stage.store is not None
    stage.core.owner.offer(BOX, [stage.store.accept(CHANNEL, [20_000, 60_000, 20_000, 70_000])])
    stage.step()
    assert [number for batch in small.all(Batch) for number, _ in batch.ranges] == [1, 3]
    assert stage.core.owner.dispatch.waiting(CHANNEL) == 2
    assert "50000" in said(stage, "too large")[0]
    assert len(said(stage, "too large")) == 1
    wants = small.all(Want)
    assert not wants or wants[-1].waiting == 0, "it was told that something waits for it"
    large = stage.peer(Y, channels=[CHANNEL], credit=2_000)
    assert sorted(number for batch in large.all(Batch) for number, _ in batch.ranges) == [2, 4]


def test_what_one_link_may_not_have_yet_another_takes() -> None:
    """Two workers, one of which has not said what it holds. Without: its part of what waits is sent to nobody."""
    stage = owner()
    mute = Puppet(stage, X, channels=[CHANNEL])
    mute.greet()
    mute.say(State((Served(CHANNEL),)))
    mute.grant(500)
    ready = stage.peer(Y, channels=[CHANNEL], credit=500)
    stage.push(100)
    assert sum(count for batch in ready.all(Batch) for _, count in batch.ranges) == 100


def test_nothing_waiting_is_told_at_once_to_who_was_asked_in_vain() -> None:
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL])
    y = stage.peer(Y, channels=[CHANNEL])
    stage.push()
    assert [want.waiting for want in (*x.all(Want), *y.all(Want))] == [1, 1]
    x.grant(1)
    assert y.last(Want).waiting == 0
    stage.step(0.1)
    assert x.last(Want).waiting == 0


def test_a_pause_in_the_work_does_not_shrink_the_window() -> None:
    stage = worker(runners=2)
    x = stage.peer(X, boxes=[Owned(BOX, 3, "owner")])
    window = stage.core.worker.windows[CHANNEL]

    def work(first: int) -> None:
        for number in range(first, first + 400):
            x.send(number, n=number, epoch=3, fence=3)
            stage.now += 0.001
            stage.end(stage.take())

    work(1)
    busy = window.size
    assert busy > 30
    stage.step(10.0)
    assert window.size >= busy * 0.8, "what comes first after a pause has room"
    work(401)
    assert window.size >= busy * 0.8


def test_credit_that_is_asked_back_is_not_needed_before_hand_back_ends() -> None:
    """Handed back once: nothing comes again before a runner is free."""
    stage = worker()
    x = stage.peer(X, boxes=[Owned(BOX, 3, "owner")])
    window = stage.core.worker.windows[CHANNEL]
    for number in range(1, 300):
        x.send(number, n=number, epoch=3, fence=3)
        stage.now += 0.001
        stage.end(stage.take())
    x.want(50, sent=299, seen=x.last(Credit).serial)
    assert x.last(Credit).limit > 299
    x.send(300, 5, n=300, epoch=3, fence=3)
    stage.take()
    stage.step(0.3)
    assert [part.first for part in x.last(Outcome).parts] == [301]
    assert x.last(Credit).limit == 304, "what may still come was asked back"
    assert window.size == 1


def test_a_channel_that_is_served_again_goes_on_counting() -> None:
    """Without: the worker counts from zero, the owner does not, and their limits never meet again."""
    stage = worker(runners=2)
    x = stage.peer(X, boxes=[Owned(BOX, 3, "owner")])
    for number in range(1, 21):
        x.send(number, n=number, epoch=3, fence=3)
        stage.end(stage.take())
    serial, limit = x.last(Credit).serial, x.last(Credit).limit
    stage.core.serve([])
    stage.step()
    x.want(0, sent=20, seen=x.last(Credit).serial)
    stage.core.serve([Service(CHANNEL, "push", 2)])
    stage.step()
    assert x.last(Credit).serial > serial
    assert x.last(Credit).limit >= limit


def test_a_runner_takes_from_its_links_in_turn() -> None:
    stage = worker()
    x = stage.peer(X, boxes=[Owned(BOX, 3, "busy")])
    y = stage.peer(Y, boxes=[Owned(BOX + 1, 3, "occasional")])
    x.send(1, 20, epoch=3, fence=3)
    order = []
    for turn in range(6):
        if turn == 3:
            y.send(1, 1, epoch=3, fence=3, box=BOX + 1)
        run = stage.take()
        assert run is not None
        order.append(run.delivery.box)
        stage.end(run)
    assert order[3] == BOX + 1, "who comes after a while stands behind one who has had its turn"


# -- what a peer may not do --------------------------------------------------------------------------------------------


def test_a_range_without_end_is_refused_and_nothing_stops() -> None:
    for frame in (
        Outcome(BOX, Verdict.RETRY, (Part(1, 1, 2**62, 1, 1),)),
        Held(BOX, 1, (Part(1, 1, 2**62, 1, 1),)),
    ):
        stage = owner()
        x = Puppet(stage, X, channels=[CHANNEL])
        x.greet()
        x.say(State((Served(CHANNEL),)))
        x.say(frame)
        assert x.last(Goodbye).code == frames.MALFORMED
        assert x.closed


@pytest.mark.parametrize(
    ("part", "outputs"),
    [
        (Part(2**63, 2, 2, 1, 2), 0),
        (Part(1, 2**63, 1, 1, 2), 0),
        (Part(2**64 - 1, 2**64 - 1, 1, 1, 1), 0),
        (Part(1, 1, 1, -1, 1), 0),
        (Part(1, 1, 1, 1, -1), 0),
        (Part(1, 1, 1, 1, 1), -1),
    ],
)
def test_an_outcome_of_what_no_file_can_hold_is_refused_and_nothing_of_it_is_committed(
    part: Part, outputs: int
) -> None:
    """Else one frame would leave the outbox with a change that it can never write."""
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL])
    stage.holds_commits = True
    x.say(Outcome(BOX, Verdict.HANDLED, (part,), (), outputs))
    assert x.last(Goodbye).code == frames.MALFORMED
    assert not stage.tickets


@pytest.mark.parametrize("after_ms", [2**64 - 1, -(2**63)])
def test_a_retry_is_due_at_a_time_that_a_file_can_hold(after_ms: int) -> None:
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL], credit=9)
    stage.push()
    sent = x.last(Batch)
    stage.holds_commits = True
    part = Part(sent.epoch, 1, 1, sent.fence, sent.n)
    x.say(Outcome(BOX, Verdict.RETRY, (part,), ((sent.epoch, 1, after_ms, b""),)))
    [again] = [change for ticket in stage.tickets for change in ticket.changes if isinstance(change, Again)]
    assert stage.wall_us(stage.now) - 1_000_000 < again.due < 2**63


def test_a_handler_may_ask_for_any_time_and_it_is_said_as_one_that_there_is() -> None:
    stage = worker()
    x = stage.peer(X, boxes=[Owned(BOX, 1)])
    x.send(1)
    stage.end(stage.take(), Ended(Verdict.RETRY, 1e300))
    assert x.last(Outcome).notes[0][2] == frames.LATER_MOST_MS


@pytest.mark.parametrize(("box", "fence", "n"), [(BOX, -1, 1), (BOX, 1, -1), (-1, 1, 1)])
def test_a_batch_of_what_no_file_can_hold_is_refused(box: int, fence: int, n: int) -> None:
    """A worker that keeps outcomes on disk writes all of these."""
    stage = worker()
    x = stage.peer(X, boxes=[Owned(box, 1)])
    x.send(1, box=box, fence=fence, n=n)
    assert x.last(Goodbye).code == frames.MALFORMED


def test_a_batch_of_an_outbox_that_was_not_announced_is_a_violation() -> None:
    stage = worker()
    x = stage.peer(X)
    x.send(1, epoch=3, fence=3)
    assert x.last(Goodbye).code == frames.UNEXPECTED
    assert stage.core.worker.windows[CHANNEL].held() == 0


def test_an_unknown_verdict_is_a_violation() -> None:
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL])
    x.say(Outcome(BOX, 99, (Part(1, 1, 1, 1, 1),)))
    assert x.last(Goodbye).code == frames.UNEXPECTED


# -- cost --------------------------------------------------------------------------------------------------------------


def test_a_thousand_lone_messages_come_back_in_no_time() -> None:
    """A HELD of many lone messages, and as many late outcomes, cost what they are and not their product."""
    stage = owner()
    stage.peer(X, channels=[CHANNEL], credit=10_000)
    looked = 0
    for _ in range(3_000):
        stage.push()
    custody = stage.core.owner.custody[BOX]
    parts = [Part(flight.epoch, *next(iter(flight.left)), flight.fence, flight.n) for flight in custody.flights_of(X)]
    assert len(parts) == 3_000
    for part in parts:
        looked += sum(1 for _ in custody.flights.over(part.epoch, part.first, part.count))
        looked += len(custody.flights._by_block[part.epoch, part.first >> 7])
    assert looked <= 3_000 * (1 + 128)


def test_a_batch_of_a_thousand_makes_as_many_effects_as_one_of_one() -> None:
    counts = []
    for size in (1, 1_024):
        stage = owner()
        x = stage.peer(X, channels=[CHANNEL], credit=20_000)
        stage.push(1)
        before = len(stage.effects)
        stage.push(size)
        sent = x.last(Batch)
        x.say(Outcome(BOX, Verdict.HANDLED, (Part(sent.epoch, 2, size, sent.fence, sent.n),)))
        counts.append(len(stage.effects) - before)
        assert len([effect for effect in stage.effects if isinstance(effect, Dispatched)]) == 2
    assert counts[0] == counts[1]


def test_effects_of_an_outbox_that_is_closed_never_leave() -> None:
    effects = Effects()
    effects.live.add(1)
    effects.commit(BOX, [], then=[Ping(1)], on=1)
    effects.take_tickets()
    effects.disown(BOX)
    effects.committed(BOX, 1)
    assert effects.take() == []
    with pytest.raises(ProtocolError):
        frames.decode(b"\xc1")


def test_who_is_woken_when_he_asked_to_be_does_not_ask_for_a_time_that_is_over() -> None:
    """What is done at a tick and was wanted between two of them had the network thread turn without rest until then."""
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL], credit=1)
    stage.push(3)  # it is told that two more wait
    stage.step(0.005)
    x.grant(3, serial=2)  # all is sent: that nothing waits any more is told after a quiet tick
    assert len(x.all(Want)) == 1
    for _ in range(60):
        stage.step(0.001)
        at = stage.core.next_wake()
        assert at is None or at > stage.now
    assert x.last(Want).waiting == 0
