"""Notices a handler that blocks the event loop, and says which line it stands on.

Looks from another thread (the engine's, once in a while), for the loop itself cannot look while it is blocked.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from zerowait.handlers.reading import called
from zerowait.handlers.verdicts import OUR_CODE

log = logging.getLogger("zerowait.handlers")

BLOCKED = 1.0
LOOK = 0.5  # what one look counts for at most


class Watchdog:
    """Says it once when the loop has stood for a second, and again each time that has doubled."""

    def __init__(self, handlers: Iterable[Callable[..., Any]]) -> None:
        self._names: dict[CodeType, str] = {}
        for fn in handlers:
            code = getattr(_unwrapped(fn), "__code__", None)
            if code is not None:
                self._names[code] = called(fn)
        self._beat = 0.0
        self._looked_at = 0.0
        self._stood = 0.0
        self._next = BLOCKED

    def watch(self, beat: float, now: float, thread: int) -> None:
        """beat: when the loop last turned; thread: the one it runs on. Both times as `time.monotonic`."""
        if beat != self._beat:
            self._beat, self._looked_at, self._stood, self._next = beat, now, 0.0, BLOCKED
            return
        # By our own looks, not by the beat's age: after a pause of the whole process (SIGSTOP, a debugger, a sleeping
        # machine) the beat is old although nobody has blocked anything.
        self._stood += min(LOOK, now - self._looked_at)
        self._looked_at = now
        stood = self._stood
        if stood < self._next:
            return
        frame = sys._current_frames().get(thread)  # pyright: ignore[reportPrivateUsage]
        if frame is None or Path(frame.f_code.co_filename).name == "selectors.py":
            return  # it waits for something to do: starved, not blocked
        while self._next <= stood:
            self._next *= 2
        name, path, line = self._where(frame)
        log.warning(
            "%s has blocked the event loop for %.1f s at %s:%d: no other async handler of this process runs meanwhile. "
            "Await what waits, or make it a plain `def` handler, which has threads",
            name,
            stood,
            path,
            line,
        )

    def _where(self, frame: FrameType) -> tuple[str, str, int]:
        """The handler and the line in it; without one, the innermost line that is neither ours nor asyncio's."""
        at: FrameType | None = frame
        while at is not None:
            if (name := self._names.get(at.f_code)) is not None:
                return name, at.f_code.co_filename, at.f_lineno
            at = at.f_back
        for each, line in traceback.walk_stack(frame):
            path = each.f_code.co_filename
            if not path.startswith(OUR_CODE) and Path(path).parent.name != "asyncio":
                return each.f_code.co_qualname, path, line
        return frame.f_code.co_qualname, frame.f_code.co_filename, frame.f_lineno


def _unwrapped(fn: Callable[..., Any]) -> Callable[..., Any]:
    while (inner := getattr(fn, "__wrapped__", None)) is not None:
        fn = inner
    return fn
