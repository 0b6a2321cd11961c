"""An outbox file that may be damaged: what is whole in it, and a new file of that. Nobody else has it open.

Nothing is read twice that failed once, and nothing is changed in the damaged file: it is kept under another name.
"""

from __future__ import annotations

import os
import shutil
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from msgspec import MsgspecError, Struct

from zerowait.errors import StoreError
from zerowait.message import BODY_START
from zerowait.numbers import Numbers
from zerowait.outbox.claims import INPUT_BYTES
from zerowait.outbox.database import Database, DatabaseError, create, explain, is_outside, sync_folder
from zerowait.outbox.database import check as check_header
from zerowait.outbox.row import checksum, is_whole, unpack_gone, unpack_headers
from zerowait.outbox.settlement import LETTER, PREPARED, SET_ASIDE, STUB, WAITING
from zerowait.outbox.sheaf import MESSAGE_COST

PROBLEMS: Final = 20
_PAGE: Final = 1_000
_ROWS_AT_ONCE: Final = 256
_LENGTH: Final = struct.Struct(">16xH10xI")  # of the header: bytes of a page, and pages of the file
# Tables that are copied as far as they can be read, and what is in their columns.
_BESIDE: Final[Mapping[str, tuple[Any, ...]]] = {
    "noted": (int, int),
    "outcome": (bytes, int, int, int, bytes, int, bytes | None),
    "known": (int, str, int, int, int, int, int | None),
}
# What a damaged page may make of a value that SQLite takes for a good one, wherever it is looked at first.
_UNREADABLE: Final = (DatabaseError, MsgspecError, struct.error, TypeError, ValueError, LookupError, OverflowError)
# Columns of `message` that are whole numbers, and none of them negative.
_COUNTS: Final = ("seq", "epoch", "first", "count", "channel", "state", "attempt", "body", "home", "accepted_at",
                  "retried")  # fmt: skip
_TIMES: Final = ("due", "expires")  # whole numbers or nothing
_BLOBS: Final = ("key", "gone", "deaths", "input", "note", "headers")  # bytes or nothing
_END_US: Final = 253_402_300_799_000_000  # of the year 9999, the last that people can be shown


class Report(Struct, kw_only=True):
    """What is in a file, by channel. Messages whose body is not what was written are damaged; what was in a row that
    cannot be read, nobody knows. lost: what the ledger says should wait or be a dead letter, less what is whole of it;
    set_aside: what a process has found damaged before."""

    path: str
    problems: list[str] = []  # in SQLite's words, at most PROBLEMS
    waiting: dict[str, int] = {}
    dead: dict[str, int] = {}
    damaged: dict[str, int] = {}
    lost: dict[str, int] = {}
    unreadable_rows: int = 0
    set_aside: int = 0

    @property
    def is_whole(self) -> bool:
        return not self.problems and not self.damaged and not self.unreadable_rows


class _Account(Struct):
    """A row of the ledger."""

    id: int
    name: str | None  # None: it cannot be read, or is another's
    counts: list[int]  # accepted, handled, dead, expired, dropped, bytes; 0 for what is no number
    owed: int | None  # messages that should be here, dead letters included; None: a number cannot be read
    types: bytes | None


class _Body(Struct):
    lengths: bytes | None
    content: bytes
    crc: int | None


class _Row(Struct):
    """A row of `message` as it lies there, and what is needed of it here."""

    columns: tuple[Any, ...]
    channel: str
    state: int
    living: int
    body_id: int
    body: _Body | None  # None: it is not what was written

    @property
    def nbytes(self) -> int:
        return len(self.body.content) - BODY_START if self.body is not None else 0


