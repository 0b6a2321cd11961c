"""Plain PUB programs feed our subscriptions, and plain SUB programs get what we publish."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from tests.plain.ports import endpoint, plain
from tests.programs import Start
from tests.waiting import wait_until
from zerowait import App, Client, Context, Event, Plain, PushChannel, Retry, Settings, Topic
from zerowait.errors import EncodeError, UsageError
from zerowait.results import Subscription
from zerowait.settings_channels import ChannelSettings


class Publisher:
    """A PUB in this process; as an XPUB it knows when somebody has subscribed."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.XPUB)
        self.socket.linger, self.socket.rcvtimeo = 0, 10_000
        self.where = f"tcp://127.0.0.1:{self.socket.bind_to_random_port('tcp://127.0.0.1')}"

    def subscribed(self, count: int = 1) -> list[bytes]:
        return sorted(self.socket.recv() for _ in range(count))


@pytest.fixture
def pub() -> Iterator[Publisher]:
    made = Publisher()
    yield made
    made.socket.close()
    made.context.term()


def first(events: Subscription[Any]) -> Event[Any]:
    """The next one."""
    return next(iter(events))


class Subscriber:
    def __init__(self, where: str, *wanted: bytes) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.SUB)
        self.socket.linger, self.socket.rcvtimeo = 0, 10_000
        self.socket.connect(where)
        for each in wanted:
            self.socket.subscribe(each)

    def close(self) -> None:
        self.socket.close()
        self.context.term()


# -- from plain publishers ---------------------------------------------------------------------------------------------


def test_a_plain_weather_server_feeds_a_subscription_by_how_its_events_begin(start: Start) -> None:
    where = endpoint()
    start(*plain("weather_server"), where)
    weather = Topic[str]("weather", plain=Plain("text", connect=where, prefix="10001 "))
    with Client("reader") as zw, zw.subscribe(weather, idle=10) as events:
        for _, event in zip(range(20), events, strict=False):
            zipcode, _, humidity = event.value.split()
            assert (event.topic, event.sender, event.missed) == ("weather", where, 0)
            assert zipcode == "10001"
            assert 10 <= int(humidity) < 60


def test_a_plain_weather_server_feeds_a_handler_and_does_so_again_after_it_was_killed(start: Start) -> None:
    where = endpoint()
    server = start(*plain("weather_server"), where)
    app, got = App("reader"), list[str]()

    @app.subscribe(Topic[str]("weather", plain=Plain("text", connect=where, prefix="59937 ")))
    def take(update: str, ctx: Context) -> None:
        got.append(update)

    with app:
        wait_until(lambda: len(got) >= 10, within=10)
        server.signal(signal.SIGKILL)
        server.ended()
        got.clear()
        start(*plain("weather_server"), where)
        wait_until(lambda: len(got) >= 10, within=20)
    assert all(update.startswith("59937 ") for update in got)


def test_two_frames_are_topic_and_body_and_a_pattern_takes_its_own(pub: Publisher) -> None:
    heat = Topic[int]("room.*.heat", plain=Plain("json", connect=pub.where, topic_frame=True))
    all_of_it = Topic[object]("room.>", plain=Plain("json", connect=pub.where, topic_frame=True))
    with Client("reader") as zw, zw.subscribe(heat, idle=10) as rooms, zw.subscribe(all_of_it, idle=10) as others:
        assert pub.subscribed() == [b"\x01room."]
        for topic in ("room.a.heat", "room.a.light", "room.b.heat", "rooms.c.heat", "room.b.c.heat", "room.d/heat"):
            pub.socket.send_multipart([topic.encode(), b"7"])
        pub.socket.send_multipart([b"room.z.heat", b"8"])
        found = [first(rooms) for _ in range(3)]
        assert [(each.topic, each.value) for each in found] == [
            ("room.a.heat", 7), ("room.b.heat", 7), ("room.z.heat", 8),
        ]  # fmt: skip
        assert [first(others).topic for _ in range(5)] == [
            "room.a.heat", "room.a.light", "room.b.heat", "room.b.c.heat", "room.z.heat",
        ]  # fmt: skip


def test_the_envelope_of_a_plain_publisher_is_a_topic_by_its_name(pub: Publisher) -> None:
    wanted = Topic[str]("B", plain=Plain("text", connect=pub.where, topic_frame=True))
    with Client("reader") as zw, zw.subscribe(wanted, idle=10) as events:
        assert pub.subscribed() == [b"\x01B"]
        pub.socket.send_multipart([b"A", b"We don't want to see this"])
        pub.socket.send_multipart([b"BB", b"nor this"])
        pub.socket.send_multipart([b"B", b"We would like to see this"])
        assert first(events).value == "We would like to see this"


