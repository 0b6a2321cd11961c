"""What was published, once for all who want it: blocks of events, and for each pattern which of them match.

    Block    events as they were published together: their payloads, their ends, their topics
    Part     those of a block that match a pattern; c: the count of the first of them in the pattern's stream
    Ring     the last events of a declared topic, for who joins later

Nothing is copied for a subscription: it is a position in its pattern's stream (`cursor`). What is kept for long and is
a small part of its block is taken out of it (`compact`), so that one event does not keep a quarter of a megabyte.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Mapping

from msgspec import Struct

from zerowait.engines.brokerless.protocol.frames import Events, encode
from zerowait.message import ARRAY32, BODY_HEADER, BODY_START
from zerowait.patterns import matches

Range = tuple[int, int]  # positions in a block: start, stop
Ranges = tuple[Range, ...]
Run = tuple[str, int, int, bool, bool]


class Block(Struct):
    """Events that were published together. runs: (topic, start, stop, whether its last value is retained, whether the
    publisher waits for its subscribers)."""

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

    @property
    def last(self) -> int:
        return self.c + self.count - 1

    @property
    def nbytes(self) -> int:
        return sum(self.block.size(start, stop) for start, stop in self.ranges)

    def cut(self, skip: int, most: int) -> Ranges:
        """The ranges of so many of them, after the first `skip`."""
        if not skip and most >= self.count:
            return self.ranges
        found: list[Range] = []
        for start, stop in self.ranges:
            if skip >= stop - start:
                skip -= stop - start
                continue
            start += skip
            skip = 0
            stop = min(stop, start + most)
            most -= stop - start
            found.append((start, stop))
            if not most:
                break
        return tuple(found)

    def event(self, skip: int) -> int:
        """The publisher's number of the event after the first `skip`."""
        return self.block.first + self.cut(skip, 1)[0][0]

    def newest(self) -> list[tuple[str, int, Part]]:
        """Of each topic: how many there are, and the last of them, by itself. In the order of those."""
        found: dict[str, tuple[int, Run, int, int]] = {}
        before = self.c
        for start, stop in self.ranges:
            for run in self.block.runs:
                a, b = max(run[1], start), min(run[2], stop)
                if a < b:
                    many = found.pop(run[0], (0,))[0]
                    found[run[0]] = many + b - a, run, b - 1, before + b - 1 - start
            before += stop - start
        return [(topic, many, _one(self.block, run, at, c)) for topic, (many, run, at, c) in found.items()]

    def reliable(self) -> list[Part]:
        """Those whose publisher waits for its subscribers, in pieces."""
        found: list[Part] = []
        c = self.c
        for start, stop in self.ranges:
            for _, a, b, _, reliable in self.block.runs:
                a, b = max(a, start), min(b, stop)
                if not reliable or a >= b:
                    continue
                if found and found[-1].ranges[0][1] == a:
                    last = found[-1]
                    last.ranges, last.count = ((last.ranges[0][0], b),), last.count + b - a
                else:
                    found.append(Part(self.block, ((a, b),), b - a, c + a - start))
            c += stop - start
        return found

    def compact(self) -> Part:
        """The same without the rest of its block, if that is most of it."""
        block = self.block
        if 4 * self.nbytes >= len(block.body) or (len(self.ranges) > 1 and not _in_one(self.ranges)):
            return self
        start, stop = min(at for at, _ in self.ranges), max(at for _, at in self.ranges)
        base = block.ends[start - 1] if start else BODY_START
        runs = tuple(
            (topic, max(a, start) - start, min(b, stop) - start, retain, reliable)
            for topic, a, b, retain, reliable in block.runs
            if a < stop and b > start
        )
        headers = {at - start: said for at, said in (block.headers or {}).items() if start <= at < stop}
        body = bytearray(BODY_HEADER.pack(ARRAY32, stop - start))
        body += memoryview(block.body)[base : block.ends[stop - 1]]
        ends = array("I", [end - base + BODY_START for end in block.ends[start:stop]])
        small = Block(body, memoryview(ends), runs, block.sent_at, block.at, headers or None, block.first + start)
        return Part(small, ((0, stop - start),), self.count, self.c)


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


def _in_one(ranges: Ranges) -> bool:
    return sum(stop - start for start, stop in ranges) == ranges[-1][1] - ranges[0][0]


def frame(block: Block, ranges: Ranges, subscriptions: dict[int, int], epoch: int) -> bytes:
    """These events of the block as they travel."""
    topics: list[tuple[str, int]] = []
    for topic, start, stop, *_ in block.runs:
        many = sum(max(0, min(stop, b) - max(start, a)) for a, b in ranges)
        if many:
            topics.append((topic, many))
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
        joined, own = bytearray(BODY_START), array("I")
        for a, b in ranges:
            base = block.ends[a - 1] if a else BODY_START
            moved = len(joined) - base
            own.extend(end + moved for end in block.ends[a:b])
            joined += memoryview(block.body)[base : block.ends[b - 1]]
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

    def append(self, block: Block, start: int, stop: int, most_bytes: int) -> None:
        part = Part(block, ((start, stop),), stop - start, 0).compact()
        self._parts.append(part)
        self._count += part.count
        self._nbytes += part.nbytes
        while self._parts and (self._count - self._parts[0].count >= self.most or self._nbytes > most_bytes):
            gone = self._parts.popleft()
            self._count -= gone.count
            self._nbytes -= gone.nbytes

    @property
    def kept(self) -> int:
        """How many events are in it."""
        return self._count

    def matching(self, pattern: str, since: float) -> list[Part]:
        """Those that match and were published since then, a range each; of a part that is over the bound the newest."""
        found: list[Part] = []
        beyond = max(0, self._count - self.most)
        for part in self._parts:
            start, stop = part.ranges[0]
            start, beyond = start + min(beyond, part.count), max(0, beyond - part.count)
            if part.block.at >= since:
                for topic, a, b, *_ in part.block.runs:
                    a, b = max(a, start), min(b, stop)
                    if a < b and matches(pattern, topic):
                        found.append(Part(part.block, ((a, b),), b - a, 0))
        return found
