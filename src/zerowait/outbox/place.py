"""Whether an outbox is still where it was opened: a file that is removed or exchanged under its process takes writes as
before, and nobody will ever read them.

SQLite does not look, so this does, by the files' identities, once a second and at closing. What is open can be read to
its end although it has no name any more: so a removed outbox is written anew from it.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from enum import Enum
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Final, Protocol

from zerowait.errors import StoreError
from zerowait.outbox.database import Database, DatabaseError, explain, sync_folder

LOOK: Final = 1.0  # seconds: a stat gives the interpreter up, which beside a busy thread may cost 5 ms

Identity = tuple[int, int]


class Standing(Enum):
    THERE = "where it was opened"
    REMOVED = "there is no file at its path"
    REPLACED = "another file is at its path"
    LOG_REMOVED = "its write-ahead log is not beside it any more, or another's is"


class Lock(Protocol):
    """The right to have the file open. intact: whether its own file is there. restore: makes that and its folder again;
    raises StoreError."""

    def release(self) -> None: ...
    def intact(self) -> bool: ...
    def restore(self) -> None: ...


class Place:
    """`look` is for any thread, all else for the outbox's own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = Path(f"{path}-wal")
        self._looked = monotonic()
        self._file: Identity | None = None
        self._log: Identity | None = None
        self.remember()

    def remember(self) -> None:
        """What is there now is what was just opened."""
        self._file, self._log = _identity(self.path), _identity(self.log)

    def is_due(self) -> bool:
        now = monotonic()
        if now - self._looked < LOOK:
            return False
        self._looked = now
        return True

    def look(self) -> Standing:
        there = _identity(self.path)
        if there is None:
            return Standing.REMOVED
        if there != self._file:
            return Standing.REPLACED
        return Standing.THERE if self._log is None or _identity(self.log) == self._log else Standing.LOG_REMOVED

    def mind(self, database: Database, lock: Lock | None) -> str | None:
        """What was removed is written anew. Gives what people should hear: what is open is to be closed then, without
        touching what lies here, and opened again. None: it is where it was.

        Raises StoreError while that cannot be; then nothing is written where nobody would read it, and what is open
        must be kept open.
        """
        standing = self.look()
        if standing is Standing.REPLACED:
            raise StoreError(
                f"Another file was put in the place of the outbox {self.path} while it was open. It was not touched. "
                "What was stored before is kept by this process alone: do not end it. Move that file away, and within "
                "seconds the outbox is written there again.",
                path=self.path,
            )
        if standing is Standing.THERE:
            if lock is not None and not lock.intact():
                lock.restore()
            return None
        if standing is Standing.REMOVED:
            if lock is not None:
                lock.restore()
            self.write_anew(database)
            what = "was removed while it was open. All that it held is written there anew"
        else:
            try:
                database.checkpoint(truncate=True)
            except DatabaseError as error:  # it stays open: that log is nowhere else
                raise explain(error, self.path, database.errno()) from error
            what = "lost its log while it was open. What was in that is now in the file"
        return f"The outbox {self.path} {what}: nothing is lost. See what removes files."

    def leave(self, database: Database) -> str:
        """At the very end, where another file is at the path, or nothing can be: save what is open. Gives what people
        should hear."""
        try:
            saved = self.save_beside(database)
        except StoreError as error:
            return f"What the outbox {self.path} held is lost with this process: {error}"
        return (
            f"Another file is in the place of the outbox {self.path}, so what it held is saved in {saved}. Nobody "
            f"delivers it from there: move the other file away, and then that one to its place."
        )

    def write_anew(self, database: Database) -> None:
        """Where there is no file any more: what is open, under the same path, on disk. Raises StoreError; then it is as
        before."""
        draft = self.path.with_name(self.path.name + ".new")
        self._copy(database, draft)
        try:
            # A log without its database would be read into the new one.
            for left in (self.log, Path(f"{self.path}-shm")):
                left.unlink(missing_ok=True)
            if os.path.lexists(self.path):
                raise FileExistsError(errno.EEXIST, "another file has appeared there", str(self.path))
            draft.rename(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise _cannot(self.path, error) from error

    def save_beside(self, database: Database) -> Path:
        """Where another file is at the path: what is open, under a name of its own. Raises StoreError."""
        names = (self.path.with_name(f"{self.path.name}.saved{number}") for number in count(1))
        saved = next(name for name in names if not os.path.lexists(name))
        self._copy(database, saved)
        return saved

    def _copy(self, database: Database, to: Path) -> None:
        try:
            for left in (to, Path(f"{to}-journal"), Path(f"{to}-wal")):
                left.unlink(missing_ok=True)
            os.close(os.open(to, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            try:
                database.copy_to(to)
                sync_folder(to.parent)
            except BaseException:
                with suppress(OSError):
                    to.unlink()
                raise
        except DatabaseError as error:
            raise explain(error, to, None) from error
        except OSError as error:
            raise _cannot(self.path, error) from error


def _cannot(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"The outbox {path} was removed while it was open, and cannot be written anew: {error.strerror}. What it holds "
        "is kept by this process alone, which tries again each second: do not end it. Make its folder writable, with "
        "room for the file.",
        path=path,
        errno=error.errno,
    )


def _identity(path: Path) -> Identity | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
