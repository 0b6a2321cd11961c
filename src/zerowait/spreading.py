"""What a map asks, what comes back, and what is to be done next.

Nothing here waits: `Work.steps` says what comes next, and who drives it does that (`mapping.py`).

A worker that dies takes with it all that it held, and nobody can say which of it was to blame. So what was lost once is
asked again beside all else; what is lost again is tried apart from the rest of the map, one value first, and twice as
many each time that all of them survive; and only who was lost while nothing else of this map was asked is given up.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from msgspec import Struct

from zerowait.errors import BadAnswer, Expired, NoResponder, PeerLost, QueueFull, RemoteError, Room, ZerowaitError

In_co = TypeVar("In_co", covariant=True)
Out_co = TypeVar("Out_co", covariant=True)

BUFFERED = 8  # windows of results that may wait for one before them
SUSPECTED = 2  # losses from which on a value is tried apart from the rest

TAKE, WAIT = object(), object()  # what a driver is to do, if it is not to give an item


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


class Task(Struct, eq=False):
    """One value on its way."""

    index: int
    input: Any
    until: float | None  # on the clock of `time.monotonic`: when its timeout is over
    reply: Any = None
    item: Item[Any, Any] | None = None
    losses: int = 0  # workers that died or left while they had it
    lost: PeerLost | None = None  # the last time
    is_alone: bool = False  # nothing else of this map is asked


class Work:
    """What is asked, what is answered, and what comes next. `over` is called on any thread, all else by one driver at a
    time.

    ask: takes a value and seconds, None for no end; gives its Reply. timeout: seconds for each value, from when it is
    asked first. crash_limit: losses from which on a value is given up."""

    def __init__(
        self, ask: Callable[[Any, float | None], Any], window: int, timeout: float | None, crash_limit: int
    ) -> None:
        self._ask = ask
        self._window = window
        self._timeout = timeout
        self._crash_limit = crash_limit
        self._came: deque[Task] = deque()
        self._tasks: deque[Task] = deque()  # in order: those whose results have not been given
        self._done: deque[Item[Any, Any]] = deque()  # as they came
        self._open: set[Task] = set()
        self._again: deque[Task] = deque()  # to be asked again, beside all else
        self._suspects: deque[Task] = deque()  # to be asked again, apart from all else
        self._trial: set[Task] = set()  # those of them that are asked now
        self._at_once = 1  # how many of them
        self._was_there = False  # somebody who serves it
        self.tell: Callable[[], object] = nothing  # somebody waits
        self.room: Room | None = None  # what to wait for, beside answers, before more is asked
        self.is_slow = False  # the next value is not there yet
        self.asked = 0
        self.finished = 0
        self.answered = 0
        self.ended = False  # there are no more values
        self.in_order = True

    def over(self, task: Task) -> None:
        self._came.append(task)
        self.tell()

    @property
    def has_come(self) -> bool:
        return bool(self._came)

    @property
    def outstanding(self) -> int:
        return len(self._open)

    def steps(self) -> Generator[Any, None, None]:
        """What comes next, until nothing does: TAKE a value and `ask` it, WAIT until something has come, there is
        `room`, or a value is there where the last was slow; or an item to be given."""
        while True:
            self.settle()
            self._resume()
            item = self._next()
            takes = self.takes() > 0 and not self.is_slow and self.room is None
            if takes and (item is None or self._open or self._tasks or self._done):
                # Also before an item is given: whoever takes his time over it finds the workers at work. But not before
                # the only one there is: the next value may be made of it.
                yield TAKE
                takes = not self.is_slow and self.room is None
            if item is not None:
                yield item
            elif not takes and not self._came:
                if self.ended and not (self._open or self._again or self._suspects):
                    return
                yield WAIT

    def takes(self) -> int:
        """How many values more may be taken now."""
        if self.ended or self._suspects or self._trial:
            return 0
        free = self._window - len(self._open) - len(self._again)
        return min(free, self._window * BUFFERED - len(self._tasks))

    def _next(self) -> Item[Any, Any] | None:
        if not self.in_order:
            return self._done.popleft() if self._done else None
        if self._tasks and (item := self._tasks[0].item) is not None:
            self._tasks.popleft()
            return item
        return None

    def ask(self, value: Any) -> bool:
        """False: there is no `room` for it now. Raises what the request raises; then nothing was asked."""
        until = None if self._timeout is None else time.monotonic() + self._timeout
        task = Task(self.asked, value, until)
        try:
            task.reply = self._ask(value, self._timeout)
        except QueueFull as full:
            self.room = full.room
            return False
        self.asked += 1
        if self.in_order:
            self._tasks.append(task)
        self._begin(task)
        return True

    def _begin(self, task: Task) -> None:
        self._open.add(task)
        task.reply._watch(_Told(self, task))

    def settle(self) -> None:
        """Looks at all that has come since."""
        while self._came:
            task = self._came.popleft()
            self._open.discard(task)
            try:
                output = task.reply._value()
            except PeerLost as error:
                self._lost(task, error)
            except NoResponder as error:
                self._nobody(task, error)
            except Exception as error:
                self._finish(task, error)
            else:
                self._was_there = True
                self.answered += 1
                self._give(task, Item(task.index, task.input, None, output))
            self._tried(task)

    # -- asking again --------------------------------------------------------------------------------------------------

    def _lost(self, task: Task, error: PeerLost) -> None:
        """What a dead worker held is asked of another."""
        self._was_there = True
        task.losses += 1
        task.lost = error
        if task in self._trial:
            self._at_once = 0  # see `_tried`
        if task.is_alone and task.losses >= self._crash_limit:
            self._finish(task, _given_up(task))
        elif task in self._trial:
            self._suspects.appendleft(task)
        elif task.losses >= SUSPECTED:
            self._suspects.append(task)
        else:
            self._again.append(task)

    def _nobody(self, task: Task, error: NoResponder) -> None:
        """That nobody is there is a failure only as long as nobody ever was."""
        if not self._was_there:
            self._finish(task, error)
        elif task.losses >= SUSPECTED:
            self._suspects.appendleft(task)
            self._at_once = 0  # nor has anybody survived
        else:
            self._again.append(task)

    def _tried(self, task: Task) -> None:
        if task in self._trial:
            self._trial.discard(task)
            if not self._trial:
                self._at_once = max(1, self._at_once * 2)

    def _resume(self) -> None:
        """Asks once more, as far as there is room and time."""
        self.room = None
        while self._again and not self._suspects and not self._trial:
            if not self._ask_again(self._again[0]):
                return
            self._again.popleft()
        if not self._suspects or self._open:
            return
        count = 1 if self._suspects[0].losses >= self._crash_limit else min(self._at_once, len(self._suspects))
        for at in range(count):
            task = self._suspects[0]
            if at and task.losses >= self._crash_limit:
                return
            task.is_alone = count == 1
            if not self._ask_again(task):
                return
            self._suspects.popleft()
            if task.item is None:
                self._trial.add(task)

    def _ask_again(self, task: Task) -> bool:
        """False: there is no room for it now."""
        left = None if task.until is None else task.until - time.monotonic()
        try:
            if left is not None and left <= 0:
                task.reply._value()  # raises what it ended with
            task.reply = self._ask(task.input, left)
        except QueueFull as full:
            self.room = full.room
            return False
        except Exception as error:
            self._finish(task, error)
        else:
            self._begin(task)
        return True

    # -- the end of each -----------------------------------------------------------------------------------------------

    def _finish(self, task: Task, error: Exception) -> None:
        """It has failed. What may have run once is never said not to have run."""
        ran = _may_have_run(error)
        self._was_there = self._was_there or ran
        if task.lost is not None and not ran:
            task.lost.add_note(f"It was asked again, and did not run again: {error}")
            error = task.lost
        self._give(task, Item(task.index, task.input, error))

    def _give(self, task: Task, item: Item[Any, Any]) -> None:
        task.item = item
        self.finished += 1
        if not self.in_order:
            self._done.append(item)

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

    def __init__(self, work: Work, task: Task) -> None:
        self._work = work
        self._task = task

    def __call__(self) -> None:
        self._work.over(self._task)


def _may_have_run(error: Exception) -> bool:
    if isinstance(error, Expired):
        return error.sent
    return isinstance(error, (PeerLost, RemoteError, BadAnswer)) or not isinstance(error, ZerowaitError)


def _given_up(task: Task) -> PeerLost:
    assert task.lost is not None, "lost"
    lost = task.lost
    words = (
        f"Value number {task.index} (from 0) of the map over {lost.channel} was lost with {task.losses} workers, at "
        f"last while it was the only one asked about: it seems to end each process that runs it, and is given up. It "
        f"may have run. The value: {task.input!r:.80}"
    )
    error = PeerLost(words, channel=lost.channel, id=lost.id, peer=lost.peer)
    error.__cause__ = lost
    return error


def nothing() -> None:
    return None
