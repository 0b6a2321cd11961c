"""An outbox file that may be damaged: what is whole in it, and a new file of that. Nobody else has it open.

Nothing is read twice that failed once, and nothing is changed in the damaged file: it is kept under another name.
"""

from __future__ import annotations

import os
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from zerowait.errors import StoreError
from zerowait.message import BODY_START, Numbers
from zerowait.outbox.database import Database, DatabaseError, create, explain, sync_folder
from zerowait.outbox.database import check as check_header
from zerowait.outbox.row import checksum, is_whole, unpack_gone
from zerowait.outbox.settlement import LETTER, WAITING
from zerowait.outbox.sheaf import MESSAGE_COST

PROBLEMS: Final = 20
_PAGE: Final = 1_000
_ROWS_AT_ONCE: Final = 256
_LENGTH: Final = struct.Struct(">16xH10xI")  # of the header: bytes of a page, and pages of the file
_BESIDE: Final = ("noted", "outcome", "known")  # tables that are copied as far as they can be read


class Report(Struct, kw_only=True):
    """What is in a file, by channel. Messages whose body is not what was written, or whose row cannot be read, are
    damaged; set_aside: those that a process has found damaged before."""

    path: str
    problems: list[str] = []  # in SQLite's words, at most PROBLEMS
    waiting: dict[str, int] = {}
    dead: dict[str, int] = {}
    damaged: dict[str, int] = {}
    unreadable_rows: int = 0
    set_aside: int = 0

    @property
    def is_whole(self) -> bool:
        return not self.problems and not self.damaged and not self.unreadable_rows


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
            raise explain(error, path, None) from error
        try:
            self._columns = [row[1] for row in self._database.rows("PRAGMA table_info(message)")]
            self._channels = dict(self._database.rows("SELECT channel, name FROM ledger"))
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
            for end in ("", "-wal", "-shm"):
                Path(f"{self._copy_of_it}{end}").unlink(missing_ok=True)

    def report(self) -> Report:
        """Reads all of it."""
        report = Report(path=str(self.path), problems=self._problems())
        for row in self._rows(report):
            self._count(report, row)
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
            draft.unlink(missing_ok=True)
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
        return report, kept

    def _exchange(self, draft: Path, kept: Path) -> None:
        try:
            self._database.checkpoint(truncate=True)  # so that the log holds nothing that the file has not
        except DatabaseError:
            pass  # then it is kept beside the file
        os.link(self.path, kept)
        log = Path(f"{self.path}-wal")
        if log.exists():
            log.rename(f"{kept}-wal")
        draft.replace(self.path)
        for end in ("-wal", "-shm"):
            Path(f"{draft}{end}").unlink(missing_ok=True)
        sync_folder(self.path.parent)

    def _copy(self, new: Database, now_us: int) -> Report:
        report = Report(path=str(self.path), problems=self._problems())
        new.begin()
        self._copy_box(new, now_us)
        for channel in self._database.rows("SELECT * FROM ledger"):
            new.run(f"INSERT INTO ledger VALUES ({', '.join('?' * len(channel))})", channel)
        for table in _BESIDE:
            self._copy_table(new, table)
        nbytes: dict[str, int] = {}
        for at, row in enumerate(self._rows(report)):
            self._count(report, row)
            if row.body is None or row.state not in (WAITING, LETTER):
                continue
            columns = dict(zip(self._columns, row.columns, strict=True))
            body = (columns["body"], row.body.lengths, row.body.content, row.body.crc)
            new.run("INSERT INTO body (id, refs, lengths, bytes, crc) VALUES (?, 1, ?, ?, ?)", body)
            new.run(f"INSERT INTO message VALUES ({', '.join('?' * len(row.columns))})", row.columns)
            nbytes[row.channel] = nbytes.get(row.channel, 0) + row.nbytes + MESSAGE_COST * row.living
            if at % _ROWS_AT_ONCE == 0:
                new.commit()
                new.begin()
        for name in self._channels.values():
            self._balance(new, name, report, nbytes.get(name, 0))
        new.commit()
        return report

    def _copy_box(self, new: Database, now_us: int) -> None:
        try:
            id, name, epoch, wall, turn = self._database.one("SELECT id, name, epoch, wall, turn FROM box")
        except (DatabaseError, TypeError):
            new.run("UPDATE box SET epoch = ?", (now_us // 1_000,))  # above all that it can have had
            return
        new.run("UPDATE box SET id = ?, name = ?, epoch = ?, wall = ?, turn = ?", (id, name, epoch, wall, turn))

    def _copy_table(self, new: Database, table: str) -> None:
        try:
            rows = self._database.rows(f"SELECT * FROM {table}")
        except DatabaseError:
            return
        for row in rows:
            new.run(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)

    def _balance(self, new: Database, name: str, report: Report, nbytes: int) -> None:
        """What the ledger says was there and is no more was dropped."""
        waiting, dead = report.waiting.get(name, 0), report.dead.get(name, 0)
        new.run(
            "UPDATE ledger SET dead = ?1, bytes = ?2, dropped = max(0, accepted - handled - expired - ?1 - ?3), "
            "accepted = max(accepted, handled + expired + ?1 + ?3) WHERE name = ?4",
            (dead, nbytes, waiting, name),
        )

    def _problems(self) -> list[str]:
        try:
            said = [str(row[0]) for row in self._database.rows(f"PRAGMA integrity_check({PROBLEMS})")]
        except DatabaseError as error:
            return [str(error)]
        return [] if said == ["ok"] else said

    def _count(self, report: Report, row: _Row) -> None:
        if row.state not in (WAITING, LETTER):
            report.set_aside += row.living
            return
        counted = report.damaged if row.body is None else report.dead if row.state == LETTER else report.waiting
        counted[row.channel] = counted.get(row.channel, 0) + row.living

    def _rows(self, report: Report) -> Iterator[_Row]:
        for seq in sorted(self._seqs()):
            try:
                columns = self._database.rows("SELECT * FROM message WHERE seq = ?", (seq,))
            except DatabaseError:
                columns = []
            if not columns:
                report.unreadable_rows += 1
                continue
            said = dict(zip(self._columns, columns[0], strict=True))
            channel = self._channels.get(said["channel"])
            if channel is None:
                report.unreadable_rows += 1
                continue
            gone = unpack_gone(said["gone"] or b"", said["first"]) or Numbers()
            living = sum(n for _, n in gone.missing(said["first"], said["count"]))
            yield _Row(columns[0], channel, said["state"], living, self._body(said["body"], said["count"]))

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
            except DatabaseError:
                return
            yield from (row[-1] for row in page)
            if len(page) < _PAGE:
                return
            after = page[-1]

    def _body(self, id: int, count: int) -> _Body | None:
        try:
            found = self._database.rows("SELECT lengths, bytes, crc FROM body WHERE id = ?", (id,))
        except DatabaseError:
            return None
        if not found:
            return None
        body = _Body(*found[0])
        ends = body.lengths or b""
        wrong = body.crc is not None and body.crc != checksum(body.content, ends)
        if wrong or not is_whole(body.content, ends, count):
            return None
        return body


def _lengthened(path: Path) -> Path | None:
    """SQLite reads nothing of a file that is shorter than it says: a copy of such a one, as long as it should be."""
    with path.open("rb") as file:
        size, pages = _LENGTH.unpack(file.read(_LENGTH.size))
    whole = (65_536 if size == 1 else size) * pages
    if path.stat().st_size >= whole:
        return None
    copy = path.with_name(path.name + ".lengthened")
    try:
        shutil.copyfile(path, copy)
        if (log := Path(f"{path}-wal")).exists():
            shutil.copyfile(log, f"{copy}-wal")
        os.truncate(copy, whole)
    except OSError as error:
        copy.unlink(missing_ok=True)
        raise StoreError(
            f"The outbox {path} has lost its end, and there is no room for the copy by which the rest can be read: "
            f"{error.strerror}. It was not touched.",
            path=path,
            errno=error.errno,
        ) from error
    return copy
