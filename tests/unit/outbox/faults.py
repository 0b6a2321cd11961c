"""A disk that fails when it is told to."""

from __future__ import annotations

import apsw


class Faults(apsw.VFS):
    """A file system whose writes and syncs fail when told to, after doing what they should if told so."""

    def __init__(self) -> None:
        self.name = f"faults-{id(self):x}"
        self.failing: type[Exception] | None = None
        self.what = {"write", "sync"}
        self.done_all_the_same = False
        self.failures = 0
        self.after = 0  # so many operations go well before
        super().__init__(self.name, "")

    def xOpen(self, name: object, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        return _File(self, name, flags)

    def strike(self, what: str) -> bool:
        if self.failing is not None and what in self.what:
            if self.after > 0:
                self.after -= 1
                return False
            self.failures += 1
            if not self.done_all_the_same:
                raise self.failing(f"{what} fails")
            return True
        return False


class _File(apsw.VFSFile):
    def __init__(self, faults: Faults, name: object, flags: list[int]) -> None:
        self._faults = faults
        super().__init__("", name, flags)  # type: ignore[arg-type]

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._faults.strike("write")
        super().xWrite(data, offset)  # pyright: ignore[reportUnknownMemberType]

    def xSync(self, flags: int) -> None:  # noqa: N802
        struck = self._faults.strike("sync")
        super().xSync(flags)
        if struck:
            assert self._faults.failing is not None
            raise self._faults.failing("sync fails, with all written")
