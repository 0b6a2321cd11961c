"""The store thread: it owns the outboxes on disk, so that an fsync never stops anything else.

It commits what has gathered while the last commit ran. Nobody waits for more: a message alone goes at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from logging import getLogger
from threading import Lock, Thread
from time import monotonic
from typing import Any, Final, Protocol, TypeVar

from msgspec import Struct

from zerowait.errors import Closed, StoreError
from zerowait.message import LASTING, Change, Segment
from zerowait.outbox.attempt import Notice
from zerowait.outbox.outbox import Outbox
from zerowait.turns import Turn

T = TypeVar("T")

LONGEST_WAIT: Final = 3_600.0  # seconds; the system bears no wait of centuries, and a look an hour costs nothing
RETRY: Final = 1.0  # seconds between attempts to write a failing file
REST: Final = 0.05  # seconds without work after which a log is shortened and free pages are given back

log = getLogger("zerowait.outbox")


class Offer(Protocol):
    """Called on the store thread after a turn that stored or read something, or failed, or mended.

    segments: for dispatch. done: the highest number given by `submit` whose changes are durable.
    """

    def __call__(self, box: Outbox, segments: list[Segment], done: int, /) -> object: ...


class _Handed(list[Change]):
    """Changes on their way to an outbox. An outbox keeps what it has read of them, whatever goes wrong afterwards."""

    is_read = False

    def __iter__(self) -> Iterator[Change]:
        self.is_read = True
        return super().__iter__()


class _Kept(Struct, eq=False):
    """One outbox, and what is in hand for it."""

    box: Outbox
    changes: list[Change]
    drawn: dict[str, int]
    submitted: int = 0  # the last number whose changes the outbox has been given
    done: int = 0
    retry_at: float | None = None


class Keeper:
    """offer: see Offer. Starts its thread at once; `stop` ends it."""

    def __init__(self, offer: Offer, *, name: str = "zerowait-store") -> None:
        self._offer = offer
        self._lock = Lock()
        self._number = 0
        self._submissions: deque[tuple[Outbox, int, int, Sequence[Change], Mapping[str, int]]] = deque()
        self._asked: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._kept: dict[int, _Kept] = {}
        self._turning = Turn()  # while the thread is awake, and not waiting for a disk
        self._bell = Lock()
        self._bell.acquire()
        self._is_asleep = False
        self._is_called = False
        self._is_stopping = False
        self._has_ended = False
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    # Any thread

    def add(self, opener: Callable[[], Outbox]) -> Future[Outbox]:
        """Open an outbox on the store thread and keep it from then on. The future has it, or what opening raised."""

        def open_and_keep() -> Outbox:
            box = opener()
            box.outside = self._turning.outside
            self._kept[id(box)] = _Kept(box, [], {})
            return box

        return self.ask(open_and_keep)

    def submit(self, box: Outbox, epoch: int, changes: Sequence[Change], drawn: Mapping[str, int]) -> int:
        """Have these changes made, in the order of submission. `offer` reports the number it gives as done.

        epoch: of the opening for which they were decided. If the outbox has begun another since, what is not `LASTING`
        is left out: the next opening was offered these messages as they were, and decides about them anew.
        """
        with self._lock:  # the order of the numbers is the order of the queue
            self._number += 1
            number = self._number
            self._submissions.append((box, number, epoch, changes, drawn))
        self.wake()
        return number

    def wake(self) -> None:
        """There is something in an intake. Cheap when the thread is awake."""
        self._is_called = True
        if self._is_asleep:
            self._is_asleep = False
            try:
                self._bell.release()
            except RuntimeError:
                pass  # two of us at once: it rings already

    def give_way(self) -> None:
        """For a thread that pushes without a pause."""
        self._turning.give_way()

    def ask(self, question: Callable[[], T]) -> Future[T]:
        """Run it on the store thread, between turns."""
        answer: Future[T] = Future()
        self._asked.append((question, answer))
        self.wake()
        if self._has_ended or not self._thread.is_alive():
            self._refuse()
        return answer

    def remove(self, box: Outbox) -> Future[None]:
        """Close an outbox after a last turn and keep it no more."""

        def close() -> None:
            self._collect()  # what was submitted before, and has come since the turn began
            kept = self._kept.pop(id(box), None)
            if kept is not None:
                self._close(kept)

        return self.ask(close)

    def stop(self, timeout: float | None = None) -> bool:
        """A last turn of each outbox, close them, end the thread; True: it has ended within `timeout` seconds."""
        self._is_stopping = True
        self.wake()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # The thread

    def _run(self) -> None:
        self._turning.begin()
        try:
            self._work()
        finally:
            self._turning.end()

    def _work(self) -> None:
        while True:
            self._is_called = False
            self._collect()
            self._answer()
            wait = self._turn_all()
            if self._is_stopping:
                break
            if wait is None or wait > 0:
                self._sleep(wait)
        self._collect()
        for kept in list(self._kept.values()):
            self._close(kept)
        self._kept.clear()
        self._has_ended = True  # before the last look: whoever asks from here on refuses it himself
        self._refuse()

    def _collect(self) -> None:
        while self._submissions:
            box, number, epoch, changes, drawn = self._submissions.popleft()
            kept = self._kept.get(id(box))
            if kept is None:
                continue
            kept.submitted = number
            if epoch != box.epoch:
                kept.changes += [change for change in changes if isinstance(change, LASTING)]
                continue
            kept.changes += changes
            for channel, nbytes in drawn.items():
                kept.drawn[channel] = kept.drawn.get(channel, 0) + nbytes

    def _answer(self) -> None:
        while self._asked:
            question, answer = self._asked.popleft()
            if not answer.set_running_or_notify_cancel():
                continue
            try:
                answer.set_result(question())
            except BaseException as error:
                answer.set_exception(error)

    def _turn_all(self) -> float | None:
        """A turn of each outbox; gives the seconds until the next is wanted, None if nothing is to come."""
        wait: float | None = None
        for kept in list(self._kept.values()):
            now = monotonic()
            if kept.retry_at is None or now >= kept.retry_at:
                self._turn(kept)
            due = kept.box.next_due() if kept.retry_at is None else max(0.0, kept.retry_at - monotonic())
            if due is not None and (wait is None or due < wait):
                wait = due
        return wait

    def _turn(self, kept: _Kept) -> None:
        box = kept.box
        changes, drawn, submitted = _Handed(kept.changes), kept.drawn, kept.submitted
        kept.changes, kept.drawn = [], {}
        mended = kept.retry_at is not None
        before = box.turns
        try:
            segments = box.turn(changes, drawn)
        except StoreError:
            kept.retry_at = monotonic() + RETRY
            self._give(box, [], kept.done)
            return
        except Exception as error:
            # A thread that died here would leave everybody waiting for ever; a bug that is told is mended.
            log.exception("A turn of the outbox %s failed in a way that it should not", box.path)
            if box.intake.broken is None:
                box.notices.append(Notice("failed", f"The outbox {box.path} failed.", reason=repr(error)))
            box.intake.broken = StoreError(
                f"The outbox {box.path} failed: {error!r}. See the log.", path=box.path or ""
            )
            kept.retry_at = monotonic() + RETRY
            if not changes.is_read:  # else they would be made twice
                kept.changes, kept.drawn = list(changes), drawn
            self._give(box, [], kept.done)
            return
        kept.retry_at = None
        if segments or mended or submitted != kept.done or box.turns != before or box.notices:
            kept.done = submitted
            self._give(box, segments, submitted)
        box.rest(idle=False)

    def _give(self, box: Outbox, segments: list[Segment], done: int) -> None:
        try:
            self._offer(box, segments, done)
        except Exception:
            log.exception("What the outbox %s gave was not taken", box.path)

    def _sleep(self, wait: float | None) -> None:
        if self._wait(REST if wait is None or wait > REST else wait):
            return
        if wait is not None and wait <= REST:
            return
        more = True
        while more and not self._is_called:
            rested = [kept.box.rest() for kept in self._kept.values()]
            more = True in rested
        self._wait(wait - REST if wait is not None else None)

    def _wait(self, wait: float | None) -> bool:
        """Until called; False: the time was over first."""
        self._is_asleep = True
        # Called between our last look and now? Whoever calls from here on sees that we sleep.
        with self._turning.outside():
            rung = self._is_called or self._bell.acquire(timeout=-1 if wait is None else min(wait, LONGEST_WAIT))
        self._is_asleep = False
        return rung

    def _close(self, kept: _Kept) -> None:
        try:
            if kept.changes or kept.drawn:
                segments = kept.box.turn(kept.changes, kept.drawn)
                self._give(kept.box, segments, kept.submitted)
        except StoreError:
            pass  # close tries once more, and says so to whoever waits
        except Exception:
            log.exception("The last turn of the outbox %s failed", kept.box.path)
        try:
            kept.box.close()
        except Exception:
            log.exception("The outbox %s was not closed as it should be", kept.box.path)
        if kept.box.notices:
            self._give(kept.box, [], kept.done)

    def _refuse(self) -> None:
        while self._asked:
            try:
                _, answer = self._asked.popleft()
            except IndexError:
                return
            if answer.set_running_or_notify_cancel():
                answer.set_exception(Closed("The store thread has ended: nothing can be asked of outboxes any more."))
