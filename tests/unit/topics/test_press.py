"""Where publishing begins: whatever threads do, the events of each keep their order, and none is lost or twice."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import msgspec
import pytest

from tests.waiting import wait_until
from zerowait.callbacks import Callbacks
from zerowait.codec import Codec
from zerowait.errors import Closed, QueueFull, ZerowaitError
from zerowait.message import SEGMENT_BYTES, SEGMENT_MESSAGES
from zerowait.pending import Promise
from zerowait.publications import Published
from zerowait.topics import bundle as bundle_module
from zerowait.topics.bundle import BUNDLES_MOST, LONGEST_NAP_S, PRESSED, Bundle, Press, TopicLane
from zerowait.turns import LONGEST_NAP_ON_LOOP_S, SEGMENTS_A_TURN

CODEC: Codec[int] = Codec(int)


class Table:
    """A press, and what was taken from it."""

    def __init__(self) -> None:
        self.callbacks = Callbacks("test")
        self.woken = 0
        self.press = Press(
            self.callbacks,
            now_us=lambda: 1,
            wake=self.wake,
            give_way=lambda: None,
            room=lambda: Promise[None](self.callbacks),
        )

    def wake(self) -> None:
        self.woken += 1

    def lane(self, name: str, **said: Any) -> TopicLane:
        return TopicLane(self.press, name, CODEC, int, **said)

    def take(self) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        for bundle in self.press.take():
            body, ends, runs = bundle.let_go()
            values = msgspec.msgpack.decode(bytes(body))
            assert len(values) == len(ends)
            found += [(topic, value) for topic, start, stop, _ in runs for value in values[start:stop]]
            bundle.addressed({topic: 3 for topic, *_ in runs})
        return found


def publish(lane: TopicLane, number: int) -> Published:
    """As the client's short way does it."""
    press, slot = lane.press, lane.slot
    if lane.exact is None:
        return press.publish(lane, CODEC.encode(number))
    try:
        bundle: Bundle = slot.pop()
    except IndexError:
        return press.publish(lane, CODEC.encode(number))
    try:
        if bundle is press.newest:
            lane.encode_into(number, bundle.buffer, -1)  # small: the long way of large ones is the client's
            if bundle.lane is not lane:
                bundle.turn(lane)
            bundle.ends.append(len(bundle.buffer))
            if len(bundle.ends) >= SEGMENT_MESSAGES:
                slot = press.closed
            return Published(bundle, lane)
        slot = press.closed
    finally:
        slot.append(bundle)
    return press.publish(lane, CODEC.encode(number))


def test_events_are_taken_in_the_order_of_their_publication_over_all_topics() -> None:
    table = Table()
    lanes = [table.lane(name) for name in "ab"]
    pending = [publish(lanes[number % 2], number) for number in range(3_000)]

    assert not pending[0].done()
    assert table.take() == [("ab"[number % 2], number) for number in range(3_000)]
    assert {each.result(0) for each in pending} == {3}
    assert table.take() == []


def test_the_network_thread_is_woken_once_a_bundle() -> None:
    table = Table()
    lane = table.lane("a")
    for number in range(SEGMENT_MESSAGES + 1):
        publish(lane, number)
    assert table.woken == 2


def test_what_somebody_has_in_hand_holds_up_what_comes_after_it() -> None:
    table = Table()
    lane = table.lane("a")
    publish(lane, 1)
    held = table.press.slot.pop()
    publish(lane, 2)  # another thread's: it may not overtake

    assert table.take() == []
    table.press.slot.append(held)
    assert table.take() == [("a", 1), ("a", 2)]


def test_an_older_bundle_gets_nothing_more() -> None:
    table = Table()
    lane = table.lane("a")
    publish(lane, 1)
    held = table.press.slot.pop()
    publish(lane, 2)
    table.press.slot.append(held)
    publish(lane, 3)

    assert table.take() == [("a", 1), ("a", 2), ("a", 3)]


def test_threads_lose_nothing_and_keep_their_order() -> None:
    table = Table()
    count, threads = 4_000, 4

    def work(name: str) -> None:
        lanes = [table.lane(f"{name}.{at}") for at in range(2)]
        for number in range(count):
            publish(lanes[number % 2], number)

    workers = [threading.Thread(target=work, args=(f"t{at}",)) for at in range(threads)]
    for worker in workers:
        worker.start()
    taken: list[tuple[str, int]] = []
    deadline = time.monotonic() + 30
    while len(taken) < count * threads and time.monotonic() < deadline:
        taken += table.take()
    for worker in workers:
        worker.join()
    for at in range(threads):
        assert [number for topic, number in taken if topic.startswith(f"t{at}.")] == list(range(count))


def test_what_cannot_be_encoded_leaves_no_trace() -> None:
    table = Table()
    lane = table.lane("a")
    publish(lane, 1)
    bundle = table.press.slot.pop()
    bundle.turn(table.lane("b"))
    bundle.buffer += b"half"
    bundle.undo()
    table.press.slot.append(bundle)
    publish(lane, 2)

    assert table.take() == [("a", 1), ("a", 2)]


