"""What verbs return: objects that one may ask, wait for on a thread, or await in a loop. Nothing here waits by itself.

A `Pending` belongs to no loop and no thread. What it knows it asks of something else (a receipt asks the sheaf its
message lies in), so a push that nobody asks about pays for one small record and nothing more.
"""

from __future__ import annotations

import builtins
import copy
import os
import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from msgspec import Struct

from zerowait.callbacks import Call, Callbacks, running_loop
from zerowait.errors import Cancelled, UsageError, ZerowaitError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Pending(Struct, Generic[T_co], gc=False, eq=False):
    """Something that will be there: `result()` waits for it on a thread, `await` in a loop, as often as one likes.

    `done()` never waits. Cancelling the task that awaits it cancels nothing else.
    """

    def done(self) -> bool:
        """Whether `result()` would return, or raise, at once."""
        raise NotImplementedError

    def _value(self) -> T_co:
        """The result, once it is done. Raises what waiting for it raises."""
        raise NotImplementedError

    def _watch(self, call: Callable[[], object]) -> None:
        """Calls back once when it is done, on whatever thread notices; at once if it is done."""
        raise NotImplementedError

    def _unwatch(self, call: Callable[[], object]) -> None:
        """Takes back a `_watch` that has not called yet; nothing if it has."""
        raise NotImplementedError

    def _here(self) -> None:
        """Raises UsageError in a forked child, where what it waits for never comes."""

    def _same(self, other: object) -> bool:
        """Whether both stand for one thing."""
        return self is other

    def _callbacks(self) -> Callbacks:
        raise NotImplementedError

    def _line(self) -> str:
        """What to write in place of a wait that would block a loop."""
        return "await it"

    def result(self, timeout: float | None = None) -> T_co:
        """Waits until it is done and gives it, or raises what became of it.

        timeout: seconds, None for no end. TimeoutError ends the waiting and nothing else. UsageError on a thread whose
        event loop runs (there: `await`), unless it is done already, and in a forked child of the process it is of.
        """
        self._here()
        if not self.done():
            self._refuse_on_a_loop()
            over = threading.Event()
            tell = over.set
            self._watch(tell)
            try:
                over.wait(timeout)
            finally:
                if not over.is_set():
                    self._unwatch(tell)
            if not over.is_set() and not self.done():
                raise TimeoutError(f"not done within {timeout:g} s; nothing was cancelled: {self!r}")
        return self._value()

    def exception(self, timeout: float | None = None) -> Exception | None:
        """As `result`, but gives the error in place of raising it; None if there is none."""
        self._here()
        if not self.done():
            try:
                self.result(timeout)
            except TimeoutError:
                if not self.done():
                    raise
            except UsageError:
                if not self.done():
                    raise
            except Exception as error:
                return error
        try:
            self._value()
        except Exception as error:
            return error
        return None

    def cancelled(self) -> bool:
        """Whether it was ended by your own `cancel()` or `withdraw()`."""
        return self.done() and isinstance(self.exception(), Cancelled)

    def add_done_callback(self, fn: Callable[[Self], object]) -> None:
        """Calls `fn(self)` once it is done: in the loop this is called from, else on zerowait's callback thread."""
        self._here()
        loop = running_loop()
        callbacks = self._callbacks()
        call = Call(fn, self)

        def over() -> None:
            if loop is None:
                callbacks.call(call)
            elif loop is running_loop():
                loop.call_soon(call)  # it is done already: the loop need not be woken to hear of itself
            else:
                try:
                    loop.call_soon_threadsafe(call)
                except RuntimeError:  # the loop is closed: nobody is there to be told
                    call.drop()

        call.watcher = over
        callbacks.remember(call)
        self._watch(over)

    def remove_done_callback(self, fn: Callable[[Self], object]) -> int:
        """Forgets every registration of `fn`; gives how many there were."""
        forgotten = self._callbacks().forget(fn, self._same)
        for watcher in forgotten:
            self._unwatch(watcher)
        return len(forgotten)

    def __await__(self) -> Generator[Any, None, T_co]:
        self._here()
        if not self.done():
            import asyncio

            loop = asyncio.get_running_loop()
            over: asyncio.Future[None] = loop.create_future()

            def tell() -> None:
                if not over.done():
                    over.set_result(None)

            def notice() -> None:
                try:
                    loop.call_soon_threadsafe(tell)
                except RuntimeError:
                    return  # the loop is closed: nobody awaits any more

            self._watch(notice)
            try:
                yield from over
            except GeneratorExit:
                raise  # perhaps from the garbage collection, on a thread that holds the very lock `_unwatch` takes
            except BaseException:
                self._unwatch(notice)
                raise
        return self._value()

    def _refuse_on_a_loop(self) -> None:
        refuse_waiting(self._line())


