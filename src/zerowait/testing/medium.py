"""A file in memory that knows what has been synced.

What a process writes is seen at once by all who read, and is *stable* only once it has been synced. At a power cut each
write that is not stable is lost, kept or torn (a beginning of it, or some of its sectors), by the seed. A sync that
fails leaves the cache as it was, and nobody will ever write those pages out: that is what Linux does."""

from __future__ import annotations

from random import Random
from typing import Final

SECTOR: Final = 512
Write = tuple[int, bytes | None]  # (offset, bytes), or (length, None) where it was cut


class File:
    """data: as its readers see it. stable: what a power cut leaves for certain. named: its name is stable."""

    __slots__ = ("_stable", "_synced", "data", "named", "unstable")

    def __init__(self, data: bytes = b"", *, named: bool = False) -> None:
        self.data = bytearray(data)
        self._stable = bytearray(data)
        self._synced: list[Write] = []  # not in `_stable` yet: few files ever see a power cut
        self.unstable: list[Write] = []
        self.named = named

    @property
    def stable(self) -> bytearray:
        for offset, data in self._synced:
            _apply(self._stable, offset, data)
        self._synced.clear()
        return self._stable

    def copy(self) -> File:
        """As another life finds it, and changes it by itself."""
        copy = File(named=self.named)
        copy.data, copy.unstable = self.data[:], self.unstable[:]
        copy._stable, copy._synced = self._stable[:], self._synced[:]
        return copy

    def write(self, offset: int, data: bytes) -> None:
        _put(self.data, offset, data)
        self.unstable.append((offset, data))

    def truncate(self, length: int) -> None:
        _cut(self.data, length)
        self.unstable.append((length, None))

    def sync(self) -> None:
        self.named = True
        self._synced += self.unstable
        self.unstable.clear()

    def forget(self, rng: Random) -> None:
        """The sync has failed, or the power: of what was written since the last some is stable, and no more will be."""
        stable = self.stable
        for offset, data in self.unstable:
            fate = rng.random()
            if fate < 0.4:
                continue
            if fate < 0.7 or data is None:
                _apply(stable, offset, data)
            elif fate < 0.85:
                _put(stable, offset, data[: rng.randrange(len(data))])
            else:
                for at in range(0, len(data), SECTOR):
                    if rng.random() < 0.5:
                        _put(stable, offset + at, data[at : at + SECTOR])
        self.unstable.clear()


def _put(into: bytearray, offset: int, data: bytes) -> None:
    if len(into) < offset:
        into.extend(bytes(offset - len(into)))
    into[offset : offset + len(data)] = data


def _cut(into: bytearray, length: int) -> None:
    if len(into) > length:
        del into[length:]
    else:
        into.extend(bytes(length - len(into)))


def _apply(into: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        _cut(into, offset)
    else:
        _put(into, offset, data)
