"""What a request gives: a Reply, done when its answer is here, or what became of it.

Light as a receipt is: it knows its bundle and its place in it. Who awaits many of them in one loop is woken once for
all answers that came together, and each waiting task is run in that very turn of the loop: a future of asyncio's would
take one turn to be set and another for its task.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic

from zerowait.ambient import WAITS
from zerowait.callbacks import running_loop
from zerowait.errors import UsageError
from zerowait.pending import Pending, T_co, refuse_elsewhere

if TYPE_CHECKING:
    import asyncio
    from contextvars import Context

    from zerowait.callbacks import Callbacks
    from zerowait.requests.bundle import Bundle

SHOWN = 60  # characters of an answer in a repr


class Reply(Pending[T_co], Generic[T_co]):
    """What `request` returns. Done when the answer is here; `result()` and `await` give it.

    They raise the exceptions of the channel's contract as themselves, any other of the handler's as RemoteError, and
    NoResponder, PeerLost, Expired, BadAnswer, ContractMismatch, or Cancelled after `cancel()`. A task that is cancelled
    while it awaits a reply cancels the request, unless somebody else awaits it too; a `result(timeout=)` that runs out
    cancels nothing.
    """

    _bundle: Any
    _index: int

    @property
    def id(self) -> str:
        """The request's id, `<instance>-<epoch>-<number>`; "" until it has been sent on its way."""
        bundle: Bundle = self._bundle
        return bundle.id(self._index)

    @property
    def channel(self) -> str:
        """The channel's name."""
        name: str = self._bundle.channel
        return name

    def cancel(self) -> None:
        """Nobody wants the answer any more: what runs is cancelled, with the requests that it made in turn.

        A plain function runs on; its answer is thrown away. Whoever waits gets `zerowait.errors.Cancelled`. Nothing
        happens if it is done.
        """
        self._here()
        if not self.done():
            self._bundle.lane.requests.cancel(self._bundle, self._index)

    def _let_go(self) -> None:
        """Cancels it; also in the garbage collection, where no lock may be taken."""
        self._bundle.lane.requests.cancel_later(self._bundle, self._index)

    def done(self) -> bool:
        bundle: Bundle = self._bundle
        return bundle.is_done(self._index)

    def result(self, timeout: float | None = None) -> T_co:
        """Waits for the answer and gives it, or raises what became of the request.

        timeout: seconds, None for no end but the request's own. TimeoutError ends the waiting and nothing else.
        UsageError on a thread whose event loop runs (there: `await`), unless it is done already, and in a forked child.
        """
        told = None if self.done() else WAITS.get()
        if told is None:
            return super().result(timeout)  # by name: msgspec makes the class anew
        told.waits(self.channel)
        try:
            return super().result(timeout)
        finally:
            told.goes_on()

    def _value(self) -> T_co:
        value: T_co = self._bundle.value(self._index)
        return value

    def _watch(self, call: Callable[[], object]) -> None:
        self._bundle.watch(self._index, call)

    def _unwatch(self, call: Callable[[], object]) -> None:
        self._bundle.unwatch(self._index, call)

    def _here(self) -> None:
        refuse_elsewhere(self._bundle.lane.intake.pid, "This reply")

    def _same(self, other: object) -> bool:
        return isinstance(other, Reply) and other._bundle is self._bundle and other._index == self._index

    def _callbacks(self) -> Callbacks:
        callbacks: Callbacks = self._bundle.lane.intake.callbacks
        return callbacks

    def _line(self) -> str:
        return "write `await zw.request(…)`"

    def __await__(self) -> Generator[Any, None, T_co]:
        bundle: Bundle = self._bundle
        index, ended = self._index, bundle.ended
        if index < len(ended) and (end := ended[index]) is not None:  # as `done` and `_value`, for the many that are
            found: T_co = end.value(bundle, index)
            return found
        if not bundle.is_done(self._index):
            self._here()
            knock = Knock(bundle.lane.requests.wakers)
            bundle.watch(self._index, knock.ready)
            try:
                yield from knock.wait()
            except GeneratorExit:
                raise  # perhaps from the garbage collection, on a thread that holds the very lock `unwatch` takes
            except BaseException:
                if bundle.unwatch(self._index, knock.ready):
                    self.cancel()
                raise
        value: T_co = bundle.value(self._index)
        return value

    def __repr__(self) -> str:
        box, _, rest = self.id.partition("-")
        name = f"{self.channel} {box[:4]}-{rest.rpartition('-')[2]}" if rest else self.channel
        return f"<Reply {name}: {self._state()}>"

    def _state(self) -> str:
        if self.done():
            try:
                text = repr(self._value())
            except Exception as error:
                text = f"{type(error).__name__}: {error}"
            return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
        expires, now = self._bundle.terms.expires, self._bundle.lane.intake.now_us()
        return "waiting" if expires is None else f"waiting, {max(0.0, (expires - now) / 1e6):.1f} s left"

    def __reduce__(self) -> Any:
        raise UsageError("A reply belongs to the process that asked; send its result instead.")


class Waker:
    """Of one event loop: runs what has become ready for it, with one wake-up for all of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ready: deque[Knock] = deque()
        self._rung = False

    def add(self, knock: Knock) -> None:
        """Any thread; `ring` follows."""
        self._ready.append(knock)

    def ring(self) -> None:
        """Any thread."""
        if self._ready and not self._rung:
            self._rung = True
            try:
                self._loop.call_soon_threadsafe(self._run)
            except RuntimeError:  # the loop is closed: nobody awaits any more
                self._ready.clear()

    def _run(self) -> None:
        self._rung = False
        ready = self._ready
        while ready:
            ready.popleft().open()


class Knock:
    """What a task awaits: a future as tasks know them, except that opening runs the task at once, in a callback of its
    loop. wakers: of each loop, which this fills."""

    _asyncio_future_blocking = False

    def __init__(self, wakers: dict[Any, Waker]) -> None:
        import asyncio

        self._loop = loop = asyncio.get_running_loop()
        waker = wakers.get(loop)
        if waker is None:
            for other in [other for other in list(wakers) if other.is_closed()]:  # other loops come meanwhile
                wakers.pop(other, None)
            waker = wakers[loop] = Waker(loop)
        self._waker = waker
        self._wake: Callable[[Knock], object] | None = None
        self._context: Context | None = None
        self._is_open = False
        self._cancelled: BaseException | None = None

    def ready(self) -> None:
        """Any thread. Who calls this rings the waker after the last of many."""
        self._waker.add(self)
        if running_loop() is self._loop:
            self._waker.ring()  # it was done already: nobody else would

    def wait(self) -> Generator[Knock, None, None]:
        if not self._is_open:
            self._asyncio_future_blocking = True
            yield self

    def open(self) -> None:
        self._is_open = True
        wake, self._wake = self._wake, None
        if wake is not None and self._context is not None:
            self._context.run(wake, self)

    # What a task asks of a future

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, wake: Callable[[Knock], object], *, context: Context) -> None:
        self._wake, self._context = wake, context

    def result(self) -> None:
        if self._cancelled is not None:
            raise self._cancelled

    def cancel(self, msg: object = None) -> bool:
        import asyncio

        if self._is_open:
            return False
        self._cancelled = asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)
        self._loop.call_soon(self.open)
        return True
