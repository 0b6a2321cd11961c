"""Requests at who asks and who answers (rules §9): every cell of their table, and the stories that no cell tells."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.protocol.puppet import BOX, CHANNEL, Puppet, Stage
from tests.protocol.store import START_US, segment
from zerowait.engines.brokerless.protocol import frames, tables
from zerowait.engines.brokerless.protocol.effects import Answered, Cancel, Chunked, Unanswered
from zerowait.engines.brokerless.protocol.frames import (
    Batch,
    Chunk,
    Confirm,
    Credit,
    Drop,
    Goodbye,
    Held,
    Outcome,
    Owned,
    Part,
    Served,
    State,
    array_of,
)
from zerowait.engines.brokerless.protocol.tables import ASKED, ENDED, IN_FLIGHT, WAITING
from zerowait.engines.brokerless.protocol.worker.streams import Outflow
from zerowait.engines.brokerless.protocol.worker.unbegun import Listing
from zerowait.message import Outcome as Ended
from zerowait.message import Service, Verdict
from zerowait.numbers import Numbers

IMPOSSIBLE = tables.IMPOSSIBLE
X, Y = 201, 202
EPOCH = 5
TIME_S = 60.0


class Asker:
    """A process that has asked once; X and Y are workers."""

    def __init__(
        self,
        state: str = WAITING,
        *,
        idempotent: bool = False,
        hedge: bool = False,
        kind: str = "request",
        boot: str = "",
    ) -> None:
        self.stage = Stage(boot="here")
        self.boot = boot  # of the workers' machine
        self.kind = kind
        self.idempotent = idempotent
        core, stage = self.stage.core, self.stage
        core.own(BOX, EPOCH, "tested", durable=False, noted=(), now=stage.now, is_asked=True)
        core.owner.sender.use(CHANNEL, kind, idempotent=idempotent)
        self.state = state
        self.x = self.worker(X, credit=0 if state == WAITING else 1)
        self.y = self.worker(Y)
        self.ask(hedge=hedge)
        self.sent: Batch | None = None
        if state != WAITING:
            self.sent = self.x.last(Batch)
        if state == ENDED:
            self.x.say(answer(self.part()))
        self.forget()

    def ask(self, count: int = 1, *, first: int = 1, hedge: bool = False) -> None:
        made = segment(CHANNEL, EPOCH, first, [10] * count)
        made.expires = START_US + int((self.stage.now + TIME_S) * 1e6)
        made.hedge = hedge
        self.stage.core.owner.offer(BOX, [made])
        self.stage.step()

    def worker(self, instance: int, *, credit: int = 0, serial: int = 1, **held: tuple[Part, ...]) -> Puppet:
        puppet = Puppet(self.stage, instance, serial=serial, boot=self.boot)
        puppet.greet()
        puppet.say(State((Served(CHANNEL, self.kind, self.idempotent),)))
        puppet.say(Held(BOX, 1, held.get("queued", ()), held.get("running", ()), EPOCH))
        if credit:
            puppet.grant(credit)
        return puppet

    def part(self, n: int | None = None) -> Part:
        return Part(EPOCH, 1, 1, EPOCH, n if n is not None else self.sent.n if self.sent is not None else 9)

    def forget(self) -> None:
        self.x.forget()
        self.y.forget()
        self.stage.effects.clear()

    def is_waiting(self) -> bool:
        return bool(self.stage.core.owner.pieces(BOX))

    def holders(self) -> set[int]:
        return {flight.holder for flight, _, _ in self.stage.core.owner.custody[BOX].flights.over(EPOCH, 1, 1)}

    def why(self) -> str:
        """What who asked is told."""
        told = self.stage.effect(Unanswered)
        if not told:
            return ""
        (one,) = told
        assert isinstance(one, Unanswered)
        assert (one.box, one.epoch, one.first, one.count) == (BOX, EPOCH, 1, 1)
        assert not self.is_waiting()
        assert not self.holders()
        return one.why if one.sent else f"{one.why}, not run"

    def is_stopped(self, puppet: Puppet) -> bool:
        return any(drop.cancel and (EPOCH, 1, 1) in drop.ranges for drop in puppet.all(Drop))


def answer(part: Part) -> Outcome:
    return Outcome(BOX, Verdict.HANDLED, (part,), body=array_of([b"\x07"] * part.count, part.count))


def answered(holder: bool) -> Callable[[Asker], str]:
    def run(at: Asker) -> str:
        if holder and at.state == WAITING:
            return IMPOSSIBLE
        puppet, part = (at.x, at.part()) if holder else (at.y, at.part(9))
        puppet.say(answer(part))
        assert not puppet.all(Confirm), "it wakes nobody by itself"
        at.stage.step(0.03)
        seen: list[str] = []
        if at.state != ENDED:
            assert at.stage.effect(Answered)
            assert not at.is_waiting()
            assert not at.holders()
            seen.append("answered")
        assert any(part in confirm.parts for confirm in puppet.all(Confirm))
        seen.append("CONFIRM")
        if at.is_stopped(at.x):
            seen.append("DROP with cancel")
        return ", ".join(seen)

    return run


def verdict(said: Verdict) -> Callable[[Asker], str]:
    def run(at: Asker) -> str:
        at.x.say(Outcome(BOX, said, (at.part(),)))
        at.stage.step(0.03)
        assert at.x.all(Confirm)
        seen = [at.why()] if at.why() else ["waiting"] if at.state == IN_FLIGHT and at.is_waiting() else []
        return ", ".join([*seen, "CONFIRM"])

    return run


def held_running(at: Asker) -> str:
    at.y.lose()
    again = at.worker(Y, serial=2, running=(at.part(9),))
    if at.is_stopped(again):
        assert not at.holders()
        return "DROP with cancel"
    if at.state == WAITING:
        return "adopt" if at.holders() == {Y} and not at.is_waiting() else "?"
    return "let run" if at.holders() == {X} else "?"


def not_held(at: Asker) -> str:
    if at.state != IN_FLIGHT:
        return IMPOSSIBLE
    at.x.lose()
    at.worker(X, serial=2)
    return "waiting" if at.is_waiting() and not at.why() else "?"


def lost(at: Asker) -> str:
    if at.state != IN_FLIGHT:
        return IMPOSSIBLE
    by_proof = Asker(IN_FLIGHT, idempotent=at.idempotent)
    by_proof.stage.core.buried(X, by_proof.stage.now)
    by_proof.stage.step()
    at.x.lose()
    at.stage.step(at.stage.config.resume_grace - 0.1)
    assert not at.why(), "told before the grace was over"
    assert not at.is_waiting()
    at.stage.step(0.2)
    found = {each.why() or ("waiting" if each.is_waiting() else "?") for each in (at, by_proof)}
    return found.pop() if len(found) == 1 else "?"


def standing(*, begun: bool) -> Callable[[Asker], str]:
    """X is on this machine, lives, and none of its lines has run for longer than the grace."""

    def run(at: Asker) -> str:
        if at.state != IN_FLIGHT:
            return IMPOSSIBLE
        at = Asker(IN_FLIGHT, boot="here")
        at.stage.listings[X] = Listing(0, {}, {} if begun else {(BOX, EPOCH): Numbers([(1, 1)])})
        at.x.answers = at.y.answers = False
        at.stage.step(at.stage.config.silence + at.stage.config.resume_grace - 0.1)
        assert not at.why(), "told before the grace was over"
        at.stage.step(0.3)
        return at.why() or ("waiting" if at.is_waiting() else "?")

    return run


def nobody(before: bool) -> Callable[[Asker], str]:
    def run(at: Asker) -> str:
        if at.state != WAITING:
            return IMPOSSIBLE
        if before:
            at = Asker(IN_FLIGHT, idempotent=True)
            at.stage.core.buried(X, at.stage.now)
            at.stage.step()
            assert at.is_waiting()
        at.x.say(State())
        at.y.say(State())
        at.stage.step(at.stage.config.no_responder - 0.1)
        assert at.is_waiting()
        at.stage.step(0.2)
        return at.why()

    return run


def time_over(at: Asker) -> str:
    if at.state == ENDED:
        at.stage.step(TIME_S + 1)
        assert not at.why()
        return IMPOSSIBLE
    at.stage.step(TIME_S - 1)
    assert not at.why()
    at.stage.step(1.1)
    return at.why() + (", DROP with cancel" if at.is_stopped(at.x) else "")


def cancelled(at: Asker) -> str:
    at.stage.core.owner.asks.cancel(BOX, EPOCH, 1)
    at.stage.step()
    assert not at.why()
    assert not at.is_waiting()
    assert not at.holders()
    if at.is_stopped(at.x):
        return "forgotten, DROP with cancel"
    return "forgotten" if at.state == WAITING else "nothing"


def hedged(at: Asker) -> str:
    if at.state != IN_FLIGHT:
        return IMPOSSIBLE
    at = Asker(IN_FLIGHT, idempotent=True, hedge=True)
    at.y.grant(1)
    assert not at.y.all(Batch)
    at.stage.step(0.2)
    return "BATCH to another" if at.y.all(Batch) and at.holders() == {X, Y} else "?"


EVENTS: dict[str, Callable[[Asker], str]] = {
    "an answer, from its worker": answered(True),
    "an answer, from another": answered(False),
    "`unstarted`, last dispatch": verdict(Verdict.UNSTARTED),
    "`expired`, last dispatch": verdict(Verdict.EXPIRED),
    "HELD, running, from another": held_running,
    "not in its worker's HELD": not_held,
    "its worker is gone or dead": lost,
    "its worker is gone or dead, idempotent": lost,
    "its worker is held, and has not begun it": standing(begun=False),
    "its worker is held, and may have begun it": standing(begun=True),
    "nobody serves it for `no_responder`": nobody(False),
    "the same, and another had it before": nobody(True),
    "its time is over": time_over,
    "cancelled": cancelled,
    "hedged, and its worker is slow": hedged,
}


@pytest.mark.parametrize(("event", "state"), list(ASKED))
def test_a_request_at_who_asks_does_what_the_table_says(event: str, state: str) -> None:
    assert EVENTS[event](Asker(state, idempotent="idempotent" in event)) == ASKED[event, state]


def test_every_event_of_the_table_can_be_executed() -> None:
    assert {event for event, _ in ASKED} == set(EVENTS)


# -- stories at who asks ---------------------------------------------------------------------------------------------


def test_the_first_answer_to_a_hedged_request_wins_and_the_other_run_is_cancelled() -> None:
    at = Asker(IN_FLIGHT, idempotent=True, hedge=True)
    at.y.grant(1)
    at.stage.step(0.2)
    batch = at.y.last(Batch)
    at.y.say(answer(Part(EPOCH, 1, 1, EPOCH, batch.n)))
    assert len(at.stage.effect(Answered)) == 1
    assert at.is_stopped(at.x)
    assert not at.holders()
    at.stage.core.buried(X, at.stage.now)
    at.stage.step()
    assert not at.why(), "it has been answered"


def test_the_loss_of_one_of_two_that_were_asked_is_no_loss() -> None:
    at = Asker(IN_FLIGHT, idempotent=True, hedge=True)
    at.y.grant(1)
    at.stage.step(0.2)
    at.stage.core.buried(X, at.stage.now)
    at.stage.step()
    assert at.holders() == {Y}
    assert not at.is_waiting(), "it would be asked a third time"


def test_an_idempotent_request_is_asked_of_another_at_once_when_its_worker_is_proved_dead() -> None:
    at = Asker(IN_FLIGHT, idempotent=True)
    at.y.grant(1)
    at.stage.core.buried(X, at.stage.now)
    at.stage.step()
    assert at.y.all(Batch)
    at.y.say(answer(Part(EPOCH, 1, 1, EPOCH, at.y.last(Batch).n)))
    assert at.stage.effect(Answered)
    at.stage.step(TIME_S + 1)
    assert not at.stage.effect(Unanswered)


def test_a_worker_of_another_kind_is_told_of_as_a_mismatch() -> None:
    at = Asker(WAITING)
    at.x.say(State((Served(CHANNEL, "push"),)))
    at.y.say(State())
    at.stage.step(1.2)
    (told,) = at.stage.effect(Unanswered)
    assert isinstance(told, Unanswered)
    assert (told.why, told.sent) == ("mismatch", False)
    assert "served as a push channel" in told.words


def test_what_waited_while_it_was_served_has_its_second_from_when_nobody_serves_it() -> None:
    at = Asker(WAITING)
    at.stage.step(30)
    assert at.is_waiting()
    at.x.lose()
    at.y.lose()
    at.stage.step(0.5)
    assert at.is_waiting()
    at.stage.step(0.7)
    assert at.why() == "nobody, not run"


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(BOX, Verdict.HANDLED, (Part(EPOCH, 1, 1, EPOCH, 1),)),
        Outcome(BOX, Verdict.HANDLED, (Part(EPOCH, 1, 1, EPOCH, 1),), body=array_of([b"\x01", b"\x02"], 2)),
        Outcome(BOX, Verdict.HANDLED, (Part(EPOCH, 1, 1, EPOCH, 1),), ((EPOCH, 7, 0, b"x"),)),
        Outcome(BOX, Verdict.HANDLED, (Part(EPOCH, 1, 1, EPOCH, 1),), body=b"\x07"),
    ],
)
def test_an_outcome_whose_answers_do_not_fit_its_requests_ends_the_link(outcome: Outcome) -> None:
    at = Asker(IN_FLIGHT)
    at.x.say(outcome)
    assert at.x.last(Goodbye).code == frames.MALFORMED
    assert not at.stage.effect(Answered)


def test_a_stream_is_given_credit_behind_its_batch_and_again_on_the_next_connection() -> None:
    at = Asker(IN_FLIGHT, kind="stream")
    again = Asker(WAITING, kind="stream")
    again.x.grant(1)
    kinds = [type(frame) for frame in again.x.heard if isinstance(frame, (Batch, Credit))]
    assert kinds == [Batch, Credit]
    at.x.say(Chunk(BOX, 1, 0, array_of([b"\x01"], 1)), Chunk(BOX, 1, 1, array_of([b"\x02"], 1)))
    assert len(at.stage.effect(Chunked)) == 2
    at.stage.core.owner.asks.feed(BOX, 1, 64, over=False)
    at.x.lose()
    back = at.worker(X, serial=2, running=(at.part(),))
    assert back.last(Credit) == Credit(CHANNEL, 0, 64, 2, BOX, 1)
    back.say(Chunk(BOX, 1, 1, array_of([b"\x02"], 1)))
    assert len(at.stage.effect(Chunked)) == 2, "it was here already"
    back.say(Chunk(BOX, 1, 2, array_of([b"\x03"], 1)))
    assert len(at.stage.effect(Chunked)) == 3


def test_a_stream_whose_worker_dies_is_lost_also_when_its_end_was_heard_and_its_items_were_not() -> None:
    at = Asker(IN_FLIGHT, kind="stream")
    at.x.say(Outcome(BOX, Verdict.HANDLED, (at.part(),), ((EPOCH, 1, 3, b""),)))
    assert at.stage.effect(Answered)
    at.stage.core.buried(X, at.stage.now)
    at.stage.step()
    assert at.why() == "lost"


@pytest.mark.parametrize("body", [b"", array_of([], 0), b"\xdd\xff\xff\xff\xff", b"\x91\x01"])
def test_a_chunk_of_nothing_or_of_more_than_there_can_be_ends_the_link(body: bytes) -> None:
    at = Asker(IN_FLIGHT, kind="stream")
    at.x.say(Chunk(BOX, 1, 0, body))
    assert at.x.last(Goodbye).code == frames.MALFORMED
    assert not at.stage.effect(Chunked)


# -- stories at who answers ------------------------------------------------------------------------------------------


def answering(kind: str = "request") -> tuple[Stage, Puppet]:
    stage = Stage()
    stage.core.serve([Service(CHANNEL, kind, 4)])
    return stage, stage.peer(X, boxes=[Owned(BOX, EPOCH, "asker", False)])


def test_answers_that_end_together_travel_in_one_frame_and_failures_beside_them() -> None:
    stage, owner = answering()
    owner.send(1, 4, n=1, epoch=EPOCH, fence=EPOCH)
    taken = stage.take(most=4)
    assert taken is not None
    owner.forget()
    stage.core.finish(
        [
            (taken, 0, 2, Ended(Verdict.HANDLED, answers=b"\x01\x02")),
            (taken, 2, 3, Ended(Verdict.HANDLED, note=b"why", answers=b"")),
            (taken, 3, 4, Ended(Verdict.HANDLED, answers=b"\x04")),
        ]
    )
    stage.step()
    (outcome,) = owner.all(Outcome)
    assert outcome.parts == (Part(EPOCH, 1, 4, EPOCH, 1),)
    assert outcome.notes == ((EPOCH, 3, 0, b"why"),)
    assert frames.payloads(outcome.body) == [b"\x01", b"\x02", b"\x04"]
    frames.check_answers(outcome)


def test_answers_are_said_again_on_the_next_connection_until_they_are_confirmed() -> None:
    stage, owner = answering()
    part = owner.send(1, 2, n=1, epoch=EPOCH, fence=EPOCH)
    taken = stage.take(most=2)
    assert taken is not None
    stage.core.finish([(taken, 0, 2, Ended(Verdict.HANDLED, answers=b"\x01\x02"))])
    stage.step()
    owner.lose()
    again = stage.peer(X, boxes=[Owned(BOX, EPOCH, "asker", False)], serial=2)
    said = again.all(Outcome)
    assert [payload for outcome in said for payload in frames.payloads(outcome.body)] == [b"\x01", b"\x02"]
    again.say(Confirm(BOX, (part,)))
    assert not stage.core.worker.memory.unconfirmed(BOX)


def test_a_batch_that_comes_again_is_answered_from_memory_and_not_run() -> None:
    stage, owner = answering()
    owner.send(1, n=1, epoch=EPOCH, fence=EPOCH)
    taken = stage.take()
    assert taken is not None
    stage.core.finish([(taken, 0, 1, Ended(Verdict.HANDLED, answers=b"\x01"))])
    stage.step()
    owner.forget()
    owner.send(1, n=2, epoch=EPOCH, fence=EPOCH)
    assert frames.payloads(owner.last(Outcome).body) == [b"\x01"]
    assert stage.take() is None


def test_who_asked_is_gone_and_his_runs_are_cancelled() -> None:
    stage, owner = answering()
    owner.send(1, n=1, epoch=EPOCH, fence=EPOCH)
    assert stage.take() is not None
    owner.lose()
    stage.step(stage.config.resume_grace - 0.1)
    assert not stage.effect(Cancel)
    stage.step(0.2)
    assert stage.effect(Cancel) == [Cancel(BOX)]


def flowing() -> tuple[Stage, Puppet, Outflow]:
    stage, owner = answering("stream")
    owner.send(1, n=1, epoch=EPOCH, fence=EPOCH)
    owner.say(Credit(CHANNEL, 0, 2, 0, BOX, 1))
    assert stage.take() is not None
    return stage, owner, Outflow(BOX, EPOCH, 1)


def give(stage: Stage, flow: Outflow, *items: bytes) -> None:
    for item in items:
        flow.put(item)
    stage.core.flow([flow])
    stage.step()


def test_items_travel_together_and_a_producer_without_credit_is_woken_by_it() -> None:
    stage, owner, flow = flowing()
    give(stage, flow, *[b"\x01"] * 16)
    (chunk,) = owner.all(Chunk)
    assert frames.payloads(chunk.body) == [b"\x01"] * 16
    assert not flow.has_room()
    woken: list[bool] = []
    flow.when_room(lambda: woken.append(flow.has_room()))
    owner.say(Credit(CHANNEL, 0, 32, 1, BOX, 1))
    assert woken == [True]
    assert not flow.unseen, "what is there is kept no more"


def test_what_a_broken_connection_swallowed_of_a_stream_comes_again() -> None:
    stage, owner, flow = flowing()
    give(stage, flow, b"\x01")
    give(stage, flow, b"\x02")
    owner.lose()
    give(stage, flow, b"\x03")
    again = stage.peer(X, boxes=[Owned(BOX, EPOCH, "asker", False)], serial=2)
    assert not again.all(Chunk), "before its reader has asked"
    again.say(Credit(CHANNEL, 0, 16, 1, BOX, 1))
    assert [frames.payloads(chunk.body) for chunk in again.all(Chunk)] == [[b"\x02"], [b"\x03"]]
    assert stage.core.worker.streams.end(BOX, 1) == 3
    again.say(Credit(CHANNEL, 0, 16, 3, BOX, 1))
    assert not len(stage.core.worker.streams)
