"""`push_all`: everything of an iterable, taken only while somebody waits for it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any, cast

from zerowait.errors import QueueFull, UsageError
from zerowait.pending import Callbacks, Pending, Promise, Receipt

if TYPE_CHECKING:
    from zerowait.client import Client

TURN_S = 0.002  # how long a loop is kept before others have their turn


class Loading(Pending[int], gc=True, weakref=True, dict=True):
    """The loader runs on the thread or in the loop of whoever waits, so its errors are raised there and it needs no
    thread."""

    callbacks: Callbacks
    client: Any
    to: Any
    values: AsyncIterable[Any] | Iterable[Any]
    options: dict[str, Any]
    progress: bool
    promise: Any = None
    begun: bool = False

    def __post_init__(self) -> None:
        self.promise = Promise(self.callbacks, "write `await zw.push_all(…)`")

    def done(self) -> bool:
        return bool(self.promise.done())

    def _value(self) -> int:
        count: int = self.promise._value()
        return count

    def _watch(self, call: Callable[[], object]) -> None:
        self.promise._watch(call)

    def _callbacks(self) -> Callbacks:
        return self.callbacks

    def _line(self) -> str:
        return "write `await zw.push_all(…)`"

    def _begin(self) -> bool:
        if self.begun:
            return False
        self.begun = True
        return True

    def result(self, timeout: float | None = None) -> int:
        """Pushes what is left to push, on this thread, and waits until all of it is safe. timeout: seconds for the
        waiting at its end and at a full outbox."""
        if not self.done():
            self._refuse_on_a_loop()
            if isinstance(self.values, AsyncIterable) and not isinstance(self.values, Iterable):
                raise UsageError("These values come from an async iterable: write `await zw.push_all(…)`.")
            if self._begin():
                self._load(timeout)
        return super().result(timeout)

    def _load(self, timeout: float | None) -> None:
        count, last = 0, None
        try:
            # What only async code can iterate was refused by `result`.
            for value in self._shown(cast("Iterable[Any]", self.values)):
                while True:
                    try:
                        last = self._push(value)
                        break
                    except QueueFull as full:
                        full.room.result(timeout)
                count += 1
            if last is not None:
                last.result(timeout)
        except BaseException as error:
            self._failed(error, count)
            raise
        self.promise.set(count)

    def _push(self, value: Any) -> Receipt:
        client: Client = self.client
        receipt: Receipt = client.push(self.to, value, **self.options)
        return receipt

    def _failed(self, error: BaseException, count: int) -> None:
        if hasattr(error, "add_note"):
            error.add_note(f"push_all had pushed {count} messages before this; they stay pushed.")
        self.promise.fail(
            error if isinstance(error, Exception) else UsageError(f"push_all was interrupted after {count}.")
        )

    def _shown(self, values: Iterable[Any]) -> Iterable[Any]:
        if not self.progress:
            return values
        try:
            from rich.progress import track
        except ImportError:
            raise UsageError("progress=True needs rich: pip install 'zerowait[rich]'.") from None
        return track(values, description=f"push {self.to if isinstance(self.to, str) else self.to.name}")

    def __await__(self) -> Generator[Any, None, int]:
        if not self.done() and self._begin():
            yield from self._aload().__await__()
        return (yield from super().__await__())

    async def _aload(self) -> None:
        import asyncio

        count, last = 0, None
        turn = time.monotonic()
        try:
            async for value in _each(self._shown(self.values) if isinstance(self.values, Iterable) else self.values):
                while True:
                    try:
                        last = self._push(value)
                        break
                    except QueueFull as full:
                        await full.room
                count += 1
                if time.monotonic() - turn > TURN_S:
                    await asyncio.sleep(0)
                    turn = time.monotonic()
            if last is not None:
                await last
        except BaseException as error:
            self._failed(error, count)
            raise
        self.promise.set(count)

    def __del__(self) -> None:
        if not self.begun:
            import logging

            logging.getLogger("zerowait").warning(
                "push_all(%s) was never waited for, so nothing was pushed: write `.result()` or `await`, or use push() "
                "for each",
                self.to if isinstance(self.to, str) else getattr(self.to, "name", self.to),
            )

    def __repr__(self) -> str:
        return f"<push_all {self.to!r}: {'done' if self.done() else 'loading' if self.begun else 'not begun'}>"


async def _each(values: AsyncIterable[Any] | Iterable[Any]) -> AsyncIterator[Any]:
    if isinstance(values, AsyncIterable):
        async for value in values:
            yield value
    else:
        for value in values:
            yield value
