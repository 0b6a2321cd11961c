"""Events as handlers get them: from an inbox that several threads take from."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest

from zerowait.engines.brokerless.protocol.publisher.history import block_of
from zerowait.engines.brokerless.protocol.subscriber.inbox import Inbox, Piece
from zerowait.feeding import EventFeed, Feeding, delivered


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


def test_one_missed_event_is_told_as_one(caplog: pytest.LogCaptureFixture) -> None:
    feed = cast("EventFeed", SimpleNamespace(missed=0, pattern="a.*"))
    feeding = Feeding(cast("Any", None), cast("Any", None), [], lambda channel: None)
    for _ in range(2):
        feeding._tell(feed, 1, "bank")
    assert [said.partition(": ")[0] for said in caplog.messages] == [
        f"missed {count} of a.* by now, the last from bank" for count in ("1 event", "2 events")
    ]
