"""The file of the list of what has not begun (`protocol/worker/unbegun`): mapped memory beside the lock file, as that
of what runs is (`started`)."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from zerowait.engines.brokerless import mapped
from zerowait.engines.brokerless.locks import OPEN_FLAGS
from zerowait.engines.brokerless.protocol.worker.unbegun import WORDS, Listing, Unbegun, read

_MAGIC = b"zwlies\0\x01"  # the version in its last byte
_WORD = 8
_SIZE = len(_MAGIC) + WORDS * _WORD


def write(path: Path) -> Unbegun:
    """Makes the file. Raises OSError; then there is none."""
    content = _MAGIC + bytes(_SIZE - len(_MAGIC))
    words = memoryview(mapped.make(path, content, "the list of what has not begun"))[len(_MAGIC) :].cast("Q")
    return Unbegun(words)


def close(unbegun: Unbegun) -> None:
    """Its memory and its descriptor are given back; the file stays."""
    behind = unbegun.let_go()
    if isinstance(behind, mmap.mmap):
        behind.close()


class Reading:
    """Of another process's file, while that may be writing. Raises OSError if there is none."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, OPEN_FLAGS)

    def beats(self) -> int | None:
        """How often its network thread has turned. None: it is no such file."""
        head = self._words(len(_MAGIC) + _WORD)
        return head[0] if head is not None else None

    def listing(self) -> Listing | None:
        """All of it, read twice."""
        once, again = self._words(_SIZE), self._words(_SIZE)
        return read(once, again) if once is not None and again is not None else None

    def _words(self, size: int) -> memoryview[int] | None:
        try:
            content = os.pread(self._descriptor, size, 0)
        except OSError:
            return None
        if len(content) != size or not content.startswith(_MAGIC):
            return None
        return memoryview(content)[len(_MAGIC) :].cast("Q")

    def close(self) -> None:
        os.close(self._descriptor)
