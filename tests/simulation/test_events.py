"""The checker of topics: each test keeps the books of a small world, and spoils one line of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from zerowait.testing.events import UNKNOWN, EventBook, Got, Subscription

PUBLISHER, SUBSCRIBER = 8, 9


class World:
    """Seven events; a subscription joined after the fourth, wants the last two of before, and has missed number 6."""

    def __init__(self, *, replay: int = 2, named: int = 0, group: str = "", pattern: str = "t.a") -> None:
        self.book = EventBook(lambda *what: None)
        for topic in ("t.a", "t.a", "u.c", "t.a"):
            self.book.publish(PUBLISHER, topic)
        self.subscription = self.subscribe(pattern, replay, group)
        self.book.begins(self.subscription, PUBLISHER, 4, named=named)
        for topic in ("t.a", "t.a", "t.a"):
            self.book.publish(PUBLISHER, topic)

    def subscribe(self, pattern: str, replay: int, group: str = "") -> Subscription:
        self.book.subscriptions.append(Subscription(1, SUBSCRIBER, pattern, replay, group, "drop_oldest"))
        return self.book.subscriptions[-1]

    def take(self, *taken: tuple[int, int], counted: bool = True, topic: str = "t.a") -> None:
        for n, missed in taken:
            self.book.takes(self.subscription, PUBLISHER, n, topic, Got(n, counted, missed))

    @property
    def got(self) -> list[Got]:
        return self.subscription.feeds[PUBLISHER].got

    def wrong(self) -> list[str]:
        return self.book.judge([PUBLISHER, SUBSCRIBER])


def well() -> World:
    world = World()
    world.take((2, 0), (4, 0), (5, 0), (7, 1))
    return world


def test_a_world_in_which_all_is_well_passes() -> None:
    assert well().wrong() == []


def spoil(at: int, **what: object) -> Callable[[World], object]:
    def change(world: World) -> None:
        world.got[at] = replace(world.got[at], **what)

    return change


def swap(world: World) -> None:
    world.got[1], world.got[2] = world.got[2], world.got[1]


def forget(world: World) -> None:
    world.subscription.feeds.clear()
    world.take((7, 0))


def name_another(world: World) -> None:
    world.subscription.feeds.clear()
    world.book.begins(world.subscription, PUBLISHER, 5, named=PUBLISHER)


PLANTED: dict[str, tuple[Callable[[World], object], str]] = {
    "one too many missed": (spoil(3, missed=2), "1 were missed before event 7, and it was told 2"),
    "one too few missed": (spoil(3, missed=0), "1 were missed before event 7, and it was told 0"),
    "missed, and not told": (lambda world: world.got.pop(2), "2 were missed before event 7, and it was told 1"),
    "the first is missed, and not told": (lambda world: world.got.pop(0), "1 were missed before event 4"),
    "nobody knows": (spoil(0, missed=UNKNOWN), "an earlier life was not lost"),
    "twice": (lambda world: world.take((7, 0)), "came again, or out of order"),
    "out of order": (swap, "came again, or out of order"),
    "from before": (lambda world: world.got.insert(0, Got(1, True, 0)), "from before it was subscribed to"),
    "the last never comes": (lambda world: world.got.pop(), "the last 2 neither came nor were told"),
    "of another topic": (lambda world: world.take((3, 0), topic="u.c"), "none of its own"),
    "of no number": (lambda world: world.take((70, 0)), "none of its own"),
    "not answered": (forget, "has not answered it"),
    "begins anew": (lambda world: world.book.begins(world.subscription, PUBLISHER, 5, named=0), "begins anew"),
    "names what it has not had": (name_another, "never had an answer"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_planted_is_found(planted: str) -> None:
    world = well()
    change, words = PLANTED[planted]
    change(world)
    assert [line for line in world.wrong() if words in line], world.wrong()


def test_whose_publisher_was_lost_is_told_so_and_has_all_history() -> None:
    world = World(replay=0, named=7)
    world.take((1, UNKNOWN), (2, 0), (4, 0), (5, 0), (6, 0), (7, 0))
    assert world.wrong() == []
    world.got[0] = replace(world.got[0], missed=0)
    assert "an earlier life was lost" in world.wrong()[0]


def test_the_value_that_is_retained_comes_first_and_once() -> None:
    world = World(replay=0)
    assert "the retained values []" in world.wrong()[0]
    world.take((4, 0), counted=False)
    world.take((5, 0), (6, 0), (7, 0))
    assert world.wrong() == []
    world.got.insert(0, Got(2, False, 0))
    assert "the retained values [2, 4]" in world.wrong()[0]


def test_of_a_group_one_has_each_event() -> None:
    world = World(replay=0, group="g")
    world.take((5, 0), (7, 0))
    assert world.wrong() == []
    world.subscription = world.subscribe("t.a", 0, "g")
    world.book.begins(world.subscription, PUBLISHER, 4, named=0)
    world.take((6, 0))
    assert world.wrong() == []
    world.take((7, 0))
    assert "had by two of the group g" in world.wrong()[0]
