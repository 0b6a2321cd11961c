"""Messages with a key: one after another, in order, by one worker at a time (rules §8.2)."""

from __future__ import annotations

import pytest

from tests.protocol.puppet import BOX, CHANNEL, Puppet, Stage
from tests.protocol.store import Store
from zerowait.engines.brokerless.protocol.frames import Batch, Drop, Held, Obituary, Outcome, Owned, Part, Want
from zerowait.message import Outcome as Ended
from zerowait.message import Verdict

A, B = b"a", b"b"
X, Y = 21, 22


def batches(*puppets: Puppet) -> list[tuple[int, int]]:
    """What has been sent to these since they were asked last: (first, count)."""
    found = [frame.ranges[0] for puppet in puppets for frame in puppet.all(Batch)]
    for puppet in puppets:
        puppet.forget()
    return found


def owner(store: Store | None = None) -> Stage:
    return Stage(store=store or Store(BOX))


def worker(stage: Stage, instance: int = X, credit: int = 100, **how: object) -> Puppet:
    return stage.peer(instance, channels=[CHANNEL], credit=credit, **how)


def ends(puppet: Puppet, batch: Batch, first: int, count: int = 1, verdict: Verdict = Verdict.HANDLED) -> None:
    notes = tuple((batch.epoch, first + index, 200, b"") for index in range(count))
    part = Part(batch.epoch, first, count, batch.fence, batch.n)
    puppet.say(Outcome(BOX, verdict, (part,), notes if verdict in (Verdict.RETRY, Verdict.DEAD) else ()))


# -- at the owner ------------------------------------------------------------------------------------------------------


def test_of_a_key_one_run_is_in_flight_at_one_worker_and_the_next_goes_when_all_of_it_is_settled() -> None:
    stage = owner()
    x, y = worker(stage, X, credit=2), worker(stage, Y, credit=2)
    stage.push(5, key=A)
    sent = [frame for puppet in (x, y) for frame in puppet.all(Batch)]
    assert [frame.ranges for frame in sent] == [((1, 2),)]
    assert sent[0].keys == {1: A}
    holder = x if x.all(Batch) else y
    batches(x, y)
    ends(holder, sent[0], 1)
    assert batches(x, y) == []
    ends(holder, sent[0], 2)
    assert batches(x, y) == [(3, 2)]


def test_keys_that_wait_beside_one_another_share_the_credit() -> None:
    """One runner at a time works at a key: it shall not take the window of those who could work beside it."""
    stage = owner()
    for key in (A, B, b"c"):
        stage.push(10, key=key)
    x = worker(stage, credit=3)
    assert sorted(batches(x)) == [(1, 1), (11, 1), (21, 1)]


def test_a_retry_delays_its_key_also_what_was_queued_behind_it_and_no_other() -> None:
    stage = owner()
    x = worker(stage)
    stage.push(4, key=A)
    (batch,) = x.all(Batch)
    ends(x, batch, 1)
    ends(x, batch, 2, verdict=Verdict.RETRY)
    ends(x, batch, 3, 2, verdict=Verdict.UNSTARTED)
    batches(x)
    stage.push(1, key=B)
    assert batches(x) == [(5, 1)]
    stage.step(0.1)
    assert batches(x) == []
    stage.step(0.2)
    (again,) = x.all(Batch)
    assert again.ranges == ((2, 1),)
    batches(x)
    ends(x, again, 2)
    assert batches(x) == [(3, 2)]


@pytest.mark.parametrize("verdict", [Verdict.DEAD, Verdict.EXPIRED])
def test_what_will_not_run_again_frees_its_key(verdict: Verdict) -> None:
    stage = owner()
    x = worker(stage)
    stage.push(3, key=A)
    (batch,) = x.all(Batch)
    ends(x, batch, 1, verdict=verdict)
    ends(x, batch, 2, 2, verdict=Verdict.UNSTARTED)
    batches(x)
    assert stage.store is not None
    stage.step(0.05)
    ends(x, batch, 1)
    assert batches(x) in ([], [(2, 2)])
    assert 2 not in {number for _, number in stage.store.settled}


