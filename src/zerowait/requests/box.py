"""The outbox of a process's requests: in memory, for as long as the process lives, and without rows.

To the protocol it is an outbox like any other (its id is the instance's). What it keeps of a request is the bundle that
it lies in, until it has ended; then its Reply knows the rest.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from zerowait.answers import CANCELLED, CLOSED, Asked, Body, Cancelled, End, Failed, Over, Span, failure
from zerowait.errors import ContractMismatch, Expired, NoResponder, PeerLost, StoreError, ZerowaitError
from zerowait.message import BODY_START, SEGMENT_MESSAGES, Change, Kept, Segment
from zerowait.outbox.sheaf import MESSAGE_COST
from zerowait.requests.bundle import Bundle
from zerowait.requests.keyed import KeyQueues, Name

if TYPE_CHECKING:
    from zerowait.engines.brokerless.protocol.effects import Unanswered
    from zerowait.engines.brokerless.protocol.frames import Chunk, Outcome
    from zerowait.outbox.intake import Intake

log = logging.getLogger("zerowait.requests")

HELD_AGAIN = 0.001  # seconds until a bundle that somebody had in hand is looked for again
COUNTED = 8_192  # channels whose counts are kept; beyond them the oldest go of which nothing is outstanding
UNSEEN_S = 1.0  # a line a second at most for failures that nobody has seen


class Counts(Struct):
    """Of one channel. What is not in any of the others is outstanding."""

    asked: int = 0
    answered: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def outstanding(self) -> int:
        return self.asked - self.answered - self.failed - self.cancelled


class _Piece(Struct, eq=False):
    """What was taken of a bundle in one go: it has numbers first … first + count - 1."""

    first: int
    count: int
    start: int  # index in the bundle of the first
    bundle: Bundle
    ends: memoryview
    left: int  # how many have not ended, or are streams of which more may come
    key: bytes | None = None
    out: tuple[int, int] | None = None  # of those with a key, which of them are offered
    unread: set[int] | None = None  # of those the streams that have ended, and may not be here whole: indexes in it

    def living(self, after: int) -> tuple[int, int] | None:
        ended = self.bundle.ended[self.start : self.start + self.count]
        start = next((at for at in range(after, self.count) if ended[at] is None), None)
        if start is None:
            return None
        return start, next((at for at in range(start, self.count) if ended[at] is not None), self.count)

    def is_out(self) -> bool:
        """Whether any of those that are offered has not ended."""
        start, stop = self.out or (0, 0)
        return None in self.bundle.ended[self.start + start : self.start + stop]

    def nbytes(self, at: int, count: int) -> int:
        begin = self.ends[at - 1] if at else BODY_START
        return self.ends[at + count - 1] - begin + MESSAGE_COST * count


class Requests:
    """All methods on the network thread, unless they say otherwise.

    id: of the instance. drop: tells the protocol that nobody waits for that number any more (epoch, first, count).
    feed: that the reader of a stream makes room. served: channels that are, for people. no_responder: seconds.
    silent: who serves a channel and does not answer: a sentence for people, or "".
    """

    durable = False
    noted: tuple[int, ...] = ()
    kept: tuple[Kept, ...] = ()

    def __init__(
        self,
        id: int,
        name: str,
        intake: Intake,
        *,
        epoch: int,
        drop: Callable[[int, int, int], object],
        feed: Callable[[int, int, bool], object],
        wake: Callable[[], object],
        served: Callable[[str], str],
        no_responder: float,
        silent: Callable[[str], str] = lambda channel: "",
    ) -> None:
        self.id = id
        self.name = name
        self.epoch = epoch
        self.intake = intake
        self.wakers: dict[Any, Any] = {}  # event loop → what wakes those that await in it; see `replies`
        self._drop = drop
        self._feed = feed
        self._wake = wake
        self._served = served
        self._silent = silent
        self._no_responder = no_responder
        self._next = 1
        self._firsts: list[int] = []  # of `_pieces`, ascending
        self._pieces: list[_Piece] = []
        self._ended = 0  # of them those that are over and still listed
        self._lock = Lock()  # of counts
        self._counts: dict[str, Counts] = {}
        self._most_counts = 2 * COUNTED
        self._left: deque[Callable[[], object]] = deque()  # what other threads want done here
        self._queues: KeyQueues[_Piece] = KeyQueues()
        self._freed: list[Name] = []  # keys of which all that was offered has ended
        self._unseen_at = 0.0

    # -- as an outbox ------------------------------------------------------------------------------------------------

    def begin(self) -> list[Segment]:
        """What has been asked since."""
        while self._left:  # of what has been offered by now
            self._left.popleft()()
        segments: list[Segment] = []
        for sheaf, piece in self.intake.take():
            assert isinstance(sheaf, Bundle)
            if not piece.start:
                sheaf.sealed(self.epoch, self._next)
                # One that somebody may still have in hand keeps some numbers for what may yet come.
                self._next += piece.count if sheaf.cut is None else piece.count + SEGMENT_MESSAGES
            first = sheaf.first + piece.start
            ends = memoryview(piece.ends).cast("I")
            taken = _Piece(first, piece.count, piece.start, sheaf, ends, piece.count, sheaf.terms.key)
            self._list(taken)
            with self._lock:
                self._of(sheaf.channel).asked += piece.count
                self._counts[sheaf.channel] = self._counts.pop(sheaf.channel)  # the newest
                self.intake.stored([(sheaf, piece.count)])
            with self.intake.watch:
                sheaf.ended.extend([None] * piece.count)
                early, sheaf.early = sheaf.early or {}, None
                for index in early:
                    sheaf.end(index, index + 1, CANCELLED)
            headers = sheaf.headers
            span = range(piece.start, piece.start + piece.count)
            segment = Segment(
                channel=sheaf.channel,
                epoch=self.epoch,
                first=first,
                count=piece.count,
                body=piece.body,
                ends=piece.ends,
                accepted_at=sheaf.terms.accepted_at,
                expires=sheaf.terms.expires,
                headers={sheaf.first + at: headers[at] for at in span if at in headers} if headers else None,
                hedge=sheaf.lane.hedge,
                key=taken.key,
            )
            if taken.key is None:
                segments.append(segment)
            elif self._queues.join(taken, segment):
                self._freed.append((taken.bundle.channel, taken.key))
            for index in early:  # at the next turn: what is not offered cannot be dropped
                self._count(sheaf.channel, 1, "cancelled")
                self._left.append(partial(self._cancel, sheaf, index, 1))
        if self._queues:
            segments += self._keyed()
        return segments

    def _keyed(self) -> list[Segment]:
        """Of keys of which nothing is offered, what comes next. What has waited for too long has ended."""
        for piece, after in self._queues.expired(self.intake.now_us()):
            self._end(piece, after, piece.count - after, Failed(partial(_expired, sent=False)))
            self.flush()
        segments: list[Segment] = []
        freed, self._freed = self._freed, []
        for name in freed:
            if (found := self._queues.next(name)) is not None:
                piece, segment, *run = found
                piece.out = run[0], run[1]
                segments.append(segment)
        return segments

    def _list(self, piece: _Piece) -> None:
        if self._firsts and piece.first < self._firsts[-1]:  # what was kept for a slow thread
            at = bisect_right(self._firsts, piece.first)
            self._firsts.insert(at, piece.first)
            self._pieces.insert(at, piece)
        else:
            self._firsts.append(piece.first)
            self._pieces.append(piece)

    def turn(self, changes: Sequence[Change], drawn: Mapping[str, int]) -> list[Segment]:
        return []

    def next_due(self) -> float | None:
        if self._left or self._freed:
            return 0.0
        due = HELD_AGAIN if self.intake.held else None
        if self._queues and (at := self._queues.next_at()) is not None:
            left = max(0.0, (at - self.intake.now_us()) / 1e6)
            due = left if due is None else min(due, left)
        return due

    def moved(self, seq: int, first: int, count: int, state: Literal["sent", "stored"]) -> None:
        """No receipt is there to be moved."""

    # -- what becomes of them ----------------------------------------------------------------------------------------

    def unanswered(self, what: Unanswered) -> None:
        failed = Failed(self._why(what))
        for piece, at, many in self._over(what.first, what.count):
            self._end(piece, at, many, failed)
            if piece.key is not None and what.why in ("nobody", "mismatch"):
                name = piece.bundle.channel, piece.key
                for behind, after in self._queues.waiting(name):  # nor are those for anybody
                    self._end(behind, after, behind.count - after, failed)
        self.flush()

    def answered(self, outcome: Outcome) -> None:
        """As many as came in one frame, in a few steps: see `Bundle.end`."""
        body = Body(outcome.body)
        noted = {number: (chunks, note) for _, number, chunks, note in outcome.notes}
        at = 0  # in the body
        for part in outcome.parts:
            number, stop = part.first, part.first + part.count
            for each in sorted(n for n in noted if number <= n < stop) if noted else ():
                at = self._values(body, number, each - number, at)
                self._noted(each, *noted[each])
                number = each + 1
            at = self._values(body, number, stop - number, at)
        self.flush()

    def ended(self, number: int, end: End, *, answered: bool) -> None:
        """One of them, by who carried it. `flush` follows, once for all that ended together."""
        for piece, at, many in self._over(number, 1):
            self._end(piece, at, many, end, answered=answered)

    def _values(self, body: Body, first: int, count: int, at: int) -> int:
        for piece, start, many in self._over(first, count):
            index = piece.start + start
            self._end(piece, start, many, Span(body, at + piece.first + start - first - index), answered=True)
        return at + count

    def _noted(self, number: int, chunks: int, note: bytes) -> None:
        for piece, start, _ in self._over(number, 1):
            failed = failure(note) if note else None
            if not piece.bundle.lane.is_stream:
                self._end(piece, start, 1, failed or failure(b""))
                continue
            self._end(piece, start, 1, Over(chunks, failed), answered=failed is None)

    def _over(self, first: int, count: int) -> Iterator[tuple[_Piece, int, int]]:
        """Where these are: piece, index in it, and how many. What is not known any more has ended long since."""
        stop = first + count
        at = max(0, bisect_right(self._firsts, first) - 1)
        found: list[tuple[_Piece, int, int]] = []
        while at < len(self._pieces) and self._firsts[at] < stop:
            piece = self._pieces[at]
            begin, end = max(first, piece.first), min(stop, piece.first + piece.count)
            if begin < end:
                found.append((piece, begin - piece.first, end - begin))
            at += 1
        return iter(found)

    def _end(self, piece: _Piece, at: int, count: int, end: End, *, answered: bool = False) -> None:
        bundle, start = piece.bundle, piece.start + at
        with self.intake.watch:
            ended, calls = bundle.end(start, start + count, end)
            streams = bundle.streams
        # Of a stream that has ended something may come once more, on another connection; or its worker is lost first.
        is_over = isinstance(end, Over)
        if ended:
            self._count(bundle.channel, ended, "answered" if answered else "failed")
            self._gone(piece, at, count, ended, is_over=is_over)
        if streams is not None:
            for index in range(start, start + count):
                reader = streams.get(index) if is_over else streams.pop(index, None)
                stream = reader() if reader is not None else None
                if stream is not None:
                    stream.ended(end)
        if piece.unread and not is_over:
            for index in range(at, at + count):
                self._is_read(piece, index)
        for call in calls:
            call()

    def _gone(self, piece: _Piece, at: int, count: int, ended: int, *, is_over: bool = False) -> None:
        self.intake.settled(ended, piece.nbytes(at, count) * ended // count)
        if piece.out is not None and piece.key is not None and not piece.is_out():
            piece.out = None
            self._freed.append((piece.bundle.channel, piece.key))
        if is_over:
            piece.unread = {*(piece.unread or ()), *range(at, at + count)}
        else:
            self._leaves(piece, ended)

    def _is_read(self, piece: _Piece, at: int) -> None:
        """Nobody wants more of that stream."""
        if piece.unread and at in piece.unread:
            piece.unread.discard(at)
            self._leaves(piece, 1)

    def _leaves(self, piece: _Piece, count: int) -> None:
        piece.left -= count
        if not piece.left:
            self._ended += 1
            if self._ended * 2 > len(self._pieces):
                self._pieces = [each for each in self._pieces if each.left]
                self._firsts = [each.first for each in self._pieces]
                self._ended = 0

    def flush(self) -> None:
        """Whoever awaits in a loop is woken, once for all that has ended."""
        for waker in list(self.wakers.values()):
            waker.ring()

    def _count(self, channel: str, count: int, what: Literal["answered", "failed", "cancelled"]) -> None:
        with self._lock:
            counts = self._of(channel)
            setattr(counts, what, getattr(counts, what) + count)

    def _of(self, channel: str) -> Counts:
        counts = self._counts.get(channel)
        if counts is None:
            if len(self._counts) >= self._most_counts:
                self._forget()
            counts = self._counts[channel] = Counts()
        return counts

    def _forget(self) -> None:
        """Whoever makes up names, one for each request say, must not fill the memory with what became of them."""
        idle = [name for name, counts in self._counts.items() if not counts.outstanding]
        for name in idle[: max(0, len(self._counts) - COUNTED)]:
            del self._counts[name]
        self._most_counts = max(2 * COUNTED, 2 * len(self._counts))

    def _why(self, what: Unanswered) -> Callable[[Asked, int], Exception]:
        def make(bundle: Asked, index: int) -> Exception:
            channel, id = bundle.channel, bundle.id(index)
            which = f"Request {id} for {channel}"
            if what.why == "expired":
                return _expired(bundle, index, silent, sent=what.sent)
            if what.why == "lost":
                who = what.peer or "its worker"
                words = (
                    f"{which}: {who} died, stands still or was cut off while it had it, so that it may have run. Ask "
                    "again only what may run twice; what always may, declare with idempotent=True"
                )
                return PeerLost(words, channel=channel, id=id, peer=what.peer)
            if what.why == "mismatch":
                return ContractMismatch(
                    f"{which} was not sent: {what.peer or 'who serves it'} disagrees about the channel: {what.words}. "
                    "Deploy both ends with the same contract.",
                    difference=what.words,
                    channel=channel,
                )
            if silent:
                words = f"{which} was not sent, and certainly did not run: {silent}"
            else:
                words = f"{which} was not sent: nobody serves that channel (waited {self._no_responder:g} s).{known}"
            return NoResponder(words, channel=channel, id=id)

        known = silent = ""
        if what.why in ("nobody", "expired"):  # as it is now, and not when somebody looks
            for piece, _, _ in self._over(what.first, 1):
                silent = self._silent(piece.bundle.channel)
                if what.why == "nobody" and not silent:
                    known = self._served(piece.bundle.channel)
        return make

    # -- streams -----------------------------------------------------------------------------------------------------

    def chunk(self, chunk: Chunk) -> None:
        for piece, at, _ in self._over(chunk.number, 1):
            bundle, index = piece.bundle, piece.start + at
            with self.intake.watch:
                streams = bundle.streams
                reader = streams.get(index) if streams is not None else None
                if reader is None:
                    # Whoever asked has not come to say that he reads it, or has left.
                    if streams is None:
                        streams = bundle.streams = {}
                    streams[index] = reader = Waiting()
            stream = reader()
            if stream is not None:
                stream.put(chunk.body)
        self.flush()

    def reads(self, bundle: Bundle, index: int, reader: Callable[[], Any]) -> list[bytes]:
        """Any thread: reader gives whoever reads that stream, None once he has gone. Gives what has come already."""
        with self.intake.watch:
            if bundle.streams is None:
                bundle.streams = {}
            known = bundle.streams.get(index)
            bundle.streams[index] = reader
            return known.bodies if isinstance(known, Waiting) else []

    def feed(self, bundle: Bundle, index: int, limit: int, *, over: bool = False) -> None:
        """Any thread, also in the garbage collection: its reader takes so many units in all. over: he has all, or wants
        no more."""
        self._left.append(partial(self._feeds, bundle, index, limit, over))
        self._wake()

    def _feeds(self, bundle: Bundle, index: int, limit: int, over: bool) -> None:
        if not bundle.ended:
            return
        self._feed(bundle.first + index, limit, over)
        if over:
            with self.intake.watch:
                if bundle.streams is not None:
                    bundle.streams.pop(index, None)
            for piece, at, _ in self._over(bundle.first + index, 1):
                self._is_read(piece, at)

    # -- cancelling --------------------------------------------------------------------------------------------------

    def cancel_later(self, bundle: Bundle, index: int) -> None:
        """Nobody wants it any more. Any thread, also in the garbage collection, where no lock may be taken."""
        self._left.append(partial(self._cancel, bundle, index, 0))
        self._wake()

    def cancel(self, bundle: Bundle, index: int) -> None:
        """Any thread: it is cancelled from here on, whatever still comes."""
        with self.intake.watch:
            ended = 0
            calls: list[Callable[[], object]] = []
            if index < len(bundle.ended):
                ended, calls = bundle.end(index, index + 1, CANCELLED)
            elif bundle.early is None or index not in bundle.early:
                bundle.early = {**(bundle.early or {}), index: CANCELLED}
                calls = bundle.watchers.pop(index, []) if bundle.watchers else []
        if ended:
            self._count(bundle.channel, 1, "cancelled")
        self._left.append(partial(self._cancel, bundle, index, ended))
        self._wake()
        for call in calls:
            call()
        self.flush()

    def _cancel(self, bundle: Bundle, index: int, ended: int) -> None:
        """ended: 1 if that was said already."""
        if index >= len(bundle.ended):
            return  # `begin` comes back to it
        number = bundle.first + index
        for piece, at, many in self._over(number, 1):
            calls: list[Callable[[], object]] = []
            with self.intake.watch:
                if not ended:
                    ended, calls = bundle.end(index, index + 1, CANCELLED)
                    if ended:
                        self._count(bundle.channel, 1, "cancelled")
                if bundle.streams is not None:
                    bundle.streams.pop(index, None)
            self._is_read(piece, at)
            if ended:
                self._gone(piece, at, many, 1)
                self._drop(bundle.epoch, number, 1)
            for call in calls:
                call()
        self.flush()

    def refuse(self, error: ZerowaitError) -> None:
        """Nothing can be sent, ever: whoever has asked is told, and whoever asks from now on. Any thread."""
        self.intake.broken = error if isinstance(error, StoreError) else StoreError(str(error))
        self.begin()
        self._end_all(Failed(lambda bundle, index: error), "failed")

    def close(self) -> None:
        """The process ends, or its client is closed: whoever waits is told."""
        self.begin()
        self._end_all(CLOSED, "cancelled")

    def _end_all(self, end: End, what: Literal["failed", "cancelled"]) -> None:
        for piece in list(self._pieces):
            with self.intake.watch:
                ended, calls = piece.bundle.end(piece.start, piece.start + piece.count, end)
                streams, piece.bundle.streams = piece.bundle.streams, None
            if ended:
                self._count(piece.bundle.channel, ended, what)
            for reader in (streams or {}).values():
                if (stream := reader()) is not None:
                    stream.ended(end)
            for call in calls:
                call()
        self.flush()
        self._pieces, self._firsts = [], []
        self._queues.clear()
        self._freed.clear()

    # -- looking, any thread -----------------------------------------------------------------------------------------

    def counts(self) -> dict[str, Counts]:
        """For each channel, exact at this instant."""
        with self._lock:
            counts = {name: Counts(c.asked, c.answered, c.failed, c.cancelled) for name, c in self._counts.items()}
            for channel, count in self.intake.counts().items():
                counts.setdefault(channel, Counts()).asked += count
        return counts

    def unseen(self, bundle: Bundle, index: int, failed: Failed, count: int) -> None:
        """Requests have failed, and whoever asked has thrown their replies away."""
        if isinstance(failed, Cancelled) or time.monotonic() - self._unseen_at < UNSEEN_S:
            return
        self._unseen_at = time.monotonic()
        log.warning(
            "a request to %s has failed, and nobody has looked at its reply%s: %s. To send without waiting for an "
            "answer, use push()",
            bundle.channel,
            f" (nor at {count - 1} others)" if count > 1 else "",
            failed.error(bundle, index),
        )


def _expired(bundle: Asked, index: int, silent: str = "", *, sent: bool) -> Expired:
    channel, id = bundle.channel, bundle.id(index)
    ran = "was sent: it may have run" if sent else "was not begun: it certainly did not run"
    words = f"Request {id} for {channel} ran out of its time. It {ran}.{' ' if silent else ''}{silent}"
    return Expired(words, channel=channel, id=id, sent=sent)


class Waiting:
    """Keeps what comes of a stream before its reader has said that he reads it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def __call__(self) -> Waiting:
        return self

    def put(self, body: bytes) -> None:
        self.bodies.append(body)

    def ended(self, end: End) -> None:
        """Its place in the bundle says so."""
