"""Which process pushes when a handler is due by the clock: the one that is first at the mark which all share. And that
one runs it at a time.

The mark is a small file of the namespace, under a lock that is held for the moment of a look and no longer: so nobody
has to be elected, and whoever dies is not missed. Beside it is the file of the turn. Who runs the handler, which may be
another process, holds its lock meanwhile, and writes into it, before the handler is called, which time this is: what is
delivered once more, because its process died or was thought to have, is known by that and not run again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from zerowait.engines.brokerless.home import own_folder
from zerowait.engines.brokerless.locks import FileLock
from zerowait.errors import Closed
from zerowait.handlers.registry import HandlerSpec
from zerowait.handlers.rhythm import look
from zerowait.handlers.verdicts import NotRun
from zerowait.message import Verdict
from zerowait.names import new_id

log = logging.getLogger("zerowait")

BUSY_S = 0.02  # until the next look if another process looks right now
RETRY_S = 1.0
LONGEST_S = 30.0  # the wall clock may be set meanwhile
TURN_S = 0.05  # until the next look if another process runs it …
TURN_TRIES = 4  # … and then it goes back to who pushed it, who offers it again, or lets it expire
BEGUN = 16  # times that are kept in mind: no more can be under way, each expires when the next is due


class Ticking:
    """Pushes to the channel of each handler when it is due. push: takes a channel, a name for this time, and after how
    many seconds what has not begun is worth nothing any more. folder: of the marks. On the loop of `run`, but for the
    looks themselves."""

    def __init__(
        self, specs: Sequence[HandlerSpec], folder: Path, push: Callable[[str, str, float | None], object]
    ) -> None:
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
            self._push(spec.channel, f"{new_id():016x}", left if left > 0 else None)
        return found.again


def _mark(content: bytes) -> float | None:
    try:
        return float(content)
    except ValueError:  # new, or cut off by a crash
        return None


def one_at_a_time(spec: HandlerSpec, folder: Path) -> HandlerSpec:
    """One that runs by the clock as it is to be served: see `Turn`. folder: of the marks. Others as they are."""
    if spec.rhythm is None:
        return spec
    turn = Turn(folder / f"{spec.channel}.run")
    return replace(spec, around=turn.around_async if spec.is_async else turn.around)


class Turn:
    """The right to run one handler. Held while it runs, by a lock that ends with its process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self, time: str | None) -> FileLock | None:
        """Until it is released nobody else runs it. None: somebody does. Raises NotRun if this time has begun before,
        StoreError."""
        own_folder(self._path.parent)
        lock = FileLock.take(self._path)
        if lock is None or time is None:
            return lock
        try:
            begun = lock.read().decode(errors="replace").split()
            if time in begun:
                raise NotRun(Verdict.EXPIRED)
            lock.write("\n".join([*begun[1 - BEGUN :], time, ""]).encode())
        except BaseException:
            lock.release()
            raise
        return lock

    def around(self, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """On its thread."""

        def run(name: str | None) -> Any:
            for _ in range(TURN_TRIES):
                if (lock := self.begin(name)) is not None:
                    break
                time.sleep(TURN_S)
            else:
                raise NotRun(Verdict.UNSTARTED)
            try:
                return call(name)
            finally:
                lock.release()

        return run

    def around_async(self, call: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        """On the loop, but for the lock, which is on a disk that may stand still."""

        async def run(name: str | None) -> Any:
            for _ in range(TURN_TRIES):
                if (lock := await self._begun(name)) is not None:
                    break
                await asyncio.sleep(TURN_S)
            else:
                raise NotRun(Verdict.UNSTARTED)
            try:
                return await call(name)
            finally:
                lock.release()

        return run

    async def _begun(self, name: str | None) -> FileLock | None:
        beginning = asyncio.ensure_future(asyncio.to_thread(self.begin, name))
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            beginning.add_done_callback(_let_go)  # the thread may have it by now, or be about to
            raise


def _let_go(beginning: asyncio.Future[FileLock | None]) -> None:
    if not beginning.cancelled() and beginning.exception() is None and (lock := beginning.result()) is not None:
        lock.release()
