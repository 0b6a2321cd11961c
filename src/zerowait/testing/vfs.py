"""SQLite's view of simulated disks: a file system of Python objects, each name beginning with the number of a mount."""

from __future__ import annotations

from typing import Any, Protocol
from weakref import WeakValueDictionary

import apsw

from zerowait.testing.medium import File


class Spoiler(Protocol):
    def spoil(self, file: File, /) -> None: ...


class Seen(Protocol):
    """A mount: the files, and what is told of each change before it happens, which may raise."""

    files: dict[str, File]

    @property
    def disk(self) -> Spoiler: ...
    def step(self, trouble: Any = "", /) -> None: ...


mounts: WeakValueDictionary[int, Seen] = WeakValueDictionary()


class _Handle:
    """What SQLite has of an open file."""

    def __init__(self, mount: Seen, file: File) -> None:
        self._mount = mount
        self._file = file

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        return bytes(self._file.data[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._mount.step("write")
        self._file.write(offset, data)

    def xTruncate(self, length: int) -> None:  # noqa: N802
        self._mount.step()
        self._file.truncate(length)

    def xSync(self, flags: int) -> None:  # noqa: N802
        try:
            self._mount.step("sync")
        except apsw.IOError:
            self._mount.disk.spoil(self._file)
            raise
        self._file.sync()

    def xFileSize(self) -> int:  # noqa: N802
        return len(self._file.data)

    def xLock(self, level: int) -> None:  # noqa: N802
        """Who has the right to an outbox is known elsewhere."""

    def xUnlock(self, level: int) -> None:  # noqa: N802
        pass

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xFileControl(self, operation: int, pointer: int) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return 4_096

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE  # torn is what was written, never its neighbours

    def xClose(self) -> None:  # noqa: N802
        pass


class _Vfs(apsw.VFS):
    def __init__(self) -> None:
        self.name = "zerowait-simulated"
        super().__init__(self.name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> _Handle:  # type: ignore[override]  # noqa: N802
        mount, path = _where(name if isinstance(name, str) or name is None else name.filename())
        file = mount.files.get(path)
        if file is None:
            if not flags[0] & apsw.SQLITE_OPEN_CREATE:
                raise apsw.CantOpenError(path)
            mount.step("write")
            file = mount.files[path] = File()
        flags[1] = flags[0]
        return _Handle(mount, file)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        mount, path = _where(filename)
        mount.step()
        mount.files.pop(path, None)

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: N802
        mount, path = _where(pathname)
        return path in mount.files

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name

    def xGetLastError(self) -> tuple[int, str]:  # noqa: N802
        return 0, ""


def _where(name: str | None) -> tuple[Seen, str]:
    assert name is not None, "the simulated disk holds no temporary files"
    number, path = name[1:].split("/", 1)
    return mounts[int(number)], "/" + path


_registered: list[_Vfs] = []


def vfs() -> str:
    """Its name for `apsw.Connection`."""
    if not _registered:
        _registered.append(_Vfs())
    return _registered[0].name
