"""Messages with a key that wait in memory: of each key one run of them goes out, to one link (rules §8.2).

An outbox offers one row of a key at a time, its head, and what it offers has one key. So what is left to see to here is
within a row: nothing of it leaves while any of it is in flight, and then its first messages without a hole between
them. If one of them has got a row of its own meanwhile, because it is to run again or stands under suspicion, the rest
may not overtake it. It goes back to the outbox, which knows the head of the key; and so does what lies behind a hole
that the row had when it was read:

    ready ──▶ waits ──▶ queued ──cut by credit──▶ in flight ──all settled──▶ waits: what follows
                ▲                                    │
                └──── handed back, lost, dropped ────┤ one has left for a row of its own
                                                     └──▶ shelved: the outbox has it again

What is blocked is not looked at until the last of what it waits for is over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from msgspec import Struct

from zerowait.engines.brokerless.protocol.owner.flights import Flights, Slice
from zerowait.message import Segment
from zerowait.numbers import Numbers

QUICK = 0.05  # seconds: a run of a key that was over so soon is followed by a longer one, if there is credit for it …
GROWTH = 4  # … at most so many times as long
BLOCK = 10  # a row holds 1,024 messages at most: it lies in two blocks of as many numbers

Name = tuple[int, int]  # (outbox, row)


class Line(Struct, eq=False):
    """The messages of one row that has a key."""

    box: int
    segment: Segment
    waiting: Numbers
    queued: Slice | None = None  # what of them stands in the queue of its channel
    broken: bool = False  # one has left it for a row of its own
    sent: int = 0  # how many are in flight, since when
    sent_at: float = 0.0
    is_quick: bool = False  # the last run was
    expects: int = 0  # for how many more credit would be of use when these are over
    upto: int = 0  # from there on they wait behind a hole, in which one with a row of its own may wait

    @property
    def name(self) -> Name:
        return self.box, self.segment.seq

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        segment = self.segment
        for block in range(segment.first >> BLOCK, ((segment.first + segment.count - 1) >> BLOCK) + 1):
            yield self.box, segment.epoch, block

    def slices(self) -> list[Slice]:
        return [Slice(self.box, self.segment, first, count) for first, count in self.waiting]


def _first_hole(segment: Segment) -> int:
    """The first number that was gone from the row when it was read, and that a message of it comes before."""
    first = segment.first
    for start, count in segment.gone:
        if start > first:
            return start
        first = start + count
    return segment.first + segment.count


class Keys:
    """What changes here is looked at once, by `settle`, before anything is sent."""

    def __init__(self) -> None:
        self._lines: dict[Name, Line] = {}
        self._by_block: dict[tuple[int, int, int], dict[Name, Line]] = {}
        self._flights: dict[int, Flights] = {}
        self._touched: dict[Name, None] = {}
        self._expected: Counter[tuple[int, str]] = Counter()
        self.now = 0.0  # when what is being sent is sent

    def __bool__(self) -> bool:
        return bool(self._lines)

    def open(self, box: int, flights: Flights) -> None:
        """That outbox is open here, and this is what is in flight of it."""
        self._flights[box] = flights
        flights.lands = self._touch

    def disown(self, box: int) -> None:
        self._flights.pop(box, None)
        for line in [line for line in self._lines.values() if line.box == box]:
            self._forget(line)

    # -- what is asked -----------------------------------------------------------------------------------------------

    def slices(self, box: int) -> list[Slice]:
        """All that waits of this outbox."""
        return [piece for line in self._lines.values() if line.box == box for piece in line.slices()]

    def count(self, channel: str) -> int:
        """How many messages of this channel wait."""
        return sum(len(line.waiting) for line in self._lines.values() if line.segment.channel == channel)

    def queued(self, channel: str) -> int:
        """How many of these stand in the channel's queue."""
        return sum(
            line.queued.count
            for line in self._lines.values()
            if line.queued is not None and line.segment.channel == channel
        )

    def expected(self, channel: str, boxes: Collection[int]) -> int:
        """How many of those that wait will go as soon as what is in flight of their keys is over, which will be soon:
        without credit for them, a key would have a round trip for each of its messages."""
        return sum(self._expected[box, channel] for box in boxes) if self._expected else 0

    def channels(self) -> set[str]:
        return {line.segment.channel for line in self._lines.values() if line.waiting}

    def boxes(self, channel: str) -> set[int]:
        return {line.box for line in self._lines.values() if line.waiting and line.segment.channel == channel}

    # -- what happens ------------------------------------------------------------------------------------------------

    def put(self, piece: Slice) -> Line:
        """These wait from now on."""
        line = self._line(piece.box, piece.segment)
        line.waiting.add(piece.first, piece.count)
        return line

    def breaks(self, box: int, segment: Segment) -> None:
        """A message of that row gets a row of its own, in which it waits: the others may not overtake it. That is kept
        in mind also while none of them waits here, because they are in flight, or are owed to the past."""
        if segment.key is not None:
            self._line(box, segment).broken = True

    def _line(self, box: int, segment: Segment) -> Line:
        """Of that row; it is looked at before anything is sent."""
        name = (box, segment.seq)
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = Line(box, segment, Numbers(), upto=_first_hole(segment))
            for block in line.blocks():
                self._by_block.setdefault(block, {})[name] = line
        self._touched[name] = None
        return line

    def outrun(self, box: int, channel: str, key: bytes) -> None:
        """An earlier message of that key waits in the outbox again: what of the key is here, and is not in flight, may
        not overtake it; nor what comes back of what is."""
        here = {segment.seq: segment for flight in self._flights[box] for segment in flight.segments}
        here |= {line.segment.seq: line.segment for line in self._lines.values() if line.box == box}
        for segment in here.values():
            if segment.channel == channel and segment.key == key:
                self.breaks(box, segment)

    def remove(self, box: int, epoch: int, first: int, count: int) -> list[tuple[Line, Slice]]:
        """These do not wait any more. Gives those that did; what is queued of their rows is to be queued anew."""
        found: dict[Name, Line] = {}
        for block in range(first >> BLOCK, ((first + count - 1) >> BLOCK) + 1):
            found.update(self._by_block.get((box, epoch, block), {}))
        return [(line, piece) for line in found.values() for piece in self._take(line, first, count)]

    def empty(self, box: int, channel: str, last: tuple[int, int]) -> list[tuple[Line, Slice]]:
        """None of this channel waits any more, up to the message of that name. Gives what did."""
        lines = [line for line in self._lines.values() if line.box == box and line.segment.channel == channel]
        taken = [(line, piece) for line in lines for piece in line.slices() if piece.name <= last]
        return [(line, part) for line, piece in taken for part in self._take(line, piece.first, piece.count)]

    def _take(self, line: Line, first: int, count: int) -> list[Slice]:
        taken = [Slice(line.box, line.segment, at, many) for at, many in line.waiting.overlap(first, count)]
        if taken:
            line.waiting.remove(first, count)
            self._touched[line.name] = None
        return taken

    def _touch(self, name: Name) -> None:
        """What it waited for is not in flight any more."""
        if name in self._lines:
            self._touched[name] = None

    # -- what follows ------------------------------------------------------------------------------------------------

    @property
    def is_touched(self) -> bool:
        return bool(self._touched)

    def settle(self) -> tuple[list[Slice], list[tuple[Name, Segment | None]]]:
        """What may be queued now, and the rows that go back to their outbox if anything of them waits (None: not here):
        they have been broken, or what is left of them is behind a hole, and nothing of them is in flight. What is in
        flight may end while its row is read again, and would be offered a second time."""
        touched, self._touched = self._touched, {}
        queue: list[Slice] = []
        shelve: list[tuple[Name, Segment | None]] = []
        for name in touched:
            line = self._lines.get(name)
            if line is None:
                continue
            if self._is_blocked(line) or (line.queued is not None and not line.broken):
                continue
            self._landed(line)
            first, count = next(iter(line.waiting)) if line.waiting else (0, 0)
            if line.broken or first >= line.upto:
                shelve.append((name, line.segment if line.waiting else None))
            elif count:
                line.queued = Slice(line.box, line.segment, first, min(count, line.upto - first))
                queue.append(line.queued)
                continue
            self._forget(line)
        return queue, shelve

    def leaves(self, piece: Slice) -> bool:
        """It stands first in its queue: whether any of it may leave. Else it stands there no more."""
        line = self._lines[piece.box, piece.segment.seq]
        line.queued = None
        return not self._is_blocked(line) and not line.broken

    def left(self, piece: Slice) -> None:
        """It is on its way to a worker; what was cut off it waits."""
        line = self._lines[piece.box, piece.segment.seq]
        line.queued = None
        line.waiting.remove(piece.first, piece.count)
        self._touched[line.name] = None
        line.sent, line.sent_at = piece.count, self.now
        if line.is_quick and line.waiting:
            line.expects = min(len(line.waiting), GROWTH * piece.count)
            self._expected[line.box, line.segment.channel] += line.expects

    def _landed(self, line: Line) -> None:
        if line.sent:
            line.is_quick, line.sent = self.now - line.sent_at < QUICK, 0
            if line.expects:
                self._expected[line.box, line.segment.channel] -= line.expects
                line.expects = 0

    def stays(self, piece: Slice) -> None:
        """That of it is queued which is left of it there."""
        self._lines[piece.box, piece.segment.seq].queued = piece

    def _is_blocked(self, line: Line) -> bool:
        """Whether any of its row is in flight; then we hear of the end of that."""
        flights, segment = self._flights[line.box], line.segment
        flight = next((flight for flight, _, _ in flights.over(segment.epoch, segment.first, segment.count)), None)
        if flight is None:
            return False
        flights.waited_for.setdefault(flight.name, {})[line.name] = None
        return True

    def _forget(self, line: Line) -> None:
        self._landed(line)
        del self._lines[line.name]
        self._touched.pop(line.name, None)
        for block in line.blocks():
            lines = self._by_block[block]
            del lines[line.name]
            if not lines:
                del self._by_block[block]
