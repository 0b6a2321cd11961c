"""What was published, once for all who want it: blocks of events, and for each pattern which of them match.

    Block    events as they were published together: their payloads, their ends, their topics
    Part     those of a block that match a pattern; c: the count of the first of them in the pattern's stream
    Ring     the last events of a declared topic, for who joins later

Nothing is copied for a subscription: it is a position in its pattern's stream (`cursor`). What is kept for long and is
a small part of its block is taken out of it (`compact`, `pieces`), so that one event does not keep a quarter of a
megabyte.

Where topics are published in turn a block has as many runs as events, thousands, and so many ranges match a pattern.
Both are in the order of their positions: whoever needs both walks them together (`walk`), and finds its place in one of
them by bisection. To go through one for each of the other is what made a publisher of two topics in turn stand still.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, repeat

from msgspec import Struct

from zerowait.engines.brokerless.protocol.frames import Events, encode
from zerowait.message import ARRAY32, BODY_HEADER, BODY_START
from zerowait.patterns import matches

Range = tuple[int, int]  # positions in a block: start, stop
Ranges = tuple[Range, ...]
Run = tuple[str, int, int, bool, bool]

GAP_MOST = 64  # positions, 4 bytes each, that are kept between two events rather than to begin a block of its own


class Block(Struct):
    """Events that were published together. runs: (topic, start, stop, whether its last value is retained, whether the
    publisher waits for its subscribers), ascending; what is in none of them was left out when this was taken out of
    another block."""

    body: bytes | bytearray | memoryview  # a msgpack array of payloads
    ends: memoryview  # of uint32: where each payload ends in the body
    runs: tuple[Run, ...]
    sent_at: int  # microseconds UTC
    at: float  # the same moment on the protocol's clock
    headers: Mapping[int, dict[str, str]] | None = None
    first: int = 0  # the publisher's number of the first event

    @property
    def count(self) -> int:
        return len(self.ends)

    def size(self, start: int, stop: int) -> int:
        """Bytes of these payloads."""
        return self.ends[stop - 1] - (self.ends[start - 1] if start else BODY_START)

    def run(self, at: int) -> int:
        """Which run the event at this position is in."""
        return max(0, bisect_right(self.runs, at, key=_start) - 1)

    def walk(self, ranges: Ranges) -> Iterator[tuple[Run, int, int]]:
        """What runs and ranges have in common, in its order: the run, start, stop."""
        runs = self.runs
        at, last = self.run(ranges[0][0]), len(runs) - 1
        for start, stop in ranges:
            while at < last and runs[at][2] <= start:
                at += 1
            while True:
                run = runs[at]
                a, b = max(start, run[1]), min(stop, run[2])
                if a < b:
                    yield run, a, b
                if run[2] >= stop or at == last:
                    break
                at += 1

    def taken_out(self, ranges: Ranges) -> Block:
        """Of this block only these, from the first to the last of them; what lies between has a position, and no
        bytes."""
        first, last = ranges[0][0], ranges[-1][1]
        body, ends = bytearray(BODY_START), array("I")
        for start, stop in ranges:
            ends.extend(repeat(len(body), start - first - len(ends)))
            base = self.ends[start - 1] if start else BODY_START
            moved = len(body) - base
            ends.extend([end + moved for end in self.ends[start:stop]])
            body += memoryview(self.body)[base : self.ends[stop - 1]]
        BODY_HEADER.pack_into(body, 0, ARRAY32, len(ends))
        runs = tuple(
            (topic, a - first, b - first, retain, reliable)
            for (topic, _, _, retain, reliable), a, b in self.walk(ranges)
        )
        headers: dict[int, dict[str, str]] = {}
        if said := self.headers:
            headers = {at - first: said[at] for a, b in ranges for at in range(a, b) if at in said}
        assert len(ends) == last - first
        return Block(body, memoryview(ends), runs, self.sent_at, self.at, headers or None, self.first + first)


def block_of(
    payloads: Iterable[bytes],
    runs: tuple[Run, ...],
    sent_at: int,
    at: float,
    headers: Mapping[int, dict[str, str]] | None = None,
) -> Block:
    """A block of these payloads."""
    body, ends = bytearray(BODY_START), array("I")
    for payload in payloads:
        body += payload
        ends.append(len(body))
    BODY_HEADER.pack_into(body, 0, ARRAY32, len(ends))
    return Block(body, memoryview(ends), runs, sent_at, at, headers)


class Part(Struct):
    block: Block
    ranges: Ranges
    count: int
    c: int  # the count of the first; 0: these have none (a retained value)
    known_bytes: int = -1  # these two are reckoned when they are asked for first
    known_before: list[int] | None = None

    @property
    def last(self) -> int:
        return self.c + self.count - 1

    @property
    def nbytes(self) -> int:
        if self.known_bytes < 0:
            self.known_bytes = sum(self.block.size(start, stop) for start, stop in self.ranges)
        return self.known_bytes

    def _before(self) -> list[int]:
        """For each range how many of these are before it; and how many there are."""
        if self.known_before is None:
            self.known_before = list(accumulate((stop - start for start, stop in self.ranges), initial=0))
        return self.known_before

    def cut(self, skip: int, most: int) -> Ranges:
        """The ranges of so many of them, after the first `skip`."""
        ranges = self.ranges
        if not skip and most >= self.count:
            return ranges
        if len(ranges) == 1:
            start, stop = ranges[0]
            return ((start + skip, min(stop, start + skip + most)),)
        before, end = self._before(), min(self.count, skip + most)
        one, other = bisect_right(before, skip) - 1, bisect_left(before, end) - 1  # the first range, and the last
        start, stop = ranges[one][0] + skip - before[one], ranges[other][0] + end - before[other]
        if one == other:
            return ((start, stop),)
        return ((start, ranges[one][1]), *ranges[one + 1 : other], (ranges[other][0], stop))

    def event(self, skip: int) -> int:
        """The publisher's number of the event after the first `skip`."""
        at = 0
        if len(self.ranges) > 1 and skip:
            before = self._before()
            at = bisect_right(before, skip) - 1
            skip -= before[at]
        return self.block.first + self.ranges[at][0] + skip

    def newest(self) -> list[tuple[str, int, Part]]:
        """Of each topic: how many there are, and the last of them, by itself. In the order of those."""
        found: dict[str, tuple[int, Run, int, int]] = {}
        c = self.c - 1
        for run, a, b in self.block.walk(self.ranges):
            many = found.pop(run[0], (0,))[0]
            c += b - a
            found[run[0]] = many + b - a, run, b - 1, c
        return [(topic, many, _one(self.block, run, at, c)) for topic, (many, run, at, c) in found.items()]

    def reliable(self) -> list[Part]:
        """Those whose publisher waits for its subscribers, in pieces."""
        found: list[Part] = []
        c = self.c
        for run, a, b in self.block.walk(self.ranges):
            if run[4]:
                if found and found[-1].ranges[0][1] == a:
                    last = found[-1]
                    last.ranges, last.count = ((last.ranges[0][0], b),), last.count + b - a
                else:
                    found.append(Part(self.block, ((a, b),), b - a, c))
            c += b - a
        return found

    def compact(self) -> Part:
        """The same without the rest of its block, if that is most of it."""
        block, span = self.block, (self.ranges[0][0], self.ranges[-1][1])
        if 4 * self.nbytes >= len(block.body) or (len(self.ranges) > 1 and not _in_one(self.ranges)):
            return self
        small = block.taken_out((span,))
        return Part(small, ((0, small.count),), self.count, self.c)

    def pieces(self) -> list[Part]:
        """Likewise, and also of what lies far apart: those that lie near one another stay together. They have no
        counts."""
        ranges = self.ranges
        if 4 * self.nbytes >= len(self.block.body):
            return [self]
        found: list[Part] = []
        begun = 0
        for at in range(1, len(ranges) + 1):
            if at == len(ranges) or ranges[at][0] - ranges[at - 1][1] > GAP_MOST:
                near = ranges[begun:at]
                first, begun = near[0][0], at
                moved = tuple((start - first, stop - first) for start, stop in near)
                count = sum(stop - start for start, stop in moved)
                found.append(Part(self.block.taken_out(near), moved, count, 0))
        return found


