"""What all parts of an open client stand on: its name, its settings, its clock, its network thread and who is there."""

from __future__ import annotations

import os
import sys
import time
import weakref
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from zerowait.callbacks import Callbacks
from zerowait.engines.brokerless.clock import clock
from zerowait.engines.brokerless.telling import Telling
from zerowait.errors import ContractMismatch, UsageError
from zerowait.outbox.intake import Limits
from zerowait.pending import Promise
from zerowait.results import Meeting

if TYPE_CHECKING:
    from zerowait.engines.brokerless.node import Node
    from zerowait.settings import Settings


class Ground:
    """node: made by whoever opens it; parts that are made before it look for it only when they are asked."""

    node: Node

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.settings = settings
        self.pid = os.getpid()
        self.callbacks = Callbacks(name)
        self.started_at = datetime.now(UTC)
        # One reading of the wall clock for a life: its jumps neither expire nor delay anything (rules §8.1).
        self._offset_us = int(time.time() * 1e6 - clock() * 1e6)
        self.telling = Telling(name, self.callbacks)
        limits = partial(
            Limits,
            message_bytes=settings.message_bytes,
            letters=settings.dead_letters,
            letter_days=settings.dead_letter_days,
            choice_days=settings.outcomes_days,
            store_grace=settings.store_grace,
            ids=settings.ids,
            id_hours=settings.ids_hours,
        )
        self.memory_limits = limits(messages=settings.memory_messages, nbytes=settings.memory_bytes)
        self.disk_limits = limits(messages=settings.outbox_messages, nbytes=settings.outbox_bytes)

    def wall_us(self, now: float) -> int:
        return self._offset_us + int(now * 1e6)

    def now_us(self) -> int:
        return self.wall_us(clock())

    def promise(self, line: str = "await it") -> Promise[Any]:
        return Promise(self.callbacks, line)

    # -- who is there --------------------------------------------------------------------------------------------------

    def peers(self, role: str, channel: str) -> list[str]:
        of = {"subscribers": self.node.subscribers, "publishers": self.node.publishers}
        return of.get(role, self.node.workers)(channel)

    def when_peers(self, role: str, channel: str, n: int) -> Promise[None]:
        if n < 1:
            raise UsageError(f"at_least(n) takes a number from 1 on, not {n!r}.")
        caller = sys._getframe(2)  # of `at_least`
        where = f"{caller.f_code.co_filename}:{caller.f_lineno}"
        said = f"{role}({channel!r}).at_least({n})"
        meeting = Meeting(self.callbacks, f"write `await zw.{said}`", where=where, said=said)
        # Weakly: who waits for it keeps it, and one that nobody waits for ends, and says so.
        kept = weakref.ref(meeting)

        def look() -> bool:
            meeting = kept()
            if meeting is None or meeting.is_over:
                return True
            there = len(self.peers(role, channel))
            misfits = self.node.misfits(channel) if role == "workers" else ()
            meeting.seen = self._who(role, channel) if there < n else ""
            if there >= n:
                meeting.set(None)
            elif misfits and there + len(misfits) >= n:
                who, mismatch = misfits[0]
                said = f"{who} expects {mismatch.expected}, and {mismatch.sent} is pushed here: {mismatch.difference}"
                meeting.fail(ContractMismatch(difference=said, channel=channel))
            return meeting.is_over

        self.node.when_peers_change(look)
        return meeting

    def _who(self, role: str, channel: str) -> str:
        there = self.peers(role, channel)
        if there:
            return f"there {'is' if len(there) == 1 else 'are'} {len(there)} ({', '.join(there)})"
        return "there is none." + (self.served_in_words(channel) if role == "workers" else "")

    def served_in_words(self, channel: str) -> str:
        """Who serves this channel and does not answer; else what is served in place of it, and how its addresses are.
        On the network thread."""
        if silent := self.node.silent(channel):
            return f" {silent}"
        return self.telling.served_in_words(channel, self.node.served(), self.node.troubles(channel))
