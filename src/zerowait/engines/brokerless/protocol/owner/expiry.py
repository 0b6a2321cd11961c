"""When what waits in memory expires. On disk the outbox looks after it, in flight the worker."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import inf

from zerowait.message import Segment
from zerowait.numbers import Numbers

Name = tuple[int, int, int, int]  # outbox, epoch, first, count
FEW = 1_024  # entries that nobody looks through


class Expiry:
    """wall_us: the time of day at a moment of the protocol's clock; it runs evenly, so its zero is enough. living: of
    an outbox, what may still expire here, by epoch; None: all of it.

    Most of what has a deadline is over long before it: the entries of that go when there are twice as many as were kept
    the last time, so that each is looked at once or twice."""

    def __init__(self, wall_us: Callable[[float], int], living: Callable[[int], dict[int, Numbers] | None]) -> None:
        self._wall_us = wall_us
        self._living = living
        self._heap: list[tuple[int, Name]] = []
        self._most = FEW

    def watch(self, box: int, segment: Segment, first: int, count: int) -> None:
        """It waits now, or is in flight."""
        if segment.expires is not None:
            heappush(self._heap, (segment.expires, (box, segment.epoch, first, count)))
            if len(self._heap) > self._most:
                self._forget()

    def _forget(self) -> None:
        living = {box: self._living(box) for box in {name[0] for _, name in self._heap}}

        def lives(name: Name) -> bool:
            box, epoch, first, count = name
            mine = living[box]
            return mine is None or (epoch in mine and bool(mine[epoch].overlap(first, count)))

        self._heap = [each for each in self._heap if lives(each[1])]
        heapify(self._heap)
        self._most = max(FEW, len(self._heap) * 2)

    def over(self, now: float) -> list[Name]:
        """Whose time is over; they may have left long since."""
        found: list[Name] = []
        while self._heap and self._heap[0][0] <= self._wall_us(now):
            found.append(heappop(self._heap)[1])
        return found

    def wake(self) -> float:
        return (self._heap[0][0] - self._wall_us(0.0)) / 1e6 if self._heap else inf
