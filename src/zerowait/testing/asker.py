"""What a simulated process asks of others, and how it reads what comes: with the requests' own outbox and replies."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import msgpack

from zerowait.answers import Body
from zerowait.codec import Codec
from zerowait.engines.brokerless.protocol.effects import Answered, Chunked, Unanswered
from zerowait.errors import Cancelled, Expired, NoResponder, PeerLost, RemoteError, Room
from zerowait.failures import Errors
from zerowait.message import UNIT_BYTES
from zerowait.outbox.intake import Intake, Limits
from zerowait.requests.box import Requests
from zerowait.requests.bundle import AskLane, Bundle
from zerowait.streams import Stream
from zerowait.testing.questions import AGAIN, KINDS, Question
from zerowait.testing.refusal import Refused

if TYPE_CHECKING:
    from zerowait.testing.node import Node

_any: Codec[Any] = Codec(Any)
_errors = Errors((Refused,))


class Asker:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._book = node.around.questions
        outboxes = node.holdings.outboxes
        intake = Intake(Limits(), durable=False, wake=outboxes.asked, room=_no_room, now_us=node.now_us)
        intake.make, intake.box = Bundle, node.instance
        self.requests = Requests(
            node.instance, node.name, intake,
            epoch=node.now_us() // 1_000,
            drop=partial(node.core.owner.asks.cancel, node.instance),
            feed=lambda number, limit, over: node.core.owner.asks.feed(node.instance, number, limit, over=over),
            wake=outboxes.asked,
            served=lambda channel: "",
            no_responder=node.core.config.no_responder,
        )  # fmt: skip
        self.requests._unseen_at = float("inf")  # what has failed when its process was over is no news
        self._intake = intake
        self._lanes: dict[tuple[str, float | None, bool], AskLane] = {}
        self._places: dict[int, tuple[Bundle, int]] = {}  # by token
        self._unnumbered: list[tuple[Bundle, int, Question]] = []
        self._numbers: dict[int, Question] = {}
        self._readers: dict[int, Reader] = {}
        outboxes.ask(self.requests)

    def ask(self, question: Question, payload: bytes, timeout: float | None, pace: float) -> None:
        """pace: seconds that the reader of a stream takes for what came together."""
        way = question.channel, timeout, question.hedged
        lane = self._lanes.get(way)
        if lane is None:
            kind = KINDS[question.channel]
            self._node.core.owner.sender.use(question.channel, kind, idempotent=question.channel == AGAIN)
            lane = self._lanes[way] = AskLane(
                self._intake, question.channel, None, None, timeout=timeout, out=_any, errors=_errors,
                requests=self.requests, is_stream=kind == "stream", hedge=question.hedged,
            )  # fmt: skip
        bundle, index = lane.append(payload)
        assert isinstance(bundle, Bundle)
        self._places[question.token] = bundle, index
        self._unnumbered.append((bundle, index, question))
        if question.is_stream:
            self._readers[question.token] = Reader(self._node, question, Stream(bundle, index), pace)
        else:
            bundle.watch(index, partial(self._ended, bundle, index, question))

    def cancel(self, question: Question) -> None:
        bundle, index = self._places[question.token]
        reader = self._readers.get(question.token)
        if reader is not None:
            reader.leave()
        elif not bundle.is_done(index):
            question.cancelled_at = self._node.around.timeline.now
            self.requests.cancel(bundle, index)

    def _ended(self, bundle: Bundle, index: int, question: Question) -> None:
        if self._node.alive:
            tell_end(self._node, question, bundle, index)

    # -- what the protocol says --------------------------------------------------------------------------------------

    def begin(self) -> None:
        """What was asked goes on its way, and has numbers from then on."""
        self._node.holdings.outboxes.begin()
        left: list[tuple[Bundle, int, Question]] = []
        for bundle, index, question in self._unnumbered:
            if index < len(bundle.ended):
                self._numbers[bundle.first + index] = question
            else:
                left.append((bundle, index, question))
        self._unnumbered = left

    def told(self, what: Answered | Unanswered | Chunked) -> None:
        match what:
            case Answered():
                for part in what.outcome.parts:
                    for number in range(part.first, part.first + part.count):
                        self._numbers[number].reported.append("answered")
            case Unanswered():
                for number in range(what.first, what.first + what.count):
                    self._numbers[number].reported.append(what.why if what.sent else f"{what.why}, not run")
            case Chunked():
                self._chunk(what)
        self._node.holdings.outboxes.told(what)

    def _chunk(self, what: Chunked) -> None:
        question = self._numbers[what.chunk.number]
        reader = self._readers[question.token]
        for item in Body(what.chunk.body).values(_any):
            if question.units >= reader.limit():
                words = f"item {item[2]} came when {question.units} units had, and its reader had room for fewer"
                question.wrong.append(words)
            question.units += 1 + len(msgpack.encode(item)) // UNIT_BYTES

    def outstanding(self) -> int:
        return sum(counts.outstanding for counts in self.requests.counts().values())

    def is_reading(self) -> bool:
        return any(not reader.question.ends for reader in self._readers.values())


def tell_end(node: Node, question: Question, bundle: Bundle, index: int) -> None:
    """What its reply raises or gives."""
    book = node.around.questions
    try:
        value = bundle.value(index)
    except Exception as error:
        tell_failure(node, question, error)
    else:
        token, number = value[0], value[1]
        start = next((start for start in question.starts if start.number == number), None)
        if token != question.token or start is None or start.ended_at is None or start.ending != "answers":
            question.wrong.append(f"answered with what was said to {token} in start {number}")
        book.ends(question, "answered")


def tell_failure(node: Node, question: Question, error: Exception) -> None:
    book = node.around.questions
    match error:
        case Refused(token=token):
            if token != question.token or not _any_ended(question, "refuses"):
                question.wrong.append(f"refused with what was said to {token}")
            book.ends(question, "refused")
        case RemoteError():
            if error.message != str(question.token) or not _any_ended(question, "raises"):
                question.wrong.append(f"failed with {error.message!r}, which was not said to it")
            book.ends(question, "failed")
        case Expired():
            book.ends(question, "expired", certainly_not_run=not error.sent)
        case PeerLost():
            book.ends(question, "lost")
        case NoResponder():
            book.ends(question, "nobody", certainly_not_run=True)
        case Cancelled():
            book.ends(question, "cancelled")
        case _:
            question.wrong.append(f"ended with {error!r}")
            book.ends(question, "otherwise")


def _any_ended(question: Question, how: str) -> bool:
    return any(start.ending == how and start.ended_at is not None for start in question.starts)


class Reader:
    """Reads one stream. What it reads are items of one start, each in its turn."""

    def __init__(self, node: Node, question: Question, stream: Stream[Any], pace: float) -> None:
        self.question = question
        self._node = node
        self._stream = stream
        self._pace = pace
        self._start = 0
        self._is_called = False
        self._look()

    def limit(self) -> int:
        """In units, so much as it has said."""
        return self._stream._limit

    def leave(self) -> None:
        if not self.question.ends:
            self.question.cancelled_at = self._node.around.timeline.now
            self._stream.cancel()
            self._node.around.questions.ends(self.question, "cancelled")

    def _call(self, seconds: float = 0.0) -> None:
        if not self._is_called:
            self._is_called = True
            self._node.around.timeline.after(seconds, lambda: self._node.when_awake(self._called))

    def _called(self) -> None:
        self._is_called = False
        self._look()

    def _look(self) -> None:
        question, stream = self.question, self._stream
        while not question.ends:
            try:
                if not stream._next_chunk():
                    stream._watch(self._call)
                    return
                if stream._is_over:
                    self._over()
                    return
                for item in stream._items:
                    self._item(item)
                    if question.most is not None and question.read >= question.most:
                        self.leave()
                        return
            except Exception as error:
                tell_failure(self._node, question, error)
                return
            if self._pace:
                self._call(self._pace)
                return

    def _item(self, item: Any) -> None:
        question = self.question
        token, start, place, _ = item
        self._start = self._start or start
        if (token, start, place) != (question.token, self._start, question.read):
            words = f"item {place} of {token} of start {start} came where item {question.read} of start {self._start}"
            question.wrong.append(f"{words} belongs")
        question.read += 1

    def _over(self) -> None:
        question = self.question
        start = next((start for start in question.starts if start.number == self._start), None)
        given = start.given if start is not None else 0
        if question.read != given or not _any_ended(question, "answers"):
            question.wrong.append(f"over after {question.read} items, and {given} were given")
        self._node.around.questions.ends(question, "answered")


def _no_room() -> Room:
    raise AssertionError("what is asked in a simulated world always has room")
