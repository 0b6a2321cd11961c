"""Publish and subscribe: for random events, drops and reconnections, what is missed is told exactly."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.protocol.feeds import Feed, Got, publish
from tests.protocol.world import Process, World
from zerowait.engines.brokerless.protocol.frames import Event, Events, Room, Subscribe, Subscribed, encode
from zerowait.engines.brokerless.protocol.publisher.cursor import Cursor
from zerowait.engines.brokerless.protocol.publisher.history import block_of
from zerowait.patterns import Patterns, matches, overlap

# Stories are long, and shrinking one plays it a thousand times: what is printed is as short as it was found.
thorough = settings(
    max_examples=150, derandomize=True, database=None, deadline=None, phases=[Phase.explicit, Phase.generate]
)

WORDS = st.sampled_from(["a", "b", "c"])
TOPICS = st.lists(WORDS, min_size=1, max_size=3).map(".".join)
PATTERNS = st.lists(st.sampled_from(["a", "b", "*"]), min_size=0, max_size=2).flatmap(
    lambda words: st.sampled_from([".".join([*words, last]) for last in ("a", "*", ">")])
)


@settings(max_examples=1_000, derandomize=True, database=None, deadline=None)
@given(patterns=st.lists(PATTERNS, max_size=8), topic=TOPICS, gone=st.integers(0, 8))
def test_the_trie_finds_what_each_pattern_matches_by_itself(patterns: list[str], topic: str, gone: int) -> None:
    trie: Patterns[int] = Patterns()
    for at, pattern in enumerate(patterns):
        trie.add(pattern, at)
    trie.match(topic)
    for at, pattern in enumerate(patterns[:gone]):
        trie.remove(pattern, at)
    left = [at for at in range(min(gone, len(patterns)), len(patterns)) if matches(patterns[at], topic)]

    assert sorted(trie.match(topic)) == left


@settings(max_examples=1_000, derandomize=True, database=None, deadline=None)
@given(one=PATTERNS, other=PATTERNS, topic=TOPICS)
def test_patterns_that_match_one_topic_overlap(one: str, other: str, topic: str) -> None:
    if matches(one, topic) and matches(other, topic):
        assert overlap(one, other)
        assert overlap(other, one)


class Story:
    """A publisher, a subscriber with some subscriptions, and a connection that breaks now and then."""

    def __init__(self, patterns: list[tuple[str, int, str]]) -> None:
        self.world = World()
        self.world.proofs = False
        self.publisher = Process(self.world, "publisher")
        self.subscriber = Process(self.world, "subscriber")
        self.patterns = patterns
        self.world.dial(self.subscriber, self.publisher)
        self.world.run(self.world.now + 0.05)
        self.feeds = [
            Feed(self.world, self.subscriber, pattern, at, queue=queue, overflow=how)
            for at, (pattern, queue, how) in enumerate(patterns, 1)
        ]
        self.world.run(self.world.now + 0.05)
        self.published: list[tuple[str, int]] = []
        self.got: list[list[Got]] = [[] for _ in patterns]
        self.is_up = True

    def publish(self, topics: list[str]) -> None:
        events = [(topic, len(self.published) + at) for at, topic in enumerate(topics, 1)]
        self.published += events
        publish(self.publisher, *events)

    def pass_(self, seconds: float) -> None:
        self.world.run(self.world.now + seconds)

    def cut(self, *, half: bool) -> None:
        if self.is_up:
            conns = self.world.connections(self.subscriber, self.publisher)
            if half:
                for conn in conns:
                    self.world.half_cut(self.subscriber, conn)
            else:
                self.world.cut_all(self.subscriber, self.publisher)
            self.is_up = half

    def dial(self) -> None:
        self.world.dial(self.subscriber, self.publisher)
        self.is_up = True

    def take(self, most: int) -> None:
        for got, feed in zip(self.got, self.feeds, strict=True):
            got += feed.take(most)

    def end(self) -> None:
        """All is calm, and everybody takes what comes, until a last event has come."""
        self.world.cut_all(self.subscriber, self.publisher)
        self.pass_(0.1)
        self.dial()
        for _ in range(40):
            self.pass_(0.1)
            self.take(1_000)
        self.publish(["a", "b", "a.a", "a.b", "b.a", "b.b", "a.a.a"])
        for _ in range(20):
            self.pass_(0.05)
            self.take(1_000)

    def check(self, left: Sequence[int] = ()) -> None:
        """left: of each subscription, how many at the end no event tells, as a publisher that left has said."""
        for (pattern, _, how), got, beyond in zip(self.patterns, self.got, left or [0] * len(self.got), strict=True):
            mine = [event for event in self.published if matches(pattern, event[0])]
            places = {event: at for at, event in enumerate(mine)}
            last = -1
            for _, topic, number, missed in got:
                place = places[topic, number]
                assert place - last - 1 == missed, f"{pattern}, {how}: {topic} {number} after {mine[last]}"
                last = place
            assert not mine or last == len(mine) - 1 - beyond, f"{pattern}, {how}: the newest is always told"


ACTS = st.one_of(
    st.tuples(st.just("publish"), st.lists(TOPICS, min_size=1, max_size=12)),
    st.tuples(st.just("pass"), st.sampled_from([0.0001, 0.01, 0.3, 7.0])),
    st.tuples(st.just("cut"), st.booleans()),
    st.tuples(st.just("dial"), st.none()),
    st.tuples(st.just("take"), st.integers(1, 12)),
)
WANTED = st.tuples(
    PATTERNS, st.sampled_from([1, 2, 5, 20, 1_000]), st.sampled_from(["drop_oldest", "drop_oldest", "conflate"])
)


@thorough
@given(wanted=st.lists(WANTED, min_size=1, max_size=3), acts=st.lists(ACTS, max_size=30))
def test_what_is_missed_is_exact(wanted: list[tuple[str, int, str]], acts: list[tuple[str, object]]) -> None:
    story = Story(wanted)
    for what, said in acts:
        match what, said:
            case "publish", list():
                story.publish(said)
            case "pass", float():
                story.pass_(said)
            case "cut", bool():
                story.cut(half=said)
            case "dial", _:
                story.dial()
            case "take", int():
                story.take(said)
    story.end()
    story.check()


@thorough
@given(
    wanted=st.lists(WANTED, min_size=1, max_size=3),
    acts=st.lists(ACTS, max_size=20),
    last=st.lists(TOPICS, min_size=1, max_size=40),
    before=st.sampled_from([0, 3, 1_000]),
    between=st.sampled_from([0, 3, 1_000]),
)
def test_what_a_publisher_had_not_sent_when_it_left_is_told_exactly(
    wanted: list[tuple[str, int, str]], acts: list[tuple[str, object]], last: list[str], before: int, between: int
) -> None:
    story = Story(wanted)
    for what, said in acts:
        match what, said:
            case "publish", list():
                story.publish(said)
            case "pass", float():
                story.pass_(said)
            case "cut", bool():
                story.cut(half=said)
            case "dial", _:
                story.dial()
            case "take", int():
                story.take(said)
    # Given a session in which both are, and more than fits a queue.
    story.world.cut_all(story.subscriber, story.publisher)
    story.pass_(0.1)
    story.dial()
    story.pass_(0.1)
    story.publish(last)
    story.pass_(0.1)
    story.take(before)
    # When the publisher leaves, and the next one of its name comes, sooner or later than what had come is taken.
    story.publisher.core.farewell(story.world.now, final=True)
    story.publisher.turn()
    story.publisher.alive = False
    story.pass_(0.1)
    story.take(between)
    story.publisher = Process(story.world, "publisher")
    story.dial()
    story.pass_(0.1)
    story.take(1_000)
    story.check([feed.lost for feed in story.feeds])  # it was told at once
    taken = [len(got) for got in story.got]
    story.end()

    # Then it is told once more with the first event of that one.
    news = [len(got) > count for got, count in zip(story.got, taken, strict=True)]
    story.check([0 if more else feed.lost for feed, more in zip(story.feeds, news, strict=True)])


@thorough
@given(
    replay=st.integers(0, 8),
    before=st.lists(TOPICS, max_size=12),
    after=st.lists(TOPICS, max_size=6),
    late=st.booleans(),
)
def test_history_and_live_are_one_sequence(replay: int, before: list[str], after: list[str], late: bool) -> None:
    """Without gap or double, whenever one joins."""
    world = World()
    publisher, subscriber = Process(world, "publisher"), Process(world, "subscriber")
    publisher.core.announce_topic(">", b"", b"", 5)
    world.dial(subscriber, publisher)
    world.run(world.now + 0.05)
    numbered = [(topic, at) for at, topic in enumerate([*before, *after])]
    for event in numbered[: len(before)]:
        publish(publisher, event)
    feed = Feed(world, subscriber, ">", 1, replay=replay)
    if late:
        world.run(world.now + 0.05)
    for event in numbered[len(before) :]:
        publish(publisher, event)
    world.run(world.now + 0.05)
    got = feed.take()

    assert [missed for *_, missed in got] == [0] * len(got)
    first = len(numbered) - len(got)
    assert [(topic, number) for _, topic, number, _ in got] == numbered[first:]
    joined = len(before) if late else len(numbered)
    assert first == max(0, joined - min(replay, 5)) or (not late and first >= len(before) - min(replay, 5))


def test_one_that_conflates_gets_each_event_once_beside_one_that_wants_them_all() -> None:
    """Both stood at the same event, and shared a frame in which more matched the pattern of the first than it was to
    have: it got the rest a second time, and was told that -1 events had been missed."""
    story = Story([(">", 20, "conflate"), ("a.*", 20, "drop_oldest")])
    quick, all_of_a = story.feeds
    got: list[Got] = []
    quick.inbox._notify = lambda: got.extend(quick.take())  # each frame as it comes
    story.publish(["a.a", "a.b"])
    story.publish(["a.a", "a.b", "c"])
    story.world.run(story.world.now + 0.1)
    assert [number for _, _, number, _ in got] == sorted({number for _, _, number, _ in got})
    assert len(got) + sum(missed for _, _, _, missed in got) == 5
    assert got[-1][1:3] == ("c", 5)
    assert [number for _, _, number, _ in all_of_a.take()] == [1, 2, 3, 4]


def test_a_connection_that_breaks_while_history_is_replayed_loses_nothing_untold() -> None:
    """The counts of what was replayed lay below those that its publisher took for known: it replayed all there was
    once more, and said that nobody knew what was missed."""
    world = World()
    publisher, subscriber = Process(world, "publisher"), Process(world, "subscriber")
    publisher.core.announce_topic("a", b"", b"", 5)
    publish(publisher, *(("a", number) for number in range(1, 6)))
    world.dial(subscriber, publisher)
    world.run(world.now + 0.05)
    feed = Feed(world, subscriber, "a", 1, queue=4, replay=4)
    world.run(world.now + 0.05)
    got = feed.take(1)
    world.cut_all(subscriber, publisher)
    world.dial(subscriber, publisher)
    world.run(world.now + 0.1)
    for _ in range(10):
        got += feed.take(1)
        world.run(world.now + 0.05)
    publish(publisher, ("a", 6))
    world.run(world.now + 0.05)
    got += feed.take()
    numbers = [number for _, _, number, _ in got]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 6
    assert len(numbers) + sum(missed for _, _, _, missed in got) == 5
    assert all(missed >= 0 for _, _, _, missed in got)


@pytest.mark.parametrize("overflow", ["drop_oldest", "conflate"])
def test_who_was_counted_as_a_subscriber_gets_all_from_then_on_though_it_never_heard_of_it(overflow: str) -> None:
    """Two processes dial each other, and of two connections one stays: `at_least(1)` knew of a subscription by the
    other one, whose answer never came. What was published until it stood on the one that stayed was lost, untold."""
    world = World()
    publisher, subscriber = Process(world, "publisher"), Process(world, "subscriber")
    publisher.core.announce_topic("a.*", b"", b"", 5)
    publish(publisher, ("a.0", 1), retain=True)
    publish(publisher, *((f"a.{number}", number) for number in range(2, 5)))
    feed = Feed(world, subscriber, "a.*", 1, replay=2, overflow=overflow)
    world.dial(publisher, subscriber)
    while not publisher.core.publisher.subscribers("a.*"):
        world.run(world.now + 0.0001)
    publish(publisher, ("a.5", 5), ("a.6", 6))
    world.run(world.now)
    world.cut_all(subscriber, publisher)
    assert publish(publisher, ("a.7", 7)) == {"a.7": 1}, "it is kept for who is expected back"
    world.run(world.now)
    assert feed.take() == []

    world.dial(subscriber, publisher)
    world.run(world.now + 0.1)
    publish(publisher, ("a.8", 8))
    world.run(world.now + 0.1)
    assert [(number, missed) for _, _, number, missed in feed.take()] == [(n, 0) for n in (1, 3, 4, 5, 6, 7, 8)]


def test_what_was_on_its_way_to_one_of_a_group_is_told_to_it_as_missed() -> None:
    world = World()
    publisher, subscriber = Process(world, "publisher"), Process(world, "subscriber")
    feed = Feed(world, subscriber, "a", 1, group="g")
    world.dial(subscriber, publisher)
    world.run(world.now + 0.05)
    publish(publisher, ("a", 1))
    world.run(world.now + 0.05)
    publish(publisher, ("a", 2), ("a", 3))
    world.run(world.now)
    world.cut_all(subscriber, publisher)
    world.run(world.now + 0.05)
    world.dial(subscriber, publisher)
    world.run(world.now + 0.05)
    publish(publisher, ("a", 4), ("a", 5))
    world.run(world.now + 0.05)
    assert [(number, missed) for _, _, number, missed in feed.take()] == [(1, 0), (4, 2), (5, 0)]


def test_what_waits_for_a_slow_subscriber_is_no_copy() -> None:
    world = World()
    publisher = Process(world, "publisher")
    slow = [Process(world, f"slow{at}") for at in range(3)]
    feeds = [Feed(world, each, "a.>", 1, queue=100) for each in slow]
    for each in slow:
        world.dial(each, publisher)
    world.run(world.now + 0.05)
    for number in range(1_000):
        publish(publisher, ("a.b", number))
    world.run(world.now + 0.05)

    (stream,) = publisher.core.publisher._streams.values()
    cursors: list[Cursor] = stream.cursors
    assert len(cursors) == 3
    assert stream.count - stream.oldest() == 1_000 - 0  # what is on its way may have to be said again
    assert all(cursor.lag() == 75 for cursor in cursors)
    assert {tuple(number for _, _, number, _ in feed.take()) for feed in feeds} == {tuple(range(25))}


def subscribed() -> tuple[World, Process, Process, Feed]:
    world = World()
    publisher, subscriber = Process(world, "publisher"), Process(world, "subscriber")
    world.dial(subscriber, publisher)
    world.run(world.now + 0.05)
    feed = Feed(world, subscriber, "a.*", 1, queue=8)
    world.run(world.now + 0.05)
    return world, publisher, subscriber, feed


def events(**changed: Any) -> Events:
    block = block_of([b"\x01", b"\x02"], (("a.b", 0, 2, False, False),), 1, 0.0)
    ends = block.ends.cast("B")
    said = Events(1, 2, (("a.b", 2),), {1: 1}, 1, 0, ends, memoryview(bytes(block.body)))
    return replace(said, **changed)


@pytest.mark.parametrize(
    "frame",
    [
        events(subscriptions={1: -1}),
        events(sent_at=-1),
        events(sent_at=2**62),
        events(topics=(("a.b", 1),)),
        events(topics=(("a.b", -1), ("a.b", 3))),
        events(topics=(("a." + "b" * 300, 2),)),
        events(body=memoryview(b"")),
        events(base=7),
        events(event=-3),
        Subscribed(1, 1, 1, -1),
        Subscribed(1, 1, 1, 0, -2),
        Subscribed(1, 1, 1, 2**64 - 1, 2**63, ends=True),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_what_makes_no_sense_ends_the_link_of_who_says_it(frame: Events | Subscribed) -> None:
    world, publisher, subscriber, feed = subscribed()
    (conn,) = world.connections(publisher, subscriber)
    publisher.core.effects.send(conn, frame)
    world.touch(publisher)
    world.run(world.now + 0.05)

    assert subscriber.says("refused")
    assert feed.take() == []


def test_an_answer_to_what_an_earlier_session_had_left_in_the_pipe_is_none_to_what_was_named() -> None:
    """A SUBSCRIBE that the new connection brought first was answered first: from where the publisher was by then, so
    that what had been published meanwhile was missed and not told."""
    world, publisher, subscriber, feed = subscribed()
    publish(publisher, ("a.b", 1))
    world.run(world.now + 0.05)
    world.cut_all(publisher, subscriber)
    world.run(world.now + 0.01)
    world.dial(subscriber, publisher)
    world.run(world.now + 0.05)
    (conn,) = world.connections(publisher, subscriber)
    publisher.core.effects.send(conn, Subscribed(1, publisher.instance, 3, 3, 0))
    world.touch(publisher)
    world.run(world.now + 0.05)

    assert subscriber.says("refused")
    assert [got[2:] for got in feed.take()] == [(1, 0)]


def test_a_publisher_that_sends_more_than_there_is_room_for_is_cut_off() -> None:
    world, publisher, subscriber, feed = subscribed()
    (conn,) = world.connections(publisher, subscriber)
    for number in range(3):
        publisher.core.effects.send(conn, events(subscriptions={1: 1 + 2 * number}))
    world.touch(publisher)
    world.run(world.now + 0.05)

    assert any("room" in words for words in subscriber.says("refused"))
    assert len(feed.take()) == 2


@pytest.mark.parametrize(
    "frame",
    [
        Subscribe(9, "a..b"),
        Subscribe(9, ""),
        Subscribe(9, "a", queue=-1),
        Subscribe(9, "a", replay=-1),
        Subscribe(9, "a", count=-1),
        Subscribe(9, "a", limit=2**63),
        Subscribe(9, "a", overflow=3),
        Subscribe(1, "a"),  # an id that is there already
    ],
    ids=lambda frame: f"{frame.pattern} {frame.queue}",
)
def test_a_subscription_that_makes_no_sense_ends_the_link(frame: Subscribe) -> None:
    world, publisher, subscriber, _ = subscribed()
    (conn,) = world.connections(subscriber, publisher)
    subscriber.core.effects.send(conn, frame)
    world.touch(subscriber)
    world.run(world.now + 0.05)

    assert publisher.says("refused")


NUMBERS = st.one_of(st.integers(0, 5), st.sampled_from([-1, -(2**63), 2**31, 2**53, 2**63 - 1, 2**63, 2**64 - 1]))
NAMES = st.sampled_from(["a.b", "a.*", ">", "", "a..b", "b", "a.>", "\x00"])
TALK = st.lists(
    st.one_of(
        st.builds(
            Subscribe,
            NUMBERS, NAMES, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.sampled_from(["", "g"]), st.booleans(),
            NUMBERS, NUMBERS, st.integers(-1, 3),
        ),
        st.builds(Room, NUMBERS, NUMBERS, NUMBERS),
        st.builds(Subscribed, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.booleans()),
        st.builds(
            Event, NUMBERS, NUMBERS, NAMES, st.dictionaries(NUMBERS, NUMBERS, max_size=2), NUMBERS, st.just({}),
            st.binary(max_size=4),
        ),
        st.builds(
            events,
            event=NUMBERS, sent_at=NUMBERS, base=NUMBERS, subscriptions=st.dictionaries(NUMBERS, NUMBERS, max_size=2),
            topics=st.lists(st.tuples(NAMES, NUMBERS), max_size=3).map(tuple),
        ),
    ),
    max_size=12,
)  # fmt: skip


@settings(max_examples=300, derandomize=True, database=None, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(talk=TALK)
def test_nothing_that_is_said_of_topics_raises_anything(talk: list[Any]) -> None:
    """It ends a link at the most; and who comes after it is served."""
    world, publisher, subscriber, feed = subscribed()
    publisher.core.announce_topic("a.*", b"", b"", 3)
    for said in talk:
        for one, other in ((publisher, subscriber), (subscriber, publisher)):
            for conn in world.connections(one, other):
                with suppress(Exception):  # what cannot even be written is not said
                    encode(said)
                    one.core.effects.send(conn, said)
            world.touch(one)
        publish(publisher, ("a.b", 1), retain=True)
        world.run(world.now + 0.01)
        feed.take()
    world.cut_all(subscriber, publisher)
    world.run(world.now + 0.05)
    world.dial(subscriber, publisher)
    later = Feed(world, subscriber, "a.b", 99)
    world.run(world.now + 0.05)
    publish(publisher, ("a.b", 7))
    world.run(world.now + 0.05)

    assert [value for _, _, value, _ in later.take()][-1] == 7
