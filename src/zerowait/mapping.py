"""`map`: work that is spread over all workers of a channel, and its results, gathered.

As with `push_all` nothing happens by itself: values are taken, and asked about, on the thread or in the loop of whoever
wants the results. What is to be done next is decided in one place (`spreading.Work.steps`); two drivers do it, one that
waits on a thread and one that awaits. The second lets a task of its own go through async values: an answer need not
wait for the next of them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator, Sized
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypedDict, TypeVar

from msgspec import field

from zerowait.callbacks import Callbacks
from zerowait.channels import check_timeout
from zerowait.errors import Cancelled, UsageError
from zerowait.pending import Leaving, Pending, Promise
from zerowait.progress import Bar, check_progress
from zerowait.spreading import TAKE, WAIT, Item, Work, nothing

if TYPE_CHECKING:
    import asyncio
    from types import TracebackType

    from zerowait.replies import Reply

In = TypeVar("In")
Out = TypeVar("Out")

WINDOW = 1_000  # asked and not answered, unless said otherwise
TURN_S = 0.002  # how long a loop is kept before others have their turn

How = Literal["a list", "in order", "as completed"]


class MapOptions(TypedDict, total=False):
    """What may be said of one map: see `Client.map`."""

    window: int | None
    timeout: float | None
    progress: bool


class Results(Pending[list[Out]], Leaving, Generic[In, Out], gc=True, weakref=True, dict=True):
    """What `map` returns: `result()` or `await` for the list of all outputs, `for` or `async for` for one after
    another, both in the order of the inputs; `as_completed()` for each as it comes, with its input.

    Values are taken only while somebody waits or iterates, on that thread or loop. The first failure is raised where
    its output would have been, and what is still asked is cancelled then; `as_completed()` raises none. It can be gone
    through once. Leaving it (`break` and the last reference gone, the end of a `with`) cancels what is asked.
    """

    _verb: ClassVar[str] = "map"
    callbacks: Callbacks
    name: str  # of the channel
    work: Any
    values: Any
    progress: bool
    caller: str  # file:line
    promise: Any = None
    lock: Any = None
    how: How | None = None
    busy: bool = False
    over: bool = False
    iterator: Any = None
    hand: deque[Any] = field(default_factory=deque[Any])  # values that were taken, and could not be asked yet
    outputs: list[Any] = field(default_factory=list[Any])
    going: Any = None  # the steps
    bar: Any = None

    def __post_init__(self) -> None:
        self.promise = Promise(self.callbacks, self._line())
        self.lock = threading.Lock()

    @property
    def total(self) -> int | None:
        """How many values there are, if they say so."""
        return len(self.values) if isinstance(self.values, Sized) else None

    @property
    def finished(self) -> int:
        """How many have been answered, or have failed."""
        count: int = self.work.finished
        return count

    def cancel(self) -> None:
        """Takes no more values and cancels what is asked. Whoever waits gets `zerowait.errors.Cancelled`."""
        if not self.promise.done():
            self._end(Cancelled(f"The map over {self.name} was cancelled by who began it.", channel=self.name))

    def as_completed(self) -> Completed[In, Out]:
        """Each as it comes, with its input, for `for` or `async for`; failures too, in their items."""
        return Completed(self)

    # -- as a Pending --------------------------------------------------------------------------------------------------

    def done(self) -> bool:
        return bool(self.promise.done())

    def _value(self) -> list[Out]:
        outputs: list[Out] = self.promise._value()
        return outputs

    def _watch(self, call: Callable[[], object]) -> None:
        self.promise._watch(call)

    def _unwatch(self, call: Callable[[], object]) -> None:
        self.promise._unwatch(call)

    def _callbacks(self) -> Callbacks:
        return self.callbacks

    def _line(self) -> str:
        return "write `await zw.map(…)`, or `async for`"

    def result(self, timeout: float | None = None) -> list[Out]:
        """Asks about all values, on this thread, and gives the outputs in the order of the inputs.

        timeout: seconds for all of it, None for no end. TimeoutError ends this waiting only; the next `result()` goes
        on.
        """
        if not self.done():
            deadline = None if timeout is None else time.monotonic() + timeout
            for item in self._driven("a list", deadline):
                self.outputs.append(self._output(item))
        return self._value()

    def __await__(self) -> Generator[Any, None, list[Out]]:
        if not self.done():
            yield from self._gathered().__await__()
        return self._value()

    async def _gathered(self) -> None:
        try:
            async for item in self._adriven("a list"):
                self.outputs.append(self._output(item))
        except GeneratorExit:
            raise
        except BaseException:
            self.cancel()
            raise

    # -- one by one ----------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Out]:
        for item in self._driven("in order", None):
            yield self._output(item)

    async def __aiter__(self) -> AsyncIterator[Out]:
        async for item in self._adriven("in order"):
            yield self._output(item)

    def _output(self, item: Item[In, Out]) -> Out:
        if item.error is not None:
            self._end(item.error)
        return item.output

    # -- the two drivers -----------------------------------------------------------------------------------------------

    def _driven(self, how: How, deadline: float | None) -> Iterator[Item[In, Out]]:
        self._refuse_on_a_loop()
        if not isinstance(self.values, Iterable):
            raise UsageError("These values come from an async iterable: write `async for`, or `await zw.map(…)`.")
        there = threading.Event()
        driving = _Driving(self, how, there.set)
        with driving as steps:
            for step in steps:
                if step is TAKE:
                    self._take()
                    if deadline is not None and time.monotonic() >= deadline:
                        raise driving.too_late()
                elif step is WAIT:
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        raise driving.too_late()
                    _wait_for(self.work, there, left)
                else:
                    self._show()
                    yield step

    async def _adriven(self, how: How) -> AsyncIterator[Item[In, Out]]:
        import asyncio

        loop, there, turn = asyncio.get_running_loop(), asyncio.Event(), time.monotonic()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody awaits any more
                loop.call_soon_threadsafe(there.set)

        source: _Source | None = None
        try:
            with _Driving(self, how, tell) as steps:
                if not isinstance(self.iterator, Iterator):
                    source = _Source(self.iterator, self.hand, self.work, there.set)
                for step in steps:
                    if step is TAKE:
                        if source is None:
                            self._take()
                        elif self.hand or source.has_more():
                            self._ask()
                        if time.monotonic() - turn > TURN_S:
                            await asyncio.sleep(0)
                            turn = time.monotonic()
                    elif step is WAIT:
                        await _come(self.work, there)
                        turn = time.monotonic()
                    else:
                        self._show()
                        yield step
        finally:
            if source is not None:
                await source.leave()

    def _take(self) -> None:
        """The next value, at once; a plain iterable may take its time over it."""
        if not self.hand:
            try:
                self.hand.append(next(self.iterator))
            except StopIteration:
                self.work.ended = True
                return
        self._ask()

    def _ask(self) -> None:
        """About the first value in hand; it stays there if there is no room for it now."""
        if not self.hand:
            return
        try:
            if self.work.ask(self.hand[0]):
                self.hand.popleft()
        except Exception as error:
            error.add_note(f"This is value number {self.work.asked} (from 0) of the map over {self.name}.")
            raise

    def _show(self) -> None:
        if self.bar is not None:
            self.bar.show(self.work.finished)

    def _begin(self, how: How) -> Generator[Any, None, None]:
        if self.iterator is None:
            values: Any = self.values
            self.iterator = iter(values) if hasattr(values, "__iter__") else aiter(values)
        if self.progress and self.bar is None:
            self.bar = Bar(f"map {self.name}", self.total)
        if self.bar is not None:
            self.bar.start()
        if self.going is None:
            self.work.in_order = how != "as completed"
            self.going = self.work.steps()
        going: Generator[Any, None, None] = self.going
        return going

    def _end(self, error: Exception | None) -> None:
        self.work.cancel()
        if error is not None:
            self.promise.fail(error)
        elif self.how == "a list":
            self.promise.set(self.outputs)
        else:
            said = "It has been gone through with `for`, one by one: collect what you need there, or take `.result()`."
            self.promise.fail(UsageError(said))
        self.work.tell()

    def __del__(self) -> None:
        if self.how is None and not self.promise.done():
            import logging

            logging.getLogger("zerowait").warning(
                "%s: map(%s) was never waited for, so nothing was asked: write `.result()`, `await` or `for`",
                self.caller,
                self.name,
            )
        self.work.let_go()

    def __repr__(self) -> str:
        total = f" of {self.total}" if self.total is not None else ""
        failed = self.work.finished - self.work.answered
        return f"<Results {self.name}: {self.finished}{total}{f', {failed} failed' if failed else ''}>"


class Completed(Generic[In, Out]):
    """What `as_completed` gives: for `for` and `async for`, once."""

    __slots__ = ("_results",)

    def __init__(self, results: Results[In, Out]) -> None:
        self._results = results

    def __iter__(self) -> Iterator[Item[In, Out]]:
        return self._results._driven("as completed", None)

    def __aiter__(self) -> AsyncIterator[Item[In, Out]]:
        return self._results._adriven("as completed")


class _Driving:
    """One goes through it at a time, and in one way; an error ends it, an impatient waiter does not."""

    def __init__(self, results: Results[Any, Any], how: How, tell: Callable[[], object]) -> None:
        self._results = results
        self._how: How = how
        self._tell = tell
        self._is_whole = False
        self._late: TimeoutError | None = None

    def too_late(self) -> TimeoutError:
        """What is raised when a waiting is over, and nothing else."""
        results = self._results
        words = f"{results.finished} were finished by now; waiting for it again goes on there: {results!r}"
        self._late = TimeoutError(words)
        return self._late

    def __enter__(self) -> Iterator[Any]:
        results = self._results
        with results.lock:
            if results.busy:
                raise UsageError(f"Somebody goes through this map over {results.name} already: make another map.")
            if results.how not in (None, self._how):
                raise UsageError(f"This map over {results.name} is taken as {results.how} already: make another map.")
            if results.promise.done():
                results.promise._value()
                raise UsageError(f"This map over {results.name} has been gone through: make another map.")
            results.busy, results.how = True, self._how
        results.work.tell = self._tell
        try:
            return self._going(results._begin(self._how))
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise

    def _going(self, steps: Iterator[Any]) -> Iterator[Any]:
        results = self._results
        for step in steps:
            if results.promise.done():  # cancelled meanwhile, from wherever
                results.promise._value()
                return
            yield step
        if not results.promise.done():
            results.work.ended = True
            self._is_whole = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        results = self._results
        if results.bar is not None:
            results.bar.stop(results.work.finished)
        with results.lock:
            results.busy = False
        results.work.tell = nothing
        if error is not None and error is self._late:
            return
        if not results.promise.done() and (self._is_whole or error is not None):
            left = isinstance(error, GeneratorExit) or not isinstance(error, Exception)
            failure = None if self._is_whole else _cancelled(results) if left else error
            results._end(failure if failure is None or isinstance(failure, Exception) else None)


class _Source:
    """Goes through async values in a task of its own: it takes as many as may be asked about, and no more until then.

    In one task and not one for each value: what an async generator holds open across its yields is bound to a task."""

    def __init__(self, values: AsyncIterator[Any], hand: deque[Any], work: Work, tell: Callable[[], object]) -> None:
        import asyncio

        self._hand = hand
        self._work = work
        self._tell = tell
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] = asyncio.ensure_future(self._through(values))
        self._task.add_done_callback(self._told)

    def has_more(self) -> bool:
        """Whether one may be asked about now, else it is told when there is. Raises what the values raise."""
        if not self._hand and self._task.done():
            self._work.ended = True
            self._task.result()
        elif not self._hand:
            self._work.is_slow = True
            self._wanted.set()
        return bool(self._hand)

    async def _through(self, values: AsyncIterator[Any]) -> None:
        await self._wanted.wait()
        async for value in values:
            self._hand.append(value)
            if self._work.is_slow:
                self._told()
            if self._work.takes() <= len(self._hand):
                self._wanted.clear()
                await self._wanted.wait()

    def _told(self, task: asyncio.Task[None] | None = None) -> None:
        self._work.is_slow = False
        self._tell()

    async def leave(self) -> None:
        """Nobody wants more of them."""
        import asyncio

        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])


OPTIONS = frozenset({*MapOptions.__annotations__, "returns"})


def results_of(
    request: Callable[..., Reply[Any]],
    callbacks: Callbacks,
    to: Any,
    values: Any,
    options: dict[str, Any],
    caller: str,
    crash_limit: int,
) -> Results[Any, Any]:
    """What `Client.map` gives. request: the client's. crash_limit: of its settings.

    Raises UsageError for a program that must be changed."""
    for unknown in options.keys() - OPTIONS:
        raise UsageError(f"map() takes no {unknown}=: it takes {', '.join(sorted(OPTIONS))}.")
    if not isinstance(values, (Iterable, AsyncIterable)):
        raise UsageError(f"map() takes values to go through, as a list or a generator gives them, not {values!r:.80}.")
    channel: Any = to if isinstance(to, str) else getattr(to, "name", None)
    if not isinstance(channel, str) or getattr(to, "kind", "request") != "request":
        raise UsageError(f"map() asks about values at a RequestChannel or a name, not {to!r:.80}.")
    window = options.get("window")
    if window is not None and (type(window) is not int or window < 1):
        raise UsageError(f"window= is how many may be asked and not answered, at least 1, not {window!r}.")
    timeout = check_timeout(options.get("timeout"))
    check_progress(bool(options.get("progress")))
    returns = {"returns": options["returns"]} if "returns" in options else {}

    def ask(value: Any, left: float | None) -> Any:
        return request(to, value, timeout=inf if left is None else left, **returns)

    work = Work(ask, window or WINDOW, None if timeout == inf else timeout, crash_limit)
    return Results(callbacks, channel, work, values, bool(options.get("progress")), caller)


def _cancelled(results: Results[Any, Any]) -> Cancelled:
    return Cancelled(f"The map over {results.name} was left before it was through.", channel=results.name)


def _wait_for(work: Work, there: threading.Event, left: float | None) -> None:
    if work.room is not None and not work.outstanding:
        with suppress(TimeoutError):
            work.room.result(left)
        return
    if not work.has_come:
        there.wait(left)
    there.clear()


async def _come(work: Work, there: asyncio.Event) -> None:
    if work.room is not None and not work.outstanding:
        await work.room
        return
    if not work.has_come:
        await there.wait()
    there.clear()
