"""What the runners of a process are at, told to whoever finds it dead (rules §5).

A small file beside the lock file, mapped into memory: a slot for each runner with the messages that it has begun. To
write a slot is to write memory, without a call into the kernel, and the kernel keeps what was written however the
process ends. Nobody reads it while its process lives: a runner may have taken what it has not listed yet. What one that
lives has not begun is said elsewhere (`protocol/worker/unbegun`).

    16 bytes   "zwruns", a zero, the version; the number of slots
    32 each    outbox, epoch, first number, count: little endian, 64 bits each; count 0: that runner has begun nothing

The count is written last, and set to zero first: so a slot that was being written when its process ended names nobody.
"""

from __future__ import annotations

import mmap
import os
import struct
from contextlib import suppress
from pathlib import Path

from zerowait.engines.brokerless import mapped
from zerowait.engines.brokerless.locks import OPEN_FLAGS

_HEAD = struct.Struct("<8sQ")
_SLOT = struct.Struct("<QQQQ")
_COUNT = struct.Struct("<Q")
_COUNT_AT = _SLOT.size - _COUNT.size
_MAGIC = b"zwruns\0\x01"
SLOTS_MOST = 65_536  # of a file that is read
MESSAGES_MOST = 1_024  # of a slot

Running = tuple[tuple[int, int, int, int], ...]  # (outbox, epoch, first, count)


class Started:
    """The list of this process. Each slot belongs to one runner at a time."""

    def __init__(self, path: Path, slots: int) -> None:
        """Raises OSError; then there is no file."""
        self._path = path
        self._slots = slots
        content = _HEAD.pack(_MAGIC, slots) + bytes(slots * _SLOT.size)
        self._map: mmap.mmap | bytearray = mapped.make(path, content, "the list of what runs")

    def begin(self, slot: int, box: int, epoch: int, first: int, count: int) -> None:
        """That runner has begun these."""
        at = _HEAD.size + slot * _SLOT.size
        _COUNT.pack_into(self._map, at + _COUNT_AT, 0)
        _SLOT.pack_into(self._map, at, box, epoch, first, count)

    def end(self, slot: int) -> None:
        """That runner is at nothing."""
        try:
            _COUNT.pack_into(self._map, _HEAD.size + slot * _SLOT.size + _COUNT_AT, 0)
        except ValueError:
            pass  # closed between two steps of this line: see `leave`

    def drain(self) -> None:
        """From now on it names nobody: however this process ends, it was leaving (rules §5.1). Owners that know it to
        be draining note nothing of its end, and nor may who finds its list only afterwards."""
        self._empty()

    def _empty(self) -> mmap.mmap | bytearray:
        # What runners still begin and end goes nowhere.
        emptied, self._map = self._map, bytearray(len(self._map))
        for slot in range(self._slots):
            _COUNT.pack_into(emptied, _HEAD.size + slot * _SLOT.size + _COUNT_AT, 0)
        return emptied

    def leave(self, *, remove: bool) -> None:
        """An end that is no death: whatever still runs has not killed anybody. remove: nor will anybody ask."""
        # A thread that was left to itself may still say that it has ended, now to nobody. The map has a descriptor.
        emptied = self._empty()
        if isinstance(emptied, mmap.mmap):
            with suppress(BufferError):  # one writes at this moment: then it goes with its last reference
                emptied.close()
        if remove:
            discard(self._path)


def read(path: Path) -> Running | None:
    """What the dead had begun. None: it has left no list, or one that cannot be read."""
    try:
        descriptor = os.open(path, OPEN_FLAGS)
    except OSError:
        return None
    try:
        content = os.pread(descriptor, _HEAD.size + SLOTS_MOST * _SLOT.size, 0)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    if len(content) < _HEAD.size:
        return None
    magic, slots = _HEAD.unpack_from(content)
    if magic != _MAGIC or len(content) != _HEAD.size + slots * _SLOT.size:
        return None
    found = [_SLOT.unpack_from(content, _HEAD.size + slot * _SLOT.size) for slot in range(slots)]
    return tuple(slot for slot in found if 0 < slot[3] <= MESSAGES_MOST and slot[2])


def discard(path: Path) -> None:
    """Removes a list, if there is one."""
    with suppress(OSError):
        os.unlink(path)
