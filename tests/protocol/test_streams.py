"""Streams and runs that end when nobody is there any more (rules §9): the stories that simulated worlds have told."""

from __future__ import annotations

import pytest

from tests.protocol.puppet import BOX, CHANNEL
from tests.protocol.store import START_US, segment
from tests.protocol.test_requests import EPOCH, Asker, X, answering, flowing, give
from zerowait.engines.brokerless.protocol.effects import Chunked, Unanswered
from zerowait.engines.brokerless.protocol.frames import Batch, Chunk, Credit, Drop, Held, Outcome, Owned, Part, array_of
from zerowait.engines.brokerless.protocol.tables import IN_FLIGHT, WAITING
from zerowait.message import Outcome as Ended
from zerowait.message import Verdict

# -- at who answers ----------------------------------------------------------------------------------------------------


def test_what_ends_after_who_asked_is_gone_is_remembered_by_nobody() -> None:
    """A plain function cannot be cancelled: its answer was kept for as long as its process lived."""
    stage, owner = answering()
    owner.send(1, n=1, epoch=EPOCH, fence=EPOCH)
    taken = stage.take()
    assert taken is not None
    owner.lose()
    stage.step(stage.config.resume_grace + 0.1)
    stage.core.finish([(taken, 0, 1, Ended(Verdict.HANDLED, answers=b"\x01"))])
    stage.step()
    assert not stage.core.worker.memory.unconfirmed()
    assert not stage.core.worker.desk.running(CHANNEL)


def test_what_runs_for_one_who_is_back_after_he_was_thought_gone_is_told_to_him() -> None:
    stage, owner = answering()
    part = owner.send(1, n=1, epoch=EPOCH, fence=EPOCH)
    taken = stage.take()
    assert taken is not None
    owner.lose()
    stage.step(stage.config.resume_grace + 0.1)
    back = stage.peer(X, boxes=[Owned(BOX, EPOCH, "asker", False)], serial=2)
    assert back.last(Held).running == (part,)
    stage.core.finish([(taken, 0, 1, Ended(Verdict.HANDLED, answers=b"\x01"))])
    stage.step()
    assert back.last(Outcome).parts == (part,)


def test_room_for_a_stream_that_is_over_is_not_remembered() -> None:
    stage, owner, flow = flowing()
    give(stage, flow, b"\x01")
    assert stage.core.worker.streams.end(BOX, 1) == 1
    owner.say(Credit(CHANNEL, 0, 16, 1, BOX, 1))
    assert not len(stage.core.worker.streams)
    owner.say(Credit(CHANNEL, 0, 16, 1, BOX, 7))  # of one that never lay here
    assert not stage.core.worker.streams._early


def test_a_stream_that_has_ended_and_that_nobody_asks_for_in_a_new_session_is_kept_no_more() -> None:
    """Its reader had read all, and said so on a connection that broke before that had come."""
    stage, owner, flow = flowing()
    give(stage, flow, b"\x01")
    assert stage.core.worker.streams.end(BOX, 1) == 1
    owner.lose()
    back = stage.peer(X, boxes=[Owned(BOX, EPOCH, "asker", False)], serial=2)
    assert not len(stage.core.worker.streams), "the answer to HELD has come, and no CREDIT before it"
    assert not back.all(Chunk)


def test_a_stream_that_was_left_when_it_had_ended_is_kept_no_more() -> None:
    stage, owner, flow = flowing()
    give(stage, flow, b"\x01")
    assert stage.core.worker.streams.end(BOX, 1) == 1
    owner.say(Drop(BOX, 0, ((EPOCH, 1, 1),), True))
    assert not len(stage.core.worker.streams)


def test_a_stream_whose_end_crosses_its_readers_leave_is_kept_no_more() -> None:
    """It was kept, chunks and all, for as long as the process of its reader lived."""
    stage, owner, flow = flowing()
    give(stage, flow, b"\x01")
    owner.say(Drop(BOX, 0, ((EPOCH, 1, 1),), True))
    give(stage, flow, b"\x02")
    stage.core.worker.streams.end(BOX, 1)
    assert not len(stage.core.worker.streams)
    assert not flow.unseen
    assert not flow.waiting
    assert len(owner.all(Chunk)) == 1, "what came before he left"


