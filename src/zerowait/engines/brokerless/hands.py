"""The side of the handlers: their work is told, their ends of runs are taken, and whether they turn is watched."""

from __future__ import annotations

import time
from collections.abc import Sequence

from zerowait.engines.brokerless.counter import Counter
from zerowait.engines.brokerless.protocol.core import Core
from zerowait.engines.engine import Handlers

BEAT_MS = 300  # a loop that is well has turned within this


class Hands:
    """On the network thread."""

    def __init__(self, core: Core, counter: Counter) -> None:
        self._core = core
        self._counter = counter
        self._handlers: Handlers | None = None

    def __bool__(self) -> bool:
        """Whether there are any."""
        return self._handlers is not None

    def serve(self, handlers: Handlers) -> None:
        self._handlers = handlers
        self._core.serve(handlers.services)

    def forget(self) -> None:
        """They are closed: nothing of them turns any more, and nothing is wrong with that."""
        self._handlers = None

    def ready(self, channel: str) -> None:
        if self._handlers is not None:
            self._handlers.ready(channel)

    def cancel(self, box: int, ranges: Sequence[tuple[int, int, int]]) -> None:
        """Nobody waits for the answers to these any more; no ranges: to none of that box."""
        if self._handlers is not None:
            self._handlers.cancel(box, ranges)

    def take(self) -> None:
        """What has ended since the last turn, after what was given by then of streams that have ended."""
        if self._counter:
            finished = self._counter.take()
            if flows := self._counter.take_flows():
                self._core.flow(flows)
            self._core.finish(finished)

    def feel(self) -> None:
        """How long their loop has not turned, for who asks us."""
        if self._handlers is not None:
            self._core.still_ms = max(0, int((time.monotonic() - self._handlers.beat()) * 1_000) - BEAT_MS)

    def watch(self) -> None:
        """Whether their loop turns: what blocks it is named in the log. To be called about four times a second."""
        if self._handlers is not None:
            self._handlers.watch(time.monotonic())
