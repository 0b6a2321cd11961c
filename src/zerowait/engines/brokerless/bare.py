"""ZeroMQ as this library uses it: the one room that knows it. Everything here belongs to one thread.

What libzmq 4.3.5 does that the documentation does not say, each tried:

- It accepts and connects in a thread of its own and tells of it only through a monitor, an in-process PAIR of sockets.
  It *waits* when that is full or has no reader: a monitor must be switched off before its reader is closed, or that
  thread, and with it every socket of the context, stands still for ever. `ACCEPT_FAILED` is told 300,000 times a second
  when there are no descriptors left: do not watch for it (see `listener`).
- Unbinding ends, without a word, all connections that came by that address.
- `RECONNECT_IVL=-1` (never) ends the connection from our side at once when it breaks, and what had arrived and was not
  yet read is thrown away; so does `IMMEDIATE=1`. A pause of 24 days keeps it, and tells of every failure to connect
  (`CONNECT_RETRIED`), of a name that cannot be looked up too, which -1 passes over in silence.
- A descriptor of a socket tells only of *changes*, and any call on the socket may swallow one: after sending, after not
  reading to the end, look (`is_ready`) before sleeping. After a read that found nothing the descriptor can be trusted.
- It connects again what broke, but not what it ended itself because of what was sent: a frame above MAXMSGSIZE, say.
  All that tells it is DISCONNECTED without CONNECT_RETRIED behind it. `disconnect` and `connect` of the same socket
  mend that, and keep what was read and what a SUB wants.
- Every call that sends or receives gives up the GIL, `is_ready` does not.
- Not copying (`copy=False`) does not pay for sending, not even frames of 256 KiB: pyzmq's garbage thread costs more.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, cast

import zmq
from msgspec import Struct

Frame = zmq.Frame
Unusable = zmq.ZMQError

DEALER, ROUTER, PUSH, PULL, XPUB, SUB = zmq.DEALER, zmq.ROUTER, zmq.PUSH, zmq.PULL, zmq.XPUB, zmq.SUB
READABLE, WRITABLE = int(zmq.POLLIN), int(zmq.POLLOUT)

ACCEPTED = int(zmq.EVENT_ACCEPTED)
CONNECTED = int(zmq.EVENT_CONNECTED)
CONNECT_FAILED = int(zmq.EVENT_CONNECT_RETRIED)
LISTENING = int(zmq.EVENT_LISTENING)
DISCONNECTED = int(zmq.EVENT_DISCONNECTED)
SHAKEN = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
HANDSHAKE_FAILED = int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
HANDSHAKE_WRONG = int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
HANDSHAKE_REFUSED = int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)

CAPABILITIES = ("curve", "ipc", "draft")

NEVER_MS = 2**31 - 1
COPIED_BYTES = 64 * 1024  # a larger frame is given as it lies in ZeroMQ's memory
SLACK_BYTES = 4_096

# Credit is what bounds a link; these are a backstop above it, at most 32 MiB of full frames in each direction.
HIGH_WATER = 128
PLAIN_SEND_HIGH_WATER = 64
PLAIN_EVENTS_HIGH_WATER = 10_000  # what is over that is dropped: bursts must pass
# ZeroMQ's thread waits where a monitor is full, and greets nobody any more: one whose interpreter is held counts as
# stopped then (see `pulses`). Each who feels for it makes two or three of these a second, of some 130 bytes.
MONITOR_HIGH_WATER = 200_000

PLAIN_RECONNECT_MS = 2_000

PlainKind = Literal["push", "pull", "router", "dealer", "pub", "sub"]
PLAIN_TYPES: Mapping[PlainKind, zmq.SocketType] = {
    "push": PUSH, "pull": PULL, "router": ROUTER, "dealer": DEALER, "pub": XPUB, "sub": SUB,
}  # fmt: skip
_PLAIN_OPTIONS: Mapping[PlainKind, Mapping[int, int]] = {
    # Until a peer is really there nothing is taken, so that it stays with who can account for it.
    "push": {zmq.IMMEDIATE: 1, zmq.SNDHWM: PLAIN_SEND_HIGH_WATER},
    "pull": {},
    # Whoever comes again under a name of his own, before the system has noticed that he had gone, is let in.
    "router": {zmq.ROUTER_MANDATORY: 1, zmq.ROUTER_HANDOVER: 1},
    # Somebody waits for an answer: a server that is back must be found within `no_responder`.
    "dealer": {zmq.SNDHWM: PLAIN_SEND_HIGH_WATER, zmq.RECONNECT_IVL_MAX: PLAIN_RECONNECT_MS // 4},
    # A PUB that also says when somebody wants a prefix first, and when nobody does any more. XPUB_VERBOSER says it each
    # time, but of a SUB that says a prefix twice and leaves it tells one end, so that no count of it can be true.
    "pub": {zmq.SNDHWM: PLAIN_EVENTS_HIGH_WATER},
    "sub": {zmq.RCVHWM: PLAIN_EVENTS_HIGH_WATER},
}

_NOBLOCK = int(zmq.NOBLOCK)
_SNDMORE_NOBLOCK = int(zmq.SNDMORE | zmq.NOBLOCK)
_EVENTS = int(zmq.EVENTS)
_RCVMORE = int(zmq.RCVMORE)
_MONITORED = struct.Struct("=HI")


class Sockets:
    """A context of our own, and sockets made in it with every option set before they are bound or connected.

    sockets_most: how many there may be. frame_bytes: a peer that sends a larger one is disconnected. handshake_s,
    heartbeat_s, silence_s: seconds for a handshake, between heartbeats, and without one until the peer is given up.
    backlog: how many may wait to be accepted; the system lets one more try again after a second, then three.
    """

    def __init__(
        self,
        *,
        sockets_most: int,
        frame_bytes: int,
        handshake_s: float,
        heartbeat_s: float,
        silence_s: float,
        backlog: int,
    ) -> None:
        self._context = zmq.Context(1)
        self._context.set(zmq.MAX_SOCKETS, min(sockets_most, self._context.get(zmq.SOCKET_LIMIT)))
        self._serial = 0
        self._common: Mapping[int, int] = {zmq.LINGER: 0, zmq.TCP_KEEPALIVE: 1, zmq.TCP_KEEPALIVE_IDLE: 30}
        self._ours: Mapping[int, int] = {
            zmq.MAXMSGSIZE: frame_bytes + SLACK_BYTES,
            zmq.SNDHWM: HIGH_WATER,
            zmq.RCVHWM: HIGH_WATER,
            # The backstop of who judges better: ZeroMQ's thread ends those, too, whose words lie unread before it.
            zmq.HANDSHAKE_IVL: _ms(3 * handshake_s),
            zmq.CONNECT_TIMEOUT: _ms(handshake_s),
            zmq.HEARTBEAT_IVL: _ms(heartbeat_s),
            zmq.HEARTBEAT_TIMEOUT: _ms(silence_s),
            zmq.HEARTBEAT_TTL: _ms(silence_s),
            zmq.BACKLOG: backlog,
        }

    def router(self) -> Bare:
        return self._make(ROUTER, {**self._ours, zmq.ROUTER_MANDATORY: 1})

    def dealer(self) -> Bare:
        return self._make(DEALER, {**self._ours, zmq.RECONNECT_IVL: NEVER_MS})

    def plain(self, kind: PlainKind, message_bytes: int) -> Bare:
        """Of that real type, for peers that know nothing of us, with ZeroMQ's own limits and reconnecting."""
        return self._make(PLAIN_TYPES[kind], {
            zmq.MAXMSGSIZE: message_bytes, zmq.RECONNECT_IVL_MAX: PLAIN_RECONNECT_MS, **_PLAIN_OPTIONS[kind],
        })  # fmt: skip

    def _make(self, kind: zmq.SocketType, options: Mapping[int, int]) -> Bare:
        socket = self._context.socket(kind)
        for option, value in {**self._common, **options}.items():
            socket.set(option, value)
        return Bare(socket)

    def monitor(self, bare: Bare, events: int) -> Monitor:
        """Tells of these events of the socket, which is not yet bound or connected."""
        self._serial += 1
        address = f"inproc://monitor-{self._serial}"
        bare.socket.monitor(address, events)
        try:
            reader = self._context.socket(zmq.PAIR)
        except Unusable:
            bare.socket.disable_monitor()
            raise
        reader.set(zmq.LINGER, 0)
        reader.set(zmq.RCVHWM, MONITOR_HIGH_WATER)
        reader.connect(address)
        monitor = Monitor(bare.socket, reader)
        monitor.read()  # nothing, but the descriptor of a socket that was never read does not tell
        return monitor

    def close(self, within_s: float) -> bool:
        """All sockets are closed already. True: the context ended in that time; if not, it goes on ending behind us."""
        ender = threading.Thread(target=self._context.term, name="zerowait-context-end", daemon=True)
        ender.start()
        ender.join(within_s)
        return not ender.is_alive()