def test_a_topic_frame_that_is_no_name_of_ours_is_taken_by_its_prefix_and_said_in_a_header(pub: Publisher) -> None:
    wanted = Topic[float]("heat", plain=Plain("text", connect=pub.where, prefix="house/", topic_frame=True))
    with Client("reader") as zw, zw.subscribe(wanted, idle=10) as events:
        assert pub.subscribed() == [b"\x01house/"]
        pub.socket.send_multipart([b"house/kitchen", b"21.5"])
        event = first(events)
        assert (event.topic, event.value, event.headers) == ("heat", 21.5, {"topic": "house/kitchen"})


def test_what_cannot_be_read_is_missed_counted_and_logged_and_the_next_is_taken(
    pub: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = Topic[dict[str, int]]("in", plain=Plain("json", connect=pub.where))
    with Client("reader") as zw, zw.subscribe(wanted, idle=10) as events:
        assert pub.subscribed() == [b"\x01"]
        pub.socket.send(b"{not json")
        pub.socket.send_multipart([b"two", b"frames"])
        pub.socket.send(b'{"a": "of another type"}')
        pub.socket.send(b'{"a": 1}')
        event = first(events)
        assert (event.value, event.missed) == ({"a": 1}, 3)
        assert events.missed == 3
    assert "2 frames, where one is expected" in caplog.text


def test_an_event_is_told_only_what_of_its_own_topic_could_not_be_read_directly_before_it(
    pub: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    framed = Plain("text", connect=pub.where, topic_frame=True)
    with Client("reader") as zw:
        numbers, other = zw.subscribe(Topic[int]("a.n", plain=framed)), zw.subscribe(Topic[int]("other", plain=framed))
        assert pub.subscribed(2) == [b"\x01a.n", b"\x01other"]
        for frames in ([b"7"], [b"8"], [b"\xff"], [b"9"], [b"10", b"three frames"], [b"11"]):
            pub.socket.send_multipart([b"a.n", *frames])
        pub.socket.send_multipart([b"other", b"1"])
        assert (first(other).missed, other.missed) == (0, 0)  # the last: all of a.n lies there, or was looked at
        got = [first(numbers) for _ in range(4)]
        assert [(each.value, each.missed) for each in got] == [(7, 0), (8, 0), (9, 1), (11, 1)]
        assert numbers.missed == 2
    assert "was refused" in caplog.text
    assert "faster" not in caplog.text


def test_a_slow_reader_keeps_the_newest_and_knows_how_many_it_missed(pub: Publisher) -> None:
    wanted = Topic[int]("numbers", plain=Plain("text", connect=pub.where))
    last = Topic[int]("last", plain=Plain("text", connect=pub.where))
    with Client("reader") as zw:
        events = zw.subscribe(wanted, queue=10, idle=10)
        newest = zw.subscribe(last, overflow="conflate", idle=10)
        probe = zw.subscribe(wanted, idle=10)
        pub.subscribed(1)
        wait_until(lambda: _is_subscribed(zw, probe, pub), within=10)
        for number in range(500):
            pub.socket.send_string(str(number))
        for event in probe:
            if event.value == 499:
                break
        kept = [first(events) for _ in range(10)]
        assert [each.value for each in kept] == list(range(490, 500))
        assert events.missed >= 490
        assert first(newest).value == 499


def _is_subscribed(zw: Client, probe: Any, pub: Publisher) -> bool:
    pub.socket.send_string("-1")
    return bool(probe._inbox)


def test_a_handler_that_fails_is_tried_again_as_any_handler_of_a_topic(pub: Publisher) -> None:
    app, tried = App("reader"), list[str]()

    @app.subscribe(Topic[str]("in", plain=Plain("text", connect=pub.where)), retry=Retry(attempts=3, delay=0.01))
    def take(value: str) -> None:
        tried.append(value)
        if len(tried) < 3:
            raise ValueError(value)

    with app:
        pub.subscribed()
        pub.socket.send(b"x")
        wait_until(lambda: tried == ["x", "x", "x"], within=10)


def test_several_subscriptions_to_one_publisher_share_a_connection_and_end_apart(pub: Publisher) -> None:
    with Client("reader") as zw:
        one = zw.subscribe(Topic[str]("one", plain=Plain("text", connect=pub.where, prefix="1")), idle=10)
        two = zw.subscribe(Topic[str]("two", plain=Plain("text", connect=pub.where, prefix="2")), idle=10)
        assert pub.subscribed(2) == [b"\x011", b"\x012"]
        pub.socket.send(b"1 a")
        pub.socket.send(b"2 b")
        assert (first(one).value, first(two).value) == ("1 a", "2 b")
        one.cancel()
        assert pub.subscribed() == [b"\x001"]
        pub.socket.send(b"2 c")
        assert first(two).value == "2 c"
        two.cancel()
        assert pub.subscribed() == [b"\x002"]


def test_a_plain_publisher_may_connect_to_an_address_of_ours() -> None:
    where = endpoint()
    context = zmq.Context()
    xpub = context.socket(zmq.XPUB)
    try:
        xpub.linger, xpub.rcvtimeo = 0, 10_000
        xpub.connect(where)
        with Client("reader") as zw, zw.subscribe(Topic[str]("in", plain=Plain("text", bind=where)), idle=10) as events:
            assert xpub.recv() == b"\x01"
            xpub.send(b"x")
            assert first(events).value == "x"
    finally:
        xpub.close()
        context.term()


# -- to plain subscribers ----------------------------------------------------------------------------------------------


def test_a_plain_weather_client_gets_what_begins_as_it_wants(start: Start) -> None:
    where = endpoint()
    weather = Topic[str]("weather", plain=Plain("text", bind=where))
    with Client("station") as zw:
        client = start(*plain("weather_client"), where, "10001 ", "5")
        wait_until(lambda: zw.publish(weather, "59937 0 0").result(5) == 1, within=10)
        for n in range(5):
            for zipcode in ("1000", "10001", "10002"):
                zw.publish(weather, f"{zipcode} {n} {n}")
        assert client.ended() == 0
        assert client.out.splitlines() == [f"10001 {n} {n}" for n in range(5)]
        wait_until(lambda: zw.publish(weather, "10001 9 9").result(5) == 0, within=10, that="it has left")


def test_a_plain_client_that_wants_a_topic_frame_gets_it_before_the_body(start: Start) -> None:
    where = endpoint()
    heat = Topic[int]("room.*.heat", plain=Plain("json", bind=where, topic_frame=True))
    with Client("station") as zw:
        client = start(*plain("weather_client"), where, "room.a.", "2")
        wait_until(lambda: zw.publish(heat.at("a"), 1).result(5) == 1, within=10)
        assert zw.publish(heat.at("b"), 1).result(5) == 0
        for n in range(2):
            zw.publish(heat.at("a"), n)
        assert client.ended() == 0
        assert all(line.startswith("room.a.heat | ") for line in client.out.splitlines())


def test_nobody_hears_once_a_subscriber_has_left_that_said_its_prefix_twice() -> None:
    where = endpoint()
    heat = Topic[str]("a.x", plain=Plain("text", bind=where, topic_frame=True))
    with Client("station") as zw:
        sub, other = Subscriber(where, b"a.", b"a.", b"never"), Subscriber(where, b"a.", b"a.x")
        try:
            wait_until(lambda: zw.publish(heat, "x").result(5) == 2, within=10, that="a. and a.x")
        finally:
            other.close()
        try:
            wait_until(lambda: zw.publish(heat, "x").result(5) == 1, within=10, that="a. alone")
            zw.publish(heat, "last")
            while sub.socket.recv_multipart() != [b"a.x", b"last"]:
                pass
        finally:
            sub.close()
        wait_until(lambda: zw.publish(heat, "x").result(5) == 0, within=10)


@pytest.mark.parametrize(
    ("encoding", "value", "frame"),
    [
        ("bytes", b"\x00\xff", b"\x00\xff"),
        ("text", "gr\u00fc\u00df", "gr\u00fc\u00df".encode()),
        ("json", {"a": [1, None]}, b'{"a":[1,null]}'),
        ("msgpack", {"a": [1, None]}, b"\x81\xa1a\x92\x01\xc0"),
    ],
)
def test_each_encoding_is_published_and_subscribed_to(encoding: Any, value: Any, frame: bytes) -> None:
    where = endpoint()
    out = Topic[object]("out", plain=Plain(encoding, bind=where))
    back = Topic[object]("back", plain=Plain(encoding, connect=where))
    sub = Subscriber(where, b"")
    try:
        with Client("both") as zw, zw.subscribe(back, idle=10) as events:
            # Both want the same, which is one subscription: so each says itself that it is there.
            wait_until(
                lambda: zw.publish(out, value).result(5) and sub.socket.poll(0) and bool(events._inbox), within=10
            )
            assert sub.socket.recv() == frame
            assert first(events).value == value
    finally:
        sub.close()


def test_topics_on_one_address_share_its_socket_and_keep_their_order() -> None:
    where = endpoint()
    one, two = (Topic[int](name, plain=Plain("text", bind=where, topic_frame=True)) for name in ("one", "two"))
    sub = Subscriber(where, b"one", b"two")
    try:
        with Client("station") as zw:
            wait_until(lambda: zw.publish(one, -1).result(5) and zw.publish(two, -1).result(5), within=10)
            for n in range(100):
                zw.publish(one if n % 2 else two, n)
            got = list[list[bytes]]()
            while len(got) < 100:
                topic, body = sub.socket.recv_multipart()
                if body != b"-1":
                    got.append([topic, body])
        assert got == [[b"one" if n % 2 else b"two", b"%d" % n] for n in range(100)]
    finally:
        sub.close()


def test_many_threads_publish_and_a_plain_subscriber_gets_each_once_and_each_threads_in_order() -> None:
    where = endpoint()
    topic = Topic[str]("out", plain=Plain("text", bind=where))
    sub = Subscriber(where, b"")
    try:
        with Client("station") as zw:
            wait_until(lambda: zw.publish(topic, "ready").result(5), within=10)

            def publish(name: int) -> None:
                for n in range(100):
                    zw.publish(topic, f"{name} {n}")

            threads = [threading.Thread(target=publish, args=(name,)) for name in range(5)]
            for thread in threads:
                thread.start()
            got: dict[str, list[int]] = {}
            while sum(map(len, got.values())) < 500:
                text = sub.socket.recv_string()
                if text != "ready":
                    name, n = text.split()
                    got.setdefault(name, []).append(int(n))
            for thread in threads:
                thread.join()
        assert got == {str(name): list(range(100)) for name in range(5)}
    finally:
        sub.close()


def test_what_is_published_last_leaves_before_the_client_closes() -> None:
    where = endpoint()
    topic = Topic[str]("out", plain=Plain("text", bind=where))
    sub = Subscriber(where, b"last")
    try:
        with Client("station") as zw:
            wait_until(lambda: zw.publish(topic, "x").result(5), within=10)
            zw.publish(topic, "last")
        assert sub.socket.recv() == b"last"
    finally:
        sub.close()


def test_a_handler_publishes_to_plain_subscribers_what_it_succeeded_with() -> None:
    where = endpoint()
    topic, work = Topic[str]("out", plain=Plain("text", bind=where)), PushChannel[str]("work")
    app = App("station")

    @app.pull(work)
    def take(value: str, ctx: Context) -> None:
        ctx.publish(topic, value)

    sub = Subscriber(where, b"")
    try:
        with app as zw:
            wait_until(lambda: zw.publish(topic, "ready").result(5), within=10)
            zw.push(work, "done")
            while (text := sub.socket.recv_string()) == "ready":
                pass
            assert text == "done"
    finally:
        sub.close()


def test_settings_put_a_topic_on_a_plain_socket_and_the_code_does_not_know() -> None:
    where = endpoint()
    settings = Settings(channels={"room.a": ChannelSettings(plain=Plain("json", bind=where, topic_frame=True))})
    rooms = Topic[int]("room.*")  # settings speak of one topic each
    sub = Subscriber(where, b"room.a")
    try:
        with Client("station", settings=settings) as zw:
            wait_until(lambda: zw.publish(rooms.at("a"), 7).result(5), within=10)
            zw.publish(rooms.at("a"), 7)
            assert sub.socket.recv_multipart() == [b"room.a", b"7"]
    finally:
        sub.close()


def test_what_plain_sockets_know_nothing_of_is_refused() -> None:
    bound = Plain("text", bind="tcp://127.0.0.1:9")
    many: list[dict[str, Any]] = [{"retain": True}, {"history": 5}, {"reliable": True}]
    for terms in many:
        with pytest.raises(UsageError, match="keeps nothing"):
            Topic[str]("a", plain=bound, **terms)
    with pytest.raises(UsageError, match="text"):
        Plain("text", bind="tcp://*:1", prefix=b"x")  # type: ignore[arg-type]
    app, here = App("reader"), Topic[str]("a", plain=Plain("text", connect="tcp://127.0.0.1:9"))
    with pytest.raises(UsageError, match="groups"):
        app.subscribe(here, group="g", durable=True)(lambda value: None)
    with pytest.raises(UsageError, match="replay"):
        app.subscribe(here, replay=5)(lambda value: None)
    with Client("both") as zw:
        with pytest.raises(UsageError, match="conflate"):
            zw.subscribe(here, overflow="disconnect")
        with pytest.raises(UsageError, match="several topics"):
            zw.subscribe(Topic[str]("a.*", plain=bound))
        with pytest.raises(UsageError, match="several topics"):
            zw.publish(Topic[str]("a.*", plain=bound).at("b"), "x")
        for verb in (zw.subscribers, zw.publishers):
            with pytest.raises(UsageError, match="do not say who is there"):
                verb(here)
        with pytest.raises(UsageError, match="do not say who is there"):
            zw.workers(PushChannel[str]("b", plain=bound))
        with pytest.raises(UsageError, match="retain"):
            zw.publish(here, "x", retain=True)
        with pytest.raises(EncodeError):
            zw.publish(here, 7)  # type: ignore[misc]
