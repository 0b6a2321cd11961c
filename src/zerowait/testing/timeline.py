"""The one clock of a simulated world: it stands still while something happens, and then goes on to what is next."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

START: Final = 1_000.0
START_US: Final = 1_700_000_000_000_000  # the wall clock's at START, microseconds UTC


class Timeline:
    """now: seconds. What is called at the same time happens in the order in which that was asked for."""

    def __init__(self) -> None:
        self.now = START
        self.steps = 0
        self._number = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []

    def call(self, at: float, act: Callable[[], None]) -> None:
        self._number += 1
        heappush(self._queue, (max(at, self.now), self._number, act))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        self.call(self.now + seconds, act)

    def run(self, until: float) -> None:
        """Everything up to that time."""
        queue = self._queue
        while queue and queue[0][0] <= until:
            self.now, _, act = heappop(queue)
            self.steps += 1
            act()
        self.now = until

    def steady_ns(self) -> int:
        return int(self.now * 1e9)


class WallClock:
    """A machine's clock on the wall, which people and daemons set. A process looks at it once, when it begins."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self.ahead_us = 0

    def offset_us(self) -> int:
        """What to add to the microseconds of the timeline."""
        return START_US - int(START * 1e6) + self.ahead_us
