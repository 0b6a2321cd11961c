"""The link of a process to itself: what it pushes to a channel that it serves itself goes without a socket."""

from __future__ import annotations

from collections import deque

from zerowait.engines.brokerless.protocol.core import Core

OWNER_END, WORKER_END = -1, -2  # its connections; those of sockets are above zero


class Loop:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._frames: deque[tuple[int, bytes]] = deque()

    def __bool__(self) -> bool:
        """Whether anything is on its way."""
        return bool(self._frames)

    def open(self, now: float) -> None:
        """Once; it lasts as long as the process."""
        if OWNER_END not in self._core.links:
            self._core.opened(OWNER_END, now, ours=True, side="owner")
            self._core.opened(WORKER_END, now, ours=False, side="worker")

    def send(self, conn: int, data: bytes) -> None:
        self._frames.append((conn, data))

    def carry(self, now: float) -> None:
        """What was sent on one end arrives at the other."""
        while self._frames:
            conn, data = self._frames.popleft()
            self._core.receive(WORKER_END if conn == OWNER_END else OWNER_END, data, now)
