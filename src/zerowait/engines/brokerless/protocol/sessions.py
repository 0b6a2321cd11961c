"""Connections: HELLO, which of two between the same processes stays, and how one ends.

Who dials says HELLO first; who is dialled says its own only to a HELLO that it accepts, and STATE after it. So when a
STATE has come, both ends have accepted this connection, and only then may it take the place of another. Both ends
choose by the same rule (§1.4) among connections that both have accepted, whatever the order in which frames of
different connections arrive: exactly one stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.config import Config, Identity
from zerowait.engines.brokerless.protocol.due import Due
from zerowait.engines.brokerless.protocol.effects import Effects, Met, Say
from zerowait.engines.brokerless.protocol.frames import Goodbye, Hello, Limits, Ping, ProtocolError, State
from zerowait.engines.brokerless.protocol.link import Link, LinkPhase
from zerowait.engines.brokerless.protocol.owner.owner import Owner
from zerowait.engines.brokerless.protocol.peers import LOOK_AGAIN, Peers, look_again
from zerowait.engines.brokerless.protocol.publisher.publisher import Publisher
from zerowait.engines.brokerless.protocol.subscriber.subscriber import Subscriber
from zerowait.engines.brokerless.protocol.worker.worker import Worker


class Sessions:
    def __init__(
        self,
        me: Identity,
        config: Config,
        effects: Effects,
        peers: Peers,
        owner: Owner,
        worker: Worker,
        publisher: Publisher,
        subscriber: Subscriber,
    ) -> None:
        self._me = me
        self._config = config
        self._effects = effects
        self._peers = peers
        self._owner = owner
        self._worker = worker
        self._publisher = publisher
        self._subscriber = subscriber
        self.links: dict[int, Link] = {}
        self.changed = False  # there may be an earlier time to wake than was reckoned last
        self._serial = 0
        self._pings = 0
        self._ping = Due()
        self._deaf = Due()  # when who was asked may owe an answer for too long

    # -- beginning -------------------------------------------------------------------------------------------------

    def become(self, me: Identity) -> None:
        self._me = me

    def opened(self, conn: int, now: float, *, ours: bool, side: str) -> None:
        link = self.links[conn] = Link(conn, ours=ours, side=side, now=now)
        self._effects.live.add(conn)
        self._ping.set(conn, now + self._config.handshake)
        self.changed = True
        if ours:
            self._hello(link)

    def _hello(self, link: Link) -> None:
        self._serial += 1
        link.serial = self._serial
        me = self._me
        limits = Limits(message_bytes=self._config.message_bytes)
        hello = Hello(me.instance, me.name, me.pid, me.boot, me.device, me.inode, link.serial, (), limits)
        self._effects.send(link.conn, hello)

    def greet(self, link: Link, hello: Hello, state: Callable[[str], State], now: float) -> None:
        """Their HELLO. Raises ProtocolError where it is refused."""
        self._check(link, hello)
        self._peers.accepted(hello)
        link.hello = hello
        link.phase = LinkPhase.GREETED
        self.changed = True
        if not link.ours:
            self._hello(link)
        self._effects.add(Met(link.conn, hello.instance))
        self._effects.send(link.conn, state(link.side))
        self.ping(link, now)
        self._deaf.set(link.conn, now + self._config.stuck)

    def _check(self, link: Link, hello: Hello) -> None:
        if link.side != "both":
            return
        if hello.instance == self._me.instance:
            raise ProtocolError(frames.DUPLICATE, "this address leads to this very process")
        if self._peers.is_dead(hello.instance):
            words = f"instance {hello.instance:016x} was proved dead: it must come back as a new one"
            raise ProtocolError(frames.BURIED, words)
        if self._peers.is_stale(hello):
            raise ProtocolError(frames.STALE, "a newer connection of the same process is here already")

    def begin(self, link: Link, state: State, now: float) -> bool:
        """Their first STATE: the session begins on this link, unless another one between the same two processes
        stays."""
        assert link.hello is not None
        peer = self._peers.get(link.instance) if link.side == "both" else None
        known = peer.link if peer is not None else None
        if known is not None and self._stays(known, link):
            self.end(link, frames.DUPLICATE, "another connection between us stays", now)
            return False
        link.begun = True
        self.changed = True
        if link.side != "worker":
            met = self._peers.meet(link.hello, link, now)
            serves = tuple(served.channel for served in state.channels)
            self._effects.add(Say("met", "", met.instance, channels=serves))
        if known is not None:
            self.end(known, frames.DUPLICATE, "a later connection between us stays", now)
        self._owner.opened(link)
        self._worker.opened(link)
        return True

    def _stays(self, known: Link, link: Link) -> bool:
        """Which of two: that dialled by the smaller instance id; of two from one dialler the later (rules §1.4)."""
        mine, theirs = self._me.instance, link.instance
        dialler_known = mine if known.ours else theirs
        dialler = mine if link.ours else theirs
        if dialler != dialler_known:
            return dialler_known < dialler
        return known.dialled_serial() > link.dialled_serial()

    # -- ending ----------------------------------------------------------------------------------------------------

    def end(
        self, link: Link, code: int, words: str, now: float, *, missed: Mapping[int, int] | None = None, why: str = ""
    ) -> None:
        """Says goodbye on it and gives it up. missed: of each of its subscriptions, how many events it is not sent.
        why: for people here, if not the words that the other one is told."""
        self._effects.send(link.conn, Goodbye(code, words, missed=missed))
        self.close(link, why or words, now)

    def close(self, link: Link, words: str, now: float) -> None:
        self._effects.close(link.conn, words)
        self.lost(link.conn, now, words)

    def lost(self, conn: int, now: float, words: str) -> None:
        """A connection is over."""
        self._effects.live.discard(conn)
        self._ping.discard(conn)
        self._deaf.discard(conn)
        link = self.links.pop(conn, None)
        if link is None:
            return
        link.phase = LinkPhase.LOST
        self.changed = True
        if not link.begun:
            return
        self._owner.closed(link)
        self._worker.closed(link, now)
        self._publisher.closed(link, now)
        self._subscriber.closed(link)
        peer = self._peers.get(link.instance)
        if peer is not None and peer.link is link:
            self._peers.lost(peer, now)
            self._effects.add(Say("lost", words, peer.instance))

    def of(self, instance: int) -> list[Link]:
        """All connections with that process, also those that are not its session."""
        return [link for link in self.links.values() if link.hello is not None and link.hello.instance == instance]

    # -- time ------------------------------------------------------------------------------------------------------

    def tick(self, now: float, heard: float) -> list[Link]:
        """Pings; gives those links whose handshake takes too long. heard: what had come by then was read."""
        late: list[Link] = []
        for conn in self._ping.take(now):
            link = self.links[conn]
            if link.phase is not LinkPhase.READY and heard >= link.opened_at + self._config.handshake:
                late.append(link)
                self._ping.set(conn, now + LOOK_AGAIN)
            elif heard < now and link.unanswered_since() is not None:
                # One more answer to read would make it no sooner. What was taken is told all the same.
                self._subscriber.beat(link)
                self._ping.set(conn, now + self._config.ping)
            else:
                self.ping(link, now)
        return late

    def ping(self, link: Link, now: float) -> None:
        self._pings += 1
        link.ping(self._pings, now)
        self._effects.send(link.conn, Ping(self._pings))
        self._subscriber.beat(link)
        self._ping.set(link.conn, now + self._config.ping)

    def deaf(self, now: float, heard: float) -> list[Link]:
        """Those whose transport lives while no PONG comes. heard: what had come by then was read, of each at least the
        first. So who says more than is read at once is not deaf while that lasts: his PONG may lie behind it."""
        found: list[Link] = []
        for conn in self._deaf.take(now):
            link = self.links[conn]
            peer = self._peers.get(link.instance)
            since = link.unanswered_since()
            at = (now if since is None else since) + self._config.stuck
            if peer is not None and peer.stuck_since is not None:
                at = now + self._config.stuck  # that has been said; once it answers it owes nothing for so long
            elif at <= heard and (heard == now or peer is None or peer.heard_at <= at - self._config.stuck):
                found.append(link)
            self._deaf.set(conn, look_again(at, now))
        return found

    def wake(self) -> float:
        return min(self._ping.next(), self._deaf.next())
