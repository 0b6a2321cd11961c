"""REP: bare peers that answer what we ask. A DEALER of ours for each of them, and one for those that connect to us.

What is asked waits here until a peer is connected, so that what nobody took certainly did not run. It is sent with its
number in front, as libzmq's own REQ_CORRELATE does, and an answer is found by that number: one that comes after its
time is dropped, whatever was asked since. When a connection breaks, its socket goes with all that was not sent; what it
had is lost, or, where it may run twice, asked again. Of those that connect to us ZeroMQ does not say who has what.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from zerowait.answers import Failed, Frame
from zerowait.engines.brokerless.plainly.envelope import answered, asked
from zerowait.engines.brokerless.plainly.port import RETRY_S, Around, Port, log
from zerowait.engines.brokerless.protocol.effects import Unanswered, Why
from zerowait.engines.brokerless.wire import PlainHeard, PlainJoined, PlainParted, Wire
from zerowait.failures import bad_answer
from zerowait.message import BODY_START, Segment
from zerowait.plain import Plain
from zerowait.requests.box import Requests

AGAIN_S = 0.1  # between the end of a connection and the next attempt; ZeroMQ makes that longer while nobody listens
FEW = 256  # questions that are over may lie among those that are due, before they are looked for


class _Question(Struct, eq=False):
    number: int
    body: bytes
    asked_at: float
    line: _Line | None = None  # who has it
    was_sent: bool = False  # by some connection, perhaps an earlier one
    is_over: bool = False


class _Line(Port):
    """One DEALER. flying: what it has, by number."""

    kind = "dealer"
    meanwhile = "what is asked waits here"

    def __init__(self, channel: str, plain: Plain, around: Around, port: RequestPort) -> None:
        super().__init__(channel, plain, around)
        self.flying: dict[int, _Question] = {}
        self.is_watched = not self.bind
        self.is_up = False  # of one that is watched
        self._port = port
        self._reopen = False

    def turn(self, wire: Wire) -> float | None:
        if self._reopen:
            self._reopen = self.is_up = False  # ZeroMQ may have connected it again meanwhile
            self.close(wire)
            self._retry_at = self.around.clock() + AGAIN_S
        if self.socket < 0:
            return self.opening(wire, watched=True) if self.is_watched else self.opening(wire)
        return None

    def mended(self) -> None:
        if not self.is_watched:
            super().mended()

    def take(self, wire: Wire, question: _Question) -> bool:
        """False: nobody is connected, or all are full."""
        if self.socket < 0 or (self.is_watched and not self.is_up):
            return False
        if not wire.send_parts(self.socket, asked(question.number, question.body), again=True):
            return False
        question.line, question.was_sent = self, True
        self.flying[question.number] = question
        return True

    def is_there(self) -> bool:
        """Whether somebody is connected, as far as that can be known."""
        return self.is_up or (not self.is_watched and bool(self.flying))

    def heard(self, event: PlainHeard) -> None:
        self._port.heard_from(self, event)

    def watched(self, event: PlainJoined | PlainParted) -> None:
        if isinstance(event, PlainJoined):
            self.is_up = True
            super().mended()
        elif self.is_up:
            self.is_up, self._reopen = False, True
            lost, self.flying = list(self.flying.values()), {}
            self._port.lost(self, lost)
        elif event.reason not in self._told:
            self._told.add(event.reason)
            log.warning(
                "channel %s: a bare peer at %s: %s. It is tried again", self.channel, self.where(), event.reason
            )


class RequestPort:
    """A channel of ours that asks bare peers."""

    def __init__(
        self, channel: str, plain: Plain, around: Around, *, asks: PlainRequests, read: Callable[[bytes], Any],
        idempotent: bool,
    ) -> None:  # fmt: skip
        self.channel = channel
        self.late = 0  # answers to what nobody waits for any more
        self._around = around
        self._asks = asks
        self._read = read
        self._idempotent = idempotent
        each = [replace(plain, bind=(), connect=(endpoint,)) for endpoint in plain.connect]
        if plain.bind:
            each.append(replace(plain, connect=()))
        self._lines = deque(_Line(channel, one, around, self) for one in each)
        self._waiting: deque[_Question] = deque()
        self._due: list[tuple[int, int, _Question]] = []  # (microseconds UTC, number, …), also of some that are over
        self._alone_since: float | None = None

    @property
    def refused(self) -> int:
        return sum(line.refused for line in self._lines)

    def where(self) -> str:
        return ", ".join(line.where() for line in self._lines)

    def take(self, segment: Segment) -> list[_Question]:
        taken: list[_Question] = []
        body, ends = memoryview(segment.body), memoryview(segment.ends).cast("I")
        start, now = BODY_START, self._around.clock()
        for at in range(segment.count):
            question = _Question(segment.first + at, bytes(body[start : ends[at]]), now)
            start = ends[at]
            if segment.expires is not None:
                heapq.heappush(self._due, (segment.expires, question.number, question))
            taken.append(question)
        self._waiting.extend(taken)
        return taken

    def turn(self, wire: Wire) -> float | None:
        waits = [wait for line in self._lines if (wait := line.turn(wire)) is not None]
        now_us = self._asks.now_us()
        while self._due and (self._due[0][0] <= now_us or self._due[0][2].is_over):
            question = heapq.heappop(self._due)[2]
            if not question.is_over:
                self._end(question, "expired")
        if len(self._due) > FEW + 2 * self._open():
            self._due = [each for each in self._due if not each[2].is_over]
            heapq.heapify(self._due)
        if self._due:
            waits.append((self._due[0][0] - now_us) / 1e6)
        is_all_sent = self._send(wire)
        if not is_all_sent:
            waits.append(self._look_for_peers())
        return min(waits, default=None)

    def _open(self) -> int:
        return len(self._waiting) + sum(len(line.flying) for line in self._lines)

    def _send(self, wire: Wire) -> bool:
        while self._waiting:
            question = self._waiting[0]
            if not question.is_over:
                for line in list(self._lines):
                    if line.take(wire, question):
                        break
                else:
                    return False
                self._lines.remove(line)
                self._lines.append(line)  # each in its turn
            self._waiting.popleft()
        self._alone_since = None
        return True

    def _look_for_peers(self) -> float:
        """While something waits: whoever asked is told if nobody is there. Gives when to look again."""
        now = self._around.clock()
        if any(line.is_there() for line in self._lines):
            self._alone_since = None
            return RETRY_S
        if self._alone_since is None:
            self._alone_since = now
        no_responder = self._asks.no_responder
        while self._waiting and now >= max(self._alone_since, self._waiting[0].asked_at) + no_responder:
            question = self._waiting.popleft()
            if not question.is_over:
                self._end(question, "lost" if question.was_sent else "nobody")
        if not self._waiting:
            return no_responder
        return min(RETRY_S, max(self._alone_since, self._waiting[0].asked_at) + no_responder - now)

    def heard_from(self, line: _Line, event: PlainHeard) -> None:
        found = answered(event.parts)
        if found is None:
            line.refuse("a message that is no answer: one begins with the frames that the question began with")
            return
        number, body = found
        question = line.flying.pop(number, None)
        if question is None:
            self.late += 1
            log.debug("channel %s: an answer of %s came too late; %d so far", self.channel, line.where(), self.late)
            return
        question.is_over = True
        if len(body) == 1 and event.complete:
            self._asks.answered(number, Frame(body[0], self._read))
            return
        words = f"an answer of {len(body)} frames, where one is expected"
        line.refuse(words)
        self._asks.failed(
            number, Failed(lambda bundle, index: bad_answer("$", words, channel=bundle.channel, id=bundle.id(index)))
        )

    def lost(self, line: _Line, questions: list[_Question]) -> None:
        if self._idempotent:
            for question in reversed(questions):
                question.line = None
                self._waiting.appendleft(question)
            return
        for question in questions:
            self._end(question, "lost", line.where())

    def _end(self, question: _Question, why: Why, peer: str = "") -> None:
        self.forget(question)
        self._asks.ended(question.number, why, sent=question.was_sent, peer=peer or f"the bare peer at {self.where()}")

    @staticmethod
    def forget(question: _Question) -> None:
        question.is_over = True
        if question.line is not None:
            question.line.flying.pop(question.number, None)


class PlainRequests:
    """All that this process asks of bare peers. no_responder: seconds without any until whoever asks is told."""

    def __init__(self, requests: Requests, around: Around, no_responder: float) -> None:
        self.requests = requests
        self.no_responder = no_responder
        self.now_us = requests.intake.now_us
        self.ports: dict[str, RequestPort] = {}
        self._around = around
        self._questions: dict[int, tuple[RequestPort, _Question]] = {}
        self._is_news = False

    def ask_at(self, channel: str, plain: Plain, read: Callable[[bytes], Any], *, idempotent: bool) -> None:
        """Any thread."""
        if channel not in self.ports:
            port = RequestPort(channel, plain, self._around, asks=self, read=read, idempotent=idempotent)
            self.ports = {**self.ports, channel: port}

    def turn(self, wire: Wire) -> float | None:
        for segment in self.requests.begin():
            port = self.ports[segment.channel]
            for question in port.take(segment):
                self._questions[question.number] = port, question
        waits = [wait for port in self.ports.values() if (wait := port.turn(wire)) is not None]
        if (due := self.requests.next_due()) is not None:
            waits.append(due)
        if self._is_news:
            self._is_news = False
            self.requests.flush()
        return min(waits, default=None)

    def answered(self, number: int, frame: Frame) -> None:
        self._questions.pop(number, None)
        self.requests.ended(number, frame, answered=True)
        self._is_news = True

    def failed(self, number: int, failed: Failed) -> None:
        self._questions.pop(number, None)
        self.requests.ended(number, failed, answered=False)
        self._is_news = True

    def ended(self, number: int, why: Why, *, sent: bool, peer: str) -> None:
        self._questions.pop(number, None)
        self.requests.unanswered(
            Unanswered(self.requests.id, self.requests.epoch, number, 1, why, sent=sent, peer=peer)
        )

    def drop(self, first: int, count: int) -> None:
        """Nobody waits for these any more."""
        for number in range(first, first + count):
            found = self._questions.pop(number, None)
            if found is not None:
                found[0].forget(found[1])

    def served(self, channel: str) -> str:
        """For who asked where nobody answers: a sentence that follows another."""
        port = self.ports.get(channel)
        return f" It goes to bare ZeroMQ peers at {port.where()}, and none is connected." if port is not None else ""
