"""`map`: work that is spread over all workers of a channel, and its results, gathered.

As with `push_all` nothing happens by itself: values are taken, and asked about, on the thread or in the loop of whoever
wants the results. What is to be done next is decided in one place (`_Work.steps`); two drivers do it, one that waits on
a thread and one that awaits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator, Sized
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypedDict, TypeVar

from msgspec import Struct, field

from zerowait.callbacks import Callbacks
from zerowait.channels import check_timeout
from zerowait.errors import Cancelled, NoResponder, PeerLost, QueueFull, Room, UsageError
from zerowait.pending import Leaving, Pending, Promise
from zerowait.progress import Bar, check_progress

if TYPE_CHECKING:
    from types import TracebackType

    from zerowait.replies import Reply

In = TypeVar("In")
Out = TypeVar("Out")
In_co = TypeVar("In_co", covariant=True)
Out_co = TypeVar("Out_co", covariant=True)

WINDOW = 1_000  # asked and not answered, unless said otherwise
BUFFERED = 8  # windows of results that may wait for one before them
TURN_S = 0.002  # how long a loop is kept before others have their turn

How = Literal["a list", "in order", "as completed"]


class MapOptions(TypedDict, total=False):
    """What may be said of one map: see `Client.map`."""

    window: int | None
    timeout: float | None
    progress: bool


class Item(Struct, Generic[In_co, Out_co], frozen=True, eq=False):
    """One value and what became of it. index: of the value, from 0. error: what was raised; None if it was answered."""

    index: int
    input: In_co
    error: Exception | None
    _output: Any = None

    @property
    def output(self) -> Out_co:
        """The answer. Raises `error` if there is none."""
        if self.error is not None:
            raise self.error
        output: Out_co = self._output
        return output


class _Task(Struct, eq=False):
    """One value on its way."""

    index: int
    input: Any
    until: float | None  # on the clock of `time.monotonic`: when its timeout is over
    reply: Any = None
    item: Item[Any, Any] | None = None


TAKE, WAIT = object(), object()  # what a driver is to do, if it is not to give an item


class _Work:
    """What is asked, what is answered, and what comes next. `over` is called on any thread, all else by one driver at a
    time.

    ask: takes a value and seconds, None for no end; gives its Reply. timeout: seconds for each value, from when it is
    asked first."""

    def __init__(self, ask: Callable[[Any, float | None], Any], window: int, timeout: float | None) -> None:
        self._ask = ask
        self._window = window
        self._timeout = timeout
        self._came: deque[_Task] = deque()
        self._tasks: deque[_Task] = deque()  # in order: those whose results have not been given
        self._done: deque[Item[Any, Any]] = deque()  # as they came
        self._open: set[_Task] = set()
        self.tell: Callable[[], object] = _nothing  # somebody waits
        self.asked = 0
        self.finished = 0
        self.answered = 0
        self.ended = False  # there are no more values
        self.in_order = True

    def over(self, task: _Task) -> None:
        self._came.append(task)
        self.tell()

    @property
    def has_come(self) -> bool:
        return bool(self._came)

    @property
    def outstanding(self) -> int:
        return len(self._open)

    def steps(self) -> Generator[Any, None, None]:
        """What comes next, until nothing does: TAKE a value and `ask` it, WAIT until something has come, or an item to
        be given."""
        while True:
            self.settle()
            item = self._next()
            takes = not self.ended and len(self._open) < self._window and len(self._tasks) < self._window * BUFFERED
            if takes:
                yield TAKE  # also before an item is given: whoever takes his time over it finds the workers at work
            if item is not None:
                yield item
            elif self.ended and not self._open and not self._came:
                return
            elif not takes:
                yield WAIT

    def _next(self) -> Item[Any, Any] | None:
        if not self.in_order:
            return self._done.popleft() if self._done else None
        if self._tasks and (item := self._tasks[0].item) is not None:
            self._tasks.popleft()
            return item
        return None

    def ask(self, value: Any) -> None:
        """Raises what the request raises; then nothing was asked."""
        until = None if self._timeout is None else time.monotonic() + self._timeout
        task = _Task(self.asked, value, until)
        task.reply = self._ask(value, self._timeout)
        self.asked += 1
        self._begin(task)

    def _begin(self, task: _Task) -> None:
        if self.in_order and task not in self._open:
            self._tasks.append(task)
        self._open.add(task)
        task.reply._watch(_Told(self, task))

    def settle(self) -> None:
        """Looks at all that has come since."""
        while self._came:
            task = self._came.popleft()
            try:
                item: Item[Any, Any] = Item(task.index, task.input, None, task.reply._value())
                self.answered += 1
            except (PeerLost, NoResponder) as error:
                if self._again(task, error):
                    continue
                item = Item(task.index, task.input, error)
            except Exception as error:
                item = Item(task.index, task.input, error)
            task.item = item
            self._open.discard(task)
            self.finished += 1
            if not self.in_order:
                self._done.append(item)

    def _again(self, task: _Task, error: PeerLost | NoResponder) -> bool:
        """Whether another worker is asked: what a dead one held is given to the next; that nobody is there at all is a
        failure only as long as nobody ever was."""
        if isinstance(error, NoResponder) and not self.answered:
            return False
        left = None if task.until is None else task.until - time.monotonic()
        if left is not None and left <= 0:
            return False
        try:
            task.reply = self._ask(task.input, left)
        except Exception:
            return False
        self._begin(task)
        return True

    def cancel(self) -> None:
        self.ended = True
        for task in list(self._open):
            task.reply.cancel()

    def let_go(self) -> None:
        """The same, in the garbage collection."""
        self.ended = True
        for task in self._open:
            task.reply._let_go()


class _Told:
    """Called when a reply is done; a class and not a closure, so that what it holds is seen."""

    __slots__ = ("_task", "_work")

    def __init__(self, work: _Work, task: _Task) -> None:
        self._work = work
        self._task = task

    def __call__(self) -> None:
        self._work.over(self._task)


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
    hand: list[Any] = field(default_factory=list[Any])  # a value that was taken, and could not be asked yet
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
        with _Driving(self, how, there.set) as steps:
            for step in steps:
                if step is TAKE:
                    try:
                        if not self.hand:
                            self.hand.append(next(self.iterator))
                    except StopIteration:
                        self.work.ended = True
                    else:
                        room = self._ask()
                        if room is not None:
                            _wait_for(room, there, deadline, self)
                elif step is WAIT:
                    _wait_for(None, there, deadline, self)
                else:
                    self._show()
                    yield step

    async def _adriven(self, how: How) -> AsyncIterator[Item[In, Out]]:
        import asyncio

        loop, there, turn = asyncio.get_running_loop(), asyncio.Event(), time.monotonic()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody awaits any more
                loop.call_soon_threadsafe(there.set)

        with _Driving(self, how, tell) as steps:
            for step in steps:
                if step is TAKE:
                    try:
                        if not self.hand:
                            plain = isinstance(self.iterator, Iterator)
                            self.hand.append(next(self.iterator) if plain else await anext(self.iterator))
                    except (StopIteration, StopAsyncIteration):
                        self.work.ended = True
                    else:
                        room = self._ask()
                        if room is not None and not self.work.outstanding:
                            await room
                        elif room is not None:
                            await self._come(there)
                    if time.monotonic() - turn > TURN_S:
                        await asyncio.sleep(0)
                        turn = time.monotonic()
                elif step is WAIT:
                    await self._come(there)
                    turn = time.monotonic()
                else:
                    self._show()
                    yield step

    async def _come(self, there: Any) -> None:
        if not self.work.has_come:
            await there.wait()
        there.clear()

    def _ask(self) -> Room | None:
        """About the value in hand. Gives what to wait for if there is no room for it now."""
        try:
            self.work.ask(self.hand[0])
        except QueueFull as full:
            return full.room
        except Exception as error:
            error.add_note(f"This is value number {self.work.asked} (from 0) of the map over {self.name}.")
            raise
        self.hand.clear()
        return None

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
        results.work.tell = _nothing
        if isinstance(error, _TooLate):
            return
        if not results.promise.done() and (self._is_whole or error is not None):
            left = isinstance(error, GeneratorExit) or not isinstance(error, Exception)
            failure = None if self._is_whole else _cancelled(results) if left else error
            results._end(failure if failure is None or isinstance(failure, Exception) else None)


OPTIONS = frozenset({*MapOptions.__annotations__, "returns"})


def results_of(
    request: Callable[..., Reply[Any]],
    callbacks: Callbacks,
    to: Any,
    values: Any,
    options: dict[str, Any],
    caller: str,
) -> Results[Any, Any]:
    """What `Client.map` gives. request: the client's. Raises UsageError for a program that must be changed."""
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

    work = _Work(ask, window or WINDOW, None if timeout == inf else timeout)
    return Results(callbacks, channel, work, values, bool(options.get("progress")), caller)


def _cancelled(results: Results[Any, Any]) -> Cancelled:
    return Cancelled(f"The map over {results.name} was left before it was through.", channel=results.name)


class _TooLate(TimeoutError):
    """The waiting is over, and nothing else."""


def _wait_for(room: Room | None, there: threading.Event, deadline: float | None, results: Results[Any, Any]) -> None:
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    if left == 0.0:
        raise _TooLate(f"{results.finished} were finished by now; waiting for it again goes on there: {results!r}")
    work = results.work
    if room is not None and not work.outstanding:
        with suppress(TimeoutError):
            room.result(left)
        return
    if not work.has_come:
        there.wait(left)
    there.clear()


def _nothing() -> None:
    return None
