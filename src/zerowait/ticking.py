"""Which process pushes when a handler is due by the clock: the one that is first at the mark which all share.

The mark is a small file of the namespace, under a lock that is held for the moment of a look and no longer: so nobody
has to be elected, and whoever dies is not missed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from zerowait.engines.brokerless.home import own_folder
from zerowait.engines.brokerless.locks import FileLock
from zerowait.errors import Closed
from zerowait.handlers.registry import HandlerSpec
from zerowait.handlers.rhythm import look

log = logging.getLogger("zerowait")

BUSY_S = 0.02  # until the next look if another process looks right now
RETRY_S = 1.0
LONGEST_S = 30.0  # the wall clock may be set meanwhile


class Ticking:
    """Pushes to the channel of each handler when it is due. push: takes a channel, and after how many seconds what has
    not begun is worth nothing any more. folder: of the marks. On the loop of `run`, but for the looks themselves."""

    def __init__(self, specs: Sequence[HandlerSpec], folder: Path, push: Callable[[str, float | None], object]) -> None:
        self._specs = [spec for spec in specs if spec.rhythm is not None]
        self._folder = folder
        self._push = push
        self._troubled: set[str] = set()

    async def run(self) -> None:
        """Until it is cancelled."""
        if not self._specs:
            return
        while True:
            # A look is a lock and a few bytes, on a disk that may stand still: not on the loop.
            again = [await asyncio.to_thread(self.look, spec) for spec in self._specs]
            await asyncio.sleep(min(LONGEST_S, max(0.0, min(again) - time.time())))

    def look(self, spec: HandlerSpec) -> float:
        """Pushes if it is due and nobody has yet; gives the wall time of the next look."""
        try:
            again = self._look(spec)
        except Closed:  # the app has ended meanwhile
            return time.time() + RETRY_S
        except Exception as error:
            if spec.channel not in self._troubled:
                self._troubled.add(spec.channel)
                log.error("%s is not run by the clock until this is mended: %r", spec.channel, error)
            return time.time() + RETRY_S
        if spec.channel in self._troubled:
            self._troubled.discard(spec.channel)
            log.info("%s is run by the clock again", spec.channel)
        return again

    def _look(self, spec: HandlerSpec) -> float:
        assert spec.rhythm is not None
        own_folder(self._folder)
        lock = FileLock.take(self._folder / spec.channel)
        if lock is None:
            return time.time() + BUSY_S
        try:
            found = look(spec.rhythm, _mark(lock.read()), time.time())
            # Before the push: a process that dies between leaves one out, and never doubles it.
            lock.write(f"{found.mark:.6f}\n".encode())
        finally:
            lock.release()
        if found.missed is not None:
            at = datetime.fromtimestamp(found.missed, UTC)
            log.warning("%s was due at %s, when no process ran that would do it: left out", spec.channel, at)
        if found.fire:
            left = found.again - time.time()
            self._push(spec.channel, left if left > 0 else None)
        return found.again


def _mark(content: bytes) -> float | None:
    try:
        return float(content)
    except ValueError:  # new, or cut off by a crash
        return None
