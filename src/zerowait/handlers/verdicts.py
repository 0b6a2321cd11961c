"""What an exception means: another attempt, or a dead letter, and what people are told about it."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from zerowait.errors import Reject, RetryLater
from zerowait.message import Delivery, Outcome, Verdict
from zerowait.retry import Retry

FRAMES = 100
REASON_BYTES = 2_048  # an exception's text may hold a whole document
OUR_CODE = str(Path(__file__).parent)


class Undecodable(Exception):
    """Stands in the place of a value that is not of the handler's type, and is raised when its turn comes."""


class NotRun(Exception):
    """Raised in place of a call of the handler, which has not failed: the message was not run, and ends like this."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict)
        self.verdict = verdict


class Judge(Struct, frozen=True):
    """Says what becomes of a message whose handler did not succeed.

    worker: this process's name, for people. traceback_bytes: bound of what is kept of a traceback.
    chance: uniform in [0, 1), for the jitter. now_us: microseconds UTC.
    """

    worker: str
    traceback_bytes: int = 16 * 1024
    chance: Callable[[], float] = random.random
    now_us: Callable[[], int] = lambda: time.time_ns() // 1_000

    def judge(self, error: BaseException, retry: Retry, delivery: Delivery, index: int) -> Outcome:
        """RETRY with the seconds to wait, or DEAD. The note says why, for people, and never holds local variables.

        SystemExit and KeyboardInterrupt are failures like all others: a library called deep inside a handler may raise
        them (argparse does), one message must not end a process that serves many, and its end would only give the same
        message to the next one. A person's Ctrl-C reaches the process as a signal, not as an exception in a handler.
        """
        if isinstance(error, NotRun):
            return Outcome(error.verdict)
        attempts = self.failures(delivery, index) + 1
        now = self.now_us()
        after = 0.0
        match error:
            case Undecodable():
                verdict, rule = Verdict.DEAD, "decode"
            case Reject():
                verdict, rule = Verdict.DEAD, "reject"
            case _ if retry.is_final(error):
                verdict, rule = Verdict.DEAD, "unless"
            case _ if retry.gives_up(attempts, (now - delivery.accepted_at) / 1e6):
                verdict, rule = Verdict.DEAD, "attempts" if attempts >= retry.attempts else "max_age"
            case RetryLater():
                verdict, rule, after = Verdict.RETRY, "retry_later", error.after
            case _:
                verdict, rule, after = Verdict.RETRY, "retry", retry.delay_for(attempts, self.chance())
        note = {
            "reason": reason_of(error),
            "rule": rule,
            "type": type_of(error),
            # A decision has no story to tell: where it was raised is of no use to who reads it.
            "traceback": "" if rule in ("decode", "reject", "retry_later") else story_of(error, self.traceback_bytes),
            "worker": self.worker,
            "at": now,
            "attempts": attempts,
        }
        return Outcome(verdict, after, msgspec.msgpack.encode(note), is_unread=rule == "decode")

    def failures(self, delivery: Delivery, index: int) -> int:
        """How often a handler has failed on it before."""
        return delivery.failures.get(delivery.number(index), 0) if delivery.failures else 0


def reason_of(error: BaseException) -> str:
    """What went wrong in one sentence: the exception's class and text; the text alone where it was written for this."""
    try:
        text = str(error)
    except BaseException:  # anybody's: it must not end who judges
        text = "(its text cannot be had: __str__ raised)"
    if isinstance(error, Reject | RetryLater | Undecodable | Overdue):
        return _cut(text or type(error).__name__, REASON_BYTES)
    return _cut(f"{type(error).__name__}: {text}" if text else type(error).__name__, REASON_BYTES)


def text_of(error: BaseException) -> str:
    """An exception's own text."""
    try:
        return _cut(str(error), REASON_BYTES)
    except BaseException:  # anybody's: it must not end who judges
        return "(its text cannot be had: __str__ raised)"


class Overdue(TimeoutError):
    """A handler that ran longer than its `timeout`; caused by what ended it."""

    def __init__(self, timeout: float) -> None:
        super().__init__(f"timed out after {timeout:g} s")


def type_of(error: BaseException) -> str:
    """Its class as text. Ours have the names of what they stand for: nobody can look up or catch an inner class."""
    match error:
        case Overdue():
            kind: type[BaseException] = TimeoutError
        case Undecodable():
            kind = msgspec.ValidationError
        case _:
            kind = type(error)
    named = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return _cut(named, REASON_BYTES)


def story_of(error: BaseException, most_bytes: int) -> str:
    """The traceback as Python shows it, causes and all, without the frames in which we called the handler.

    Longer than `most_bytes`: the middle is cut, since the beginning says which handler and the end says what happened.
    """
    if not most_bytes:
        return ""
    try:
        # limit: a recursion a thousand deep says no more than its last frames, and costs its length to read.
        told = traceback.TracebackException(type(error), error, error.__traceback__, limit=-FRAMES, compact=True)
        _without_our_frames(told)
        return _cut("".join(told.format()), most_bytes)
    except Exception as failed:  # its class may be anybody's, and its causes a thousand: who judges must not fail
        return _cut(f"(its traceback cannot be told: {type(failed).__name__})", most_bytes)


def _without_our_frames(told: traceback.TracebackException) -> None:
    """Of all that led to it, too, which may be a chain as long as the stack was deep."""
    left, seen = [told], set[int]()
    while left:
        each = left.pop()
        seen.add(id(each))
        each.stack = traceback.StackSummary.from_list([at for at in each.stack if not at.filename.startswith(OUR_CODE)])
        causes = (each.__cause__, each.__context__, *(each.exceptions or ()))
        left += [other for other in causes if other is not None and id(other) not in seen]


def _cut(text: str, most_bytes: int) -> str:
    data = text.encode(
        "utf-8", "backslashreplace"
    )  # a lone surrogate cannot be encoded, and comes from real file names
    if len(data) <= most_bytes:
        return data.decode()
    mark = f"\n… {len(data) - most_bytes:,} bytes left out …\n".encode()
    room = max(0, most_bytes - len(mark))
    head, tail = data[: room // 3], data[len(data) - (room - room // 3) :]
    return (head + mark + tail)[:most_bytes].decode(errors="ignore")
