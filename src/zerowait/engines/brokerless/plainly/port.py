"""What each bare socket has: it is opened when its turn comes, tried again each second while that fails, and what it
refuses is counted and named in the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from msgspec import Struct, field

from zerowait.engines.brokerless.wire import PlainDialled, PlainHeard, PlainJoined, PlainKind, PlainParted, Wire
from zerowait.plain import Plain

log = logging.getLogger("zerowait.plain")

RETRY_S = 0.05  # how soon a socket that took nothing is tried again
MEND_S = 1.0  # how soon what failed is tried again: an address in use, say
CUT_S = 0.2  # after a connection has ended, until it counts as one that ZeroMQ will not make again
CUT_MOST_S = 2.0  # and if it ends so again and again
LASTED_S = 10.0  # a connection that lasted so long begins with the short one again
TOLD_MOST = 16  # different troubles of a socket that are logged until it works again


class Around(Struct, eq=False):
    """What all ports share. message_bytes: of the largest message that is received. refused: told, where the log is, of
    what a bare sender sent and nobody can read: from where, and why. cut: ports with connections that ended, by socket.
    draining: nothing more is taken up."""

    message_bytes: int
    refused: Callable[[str, str], None]
    clock: Callable[[], float]
    by_socket: dict[int, Port] = field(default_factory=dict[int, "Port"])
    cut: dict[int, Port] = field(default_factory=dict[int, "Port"])
    draining: bool = False


class Cut(Struct, eq=False):
    """What is known of one connection. redial_at: 0, ZeroMQ looks after it."""

    redial_at: float = 0.0
    joined_at: float = 0.0
    pause_s: float = 0.0


class Port:
    """On the network thread. channel: its name, for people. Of its endpoints there is at least one."""

    kind: PlainKind
    meanwhile = "its peers wait"  # while it cannot be opened

    def __init__(self, channel: str, plain: Plain, around: Around) -> None:
        self.channel = channel
        self.plain = plain
        self.around = around
        self.bind, self.connect = tuple(plain.bind), tuple(plain.connect)
        self.socket = -1
        self.refused = 0
        self._retry_at = 0.0
        self._told: set[str] = set()
        self._cuts: dict[str, Cut] = {}  # by endpoint
        self._redials = 0

    def turn(self, wire: Wire) -> float | None:
        """Does what can be done; gives in how many seconds to come back for something, None: it will be heard of."""
        raise NotImplementedError

    def heard(self, event: PlainHeard) -> None:
        """Nothing, from a socket that is not read."""

    def watched(self, event: PlainJoined | PlainParted) -> None:
        """Nothing, of a socket whose connections nobody watches."""

    def dialled(self, event: PlainDialled) -> None:
        now = self.around.clock()
        cut = self._cuts.setdefault(event.endpoint, Cut())
        if event.state != "cut":
            cut.redial_at = 0.0
            if event.state == "joined":
                cut.joined_at = now
            return
        cut.pause_s = CUT_S if now - cut.joined_at >= LASTED_S or not cut.pause_s else min(2 * cut.pause_s, CUT_MOST_S)
        cut.redial_at = now + cut.pause_s
        self.around.cut[self.socket] = self

    def redial(self, wire: Wire) -> float | None:
        """What has ended and ZeroMQ does not connect again by itself. Gives in how many seconds to come back."""
        now = self.around.clock()
        waits: list[float] = []
        for endpoint, cut in self._cuts.items():
            if not cut.redial_at:
                continue
            if cut.redial_at > now:
                waits.append(cut.redial_at - now)
                continue
            cut.redial_at = 0.0
            try:
                wire.redial_plain(self.socket, endpoint)
            except Exception as error:  # no more sockets, say
                cut.redial_at = now + MEND_S
                waits.append(MEND_S)
                log.debug("channel %s: %s is not dialled: %s", self.channel, endpoint, error)
                continue
            self._redials += 1
            if self._redials & (self._redials - 1) == 0:  # 1, 2, 4, 8 …
                log.warning(
                    "channel %s: the connection to the bare peer at %s ended by what came over it, most likely a frame "
                    "of more than message_bytes (%d): if it should be let in, set message_bytes higher. It is "
                    "connected again; %d so far",
                    self.channel,
                    endpoint,
                    self.around.message_bytes,
                    self._redials,
                )
        if not waits:
            self.around.cut.pop(self.socket, None)
        return min(waits, default=None)

    def close(self, wire: Wire) -> None:
        """Its socket, if it is open; the next turn may open another."""
        if self.socket >= 0:
            self.around.by_socket.pop(self.socket, None)
            self.around.cut.pop(self.socket, None)
            self._cuts.clear()
            wire.close_plain(self.socket)
            self.socket = -1

    def opening(self, wire: Wire, **options: Any) -> float | None:
        """None: it is open. Else the seconds until it is worth another attempt."""
        if self.socket < 0 or self._retry_at:
            if (wait := self._retry_at - self.around.clock()) > 0:
                return wait
            self._retry_at = 0.0
        if self.socket < 0:
            try:
                self.socket = wire.plain(
                    self.kind, self.bind, self.connect, message_bytes=self.around.message_bytes, **options
                )
            except Exception as error:  # of one socket: the process has others, and its own links
                return self.trouble(f"could not be opened: {error}")
            self.around.by_socket[self.socket] = self
            self.mended()
        return None

    def mended(self) -> None:
        if self._told:
            self._told.clear()
            log.info("channel %s: its bare ZeroMQ socket (%s) is open now", self.channel, self.where())

    def trouble(self, words: str) -> float:
        self._retry_at = self.around.clock() + MEND_S
        if words not in self._told and len(self._told) < TOLD_MOST:
            self._told.add(words)
            log.error(
                "channel %s: its bare ZeroMQ socket (%s) %s It is tried again every second; meanwhile %s",
                self.channel,
                self.where(),
                words.rstrip(".") + ".",
                self.meanwhile,
            )
        return MEND_S

    def refuse(self, words: str) -> None:
        self.refused += 1
        if self.refused & (self.refused - 1) == 0:  # 1, 2, 4, 8 …: a flood of them does not flood the log
            log.warning(
                "channel %s: a frame of a bare ZeroMQ sender (%s) was refused: %s. %d refused so far; "
                "the service goes on",
                self.channel,
                self.where(),
                words.rstrip("."),
                self.refused,
            )
            self.around.refused(f"a bare ZeroMQ sender of {self.channel} ({self.where()})", words)

    def where(self) -> str:
        return ", ".join((*self.bind, *self.connect))
