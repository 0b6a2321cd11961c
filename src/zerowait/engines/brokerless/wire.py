"""All sockets of a process, for the one thread that owns them. Frames go in and out; connections come and go by number.

With `bare`, which knows ZeroMQ, this is the only room that touches a network. It decides nothing about messages: what a
frame means, who may speak, when to dial again and when a silent peer is given up is the node's and the protocol's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from itertools import count

from zerowait.engines.brokerless import bare
from zerowait.engines.brokerless.addresses import Address, parse_address
from zerowait.engines.brokerless.bare import (
    WRITABLE,
    Bare,
    Library,
    Monitor,
    PlainKind,
    Sockets,
    Unusable,
    capabilities,
    libzmq,
)
from zerowait.engines.brokerless.descriptors import raise_descriptor_limit
from zerowait.engines.brokerless.dialled import WATCHED as DIALLED_EVENTS
from zerowait.engines.brokerless.dialled import Dialled
from zerowait.engines.brokerless.endpoints import cannot_listen, clear_path
from zerowait.engines.brokerless.heap import expect_large_pieces
from zerowait.engines.brokerless.listener import PARTING_S, Caller, Listener
from zerowait.engines.brokerless.listener import WATCHED as LISTENER_EVENTS
from zerowait.engines.brokerless.lookout import Lookout
from zerowait.engines.brokerless.plain_line import DIALLING, DiallingLine, PlainLine, WatchedLine
from zerowait.engines.brokerless.shears import Shears
from zerowait.engines.brokerless.wire_events import (
    Conn,
    Event,
    Heard,
    Lost,
    Opened,
    PlainDialled,
    PlainHeard,
    PlainJoined,
    PlainParted,
)
from zerowait.errors import ZerowaitError

__all__ = [
    "Conn", "Event", "Heard", "Library", "Lost", "Opened", "PlainDialled", "PlainHeard", "PlainJoined", "PlainKind",
    "PlainParted", "Wire", "capabilities", "libzmq", "raise_descriptor_limit",
]  # fmt: skip

NAP_S = 1.0  # the longest sleep: should a ring ever be missed, this is what it costs
TICK_S = 0.1
CLOSE_S = 1.0
OWN_SOCKETS = 64
BACKLOG = 1_024  # at least so many may wait to be accepted


class Wire:
    """frame_bytes: the largest frame; a peer that sends more is disconnected. connections: how many each listening
    socket bears, and how many can be dialled. handshakes: from how many who have not yet spoken on patience is short.
    handshake_s: seconds for connecting and shaking hands, and then for the first frame. heartbeat_s, silence_s:
    ZeroMQ's own sign of life, and after how long without it a connection is lost.

    Everything is called by one thread, `wake()` excepted.
    """

    def __init__(
        self,
        *,
        frame_bytes: int = 256 * 1024,
        connections: int = 4096,
        handshakes: int = 256,
        handshake_s: float = 5.0,
        heartbeat_s: float = 1.0,
        silence_s: float = 3.0,
    ) -> None:
        expect_large_pieces()
        self._frame_bytes = frame_bytes
        self._connections = connections
        self._handshakes = handshakes
        self._handshake_s = handshake_s
        self._sockets = Sockets(
            # A dialled connection is three: the socket, and the two ends of its monitor.
            sockets_most=3 * connections + OWN_SOCKETS,
            frame_bytes=frame_bytes,
            handshake_s=handshake_s,
            heartbeat_s=heartbeat_s,
            silence_s=silence_s,
            backlog=max(BACKLOG, connections),  # all of them may come at once
        )
        self._lookout = Lookout()
        self._shears = Shears()
        self._numbers = count(1)
        self._dialled: dict[int, Dialled] = {}
        self._callers: dict[int, Caller] = {}
        self._listeners: list[Listener] = []
        self._opening: dict[int, Dialled] = {}
        self._plain: dict[int, PlainLine] = {}
        self._paths: dict[str, tuple[int, int]] = {}
        self._told: list[Event] = []
        self._tick_at = 0.0
        self._open = True

    def listen(self, endpoint: str) -> str:
        """Takes an address, `tcp://…` or `ipc://…`; gives it with the port that the system chose.

        A socket file is open to this user alone; one that a dead process left is replaced.

        Raises SettingsError for what is no address, or none of this machine; UsageError, naming the process if that can
        be known, if it is in use. Then nothing was taken.
        """
        address = parse_address(endpoint, listening=True)
        try:
            socket, monitor = self._monitored(self._sockets.router, LISTENER_EVENTS)
        except Unusable as error:
            raise cannot_listen(address, error.errno, bare.unusable_words(error)) from None
        try:
            real, ipv6 = self._bind(socket, address)
        except BaseException:
            monitor.close()
            socket.close()
            raise
        if address.scheme == "ipc":
            os.chmod(address.path, 0o600)
        listener = Listener(
            real,
            socket,
            monitor,
            self._shears,
            ipv6=ipv6,
            numbers=self._numbers,
            callers=self._callers,
            connections=self._connections,
            handshakes=self._handshakes,
            handshake_s=self._handshake_s,
        )
        self._listeners.append(listener)
        self._lookout.watch(listener)
        self._lookout.watch_connections(listener)
        return real

    def dial(self, endpoint: str, connect_s: float | None = None) -> Conn:
        """Connects, once. Opened or Lost follows for the number it gives, Lost at the latest after `handshake_s`, or
        after `connect_s` if there is no connection by then.

        A name is looked up as IPv4, by ZeroMQ's own thread, which stands still meanwhile: look it up first.
        Raises SettingsError for what is no address.
        """
        address = parse_address(endpoint)
        conn = next(self._numbers)
        try:
            socket, monitor = self._monitored(self._sockets.dealer, DIALLED_EVENTS)
        except Unusable as error:
            self._told.append(Lost(conn, f"{endpoint}: no socket for it ({bare.unusable_words(error)})"))
            return conn
        dialled = Dialled(conn, endpoint, socket, monitor, self._shears, self._handshake_s, self._ended, connect_s)
        self._dialled[conn] = self._opening[conn] = dialled
        self._lookout.watch(dialled)
        self._lookout.watch_connections(dialled)
        try:
            socket.connect(address.endpoint, ipv6=":" in address.host)
        except Unusable as error:
            dialled.end(bare.unusable_words(error), self._told)
        return conn

    def send(self, conn: Conn, frame: bytes) -> bool:
        """Hands a frame to ZeroMQ. False: it would block, nothing was taken; try again after the next `poll()`, which
        returns as soon as that may help. True for a connection that is gone: its Lost has come, or will."""
        assert len(frame) <= self._frame_bytes, f"a frame of {len(frame)} bytes"
        peer = self._dialled.get(conn) or self._callers.get(conn)
        if peer is None:
            return True
        taken = peer.send(frame)
        self._lookout.touched(peer.line, blocked=not taken)
        return taken

    def poll(self, timeout: float | None) -> list[Event]:
        """What has happened since the last call; waits for something at most that many seconds (None: as long as it
        takes, yet it returns with nothing once a second, after `wake()`, and when a send that blocked may succeed).

        Events of one connection are in order: Opened or the first Heard, Heard, Lost. A socket gives at most 256 frames
        a call, so that all have their turn.
        """
        events, self._told = self._told, []
        self._lookout.wait(events, 0.0 if events else self._longest(timeout))
        now = time.monotonic()
        if now >= self._tick_at or any(listener.is_urgent() for listener in self._listeners):
            self._tick(now, events)
        return events

    def is_behind(self) -> bool:
        """Whether more had come in by a listener than the last `poll()` gave."""
        for listener in self._listeners:  # noqa: SIM110 - each turn asks, and a generator costs more than the answer
            if listener.is_behind:
                return True
        return False

    def has_unread(self, conn: Conn) -> bool:
        """Whether something has come by this connection that ZeroMQ has not even read yet, as far as the system says:
        its thread may be behind, too."""
        peer = self._dialled.get(conn) or self._callers.get(conn)
        return peer is not None and peer.has_unread()

    def wake(self) -> None:
        """From any thread, and from a signal handler: `poll()` returns. Costs nothing while it is not waiting."""
        self._lookout.ring()

    def drop(self, conn: Conn) -> None:
        """Ends a connection. What was sent by it has a fifth of a second to leave; nothing is heard of it any more."""
        if (dialled := self._dialled.pop(conn, None)) is not None:
            dialled.over = True
            self._close(dialled, PARTING_S)
        elif (caller := self._callers.get(conn)) is not None:
            caller.line.drop(caller)

    def is_from_here(self, conn: Conn) -> bool:
        """Whether it came in by a socket of this machine and user, not over the network."""
        caller = self._callers.get(conn)
        return caller is not None and caller.line.endpoint.startswith("ipc:")

    # -- bare ZeroMQ peers ---------------------------------------------------------------------------------------------

    def plain(
        self,
        kind: PlainKind,
        bind: Sequence[str] = (),
        connect: Sequence[str] = (),
        *,
        message_bytes: int = 16 * 1024 * 1024,
        watched: bool = False,
    ) -> int:
        """A real socket, for peers that know nothing of zerowait; ZeroMQ connects it again by itself.

        message_bytes: of a received message; a peer that sends a larger frame is disconnected. watched: it connects to
        one endpoint, and PlainJoined and PlainParted tell of that connection; PlainDialled of each connection of one
        that connects and is not watched. Raises as `listen()`.
        """
        bound = [parse_address(endpoint, listening=True) for endpoint in bind]
        connected = [parse_address(endpoint) for endpoint in connect]
        monitor: Monitor | None = None
        if watched:
            socket, monitor = self._monitored(lambda: self._sockets.plain(kind, message_bytes), DIALLED_EVENTS)
        elif connected:
            socket, monitor = self._monitored(lambda: self._sockets.plain(kind, message_bytes), DIALLING)
        else:
            socket = self._sockets.plain(kind, message_bytes)
        try:
            for address in bound:
                self._bind(socket, address)
            for address in connected:
                socket.connect(address.endpoint, ipv6=":" in address.host)
        except BaseException:
            if monitor is not None:
                monitor.close()
            socket.close()
            raise
        number = next(self._numbers)
        watching: WatchedLine | DiallingLine
        if monitor is not None:
            if watched:
                watching = WatchedLine(number, socket, monitor, message_bytes=message_bytes)
            else:
                watching = DiallingLine(
                    number,
                    socket,
                    monitor,
                    hears=kind != "push",
                    message_bytes=message_bytes,
                    endpoints={address.endpoint: ":" in address.host for address in connected},
                )
            self._lookout.watch_connections(watching)
            self._plain[number] = watching
        else:
            self._plain[number] = PlainLine(number, socket, hears=kind != "push", message_bytes=message_bytes)
        self._lookout.watch(self._plain[number])
        return number

    def send_plain(self, plain: int, payload: bytes) -> bool:
        """False: there is no peer, or all are full. Nothing was taken; try again after the next `poll()`."""
        line = self._plain[plain]
        taken = line.send(payload)
        self._lookout.touched(line, blocked=not taken)
        return taken

    def send_parts(self, plain: int, parts: Sequence[bytes], *, again: bool = False) -> bool | None:
        """The same for a message of several frames. again: if it took nothing, `poll()` returns when it would (not
        of a ROUTER). None, of a ROUTER: the peer that the first frame names is gone."""
        line = self._plain[plain]
        taken = line.send_parts(parts)
        self._lookout.touched(line, blocked=again and not taken)
        return taken

    def subscribe_plain(self, plain: int, prefix: bytes, *, wanted: bool) -> None:
        """Of a SUB: what begins so is wanted, or no longer. As often as it was wanted it must be taken back."""
        self._plain[plain].bare.subscribe(prefix, wanted=wanted)

    def redial_plain(self, plain: int, endpoint: str) -> None:
        """Of one that PlainDialled told of: connects there anew, in the place of what was."""
        line = self._plain[plain]
        assert isinstance(line, DiallingLine)
        line.redial(endpoint)
        self._lookout.touched(line, blocked=False)

    def close_plain(self, plain: int) -> None:
        """At once: what was sent by it and has not left is lost."""
        line = self._plain.pop(plain)
        self._close_line(line, 0.0)

    def plain_ready(self, plain: int) -> bool:
        """Whether `send_plain()` would take a message now. If not, `poll()` returns as soon as it would."""
        line = self._plain[plain]
        ready = bool(line.bare.is_ready() & WRITABLE)
        self._lookout.touched(line, blocked=not ready)
        return ready

    def hold_plain(self, plain: int, held: bool) -> None:
        """held: nothing more is read from it, so that its peers feel it by ZeroMQ's own means, until it is let go."""
        line = self._plain[plain]
        if held == line.held:
            return
        line.held = held
        if held:
            self._lookout.unwatch(line)
        else:
            self._lookout.watch(line)

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self, flush_s: float = PARTING_S) -> None:
        """Ends every connection, and returns within a second (with another `flush_s`: that and 0.8), whatever peers do.

        flush_s: seconds in which what was sent may still leave, by plain PUSH sockets too. Twice is as once.
        """
        if not self._open:
            return
        self._open = False
        for path, identity in self._paths.items():
            _remove_socket(path, identity)
        for dialled in list(self._dialled.values()):
            self._close(dialled, flush_s)
        for listener in self._listeners:
            listener.monitor.close()
            listener.bare.close(flush_s)
            listener.close()
        for line in self._plain.values():
            self._close_line(line, flush_s)
        self._lookout.close()
        self._sockets.close(flush_s + CLOSE_S - PARTING_S)
        self._shears.close()
        self._dialled.clear()
        self._callers.clear()
        self._listeners.clear()
        self._plain.clear()

    def abandon(self) -> None:
        """For a child process: nothing here is its own. It keeps this object, uses nothing of it and closes nothing."""
        self._open = False
        self._lookout.mute()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _monitored(self, make: Callable[[], Bare], events: int) -> tuple[Bare, Monitor]:
        socket = make()
        try:
            return socket, self._sockets.monitor(socket, events)
        except BaseException:
            socket.close()
            raise

    def _bind(self, socket: Bare, address: Address) -> tuple[str, bool]:
        if address.scheme == "ipc":
            clear_path(address.path)
        trouble: ZerowaitError | None = None
        for ipv6 in _families(address):
            try:
                real = socket.bind(address.endpoint, ipv6=ipv6)
            except Unusable as error:
                trouble = cannot_listen(address, error.errno, bare.unusable_words(error))
            else:
                if address.scheme == "ipc":
                    status = os.lstat(address.path)
                    self._paths[address.path] = (status.st_dev, status.st_ino)
                return real, ipv6
        assert trouble is not None
        raise trouble

    def _longest(self, timeout: float | None) -> float:
        nap = NAP_S if timeout is None else min(timeout, NAP_S)
        if self._opening or any(listener.is_waiting() for listener in self._listeners):
            nap = min(nap, TICK_S)
        return nap

    def _tick(self, now: float, events: list[Event]) -> None:
        self._tick_at = now + TICK_S
        for dialled in list(self._opening.values()):
            if dialled.is_waiting():
                dialled.tick(now, events)
            else:
                del self._opening[dialled.conn]
        for listener in self._listeners:
            listener.tick(now, events)

    def _ended(self, dialled: Dialled) -> None:
        self._dialled.pop(dialled.conn, None)
        self._close(dialled, 0.0)

    def _close_line(self, line: PlainLine, linger_s: float) -> None:
        if not line.held:
            self._lookout.unwatch(line)
        if isinstance(line, WatchedLine | DiallingLine):
            self._lookout.unwatch_connections(line)
            line.monitor.close()
        line.bare.close(linger_s)

    def _close(self, dialled: Dialled, linger_s: float) -> None:
        self._opening.pop(dialled.conn, None)
        self._lookout.unwatch(dialled)
        self._lookout.unwatch_connections(dialled)
        dialled.monitor.close()
        dialled.bare.close(linger_s)


def _families(address: Address) -> tuple[bool, ...]:
    """Whether to bind for IPv6, in the order to try. A name is IPv4's first, as its users dial it; `*` is for both."""
    if address.scheme == "ipc":
        return (False,)
    if ":" in address.host:
        return (True,)
    if address.host == "*":
        return (True, False)
    return (False, True) if address.is_name else (False,)


def _remove_socket(path: str, identity: tuple[int, int]) -> None:
    """ZeroMQ leaves the file behind; another's, bound there meanwhile, stays."""
    try:
        status = os.lstat(path)
        if (status.st_dev, status.st_ino) == identity:
            os.unlink(path)
    except OSError:
        pass