class Bare:
    """One socket. Nothing here waits."""

    __slots__ = ("_get", "_receive", "_send", "descriptor", "socket")

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket
        self._send, self._receive = socket.send, socket.recv
        self._get = cast(Callable[[int], int], socket.get)
        self.descriptor = cast(int, socket.get(zmq.FD))

    def bind(self, endpoint: str, *, ipv6: bool) -> str:
        """Gives the endpoint that it really has, with the port the system chose."""
        self.socket.set(zmq.IPV6, int(ipv6))
        self.socket.bind(endpoint)
        return cast(bytes, self.socket.get(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()

    def unbind(self, endpoint: str) -> None:
        """Ends every connection that came by it, too."""
        self.socket.unbind(endpoint)

    def connect(self, endpoint: str, *, ipv6: bool) -> None:
        self.socket.set(zmq.IPV6, int(ipv6))
        self.socket.connect(endpoint)

    def disconnect(self, endpoint: str) -> None:
        """Also of what ended long ago. What came by it and was not read stays."""
        try:
            self.socket.disconnect(endpoint)
        except Unusable as error:
            if error.errno != errno.ENOENT:
                raise

    def is_ready(self) -> int:
        """READABLE, WRITABLE, both or 0, as of now. After 0 the descriptor tells of every change."""
        return self._get(_EVENTS)

    def read(self) -> Frame | None:
        """The next frame; None: there is none, and the descriptor can be trusted."""
        try:
            return self._receive(_NOBLOCK, False)
        except zmq.Again:
            return None

    def read_from(self) -> tuple[bytes, Frame] | None:
        """Of a ROUTER: who, and the first frame of what it said."""
        try:
            who = self._receive(_NOBLOCK)
        except zmq.Again:
            return None
        return who, self._receive(0, False)

    def skip_rest(self) -> int:
        """Throws away the frames that follow in this message; how many they were."""
        skipped = 0
        while self._get(_RCVMORE):
            self._receive(0, False)
            skipped += 1
        return skipped

    def write(self, frame: bytes) -> bool:
        """False: it would block, and nothing was taken."""
        try:
            self._send(frame, _NOBLOCK)
        except zmq.Again:
            return False
        return True

    def write_to(self, who: bytes, frame: bytes) -> bool | None:
        """Of a ROUTER. False: it would block, and nothing was taken. None: there is no such peer any more."""
        try:
            self._send(who, _SNDMORE_NOBLOCK)
        except zmq.Again:
            return False
        except Unusable as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            return None
        # Whoever took the first frame takes the rest.
        self._send(frame, _NOBLOCK)
        return True

    def write_parts(self, parts: Sequence[bytes]) -> bool | None:
        """One message of several frames. False: it would block, or its only peer went meanwhile; nothing was taken.
        None, of a ROUTER: there is no peer of the name that is the first frame."""
        last = len(parts) - 1
        try:
            self._send(parts[0], _SNDMORE_NOBLOCK if last else _NOBLOCK)
        except zmq.Again:
            return False
        except Unusable as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            return None
        taken = True
        for at in range(1, last + 1):
            try:
                self._send(parts[at], _NOBLOCK if at == last else _SNDMORE_NOBLOCK)
            except zmq.Again:  # the peer is gone: ZeroMQ takes back what it has, and drops what follows of this message
                taken = False
        return taken

    def subscribe(self, prefix: bytes, *, wanted: bool) -> None:
        """Of a SUB."""
        self.socket.set(zmq.SUBSCRIBE if wanted else zmq.UNSUBSCRIBE, prefix)

    def close(self, linger_s: float = 0.0) -> None:
        """Returns at once. linger_s: for how long what was written may still leave; the context's end waits for it."""
        self.socket.close(_ms(linger_s))


class Monitor:
    """What happens to the connections of a socket."""

    __slots__ = ("_bare", "_watched", "descriptor")

    def __init__(self, watched: zmq.Socket[bytes], reader: zmq.Socket[bytes]) -> None:
        self._watched = watched
        self._bare = Bare(reader)
        self.descriptor = self._bare.descriptor

    def read(self) -> list[tuple[int, int]]:
        """Event and value (a descriptor, an errno) of everything so far, in order."""
        found: list[tuple[int, int]] = []
        while len(found) < MONITOR_HIGH_WATER and (frame := self._bare.read()) is not None:
            found.append(_MONITORED.unpack(frame.bytes))
            self._bare.skip_rest()
        return found

    def read_addresses(self) -> list[tuple[int, str]]:
        """Event and address of everything so far, in order. The address is an endpoint that was connected to, or, of a
        name, what it was looked up as."""
        found: list[tuple[int, str]] = []
        while len(found) < MONITOR_HIGH_WATER and (frame := self._bare.read()) is not None:
            event = _MONITORED.unpack(frame.bytes)[0]
            address = self._bare.read()
            found.append((event, "" if address is None else address.bytes.decode(errors="replace")))
        return found

    def close(self) -> None:
        self.read()  # were it full, libzmq's thread would wait in it, and switching it off for that thread
        self._watched.disable_monitor()
        self._bare.close()


def content(frame: Frame) -> bytes | memoryview:
    return frame.bytes if len(frame) <= COPIED_BYTES else frame.buffer


def connection_of(frame: Frame) -> int:
    """The descriptor of the connection by which it came, or -1 where the system does not say."""
    try:
        return int(frame.get(zmq.SRCFD))
    except (Unusable, KeyError, ValueError, TypeError):
        return -1


def unusable_words(error: Unusable) -> str:
    # ZeroMQ's own numbers are above all of the system's.
    return os.strerror(error.errno) if error.errno and error.errno < 1_000_000 else str(error)


class Library(Struct, frozen=True):
    """The ZeroMQ that runs here. capabilities: those it has of curve, ipc and draft."""

    pyzmq: str
    version: str
    capabilities: tuple[str, ...]


def libzmq() -> Library:
    """Which ZeroMQ runs here, for `zerowait version`."""
    able = tuple(name for name in CAPABILITIES if zmq.has(name))
    return Library(zmq.__version__, zmq.zmq_version(), able)


def capabilities() -> dict[str, str | bool]:
    """The same as a table: versions of pyzmq and libzmq, and whether there are curve, ipc and draft."""
    library = libzmq()
    able = {name: name in library.capabilities for name in CAPABILITIES}
    return {"pyzmq": library.pyzmq, "libzmq": library.version, **able}


def _ms(seconds: float) -> int:
    return max(0, int(seconds * 1_000))
