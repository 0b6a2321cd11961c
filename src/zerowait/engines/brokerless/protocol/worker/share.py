"""One link's part of a channel's window, and what the owner at its other end may still go by.

Limits are absolute totals since the session began. Lowering one is asking for something back: it counts as given back
only when the owner's WANT has named that CREDIT by its running number. Until then the highest of what was promised
may still be used, and what the owner says it has sent is on its way even if a commit still holds it up."""

from __future__ import annotations

from collections import deque
from math import ceil

from zerowait.engines.brokerless.protocol.frames import Credit, Want

TINY = 1e-6  # what is held is reckoned as a part of a batch's cost, and rounded up


class Share:
    __slots__ = ("booked", "held", "lane", "limit", "promised", "received", "sent", "serial", "survived", "waiting")

    def __init__(self, lane: int = 0) -> None:
        self.lane = lane
        self.limit = 0
        self.serial = 0  # of the CREDIT said last
        self.received = 0  # units since the session began
        self.sent = 0  # likewise, as the owner told last
        self.held = 0.0  # units that are queued or running here
        self.waiting = 0  # messages, as told last
        self.survived = 0  # suspects that have run here since it told of some
        self.promised: deque[tuple[int, int]] = deque([(0, 0)])  # (serial, limit) that the owner may still go by
        self.booked = 0  # what the window reckons with

    def highest(self) -> int:
        if len(self.promised) == 1:
            return self.promised[0][1]
        return max(limit for _, limit in self.promised)

    def outstanding(self) -> int:
        """What may still come."""
        return max(0, max(self.highest(), self.sent) - self.received)

    def allowed(self) -> int:
        """What may still come once the owner knows the limit that was said last."""
        return max(0, self.limit - self.received)

    def committed(self) -> int:
        return ceil(self.held - TINY) + self.outstanding()

    def want(self, frame: Want) -> None:
        self.waiting = frame.waiting
        self.sent = frame.sent
        while len(self.promised) > 1 and self.promised[0][0] < min(frame.seen, self.serial):
            self.promised.popleft()

    def release(self, cost: float) -> None:
        self.held = self.held - cost if self.held - cost > TINY else 0.0

    def say(self, channel: str, limit: int) -> Credit:
        self.serial += 1
        self.limit = limit
        self.promised.append((self.serial, limit))
        while len(self.promised) > 1 and self.promised[0][1] <= limit:
            self.promised.popleft()  # a lower promise before a higher one binds nobody
        return Credit(channel, self.lane, limit, self.serial)

    def higher(self, channel: str, more: int) -> Credit:
        return self.say(channel, max(self.highest(), self.received) + more)

    def lower(self, channel: str, keep: int) -> Credit | None:
        """Asks back all but so much of what may still come; None: that is said already."""
        limit = self.received + keep
        return self.say(channel, limit) if limit < self.limit else None
