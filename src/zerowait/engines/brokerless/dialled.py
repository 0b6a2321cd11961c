"""One connection that we dialled: a socket of its own, which lives as long as the connection and not longer."""

from __future__ import annotations

import time
from collections.abc import Callable

from zerowait.engines.brokerless.bare import (
    CONNECT_FAILED,
    CONNECTED,
    DISCONNECTED,
    HANDSHAKE_FAILED,
    HANDSHAKE_REFUSED,
    HANDSHAKE_WRONG,
    READABLE,
    SHAKEN,
    Bare,
    Frame,
    Monitor,
    content,
)
from zerowait.engines.brokerless.descriptors import has_unread
from zerowait.engines.brokerless.shears import Shears, is_itself
from zerowait.engines.brokerless.wire_events import Event, Heard, Lost, Opened

WATCHED = CONNECTED | CONNECT_FAILED | DISCONNECTED | SHAKEN | HANDSHAKE_FAILED | HANDSHAKE_REFUSED | HANDSHAKE_WRONG
FRAMES_A_TURN = 256  # of one socket; then the others have their turn
BEHIND_S = 5.0  # who has not shaken hands, or not spoken, in time has so long in addition while words lie unread
SEVERAL_PARTS = "it sent a message of several parts, which no peer of ours does"


class Dialled:
    """ended: called once, when the connection is over and its Lost is told; closes the sockets."""

    def __init__(
        self,
        conn: int,
        endpoint: str,
        bare: Bare,
        monitor: Monitor,
        shears: Shears,
        handshake_s: float,
        ended: Callable[[Dialled], None],
        connect_s: float | None = None,
    ) -> None:
        self.conn = conn
        self.endpoint = endpoint
        self.bare = bare
        self.monitor = monitor
        self.opened = False
        self.over = False
        self.deadline = time.monotonic() + handshake_s
        self._handshake_s = handshake_s
        self._connect_s = handshake_s if connect_s is None else min(connect_s, handshake_s)
        self._connect_until = time.monotonic() + self._connect_s
        self._shears = shears
        self._ended = ended
        self._descriptor = -1  # of its connection
        self._trouble = ""

    @property
    def writable_tells(self) -> bool:
        return self.opened  # before, ZeroMQ would take and keep what `send()` does not let through

    @property
    def line(self) -> Dialled:
        return self

    def send(self, frame: bytes) -> bool:
        # ZeroMQ would keep it until there is a connection; but the first frame is for whoever has shaken hands.
        return self.opened and self.bare.write(frame)

    def read(self, events: list[Event], sure: bool) -> bool:
        """Tells what has come. sure: the descriptor said that there is something. True: there may be more."""
        if self.over or not (sure or self.bare.is_ready() & READABLE):
            return False
        for n in range(FRAMES_A_TURN):
            frame = self.bare.read()
            if frame is None:
                return False
            if not self._hear(frame, events):
                return False
            # Of a single frame it is cheaper to see that it was one: reading in vain gives up the GIL.
            if n == 0 and not self.bare.is_ready() & READABLE:
                return False
        return True

    def look(self, events: list[Event]) -> bool:
        """Tells what has happened to the connection."""
        if self.over:
            return False
        for event, value in self.monitor.read():
            if event == SHAKEN:
                self.opened = True
                events.append(Opened(self.conn, self.endpoint))
            elif event == CONNECTED:
                self._descriptor = value
                if self._is_itself(value):
                    self.end("nobody listens there: the connection met itself", events)
            elif event == CONNECT_FAILED:
                self.end(self._why_not_connected(), events)
            elif event == DISCONNECTED:
                self.end(self._trouble or "the other side closed the connection, or no longer answers", events)
            else:
                self._trouble = TROUBLES[event]
            if self.over:
                break
        return False

    def tick(self, now: float, events: list[Event]) -> None:
        if self.opened or self.over:
            return
        if self._descriptor >= 0:
            # Its words may lie unread; not for ever, or who says a byte now and then is never given up.
            if now >= self.deadline and (now >= self.deadline + BEHIND_S or not self.has_unread()):
                self.end(f"it took the connection but did not shake hands within {self._handshake_s:g} s", events)
        elif now >= self._connect_until:
            self.end(f"it did not answer within {self._connect_s:g} s", events)

    def is_waiting(self) -> bool:
        return not self.opened

    def has_unread(self) -> bool:
        """Whether its other end has said something that ZeroMQ's thread has not read yet."""
        return has_unread(self._descriptor)

    def end(self, reason: str, events: list[Event]) -> None:
        self.over = True
        if self.opened:
            while (frame := self.bare.read()) is not None:
                if frame.more:
                    self.bare.skip_rest()
                else:
                    events.append(Heard(self.conn, content(frame)))
        events.append(Lost(self.conn, f"{self.endpoint}: {reason}"))
        self._ended(self)

    def _hear(self, frame: Frame, events: list[Event]) -> bool:
        """False: that was the end of it."""
        if not self.opened:
            self.look(events)  # the handshake was told there before the first frame came
            if not self.opened:
                return False
        if frame.more:
            self.bare.skip_rest()
            self.end(SEVERAL_PARTS, events)
            return False
        events.append(Heard(self.conn, content(frame)))
        return True

    def _is_itself(self, descriptor: int) -> bool:
        if not self.endpoint.startswith("tcp:"):
            return False
        with self._shears.holding(descriptor) as connection:
            return connection is not None and is_itself(connection)

    def _why_not_connected(self) -> str:
        if time.monotonic() >= self.deadline - 0.1:
            return f"it did not answer within {self._handshake_s:g} s"
        if self.endpoint.startswith("ipc:"):
            return "nobody listens there"
        return "nobody listens there, or there is no way to it, or its name cannot be looked up"


TROUBLES = {
    HANDSHAKE_FAILED: "the connection ended before hands were shaken",
    HANDSHAKE_WRONG: "it does not speak ZeroMQ, or wants keys that we do not have",
    HANDSHAKE_REFUSED: "it refused our keys",
}
