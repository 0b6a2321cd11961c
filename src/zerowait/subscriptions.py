"""What `subscribe` gives: a loop over events, on a thread or in an event loop, and no place for them to pile up."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from array import array
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypedDict, TypeVar, cast

from msgspec import Struct

from zerowait.errors import Cancelled
from zerowait.message import ARRAY32, BODY_HEADER, BODY_START
from zerowait.pending import Leaving, refuse_waiting
from zerowait.words import plural

if TYPE_CHECKING:
    from zerowait.codec import Codec

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

log = logging.getLogger("zerowait.topics")

UNKNOWN = -1
AT_ONCE = 64  # events of one publisher before the next has its turn
TURN_S = 0.002  # how long a loop is kept before others have their turn
TOLD_S = 10.0  # between two lines about events that were missed

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_HEADERS: Mapping[str, str] = {}


class CollectOptions(TypedDict, total=False):
    """What may be said of one subscription: see `Client.subscribe`."""

    replay: int
    replay_seconds: float
    overflow: Literal["drop_oldest", "conflate", "disconnect"]
    queue: int
    idle: float | None


class Event(Struct, Generic[T_co], frozen=True, gc=False):
    """One event as a subscriber has it.

    topic: the topic it was published on. missed: how many that matched were lost directly before it; -1: nobody knows
    how many, for its publisher was started anew. sender: the publisher's name. headers: those it was published with.
    """

    topic: str
    value: T_co
    missed: int
    sender: str
    sent_us: int  # microseconds UTC
    headers: Mapping[str, str]

    @property
    def sent_at(self) -> datetime:
        """When it was published, UTC, by the publisher's clock."""
        return _EPOCH + timedelta(microseconds=self.sent_us)


class Inbox(Protocol):
    """What has come, where it is taken. Any thread; nothing here waits."""

    error: Exception | None

    def __bool__(self) -> bool: ...
    def take(self, most: int) -> Any: ...
    def unread(self, instance: int, missed: int) -> None: ...