def test_a_stream_that_is_left_before_it_gives_anything_gives_nothing() -> None:
    stage, owner, flow = flowing()
    owner.say(Drop(BOX, 0, ((EPOCH, 1, 1),), True))
    owner.say(Credit(CHANNEL, 0, 32, 0, BOX, 1))  # said before that, on a connection that was slower
    give(stage, flow, b"\x01", b"\x02")
    assert not owner.all(Chunk)
    assert not flow.waiting
    assert stage.core.worker.streams.end(BOX, 1) == 0
    assert not len(stage.core.worker.streams)
    assert not stage.core.worker.streams._early
    assert not stage.core.worker.streams._unread


def test_of_a_request_that_is_answered_though_it_was_cancelled_no_mark_stays() -> None:
    for ended in (Ended(Verdict.HANDLED, answers=b"\x01"), Ended(Verdict.CANCELLED, answers=b"")):
        stage, owner = answering()
        owner.send(1, n=1, epoch=EPOCH, fence=EPOCH)
        taken = stage.take()
        assert taken is not None
        owner.say(Drop(BOX, 0, ((EPOCH, 1, 1),), True))
        stage.core.finish([(taken, 0, 1, ended)])
        stage.step()
        assert not stage.core.worker.streams._unread


# -- at who asks -------------------------------------------------------------------------------------------------------


def test_a_stream_that_was_handed_back_is_not_lost_with_who_handed_it_back() -> None:
    """It was said to be lost, and was then begun at another."""
    at = Asker(IN_FLIGHT, kind="stream")
    at.x.say(Outcome(BOX, Verdict.UNSTARTED, (at.part(),)))
    assert at.is_waiting()
    at.x.lose()
    at.stage.step(at.stage.config.resume_grace + 0.1)
    assert at.is_waiting()
    assert not at.stage.effect(Unanswered)


def test_a_stream_whose_time_is_over_is_said_to_be_so_once_and_is_forgotten() -> None:
    at = Asker(IN_FLIGHT, kind="stream")
    at.stage.step(61)
    assert at.why() == "expired"
    assert at.is_stopped(at.x)
    at.stage.effects.clear()
    at.x.say(Chunk(BOX, 1, 0, array_of([b"\x01"], 1)))
    at.x.lose()
    at.stage.step(at.stage.config.resume_grace + 0.1)
    assert not at.stage.effect(Unanswered)
    assert not at.stage.effect(Chunked)


def test_a_producer_that_ignores_its_credit_ends_its_link() -> None:
    """Its items filled the memory of a reader who did not read."""
    for large in (False, True):
        at = Asker(IN_FLIGHT, kind="stream")
        each = b"\xc6" + (60_000).to_bytes(4, "big") + bytes(60_000) if large else b"\x01"  # 4 units, or 1
        allowed = 4 if large else 16
        for serial in range(allowed):
            at.x.say(Chunk(BOX, 1, serial, array_of([each], 1)))
        assert len(at.stage.effect(Chunked)) == allowed
        assert not at.x.closed
        at.x.say(Chunk(BOX, 1, allowed, array_of([each], 1)))
        assert len(at.stage.effect(Chunked)) == allowed
        assert at.x.closed


def test_the_last_item_of_a_stream_may_overdraw_and_room_is_reckoned_from_the_beginning() -> None:
    at = Asker(IN_FLIGHT, kind="stream")
    at.x.say(Chunk(BOX, 1, 0, array_of([b"\x01"] * 15, 15)))
    at.x.say(Chunk(BOX, 1, 1, array_of([bytes(60_000)], 1)))  # its form is looked at by who reads it
    at.stage.core.owner.asks.feed(BOX, 1, 20, over=False)
    at.x.say(Chunk(BOX, 1, 2, array_of([b"\x01"], 1)))
    assert len(at.stage.effect(Chunked)) == 3
    assert not at.x.closed
    at.x.say(Chunk(BOX, 1, 3, array_of([b"\x01"] * 2, 2)))
    assert at.x.closed


