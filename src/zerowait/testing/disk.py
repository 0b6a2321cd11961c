"""The disk of a simulated process.

Each life of a process sees it through a mount of its own. At its end the files go on under the next mount; what the
dead life still does to its own, closing its connection above all, touches nobody."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from random import Random
from typing import Literal

import apsw

from zerowait.outbox.database import Disk
from zerowait.testing.medium import File
from zerowait.testing.vfs import mounts, vfs

Trouble = Literal["", "full", "write", "sync"]


class Mount:
    """The disk as one life of a process sees it."""

    def __init__(self, disk: SimulatedDisk, files: dict[str, File]) -> None:
        self.disk = disk
        self.files = files
        self.number = next(numbers)
        mounts[self.number] = self

    def path(self, name: str) -> str:
        return f"/{self.number}{name}"

    def step(self, trouble: Trouble = "") -> None:
        """Something is about to change. Nothing fails any more for a life that is over."""
        if self.disk.mount is self:
            self.disk.step(trouble)


class SimulatedDisk(Disk):
    """trouble: what fails from now on, "full": every write, for want of room; "write", "sync": with an I/O error.

    `fuse`: after so many more steps (a write, a sync, a cut, a new name) the process is at its end, although it goes on
    for the moment: what the disk has at that time is what the next life finds. `blown` says that this has happened."""

    def __init__(self, rng: Random) -> None:
        self.trouble: Trouble = ""
        self.failures = 0
        self.torn = 0  # power cuts with something unstable
        self.steps = 0
        self.blown = False
        self._rng = rng
        self._fuse: int | None = None
        self.power = False
        self._image: dict[str, File] | None = None
        self.mount = Mount(self, {})

    # -- what is done to it ------------------------------------------------------------------------------------------

    def light(self, steps: int, *, power: bool) -> None:
        self._fuse, self.power = steps, power

    def put_out(self) -> None:
        self._fuse = None

    def part(self, *, power: bool) -> None:
        """The life that had it open is over. power: the machine's too."""
        image = self._image if self._image is not None else self._left(power=power)
        self._image, self._fuse, self.blown = None, None, False
        self.mount = Mount(self, image)

    def _left(self, *, power: bool) -> dict[str, File]:
        left: dict[str, File] = {}
        for name, file in self.mount.files.items():
            copy = file.copy()
            if power:
                self.torn += bool(copy.unstable)
                copy.forget(self._rng)
                copy.data[:] = copy.stable
                if not copy.named and self._rng.random() < 0.5:
                    continue
                copy.named = True
            left[name] = copy
        return left

    def step(self, trouble: Trouble = "") -> None:
        """Something is about to change. Raises what the trouble of the hour makes of it."""
        self.steps += 1
        if self._fuse is not None:
            self._fuse -= 1
            if self._fuse <= 0:
                self._fuse = None
                self._image = self._left(power=self.power)
                self.blown = True
        if trouble and self.trouble == trouble:
            self.failures += 1
            raise apsw.IOError(f"the {trouble} fails")
        if trouble == "write" and self.trouble == "full":
            self.failures += 1
            raise apsw.FullError("no room")

    def spoil(self, file: File) -> None:
        """Its sync has failed."""
        file.forget(self._rng)

    # -- what an outbox does with it ---------------------------------------------------------------------------------

    def connect(self, path: Path, flags: int) -> apsw.Connection:
        return apsw.Connection(self.mount.path(str(path)), flags, vfs=vfs())

    def read(self, path: Path, most: int) -> bytes:
        file = self.mount.files.get(str(path))
        if file is None:
            raise FileNotFoundError(2, "no such file", str(path))
        return bytes(file.data[:most])

    def make(self, path: Path, data: bytes) -> None:
        self._change()
        file = self.mount.files[str(path)] = File()
        file.write(0, data)

    def rename(self, path: Path, to: Path) -> None:
        self._change()
        file = self.mount.files[str(to)] = self.mount.files.pop(str(path))
        file.named = True

    def renew(self, path: Path) -> None:
        file = self.mount.files.get(str(path))
        if file is not None:
            self._change()
            file.write(0, bytes(file.data))
            try:
                self._change("sync")
            except OSError:
                self.spoil(file)
                raise
            file.sync()

    def remove(self, paths: Sequence[Path]) -> None:
        for path in paths:
            if str(path) in self.mount.files:
                self._change()
                del self.mount.files[str(path)]

    def _change(self, trouble: Trouble = "write") -> None:
        try:
            self.step(trouble)
        except apsw.FullError as error:
            raise OSError(28, "No space left on device") from error
        except apsw.IOError as error:
            raise OSError(5, "Input/output error") from error


numbers = count(1)
