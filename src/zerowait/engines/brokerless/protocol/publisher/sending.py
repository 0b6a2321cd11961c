"""What a publisher's subscribers are sent: in the order of publication, as far as they have room, each event encoded
once and framed once for all who stand at the same place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zerowait.engines.brokerless.protocol.effects import Effects, Say
from zerowait.engines.brokerless.protocol.owner.credit import units
from zerowait.engines.brokerless.protocol.publisher.cursor import Cursor, Taker, fitting
from zerowait.engines.brokerless.protocol.publisher.history import Block, Part, Range, Ranges, frame


class Sending:
    """One flush. epoch: of the publisher."""

    def __init__(self, effects: Effects, epoch: int) -> None:
        self._effects = effects
        self._epoch = epoch
        self._frames: dict[object, bytes] = {}

    def feed(self, conn: int, cursors: Sequence[Cursor]) -> None:
        """To one connection, in the order of publication; what several of its subscriptions want crosses once."""
        while True:
            first: list[tuple[Cursor, Part, int]] = []
            lowest = 0
            for cursor in cursors:
                if cursor.sent >= cursor.limit or not cursor.pending():
                    continue
                part, skip = cursor.next()
                event = part.event(skip)
                if not first or event < lowest:
                    first, lowest = [(cursor, part, skip)], event
                elif (
                    event == lowest
                    and part.block is first[0][1].block
                    # Who receives it goes by the topics: what is only some of what matches here goes alone.
                    and cursor.is_whole()
                    and first[0][0].is_whole()
                ):
                    first.append((cursor, part, skip))
            if not first:
                return
            if len(first) > 1 and not self._together(conn, first):
                del first[1:]
            if len(first) == 1:
                self._alone(*first[0])

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

    def share(self, group: Cursor) -> None:
        """Each event to one of the group, in turn."""
        of, share = None, 0
        while group.pending():
            member = group.rotate()
            if member is None:
                return
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

    def _send(self, conn: int, block: Block, ranges: Ranges, counts: dict[int, int]) -> None:
        name = (id(block), ranges, tuple(counts.items()))
        data = self._frames.get(name)
        if data is None:
            data = self._frames[name] = frame(block, ranges, counts, self._epoch)
        self._effects.send_events(conn, data)


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