def _one(block: Block, run: Run, at: int, c: int) -> Part:
    """This event as `compact` leaves it, without looking at all others of its block."""
    size = block.size(at, at + 1)
    if 4 * size >= len(block.body):
        return Part(block, ((at, at + 1),), 1, c)
    body = bytearray(BODY_HEADER.pack(ARRAY32, 1))
    body += memoryview(block.body)[block.ends[at] - size : block.ends[at]]
    headers = {0: block.headers[at]} if block.headers and at in block.headers else None
    small = Block(
        body, memoryview(array("I", [len(body)])), ((run[0], 0, 1, run[3], run[4]),), block.sent_at, block.at, headers,
        block.first + at,
    )  # fmt: skip
    return Part(small, ((0, 1),), 1, c)


def _start(run: Run) -> int:
    return run[1]


def _in_one(ranges: Ranges) -> bool:
    return sum(stop - start for start, stop in ranges) == ranges[-1][1] - ranges[0][0]


def frame(block: Block, ranges: Ranges, subscriptions: dict[int, int], epoch: int) -> bytes:
    """These events of the block as they travel."""
    topics: list[tuple[str, int]] = []
    only = block.runs[0]
    walk = block.walk(ranges) if len(block.runs) > 1 else ((only, *each) for each in ranges)
    for run, start, stop in walk:
        if topics and topics[-1][0] == run[0]:  # what lay between is not in it
            topics[-1] = run[0], topics[-1][1] + stop - start
        else:
            topics.append((run[0], stop - start))
    start, stop = ranges[0][0], ranges[-1][1]
    last = block.first + stop - 1
    headers: dict[int, dict[str, str]] = {}
    if block.headers:
        positions = [at for a, b in ranges for at in range(a, b)]
        headers = {place: block.headers[at] for place, at in enumerate(positions) if at in block.headers}
    if len(ranges) == 1:
        base = block.ends[start - 1] if start else BODY_START
        if stop - start == block.count:
            body = memoryview(block.body)
        else:
            part = bytearray(BODY_HEADER.pack(ARRAY32, stop - start))
            part += memoryview(block.body)[base : block.ends[stop - 1]]
            body = memoryview(part)
        ends, shift = block.ends[start:stop].cast("B"), base - BODY_START
    else:
        joined, own, whole = bytearray(BODY_START), array("I"), memoryview(block.body)
        for a, b in ranges:
            base = block.ends[a - 1] if a else BODY_START
            moved = len(joined) - base
            if b - a == 1:
                own.append(block.ends[a] + moved)
            else:
                own.extend([end + moved for end in block.ends[a:b]])
            joined += whole[base : block.ends[b - 1]]
        BODY_HEADER.pack_into(joined, 0, ARRAY32, len(own))
        body, ends, shift = memoryview(joined), memoryview(own).cast("B"), 0
    said = Events(epoch, last, tuple(topics), subscriptions, block.sent_at, shift, ends, body, headers)
    return encode(said)