def test_a_stream_is_lost_once_with_its_worker() -> None:
    at = Asker(IN_FLIGHT, kind="stream")
    at.stage.core.buried(X, at.stage.now)
    at.stage.step()
    assert at.why() == "lost"


def test_who_leaves_a_stream_says_that_nothing_of_it_need_be_kept() -> None:
    at = Asker(IN_FLIGHT, kind="stream")
    at.x.say(Outcome(BOX, Verdict.HANDLED, (at.part(),), ((EPOCH, 1, 3, b""),)))
    at.stage.core.owner.asks.feed(BOX, 1, 16, over=True)
    at.stage.step()
    assert at.x.last(Credit).serial > 3


def test_who_cancels_a_stream_whose_end_has_come_says_that_nothing_of_it_need_be_kept() -> None:
    at = Asker(IN_FLIGHT, kind="stream")
    at.x.say(Outcome(BOX, Verdict.HANDLED, (at.part(),), ((EPOCH, 1, 3, b""),)))
    at.stage.core.owner.asks.cancel(BOX, EPOCH, 1)
    at.stage.step()
    assert at.x.last(Credit).serial > 3


def test_who_reads_a_stream_says_so_before_he_answers_what_its_worker_holds() -> None:
    at = Asker(IN_FLIGHT, kind="stream")
    at.x.lose()
    back = at.worker(X, serial=2, running=(Part(EPOCH, 1, 1, EPOCH, 1),))
    kinds = [type(frame) for frame in back.heard if isinstance(frame, (Credit, Drop)) and frame.box == BOX]
    assert kinds == [Credit, Drop]


@pytest.mark.parametrize("kind", ["request", "stream"])
def test_who_stood_still_for_long_does_not_ask_again_what_its_worker_may_have_stopped_and_forgotten(kind: str) -> None:
    """A worker that has not heard an asker for the grace cancels what it runs for him, and says nothing of it to who
    comes back: that was taken for a batch that had never come, and begun once more."""
    at = Asker(IN_FLIGHT, kind=kind)
    at.x.lose()
    at.stage.now += at.stage.config.resume_grace + 1  # SIGSTOP: its own timers did not run either
    at.worker(X, serial=2)
    assert at.why() == "lost"


def test_what_may_run_twice_is_asked_again_after_that() -> None:
    at = Asker(IN_FLIGHT, idempotent=True)
    at.x.lose()
    at.stage.now += at.stage.config.resume_grace + 1
    at.worker(X, serial=2)
    assert at.is_waiting()


def test_items_of_a_stream_that_its_worker_may_have_forgotten_are_lost() -> None:
    at = Asker(IN_FLIGHT, kind="stream")
    at.x.say(Outcome(BOX, Verdict.HANDLED, (at.part(),), ((EPOCH, 1, 3, b""),)))
    at.x.lose()
    at.stage.now += at.stage.config.resume_grace + 1
    back = at.worker(X, serial=2)
    assert at.why() == "lost"
    # and it need not keep what it has not forgotten
    assert back.last(Credit).serial > 3


def test_what_was_stopped_at_the_end_of_its_time_is_not_said_to_have_never_run() -> None:
    """Its worker stops it by its own clock and says nothing; and before who asked looks at his, they meet anew."""
    at = Asker(WAITING)
    made = segment(CHANNEL, EPOCH, 2, [10])
    made.expires = START_US + int((at.stage.now + 1.0) * 1e6)
    at.stage.core.owner.asks.cancel(BOX, EPOCH, 1)
    at.x.grant(1)
    at.stage.core.owner.offer(BOX, [made])
    at.stage.step(0.9995)
    assert at.x.all(Batch)
    at.x.lose()
    at.worker(X, serial=2)
    at.stage.step(0.1)
    (told,) = at.stage.effect(Unanswered)
    assert isinstance(told, Unanswered)
    assert (told.why, told.sent) == ("expired", True)