def test_what_comes_back_unstarted_waits_for_what_runs() -> None:
    stage = owner()
    x, y = worker(stage, X), worker(stage, Y, credit=50)
    stage.push(3, key=A)
    (batch,) = x.all(Batch)
    ends(x, batch, 2, 2, verdict=Verdict.UNSTARTED)
    batches(x, y)
    stage.step(0.5)
    assert batches(x, y) == []
    ends(x, batch, 1)
    assert batches(x, y) == [(2, 2)]


def test_what_is_queued_at_one_who_comes_back_does_not_overtake_a_retry() -> None:
    """Running is adopted, and queued is dropped: m1 waits for its retry, m2 would run first (reconcile)."""
    stage = owner()
    x = worker(stage, X)
    stage.push(3, key=A)
    (lost,) = x.all(Batch)
    x.answers = False
    stage.step(9.0)
    y = worker(stage, Y)
    (batch,) = y.all(Batch)
    assert batch.ranges == ((1, 3),)
    ends(y, batch, 1, verdict=Verdict.RETRY)
    ends(y, batch, 2, 2, verdict=Verdict.UNSTARTED)
    batches(y)
    back = Puppet(stage, X, channels=[CHANNEL], credit=100, serial=2)
    back.greet()
    back.channels = []
    back.tell()
    back.held((Part(lost.epoch, 2, 2, lost.fence, lost.n),), (Part(lost.epoch, 1, 1, lost.fence, lost.n),))
    (answer,) = back.all(Drop)
    assert answer.ranges == ((lost.epoch, 2, 2),)
    stage.step(1.0)
    assert batches(y) == [], "it runs at X: it is not sent elsewhere, and nothing of its key"
    ends(back, lost, 1)
    assert batches(y) == [(2, 2)]


def test_what_runs_from_before_a_restart_blocks_what_follows_it_in_its_row() -> None:
    store = Store(BOX)
    stage = owner(store)
    x = worker(stage, X)
    stage.push(3, key=A)
    (batch,) = x.all(Batch)
    second = owner(store)
    back = Puppet(second, X, channels=[CHANNEL], credit=100)
    back.greet()
    back.channels = []
    back.tell()
    back.held((Part(batch.epoch, 2, 2, batch.fence, batch.n),), (Part(batch.epoch, 1, 1, batch.fence, batch.n),))
    y = worker(second, Y)
    second.step(0.5)
    assert batches(y) == []
    ends(back, batch, 1)
    assert batches(y) == [(2, 2)]


def test_the_retry_of_what_ran_from_before_a_restart_is_not_overtaken_by_what_waits_for_the_past() -> None:
    store = Store(BOX)
    stage = owner(store)
    x, y = worker(stage, X), worker(stage, Y)
    stage.push(1)
    stage.push(3, key=A)
    batch = next(frame for puppet in (x, y) for frame in puppet.all(Batch) if frame.keys)
    store.noted.update((X, Y))
    second = owner(store)
    back = Puppet(second, X, channels=[CHANNEL], credit=100)
    back.greet()
    back.channels = []
    back.tell()
    back.held((), (Part(batch.epoch, 2, 1, batch.fence, batch.n),))
    ends(back, batch, 2, verdict=Verdict.RETRY)
    z = worker(second, 23)
    second.step(4.5)
    assert [ranges for ranges in batches(z) if ranges != (1, 1)] == []
    second.step(1.0)  # the grace is over
    assert [ranges for ranges in batches(z) if ranges != (1, 1)] == [(2, 1)]


def test_with_a_key_also_what_is_new_waits_for_those_who_may_run_what_is_old() -> None:
    store = Store(BOX)
    store.noted.add(X)
    stage = owner(store)
    y = worker(stage, Y)
    stage.push(1, key=A)
    stage.push(1)
    assert batches(y) == [(2, 1)]
    worker(stage, X, credit=0)
    assert batches(y) == [(1, 1)]


