"""What stays in outboxes when a process leaves, and for whom it waits."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from zerowait.engines.brokerless.node import Node
from zerowait.engines.brokerless.telling import Stays
from zerowait.errors import ZerowaitError
from zerowait.estate import Estate

if TYPE_CHECKING:
    from zerowait.outbox.outbox import Outbox

ASKED_S = 0.5  # for all of it: who leaves does not wait long for words


def remains(estate: Estate, node: Node) -> dict[tuple[str, str, bool], Stays]:
    """What is known of it, before nobody is there to ask any more: by outbox, channel and durable. What is not answered
    in time is missing."""
    found: dict[tuple[str, str, bool], Stays] = {}
    until = time.monotonic() + ASKED_S
    for box, asked in estate.inventory.staying():
        with suppress(TimeoutError, ZerowaitError):
            rows = asked.result(max(0.0, until - time.monotonic()))
            flying = node.in_flight(box.id)
            there = _there_for(node, box, rows, until)
            for channel, row in rows.items():
                known = found.get((box.name, channel, True), there[channel])
                found[box.name, channel, True] = known.and_(
                    handled=flying.get(channel, 0),
                    later=row.later,
                    due_in_s=row.due_in_s,
                    earlier=row.earlier,
                    later_earlier=row.later_earlier,
                )
    for box in estate.boxes():
        if not box.durable and (channels := box.ledger.unsettled()):
            with suppress(TimeoutError, ZerowaitError):
                there = _there_for(node, box, channels, until)
                found.update({(box.name, channel, False): each for channel, each in there.items()})
    return found


def _there_for(node: Node, box: Outbox, channels: Iterable[str], until: float) -> dict[str, Stays]:
    names = list(channels)
    asked = node.call(lambda: {name: node.there_for(name, box.id) for name in names})
    return asked.result(max(0.0, until - time.monotonic()))
