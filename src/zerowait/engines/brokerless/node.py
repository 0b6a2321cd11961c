"""The network thread: it drives the pure protocol with real sockets, clocks and files, and has no logic of its own.

One turn: read what has arrived, then what other threads left (segments that are stored, runs that have ended, calls),
then timers; then everything that follows from it leaves together. After a pause of the whole process what has arrived
is read before a timer fires, so nobody is called silent who was only not heard (rules §3.5).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Literal, Protocol, TypeVar

from msgspec import Struct

from zerowait.engines.brokerless.addresses import AddressBook
from zerowait.engines.brokerless.contacts import Contacts
from zerowait.engines.brokerless.counter import Counter
from zerowait.engines.brokerless.directory import Directory, Entry, Me
from zerowait.engines.brokerless.outlets import Outlets
from zerowait.engines.brokerless.protocol.config import Config, Identity
from zerowait.engines.brokerless.protocol.core import Core
from zerowait.engines.brokerless.protocol.effects import (
    Asked,
    Close,
    Dispatched,
    Effect,
    Met,
    Prove,
    Ready,
    Reopen,
    Returned,
    Say,
    Send,
    Withdrawn,
)  # fmt: skip
from zerowait.engines.brokerless.protocol.frames import FRAME_BYTES
from zerowait.engines.brokerless.protocol.link import OURS, Link, LinkPhase, Mismatch
from zerowait.engines.brokerless.protocol.owner.contracts import said as mismatch_said
from zerowait.engines.brokerless.resolve import Resolver
from zerowait.engines.brokerless.wire import Heard, Lost, Opened, PlainHeard, Wire, raise_descriptor_limit
from zerowait.engines.engine import Handlers
from zerowait.errors import Closed, ZerowaitError
from zerowait.message import Bury, Change, Segment
from zerowait.settings import Settings
from zerowait.turns import Turn

log = logging.getLogger("zerowait.node")
T = TypeVar("T")

SHARED_MOST = 1_000  # channels and names that are remembered as told
ASKING = "asking"  # the feature by which a command line says that it only looks in
LOOK_S = 0.1  # how often the directory is looked at while a channel that is pushed to has no worker; else seldomer
LONELY_S, LONELY_AGAIN_S = 10.0, 60.0  # how long nobody may serve what waits before that is told, and told again
OWNER_END, WORKER_END = -1, -2  # the two ends of the link of a process to itself


def clock() -> float:
    """Seconds on a clock that runs while the machine sleeps: permissions must not outlive a suspend (rules §3.4)."""
    return time.clock_gettime(_CLOCK)


# macOS has no CLOCK_BOOTTIME; its CLOCK_MONOTONIC runs while the machine sleeps.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Box(Protocol):
    """What the network thread needs of an outbox."""

    @property
    def id(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def durable(self) -> bool: ...
    @property
    def noted(self) -> Iterable[int]: ...
    def begin(self) -> list[Segment]: ...
    def turn(self, changes: Sequence[Change], drawn: dict[str, int]) -> list[Segment]: ...
    def next_due(self) -> float | None: ...
    def moved(self, seq: int, first: int, count: int, state: Literal["sent", "stored"]) -> None: ...


class PeerView(Struct, frozen=True):
    """A peer, as it is shown."""

    name: str
    instance: int
    pid: int
    is_local: bool
    address: str
    state: str
    serves: tuple[str, ...]
    in_flight: int
    silent_for_s: float
    mismatches: dict[str, str]  # channel → what the two ends of it disagree about


class Plainly(Protocol):
    """What is done with bare ZeroMQ sockets, on the network thread."""

    def open(self, wire: Wire) -> None: ...
    def heard(self, event: PlainHeard) -> None: ...
    def turn(self) -> float | None: ...


class Node:
    """submit: hands changes of a durable outbox to the store thread and gives their running number.
    reopen: opens an outbox again with an epoch above the floor, and then calls `reopened`.
    answer: a question of the command line, and how to reply. failed: opening went wrong; nothing will ever be sent."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        *,
        submit: Callable[[int, Sequence[Change], dict[str, int]], int],
        reopen: Callable[[int, int], None],
        answer: Callable[[bytes, Callable[[bytes], None]], None],
        notice: Callable[[Say, str], None],
        buried: Callable[[int, Bury], None],
        lonely: Callable[[str, Sequence[str], Mapping[str, str]], None],
        wall_us: Callable[[float], int],
        plainly: Plainly,
    ) -> None:
        self.name = name
        self.settings = settings
        self.instance = random.SystemRandom().getrandbits(64) or 1
        self.directory: Directory | None = None
        self.endpoints: list[str] = []
        self.error: ZerowaitError | None = None
        self.counter: Counter | None = None
        self._submit = submit
        self._reopen = reopen
        self._answer = answer
        self._notice = notice
        self._buried = buried
        self._lonesome = lonely
        self._wall_us = wall_us
        self._plainly = plainly
        self._thread: threading.Thread | None = None
        self._wire: Wire | None = None
        self._turning = Turn()  # while the thread is awake
        self._stopping = False
        self._is_final = False
        self._leaving = False
        self._calls: deque[Callable[[Exception | None], None]] = deque()
        self._has_ended = False
        self._offers: deque[tuple[int, int, list[Segment], int]] = deque()
        self._memory: Box | None = None
        self._plain_again: float | None = None  # in how many seconds a bare socket is to be tried again
        self._memory_pushed = False
        self._memory_owes = False  # what was begun there has no rows yet
        self._boxes: dict[int, Box] = {}
        self._drawn: dict[int, dict[str, int]] = {}
        self._tickets: dict[int, deque[tuple[int, int]]] = {}
        self._loop: deque[tuple[int, bytes]] = deque()
        self._wanted: frozenset[str] = frozenset()
        self._wanting = threading.Lock()
        self._declared: set[tuple[str, bytes]] = set()
        self._lonely: dict[str, tuple[float, float]] = {}
        self._handlers: Handlers | None = None
        self._look_at = 0.0
        self._mending_failed = ""  # what was said of it last
        self._since_us = wall_us(clock())
        self._withdrawals: dict[tuple[int, int, int], list[Callable[[bool | None], None]]] = {}
        self._askers: set[int] = set()
        self._names: dict[int, str] = {}  # of processes that were met, for the lines that tell of their end
        self._peers_changed: list[Callable[[], bool]] = []
        self._other_kinds: dict[str, tuple[str, int]] = {}  # replaced, never changed
        self._shared: set[tuple[str, ...]] = set()  # channel and the names that serve it, as it was told

    # -- any thread ------------------------------------------------------------------------------------------------

    def start(self, started: Callable[[ZerowaitError | None], None]) -> None:
        """Starts the thread; `started` is called on it when it listens, or with what went wrong."""
        self._thread = threading.Thread(
            target=self._run, args=(started,), name=f"zerowait network {self.name}", daemon=True
        )
        self._thread.start()

    def wake(self) -> None:
        if self._wire is not None:
            self._wire.wake()

    def give_way(self) -> None:
        """For a thread that pushes without a pause. While there is nobody to carry anything to, there is no hurry."""
        if self.counter is not None and self.core.links:
            self._turning.give_way()

    def memory_pushed(self) -> None:
        """Something was pushed to the outbox in memory, which this thread owns."""
        self._memory_pushed = True
        self.wake()

    def offered(self, box: int, epoch: int, segments: list[Segment], done: int) -> None:
        """From the store thread, after a turn of that outbox under that epoch."""
        self._offers.append((box, epoch, segments, done))
        self.wake()

    def call(self, fn: Callable[[], T]) -> Future[T]:
        """Runs `fn` on the network thread."""
        future: Future[T] = Future()

        def run(refused: Exception | None) -> None:
            if refused is not None:
                future.set_exception(refused)
                return
            try:
                future.set_result(fn())
            except BaseException as error:
                future.set_exception(error)

        self._calls.append(run)
        if self._has_ended:
            self._refuse_calls()
        else:
            self.wake()
        return future

    def _refuse_calls(self) -> None:
        """Nobody will run these any more: whoever waits is told."""
        while self._calls:
            try:
                self._calls.popleft()(self.error or Closed(name=self.name))
            except IndexError:  # another thread was quicker
                return

    def want(self, channel: str) -> None:
        """Something is or will be pushed to this channel: its workers are to be found."""
        if channel not in self._wanted:
            with self._wanting:
                self._wanted = self._wanted | {channel}  # a new one: the network thread may be going through the old
            self._look_at = 0.0
            self.wake()

    def declare(self, channel: str, description: bytes) -> None:
        """What is or will be pushed to this channel, as `contract.packed` gives it: to be said before the first push.
        Workers that expect another type get nothing of it."""
        if (channel, description) in self._declared:
            return
        self._declared.add((channel, description))

        def tell() -> None:
            self.core.declare(channel, description)
            self._look_at_peers()

        self.call(tell)

    def other_kind(self, channel: str) -> tuple[str, str] | None:
        """If a peer serves this channel as another kind than push: that kind, and who."""
        kind, instance = self._other_kinds.get(channel) or ("", 0)
        return (kind, self._names.get(instance) or f"{instance:016x}") if kind else None

    def in_flight(self, box: int) -> dict[str, int]:
        """How many messages of each channel are in flight."""
        if self.counter is None:
            return {}
        return self.core.owner.in_flight(box)

    def stop(self, *, final: bool) -> None:
        """Says goodbye, closes all sockets, ends the thread. Waits at most about two seconds."""

        def leave() -> None:
            self._is_final = final
            self._leaving = True

        thread = self._thread
        if thread is not None and thread.is_alive():
            self.call(leave)
            if thread is not threading.current_thread():
                thread.join(2.0)

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self, started: Callable[[ZerowaitError | None], None]) -> None:
        try:
            self._open()
        except ZerowaitError as error:
            self.error = error
        except Exception as error:
            log.exception("the network thread could not start")
            self.error = ZerowaitError(f"The network thread could not start: {error!r}")
        if self.error is not None:
            if self._wire is not None:
                self._wire.close()
            self._has_ended = True
            self._refuse_calls()
            started(self.error)
            return
        started(None)
        self._turning.begin()
        try:
            while not self._stopping:
                try:
                    self._turn()
                except Exception:  # a bug of ours must cost a line in the log, not everything that waits
                    log.exception("an error in the network thread; it goes on")
                    time.sleep(0.05)
        finally:
            self._turning.end()
            assert self._wire is not None
            assert self.directory is not None
            self._has_ended = True
            self._refuse_calls()
            self._resolver.close()
            self._wire.close()
            self.directory.leave(settled=self._is_final)

    def _open(self) -> None:
        settings = self.settings
        self.directory = directory = Directory(settings.home_folder(), settings.namespace)
        me = directory.enter(self.instance, self.name)
        config = Config(
            ping=settings.ping,
            silence=settings.silence,
            resume_grace=settings.resume_grace,
            prefetch=settings.prefetch,
            handshake=settings.handshake_timeout,
            message_bytes=settings.message_bytes,
            outcome_keep=settings.outcomes_days * 86_400.0,
            drain=settings.drain,
        )
        self.core = Core(_identity(me), config, lock=threading.Lock(), wall_us=self._wall_us)
        self.counter = Counter(self.core.worker.desk, clock, self.wake)
        raise_descriptor_limit()
        self._wire = wire = Wire(
            frame_bytes=FRAME_BYTES,
            connections=settings.connections,
            handshakes=settings.handshakes,
            handshake_s=settings.handshake_timeout,
            silence_s=settings.silence,
        )
        self._outlets = Outlets(wire.send)
        self._resolver = Resolver(on_change=self.wake)
        self._contacts = Contacts(me.instance, AddressBook(settings.addresses), self._resolver.resolve, random.random)
        listen = [settings.listen] if isinstance(settings.listen, str) else list(settings.listen)
        self.endpoints = [wire.listen(endpoint) for endpoint in [me.socket, *listen]]
        directory.listening()
        self._contacts.own([*self.endpoints, *listen])
        self._me = me
        self._announce()
        self._plainly.open(wire)

    def _announce(self) -> None:
        assert self.directory is not None
        me = self._me
        serves = {service.channel: service.kind for service in self.core.worker.services.values()}
        entry = Entry(
            instance=me.instance, name=me.name, pid=_pid(), boot=me.boot, device=me.device, inode=me.inode,
            endpoints=tuple(self.endpoints), serves={} if self._is_draining() else serves, boxes=tuple(self._boxes),
            since=self._since_us,
        )  # fmt: skip
        self.directory.announce(entry)

    def _turn(self) -> None:
        wire, core = self._wire, self.core
        assert wire is not None
        timeout = 0.0 if self._has_work() else self._rest(clock())
        with self._turning.outside():
            events = wire.poll(timeout)
        now = clock()
        for event in events:
            match event:
                case Heard():
                    if event.first:
                        core.opened(event.conn, now, ours=False)
                    core.receive(event.conn, event.frame, now)
                case Opened():
                    core.opened(event.conn, now, ours=True)
                case Lost():
                    self._outlets.forget(event.conn)
                    self._lost_contact(event.conn, event.reason, now)
                    core.lost(event.conn, now, event.reason)
                case PlainHeard():
                    self._plainly.heard(event)
        while self._loop:
            conn, data = self._loop.popleft()
            core.receive(WORKER_END if conn == OWNER_END else OWNER_END, data, now)
        self._from_others(now)
        self._plain_again = self._plainly.turn()
        self._look(now)
        if self._handlers is not None:
            core.still_ms = max(0, int((time.monotonic() - self._handlers.beat()) * 1_000) - 300)
        core.wake(now)
        core.flush(now)
        self._perform(now)
        if self._outlets:
            self._outlets.flush()
        if self._leaving and not self._offers:  # what was committed last is confirmed before the last word
            core.farewell(now, final=self._is_final)
            self._perform(now)
            self._stopping = True

    def _has_work(self) -> bool:
        return bool(
            self._calls
            or self._offers
            or self._loop
            or self._memory_pushed
            or self._outlets.has_fragments()
            or self.counter
        )

    def _rest(self, now: float) -> float:
        """How long there is nothing to do, if nothing comes."""
        times = [self._look_at]
        if (at := self.core.next_wake()) is not None:
            times.append(at)
        if self._memory is not None and (due := self._memory.next_due()) is not None:
            times.append(now + due)
        if self._plain_again is not None:
            times.append(now + self._plain_again)
        return max(0.0, min(times) - now)

    def _from_others(self, now: float) -> None:
        core = self.core
        # An outbox is announced by a call before its first offer: so those that came before the calls, and no others.
        offers = len(self._offers)
        while self._calls:
            self._calls.popleft()(None)
        for _ in range(offers):
            box, epoch, segments, done = self._offers.popleft()
            self._notice_reopening(box)
            custody = core.owner.custody.get(box)
            if (
                custody is not None and epoch == custody.epoch
            ):  # those of an epoch that is over are read and offered again
                core.owner.offer(box, segments)
            tickets = self._tickets.get(box)
            while tickets and tickets[0][0] <= done:
                core.owner.committed(box, tickets.popleft()[1])
        if self.counter:
            assert self.counter is not None
            core.finish(self.counter.take())
        memory = self._memory
        if memory is not None and (self._memory_pushed or memory.next_due() == 0.0):
            self._memory_pushed = False
            core.owner.offer(memory.id, memory.begin())
            self._memory_owes = True

    def _notice_reopening(self, box: int) -> None:
        """An outbox that failed and came back has a new epoch: every worker says anew what it holds of it."""
        mine, custody = self._boxes.get(box), self.core.owner.custody.get(box)
        if mine is not None and custody is not None and mine.epoch != custody.epoch:
            self.reopened(mine)

    def _take_drawn(self, box: int) -> dict[str, int]:
        return self._drawn.pop(box, {})

    # -- what the protocol wants done --------------------------------------------------------------------------------

    def _perform(self, now: float) -> None:
        core = self.core
        while core.effects:
            for effect in core.effects.take():
                self._do(effect, now)
            for ticket in core.effects.take_tickets():
                for change in ticket.changes:
                    if isinstance(change, Bury):
                        self._buried(ticket.box, change)
                drawn = self._take_drawn(ticket.box)
                if self._memory is not None and ticket.box == self._memory.id:
                    self._memory_owes = False
                    core.owner.offer(ticket.box, self._memory.turn(ticket.changes, drawn))
                    core.owner.committed(ticket.box, ticket.number)
                else:
                    number = self._submit(ticket.box, ticket.changes, drawn)
                    self._tickets.setdefault(ticket.box, deque()).append((number, ticket.number))
            core.flush(now)
        if self._memory_owes and self._memory is not None:
            self._memory_owes = False
            segments = self._memory.turn((), self._take_drawn(self._memory.id))
            if segments:
                core.owner.offer(self._memory.id, segments)
                core.flush(now)
                self._perform(now)
        for box, drawn in list(self._drawn.items()):
            if self._memory is not None and box == self._memory.id:
                del self._drawn[box]
                core.owner.offer(box, self._memory.turn((), drawn))
            elif sum(drawn.values()) >= 1 << 20:
                # Half of the read-ahead is gone: the store thread reads more. Below that it learns of it with the next
                # change.
                del self._drawn[box]
                self._submit(box, (), drawn)

    def _do(self, effect: Effect, now: float) -> None:
        match effect:
            case Send():
                if effect.conn < 0:
                    self._loop.append((effect.conn, effect.data))
                else:
                    self._outlets.send(effect.conn, effect.data, passable=effect.passable, behind=effect.behind)
            case Dispatched():
                box = self._boxes.get(effect.box)
                drawn = self._drawn.setdefault(effect.box, {})
                drawn[effect.segment.channel] = drawn.get(effect.segment.channel, 0) + effect.body_bytes
                if box is not None:
                    box.moved(effect.segment.seq, effect.first, effect.count, "sent")
            case Returned():
                box = self._boxes.get(effect.box)
                if box is not None:
                    box.moved(effect.seq, effect.first, effect.count, "stored")
            case Withdrawn():
                for tell in self._withdrawals.pop((effect.box, effect.epoch, effect.number), ()):
                    tell(effect.taken_back)
            case Reopen():
                log.warning("%s", effect.words)
                self._reopen(effect.box, effect.floor_epoch)
            case Ready():
                if self._handlers is not None:
                    self._handlers.ready(effect.channel)
            case Close():
                self._outlets.flush()
                self._outlets.forget(effect.conn)
                assert self._wire is not None
                self._wire.drop(effect.conn)
                self._lost_contact(effect.conn, effect.words, now)
            case Prove():
                assert self.directory is not None
                if self.directory.is_dead(effect.instance, effect.boot, effect.device, effect.inode):
                    self.core.buried(effect.instance, now)
            case Asked():
                self._asked(effect)
            case Say():
                self._say(effect)
            case Met():
                self._contacts.met(effect.conn, effect.instance)

    def _lost_contact(self, conn: int, words: str, now: float) -> None:
        contact = self._contacts.lost(conn, words, now)
        if contact is not None and contact.source:
            self._resolver.refresh(contact.source)

    def _asked(self, effect: Asked) -> None:
        assert self._wire is not None
        if not self._wire.is_from_here(effect.conn):
            return  # payloads, and what may be done with them, are for this user on this machine only

        def reply(body: bytes) -> None:
            self.call(lambda: self.core.answer(effect.conn, effect.serial, body))

        self._answer(effect.body, reply)

    def _say(self, said: Say) -> None:
        peer = self.core.peers.get(said.instance)
        if peer is not None:
            self._names[said.instance] = f"{peer.hello.name} (pid {peer.hello.pid})"
        name = self._names.get(said.instance) or (f"{said.instance:016x}" if said.instance else self._whence(said.conn))
        if said.topic in ("left", "dead", "gone"):
            self._names.pop(said.instance, None)
        if said.topic == "met" and peer is not None and ASKING in peer.hello.features:
            self._askers.add(said.instance)
        if said.instance in self._askers:  # a command line that looks in is no news
            if said.topic in ("left", "dead", "gone"):
                self._askers.discard(said.instance)
            return
        if said.topic in ("state", "lost", "dead", "left", "gone"):
            self._look_at_peers()
            self._look_at_kinds()
        self._notice(said, name)

    def _whence(self, conn: int) -> str:
        """Of somebody who has not said his name."""
        return self._contacts.address_of(conn) or f"somebody who dialled {' or '.join(self.endpoints)}"

    def _look_at_peers(self) -> None:
        self._peers_changed = [look for look in self._peers_changed if not look()]

    # -- finding peers -----------------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        if now < self._look_at:
            return
        assert self.directory is not None
        assert self._wire is not None
        served = self.core.worker.services
        is_lonely = any(not self.core.owner.workers(channel) for channel in self._wanted)
        self._look_at = now + (LOOK_S if is_lonely else 5 * LOOK_S if self._wanted else 10 * LOOK_S)
        if self._handlers is not None:
            self._handlers.watch(time.monotonic())
        self._mend()
        entries = self.directory.look()
        if entries is not None:
            self._contacts.look(entries)
        for contact in self._contacts.due(self._wanted, served, self._is_linked, now):
            try:
                self._contacts.dialled(contact, self._wire.dial(contact.endpoint))
            except ZerowaitError as error:
                self._contacts.refused(contact, str(error), now)
        self._tell_lonely(now)
        self._tell_shared()

    def _mend(self) -> None:
        """Something removed the folders, the lock file or the socket of this process (a cleaning of old files, say):
        they are made and bound again. Who is connected already stays so, by the socket that has no file any more."""
        assert self.directory is not None
        assert self._wire is not None
        try:
            mended = self.directory.mend()
            if mended is None:
                return
            self._me = mended.me
            self.core.become(_identity(mended.me))
            if mended.listen:
                self.endpoints[0] = self._wire.listen(mended.me.socket)
                self.directory.listening()
                self._contacts.own(self.endpoints)
            self._announce()
        except ZerowaitError as error:
            if str(error) != self._mending_failed:
                self._mending_failed = str(error)
                log.warning("%s; it is tried again each second", str(error).rstrip("."))
        else:
            self._mending_failed = ""
            log.warning("%s: something removed files of this process below %s; they are made again, and it can be "
                        "reached as before", self.name, self.directory.root)  # fmt: skip

    def _is_linked(self, instance: int) -> bool:
        peer = self.core.peers.get(instance)
        return peer is not None and peer.link is not None

    def _look_at_kinds(self) -> None:
        """Channels that a peer serves as another kind than we push to are told of, and no more pushed to."""
        before, self._other_kinds = self._other_kinds, self.core.owner.sender.of_other_kinds()
        for channel, (kind, instance) in self._other_kinds.items():
            if channel in self._wanted and channel not in before:
                self._notice(Say("kind", kind, instance, channel), self._names.get(instance) or f"{instance:016x}")

    def _tell_shared(self) -> None:
        """Services of different names serve one channel: each may have been meant to get all of it."""
        for channel in self._wanted:
            links = self.core.owner.workers(channel)
            names = sorted({link.hello.name for link in links if link.hello is not None}) if len(links) > 1 else []
            if len(names) > 1 and (told := (channel, *names)) not in self._shared and len(self._shared) < SHARED_MOST:
                self._shared.add(told)
                self._notice(Say("shared", f"{', '.join(names[:-1])} and {names[-1]}", 0, channel), "")

    def _tell_lonely(self, now: float) -> None:
        """A wait that nobody can end says so: after 10 s, then every minute."""
        owner = self.core.owner
        waiting = {channel for channel in owner.dispatch.channels() if not owner.workers(channel)}
        for channel in waiting:
            since, told = self._lonely.setdefault(channel, (now, now - LONELY_AGAIN_S))
            if now - since >= LONELY_S and now - told >= LONELY_AGAIN_S:
                self._lonely[channel] = since, now
                misfits = owner.misfits(channel)
                for link, mismatch in misfits:
                    self._say(mismatch_said(link, channel, mismatch))
                if misfits:
                    continue  # it is served, by those who expect something else
                served = {*owner.channels_served(), *self._contacts.channels()}
                self._lonesome(channel, sorted(served), self._contacts.troubles(channel))
        for channel in [channel for channel in self._lonely if channel not in waiting]:
            del self._lonely[channel]

    # -- on the network thread, through `call` -------------------------------------------------------------------------

    def own(self, box: Box, types: Mapping[str, Sequence[bytes]] | None = None) -> None:
        """This process has opened that outbox. types: channel → of what lies in it already."""
        self._boxes[box.id] = box
        for channel, descriptions in (types or {}).items():
            self.core.left(box.id, channel, descriptions, adopted=box.name != self.name)
        self.core.own(box.id, box.epoch, box.name, durable=box.durable, noted=box.noted, now=clock())
        if not box.durable:
            self._memory = box
        # What waits for workers of an earlier life need not wait for those that are proved dead.
        for instance in box.noted:
            if self.directory is not None and self.directory.is_over(instance):
                self.core.buried(instance, clock())
        self._self_link()
        self._announce()

    def reopened(self, box: Box) -> None:
        """It has a new epoch: every worker says anew what it holds of it."""
        custody = self.core.owner.custody.get(box.id)
        noted = {*box.noted, *(custody.noted if custody is not None else ())}
        self.core.own(box.id, box.epoch, box.name, durable=box.durable, noted=noted, now=clock())

    def give_back(self, box: int) -> bool:
        """Disowns it if nothing of it is in flight or on its way to the file; whether it did."""
        if any(self.core.owner.in_flight(box).values()) or self._tickets.get(box):
            return False
        self.disown(box)
        return True

    def disown(self, box: int) -> None:
        self._boxes.pop(box, None)
        self._tickets.pop(box, None)
        self._drawn.pop(box, None)
        self.core.disown(box)
        self._announce()

    def serve(self, handlers: Handlers) -> None:
        self._handlers = handlers
        self.core.serve(handlers.services)
        self._self_link()
        self._announce()

    def _self_link(self) -> None:
        """What this process pushes to a channel that it serves itself goes by a link of its own, without a socket."""
        if self._handlers is not None and self._boxes and OWNER_END not in self.core.links:
            now = clock()
            self.core.opened(OWNER_END, now, ours=True, side="owner")
            self.core.opened(WORKER_END, now, ours=False, side="worker")

    def drain(self) -> None:
        """No more work: what has not begun is handed back."""
        self.core.drain()
        self._announce()

    def forget_handlers(self) -> None:
        """They are closed: nothing of them turns any more, and nothing is wrong with that."""
        self._handlers = None

    def is_drained(self) -> bool:
        return self.core.is_drained()

    def withdraw(self, box: int, epoch: int, number: int, tell: Callable[[bool | None], None]) -> None:
        """Takes a message back if no worker has begun it; `tell` is told. None: it lay on disk, so its row says."""
        self._withdrawals.setdefault((box, epoch, number), []).append(tell)
        self.core.owner.withdraw(box, epoch, number)

    def drop(
        self,
        box: int,
        channel: str,
        last: tuple[int, int],
        ranges: Iterable[tuple[int, int, int]],
        tell: Callable[[], None],
    ) -> None:
        """Drops what waits of this channel (see `Owner.drop`); `tell` is called once that is durable."""
        name = self.core.owner.drop(box, channel, last, ranges)
        if name is None:
            tell()
        else:
            self._withdrawals.setdefault((box, *name), []).append(lambda taken_back: tell())

    def _is_draining(self) -> bool:
        return self.core.worker.draining

    def is_settled(self) -> bool:
        """Whether waiting any longer is of no use for what this process sends (rules §11.2): nothing is in flight, and
        no worker takes more of what waits."""
        owner = self.core.owner
        if any(count for custody in owner.custody.values() for count in custody.in_flight.values()):
            return False
        waiting = owner.dispatch.channels()
        leaving = self._is_draining()  # then our own handlers take nothing more
        return not any(link.side == "both" or not leaving for channel in waiting for link in owner.takers(channel))

    def has_finished_own(self) -> bool:
        """Whether nothing waits or is in flight of what this process pushes to channels that it serves itself. What is
        of another type than its handler expects waits for somebody else."""
        owner, link = self.core.owner, self.core.links.get(OWNER_END)
        unfit = (
            {channel for (channel, whose), each in link.unfit.items() if whose == OURS and each} if link else set[str]()
        )
        served = self.core.worker.services.keys() - unfit
        if self._offers or any(channel in served for channel in owner.dispatch.channels()):
            return False
        return not any(
            count and channel in served for c in owner.custody.values() for channel, count in c.in_flight.items()
        )

    def may_answer(self) -> bool:
        """Whether somebody who is known has not said yet whether he takes what waits."""
        half_way = any(
            link.phase in (LinkPhase.DIALLED, LinkPhase.GREETED) or None in link.unfit.values()
            for link in self.core.links.values()
        )
        return half_way or self._contacts.unanswered()

    def peers(self) -> list[PeerView]:
        now = clock()
        views: list[PeerView] = []
        for peer in self.core.peers if self.counter is not None else ():
            if peer.instance == self.instance or peer.instance in self._askers:
                continue
            link = peer.link
            conn = link.conn if link is not None else 0
            entry = self._contacts.entry(peer.instance)
            in_flight = sum(
                len(flight.left) for c in self.core.owner.custody.values() for flight in c.flights_of(peer.instance)
            )
            views.append(
                PeerView(
                    name=peer.hello.name,
                    instance=peer.instance,
                    pid=peer.hello.pid,
                    is_local=self.core.peers.is_local(peer),
                    address=self._contacts.address_of(conn) or (entry.endpoints[0] if entry is not None else ""),
                    state="stuck" if peer.stuck_since is not None else peer.phase.value,
                    serves=tuple(link.served) if link is not None else (),
                    in_flight=in_flight,
                    silent_for_s=round(now - peer.heard_at, 3),
                    mismatches=_differences(link) if link is not None else {},
                )
            )
        return views

    def workers(self, channel: str) -> list[str]:
        """Who serves this channel now, by name."""
        if self.counter is None:
            return []
        return [link.hello.name for link in self.core.owner.workers(channel) if link.hello is not None]

    def misfits(self, channel: str) -> list[tuple[str, Mismatch]]:
        """Who serves this channel and expects another type than is pushed here: name, and the difference."""
        if self.counter is None:
            return []
        return [(link.hello.name, each) for link, each in self.core.owner.misfits(channel) if link.hello is not None]

    def when_peers_change(self, look: Callable[[], bool]) -> None:
        """Calls `look` on the network thread, now and at each change, until it gives True."""

        def begin() -> None:
            if not look():
                self._peers_changed.append(look)

        self.call(begin)


def _differences(link: Link) -> dict[str, str]:
    return {channel: mismatch.difference for (channel, _), mismatch in link.unfit.items() if mismatch is not None}


def _identity(me: Me) -> Identity:
    return Identity(instance=me.instance, name=me.name, pid=_pid(), boot=me.boot, device=me.device, inode=me.inode)


def _pid() -> int:
    import os

    return os.getpid()
