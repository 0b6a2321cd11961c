"""How much of a channel may still be sent on a link: three verbs."""

from __future__ import annotations

from zerowait.message import UNIT_BYTES


def units(count: int, body_bytes: int) -> int:
    """What a batch costs. Both ends reckon it from the same batch, so they always agree."""
    return count + body_bytes // UNIT_BYTES


class Credit:
    """Absolute totals since the session began (rules §7): nothing is carried over, so what a broken connection
    swallowed cannot be missing, and the same CREDIT heard twice changes nothing. The last batch may overdraw."""

    __slots__ = ("limit", "quiet_since", "sent", "sent_when_told", "serial", "told")

    def __init__(self) -> None:
        self.limit = 0
        self.sent = 0
        self.serial = 0  # of the CREDIT seen last; WANT tells it back, which is what makes a lowered limit count
        self.told = 0  # how much waiting was told last
        self.sent_when_told = 0
        self.quiet_since: float | None = None  # more was told to wait than does, since then

    def grant(self, limit: int, serial: int) -> bool:
        """Gives whether the limit fell, so that it must be confirmed."""
        if serial <= self.serial:
            return False
        lowered = limit < self.limit
        self.limit, self.serial = limit, serial
        return lowered

    def left(self) -> int:
        return self.limit - self.sent

    def spend(self, cost: int) -> None:
        assert self.left() > 0, "sent without credit"
        self.sent += cost

    def refund(self, cost: int) -> None:
        """What was to wait for a commit has not been sent and never will be."""
        self.sent -= cost
