"""Bare PUSH and PULL sockets, for peers that know nothing of zerowait. The guarantees are ZeroMQ's, and no others."""

from __future__ import annotations

from zerowait.engines.brokerless.bare import READABLE, Bare, Frame
from zerowait.engines.brokerless.dialled import FRAMES_A_TURN
from zerowait.engines.brokerless.wire_events import Event, PlainHeard

PARTS_MOST = 64


class PlainLine:
    """message_bytes: of all parts of a message together; what is over that, or over 64 parts, is thrown away."""

    writable_tells = True

    def __init__(self, number: int, bare: Bare, *, hears: bool, message_bytes: int) -> None:
        self.number = number
        self.bare = bare
        self.held = False
        self._hears = hears
        self._message_bytes = message_bytes

    def send(self, payload: bytes) -> bool:
        return self.bare.write(payload)

    def read(self, events: list[Event], sure: bool) -> bool:
        if self.held or not ((sure and self._hears) or self.bare.is_ready() & READABLE):
            return False
        for n in range(FRAMES_A_TURN):
            frame = self.bare.read()
            if frame is None:
                return False
            events.append(self._whole(frame))
            if n == 0 and not self.bare.is_ready() & READABLE:
                return False
        return True

    def _whole(self, frame: Frame) -> PlainHeard:
        parts = [frame.bytes]
        room = self._message_bytes - len(parts[0])
        while frame.more:
            following = self.bare.read()
            assert following is not None, "ZeroMQ gives a message whole"
            frame = following
            room -= len(frame)
            if room < 0 or len(parts) == PARTS_MOST:
                if frame.more:
                    self.bare.skip_rest()
                return PlainHeard(self.number, [*parts, b""], complete=False)
            parts.append(frame.bytes)
        return PlainHeard(self.number, parts)
