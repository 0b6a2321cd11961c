"""What waits in this process's memory to be sent, by channel, and who gets which part of it.

Messages come from the outboxes' read-ahead (`fresh`) or back from a worker (`returned`; these go first). A higher
priority goes before all that has a lower one, whichever outbox it is of. Several workers of a channel share what waits
in proportion to the credit that each has left, so a lone message goes to the link with most, and a backlog goes to all
of them at once."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Iterable

from msgspec import Struct

from zerowait.engines.brokerless.protocol.owner.credit import units
from zerowait.engines.brokerless.protocol.owner.flights import Slice
from zerowait.engines.brokerless.protocol.owner.keys import Keys, Line, Name
from zerowait.engines.brokerless.protocol.owner.suspects import Suspects
from zerowait.message import ARRAY32, BODY_HEADER, BODY_START, SEGMENT_BYTES, Segment
from zerowait.numbers import Numbers


class Taker(Struct, gc=False):
    """A link that may be sent something of a channel."""

    conn: int
    left: int  # units of credit
    boxes: Collection[int]  # the outboxes that have resumed on it: nothing of others goes there
    message_bytes: int  # it takes no larger one


def body_bounds(piece: Slice) -> tuple[int, int]:
    """Where the payloads of this slice lie in its segment's body."""
    ends, skipped = memoryview(piece.segment.ends).cast("I"), piece.first - piece.segment.first
    return (ends[skipped - 1] if skipped else BODY_START), ends[skipped + piece.count - 1]


def cost_of(piece: Slice) -> int:
    start, stop = body_bounds(piece)
    return units(piece.count, stop - start)


def largest_of(piece: Slice) -> int:
    """The size of its largest message. Only asked where the whole slice is larger than one message may be."""
    ends, skipped = memoryview(piece.segment.ends).cast("I"), piece.first - piece.segment.first
    start, largest = body_bounds(piece)[0], 0
    for stop in ends[skipped : skipped + piece.count]:
        largest, start = max(largest, stop - start), stop
    return largest


def in_one_frame(piece: Slice, most: int) -> int:
    """How many of its messages, at most so many and one at least, fit into one frame with the headers that they carry:
    what is larger goes in fragments, and its receiver bears no more than a message's size of those."""
    ends, skipped = memoryview(piece.segment.ends).cast("I"), piece.first - piece.segment.first
    start, carried = ends[skipped - 1] if skipped else BODY_START, 0
    for at in range(min(piece.count, most)):
        for name, value in (piece.segment.headers or {}).get(piece.first + at, {}).items():
            carried += len(name.encode()) + len(value.encode())
        if at and ends[skipped + at] - start + carried > SEGMENT_BYTES:
            return at
    return piece.count


