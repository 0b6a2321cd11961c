"""Events as handlers get them: from an inbox that several threads take from."""

from __future__ import annotations

from contextlib import nullcontext

from zerowait.engines.brokerless.protocol.publisher.history import block_of
from zerowait.engines.brokerless.protocol.subscriber.inbox import Inbox, Piece
from zerowait.feeding import delivered


def test_an_event_keeps_its_number_though_another_thread_takes_more_before_it_is_looked_at() -> None:
    inbox = Inbox(nullcontext(), 100, renew=lambda: None, notify=lambda: None)
    block = block_of([b"\x01", b"\x02", b"\x03", b"\x04"], (), 1, 0.0)
    source = inbox.source(7, "bank")
    inbox.put(source, Piece((("a", 0, 4),), 11, 4, 1.0, bytes(block.body), block.ends, 0, 1, {1: {"at": "1"}}))
    first, second = inbox.take(2), inbox.take(2)
    assert first is not None
    assert second is not None

    assert [delivered(taken).ranges for taken in (first, second)] == [((11, 2),), ((13, 2),)]
    assert delivered(first).headers == {12: {"at": "1"}}