def test_a_message_that_a_worker_does_not_take_is_not_overtaken_there() -> None:
    stage = owner()
    small = worker(stage, X, message_bytes=1_000)
    stage.push(key=A, sizes=[10, 5_000, 10])
    (batch,) = small.all(Batch)
    assert batch.ranges == ((1, 1),)
    batches(small)
    ends(small, batch, 1)
    stage.step(0.1)
    assert batches(small) == []
    large = worker(stage, Y)
    (batch,) = large.all(Batch)
    assert batch.ranges == ((2, 1),)
    batches(small, large)
    ends(large, batch, 2)
    assert batches(small, large) == [(3, 1)]


def test_what_is_taken_back_is_passed_over() -> None:
    stage = owner()
    assert stage.store is not None
    stage.push(4, key=A)
    for number in (1, 3):
        stage.core.owner.withdrawals.withdraw(BOX, stage.store.epoch, number)
    x = worker(stage)
    (batch,) = x.all(Batch)
    assert batch.ranges == ((2, 1),)
    batches(x)
    ends(x, batch, 2)
    assert batches(x) == [(4, 1)]


def test_what_expires_frees_its_key() -> None:
    stage = owner()
    x = worker(stage, credit=1)
    stage.push(3, key=A)
    (batch,) = x.all(Batch)
    x.grant(100, serial=2)
    ends(x, batch, 1, verdict=Verdict.EXPIRED)
    stage.step(0.1)
    assert [frame.ranges for frame in x.all(Batch)][1:] == [((2, 2),)]


def test_a_suspect_goes_before_the_rest_of_its_key_and_alone_of_it() -> None:
    stage = owner()
    x = worker(stage, X)
    stage.push(3, key=A)
    (batch,) = x.all(Batch)
    x.lose()
    ran = ((BOX, batch.epoch, 1, 1),)
    stage.core.buried(X, stage.now, Obituary(X, None, 9, ran, True))
    stage.step()
    y = worker(stage, Y)
    stage.step(0.1)
    (suspect,) = y.all(Batch)
    assert (suspect.ranges, suspect.lane) == (((1, 1),), 1)
    batches(y)
    ends(y, suspect, 1)
    assert batches(y) == [(2, 2)]


def test_a_row_that_was_read_before_a_message_left_it_goes_back() -> None:
    """Read while a retry of its first message, of which only a number was known, was on its way to the disk."""
    store = Store(BOX)
    stage = owner(store)
    x = worker(stage, X)
    stage.push(3, key=A)
    (batch,) = x.all(Batch)
    second = Stage(store=store)
    assert second.store is not None
    back = Puppet(second, X, channels=[CHANNEL], credit=100)
    back.greet()
    back.channels = []
    read = second.core.owner.pieces(BOX)
    second.core.owner.dispatch.keys.disown(BOX)  # as if it had not been read yet
    second.core.owner.dispatch.keys.open(BOX, second.core.owner.custody[BOX].flights)
    for piece in read:
        second.core.owner.custody[BOX].unpast(piece.segment.epoch, piece.first, piece.count)
    back.tell()
    back.held((), (Part(batch.epoch, 1, 1, batch.fence, batch.n),))
    second.holds_commits = True
    ends(back, batch, 1, verdict=Verdict.RETRY)
    second.core.owner.offer(BOX, [read[0].segment])
    y = worker(second, Y)
    second.step()
    second.holds_commits = False
    second.commit()
    second.step()
    assert batches(y) == []
    second.step(0.3)
    assert batches(y) == [(1, 1)]


