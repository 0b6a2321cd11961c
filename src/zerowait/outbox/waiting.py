"""What waits in an outbox for one channel, row by row: to be dropped. All is bounded; the outbox's thread only."""

from __future__ import annotations

from typing import Final

from msgspec import json

from zerowait.message import Settle, Verdict
from zerowait.numbers import Numbers
from zerowait.outbox.outbox import Outbox
from zerowait.outbox.row import unpack_gone

Name = tuple[int, int]  # epoch, number
Ranges = list[tuple[int, int, int]]  # epoch, first, count

ROWS: Final = 1_024  # of a page: read, and later deleted, in some ten milliseconds

_KINDS: Final = (
    "due IS NULL AND deaths IS NULL AND priority = 1",
    "due IS NULL AND deaths IS NULL AND priority = 0",
    "due IS NULL AND deaths IS NULL AND priority = -1",
    "due IS NOT NULL",
    "due IS NULL AND deaths IS NOT NULL",
)
_PAGE: Final = """
SELECT json_group_array(json_array(epoch, first, count, hex(gone))) FROM (
    SELECT epoch, first, count, gone FROM message
    WHERE state = 0 AND {} AND channel = ? AND (epoch, first) > (?, ?) AND (epoch, first) <= (?, ?)
    ORDER BY epoch, first LIMIT ?
)
"""
_decode = json.Decoder(list[tuple[int, int, int, str]]).decode


class Sweep:
    """All of a channel that is not settled, in flight or not, up to the message of that name."""

    def __init__(self, box: Outbox, channel: str, last: Name) -> None:
        self._box = box
        self._id = box.ledger.ids.get(channel)
        self._last = last
        self._kinds = list(_KINDS) if self._id is not None else []
        self._after: Name = (0, 0)

    def page(self) -> Ranges:
        """The next of them; none at the end. What is dropped between two pages is not met again. Raises StoreError."""
        while self._kinds:
            bindings = (self._id, *self._after, *self._last, ROWS)
            (found,) = self._box.read(_PAGE.format(self._kinds[0]), bindings)[0]
            rows = _decode(found)
            if not rows:
                del self._kinds[0]
                self._after = (0, 0)
                continue
            self._after = rows[-1][0], rows[-1][1]
            if ranges := self._living(rows):
                return ranges
        return []

    def _living(self, rows: list[tuple[int, int, int, str]]) -> Ranges:
        ranges: Ranges = []
        for epoch, first, count, gone in rows:
            for at, many in (unpack_gone(bytes.fromhex(gone), first) or Numbers()).missing(first, count):
                if ranges and ranges[-1][0] == epoch and sum(ranges[-1][1:]) == at:
                    ranges[-1] = epoch, ranges[-1][1], ranges[-1][2] + many
                else:
                    ranges.append((epoch, at, many))
        return ranges


def drop(box: Outbox, channel: str, last: Name) -> int:
    """Drops what waits for the channel in an outbox of which nothing is in flight; gives how many. Raises StoreError,
    and what was dropped before stays dropped."""
    before, sweep = box.ledger.row(channel).dropped, Sweep(box, channel, last)
    while ranges := sweep.page():
        box.turn([Settle(channel, *part, Verdict.DROPPED, 0) for part in ranges])
    return box.ledger.row(channel).dropped - before
