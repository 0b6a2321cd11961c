"""How a thread that pushes without a pause lets those work that carry its messages on.

A busy Python thread keeps the interpreter for 5 ms each time that another asks for it, and the thread that stores and
the one that sends ask at each of their steps. So what is pushed in a loop would gather for a second before it left. A
pusher therefore waits, once a segment, until such a thread has finished what it is at.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

GIVEN_WAY_S: Final = 0.001  # at most so long
SEGMENTS_A_TURN: Final = 8  # begun in one turn of an event loop, after which it gives way as a thread does
LONGEST_NAP_ON_LOOP_S: Final = 0.002  # at most, where a thread naps for longer: it has others to turn for


class Turn:
    """Begun and ended by one thread; any other may give way to it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._thread = 0
        self._is_on = False

    def begin(self) -> None:
        # A new lock each time: who gives way may be interrupted (Ctrl-C) when he has just got the old one, and keep it.
        self._lock = lock = Lock()
        lock.acquire()
        self._thread = get_ident()
        self._is_on = True

    def end(self) -> None:
        self._is_on = False
        self._lock.release()

    @contextmanager
    def outside(self) -> Generator[None]:
        """For what needs no interpreter, such as waiting for a disk: meanwhile nobody gives way. Nothing if it is not
        begun."""
        if not self._is_on:
            yield
            return
        self.end()
        try:
            yield
        finally:
            self.begin()

    def give_way(self) -> None:
        """Waits for its end, at most a millisecond; at once back if nothing is on, or if it is the caller's own."""
        if self._is_on and self._thread != get_ident():
            lock = self._lock
            if lock.acquire(timeout=GIVEN_WAY_S):
                lock.release()


class InTurn:
    """How much an event loop begins in one of its turns. It has others to turn for, and does not wait, unless one of
    its turns pushes segment after segment: then it stands still by its own will, and what it pushes lies in memory for
    as long."""

    def __init__(self) -> None:
        # The loop that pushed last, and segments begun in this turn of it.
        self._of: tuple[AbstractEventLoop | None, int] = None, 0

    def may_wait(self, loop: AbstractEventLoop) -> bool:
        """This loop begins one more segment: whether it is to wait for those who carry it on, as a thread does."""
        known, begun = self._of
        if known is not loop:
            begun = 0
            loop.call_soon(self._turned)
        self._of = loop, begun + 1
        return begun >= SEGMENTS_A_TURN

    def _turned(self) -> None:
        self._of = None, 0
