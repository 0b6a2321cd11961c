"""The network of a simulated world: connections that lose nothing and keep their order until they break, as TCP's do.

A partition holds frames up; what was on its way when a connection breaks is lost; one that breaks for one end only goes
on bringing what that end had said. Loss, repetition and disorder never reach ZeroMQ over TCP as such."""

from __future__ import annotations

from collections import deque
from functools import partial
from itertools import count
from random import Random
from typing import Protocol

from zerowait.engines.brokerless.protocol.frames import MAGIC
from zerowait.testing.timeline import Timeline

ARRAY16 = 0xDC  # how a msgpack array of more than 15 begins


def younger(data: bytes) -> bytes:
    """A frame as a later version might say it: with a field more at its end, and that it understands a version more."""
    at = 0
    head = b""
    if data.startswith(MAGIC):
        at = len(MAGIC) + 2
        head = MAGIC + bytes((data[at - 2], data[at - 1] + 1))
    first = data[at]
    if first == ARRAY16:
        fields, at = int.from_bytes(data[at + 1 : at + 3], "big"), at + 3
    else:
        fields, at = first & 15, at + 1
    return b"%b%c%b%b%b" % (head, ARRAY16, (fields + 1).to_bytes(2, "big"), data[at:], b"\xa1?")


class Station(Protocol):
    """A process, as the network knows it."""

    @property
    def key(self) -> int: ...
    @property
    def alive(self) -> bool: ...
    def connected(self, conn: int, *, ours: bool) -> None: ...
    def hears(self, conn: int, data: bytes) -> None: ...
    def loses(self, conn: int, words: str) -> None: ...


class End:
    """One end of a connection."""

    __slots__ = ("arrived_at", "broken", "conn", "held", "other", "station", "was_open")

    other: End

    def __init__(self, station: Station, conn: int) -> None:
        self.station = station
        self.conn = conn
        self.was_open = False  # its station knows of it
        self.broken = False  # for its station the connection is over
        self.held: deque[bytes | None] = deque()  # what a partition keeps from arriving here; None: the end
        self.arrived_at = 0.0  # when the last of what is on its way here arrives


class Network:
    def __init__(self, timeline: Timeline, rng: Random, latency_s: float) -> None:
        self._timeline = timeline
        self._rng = rng
        self._latency_s = latency_s
        self._conns = count(1)
        self._ends: dict[tuple[int, int], End] = {}  # (station, its number for the connection)
        self._slow: dict[tuple[int, int], float] = {}  # (from, to) → seconds
        self._walls: dict[tuple[int, int], int] = {}  # (from, to) → how many partitions
        self.said: dict[int, deque[bytes]] = {}  # what a station said of late, for who wants to say it again

    # -- what stations do --------------------------------------------------------------------------------------------

    def dial(self, a: Station, b: Station, *, first: tuple[bytes, ...] = ()) -> None:
        """a dials b, who learns of it with a's first frame. first: what an earlier session has left in the pipe."""
        near, far = End(a, next(self._conns)), End(b, next(self._conns))
        near.other, far.other = far, near
        self._ends[a.key, near.conn] = near
        self._ends[b.key, far.conn] = far
        near.was_open = True
        for data in first:
            self._carry(near, data)
        a.connected(near.conn, ours=True)

    def send(self, station: Station, conn: int, data: bytes) -> None:
        end = self._ends.get((station.key, conn))
        if end is not None and not end.broken:
            said = self.said.get(station.key)
            if said is None:
                said = self.said[station.key] = deque(maxlen=8)
            said.append(data)
            self._carry(end, data)

    def close(self, station: Station, conn: int) -> None:
        """What was said before arrives before the end does."""
        end = self._ends.pop((station.key, conn), None)
        if end is not None and not end.broken:
            end.broken = True
            self._carry(end, None)

    def _carry(self, end: End, data: bytes | None) -> None:
        way = (end.station.key, end.other.station.key)
        delay = self._latency_s * (0.5 + self._rng.random()) + self._slow.get(way, 0.0)
        at = end.other.arrived_at = max(self._timeline.now + delay, end.other.arrived_at)
        self._timeline.call(at, partial(self._arrives, end.other, data))

    def _arrives(self, end: End, data: bytes | None) -> None:
        if end.broken or not end.station.alive:
            return
        if end.held or self._walls.get((end.other.station.key, end.station.key)):
            end.held.append(data)
            return
        station = end.station
        if data is None:
            self._over(end, "closed")
            return
        if not end.was_open:
            end.was_open = True
            station.connected(end.conn, ours=False)
        station.hears(end.conn, data)

    def _over(self, end: End, words: str) -> None:
        self._ends.pop((end.station.key, end.conn), None)
        if not end.broken:
            end.broken = True
            if end.was_open and end.station.alive:
                end.station.loses(end.conn, words)

    # -- what is done to it ------------------------------------------------------------------------------------------

    def between(self, a: Station, b: Station) -> list[End]:
        """a's ends of its connections with b."""
        return [end for end in self._ends.values() if end.station is a and end.other.station is b and not end.broken]

    def cut(self, end: End) -> None:
        """What is on its way is lost, and both ends notice."""
        self._over(end, "cut")
        self._over(end.other, "cut")

    def half_cut(self, end: End, late_s: float) -> None:
        """Only this end notices. What it has said still arrives, so much later; the other end speaks to nobody."""
        other = end.other
        self._over(end, "cut")
        other.arrived_at = max(other.arrived_at, self._timeline.now + late_s)
        self._timeline.call(other.arrived_at + 0.001, partial(self._arrives, other, None))

    def slow(self, a: Station, b: Station, seconds: float) -> None:
        """What a says to b takes so much longer; 0: no more."""
        self._slow[a.key, b.key] = seconds

    def wall(self, a: Station, b: Station) -> None:
        """What a says does not reach b."""
        self._walls[a.key, b.key] = self._walls.get((a.key, b.key), 0) + 1

    def unwall(self, a: Station, b: Station) -> None:
        way = (a.key, b.key)
        self._walls[way] = max(0, self._walls.get(way, 0) - 1)
        if not self._walls[way]:
            for end in [end for end in self._ends.values() if end.station is b and end.other.station is a]:
                held, end.held = end.held, deque()
                for data in held:
                    self._arrives(end, data)

    def is_walled(self, a: Station, b: Station) -> bool:
        return bool(self._walls.get((a.key, b.key)) or self._walls.get((b.key, a.key)))

    def heal(self) -> None:
        self._slow.clear()
        stations = {end.station.key: end.station for end in self._ends.values()}
        for a, b in [way for way, walls in self._walls.items() if walls]:
            self._walls[a, b] = 1
            if a in stations and b in stations:
                self.unwall(stations[a], stations[b])
            else:
                self._walls[a, b] = 0

    def died(self, station: Station, *, silently: bool) -> None:
        """Its connections break; those at their other ends notice, unless the whole machine fell silent."""
        for end in [end for end in self._ends.values() if end.station is station]:
            if silently:
                del self._ends[station.key, end.conn]
                end.broken = True
            else:
                self.close(station, end.conn)
