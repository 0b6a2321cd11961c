"""What handlers send (rules §6), and outcomes that are kept on disk (§2.5): mistakes that go wrong quietly."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import inf

import pytest
from msgspec.structs import replace

from tests.protocol.puppet import BOX, CHANNEL, Puppet, Stage
from tests.protocol.store import Store, prepared
from tests.protocol.world import Process, World
from zerowait.engines.brokerless.protocol.core import Core
from zerowait.engines.brokerless.protocol.effects import PATIENCE
from zerowait.engines.brokerless.protocol.frames import (
    ALONE,
    MALFORMED,
    Batch,
    Confirm,
    Credit,
    Drop,
    Goodbye,
    Held,
    Outcome,
    Owned,
    Part,
    State,
    Want,
)
from zerowait.engines.brokerless.protocol.link import Link
from zerowait.engines.brokerless.protocol.worker.neighbours import joined
from zerowait.message import (
    ARRAY32,
    BODY_HEADER,
    BODY_START,
    SEGMENT_BYTES,
    SEGMENT_MESSAGES,
    Keep,
    Prepared,
    Sent,
    Service,
    Settle,
    Unstub,
    Verdict,
)
from zerowait.message import Outcome as Ended

X, Y = 201, 202
HOME, HOME_OF_Y = 88, 89


def owner() -> Stage:
    return Stage(store=Store(BOX))


def worker(*, keeps: bool = False, runners: int = 4, boxes: list[Owned] | None = None) -> tuple[Stage, Puppet]:
    stage = Stage(store=Store(HOME))
    stage.core.keep_in(HOME)
    stage.core.serve([Service(CHANNEL, "push", runners, keeps=keeps)])
    stage.step()
    return stage, stage.peer(X, boxes=boxes or [Owned(BOX, 3, "owner")])


def sent(index: int = 0, *payloads: bytes) -> Ended:
    return Ended(Verdict.HANDLED, outputs=Sent(HOME, [prepared(index, payloads or [b"\x01"])]))


def said(puppet: Puppet) -> list[Outcome]:
    return puppet.all(Outcome)


# -- what nobody waits for ---------------------------------------------------------------------------------------------


def released(stage: Stage) -> tuple[Puppet, Batch]:
    """An owner that has chosen a run, and is told that what it sent has left; nothing is put off yet."""
    x = stage.peer(X, channels=[CHANNEL], credit=2, boxes=[Owned(HOME, 1, "x")])
    stage.push(2)
    batch = x.last(Batch)
    x.say(Outcome(BOX, Verdict.HANDLED, (Part(batch.epoch, 1, 1, batch.fence, batch.n),), outputs=HOME))
    stage.core.effects.patience = PATIENCE
    stage.holds_commits = True
    x.say(Outcome(BOX, Verdict.RELEASED, (Part(batch.epoch, 1, 1, batch.fence, batch.n),), outputs=HOME))
    return x, batch


def test_what_nobody_waits_for_is_committed_in_time_and_by_itself() -> None:
    stage = owner()
    x, _ = released(stage)
    began = stage.now
    # it is not committed at once, and wakes its process when the time has come
    assert not stage.tickets
    at = stage.core.next_wake()
    assert at is not None
    assert at <= began + PATIENCE
    stage.step(PATIENCE / 2)
    assert not stage.tickets
    stage.step(PATIENCE / 2)
    assert [type(change) for ticket in stage.tickets for change in ticket.changes] == [Unstub]
    # and is confirmed then
    confirmed = len(x.all(Confirm))
    stage.commit()
    stage.step()
    assert len(x.all(Confirm)) == confirmed + 1


def test_what_nobody_waits_for_goes_with_what_somebody_waits_for() -> None:
    stage = owner()
    x, batch = released(stage)
    assert not stage.tickets
    x.say(Outcome(BOX, Verdict.HANDLED, (Part(batch.epoch, 2, 1, batch.fence, batch.n),)))
    assert [type(change) for [ticket] in [stage.tickets] for change in ticket.changes] == [Unstub, Settle]


@pytest.mark.parametrize(
    "leave", [Core.drain, lambda core: core.farewell(core.effects.now, final=True)], ids=["drain", "farewell"]
)
def test_who_leaves_puts_nothing_off(leave: Callable[[Core], None]) -> None:
    stage = owner()
    released(stage)
    assert not stage.tickets
    leave(stage.core)
    stage.step()
    assert Unstub in [type(change) for ticket in stage.tickets for change in ticket.changes]


def test_a_worker_forgets_what_was_confirmed_in_time_and_by_itself() -> None:
    stage, x = worker()
    part = x.send(1, n=1, epoch=3, fence=3)
    stage.end(stage.take(), sent())
    stage.core.effects.patience = PATIENCE
    x.say(Confirm(BOX, (part,), False))
    assert stage.core.worker.claims.is_home(HOME), "it lies on disk yet"
    stage.step(PATIENCE)
    assert not stage.core.worker.claims.is_home(HOME)


# -- the owner's side --------------------------------------------------------------------------------------------------


def test_two_who_claim_a_message_that_lies_unread_on_disk_are_not_both_chosen() -> None:
    store = Store(BOX)
    store.open(5)
    store.accept(CHANNEL, [10])
    stage = Stage()
    stage.store = store
    epoch = store.open(stage.wall_us(stage.now) // 1_000)
    stage.core.own(BOX, epoch, "tested", durable=True, noted=(X, Y), now=stage.now)  # nothing is read yet
    x, y = stage.peer(X, channels=[CHANNEL]), stage.peer(Y, channels=[CHANNEL])
    stage.holds_commits = True
    part_x, part_y = Part(5, 1, 1, 5, 1), Part(5, 1, 1, 5, 2)
    x.say(Outcome(BOX, Verdict.HANDLED, (part_x,), outputs=HOME))
    y.say(Outcome(BOX, Verdict.HANDLED, (part_y,), outputs=HOME_OF_Y))
    stage.commit()
    stage.step()
    assert x.last(Confirm) == Confirm(BOX, (part_x,), True)
    assert y.last(Confirm) == Confirm(BOX, (part_y,), False)


def test_a_part_of_what_a_run_claims_may_be_chosen() -> None:
    stage = owner()
    x, y = stage.peer(X, channels=[CHANNEL], credit=9), stage.peer(Y, channels=[CHANNEL])
    stage.push(4)
    batch = x.last(Batch)
    epoch = batch.epoch
    y.say(Outcome(BOX, Verdict.HANDLED, (Part(epoch, 2, 2, epoch, 99),), outputs=HOME_OF_Y))
    assert x.last(Drop).ranges == ((epoch, 2, 2),)
    x.say(Outcome(BOX, Verdict.HANDLED, (Part(epoch, 1, 4, batch.fence, batch.n),), outputs=HOME))
    answers = {(part.first, part.count): each.chosen for each in x.all(Confirm) for part in each.parts}
    assert answers == {(1, 1): True, (2, 2): False, (4, 1): True}


def test_a_confirm_of_the_choice_does_not_leave_on_another_connection() -> None:
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL], credit=1)
    stage.push()
    batch = x.last(Batch)
    stage.holds_commits = True
    x.say(Outcome(BOX, Verdict.HANDLED, (Part(batch.epoch, 1, 1, batch.fence, batch.n),), outputs=HOME))
    x.lose()
    again = Puppet(stage, X, channels=[CHANNEL], serial=2)
    again.greet()
    again.say(State((), (Owned(HOME, 1, "x"),)))
    stage.commit()
    stage.step()
    assert not again.all(Confirm)
    assert not x.all(Confirm)


def test_an_owner_that_waits_for_released_has_not_finished_while_its_worker_is_there() -> None:
    stage = owner()
    x = stage.peer(X, channels=[CHANNEL], credit=1, boxes=[Owned(HOME, 1, "x")])
    stage.push()
    batch = x.last(Batch)
    part = Part(batch.epoch, 1, 1, batch.fence, batch.n)
    x.say(Outcome(BOX, Verdict.HANDLED, (part,), outputs=HOME))
    choices = stage.core.owner.choices
    assert choices.outstanding([HOME])
    assert not choices.outstanding([HOME_OF_Y])
    x.say(Outcome(BOX, Verdict.RELEASED, (part,), outputs=HOME))
    assert not choices.outstanding([HOME])


def test_outputs_in_an_outbox_that_nobody_can_have_end_the_link_and_change_nothing() -> None:
    for outputs in (-1, -(1 << 62)):
        stage = owner()
        x = stage.peer(X, channels=[CHANNEL], credit=1)
        stage.push()
        batch = x.last(Batch)
        part = Part(batch.epoch, 1, 1, batch.fence, batch.n)
        for verdict in (Verdict.HANDLED, Verdict.RELEASED):
            x.say(Outcome(BOX, verdict, (part,), outputs=outputs))
        assert x.last(Goodbye).code == MALFORMED
        assert stage.store is not None
        assert len(stage.store.rows) == 1


# -- the worker's side -------------------------------------------------------------------------------------------------


def test_what_is_not_on_disk_yet_is_held_as_running_and_said_when_it_is() -> None:
    """Else its owner, back after a break, gives to another what was handled here."""
    stage, x = worker()
    part = x.send(1, n=1, epoch=3, fence=3)
    stage.holds_commits = True
    stage.end(stage.take(), sent())
    x.lose()
    again = Puppet(stage, X, boxes=[Owned(BOX, 3, "owner")], serial=2)
    again.greet()
    again.say(State((), (Owned(BOX, 3, "owner"),)))
    assert again.last(Held).running == (part,)
    assert not said(again)
    stage.holds_commits = False
    stage.commit()
    stage.step()
    assert [(each.verdict, each.outputs, each.parts) for each in said(again)] == [(Verdict.HANDLED, HOME, (part,))]


def test_a_handler_that_sends_nothing_has_no_commit() -> None:
    stage, x = worker()
    x.send(1, 3, n=1, epoch=3, fence=3)
    stage.holds_commits = True
    stage.end(stage.take(most=3))
    assert stage.tickets == []
    assert said(x)


def test_a_channel_that_keeps_commits_once_for_all_that_has_ended() -> None:
    stage, x = worker(keeps=True)
    part = x.send(1, 4, n=1, epoch=3, fence=3)
    taken = stage.take(most=4)
    assert taken is not None
    stage.holds_commits = True
    stage.core.finish([(taken, 0, 1, None), (taken, 2, 4, None), (taken, 1, 2, None)])
    stage.step()
    assert not said(x)
    (ticket,) = stage.tickets
    assert len(ticket.changes) == 1
    stage.holds_commits = False
    stage.commit()
    stage.step()
    assert [each.parts for each in said(x)] == [(part,)]
    x.say(Confirm(BOX, (part,)))
    assert stage.store is not None
    assert stage.store.claims == {}


def test_a_kept_failure_is_said_when_it_is_on_disk_and_a_newer_dispatch_runs_again() -> None:
    stage, x = worker(keeps=True)
    x.send(1, n=1, epoch=3, fence=3)
    stage.end(stage.take(), Ended(Verdict.RETRY, 1.5, b"why"))
    (outcome,) = said(x)
    assert (outcome.verdict, outcome.notes) == (Verdict.RETRY, ((3, 1, 1_500, b"why"),))
    x.send(1, n=2, epoch=3, fence=3)
    assert stage.core.worker.desk.queued(CHANNEL) == 1
    assert stage.store is not None
    assert stage.store.claims == {}, "the older outcome is still on disk"


def test_a_kept_dead_that_is_confirmed_and_comes_again_before_it_is_gone_is_not_in_flight_for_ever() -> None:
    """Its sender has begun a new life, to which that `dead` was of an old dispatch (seed 61742)."""
    # given a worker that has said `dead`, and whose disk does not yet know that this is confirmed
    stage, x = worker(keeps=True)
    older = x.send(1, n=1, epoch=3, fence=3)
    stage.end(stage.take(), Ended(Verdict.DEAD, note=b"why"))
    assert [each.parts for each in said(x)] == [(older,)]
    stage.holds_commits = True
    x.say(Confirm(BOX, (older,)))
    x.forget()
    # when its owner sends it again
    newer = x.send(1, n=2, epoch=3, fence=3)
    # then it is dead under the dispatch that its owner waits for
    (again,) = said(x)
    assert (again.verdict, again.parts, again.notes) == (Verdict.DEAD, (newer,), ((3, 1, 0, b"why"),))
    stage.holds_commits = False
    stage.commit()
    stage.step()
    x.say(Confirm(BOX, (newer,)))
    assert not stage.core.worker.memory.unconfirmed(BOX)
    assert stage.store is not None
    assert stage.store.claims == {}


@pytest.mark.parametrize("ended", [Ended(Verdict.RETRY, 1.0), sent(), None])
def test_a_worker_stands_still_until_the_end_of_what_ran_alone_is_on_disk_and_told(ended: Ended | None) -> None:
    """Should it die of something else before, its owner would take that for a death of the one alone: three times it
    was so, and an innocent was condemned (seed 61714)."""
    # given a worker that keeps outcomes, and has run one alone
    stage, x = worker(keeps=True)
    x.say(Want(CHANNEL, ALONE, 0, 0, 1))
    part = x.send(7, n=1, epoch=3, fence=3, lane=ALONE)
    alone = stage.take()
    x.send(8, n=2, epoch=3, fence=3)
    # when it has ended, and its owner cannot be told so yet
    stage.holds_commits = True
    stage.end(alone, ended)
    assert not said(x)
    # then nothing else is begun until it is, and its owner has it
    assert stage.take() is None
    stage.holds_commits = False
    stage.commit()
    stage.step()
    assert said(x)
    assert stage.take() is None
    x.say(Confirm(BOX, (part,)))
    stage.step(0.1)
    assert stage.take() is not None


def test_what_was_handed_back_unstarted_is_not_kept() -> None:
    stage, x = worker(keeps=True)
    x.send(1, n=1, epoch=3, fence=3)
    stage.holds_commits = True
    stage.end(stage.take(), Ended(Verdict.UNSTARTED))
    assert stage.tickets == []
    assert [each.verdict for each in said(x)] == [Verdict.UNSTARTED]


def test_what_was_kept_for_an_owner_that_never_comes_back_goes_after_its_days() -> None:
    before, x = worker(keeps=True)
    x.send(1, 2, n=1, epoch=3, fence=3)
    taken = before.take(most=2)
    assert taken is not None
    before.core.finish([(taken, 0, 1, sent()), (taken, 1, 2, None)])
    before.step()
    home = before.store
    assert home is not None
    stage = Stage(services={CHANNEL: 1})  # another life, which that owner never meets
    stage.store = home
    epoch = home.open(stage.wall_us(stage.now) // 1_000)
    stage.core.own(HOME, epoch, "tested", durable=True, noted=(), now=stage.now, kept=home.kept())
    assert stage.core.worker.claims.sought() == [BOX]
    for after in (stage.config.undecided_after, stage.config.outcome_keep):
        due = stage.core.worker.wake()
        assert due == stage.now + after if after == stage.config.undecided_after else due < inf
        stage.now = due
        stage.step()
    assert home.released == [b"\x01"]
    assert home.claims == {}
    assert not stage.core.worker.memory.unconfirmed(BOX)
    assert not stage.core.worker.claims.is_home(HOME)


def test_an_owner_whose_numbers_no_file_can_hold_ends_its_link() -> None:
    stage = Stage(store=Store(HOME), services={CHANNEL: 1})
    for owned in (Owned(-5, 3, "owner"), Owned(BOX, 1 << 62, "owner")):
        assert stage.peer(X, boxes=[owned]).last(Goodbye).code == MALFORMED
    for fence, n in ((1 << 62, 1), (3, -1)):
        stage = Stage(store=Store(HOME), services={CHANNEL: 1})
        x = stage.peer(Y, boxes=[Owned(BOX, 3, "owner")])
        x.send(1, n=n, epoch=3, fence=fence)
        assert x.last(Goodbye).code == MALFORMED


def test_outputs_of_several_runs_of_a_batch_are_told_apart() -> None:
    stage, x = worker()
    x.send(5, 3, n=1, epoch=3, fence=3)
    taken = stage.take(most=3)
    assert taken is not None
    both = Ended(Verdict.HANDLED, outputs=Sent(HOME, [prepared(0, [b"a"]), prepared(2, [b"c"], "more")]))
    stage.core.finish([(taken, 0, 3, both)])
    stage.step()
    x.say(Confirm(BOX, (Part(3, 5, 1, 3, 1),), True), Confirm(BOX, (Part(3, 6, 2, 3, 1),), False))
    assert stage.store is not None
    assert stage.store.released == [b"a"]
    assert {number for _, _, number in stage.store.claims} == {5}, "what is released waits for its confirmation"


def test_what_neighbouring_runs_send_is_kept_said_and_released_as_one_though_they_were_several_jobs() -> None:
    stage, x = worker()
    x.send(5, 7, n=1, epoch=3, fence=3)
    jobs = [stage.take(most=2) for _ in range(4)]
    first, second, third, fourth = [taken for taken in jobs if taken is not None]
    ends = [
        (first, 0, 2, Ended(Verdict.HANDLED, outputs=Sent(HOME, [prepared(1, [b"b"])]))),
        (second, 2, 4, Ended(Verdict.HANDLED, outputs=Sent(HOME, [prepared(2, [b"c", b"d"]), prepared(3, [b"e"])]))),
        (third, 4, 5, Ended(Verdict.RETRY)),
        (third, 5, 6, Ended(Verdict.HANDLED, outputs=Sent(HOME, [prepared(5, [b"f"])]))),
        (fourth, 6, 7, Ended(Verdict.HANDLED, outputs=Sent(HOME, [prepared(6, [b"g"])]))),
    ]
    stage.core.finish(ends)
    kept = [change for change in stage.core.effects.ticket(HOME).changes if isinstance(change, Keep)]
    assert [(each.first, each.count, len(each.prepared)) for each in kept] == [(5, 4, 1), (10, 2, 1)]
    stage.step()
    assert [each.parts for each in said(x) if each.verdict == Verdict.HANDLED] == [
        (Part(3, 5, 4, 3, 1), Part(3, 10, 2, 3, 1))
    ]
    x.say(Confirm(BOX, (Part(3, 5, 4, 3, 1),), True), Confirm(BOX, (Part(3, 10, 1, 3, 1),), False))
    assert stage.store is not None
    assert stage.store.released == [b"b", b"c", b"d", b"e"]
    x.say(Confirm(BOX, (Part(3, 11, 1, 3, 1),), True))
    assert stage.store.released[4:] == [b"g"]


def test_rows_are_joined_only_with_their_like_up_to_a_segment_and_keep_their_order() -> None:
    rng = random.Random(7)
    for _ in range(100):
        made = [
            replace(
                prepared(at, [rng.randbytes(size) for _ in range(many)], rng.choice(["next", "more"])),
                due=rng.choice([None, None, 5]),
                id=rng.choice([None, None, None, f"{at}"]),
            )
            for at in range(rng.randrange(6))
            for size, many in [rng.choice([(1, 1), (9, 3), (2, 400), (90_000, 1)])]
        ]  # fmt: skip
        rows = joined(made)
        for channel in ("next", "more"):
            given, now = ([each for each in of if each.channel == channel] for of in (made, rows))
            assert [message for each in now for message in messages(each)] == [
                message for each in given for message in messages(each)
            ]
        for each in rows:
            mine = [one for one in made if one is each]
            assert mine or (len(each.inputs) <= SEGMENT_MESSAGES and len(each.body) <= SEGMENT_BYTES)
            assert mine or each.id is None


def messages(made: Prepared) -> list[tuple[int, int | None, bytes]]:
    ends = list(memoryview(made.ends).cast("I"))
    assert made.body[:BODY_START] == BODY_HEADER.pack(ARRAY32, len(ends))
    return [
        (index, made.due, bytes(made.body[start:end]))
        for index, start, end in zip(made.inputs, [BODY_START, *ends[:-1]], ends, strict=True)
    ]


def test_a_worker_does_not_leave_before_what_it_sends_is_decided() -> None:
    stage, x = worker()
    part = x.send(1, n=1, epoch=3, fence=3)
    stage.end(stage.take(), sent())
    stage.core.drain()
    stage.step()
    link: Link = stage.core.links[x.conn]
    for window in stage.core.worker.windows.values():
        assert window.closed
    x.want(0, sent=1, seen=99)
    assert link
    assert not stage.core.is_drained()
    x.say(Confirm(BOX, (part,), True))
    assert not stage.core.is_drained(), "its owner does not know that they left"
    x.say(Confirm(BOX, (part,), False))
    assert stage.core.is_drained()


def test_outputs_of_a_run_whose_owner_has_said_its_last_word_go_nowhere() -> None:
    stage, x = worker()
    x.send(1, n=1, epoch=3, fence=3)
    taken = stage.take()
    x.say(Goodbye())
    stage.end(taken, sent())
    stage.step()
    assert stage.store is not None
    assert stage.store.claims == {}
    assert stage.store.released == []


def test_outcomes_for_an_outbox_that_is_not_open_yet_wait_for_it() -> None:
    stage = Stage(services={CHANNEL: 1})
    x = stage.peer(X, boxes=[Owned(BOX, 3, "owner")])
    x.send(1, n=1, epoch=3, fence=3)
    stage.end(stage.take(), sent())
    assert not said(x)
    stage.store = Store(HOME)
    stage.open()
    assert [each.outputs for each in said(x)] == [HOME]


# -- back-pressure -----------------------------------------------------------------------------------------------------


def credit(puppet: Puppet) -> int:
    found = puppet.all(Credit)
    return found[-1].limit if found else -1


def test_little_room_for_outputs_lets_messages_in_one_by_one_and_none_keeps_them_out() -> None:
    stage, x = worker(runners=8)
    x.want(50, sent=0, seen=0)
    assert credit(x) == 8
    stage.core.bound(1)
    stage.step()
    assert credit(x) == 0, "what may still be sent is asked back"
    x.want(50, sent=0, seen=x.last(Credit).serial)
    assert credit(x) == 1
    x.send(1, n=1, epoch=3, fence=3)
    x.want(49, sent=1, seen=x.last(Credit).serial)
    assert credit(x) == 1, "one at a time"
    stage.end(stage.take())
    assert credit(x) == 2
    stage.core.bound(2)
    stage.step()
    x.want(49, sent=1, seen=x.last(Credit).serial)
    assert credit(x) == 1, "nothing more"
    stage.core.bound(0)
    stage.step()
    assert credit(x) > 2


def test_a_handler_that_sends_nothing_is_not_held_back() -> None:
    stage = Stage(store=Store(HOME))
    stage.core.serve([Service(CHANNEL, "push", 8, sends=False)])
    x = stage.peer(X, boxes=[Owned(BOX, 3, "owner")])
    x.want(50, sent=0, seen=0)
    stage.core.bound(2)
    stage.step()
    assert credit(x) == 8


def test_what_a_full_process_has_pushed_to_itself_is_still_taken_one_by_one() -> None:
    world, store = World(), Store(HOME)
    crawler = Process(world, "crawler", services={CHANNEL: 4}, home=store)
    other = Process(world, "other", boxes=[Store(BOX)])
    crawler.handler = lambda channel, epoch, number: (0.1, None)
    world.link(crawler)
    world.dial(other, crawler)
    world.run(1.0)
    crawler.core.bound(2)
    world.run(2.0)
    crawler.push(CHANNEL, 5)
    other.push(CHANNEL, 5)
    world.run(2.35)
    assert len(world.runs) <= 4
    assert crawler.busy[CHANNEL] <= 1
    world.run(4.0)
    assert {run.name[0] for run in world.runs} == {HOME}
    assert store.counts[Verdict.HANDLED] == 5
    crawler.core.bound(0)
    world.touch(crawler)
    world.run(6.0)
    assert len(world.runs) == 10