class Subscription(Leaving, Generic[T_co]):
    """Events as they come: `for event in subscription`, `async for event in subscription`.

    It collects from the call of `subscribe` on, within its queue, whether or not somebody loops over it. Leaving its
    `with`, `cancel()` and dropping the last reference end it; a loop may be left and begun again. Several loops share
    the events.

    missed: how many events that matched were lost so far, as far as they were looked at; those that could not be read
    are among them, and those that a publisher had not sent when it left. Made by `Client.subscribe`.
    """

    _verb = "subscribe"

    def __init__(
        self,
        name: str,
        codec: Codec[Any],
        idle: float | None,
        close: Callable[[], object],
        pid_check: Callable[[], None],
    ) -> None:
        self.topic = name
        self.missed = 0
        self._codec = codec
        self._idle = idle
        self._inbox: Inbox | None = None
        self._close = weakref.finalize(self, close)
        self._close.atexit = False
        self._check = pid_check
        self._ready: deque[Event[Any]] = deque()
        self._waiters: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self._is_cancelled = False
        self._told_at = 0.0
        self._untold = 0

    # -- what has come -------------------------------------------------------------------------------------------------

    def _ring(self) -> None:
        """Something has come, or nothing will any more. Any thread."""
        if self._waiters:
            with self._lock:
                waiters, self._waiters = self._waiters, []
            for call in waiters:
                call()

    def _watch(self, call: Callable[[], object]) -> None:
        with self._lock:
            self._waiters.append(call)
        if self._is_there():
            self._ring()

    def _unwatch(self, call: Callable[[], object]) -> None:
        with self._lock:
            if call in self._waiters:
                self._waiters.remove(call)

    def _is_there(self) -> bool:
        inbox = self._inbox
        return (
            bool(self._ready) or self._is_cancelled or (inbox is not None and (bool(inbox) or inbox.error is not None))
        )

    def _more(self) -> bool:
        """Takes what has come into `_ready`; False: there is nothing. Raises why nothing will come any more."""
        self._check()
        if self._is_cancelled:
            raise Cancelled(f"The subscription to {self.topic} was cancelled.", channel=self.topic)
        inbox = self._inbox
        taken = inbox.take(AT_ONCE) if inbox is not None else None
        if taken is None:
            if inbox is not None and inbox.error is not None:
                raise inbox.error
            return False
        self._ready.extend(self._events(taken))
        return True

    def _events(self, taken: Any) -> list[Event[Any]]:
        values, bad = values_of(self._codec, taken)
        piece, sender, missed = taken.piece, taken.source.sender, taken.missed
        if missed > taken.known:
            self._lose(taken.refused)  # the network thread has said of these that they could not be read
            if unsaid := missed - taken.known - taken.refused:
                self._miss(unsaid, sender)
        if bad:
            self._lose(len(bad))
            log.warning(
                "%d events on %s from %s cannot be read as this subscription expects them, and are counted as missed; "
                "the first: %s",
                len(bad),
                self.topic,
                sender,
                bad[min(bad)],
            )
        events: list[Event[Any]] = []
        if not bad and missed == 0 and len(taken.topics) == 1 and not piece.headers:
            topic, sent_us = taken.topics[0][0], piece.sent_at  # nearly all are like this
            return [Event(topic, value, 0, sender, sent_us, _NO_HEADERS) for value in values]
        at, said = 0, cast("dict[int, Mapping[str, str]]", piece.headers or {})
        for topic, many in taken.topics:
            for place in range(at, at + many):
                if place in bad:
                    missed += missed != UNKNOWN
                    continue
                headers: Mapping[str, str] = said.get(taken.start + place) or _NO_HEADERS
                events.append(Event(topic, values[place], missed, sender, piece.sent_at, headers))
                missed = 0
            at += many
        if missed:
            assert self._inbox is not None
            self._inbox.unread(taken.source.instance, missed)
        return events

    def _lose(self, count: int) -> None:
        """So many are missed, and somebody else has told it. Any thread."""
        with self._lock:
            self.missed += count

    def _miss(self, count: int, sender: str) -> None:
        self._lose(count)
        self._untold += count
        now = time.monotonic()
        if now - self._told_at >= TOLD_S:
            log.warning(
                "missed %s of %s from %s: they came faster than they were taken, or a connection broke; a "
                "larger queue=, or a quicker loop, misses fewer",
                plural(self._untold, "event"),
                self.topic,
                sender,
            )
            self._told_at, self._untold = now, 0

    # -- loops ---------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Event[T_co]]:
        ready = self._ready
        since = time.monotonic()
        while True:
            try:
                while True:
                    yield ready.popleft()
            except IndexError:
                pass
            if self._more():
                since = time.monotonic()
                continue
            refuse_waiting("write `async for event in …`")
            if not self._wait(since):
                return

    def _wait(self, since: float) -> bool:
        """False: there was nothing for as long as `idle` says."""
        over = threading.Event()
        tell = over.set
        self._watch(tell)
        try:
            over.wait(self._left(since))
        finally:
            self._unwatch(tell)
        return over.is_set() or self._is_there()

    def _left(self, since: float) -> float | None:
        return None if self._idle is None else max(0.0, since + self._idle - time.monotonic())

    async def __aiter__(self) -> AsyncIterator[Event[T_co]]:
        import asyncio

        loop = asyncio.get_running_loop()
        ready = self._ready
        since = turn = time.monotonic()
        while True:
            try:
                while True:
                    yield ready.popleft()
            except IndexError:
                pass
            now = time.monotonic()
            if now - turn > TURN_S:
                await asyncio.sleep(0)
                turn = time.monotonic()
            if self._more():
                since = now
                continue
            over: asyncio.Future[None] = loop.create_future()

            def tell(over: asyncio.Future[None] = over) -> None:
                if not over.done():
                    over.set_result(None)

            def notice(tell: Callable[[], None] = tell) -> None:
                try:
                    loop.call_soon_threadsafe(tell)
                except RuntimeError:
                    return  # the loop is closed: nobody awaits any more

            self._watch(notice)
            try:
                async with asyncio.timeout(self._left(since)):
                    await over
            except TimeoutError:
                if not self._is_there():
                    return
            finally:
                self._unwatch(notice)
            turn = time.monotonic()

    # -- the end -------------------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Ends it: nothing more is collected. Who waits in a loop over it, or begins one, gets Cancelled."""
        self._is_cancelled = True
        self._ready.clear()
        self._close()
        self._ring()

    def __repr__(self) -> str:
        state = "cancelled" if self._is_cancelled else f"{self.missed} missed"
        return f"<Subscription {self.topic}: {state}>"


def values_of(codec: Codec[Any], taken: Any) -> tuple[list[Any], dict[int, Exception]]:
    """The values, in one typed call; one by one if that fails. Of those that cannot be read: place → why."""
    piece, start, stop = taken.piece, taken.start, taken.stop
    count = stop - start
    ends, base = piece.ends, piece.base
    try:
        if count == len(ends):
            values = codec.decode_list(piece.body)
        else:
            first = ends[start - 1] - base if start else BODY_START
            body = bytearray(BODY_HEADER.pack(ARRAY32, count))
            body += memoryview(piece.body)[first : ends[stop - 1] - base]
            values = codec.decode_list(body)
        if len(values) == count:
            return values, {}
    except Exception:  # whatever a type's own code raises, it is about one of them: the next lines find which
        pass
    values = list[Any]()
    bad: dict[int, Exception] = {}
    for place in range(count):
        at = start + place
        payload = memoryview(piece.body)[(ends[at - 1] - base if at else BODY_START) : ends[at] - base]
        try:
            values.append(codec.decode_one(bytes(payload)))
        except Exception as error:
            values.append(None)
            bad[place] = error
    return values, bad


def ends_of(ends: memoryview, start: int, stop: int) -> bytes:
    """As a delivery has them."""
    return array("I", ends[start:stop]).tobytes()