class Queue:
    """One channel: what waits for it, by priority, and of each an outbox each in turn."""

    __slots__ = ("_keys", "aside", "counts", "levels")

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        # Highest first. There is one level until another priority is seen: who uses none pays nothing.
        self.levels: dict[int, dict[int, deque[Slice]]] = {0: {}}
        self.aside: list[Slice] = []  # lone messages that are too large for some worker; not in `levels`
        self.counts: dict[int, int] = {}  # outbox → messages

    @property
    def messages(self) -> int:
        return sum(self.counts.values())

    def put(self, piece: Slice, *, back: bool) -> None:
        turns = self.levels.get(piece.segment.priority)
        if turns is None:
            turns = self._level(piece.segment.priority)
        pieces = turns.get(piece.box)
        if pieces is None:
            pieces = turns[piece.box] = deque()
        self.counts[piece.box] = self.counts.get(piece.box, 0) + piece.count
        if back:
            pieces.appendleft(piece)
        else:
            pieces.append(piece)

    def _level(self, priority: int) -> dict[int, deque[Slice]]:
        self.levels = dict(sorted([*self.levels.items(), (priority, {})], reverse=True))
        return self.levels[priority]

    def of(self, box: int) -> list[Slice]:
        """All that waits of this outbox."""
        mine = [piece for turns in self.levels.values() for piece in turns.get(box, ())]
        return [*mine, *(piece for piece in self.aside if piece.box == box)] if self.aside else mine

    def waiting_for(self, boxes: Collection[int], message_bytes: int) -> int:
        """How many messages wait that could go to a link on which these outboxes have resumed."""
        count = sum(count for box, count in self.counts.items() if box in boxes)
        return count - sum(piece.box in boxes and not self._suits(piece, boxes, message_bytes) for piece in self.aside)

    @staticmethod
    def _suits(piece: Slice, boxes: Collection[int], message_bytes: int) -> bool:
        start, stop = body_bounds(piece)
        return piece.box in boxes and stop - start <= message_bytes

    def pop(self, most_units: int, taker: Taker) -> Slice | None:
        """The next slice that may go there, cut to that much credit."""
        for priority, turns in self.levels.items():
            if self.aside and (found := self._pop_aside(priority, taker)) is not None:
                return found
            for box in [box for box in turns if box in taker.boxes]:
                pieces = turns.pop(box)
                found = self._cut(pieces, most_units, taker.message_bytes)
                if pieces:
                    turns[box] = pieces  # at the end: the other outboxes have their turn first
                if found is not None:
                    self.counts[box] -= found.count
                    return found
        return None

    def _pop_aside(self, priority: int, taker: Taker) -> Slice | None:
        for at, piece in enumerate(self.aside):
            if piece.segment.priority == priority and self._suits(piece, taker.boxes, taker.message_bytes):
                del self.aside[at]
                self.counts[piece.box] -= piece.count
                if piece.segment.key is None:
                    return piece
                if not self._keys.leaves(piece):
                    return self._pop_aside(priority, taker)
                self._keys.left(piece)
                return piece
        return None

    def _cut(self, pieces: deque[Slice], most_units: int, message_bytes: int) -> Slice | None:
        while pieces:
            piece = pieces.popleft()
            if piece.segment.key is not None:
                # One runner at a time works at it: those who wait beside it have their part of the credit.
                found = self._first_of(piece, most_units // (len(pieces) + 1), message_bytes)
                if found is None:
                    continue
                return found
            ends, skipped = memoryview(piece.segment.ends).cast("I"), piece.first - piece.segment.first
            start = ends[skipped - 1] if skipped else BODY_START
            size = ends[skipped + piece.count - 1] - start
            if size > message_bytes and not self._fits(pieces, piece, message_bytes):
                continue
            if piece.segment.headers and (count := in_one_frame(piece, most_units)) < piece.count:
                pieces.appendleft(Slice(piece.box, piece.segment, piece.first + count, piece.count - count))
                piece = Slice(piece.box, piece.segment, piece.first, count)
                size = ends[skipped + count - 1] - start
            if units(piece.count, size) <= most_units or piece.count == 1:
                return piece
            # As many whole messages as there is credit for, but one at the least: it may overdraw.
            counts = range(1, piece.count + 1)
            count = max(1, bisect_right(counts, most_units, key=lambda n: units(n, ends[skipped + n - 1] - start)))
            pieces.appendleft(Slice(piece.box, piece.segment, piece.first + count, piece.count - count))
            return Slice(piece.box, piece.segment, piece.first, count)
        return None

    def _first_of(self, piece: Slice, most_units: int, message_bytes: int) -> Slice | None:
        """Of one key the first messages without a hole, as many as there is credit for. The others wait until these are
        settled."""
        if not self._keys.leaves(piece):
            self.counts[piece.box] -= piece.count
            return None
        ends, skipped = memoryview(piece.segment.ends).cast("I"), piece.first - piece.segment.first
        start = ends[skipped - 1] if skipped else BODY_START
        counts = range(1, piece.count + 1)
        count = max(1, bisect_right(counts, most_units, key=lambda n: units(n, ends[skipped + n - 1] - start)))
        if piece.segment.headers:
            count = min(count, in_one_frame(piece, most_units))
        first = Slice(piece.box, piece.segment, piece.first, count)
        if ends[skipped + count - 1] - start > message_bytes and largest_of(first) > message_bytes:
            sizes = (largest_of(Slice(piece.box, piece.segment, piece.first + at, 1)) for at in range(count))
            first.count = next(at for at, size in enumerate(sizes) if size > message_bytes)
        self.counts[piece.box] -= piece.count - max(1, first.count)
        if not first.count:
            first.count = 1
            self.aside.append(first)
            self._keys.stays(first)
            return None
        self._keys.left(first)
        return first

    def _fits(self, pieces: deque[Slice], piece: Slice, message_bytes: int) -> bool:
        """Whether none of its messages is too large; else it is taken apart, and those that are go aside."""
        if piece.count == 1:
            self.aside.append(piece)
            return False
        if largest_of(piece) <= message_bytes:
            return True
        for number in reversed(range(piece.first, piece.first + piece.count)):
            pieces.appendleft(Slice(piece.box, piece.segment, number, 1))
        return False

    def remove(self, box: int, epoch: int, first: int, count: int) -> list[Slice]:
        """Takes out those parts that did wait."""
        taken: list[Slice] = []
        for turns in self.levels.values():
            if box in turns:
                kept = deque(self._without(turns[box], box, epoch, first, count, taken))
                if kept:
                    turns[box] = kept
                else:
                    del turns[box]
        self.aside = self._without(self.aside, box, epoch, first, count, taken)
        if taken:
            self.counts[box] -= sum(piece.count for piece in taken)
        return taken

    def _without(
        self, pieces: Iterable[Slice], box: int, epoch: int, first: int, count: int, taken: list[Slice]
    ) -> list[Slice]:
        kept: list[Slice] = []
        stop = first + count
        for piece in pieces:
            segment = piece.segment
            far = piece.first >= stop or piece.first + piece.count <= first
            if far or segment.epoch != epoch or piece.box != box:
                kept.append(piece)
                continue
            wanted = Numbers([(first, count)]).overlap(piece.first, piece.count)
            taken.extend(Slice(box, segment, at, many) for at, many in wanted)
            rest = Numbers(wanted).missing(piece.first, piece.count)
            kept.extend(Slice(box, segment, at, many) for at, many in rest)
        return kept

    def empty(self, box: int, last: tuple[int, int]) -> list[Slice]:
        """Takes out all of this outbox up to the message of that name."""
        mine = self.of(box)
        self.disown(box)
        for piece in mine:
            if piece.name > last:
                self.put(piece, back=False)
        return [piece for piece in mine if piece.name <= last]

    def disown(self, box: int) -> None:
        for turns in self.levels.values():
            turns.pop(box, None)
        self.counts.pop(box, None)
        self.aside = [piece for piece in self.aside if piece.box != box]


class Dispatch:
    def __init__(self) -> None:
        self._queues: dict[str, Queue] = {}
        self.suspects = Suspects()  # they wait beside the queues, in lanes of their own
        self.keys = Keys()  # what waits with a key; what of it may go stands in a queue, too

    def channels(self) -> list[str]:
        channels = [channel for channel, queue in self._queues.items() if queue.messages]
        if self.suspects or self.keys:
            channels += (self.suspects.channels() | self.keys.channels()).difference(channels)
        return channels

    def waiting(self, channel: str) -> int:
        queue = self._queues.get(channel)
        queued = queue.messages if queue is not None else 0
        if self.keys:
            queued += self.keys.count(channel) - self.keys.queued(channel)
        return queued + self.suspects.count(channel)

    def boxes(self, channel: str) -> list[int]:
        """The outboxes of which something waits for this channel."""
        queue = self._queues.get(channel)
        boxes = [box for box, count in queue.counts.items() if count] if queue is not None else []
        if self.suspects or self.keys:
            boxes += (self.suspects.boxes(channel) | self.keys.boxes(channel)).difference(boxes)
        return boxes

    def waiting_for(self, channel: str, boxes: Collection[int], message_bytes: int) -> int:
        queue = self._queues.get(channel)
        waiting = queue.waiting_for(boxes, message_bytes) if queue is not None and queue.messages else 0
        return waiting + self.keys.expected(channel, boxes) if self.keys else waiting

    def too_large(self, channel: str) -> list[Slice]:
        """Messages of this channel that some worker does not take, because of its own limit."""
        queue = self._queues.get(channel)
        return queue.aside if queue is not None else []

    def pieces(self, box: int) -> list[Slice]:
        """All of this outbox that waits here."""
        ordinary = [
            piece
            for queue in self._queues.values()
            if queue.counts.get(box)
            for piece in queue.of(box)
            if piece.segment.key is None
        ]
        if not self.keys and not self.suspects:
            return ordinary
        return [*ordinary, *self.keys.slices(box), *(piece for piece in self.suspects if piece.box == box)]

    def ready(self, pieces: Iterable[Slice], *, back: bool = False) -> None:
        """These wait from now on; what comes back goes first of its priority, in its order."""
        for piece in reversed(list(pieces)) if back else pieces:
            assert piece.count, "a slice of nothing"
            if piece.segment.marks is not None and piece.segment.marks.deaths:
                self.suspects.put(piece)
                continue
            if piece.segment.key is not None:
                line = self.keys.put(piece)
                if line.queued is not None and piece.first < line.queued.first:
                    self._unqueue(line)
                continue
            self._queue(piece.segment.channel).put(piece, back=back)

    def _queue(self, channel: str) -> Queue:
        queue = self._queues.get(channel)
        if queue is None:
            queue = self._queues[channel] = Queue(self.keys)
        return queue

    def _unqueue(self, line: Line) -> None:
        """What of it may go is to be found anew."""
        if line.queued is not None:
            segment, line.queued = line.segment, None
            self._queue(segment.channel).remove(line.box, segment.epoch, segment.first, segment.count)

    def settle_keys(self) -> tuple[set[str], list[tuple[Name, Segment | None]]]:
        """What has become free is queued. Gives the channels of that, and the rows that go back to their outbox (see
        `Keys.settle`)."""
        queue, shelve = self.keys.settle()
        for piece in queue:
            self._queue(piece.segment.channel).put(piece, back=False)
        return {piece.segment.channel for piece in queue}, shelve

    def remove(self, box: int, epoch: int, first: int, count: int) -> list[Slice]:
        """These do not wait any more: settled, adopted by who runs them, or withdrawn. Gives the parts that did
        wait."""
        taken = [
            piece
            for queue in self._queues.values()
            if queue.messages
            for piece in queue.remove(box, epoch, first, count)
        ]
        if self.keys:
            taken = [piece for piece in taken if piece.segment.key is None]
            taken += self._without_keys(self.keys.remove(box, epoch, first, count))
        return [*taken, *self.suspects.remove(box, epoch, first, count)] if self.suspects else taken

    def _without_keys(self, found: Iterable[tuple[Line, Slice]]) -> list[Slice]:
        taken: list[Slice] = []
        for line, piece in found:
            self._unqueue(line)
            taken.append(piece)
        return taken

    def empty(self, channel: str, box: int, last: tuple[int, int]) -> list[Slice]:
        """None of this channel and outbox waits any more, up to the message of that name. Gives what did."""
        queue = self._queues.get(channel)
        taken = queue.empty(box, last) if queue is not None else []
        if self.keys:
            taken = [piece for piece in taken if piece.segment.key is None]
            taken += self._without_keys(self.keys.empty(box, channel, last))
        return taken

    def disown(self, box: int) -> None:
        """Its outbox is closed or belongs to somebody else: nothing of it is sent any more."""
        for queue in self._queues.values():
            queue.disown(box)
        self.suspects.disown(box)
        self.keys.disown(box)

    def pick(self, channel: str, takers: list[Taker]) -> list[tuple[Taker, Slice]]:
        """Who gets what of this channel now."""
        queue = self._queues.get(channel)
        if queue is None or not queue.messages or not takers:
            return []
        takers = sorted(takers, key=lambda taker: -taker.left)
        total, waiting = sum(taker.left for taker in takers), queue.messages
        picked: list[tuple[Taker, Slice]] = []
        for taker in takers:
            share = taker.left if waiting >= total else -(-waiting * taker.left // total)
            self._fill(queue, taker, share, picked)
        for taker in takers:  # what one of them may not have (an outbox that has not resumed there), the others take
            self._fill(queue, taker, taker.left, picked)
        return picked

    def _fill(self, queue: Queue, taker: Taker, share: int, picked: list[tuple[Taker, Slice]]) -> None:
        share = min(share, taker.left)
        while share > 0 and queue.messages:
            piece = queue.pop(share, taker)
            if piece is None:
                return
            cost = cost_of(piece)
            share -= cost
            taker.left -= cost
            picked.append((taker, piece))


def body_of(piece: Slice) -> tuple[bytes | bytearray | memoryview, memoryview, int]:
    """Body and ends of a slice as they travel, and what to subtract from the ends. A whole segment is not copied
    here."""
    segment = piece.segment
    if piece.count == segment.count:
        return segment.body, memoryview(segment.ends), 0
    start, stop = body_bounds(piece)
    skipped = piece.first - segment.first
    body = bytearray(BODY_HEADER.pack(ARRAY32, piece.count))
    body += memoryview(segment.body)[start:stop]
    return body, memoryview(segment.ends)[4 * skipped : 4 * (skipped + piece.count)], start - BODY_START
