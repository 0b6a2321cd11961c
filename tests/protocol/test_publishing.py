"""What a publisher does for its subscriptions: what it keeps, what it passes over, what it sends together."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tests.protocol.feeds import Feed, Got, publish
from tests.protocol.puppet import Stage
from tests.protocol.world import Process, World
from zerowait.engines.brokerless.protocol.frames import Events, Room, Subscribe, Subscribed
from zerowait.engines.brokerless.protocol.publisher import publisher as publishing
from zerowait.engines.brokerless.protocol.publisher.history import block_of


def subscribed(pattern: str, **how: Any) -> tuple[World, Process, Process, Feed]:
    world = World()
    publisher, subscriber = Process(world, "publisher"), Process(world, "subscriber")
    world.dial(subscriber, publisher)
    world.run(world.now + 0.05)
    feed = Feed(world, subscriber, pattern, 1, **how)
    world.run(world.now + 0.05)
    return world, publisher, subscriber, feed


@pytest.mark.parametrize("overflow", ["drop_oldest", "disconnect"])
def test_what_was_accepted_as_reliable_is_not_passed_over(overflow: str) -> None:
    """However much of it there is, by however many topics, and though others' events fill the same queue."""
    world, publisher, _, feed = subscribed("r.>", queue=4, overflow=overflow)
    if overflow == "drop_oldest":
        publish(publisher, *(("r.loose", -number) for number in range(1, 10)))
    for first in range(1, 3_001, 100):
        publish(publisher, *((f"r.{n % 7}", n) for n in range(first, first + 100)), reliable=True)
        if overflow == "drop_oldest":
            publish(publisher, ("r.loose", -first))
        world.run(world.now + 0.01)
    got: list[Got] = []
    for _ in range(4_000):
        got += feed.take(1)
        world.run(world.now + 0.001)

    numbers = [value for _, _, value, _ in got]
    assert [number for number in numbers if number > 0] == list(range(1, 3_001))
    assert not feed.ended
    if overflow == "drop_oldest":
        assert any(missed for *_, missed in got)
        assert publisher.core.publisher.streams("r.>")[0].dropped == sum(missed for *_, missed in got)


def test_of_more_bytes_than_may_wait_only_what_is_reliable_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    world, publisher, _, feed = subscribed("r.>", queue=4)
    core = publisher.core.publisher
    monkeypatch.setattr(core, "_config", replace(core._config, topic_bytes=2_000))
    for number in range(1, 2_001):
        publish(publisher, ("r.loose", -number), reliable=False)
        if number % 100 == 0:
            publish(publisher, ("r.sure", number), reliable=True)
        world.run(world.now + 0.001)
    (stream,) = core.streams("r.>")

    assert stream.nbytes <= 2_000 + 100
    assert (core.room("r.>") or 0) <= 0
    got: list[Got] = []
    for _ in range(2_500):
        got += feed.take(1)
        world.run(world.now + 0.001)
    assert [value for _, _, value, _ in got if value > 0] == list(range(100, 2_001, 100))
    last = got[-1][2]
    told = len(got) + sum(missed for *_, missed in got)
    assert told == (2_020 if last == 2_000 else 2_019)


def test_an_event_that_is_larger_than_all_history_is_published_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    world, publisher, subscriber, feed = subscribed("a.>")
    publisher.core.announce_topic("a.*", b"", b"", 5)
    core = publisher.core.publisher
    monkeypatch.setattr(core, "_config", replace(core._config, topic_bytes=2))
    for number in (1, 1_000_000, 2):
        publish(publisher, ("a.b", number))
    world.run(world.now + 0.05)
    later = Feed(world, subscriber, "a.b", 2, replay=10)
    world.run(world.now + 0.05)

    assert [value for _, _, value, _ in feed.take()] == [1, 1_000_000, 2]
    assert [value for _, _, value, _ in later.take()] == [2]


@pytest.mark.parametrize("replay", [3, 6, 20])
def test_what_several_histories_have_is_replayed_once(replay: int) -> None:
    world, publisher, subscriber, _ = subscribed("unrelated")
    for pattern, history in (("h.*", 10), ("h.b", 4), (">", 5)):
        publisher.core.announce_topic(pattern, b"", b"", history)
    publish(publisher, ("h.c", 1), ("h.b", 2), ("h.b", 3), ("h.c", 4))
    for number in range(5, 8):
        publish(publisher, ("h.b", number))
    later = Feed(world, subscriber, "h.*", 2, replay=replay)
    world.run(world.now + 0.05)
    publish(publisher, ("h.b", 8))
    world.run(world.now + 0.05)

    assert [got[2:] for got in later.take()] == [(number, 0) for number in range(max(1, 8 - replay), 9)]


