"""Runs that have ended beside one another, with what they send: kept as one outcome, as rows of several jobs.

A job is small, so that a slow message among them holds up few; what is written, said, chosen and released of many of
them in one turn need not be."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from zerowait.engines.brokerless.protocol.frames import Part
from zerowait.message import ARRAY32, BODY_HEADER, BODY_START, SEGMENT_BYTES, SEGMENT_MESSAGES, Prepared, Sent


class Neighbours(Struct):
    """Of one outbox and dispatch, without a gap. shift: as `Keep` has it."""

    box: int
    part: Part
    home: int
    shift: int
    sent: list[Prepared]
    last: Sent

    def takes(self, box: int, part: Part, sent: Sent, shift: int) -> bool:
        """Adds what follows directly. False: that is something else."""
        mine = self.part
        if (self.box, self.home, self.shift) != (box, sent.home, shift):
            return False
        if (mine.epoch, mine.fence, mine.n) != (part.epoch, part.fence, part.n):
            return False
        if mine.first + mine.count != part.first:
            return False
        self.part = Part(mine.epoch, mine.first, mine.count + part.count, mine.fence, mine.n)
        if sent is not self.last:  # of two parts of one run's messages all outputs are there already
            self.last = sent
            self.sent += sent.parts
        return True

    def outputs(self) -> Sent:
        return Sent(self.home, joined(self.sent))


def neighbours(box: int, part: Part, sent: Sent, shift: int) -> Neighbours:
    """The first of them."""
    return Neighbours(box, part, sent.home, shift, list(sent.parts), sent)


def joined(sent: Sequence[Prepared]) -> list[Prepared]:
    """The same messages in fewer rows; those of one channel in the order in which they were."""
    if len(sent) < 2:
        return list(sent)
    groups: list[list[Prepared]] = []
    last: dict[str, tuple[list[Prepared], int, int]] = {}  # of each channel: its last group, with messages and bytes
    for each in sent:
        group, count, size = last.get(each.channel, ([], 0, BODY_START))
        count, size = count + len(each.inputs), size + len(each.body) - BODY_START
        if not group or not _are_alike(group[0], each) or count > SEGMENT_MESSAGES or size > SEGMENT_BYTES:
            groups.append(group := [])
            count, size = len(each.inputs), len(each.body)
        group.append(each)
        last[each.channel] = group, count, size
    return [_one(group) if len(group) > 1 else group[0] for group in groups]


def _are_alike(one: Prepared, other: Prepared) -> bool:
    """Whether they may share a row: what has an id or headers, or is spooled, keeps its own."""
    if (one.due, one.expires, one.priority, one.key) != (other.due, other.expires, other.priority, other.key):
        return False
    return not any(each.id is not None or each.headers or each.row is not None for each in (one, other))


def _one(group: Iterable[Prepared]) -> Prepared:
    body, ends, inputs = bytearray(BODY_START), array("I"), list[int]()
    first: Prepared | None = None
    for each in group:
        first = first or each
        more = len(body) - BODY_START
        ends.extend([end + more for end in memoryview(each.ends).cast("I")])
        body += memoryview(each.body)[BODY_START:]
        inputs += each.inputs
    assert first is not None
    BODY_HEADER.pack_into(body, 0, ARRAY32, len(inputs))
    return replace(first, body=body, ends=ends.tobytes(), inputs=inputs)
