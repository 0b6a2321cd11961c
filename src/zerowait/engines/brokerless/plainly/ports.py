"""Bare ZeroMQ sockets: programs that know nothing of zerowait, in any language. ZeroMQ's guarantees hold there, not
ours.

What is pushed to one waits in memory, bounded, until the socket takes it; that is all its receipt can say. What one
sends is accepted into this process's own outbox and handled from there, so retries and dead letters work as always. A
frame that cannot be read, or a message of several, is counted and named in the log; the service goes on. Requests, both
ways, and events have rooms of their own beside this one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from zerowait.engines.brokerless.plainly.events import Publishing, Subscribing
from zerowait.engines.brokerless.plainly.port import Around, Port
from zerowait.engines.brokerless.plainly.pushes import PullPort, PushPort
from zerowait.engines.brokerless.plainly.replies import ReplyPort
from zerowait.engines.brokerless.plainly.requests import PlainRequests
from zerowait.engines.brokerless.protocol.subscriber.inbox import Inbox
from zerowait.engines.brokerless.wire import PlainDialled, PlainHeard, PlainJoined, PlainParted, Wire
from zerowait.outbox.intake import Intake
from zerowait.plain import Plain
from zerowait.requests.box import Requests
from zerowait.requests.bundle import Bundle
from zerowait.topics.bundle import Press


class PlainPorts:
    """message_bytes: of the largest message that is received; a peer that sends a larger frame is disconnected.

    refused: told, where the log is, of what a bare sender sent and nobody can read: from where, and why.

    Driven by the network thread. What adds to it, and what looks, may be called by any.
    """

    def __init__(
        self,
        message_bytes: int = 16 << 20,
        *,
        refused: Callable[[str, str], None] = lambda peer, reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._around = around = Around(message_bytes, refused, clock)
        self._lock = threading.Lock()
        self._ports: dict[tuple[str, str], Port] = {}  # kind and channel
        self._pushes: dict[str, PushPort] = {}
        self._replies: list[ReplyPort] = []
        self._publishing = Publishing(around)
        self._subscribing = Subscribing(around)
        self._requests: PlainRequests | None = None
        self._turns: tuple[Callable[[Wire], float | None], ...] = ()
        self._wire: Wire | None = None

    # -- what there is -------------------------------------------------------------------------------------------------

    def push_to(self, channel: str, plain: Plain, intake: Intake) -> None:
        with self._lock:
            if channel not in self._pushes:
                port = PushPort(channel, plain, self._around, intake)
                self._pushes = {**self._pushes, channel: port}
                self._add(port)

    def pull_from(
        self, channel: str, plain: Plain, decode: Callable[[bytes], bytes], accept: Callable[[bytes], None]
    ) -> None:
        """accept: takes a payload into our outbox; raises NotAccepted while that is full."""
        with self._lock:
            self._add(PullPort(channel, plain, self._around, decode, accept))

    def reply_to(
        self,
        channel: str,
        plain: Plain,
        decode: Callable[[bytes], bytes],
        ask: Callable[[bytes], tuple[Bundle, int]],
        encode: Callable[[Any], bytes],
    ) -> None:
        """ask: of this process, a payload; raises NotAccepted while there is no room. encode: the answer to a frame."""
        with self._lock:
            port = ReplyPort(channel, plain, self._around, decode=decode, ask=ask, encode=encode)
            self._replies = [*self._replies, port]
            self._add(port)

    def asks(self, requests: Requests, no_responder: float) -> PlainRequests:
        """From here on what gathers there is asked of bare peers."""
        with self._lock:
            self._requests = asks = PlainRequests(requests, self._around, no_responder)
            self._turns = (*self._turns, asks.turn)
            return asks

    def publish_to(self, topic: str, plain: Plain, press: Press) -> None:
        self._publishing.add(topic, plain, press)
        self._drive(self._publishing.turn)

    def subscribe(
        self, id: int, pattern: str, plain: Plain, decode: Callable[[bytes], bytes], inbox: Inbox, most: int
    ) -> None:
        """most: events that may wait to be looked at."""
        self._subscribing.add(id, pattern, plain, decode, inbox, most)
        self._drive(self._subscribing.turn)

    def unsubscribe(self, id: int) -> bool:
        """Whether it was one of these."""
        return self._subscribing.remove(id)

    def _add(self, port: Port) -> None:
        if (port.kind, port.channel) not in self._ports:
            self._ports = {**self._ports, (port.kind, port.channel): port}
            self._turns = (*self._turns, port.turn)

    def _drive(self, turn: Callable[[Wire], float | None]) -> None:
        with self._lock:
            if turn not in self._turns:
                self._turns = (*self._turns, turn)

    # -- the network thread --------------------------------------------------------------------------------------------

    def open(self, wire: Wire) -> None:
        self._wire = wire

    def turn(self) -> float | None:
        """Sends what waits, takes up what was held back. Gives in how many seconds there is something to try again.

        A socket that cannot be opened, or fails, is tried again in a second; the others go on.
        """
        wire = self._wire
        if wire is None or not self._turns:
            return None
        waits = [wait for turn in self._turns if (wait := turn(wire)) is not None]
        cut = self._around.cut
        waits += [wait for socket in list(cut) if (wait := cut[socket].redial(wire)) is not None]
        return min(waits, default=None)

    def heard(self, event: PlainHeard | PlainJoined | PlainParted | PlainDialled) -> None:
        port = self._around.by_socket.get(event.plain)
        if port is None:
            return
        if isinstance(event, PlainHeard):
            port.heard(event)
        elif isinstance(event, PlainDialled):
            port.dialled(event)
        else:
            port.watched(event)

    def has_work(self) -> bool:
        """Whether the next turn is due at once."""
        return self._publishing.has_work() or any(port.has_work() for port in self._replies)

    def has_kept(self) -> bool:
        """Whether answers wait for bare peers that have no room for them yet."""
        return any(port.has_kept() for port in self._replies)

    def drain(self) -> None:
        """Work is not taken up any more, and waits with who sends it."""
        self._around.draining = True

    def leave(self) -> None:
        """The last turn is over: bare peers that wait for an answer get an empty one."""
        if self._wire is not None:
            for port in self._replies:
                port.leave(self._wire)

    # -- looking, any thread -------------------------------------------------------------------------------------------

    def refused(self) -> dict[str, int]:
        found = self._subscribing.refused()
        for port in self._ports.values():
            if port.kind in ("pull", "router"):
                found[port.channel] = found.get(port.channel, 0) + port.refused
        return found

    def left(self) -> dict[str, int]:
        """Messages that no bare socket has taken yet, by channel, each counted once. Any thread."""
        return {channel: port.left() for channel, port in self._pushes.items()}

    def is_empty(self) -> bool:
        """Whether bare sockets have taken all that was pushed to them, and all that was published for them has gone."""
        return not any(self.left().values()) and not self._publishing.has_work()
