"""A job while it is worked on: where it stands, what is reported, and what of it may still be given away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import length_hint
from typing import Any, Protocol

from msgspec import Struct

from zerowait.engines.engine import Job
from zerowait.handlers.outputs import Tagged
from zerowait.message import Delivery


class Running(Struct, frozen=True):
    """A message that a handler works on: `delivery.number(index)` is its number; since: `time.monotonic`."""

    channel: str
    delivery: Delivery
    index: int
    since: float


class Report(Protocol):
    def __call__(self, job: Job, start: int, stop: int, outputs: list[Tagged]) -> None: ...


class Mixed(list[Any]):
    """Values of which some are an Undecodable, to be raised in its turn. A class of its own so that the ordinary loop
    need not look at each value."""


class Run:
    """One for each runner, used for one job after another.

    The hottest loop of a receiver is `for value in run.values: await call(value)`, and it keeps no books: a list's
    iterator knows how far it is (`length_hint`), and `list(iterator)` takes away, in one step that no other thread
    can divide, all that the loop has not begun. So whoever looks on can tell the message that runs, and can give away
    the rest, while the loop itself pays nothing for it.

        0 … mark … position … stop
        reported   │         └ not begun
           done, not yet reported, then the one that runs
    """

    __slots__ = (
        "_report",
        "answers",
        "began",
        "cut",
        "flow",
        "given",
        "given_up",
        "is_mixed",
        "is_wanted",
        "job",
        "mark",
        "outputs",
        "since",
        "slot",
        "stop",
        "take",
        "turned",
        "values",
        "visit",
    )

    def __init__(self, report: Report, slot: int = 0) -> None:
        self._report = report
        self.slot = slot  # of this runner, in the list of what has been begun
        self.job: Job | None = None  # None: the runner idles
        self.values: Iterator[Any] = iter(())
        self.is_mixed = False  # some of the values are an Undecodable
        self.stop = 0
        self.mark = 0
        self.since = 0.0  # when the job began
        self.began: float | None = None  # when the message that runs began, once somebody wanted to know
        self.outputs: list[Tagged] = []  # of the messages from mark to position
        self.cut = False  # we have cancelled it, because it was overdue
        self.take: Callable[[Any], object] = _nothing  # of what a handler gives, unless that is None
        self.given_up = False  # nothing about it is reported any more
        # Of requests. Answers are one each from mark on, and perhaps the one of the message that has just ended.
        self.answers: list[bytes] = []
        self.is_wanted = True  # somebody waits for the answer to the one that runs
        self.visit: Any = None  # of the one that runs, if its handler has a context
        self.flow: Any = None  # where the items of its stream go
        self.given = 0  # such items, of all streams
        self.turned = 0.0  # when it last let others have a turn of the loop

    def reports_to(self, report: Report) -> None:
        self._report = report

    def begin(self, job: Job, values: list[Any], now: float) -> None:
        self.values = iter(values)
        self.is_mixed = values.__class__ is Mixed
        self.mark, self.stop = job.start, job.stop
        self.since, self.began = now, None
        self.cut = False
        self.job = job

    @property
    def position(self) -> int:
        """The index of the message that the loop took last: it runs, or has just ended; mark - 1 before the first."""
        return self.stop - length_hint(self.values) - 1

    def take_rest(self) -> tuple[int, int]:
        """Takes away what has not begun, as (start, stop), perhaps empty. The loop ends after the message that runs."""
        rest = len(list(self.values))
        stop, self.stop = self.stop, self.stop - rest
        return self.stop, stop

    def settle(self, upto: int) -> None:
        """All before `upto` that were not reported yet have succeeded: they are reported, with what they sent."""
        mark, job = self.mark, self.job
        if mark < upto and job is not None and not self.given_up:
            self.mark = upto
            outputs = self.outputs
            if outputs:
                at = len(outputs)
                while at and outputs[at - 1][0] >= upto:
                    at -= 1  # of the message at `upto`, which has just ended while another thread looks at its run
                self.outputs = outputs[at:]
                del outputs[at:]
            self._report(job, mark, upto, outputs)


def _nothing(given: object) -> None: ...


# Calls the handler for one value. What it gives is awaited by an async runner, and looked at if it is not None.
Call = Callable[[Any], Any]
