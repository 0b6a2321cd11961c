"""What could not be sent at once. A large frame goes in fragments, between which everything else passes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from zerowait.engines.brokerless.protocol.frames import FRAME_BYTES, fragments

FRAGMENTS_A_TURN = 2


class _Outlet:
    __slots__ = ("fragments", "frames")

    def __init__(self) -> None:
        self.frames: deque[bytes] = deque()
        self.fragments: deque[bytes] = deque()


class Outlets:
    """send: gives False while that connection would block."""

    def __init__(self, send: Callable[[int, bytes], bool]) -> None:
        self._send = send
        self._blocked: dict[int, _Outlet] = {}
        self._serial = 0

    def __bool__(self) -> bool:
        return bool(self._blocked)

    def has_fragments(self) -> bool:
        return any(outlet.fragments for outlet in self._blocked.values())

    def send(self, conn: int, data: bytes, *, passable: bool = True, behind: bool = False) -> None:
        """passable: other frames may pass its fragments, if it is large. behind: it may not pass those of others."""
        outlet = self._blocked.get(conn)
        if len(data) > FRAME_BYTES:
            if outlet is None:
                outlet = self._blocked[conn] = _Outlet()
            self._serial += 1
            pieces = fragments(data, self._serial)
            stays = passable or (behind and outlet.fragments)
            (outlet.fragments if stays else outlet.frames).extend(pieces)
        elif behind and outlet is not None and outlet.fragments:
            outlet.fragments.append(data)
        elif outlet is not None and outlet.frames:
            outlet.frames.append(data)
        elif not self._send(conn, data):
            if outlet is None:
                outlet = self._blocked[conn] = _Outlet()
            outlet.frames.append(data)

    def flush(self) -> None:
        """Tries again what was blocked, and sends the next fragments of what is large."""
        for conn, outlet in list(self._blocked.items()):
            while outlet.frames and self._send(conn, outlet.frames[0]):
                outlet.frames.popleft()
            for _ in range(FRAGMENTS_A_TURN):
                if outlet.frames or not outlet.fragments or not self._send(conn, outlet.fragments[0]):
                    break
                outlet.fragments.popleft()
            if not outlet.frames and not outlet.fragments:
                del self._blocked[conn]

    def finish(self, conn: int) -> None:
        """It is closed: what can still be sent at once is; the rest is not."""
        outlet = self._blocked.pop(conn, None)
        waiting = (*outlet.frames, *outlet.fragments) if outlet is not None else ()
        for data in waiting:
            if not self._send(conn, data):
                break

    def forget(self, conn: int) -> None:
        self._blocked.pop(conn, None)
