"""Plain handlers: a fixed set of threads for each channel that take job after job.

Two things differ from async runners. To wake a thread costs some 40 µs, so a thread that has taken a job looks for a
second one, and wakes a neighbour only if there is one, with it. And threads that compute compete for the interpreter,
with one another and with the network thread, up to 5 ms each time: twelve of them do less than one. So handlers that
are quick (their messages come many to a job) and compute more than they wait get one thread, and another only while
that one's job lasts longer than a job should.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from zerowait.ambient import AROUND, WAITS
from zerowait.engines.engine import Job
from zerowait.handlers import effort
from zerowait.handlers.calls import Answer, given_by, plain_call
from zerowait.handlers.crew import Crew, Kit
from zerowait.handlers.reading import called
from zerowait.handlers.runs import Call, Run
from zerowait.handlers.values import guarded
from zerowait.handlers.visits import message_id

if TYPE_CHECKING:
    from zerowait.handlers.registry import HandlerSpec

log = logging.getLogger("zerowait.handlers")

# A job of many begun so recently is about to end, even if it waits for the interpreter once (5 ms): its thread takes
# what has come meanwhile.
FRESH = 7e-3
REMEMBERED = 8  # jobs: what the running average of waiting ones weighs
CLOSING = 1.0


class Berth:
    """Where an idle thread sleeps. Rung once for each time it lies down."""

    __slots__ = ("_gate", "job")

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._gate.acquire()
        self.job: Job | None = None

    def ring(self, job: Job | None = None) -> None:
        self.job = job
        self._gate.release()

    def sleep(self) -> Job | None:
        self._gate.acquire()
        job, self.job = self.job, None
        return job


class ThreadCrew(Crew):
    """The runners of a channel whose handler is `def`."""

    def __init__(self, spec: HandlerSpec, kit: Kit) -> None:
        super().__init__(spec, kit)
        self._idle: list[Berth] = []
        self._rung = False
        self._closed = False
        self._over = False
        self._waiting_for: list[str] = []  # by threads that wait for replies; "" where others serve it
        self._told_waiting = False
        self._waiting_jobs = 0.0  # of those of many messages, in how many the handler waited; a running average
        self._threads: list[threading.Thread] = []
        self._awaited: set[Future[Answer]] = set()

    def open(self) -> None:
        # Daemons: nothing can stop a thread, and one that hangs must not keep the process from ending.
        self._threads = [
            threading.Thread(target=self._runner, args=(run,), name=f"zerowait {self.channel} {at}", daemon=True)
            for at, run in enumerate(self.runs, 1)
        ]
        for thread in self._threads:
            thread.start()

    def ready(self) -> None:
        idle = self._idle
        if not idle or self._rung:
            return
        if len(idle) < len(self._threads) and self._is_kept_up():
            self._want_sweep()
        else:
            self._ring()

    def is_idle(self) -> bool:
        # Not by the runs: between the desk and the first line of a job a thread holds messages that no run shows.
        return not self._waiting and len(self._idle) == len(self._threads)

    def give_up(self) -> list[str]:
        names: list[str] = []
        self._over = True
        with self._lock:
            for run in self.runs:
                if run.job is not None and not run.given_up:
                    run.given_up = True
                    names.append(
                        f"{called(self.spec.fn)} on {message_id(run.job.delivery, max(run.position, run.job.start))}"
                    )
        for awaited in list(self._awaited):
            awaited.cancel()
        return names

    async def _dismiss(self) -> None:
        self._closed = self.leaving = True
        while self._idle:
            try:
                berth = self._idle.pop()
            except IndexError:
                break
            berth.ring()
        # Blocks the loop, but not for long: a thread that was not given up sleeps, and leaves when it is rung.
        deadline = time.monotonic() + CLOSING
        for run, thread in zip(self.runs, self._threads, strict=True):
            if not run.given_up:
                thread.join(max(0.0, deadline - time.monotonic()))

    # Waking

    def _ring(self, job: Job | None = None) -> bool:
        """Wakes one, with a job or to look for one."""
        self._rung = True
        try:
            berth = self._idle.pop()
        except IndexError:
            self._rung = False
            return False
        berth.ring(job)
        return True

    def _put_back(self) -> None:
        self._ring()

    def _relieve(self, run: Run, now: float) -> None:
        super()._relieve(run, now)
        if not self.leaving:
            self._ring()  # what has come meanwhile was left to this thread, which lasts

    def _look_at(self, run: Run, now: float) -> None:
        """Nothing can stop a thread."""

    def _is_lone(self) -> bool:
        """Whether one thread is better than several."""
        return self.most > 1 and self._waiting_jobs < 0.5

    def _is_kept_up(self) -> bool:
        """Whether one thread is enough, and one has a job that is about to end, after which it looks for the next."""
        if not self._is_lone():
            return False
        fresh = time.monotonic() - FRESH
        return any(run.job is not None and run.since > fresh for run in self.runs)

    def _want_sweep(self) -> None:
        """It finds out when a job does not end so soon."""
        if not self._sweeping:
            self._sweeping = True
            self._on_loop(self._watch)

    def _share(self) -> None:
        """A second job for an idle neighbour, before the first begins."""
        if self._idle and not self._is_lone() and (job := self._take()) is not None and not self._ring(job):
            self._rests.append(job)  # all have found work meanwhile: the next that asks takes it
            if self._idle:  # one has asked already, and lain down
                self._ring()

    # Running

    def _runner(self, run: Run) -> None:
        AROUND.set(self._around)
        WAITS.set(self)
        berth = Berth()
        call = plain_call(self, run, self.begin)
        if self.spec.around is not None:
            call = self.spec.around(call)
        checked = guarded(call)
        while not self._closed:
            if self._stands_back(run, berth):
                job = self._sleep(berth)
            elif (job := self._take()) is None:
                self._idle.append(berth)
                # Once more: what was admitted since the look above found nobody to wake.
                if (job := self._take()) is None:
                    job = self._sleep(berth)
                elif not self._stay_up(berth) and (brought := self._sleep(berth)) is not None:
                    # Woken although it has found work: what it was woken with is left to the next that asks.
                    self._rests.append(brought)
            if job is not None:
                self._share()
                if not self._do(run, job, call, checked):
                    return

    def _do(self, run: Run, job: Job, call: Call, checked: Call) -> bool:
        """False: it was given up meanwhile, and so is this thread."""
        if not self._begin(run, job, time.monotonic()):
            return True
        if self._over:  # whoever gives up looks at the runs after saying so: one of us sees the other
            run.given_up = True
            return False
        before = None
        if job.stop - job.start > 1:
            self._want_sweep()
            before = effort.read()
        self._work(run, checked if run.is_mixed else call)
        # Before the lock, for which it may wait: that is not its handler's.
        took = time.monotonic() - run.since
        after = effort.read() if before is not None else None
        with self._lock:
            if run.given_up:
                return False
            if before is not None and after is not None:
                waits, took = effort.judge(before, after, run.stop - job.start, took)
                self._waiting_jobs += (waits - self._waiting_jobs) / REMEMBERED
            self._end(run, run.since + took)
            return True

    def _sleep(self, berth: Berth) -> Job | None:
        if self._closed:  # whoever closes rings all that lie down before, and none after
            return None
        if self.leaving:
            self.kit.ended()
        job = berth.sleep()
        self._rung = False
        return job

    def _stands_back(self, run: Run, berth: Berth) -> bool:
        """Lies down without a look, if another is up and will look. Under the lock, so that one stays up."""
        if len(self._idle) + 1 == len(self._threads):
            return False
        with self._lock:
            if not self._is_kept_up():
                return False
            self._idle.append(berth)
        self._want_sweep()
        return True

    def _stay_up(self, berth: Berth) -> bool:
        try:
            self._idle.remove(berth)
        except ValueError:  # somebody has taken it out, and rings it
            return False
        return True

    def _work(self, run: Run, call: Call) -> None:
        values = run.values
        while True:
            try:
                for value in values:
                    if (given := call(value)) is not None:
                        self._look_into(run, given)
                return
            except BaseException as error:
                with self._lock:
                    self._fail(run, error)

    def _look_into(self, run: Run, given: Any) -> None:
        if inspect.isawaitable(given):  # a wrapped coroutine: calling it was only half the work
            given = self.wait_for(given)
        if given is not None:
            self._stray(given)

    # Waiting for replies

    def waits(self, channel: str) -> None:
        """One of them waits for a reply to a request of that channel."""
        if channel not in self.kit.serves:
            channel = ""
        self._waiting_for.append(channel)
        mine = [each for each in list(self._waiting_for) if each]
        if len(mine) >= len(self._threads) and not self._told_waiting:
            self._told_waiting = True
            log.warning(
                "all %d threads of %s wait for replies that this app must give (%s): if it has nobody else to give "
                "them, each ends only at its deadline. Make the handler `async def`, raise its concurrency, or serve "
                "the other channel by another app",
                len(self._threads),
                called(self.spec.fn),
                ", ".join(sorted(set(mine))),
            )

    def goes_on(self) -> None:
        # Which of them: it does not matter, they are told apart by nothing but their number.
        try:
            self._waiting_for.pop()
        except IndexError:
            return

    # The loop's part

    def wait_for(self, awaitable: Awaitable[Any]) -> Any:
        """Awaits it on the app's loop while this thread waits."""
        return given_by(self.begin(awaitable))

    def begin(self, awaitable: Awaitable[Any]) -> Future[Answer]:
        """Awaits it on the app's loop; cancelled if the thread is given up."""
        future = asyncio.run_coroutine_threadsafe(_answer(awaitable), self.kit.loop)
        self._awaited.add(future)
        future.add_done_callback(self._awaited.discard)
        return future

    def _on_loop(self, fn: Callable[[], object]) -> None:
        try:
            self.kit.loop.call_soon_threadsafe(fn)
        except RuntimeError:  # closed under us
            log.debug("the event loop of %s is closed", self.channel)


async def _answer(awaitable: Awaitable[Any]) -> Answer:
    try:
        return await awaitable, None
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # SystemExit as a task's end would end the loop: it is the message that has failed
        return None, error
