"""Bare sockets, for peers that know nothing of zerowait. The guarantees are ZeroMQ's, and no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from zerowait.engines.brokerless.bare import CONNECT_FAILED, DISCONNECTED, READABLE, SHAKEN, Bare, Frame, Monitor
from zerowait.engines.brokerless.dialled import FRAMES_A_TURN, TROUBLES
from zerowait.engines.brokerless.wire_events import Event, PlainDialled, PlainHeard, PlainJoined, PlainParted

PARTS_MOST = 64
DIALLING = CONNECT_FAILED | DISCONNECTED | SHAKEN
STATES: Mapping[int, Literal["cut", "dialling", "joined"]] = {
    DISCONNECTED: "cut",
    CONNECT_FAILED: "dialling",
    SHAKEN: "joined",
}
PARTED = "the other side closed the connection, or is gone"


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

    def send_parts(self, parts: Sequence[bytes]) -> bool | None:
        return self.bare.write_parts(parts)

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


class WatchedLine(PlainLine):
    """One that connects to a single endpoint, and tells of its connection: by its end what was sent by it is lost."""

    def __init__(self, number: int, bare: Bare, monitor: Monitor, *, message_bytes: int) -> None:
        super().__init__(number, bare, hears=True, message_bytes=message_bytes)
        self.monitor = monitor

    def look(self, events: list[Event]) -> bool:
        for event, _ in self.monitor.read():
            if event == SHAKEN:
                events.append(PlainJoined(self.number))
            elif event == DISCONNECTED:
                while (frame := self.bare.read()) is not None:  # what came before the end
                    events.append(self._whole(frame))
                events.append(PlainParted(self.number, PARTED))
            elif event in TROUBLES:
                events.append(PlainParted(self.number, TROUBLES[event]))
        return False


class DiallingLine(PlainLine):
    """One that connects to others, and tells of each connection whether ZeroMQ looks after it. endpoints: as they were
    connected to, and whether for IPv6."""

    def __init__(
        self,
        number: int,
        bare: Bare,
        monitor: Monitor,
        *,
        hears: bool,
        message_bytes: int,
        endpoints: Mapping[str, bool],
    ) -> None:
        super().__init__(number, bare, hears=hears, message_bytes=message_bytes)
        self.monitor = monitor
        self._endpoints = endpoints

    def look(self, events: list[Event]) -> bool:
        for event, address in self.monitor.read_addresses():
            if event in STATES:
                events.extend(PlainDialled(self.number, each, STATES[event]) for each in self._meant(address))
        return False

    def redial(self, endpoint: str) -> None:
        """Never a second connection: what there is of the first ends."""
        self.bare.disconnect(endpoint)
        self.bare.connect(endpoint, ipv6=self._endpoints[endpoint])

    def _meant(self, address: str) -> list[str]:
        if address in self._endpoints:
            return [address]
        # What a name was looked up as. Of several names with the same port, whichever it was: they are all dialled.
        port = address.rpartition(":")[2]
        return [each for each in self._endpoints if each.rpartition(":")[2] == port]
