"""One transaction of an outbox, while it is written: rows, settlement, ledger. What is true once it is durable is an
`Attempt`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zerowait.message import Change
from zerowait.outbox.attempt import Attempt
from zerowait.outbox.books import Books
from zerowait.outbox.database import Database
from zerowait.outbox.known import Twin
from zerowait.outbox.ledger import Tally
from zerowait.outbox.row import Fresh, Row
from zerowait.outbox.settlement import Dropped, Settlement
from zerowait.outbox.tables import insert


class Transaction:
    """The verbs in this order: settle, insert, then `finish`; or `amend` alone."""

    def __init__(self, books: Books, database: Database, now: int, shift: int) -> None:
        self._books = books
        self._database = database
        self._now = now
        self._tally = Tally()
        self._ids: dict[str, int] = {}
        self._settlement = Settlement(
            database, books.ledger.channels, books.ahead.out, books.young, self._tally, books.numbering.next_seq,
            books.ahead.later, now, shift, checked=books.durable,
        )  # fmt: skip
        self._expiry_at = books.aging.expiry_at
        self._twins: list[Twin] = []

    def settle(self, fresh: Sequence[Fresh], changes: Sequence[Change], spoilt: Sequence[Row]) -> None:
        """Work out what becomes of the rows there are. fresh: those of them that dispatch has are young from now on."""
        books, settlement = self._books, self._settlement
        books.young.begin(self._database, self._id_of)
        if books.durable or spoilt or books.aging.has_work(self._now):
            self._database.begin()  # else there may be nothing to do in the tables
        for each in fresh:
            if each.handed:
                books.young.take(each)
        for change in changes:
            settlement.apply(change)
        for row in spoilt:
            settlement.drop(row)
        channels, out = books.ledger.channels, books.ahead.out
        self._expiry_at = books.aging.expire(self._database, channels, out, settlement, self._now)

    def insert(self, fresh: Sequence[Fresh]) -> None:
        """Rows that are new, but for those that dispatch has; all of them count as accepted. What came again by its id
        is none of them."""
        rows: list[tuple[Row, bytes | bytearray, int | None]] = []
        fresh, self._twins = self._books.known.admit(self._database, fresh, self._id_of, self._now)
        for each in fresh:
            row = each.row
            counts = self._tally.of(row.channel)
            counts.accepted += row.count
            counts.nbytes += row.nbytes(row.first, row.count)
            if not each.handed:
                if each.due is not None:
                    each.due = self._books.ahead.later(row.channel, each.due)
                rows.append((row, each.piece.body, each.due))
        if rows:
            self._database.begin()
            insert(self._database, rows, self._id_of, checked=self._books.durable)

    def finish(self, fresh: Sequence[Fresh], changes: int, spoilt: int) -> Attempt:
        """Write what was worked out, and the ledger; the commit is the caller's."""
        self._settlement.write(self._database, self._id_of)
        self._books.known.settle(self._database, self._settlement.events)
        dropped = self._books.aging.bound_letters(self._database, self._books.ledger, self._tally, self._now)
        return self._attempt(list(fresh), changes, spoilt, dropped)

    def amend(self, change: Callable[[Database, Tally], Dropped]) -> Attempt:
        """A change of its own, in place of all else; it says what is gone from the outbox."""
        self._books.young.begin(self._database, self._id_of)
        self._database.begin()
        dropped = change(self._database, self._tally)
        attempt = self._attempt([], 0, 0, Dropped())
        self._settlement.messages, self._settlement.nbytes = dropped.messages, dropped.nbytes
        return attempt

    def _attempt(self, fresh: list[Fresh], changes: int, spoilt: int, dropped: Dropped) -> Attempt:
        turn = self._account()
        return Attempt(
            self._settlement, self._tally, self._ids, fresh, changes, spoilt, dropped, self._expiry_at, turn,
            self._twins,
        )  # fmt: skip

    def _account(self) -> int:
        """The ledger, and the number of this transaction, by which it is known again."""
        for channel in self._tally.rows:
            self._id_of(channel)
        turn = self._books.turns + 1
        if self._books.durable:
            self._books.ledger.write(self._tally, self._ids, self._database)
            self._database.run("UPDATE box SET turn = ?, wall = ?", (turn, self._now))
        return turn

    def _id_of(self, channel: str) -> int:
        id = self._ids.get(channel)
        if id is None:
            id = self._ids[channel] = self._books.ledger.id_of(channel, self._database)
        return id
