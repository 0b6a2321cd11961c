"""The store thread of a simulated process: `Keeper` without its thread.

A turn takes time, and what it led to is told after that."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from msgspec import Struct, field

from zerowait.errors import StoreError
from zerowait.message import LASTING, Change, Segment
from zerowait.outbox.database import WAL_MOST_PAGES
from zerowait.outbox.outbox import Outbox
from zerowait.testing.timeline import Timeline

RETRY: Final = 1.0  # as the keeper's
Offer = Callable[[Outbox, int, list[Segment], int], None]


class Kept(Struct, eq=False):
    box: Outbox
    changes: list[Change] = field(default_factory=list[Change])
    drawn: dict[str, int] = field(default_factory=dict[str, int])
    submitted: int = 0
    done: int = 0
    retry_at: float | None = None


class Store:
    """offer: called with box, epoch, segments and done when a turn's time is over. turned: at once after what was
    done to a box."""

    def __init__(
        self,
        timeline: Timeline,
        offer: Offer,
        turned: Callable[[Outbox], None],
        takes_s: Callable[[], float],
        awake: Callable[[Callable[[], None]], None],
        shortens: Callable[[], bool],
    ) -> None:
        self._timeline = timeline
        self._offer = offer
        self._turned = turned
        self._takes_s = takes_s
        self._awake = awake
        self._shortens = shortens
        self._asked: deque[Callable[[], None]] = deque()
        self.kept: dict[int, Kept] = {}
        self._number = 0
        self._busy = False
        self._called = False
        self._wake_at: float | None = None
        self.stopped = False

    def add(self, box: Outbox) -> None:
        self.kept[box.id] = Kept(box)
        self.wake()

    def submit(self, box: int, epoch: int, changes: Sequence[Change], drawn: dict[str, int]) -> int:
        self._number += 1
        kept = self.kept[box]
        if epoch == kept.box.epoch:
            kept.changes += changes
            for channel, nbytes in drawn.items():
                kept.drawn[channel] = kept.drawn.get(channel, 0) + nbytes
        else:
            kept.changes += [change for change in changes if isinstance(change, LASTING)]
        kept.submitted = self._number
        self.wake()
        return self._number

    def ask(self, question: Callable[[], None]) -> None:
        self._asked.append(question)
        self.wake()

    def wake(self) -> None:
        if not self._called:
            self._called = True
            if not self._busy:
                self._timeline.call(self._timeline.now, lambda: self._awake(self._work))

    def _work(self) -> None:
        if self._busy or self.stopped or not self._called:
            return
        self._called = False
        while self._asked:
            self._asked.popleft()()
        told = [tell for kept in list(self.kept.values()) if (tell := self._turn(kept)) is not None]
        self._look()
        self._busy = True
        self._timeline.after(self._takes_s(), lambda: self._awake(partial(self._done, told)))

    def _look(self) -> None:
        for kept in self.kept.values():
            self._turned(kept.box)

    def _turn(self, kept: Kept) -> Callable[[], None] | None:
        box, now = kept.box, self._timeline.now
        if kept.retry_at is not None and now < kept.retry_at:
            return None
        changes, drawn, submitted = kept.changes, kept.drawn, kept.submitted
        kept.changes, kept.drawn = [], {}
        mended, before = kept.retry_at is not None, box.turns
        try:
            segments = box.turn(changes, drawn)
        except StoreError:
            kept.retry_at = now + RETRY
            return partial(self._offer, box, box.epoch, [], kept.done)
        kept.retry_at = None
        if segments or mended or submitted != kept.done or box.turns != before or box.notices:
            kept.done = submitted
            box.notices.clear()
            return partial(self._offer, box, box.epoch, segments, submitted)
        return None

    def _done(self, told: list[Callable[[], None]]) -> None:
        if self.stopped:
            return
        self._busy = False
        for tell in told:
            tell()
        for kept in self.kept.values():
            database = kept.box._file.database
            if database is not None and self._shortens():
                database.wal_pages = WAL_MOST_PAGES + 1  # small worlds would never see the log shortened
            kept.box.rest(idle=not self._called)
        self._look()
        if self._called:
            self._work()
        else:
            self._sleep()

    def _sleep(self) -> None:
        waits = [
            kept.box.next_due() if kept.retry_at is None else max(0.0, kept.retry_at - self._timeline.now)
            for kept in self.kept.values()
        ]
        wait = min((wait for wait in waits if wait is not None), default=None)
        if wait is None:
            return
        at = self._timeline.now + max(wait, 0.0001)
        if self._wake_at is None or not self._timeline.now < self._wake_at <= at:
            self._wake_at = at
            self._timeline.call(at, self.wake)

    def is_broken(self) -> bool:
        """Whether something there could not be written, and is to be tried again."""
        return any(kept.retry_at is not None for kept in self.kept.values())

    def stop(self) -> None:
        """Its process is over."""
        self.stopped = True
        for kept in self.kept.values():
            database = kept.box._file.database
            if database is not None:
                kept.box._file.database = None
                database.close(touch=False)  # what it would bring into the file touches nobody any more
        self.kept.clear()
