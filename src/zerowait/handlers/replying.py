"""Handlers that answer: what they return is encoded and goes back, what they raise is the answer too.

Two things differ from handlers of pushes. Somebody waits for each answer: so as soon as a handler really waits for
something, what is done of its job is reported, and what has not begun is left to others, without waiting for the sweep.
And he may have stopped waiting: then an async handler is cancelled, with what it has asked in turn.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from zerowait.ambient import DEADLINE
from zerowait.engines.engine import Job
from zerowait.errors import EncodeError
from zerowait.failures import AWAIT, NO_ERRORS, Errors, not_of, pack_bad, pack_remote
from zerowait.handlers.crew import JOB_SECONDS, Crew, Kit
from zerowait.handlers.outputs import Released, Tagged
from zerowait.handlers.reading import called
from zerowait.handlers.runners import AsyncCrew
from zerowait.handlers.runs import Call, Run
from zerowait.handlers.threads import ThreadCrew
from zerowait.handlers.verdicts import reason_of, story_of, text_of, type_of
from zerowait.handlers.visits import message_id
from zerowait.large import BOTH_ENDS, NOTE_BYTES, pack_large, without_fields
from zerowait.message import Delivery, Outcome, Verdict

if TYPE_CHECKING:
    from zerowait.handlers.registry import HandlerSpec

KINDS = ("request", "stream")
STREAM = "stream"
LOOK = 0.1  # seconds after which a thread that waits for its reader looks whether there is one
ITEMS_A_LOOK = 128  # of a stream that never has to wait; then its loop has a turn

Ranges = Sequence[tuple[int, int, int]]  # (epoch, first, count)


class NotAnAnswer(Exception):
    """What a handler gave is not of the type that its channel promises."""

    def __init__(self, path: str, reason: str, remedy: str = "") -> None:
        more = f"; {remedy}" if remedy else ""
        super().__init__(f"the answer is not of the channel's type: {reason} (at {path}){more}")
        self.path = path
        self.reason = reason
        self.remedy = remedy


class TooLargeAnswer(Exception):
    """What a handler gave is of more bytes than this process may send or receive as one message."""

    def __init__(self, fn: Callable[..., Any], size: int, limit: int) -> None:
        self.reason = f"{called(fn)} gave {size:,} bytes, and its process sends {limit:,} at most"
        super().__init__(f"{self.reason}; {BOTH_ENDS}")


class NotWanted(Exception):
    """Nobody waits for the answer any more."""


class Replying(Crew):
    """What async runners and threads have in common when they answer."""

    def __init__(self, spec: HandlerSpec, kit: Kit) -> None:
        super().__init__(spec, kit)
        self._codec = codec = spec.answers
        self._exact = codec.exact
        self._encode = codec.encode
        self._largest = kit.message_bytes
        self._errors = Errors(spec.errors) if spec.errors else NO_ERRORS
        self.is_stream = spec.kind == STREAM
        for run in self.runs:
            run.reports_to(partial(self._report_answers, run))

    def _begin(self, run: Run, job: Job, now: float) -> bool:
        run.answers.clear()
        run.visit, run.is_wanted = None, True
        DEADLINE.set(job.delivery.expires)
        if not super()._begin(run, job, now):
            return False
        if self.is_stream:
            run.flow = self.kit.desk.flow(job, job.start)
        return True

    def _end(self, run: Run, now: float) -> None:
        super()._end(run, now)
        run.flow = None
        if self.is_stream:
            self.most = 1  # each lasts as long as its reader likes

    def encoded(self, given: Any) -> bytes:
        """Raises NotAnAnswer."""
        try:
            if given.__class__ is not self._exact:
                self._codec.check(given)
            return self._encode(given)
        except EncodeError as error:
            if hasattr(given, "__await__"):
                raise _not_awaited(self._codec.type, given) from None
            is_other = error.path == "$"
            reason = not_of(self._codec.type, given) if is_other else str(error).removesuffix(": nothing was taken.")
            raise NotAnAnswer(error.path, reason) from None

    def too_large(self, payload: bytes) -> TooLargeAnswer:
        return TooLargeAnswer(self.spec.fn, len(payload), self._largest)

    # What a run reports

    def _report_answers(self, run: Run, job: Job, start: int, stop: int, outputs: list[Tagged]) -> None:
        """As `_report`, with the answers: as many as there are messages, for the next may be there already."""
        answers = run.answers[: stop - start]
        del run.answers[: stop - start]
        outcome = Outcome(Verdict.HANDLED, answers=b"".join(answers))
        if not outputs:
            self.kit.desk.finish(job, start, stop, outcome)
            return
        try:
            released = self.kit.outputs.release(outputs)
        except Exception as error:
            self._not_sent(job, start, stop, error)
            return
        self._waiting.add(released)
        released.when_stored(partial(self._is_stored, released, job, start, stop, outcome))

    def _is_stored(
        self, released: Released, job: Job, start: int, stop: int, outcome: Outcome, error: BaseException | None
    ) -> None:
        """Who asked is told when what its handler has sent is safe."""
        if error is None:
            self.kit.desk.finish(job, start, stop, outcome)
        else:
            self._not_sent(job, start, stop, error)
        self._waiting.discard(released)
        if self.leaving:
            self.kit.ended()

    def _finish_failed(self, job: Job, index: int, error: BaseException) -> None:
        finish = self.kit.desk.finish
        if isinstance(error, NotWanted):
            finish(job, index, index + 1, Outcome(Verdict.CANCELLED, answers=b""))
            return
        note = self._errors.pack(error)
        limit = max(self._largest, NOTE_BYTES)
        words = without_fields(len(note), limit) if note is not None and len(note) > limit else ""
        if note is None or words:
            if isinstance(error, NotAnAnswer):
                note = pack_bad(error.path, error.reason, error.remedy)
            elif isinstance(error, TooLargeAnswer):
                note = pack_large(error.reason, BOTH_ENDS)
            else:
                story = story_of(error, self.kit.judge.traceback_bytes)
                note = pack_remote(type_of(error), words or text_of(error), story)
            self._failing.tell(message_id(job.delivery, index), reason_of(error), Outcome(Verdict.HANDLED))
        finish(job, index, index + 1, Outcome(Verdict.HANDLED, note=note, answers=b""))

    # Nobody waits any more

    def cancel(self, box: int, ranges: Ranges) -> None:
        """These; no ranges: all of that box. Any thread."""
        try:
            self.kit.loop.call_soon_threadsafe(self._cancel, box, ranges)
        except RuntimeError:  # the loop is closed: nothing runs on it
            return

    def _cancel(self, box: int, ranges: Ranges) -> None:
        for job in list(self._rests):
            if job.delivery.box == box:
                self._cancel_rest(job, ranges)
        for run in self.runs:
            mine = run.job
            if mine is not None and mine.delivery.box == box and run.is_wanted and not run.given_up:
                at = run.position
                if at >= mine.start and _is_among(mine.delivery, at, ranges):
                    self._unwanted(run)

    def _cancel_rest(self, job: Job, ranges: Ranges) -> None:
        """What of it has not begun never will."""
        gone = [index for index in range(job.start, job.stop) if _is_among(job.delivery, index, ranges)]
        if not gone:
            return
        try:
            self._rests.remove(job)
        except ValueError:  # a runner was quicker
            return
        start = job.start
        for index in [*gone, job.stop]:
            if index > start:
                self._rests.append(Job(job.delivery, start, index))
            if index < job.stop:
                self.kit.desk.finish(job, index, index + 1, Outcome(Verdict.CANCELLED, answers=b""))
            start = index + 1
        if self._rests:
            self._put_back()

    def _unwanted(self, run: Run) -> None:
        """On the loop."""
        run.is_wanted = False
        if run.visit is not None:
            run.visit.cancel()


class AsyncReplyCrew(Replying, AsyncCrew):
    """The runners of a channel whose handler is `async def` and answers."""

    async def _work(self, run: Run, call: Call) -> None:
        values, answers = run.values, run.answers
        exact, encode, encoded, largest = self._exact, self._encode, self.encoded, self._largest
        given: Any = None
        while True:
            try:
                for value in values:
                    step: Coroutine[Any, Any, Any] = call(value)
                    try:
                        waits = step.send(None)
                    except StopIteration as stop:
                        given = stop.value
                    else:
                        self._waits(run)
                        given = await _Rest(step, waits)
                    if self.is_stream:
                        continue
                    payload = encode(given) if given.__class__ is exact else encoded(given)
                    if len(payload) > largest:
                        raise self.too_large(payload)
                    answers.append(payload)
                break
            except EncodeError:  # of a value that is of the right class: its fields are not
                self._fail(run, self._bad_fields(given))
            except BaseException as error:
                if self._caught(run, error):
                    raise
        if run.cut and not run.given_up:
            self._uncancel(run)
            if run.mark < run.stop:  # it was cancelled, caught that and returned: what it awaited was not done
                self._fail(run, self._why_cut(run))

    def _bad_fields(self, given: Any) -> Exception:
        try:
            self.encoded(given)
        except NotAnAnswer as error:
            return error
        raise AssertionError("what could not be encoded can be now")

    def _waits(self, run: Run) -> None:
        """Its handler waits for something: the others need not wait for that."""
        job = run.job
        if job is not None and job.stop - job.start > 1:
            self._relieve(run, time.monotonic())
        if not self._sweeping:
            self._sweeping = True
            self._watch()

    def _why_cut(self, run: Run) -> Exception:
        return super()._why_cut(run) if run.is_wanted else NotWanted()

    def _look_at(self, run: Run, now: float) -> None:
        job = run.job
        expires = job.delivery.expires if job is not None and run.is_wanted else None
        if expires is not None and self.kit.clock() >= expires:
            self._unwanted(run)
        super()._look_at(run, now)

    def _unwanted(self, run: Run) -> None:
        super()._unwanted(run)
        if not run.cut:
            run.cut = True
            self._tasks[run].cancel()

    def give(self, run: Run, item: Any) -> Awaitable[None] | None:
        """One item of a stream; what must be awaited before the next."""
        flow = run.flow
        try:
            payload = self._encode(item) if item.__class__ is self._exact else self.encoded(item)
        except EncodeError:  # of a field of it
            payload = self.encoded(item)
        if len(payload) > self._largest:
            raise self.too_large(payload)
        flow.put(payload)
        if not flow.is_noted:
            self.kit.desk.flowing(flow)
        run.given += 1
        if not flow.has_room():
            return self._room(flow)
        return asyncio.sleep(0) if run.given % ITEMS_A_LOOK == 0 and self._is_due(run) else None

    def _is_due(self, run: Run) -> bool:
        """Whether its loop wants a turn."""
        now = time.monotonic()
        if now - run.turned < JOB_SECONDS:
            return False
        run.turned = now
        return True

    async def _room(self, flow: Any) -> None:
        loop = self.kit.loop
        while not flow.has_room():
            there: asyncio.Future[None] = loop.create_future()
            flow.when_room(partial(_tell, loop, there))
            if flow.has_room():
                flow.when_room(None)
                return
            await there


class ThreadReplyCrew(Replying, ThreadCrew):
    """The runners of a channel whose handler is `def` and answers."""

    def _work(self, run: Run, call: Call) -> None:
        values, answers, encoded, largest = run.values, run.answers, self.encoded, self._largest
        while True:
            try:
                for value in values:
                    given = call(value)
                    if not self.is_stream:
                        if hasattr(given, "__await__"):  # a wrapped coroutine: calling it was only half the work
                            given = self.wait_for(given)
                        payload = encoded(given)
                        if len(payload) > largest:
                            raise self.too_large(payload)
                        answers.append(payload)
                return
            except BaseException as error:
                with self._lock:
                    self._fail(run, error)

    def give(self, run: Run, item: Any) -> None:
        """One item of a stream; back when there is room for the next."""
        flow = run.flow
        payload = self.encoded(item)
        if len(payload) > self._largest:
            raise self.too_large(payload)
        flow.put(payload)
        if not flow.is_noted:
            self.kit.desk.flowing(flow)
        while not flow.has_room():
            if not run.is_wanted or run.given_up or self._closed:
                raise NotWanted
            there = threading.Event()
            flow.when_room(there.set)
            if not flow.has_room():
                there.wait(LOOK)
        if not run.is_wanted:
            raise NotWanted


def _not_awaited(wanted: Any, given: Any) -> NotAnAnswer:
    """Of a coroutine, or of the Reply to another request: nothing is wrong with the types of the two ends."""
    if inspect.iscoroutine(given):
        given.close()  # what is said here is said better than by the interpreter, some time later
    return NotAnAnswer("$", not_of(wanted, given), AWAIT)


class _Rest:
    """What is left of a coroutine whose first step was taken."""

    __slots__ = ("_step", "_waits")

    def __init__(self, step: Coroutine[Any, Any, Any], waits: Any) -> None:
        self._step = step
        self._waits = waits

    def __await__(self) -> Generator[Any, Any, Any]:
        step, waits = self._step, self._waits
        while True:
            try:
                sent = yield waits
            except BaseException as error:
                try:
                    waits = step.throw(error)
                except StopIteration as stop:
                    return stop.value
            else:
                try:
                    waits = step.send(sent)
                except StopIteration as stop:
                    return stop.value


def _is_among(delivery: Delivery, index: int, ranges: Ranges) -> bool:
    if not ranges:
        return True
    number = delivery.number(index)
    return any(epoch == delivery.epoch and first <= number < first + count for epoch, first, count in ranges)


def _tell(loop: asyncio.AbstractEventLoop, there: asyncio.Future[None]) -> None:
    def now() -> None:
        if not there.done():
            there.set_result(None)

    try:
        loop.call_soon_threadsafe(now)
    except RuntimeError:  # the loop is closed, and what waits there with it
        return


Give = Callable[[Run, Any], Any]
