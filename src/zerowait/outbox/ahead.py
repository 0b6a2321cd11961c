"""What has been handed to dispatch, and what is read next: a backlog lies on disk, and only its head in memory.

Each channel has a cursor for each priority into the rows that may go at once, in the order of their names, and one into
those that wait for their time. Rows are only ever added behind these cursors' backs in one way, with a due time that
has passed already; such a due time is moved just behind the cursor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from zerowait.message import BODY_START, Numbers, Segment
from zerowait.outbox.database import Database, DatabaseError
from zerowait.outbox.ledger import Ledger
from zerowait.outbox.reading import Found, body_of, find, segment_of
from zerowait.outbox.row import Row

PRIORITIES: Final = (1, 0, -1)
BATCH: Final = 256
CHANNEL_ROWS: Final = 8_192
CHANNEL_BYTES: Final = 4 << 20
ALL_BYTES: Final = 32 << 20

_READY: Final = (
    "state = 0 AND due IS NULL AND deaths IS NULL AND channel = ? AND priority = ? AND (epoch, first) > (?, ?) "
    "ORDER BY epoch, first"
)
_DUE: Final = "state = 0 AND due IS NOT NULL AND channel = ? AND (due, seq) > (?, ?) AND due <= ? ORDER BY due, seq"
_NEXT_DUE: Final = (
    "SELECT due FROM message WHERE state = 0 AND due IS NOT NULL AND channel = ? AND (due, seq) > (?, ?) "
    "ORDER BY due, seq LIMIT 1"
)


class _Reader:
    """One channel."""

    __slots__ = ("cursors", "due_at", "due_cursor", "mean", "most_bytes", "nbytes", "out_bytes", "rows", "unread")

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.cursors: dict[int, tuple[int, int]] = dict.fromkeys(PRIORITIES, (0, 0))
        self.unread: set[int] = set()  # priorities of which rows lie unread on disk
        self.due_cursor: tuple[int, int] = (0, 0)
        self.due_at: int | None = None
        self.rows = 0  # handed to dispatch and not yet drawn
        self.nbytes = 0  # likewise, payload
        self.mean = 256.0  # bytes of a row, of those that were handed out lately
        self.out_bytes = 0  # handed to dispatch and not yet settled: never less than what is not drawn

    def fitting(self) -> int:
        """How many rows to read at once: about as many as there is room for, since those too many are read in vain."""
        return max(1, min(BATCH, CHANNEL_ROWS - self.rows, int((self.most_bytes - self.nbytes) / self.mean) + 1))

    def has_room(self) -> bool:
        return self.rows < CHANNEL_ROWS and self.nbytes < self.most_bytes


class Ahead:
    """out: all rows that dispatch has. They stay there until they are settled, or wait for another time.

    nbytes: how many payload bytes may be out and not yet drawn, where that is not what memory bears (see above)."""

    def __init__(self, nbytes: int | None = None) -> None:
        self._channel_bytes = CHANNEL_BYTES if nbytes is None else nbytes
        self._all_bytes = ALL_BYTES if nbytes is None else nbytes
        self.out: dict[int, Row] = {}
        self._readers: dict[str, _Reader] = {}
        self._nbytes = 0

    def reader(self, channel: str) -> _Reader:
        reader = self._readers.get(channel)
        if reader is None:
            reader = self._readers[channel] = _Reader(self._channel_bytes)
        return reader

    def load(self, channel: str, id: int, database: Database) -> None:
        """At opening: this channel may have anything waiting."""
        reader = self.reader(channel)
        reader.unread = set(PRIORITIES)
        reader.due_at = database.one(_NEXT_DUE, (id, *reader.due_cursor))

    def drawn(self, drawn: Mapping[str, int]) -> None:
        """Dispatch has sent so many payload bytes of what it was handed."""
        for channel, nbytes in drawn.items():
            reader = self._readers.get(channel)
            if reader is not None and reader.nbytes:
                left = max(0, reader.nbytes - nbytes)
                self._nbytes -= reader.nbytes - left
                reader.rows = reader.rows * left // reader.nbytes
                reader.nbytes = left

    def takes(self, row: Row, *, due: bool) -> bool:
        """Whether a row just stored goes to dispatch at once, without being read again; it is out then."""
        reader = self.reader(row.channel)
        name = (row.epoch, row.first)
        if due:
            return False
        passed = name < reader.cursors[row.priority]  # whoever reads will not come by here again
        if not passed:
            room = reader.has_room() and (self._nbytes < self._all_bytes or not reader.nbytes)
            if row.priority in reader.unread or not room:
                reader.unread.add(row.priority)
                return False
            reader.cursors[row.priority] = name
        self._hand(reader, row)
        return True

    def later(self, channel: str, due: int) -> int:
        """The due time to store for a row that will be read when it is due."""
        reader = self.reader(channel)
        due = max(due, reader.due_cursor[0] + 1)
        if reader.due_at is None or due < reader.due_at:
            reader.due_at = due
        return due

    def _hand(self, reader: _Reader, row: Row) -> None:
        payload = _payload(row)
        reader.rows += 1
        reader.mean += (payload - reader.mean) / 16
        reader.nbytes += payload
        reader.out_bytes += payload
        self._nbytes += payload
        self.out[row.seq] = row

    def shrink(self, row: Row, gone: Numbers) -> None:
        """These messages are in the row no more."""
        before = _payload(row)
        row.gone = gone
        if row.seq in self.out:
            self._give_back(row.channel, before - _payload(row))

    def missed(self, row: Row, due: int | None) -> None:
        """A row that was stored without dispatch having been offered it, or `later` having been asked since."""
        if due is None:
            self.reader(row.channel).unread.add(row.priority)
        else:
            self.later(row.channel, due)

    def back(self, row: Row) -> None:
        """A row is out no more: settled whole, or waiting on disk for another time."""
        if self.out.pop(row.seq, None) is not None:
            self._give_back(row.channel, _payload(row))

    def _give_back(self, channel: str, payload: int) -> None:
        reader = self._readers[channel]
        reader.out_bytes -= payload
        if reader.nbytes > reader.out_bytes:
            # Settled without having been sent (expired, withdrawn, handled by another): dispatch cannot have drawn it.
            self.drawn({channel: reader.nbytes - reader.out_bytes})

    def wants(self, now: int) -> bool:
        """Whether there is something to read and room for it."""
        return any(self._wants(reader, now) for reader in self._readers.values())

    def _wants(self, reader: _Reader, now: int) -> bool:
        if not reader.unread and (reader.due_at is None or reader.due_at > now):
            return False
        return reader.has_room() and (self._nbytes < self._all_bytes or not reader.nbytes)

    def next_due(self) -> int | None:
        """When the next row comes due of a channel that has room."""
        return min((r.due_at for r in self._readers.values() if r.due_at is not None and r.has_room()), default=None)

    def read(
        self,
        database: Database,
        ledger: Ledger,
        now: int,
        shift: int,
        spoilt: Callable[[Found | int], None],
        segments: list[Segment],
    ) -> None:
        """Append as much as there is room for. spoilt: told of rows whose bodies are damaged (or of their seq)."""
        channels = ledger.channels
        before = len(segments)
        for channel, reader in list(self._readers.items()):
            if not self._wants(reader, now):
                continue
            id = ledger.ids[channel]
            if reader.due_at is not None and reader.due_at <= now:
                self._read_due(database, channels, reader, id, now, shift, spoilt, segments)
            for priority in PRIORITIES:
                while priority in reader.unread and self._wants(reader, now):
                    cursor = reader.cursors[priority]
                    limit = reader.fitting()
                    found, damaged = _find(database, channels, _READY, (id, priority, *cursor), limit, spoilt)
                    for each in found:
                        if not self._wants(reader, now):
                            break
                        reader.cursors[priority] = each.key()
                        self._offer(database, reader, each, shift, spoilt, segments)
                    else:
                        if damaged:
                            break  # on from here when what is damaged has been set aside
                        if len(found) < limit:
                            reader.unread.discard(priority)
        # What has been handed out meanwhile fills the room of others: begin with another next time.
        if len(self._readers) > 1 and len(segments) > before:
            first = next(iter(self._readers))
            self._readers[first] = self._readers.pop(first)

    def _read_due(
        self,
        database: Database,
        channels: dict[int, str],
        reader: _Reader,
        id: int,
        now: int,
        shift: int,
        spoilt: Callable[[Found | int], None],
        segments: list[Segment],
    ) -> None:
        while reader.has_room():
            limit = reader.fitting()
            found, damaged = _find(database, channels, _DUE, (id, *reader.due_cursor, now), limit, spoilt)
            for each in found:
                if not reader.has_room():
                    return
                assert each.due is not None
                reader.due_cursor = (each.due, each.row.seq)
                self._offer(database, reader, each, shift, spoilt, segments)
            if damaged:
                return
            if len(found) < limit:
                reader.due_at = database.one(_NEXT_DUE, (id, *reader.due_cursor))
                return

    def _offer(
        self,
        database: Database,
        reader: _Reader,
        found: Found,
        shift: int,
        spoilt: Callable[[Found | int], None],
        segments: list[Segment],
    ) -> None:
        if found.row.seq in self.out:
            return
        body = body_of(database, found)
        if body is None:
            spoilt(found)
            return
        if found.row.marks is None:
            self._hand(reader, found.row)
        else:  # suspects wait beside the others, and must not fill their room; there are no more than were in flight
            reader.out_bytes += _payload(found.row)
            self.out[found.row.seq] = found.row
        segments.append(segment_of(found.row, body, shift))


def _find(
    database: Database,
    channels: dict[int, str],
    where: str,
    bindings: tuple[int, ...],
    limit: int,
    spoilt: Callable[[Found | int], None],
) -> tuple[list[Found], bool]:
    try:
        return find(database, channels, where, bindings, limit, bodies=True), False
    except DatabaseError as error:
        if not database.is_damage(error):
            raise
    # A page among them is damaged: one by one, so that only what lies on it is set aside.
    found: list[Found] = []
    for seq in database.rows(f"SELECT seq FROM message WHERE {where} LIMIT ?", (*bindings, limit)):
        try:
            found += find(database, channels, "seq = ?", seq, 1, bodies=True)
        except DatabaseError as error:
            if not database.is_damage(error):
                raise
            spoilt(seq[0])
    return found, True


def _payload(row: Row) -> int:
    if not row.gone:
        return row.size - BODY_START
    return sum(
        stop - start
        for first, count in row.gone.missing(row.first, row.count)
        for start, stop in (row.span(first, count),)
    )
