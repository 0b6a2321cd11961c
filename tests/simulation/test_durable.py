"""The checker of durable groups finds what it is there to find."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from zerowait.patterns import TOPIC_HEADER
from zerowait.testing.durable import GROUPED, GroupBook, RememberedGroups, check_arrival
from zerowait.testing.history import Message
from zerowait.testing.plan import Plan, plan
from zerowait.testing.simulation import Report, simulate

PUBLISHER = 8


def book() -> GroupBook:
    made = GroupBook()
    made.remembered["shop"] = {"t.*@bill"}
    made.born(PUBLISHER, "shop")
    made.meets(PUBLISHER, ["u.c@mail", "work", "elsewhere@mail"])
    return made


@pytest.mark.parametrize(("topic", "kept_for"), [("t.a", {"t.*@bill"}), ("u.c", {"u.c@mail"}), ("v", set[str]())])
def test_an_event_is_kept_for_the_groups_that_were_met_or_remembered_and_match(topic: str, kept_for: set[str]) -> None:
    mine = book()
    mine.publishes(PUBLISHER, topic, kept_for)
    assert mine.wrong == []


@pytest.mark.parametrize(
    ("topic", "kept_for"), [("t.a", set[str]()), ("t.a", {"t.*@bill", "u.c@mail"}), ("u.c", {"t.*@bill"})]
)
def test_one_that_is_kept_for_others_is_found(topic: str, kept_for: set[str]) -> None:
    mine = book()
    mine.publishes(PUBLISHER, topic, kept_for)
    assert "keeps an event on" in mine.wrong[0]


def test_an_event_comes_on_the_channel_of_its_group_with_its_topic_where_that_is_one_of_several() -> None:
    several = Message(GROUPED, b"", 1, expires=False, channel="t.*@bill", topic="t.a")
    assert check_arrival(several, "t.*@bill", {TOPIC_HEADER: "t.a"}) == ""
    assert "came on t.*@log" in check_arrival(several, "t.*@log", {TOPIC_HEADER: "t.a"})
    assert "came with" in check_arrival(several, "t.*@bill", {TOPIC_HEADER: "t.b"})
    assert "came with" in check_arrival(several, "t.*@bill", {})
    one = Message(GROUPED, b"", 1, expires=False, channel="t.a@bill", topic="t.a")
    assert check_arrival(one, "t.a@bill", {}) == ""
    assert "came with" in check_arrival(one, "t.a@bill", {TOPIC_HEADER: "t.a"})
    pushed = Message(1, b"", 1, expires=False)
    assert check_arrival(pushed, "work", {}) == ""


def grouped(*, restarts: bool = False) -> Plan:
    """The first seed with durable groups; in which a publisher is killed, if that is asked for."""
    plans = (plan(seed) for seed in count(1))
    kills = "sender killed" if restarts else ""
    return next(p for p in plans if p.serves and (not kills or any(event.kind == kills for event in p.events)))


def played(seeds: int, *, restarts: bool = False) -> list[Report]:
    plans = (plan(seed) for seed in count(grouped(restarts=restarts).seed))
    chosen = (p for p in plans if p.serves)
    return [simulate(next(chosen).seed) for _ in range(seeds)]


def for_nobody(groups: RememberedGroups, topic: str, codec: object) -> tuple[()]:
    return ()


def nothing_remembered(groups: RememberedGroups) -> dict[str, tuple[str, str]]:
    return {}


def test_a_group_that_gets_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    (well,) = played(1)
    assert not well.wrong
    assert well.topics["for durable groups"]
    monkeypatch.setattr(RememberedGroups, "of", for_nobody)
    (report,) = played(1)
    assert "keeps an event on" in report.wrong[0]


def test_a_publisher_that_forgets_its_groups_with_its_life_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RememberedGroups, "_remembered", nothing_remembered)
    assert [words for report in played(12, restarts=True) for words in report.wrong if "keeps an event on" in words]


def kept_for_nobody(groups: RememberedGroups, lanes: object, topic: str, payload: bytes, headers: object) -> list[Any]:
    return []


def test_what_handlers_publish_for_a_group_that_does_not_get_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    reports = (simulate(seed) for seed in count(1) if plan(seed).tells)
    well = next(report for report in reports if report.topics["for them by handlers"])
    assert not well.wrong
    monkeypatch.setattr(RememberedGroups, "ready", kept_for_nobody)
    assert "what was sent for message" in simulate(well.seed).wrong[0]


def test_handlers_publish_for_durable_groups_in_a_fifth_of_the_worlds() -> None:
    plans = [plan(seed) for seed in range(1, 1_001)]
    assert sum(bool(each.tells) for each in plans) >= 200
    assert all(each.serves for each in plans if each.tells)


def test_what_has_been_heard_and_not_looked_at_yet_may_be_known_and_need_not() -> None:
    mine = book()
    for kept_for in (set[str](), {"u.c@mail"}):
        mine.publishes(PUBLISHER, "u.c", kept_for)
    assert mine.wrong == []
    mine.turned(PUBLISHER)
    mine.publishes(PUBLISHER, "u.c", set())
    assert "keeps an event on" in mine.wrong[0]
