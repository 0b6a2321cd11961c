"""A publisher that is away for longer than the grace: what is known of it, and what was not told of it, is not lost."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from tests.protocol.feeds import Feed, publish
from tests.protocol.world import Process, World
from zerowait.engines.brokerless.protocol.frames import UNKNOWN
from zerowait.engines.brokerless.protocol.subscriber.inbox import Inbox, Mark, Piece

PEER, ITS_NEXT = 7, 8


def test_two_of_one_name_that_were_away_for_long_go_on_each_where_it_was() -> None:
    """Who came first was taken for the next life of the other, which had no place any more: what that one had published
    meanwhile was missed and not told."""
    # given two publishers of one name
    world = World()
    one, two, screen = Process(world, "prices"), Process(world, "prices"), Process(world, "screen")
    feed = Feed(world, screen, "a", 1)
    for each in (one, two):
        world.dial(screen, each)
    world.run(world.now + 0.1)
    for each in (one, two):
        publish(each, ("a", 1))
    world.run(world.now + 0.1)
    assert len(feed.take()) == 2
    # when both are away for longer than the grace, and publish
    for each in (one, two):
        world.partition(screen, each)
    world.run(world.now + 20.0)
    for each in (one, two):
        publish(each, ("a", 2), ("a", 3))
    world.heal()
    # then each goes on where it was, whichever is back first
    for each in (one, two):
        world.dial(screen, each)
        world.run(world.now + 0.1)
    for each in (one, two):
        publish(each, ("a", 4))
        world.run(world.now + 0.1)
    assert feed.take() == [("prices", "a", 4, 2)] * 2


def inbox() -> Inbox:
    return Inbox(nullcontext(), 100, renew=lambda: None, notify=lambda: None)


def event(c: int) -> Piece:
    return Piece((("a", 0, 1),), c, 1, 1.0, b"", memoryview(b"\x00\x00\x00\x00").cast("I"), 0, 0, None)


def test_what_was_not_told_of_a_publisher_is_told_by_the_next_one_of_its_name() -> None:
    mine = inbox()
    mine.mark(mine.source(PEER, "prices"), Mark(0, UNKNOWN))
    mine.forget(PEER)
    other = mine.source(9, "rates")
    mine.mark(other, Mark(0, 0))
    mine.put(other, event(1))
    taken = mine.take(10)
    assert taken is not None
    assert taken.missed == 0, "of another name"

    source = mine.source(ITS_NEXT, "prices")
    mine.mark(source, Mark(0, 0))
    mine.put(source, event(1))
    taken = mine.take(10)
    assert taken is not None
    assert taken.missed == UNKNOWN
    mine.put(source, event(2))
    taken = mine.take(10)
    assert taken is not None
    assert taken.missed == 0, "it is told once"


def test_what_could_not_be_read_of_a_publisher_that_is_gone_is_told_when_it_is_back() -> None:
    mine = inbox()
    source = mine.source(PEER, "prices")
    mine.mark(source, Mark(0, 0))
    mine.put(source, event(1))
    mine.forget(PEER)
    assert mine.take(10) is not None
    mine.unread(PEER, 1)

    source = mine.source(PEER, "prices")
    mine.mark(source, Mark(3, 0))
    mine.put(source, event(4))
    taken = mine.take(10)
    assert taken is not None
    assert taken.missed == 3, "the one that could not be read, and two that never came"


@pytest.mark.parametrize("is_taken", [True, False], ids=["taken before", "taken after"])
def test_what_could_not_be_read_of_a_publisher_that_is_gone_is_told_by_one_of_its_name_that_had_come_by_then(
    is_taken: bool,
) -> None:
    """Of who was gone nothing was known any more once the next of its name had come: what was taken last of it, and
    could not be read, was lost untold."""
    # given a publisher that is gone, and the next of its name
    mine = inbox()
    source = mine.source(PEER, "prices")
    mine.mark(source, Mark(0, 0))
    mine.put(source, event(1))
    if is_taken:
        assert mine.take(10) is not None
    mine.forget(PEER)
    source = mine.source(ITS_NEXT, "prices")
    mine.mark(source, Mark(0, 0))
    if not is_taken:
        assert mine.take(10) is not None
    # when who has taken the last event finds that he cannot read it
    mine.unread(PEER, 1)
    # then the next one of that name tells it, once
    for c, missed in ((1, 1), (2, 0)):
        mine.put(source, event(c))
        taken = mine.take(10)
        assert taken is not None
        assert taken.missed == missed


def test_publishers_that_come_and_go_leave_nothing_behind_if_there_is_nothing_to_tell() -> None:
    mine = inbox()
    for instance in range(1, 100):
        source = mine.source(instance, "prices")
        mine.mark(source, Mark(0, 0))
        mine.put(source, event(1))
        assert mine.take(10) is not None
        mine.forget(instance)
    assert len(mine._sources) == 1
