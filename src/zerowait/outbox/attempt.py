"""What goes into one transaction of an outbox, and what people should hear of."""

from __future__ import annotations

from msgspec import Struct

from zerowait.outbox.claims import Claiming
from zerowait.outbox.known import Twin
from zerowait.outbox.ledger import Tally
from zerowait.outbox.row import Fresh
from zerowait.outbox.settlement import Dropped, Settlement
from zerowait.outbox.stubs import Choosing


class Notice(Struct, frozen=True):
    """Something that people should know; text says it."""

    kind: str  # "damaged", "letters dropped", "other content", "failed", "mended"
    text: str
    channel: str = ""
    count: int = 0
    reason: str = ""  # of "failed": in the operating system's words, as far as it said any


class Attempt(Struct):
    """A transaction, and what is true once it is durable."""

    settlement: Settlement
    claiming: Claiming
    choosing: Choosing
    tally: Tally
    ids: dict[str, int]
    fresh: list[Fresh]
    changes: int  # so many of the outbox's changes, and of the rows that it sets aside
    spoilt: int
    dropped: Dropped
    expiry_at: int | None
    turn: int
    new: list[Fresh]  # of the fresh ones; the others came again, by their ids
    twins: list[Twin]
