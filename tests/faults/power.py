"""A disk in a file whose power can be cut: a file system on a loop device, told to stop as it is.

`cut` is one moment: after it nothing more is written (although who waits in a sync just then may be told that it is
done), and what lay in the page cache and had not been synced is
gone, as is the part of the journal that had not been written (ext4's own ioctl for this purpose, EXT4_IOC_SHUTDOWN
without a flush of the log). Where the drive has a cache of its own, the file of the disk lies on another such disk, and
it is that one's power that is cut: then what the file system had written and not flushed is gone as well, page by page,
whatever order it was written in."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path

from tests.waiting import wait_until

SHUTDOWN = 0x8004_587D  # EXT4_IOC_SHUTDOWN
AS_IT_IS = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH
OUTER, INNER = "192M", "96M"


class Disk:
    """image: where its file is made. place: where it is mounted. cached: the drive has a cache that is lost as well.
    flushes: the file system has it flushed when it should; without, no sync is worth anything."""

    def __init__(self, image: Path, place: Path, *, cached: bool, flushes: bool = True) -> None:
        self.place = place
        self._options = "loop" if flushes else "loop,barrier=0"
        self._image = image
        self._outside = image.with_suffix(".outside") if cached else None
        self._mounted: list[Path] = []
        make(image, OUTER if cached else INNER)
        if self._outside is not None:
            self._outside.mkdir()
            self._mount(image, self._outside)
            make(self._inner, INNER)
        self._mount(self._inner, place, self._options)
        place.chmod(0o700)
        for mounted in reversed(self._mounted):  # that there is a disk is not what is tried
            _run("sync", "-f", str(mounted))

    @property
    def _inner(self) -> Path:
        return self._outside / "disk" if self._outside is not None else self._image

    def cut(self) -> None:
        """Nothing is written any more."""
        descriptor = os.open(self._outside or self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", AS_IT_IS))
        finally:
            os.close(descriptor)

    def restore(self) -> None:
        """Power is back: mounted again, with what is on it. To be called when nobody has it open any more."""
        self.remove()
        if self._outside is not None:
            self._mount(self._image, self._outside)
        self._mount(self._inner, self.place, self._options)

    def remove(self) -> None:
        while self._mounted:
            place = self._mounted[-1]
            wait_until(lambda place=place: _is_unmounted(place), within=10, that=f"{place} can be unmounted")  # type: ignore[misc]
            self._mounted.pop()

    def _mount(self, image: Path, place: Path, options: str = "loop") -> None:
        _run("mount", "-t", "ext4", "-o", options, str(image), str(place))
        self._mounted.append(place)


def make(image: Path, size: str) -> None:
    _run("truncate", "-s", size, str(image))
    _run("mkfs.ext4", "-q", "-F", str(image))


def _is_unmounted(place: Path) -> bool:
    return subprocess.run(["umount", str(place)], capture_output=True, check=False).returncode == 0


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
