"""What became of all messages of an outbox, by channel; exact at every moment, from any thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Lock

from msgspec import Struct

from zerowait.message import Verdict
from zerowait.outbox.database import Database


class LedgerRow(Struct):
    """One channel. `dead` counts the dead letters that are there now; `nbytes` is payload and 64 for each message."""

    accepted: int = 0
    handled: int = 0
    dead: int = 0
    expired: int = 0
    dropped: int = 0
    nbytes: int = 0

    @property
    def waiting_and_in_flight(self) -> int:
        return self.accepted - self.handled - self.dead - self.expired - self.dropped

    def add(self, other: LedgerRow) -> None:
        self.accepted += other.accepted
        self.handled += other.handled
        self.dead += other.dead
        self.expired += other.expired
        self.dropped += other.dropped
        self.nbytes += other.nbytes


class Tally:
    """The changes of one transaction, by channel."""

    def __init__(self) -> None:
        self.rows: dict[str, LedgerRow] = {}

    def of(self, channel: str) -> LedgerRow:
        row = self.rows.get(channel)
        if row is None:
            row = self.rows[channel] = LedgerRow()
        return row

    def settle(self, channel: str, verdict: Verdict, messages: int, nbytes: int) -> None:
        row = self.of(channel)
        row.nbytes -= nbytes
        if verdict is Verdict.HANDLED:
            row.handled += messages
        elif verdict is Verdict.EXPIRED:
            row.expired += messages
        else:
            row.dropped += messages


class Ledger:
    """pending: what is accepted and not yet in a transaction, by channel."""

    def __init__(self, pending: Callable[[], dict[str, int]]) -> None:
        self._pending = pending
        self._lock = Lock()
        self._rows: dict[str, LedgerRow] = {}
        self.ids: dict[str, int] = {}
        # Channel → descriptions of the types of its messages, as `contract` packs them: on disk, and as they are to be.
        self.types: dict[str, bytes] = {}
        self.declared: Mapping[str, bytes] = {}
        self._declaring: dict[str, bytes] = {}  # in the transaction that is under way
        self.channels: dict[int, str] = {}
        self.dead = 0  # dead letters on disk, of all channels

    def load(self, database: Database) -> None:
        self._rows.clear()
        self.ids.clear()
        self.channels.clear()
        self.types.clear()
        for id, name, types, *counts in database.rows(
            "SELECT channel, name, types, accepted, handled, dead, expired, dropped, bytes FROM ledger"
        ):
            self._rows[name] = LedgerRow(*counts)
            if types is not None:
                self.types[name] = types
            self.ids[name] = id
            self.channels[id] = name
        self.dead = sum(row.dead for row in self._rows.values())

    def rows(self) -> dict[str, LedgerRow]:
        """A copy, with what has been accepted and not yet stored. Any thread."""
        with self._lock:
            rows = {
                name: LedgerRow(**{f: getattr(row, f) for f in row.__struct_fields__})
                for name, row in self._rows.items()
            }
            for name, count in self._pending().items():
                rows.setdefault(name, LedgerRow()).accepted += count
        return rows

    def unsettled(self) -> dict[str, int]:
        """Of the channels in which something waits or is in flight: how much. Any thread."""
        return {name: row.waiting_and_in_flight for name, row in self.rows().items() if row.waiting_and_in_flight}

    def row(self, channel: str) -> LedgerRow:
        """What is on disk of one channel; the owner's thread only."""
        return self._rows.get(channel) or LedgerRow()

    def held(self) -> tuple[int, int]:
        """Messages and bytes that are on disk, dead letters included."""
        rows = self._rows.values()
        return sum(row.waiting_and_in_flight + row.dead for row in rows), sum(row.nbytes for row in rows)

    def id_of(self, channel: str, database: Database) -> int:
        """The channel's number in the file, given to it in the present transaction if it is new."""
        id = self.ids.get(channel)
        if id is None:
            id = database.one("SELECT channel FROM ledger WHERE name = ?", (channel,))
            if id is None:
                database.run(
                    "INSERT INTO ledger (name, accepted, handled, dead, expired, dropped, bytes) "
                    "VALUES (?, 0, 0, 0, 0, 0, 0)",
                    (channel,),
                )
                id = database.one("SELECT last_insert_rowid()")
        return int(id)

    def write(self, tally: Tally, ids: dict[str, int], database: Database) -> None:
        self._declaring = {}
        for name, row in tally.rows.items():
            types = self.declared.get(name)
            if row.accepted and types is not None and types != self.types.get(name):
                self._declaring[name] = types
                database.run("UPDATE ledger SET types = ? WHERE channel = ?", (types, ids[name]))
            database.run(
                "UPDATE ledger SET accepted = accepted + ?, handled = handled + ?, dead = dead + ?, "
                "expired = expired + ?, dropped = dropped + ?, bytes = bytes + ? WHERE channel = ?",
                (row.accepted, row.handled, row.dead, row.expired, row.dropped, row.nbytes, ids[name]),
            )

    def committed(self, tally: Tally, ids: dict[str, int], stored: Callable[[], object]) -> None:
        """The transaction is durable. stored: takes its messages out of what is pending, in the same instant."""
        with self._lock:
            for name, row in tally.rows.items():
                self._rows.setdefault(name, LedgerRow()).add(row)
                self.dead += row.dead
            self.types.update(self._declaring)
            for name, id in ids.items():
                self.ids[name] = id
                self.channels[id] = name
            stored()
