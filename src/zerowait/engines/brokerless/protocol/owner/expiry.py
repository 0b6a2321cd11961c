"""When what waits in memory expires. On disk the outbox looks after it, in flight the worker."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from zerowait.message import Segment

Name = tuple[int, int, int, int]  # outbox, epoch, first, count


class Expiry:
    """wall_us: the time of day at a moment of the protocol's clock; it runs evenly, so its zero is enough."""

    def __init__(self, wall_us: Callable[[float], int]) -> None:
        self._wall_us = wall_us
        self._heap: list[tuple[int, Name]] = []

    def watch(self, box: int, segment: Segment, first: int, count: int) -> None:
        if segment.expires is not None:
            heappush(self._heap, (segment.expires, (box, segment.epoch, first, count)))

    def over(self, now: float) -> list[Name]:
        """Whose time is over; they may have left long since."""
        found: list[Name] = []
        while self._heap and self._heap[0][0] <= self._wall_us(now):
            found.append(heappop(self._heap)[1])
        return found

    def wake(self) -> float | None:
        return (self._heap[0][0] - self._wall_us(0.0)) / 1e6 if self._heap else None
