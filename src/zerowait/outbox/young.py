"""Rows of an outbox in memory that dispatch has and the tables have not.

Most messages are handed out, sent and settled before anything must be looked up about them; the statements that would
make their rows, and delete them again, would be the larger part of what they cost. So a row comes into the tables only
when something is looked for there, or when one of its messages gets a row of its own. On disk there is no such youth:
there the row is what makes a message safe.
"""

from __future__ import annotations

from collections.abc import Callable

from zerowait.outbox.database import Database
from zerowait.outbox.row import Fresh, Row, pack_gone
from zerowait.outbox.tables import insert


class Young:
    """`row in young`: it is in no table, so there is nothing to delete or to change there."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[Row, bytearray]] = {}  # by seq; not with the sheaf, which lives for its receipts
        self._down: set[int] = set()  # brought into the tables by the transaction that runs
        self._database: Database
        self._id_of: Callable[[str], int]

    def begin(self, database: Database, id_of: Callable[[str], int]) -> None:
        """A transaction begins; what an earlier one brought down is as it was, unless that was applied."""
        self._database, self._id_of = database, id_of
        self._down.clear()

    def take(self, fresh: Fresh) -> None:
        """It has been handed to dispatch and has no row."""
        self._rows[fresh.row.seq] = fresh.row, fresh.piece.body

    def __contains__(self, row: Row) -> bool:
        return row.seq in self._rows and row.seq not in self._down

    def __bool__(self) -> bool:
        return bool(self._rows)

    def oldest(self) -> dict[str, int]:
        """When the oldest of each channel was accepted."""
        oldest: dict[str, int] = {}
        for row, _ in self._rows.values():
            oldest[row.channel] = min(row.accepted_at, oldest.get(row.channel, row.accepted_at))
        return oldest

    def bring(self, row: Row) -> None:
        """Something is going to change in its row: now there is one."""
        if row in self:
            self._bring([self._rows[row.seq]])

    def bring_all(self) -> None:
        """Something is looked for among all rows."""
        self._bring([each for seq, each in self._rows.items() if seq not in self._down])

    def _bring(self, some: list[tuple[Row, bytearray]]) -> None:
        if not some:
            return
        self._database.begin()
        # What has a due time is never handed out at once.
        insert(self._database, [(row, body, None) for row, body in some], self._id_of, checked=False)
        for row, _ in some:
            self._down.add(row.seq)
            if row.gone:
                gone = pack_gone(row.gone, row.first)
                self._database.run("UPDATE message SET gone = ? WHERE seq = ?", (gone, row.seq))

    def settled(self, row: Row) -> None:
        self._rows.pop(row.seq, None)

    def applied(self) -> None:
        """The transaction is over: what it brought down is young no more."""
        for seq in self._down:
            self._rows.pop(seq, None)
        self._down.clear()
