"""Bugs of files: who takes over which (rules §11.1), closing (§11.2), namespaces (§11.3), copies (§11.4), forks
(§11.5)."""

from __future__ import annotations

import fcntl
import os
from collections import deque
from concurrent.futures import Future
from typing import Any

from tests.mutants.planting import Put, bug, nothing
from zerowait import adopting, client, estate, opening
from zerowait.cli import delivering
from zerowait.engines.brokerless import directory, home, locks, node, outboxes, shelf
from zerowait.engines.brokerless.protocol import ending
from zerowait.engines.brokerless.protocol.owner import owner
from zerowait.errors import StoreError
from zerowait.outbox import database, file

LEFT = "tests/integration/test_left_files.py"
OFFERED = f"{LEFT}::test_what_was_offered_and_not_looked_at_yet_is_not_settled"
ADOPTION = "tests/integration/test_adoption.py"
ONCE = f"{ADOPTION}::test_a_file_that_nobody_serves_is_opened_once_and_not_at_each_look"
CHILD = "tests/integration/test_main_job.py::test_a_forked_child_opens_its_own_and_leaves_its_parents_alone"
DIRECTORY = "tests/unit/test_directory.py"
FILE = "tests/unit/outbox/test_file.py"
ENDING = "tests/protocol/test_ending.py"
FORKS = "tests/unit/test_forks.py"
CLI = "tests/unit/cli/test_left_behind.py"

# -- who takes over which file -----------------------------------------------------------------------------------------


@bug("a process begins a new outbox beside the one that its name has left", by=LEFT)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def open_own(self: Any) -> Any:
            found = self._opened.node.directory
            path, _, lock = found.new_outbox(self._opened.name)
            return self._open_file(path, lock, self._disk_intake)

        return open_own

    put(estate.Estate, "_open_own", made)


@bug("what is left of a name while another of it runs is taken over by whoever serves it only", by=LEFT)
def _(put: Put) -> None:
    put(adopting.Adopter, "_take_over", lambda right: lambda self, file, *, always: right(self, file, always=False))


@bug("nobody is elected to look after what was left", by=ADOPTION)
def _(put: Put) -> None:
    put(directory.Directory, "try_elect", lambda right: lambda self: False)


@bug("everybody looks after what was left", by=LEFT)
def _(put: Put) -> None:
    put(directory.Directory, "try_elect", lambda right: lambda self: True)


@bug("what nobody serves is taken over", by=LEFT)
def _(put: Put) -> None:
    put(adopting.Adopter, "_is_served", lambda right: lambda self, waiting: right(self, waiting) or True)


@bug("nobody looks for workers of what was left", by=LEFT)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def is_served(self: Any, waiting: dict[str, int]) -> bool:
            node = self._opened.node
            return any(node.workers(each) or each in node.core.worker.services for each in waiting)

        return is_served

    put(adopting.Adopter, "_is_served", made)


@bug("a file that nobody serves is opened at each look", by=ONCE)
def _(put: Put) -> None:
    put(adopting.Adopter, "_is_left_alone", lambda right: lambda self, path: right(self, path) and False)


@bug("what was taken over is kept open although all of it is delivered", by=ADOPTION)
def _(put: Put) -> None:
    put(adopting.Adopter, "_give_back_settled", nothing)


@bug("what was taken over is closed while something of it is in flight", by=LEFT)
def _(put: Put) -> None:
    put(outboxes.Outboxes, "is_at_rest", lambda right: lambda self, box: True)
    put(adopting.Adopter, "_is_over", lambda right: lambda self, box: True)


@bug("a file that somebody has open is opened", by=DIRECTORY)
def _(put: Put) -> None:
    put(locks, "_seize", lambda right: lambda descriptor: True)


@bug("an outbox of another version is opened", by=(FILE, LEFT))
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def check(path: Any, disk: Any = database.DISK) -> bool:
            head = disk.read(path, 100) if path.exists() else b""
            return bool(head) and ((head[60:64] != b"\0\0\0\1" and right(path, disk)) or True)

        return check

    put(file, "check", made)


@bug("that a file was left alone is told to nobody", by=LEFT)
def _(put: Put) -> None:
    put(adopting.Adopter, "tell_once", nothing)


@bug("that a file was left alone is told at each look", by=LEFT)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def tell_once(self: Any, path: Any, error: Any) -> None:
            self._told.clear()
            right(self, path, error)

        return tell_once

    put(adopting.Adopter, "tell_once", made)


@bug("one file that cannot be opened holds up all others", by=LEFT)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def tell_once(self: Any, path: Any, error: Any) -> None:
            right(self, path, error)
            raise error

        return tell_once

    put(adopting.Adopter, "tell_once", made)


@bug("an empty file is left when it is closed", by=FILE)
def _(put: Put) -> None:
    put(file, "remove", nothing)


