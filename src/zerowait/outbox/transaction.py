"""One transaction of an outbox, while it is written: rows, settlement, ledger. What is true once it is durable is an
`Attempt`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zerowait.message import Change, Choose, Discard, Keep, Release, Spool, Unspool, Unstub
from zerowait.numbers import Numbers
from zerowait.outbox.attempt import Attempt
from zerowait.outbox.books import Books
from zerowait.outbox.claims import Claiming, Output
from zerowait.outbox.database import Database
from zerowait.outbox.known import Twin
from zerowait.outbox.ledger import Tally
from zerowait.outbox.row import Fresh, Row, checksum
from zerowait.outbox.settlement import Dropped, Settlement
from zerowait.outbox.stubs import Choosing
from zerowait.outbox.tables import insert


class _Channels:
    """The numbers of channels, and the ids of messages in them, as this transaction finds or makes them."""

    def __init__(self, books: Books, database: Database, now: int) -> None:
        self.ids: dict[str, int] = {}
        self._books = books
        self._database = database
        self._now = now

    def id_of(self, channel: str) -> int:
        id = self.ids.get(channel)
        if id is None:
            id = self.ids[channel] = self._books.ledger.id_of(channel, self._database)
        return id

    def is_new(self, output: Output, name: tuple[int, int], body: bytes | bytearray) -> bool:
        """Whether what a handler has sent with an id was not accepted before; from now on it was."""
        assert output.id is not None
        known, channel = self._books.known, self.id_of(output.row.channel)
        return known.admit_output(self._database, channel, output.id, name, checksum(body, b""), self._now)


class Transaction:
    """The verbs in this order: settle, insert, then `finish`; or `amend` alone."""

    def __init__(self, books: Books, database: Database, now: int, shift: int) -> None:
        self._books = books
        self._database = database
        self._now = now
        self._tally = Tally()
        # A thing of its own, for others keep it: a transaction that knew itself would stay, with all that it settled,
        # until the next garbage collection.
        self._channels = _Channels(books, database, now)
        self._ids = self._channels.ids
        self._id_of = self._channels.id_of
        self._settlement = Settlement(
            database, books.ledger.channels, books.ahead.out, books.young, self._tally, books.numbering.next_seq,
            books.ahead.later, now, shift, epoch=books.numbering.epoch, checked=books.durable,
        )  # fmt: skip
        self._claiming = Claiming(
            books.claims, database, self._tally, next_seq=books.numbering.next_seq, number=books.numbering.take,
            is_new=self._channels.is_new, later=books.ahead.later, shift=shift, checked=books.durable,
        )  # fmt: skip
        self._choosing = Choosing(books.stubs, books.numbering.next_seq, now)
        self._expiry_at = books.aging.expiry_at
        self._new: list[Fresh] = []
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
            self._apply(change)
        for row in spoilt:
            settlement.drop(row)
        channels, out = books.ledger.channels, books.ahead.out
        self._expiry_at = books.aging.expire(self._database, channels, out, settlement, self._now)

    def _apply(self, change: Change) -> None:
        match change:
            case Choose():
                self._choose(change)
            case Unstub():
                self._choosing.remove((change.epoch, change.outputs), change.first, change.count)
            case Keep():
                self._claiming.keep(change)
            case Spool():
                self._claiming.spool(change)
            case Unspool():
                self._claiming.unspool(change)
            case Release():
                self._claiming.release(change)
            case Discard():
                self._claiming.discard(change)
            case _:
                self._settlement.apply(change)

    def _choose(self, change: Choose) -> None:
        """What is not settled is, by this run; what is may have been by the same one."""
        choice = change.epoch, change.outputs
        chosen = Numbers(self._choosing.chosen(choice, change.first, change.count))
        for channel, first, count in self._settlement.choose(change):
            self._choosing.add(choice, first, count, channel)
            chosen.add(first, count)
        change.chosen = tuple(chosen)

    def insert(self, fresh: Sequence[Fresh]) -> None:
        """Rows that are new, but for those that dispatch has; all of them count as accepted. What came again by its id
        is none of them."""
        rows: list[tuple[Row, bytes | bytearray, int | None]] = []
        self._new, self._twins = self._books.known.admit(self._database, fresh, self._id_of, self._now)
        for each in self._new:
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
        self._choosing.age()
        self._settlement.write(self._database, self._id_of)
        self._books.known.settle(self._database, self._settlement.events)
        if self._claiming or self._choosing:
            self._database.begin()
            self._claiming.write(self._database, self._id_of)
            self._choosing.write(self._database, self._id_of)
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
            self._settlement, self._claiming, self._choosing, self._tally, self._ids, fresh, changes, spoilt, dropped,
            self._expiry_at, turn, self._new, self._twins,
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
