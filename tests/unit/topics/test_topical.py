"""Topics on the network thread: what was published is numbered and addressed, and who asks for whom is known."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.topics.test_press import CODEC, Table, publish
from zerowait.engines.brokerless.topical import Topical


class Publisher:
    """Of the protocol's. breaks: a topic of which nothing can be published."""

    def __init__(self, breaks: str) -> None:
        self.breaks = breaks
        self.announced: dict[str, Any] = {}

    def publish(self, block: Any) -> dict[str, int]:
        if any(topic == self.breaks for topic, *_ in block.runs):
            raise IndexError(self.breaks)
        return {topic: 1 for topic, *_ in block.runs}


class Core:
    def __init__(self, breaks: str = "") -> None:
        self.publisher = Publisher(breaks)


def test_a_bundle_that_cannot_be_published_fails_and_those_behind_it_are_published(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = Table()
    topical = Topical(table.press, None, lambda: None)  # type: ignore[arg-type]
    topical.open(Core("bad"))  # type: ignore[arg-type]
    bad, good = table.lane("bad"), table.lane("good")
    lost = publish(bad, 1)
    table.press.closed.append(table.press.slot.pop())
    kept = table.press.publish(good, CODEC.encode(2))
    topical.take(0.0)

    assert kept.result(0) == 1
    with pytest.raises(IndexError):
        lost.result(0)
    assert "1 events are lost" in caplog.text