@bug("a file is removed when it is closed whatever is in it", by=FILE)
def _(put: Put) -> None:
    put(file.File, "close", lambda right: lambda self, *, empty: right(self, empty=True))


@bug("`zerowait outbox deliver` opens nothing", by=CLI)
def _(put: Put) -> None:
    put(delivering, "_deliver", lambda right: lambda reach, name, timeout, seen: 0)


@bug("what another process has taken over meanwhile is called delivered", by=CLI)
def _(put: Put) -> None:
    put(delivering, "_tell_owners", nothing)


# -- closing -----------------------------------------------------------------------------------------------------------


@bug("closing waits for what nobody takes", by=ENDING)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        return lambda core: bool(right(core)) and not core.owner.dispatch.channels()

    put(ending, "is_settled", made)


@bug("closing does not wait for what is in flight", by=ENDING)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def is_settled(core: Any) -> bool:
            return not any(core.owner.takers(channel) for channel in core.owner.dispatch.channels())

        return is_settled

    put(ending, "is_settled", made)


@bug("closing does not wait for workers that take more", by=ENDING)
def _(put: Put) -> None:
    put(owner.Owner, "takers", lambda right: lambda self, channel: [])


@bug("closing does not wait for what is stored and not offered yet", by=LEFT)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def turned(self: Any) -> Any:
            done: Future[None] = Future()
            done.set_result(None)
            return done

        return turned

    put(estate.Estate, "turned", made)


@bug("closing does not wait for what is offered and not looked at yet", by=OFFERED)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def is_settled(self: Any, patient: bool = False) -> bool:
            offers, self.outboxes._offers = self.outboxes._offers, deque()
            try:
                return bool(right(self, patient))
            finally:
                self.outboxes._offers = offers

        return is_settled

    put(node.Node, "is_settled", made)


@bug("closing waits for a worker that is leaving", by=LEFT)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def takers(self: Any, channel: str) -> Any:
            return [link for link in self.sender.serving(channel) if self.sender.may_take(link, channel)]

        return takers

    put(owner.Owner, "takers", made)


@bug("closing waits for an address that does not answer until `drain` is over", by=LEFT)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def wait(self: Any, began: float, until: float) -> None:
            right(self, until, until)

        return wait

    put(opening.Opened, "_wait_for_workers", made)


@bug("closing does not wait for an address that may answer", by=LEFT)
def _(put: Put) -> None:
    put(opening.Opened, "_wait_for_workers", lambda right: lambda self, began, until: right(self, began - 60, until))


# -- namespaces, copies ------------------------------------------------------------------------------------------------


@bug("all namespaces are one", by=f"{DIRECTORY}::test_namespaces_never_meet")
def _(put: Put) -> None:
    put(directory, "open_folders", lambda right: lambda home, namespace, **others: right(home, "one", **others))


@bug("a copy of an outbox is opened beside it", by=DIRECTORY)
def _(put: Put) -> None:
    put(shelf.Shelf, "_refuse_copy", nothing)


@bug("which of two files is the outbox is not written down", by=DIRECTORY)
def _(put: Put) -> None:
    put(shelf, "record", nothing)


@bug("an outbox that was brought back from a backup is refused", by=DIRECTORY)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def lock(self: Any, path: Any) -> Any:
            if shelf._recorded(self._lock_path(int(path.name.split(".")[1], 16))) not in ("", path.name):
                raise StoreError("it was another file", path=path)
            return right(self, path)

        return lock

    put(shelf.Shelf, "lock", made)


@bug("a lock is the file's and not the outbox's", by=DIRECTORY)
def _(put: Put) -> None:
    put(shelf.Shelf, "_claimants", lambda right: lambda self, box: right(self, box)[-1:])


@bug("a home on a network file system is taken", by=DIRECTORY)
def _(put: Put) -> None:
    put(home, "WITHOUT_LOCKS", lambda right: frozenset())


# -- forks -------------------------------------------------------------------------------------------------------------


@bug("a forked child unlocks what its parent holds when it lets go", by=FORKS)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def abandon(self: Any) -> None:
            if self._descriptor is not None:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            right(self)

        return abandon

    put(locks.FileLock, "abandon", made)


@bug("a forked child releases what its parent holds", by=FORKS)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def release(self: Any, *, remove: bool = False) -> None:
            self._pid = os.getpid()
            right(self, remove=remove)

        return release

    put(locks.FileLock, "release", made)


@bug("a lock is given up by closing it although a child may have it open", by=FORKS)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def release(self: Any, *, remove: bool = False) -> None:
            self.abandon()

        return release

    put(locks.FileLock, "release", made)


@bug("a forked child takes itself for its parent", by=FORKS)
def _(put: Put) -> None:
    put(directory.Directory, "_notice_fork", nothing)


@bug("a forked child's first verb uses what its parent has open", by=CHILD)
def _(put: Put) -> None:
    put(client, "_forked", nothing)