def test_a_network_thread_that_stands_still_is_no_reason_to_run_out_of_memory() -> None:
    table = Table()
    lane = table.lane("a")
    for _ in range(BUNDLES_MOST):
        table.press._begun.append(Bundle(0, threading.Lock()))

    with pytest.raises(QueueFull) as full:
        table.press.publish(lane, b"\x01")

    table.press._begun.clear()
    publish(lane, 1)
    table.take()
    wait_until(lambda: full.value.room.done(), within=5)


def allow(table: Table, version: int = 1, **rooms: int | None) -> None:
    """As the network thread does after each turn: how much room the fullest queue of each pattern has."""
    said = {pattern.replace("_", "."): room for pattern, room in rooms.items()}
    # What a pattern's room is becomes known once a lane has been matched with it.
    for _ in range(2):
        table.press.allow(version, lambda: list(said), said.__getitem__)


def take(table: Table, *lanes: TopicLane) -> int:
    taken = table.take()
    for lane in lanes:
        lane.published += sum(topic == lane.name for topic, _ in taken)
    return len(taken)


def fill(lane: TopicLane, most: int = 1_000) -> int:
    """How many are accepted until one is refused."""
    for number in range(most):
        try:
            publish(lane, number)
        except QueueFull:
            return number
    return most


def test_a_reliable_topic_is_refused_beyond_what_queues_hold() -> None:
    table = Table()
    lane = table.lane("a", reliable=True)
    publish(lane, 0)
    allow(table, a=3)
    for number in (1, 2):
        publish(lane, number)
    with pytest.raises(QueueFull) as full:
        publish(lane, 3)

    assert not full.value.room.done()
    assert take(table, lane) == 3
    allow(table, a=1)
    assert full.value.room.done()
    publish(lane, 3)
    allow(table, a=None)
    publish(lane, 4)


def test_reliable_topics_that_one_subscriber_gets_share_the_room_of_its_queue() -> None:
    table = Table()
    lanes = [table.lane(f"r.{at}", reliable=True) for at in range(10)]
    other = table.lane("other", reliable=True)
    publish(lanes[0], 0)
    publish(other, 0)
    for _ in range(2):
        table.press.allow(1, lambda: ["r.*", "other"], {"r.*": 100, "other": 5}.__getitem__)

    assert sum(fill(lane) for lane in lanes) == 99
    assert fill(other) == 4, "who is slow on one topic holds up no other"
    assert take(table, *lanes, other) == 105
    for _ in range(2):
        table.press.allow(1, lambda: ["r.*", "other"], {"r.*": 7, "other": 5}.__getitem__)
    assert [fill(lane) for lane in lanes] == [7, *[0] * 9]


def test_a_topic_of_which_nothing_was_published_yet_takes_no_room_that_is_not_there() -> None:
    table = Table()
    first = table.lane("r.0", reliable=True)
    publish(first, 0)
    table.press.allow(1, lambda: ["r.*"], lambda _: 2)
    table.press.allow(1, lambda: ["r.*"], lambda _: 2)
    publish(first, 1)

    assert [fill(table.lane(f"r.{at}", reliable=True)) for at in range(1, 50)] == [0] * 49


def test_who_waits_for_room_is_told_when_the_client_is_closed() -> None:
    table = Table()
    lane = table.lane("a", reliable=True)
    publish(lane, 0)
    allow(table, a=1)
    with pytest.raises(QueueFull) as full:
        publish(lane, 1)
    table.press.close("client")

    assert full.value.room.done()


def test_after_the_end_nothing_is_taken_and_who_waits_is_told() -> None:
    table = Table()
    lane = table.lane("a")
    pending = publish(lane, 1)
    table.press.fail(ZerowaitError("no socket"))
    with pytest.raises(ZerowaitError, match="no socket"):
        pending.result(0)
    with pytest.raises(ZerowaitError, match="no socket"):
        publish(lane, 2)
    table.press.close("client")
    with pytest.raises(Closed):
        publish(lane, 3)


def test_an_event_loop_naps_only_in_a_turn_that_begins_bundle_after_bundle_and_then_shortly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    naps: list[float] = []
    monkeypatch.setattr(bundle_module, "sleep", naps.append)
    lane = Table().lane("prices")

    def begin_bundles(count: int) -> None:
        for _ in range(count):
            lane.press.publish(lane, bytes(SEGMENT_BYTES))

    async def turns() -> None:
        for _ in range(5):
            begin_bundles(SEGMENTS_A_TURN)
            await asyncio.sleep(0)
        assert naps == [], "others turn in between"
        begin_bundles(SEGMENTS_A_TURN + 3)

    begin_bundles(2 * PRESSED)  # the thread that sends is behind
    naps.clear()
    asyncio.run(turns())
    assert naps == [LONGEST_NAP_ON_LOOP_S] * 3
    begin_bundles(1)
    assert naps[3:] == [LONGEST_NAP_S], "a thread that publishes naps each time"
