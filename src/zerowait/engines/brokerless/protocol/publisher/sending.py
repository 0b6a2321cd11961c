"""What a publisher's subscribers are sent: in the order of publication, as far as they have room, each event encoded
once and framed once for all who stand at the same place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from math import inf

from zerowait.engines.brokerless.protocol.effects import Effects, Say
from zerowait.engines.brokerless.protocol.owner.credit import units
from zerowait.engines.brokerless.protocol.publisher.cursor import Cursor, Taker, fitting
from zerowait.engines.brokerless.protocol.publisher.history import Block, Part, Range, Ranges, frame

# What a connection is sent in one turn of its process, and what all are, in steps: a range that is put together, and a
# KiB. A subscriber that asks for a long history has it in several turns: between them goes what others wait for, and
# the answers to their PINGs. A step is about a microsecond; what goes to many is made once and counts once for all.
TURN_STEPS = 8_192
TURN_STEPS_ALL = 32_768
FRAME_STEPS = 16  # of each frame


# The publisher's number of the event that comes next, whose turn it is (his place among the cursors), its part, and how
# many of that he has had.
Waiting = tuple[int, int, Part, int]


class Sending:
    """One flush. epoch: of the publisher. is_bounded: nobody, and not all together, are sent more than a turn's."""

    def __init__(self, effects: Effects, epoch: int, *, is_bounded: bool = True) -> None:
        self._effects = effects
        self._epoch = epoch
        self._frames: dict[object, bytes] = {}
        self._is_bounded = is_bounded
        self._left: float = TURN_STEPS_ALL if is_bounded else inf
        self._turn_left = 0.0  # of who is served now

    def _begin_turn(self) -> None:
        self._turn_left = TURN_STEPS if self._is_bounded else inf

    @property
    def is_spent(self) -> bool:
        """Whether who comes now is sent nothing any more."""
        return self._left <= 0

    def _is_over(self) -> bool:
        return self._turn_left <= 0 or self._left <= 0

    def feed(self, conn: int, cursors: Sequence[Cursor]) -> bool:
        """To one connection, in the order of publication; what several of its subscriptions want crosses once. False:
        its turn is over, and there is more."""
        self._begin_turn()
        if len(cursors) == 1:
            return self._feed_one(cursors[0])
        # Whoever waits for the first event is served, and then asked again.
        waiting = [each for at, cursor in enumerate(cursors) if (each := _waiting(cursor, at)) is not None]
        heapify(waiting)
        while waiting:
            if self._is_over():
                return False
            served = [heappop(waiting)]
            if waiting and waiting[0][0] == served[0][0]:
                served += _alike(waiting, served[0], cursors)
                if len(served) > 1 and not self._together(conn, [(cursors[at], p, s) for _, at, p, s in served]):
                    self._turn_left -= len(served)
                    for other in served[1:]:
                        heappush(waiting, other)
                    del served[1:]
            if len(served) == 1:
                _, at, part, skip = served[0]
                self._alone(cursors[at], part, skip)
            for _, at, *_ in served:
                if (again := _waiting(cursors[at], at)) is not None:
                    heappush(waiting, again)
        return True

    def _feed_one(self, cursor: Cursor) -> bool:
        while cursor.sent < cursor.limit and cursor.pending():
            if self._is_over():
                return False
            self._alone(cursor, *cursor.next())
        return True

    def _together(self, conn: int, wanting: list[tuple[Cursor, Part, int]]) -> bool:
        """All that is left of the part for each of them in one frame, if all have room for it, and if it is not one
        that their process does not take: that goes the way of each alone, which counts it as lost."""
        own = [part.cut(skip, part.count) for _, part, skip in wanting]
        block = wanting[0][1].block
        union = _union(own)
        nbytes = sum(block.size(start, stop) for start, stop in union)
        if _is_one(union) and nbytes > wanting[0][0].message_bytes:
            return False
        if any(cursor.left() < units(part.count - skip, nbytes) or not part.c for cursor, part, skip in wanting):
            return False
        counts: dict[int, int] = {}
        for cursor, part, skip in wanting:
            counts[cursor.id] = part.c + skip
            cursor.sent += units(part.count - skip, nbytes)
            cursor.took(part, part.count - skip, skip)
            cursor.told = cursor.c
        self._send(conn, block, union, counts)
        return True

    def _alone(self, cursor: Cursor, part: Part, skip: int) -> None:
        ranges, cost = fitting(part, skip, cursor.left())
        count = sum(stop - start for start, stop in ranges)
        if self._is_too_large(cursor, part.block, ranges):
            cursor.took(part, 1, skip)
            cursor.lose(1)
            return
        counts = {cursor.id: part.c + skip if part.c else 0}
        cursor.sent += cost
        cursor.took(part, count, skip)
        if part.c:
            cursor.told = cursor.c
        self._send(cursor.conn, part.block, ranges, counts)

    def _is_too_large(self, taker: Taker, block: Block, ranges: Ranges) -> bool:
        start, stop = ranges[0]
        if not _is_one(ranges) or (size := block.size(start, stop)) <= taker.message_bytes:
            return False
        topic = block.runs[block.run(start)][0]
        words = f"an event of {size} bytes on {topic} is not sent to it: it takes {taker.message_bytes} at most"
        self._effects.add(Say("too large", words, taker.instance, topic))
        return True

    def share(self, group: Cursor) -> bool:
        """Each event to one of the group, in turn. False: its turn is over, and there is more."""
        self._begin_turn()
        of, share = None, 0
        while group.pending():
            if self._is_over():
                return False
            member = group.rotate()
            if member is None:
                return True
            part, skip = group.next()
            if part is not of:
                with_room = sum(each.left() > 0 for each in group.members.values())
                of, share = part, -(-(part.count - skip) // with_room)
            ranges, cost = fitting(part, skip, min(share, member.left()))
            count = sum(stop - start for start, stop in ranges)
            if self._is_too_large(member, part.block, ranges):
                group.took(part, 1, skip)
                group.lose(1)
                group.skipped += 1
                continue
            first = member.c + group.skipped + 1 if part.c else 0
            if part.c:
                member.c += group.skipped + count
                member.told = member.c
                group.skipped = 0
            member.sent += cost
            group.took(part, count, skip)
            self._send(member.conn, part.block, ranges, {member.id: first})
        return True

    def _send(self, conn: int, block: Block, ranges: Ranges, counts: dict[int, int]) -> None:
        name = (id(block), ranges, tuple(counts.items()))
        data = self._frames.get(name)
        steps = FRAME_STEPS + len(ranges)
        if data is None:
            data = self._frames[name] = frame(block, ranges, counts, self._epoch)
            self._left -= steps + len(data) // 1_024
        self._turn_left -= steps + len(data) // 1_024
        self._effects.send_events(conn, data)


def _waiting(cursor: Cursor, at: int) -> Waiting | None:
    """What this one is to be sent next; None: nothing, or it has no room."""
    if cursor.sent >= cursor.limit or not cursor.pending():
        return None
    part, skip = cursor.next()
    return part.event(skip), at, part, skip


def _alike(waiting: list[Waiting], first: Waiting, cursors: Sequence[Cursor]) -> list[Waiting]:
    """Takes those who wait for the same and may have it in the same frame. Who receives it goes by the topics: what is
    only some of what matches in its block goes alone."""
    found: list[Waiting] = []
    others: list[Waiting] = []
    while waiting and waiting[0][0] == first[0]:
        one = heappop(waiting)
        is_alike = one[2].block is first[2].block and cursors[one[1]].is_whole() and cursors[first[1]].is_whole()
        (found if is_alike else others).append(one)
    for one in others:
        heappush(waiting, one)
    return found


def _is_one(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][1] - ranges[0][0] == 1


def _union(of: Iterable[Ranges]) -> Ranges:
    joined: list[Range] = []
    for start, stop in sorted(each for ranges in of for each in ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], stop)
        else:
            joined.append((start, stop))
    return tuple(joined)
