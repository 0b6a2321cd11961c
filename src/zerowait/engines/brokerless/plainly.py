"""Bare ZeroMQ sockets: programs that know nothing of zerowait, in any language. ZeroMQ's guarantees hold there, not
ours.

What is pushed to one waits in memory, bounded, until the socket takes it; that is all its receipt can say. What one
sends is accepted into this process's own outbox and handled from there, so retries and dead letters work as always. A
frame that cannot be read, or a message of several, is counted and named in the log; the service goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from msgspec import Struct, field

from zerowait.engines.brokerless.wire import PlainHeard, Wire
from zerowait.errors import EncodeError, NotAccepted, TooLarge
from zerowait.message import BODY_START
from zerowait.outbox.intake import Intake
from zerowait.outbox.sheaf import MESSAGE_COST, Piece, Sheaf
from zerowait.plain import Plain

log = logging.getLogger("zerowait.plain")

RETRY_S = 0.05  # how soon a socket that took nothing is tried again
MEND_S = 1.0  # how soon what failed is tried again: an address in use, say
HELD_S = 0.001  # how soon a sheaf is looked at again that a push had in hand
TOLD_MOST = 16  # different troubles of a socket that are logged until it works again


class _Port(Struct):
    channel: str
    plain: Plain
    socket: int = -1
    retry_at: float = 0.0
    told: set[str] = field(default_factory=set[str])


class _Out(_Port, kw_only=True):
    """A channel of ours that goes to a bare PULL."""

    intake: Intake
    waiting: deque[tuple[Sheaf, Piece]] = field(default_factory=deque[tuple[Sheaf, Piece]])
    sent: int = 0  # messages of the first piece; the intake counts a piece whole until all of it is sent


class _In(_Port, kw_only=True):
    """A bare PUSH that feeds a channel that we serve."""

    decode: Callable[[bytes], bytes]
    accept: Callable[[bytes], None]
    refused: int = 0
    told_held: bool = False
    held: deque[bytes] = field(default_factory=deque[bytes])  # read, but the outbox was full


class PlainPorts:
    """message_bytes: of the largest message that is received; a peer that sends a larger frame is disconnected.

    refused: told, where the log is, of what a bare sender sent and nobody can read: from where, and why.

    Driven by the network thread. `push_to`, `pull_from`, `left`, `is_empty` and `refused` may be called by any.
    """

    def __init__(
        self,
        message_bytes: int = 16 << 20,
        *,
        refused: Callable[[str, str], None] = lambda peer, reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._message_bytes = message_bytes
        self._told_refused = refused
        self._clock = clock
        self._lock = threading.Lock()  # of the tables, and of the moment in which a piece is over
        self._outs: dict[str, _Out] = {}
        self._ins: dict[str, _In] = {}
        self._by_socket: dict[int, _In] = {}
        self._wire: Wire | None = None

    def push_to(self, channel: str, plain: Plain, intake: Intake) -> None:
        with self._lock:
            self._outs.setdefault(channel, _Out(channel, plain, intake=intake))

    def pull_from(
        self, channel: str, plain: Plain, decode: Callable[[bytes], bytes], accept: Callable[[bytes], None]
    ) -> None:
        """accept: takes a payload into our outbox; raises NotAccepted while that is full."""
        with self._lock:
            self._ins.setdefault(channel, _In(channel, plain, decode=decode, accept=accept))

    def open(self, wire: Wire) -> None:
        self._wire = wire

    def turn(self) -> float | None:
        """Sends what waits, takes up what was held back. Gives in how many seconds there is something to try again.

        A socket that cannot be opened, or fails, is tried again in a second; the others go on.
        """
        wire = self._wire
        if wire is None:
            return None
        outs, ins = self._tables()
        waits = [wait for port in outs if (wait := self._turn_out(wire, port)) is not None]
        waits += [wait for port in ins if (wait := self._turn_in(wire, port)) is not None]
        return min(waits, default=None)

    def _tables(self) -> tuple[list[_Out], list[_In]]:
        with self._lock:
            return list(self._outs.values()), list(self._ins.values())

    def _turn_out(self, wire: Wire, out: _Out) -> float | None:
        if (wait := self._opening(wire, out, "push")) is not None:
            return wait
        out.waiting.extend(out.intake.take())
        try:
            is_sent = self._send(wire, out)
        except Exception as error:
            return self._trouble(out, f"could not be sent to: {error}")
        if not is_sent:
            return RETRY_S
        return HELD_S if out.intake.held else None

    def _turn_in(self, wire: Wire, port: _In) -> float | None:
        if (wait := self._opening(wire, port, "pull")) is not None:
            return wait
        self._by_socket[port.socket] = port
        while port.held and self._accept(port, port.held[0]):
            port.held.popleft()
        wire.hold_plain(port.socket, bool(port.held))
        return RETRY_S if port.held else None

    def _opening(self, wire: Wire, port: _Port, kind: Literal["push", "pull"]) -> float | None:
        """None: it is open. Else the seconds until it is worth another attempt."""
        if port.socket < 0 or port.retry_at:
            if (wait := port.retry_at - self._clock()) > 0:
                return wait
            port.retry_at = 0.0
        if port.socket < 0:
            try:
                port.socket = wire.plain(
                    kind, tuple(port.plain.bind), tuple(port.plain.connect), message_bytes=self._message_bytes
                )
            except Exception as error:  # of one socket: the process has others, and its own links
                return self._trouble(port, f"could not be opened: {error}")
            if port.told:
                port.told.clear()
                log.info("channel %s: its bare ZeroMQ socket (%s) is open now", port.channel, _endpoints(port.plain))
        return None

    def _trouble(self, port: _Port, words: str) -> float:
        port.retry_at = self._clock() + MEND_S
        if words not in port.told and len(port.told) < TOLD_MOST:
            port.told.add(words)
            log.error(
                "channel %s: its bare ZeroMQ socket (%s) %s It is tried again every second; what was pushed waits here",
                port.channel,
                _endpoints(port.plain),
                words.rstrip(".") + ".",
            )
        return MEND_S

    def _send(self, wire: Wire, out: _Out) -> bool:
        while out.waiting:
            sheaf, piece = out.waiting[0]
            body, ends = memoryview(piece.body), memoryview(piece.ends).cast("I")
            while out.sent < piece.count:
                start = ends[out.sent - 1] if out.sent else BODY_START
                if not wire.send_plain(out.socket, bytes(body[start : ends[out.sent]])):
                    return False
                out.sent += 1
            with self._lock:  # whoever counts sees the piece whole and sent, or not at all
                out.waiting.popleft()
                out.sent = 0
                out.intake.stored([(sheaf, piece.count)])
            sheaf.stored()
            out.intake.settled(piece.count, len(piece.body) - BODY_START + MESSAGE_COST * piece.count)
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
        except Exception as error:  # a stranger's bytes, read as a type of the user's: whatever it is, it is theirs
            self._refuse(port, str(error) or repr(error))
            return
        if port.held or not self._accept(port, payload):
            port.held.append(payload)

    def _accept(self, port: _In, payload: bytes) -> bool:
        """False: there is no room for it now."""
        try:
            port.accept(payload)
        except (TooLarge, EncodeError) as error:  # there never will be
            self._refuse(port, str(error))
            return True
        except NotAccepted as error:
            if not port.told_held:
                log.warning("channel %s: a bare sender is held back: %s", port.channel, error)
            port.told_held = True
            return False
        port.told_held = False
        return True

    def _refuse(self, port: _In, words: str) -> None:
        port.refused += 1
        if port.refused & (port.refused - 1) == 0:  # 1, 2, 4, 8 …: a flood of them does not flood the log
            log.warning(
                "channel %s: a frame of a bare ZeroMQ sender (%s) was refused: %s. %d refused so far; "
                "the service goes on",
                port.channel,
                _endpoints(port.plain),
                words.rstrip("."),
                port.refused,
            )
            self._told_refused(f"a bare ZeroMQ sender of {port.channel} ({_endpoints(port.plain)})", words)

    def refused(self) -> dict[str, int]:
        _, ins = self._tables()
        return {port.channel: port.refused for port in ins}

    def left(self) -> dict[str, int]:
        """Messages that no bare socket has taken yet, by channel, each counted once. Any thread."""
        with self._lock:
            return {
                channel: max(0, sum(out.intake.counts().values()) - out.sent) for channel, out in self._outs.items()
            }

    def is_empty(self) -> bool:
        """Whether bare sockets have taken all that was pushed to them. Any thread."""
        return not any(self.left().values())


def _endpoints(plain: Plain) -> str:
    return ", ".join((*plain.bind, *plain.connect))
