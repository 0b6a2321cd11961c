"""Names → addresses on one machine, without configuration, and proof of life and death.

    <home>/<namespace>/
        instances/<16 hex>      the lock file of one process life: its lock is its life        (presence)
        instances/<16 hex>.runs what its runners are at, for whoever finds it dead             (started)
        instances/<16 hex>.lies what it holds and has not begun, for whoever finds it held     (unbegun_file)
        peers/<16 hex>          who that is, what it serves, where it listens                   (entries)
        outbox/<name>.<id>.db   outboxes, each with <id>.lock beside it                         (shelf)
        s/<16 hex>              its socket
        adopter.lock            held by the one process that looks after outboxes left behind

Whoever has the same home and namespace meets, whatever its environment; others never do.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from zerowait.engines.brokerless import presence, started, unbegun_file
from zerowait.engines.brokerless.entries import LEFT_BEHIND_S, Entries
from zerowait.engines.brokerless.entry import Entry, is_instance
from zerowait.engines.brokerless.home import open_folders, socket_path, state_home
from zerowait.engines.brokerless.locks import FileLock
from zerowait.engines.brokerless.presence import Standing
from zerowait.engines.brokerless.protocol.frames import Obituary
from zerowait.engines.brokerless.protocol.worker.unbegun import Unbegun
from zerowait.engines.brokerless.shelf import OutboxFile, OutboxLock, Shelf
from zerowait.engines.brokerless.started import Running, Started, read
from zerowait.errors import StoreError, UsageError
from zerowait.names import check_process

__all__ = ["Directory", "Entry", "Me", "Mended", "OutboxFile", "OutboxLock", "state_home"]

log = logging.getLogger("zerowait.directory")

TIDY_S = 60.0
MEND_S = 1.0  # how often it is looked whether something removed what this life stands on
TIDY_AT_MOST = 256  # files looked at in one go: tidying is never what somebody waits for


class Me(Struct, frozen=True):
    """This life as others may prove it: what HELLO and the entry name."""

    instance: int
    name: str
    boot: str
    device: int
    inode: int
    socket: str  # the ipc endpoint to listen at


class Mended(Struct, frozen=True):
    """What was made again. me: its device and inode are the new lock file's. listen: the socket is to be bound anew."""

    me: Me
    listen: bool


