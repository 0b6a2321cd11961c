"""A publisher that leaves says how much it has not sent; what it cannot say is unknown, and never passed over (§10.11).

That the numbers are exact whatever went before: `test_what_a_publisher_had_not_sent_when_it_left_is_told_exactly`."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from tests.protocol.feeds import Feed, publish
from tests.protocol.puppet import Stage
from tests.protocol.world import Process, World
from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.frames import Goodbye, Subscribe, Subscribed
from zerowait.engines.brokerless.protocol.subscriber.inbox import Inbox
from zerowait.engines.brokerless.protocol.subscriber.subscriber import Wanted
from zerowait.subscriptions import UNKNOWN

X = 7


def met(*subscribers: str) -> tuple[World, Process, list[Process]]:
    world = World()
    publisher, others = Process(world, "bank"), [Process(world, name) for name in subscribers]
    for each in others:
        world.dial(each, publisher)
    world.run(world.now + 0.05)
    return world, publisher, others


def leave(process: Process, *, final: bool = True) -> None:
    process.core.farewell(process.world.now, final=final)
    process.turn()
    process.alive = False
    process.world.run(process.world.now + 0.05)


def another(world: World, *subscribers: Process) -> Process:
    """The next of its name, which publishes one event, number 99."""
    publisher = Process(world, "bank")
    for each in subscribers:
        world.dial(each, publisher)
    world.run(world.now + 0.05)
    publish(publisher, ("a.b", 99))
    world.run(world.now + 0.05)
    return publisher


@pytest.mark.parametrize("final", [True, False])
def test_what_was_not_sent_is_told_whatever_else_the_publisher_leaves(final: bool) -> None:
    """That messages stay in its outbox says nothing of its events."""
    world, bank, (screen,) = met("screen")
    slow, quick = Feed(world, screen, "a.*", 1, queue=8), Feed(world, screen, "a.*", 2)
    world.run(world.now + 0.05)
    for number in range(20):
        publish(bank, ("a.b", number))
    world.run(world.now + 0.05)

    leave(bank, final=final)

    assert (slow.lost, quick.lost) == (18, 0)
    assert screen.says("unsent") == ["18 events of a.* that waited there for this process are missed"]
    assert [number for _, _, number, _ in slow.take()] == [0, 1]
    another(world, screen)
    assert [got[2:] for got in slow.take()] == [(99, 18)]
    assert [got[3] for got in quick.take()] == [0] * 21
    assert slow.lost == 18, "and counted once"


@pytest.mark.parametrize("pace", [0.02, 0.9])
def test_who_takes_slowly_is_waited_for_and_who_takes_nothing_is_not(pace: float) -> None:
    world, bank, (screen,) = met("screen")
    feed = Feed(world, screen, "a.*", 1, queue=400)
    world.run(world.now + 0.05)
    for number in range(400):
        publish(bank, ("a.b", number))
    world.run(world.now + 0.05)
    core, until = bank.core.publisher, world.now + 5.0
    while world.now < until:
        assert not core.is_settled(world.now)
        feed.take(1)
        world.run(world.now + pace)

    began = world.now
    while not core.is_settled(world.now):
        world.run(world.now + 0.01)
    assert world.now - began < 2.5


def test_what_was_passed_over_last_is_told() -> None:
    """An event that is too large for its subscriber, behind which nothing came that could have told it."""
    world, bank, (screen,) = met("screen")
    feed = Feed(world, screen, "a.*", 1)
    world.run(world.now + 0.05)
    (of,) = bank.core.publisher._cursors.values()
    of[0].message_bytes = 4  # as its peer has said at the beginning
    publish(bank, ("a.b", 1))
    publish(bank, ("a.b", 10**12))
    world.run(world.now + 0.05)

    leave(bank)

    assert [got[2:] for got in feed.take()] == [(1, 0)]
    assert feed.lost == 1
    assert screen.says("unsent") == ["1 event of a.* that waited there for this process is missed"]


def test_of_a_group_one_is_told_what_none_of_it_was_sent() -> None:
    world, bank, screens = met("one", "two")
    feeds = [Feed(world, each, "a.*", 1, queue=8, group="g") for each in screens]
    world.run(world.now + 0.05)
    for number in range(40):
        publish(bank, ("a.b", number))
    world.run(world.now + 0.05)

    leave(bank)

    taken = [number for feed in feeds for _, _, number, _ in feed.take()]
    assert sorted(taken) == list(range(len(taken)))
    assert sum(feed.lost for feed in feeds) == 40 - len(taken)
    assert min(feed.lost for feed in feeds) == 0
    said = [words for each in screens for words in each.says("unsent")]
    assert said == [f"{40 - len(taken)} events of a.* that waited there for the group g are missed"]


def test_who_is_not_connected_when_it_leaves_learns_that_it_does_not_know() -> None:
    world, bank, (screen,) = met("screen")
    feed = Feed(world, screen, "a.*", 1)
    world.run(world.now + 0.05)
    publish(bank, ("a.b", 1))
    world.run(world.now + 0.05)
    world.cut_all(screen, bank)
    publish(bank, ("a.b", 2))

    leave(bank)
    another(world, screen)

    assert [got[2:] for got in feed.take()] == [(1, 0), (99, UNKNOWN)]


def test_who_had_not_been_answered_when_it_leaves_learns_that_it_does_not_know() -> None:
    """It is back, and has named the place where it was: nobody knows whether the publisher has read that before it
    left."""
    world, bank, (screen,) = met("screen")
    feed = Feed(world, screen, "a.*", 1)
    world.run(world.now + 0.05)
    publish(bank, ("a.b", 1))
    world.run(world.now + 0.05)
    world.cut_all(screen, bank)
    publish(bank, ("a.b", 2))
    world.dial(screen, bank)
    while not any(link.hello is not None for link in bank.core.links.values()):
        world.run(world.now + 0.0001)

    leave(bank)
    another(world, screen)

    assert [got[2:] for got in feed.take()] == [(1, 0), (99, UNKNOWN)]


def test_what_one_of_two_publishers_of_a_name_had_not_sent_is_told_by_the_other() -> None:
    world, bank, (screen,) = met("screen")
    other = Process(world, "bank")
    world.dial(screen, other)
    feed = Feed(world, screen, "a.*", 1, queue=8)
    world.run(world.now + 0.05)
    for number in range(20):
        publish(bank, ("a.b", number))
    world.run(world.now + 0.05)
    leave(bank)

    publish(other, ("a.b", 50))
    world.run(world.now + 0.05)
    assert [got[2:] for got in feed.take()] == [(0, 0), (50, 0), (1, 0)], "in turn"
    publish(other, ("a.b", 51))
    world.run(world.now + 0.05)
    assert [got[2:] for got in feed.take()] == [(51, 18)]


def test_what_could_not_be_read_of_one_that_has_left_is_told_by_the_other_of_its_name() -> None:
    """It had sent all there was, and its last event was missed all the same."""
    world, bank, (screen,) = met("screen")
    other = Process(world, "bank")
    world.dial(screen, other)
    feed = Feed(world, screen, "a.*", 1)
    world.run(world.now + 0.05)
    publish(bank, ("a.b", 1))
    world.run(world.now + 0.05)
    assert [got[2:] for got in feed.take()] == [(1, 0)]
    feed.inbox.unread(bank.core.me.instance, 1)

    leave(bank)

    publish(other, ("a.b", 50))
    world.run(world.now + 0.05)
    assert [got[2:] for got in feed.take()] == [(50, 1)]


@pytest.mark.parametrize("missed", [{1: -1}, {1: 2**62}])
def test_a_goodbye_that_no_publisher_can_say_ends_the_link_as_any_wrong_frame(missed: dict[int, int]) -> None:
    stage = Stage()
    x = stage.peer(X)
    x.say(Goodbye(missed=missed))

    assert x.last(Goodbye).code == frames.MALFORMED


@pytest.mark.parametrize(("code", "asks"), [(0, False), (frames.LEAVING, True)])
def test_a_goodbye_that_does_not_speak_of_events_says_by_its_code_whether_all_were_sent(code: int, asks: bool) -> None:
    stage = Stage()
    inbox = Inbox(nullcontext(), 10, renew=lambda: None, notify=lambda: None)
    stage.core.subscriber.add(Wanted(1, "a.*", inbox))
    x = stage.peer(X, name="bank")
    x.say(Subscribed(1, X, 3, 3, 0))

    x.say(Goodbye(code))

    assert stage.peer(X + 1, name="bank").last(Subscribe).epoch == (X if asks else 0)