def test_a_subscribe_that_was_on_its_way_before_is_not_sent_again_what_came_first() -> None:
    """What an earlier session had left in the pipe begins at nothing; who sent it has had the retained values."""
    # given: a subscriber that has had the retained value, and says so before its connection breaks
    stage = Stage()
    block = block_of([b"\x01"], (("a.b", 0, 1, True, False),), 0, stage.now)
    stage.core.publisher.publish(block)
    first = stage.peer(7)
    begins = Subscribe(1, "a.*", limit=100, queue=10)
    first.say(begins)
    stage.step()
    assert len(first.all(Events)) == 1
    first.say(Room(1, 101, first.last(Subscribed).count))
    stage.step()
    first.lose()
    # when its first words come once more in front of the next connection
    again = stage.peer(7, serial=2)
    again.say(begins)
    stage.step()
    # then it goes on where it was
    assert again.all(Events) == []
    assert again.last(Subscribed).count == first.last(Subscribed).count


def test_one_connection_has_so_many_subscriptions_and_no_more_be_they_of_groups_or_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publishing, "SUBSCRIPTIONS_MOST", 8)
    world, publisher, subscriber, _ = subscribed("a.b")
    feeds = [Feed(world, subscriber, "a.b", 2 + at, group=f"g{at}") for at in range(7)]
    world.run(world.now + 0.05)
    publish(publisher, ("a.b", 1))
    world.run(world.now + 0.05)
    assert [[got[2] for got in feed.take()] for feed in feeds] == [[1]] * 7
    subscriber.core.subscriber.remove(2)
    Feed(world, subscriber, "a.b", 20, group="g0")
    world.run(world.now + 0.05)
    assert not publisher.says("refused")

    Feed(world, subscriber, "a.b", 21, group="one too many")
    world.run(world.now + 0.05)
    assert any("more than 8 subscriptions" in words for words in publisher.says("refused"))


@pytest.mark.parametrize("others", [0, 1, 2])
def test_an_event_that_a_process_does_not_take_is_missed_by_each_of_its_subscriptions(others: int) -> None:
    """And is no reason to end the connection, however many of them want it."""
    world, publisher, subscriber, feed = subscribed("a.>")
    feeds = [feed, *(Feed(world, subscriber, "a.b", 2 + at) for at in range(others))]
    world.run(world.now + 0.05)
    for of in publisher.core.publisher._cursors.values():
        for cursor in of:
            cursor.message_bytes = 4  # as its peer has said at the beginning
    publish(publisher, ("a.b", 1))
    publish(publisher, ("a.b", 10**12))
    publish(publisher, ("a.b", 2))
    world.run(world.now + 0.05)

    assert [[got[2:] for got in each.take()] for each in feeds] == [[(1, 0), (2, 1)]] * len(feeds)
    assert len(publisher.says("too large")) == len(feeds)


def test_one_that_conflates_more_topics_than_its_queue_holds_loses_those_that_were_quiet_for_longest() -> None:
    """However many topics there are, and however large the blocks in which their events were published."""
    world, publisher, _, feed = subscribed("rare.*", queue=8, overflow="conflate")
    (stream,) = publisher.core.publisher.streams("rare.*")
    (cursor,) = stream.cursors
    for number in range(1, 501):
        noise = (("noise", 10**9),) * 100
        publish(publisher, (f"rare.{number}", number), *noise)
        if number % 10 == 0:
            publish(publisher, ("rare.often", -number), *noise)
        world.run(world.now + 0.001)
    assert cursor.dirty is not None
    kept = [*cursor.dirty.values(), *cursor.flying.values()]

    assert len(cursor.dirty) == 8
    assert sum(len(part.block.body) for part in kept) < 20 * len(kept)
    got: list[Got] = []
    for _ in range(50):
        got += feed.take(1)
        world.run(world.now + 0.01)
    assert [value for _, _, value, _ in got[-8:]] == [*range(494, 501), -500]
    assert len(got) + sum(missed for *_, missed in got) == 550
    assert stream.dropped == 550 - len(got)
