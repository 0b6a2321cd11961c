"""The time by which an outbox waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

# It goes on while the machine sleeps: what is due in an hour is due in an hour, lid closed or not.
_STEADY: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
JUMP_US: Final = 100_000  # so far off is a clock that was set; what is less is corrected bit by bit, and time goes on


def steady_ns() -> int:
    return time.clock_gettime_ns(_STEADY)


class Clock:
    """The outbox's own time. wall: where the last life left off, microseconds UTC. steady: nanoseconds on a clock that
    no one sets, for who has time of his own. seconds: for waits that a sleep of the machine should not count for."""

    def __init__(self, now_us: Callable[[], int], wall: int, steady: Callable[[], int] | None = None) -> None:
        self._now_us = now_us
        self._steady_ns = steady or steady_ns
        self.seconds: Callable[[], float] = (lambda: steady() / 1e9) if steady is not None else time.monotonic
        # A wall clock that was set back between two lives: no time has passed.
        self._base = max(now_us(), wall)
        self._started = self._steady_ns()

    def now(self) -> int:
        return self._base + (self._steady_ns() - self._started) // 1_000

    def shift(self) -> int:
        """What to add to the caller's time; what is less than a jump is not made one."""
        ahead = self.now() - self._now_us()
        return ahead if abs(ahead) > JUMP_US else 0
