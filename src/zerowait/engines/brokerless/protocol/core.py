"""A process's protocol: everything that is decided about links, our messages and others' messages.

Pure: frames and the time go in; frames, commits, notices and the time of the next wake-up come out (`effects`). No
sockets, threads, clocks or randomness, so that one seed can replay a whole cluster's bad day. Call `flush` after each
round of inputs: what several frames lead to leaves together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from math import inf

from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.config import Config, Identity
from zerowait.engines.brokerless.protocol.effects import WE_LEAVE, Asked, Effects, Look, Prove, Say
from zerowait.engines.brokerless.protocol.frames import (
    Fragment,
    Frame,
    Goodbye,
    Obituary,
    Owned,
    Ping,
    Pong,
    ProtocolError,
    Served,
    State,
)
from zerowait.engines.brokerless.protocol.link import Link, LinkPhase
from zerowait.engines.brokerless.protocol.owner.owner import Owner
from zerowait.engines.brokerless.protocol.peers import Peer, Peers
from zerowait.engines.brokerless.protocol.publisher.publisher import Publisher
from zerowait.engines.brokerless.protocol.sessions import Sessions
from zerowait.engines.brokerless.protocol.subscriber.subscriber import Subscriber
from zerowait.engines.brokerless.protocol.tables import is_expected
from zerowait.engines.brokerless.protocol.worker.streams import Outflow
from zerowait.engines.brokerless.protocol.worker.unbegun import Listing
from zerowait.engines.brokerless.protocol.worker.worker import Finished, Worker
from zerowait.message import Kept, Service

OBITUARIES = 8
UNREAD_MOST = 10.0  # seconds for which who is late is not judged because words lie unread
PAUSE = 0.5  # woken so much later than asked for: this process stood still
FRAGMENT_SLACK_BYTES = 64 * 1024  # what surrounds the largest message in its frame


class Core:
    def __init__(
        self,
        me: Identity,
        config: Config,
        *,
        lock: AbstractContextManager[object],
        wall_us: Callable[[float], int],
        has_unread: Callable[[int], bool] = lambda conn: False,
    ) -> None:
        self.me = me
        self.config = config
        self.effects = Effects()
        self.peers = Peers(me.boot, config)
        self.owner = Owner(self.effects, self.peers, config, wall_us)
        self.worker = Worker(self.effects, config, lock)
        self.publisher = Publisher(me.instance, self.effects, config)
        self.subscriber = Subscriber(self.effects)
        self.sessions = Sessions(
            me, config, self.effects, self.peers, self.owner, self.worker, self.publisher, self.subscriber
        )
        self.read_until = inf  # what had come by then was read: set while the shell is behind with reading
        self._has_unread = has_unread
        self.still_ms = 0  # how long the handlers' loop has not turned, as the shell saw it last
        self.obituaries: list[
            Obituary
        ] = []  # the last eight: at a clean exit the next process of this name is given them
        self._due: float | None = None  # when `wake` was to be called
        self._calm_until = 0.0  # before that no timer of a peer or link can fire
        self._tick_at = 0.0
        self._draining = False

    def become(self, me: Identity) -> None:
        """The lock file of this life is another now: what is said from here on names that one."""
        self.me = me
        self.sessions.become(me)

    @property
    def links(self) -> dict[int, Link]:
        return self.sessions.links

    # -- what this process is ----------------------------------------------------------------------------------------

    def own(
        self,
        box: int,
        epoch: int,
        name: str,
        *,
        durable: bool,
        noted: Iterable[int],
        now: float,
        kept: Iterable[Kept] = (),
        is_asked: bool = False,
    ) -> None:
        """This process has opened that outbox, with this epoch; perhaps again. kept: outcomes that an earlier life has
        left in it; not to be given once more when it is opened again. is_asked: it holds requests (§9)."""
        self.owner.own(box, epoch, name, durable=durable, noted=noted, now=now, is_asked=is_asked)
        self.worker.own(box, kept, now)
        self._tell_state()

    def left(self, box: int, channel: str, descriptions: Iterable[bytes], *, adopted: bool) -> None:
        """To be said before `own`: this outbox holds messages of these types, which an earlier life of this process has
        left, or another process (adopted)."""
        self.owner.sender.left(box, channel, descriptions, adopted=adopted)

    def disown(self, box: int) -> None:
        self.owner.disown(box)
        self.worker.disown(box)
        self.owner.sender.forget(box)
        self._tell_state()

    def keep_in(self, box: int) -> None:
        """Outcomes that are kept lie in that outbox of ours, on disk."""
        self.worker.claims.home = box

    def bound(self, pressure: int) -> None:
        """How full the outboxes are in which what handlers send is to lie (`Intake.pressure`)."""
        self.worker.bound(pressure)

    def committed(self, box: int, number: int) -> None:
        """All up to that ticket of this outbox is durable: what waited for it leaves."""
        for ticket in self.effects.committed(box, number):
            self.owner.committed(ticket)
            self.worker.claims.committed(ticket)

    def serve(self, services: Sequence[Service]) -> None:
        """All that this process serves from now on; the channels that are not among it are served no more."""
        self.worker.serve(services)
        self._tell_state()
        self.worker.unserve()

    def declare(
        self, channel: str, description: bytes, waiting: Callable[[], Collection[str]] = frozenset
    ) -> list[str]:
        """This process sends messages of this type (`contract.packed`) to that channel: a worker that expects another
        gets none of them. To be said before the first of them is offered. Gives the channels that are forgotten;
        waiting: those of which something is not settled, wherever it lies."""
        return self.owner.sender.declare(channel, description, waiting)

    def announce_topic(self, pattern: str, fingerprint: bytes, description: bytes, history: int) -> bool:
        """This process publishes to that topic, or to those of that pattern. False: that was known."""
        is_new = self.publisher.declare(pattern, fingerprint, description, history)
        if is_new:
            self._tell_state()
        return is_new

    def _state(self, side: str) -> State:
        channels = tuple(
            Served(s.channel, s.kind, s.idempotent, s.fingerprint, lanes=frames.LANES, concurrency=s.concurrency)
            for s in self.worker.services.values()
        )
        boxes = tuple(Owned(c.box, c.epoch, c.name, c.durable) for c in self.owner.custody.values())
        return State(
            channels=(*(() if side == "owner" else channels), *(() if side == "worker" else self.publisher.served())),
            boxes=() if side == "worker" else boxes,
            obituaries=tuple(self.obituaries),
            draining=self._draining,
        )

    def _tell_state(self) -> None:
        for link in self.links.values():
            if link.phase in (LinkPhase.GREETED, LinkPhase.READY):
                self.effects.send(link.conn, self._state(link.side))

    # -- connections -------------------------------------------------------------------------------------------------

    def opened(self, conn: int, now: float, *, ours: bool, side: str = "both") -> None:
        """A connection is there; `ours`: we dialled it, and HELLO is the first thing said on it."""
        self.sessions.opened(conn, now, ours=ours, side=side)

    def lost(self, conn: int, now: float, words: str = "") -> None:
        """A connection is over."""
        self.sessions.lost(conn, now, words)

    def receive(self, conn: int, data: bytes | memoryview, now: float) -> None:
        """A frame has arrived. A wrong one ends the link with a code; it never raises and never stops the process."""
        link = self.links.get(conn)
        if link is None:
            return  # of a connection that was given up: what it says does not count any more
        self.effects.now = now
        try:
            if link.hello is None:
                self._first(link, frames.decode_first(data), now)
            else:
                self._hear(link, frames.decode(data), now)
        except ProtocolError as error:
            self._refuse(link, error.code, error.words, now)

    def _refuse(self, link: Link, code: int, words: str, now: float) -> None:
        if code not in (frames.DUPLICATE, frames.STALE):  # those happen to everybody who dials both ways
            instance = link.hello.instance if link.hello is not None else 0
            self.effects.add(Say("refused", words, instance, conn=link.conn))
        self.sessions.end(link, code, words, now)

    def _first(self, link: Link, frame: frames.Hello | Goodbye, now: float) -> None:
        if isinstance(frame, frames.Hello):
            self.sessions.greet(link, frame, self._state, now)
            return
        if frame.code not in (frames.DUPLICATE, frames.STALE):
            self.effects.add(Say("refused by", frame.words, conn=link.conn))
        self.sessions.close(link, frame.words, now)

    def _hear(self, link: Link, frame: Frame, now: float) -> None:
        if not is_expected(link.phase, frame):
            words = f"a {type(frame).__name__} has no place on a link that is {link.phase.value}"
            raise ProtocolError(frames.UNEXPECTED, words)
        peer = self.peers.get(link.instance)
        if peer is not None:
            peer.heard_at = now
        match frame:
            case frames.Credit(number=number) if number:
                self.worker.feed(link, frame)
            case frames.Credit() | frames.Outcome() | frames.Chunk() | frames.Held():
                self.owner.receive(link, frame, now)
            case frames.Batch() | frames.Confirm() | frames.Drop() | frames.Want():
                self.worker.receive(link, frame, now)
            case frames.Events() | frames.Event() | frames.Subscribed():
                self.subscriber.receive(link, frame)
            case frames.Subscribe() | frames.Room():
                if link.side != "worker":
                    self.publisher.receive(link, frame, now)
            case State():
                self._state_of(link, frame, now)
            case Ping():
                self.effects.send(link.conn, Pong(frame.serial, self.still_ms))
            case Pong():
                self._pong(link, peer, frame, now)
            case Fragment():
                self._fragment(link, frame, now)
            case Goodbye():
                self._goodbye(link, frame, now)
            case frames.Schema():
                self._schema(link, frame)
            case frames.Control(answers=False):
                self.effects.add(Asked(link.conn, frame.serial, frame.body))
            case _:
                # of a pattern that this version does not serve: it was never announced, nobody waits for an answer
                pass

    def _fragment(self, link: Link, frame: Fragment, now: float) -> None:
        whole = link.whole(frame, self.config.message_bytes + FRAGMENT_SLACK_BYTES)
        if whole is None:
            return
        inner = frames.decode(bytes(whole))
        if isinstance(inner, Fragment):
            raise ProtocolError(frames.UNEXPECTED, "a FRAGMENT of a FRAGMENT")
        self._hear(link, inner, now)

    def _state_of(self, link: Link, state: State, now: float) -> None:
        frames.check_obituaries(state.obituaries)
        frames.check_boxes(state.boxes)
        if link.phase is LinkPhase.GREETED and not self.sessions.begin(link, state, now):
            return
        served, boxes = list(link.served), list(link.boxes.values())
        link.state(state)
        self.owner.served(link, served)
        self.worker.announced(link, boxes, now)
        if link.side != "owner":
            self.subscriber.announced(link)
        for obituary in state.obituaries:
            self.buried(obituary.instance, now, obituary)
        # It may be lost again before anybody looks: what it serves is said here.
        pulls = tuple(name for name, served in link.served.items() if served.kind == "push")
        self.effects.add(Say("state", "", link.instance, channels=pulls))

    def _schema(self, link: Link, schema: frames.Schema) -> None:
        if schema.description:
            self.owner.sender.described(link, schema)
            self.subscriber.described(link, schema)
            self.effects.add(Say("state", "", link.instance))
            return
        described = self.worker.description(schema.fingerprint) or self.publisher.description(schema.fingerprint)
        if described is not None:
            self.effects.send(link.conn, frames.Schema(schema.fingerprint, described))
        # Else it is served no more: the STATE that says so is on its way.

    def _pong(self, link: Link, peer: Peer | None, pong: Pong, now: float) -> None:
        if not link.is_round:  # now its subscriptions are known
            self.effects.add(Say("state", "", link.instance))
        sent = link.answered(pong.serial)
        if sent is not None:
            self.worker.renew(link, sent + self.config.resume_grace, now)
        if peer is None or peer.link is not link:
            return
        if pong.still_ms >= self.config.stuck * 1_000:
            seconds = pong.still_ms / 1_000
            self._stuck(peer, now, seconds, f"its handlers' loop has not turned for {seconds:.1f} s")
        elif peer.stuck_since is not None:
            peer.stuck_since = None
            self.owner.unstuck(link)
            self.effects.add(Say("unstuck", "it answers again, and its handlers' loop turns", peer.instance))

    def _stuck(self, peer: Peer, now: float, seconds: float, why: str) -> None:
        """No new work; what it runs is never given to another while it lives (rules §4.3)."""
        if peer.stuck_since is None:
            peer.stuck_since = now - seconds
            words = f"{why}: it gets no new work until it does"
            self.effects.add(Say("stuck", words, peer.instance, seconds=seconds))

    def _goodbye(self, link: Link, frame: Goodbye, now: float) -> None:
        if frame.code == frames.FENCED:
            self.owner.fenced(link, frame.box, frame.fence, frame.words, now)
            return
        instance, boxes = link.instance, list(link.boxes.values())
        if frame.code not in (0, frames.LEAVING, frames.DUPLICATE, frames.STALE):
            self.effects.add(Say("refused by", frame.words, instance))
        frames.check_goodbye(frame)
        if frame.code == 0 or (frame.code == frames.LEAVING and frame.missed is not None):
            self.subscriber.left(link, frame.missed or {})
        self.sessions.close(link, frame.words or "it left", now)
        if frame.code in (0, frames.LEAVING):  # it says itself that it is over: nothing runs there any more
            peer = self.peers.get(instance)
            if peer is not None and peer.link is None:
                self.peers.forget(peer)
                returned = self.owner.gone(instance)
                self.worker.owner_gone(boxes, now, final=frame.code == 0)
                self._no_more(instance, peer.hello.name)
                self.effects.add(Say("left", frame.words, instance, messages=returned))

    def answer(self, conn: int, serial: int, body: bytes) -> None:
        """What the command line asked is answered."""
        self.effects.send(conn, frames.Control(serial, True, body))

    # -- life and death ----------------------------------------------------------------------------------------------

    def buried(self, instance: int, now: float, obituary: Obituary | None = None, name: str = "") -> None:
        """Proved dead (rules §4.1): what it held is redelivered at once. obituary: how it ended and what ran there, as
        far as that is known; to be said again when more is. name: of one that was never met here, if it is known."""
        if instance == self.me.instance:
            return
        if self.peers.is_dead(instance):
            if obituary is not None:
                self.owner.trial.learned(obituary, name)
            return
        for link in self.sessions.of(instance):
            self.sessions.end(link, frames.BURIED, "proved dead", now)
        peer = self.peers.bury(instance)
        name = peer.hello.name if peer is not None else name
        is_death = peer is None or not peer.draining
        returned = self.owner.gone(instance, is_dead=True, is_death=is_death, name=name, obituary=obituary)
        if peer is not None:
            self.worker.owner_gone(peer.boxes, now)
            self._no_more(instance, peer.hello.name)
        if peer is not None or returned:  # of others an obituary is only handed on
            self.effects.add(Say("dead", "", instance, messages=returned))

    def looked(self, instance: int, listing: Listing | None, now: float, *, stirs: bool = False) -> None:
        """The answer to `Look`. listing: what has not begun there, read now: its process lives and is not stopped, but
        none of its lines has run since it was lost (rules §4.3). None: it is not so; stirs: but it was until a moment
        ago, so that it may be about to come back."""
        peer = self.peers.get(instance)
        if peer is None or not self.peers.is_away(peer):
            return
        if listing is not None:
            self._held(peer, listing, now)
        elif peer.is_held or (stirs and not peer.patient_until):
            peer.is_held = False
            self.peers.wait_for(peer, now + self.config.resume_grace)
        else:
            self._gone(peer, now)
        self.sessions.changed = True

    def _held(self, peer: Peer, listing: Listing, now: float) -> None:
        """What it has not begun others get now: the permission to begin it has lapsed, as for any who is lost so long.
        What it has begun stays with it until it is back, or its death is proved."""
        returned = self.owner.take_back(peer.instance, listing)
        if not peer.is_held:
            peer.is_held = True
            self._over(peer, now)
            seconds = now - peer.heard_at
            words = (
                f"its process lives, and has not run a line of Python for {seconds:.1f} s: what it has begun stays "
                "with it, and what it has not is given to others"
            )
            self.effects.add(Say("stuck", words, peer.instance, messages=returned, seconds=seconds))
        self.peers.wait_for(peer, now + self.config.ping)

    def _gone(self, peer: Peer, now: float) -> None:
        self.peers.forget(peer)
        is_death = self.peers.seems_dead(peer)
        returned = self.owner.gone(peer.instance, is_death=is_death, name=peer.hello.name)
        self._over(peer, now)
        words = f"not back within {self.config.resume_grace:g} s"
        self.effects.add(Say("gone", words, peer.instance, messages=returned))

    def _over(self, peer: Peer, now: float) -> None:
        """Its grace is: nothing here waits for it any more but what it has begun."""
        self.worker.owner_gone(peer.boxes, now)
        self._no_more(peer.instance, peer.hello.name)

    def inherit(self, obituaries: Sequence[Obituary]) -> None:
        """How earlier lives of this process ended: everybody who is met is told."""
        self.obituaries = [*obituaries, *self.obituaries][-OBITUARIES:]

    def _no_more(self, instance: int, name: str) -> None:
        """For topics: it publishes and hears nothing any more."""
        self.publisher.gone(instance)
        self.subscriber.gone(instance, name)

    def obituary(self, obituary: Obituary, now: float) -> None:
        """To be told to everybody: that instance has ended."""
        others = [known for known in self.obituaries if known.instance != obituary.instance]
        self.obituaries = [*others, obituary][-OBITUARIES:]
        self.buried(obituary.instance, now, obituary)
        self._tell_state()

    # -- time --------------------------------------------------------------------------------------------------------

    def wake(self, now: float) -> None:
        """Timers. The shell reads what has arrived before it calls this (rules §3.5)."""
        self.effects.now = now
        self.publisher.resume()
        if self._due is not None and now >= self._due + PAUSE:
            self.peers.paused(now - self._due, now)
        self._due = None
        if self.sessions.changed or now >= self._calm_until:
            self._timers(now)
        if now >= self._tick_at:
            self._tick_at = now + self.config.tick
            self.owner.tick(now)
            self.worker.tick(now, stands=self.still_ms >= self.config.stuck * 1_000)

    def _timers(self, now: float) -> None:
        # Nobody is late whose words may lie unread.
        heard = min(now, self.read_until)
        for link in self._read([peer.link for peer in self.peers.silent(now, heard)], now):
            if link.instance != self.me.instance:
                self.sessions.close(link, f"nothing heard for {self.config.silence:g} s", now)
        for peer in self.peers.over(now, heard):
            if self.peers.is_local(peer):
                self.effects.add(Look(peer.instance))  # `looked` follows
            else:
                self._gone(peer, now)
        for peer in self.peers.proofs_wanted(now):
            self.effects.add(Prove(peer.instance, peer.hello.boot, peer.hello.device, peer.hello.inode))
        for link in self._read(self.sessions.tick(now, heard), now):
            self._refuse(link, frames.SILENT, f"no HELLO and STATE within {self.config.handshake:g} s", now)
        for link in self._read(self.sessions.deaf(now, heard), now):
            deaf = self.peers.get(link.instance)
            if deaf is not None and deaf.link is link:
                self._stuck(deaf, now, self.config.stuck, f"it has not answered for {self.config.stuck:g} s")
        self.publisher.tick(now)
        self._calm_until = self._calm()
        self.sessions.changed = False

    def _read(self, links: Sequence[Link | None], now: float) -> list[Link]:
        """These, unless one of them has said something that was not even taken off the network: then the thread that
        does that is behind, and what the others have said may have been taken off just now. All are looked at again;
        not for ever, or one that says a byte now and then would keep itself and all others."""
        there = [link for link in links if link is not None]
        if not any(self._has_unread(link.conn) for link in there):
            return there
        return [link for link in there if link.put_off(now) >= UNREAD_MOST]

    def _calm(self) -> float:
        """When a timer of a peer or link fires next; infinity: none is set."""
        return min(self.peers.wake(), self.sessions.wake(), self.publisher.wake())

    def next_wake(self) -> float | None:
        """When `wake` wants to be called next, whatever happens meanwhile."""
        if self.sessions.changed:
            self._calm_until = min(self._calm_until, self._calm())
        due = min(self._calm_until, self.owner.wake(), self.effects.wake())
        if self.publisher.is_behind:
            due = min(due, self.effects.now)
        if self._tick_at < due:
            due = min(due, self._tick_due())
        self._due = due if due < inf else None
        return self._due

    def _tick_due(self) -> float:
        """What is done at a tick is due at the next one. Asked for earlier it would be asked for again and again."""
        if self.worker.is_active():
            return self._tick_at
        return max(min(self.owner.next_tick(), self.worker.wake()), self._tick_at)

    # -- work --------------------------------------------------------------------------------------------------------

    def finish(self, finished: Iterable[Finished]) -> None:
        self.worker.finish(finished)

    def flow(self, outflows: Iterable[Outflow]) -> None:
        """Handlers have given items of these streams."""
        self.worker.flow(outflows)

    def flush(self, now: float) -> None:
        """What follows from all that came in since the last flush."""
        self.effects.now = now
        self.owner.send(now)
        self.worker.share(now)
        self.publisher.flush()

    # -- leaving -----------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Says to everybody that no more work is wanted, and hands back what has not begun."""
        if not self._draining:
            self._draining = True
            self.effects.hurry()
            self._tell_state()
            self.worker.leave()

    def is_drained(self) -> bool:
        return self._draining and self.worker.is_done()

    def farewell(self, now: float, *, final: bool) -> None:
        """The last word on each link, with what its subscriptions are not sent any more. `final`: nothing of its own is
        left in an outbox; else it only says that it is over."""
        self.effects.hurry()
        self.publisher.flush(is_last=True)
        code, words = (0, "") if final else (frames.LEAVING, "it had to leave")
        for link in list(self.links.values()):
            if link.hello is not None and link.side == "both":
                missed = self.publisher.part(link.conn)
                self.sessions.end(link, code, words, now, missed=missed, why=WE_LEAVE)