class Leaving:
    """What leaving a block cancels: the end of a `with` or `async with`.

    A plain `with` is refused on a thread whose event loop runs, at its first line: what is in the block would wait.
    """

    __slots__ = ()
    _verb: ClassVar[str]  # that gives it

    def cancel(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        if running_loop() is not None:
            refuse_waiting(f"write `async with zw.{self._verb}(…)`")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


class Promise(Pending[T], Generic[T], gc=True, weakref=True):
    """A pending whose result is set by whoever made it."""

    callbacks: Callbacks
    line: str = "await it"
    lock: Any = None
    is_over: bool = False
    outcome: Any = None
    error: Exception | None = None
    watchers: list[Callable[[], object]] | None = None

    def __post_init__(self) -> None:
        self.lock = threading.Lock()

    def set(self, outcome: T) -> None:
        self._end(outcome, None)

    def fail(self, error: Exception) -> None:
        self._end(None, error)

    def _end(self, outcome: Any, error: Exception | None) -> None:
        with self.lock:
            if self.is_over:
                return
            self.outcome, self.error, self.is_over = outcome, error, True
            watchers, self.watchers = self.watchers, None
        for call in watchers or ():
            call()

    def done(self) -> bool:
        return self.is_over

    def _value(self) -> T:
        if self.error is not None:
            raise anew(self.error)
        outcome: T = self.outcome
        return outcome

    def _watch(self, call: Callable[[], object]) -> None:
        with self.lock:
            if not self.is_over:
                if self.watchers is None:
                    self.watchers = []
                self.watchers.append(call)
                return
        call()

    def _unwatch(self, call: Callable[[], object]) -> None:
        with self.lock:
            if self.watchers is not None and call in self.watchers:
                self.watchers.remove(call)

    def _here(self) -> None:
        if not self.is_over:
            refuse_elsewhere(self.callbacks.pid, "What you wait for here")

    def _callbacks(self) -> Callbacks:
        return self.callbacks

    def _line(self) -> str:
        return self.line

    def __repr__(self) -> str:
        state = "waiting" if not self.is_over else f"{self.error!r}" if self.error else f"{self.outcome!r:.60}"
        return f"<Pending: {state}>"


def refuse_waiting(line: str) -> None:
    """On a thread that must not wait. line: what to write instead."""
    if running_loop() is not None and not hasattr(builtins, "__IPYTHON__"):
        raise UsageError(f"This would block the event loop that runs on this thread: {line} instead.")
    if getattr(threading.current_thread(), "is_zerowait_callbacks", False):
        raise UsageError("This would wait inside a done-callback, which keeps all other callbacks from running.")


def refuse_elsewhere(pid: int, what: str) -> None:
    """In a child of the process with that id; 0: it is not known."""
    if pid and pid != os.getpid():
        raise UsageError(
            f"{what} belongs to process {pid}, and this is process {os.getpid()}, forked from it, to which nothing of "
            "it is told. Wait for it there; what this process pushes itself has receipts of its own."
        )


def anew(error: Exception) -> Exception:
    """The same error as a new object: one that is raised again and again keeps the frames of each time."""
    try:
        again = _copied(error)
    except Exception:
        again = error  # of a class that cannot be copied
    if type(again) is not type(error):
        again = error
    if again is not error:
        again.__cause__, again.__context__ = error.__cause__, error.__context__
        again.__suppress_context__ = error.__suppress_context__
        for note in getattr(error, "__notes__", ()):
            if note not in getattr(again, "__notes__", ()):
                again.add_note(note)
    return again.with_traceback(None)


def _copied(error: Exception) -> Exception:
    if not isinstance(error, ZerowaitError):
        return copy.copy(error)
    # Not by their `__init__`, whose arguments they do not keep.
    again = type(error).__new__(type(error))
    again.args = error.args
    again.__dict__.update(error.__dict__)
    if hasattr(again, "__notes__"):
        again.__notes__ = list(again.__notes__)
    if isinstance(error, OSError) and isinstance(again, OSError):
        again.errno, again.strerror, again.filename = error.errno, error.strerror, error.filename
    return again
