"""What is in flight: which messages of an outbox are at whom, under which dispatch number.

Three questions are asked of it, each without looking at what it is not about: what went out under this number (an
OUTCOME), what does that worker have (a HELD), and who has these numbers (a late `handled`, an adoption). The last
goes by blocks of numbers: a thousand lone messages are a thousand flights, and a worker that comes back with as many
outcomes must not cost their product."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec import Struct

from zerowait.message import Segment
from zerowait.numbers import Numbers

BLOCK = 7  # 128 numbers: a full batch enters nine, and a block of lone messages holds at most as many flights

Name = tuple[int, int, int, int]  # (holder, epoch, fence, n)
NOTHING = Numbers()  # what nearly every flight has not read; never added to


class Slice(Struct, gc=False):
    """Messages that wait: a run of a segment without a hole."""

    box: int
    segment: Segment
    first: int
    count: int

    @property
    def name(self) -> tuple[int, int]:
        return self.segment.epoch, self.first


class Flight(Struct):
    """Messages sent under one dispatch number: of one segment. What a restarted owner adopts from a worker may lie in
    several, and in none while it has not been read from disk; only what has been read counts as in flight."""

    holder: int
    epoch: int
    fence: int
    n: int
    left: Numbers
    unread: Numbers  # a part of `left`
    segments: list[Segment]

    @property
    def name(self) -> Name:
        return self.holder, self.epoch, self.fence, self.n

    def pieces(self, first: int, count: int) -> list[tuple[Segment | None, int, int]]:
        """The segment of each part; None: not read yet."""
        if not self.unread and len(self.segments) == 1:
            return [(self.segments[0], first, count)]
        found: list[tuple[Segment | None, int, int]] = [
            (None, at, many) for at, many in self.unread.overlap(first, count)
        ]
        known = self.unread.copy()
        for segment in reversed(self.segments):  # a message that failed lies in a later one, alone
            for at, many in Numbers([(first, count)]).overlap(segment.first, segment.count):
                found.extend((segment, start, n) for start, n in known.missing(at, many))
                known.add(at, many)
        assert not known.missing(first, count), "in flight, read, and in no segment"
        return found

    def copy(self) -> Flight:
        return Flight(*self.name, self.left.copy(), self.unread.copy(), list(self.segments))


class Flights:
    def __init__(self) -> None:
        self.counts: dict[str, int] = {}  # channel → messages in flight
        self.adopted = 0  # how many flights have parts that have not been read
        # Who wants to hear of the end of a flight: the rows of keys, of which nothing else may go meanwhile.
        self.waited_for: dict[Name, dict[tuple[int, int], None]] = {}
        self.lands: Callable[[tuple[int, int]], None] = lambda row: None
        self._by_name: dict[Name, Flight] = {}
        self._by_holder: dict[int, dict[Name, Flight]] = {}
        self._by_block: dict[tuple[int, int], dict[Name, Flight]] = {}

    def get(self, name: Name) -> Flight | None:
        return self._by_name.get(name)

    def of(self, holder: int) -> list[Flight]:
        return list(self._by_holder.get(holder, {}).values())

    def holders(self) -> set[int]:
        return set(self._by_holder)

    def __iter__(self) -> Iterator[Flight]:
        return iter(list(self._by_name.values()))

    def over(self, epoch: int, first: int, count: int) -> Iterator[tuple[Flight, int, int]]:
        """Who has which of these: (flight, first, count)."""
        flights: dict[Name, Flight] = {}
        for block in range(first >> BLOCK, ((first + count - 1) >> BLOCK) + 1):
            flights.update(self._by_block.get((epoch, block), {}))
        for flight in flights.values():
            for at, many in flight.left.overlap(first, count):
                yield flight, at, many

    def add(self, name: Name, first: int, count: int, segments: list[Segment]) -> Flight:
        """These are in flight under that name from now on. Who calls this counts those that have been read."""
        flight = self._by_name.get(name)
        if flight is None:
            flight = self._by_name[name] = Flight(*name, Numbers(), NOTHING, segments)
            self._by_holder.setdefault(name[0], {})[name] = flight
        else:
            flight.segments.extend(each for each in segments if not any(each is known for known in flight.segments))
        flight.left.add(first, count)
        for block in range(first >> BLOCK, ((first + count - 1) >> BLOCK) + 1):
            self._by_block.setdefault((flight.epoch, block), {})[name] = flight
        return flight

    def unread(self, flight: Flight, first: int, count: int) -> None:
        """These of it lie on disk, if they are there still."""
        self.adopted += not flight.unread
        if flight.unread is NOTHING:
            flight.unread = Numbers()
        flight.unread.add(first, count)

    def count(self, channel: str, count: int) -> None:
        now = self.counts.get(channel, 0) + count
        assert now >= 0, "more came back than was sent"
        if now:
            self.counts[channel] = now
        else:
            self.counts.pop(channel, None)

    def attach(self, flight: Flight, segment: Segment, first: int, count: int) -> None:
        """These of it have been read from disk, in this segment."""
        if not any(segment is known for known in flight.segments):
            flight.segments.append(segment)
        self._read(flight, first, count)
        self.count(segment.channel, count)

    def _read(self, flight: Flight, first: int, count: int) -> None:
        if flight.unread:
            flight.unread.remove(first, count)
            self.adopted -= not flight.unread

    def leave(self, flight: Flight, segment: Segment | None, first: int, count: int) -> None:
        """These are in flight no more."""
        if segment is not None:
            self.count(segment.channel, -count)
        self.take_out(flight, first, count)

    def take_out(self, flight: Flight, first: int, count: int) -> None:
        flight.left.remove(first, count)
        self._read(flight, first, count)
        if not flight.left:
            self._remove(flight, first, count)
            return
        for block in range(first >> BLOCK, ((first + count - 1) >> BLOCK) + 1):
            if not flight.left.overlap(block << BLOCK, 1 << BLOCK):
                self._out_of_block(flight, block)

    def _remove(self, flight: Flight, first: int, count: int) -> None:
        name = flight.name
        del self._by_name[name]
        mine = self._by_holder[name[0]]
        del mine[name]
        if not mine:
            del self._by_holder[name[0]]
        for block in range(first >> BLOCK, ((first + count - 1) >> BLOCK) + 1):
            self._out_of_block(flight, block)
        if self.waited_for:
            for row in self.waited_for.pop(name, ()):
                self.lands(row)

    def _out_of_block(self, flight: Flight, block: int) -> None:
        flights = self._by_block.get((flight.epoch, block))
        if flights is not None and flights.pop(flight.name, None) is not None and not flights:
            del self._by_block[flight.epoch, block]