def test_a_row_is_not_read_again_while_a_message_of_it_runs_which_would_be_sent_a_second_time() -> None:
    """A worker runs a key from before its sender's new life. It has handled 1, runs 2, and ends while what follows is
    read (seed 50383)."""
    # given a new life that reads the row while the end of 1 is on its way to the disk, and has not heard of all workers
    store = Store(BOX)
    x = worker(stage := owner(store), X)
    stage.push(3, key=A)
    (batch,) = x.all(Batch)
    store.noted.update((X, Y))
    second = Stage(store=store, holds_reads=True)
    second.holds_commits = True
    back = Puppet(second, X, channels=[CHANNEL], credit=100)
    back.greet()
    back.channels = []
    back.tell()
    ends(back, batch, 1)
    back.held((), (Part(batch.epoch, 2, 1, batch.fence, batch.n),))
    second.offer()
    second.step()
    # when the disk is done, and 2 ends before what it gives has arrived
    second.commit()
    ends(back, batch, 2)
    second.offer()
    second.step()
    # then only 3 is sent, once all workers of before are heard
    second.holds_commits = second.holds_reads = False
    second.commit()
    second.offer()
    y = worker(second, Y)
    second.step(0.1)
    assert [frame.ranges for frame in y.all(Batch)] == [((3, 1),)]


def test_what_is_left_of_a_row_behind_one_that_has_left_it_waits_for_that_one() -> None:
    """Its worker has died while it ran 3; its sender has begun a new life, and had not heard of the end of 2."""
    store = Store(BOX)
    x = worker(stage := owner(store), X)
    stage.push(5, key=A)
    (batch,) = x.all(Batch)
    ends(x, batch, 1)
    second = owner(store)
    second.core.buried(X, second.now, Obituary(X, None, 9, ((BOX, batch.epoch, 3, 1),), True))
    second.step()
    y = worker(second, Y)
    order: list[tuple[int, int]] = []
    while found := y.all(Batch):
        y.forget()
        for sent in found:
            order.append(sent.ranges[0])
            ends(y, sent, *sent.ranges[0])
        second.step(0.05)
    assert order == [(2, 1), (3, 1), (4, 2)]


# -- at the worker -----------------------------------------------------------------------------------------------------


def desk(runners: int = 4) -> tuple[Stage, Puppet]:
    stage = Stage(services={CHANNEL: runners})
    peer = stage.peer(1, boxes=[Owned(BOX, 1, "sender")])
    return stage, peer


def verdicts(peer: Puppet) -> list[tuple[Verdict, int, int]]:
    return [(Verdict(f.verdict), part.first, part.count) for f in peer.all(Outcome) for part in f.parts]


def test_a_worker_runs_one_of_a_key_at_a_time_and_others_beside_it() -> None:
    stage, peer = desk()
    peer.send(1, 3, n=1, key=A)
    peer.send(11, 3, n=2, key=B)
    peer.send(21, 2, n=3)
    taken = [stage.take(most=10) for _ in range(3)]
    started = [(t.delivery.number(t.start), t.stop - t.start) for t in taken if t is not None]
    assert sorted(started) == [(1, 1), (11, 1), (21, 2)]
    assert stage.take() is None
    stage.end(taken[0])
    following = stage.take(most=10)
    assert following is not None
    assert (following.delivery.number(following.start), following.stop - following.start) == (2, 1)
    assert stage.take() is None


@pytest.mark.parametrize("verdict", [Verdict.RETRY, Verdict.DEAD, Verdict.UNSTARTED, Verdict.EXPIRED])
def test_if_one_is_not_handled_those_behind_it_go_back_unstarted(verdict: Verdict) -> None:
    stage, peer = desk()
    peer.send(1, 4, n=1, key=A)
    stage.end(stage.take())
    stage.end(stage.take(), Ended(verdict, 0.1))
    assert stage.take() is None
    told = verdicts(peer)
    assert (Verdict.HANDLED, 1, 1) in told
    assert (verdict, 2, 1) in told
    assert (Verdict.UNSTARTED, 3, 2) in told
    assert stage.core.worker.desk.queued(CHANNEL) == 0
    peer.send(2, 3, n=2, key=A)
    again = stage.take()
    assert again is not None
    assert again.delivery.number(again.start) == (2 if verdict is not Verdict.DEAD else 3)


