"""How messages get their numbers, and rows theirs.

A message is named by an epoch, of one opening of the outbox, and a number that counts from 1 in each. Epochs only rise,
and are durable before anything is sent under them: so no name is ever given twice, even by a backup brought back.
"""

from __future__ import annotations

from collections.abc import Iterable

from zerowait.message import SEGMENT_MESSAGES
from zerowait.outbox.clock import Clock
from zerowait.outbox.database import Database
from zerowait.outbox.row import Fresh, Row
from zerowait.outbox.sheaf import Piece, Sheaf


class Numbering:
    """epoch: of what gets its numbers now."""

    def __init__(self, database: Database) -> None:
        self.epoch: int = database.one("SELECT epoch FROM box")
        self._next = 1
        self._seq: int = database.one(
            "SELECT max(coalesce((SELECT max(seq) FROM message), 0), coalesce((SELECT max(id) FROM body), 0))"
        )

    def begin(self, epoch: int) -> None:
        """From now on under that epoch; what has a number and is in no table needs another (`again`)."""
        self.epoch = epoch
        self._next = 1

    def seal(self, sheaf: Sheaf, piece: Piece, shift: int) -> Fresh:
        """Give the messages their numbers. They may change while nothing has been stored.

        shift: by how much the outbox's own time is ahead of the sheaf's, microseconds.
        """
        terms = sheaf.terms
        row = Row(
            self.next_seq(), sheaf.channel, 0, 0, piece.count, 0, 0, len(piece.body),
            piece.ends if piece.count > 1 else b"", terms.priority, 0, terms.accepted_at, None, None, None,
            key=terms.key,
        )  # fmt: skip
        row.body = row.seq
        due = terms.due + shift if terms.due is not None else None
        row.expires = terms.expires + shift if terms.expires is not None else None
        fresh = Fresh(sheaf, piece, row, due)
        self._number(fresh)
        return fresh

    def again(self, all_fresh: Iterable[Fresh]) -> None:
        for fresh in all_fresh:
            self._number(fresh)

    def _number(self, fresh: Fresh) -> None:
        sheaf, piece, row = fresh.sheaf, fresh.piece, fresh.row
        if piece.start:
            row.epoch, row.home, row.first = sheaf.epoch, sheaf.first, sheaf.first + piece.start
        else:
            row.epoch, row.home, row.first = self.epoch, self._next, self._next
            # A sheaf that somebody may still have in hand keeps some numbers for what may yet come.
            self._next += piece.count if sheaf.cut is None else piece.count + SEGMENT_MESSAGES
            sheaf.sealed(row.epoch, row.first)
        if sheaf.headers:
            span = range(piece.start, piece.start + piece.count)
            row.headers = {sheaf.first + at: sheaf.headers[at] for at in span if at in sheaf.headers} or None

    def take(self, count: int) -> tuple[int, int]:
        """The epoch and the first number of so many messages that have none yet."""
        first, self._next = self._next, self._next + count
        return self.epoch, first

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def newest(self) -> tuple[int, int]:
        """Epoch and number of the last message that has them."""
        return self.epoch, self._next - 1


def raise_epoch(database: Database, clock: Clock, above: int) -> int:
    """Of this opening, durable before anything is sent: above all earlier ones, also of a backup brought back."""
    now = clock.now()
    epoch = int(max(database.one("SELECT epoch FROM box") + 1, now // 1_000, above + 1))
    database.run("UPDATE box SET epoch = ?, wall = max(wall, ?)", (epoch, now))
    return epoch
