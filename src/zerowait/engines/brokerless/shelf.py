"""The shelf of outbox files of a namespace: `outbox/<name>.<16 hex>.db`, each with `<16 hex>.lock` beside it.

The lock is the id's, not the file's name's, so that a copy under another name cannot be opened beside its original. In
the lock file stands which file is the outbox: if two files claim one id, that one is it and the other is refused.
"""

from __future__ import annotations

import os
import re
import stat
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import Struct

from zerowait.engines.brokerless.home import own_folder
from zerowait.engines.brokerless.locks import FileLock, cannot_lock, is_owned
from zerowait.errors import StoreError, UsageError
from zerowait.names import check_process, new_id

ORPHAN_S = 60.0  # a lock without a file this old: its process died before it had made the outbox

_FILE = re.compile(r"([A-Za-z0-9_-]{1,64})\.([0-9a-f]{16})\.db")
_LOCK = re.compile(r"[0-9a-f]{16}\.lock")
_DRAFT = re.compile(r"[A-Za-z0-9_-]{1,64}\.([0-9a-f]{16})\.db\.new(-journal)?")  # an outbox that is being made


class OutboxFile(Struct, frozen=True):
    """An outbox file as it lies there. owned: somebody had it open when we looked; by now that may have changed."""

    path: Path
    name: str
    id: int
    owned: bool


