"""The file of an outbox while a process has it: open where it lies, or failed and to be opened again.

After an error it is found out whether the transaction that was under way is on disk, and only then anything is written.
An outbox in memory is the same, without a path; it cannot be opened again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from zerowait.errors import StoreError
from zerowait.names import new_id
from zerowait.outbox.clock import Clock
from zerowait.outbox.database import (
    DISK,
    Database,
    DatabaseError,
    Disk,
    check,
    create,
    explain,
    is_passing,
    remove,
    renew_log,
)
from zerowait.outbox.ledger import Ledger
from zerowait.outbox.numbering import raise_epoch
from zerowait.outbox.place import Lock, Place, Standing

T = TypeVar("T")

_KEEPS: Final = (
    "SELECT EXISTS (SELECT 1 FROM message) OR EXISTS (SELECT 1 FROM outcome) "
    "OR EXISTS (SELECT 1 FROM known WHERE at > (SELECT wall FROM box) - ?)"
)

# Whether anything is that another process asks for, or is to be asked for.
ASKED: Final = "SELECT EXISTS (SELECT 1 FROM message WHERE state IN (1, 2)) OR EXISTS (SELECT 1 FROM outcome)"


def open_database(
    path: Path | None,
    name: str,
    id: int | None,
    now_us: Callable[[], int],
    above: int,
    disk: Disk = DISK,
    steady: Callable[[], int] | None = None,
) -> tuple[Database, Clock]:
    """Open it, under an epoch above that one, or make it first; path None: in memory. id: of a new one, else random.
    disk, steady: see `Outbox.open`.

    Raises StoreError, and DatabaseError, and then nothing is open.
    """
    if path is not None:
        if check(path, disk):
            renew_log(path, disk)
        else:
            create(path, id or new_id(), name, now_us(), disk)
    database = Database(path, disk)
    try:
        if path is None:
            box = (id or new_id()).to_bytes(8, "big")
            database.run("INSERT INTO box VALUES (?, ?, 0, ?, 0)", (box, name, now_us()))
        clock = Clock(now_us, database.one("SELECT wall FROM box"), steady)
        raise_epoch(database, clock, above)
    except BaseException:
        database.close()
        raise
    return database, clock


def peek(path: Path) -> dict[str, int]:
    """How many messages of each channel wait in a file that nobody has open: reads only. Raises StoreError."""

    def look(database: Database) -> dict[str, int]:
        ledger = Ledger(dict)
        ledger.load(database)
        return ledger.unsettled()

    return _look_into(path, look, {})


def keeps(database: Database, ids_kept_us: int) -> bool:
    """Whether anything is kept: unsettled, a dead letter, set aside, owed to others, or an id that may come again."""
    return bool(database.one(_KEEPS, (ids_kept_us,)))


def is_bare(path: Path, ids_kept_us: int) -> bool:
    """Whether nothing at all is kept in a file that nobody has open: reads only. Raises StoreError."""
    return _look_into(path, lambda database: not keeps(database, ids_kept_us), True)


def is_asked(path: Path) -> bool:
    """Whether a file that nobody has open keeps what others ask for, or are to be asked for: whose outputs were chosen,
    and outputs that wait for it. Reads only. Raises StoreError."""
    return _look_into(path, lambda database: bool(database.one(ASKED)), False)


def _look_into(path: Path, look: Callable[[Database], T], otherwise: T) -> T:
    if not check(path):
        return otherwise
    try:
        database = Database(path)
        try:
            return look(database)
        finally:
            database.close()
    except DatabaseError as error:
        raise explain(error, path, None) from error


class Reopened(NamedTuple):
    database: Database
    epoch: int  # a new one
    arrived: bool  # the transaction that was under way is on disk


class File:
    """database: None while it is not open. lock: the right to have it open, released by `close`."""

    def __init__(self, database: Database, lock: Lock | None) -> None:
        self.path = database.path
        self.database: Database | None = database
        self._disk = database.disk
        # Only on a disk of this machine can anybody else remove it.
        self._place = Place(database.path) if database.path is not None and database.disk is DISK else None
        self._lock = lock
        self._is_closed = False
        self._number: int | None = None  # the system's, of the error for which it could not be opened again

    def failed(self, error: DatabaseError, *, committing: bool) -> StoreError:
        """What was begun is undone, and the file is closed unless all is certain. Gives the error for people.

        committing: it may be on disk, or what is remembered of it must not be used any more.
        """
        database = self.database
        if database is None:  # while opening it again
            return explain(error, self.path, self._number)
        described = explain(error, self.path, database.errno())
        passing = self.path is None or (is_passing(error) and not committing)
        try:
            database.roll_back()
        except DatabaseError:
            passing = False
        if not passing:
            # After a failed write nothing that the connection remembers can be trusted, and a commit may be on disk.
            self.database = None
            try:
                database.close()
            except DatabaseError:
                pass
        return described

    def reopen(self, id: int, turns: int, attempted: int | None, clock: Clock, epoch: int) -> Reopened:
        """turns: the number of the last transaction that is certain. attempted: of the one whose commit failed, if one
        did. epoch: the last one.

        Raises StoreError, and DatabaseError, and then nothing is open.
        """
        path = self.path
        if path is None or self._is_closed:
            raise StoreError(f"The outbox {path or 'in memory'} is closed.", path=path or "")
        if not check(path, self._disk):
            raise StoreError(
                f"The outbox {path} is gone: somebody removed it while it was open. What was in it is lost. Close "
                "the client and open it again to begin a new one.",
                path=path,
            )
        self._number = None
        renew_log(path, self._disk)
        database = Database(path, self._disk)
        try:
            box, found = database.one("SELECT id, turn FROM box")
            arrived = found == attempted
            if int.from_bytes(box, "big") != id or not (found == turns or arrived):
                raise StoreError(
                    f"The file {path} is another than the one that was open (restored from a copy?). It was not "
                    "changed. Close the client and open it again to use it.",
                    path=path,
                )
            database.checkpoint(truncate=True)
            epoch = raise_epoch(database, clock, epoch)
        except BaseException:
            self._number = database.errno()
            database.close()
            raise
        self.database = database
        if self._place is not None:
            self._place.remember()
        return Reopened(database, epoch, arrived)

    # Where it lies

    def is_displaced(self) -> bool:
        """Whether it, or its log, is not where it was opened: a turn is wanted. Any thread."""
        return self._place is not None and self.database is not None and self._place.look() is not Standing.THERE

    def mind(self, *, at_once: bool = False) -> str | None:
        """Look, once a second, whether it is where it was opened. What was removed is written anew, and is to be opened
        again by who goes on; gives what people should hear then.

        Raises StoreError while that cannot be; then nothing is written where nobody would read it, and what is open is
        kept open.
        """
        if self._place is None or not (at_once or self._place.is_due()) or self.database is None:
            return None
        database = self.database
        said = self._place.mind(database, self._lock)
        if said is not None:
            self.database = None
            database.close(touch=False)
        return said

    def close(self, *, empty: bool) -> str | None:
        """For good; an empty one is removed. Gives what people should hear if it is not where it was opened."""
        said = None
        self._is_closed = True
        if self.database is not None:
            database, self.database = self.database, None
            is_ours = self._place is None or self._place.look() is Standing.THERE
            try:
                if not is_ours:
                    assert self._place is not None
                    said = self._place.leave(database) if not empty else None
                    empty = False  # what is at the path is not ours to remove
                elif not empty:
                    database.checkpoint(truncate=True)
            except DatabaseError:
                pass  # it stays in the log, which the next opening reads
            finally:
                try:
                    database.close(touch=is_ours)
                except DatabaseError:
                    pass
        if empty and self.path is not None:
            try:
                remove(self.path, self._disk)
            except OSError:
                pass
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        return said
