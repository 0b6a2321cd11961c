"""Who is there: one small file for each process of a namespace, replaced as a whole, read when the folder has changed.

A look costs one stat while nothing changes. The folder's time of change ticks in milliseconds, so a change in the same
tick as the last reading would not show: a reading counts as the last word only once that time is old enough.

Whoever finds the entry of a process that is proved dead removes it. One whose lock file cannot tell (another boot, a
cleaned-up folder) goes when nobody answers at its socket. That may wrong a living process that has just been cleaned
away; so each announces itself again when it finds its own entry gone.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from zerowait.engines.brokerless.entry import Entry, NotAnEntry, is_instance, read_entry, write_entry
from zerowait.engines.brokerless.presence import Standing
from zerowait.errors import StoreError

log = logging.getLogger("zerowait.directory")

GRAIN_S = 0.05  # file times tick with the kernel, every 1 to 10 ms; the rest is room
CHECK_S = 1.0  # how often some entries that have not changed are looked at for deaths
CHECK_ROUNDS = 10  # in so many steps all of them: a thousand at once would take the network thread 20 ms
LEFT_BEHIND_S = 60.0  # a temporary file this old belongs to a writer that died between making and renaming it
NAMED_AT_MOST = 1_000

Stamp = tuple[int, int, int]


class Entries:
    """The folder `peers/`. Used by one thread."""

    def __init__(self, folder: Path, boot: str, standing: Callable[[Entry], Standing]) -> None:
        self._folder = folder
        self._text = str(folder)  # os.stat of a str costs half of that of a Path
        self._boot = boot
        self._standing = standing
        self._own: Entry | None = None
        self._is_stale = False  # what others see of us is older than that, for it could not be written
        self._known: dict[str, tuple[Stamp, Entry | None]] = {}
        self._shown: list[Entry] | None = None
        self._changed_ns = -1
        self._first_seen = 0.0
        self._settled = False
        self._checked = time.monotonic()
        self._unchecked: list[str] = []
        self._step = 0
        self._named: set[str] = set()

    def announce(self, entry: Entry) -> None:
        """Makes this the process's entry: others see the old one or this one, never a part. Raises StoreError, and is
        tried again at each look."""
        self._own, self._is_stale = entry, True
        write_entry(self._folder, entry)
        self._is_stale = False

    def withdraw(self) -> None:
        """Takes this process's own entry back."""
        if self._own is not None:
            self.remove(self._own.instance)
            self._own, self._is_stale = None, False

    def disown(self) -> None:
        """For a forked child: the entry is the parent's."""
        self._own, self._is_stale = None, False

    def remove(self, instance: int) -> None:
        with suppress(OSError):
            os.unlink(self._folder / f"{instance:016x}")

    def look(self) -> list[Entry] | None:
        """All entries of processes not known to be dead, oldest first; None if that is what it was at the last look."""
        if self._is_stale and self._own is not None:
            with suppress(StoreError):  # that has been said
                self.announce(self._own)
        try:
            changed_ns = os.stat(self._text).st_mtime_ns
        except OSError:
            changed_ns = -2
        now = time.monotonic()
        somebody_died = now - self._checked >= CHECK_S and self._check_some(now)
        if changed_ns == self._changed_ns and self._settled and not somebody_died:
            return None
        if changed_ns != self._changed_ns:
            self._changed_ns, self._first_seen = changed_ns, now
        # Both clocks: files of long ago are old at once, and a wall clock set back does not make us read for hours.
        self._settled = now - self._first_seen >= GRAIN_S or time.time_ns() - changed_ns >= GRAIN_S * 1e9
        self._read()
        self._still_announced()
        entries = sorted(
            (entry for _, entry in self._known.values() if entry is not None), key=lambda e: (e.since, e.instance)
        )
        if entries == self._shown:
            return None
        self._shown = entries
        return list(entries)

    def instances(self) -> set[int]:
        """Whose entries the last look saw, the unreadable ones included."""
        return {int(name, 16) for name in self._known if is_instance(name)}

    def _read(self) -> None:
        before, after = self._known, dict[str, tuple[Stamp, Entry | None]]()
        try:
            names = os.listdir(self._text)
        except FileNotFoundError:
            names = []
        except OSError as error:  # too many open files, say: what was known stands until it can be read again
            self._settled = False
            self._complain(f"{self._text} cannot be read: {error.strerror}. Who comes and goes is not seen meanwhile.")
            return
        for name in names:
            self._take_in(name, before, after)
        # Some file systems skip a name that is being replaced while they list: nobody is gone until lstat says so.
        for name in before.keys() - after.keys():
            self._take_in(name, before, after)
        self._known = after

    def _take_in(
        self,
        name: str,
        before: dict[str, tuple[Stamp, Entry | None]],
        after: dict[str, tuple[Stamp, Entry | None]],
    ) -> None:
        path = f"{self._text}/{name}"
        try:
            found = os.lstat(path)
        except OSError:
            return
        if name.startswith("."):
            if name.endswith(".new") and time.time() - found.st_mtime > LEFT_BEHIND_S:
                with suppress(OSError):
                    os.unlink(path)
            return
        known = before.get(name)
        if known is None or known[0] != _stamp(found):
            known = self._open(path, name, found, known)
            if known[1] is not None and self._is_over(known[1]):
                self.remove(known[1].instance)
                return
        after[name] = known

    def _check_some(self, now: float) -> bool:
        """Whether any of the next few is over; its file is removed then."""
        self._checked = now
        if not self._unchecked:
            self._unchecked = list(self._known)
            self._step = -(-len(self._unchecked) // CHECK_ROUNDS)
        names, self._unchecked = self._unchecked[: self._step], self._unchecked[self._step :]
        over = [
            known[1].instance
            for known in (self._known.get(name) for name in names)
            if known is not None and known[1] is not None and self._is_over(known[1])
        ]
        for instance in over:
            self.remove(instance)
        return bool(over)

    def _still_announced(self) -> None:
        own = self._own
        if own is None or f"{own.instance:016x}" in self._known:
            return
        self._settled = False  # until it is seen there again
        try:
            self.announce(own)
        except StoreError as error:
            self._complain(str(error))
        else:
            self._complain(f"The entry of this process in {self._text} was removed by something: announced again.")

    def _complain(self, sentence: str) -> None:
        """Says it once, not at each look."""
        if sentence not in self._named:
            if len(self._named) >= NAMED_AT_MOST:
                self._named.clear()
            self._named.add(sentence)
            log.warning("%s", sentence)

    def _open(
        self, path: str, name: str, found: os.stat_result, before: tuple[Stamp, Entry | None] | None
    ) -> tuple[Stamp, Entry | None]:
        try:
            found, entry = read_entry(path, name, found)
            return _stamp(found), entry
        except NotAnEntry as error:
            self._complain(f"{path} is ignored: {error}. It was left as it is.")
        except FileNotFoundError:
            pass
        except OSError:  # our own shortage, no fault of the file: what it said before stands until it can be read
            self._settled = False
            return (0, 0, 0), before[1] if before is not None else None
        return _stamp(found), None

    def _is_over(self, entry: Entry) -> bool:
        if self._own is not None and entry.instance == self._own.instance:
            return False
        found = self._standing(entry)
        if found is not Standing.UNKNOWN:
            return found is Standing.DEAD
        local = [endpoint[6:] for endpoint in entry.endpoints if endpoint.startswith("ipc://")]
        if local:
            return not any(_answers(path) for path in local)
        return entry.boot != self._boot


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_mtime_ns, found.st_size, found.st_ino


def _answers(path: str) -> bool:
    """Whether somebody listens at this socket. Anything but a plain no counts as yes."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except OSError as error:
        return error.errno not in (errno.ECONNREFUSED, errno.ENOENT, errno.ENOTSOCK, errno.ENOTDIR)
    return True
