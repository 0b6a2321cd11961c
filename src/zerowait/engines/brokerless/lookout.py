"""Where to look, and when to sleep: what is to be read of any number of ZeroMQ sockets, for the price of what has come.

ZeroMQ's descriptors are watched by the system's own means: `zmq_poll` over 200 connections and their monitors takes
430 µs, this takes 2. But such a descriptor tells only of changes, and any call on its socket may swallow one. So the
sockets that were written to, or not read to their end, are *hot*: looked at once more before sleeping. Those that took
nothing are *blocked*: the sleep ends when they may take something.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable
from typing import Protocol

from zerowait.engines.brokerless.bare import READABLE, Bare, Monitor
from zerowait.engines.brokerless.bell import Bell
from zerowait.engines.brokerless.wire_events import Event

# A ROUTER does not say when one peer of it can be written to again; it is tried this often, and whenever it stirs.
RETRY_S = 0.005


class Line(Protocol):
    """A socket that is watched. writable_tells: whether its being writable means that what blocked would be taken."""

    bare: Bare

    @property
    def writable_tells(self) -> bool: ...

    def read(self, events: list[Event], sure: bool, /) -> bool:
        """Tells what has come. sure: its descriptor said that there is something. True: look again before sleeping."""
        ...


class Watched(Line, Protocol):
    """One whose connections are watched too."""

    monitor: Monitor

    def look(self, events: list[Event], /) -> bool: ...


Reader = Callable[[list[Event]], bool]


class Lookout:
    def __init__(self) -> None:
        self._bell = Bell()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._bell.descriptor, selectors.EVENT_READ, None)
        self._hot: dict[Line, None] = {}
        self._blocked: set[Line] = set()
        self.ring = self._bell.ring
        self.mute = self._bell.mute

    def watch(self, line: Line) -> None:
        def read(events: list[Event]) -> bool:
            return line.read(events, True)

        self._selector.register(line.bare.descriptor, selectors.EVENT_READ, (line, read))
        self._hot[line] = None  # what happened before is not told

    def watch_connections(self, line: Watched) -> None:
        self._selector.register(line.monitor.descriptor, selectors.EVENT_READ, (line, line.look))

    def unwatch(self, line: Line) -> None:
        """Before its sockets are closed."""
        self._selector.unregister(line.bare.descriptor)
        self._hot.pop(line, None)
        self._blocked.discard(line)

    def unwatch_connections(self, line: Watched) -> None:
        self._selector.unregister(line.monitor.descriptor)

    def touched(self, line: Line, *, blocked: bool) -> None:
        """The socket was used. blocked: it took nothing, and its user waits until it does."""
        self._hot[line] = None
        if blocked:
            self._blocked.add(line)

    def wait(self, events: list[Event], longest_s: float) -> None:
        """Adds what has happened; sleeps, at most so long, if nothing has, nobody rings and nothing is unblocked."""
        hot, self._hot = self._hot, {}
        for line in hot:
            if line.read(events, False):
                self._hot[line] = None
        nap = 0.0 if events or self._hot else longest_s
        if self._blocked:
            nap = self._until_unblocked(nap)
        if self._bell.lie_down():
            nap = 0.0
        ready = self._selector.select(nap)
        self._bell.rise()
        for key, _ in ready:
            told: tuple[Line, Reader] | None = key.data
            if told is None:
                self._bell.hush()
            elif told[1](events):
                self._hot[told[0]] = None

    def _until_unblocked(self, nap: float) -> float:
        for line in self._blocked:
            ready = line.bare.is_ready()
            if ready & READABLE:
                self._hot[line] = None
                nap = 0.0
            elif not line.writable_tells:
                nap = min(nap, RETRY_S)
            elif ready:
                nap = 0.0
        self._blocked.clear()
        return nap

    def close(self) -> None:
        self._bell.close()
        self._selector.close()
        self._hot.clear()
        self._blocked.clear()
