"""One real core, and peers that say exactly what a test tells them to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from math import inf
from typing import TypeVar

from tests.protocol.store import START_US, Store, segment
from zerowait.contract import Description, fingerprint, packed
from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.config import Config, Identity
from zerowait.engines.brokerless.protocol.core import Core
from zerowait.engines.brokerless.protocol.effects import Close, Effect, Look, Prove, Send, Ticket
from zerowait.engines.brokerless.protocol.frames import (
    LANES,
    Batch,
    Credit,
    Drop,
    Frame,
    Held,
    Hello,
    Limits,
    Obituary,
    Owned,
    Part,
    Ping,
    Pong,
    Schema,
    Served,
    State,
    Want,
)
from zerowait.engines.brokerless.protocol.owner.dispatch import body_of
from zerowait.engines.brokerless.protocol.owner.flights import Slice
from zerowait.engines.brokerless.protocol.worker.parcel import Taken
from zerowait.engines.brokerless.protocol.worker.unbegun import Listing
from zerowait.message import Outcome as Ended
from zerowait.message import Segment, Service

CHANNEL = "work"
BOX = 77
F = TypeVar("F", bound=Frame)


class Stage:
    """A core, its clock, and all that it wants done. Commits are made at once, unless `holds_commits`; what is read of
    keys is offered at once, unless `holds_reads`: then it is on its way until `offer`."""

    def __init__(
        self,
        *,
        instance: int = 100,
        store: Store | None = None,
        services: dict[str, int] | None = None,
        config: Config | None = None,
        boot: str = "",
        holds_reads: bool = False,
        has_unread: Callable[[int], bool] = lambda conn: False,
    ) -> None:
        self.now = 1_000.0
        self.config = config or Config()
        identity = Identity(instance=instance, name="tested", boot=boot, device=1, inode=instance)
        self.core = Core(identity, self.config, lock=nullcontext(), wall_us=self.wall_us, has_unread=has_unread)
        self.core.effects.patience = -inf  # what nobody waits for is looked at by most tests at once
        self.store = store
        self.effects: list[Effect] = []
        self.tickets: list[Ticket] = []
        self.holds_commits = False
        self.holds_reads = holds_reads
        self._read: list[Segment] = []
        self.puppets: dict[int, Puppet] = {}
        self.listings: dict[int, Listing] = {}  # of those who are held
        self.stirring: set[int] = set()  # those who have stood still until a moment ago
        if store is not None:
            self.open()
        if services:
            self.core.serve([Service(channel, "push", runners) for channel, runners in services.items()])
        self.step()

    @staticmethod
    def wall_us(now: float) -> int:
        return START_US + int(now * 1e6)

    def open(self, floor_epoch: int = 0) -> int:
        assert self.store is not None
        store, noted = self.store, frozenset(self.store.noted)
        store.epoch = max(store.epoch, floor_epoch)
        epoch = store.open(self.wall_us(self.now) // 1_000)
        self.core.own(store.box, epoch, "tested", durable=store.durable, noted=noted, now=self.now)
        self.core.owner.offer(store.box, store.unread(1_000_000))
        self.step()
        return epoch

    def push(
        self,
        count: int = 1,
        *,
        size: int = 10,
        channel: str = CHANNEL,
        expires: int | None = None,
        key: bytes | None = None,
        sizes: list[int] | None = None,
        priority: int = 0,
    ) -> Segment:
        assert self.store is not None
        made = self.store.accept(channel, sizes or [size] * count, key, priority)
        made.expires = expires
        if key is None:
            self.core.owner.offer(self.store.box, [made])
        self.step()
        return made

    def step(self, seconds: float = 0.0, *, pause: bool = False) -> None:
        """Time goes by, tick by tick (or at once, as if this process had been stopped), and what follows is done."""
        until = self.now + seconds
        while True:
            self.now = until if pause else min(until, self.now + 0.01)
            if self.store is not None and not self.holds_commits:
                self._read_heads(self.store)
            self.core.wake(self.now)
            self.core.flush(self.now)
            self._perform()
            self.core.next_wake()
            if self.now >= until:
                return

    def _perform(self) -> None:
        while self.core.effects:
            for effect in self.core.effects.take():
                self.effects.append(effect)
                if isinstance(effect, Send):
                    self.puppets[effect.conn].hear(effect.data)
                elif isinstance(effect, Close):
                    self.puppets[effect.conn].closed = True
                elif isinstance(effect, Look):
                    whose = effect.instance
                    self.core.looked(whose, self.listings.get(whose), self.now, stirs=whose in self.stirring)
            self.tickets.extend(self.core.effects.take_tickets())
            if not self.holds_commits:
                self.commit()
            self.core.flush(self.now)

    def commit(self) -> None:
        assert self.store is not None or not self.tickets
        while self.tickets and self.store is not None:
            ticket = self.tickets.pop(0)
            self.store.apply(ticket.changes)
            self.core.committed(ticket.box, ticket.number)
            if ticket.marked:
                self.core.owner.offer(ticket.box, self.store.due_now(self.wall_us(self.now)))
            self._read_heads(self.store)

    def _read_heads(self, store: Store) -> None:
        self._read += store.heads(self.wall_us(self.now))
        if not self.holds_reads:
            self.offer()

    def offer(self) -> None:
        """What was read arrives."""
        read, self._read = self._read, []
        if self.store is not None and read:
            self.core.owner.offer(self.store.box, read)

    def effect(self, kind: type[Effect]) -> list[Effect]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def proofs(self) -> list[int]:
        return [effect.instance for effect in self.effects if isinstance(effect, Prove)]

    def peer(self, instance: int, **how: object) -> Puppet:
        """A peer with a session, all of whose outboxes have resumed."""
        puppet = Puppet(self, instance, **how)  # type: ignore[arg-type]
        puppet.greet()
        puppet.tell()
        return puppet

    # -- what its runners do -----------------------------------------------------------------------------------------

    def take(self, channel: str = CHANNEL, most: int = 1) -> Taken | None:
        return self.core.worker.desk.start(channel, most, self.now)

    def end(self, taken: Taken | None, ended: Ended | None = None) -> None:
        assert taken is not None
        self.core.finish([(taken, taken.start, taken.stop, ended)])
        self.step()


class Puppet:
    """A peer at the other end of one connection. It answers PING, and gives credit for a suspect where it was made to
    give any; nothing else by itself."""

    _conns = 0

    def __init__(
        self,
        stage: Stage,
        instance: int,
        *,
        channels: Iterable[str] = (),
        boxes: Iterable[Owned] = (),
        dials: bool = True,
        boot: str = "",
        message_bytes: int = 16 * 1024 * 1024,
        serial: int = 1,
        credit: int = 0,
        answers: bool = True,
        type: Description | None = None,
        name: str = "",
    ) -> None:
        Puppet._conns += 1
        self.conn = Puppet._conns
        self.stage = stage
        self.instance = instance
        self.channels = list(channels)
        self.boxes = list(boxes)
        self.hello = Hello(
            instance, name or f"peer{instance}", 1, boot, 1, instance, serial, (), Limits(message_bytes=message_bytes)
        )
        self.credit = credit
        self.answers = answers
        self.type = type  # of all its channels; None: it does not say
        self.heard: list[Frame] = []
        self.closed = False
        self._held = 0
        self._asides = 0  # CREDITs for suspects
        stage.puppets[self.conn] = self
        stage.core.opened(self.conn, stage.now, ours=not dials)
        stage.step()

    # -- speaking ----------------------------------------------------------------------------------------------------

    def say(self, *said: Frame) -> None:
        for frame in said:
            self.stage.core.receive(self.conn, frames.encode(frame), self.stage.now)
        self.stage.step()

    def greet(self) -> None:
        self.say(self.hello)

    def tell(self, *, draining: bool = False, obituaries: tuple[Obituary, ...] = ()) -> None:
        """STATE; then HELD for what the core owns, and credit."""
        name = fingerprint(self.type) if self.type is not None else b""
        served = tuple(Served(channel, fingerprint=name, lanes=LANES) for channel in self.channels)
        self.say(State(served, tuple(self.boxes), obituaries, draining))
        for box in self.boxes:
            self.answer(box.box)
        if self.channels and not draining and self.stage.store is not None and not self._held:
            self.held()
            if self.credit:
                self.grant(self.credit)

    def held(self, queued: tuple[Part, ...] = (), running: tuple[Part, ...] = ()) -> None:
        assert self.stage.store is not None
        self._held += 1
        self.say(Held(self.stage.store.box, self._held, queued, running, self.stage.store.epoch))

    def grant(self, limit: int, serial: int = 1, channel: str = CHANNEL) -> None:
        self.say(Credit(channel, 0, limit, serial))

    def answer(self, box: int = BOX, ranges: tuple[tuple[int, int, int], ...] = ()) -> None:
        """DROP in answer to the last HELD."""
        held = [frame for frame in self.heard if isinstance(frame, Held) and frame.box == box]
        if held and self.answers:
            self.say(Drop(box, held[-1].serial, ranges))

    def send(
        self,
        first: int = 1,
        count: int = 1,
        *,
        n: int = 1,
        epoch: int = 1,
        fence: int = 1,
        box: int = BOX,
        lane: int = 0,
        key: bytes | None = None,
        left_ms: dict[int, int] | None = None,
        accepted_at: int = 0,
    ) -> Part:
        made = segment(CHANNEL, epoch, first, [10] * count)
        body, ends, base = body_of(Slice(box, made, first, count))
        self.say(
            Batch(
                box=box, epoch=epoch, fence=fence, n=n, channel=CHANNEL, lane=lane, ranges=((first, count),),
                accepted_at=(accepted_at, accepted_at), sender="", failures={},
                keys={first: key} if key else {}, left_ms=left_ms or {}, traces={}, headers={}, base=base,
                ends=memoryview(ends), body=memoryview(body),
            )
        )  # fmt: skip
        return Part(epoch, first, count, fence, n)

    def describe(self) -> None:
        """Answers the last SCHEMA."""
        assert self.type is not None
        assert self.last(Schema) == Schema(fingerprint(self.type))
        self.say(Schema(fingerprint(self.type), packed(self.type)))

    def want(self, waiting: int, *, sent: int, seen: int) -> None:
        self.say(Want(CHANNEL, 0, sent, seen, waiting))

    def lose(self) -> None:
        self.stage.core.lost(self.conn, self.stage.now, "cut")
        self.stage.step()

    # -- hearing -----------------------------------------------------------------------------------------------------

    def hear(self, data: bytes) -> None:
        frame = frames.decode_first(data) if data.startswith(frames.MAGIC) else frames.decode(data)
        self.heard.append(frame)
        if isinstance(frame, Want) and frame.lane and frame.waiting and self.credit and self.answers:
            self._asides += 1
            credit = Credit(frame.channel, frame.lane, frame.sent + 1, self._asides)
            self.stage.core.receive(self.conn, frames.encode(credit), self.stage.now)
        if isinstance(frame, Ping) and self.answers and not self.closed:
            self.stage.core.receive(self.conn, frames.encode(Pong(frame.serial)), self.stage.now)

    def all(self, kind: type[F]) -> list[F]:
        return [frame for frame in self.heard if isinstance(frame, kind)]

    def last(self, kind: type[F]) -> F:
        found = self.all(kind)
        assert found, f"no {kind.__name__} was heard, but {[type(frame).__name__ for frame in self.heard]}"
        return found[-1]

    def forget(self) -> None:
        """Only what comes from now on."""
        self.heard.clear()
