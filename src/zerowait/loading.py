"""`push_all`: everything of an iterable, taken only while somebody waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator, Sized
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from zerowait.callbacks import Callbacks
from zerowait.errors import QueueFull, Room, UsageError
from zerowait.names import checked_key
from zerowait.pending import Pending, Promise
from zerowait.progress import Bar
from zerowait.receipts import Receipt

if TYPE_CHECKING:
    import asyncio
    from asyncio import AbstractEventLoop

TURN_S = 0.002  # how long a loop is kept before others have their turn
FEW = 16


class Loading(Pending[int], gc=True, weakref=True, dict=True):
    """The loader runs on the thread or in the loop of whoever waits, so its errors are raised there and it needs no
    thread.

    One waiter at a time loads; the others stand by. When its waiting ends before everything is pushed, the next goes on
    with the same iterator, and with the value that the full outbox refused.
    """

    callbacks: Callbacks
    push: Callable[..., Receipt]  # the client's
    to: Any
    values: AsyncIterable[Any] | Iterable[Any]
    options: dict[str, Any]
    progress: bool
    caller: str  # file:line
    key: Callable[[Any], str | None] | None = None
    promise: Any = None
    begun: bool = False
    lock: Any = None  # of the next three
    loads: bool = False  # somebody does, perhaps in this loop
    loop: Any = None
    standing: list[Callable[[], object]] = field(default_factory=list[Callable[[], object]])
    iterator: Any = None
    ended: bool = False  # there is nothing more to take from it
    hand: list[Any] = field(default_factory=list[Any])  # the value taken and not pushed
    count: int = 0
    last: dict[int, Receipt] = field(
        default_factory=dict[int, Receipt]
    )  # of each sheaf: once stored, so are those before
    most: int = FEW
    bar: Any = None

    def __post_init__(self) -> None:
        self.promise = Promise(self.callbacks, self._line())
        self.lock = threading.Lock()

    def done(self) -> bool:
        return bool(self.promise.done())

    def _value(self) -> int:
        count: int = self.promise._value()
        return count

    def _watch(self, call: Callable[[], object]) -> None:
        self.promise._watch(call)

    def _unwatch(self, call: Callable[[], object]) -> None:
        self.promise._unwatch(call)

    def _callbacks(self) -> Callbacks:
        return self.callbacks

    def _line(self) -> str:
        return "write `await zw.push_all(…)`"

    # -- who loads -----------------------------------------------------------------------------------------------------

    def _begin(self, call: Callable[[], object], loop: AbstractEventLoop | None) -> bool:
        """Whether the caller is the one to load from now on; if not, it is called once it should ask again."""
        with self.lock:
            if self.loads and not (self.loop is not None and self.loop.is_closed()):
                self.standing.append(call)
                return False
            self.loads, self.loop, self.begun = True, loop, True
            return True

    def _leave(self) -> None:
        if self.bar is not None:
            self.bar.stop(self.count)
        with self.lock:
            self.loads, self.loop = False, None
            standing, self.standing = self.standing, []
        for call in standing:
            call()

    def _gone(self, call: Callable[[], object]) -> None:
        with self.lock:
            if call in self.standing:
                self.standing.remove(call)

    # -- on a thread ---------------------------------------------------------------------------------------------------

    def result(self, timeout: float | None = None) -> int:
        """Pushes what is left to push, on this thread, and waits until all of it is safe.

        timeout: seconds for all of it, None for no end. TimeoutError ends this waiting only: what is pushed is counted,
        and the next `result()` goes on. A value that takes long to come from the iterable is waited for beyond it.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.done():
            self._refuse_on_a_loop()
            if not isinstance(self.values, Iterable):
                raise UsageError("These values come from an async iterable: write `await zw.push_all(…)`.")
            over = threading.Event()
            tell = over.set
            if self._begin(tell, None):
                try:
                    self._load(deadline)
                finally:
                    self._leave()
            else:
                try:
                    over.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
                finally:
                    self._gone(tell)
                if deadline is not None and time.monotonic() >= deadline and not self.done():
                    raise self._too_late()
        return self._value()

    def _load(self, deadline: float | None) -> None:
        waits: Room | Receipt | None = None
        try:
            iterator = self._iterator()
            while not self.ended:
                if not self.hand:
                    if deadline is not None and time.monotonic() >= deadline:
                        break
                    self._take(iterator)
                waits = self._push() if self.hand else None
                if waits is not None and not _until(waits, deadline):
                    break
                waits = None
            for receipt in self._unsafe() if self.ended else ():
                waits = receipt
                if not _until(receipt, deadline):
                    break
                waits = None
                self._is_safe(receipt)
        except BaseException as error:
            if waits is None:
                self._failed(error)
            raise
        if self.ended and not self.last:
            self.promise.set(self.count)
        else:
            raise self._too_late()

    def _too_late(self) -> TimeoutError:
        return TimeoutError(f"push_all has pushed {self.count} messages by now; waiting for it again goes on there")

    # -- in a loop -----------------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, int]:
        while not self.done():
            import asyncio

            loop = asyncio.get_running_loop()
            over: asyncio.Future[None] = loop.create_future()

            def tell(over: asyncio.Future[None] = over) -> None:
                if not over.done():
                    over.set_result(None)

            def notice(loop: AbstractEventLoop = loop, tell: Callable[[], None] = tell) -> None:
                try:
                    loop.call_soon_threadsafe(tell)
                except RuntimeError:
                    return  # the loop is closed: nobody awaits any more

            if not self._begin(notice, loop):
                try:
                    yield from over
                except GeneratorExit:
                    raise  # perhaps from the garbage collection, on a thread that holds the lock
                except BaseException:
                    self._gone(notice)
                    raise
                continue
            # In a task of its own: cancelling who awaits must not cancel an async iterator in the middle of its work,
            # which would end it.
            load = _Load()
            task = loop.create_task(self._aload(load))

            def left(_: object, tell: Callable[[], None] = tell) -> None:
                self._leave()
                tell()

            task.add_done_callback(left)
            try:
                yield from over
            except BaseException:
                load.wanted = False
                if not load.asks:
                    with suppress(RuntimeError):  # the loop is closed, and the task with it
                        loop.call_soon_threadsafe(load.end, task)
                raise
            if load.error is not None:
                raise load.error
        return self._value()

    async def _aload(self, load: _Load) -> None:
        import asyncio

        waits = False
        turn = time.monotonic()
        try:
            iterator = self._iterator()
            while load.wanted and not self.ended:
                if not self.hand:
                    await self._atake(iterator, load)
                room = self._push() if self.hand and load.wanted else None
                waits = True
                if room is not None:
                    await _auntil(room)
                if time.monotonic() - turn > TURN_S:
                    await asyncio.sleep(0)
                    turn = time.monotonic()
                waits = False
            for receipt in self._unsafe() if self.ended else ():
                waits = True
                await _auntil(receipt)
                waits = False
                self._is_safe(receipt)
        except Exception as error:
            load.error = error
            if not waits:
                self._failed(error)
        except BaseException as error:
            if not waits:
                self._failed(error)
            raise
        else:
            if self.ended and not self.last:
                self.promise.set(self.count)

    # -- one value -----------------------------------------------------------------------------------------------------

    def _iterator(self) -> Any:
        if self.iterator is None:
            values = self.values
            if self.progress:
                name = self.to if isinstance(self.to, str) else self.to.name
                self.bar = Bar(f"push {name}", len(values) if isinstance(values, Sized) else None)
            self.iterator = iter(values) if isinstance(values, Iterable) else aiter(values)
        if self.bar is not None:
            self.bar.start()
        return self.iterator

    def _take(self, iterator: Iterator[Any]) -> None:
        try:
            self.hand.append(next(iterator))
        except StopIteration:
            self.ended = True

    async def _atake(self, iterator: Iterator[Any] | AsyncIterator[Any], load: _Load) -> None:
        if isinstance(iterator, Iterator):
            self._take(iterator)
            return
        load.asks = True
        try:
            self.hand.append(await anext(iterator))
        except StopAsyncIteration:
            self.ended = True
        finally:
            load.asks = False

    def _push(self) -> Room | None:
        """Pushes the value in hand; if the outbox is full, gives what to wait for before trying again."""
        try:
            options = self.options if self.key is None else self._with_key(self.key)
            receipt = self.push(self.to, self.hand[0], **options)
        except QueueFull as full:
            return full.room
        self.hand.clear()
        self.count += 1
        sheaf = id(receipt._sheaf)
        if sheaf not in self.last and len(self.last) >= self.most:
            for safe in [each for each in self.last.values() if each.done()]:
                self._is_safe(safe)
            self.most = max(FEW, 2 * len(self.last))
        self.last[sheaf] = receipt
        if self.bar is not None:
            self.bar.show(self.count)
        return None

    def _with_key(self, key_of: Callable[[Any], str | None]) -> dict[str, Any]:
        # Every value before it has been pushed, so that their number is its index.
        try:
            key = key_of(self.hand[0])
            if key is not None:
                checked_key(key)
        except Exception as error:
            error.add_note(f"This is the key of the value with index {self.count}: nothing of it was taken.")
            raise
        return {**self.options, "key": key}

    def _unsafe(self) -> list[Receipt]:
        return list(self.last.values())

    def _is_safe(self, receipt: Receipt) -> None:
        """Of one that is done. Raises what became of it if it is not safe."""
        receipt._value()
        del self.last[id(receipt._sheaf)]

    def _failed(self, error: BaseException) -> None:
        error.add_note(f"push_all had pushed {self.count} messages before this; they stay pushed.")
        self.hand.clear()
        self.promise.fail(
            error if isinstance(error, Exception) else UsageError(f"push_all was interrupted after {self.count}.")
        )

    def __del__(self) -> None:
        if not self.begun:
            import logging

            logging.getLogger("zerowait").warning(
                "%s: push_all(%s) was never waited for, so nothing was pushed: write `.result()` or `await`, or use "
                "push() for each",
                self.caller,
                self.to if isinstance(self.to, str) else getattr(self.to, "name", self.to),
            )

    def __repr__(self) -> str:
        return f"<push_all {self.to!r}: {'done' if self.done() else 'loading' if self.begun else 'not begun'}>"


class _Load(Struct, eq=False):
    """One waiter's loading in a loop."""

    wanted: bool = True
    asks: bool = False  # an async iterator is at work on the next value
    error: Exception | None = None

    def end(self, task: asyncio.Task[None]) -> None:
        if not self.asks:
            task.cancel()


def _until(what: Room | Receipt, deadline: float | None) -> bool:
    """Waits until it is done, whatever became of it; False if the time is over before."""
    try:
        what.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        return what.done()
    except Exception:
        if not what.done():
            raise
    return True


async def _auntil(what: Room | Receipt) -> None:
    try:
        await what
    except Exception:
        if not what.done():
            raise
