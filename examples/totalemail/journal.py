"""What a worker began and ended, written before and after, so that it can be read when the worker is dead.

The demonstration needs a witness that is neither the library nor the worker's memory: lines appended to a file survive
SIGKILL. A mail that was begun by one process and begun again by another was *redelivered*.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

BEGAN, ENDED = "began", "ended"


class Journal:
    """Appends; several processes may write one file, for each line is one short write."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._pid = os.getpid()

    @contextmanager
    def entry(self, mail: int) -> Generator[None]:
        """Around the work on a mail."""
        self._write(BEGAN, mail)
        try:
            yield
        finally:
            self._write(ENDED, mail)

    def close(self) -> None:
        os.close(self._file)

    def _write(self, what: str, mail: int) -> None:
        os.write(self._file, f"{self._pid} {what} {mail}\n".encode())


class Witness:
    """Reads a journal while it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0
        self._running: dict[int, set[int]] = defaultdict(set)
        self._begun_by: dict[int, set[int]] = defaultdict(set)

    def look(self) -> None:
        """Take in what was written since the last look."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read_bytes)
                news = file.read()
        except FileNotFoundError:
            return
        whole = news[: news.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for line in whole.decode().splitlines():
            pid, what, mail = line.split()
            if what == BEGAN:
                self._running[int(pid)].add(int(mail))
                self._begun_by[int(mail)].add(int(pid))
            else:
                self._running[int(pid)].discard(int(mail))

    def in_flight_at(self, pid: int) -> frozenset[int]:
        """The mails that this process has begun and not ended; for a dead one, those that it died over."""
        return frozenset(self._running[pid])

    def redelivered(self) -> frozenset[int]:
        """The mails that more than one process has begun."""
        return frozenset(mail for mail, pids in self._begun_by.items() if len(pids) > 1)
