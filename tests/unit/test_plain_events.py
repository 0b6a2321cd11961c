"""Events for bare peers and from them, on a wire that is none, and the queue between them and a subscription."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest

from zerowait.callbacks import Callbacks
from zerowait.codec import Codec
from zerowait.engines.brokerless.plainly.ports import PlainPorts
from zerowait.engines.brokerless.protocol.subscriber.inbox import Inbox
from zerowait.engines.brokerless.wire import PlainHeard
from zerowait.outbox.plaincodec import plain_decoder, plain_encoder
from zerowait.pending import Promise
from zerowait.plain import Plain
from zerowait.publications import Published
from zerowait.topics.bundle import Press, TopicLane

WHERE, ELSEWHERE = "tcp://127.0.0.1:5611", "tcp://127.0.0.1:5612"


class FakeWire:
    def __init__(self) -> None:
        self.opened: list[str] = []
        self.sent: list[tuple[int, list[bytes]]] = []
        self.filters: list[tuple[int, bytes, bool]] = []
        self.closed: list[int] = []
        self.opening: Exception | None = None

    def plain(self, kind: str, bind: object, connect: object, *, message_bytes: int) -> int:
        if self.opening is not None:
            raise self.opening
        self.opened.append(kind)
        return len(self.opened)

    def send_parts(self, plain: int, parts: list[bytes]) -> bool:
        self.sent.append((plain, parts))
        return True

    def subscribe_plain(self, plain: int, prefix: bytes, *, wanted: bool) -> None:
        self.filters.append((plain, prefix, wanted))

    def close_plain(self, plain: int) -> None:
        self.closed.append(plain)


class Bench:
    def __init__(self) -> None:
        self.now = 1.0
        self.wire = FakeWire()
        self.ports = PlainPorts(clock=lambda: self.now)
        wire: Any = self.wire
        self.ports.open(wire)
        callbacks = Callbacks("test")
        self.press = Press(
            callbacks,
            now_us=lambda: 1,
            wake=lambda: None,
            give_way=lambda: None,
            room=lambda: Promise[None](callbacks),
        )

    def lane(self, name: str, where: str = WHERE, *, topic_frame: bool = False) -> TopicLane:
        plain, codec = Plain("text", bind=where, topic_frame=topic_frame), Codec[str](str)
        self.ports.publish_to(name, plain, self.press)
        return TopicLane(self.press, name, codec, None, encode=plain_encoder(plain, codec))

    def publish(self, lane: TopicLane, *values: str) -> list[Published]:
        return [self.press.publish(lane, lane.encode(value)) for value in values]

    def subscribe(self, id: int, name: str, most: int = 10, *, conflate: bool = False, **said: Any) -> Inbox:
        plain = Plain("text", connect=WHERE, **said)
        inbox = Inbox(threading.Lock(), 10, conflate=conflate, renew=lambda: None, notify=lambda: None)
        self.ports.subscribe(id, name, plain, plain_decoder(plain, Codec(object)), inbox, most)
        self.ports.turn()
        return inbox

    def hear(self, *events: list[bytes]) -> None:
        for parts in events:
            self.ports.heard(PlainHeard(1, parts))
        self.ports.turn()


def looked_at(inbox: Inbox) -> list[tuple[str, Any, int]]:
    """Topic, value and what was missed before it, of all that there is."""
    found: list[tuple[str, Any, int]] = []
    while (taken := inbox.take(1)) is not None:
        values = msgspec.msgpack.decode(taken.piece.body)
        found.append((taken.topics[0][0], values[taken.start], taken.missed))
    return found


@pytest.fixture
def bench() -> Bench:
    return Bench()


# -- publishing --------------------------------------------------------------------------------------------------------


def test_events_leave_in_their_order_each_as_its_topic_is_framed(bench: Bench) -> None:
    body, framed = bench.lane("body"), bench.lane("framed", topic_frame=True)
    bench.publish(body, "1", "2")
    bench.publish(framed, "3")
    bench.publish(body, "")
    assert bench.ports.has_work()
    bench.ports.turn()
    assert bench.wire.opened == ["pub"], "one socket for one address"
    assert [parts for _, parts in bench.wire.sent] == [[b"1"], [b"2"], [b"framed", b"3"], [b""]]
    assert not bench.ports.has_work()
    assert bench.ports.is_empty()


def test_topics_of_another_address_have_another_socket(bench: Bench) -> None:
    bench.publish(bench.lane("a"), "1")
    bench.publish(bench.lane("b", ELSEWHERE), "2")
    bench.ports.turn()
    assert bench.wire.sent == [(1, [b"1"]), (2, [b"2"])]


def test_what_is_published_is_addressed_to_as_many_different_subscriptions_as_there_are(bench: Bench) -> None:
    body, framed = bench.lane("room.a"), bench.lane("room.b", topic_frame=True)
    bench.ports.turn()
    for said in (b"\x01", b"\x01room.", b"\x01room.a", b"\x01house"):
        bench.hear([said])
    receipts = [*bench.publish(body, "1"), *bench.publish(framed, "1")]
    bench.ports.turn()
    assert [each.result(0) for each in receipts] == [4, 2]
    for said in (b"\x00room.", b"\x00", b"\x00house"):
        bench.hear([said])
    receipts = [*bench.publish(body, "1"), *bench.publish(framed, "1")]
    bench.ports.turn()
    assert [each.result(0) for each in receipts] == [1, 0]


def test_what_a_strange_subscriber_says_changes_nothing(bench: Bench) -> None:
    lane = bench.lane("a")
    bench.ports.turn()
    bench.hear([b""], [b"\x02x"], [b"\x01a", b"b"], [b"\x00never subscribed"], [])
    [receipt] = bench.publish(lane, "1")
    bench.ports.turn()
    assert receipt.result(0) == 0


def test_while_the_address_is_in_use_nobody_hears_and_nothing_gathers(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    lane = bench.lane("a")
    bench.wire.opening = OSError("in use")
    [receipt] = bench.publish(lane, "1")
    bench.ports.turn()
    assert receipt.result(0) == 0
    assert "nobody hears what is published" in caplog.text
    bench.wire.opening, bench.now = None, bench.now + 1.1
    bench.publish(lane, "2")
    bench.ports.turn()
    assert bench.wire.sent == [(1, [b"2"])]


# -- subscribing -------------------------------------------------------------------------------------------------------


def test_subscriptions_to_one_address_share_a_socket_and_each_gets_its_own(bench: Bench) -> None:
    one, all_of_it = bench.subscribe(1, "one", prefix="1"), bench.subscribe(2, "all")
    assert bench.wire.opened == ["sub"]
    assert bench.wire.filters == [(1, b"1", True), (1, b"", True)]
    bench.hear([b"1 a"], [b"2 b"])
    assert looked_at(one) == [("one", "1 a", 0)]
    assert looked_at(all_of_it) == [("all", "1 a", 0), ("all", "2 b", 0)]
    assert bench.ports.unsubscribe(1)
    bench.hear([b"1 c"])
    assert bench.wire.filters[2:] == [(1, b"1", False)]
    assert not looked_at(one)
    assert looked_at(all_of_it) == [("all", "1 c", 0)]
    assert bench.ports.unsubscribe(2)
    assert not bench.ports.unsubscribe(2)
    bench.ports.turn()
    assert bench.wire.closed == [1]


def test_topics_of_one_frame_and_of_two_on_one_address_are_told_apart(bench: Bench) -> None:
    body, framed = bench.subscribe(1, "body"), bench.subscribe(2, "room.*", topic_frame=True)
    bench.hear([b"x"], [b"room.a", b"y"], [b"room.b", b"z"], [b"room.b", b"!"], [b"a", b"b", b"c"])
    assert looked_at(body) == [("body", "x", 0)]
    assert looked_at(framed) == [("room.a", "y", 0), ("room.b", "z", 0), ("room.b", "!", 0)]
    assert bench.ports.refused() == {"body": 1, "room.*": 0}, "a b c begins as no room does"
    bench.hear([b"later"])
    assert looked_at(body) == [("body", "later", 1)]


def test_the_oldest_are_dropped_and_counted_where_a_queue_is_full(bench: Bench) -> None:
    inbox = bench.subscribe(1, "a", most=3)
    bench.hear(*[[b"%d" % n] for n in range(10)])
    bench.hear([b"10"])
    assert looked_at(inbox) == [("a", "8", 8), ("a", "9", 0), ("a", "10", 0)]
    bench.hear(*[[b"%d" % n] for n in range(11, 13)])
    assert looked_at(inbox) == [("a", "11", 0), ("a", "12", 0)]


def test_what_was_partly_looked_at_counts_only_for_what_is_left(bench: Bench) -> None:
    inbox = bench.subscribe(1, "a", most=4)
    bench.hear(*[[b"%d" % n] for n in range(4)])
    first = inbox.take(3)
    assert first is not None
    bench.hear(*[[b"%d" % n] for n in range(4, 8)])
    assert looked_at(inbox) == [("a", "4", 1), ("a", "5", 0), ("a", "6", 0), ("a", "7", 0)]


def test_the_newest_stays_however_large_it_is(bench: Bench) -> None:
    inbox = bench.subscribe(1, "a", most=2)
    bench.hear([b"x"], [b"y" * 1_000_000])
    bench.hear([b"z" * 1_000_000])
    [(_, value, missed)] = looked_at(inbox)
    assert (value[:1], missed) == ("z", 2)


def test_one_that_conflates_has_the_newest_of_each_topic(bench: Bench) -> None:
    inbox = bench.subscribe(1, "room.*", conflate=True, topic_frame=True)
    bench.hear([b"room.a", b"1"], [b"room.b", b"2"], [b"room.a", b"3"])
    bench.hear([b"room.b", b"4"])
    assert sorted(looked_at(inbox)) == [("room.a", "3", 0), ("room.b", "4", 0)]


def test_what_cannot_be_read_is_refused_and_missed(bench: Bench) -> None:
    inbox = bench.subscribe(1, "a")
    bench.hear([b"\xff"], [b"two", b"frames"], [])
    bench.ports.heard(PlainHeard(1, [b"too", b""], complete=False))
    bench.hear([b"x"])
    assert looked_at(inbox) == [("a", "x", 4)]
    assert bench.ports.refused() == {"a": 4}


def test_what_cannot_be_read_is_missed_in_its_place_by_those_that_it_was_for(bench: Bench) -> None:
    numbers, other = bench.subscribe(1, "a.n", topic_frame=True), bench.subscribe(2, "other", topic_frame=True)
    bench.hear(
        [b"a.n", b"7"], [b"a.n", b"\xff"], [b"a.n", b"9"], [b"a.n", b"10", b"!"], [b"a.n", b"\xff"], [b"a.n", b"11"]
    )
    bench.hear([b"other", b"1"])
    assert looked_at(numbers) == [("a.n", "7", 0), ("a.n", "9", 1), ("a.n", "11", 2)]
    assert looked_at(other) == [("other", "1", 0)]
    assert bench.ports.refused() == {"a.n": 3, "other": 0}


def test_where_a_queue_is_full_what_could_not_be_read_counts_with_what_was_dropped(bench: Bench) -> None:
    inbox = bench.subscribe(1, "a", most=2)
    bench.hear(*[[b"%d" % n] if n % 2 else [b"\xff"] for n in range(10)])
    assert looked_at(inbox) == [("a", "7", 7), ("a", "9", 1)]
    bench.hear([b"\xff"], [b"y" * 1_000_000], [b"\xff"])
    bench.hear([b"\xff"])
    assert looked_at(inbox) == [("a", "y" * 1_000_000, 1)], "the newest stays, however large it is"
    bench.hear([b"z"])
    assert looked_at(inbox) == [("a", "z", 2)]
