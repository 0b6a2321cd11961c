"""Bare ZeroMQ sockets: programs that know nothing of zerowait, in any language. ZeroMQ's guarantees hold there, not
ours.

What is pushed to one waits in memory, bounded, until the socket takes it; that is all its receipt can say. What one
sends is accepted into this process's own outbox and handled from there, so retries and dead letters work as always. A
frame that cannot be read, or a message of several, is counted and named in the log; the service goes on.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from msgspec import Struct, field

from zerowait.engines.brokerless.wire import PlainHeard, Wire
from zerowait.errors import NotAccepted, ZerowaitError
from zerowait.outbox.intake import Intake
from zerowait.outbox.sheaf import MESSAGE_COST, Piece, Sheaf
from zerowait.plain import Plain

log = logging.getLogger("zerowait.plain")

RETRY_S = 0.05  # how soon a socket that took nothing is tried again


class _Out(Struct):
    """A channel of ours that goes to a bare PULL."""

    channel: str
    plain: Plain
    intake: Intake
    socket: int = -1
    # With each piece how many of its messages are sent.
    waiting: deque[tuple[Sheaf, Piece, int]] = field(default_factory=deque[tuple[Sheaf, Piece, int]])


class _In(Struct):
    """A bare PUSH that feeds a channel that we serve."""

    channel: str
    plain: Plain
    decode: Callable[[bytes], bytes]
    accept: Callable[[bytes], None]
    socket: int = -1
    refused: int = 0
    told: int = 0
    held: deque[bytes] = field(default_factory=deque[bytes])  # read, but the outbox was full


class PlainPorts:
    """Driven by the network thread; `push_to` and `pull_from` may be called from any thread before or after it runs."""

    def __init__(self) -> None:
        self._outs: dict[str, _Out] = {}
        self._ins: dict[str, _In] = {}
        self._by_socket: dict[int, _In] = {}
        self._wire: Wire | None = None

    def push_to(self, channel: str, plain: Plain, intake: Intake) -> None:
        self._outs.setdefault(channel, _Out(channel, plain, intake))

    def pull_from(
        self, channel: str, plain: Plain, decode: Callable[[bytes], bytes], accept: Callable[[bytes], None]
    ) -> None:
        """accept: takes a payload into our outbox; raises NotAccepted while that is full."""
        self._ins.setdefault(channel, _In(channel, plain, decode, accept))

    def open(self, wire: Wire) -> None:
        self._wire = wire

    def turn(self) -> float | None:
        """Sends what waits, takes up what was held back. Gives in how many seconds there is something to try again."""
        wire = self._wire
        if wire is None:
            return None
        again: float | None = None
        for out in list(self._outs.values()):
            if out.socket < 0:
                out.socket = wire.plain("push", tuple(out.plain.bind), tuple(out.plain.connect))
            out.waiting.extend((sheaf, piece, 0) for sheaf, piece in out.intake.take())
            if not self._send(wire, out):
                again = RETRY_S
        for port in list(self._ins.values()):
            if port.socket < 0:
                port.socket = wire.plain("pull", tuple(port.plain.bind), tuple(port.plain.connect))
                self._by_socket[port.socket] = port
            while port.held:
                if not self._accept(port, port.held[0]):
                    again = RETRY_S
                    break
                port.held.popleft()
            wire.hold_plain(port.socket, bool(port.held))
        return again

    def _send(self, wire: Wire, out: _Out) -> bool:
        while out.waiting:
            sheaf, piece, sent = out.waiting.popleft()
            ends = memoryview(piece.ends).cast("I")
            while sent < piece.count:
                start = ends[sent - 1] if sent else 5
                if not wire.send_plain(out.socket, bytes(memoryview(piece.body)[start : ends[sent]])):
                    out.waiting.appendleft((sheaf, piece, sent))
                    return False
                sent += 1
            sheaf.stored()
            out.intake.stored([(sheaf, piece.count)])
            out.intake.settled(piece.count, len(piece.body) - 5 + MESSAGE_COST * piece.count)
        return True

    def heard(self, event: PlainHeard) -> None:
        port = self._by_socket.get(event.plain)
        if port is None:
            return
        if len(event.parts) != 1:
            self._refuse(port, f"a message of {len(event.parts)} frames, where one is expected")
            return
        try:
            payload = port.decode(event.parts[0])
        except (ValueError, TypeError, RecursionError, ZerowaitError) as error:
            self._refuse(port, str(error))
            return
        if port.held or not self._accept(port, payload):
            port.held.append(payload)

    def _accept(self, port: _In, payload: bytes) -> bool:
        try:
            port.accept(payload)
        except NotAccepted as error:
            if port.told != -1:
                log.warning("channel %s: a bare sender is held back: %s", port.channel, error)
                port.told = -1
            return False
        if port.told == -1:
            port.told = port.refused
        return True

    def _refuse(self, port: _In, words: str) -> None:
        port.refused += 1
        if port.refused & (port.refused - 1) == 0:  # 1, 2, 4, 8 …: a flood of them does not flood the log
            log.warning(
                "channel %s: a frame of a bare ZeroMQ sender (%s) was refused: %s. %d refused so far; "
                "the service goes on",
                port.channel,
                ", ".join((*port.plain.bind, *port.plain.connect)),
                words,
                port.refused,
            )

    def refused(self) -> dict[str, int]:
        return {channel: port.refused for channel, port in self._ins.items()}

    def left(self) -> dict[str, int]:
        """Messages that no bare socket has taken yet."""
        return {
            channel: sum(piece.count - sent for _, piece, sent in out.waiting) + sum(out.intake.counts().values())
            for channel, out in self._outs.items()
        }
