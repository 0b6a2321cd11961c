"""Async handlers: a fixed set of tasks for each channel that take message after message, on the app's loop.

No task is made for a message, and none of the loop's machinery stands between two messages of a job. Three things are
arranged so that neither side waits for the other:

- **One iteration of the loop from arrival to handler.** A wake-up by a future takes two: one to set its result, one to
  run the task. So an idle runner waits on a Bell, whose ring steps the task there and then.
- **A turn of the loop is shared.** A handler that never really waits would let its runner take jobs for ever. After
  JOB_SECONDS the runner stands back and asks for the next turn; in one turn a channel whose handlers do not wait thus
  takes about a millisecond, however many runners it has.
- **Nobody goes idle unseen.** A runner first counts itself as idle, then looks once more, then waits; `ready()` first
  follows an admission, then looks whether somebody is idle. One of the two sees the other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator
from contextvars import Context
from typing import TYPE_CHECKING

from zerowait.ambient import AROUND
from zerowait.engines.engine import Job
from zerowait.handlers.calls import async_call, is_bare
from zerowait.handlers.crew import JOB_SECONDS, Crew, Kit
from zerowait.handlers.onward import onward
from zerowait.handlers.reading import called
from zerowait.handlers.runs import Call, Run
from zerowait.handlers.values import guarded
from zerowait.handlers.verdicts import Overdue
from zerowait.handlers.visits import message_id

if TYPE_CHECKING:
    from zerowait.handlers.registry import HandlerSpec

log = logging.getLogger("zerowait.handlers")

AGAIN_S = 0.05  # a loop that has cancelled a runner, and has not ended after so long, goes on
CLOSING = 1.0  # seconds that a cancelled handler gets for its `finally`


class Bell:
    """What an idle runner awaits: a future as tasks know them, except that ringing it runs the task at once."""

    _asyncio_future_blocking = False

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wake: Callable[[Bell], object] | None = None
        self._context: Context | None = None
        self.job: Job | None = None
        self._cancelled: asyncio.CancelledError | None = None

    def __await__(self) -> Generator[Bell, None, Job | None]:
        self._asyncio_future_blocking = True
        yield self
        job, self.job = self.job, None
        return job

    def ring(self, job: Job | None) -> None:
        """Runs the waiting task until it waits again. Only from a callback of its loop. None: there will be no more."""
        self.job = job
        self._step()

    def _step(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None and self._context is not None:
            self._context.run(wake, self)

    # What a task asks of a future

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, wake: Callable[[Bell], object], *, context: Context) -> None:
        self._wake, self._context = wake, context

    def result(self) -> None:
        if self._cancelled is not None:
            raise self._cancelled

    def cancel(self, msg: object = None) -> bool:
        self._cancelled = asyncio.CancelledError()
        self._loop.call_soon(self._step)
        return True


class AsyncCrew(Crew):
    """The runners of a channel whose handler is `async def`. All but `ready` on the loop."""

    def __init__(self, spec: HandlerSpec, kit: Kit) -> None:
        super().__init__(spec, kit)
        self._idle: list[Bell] = []
        self._rung = False
        self._closed = False
        self._tasks: dict[Run, asyncio.Task[None]] = {}
        self._parked: set[Run] = set()
        self._swallowed = False

    def open(self) -> None:
        for run in self.runs:
            self._hire(run)

    def ready(self) -> None:
        if self._idle and not self._rung:
            self._rung = True
            try:
                self.kit.loop.call_soon_threadsafe(self._ring)
            except RuntimeError:  # the loop was closed under us: there is nobody left to wake
                log.debug("the event loop of %s is closed", self.channel)

    def give_up(self) -> list[str]:
        names: list[str] = []
        for run in self.runs:
            if run.job is not None and not run.given_up:
                run.given_up = True
                names.append(f"{called(self.spec.fn)} on {message_id(run.job.delivery, run.position)}")
                self._tasks[run].cancel()
        return names

    async def _dismiss(self) -> None:
        self._closed = self.leaving = True
        idle, self._idle = self._idle, []
        # Through the loop: a bell steps its task, which cannot be done from within another task.
        for bell in idle:
            self.kit.loop.call_soon(bell.ring, None)
        if self._tasks:
            _, busy = await asyncio.wait(self._tasks.values(), timeout=CLOSING)
            if busy:
                log.warning(
                    "%s still runs on %d messages although it was cancelled: it catches CancelledError and goes on",
                    called(self.spec.fn),
                    len(busy),
                )

    # Waking

    def _ring(self) -> None:
        self._rung = False
        self.kit.turned = time.monotonic()
        idle = self._idle
        while idle:
            job = self._take()
            if job is None:
                return
            idle.pop().ring(job)
            if self._rung:  # it has used this turn's share
                return

    def _put_back(self) -> None:
        if self._idle and not self._rung:
            self._rung = True
            self.kit.loop.call_soon(self._ring)

    # Running

    def _hire(self, run: Run) -> None:
        task = self.kit.loop.create_task(self._runner(run), name=f"zerowait {self.channel}")
        self._tasks[run] = task
        task.add_done_callback(lambda _: self._left(run))

    def _left(self, run: Run) -> None:
        task = self._tasks.pop(run)
        if not task.cancelled():
            task.exception()  # looked at, or asyncio reports it once more
        if self._closed or run.given_up:
            return
        if run in self._parked:
            self._parked.discard(run)
            # Whoever ends the loop cancels all that is on it; on a loop that goes on another takes its place.
            self.kit.loop.call_later(AGAIN_S, self._hire_again, run)
        else:
            self._hire(run)

    def _hire_again(self, run: Run) -> None:
        if not self._closed:
            log.warning("an idle runner of %s was cancelled from outside: another takes its place", self.channel)
            self._hire(run)
            self._put_back()

    async def _runner(self, run: Run) -> None:
        AROUND.set(self._around)
        bell = Bell(self.kit.loop)
        call = async_call(self, run)
        if self.spec.around is not None:
            call = self.spec.around(call)
        run.take = onward(self, run) if self.spec.to and is_bare(self) else self._stray
        job: Job | None = None
        since = now = time.monotonic()
        while not self._closed:
            if now - since < JOB_SECONDS:
                job = self._take()
            if job is None:
                self._idle.append(bell)
                if now - since >= JOB_SECONDS:
                    self._put_back()
                elif (job := self._take()) is not None:
                    self._idle.remove(bell)
                if job is None:
                    self._parked.add(run)
                    try:
                        job = await bell
                    except BaseException:
                        self._withdraw(bell)
                        raise
                    self._parked.discard(run)
                    if job is None:
                        return
                since = now = time.monotonic()
            if self._begin(run, job, now):
                if not self._sweeping and (self._timeout is not None or job.stop - job.start > 1):
                    self._sweeping = True
                    self._watch()
                await self._work(run, guarded(call) if run.is_mixed else call)
                self._end(run, time.monotonic())
            now = time.monotonic()
            job = None

    def _withdraw(self, bell: Bell) -> None:
        """Its task was cancelled from outside: it is not idle any more, and what it was given goes to another."""
        if bell in self._idle:
            self._idle.remove(bell)
        if bell.job is not None:
            self._rests.append(bell.job)
            self._put_back()

    async def _work(self, run: Run, call: Call) -> None:
        values, take = run.values, run.take
        while True:
            try:
                for value in values:  # the hottest loop of a receiver: nothing else belongs here
                    if (given := await call(value)) is not None:
                        take(given)
                break
            except BaseException as error:
                if self._caught(run, error):
                    raise
        if run.cut and not run.given_up:
            self._uncancel(run)
            if run.mark < run.stop:
                # It was cancelled, caught that and returned: what it awaited was not done.
                self._tell_swallowed()
                self._fail(run, self._why_cut(run))

    def _why_cut(self, run: Run) -> Exception:
        return Overdue(self._timeout or 0.0)

    def _caught(self, run: Run, error: BaseException) -> bool:
        """Reports the failure. True: the runner itself must end."""
        if run.given_up:
            run.job = None
            return True
        if run.cut:
            self._uncancel(run)
            overdue = self._why_cut(run)
            overdue.__cause__ = error
            self._fail(run, overdue)
            return False
        self._fail(run, error)
        if isinstance(error, GeneratorExit) or (isinstance(error, asyncio.CancelledError) and self._cancelled(run)):
            # Somebody has cancelled the task itself: the loop's owner, who must not be kept waiting, or the handler by
            # its own hand. The message has failed either way; the runner ends, and others take the rest of its job.
            self._relieve(run, now := time.monotonic())
            self._end(run, now)
            return True
        return False

    def _cancelled(self, run: Run) -> bool:
        return self._tasks[run].cancelling() > 0

    def _uncancel(self, run: Run) -> None:
        # Otherwise asyncio.timeout and TaskGroup of the next message would take this cancellation for theirs.
        task = self._tasks[run]
        while task.cancelling():
            task.uncancel()

    # Overdue

    def _look_at(self, run: Run, now: float) -> None:
        if self._timeout is None or run.job is None or run.began is None or now - run.began < self._timeout:
            return
        if not run.cut:
            run.cut = True
            self._tasks[run].cancel()
        elif now - run.began > self._timeout + CLOSING:
            self._tell_swallowed()

    def _tell_swallowed(self) -> None:
        if not self._swallowed:
            self._swallowed = True
            log.warning(
                "%s was cancelled after its timeout of %g s and went on: it catches CancelledError, so its timeout "
                "cannot end it. Let CancelledError pass (`except Exception` does)",
                called(self.spec.fn),
                self._timeout,
            )
