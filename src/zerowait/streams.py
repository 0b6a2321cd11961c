"""What `stream` gives: answers one by one, as fast as they are read.

What arrives lies here until it is read, at most as much as the reader has made room for: little at first, twice as much
each time that he has read all before more came, so that a slow reader holds the producer and a fast one does not wait.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import ref

import msgspec

from zerowait.answers import CANCELLED, Bad, Body, Over
from zerowait.errors import UsageError
from zerowait.message import BODY_START, UNIT_BYTES
from zerowait.pending import Leaving, refuse_elsewhere, refuse_waiting
from zerowait.replies import Knock

if TYPE_CHECKING:
    from typing import Self

    from zerowait.answers import End
    from zerowait.requests.bundle import Bundle

Out = TypeVar("Out", covariant=True)

FIRST_UNITS = 16  # what a producer may send before its reader has said anything
MOST_UNITS = 32_768
MOST_BYTES = 32 << 20  # of payload that its reader makes room for, however small its items
LINE = "write `async for item in zw.stream(…)`"

_raws = msgspec.msgpack.Decoder(list[msgspec.Raw])


def units(body: bytes, count: int) -> int:
    """What the items of a chunk cost. Exactly as its producer reckons it: with less it would wait for ever in the end,
    with more no reader would hold it."""
    size = len(body) - BODY_START
    if size < UNIT_BYTES:
        return count
    if count == 1:
        return 1 + size // UNIT_BYTES
    try:
        return sum(1 + len(item) // UNIT_BYTES for item in _raws.decode(body))
    except msgspec.MsgspecError:  # no msgpack at all: see `Body`
        return count


class Stream(Leaving, Generic[Out]):
    """Many answers to one question: `for` and `async for` give them, each once. A slow reader holds the producer.

    Leaving it cancels what runs there: `cancel()`, the end of a `with` or `async with`, or its last reference gone, as
    after a `break`. Iterating raises what `Reply` does, after the items that came before.
    """

    _verb = "stream"

    __slots__ = (
        "__weakref__",
        "_body",
        "_bundle",
        "_chunks",
        "_end",
        "_fed",
        "_index",
        "_is_over",
        "_items",
        "_limit",
        "_lock",
        "_most",
        "_read",
        "_waiting",
        "_window",
    )

    def __init__(self, bundle: Bundle, index: int) -> None:
        self._bundle = bundle
        self._index = index
        self._lock = threading.Lock()  # of the next three
        self._chunks: deque[bytes] = deque()
        self._end: End | None = None
        self._waiting: list[Callable[[], object]] = []
        self._items: Iterator[Any] = iter(())  # of the chunk that is being read
        self._body = 0  # units of it
        self._read = 0  # chunks taken
        self._fed = 0  # units read
        self._limit = FIRST_UNITS
        self._window = self._most = FIRST_UNITS
        self._is_over = False
        me = ref(self)
        for body in bundle.lane.requests.reads(bundle, index, me):
            self.put(body)
        if bundle.is_done(index):  # it ended before it was known who reads it
            self.ended(bundle.ended[index] if index < len(bundle.ended) else (bundle.early or {})[index])

    @property
    def id(self) -> str:
        """The request's id; "" until it has been sent on its way."""
        return self._bundle.id(self._index)

    @property
    def channel(self) -> str:
        """The channel's name."""
        return self._bundle.channel

    def cancel(self) -> None:
        """Nobody reads it any more: what runs is cancelled, what lies here is thrown away, and iterating it raises
        `zerowait.errors.Cancelled`. Nothing happens if it was read to its end."""
        refuse_elsewhere(self._bundle.lane.intake.pid, "This stream")
        if self._is_over:
            return
        self._leave()
        with self._lock:
            self._end = CANCELLED  # whatever it had ended with
            self._chunks.clear()
            self._items = iter(())
            waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()
        self._bundle.lane.requests.cancel(self._bundle, self._index)

    # -- reading -------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Out:
        for item in self._items:
            return self._checked(item)
        while not self._next_chunk():
            self._wait()
        if self._is_over:
            raise StopIteration
        return self.__next__()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Out:
        while True:
            for item in self._items:
                return self._checked(item)
            if not self._next_chunk():
                await _Coming(self)
            if self._is_over:
                raise StopAsyncIteration

    def _checked(self, item: Any) -> Out:
        if item.__class__ is Bad:
            self.cancel()
            raise item.told(self._bundle, self._index)
        value: Out = item
        return value

    def _next_chunk(self) -> bool:
        """Takes up the next chunk, or finds that it is over. False: neither has come. Raises what it ended with."""
        if self._is_over:
            return True
        self._has_read()
        with self._lock:
            body = self._chunks.popleft() if self._chunks else None
            end = self._end
        if body is not None:
            self._read += 1
            values = Body(body).values(self._bundle.lane.out)
            self._body = units(body, len(values))
            self._most = max(FIRST_UNITS, min(MOST_UNITS, MOST_BYTES * self._body // len(body)))
            self._items = iter(values)
            return True
        if end is None:
            return False
        if isinstance(end, Over):
            if self._read < end.chunks:
                return False  # they come once more, on another connection
            self._leave()
            end = end.failed
        self._is_over = True
        if end is not None:
            end.value(self._bundle, self._index)
        return True

    def _leave(self) -> None:
        """All that its producer keeps for it may go, if there is nothing more to come."""
        if isinstance(self._end, Over) and not self._is_over:
            self._bundle.lane.requests.feed(self._bundle, self._index, self._limit, over=True)

    def _has_read(self) -> None:
        """All of the chunk in hand: room for as much again is made, before half of what there was is used."""
        if not self._body:
            return
        self._fed += self._body
        self._body = 0
        if not self._chunks:
            self._window = self._window * 2
        self._window = min(self._most, self._window)
        if self._end is None and self._fed + self._window - self._limit >= self._window // 2:
            self._limit = self._fed + self._window
            self._bundle.lane.requests.feed(self._bundle, self._index, self._limit)

    def _wait(self) -> None:
        refuse_elsewhere(self._bundle.lane.intake.pid, "This stream")
        refuse_waiting(LINE)
        there = threading.Event()
        self._watch(there.set)
        there.wait()

    def _unwatch(self, call: Callable[[], object]) -> None:
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)

    def _watch(self, call: Callable[[], object]) -> None:
        with self._lock:
            end = self._end
            if not self._chunks and (end is None or (isinstance(end, Over) and self._read < end.chunks)):
                self._waiting.append(call)
                return
        call()

    def _is_whole(self) -> bool:
        """Whether it has ended, and all of it is here. Under the lock."""
        end = self._end
        return end is not None and not (isinstance(end, Over) and self._read + len(self._chunks) < end.chunks)

    # -- from the network thread ---------------------------------------------------------------------------------------

    def put(self, body: bytes) -> None:
        """Any thread: a chunk has come."""
        with self._lock:
            if self._end is CANCELLED:
                return
            self._chunks.append(body)
            waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()

    def ended(self, end: End | None) -> None:
        """Any thread: no more will come than that says."""
        with self._lock:
            if self._end is None or not (isinstance(end, Over) or self._is_whole()):
                self._end = end
            waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()

    # -- leaving -------------------------------------------------------------------------------------------------------

    def __del__(self) -> None:
        if not getattr(self, "_is_over", True):
            self._leave()
            if self._end is None:
                self._bundle.lane.requests.cancel_later(self._bundle, self._index)

    def __repr__(self) -> str:
        box, _, rest = self.id.partition("-")
        name = f"{self.channel} {box[:4]}-{rest.rpartition('-')[2]}" if rest else self.channel
        state = "over" if self._is_over else "all is here" if self._end is not None else "open"
        return f"<Stream {name}: {state}>"

    def __reduce__(self) -> Any:
        raise UsageError("A stream belongs to the process that asked for it.")


class _Coming:
    """Awaits the next chunk, or the end."""

    def __init__(self, stream: Stream[Any]) -> None:
        self._stream = stream

    def __await__(self) -> Generator[Any, None, None]:
        refuse_elsewhere(self._stream._bundle.lane.intake.pid, "This stream")
        knock = Knock(self._stream._bundle.lane.requests.wakers)
        self._stream._watch(knock.ready)
        try:
            yield from knock.wait()
        except GeneratorExit:
            raise  # perhaps from the garbage collection, on a thread that holds the very lock `_unwatch` takes
        except BaseException:  # a timeout, say: whoever polls must not leave a call for each time
            self._stream._unwatch(knock.ready)
            raise
