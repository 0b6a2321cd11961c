"""How much of reliable topics may be accepted before the queue of a subscriber is full.

A queue holds what several topics publish: `r.*` is one queue for all that it matches. So what may be accepted is
reckoned for each pattern that is subscribed to, and an event takes from all patterns that match its topic. The network
thread says after each turn how much room there is; what was accepted and is not published yet is taken off.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import inf
from typing import Any, Protocol

from zerowait.message import SEGMENT_MESSAGES
from zerowait.patterns import matches

UNTOLD = SEGMENT_MESSAGES // 2  # may be accepted for a pattern before the network thread has said how many


class Allowance:
    """Of one pattern. room: what its fullest queue took when that was last looked at; left: of that, now."""

    __slots__ = ("left", "room")

    def __init__(self) -> None:
        self.room: float = UNTOLD
        self.left: float = UNTOLD


class Reliable(Protocol):
    """A reliable topic: see `bundle.TopicLane`. version: of the patterns for which `allowances` were looked up."""

    name: str
    accepted: int
    published: int
    version: int
    allowances: tuple[Allowance, ...]


class Allowances:
    """Of a press, and under its lock."""

    def __init__(self) -> None:
        self._version = 0
        self._patterns: tuple[str, ...] = ()  # that are subscribed to
        self._of: dict[str, Allowance] = {}  # those of them that match a reliable topic
        self._stirred: dict[Reliable, None] = {}  # something of these is under way
        self._rooms: dict[Reliable, list[Any]] = {}  # who waits for room

    def __bool__(self) -> bool:
        """Whether there is anything to look at."""
        return bool(self._of or self._stirred or self._rooms)

    def used(self) -> list[str]:
        """The patterns whose room matters."""
        return list(self._of)

    def take(self, lane: Reliable, *, force: bool) -> bool:
        """For one event; False: some queue is full, and nothing was taken."""
        self._fit(lane)
        if not force and any(each.left <= 0 for each in lane.allowances):
            return False
        for each in lane.allowances:
            each.left -= 1
        lane.accepted += 1
        self._stirred[lane] = None
        return True

    def give_back(self, lane: Reliable) -> None:
        """What was taken for one event that will not be published."""
        for each in lane.allowances:
            each.left += 1
        lane.accepted -= 1

    def most(self, lane: Reliable) -> int:
        """How many events its fullest queue has room for, for who is told that this is not enough."""
        return max(0, int(min((each.room for each in lane.allowances if each.room < inf), default=0)))

    def wait(self, lane: Reliable, room: Any) -> None:
        self._rooms.setdefault(lane, []).append(room)

    def renew(self, version: int, patterns: Callable[[], Collection[str]], rooms: dict[str, int | None]) -> list[Any]:
        """What the queues have room for now. version: of the patterns that are subscribed to. Gives those who are to
        be told that there is room."""
        if version != self._version:
            self._version, self._patterns = version, tuple(patterns())
            self._of = {pattern: each for pattern, each in self._of.items() if pattern in set(self._patterns)}
        for pattern, each in self._of.items():
            if pattern in rooms:
                room = rooms[pattern]
                each.room = each.left = inf if room is None else room
        for lane in list(self._stirred):
            self._fit(lane)
            under_way = lane.accepted - lane.published
            if under_way <= 0:
                del self._stirred[lane]
                continue
            for each in lane.allowances:
                each.left -= under_way
        told: list[Any] = []
        for lane in list(self._rooms):
            self._fit(lane)
            if all(each.left > 0 for each in lane.allowances):
                told += self._rooms.pop(lane)
        return told

    def all_rooms(self) -> list[Any]:
        """Whoever waits: there will be nothing more to wait for."""
        told = [room for rooms in self._rooms.values() for room in rooms]
        self._rooms.clear()
        return told

    def _fit(self, lane: Reliable) -> None:
        """Its allowances, if other patterns are subscribed to than when it was looked at last."""
        if lane.version == self._version:
            return
        lane.version = self._version
        lane.allowances = tuple(
            self._of.setdefault(pattern, Allowance()) for pattern in self._patterns if matches(pattern, lane.name)
        )
