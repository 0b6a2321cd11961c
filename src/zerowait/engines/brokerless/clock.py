"""The clock of the protocol."""

from __future__ import annotations

import time

# macOS has no CLOCK_BOOTTIME; its CLOCK_MONOTONIC runs while the machine sleeps.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def clock() -> float:
    """Seconds on a clock that runs while the machine sleeps: permissions must not outlive a suspend (rules §3.4)."""
    return time.clock_gettime(_CLOCK)
