"""One process's entry: a small JSON file, written as a whole and read with suspicion."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from zerowait.engines.brokerless.home import own_folder
from zerowait.engines.brokerless.locks import FILE_MODE
from zerowait.errors import StoreError

ENTRY_BYTES = 16 * 1024 * 1024  # what is larger was not written by us
WRITE_TRIES = 20
SHORTAGES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO))

_INSTANCE = re.compile("[0-9a-f]{16}")


class Entry(Struct, frozen=True):
    """What a process says of itself to the others of its namespace. endpoints: where it listens, ipc first."""

    instance: int
    name: str
    pid: int
    boot: str
    device: int
    inode: int
    endpoints: tuple[str, ...] = ()
    serves: dict[str, str] = {}  # channel → kind
    boxes: tuple[int, ...] = ()  # outboxes it has open
    since: int = 0  # microseconds UTC
    publishes: tuple[str, ...] = ()  # topics
    subscribes: tuple[str, ...] = ()


class NotAnEntry(ValueError):
    """A file that is none of ours, or not whole. Its text says why."""


_decode = msgspec.json.Decoder(Entry).decode


def is_instance(name: str) -> bool:
    """Whether a file of this name is about an instance."""
    return _INSTANCE.fullmatch(name) is not None


def write_entry(folder: Path, entry: Entry) -> None:
    """Others see the old one or this one, never a part. Makes the folder again if it is gone. Raises StoreError.

    Not forced to the disk: an entry is worth nothing after the boot that it was written in.
    """
    path = folder / f"{entry.instance:016x}"
    content = msgspec.json.encode(entry)
    try:
        for _ in range(WRITE_TRIES):
            hidden = folder / f".{path.name}.{secrets.token_hex(4)}.new"
            try:
                descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
            except FileNotFoundError:
                own_folder(folder.parent)
                own_folder(folder)
                continue
            try:
                with open(descriptor, "wb") as file:
                    os.fchmod(descriptor, FILE_MODE)
                    file.write(content)
                os.rename(hidden, path)
                return
            except FileNotFoundError:  # we stood still for a minute before the rename, and somebody tidied up
                continue
            except BaseException:
                with suppress(OSError):
                    os.unlink(hidden)
                raise
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(
            f"This process cannot be announced in {folder}: {error.strerror}. Others on this machine do not find it "
            "until there is room and permission to write there; nothing that was accepted is lost.",
            path=path,
            errno=error.errno,
        ) from error
    raise StoreError(f"{path} cannot be written: something removes files in that folder.", path=path)


def read_entry(path: str, name: str, found: os.stat_result) -> tuple[os.stat_result, Entry]:
    """The entry, and the status of the very file it was read from; found: what lstat said of the path before.

    Raises NotAnEntry; OSError only for what is no fault of the file: it is gone by now, or we have no descriptors.
    """
    if not is_instance(name):
        raise NotAnEntry("its name is no instance id")
    if not stat.S_ISREG(found.st_mode):
        raise NotAnEntry("it is no plain file")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)  # by now the path may lead to another, longer one
            if found.st_size > ENTRY_BYTES:
                raise NotAnEntry("it is far too large")
            content = os.read(descriptor, found.st_size)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        raise NotAnEntry(error.strerror) from error
    entry = decode_entry(content)
    if entry.instance != int(name, 16):
        raise NotAnEntry("it is about another instance than its name says")
    return found, entry


def decode_entry(content: bytes) -> Entry:
    """Raises NotAnEntry and nothing else, whatever the bytes are."""
    try:
        return _decode(content)
    except (ValueError, RecursionError, OverflowError) as error:  # msgspec's errors are ValueErrors
        raise NotAnEntry(f"it cannot be read: {error}") from error
