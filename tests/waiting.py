"""Waiting for a condition: what tests do in place of sleeping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], *, within: float, that: str | None = None) -> T:
    """Waits until the condition is true, and gives what it gave; looks every few milliseconds.

    within: seconds. that: what is waited for, in words, for the failure; else the condition's own source.
    Raises AssertionError when the time is over, with what the condition gave last.
    """
    deadline = time.monotonic() + within
    for pause in _pauses():
        if given := condition():
            return given
        if time.monotonic() >= deadline:
            break
        time.sleep(pause)
    raise AssertionError(f"not within {within:g} s: {that or _words(condition)}; at last it gave {condition()!r}")


async def wait_until_in_loop(condition: Callable[[], T], *, within: float, that: str | None = None) -> T:
    """The same on an event loop, which turns meanwhile."""
    deadline = time.monotonic() + within
    for pause in _pauses():
        if given := condition():
            return given
        if time.monotonic() >= deadline:
            break
        await asyncio.sleep(pause)
    raise AssertionError(f"not within {within:g} s: {that or _words(condition)}; at last it gave {condition()!r}")


def _pauses() -> Iterator[float]:
    pause = 0.001
    while True:
        yield pause
        pause = min(pause * 1.5, 0.02)


def _words(condition: Callable[[], object]) -> str:
    try:
        return " ".join(inspect.getsource(condition).split())
    except (OSError, TypeError):
        return repr(condition)