class Salvage:
    """Opens the file; `close` it. Raises StoreError if it is no outbox of this version, or cannot be read at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not check_header(path):
            raise StoreError(f"There is no outbox {path}.", path=path)
        self._copy_of_it = _lengthened(path)
        try:
            self._database = Database(self._copy_of_it or path)
        except DatabaseError as error:
            self._forget_copy()
            if is_outside(error):
                raise explain(error, path, None) from error
            raise StoreError(
                f"The outbox {path} cannot be opened ({error}), so nothing can be said of what is in it. It was left "
                "as it was. What is left of a copy is shown by `sqlite3 COPY .recover`.",
                path=path,
            ) from error
        try:
            self._columns = [row[1] for row in self._database.rows("PRAGMA table_info(message)")]
            self._ledger = self._accounts()
            self._channels = {each.id: each.name for each in self._ledger if each.name is not None}
        except DatabaseError as error:
            self.close()
            raise StoreError(
                f"Of the outbox {path} not even the list of its channels can be read ({error}). It was not touched. "
                "What is left of a copy is shown by `sqlite3 COPY .recover`.",
                path=path,
            ) from error

    def close(self) -> None:
        self._database.close(touch=False)
        self._forget_copy()

    def _forget_copy(self) -> None:
        if self._copy_of_it is not None:
            _remove(self._copy_of_it)

    def report(self) -> Report:
        """Reads all of it."""
        report = Report(path=str(self.path), problems=self._problems())
        for row in self._rows(report):
            self._count(report, row)
        self._count_lost(report)
        return report

    def rewrite(self, box: int, name: str, now_us: int) -> tuple[Report, Path]:
        """Make a new file of what is whole, in place of this one, which is kept; gives where. Close this at once.

        box, name: of the outbox, should its own record be unreadable. What is damaged is counted as dropped. The
        outbox is never without a file: the new one is complete and on disk before it takes the name. Raises StoreError,
        and then all is as it was.
        """
        draft = self.path.with_name(self.path.name + ".repaired")
        kept = self.path.with_name(f"{self.path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
        try:
            _remove(draft)
            create(draft, box, name, now_us)
            new = Database(draft)
            try:
                report = self._copy(new, now_us)
                new.checkpoint(truncate=True)
            finally:
                new.close()
            self._exchange(draft, kept)
        except DatabaseError as error:
            raise explain(error, draft, None) from error
        except OSError as error:
            raise StoreError(f"{draft} cannot be written: {error.strerror}.", path=draft, errno=error.errno) from error
        finally:
            with suppress(OSError):  # what is wrong has been said
                _remove(draft)
        return report, kept

    def _exchange(self, draft: Path, kept: Path) -> None:
        try:
            self._database.checkpoint(truncate=True)  # so that the log holds nothing that the file has not
        except DatabaseError:
            pass  # then it is kept beside the file
        log, kept_log = Path(f"{self.path}-wal"), Path(f"{kept}-wal")
        os.link(self.path, kept)
        try:
            if log.exists():
                log.rename(kept_log)
            draft.replace(self.path)
        except BaseException:
            # The damaged file has its name still: without its log it would be another than it was.
            if kept_log.exists():
                kept_log.rename(log)
            kept.unlink()
            raise
        sync_folder(self.path.parent)

    def _copy(self, new: Database, now_us: int) -> Report:
        report = Report(path=str(self.path), problems=self._problems())
        new.begin()
        self._copy_box(new, now_us)
        for each in self._ledger:
            if each.name is not None:
                values = (each.id, each.name, *each.counts, each.types)
                new.run("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
        for table, kinds in _BESIDE.items():
            self._copy_table(new, table, kinds)
        nbytes: dict[str, int] = {}
        for at, row in enumerate(self._rows(report)):
            self._count(report, row)
            if row.state == SET_ASIDE or (row.body is None and row.state != STUB):
                continue
            if row.body is not None:
                columns = dict(zip(self._columns, row.columns, strict=True))
                body = (columns["body"], row.body.lengths, row.body.content, row.body.crc)
                new.run("INSERT INTO body (id, refs, lengths, bytes, crc) VALUES (?, 1, ?, ?, ?)", body)
            new.run(f"INSERT INTO message VALUES ({', '.join('?' * len(row.columns))})", row.columns)
            if row.state in (WAITING, LETTER):  # the others stand outside of the ledger
                nbytes[row.channel] = nbytes.get(row.channel, 0) + row.nbytes + MESSAGE_COST * row.living
            if at % _ROWS_AT_ONCE == 0:
                new.commit()
                new.begin()
        self._count_lost(report)
        for name in self._channels.values():
            self._balance(new, name, report, nbytes.get(name, 0))
        new.commit()
        return report

    def _copy_box(self, new: Database, now_us: int) -> None:
        try:
            said = self._database.one("SELECT id, name, epoch, wall, turn FROM box")
        except _UNREADABLE:
            said = None
        if said is None or not _are(said, (bytes, str, int, int, int)) or len(said[0]) != 8:
            new.run("UPDATE box SET epoch = ?", (now_us // 1_000,))  # above all that it can have had
            return
        new.run("UPDATE box SET id = ?, name = ?, epoch = ?, wall = ?, turn = ?", said)

    def _copy_table(self, new: Database, table: str, kinds: tuple[Any, ...]) -> None:
        try:
            rows = self._database.rows(f"SELECT * FROM {table}")
        except _UNREADABLE:
            return
        for row in rows:
            if _are(row, kinds) and (table != "outcome" or (len(row[0]), len(row[4])) == (8, 16)):
                new.run(f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * len(row))})", row)

    def _balance(self, new: Database, name: str, report: Report, nbytes: int) -> None:
        """What the ledger says was there and is no more was dropped."""
        waiting, dead = report.waiting.get(name, 0), report.dead.get(name, 0)
        new.run(
            "UPDATE ledger SET dead = ?1, bytes = ?2, dropped = max(0, accepted - handled - expired - ?1 - ?3), "
            "accepted = max(accepted, handled + expired + ?1 + ?3) WHERE name = ?4",
            (dead, nbytes, waiting, name),
        )

    def _accounts(self) -> list[_Account]:
        """The ledger. A row of it that cannot be read has no name, and its messages are nobody's. Raises
        DatabaseError."""
        found, names = list[_Account](), set[str | None]()
        for (id,) in self._database.rows("SELECT channel FROM ledger NOT INDEXED"):
            each = _Account(id, self._cell("name", id, str), [], None, self._cell("types", id, bytes))
            counts = [
                self._cell(f"max(0, {name})", id, int)
                for name in ("accepted", "handled", "dead", "expired", "dropped", "bytes")
            ]
            each.counts = [count or 0 for count in counts]
            if None not in counts:
                accepted, handled, _, expired, dropped, _ = each.counts
                each.owed = accepted - handled - expired - dropped
            if each.name in names:
                each.name = None
            names.add(each.name)
            found.append(each)
        return found

    def _cell(self, column: str, id: int, kind: type[Any]) -> Any:
        """What is in a column of the ledger; None if it is not of this kind. Raises DatabaseError."""
        try:
            value = self._database.one(f"SELECT {column} FROM ledger WHERE channel = ?", (id,))
        except UnicodeDecodeError:
            return None
        return value if isinstance(value, kind) else None

    def _count_lost(self, report: Report) -> None:
        for each in self._ledger:
            name = each.name or f"channel number {each.id}"
            whole = report.waiting.get(name, 0) + report.dead.get(name, 0)
            lost = each.owed - whole if each.owed is not None else report.damaged.get(name, 0)
            if lost > 0:
                report.lost[name] = lost

    def _problems(self) -> list[str]:
        try:
            said = [str(row[0]) for row in self._database.rows(f"PRAGMA integrity_check({PROBLEMS})")]
        except _UNREADABLE as error:
            said = [str(error)]
        said = [] if said == ["ok"] else said
        for each in self._ledger:
            if each.name is None:
                said.append(f"the name of channel number {each.id} cannot be read")
            elif each.owed is None:
                said.append(f"the ledger of channel {each.name} cannot be read")
        return said[:PROBLEMS]

    def _count(self, report: Report, row: _Row) -> None:
        if row.state == SET_ASIDE:
            report.set_aside += row.living
        if row.state in (SET_ASIDE, STUB) or (row.state == PREPARED and row.body is not None):
            return
        counted = report.damaged if row.body is None else report.dead if row.state == LETTER else report.waiting
        counted[row.channel] = counted.get(row.channel, 0) + row.living

    def _rows(self, report: Report) -> Iterator[_Row]:
        bodies: set[int] = set()
        for seq in sorted(self._seqs()):
            try:
                row = self._row(seq)
            except _UNREADABLE:
                row = None
            if row is None:
                report.unreadable_rows += 1
                continue
            if row.body_id in bodies:  # it is of another row, and which of the two is mistaken cannot be told
                row.body = None
            bodies.add(row.body_id)
            yield row

    def _row(self, seq: int) -> _Row | None:
        """None, or whatever is in _UNREADABLE: it cannot be read."""
        [columns] = self._database.rows("SELECT * FROM message WHERE seq = ?", (seq,))
        said = dict(zip(self._columns, columns, strict=True))
        channel = self._channels.get(said["channel"])
        if channel is None or not _is_sound(said):
            return None
        gone = unpack_gone(said["gone"] or b"", said["first"]) or Numbers()
        living = sum(n for _, n in gone.missing(said["first"], said["count"]))
        unpack_headers(said["headers"] or b"")
        return _Row(columns, channel, said["state"], living, said["body"], self._body(said["body"], said["count"]))

    def _seqs(self) -> set[int]:
        """Of all rows that the table or its index by name knows: what one has lost, the other may have."""
        return {
            *self._scan("SELECT seq FROM message WHERE seq > ? ORDER BY seq LIMIT ?", (0,)),
            *self._scan(
                "SELECT epoch, first, seq FROM message INDEXED BY by_name WHERE (epoch, first, seq) > (?, ?, ?) "
                "ORDER BY epoch, first, seq LIMIT ?",
                (0, 0, 0),
            ),
        }

    def _scan(self, sql: str, after: tuple[int, ...]) -> Iterator[int]:
        while True:
            try:
                page = self._database.rows(sql, (*after, _PAGE))
                goes_on = len(page) == _PAGE and page[-1] > after  # else it would go round for ever
            except _UNREADABLE:
                return
            yield from (row[-1] for row in page if isinstance(row[-1], int))
            if not goes_on:
                return
            after = page[-1]

    def _body(self, id: int, count: int) -> _Body | None:
        try:
            found = self._database.rows("SELECT lengths, bytes, crc FROM body WHERE id = ?", (id,))
        except _UNREADABLE:
            return None
        if not found or not _are(found[0], (bytes | None, bytes, int | None)):
            return None
        body = _Body(*found[0])
        ends = body.lengths or b""
        wrong = body.crc is not None and body.crc != checksum(body.content, ends)
        if wrong or not is_whole(body.content, ends, count):
            return None
        return body


def _are(values: tuple[Any, ...], kinds: tuple[Any, ...]) -> bool:
    return len(values) == len(kinds) and all(map(isinstance, values, kinds))


def _is_sound(said: Mapping[str, Any]) -> bool:
    """Whether the columns of a row of `message` are what some row could have."""
    return (
        all(isinstance(said[name], int) and said[name] >= 0 for name in _COUNTS)
        and all(isinstance(said[name], int | None) for name in _TIMES)
        and all(isinstance(said[name], bytes | None) for name in _BLOBS)
        and said["priority"] in (-1, 0, 1)
        and said["count"] > 0
        and said["state"] <= SET_ASIDE
        and said["accepted_at"] <= _END_US
        and (said["state"] != PREPARED or len(said["input"] or b"") == INPUT_BYTES + 4 * said["count"])
        and (said["state"] != STUB or len(said["input"] or b"") == 8)
        and (said["state"] != LETTER or 0 <= (said["due"] or 0) <= _END_US)
    )


def _remove(path: Path) -> None:
    """A file of ours, and what SQLite keeps beside it."""
    for end in ("", "-wal", "-shm"):
        Path(f"{path}{end}").unlink(missing_ok=True)


def _lengthened(path: Path) -> Path | None:
    """SQLite reads nothing of a file that is shorter than it says: a copy of such a one, as long as it should be."""
    copy = path.with_name(path.name + ".lengthened")
    with suppress(OSError):
        _remove(copy)  # of one who was killed
    with path.open("rb") as file:
        size, pages = _LENGTH.unpack(file.read(_LENGTH.size))
    whole = (65_536 if size == 1 else size) * pages
    if path.stat().st_size >= whole:
        return None
    try:
        shutil.copyfile(path, copy)
        if (log := Path(f"{path}-wal")).exists():
            shutil.copyfile(log, f"{copy}-wal")
        os.truncate(copy, whole)
    except OSError as error:
        _remove(copy)
        raise StoreError(
            f"The outbox {path} has lost its end, and there is no room for the copy by which the rest can be read: "
            f"{error.strerror}. It was not touched.",
            path=path,
            errno=error.errno,
        ) from error
    return copy
