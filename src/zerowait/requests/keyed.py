"""Requests with a key: of each key what was asked first is offered to the protocol, and what was asked after it when
all of that is over.

What is offered together goes out in order, one at a time (rules §8.2), as messages of an outbox do. There is no file in
which the rest could wait, so it waits here, where its time may run out, and it may be cancelled, as well."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, Protocol, TypeVar

from msgspec.structs import replace

from zerowait.message import Segment

FEW = 1_024  # deadlines that nobody looks through

Name = tuple[str, bytes]  # (channel, key)


class Piece(Protocol):
    """Requests that were taken together: what a segment offers."""

    def living(self, after: int) -> tuple[int, int] | None:
        """From that index on, the first that have not ended, without one between them that has: start, stop."""
        ...


P = TypeVar("P", bound=Piece)


class KeyQueues(Generic[P]):
    """On the network thread."""

    def __init__(self) -> None:
        self._behind: dict[Name, deque[tuple[P, Segment, int]]] = {}  # from which index on it waits
        self._times: list[tuple[int, int, Name]] = []  # when one of a key runs out of its time, microseconds
        self._most = FEW  # of them, before those are forgotten that wait no more

    def __bool__(self) -> bool:
        return bool(self._behind)

    def join(self, piece: P, segment: Segment) -> bool:
        """It waits until `next` gives it. True: nothing of its key was here before."""
        name = name_of(segment)
        behind = self._behind.get(name)
        is_first = behind is None
        if behind is None:
            behind = self._behind[name] = deque()
        behind.append((piece, segment, 0))
        if segment.expires is not None:
            heappush(self._times, (segment.expires, segment.first, name))
            if len(self._times) > self._most:
                self._forget()
        return is_first

    def _forget(self) -> None:
        """Most of what has a deadline goes long before it: twice as many as wait are kept at most."""
        waiting = {(segment.first, name) for name, behind in self._behind.items() for _, segment, _ in behind}
        self._times = [each for each in self._times if each[1:] in waiting]
        heapify(self._times)
        self._most = max(FEW, len(self._times) * 2)

    def next(self, name: Name) -> tuple[P, Segment, int, int] | None:
        """Nothing of this key is offered now: what is to be, as a segment of which all is gone but start … stop - 1 (by
        their index in it). None: nothing waits, and the key is forgotten."""
        behind = self._behind[name]
        while behind:
            piece, segment, after = behind.popleft()
            found = piece.living(after)
            if found is None:
                continue
            start, stop = found
            if stop < segment.count:
                behind.appendleft((piece, segment, stop))
            first, last = segment.first, segment.first + segment.count
            outside = ((first, start), (first + stop, last - first - stop))
            gone = tuple((at, count) for at, count in outside if count)
            # seq: by which the runs of a key are told apart, as the rows of an outbox are.
            return piece, replace(segment, gone=gone, seq=first + start), start, stop
        del self._behind[name]
        return None

    def waiting(self, name: Name) -> list[tuple[P, int]]:
        """All that waits, and from which index on."""
        return [(piece, after) for piece, _, after in self._behind.get(name, ())]

    def expired(self, now_us: int) -> Iterator[tuple[P, int]]:
        """Those whose time is over while they wait, and from which index on."""
        while self._times and self._times[0][0] <= now_us:
            _, first, name = heappop(self._times)
            yield from ((p, after) for p, segment, after in list(self._behind.get(name, ())) if segment.first == first)

    def next_at(self) -> int | None:
        """When the next one's time is over, microseconds."""
        return self._times[0][0] if self._times else None

    def clear(self) -> None:
        self._behind.clear()
        self._times.clear()


def name_of(segment: Segment) -> Name:
    assert segment.key is not None, "of a key"
    return segment.channel, segment.key
