"""What has been handed to dispatch, and what is read next: a backlog lies on disk, and only its head in memory.

Each channel has a cursor for each priority into the rows that may go at once, in the order of their names, and one into
those that wait for their time. Dispatch sends the highest first of what it has; so that a row can overtake what was
read before it, there is some room left for the higher ones when that of the lower is full. Rows are only ever added
behind these cursors' backs in one way, with a due time that has passed already; such a due time is moved just behind
the cursor.

What has a key goes out only as the head of its key, and while nothing else of the key is out. A cursor that comes by a
key which is not free passes on: the head is looked up when what is out has left (`zerowait.outbox.heads`). So of each
key that waits, either something is out, or it is to be looked up, or a cursor has yet to come by its head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final

from msgspec import Struct, field

from zerowait.message import BODY_START, Segment
from zerowait.numbers import Numbers
from zerowait.outbox.database import Database, DatabaseError, integers
from zerowait.outbox.heads import heads
from zerowait.outbox.ledger import Ledger
from zerowait.outbox.reading import Found, body_of, find, segment_of
from zerowait.outbox.row import Row

PRIORITIES: Final = (1, 0, -1)
QUARTERS: Final = {1: 5, 0: 4, -1: 3}  # of what follows, that may be read ahead when something of it is added
BATCH: Final = 256
CHANNEL_ROWS: Final = 8_192
CHANNEL_BYTES: Final = 4 << 20
ALL_BYTES: Final = 32 << 20
PASSED: Final = 2_048  # rows whose keys are not free that a turn passes by: thousands may lie behind one

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

    __slots__ = (
        "busy", "cursors", "due_at", "due_cursor", "free", "mean", "most_bytes", "nbytes", "out_bytes", "rows",
        "unread",
    )  # fmt: skip

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.cursors: dict[int, tuple[int, int]] = dict.fromkeys(PRIORITIES, (0, 0))
        self.unread: set[int] = set()  # priorities of which rows lie unread on disk
        self.due_cursor: tuple[int, int] = (0, 0)
        self.due_at: int | None = None
        self.busy: set[bytes] = set()  # keys of which a row is out
        self.free: dict[bytes, None] = {}  # keys whose heads are to be looked up
        self.rows = 0  # handed to dispatch and not yet drawn
        self.nbytes = 0  # likewise, payload
        self.mean = 256.0  # bytes of a row, of those that were handed out lately
        self.out_bytes = 0  # handed to dispatch and not yet settled: never less than what is not drawn

    def fitting(self, priority: int = 0) -> int:
        """How many rows to read at once: about as many as there is room for, since those too many are read in vain."""
        quarters = QUARTERS[priority]
        rows, nbytes = CHANNEL_ROWS * quarters // 4 - self.rows, self.most_bytes * quarters / 4 - self.nbytes
        return max(1, min(BATCH, rows, int(nbytes / self.mean) + 1))

    def has_room(self, priority: int = 0) -> bool:
        """Room for one more of that priority; for any where nothing is."""
        if not priority:
            return self.rows < CHANNEL_ROWS and self.nbytes < self.most_bytes
        quarters = QUARTERS[priority]
        return not self.rows or (
            self.rows < CHANNEL_ROWS * quarters // 4 and self.nbytes < self.most_bytes * quarters / 4
        )


class Ahead:
    """out: all rows that dispatch has. They stay there until they are settled, or wait for another time.

    nbytes: how many payload bytes may be out and not yet drawn, where that is not what memory bears (see above)."""

    def __init__(self, nbytes: int | None = None) -> None:
        self._channel_bytes = CHANNEL_BYTES if nbytes is None else nbytes
        self._all_bytes = ALL_BYTES if nbytes is None else nbytes
        self.out: dict[int, Row] = {}
        self.just_stored: dict[int, tuple[Row, bytes | bytearray]] = {}  # heads, perhaps: they need not be read again
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
            if row.priority in reader.unread or not self._has_room(reader, row.priority):
                reader.unread.add(row.priority)
                return False
            reader.cursors[row.priority] = name
        self._hand(reader, row)
        return True

    def keyed(self, row: Row, body: bytes | bytearray | None, *, due: bool) -> None:
        """A row with a key was just stored; it goes out when it is the head of its key. body: None, it is to be
        read."""
        assert row.key is not None, "without a key"
        reader = self.reader(row.channel)
        name = (row.epoch, row.first)
        if due:
            return
        if name >= reader.cursors[row.priority]:
            if row.priority in reader.unread:
                return
            if row.key not in reader.busy and not self._has_room(reader, row.priority):
                reader.unread.add(row.priority)
                return
            reader.cursors[row.priority] = name
        if row.key not in reader.busy:
            reader.free[row.key] = None
            if body is not None:
                self.just_stored[row.seq] = row, body

    def freed(self, channel: str, key: bytes) -> None:
        """Something of that key has left the outbox or waits otherwise than before: its head may be another."""
        reader = self.reader(channel)
        if key not in reader.busy:
            reader.free[key] = None

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
        self._is_out(reader, row)

    def _is_out(self, reader: _Reader, row: Row) -> None:
        self.out[row.seq] = row
        if row.key is not None:
            assert row.key not in reader.busy, "two of one key at once"
            reader.busy.add(row.key)
            reader.free.pop(row.key, None)

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
        if self.out.pop(row.seq, None) is None:
            return
        self._give_back(row.channel, _payload(row))
        if row.key is not None:
            reader = self._readers[row.channel]
            reader.busy.discard(row.key)
            reader.free[row.key] = None

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
        if (reader.free or (reader.due_at is not None and reader.due_at <= now)) and self._has_room(reader):
            return True
        return bool(reader.unread) and any(self._has_room(reader, priority) for priority in reader.unread)

    def _has_room(self, reader: _Reader, priority: int = 0) -> bool:
        most = self._all_bytes * QUARTERS[priority] / 4 if priority else self._all_bytes
        return reader.has_room(priority) and (self._nbytes < most or not reader.nbytes)

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
            reading = _Reading(database, channels, ledger.ids[channel], now, shift, spoilt, segments)
            self._read_heads(reading, reader)
            if reader.due_at is not None and reader.due_at <= now:
                self._read_due(reading, reader)
            for priority in PRIORITIES:
                while priority in reader.unread and self._has_room(reader, priority) and reading.passed < PASSED:
                    limit = reader.fitting(priority)
                    found, damaged = _find(reading, _READY, (reading.id, priority, *reader.cursors[priority]), limit)
                    for each in found:
                        if not self._has_room(reader, priority):
                            break
                        reader.cursors[priority] = each.name()
                        self._offer(reading, reader, each)
                    else:
                        if damaged:
                            break  # on from here when what is damaged has been set aside
                        if len(found) < limit:
                            reader.unread.discard(priority)
                    self._read_heads(reading, reader)
        # What has been handed out meanwhile fills the room of others: begin with another next time.
        if len(self._readers) > 1 and len(segments) > before:
            first = next(iter(self._readers))
            self._readers[first] = self._readers.pop(first)

    def _read_due(self, reading: _Reading, reader: _Reader) -> None:
        while reader.has_room() and reading.passed < PASSED:
            limit = reader.fitting()
            found, damaged = _find(reading, _DUE, (reading.id, *reader.due_cursor, reading.now), limit)
            for each in found:
                if not reader.has_room():
                    return
                assert each.due is not None
                reader.due_cursor = (each.due, each.row.seq)
                self._offer(reading, reader, each)
            self._read_heads(reading, reader)
            if damaged:
                return
            if len(found) < limit:
                reader.due_at = reading.database.one(_NEXT_DUE, (reading.id, *reader.due_cursor))
                return

    def _read_heads(self, reading: _Reading, reader: _Reader) -> None:
        """Of keys that have become free, or that a cursor came by."""
        while reader.free and self._has_room(reader):
            keys = list(islice(reader.free, reader.fitting()))
            found = heads(reading.database, reading.id, keys, reading.now)
            unread = [seq for seq in found if seq not in self.just_stored and seq not in reading.seen]
            if unread:
                read, _ = _find(reading, "seq IN carray(?)", (integers(unread),), len(unread))
                reading.seen.update((each.row.seq, each) for each in read)
            for seq in found:
                if (stored := self.just_stored.get(seq)) is not None:
                    self._hand(reader, stored[0])
                    reading.segments.append(segment_of(*stored, reading.shift))
                elif (seen := reading.seen.get(seq)) is not None:
                    self._give(reading, reader, seen)
            for key in keys:
                reader.free.pop(key, None)
            reading.seen.clear()

    def _offer(self, reading: _Reading, reader: _Reader, found: Found) -> None:
        """Something that a cursor has come by."""
        row = found.row
        if row.seq in self.out:
            return
        if row.key is None:
            self._give(reading, reader, found)
        elif row.key in reader.busy:
            reading.passed += 1
        else:
            reader.free[row.key] = None
            reading.seen[row.seq] = found

    def _give(self, reading: _Reading, reader: _Reader, found: Found) -> None:
        body = body_of(reading.database, found)
        if body is None:
            reading.spoilt(found)
            return
        if found.row.marks is None:
            self._hand(reader, found.row)
        else:  # suspects wait beside the others, and must not fill their room; there are no more than were in flight
            reader.out_bytes += _payload(found.row)
            self._is_out(reader, found.row)
        reading.segments.append(segment_of(found.row, body, reading.shift))


class _Reading(Struct):
    """One look into the tables, at one channel. seen: rows with a key that a cursor has come by."""

    database: Database
    channels: dict[int, str]
    id: int
    now: int
    shift: int
    spoilt: Callable[[Found | int], None]
    segments: list[Segment]
    passed: int = 0
    seen: dict[int, Found] = field(default_factory=dict[int, Found])


def _find(reading: _Reading, where: str, bindings: tuple[Any, ...], limit: int) -> tuple[list[Found], bool]:
    database, channels = reading.database, reading.channels
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
            reading.spoilt(seq[0])
    return found, True


def _payload(row: Row) -> int:
    if not row.gone:
        return row.size - BODY_START
    return sum(
        stop - start
        for first, count in row.gone.missing(row.first, row.count)
        for start, stop in (row.span(first, count),)
    )
