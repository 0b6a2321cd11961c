"""The file of an outbox: opening it or refusing to, its statements, and what its errors mean.

The only module that imports apsw. One connection, one thread, and nobody else: the file is locked exclusively, which
also spares the shared-memory file beside it. apsw gives the interpreter up at every step of a statement, and a thread
that gave it up may wait 5 ms to get it back from a busy one: so all here is about few steps, each doing much.
"""

from __future__ import annotations

import errno
import os
import struct
from array import array
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import apsw

from zerowait.errors import StoreError

APPLICATION_ID: Final = 0x7A776F62  # "zwob"
VERSION: Final = 3
_MAGIC: Final = b"SQLite format 3\0"
_HEADER: Final = struct.Struct(">60xi4xi")  # user_version and application_id in the first 100 bytes of the file
_TUPLES: Final = (64, 8, 1)  # rows of a multi-row statement: few texts, so that all stay prepared
WAL_IDLE_PAGES: Final = 256  # 1 MiB: checkpointed when there is nothing else to do
WAL_MOST_PAGES: Final = 8_192  # 32 MiB: checkpointed anyway; larger is faster, for a page settled soon is never copied
PAGE_BYTES: Final = 4_096
BOUNDLESS: Final = 1 << 62
FREE_PAGES: Final = 1_024  # 4 MiB of free pages are kept for what comes next; more are given back

DatabaseError = apsw.Error


def sqlite_version() -> str:
    return apsw.sqlite_lib_version()


def integers(values: Sequence[int]) -> apsw.CArrayBinding:
    """A binding for `IN carray(?)`: any number of integers, one prepared statement."""
    return apsw.carray(array("q", values))  # pyright: ignore[reportUnknownMemberType]


class Disk:
    """Where the files of outboxes lie, and all that is done to them: this machine's disks. Simulations have others."""

    def connect(self, path: Path, flags: int) -> apsw.Connection:
        return apsw.Connection(str(path), flags)

    def read(self, path: Path, most: int) -> bytes:
        """Raises OSError, FileNotFoundError above all."""
        with path.open("rb") as file:
            return file.read(most)

    def make(self, path: Path, data: bytes) -> None:
        """A new file for nobody but this user; not on disk by itself. Raises OSError."""
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600), "wb") as file:
            file.write(data)

    def room(self, path: Path) -> tuple[int, int]:
        """Bytes that are free for this user in the file system of that file, and of all of it. Both very many where
        nobody can tell."""
        try:
            found = os.statvfs(path)
        except OSError:
            return BOUNDLESS, BOUNDLESS
        if not found.f_blocks:  # of a file system in user space that does not say: it may have any
            return BOUNDLESS, BOUNDLESS
        return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize

    def rename(self, path: Path, to: Path) -> None:
        """On disk when this returns. Raises OSError."""
        path.rename(to)
        sync_folder(to.parent)

    def renew(self, path: Path) -> None:
        """Write a file's bytes out anew, if it is there; on disk when this returns. Raises OSError."""
        try:
            file = path.open("r+b", buffering=0)
        except FileNotFoundError:
            return
        with file:
            at = 0
            while data := file.read(1 << 20):
                file.seek(at)
                at += file.write(data)
            os.fsync(file.fileno())

    def remove(self, paths: Sequence[Path]) -> None:
        """Those that are there, all in one folder; on disk when this returns. Raises OSError."""
        removed = [path for path in paths if _unlink(path)]
        if removed:
            sync_folder(removed[0].parent)


DISK: Final = Disk()