def test_what_stands_behind_is_held_dropped_and_handed_back_like_all_that_has_not_begun() -> None:
    stage, peer = desk()
    peer.send(1, 5, n=1, key=A)
    taken = stage.take()
    peer.say(Drop(BOX, 0, ((1, 3, 1),)))
    assert verdicts(peer) == [(Verdict.UNSTARTED, 3, 1)]
    held = stage.core.worker.desk.held(BOX, 1, 1)
    assert [(part.first, part.count) for part in held.queued] == [(2, 1), (4, 2)]
    assert [(part.first, part.count) for part in held.running] == [(1, 1)]
    peer.forget()
    stage.core.drain()
    stage.step()
    assert sorted(verdicts(peer)) == [(Verdict.UNSTARTED, 2, 1), (Verdict.UNSTARTED, 4, 2)]
    stage.end(taken)
    assert stage.take() is None
    assert stage.core.worker.desk.total_running() == 0


def test_a_drop_of_what_is_next_lets_what_follows_run() -> None:
    stage, peer = desk()
    peer.send(1, 3, n=1, key=A)
    peer.say(Drop(BOX, 0, ((1, 1, 1),)))
    taken = stage.take(most=5)
    assert taken is not None
    assert (taken.delivery.number(taken.start), taken.stop - taken.start) == (2, 1)
    assert stage.take() is None
    stage.end(taken)
    assert stage.take() is not None


def test_what_waits_behind_a_long_message_of_its_key_goes_back_and_makes_room_for_others() -> None:
    stage, peer = desk()
    peer.send(1, 4, n=1, key=A)
    taken = stage.take()
    stage.step(0.1)
    assert verdicts(peer) == []
    stage.step(0.2)
    assert verdicts(peer) == [(Verdict.UNSTARTED, 2, 3)]
    assert stage.core.worker.desk.queued(CHANNEL) == 0
    stage.end(taken)
    assert (Verdict.HANDLED, 1, 1) in verdicts(peer)


def test_a_runner_goes_on_with_its_key_before_anybody_else_has_heard_of_it() -> None:
    stage, peer = desk()
    peer.send(1, 3, n=1, key=A)
    peer.send(5, 1, n=2, key=A)
    order: list[int] = []
    while (taken := stage.take()) is not None:
        order.append(taken.delivery.number(taken.start))
        stage.core.worker.desk.handled(taken.parcel, taken.start)
        stage.core.finish([(taken, taken.start, taken.stop, None)])
    assert order == [1, 2, 3, 5]
    assert not stage.core.worker.desk._channels[CHANNEL].lines
    assert isinstance(stage.core.worker.desk.held(BOX, 1, 1), Held)


@pytest.mark.parametrize("lasts", [0.005, 0.5])
def test_a_quick_key_asks_for_credit_for_longer_runs_and_a_slow_one_does_not(lasts: float) -> None:
    """Without credit for what waits behind it, a key would have a round trip for each message. But who works long at
    one message needs none for the next."""
    stage = owner()
    x = worker(stage, X, credit=3)
    stage.push(40, key=A)
    (batch,) = x.all(Batch)
    stage.step(lasts)
    x.grant(6, serial=2)
    ends(x, batch, 1, 3)
    assert x.last(Batch).ranges == ((4, 3),)
    waiting = stage.core.owner.dispatch.waiting_for(CHANNEL, {BOX}, 1_000)
    assert waiting == (12 if lasts < 0.05 else 0)
    assert [frame.waiting for frame in x.all(Want)][-1:] == ([waiting] if waiting else [])
    ends(x, x.last(Batch), 4, 3)
    assert stage.core.owner.dispatch.waiting_for(CHANNEL, {BOX}, 1_000) == 34, "all that stands in the queue"
