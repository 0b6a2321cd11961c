"""What stays in an outbox when its process leaves: how much of it is not due yet, and how much was there before."""

from __future__ import annotations

from math import inf
from typing import Final

from msgspec import Struct

from zerowait.outbox.outbox import Outbox
from zerowait.outbox.row import unpack_gone

_WHOLE: Final = """
SELECT channel, due IS NOT NULL AND due > ?, epoch < ?, sum(count), min(due) FROM message
WHERE state = 0 AND gone IS NULL GROUP BY 1, 2, 3
"""
_PARTLY: Final = """
SELECT channel, due IS NOT NULL AND due > ?, epoch < ?, count, due, first, gone FROM message
WHERE state = 0 AND gone IS NOT NULL
"""


class Staying(Struct):
    """Of one channel, in flight or not. earlier: accepted in epochs before the one asked for. later: not due yet;
    later_earlier: both. due_in_s: in how many seconds the first of those is."""

    messages: int = 0
    earlier: int = 0
    later: int = 0
    later_earlier: int = 0
    due_in_s: float = inf


def staying(box: Outbox, epoch: int) -> dict[str, Staying]:
    """By channel. The outbox's thread only. Raises StoreError."""
    found: dict[str, Staying] = {}
    now = box.now_us()
    bindings = (now, epoch)
    rows = [(*row, 0, None) for row in box.read(_WHOLE, bindings)] + box.read(_PARTLY, bindings)
    for channel, is_later, is_earlier, count, due, first, gone in rows:
        if gone is not None:
            count -= len(unpack_gone(gone, first) or ())
        row = found.setdefault(box.ledger.channels[channel], Staying())
        row.messages += count
        row.earlier += count if is_earlier else 0
        if is_later:
            row.later += count
            row.later_earlier += count if is_earlier else 0
            row.due_in_s = min(row.due_in_s, (due - now) / 1e6)
    return found
