"""Sets of message numbers."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Numbers:
    """A set of message numbers as sorted, disjoint, non-touching half-open ranges."""

    __slots__ = ("_starts", "_stops")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for first, count in ranges:
            self.add(first, count)

    def __len__(self) -> int:
        """How many numbers, not how many ranges."""
        return sum(self._stops) - sum(self._starts)

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._stops[at]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Each range as (first, count), ascending."""
        return iter([(start, stop - start) for start, stop in zip(self._starts, self._stops, strict=True)])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Numbers) and self._starts == other._starts and self._stops == other._stops

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Numbers({list(self)})"

    def copy(self) -> Numbers:
        other = Numbers()
        other._starts, other._stops = self._starts.copy(), self._stops.copy()
        return other

    def add(self, first: int, count: int) -> None:
        start, stop = first, first + count
        if count <= 0:
            return
        low = bisect_left(self._stops, start)  # the first range that touches or follows
        high = bisect_right(self._starts, stop)
        if low < high:
            start, stop = min(start, self._starts[low]), max(stop, self._stops[high - 1])
        self._starts[low:high] = [start]
        self._stops[low:high] = [stop]

    def remove(self, first: int, count: int) -> None:
        start, stop = first, first + count
        low = bisect_right(self._stops, start)
        high = bisect_left(self._starts, stop)
        if low >= high or count <= 0:
            return
        starts: list[int] = []
        stops: list[int] = []
        if self._starts[low] < start:
            starts.append(self._starts[low])
            stops.append(start)
        if self._stops[high - 1] > stop:
            starts.append(stop)
            stops.append(self._stops[high - 1])
        self._starts[low:high] = starts
        self._stops[low:high] = stops

    def overlap(self, first: int, count: int) -> list[tuple[int, int]]:
        """The parts of first … first + count that are in the set."""
        stop = first + count
        found: list[tuple[int, int]] = []
        for at in range(bisect_right(self._stops, first), len(self._starts)):
            if self._starts[at] >= stop:
                break
            start = max(first, self._starts[at])
            found.append((start, min(stop, self._stops[at]) - start))
        return found

    def missing(self, first: int, count: int) -> list[tuple[int, int]]:
        """The parts of first … first + count that are not in the set."""
        found: list[tuple[int, int]] = []
        at, stop = first, first + count
        for start, n in self.overlap(first, count):
            if start > at:
                found.append((at, start - at))
            at = start + n
        if at < stop:
            found.append((at, stop - at))
        return found
