"""What a channel's failures say in the log: a storm of them must not become a storm of lines, and no death is hidden.

a retry         one line a second; the others are counted
a dead letter   a line each, up to ten in ten seconds; the others are counted
what was left out is said at most ten seconds later, and when the channel is closed
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from zerowait.handlers.reading import called
from zerowait.message import Outcome, Verdict

log = logging.getLogger("zerowait.handlers")

RETRY_S = 1.0
SUM_S = 10.0
DEATHS = 10  # lines in SUM_S
LOST = "it is lost to this subscription: events are kept for a group with durable=True, and not for this one"
DEAD = "it is a dead letter now: see `zerowait dead list`"


class Failing:
    """Of one channel; any thread. loop: on which what was left out is said in time. is_kept: whether there are dead
    letters; of events there are none."""

    def __init__(
        self, fn: Callable[..., Any], channel: str, loop: asyncio.AbstractEventLoop, *, is_kept: bool = True
    ) -> None:
        self._dead = DEAD if is_kept else LOST
        self._fn = fn
        self._channel = channel
        self._loop = loop
        self._lock = threading.Lock()
        self._retried_at = 0.0
        self._deaths_since = 0.0
        self._deaths = 0  # lines since then
        self._retries_left_out = 0
        self._deaths_left_out = 0
        self._last_dead: tuple[str, str] = "", ""
        self._awaited = False  # the loop will say what was left out
        self._answers = False  # it is requests that fail

    def tell(self, id: str, reason: str, outcome: Outcome) -> None:
        """One message has failed, for that reason, and this becomes of it."""
        is_dead = outcome.verdict not in (Verdict.RETRY, Verdict.HANDLED)
        self._answers = outcome.verdict is Verdict.HANDLED
        if not (self._may_say_death(id, reason) if is_dead else self._may_say_retry()):
            return
        again = "who asked is told" if self._answers else f"it is tried again in {outcome.after:.3g} s"
        fate = self._dead if is_dead else again
        log.warning(
            "%s failed on message %s of %s: %s; %s",
            called(self._fn),
            id,
            self._channel,
            reason,
            fate,
            extra={"channel": self._channel, "message_id": id},
        )

    def _may_say_retry(self) -> bool:
        with self._lock:
            now = time.monotonic()
            if now - self._retried_at >= RETRY_S:
                self._retried_at = now
                return True
            self._retries_left_out += 1
            self._say_later()
            return False

    def _may_say_death(self, id: str, reason: str) -> bool:
        with self._lock:
            now = time.monotonic()
            if now - self._deaths_since >= SUM_S:
                self._deaths_since, self._deaths = now, 0
            if self._deaths < DEATHS:
                self._deaths += 1
                return True
            self._deaths_left_out += 1
            self._last_dead = id, reason
            self._say_later()
            return False

    def _say_later(self) -> None:
        if not self._awaited:
            self._awaited = True
            with suppress(RuntimeError):  # the loop is closed: what runs on after that was given up
                self._loop.call_soon_threadsafe(self._loop.call_later, SUM_S, self.say_left_out)

    def say_left_out(self) -> None:
        """What had no line of its own."""
        with self._lock:
            retries, deaths, (id, reason) = self._retries_left_out, self._deaths_left_out, self._last_dead
            self._retries_left_out = self._deaths_left_out = 0
            self._awaited = False
        extra = {"channel": self._channel}
        if deaths:
            log.warning(
                "%s: %d more of %s became dead letters: see `zerowait dead list`. The last was %s: %s",
                called(self._fn),
                deaths,
                self._channel,
                id,
                reason,
                extra=extra,
            )
        if retries:
            log.warning(
                "%s: %d more failures of %s; %s",
                called(self._fn),
                retries,
                self._channel,
                "who asked is told" if self._answers else "these messages are tried again",
                extra=extra,
            )
