"""Lock files: an exclusive flock that lives as long as its process, and the question whether somebody has one.

Whoever owns something holds its lock exclusively. Whoever only asks takes it *shared* for a moment, so that any number
may ask at once without one being taken for an owner by another. A lock file may be removed, but only by its holder and
while the lock is held: so after locking one must look whether the path still leads to the locked file.

flock belongs to the open file description. After a fork parent and child share it: closing in the child changes nothing
for the parent, unlocking in the child would take the lock from the parent. So a child only ever closes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from zerowait.errors import StoreError

FILE_MODE = 0o600
# O_NONBLOCK: a FIFO put there by somebody must not stop us. O_NOFOLLOW: nor may a link lead us elsewhere.
OPEN_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
ASKERS_WAIT_S = 0.001
ASKERS_TRIES = 50  # askers hold a lock for microseconds; 50 ms of them without a gap does not happen
REMOVED_TRIES = 20


class FileLock:
    """An exclusive lock on a file, held until `release()` or the end of the process, `kill -9` included."""

    __slots__ = ("_descriptor", "_pid", "device", "inode", "path")

    def __init__(self, path: Path, descriptor: int) -> None:
        status = os.fstat(descriptor)
        self.path = path
        self.device = status.st_dev
        self.inode = status.st_ino
        self._descriptor: int | None = descriptor
        self._pid = os.getpid()

    @classmethod
    def take(cls, path: Path) -> FileLock | None:
        """Locks the file at `path`, made if it is not there (0600). None: somebody has it. Never waits for an owner.

        Raises StoreError if the file cannot be opened or this file system has no locks.
        """
        try:
            for _ in range(REMOVED_TRIES):
                descriptor = os.open(path, OPEN_FLAGS | os.O_CREAT, FILE_MODE)
                try:
                    if not _seize(descriptor):
                        os.close(descriptor)
                        return None
                    if _leads_to(path, descriptor):
                        os.fchmod(descriptor, FILE_MODE)  # a umask may have taken bits away
                        return cls(path, descriptor)
                except BaseException:
                    os.close(descriptor)
                    raise
                os.close(descriptor)  # its last holder removed it between our open and our lock
        except OSError as error:
            raise cannot_lock(path, error) from error
        raise StoreError(f"{path} vanishes each time it is locked: something removes files in that folder.", path=path)

    @classmethod
    def born(cls, path: Path, content: bytes) -> FileLock:
        """Makes a new file with this content that is locked from the first moment it can be seen at `path`.

        Raises StoreError; FileExistsError if there is a file already.
        """
        try:
            for _ in range(REMOVED_TRIES):
                if os.path.lexists(path):
                    raise FileExistsError(errno.EEXIST, "there is a file already", str(path))
                hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
                descriptor = os.open(hidden, OPEN_FLAGS | os.O_CREAT | os.O_EXCL | os.O_APPEND, FILE_MODE)
                try:
                    os.fchmod(descriptor, FILE_MODE)
                    if _seize(descriptor):
                        os.write(descriptor, content)
                        os.rename(hidden, path)
                        return cls(path, descriptor)
                except FileNotFoundError:  # we stood still for a minute before the rename, and somebody tidied up
                    pass
                except BaseException:
                    os.close(descriptor)
                    with suppress(OSError):
                        os.unlink(hidden)
                    raise
                os.close(descriptor)
        except FileExistsError:
            raise
        except OSError as error:
            raise cannot_lock(path, error) from error
        raise StoreError(f"{path} cannot be made: something removes files in that folder.", path=path)

    @property
    def held(self) -> bool:
        """Whether this object holds the lock, in this process."""
        return self._descriptor is not None and self._pid == os.getpid()

    @property
    def descriptor(self) -> int | None:
        """What the lock belongs to, as long as it is held: whoever has a duplicate of it holds it as well."""
        return self._descriptor

    def intact(self) -> bool:
        """Whether the path still leads to the file that is locked. If not, somebody removed it and may lock another."""
        return self._descriptor is not None and _leads_to(self.path, self._descriptor)

    def read(self, limit_bytes: int = 4_096) -> bytes:
        assert self._descriptor is not None
        return os.pread(self._descriptor, limit_bytes, 0)

    def write(self, content: bytes) -> None:
        """Makes this the file's whole content."""
        assert self._descriptor is not None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, content, 0)

    def release(self, *, remove: bool = False) -> None:
        """Gives the lock up, and with remove the file too. In a forked child it only closes. Any number of times."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if self._pid == os.getpid():
            if remove and _leads_to(self.path, descriptor):
                with suppress(OSError):
                    os.unlink(self.path)
            # Unlocking, not only closing: a child forked meanwhile may hold the same description open.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)

    def abandon(self) -> None:
        """For a forked child: closes the descriptor and leaves the lock to the parent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def ask(descriptor: int) -> bool:
    """Takes the lock shared, to be given back by `answer()`. False: somebody owns it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def answer(descriptor: int) -> None:
    """Gives a shared lock back. To close would not do: a child forked meanwhile holds the same description open."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def is_owned(path: Path) -> bool:
    """Whether somebody holds the lock of this file now. A missing file has no owner."""
    try:
        descriptor = os.open(path, OPEN_FLAGS)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise cannot_lock(path, error) from error
    try:
        if not ask(descriptor):
            return True
        answer(descriptor)
        return False
    except OSError as error:
        raise cannot_lock(path, error) from error
    finally:
        os.close(descriptor)


def cannot_lock(path: Path, error: OSError) -> StoreError:
    what = error.strerror or type(error).__name__
    if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
        return StoreError(
            f"{path} cannot be locked ({what}): this file system has no locks, so two processes could take the same "
            "outbox. Nothing was touched. Set ZEROWAIT_HOME to a folder on a local disk.",
            path=path,
            errno=error.errno,
        )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        remedy = "Raise the limit of open files (ulimit -n)."
    else:
        remedy = "See that this user may write there and the disk has room, or set ZEROWAIT_HOME to another folder."
    return StoreError(f"{path} cannot be opened to lock it: {what}. {remedy}", path=path, errno=error.errno)


def _seize(descriptor: int) -> bool:
    for _ in range(ASKERS_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            pass
        # An owner or a mere asker? Beside an asker there is room for another, beside an owner there is not.
        if not ask(descriptor):
            return False
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        time.sleep(ASKERS_WAIT_S)
    return False


def _leads_to(path: Path, descriptor: int) -> bool:
    try:
        there = os.lstat(path)
    except OSError:
        return False
    here = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
