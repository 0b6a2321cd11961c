"""Whether a plain handler computes or waits, as the kernel counts it for its thread.

How long a job takes does not tell: a thread that computes waits, too, five milliseconds and more at a time, while
others have the interpreter. But it does so once in a great many messages, and a handler that waits for something does
so for each. Where the kernel does not count the waits of a thread (it does on Linux), the part of the time in which it
computed must tell: COMPUTES is low, for a thread that computes may wait most of the time.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Final

THREAD: Final[int | None] = getattr(resource, "RUSAGE_THREAD", None)
COMPUTES: Final = 0.25

Reading = tuple[float, int]  # seconds of processor time; how often it has waited


def _read_all() -> Reading:
    assert THREAD is not None
    used = resource.getrusage(THREAD)
    return used.ru_utime + used.ru_stime, used.ru_nvcsw


def _read_time() -> Reading:
    return time.thread_time(), 0


read: Final[Callable[[], Reading]] = _read_time if THREAD is None else _read_all


def judge(before: Reading, after: Reading, messages: int, seconds: float) -> tuple[bool, float]:
    """Of a job of many messages: whether its handler waits, and how many of these seconds are its own."""
    computed, waits = after[0] - before[0], after[1] - before[1]
    if THREAD is None:
        waits = messages if computed < COMPUTES * seconds else 0
    if 2 * waits >= messages:
        return True, seconds
    return False, min(computed, seconds)
