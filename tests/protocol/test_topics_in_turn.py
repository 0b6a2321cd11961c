"""Topics that are published in turn: a block has as many runs as events, and each step over it goes through it once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.protocol.feeds import Feed, publish
from tests.protocol.puppet import Puppet, Stage
from tests.protocol.test_crowd import steps_of
from tests.protocol.world import Process, World
from zerowait.engines.brokerless.protocol.frames import CONFLATE, Events, Goodbye, Subscribe, decode, encode
from zerowait.engines.brokerless.protocol.publisher.history import Block, Part, Ranges, Ring, block_of, frame
from zerowait.engines.brokerless.protocol.publisher.replay import history
from zerowait.engines.brokerless.protocol.publisher.sending import FRAME_STEPS, TURN_STEPS
from zerowait.engines.brokerless.protocol.subscriber.inbox import Piece
from zerowait.patterns import matches


def in_turn(count: int, topics: int = 2, *, first: int = 0, reliable: bool = False, at: float = 0.0) -> Block:
    """Numbers from `first` on, on t.0, t.1 and so on, and of each a header."""
    payloads = [msgspec.msgpack.encode(first + number) for number in range(count)]
    runs = tuple((f"t.{number % topics}", number, number + 1, False, reliable) for number in range(count))
    return block_of(payloads, runs, 0, at, {number: {"n": str(first + number)} for number in range(count)})


def numbers(of: Sequence[Events]) -> list[int]:
    return [number for each in of for number in msgspec.msgpack.decode(bytes(each.body))]


# -- what it costs -----------------------------------------------------------------------------------------------------


def steps_of_publishing(count: int, how: dict[str, Any], *, history: int, reliable: bool, begins: int) -> int:
    stage = Stage()
    publisher = stage.core.publisher
    if history:
        stage.core.announce_topic("t.*", b"", b"", history)
    peer = stage.peer(7)
    said = Subscribe(1, "t.0", limit=begins, queue=2 * count)
    peer.say(msgspec.structs.replace(said, **how))
    stage.step()
    publisher.publish(in_turn(1))
    stage.step()
    block = in_turn(count, reliable=reliable)

    def act() -> None:
        publisher.publish(block)
        publisher.flush()

    steps = steps_of(act)
    if begins > 1:
        stage._perform()
        assert len(numbers(peer.all(Events))) > 1
    return steps


@pytest.mark.parametrize(
    ("how", "history", "reliable", "begins"),
    [
        ({}, 0, False, 10_000),
        ({"pattern": "t.*"}, 0, False, 10_000),
        ({"overflow": CONFLATE}, 0, False, 10_000),
        ({"group": "g"}, 0, False, 10_000),
        ({}, 10_000, False, 10_000),
        ({"queue": 1}, 0, False, 1),
        ({"queue": 1}, 0, True, 1),
    ],
    ids=["one of them", "all of them", "conflated", "a group", "kept", "passed over", "reliable and without room"],
)
def test_a_block_of_sixteen_times_as_many_events_in_turn_costs_no_more_than_that(
    how: dict[str, Any], history: int, reliable: bool, begins: int
) -> None:
    """Each range was looked for in all runs: a publisher of two topics in turn, 10,000 events a second, stood still."""
    few, many = (
        steps_of_publishing(count, how, history=history, reliable=reliable, begins=begins) for count in (64, 1_024)
    )
    assert many <= 20 * few


def test_a_small_history_of_a_large_block_costs_what_it_keeps() -> None:
    """And one of several topics, of each of which it has little."""
    costs: list[int] = []
    for count in (64, 1_024):
        block = in_turn(count, 8)
        ring = Ring("t.0", 10_000)
        ranges = [(at, at + 1) for at in range(0, count, 8)]
        costs.append(steps_of(lambda ring=ring, block=block, ranges=ranges: ring.append(block, ranges, 1 << 26)))  # type: ignore[misc]
        assert ring.kept == count // 8
        assert numbers_of(ring.matching("t.*", 0.0)) == list(range(0, count, 8))
        assert sum(len(part.block.body) for part in ring._parts) < len(block.body) // 2
    assert costs[1] <= 20 * costs[0]


def test_a_piece_of_as_many_runs_as_events_is_taken_in_as_many_steps() -> None:
    costs: list[int] = []
    for count in (64, 1_024):
        feed = Feed(world := World(), Process(world, "subscriber"), "t.*", 1, queue=10_000)
        source = feed.inbox.source(1, "publisher")
        runs = tuple((f"t.{at % 2}", 2 * at, 2 * at + 1) for at in range(count))
        ends = memoryview(bytes(8 * count)).cast("I")
        feed.inbox.put(source, Piece(runs, 1, count, 1.0, b"", ends, 0, 0, None))
        taken: list[tuple[int, int]] = []

        def take(feed: Feed = feed, taken: list[tuple[int, int]] = taken) -> None:
            while (some := feed.inbox.take(64, one_topic=True)) is not None:
                taken.append((some.start, some.stop))

        costs.append(steps_of(take))
        assert taken == [(2 * at, 2 * at + 1) for at in range(count)]
    assert costs[1] <= 20 * costs[0]


# -- what it says ------------------------------------------------------------------------------------------------------


def numbers_of(parts: Sequence[Part]) -> list[int]:
    return [number for part in parts for number in numbers([framed(part.block, part.ranges)])]


def framed(block: Block, ranges: Ranges) -> Events:
    said = decode(frame(block, ranges, {1: 1}, 7))
    assert isinstance(said, Events)
    return said


RUNS = st.lists(st.tuples(st.sampled_from(["a", "b", "c.a", "c.b"]), st.integers(1, 3)), min_size=1, max_size=30)


def published(runs: Sequence[tuple[str, int]], first: int) -> tuple[Block, list[str]]:
    """Numbers from `first` on, and the topic of each."""
    topics = [topic for topic, many in runs for _ in range(many)]
    found: list[tuple[str, int, int, bool, bool]] = []
    for topic, many in runs:
        at = found[-1][2] if found else 0
        found.append((topic, at, at + many, False, topic == "b"))
    payloads = [msgspec.msgpack.encode(first + at) for at in range(len(topics))]
    headers = {at: {"n": str(first + at)} for at in range(0, len(topics), 3)}
    block = block_of(payloads, tuple(found), 0, 0.0, headers)
    block.first = first
    return block, topics


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(runs=RUNS, wanted=st.sampled_from(["a", "c.*", ">"]), skip=st.integers(0, 80), most=st.integers(1, 80))
def test_what_is_cut_framed_and_told_apart_is_what_was_published(
    runs: list[tuple[str, int]], wanted: str, skip: int, most: int
) -> None:
    block, topics = published(runs, 1_000)
    mine = [at for at, topic in enumerate(topics) if matches(wanted, topic)]
    if not mine:
        return
    skip %= len(mine)
    part = Part(block, tuple((at, at + 1) for at in mine), len(mine), 501)
    cut = part.cut(skip, most)
    said = framed(block, cut)
    got = mine[skip : skip + most]

    assert numbers([said]) == [1_000 + at for at in got]
    assert said.event == 1_000 + got[-1]
    assert [topic for topic, many in said.topics for _ in range(many)] == [topics[at] for at in got]
    assert said.headers == {place: {"n": str(1_000 + at)} for place, at in enumerate(got) if at % 3 == 0}
    assert part.event(skip) == 1_000 + got[0]
    assert sorted((topic, many, one.c, numbers_of([one])) for topic, many, one in part.newest()) == sorted(
        (topic, len(of), 501 + mine.index(of[-1]), [1_000 + of[-1]])
        for topic in {topics[at] for at in mine}
        if (of := [at for at in mine if topics[at] == topic])
    )
    assert [(each.c + at, n) for each in part.reliable() for at, n in enumerate(numbers_of([each]))] == [
        (501 + place, 1_000 + at) for place, at in enumerate(mine) if topics[at] == "b"
    ]


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(
    blocks=st.lists(RUNS, min_size=1, max_size=5),
    rings=st.lists(st.tuples(st.sampled_from(["a", "c.*", "c.a", ">"]), st.integers(1, 60)), min_size=1, max_size=3),
    wanted=st.sampled_from(["a", "c.*", ">", "*"]),
    most=st.integers(0, 40),
)
def test_what_is_replayed_is_what_the_histories_have_once(
    blocks: list[list[tuple[str, int]]], rings: list[tuple[str, int]], wanted: str, most: int
) -> None:
    kept = [Ring(pattern, count) for pattern, count in rings]
    all_topics: list[str] = []
    for runs in blocks:
        block, topics = published(runs, len(all_topics) + 1)
        all_topics += topics
        for ring in kept:
            ranges = [(at, at + 1) for at, topic in enumerate(topics) if matches(ring.pattern, topic)]
            if ranges:
                ring.append(block, ranges, 1 << 26)
    have: set[int] = set()
    for pattern, count in rings:
        have |= set([n for n, topic in enumerate(all_topics, 1) if matches(pattern, topic)][-count:])
    right = sorted(n for n in have if matches(wanted, all_topics[n - 1]))

    assert numbers_of(history(kept, wanted, 0.0, most)) == (right[-most:] if most else right)


# -- turns -------------------------------------------------------------------------------------------------------------


def joined(blocks: int, each: int, *, said: bool = True) -> tuple[Stage, Puppet]:
    """A publisher that has kept so many blocks, and who has just asked for all of it, and has had a turn."""
    stage = Stage()
    stage.core.announce_topic("t.*", b"", b"", blocks * each)
    for number in range(blocks):
        stage.core.publisher.publish(in_turn(each, first=number * each))
        stage.step()
    peer = stage.peer(7)
    if said:
        peer.say(Subscribe(1, "t.*", limit=10**6, queue=10**6, replay=10**6))
    return stage, peer


def test_a_block_is_replayed_in_one_frame() -> None:
    """It was one frame an event, and a publisher with subscribers that joined went on when they had all of it."""
    stage, peer = joined(20, 100)
    stage.step()

    assert numbers(peer.all(Events)) == list(range(2_000))
    assert len(peer.all(Events)) == 20


@pytest.mark.parametrize("how", [{}, {"group": "g"}])
def test_a_long_replay_takes_several_turns_and_holds_up_nobody(how: dict[str, Any]) -> None:
    stage, peer = joined(2_000, 2, said=False)
    other = stage.peer(8)
    other.say(Subscribe(1, "t.*", limit=10**6, queue=100))
    stage.step()
    peer.say(Subscribe(1, "t.*", limit=10**6, queue=10**6, replay=10**6, **how))
    turns, before = 0, len(peer.all(Events))
    assert before <= TURN_STEPS / FRAME_STEPS + 1
    while turns == 0 or stage.core.publisher.is_behind:
        if turns:
            assert stage.core.next_wake() <= stage.now  # type: ignore[operator]
        stage.core.publisher.publish(in_turn(2, first=4_000 + 2 * turns))
        stage.step()
        turns += 1
        sent = len(peer.all(Events))
        assert sent - before <= TURN_STEPS / FRAME_STEPS + 1
        before = sent
        assert numbers(other.all(Events)) == list(range(4_000, 4_000 + 2 * turns))
    assert turns >= 4
    stage.step()
    assert numbers(peer.all(Events)) == list(range(4_000 + 2 * turns))
    counts = [count for each in peer.all(Events) for count in each.subscriptions.values()]
    assert counts == list(range(counts[0], counts[0] + 2 * len(counts), 2))


def test_of_many_who_ask_for_long_histories_all_come_to_their_turn() -> None:
    stage, first = joined(2_000, 2, said=False)
    peers = [first, *(stage.peer(instance) for instance in range(300, 320))]
    for at, peer in enumerate(peers):
        said = Subscribe(1 + at, "t.*", limit=10**6, queue=10**6, replay=3_000 + at)
        stage.core.receive(peer.conn, encode(said), stage.now)
    turns = 0
    while turns == 0 or stage.core.publisher.is_behind:
        stage.step()
        turns += 1
        had = [len(peer.all(Events)) for peer in peers]
        assert max(had) - min(had) <= 2 * TURN_STEPS / FRAME_STEPS
    assert turns > 10
    assert [numbers(peer.all(Events)) for peer in peers] == [
        list(range(4_000 - 3_000 - at, 4_000)) for at in range(len(peers))
    ]


def test_a_group_has_its_turn_while_many_ask_for_long_histories() -> None:
    stage, member = joined(2_000, 2, said=False)
    peers = [stage.peer(instance) for instance in range(300, 320)]
    for at, peer in enumerate(peers):
        said = Subscribe(1 + at, "t.*", limit=10**6, queue=10**6, replay=10**6)
        stage.core.receive(peer.conn, encode(said), stage.now)
    group = Subscribe(1, "t.*", limit=10**6, queue=10**6, replay=10**6, group="g")
    stage.core.receive(member.conn, encode(group), stage.now)
    for _ in range(3):
        stage.step()
    assert member.all(Events)


def test_who_has_room_for_more_than_a_turn_s_events_loses_none_to_a_short_queue() -> None:
    stage = Stage()
    peer = stage.peer(7)
    peer.say(Subscribe(1, "t.*", limit=20_000, queue=10))
    peer.say(Subscribe(2, "t.0", limit=20_000, queue=10))
    stage.step()
    for number in range(2_000):
        stage.core.publisher.publish(in_turn(2, first=2 * number))
    stage.core.flush(stage.now)
    assert stage.core.publisher.is_behind
    for _ in range(20):
        stage.step()

    found = peer.all(Events)
    assert numbers([each for each in found if 1 in each.subscriptions]) == list(range(4_000))
    assert stage.core.publisher.streams("t.*")[0].dropped == 0


def test_more_than_may_be_kept_goes_to_who_has_room_before_it_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    core = stage.core.publisher
    monkeypatch.setattr(core, "_config", msgspec.structs.replace(core._config, topic_bytes=1_000))
    peer = stage.peer(7)
    peer.say(Subscribe(1, "t.*", limit=20_000, queue=20_000))
    stage.step()
    for number in range(2_000):
        core.publish(in_turn(2, first=2 * number))
    stage.step()

    assert numbers(peer.all(Events)) == list(range(4_000))


def test_who_leaves_sends_all_that_there_is_room_for() -> None:
    stage, peer = joined(2_000, 2)
    stage.step()
    assert stage.core.publisher.is_behind
    stage.core.farewell(stage.now, final=True)
    stage._perform()

    assert numbers(peer.all(Events)) == list(range(4_000))
    assert not peer.last(Goodbye).missed


def test_who_is_gone_while_more_was_to_come_is_not_waited_for() -> None:
    stage, peer = joined(2_000, 2)
    stage.step()
    peer.lose()
    stage.step()

    assert not stage.core.publisher.is_behind


def test_subscriptions_of_many_topics_are_served_in_the_order_of_publication() -> None:
    """Each of them once looked at all others for each frame."""
    costs: list[int] = []
    for count in (32, 512):
        stage = Stage()
        peer = stage.peer(7)
        for id in range(count):
            peer.say(Subscribe(id, f"t.{id}", limit=100, queue=10))
        stage.step()
        stage.core.publisher.publish(in_turn(count, count))
        costs.append(steps_of(stage.core.publisher.flush))
        for _ in range(5):
            stage.step()
        assert numbers(peer.all(Events)) == list(range(count))
    assert costs[1] <= 24 * costs[0]


def test_events_and_room_for_them_in_turn_are_exact() -> None:
    """Of a block of many ranges, however little there is room for."""
    world = World()
    publisher, subscriber = Process(world, "publisher"), Process(world, "subscriber")
    world.dial(subscriber, publisher)
    world.run(world.now + 0.05)
    feeds = [
        Feed(world, subscriber, pattern, 1 + at, queue=60 + at) for at, pattern in enumerate(("t.a", "t.*", "t.b"))
    ]
    world.run(world.now + 0.05)
    publish(publisher, *((f"t.{'abc'[number % 3]}", number) for number in range(240)))
    got: list[list[int]] = [[], [], []]
    for step in range(400):
        for at, feed in enumerate(feeds):
            for _, _, number, missed in feed.take(1 + step % 7):
                got[at] += [-1] * missed + [number]
        world.run(world.now + 0.01)

    for at, mine in enumerate(([0], [0, 1, 2], [1])):
        right = [number for number in range(240) if number % 3 in mine]
        assert len(got[at]) == len(right)
        assert all(number in (-1, expected) for number, expected in zip(got[at], right, strict=True))
