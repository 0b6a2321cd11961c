"""Timers of many, for the price of those whose time has come: three thousand who are well cost a turn nothing."""

from __future__ import annotations

from heapq import heappop, heappush
from math import inf


class Due:
    """For each key at most one time. One that was moved or taken back stays in the heap, and is passed over when its
    old time has come: so whoever is put off again and again is better looked at when it is due."""

    __slots__ = ("_at", "_heap", "_serial")

    def __init__(self) -> None:
        self._at: dict[int, float] = {}
        self._heap: list[tuple[float, int, int]] = []
        self._serial = 0  # of those due at the same time, who was set first is first

    def set(self, key: int, at: float) -> None:
        self._at[key] = at
        self._serial += 1
        heappush(self._heap, (at, self._serial, key))

    def discard(self, key: int) -> None:
        self._at.pop(key, None)

    def take(self, now: float) -> list[int]:
        """Those whose time has come, the earliest first. They have none any more."""
        taken: list[int] = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, key = heappop(heap)
            if self._at.get(key) == at:
                del self._at[key]
                taken.append(key)
        return taken

    def next(self) -> float:
        """When the next one is due; infinity: there is none."""
        heap = self._heap
        while heap and self._at.get(heap[0][2]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else inf
