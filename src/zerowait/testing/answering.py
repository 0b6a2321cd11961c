"""The runners of a simulated process that answers: requests, and streams whose readers may be slow, or leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct, field, msgpack

from zerowait.engines.brokerless.protocol.worker.parcel import Taken
from zerowait.engines.brokerless.protocol.worker.streams import Outflow
from zerowait.failures import Errors, pack_remote
from zerowait.message import Outcome, Verdict
from zerowait.testing.questions import KINDS, Question, Start
from zerowait.testing.refusal import Refused

if TYPE_CHECKING:
    from zerowait.testing.node import Node

ERRORS = Errors((Refused,))
ENDLESS = 1 << 30
LOOK_S = 0.1
BURST = 40  # items of a stream that are given at once
LARGE = b"." * 40_000  # an item of three units
_encode = msgpack.encode


class Manner(Struct, frozen=True):
    """How a handler behaves. items: of a stream. is_deaf: it goes on when it is cancelled, as a plain function does."""

    seconds: float
    ending: str
    items: int = 0
    is_deaf: bool = False


class Manners(Protocol):
    def __call__(self, question: Question, /) -> Manner: ...


class Work(Struct, eq=False):
    """What a runner has taken. unwanted: indexes for which nobody waits any more."""

    channel: str
    taken: Taken
    taken_at: float
    index: int = 0
    unwanted: set[int] = field(default_factory=set[int])
    question: Question | None = None
    start: Start | None = None
    manner: Manner | None = None
    flow: Outflow | None = None
    turn: int = 0  # a step that was asked for in an earlier one is not taken


class Repliers:
    """at_once: how many requests a runner takes. kills: called when a handler takes its process along."""

    def __init__(
        self,
        node: Node,
        services: dict[str, int],
        manners: Manners,
        at_once: int,
        kills: Callable[[Question], None],
    ) -> None:
        self._node = node
        self._core = node.core
        self._timeline = node.around.timeline
        self._book = node.around.questions
        self._services = services
        self._manners = manners
        self._at_once = at_once
        self._kills = kills
        self._works: dict[int, Work] = {}  # by `id`
        self._busy = dict.fromkeys(services, 0)

    def __contains__(self, channel: str) -> bool:
        return channel in self._services

    def is_busy(self) -> bool:
        return bool(self._works)

    def ready(self, channel: str) -> None:
        most = 1 if KINDS[channel] == "stream" else self._at_once
        while self._busy[channel] < self._services[channel]:
            now = self._timeline.now
            taken = self._core.worker.desk.start(channel, most, now)
            if taken is None:
                return
            work = Work(channel, taken, now, taken.start)
            self._works[id(work)] = work
            self._busy[channel] += 1
            expires = taken.delivery.expires
            if expires is not None and now >= expires:
                self._core.finish([(taken, taken.start, taken.stop, Outcome(Verdict.EXPIRED))])
                self._node.touch()
                work.index = taken.stop
            self._next(work)

    def _next(self, work: Work) -> None:
        work.question = work.start = work.manner = work.flow = None
        while work.index < work.taken.stop and work.index in work.unwanted:
            self._finish(work, Outcome(Verdict.CANCELLED, answers=b""))
        if work.index >= work.taken.stop:
            del self._works[id(work)]
            self._busy[work.channel] -= 1
            self.ready(work.channel)
            return
        delivery = work.taken.delivery
        name = (delivery.box, delivery.epoch, delivery.number(work.index))
        known = self._book.begins(_token(delivery.payload(work.index)), self._node.instance, name, work.taken_at)
        if known is None:
            self._finish(work, Outcome(Verdict.CANCELLED, answers=b""))
            self._next(work)
            return
        work.question, work.start = known
        work.manner = manner = self._manners(work.question)
        work.start.ending = manner.ending
        if KINDS[work.channel] == "stream":
            work.flow = Outflow(delivery.box, name[1], name[2])
            if manner.ending == "endless":
                work.manner = Manner(manner.seconds, manner.ending, ENDLESS, manner.is_deaf)
        self._later(work, manner.seconds, self._end if work.flow is None else self._give)
        if delivery.expires is not None and not manner.is_deaf:
            self._later(work, max(0.0, delivery.expires - self._timeline.now), self._late, is_step=False)

    def _later(self, work: Work, seconds: float, act: Callable[[Work], None], *, is_step: bool = True) -> None:
        """Unless it has ended by then."""
        if is_step:
            work.turn += 1
        turn, start = work.turn, work.start

        def go() -> None:
            if work.start is start and id(work) in self._works and (not is_step or work.turn == turn):
                act(work)

        self._timeline.after(seconds, lambda: self._node.when_awake(go))

    def _finish(self, work: Work, outcome: Outcome) -> None:
        self._core.finish([(work.taken, work.index, work.index + 1, outcome)])
        work.index += 1
        self._node.touch()

    def _over(self, work: Work, outcome: Outcome, ending: str = "") -> None:
        """That run has ended."""
        assert work.start is not None
        assert work.question is not None
        work.start.ended_at = self._timeline.now
        work.start.ending = ending or work.start.ending
        self._book.tell("over", work.question.token, work.start.number, work.start.ending)
        self._finish(work, outcome)
        self._next(work)

    def _end(self, work: Work) -> None:
        assert work.start is not None
        assert work.question is not None
        token = work.question.token
        match work.start.ending:
            case "kills":
                self._kills(work.question)
            case "raises":
                note = pack_remote("ValueError", str(token), "")
                self._over(work, Outcome(Verdict.HANDLED, note=note, answers=b""))
            case "refuses":
                refused = ERRORS.pack(Refused(token))
                assert refused is not None
                self._over(work, Outcome(Verdict.HANDLED, note=refused, answers=b""))
            case _ if work.flow is not None:
                self._over(work, Outcome(Verdict.HANDLED, answers=b""))
            case _:
                padding = b"." * (3_000 if token % 7 == 0 else 3)
                answer = _encode((token, work.start.number, padding))
                self._over(work, Outcome(Verdict.HANDLED, answers=answer))

    # -- streams -----------------------------------------------------------------------------------------------------

    def _give(self, work: Work) -> None:
        """As many items as there is room for, and at most so many at once."""
        flow, start, manner, question = work.flow, work.start, work.manner, work.question
        assert flow is not None
        assert start is not None
        assert manner is not None
        assert question is not None
        if work.index in work.unwanted:
            self._over(work, Outcome(Verdict.CANCELLED, answers=b""), "cancelled")
            return
        given = 0
        while start.given < manner.items and given < BURST and flow.has_room():
            item = (
                question.token,
                start.number,
                start.given,
                LARGE if (question.token + start.given) % 11 == 0 else b"",
            )
            flow.put(_encode(item))
            start.given += 1
            given += 1
        if given:
            self._core.flow([flow])
            self._node.touch()
        if start.given >= manner.items:
            self._later(work, 0.0, self._end)
        elif flow.has_room():
            self._later(work, manner.seconds, self._give)
        else:
            flow.when_room(lambda: self._later(work, 0.0, self._give))

    # -- nobody waits any more ---------------------------------------------------------------------------------------

    def cancel(self, box: int, ranges: Sequence[tuple[int, int, int]]) -> None:
        """No ranges: all of that box."""
        for work in list(self._works.values()):
            delivery = work.taken.delivery
            if delivery.box != box:
                continue
            for index in range(work.index, work.taken.stop):
                number = delivery.number(index)
                among = any(epoch == delivery.epoch and first <= number < first + n for epoch, first, n in ranges)
                if among or not ranges:
                    work.unwanted.add(index)
            if work.index in work.unwanted and work.start is not None and work.manner is not None:
                if not work.manner.is_deaf:
                    self._later(work, 0.0, self._cancelled)
                elif work.flow is not None:  # it looks when it waits for its reader
                    self._later(work, LOOK_S, self._cancelled)

    def _cancelled(self, work: Work) -> None:
        self._over(work, Outcome(Verdict.CANCELLED, answers=b""), "cancelled")

    def _late(self, work: Work) -> None:
        self._over(work, Outcome(Verdict.CANCELLED, answers=b""), "late")


def _token(payload: bytes) -> object:
    try:
        return msgpack.decode(payload)[0]
    except Exception:  # whatever it is, nobody has asked it
        return None