class Database:
    """An open connection. path None: in memory, with the same schema."""

    def __init__(self, path: Path | None, disk: Disk = DISK) -> None:
        self.path = path
        self.disk = disk
        self.wal_pages = 0
        if path is None:
            connection = apsw.Connection(":memory:", apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        else:
            connection = disk.connect(path, apsw.SQLITE_OPEN_READWRITE)
        self._connection = connection
        try:
            self.run = _statements(connection)
            # What is prepared stays so. Else each query with an order or a limit is planned anew for what is bound to
            # it, every time, which takes longer than most of them.
            connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
            # Somebody who looks into the file with another program holds us up for a moment, not for good.
            connection.set_busy_timeout(2_000)
            self.rows("PRAGMA temp_store = memory; PRAGMA trusted_schema = off")
            if path is None:
                self.rows("PRAGMA page_size = 16384; PRAGMA auto_vacuum = incremental")
                self.rows(_SCHEMA)
            else:
                self.rows("PRAGMA locking_mode = exclusive; PRAGMA journal_mode = wal")
                # On macOS fsync leaves the data in the drive's cache; elsewhere the two do nothing.
                self.rows("PRAGMA synchronous = full; PRAGMA fullfsync = on; PRAGMA checkpoint_fullfsync = on")
                self.rows("PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = 16777216")
                self.rows("PRAGMA cache_size = -8192")
                connection.set_wal_hook(self._committed)
        except BaseException:
            connection.close(force=True)
            raise

    def _committed(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self.wal_pages = pages
        return apsw.SQLITE_OK

    def one(self, sql: str, bindings: Sequence[Any] = ()) -> Any:
        """The first row, or None; a row of one column is that column."""
        rows = self.rows(sql, bindings)
        if not rows:
            return None
        return rows[0][0] if len(rows[0]) == 1 else rows[0]

    def rows(self, sql: str, bindings: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self.run(sql, bindings).fetchall()
        return rows

    def insert(self, table: str, values: str, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows in few steps. values: the tuple of SQL for one of them."""
        if len(rows) == 1:
            self.run(f"INSERT INTO {table} VALUES {values}", rows[0])
            return
        at = 0
        while at < len(rows):
            many = next(size for size in _TUPLES if size <= len(rows) - at)
            bindings: list[Any] = []
            for row in rows[at : at + many]:
                bindings += row
            self.run(f"INSERT INTO {table} VALUES {', '.join([values] * many)}", bindings)
            at += many

    def begin(self) -> None:
        """Nothing if a transaction has begun."""
        if not self._connection.in_transaction:
            self.run("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Nothing if none has begun."""
        if self._connection.in_transaction:
            self.run("COMMIT")

    def roll_back(self) -> None:
        """Undo what was begun. SQLite may have done so by itself after a full disk."""
        if self._connection.in_transaction:
            self.run("ROLLBACK")

    def checkpoint(self, *, truncate: bool = False) -> None:
        """Bring what is in the write-ahead log into the file, on disk."""
        if self.path is not None:
            mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if truncate else apsw.SQLITE_CHECKPOINT_PASSIVE
            self._connection.wal_checkpoint(None, mode)
            self.wal_pages = 0

    @property
    def log_bytes(self) -> int:
        """How much is in the write-ahead log, and not yet in the file: so much longer the file may become."""
        return self.wal_pages * PAGE_BYTES

    def give_back(self, *, keep: int = FREE_PAGES, most: int = 512) -> bool:
        """Return some free pages to the file system, beyond those to keep; True: some were."""
        free = self.one("PRAGMA freelist_count")
        if free <= keep:
            return False
        self.rows(f"PRAGMA incremental_vacuum({min(most, free - keep)})")
        return True

    @staticmethod
    def is_damage(error: DatabaseError) -> bool:
        """Whether it says that what is in the file is not what was written."""
        return isinstance(error, (apsw.CorruptError, apsw.FormatError))

    def copy_to(self, path: Path) -> None:
        """Write all that is in it into that file, which is there and empty, and bring it to the disk."""
        connection = apsw.Connection(str(path), apsw.SQLITE_OPEN_READWRITE)
        try:
            # Unless it is whole it is thrown away: so it needs no journal, and one sync at the end.
            _statements(connection)("PRAGMA journal_mode = off; PRAGMA synchronous = off").fetchall()
            with connection.backup("main", self._connection, "main") as backup:
                backup.step(-1)
        finally:
            connection.close(force=True)
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def errno(self) -> int | None:
        return self._connection.system_errno or None

    def close(self, *, touch: bool = True) -> None:
        """touch: bring the log into the file and remove it, by its name. Not for one whose names lead elsewhere."""
        if not touch:
            self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._connection.close(force=True)


def explain(error: DatabaseError, path: Path | None, number: int | None) -> StoreError:
    """What a failed statement means for people. number: the operating system's, if it gave one."""
    where = f"The outbox {path}" if path else "The outbox in memory"
    if isinstance(error, apsw.FullError):
        number = errno.ENOSPC if path else errno.ENOMEM
        room = "on its disk is no room left" if path else "its room is used up"
        said = f"{where} cannot be written: {room}. What it holds is safe. It goes on by itself once there is room."
    elif number == errno.EDQUOT:
        said = (
            f"{where} cannot be written: what this user may have on its disk is used up. What it holds is safe. "
            "It goes on by itself once there is room."
        )
    elif isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
        said = (
            f"{where} is damaged ({error}). Nothing more is taken. End this process; then `zerowait outbox repair "
            f"{path.name.split('.')[0] if path else ''}` saves what is whole in it and keeps the damaged file."
        )
    elif isinstance(error, (apsw.BusyError, apsw.LockedError)):
        said = f"{where} is locked by another program. Close what has it open (a database browser?)."
        number = number or errno.EAGAIN
    elif isinstance(error, (apsw.ReadOnlyError, apsw.PermissionsError, apsw.AuthError)):
        said = f"{where} cannot be written ({error}). Give this user the right to write the file and its folder."
        number = number or errno.EACCES
    else:
        reason = os.strerror(number) if number else str(error)
        said = f"{where} cannot be written or read: {reason}. What was stored is safe; it is opened again by itself."
        number = number or errno.EIO
    return StoreError(said, path=path or "", errno=number)


def is_passing(error: DatabaseError) -> bool:
    """Whether the connection is as good as before: no room, or somebody else is at it. After all else: open it anew."""
    return isinstance(error, (apsw.FullError, apsw.BusyError, apsw.NoMemError))


def is_outside(error: DatabaseError) -> bool:
    """Whether it is about what is around a file (who has it open, rights, room), and says nothing of what is in it."""
    rights = (apsw.ReadOnlyError, apsw.PermissionsError, apsw.AuthError)
    return is_passing(error) or isinstance(error, (apsw.LockedError, *rights))


def check(path: Path, disk: Disk = DISK) -> bool:
    """Look at a file by plain reading, before SQLite may touch it. False: there is none, or an empty one.

    Raises StoreError for what is no outbox, or one of another version; the file is as it was.
    """
    try:
        header = disk.read(path, 100)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(
            f"The outbox {path} cannot be read: {error.strerror}. It was not touched. Give this user the right to read "
            "and write it.",
            path=path,
            errno=error.errno,
        ) from error
    if not header:
        return False
    remedy = "It was not touched. Move it away, or let ZEROWAIT_HOME name another folder."
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise StoreError(f"{path} is not a database, so it cannot be an outbox. {remedy}", path=path)
    version, application = _HEADER.unpack_from(header)
    if application != APPLICATION_ID:
        raise StoreError(f"{path} is a database of another program, not an outbox of zerowait. {remedy}", path=path)
    if version != VERSION:
        which = "a newer" if version > VERSION else "an older"
        raise StoreError(
            f"The outbox {path} was written by {which} zerowait (format {version}; this one reads {VERSION}). It was "
            f"not touched. Deliver what it holds with that version: zerowait outbox deliver {path.name.split('.')[0]}",
            path=path,
        )
    return True


def other_format(path: Path) -> int | None:
    """The format of an outbox that another version of zerowait has written; None: of this one's, or no outbox."""
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except OSError:
        return None
    if len(header) < 100 or not header.startswith(_MAGIC):
        return None
    version, application = _HEADER.unpack_from(header)
    return version if application == APPLICATION_ID and version != VERSION else None


def create(path: Path, box: int, name: str, wall: int, disk: Disk = DISK) -> None:
    """Make an empty outbox. It appears under its name when it is whole and on disk. Raises StoreError."""
    draft = path.with_name(path.name + ".new")
    try:
        disk.remove((draft, Path(f"{draft}-journal")))  # a journal: of versions that wrote one
        disk.make(draft, _BLANK)
        connection = disk.connect(draft, apsw.SQLITE_OPEN_READWRITE)
        try:
            run = _statements(connection)
            # Unless it is whole it is thrown away: so it needs no journal, and this commit's sync is the only one.
            run("PRAGMA journal_mode = off; PRAGMA synchronous = full; PRAGMA fullfsync = on").fetchall()
            run("INSERT INTO box VALUES (?, ?, 0, ?, 0)", (box.to_bytes(8, "big"), name, wall)).fetchall()
        finally:
            connection.close(force=True)
        disk.rename(draft, path)
    except apsw.Error as error:
        raise explain(error, path, None) from error
    except OSError as error:
        raise StoreError(
            f"The outbox {path} cannot be made: {error.strerror}. Make room there, or give this user the right to "
            "write the folder, or let ZEROWAIT_HOME name another.",
            path=path,
            errno=error.errno,
        ) from error


def sync_folder(folder: Path) -> None:
    """A file is on disk only when its name is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def renew_log(path: Path, disk: Disk = DISK) -> None:
    """Bring the write-ahead log that an error or a crash has left onto the disk, before it is read. Raises StoreError.

    After a sync that failed, perhaps in another life, the system takes what it has in its cache for written, and no
    later sync writes it. If SQLite went on from there, a power cut would take that part of the log, and with it all
    that was committed since; or, in the middle of copying pages into the file, what would have mended the file.
    """
    try:
        disk.renew(Path(f"{path}-wal"))
    except OSError as error:
        raise StoreError(
            f"The outbox {path} cannot be written or read: {error.strerror}. What was stored is safe; it is opened "
            "again by itself.",
            path=path,
            errno=error.errno,
        ) from error


def remove(path: Path, disk: Disk = DISK) -> None:
    """Remove a closed outbox."""
    disk.remove([Path(f"{path}{end}") for end in ("", "-wal", "-shm")])


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _statements(connection: apsw.Connection) -> Callable[..., Any]:
    return connection.cursor().execute  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _made_blank() -> bytes:
    """The file of an outbox of nobody: to make the tables takes as long as hundreds of statements after that."""
    connection = apsw.Connection(":memory:")
    try:
        run = _statements(connection)
        run(f"PRAGMA page_size = {PAGE_BYTES}; PRAGMA auto_vacuum = incremental").fetchall()
        run(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}").fetchall()
        run(_SCHEMA).fetchall()
        return bytes(connection.serialize("main"))
    finally:
        connection.close(force=True)


# Now, and not when the first outbox is opened: the locks of the import system and of SQLite itself are held meanwhile,
# and a program that forks in that moment has a child in which nobody ever lets go of them.
_SCHEMA: Final = files("zerowait.outbox").joinpath("schema.sql").read_text(encoding="utf-8")
_BLANK: Final = _made_blank()
