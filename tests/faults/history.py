"""What processes write down about their messages while they are killed, stopped and cut off.

Each process appends records of a fixed size to a file of its own, each by one write: so a kill loses at most the record
that was not begun, and what was written survives the process. A record that is torn, or out of turn, is no record of a
run but a fault of the test, and is refused.
"""

from __future__ import annotations

import hashlib
import os
import random
import struct
import time
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

_RECORD = struct.Struct("<BBxxIIIQd")  # kind, attempt, serial, sender, number, hash, monotonic seconds
SIZE = _RECORD.size


class Kind(IntEnum):
    ATTEMPT = 1  # before the push
    ACCEPTED = 2  # the receipt is done: it is stored
    REFUSED = 3  # the push raised: nothing was taken
    UNKNOWN = 4  # the receipt says that nobody knows
    STARTED = 5  # first line of the handler
    HANDLED = 6  # last line of the handler
    SETTLED = 7  # the sender has been told that it was handled
    READY = 8  # this process serves, or has pushed all that it was to push; no message
    LEFT = 9  # this process ended by itself, and not by a fault; no message


class Record(NamedTuple):
    kind: Kind
    attempt: int
    serial: int
    sender: int
    number: int
    hash: int
    at: float  # of the machine's monotonic clock, which all its processes share
    pid: int


class History:
    """Appends to a file of its own. Any thread."""

    def __init__(self, folder: Path, pid: int) -> None:
        self._file = os.open(folder / f"{pid}.history", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._serials = iter(range(1 << 32))

    def note(self, kind: Kind, sender: int = 0, number: int = 0, hash: int = 0, attempt: int = 0) -> None:
        record = _RECORD.pack(kind, min(attempt, 255), next(self._serials), sender, number, hash, time.monotonic())
        os.write(self._file, record)


def read(file: Path, since: int = 0) -> list[Record]:
    """The records of one process, from the given one on. Raises AssertionError for a file that no process can have
    written."""
    with file.open("rb") as opened:
        opened.seek(since * SIZE)
        data = opened.read()
    whole = len(data) - len(data) % SIZE
    assert whole == len(data), f"{file} ends within a record"
    pid = int(file.name.split(".")[0])
    records = [
        Record(Kind(kind), attempt, serial, sender, number, hash, at, pid)
        for kind, attempt, serial, sender, number, hash, at in _RECORD.iter_unpack(data)
    ]
    # Threads may write in another order than they numbered, by a few.
    there = {record.serial for record in records}
    assert len(there) == len(records), f"{file} has a record twice"
    assert since or not there or max(there) < len(there) + 8, f"{file} lacks records"
    return records


def read_all(folder: Path) -> list[Record]:
    return [record for file in sorted(folder.glob("*.history")) for record in read(file)]


def payload(sender: int, number: int, most_bytes: int) -> bytes:
    """Of any size up to that; the same for the same message."""
    chance = random.Random(f"{sender} {number}")
    return chance.randbytes(chance.choice((0, 1, 100, most_bytes // 10, most_bytes)))


def hash_of(blob: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(blob, digest_size=8).digest(), "big")
