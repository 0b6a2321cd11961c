"""The runners of one channel: what async ones and threads have in common."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from zerowait.engines.engine import Desk, Job, Started
from zerowait.handlers.failing import Failing
from zerowait.handlers.outputs import Opening, Outputs, Released, Tagged
from zerowait.handlers.reading import called
from zerowait.handlers.runs import Run, Running
from zerowait.handlers.values import decode
from zerowait.handlers.verdicts import Judge, NotRun, reason_of
from zerowait.handlers.visits import Visit, message_id
from zerowait.message import Outcome, Sent, Verdict
from zerowait.retry import Retry

if TYPE_CHECKING:
    from zerowait.handlers.registry import HandlerSpec

log = logging.getLogger("zerowait.handlers")

FAST = 50e-6  # handlers quicker than this are given several messages at once …
JOB_SECONDS = 1e-3  # … of so much work …
JOB_MESSAGES = 128  # … and at most so many
REMEMBERED = 16  # the running average weighs about so many messages
SWEEP = 0.05
SLOW = 0.02  # a job that lasts so long, where a millisecond was meant, has met a slow message


class Kit(Struct):
    """What all crews of a stage work with. clock: of `Delivery.expires`; resources: set before the first message."""

    desk: Desk
    outputs: Outputs
    judge: Judge
    loop: asyncio.AbstractEventLoop
    clock: Callable[[], float]
    make_context: Callable[[Visit], Any]
    ended: Callable[[], None]  # while leaving: a run or a wait has ended; any thread
    middleware: tuple[Callable[..., Any], ...] = ()
    resources: Any = None
    message_bytes: int = 16 << 20  # of the largest answer
    turned: float = 0.0  # when the loop last turned, as `time.monotonic`
    started: Started | None = None
    serves: frozenset[str] = frozenset()  # all channels of the app
    slots: int = 0  # given out


class Crew(ABC):
    """Takes the channel's jobs, runs them, reports each message once."""

    def __init__(self, spec: HandlerSpec, kit: Kit) -> None:
        self.spec = spec
        self.kit = kit
        self.channel = spec.channel
        self.most = 1
        self.average = 0.0  # seconds a message, waits included; 0: nothing measured yet
        self.leaving = False
        many = spec.concurrency or 1
        self.runs = [Run(self._report, slot) for slot in range(kit.slots, kit.slots + many)]
        kit.slots += many
        self._retry = spec.retry or Retry()
        self._timeout = spec.timeout
        # Parts of jobs that were taken from a runner in trouble: older than all that the desk holds, so they go first.
        self._rests: deque[Job] = deque()
        self._waiting: set[Opening | Released] = set()
        self._sweeping = False  # set by whoever wants the sweep, from any thread; the timer is the loop's
        self._timer: asyncio.TimerHandle | None = None
        self._strays = 0
        self._told_around = False
        self._failing = Failing(spec.fn, spec.channel, kit.loop, is_kept=spec.feed is None)
        # Held at the two ends of a job and while a rest is taken away. Async runners share a thread with the sweep, and
        # need it only where outputs are stored.
        self._lock = threading.Lock()

    @abstractmethod
    def open(self) -> None:
        """Starts the runners. On the loop."""

    @abstractmethod
    def ready(self) -> None:
        """There may be something to take. Any thread."""

    @abstractmethod
    def give_up(self) -> list[str]:
        """Ends what runs, or leaves it to itself; nothing more is reported. Says what runs, in words."""

    async def close(self) -> None:
        """Ends the runners. On the loop, when nothing runs or what runs was given up."""
        if self._timer is not None:
            self._timer.cancel()
        await self._dismiss()
        self._failing.say_left_out()

    @abstractmethod
    async def _dismiss(self) -> None: ...

    def running(self) -> Iterator[Running]:
        """What runs at this moment; for people, so that a message that has just ended may be among them."""
        for run in self.runs:
            job = run.job
            if job is not None and run.position >= job.start:
                yield Running(self.channel, job.delivery, run.position, run.since if run.began is None else run.began)

    def is_idle(self) -> bool:
        """Nothing runs, and nothing that has run waits for an outbox to open."""
        return not self._waiting and all(run.job is None for run in self.runs)

    def leave(self) -> None:
        """Takes nothing more and hands back what no handler was called for. What runs, runs on. On the loop."""
        self.leaving = True
        now = time.monotonic()
        for run in self.runs:
            self._relieve(run, now)
        while self._rests:
            job = self._rests.popleft()
            self.kit.desk.finish(job, job.start, job.stop, Outcome(Verdict.UNSTARTED))

    # One job

    def _take(self) -> Job | None:
        if self._rests:
            try:
                return self._rests.popleft()
            except IndexError:  # another thread was quicker
                pass
        return None if self.leaving else self.kit.desk.start(self.channel, self.most)

    def _begin(self, run: Run, job: Job, now: float) -> bool:
        """False: there is nothing to call a handler for."""
        delivery = job.delivery
        if delivery.expires is not None and self.kit.clock() >= delivery.expires:
            self.kit.desk.finish(job, job.start, job.stop, Outcome(Verdict.EXPIRED))
            return False
        if self.kit.started is not None:  # before the first thing that may end this process
            self._list(self.kit.started, run, job, job.start, job.stop)
        run.begin(job, decode(self.spec.codec, delivery, job.start, job.stop), now)
        return True

    @staticmethod
    def _list(started: Started, run: Run, job: Job, start: int, stop: int) -> None:
        delivery = job.delivery
        started.begin(run.slot, delivery.box, delivery.epoch, delivery.number(start), stop - start)

    def _end(self, run: Run, now: float) -> None:
        job = run.job
        if job is None:
            return
        if (done := run.stop - job.start) and not run.given_up:
            mean = (now - run.since) / done
            average = self.average
            self.average = average = average + (mean - average) * done / (done + REMEMBERED) if average else mean
            # An average of times that are too short to be measured comes near zero, and a reciprocal near infinity.
            self.most = min(JOB_MESSAGES, int(JOB_SECONDS / max(average, 1e-9))) if average < FAST else 1
        run.settle(run.stop)
        run.job = None
        if self.kit.started is not None:
            self.kit.started.end(run.slot)
        if self.leaving:
            self.kit.ended()

    def _fail(self, run: Run, error: BaseException) -> None:
        """The message at which the loop stands has failed; those before it have not."""
        index, job = run.position, run.job
        if job is None or run.given_up:
            return
        run.settle(index)
        run.outputs = []  # of this message, which had succeeded but for what is found out after it
        run.mark = index + 1
        self._finish_failed(job, index, error)

    def _finish_failed(self, job: Job, index: int, error: BaseException) -> None:
        outcome = self.kit.judge.judge(error, self._retry, job.delivery, index)
        self.kit.desk.finish(job, index, index + 1, outcome)
        if not isinstance(error, NotRun):
            self._failing.tell(message_id(job.delivery, index), reason_of(error), outcome)

    # What a run reports: handled, and what it sends

    def keep(self, run: Run, sent: list[Tagged]) -> None:
        """On its own thread: the message that ran has sent this, and has succeeded."""
        with self._lock:
            run.outputs.extend(sent)

    def _report(self, job: Job, start: int, stop: int, outputs: list[Tagged]) -> None:
        if not outputs:
            return self.kit.desk.finish(job, start, stop, None)
        try:
            sent = self.kit.outputs.send(job.delivery, outputs)
        except Exception as error:
            return self._not_sent(job, start, stop, error)
        if sent is None or isinstance(sent, Sent):
            outcome = Outcome(Verdict.HANDLED, outputs=sent) if sent is not None else None
            return self.kit.desk.finish(job, start, stop, outcome)
        self._waiting.add(sent)
        sent.when_open(partial(self._is_open, sent, job, start, stop))
        return None

    def _is_open(self, opening: Opening, job: Job, start: int, stop: int, sent: Sent | BaseException) -> None:
        if isinstance(sent, Sent):
            self.kit.desk.finish(job, start, stop, Outcome(Verdict.HANDLED, outputs=sent))
        else:
            self._not_sent(job, start, stop, sent)
        self._waiting.discard(opening)
        if self.leaving:
            self.kit.ended()

    def _not_sent(self, job: Job, start: int, stop: int, error: BaseException) -> None:
        for index in range(start, stop):
            self._finish_failed(job, index, error)

    # The sweep: on the loop, while anything runs that may need it

    def _watch(self) -> None:
        """Begins to sweep. On the loop."""
        if self._timer is None:
            self._timer = self.kit.loop.call_later(SWEEP, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = time.monotonic()
        busy = False
        for run in self.runs:
            if run.job is not None:
                busy = True
                if now - run.since >= SLOW:
                    if run.began is None:
                        self._relieve(run, now)
                    self._look_at(run, now)
        self._sweeping = busy
        if busy:
            self._watch()

    @abstractmethod
    def _look_at(self, run: Run, now: float) -> None:
        """A run that lasts, at each sweep, after all but the message that runs was taken from it. On the loop."""

    def _relieve(self, run: Run, now: float) -> None:
        """Reports what is done of a job and puts back what has not begun: it need not wait for what runs."""
        with self._lock:
            job = run.job
            if job is None:
                return
            start, stop = run.take_rest()
            if run.began is None:
                run.began = run.since if start == job.start + 1 else now
            run.settle(start - 1)
            if self.kit.started is not None and job.stop - job.start > 1 and start > job.start:
                self._list(self.kit.started, run, job, start - 1, start)  # what was before is over, the rest goes away
        if start == stop:
            return
        rest = Job(job.delivery, start, stop)
        if self.leaving:
            self.kit.desk.finish(rest, start, stop, Outcome(Verdict.UNSTARTED))
        else:
            self._rests.append(rest)
            self._put_back()

    @abstractmethod
    def _put_back(self) -> None:
        """There is a rest: an idle runner takes it."""

    # What people are told

    def _stray(self, given: object) -> None:
        if not self._strays:
            self._strays = 1
            log.warning(
                "%s returned a value of type %s, which goes nowhere: give @app.pull(%r) a to=, or return nothing",
                called(self.spec.fn),
                type(given).__name__,
                self.channel,
            )

    def _around(self, to: Any) -> None:
        """The handler has pushed with a client. Allowed, and seldom meant."""
        if not self._told_around:
            self._told_around = True
            name = to if isinstance(to, str) else getattr(to, "name", to)
            log.warning(
                "%s pushes to %s with a client: that leaves now, even if the handler fails, and again when it is "
                "repeated. What is part of its outcome is sent by its context: `ctx.push(…)`, with `ctx: Context` as "
                "its second parameter",
                called(self.spec.fn),
                name,
            )
