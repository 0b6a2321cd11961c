"""Topics on the network thread: what was published is numbered and addressed, and who asks for whom is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.topics.test_press import CODEC, Table, publish
from zerowait.engines.brokerless.topical import SOUGHT_MOST, Topical


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


def topical_of(
    *wanted: str, published: tuple[str, ...] = (), heard: tuple[str, ...] = (), grouped: tuple[str, ...] = ()
) -> tuple[Topical, dict[int, Any]]:
    """One of a process that has subscribed to these, and its subscriptions. heard: what others have subscribed to;
    grouped: likewise, durable groups."""
    subscriptions = {at: SimpleNamespace(pattern=pattern) for at, pattern in enumerate(wanted)}
    core: Any = Core()
    core.subscriber = SimpleNamespace(wanted=subscriptions)
    core.publisher.announced = {topic: SimpleNamespace(published=1) for topic in published}

    def subscribers(topic: str) -> set[int]:
        return {7} if topic in heard else set()

    def streams(pattern: str) -> list[Any]:
        return [SimpleNamespace(pattern=topic) for topic in heard]

    core.publisher.subscribers, core.publisher.streams = subscribers, streams
    groups: Any = SimpleNamespace(seen=lambda: {f"{topic}@g": (topic, "g") for topic in grouped})
    topical = Topical(Table().press, groups, lambda: None)
    topical.open(core)
    return topical, subscriptions


def test_made_up_topics_whose_publishers_are_asked_for_are_not_sought_for_ever() -> None:
    topical, _ = topical_of("mine")
    for number in range(SOUGHT_MOST + 100):
        topical.seek(f"made.up.{number}")
        topical.seek("often")

    assert len(topical.subscribes()) == SOUGHT_MOST + 1
    assert {"mine", "often", f"made.up.{SOUGHT_MOST + 99}"} < set(topical.subscribes())


def test_a_topic_that_nobody_has_subscribed_to_says_so_once_and_others_do_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "zerowait.node")
    published = ("mail.counts", "mail.seen", "mail.mine", "mail.kept", "unused")
    topical, _ = topical_of("mail.mine", published=published, heard=("mail.count", "mail.seen"), grouped=("mail.kept",))
    topical._core.publisher.announced["unused"].published = 0
    for now in (0.0, 9.0):
        topical.look(now, ())
    assert not caplog.records
    for now in (10.0, 30.0):
        topical.look(now, ())
    [said] = caplog.messages
    assert said.startswith("nobody has subscribed to mail.counts, which is published for 10 s now: ")
    assert said.endswith("Subscribed to is mail.count: did you mean that?")
    assert not topical._unheard


def test_who_subscribes_again_is_told_of_a_mistake_only_when_time_has_passed_anew(
    caplog: pytest.LogCaptureFixture,
) -> None:
    topical, wanted = topical_of("mail.count", *(f"gone.{at}" for at in range(50)), published=("mail.counts",))
    topical.look(0.0, ())
    mine = wanted[0]
    wanted.clear()
    topical.look(9.0, ())
    assert not topical._lonely
    wanted[0] = mine
    for now in (11.0, 20.0):
        topical.look(now, ())
    assert not caplog.records

    topical.look(21.5, ())
    assert "Did you mean mail.counts?" in caplog.text