class Ring:
    """The last events of a declared topic, at most so many. What is more than the bytes that are kept at all is not
    kept, nor what was published before it."""

    def __init__(self, pattern: str, most: int) -> None:
        self.pattern = pattern
        self.most = most
        self._parts: deque[Part] = deque()
        self._count = 0
        self._nbytes = 0

    def append(self, block: Block, ranges: Sequence[Range], most_bytes: int) -> None:
        """All of a block that is on its topics, at once: topics that are published in turn have as many runs there as
        events."""
        part = Part(block, tuple(ranges), sum(stop - start for start, stop in ranges), 0)
        if part.count > self.most:
            part = Part(block, part.cut(part.count - self.most, self.most), self.most, 0)
        for piece in part.pieces():
            self._parts.append(piece)
            self._count += piece.count
            self._nbytes += piece.nbytes
        while self._parts and (self._count - self._parts[0].count >= self.most or self._nbytes > most_bytes):
            gone = self._parts.popleft()
            self._count -= gone.count
            self._nbytes -= gone.nbytes

    @property
    def kept(self) -> int:
        """How many events are in it."""
        return self._count

    def matching(self, pattern: str, since: float) -> list[Part]:
        """Those that match and were published since then, of each block together; of a part that is over the bound the
        newest."""
        found: list[Part] = []
        known: dict[str, bool] = {}
        beyond = max(0, self._count - self.most)
        for part in self._parts:
            skip = min(beyond, part.count)
            beyond -= skip
            if skip == part.count or part.block.at < since:
                continue
            ranges: list[Range] = []
            for (topic, *_), start, stop in part.block.walk(part.cut(skip, part.count)):
                if (is_wanted := known.get(topic)) is None:
                    is_wanted = known[topic] = matches(pattern, topic)
                if is_wanted:
                    extend(ranges, start, stop)
            if ranges:
                found.append(Part(part.block, tuple(ranges), sum(stop - start for start, stop in ranges), 0))
        return found


def extend(ranges: list[Range], start: int, stop: int) -> None:
    """Adds what comes next."""
    if ranges and ranges[-1][1] == start:
        ranges[-1] = ranges[-1][0], stop
    else:
        ranges.append((start, stop))
