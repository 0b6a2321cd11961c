"""All outboxes of a process: its own on disk, its own in memory, and those that it has taken over from processes that
are no more.

Intakes are there from the first verb on, before any file is open, so that a push never waits; what they hold goes into
the outbox once that is open, and is failed if it cannot be.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerowait.adopting import Adopter
from zerowait.contract import apart, together
from zerowait.engines.brokerless.shelf import OutboxLock
from zerowait.errors import Closed, StoreError, ZerowaitError
from zerowait.inventory import Inventory
from zerowait.message import Change, Segment
from zerowait.outbox.intake import Intake, Limits
from zerowait.outbox.keeper import Keeper
from zerowait.outbox.lane import Lane
from zerowait.outbox.outbox import Outbox
from zerowait.outbox.sheaf import Sheaf
from zerowait.pending import Promise

if TYPE_CHECKING:
    from zerowait.ground import Ground

log = logging.getLogger("zerowait.outbox")


# A file of our name may be locked for the moment in which another process looks what waits in it: it is tried again,
# for the ids in it (`id=`) are known to that file and to no new one. Whoever really has it says so in its entry.
LOOKED_INTO_S = (0.02, 0.04, 0.08, 0.16)
LOOKED_INTO_AGAIN_S = (0.2,) * 13  # what holds such a look up is a disk, or a machine that is busy


class Estate:
    """lanes: the client's short ways, which end where nothing can be stored."""

    def __init__(self, opened: Ground, lanes: dict[Any, Lane]) -> None:
        self._opened = opened
        self._lanes = lanes
        self._starting = threading.RLock()  # of the store thread; taken before the next, if both are
        self._lock = threading.RLock()
        self._keeper: Keeper | None = None
        self._memory_intake: Intake | None = None
        self._disk_intake: Intake | None = None
        self._memory: Outbox | None = None
        self._disk: Outbox | None = None
        self._rooms: dict[int, Promise[None]] = {}
        self._types: dict[str, bytes] = {}  # channel → what this process pushes to it, as `contract.together` packs it
        self._by_id: dict[int, Outbox] = {}
        self._ready = False  # the network thread listens
        self._disk_asked = False
        self._unstored: dict[str, int] = {}  # channel → messages whose outbox could not be opened: they are lost
        self._disk_refused = ""  # why our own file could not be opened at the last try
        self._is_opening = False  # once more
        self._homes: list[tuple[bool, Callable[[int | BaseException], object]]] = []  # who waits for one to be open
        self._error: ZerowaitError | None = None
        self._closed = False
        self.inventory = Inventory(self.boxes, self.intakes, self.ask)
        self._adopter = Adopter(
            opened,
            is_ready=lambda: self._disk is not None or not self._disk_asked,
            open=self.adopt,
            close=self.give_back,
            mind=self._mind_files,
            is_empty=lambda box: bool(self.ask(box, box.is_empty).result(5.0)),
        )

    # -- intakes, any thread -------------------------------------------------------------------------------------------

    def intake(self, durable: bool) -> Intake:
        """The accepting side; it is there at once, whatever is open by now."""
        with self._lock:
            intake = self._disk_intake if durable else self._memory_intake
            if intake is not None:
                return intake
            limits = self._opened.disk_limits if durable else self._opened.memory_limits
            wake = self._wake_keeper if durable else self._opened.node.outboxes.pushed
            intake = self.new_intake(durable=durable, limits=limits, wake=wake)
            if durable:
                self._disk_intake = intake
            else:
                self._memory_intake = intake
            if self._error is not None:
                self._refuse(intake, self._error)
            elif self._closed:
                intake.close(self._opened.name)
            elif self._ready:
                # Not here: whoever pushes may be an event loop, and threads are started and files opened by this.
                self._opened.node.call(self._open_what_is_new)
            return intake

    def new_intake(self, *, durable: bool, limits: Limits, wake: Callable[[], object]) -> Intake:
        opened = self._opened
        intake = Intake(limits, durable=durable, wake=wake, room=lambda: self._room(intake), now_us=opened.now_us)
        intake.callbacks = opened.callbacks
        intake.pid = opened.pid
        intake.give_way = self._give_way_twice if durable else opened.node.give_way
        intake.withdraw = self._withdraw
        return intake

    def _give_way_twice(self) -> None:
        if self._keeper is not None:
            self._keeper.give_way()
        self._opened.node.give_way()

    def _room(self, intake: Intake) -> Promise[None]:
        promise = self._rooms.get(id(intake))
        if promise is None or promise.done():  # one for all who are refused meanwhile
            promise = self._rooms[id(intake)] = self._opened.promise("write `await error.room`")
            intake.on_room(partial(promise.set, None))
        return promise

    # -- where handlers' outputs and outcomes lie, any thread ----------------------------------------------------------

    def home(self, durable: bool) -> int:
        """The id of our own outbox, if it is open; else 0."""
        box = self._disk if durable else self._memory
        return box.id if box is not None else 0

    def when_home(self, durable: bool, callback: Callable[[int | BaseException], object]) -> None:
        """Opens it where it is not, and calls back once: its id, or why it cannot be opened."""
        self.intake(durable)
        with self._lock:
            home, error = self.home(durable), self._error
            if error is None and self._closed:
                error = Closed(name=self._opened.name)
            if not home and error is None:
                self._homes.append((durable, callback))
                return
        callback(home or error or Closed(name=self._opened.name))

    def own_disk(self) -> Future[int]:
        """The same of the one on disk, as a future."""
        future: Future[int] = Future()
        future.set_running_or_notify_cancel()  # a start that is cancelled is no reason not to be told

        def told(home: int | BaseException) -> None:
            if isinstance(home, int):
                future.set_result(home)
            else:
                future.set_exception(home)

        self.when_home(True, told)
        return future

    def _tell_homes(self, durable: bool, home: int | BaseException) -> None:
        with self._lock:
            told = [each for each in self._homes if each[0] is durable]
            self._homes = [each for each in self._homes if each[0] is not durable]
        for _, callback in told:
            callback(home)

    def declare(self, channel: str, description: bytes) -> None:
        """What is pushed to this channel: kept beside it on disk. Before the first push of it."""
        with self._lock:
            known = apart(self._types[channel]) if channel in self._types else []
            self._types[channel] = together({*known, description})

    def _wake_keeper(self) -> None:
        keeper = self._keeper
        if keeper is not None:
            keeper.wake()

    def intakes(self) -> list[Intake]:
        return [intake for intake in (self._memory_intake, self._disk_intake) if intake is not None]

    def pressure(self, before: int) -> int:
        """How full the fullest of them is (`Intake.pressure`)."""
        disk, memory = self._disk_intake, self._memory_intake
        return max(
            disk.pressure(before) if disk is not None else 0, memory.pressure(before) if memory is not None else 0
        )

    def unopened(self) -> list[Intake]:
        """Those whose outbox is not open yet."""
        return [intake for intake in self.intakes() if not intake.box]

    def is_opening(self) -> bool:
        """Whether the outbox on disk has been asked for and is not open yet, nor refused."""
        return self._disk_asked and self._disk is None and not self._disk_refused

    # -- opening -------------------------------------------------------------------------------------------------------

    def settle_in(self, done: Callable[[ZerowaitError | None], None]) -> None:
        """On the network thread, once it listens: opens what has been asked for, and takes over what namesakes have
        left."""
        directory = self._opened.node.directory
        assert directory is not None
        try:
            self._prepare()
            with self._lock:
                self._ready = True
                future = self._open_what_is_asked()
            leftovers = [file for file in directory.outboxes(self._opened.name) if not file.owned]
            with self._lock:
                # A first push may have asked while we looked: two outboxes would share one intake.
                if leftovers and not self._disk_asked:
                    self._ask_for_disk()
        except (Closed, StoreError) as error:  # closed while we were still beginning, or the folder cannot be listed
            done(error)
            return
        with self._lock:
            if not self._closed:
                self._adopter.start()
        if future is None:
            done(None)
        else:
            future.add_done_callback(lambda over: done(_error_of(over.exception())))

    def _open_what_is_new(self) -> None:
        with suppress(Closed):
            self._prepare()
            with self._lock:
                self._open_what_is_asked()

    def _prepare(self) -> None:
        """Starts the store thread if it will be wanted: not under the lock, for which pushes wait."""
        if self._disk_intake is not None:
            self._store()

    def _open_what_is_asked(self) -> Future[Outbox] | None:
        if self._memory_intake is not None and self._memory is None:
            self._opened.node.call(self._open_memory)
        if self._disk_intake is not None and not self._disk_asked:
            return self._ask_for_disk()
        return None

    def _open_memory(self) -> None:
        if self._memory is None and self._memory_intake is not None:
            opened = self._opened
            self._memory = box = Outbox.open(None, opened.name, now_us=opened.now_us, intake=self._memory_intake)
            self._by_id[box.id] = box
            self.inventory.opened_own(box)
            opened.node.own(box)
            opened.node.outboxes.pushed()
            self._tell_homes(False, box.id)

    def _ask_for_disk(self) -> Future[Outbox]:
        keeper = self._store()
        self._disk_asked = True
        if self._disk_intake is None:
            self.intake(True)
        future = keeper.add(self._open_own)
        future.add_done_callback(lambda over: self._own_is_open(over))
        return future

    def _store(self) -> Keeper:
        """The store thread, made for whoever wants it first. Raises Closed: nothing is opened any more."""
        with self._starting:
            if self._closed:
                raise Closed(name=self._opened.name)
            if self._keeper is None:
                self._keeper = Keeper(self._offer)
            return self._keeper

    def _open_own(self) -> Outbox:
        """On the store thread: a file of this name that nobody has open, or a new one."""
        directory, opened = self._opened.node.directory, self._opened
        assert directory is not None
        assert self._disk_intake is not None
        for looks, pause in enumerate((*LOOKED_INTO_S, *LOOKED_INTO_AGAIN_S), 1):
            locked: set[int] = set()
            for file in directory.outboxes(opened.name):
                try:
                    lock = None if file.owned else directory.lock_outbox(file.path)
                    if lock is not None:
                        return self._open_file(file.path, lock, self._disk_intake)
                    locked.add(file.id)
                except StoreError as error:
                    self._adopter.tell_once(file.path, error)  # left as it is; a new one beside it
            if not locked or (looks >= len(LOOKED_INTO_S) and locked <= directory.announced()):
                break
            time.sleep(pause)
        path, _, lock = directory.new_outbox(opened.name)
        return self._open_file(path, lock, self._disk_intake)

    def _open_file(self, path: Path, lock: OutboxLock, intake: Intake) -> Outbox:
        try:
            name = path.name.split(".")[0]
            box = Outbox.open(path, name, now_us=self._opened.now_us, id=lock.id, intake=intake, lock=lock)
        except BaseException:
            lock.release()
            raise
        with self._lock:
            self._by_id[box.id] = box
        if intake is self._disk_intake:
            box.ledger.declared = self._types
        types = {
            channel: apart(kept)
            for channel, kept in box.ledger.types.items()
            if box.ledger.row(channel).waiting_and_in_flight
        }
        # Before its first turn can offer anything: what is offered of an outbox that is not announced is lost sight of.
        self._opened.node.call(lambda: self._opened.node.own(box, types, keeps=intake is self._disk_intake))
        return box

    def _own_is_open(self, over: Future[Outbox]) -> None:
        error = over.exception()
        if error is not None:
            if self._disk_refused != str(error):  # else it has been said
                log.error("%s: %s", self._opened.name, error)
            self._disk_refused = str(error)
            self._is_opening = False
            with self._lock:
                if self._disk_intake is not None:  # what lies in memory is not concerned
                    self._refuse(self._disk_intake, _error_of(error) or ZerowaitError(str(error)))
            self._tell_homes(True, error)
            return
        with self._lock:
            self._disk = box = over.result()
            self.inventory.opened_own(box)
            self._disk_refused = ""
        self._tell_homes(True, box.id)
        directory = self._opened.node.directory
        for said in directory.notices if directory is not None else ():
            log.warning("%s", said)
        self._want_what_waits(box)

    def _want_what_waits(self, box: Outbox) -> None:
        for channel in box.ledger.unsettled():
            self._opened.node.want(channel)

    def fail(self, error: ZerowaitError) -> None:
        """Nothing can be opened: whoever pushed is told, and whoever pushes from now on."""
        log.error("%s: %s", self._opened.name, error)
        with self._lock:
            self._error = error
            for intake in self.intakes():
                self._refuse(intake, error)
        for durable in (True, False):
            self._tell_homes(durable, error)

    def _refuse(self, intake: Intake, error: ZerowaitError) -> None:
        broken = error if isinstance(error, StoreError) else StoreError(str(error))
        intake.broken = broken
        self._lanes.clear()
        for sheaf, piece in intake.take():
            sheaf.failed(broken)
            intake.stored([(sheaf, piece.count)])
            self._unstored[sheaf.channel] = self._unstored.get(sheaf.channel, 0) + piece.count

    # -- between the threads -------------------------------------------------------------------------------------------

    def submit(self, box: int, epoch: int, changes: Sequence[Change], drawn: dict[str, int]) -> int:
        keeper = self._keeper
        assert keeper is not None, "changes of a durable outbox before there is one"
        return keeper.submit(self._by_id[box], epoch, changes, drawn)

    def _offer(self, box: Outbox, segments: list[Segment], done: int) -> None:
        while box.notices:
            self._opened.telling.outbox(box.notices.popleft(), box.path)
        self._opened.node.outboxes.offered(box.id, box.epoch, segments, done)

    def reopen(self, box: int, floor_epoch: int) -> None:
        """A worker knows a later opening of this outbox, whose file we hold: our epoch goes above that one. If that
        cannot be written now, the first turn that can does so, and offers under that epoch."""
        found, keeper = self._by_id.get(box), self._keeper
        if found is None or keeper is None or not found.durable:
            return
        future = keeper.ask(lambda: found.raise_epoch(floor_epoch))
        future.add_done_callback(
            lambda over: over.exception() or self._opened.node.call(lambda: self._opened.node.outboxes.reopened(found))
        )

    def _mind_files(self) -> None:
        """An outbox at rest has no turns in which to notice that its file is gone, and one that could not be opened
        has none in which to try again. Nor has one whose waking was cut short by an exception from outside (a signal
        handler's)."""
        for intake in self.intakes():
            if intake.has_begun:
                intake.wake()
        if self._disk_refused and not self._is_opening:
            self._is_opening = True
            self._store().add(self._open_own).add_done_callback(self._own_is_open)
        if any(box.is_displaced() for box in self.boxes()):
            self._wake_keeper()

    # -- looking -------------------------------------------------------------------------------------------------------

    def boxes(self) -> list[Outbox]:
        with self._lock:
            return list(self._by_id.values())

    def box(self, id: int) -> Outbox | None:
        return self._by_id.get(id)

    def folder(self) -> Path | None:
        directory = self._opened.node.directory
        return directory.root / "outbox" if directory is not None else None

    def ask(self, box: Outbox, fn: Callable[[], Any]) -> Any:
        """Runs `fn` on the thread that owns this outbox; a future."""
        if box.durable:
            assert self._keeper is not None
            return self._keeper.ask(fn)
        return self._opened.node.call(fn)

    def turned(self) -> Future[None]:
        """Done once what is stored on disk by now has been offered to the network thread."""
        if self._keeper is not None:
            return self._keeper.ask(_nothing)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    # -- taking back ---------------------------------------------------------------------------------------------------

    def _withdraw(self, sheaf: Sheaf, index: int) -> Promise[bool]:
        promise = self._opened.promise("write `await receipt.withdraw()`")

        def stored() -> None:
            if not sheaf.is_stored(index) or not sheaf.lane.intake.box:
                promise.set(False)  # the file failed, or a bare socket has it
                return
            box, number = sheaf.lane.intake.box, sheaf.first + index

            def tell(taken_back: bool | None) -> None:
                promise.set(sheaf.state(index) == "withdrawn" if taken_back is None else taken_back)

            asked = self._opened.node.call(lambda: self._opened.node.outboxes.withdraw(box, sheaf.epoch, number, tell))
            asked.add_done_callback(lambda over: promise.set(False) if over.exception() is not None else None)

        sheaf.when_stored(index, stored)
        return promise

    # -- taking over ---------------------------------------------------------------------------------------------------

    def adopt(self, path: Path, lock: OutboxLock) -> Future[Outbox]:
        """Opens a file whose owner is gone, under its lock, and delivers what is in it; done once it does."""
        intake = self.new_intake(durable=True, limits=self._opened.disk_limits, wake=self._wake_keeper)
        try:
            opening = self._store().add(lambda: self._open_file(path, lock, intake))
        except Closed:  # nobody has opened it, and nobody will
            lock.release()
            raise
        opening.add_done_callback(lambda over: self._is_adopted(path, lock, over))
        return opening

    def _is_adopted(self, path: Path, lock: OutboxLock, over: Future[Outbox]) -> None:
        error = over.exception()
        if error is not None:
            if isinstance(error, Closed) and lock.held:
                lock.release()
            return
        box = over.result()
        self._want_what_waits(box)
        count = sum(box.ledger.unsettled().values())
        what = "1 message" if count == 1 else f"{count} messages"
        level = logging.INFO if count else logging.DEBUG
        log.log(level, "took over the outbox %s, whose owner is gone: %s to deliver", path.name, what)

    def give_back(self, box: Outbox) -> Future[None] | None:
        """Closes one that was adopted; its file goes if nothing is kept in it. None: something of it is under way."""
        node = self._opened.node
        if not node.call(lambda: node.give_back(box.id)).result(5.0):
            return None
        closing = self._store().remove(box)
        closing.add_done_callback(lambda over: self._is_given_back(box, over))
        return closing

    def _is_given_back(self, box: Outbox, over: Future[None]) -> None:
        if over.exception() is None:
            with self._lock:
                self._by_id.pop(box.id, None)
                self.inventory.forget(box)
                self._rooms.pop(id(box.intake), None)

    # -- closing -------------------------------------------------------------------------------------------------------

    def close(self) -> dict[tuple[str, str, bool], int]:
        """Writes what is left to write and closes all files; gives what stays: (name of the outbox, channel, durable) →
        messages."""
        with self._starting, self._lock:
            self._closed = True
        self._adopter.stop()
        left: dict[tuple[str, str, bool], int] = {}
        if self._keeper is not None:
            self._keeper.stop()
        for box in self.boxes():
            for channel, count in box.ledger.unsettled().items():
                name = (box.name, channel, box.durable)
                left[name] = left.get(name, 0) + count
        return left

    def unstored(self) -> dict[str, int]:
        """By channel, how many messages were accepted and never came into an outbox, for it could not be opened. Their
        receipts say why. To be asked once it is closed."""
        found = dict(self._unstored)
        for intake in self.unopened():
            for channel, count in intake.counts().items():  # a push was at them when the others were given up
                found[channel] = found.get(channel, 0) + count
        return {channel: count for channel, count in found.items() if count}

    def abandon(self) -> None:
        """In a forked child: touches nothing, closes nothing."""
        self._closed = True


def _error_of(error: BaseException | None) -> ZerowaitError | None:
    if error is None or isinstance(error, ZerowaitError):
        return error
    return StoreError(f"The outbox could not be opened: {error!r}")


def _nothing() -> None:
    return None