class Directory:
    """One namespace of one home, as one process sees it.

    `enter`, `listening`, `announce`, `look`, `mend`, `try_elect` and `leave` belong to one thread; the rest may be
    called from any.
    notices: sentences for the log and doctor about the ground it all stands on (what forgets at a reboot).
    """

    def __init__(self, home: Path | None, namespace: str) -> None:
        """Makes and checks the folders: 0700, this user's, on a file system with locks.

        Raises SettingsError for a namespace or home that cannot be; StoreError, naming ZEROWAIT_HOME and a good value
        for it, if there is no safe place to write. Nothing else was touched then.
        """
        self._home, self._namespace = state_home(home), namespace
        self._folders = open_folders(self._home, namespace)
        self.root = self._folders.root
        self.notices = self._folders.notices
        self.boot = presence.boot_id()
        self._entries = Entries(self._folders.peers, self.boot, self._standing_of)
        self._shelf = Shelf(self._folders.outbox)
        self._life: FileLock | None = None
        self._me: Me | None = None
        self._started: Started | None = None
        self._socket: Path | None = None
        self._bound: tuple[int, int] | None = None
        self._mended = time.monotonic()
        self._elected: FileLock | None = None
        self._tidied = time.monotonic()  # a short life leaves it to a longer one
        self._pid = os.getpid()

    def enter(self, instance: int, name: str) -> Me:
        """Begins a life: from now until `leave()` or the end of the process, nobody can prove this instance dead.

        Raises UsageError if a life was begun already or the instance id was used before; StoreError.
        """
        check_process(name, "a process")
        self._notice_fork()
        if self._life is not None:
            raise UsageError("This process has entered already: leave() first, and enter as a new instance.")
        path = socket_path(self._folders, instance)
        try:
            life = presence.be_born(self._folders.instances, instance, name, self.boot)
        except FileExistsError:
            raise UsageError(f"The instance id {instance:016x} was used before: each life has a new one.") from None
        self._life, self._socket = life, path
        self._me = Me(instance, name, self.boot, life.device, life.inode, f"ipc://{path}")
        return self._me

    def listening(self) -> None:
        """The socket of this life is bound: from now on `mend` says if something removes its file."""
        assert self._socket is not None
        self._bound = _identity(self._socket)

    def mend(self) -> Mended | None:
        """Makes again what something removed of this life: the folders and its lock file. Two stats a second.

        None: nothing is missing, or this life is over. `listen` is said each second until `listening`. A life whose
        lock file is another now can be proved dead to whoever meets it from here on; to others it is silent first.
        Raises StoreError if it cannot be made again.
        """
        now = time.monotonic()
        if self._me is None or self._life is None or self._socket is None or now - self._mended < MEND_S:
            return None
        self._mended = now
        unbound = self._bound is not None and _identity(self._socket) != self._bound
        if not unbound and self._life.intact():
            return None
        self._folders = open_folders(self._home, self._namespace)
        me = self._me
        if not self._life.intact():
            me = self._be_born_again(me)
        if unbound:
            self._socket = socket_path(self._folders, me.instance)
            me = replace(me, socket=f"ipc://{self._socket}")
        if me == self._me and not unbound:
            return None
        self._me = me
        return Mended(me, unbound)

    def _be_born_again(self, me: Me) -> Me:
        old = self._life
        assert old is not None
        try:
            self._life = presence.be_born(self._folders.instances, me.instance, me.name, self.boot)
        except FileExistsError:
            return me  # another file lies there: it proves nothing, which is as it should be
        old.release()
        return replace(me, device=self._life.device, inode=self._life.inode)

    def announce(self, entry: Entry) -> None:
        """Tells the others what this process is, serves and where; replaces what it said before, as a whole.

        Listen first, announce then: whoever reads it dials at once. Raises StoreError; it is tried again at each look.
        """
        self._entries.announce(entry)

    def look(self) -> list[Entry] | None:
        """The entries of this namespace, one's own among them, oldest first. None: the same as at the last look.

        One stat while nothing has changed. Entries of the dead are left out and removed; what is not an entry is
        ignored and named once in the log. A death changes no folder: `is_dead` finds it at once, a look within 10 s.
        If something removed one's own entry it is announced again. Never raises.
        """
        self._notice_fork()
        found = self._entries.look()
        if found is not None and time.monotonic() - self._tidied >= TIDY_S:
            self._tidied = time.monotonic()
            self._tidy()
        return found

    def is_dead(self, instance: int, boot: str, device: int, inode: int) -> bool:
        """Proof that this instance is over. True is never wrong; False may be a lack of proof. Never waits.

        A forked child that still holds its parent's descriptors counts as its parent's life.
        """
        if presence.standing(self._folders.instances, self.boot, instance, boot, device, inode) is not Standing.DEAD:
            return False
        self._entries.remove(instance)
        self._remove_socket(self._folders.sockets / f"{instance:016x}")
        started.discard(self.lying_path(instance))  # it tells of the living only; the list of what ran stays
        return True

    def is_over(self, instance: int) -> bool:
        """As `is_dead`, for one that never said HELLO to us: an outbox has noted it, and only its id. Never waits."""
        return presence.is_over(self._folders.instances, instance)

    def list_started(self, instance: int, slots: int) -> Started | None:
        """The list of what this life runs, which whoever finds it dead reads. None: it cannot be made, and all that
        it held will be suspected then."""
        if self._started is None:
            path = presence.list_path(self._folders.instances, instance)
            try:
                self._started = Started(path, slots)
            except OSError as error:
                log.warning(
                    "%s cannot be made (%s): should this process die, nobody can tell what it ran, and all that it "
                    "held is given to others one at a time", path, error.strerror,
                )  # fmt: skip
        return self._started

    def list_lying(self, instance: int) -> Unbegun | None:
        """The list of what this life has not begun, which whoever finds it held reads. None: it cannot be made, and for
        as long as it is held it counts as any who is silent."""
        path = self.lying_path(instance)
        try:
            return unbegun_file.write(path)
        except OSError as error:
            log.warning(
                "%s cannot be made (%s): should a handler of this process hold the interpreter for longer than a "
                "silence and `resume_grace`, nobody can tell what has not begun here, and all that it holds is given "
                "to others, also what it has begun", path, error.strerror,
            )  # fmt: skip
            return None

    def lying_path(self, instance: int) -> Path:
        """Where that instance says what it has not begun."""
        return presence.lying_path(self._folders.instances, instance)

    def socket_of(self, instance: int) -> Path | None:
        """Where that instance listens, if it is one of this namespace."""
        try:
            return socket_path(self._folders, instance)
        except StoreError:
            return None

    def drain(self) -> None:
        """This life is leaving: its list names nobody any more."""
        if self._started is not None:
            self._started.drain()

    def ran(self, instance: int) -> Running | None:
        """What an instance proved dead had begun. None: it has left no list."""
        return read(presence.list_path(self._folders.instances, instance))

    def ending(self, instance: int) -> Obituary:
        """Of one that is proved dead: what it ran, if it has left a list of that, and how it ended, if its parent has
        said so."""
        running, end = self.ran(instance), presence.how_it_ended(self._folders.instances, instance)
        return Obituary(instance, end.exit_code, end.signal, running or (), running is not None)

    def called(self, instance: int) -> str:
        """The name of that instance; empty if it is not known here."""
        return presence.called(self._folders.instances, instance)

    @property
    def life(self) -> int | None:
        """The descriptor of the lock of this life; a duplicate of it keeps others from proving it over."""
        return self._life.descriptor if self._life is not None else None

    def ended(self, name: str, most: int) -> list[int]:
        """Lives of that name that are proved dead and have left a list of what they ran, the latest last."""
        found: list[tuple[float, int]] = []
        with suppress(OSError), os.scandir(self._folders.instances) as files:
            for file in files:
                stem, _, end = file.name.partition(".")
                if end == "runs" and is_instance(stem):
                    with suppress(OSError):
                        found.append((file.stat().st_mtime, int(stem, 16)))
        latest = [instance for _, instance in sorted(found)[-TIDY_AT_MOST:]]
        mine = [each for each in latest if presence.called(self._folders.instances, each) == name]
        return [instance for instance in mine[-most:] if self.is_over(instance)]

    def new_outbox(self, name: str) -> tuple[Path, int, OutboxLock]:
        """A path for a new outbox, its random id and its lock, held before the file can exist. Raises StoreError."""
        return self._shelf.new(name)

    def outboxes(self, name: str | None = None) -> list[OutboxFile]:
        """The outbox files of the namespace, or of one name, and whether somebody has each open. Raises StoreError."""
        return self._shelf.files(name)

    def announced(self) -> set[int]:
        """The outboxes that living processes of the namespace say they have open. Any thread."""
        entries = Entries(self._folders.peers, self.boot, self._standing_of)  # our own are the network thread's
        return {box for entry in entries.look() or () for box in entry.boxes}

    def lock_outbox(self, path: Path) -> OutboxLock | None:
        """The right to open this file. None: it is owned, or gone by now. Raises StoreError if it is a copy."""
        return self._shelf.lock(path)

    def try_elect(self) -> bool:
        """Whether this process is the namespace's adopter: the first to ask, until it leaves or dies.

        Never waits for another. Raises StoreError if there are no locks or no descriptors.
        """
        self._notice_fork()
        if self._elected is not None and not self._elected.intact():
            self._elected.release()  # somebody removed the file: another may have been elected by a new one
            self._elected = None
        if self._elected is None:
            self._elected = FileLock.take(self.root / "adopter.lock")
        return self._elected is not None

    def leave(self, *, settled: bool = True) -> None:
        """Ends this life: the entry, the socket and the lock go. Outbox locks are their outboxes' to release.

        settled: nothing of this process is unconfirmed elsewhere, and no outbox can have noted it. Else its lock file
        stays for a while, unlocked, so that others have proof that it is over. In a forked child nothing of the
        parent's is touched. Any number of times.
        """
        self._notice_fork()
        self._entries.withdraw()
        if self._socket is not None:
            self._remove_socket(self._socket)
        if self._elected is not None:
            self._elected.release()
        if self._started is not None:
            self._started.leave(remove=settled)
        if self._me is not None:  # it holds nothing any more
            started.discard(self.lying_path(self._me.instance))
        if self._life is not None:
            self._life.release(remove=settled)
        self._life = self._socket = self._elected = self._started = self._me = self._bound = None

    def after_fork_in_child(self) -> None:
        """Lets go of all that is the parent's, without unlocking it. Then this process may enter as a new instance."""
        for lock in (self._life, self._elected):
            if lock is not None:
                lock.abandon()
        self._life = self._socket = self._elected = self._started = self._me = self._bound = None
        for box in list(self._shelf.locks):
            box.abandon()
        self._entries.disown()
        self._pid = os.getpid()

    def _notice_fork(self) -> None:
        if self._pid != os.getpid():
            self.after_fork_in_child()

    def _standing_of(self, entry: Entry) -> Standing:
        found = presence.standing(
            self._folders.instances, self.boot, entry.instance, entry.boot, entry.device, entry.inode
        )
        if found is Standing.DEAD:
            for endpoint in entry.endpoints:
                path = Path(endpoint.removeprefix("ipc://"))
                # Only what is called after the instance was made for it: an entry's word is not enough to remove by.
                if path.name == f"{entry.instance:016x}":
                    self._remove_socket(path)
        return found

    def _tidy(self) -> None:
        """Removes what the dead left and nobody announced: lock files past their use, half-made files, sockets."""
        announced = self._entries.instances()
        looked_at = 0
        with suppress(OSError), os.scandir(self._folders.instances) as files:
            for file in files:
                if looked_at >= TIDY_AT_MOST:
                    break
                name = file.name
                if name.startswith("."):
                    with suppress(OSError):
                        if name.endswith(".new") and time.time() - file.stat().st_mtime > LEFT_BEHIND_S:
                            os.unlink(file.path)
                elif is_instance(name) and int(name, 16) not in announced:
                    looked_at += 1
                    if presence.tidy(self._folders.instances, int(name, 16)):
                        self._remove_socket(self._folders.sockets / name)

    @staticmethod
    def _remove_socket(path: Path) -> None:
        with suppress(OSError):
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