class OutboxLock:
    """The right to open one outbox file. Held until `release()`, the end of the `with` block, or of the process."""

    def __init__(self, path: Path, id: int, lock: FileLock, shelf: Shelf) -> None:
        self.path = path
        self.id = id
        self._lock = lock
        self._shelf = shelf

    @property
    def held(self) -> bool:
        return self._lock.held

    def release(self) -> None:
        """Gives the outbox up. If its file is gone by now, the lock file goes too. In a forked child: only closes."""
        self._shelf.locks.discard(self)
        self._lock.release(remove=not os.path.lexists(self.path))

    def intact(self) -> bool:
        """Whether the lock file is still the one that is locked: without it another may open the outbox beside us."""
        return self._lock.intact()

    def restore(self) -> None:
        """After something removed the lock file or its folder: makes both again and holds that one.

        Raises StoreError if the folder cannot be made, or somebody else was quicker.
        """
        own_folder(self.path.parent.parent)
        own_folder(self.path.parent)
        if self._lock.intact():
            return
        lock = FileLock.take(self._lock.path)
        if lock is None:
            raise StoreError(
                f"The lock file {self._lock.path} was removed while the outbox {self.path} was open, and another "
                "process has made and taken it since. Nothing more is written. End one of the two.",
                path=self.path,
            )
        self._lock.release()
        self._lock = lock
        record(lock, self.path)

    def abandon(self) -> None:
        """For a forked child: closes the descriptor; the outbox stays the parent's."""
        self._shelf.locks.discard(self)
        self._lock.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class Shelf:
    """The folder `outbox/`. Any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.locks: set[OutboxLock] = set()  # so that a forked child can let go of all

    def new(self, name: str) -> tuple[Path, int, OutboxLock]:
        """A path for a new outbox of this name, its random id, and its lock, held before the file can exist.

        Raises UsageError for a name that cannot be a file's, StoreError.
        """
        check_process(name, "a client")
        box = new_id()
        while (lock := FileLock.take(self._lock_path(box))) is None:
            box = new_id()
        path = self._folder / f"{name}.{box:016x}.db"
        return path, box, self._keep(path, box, lock)

    def lock(self, path: Path) -> OutboxLock | None:
        """Takes the outbox at `path`. None: it is owned, or gone by now.

        Raises StoreError if the file is a copy of another outbox of this namespace (nothing was touched), or if there
        are no locks; UsageError if the path is not one of this shelf.
        """
        match = _FILE.fullmatch(path.name)
        if match is None or os.path.realpath(path.parent) != str(self._folder):
            raise UsageError(f"{path} is not an outbox of this namespace: those are {self._folder}/<name>.<id>.db.")
        path, box = self._folder / path.name, int(match[2], 16)
        claimants = self._claimants(box)
        if path not in claimants:
            return None
        lock_path = self._lock_path(box)
        if len(claimants) > 1:
            self._refuse_copy(path, claimants, _recorded(lock_path), box)
        lock = FileLock.take(lock_path)
        if lock is None:
            return None
        try:
            # Again under the lock: the file may have been emptied and removed, or copied, just before.
            claimants = self._claimants(box)
            if path not in claimants:
                lock.release(remove=not claimants)
                return None
            if len(claimants) > 1:
                self._refuse_copy(path, claimants, _recorded(lock_path), box)
            return self._keep(path, box, lock)
        except BaseException:
            lock.release()
            raise

    def files(self, name: str | None = None) -> list[OutboxFile]:
        """The outbox files, by name and id; foreign files are passed over. Raises StoreError."""
        found: list[OutboxFile] = []
        databases: set[str] = set()
        others: dict[str, list[Path]] = {}  # each id with a lock or drafts: the drafts
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    match = _FILE.fullmatch(entry.name)
                    if match is not None and entry.is_file(follow_symlinks=False):
                        databases.add(match[2])
                        if name is None or match[1] == name:
                            box = int(match[2], 16)
                            found.append(OutboxFile(Path(entry.path), match[1], box, is_owned(self._lock_path(box))))
                    elif _LOCK.fullmatch(entry.name):
                        others.setdefault(entry.name[:16], [])
                    elif draft := _DRAFT.fullmatch(entry.name):
                        others.setdefault(draft[1], []).append(Path(entry.path))
        except OSError as error:
            raise StoreError(
                f"The outboxes in {self._folder} cannot be listed: {error.strerror}.",
                path=self._folder,
                errno=error.errno,
            ) from error
        for id, drafts in others.items():
            if id not in databases:
                self._remove_orphan(int(id, 16), drafts)
        return sorted(found, key=lambda file: (file.name, file.id))

    def _keep(self, path: Path, box: int, lock: FileLock) -> OutboxLock:
        try:
            record(lock, path)
        except StoreError:
            lock.release(remove=not os.path.lexists(path))
            raise
        kept = OutboxLock(path, box, lock, self)
        self.locks.add(kept)
        return kept

    def _claimants(self, box: int) -> list[Path]:
        ending = f".{box:016x}.db"
        try:
            with os.scandir(self._folder) as entries:
                return sorted(
                    Path(entry.path)
                    for entry in entries
                    if entry.name.endswith(ending)
                    and _FILE.fullmatch(entry.name)
                    and entry.is_file(follow_symlinks=False)
                )
        except OSError as error:
            raise cannot_lock(self._folder, error) from error

    def _refuse_copy(self, path: Path, claimants: list[Path], recorded: str, box: int) -> None:
        others = [other for other in claimants if other != path]
        if recorded == path.name:
            return
        original = next((other for other in others if other.name == recorded), None)
        if original is not None:
            raise StoreError(
                f"{path} is a copy of the outbox {original}: both have the id {box:016x}, and delivering both would "
                "run every message twice. The copy was not opened, the original goes on. Move the copy away.",
                path=path,
            )
        both = ", ".join(str(claimant) for claimant in claimants)
        raise StoreError(
            f"{len(claimants)} files claim to be the outbox {box:016x}: {both}. One is a copy, and delivering both "
            "would run every message twice. None was opened. Keep the one that was in use, and move the others out of "
            "that folder.",
            path=path,
        )

    def _remove_orphan(self, box: int, drafts: list[Path]) -> None:
        """Removes what is there of an outbox whose process died before it had made it."""
        lock_path = self._lock_path(box)
        with suppress(OSError, StoreError):
            # A draft is made under the lock alone: where that is free, nobody makes it any more.
            if not drafts and time.time() - lock_path.lstat().st_mtime <= ORPHAN_S:
                return
            lock = FileLock.take(lock_path)
            if lock is None:
                return
            is_orphan = False
            try:
                if not self._claimants(box):
                    for draft in drafts:
                        draft.unlink(missing_ok=True)
                    is_orphan = True
            finally:
                lock.release(remove=is_orphan)

    def _lock_path(self, box: int) -> Path:
        return self._folder / f"{box:016x}.lock"


def record(lock: FileLock, path: Path) -> None:
    """Writes into the lock file which file is the outbox. Raises StoreError."""
    content = path.name.encode() + b"\n"
    try:
        if lock.read() != content:
            lock.write(content)
    except OSError as error:
        raise cannot_lock(lock.path, error) from error


def _recorded(lock_path: Path) -> str:
    """Which file the lock file names as the outbox; empty if it names none."""
    try:
        if not stat.S_ISREG(os.lstat(lock_path).st_mode):
            return ""
        return lock_path.read_bytes()[:200].decode(errors="replace").strip()
    except OSError:
        return ""
