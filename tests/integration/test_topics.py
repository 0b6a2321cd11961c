"""Publish and subscribe between clients, apps and processes that die."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.integration.feeds import ORDERS
from tests.programs import ZEROWAIT, Program, Start, programs
from tests.waiting import wait_until, wait_until_in_loop
from zerowait import App, Client, Context, Event, QueueFull, Retry, RetryLater, Settings, Topic, feeds
from zerowait.engines.brokerless.protocol.publisher import publisher as publishing
from zerowait.errors import Cancelled, Closed, EncodeError, Overflowed, TooLarge, UsageError
from zerowait.results import Subscription

ROOT = Path(__file__).parents[2]
FEEDS = (sys.executable, "-m", "tests.integration.feeds")
PRICES = Topic[int]("prices.*", history=10)


class Quote(msgspec.Struct):
    symbol: str
    price: float


@pytest.fixture
def bank(settings: Settings) -> Iterator[Client]:
    with Client("bank", settings=settings) as zw:
        yield zw


@pytest.fixture
def screen(settings: Settings) -> Iterator[Client]:
    with Client("screen", settings=settings) as zw:
        yield zw


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT / "src"), str(ROOT))))
    monkeypatch.setenv("WITNESS", str(tmp_path / "witness"))
    with programs(tmp_path) as starter:
        yield starter


def take(events: Subscription[Any], count: int) -> list[Event[Any]]:
    found: list[Event[Any]] = []
    for event in events:
        found.append(event)
        if len(found) == count:
            break
    return found


def numbers(events: Subscription[Any], count: int) -> list[tuple[str, Any, int]]:
    return [(event.topic, event.value, event.missed) for event in take(events, count)]


# -- between two clients -----------------------------------------------------------------------------------------------


def test_what_is_published_reaches_who_subscribes_in_order_and_typed(bank: Client, screen: Client) -> None:
    quotes = Topic[Quote]("quotes.>")
    events = screen.subscribe(quotes, idle=10)
    bank.subscribers(quotes).at_least(1).result(10)

    sent = [bank.publish(quotes.at("eu", "bmw"), Quote("bmw", at / 2), headers={"at": str(at)}) for at in range(50)]

    found = take(events, 50)
    assert [event.value for event in found] == [Quote("bmw", at / 2) for at in range(50)]
    assert {event.topic for event in found} == {"quotes.eu.bmw"}
    assert {event.sender for event in found} == {"bank"}
    assert [event.headers["at"] for event in found] == [str(at) for at in range(50)]
    assert abs(found[0].sent_at.timestamp() - found[-1].sent_at.timestamp()) < 60
    assert sent[-1].result(5) == 1
    assert events.missed == 0


def test_order_is_kept_over_all_topics_of_a_publisher(bank: Client, screen: Client) -> None:
    events = screen.subscribe("prices.*", yields=int, idle=10)
    bank.subscribers("prices.*").at_least(1).result(10)
    for number in range(300):
        bank.publish(f"prices.{'abc'[number % 3]}", number)

    assert numbers(events, 300) == [(f"prices.{'abc'[number % 3]}", number, 0) for number in range(300)]


def test_who_publishes_is_known_before_anything_is_published(bank: Client, screen: Client) -> None:
    bank.subscribers(PRICES)  # it will publish there
    screen.publishers("prices.eur").at_least(1).result(10)
    assert list(screen.publishers(PRICES)) == ["bank"]
    assert list(screen.publishers("news.>")) == []

    events = screen.subscribe(PRICES, idle=10)
    screen.publishers(PRICES).at_least(1).result(10)  # and knows of the subscription
    bank.publish(PRICES.at("eur"), 1)
    assert numbers(events, 1) == [("prices.eur", 1, 0)]


def test_events_of_any_size_come_whole_and_in_their_order(bank: Client, screen: Client) -> None:
    files = Topic[bytes]("files")
    events = screen.subscribe(files, queue=10_000, idle=15)
    bank.subscribers(files).at_least(1).result(10)
    sizes = [10, 200_000, 100_000, 10, 3_000_000, 10, 300_000, 0, 1_000_000]
    for at, size in enumerate(sizes):
        bank.publish(files, bytes([at]) * size)
    with pytest.raises(TooLarge):
        bank.publish(files, bytes(17 * 1024 * 1024))
    bank.publish(files, b"end")

    found = take(events, len(sizes) + 1)
    assert [(event.value, event.missed) for event in found[:-1]] == [
        (bytes([at]) * size, 0) for at, size in enumerate(sizes)
    ]
    assert found[-1].value == b"end"


def test_what_nobody_subscribes_to_is_addressed_to_nobody(bank: Client, screen: Client) -> None:
    events = screen.subscribe("prices.eur", idle=0.3)
    bank.subscribers("prices.eur").at_least(1).result(10)

    assert bank.publish("prices.usd", 1).result(5) == 0
    assert list(events) == []


@pytest.mark.asyncio
async def test_the_same_in_an_event_loop(settings: Settings) -> None:
    async with Client("bank", settings=settings) as bank, Client("screen", settings=settings) as screen:
        async with screen.subscribe(PRICES) as events:
            await bank.subscribers(PRICES).at_least(1)
            assert await bank.publish(PRICES.at("eur"), 1) == 1
            bank.publish(PRICES.at("usd"), 2)
            found: list[tuple[str, int]] = []
            async for event in events:
                found.append((event.topic, event.value))
                if len(found) == 2:
                    break
        assert found == [("prices.eur", 1), ("prices.usd", 2)]
        with pytest.raises(Cancelled):
            async for _ in events:
                pass
        quiet = screen.subscribe(PRICES, idle=0.05)
        assert [event async for event in quiet] == []
        with pytest.raises(UsageError, match="async for"):
            next(iter(quiet))


def test_who_joins_later_gets_history_and_the_retained_values(bank: Client, screen: Client) -> None:
    rates = Topic[int]("rates.*", retain=True, history=5)
    bank.publish(rates.at("chf"), 1)
    for number in range(20):
        bank.publish(rates.at("eur"), number)
    bank.publish(rates.at("eur"), 20).result(5)

    assert numbers(screen.subscribe(rates, replay=3, idle=10), 4) == [
        ("rates.chf", 1, 0), ("rates.eur", 18, 0), ("rates.eur", 19, 0), ("rates.eur", 20, 0),
    ]  # fmt: skip
    assert numbers(screen.subscribe(rates, idle=10), 2) == [("rates.chf", 1, 0), ("rates.eur", 20, 0)]
    assert len(take(screen.subscribe(rates, replay_seconds=60, idle=10), 6)) == 6


def test_a_slow_subscriber_misses_exactly_what_it_does_not_get_and_slows_nobody(
    bank: Client, screen: Client, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with Client("other", settings=settings) as other:
        slow, quick = screen.subscribe(PRICES, queue=40), other.subscribe(PRICES, queue=100_000, idle=10)
        bank.subscribers(PRICES).at_least(2).result(10)
        eur = PRICES.at("eur")
        for number in range(5_000):
            bank.publish(eur, number)

        assert [value for _, value, _ in numbers(quick, 5_000)] == list(range(5_000))
        bank.publish(eur, 5_000).result(5)
        last = -1
        for event in slow:
            assert event.missed == event.value - last - 1
            last = event.value
            if last == 5_000:
                break
        assert slow.missed > 4_000
        assert slow.missed + 40 <= 5_001
        assert "missed" in caplog.text


def test_conflating_keeps_the_newest_of_each_topic(bank: Client, screen: Client) -> None:
    events = screen.subscribe(PRICES, overflow="conflate", idle=10)
    bank.subscribers(PRICES).at_least(1).result(10)
    for number in range(1_000):
        bank.publish(PRICES.at("eur" if number % 2 else "usd"), number)
    bank.publish(PRICES.at("end"), 1_000).result(5)

    newest: dict[str, int] = {}
    for event in events:
        newest[event.topic] = event.value
        if event.topic == "prices.end":
            break
    assert newest == {"prices.eur": 999, "prices.usd": 998, "prices.end": 1_000}


def test_a_subscription_that_disconnects_ends_with_what_it_lost(bank: Client, screen: Client) -> None:
    events = screen.subscribe(PRICES, overflow="disconnect", queue=8)
    bank.subscribers(PRICES).at_least(1).result(10)
    for number in range(50):
        bank.publish(PRICES.at("eur"), number)
    wait_until(lambda: not len(bank.subscribers(PRICES)), within=5)

    found: list[int] = []

    def loop() -> None:
        found.extend(event.value for event in events)

    with pytest.raises(Overflowed, match="queue"):
        loop()
    assert found == list(range(len(found)))
    assert events.missed == 50 - len(found)


def test_a_reliable_topic_refuses_where_a_queue_is_full_and_loses_nothing(bank: Client, screen: Client) -> None:
    ticks = Topic[int]("ticks", reliable=True)
    events = screen.subscribe(ticks, queue=20)
    bank.subscribers(ticks).at_least(1).result(10)
    bank.publish(ticks, 0).result(5)
    got: list[int] = []

    def collect() -> None:
        for event in events:
            got.append(event.value)
            assert event.missed == 0
            if event.value == 3_000:
                return

    refused = 0
    reader = threading.Thread(target=collect)
    for number in range(1, 3_001):
        while True:
            try:
                bank.publish(ticks, number)
                break
            except QueueFull as full:
                refused += 1
                if refused == 1:
                    reader.start()
                full.room.result(10)
    reader.join(20)

    assert refused
    assert got == list(range(3_001))


def test_an_event_of_another_type_is_counted_and_told_and_the_rest_comes(
    bank: Client, screen: Client, caplog: pytest.LogCaptureFixture
) -> None:
    events = screen.subscribe("prices.*", yields=int, idle=10)
    bank.subscribers("prices.*").at_least(1).result(10)
    bank.publish("prices.eur", 1)
    bank.publish("prices.eur", "two")
    bank.publish("prices.eur", 3)

    assert numbers(events, 2) == [("prices.eur", 1, 0), ("prices.eur", 3, 1)]
    assert events.missed == 1
    assert "cannot be read" in caplog.text


def test_events_that_cannot_be_read_are_missed_by_the_next_of_their_publisher(
    settings: Settings, bank: Client, screen: Client
) -> None:
    with Client("broker", settings=settings) as broker:
        events = screen.subscribe("prices.*", yields=int, idle=0.5)
        for zw in (bank, broker):
            zw.subscribers("prices.*").at_least(1).result(10)
        for value in ("one", "two"):
            bank.publish("prices.eur", value)
        assert list(events) == []  # they came alone, and were looked at
        assert events.missed == 2
        broker.publish("prices.usd", 3)
        assert [(event.sender, event.value, event.missed) for event in take(events, 1)] == [("broker", 3, 0)]
        bank.publish("prices.eur", 4)
        assert [(event.sender, event.value, event.missed) for event in take(events, 1)] == [("bank", 4, 2)]
    assert events.missed == 2


def test_another_contract_is_told(bank: Client, screen: Client, caplog: pytest.LogCaptureFixture) -> None:
    events = screen.subscribe(Topic[Quote]("prices.*"))
    bank.subscribers(Topic[int]("prices.*")).at_least(1).result(10)

    wait_until(lambda: "bank" in caplog.text and "publishes prices.*" in caplog.text, within=5)
    assert events.missed == 0


def test_a_process_hears_what_it_publishes_itself(bank: Client) -> None:
    events = bank.subscribe(PRICES, idle=10)
    bank.publish(PRICES.at("eur"), 1)

    assert numbers(events, 1) == [("prices.eur", 1, 0)]


def test_closing_ends_the_loops(settings: Settings) -> None:
    zw = Client("screen", settings=settings)
    with zw:
        events = zw.subscribe(PRICES)
        ended: list[BaseException] = []

        def loop() -> None:
            try:
                for _ in events:
                    pass
            except Closed as error:
                ended.append(error)

        thread = threading.Thread(target=loop)
        thread.start()
    thread.join(10)
    assert len(ended) == 1
    with pytest.raises(Closed):
        zw.subscribe(PRICES)
    with pytest.raises(Closed):
        zw.publish("prices.eur", 1)


def test_a_subscriber_that_takes_nothing_holds_up_nobodys_end(settings: Settings, screen: Client) -> None:
    asleep = screen.subscribe(PRICES, queue=4)
    bank = Client("bank", settings=settings)
    with bank:
        own = bank.subscribe(PRICES, queue=4)
        bank.subscribers(PRICES).at_least(2).result(10)
        for number in range(100):
            bank.publish(PRICES.at("eur"), number)
        bank.publish(PRICES.at("eur"), 100).result(5)
        began = time.monotonic()
    assert time.monotonic() - began < 3  # and not the whole drain
    wait_until(lambda: asleep.missed == 100, within=5)  # it is told, though nobody has looked
    assert own.missed == 0


def test_who_takes_what_comes_gets_all_of_it_before_its_publisher_ends(settings: Settings, screen: Client) -> None:
    events = screen.subscribe(PRICES, queue=1_000, idle=3)
    with Client("bank", settings=settings) as bank:
        bank.subscribers(PRICES).at_least(1).result(10)
        for number in range(700):
            bank.publish(PRICES.at("eur"), number)
        reader = threading.Thread(target=lambda: found.extend(numbers(events, 700)))
        found: list[tuple[str, Any, int]] = []
        reader.start()
    reader.join(10)
    assert found == [("prices.eur", number, 0) for number in range(700)]


def test_a_subscription_that_nobody_holds_is_over(bank: Client, screen: Client) -> None:
    events = screen.subscribe(PRICES)
    bank.subscribers(PRICES).at_least(1).result(10)
    del events
    wait_until(lambda: not len(bank.subscribers(PRICES)), within=5)


def test_the_callers_mistakes_are_raised_by_the_call(bank: Client, screen: Client) -> None:
    with pytest.raises(EncodeError):
        bank.publish("prices.eur", object())
    with pytest.raises(UsageError, match="several topics"):
        bank.publish(PRICES, 1)
    with pytest.raises(UsageError, match="queue="):
        screen.subscribe(PRICES, queue=0)
    with pytest.raises(UsageError, match="overflow="):
        screen.subscribe(PRICES, overflow="block")  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="replay_seconds"):
        screen.subscribe(PRICES, replay=1.5)  # type: ignore[call-overload]


def test_a_topic_that_is_misspelt_is_told_the_nearest(
    bank: Client, screen: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zerowait.engines.brokerless.topical.LONELY_S", 0.2)
    bank.publish("prices.eur", 1)
    events = screen.subscribe("price.eur")
    right = screen.subscribe("prices.*")

    wait_until(lambda: "nobody publishes price.eur" in caplog.text, within=10)
    assert "Did you mean prices.eur?" in caplog.text
    assert "nobody publishes prices.*" not in caplog.text
    assert events.missed == right.missed == 0


def test_a_topic_that_somebody_pulls_is_refused_once_that_is_known(bank: Client, settings: Settings) -> None:
    app = App("pulling", settings=settings)

    @app.pull("prices.eur")
    def take(price: int) -> None: ...

    def is_refused() -> bool:
        try:
            bank.publish("prices.eur", 1)
        except UsageError as error:
            return "served as a push channel by pulling" in str(error)
        return False

    with app:
        wait_until(is_refused, within=10)


# -- handlers ----------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_handler_is_told_the_topic_and_publishes_if_it_succeeds(settings: Settings) -> None:
    app = App("alarm", settings=settings)
    seen: list[tuple[Any, ...]] = []

    @app.subscribe(PRICES, retry=Retry(attempts=3, delay=0.01))
    async def look(price: int, ctx: Context) -> None:
        ctx.publish("alarms.price", [price, ctx.attempt])
        seen.append((ctx.channel, price, ctx.attempt, ctx.missed, ctx.sender, ctx.headers))
        if price == 2 and ctx.attempt == 1:
            raise RetryLater(0.01)

    async with app, Client("bank", settings=settings) as bank:
        alarms = bank.subscribe("alarms.>", idle=10)
        await bank.subscribers(PRICES).at_least(1)
        for price in (1, 2):
            bank.publish(PRICES.at("eur"), price, headers={"from": "here"})
        await wait_until_in_loop(lambda: len(seen) == 3, within=10)
        bank.publish(PRICES.at("eur"), 3, headers={"from": "here"})
        told: list[tuple[int, int]] = []
        async for event in alarms:
            told.append((event.value[0], event.value[1]))
            if event.value[0] == 3:
                break

    assert {said[:5] for said in seen} == {
        ("prices.eur", 1, 1, 0, "bank"), ("prices.eur", 2, 1, 0, "bank"), ("prices.eur", 2, 2, 0, "bank"),
        ("prices.eur", 3, 1, 0, "bank"),
    }  # fmt: skip
    assert all(said[5] == {"from": "here"} for said in seen)
    assert (2, 1) not in told
    assert told[-1] == (3, 1)


@pytest.mark.asyncio
async def test_a_failure_is_told_and_the_next_event_comes(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    app = App("alarm", settings=settings)
    seen: list[int] = []

    @app.subscribe(PRICES)
    def look(price: int) -> None:
        seen.append(price)
        if price == 1:
            raise ValueError("unlucky")

    async with app, Client("bank", settings=settings) as bank:
        await bank.subscribers(PRICES).at_least(1)
        for price in (1, 2):
            bank.publish(PRICES.at("eur"), price)
        await wait_until_in_loop(lambda: sorted(seen) == [1, 2], within=10)
        await wait_until_in_loop(lambda: "unlucky" in caplog.text, within=5)
    assert "lost to this subscription" in caplog.text
    assert seen.count(1) == 1


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.asyncio
async def test_an_event_that_a_handler_cannot_read_is_missed_by_the_next_one(
    settings: Settings, concurrency: int, is_async: bool
) -> None:
    app = App("alarm", settings=settings)
    seen: list[tuple[int, int]] = []

    def note(price: int, ctx: Context) -> None:
        seen.append((price, ctx.missed))

    async def note_async(price: int, ctx: Context) -> None:
        note(price, ctx)

    app.subscribe(PRICES, concurrency=concurrency)(note_async if is_async else note)
    sent: list[int | str] = [number if number % 3 else f"not {number}" for number in range(300)]

    async with app, Client("bank", settings=settings) as bank:
        await bank.subscribers(PRICES).at_least(1)
        for value in sent:  # some come alone, most together
            bank.publish("prices.eur", value)
        await wait_until_in_loop(lambda: len(seen) == 200, within=10)
        for value in ("neither", "nor", 1_000):  # told with what comes later, too
            await asyncio.sleep(0.05)
            bank.publish("prices.eur", value)
        await wait_until_in_loop(lambda: len(seen) == 201, within=10)

    assert sum(missed for _, missed in seen) == 102
    if concurrency == 1:  # and directly before the one that tells of it
        assert seen == [*((number, number % 3 == 1) for number in range(300) if number % 3), (1_000, 2)]


@pytest.mark.asyncio
async def test_an_event_that_is_tried_again_tells_again_what_was_missed_before_it(settings: Settings) -> None:
    app = App("alarm", settings=settings)
    seen: list[tuple[int, int, int]] = []

    @app.subscribe(PRICES, retry=Retry(attempts=2, delay=0.01))
    async def look(price: int, ctx: Context) -> None:
        seen.append((price, ctx.attempt, ctx.missed))
        if ctx.attempt == 1:
            raise ValueError(price)

    async with app, Client("bank", settings=settings) as bank:
        await bank.subscribers(PRICES).at_least(1)
        for value in ("one", "two", 3):
            bank.publish("prices.eur", value)
        await wait_until_in_loop(lambda: len(seen) == 2, within=10)

    assert seen == [(3, 1, 2), (3, 2, 2)]


# -- processes ---------------------------------------------------------------------------------------------------------


def lines(program: Program) -> list[list[str]]:
    return [line.split() for line in program.out.splitlines()[1:]]


def test_a_publisher_that_is_killed_and_started_anew_leaves_a_gap_that_is_said_to_be_unknown(start: Start) -> None:
    screen = start(*FEEDS, "subscribe", "screen", "prices.*")
    screen.until(lambda it: "ready" in it.out)
    first = start(*FEEDS, "publish", "bank", "prices.eur", "1", "5", "1", "stay")
    screen.until(lambda it: len(lines(it)) == 5)
    first.signal(signal.SIGKILL)
    first.ended()

    start(*FEEDS, "publish", "bank", "prices.eur", "6", "3")

    screen.until(lambda it: len(lines(it)) == 8)
    assert [line[1] for line in lines(screen)] == [str(number) for number in range(1, 9)]
    assert [line[2] for line in lines(screen)] == ["0"] * 5 + ["-1", "0", "0"]


def test_a_publisher_that_left_in_order_leaves_no_gap(start: Start) -> None:
    screen = start(*FEEDS, "subscribe", "screen", "prices.*")
    screen.until(lambda it: "ready" in it.out)
    for first in (1, 4):
        assert start(*FEEDS, "publish", "bank", "prices.eur", str(first), "3").ended() == 0

    screen.until(lambda it: len(lines(it)) == 6)
    assert {line[2] for line in lines(screen)} == {"0"}


def test_a_killed_subscriber_hurts_nobody(start: Start, bank: Client, screen: Client) -> None:
    other = start(*FEEDS, "subscribe", "other", "prices.*")
    events = screen.subscribe(PRICES, queue=100_000, idle=10)
    bank.subscribers(PRICES).at_least(2).result(15)
    eur = PRICES.at("eur")
    for number in range(2_000):
        bank.publish(eur, number)
        if number == 1_000:
            other.signal(signal.SIGKILL)
    other.ended()

    assert numbers(events, 2_000) == [("prices.eur", number, 0) for number in range(2_000)]
    wait_until(lambda: len(bank.subscribers(PRICES)) == 1, within=5)
    wait_until(lambda: bank.publish(eur, 0).result(5) == 1, within=10)


def test_two_publishers_are_heard_in_turn(start: Start, screen: Client) -> None:
    events = screen.subscribe("prices.*", yields=int, queue=4_000, idle=15)
    for name, count in (("loud", "900"), ("calm", "900")):
        assert start(*FEEDS, "publish", name, "prices.eur", "0", count).ended() == 0

    senders = [event.sender for event in take(events, 1_800)]
    assert "calm" in senders[:200]
    assert "loud" in senders[:200]


def handled(folder: Path, word: str) -> list[list[str]]:
    path = folder / "witness"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [line.split()[1:] for line in text.splitlines() if line.startswith(word)]


def test_one_process_of_a_group_handles_each_event(start: Start, tmp_path: Path, bank: Client) -> None:
    for _ in range(2):
        start(*ZEROWAIT, "run", "tests.integration.feeds:sharing")
    bank.subscribers(ORDERS).at_least(2).result(20)
    for order in range(100):
        bank.publish(ORDERS.at("new"), order)
        if order == 49:  # while two connections of one process become one, the other process gets all
            wait_until(lambda: len(handled(tmp_path, "shared")) >= 50, within=15)

    wait_until(lambda: len(handled(tmp_path, "shared")) >= 100, within=15)
    found = handled(tmp_path, "shared")
    assert sorted(int(order) for order, *_ in found) == list(range(100))
    assert len({pid for *_, pid in found}) == 2
    assert bank.publish(ORDERS.at("new"), 100).result(5) == 1


def settled(shop: Client) -> tuple[int, int]:
    """Of what was published for the group: how many are handled, and how many were accepted."""
    rows = [row for box in shop.status().boxes for row in box.channels if row.channel == "orders.>@billing"]
    return sum(row.handled for row in rows), sum(row.accepted for row in rows)


def test_a_durable_group_that_is_away_gets_everything_when_it_is_back(
    start: Start, tmp_path: Path, settings: Settings
) -> None:
    service = start(*ZEROWAIT, "run", "tests.integration.feeds:billing")
    with Client("shop", settings=settings) as shop:
        shop.subscribers(ORDERS).at_least(1).result(20)
        assert shop.publish(ORDERS.at("new"), 1).result(10) == 1
        wait_until(lambda: settled(shop) == (1, 1), within=10)
        service.signal(signal.SIGKILL)
        service.ended()
        for order in (2, 3):
            assert shop.publish(ORDERS.at("new"), order).result(10) == 1
    with Client("shop", settings=settings) as shop:  # another life of the publisher, which has not met the group
        for order in (4, 5):
            assert shop.publish(ORDERS.at("changed", "again"), order).result(10) == 1
        start(*ZEROWAIT, "run", "tests.integration.feeds:billing")

        wait_until(lambda: settled(shop) == (5, 5), within=20)
    found = sorted((int(order), topic) for order, topic, _ in handled(tmp_path, "billed"))
    assert found == [
        (1, "orders.new"), (2, "orders.new"), (3, "orders.new"), (4, "orders.changed.again"),
        (5, "orders.changed.again"),
    ]  # fmt: skip


def test_a_group_that_an_earlier_life_has_met_is_there_for_who_asks_for_subscribers(
    settings: Settings,
) -> None:
    orders, app = Topic[int]("asked.>"), App("audit", settings=settings)

    @app.subscribe(orders, group="audit", durable=True)
    def audit(order: int) -> None: ...

    with app:
        for _ in range(2):  # the second has read of it, and published nothing
            with Client("shop", settings=settings) as shop:
                shop.subscribers(orders).at_least(1).result(10)
                wait_until(lambda: shop.status().topics[0].subscriptions != [], within=10)


def test_what_a_killed_publisher_had_stored_for_a_durable_group_is_delivered(
    start: Start, tmp_path: Path, settings: Settings
) -> None:
    service = start(*ZEROWAIT, "run", "tests.integration.feeds:billing")
    with Client("shop", settings=settings) as shop:
        shop.subscribers(ORDERS).at_least(1).result(20)
        shop.publish(ORDERS.at("new"), 1).result(10)
        wait_until(lambda: settled(shop) == (1, 1), within=10)
    service.signal(signal.SIGKILL)
    service.ended()
    publisher = start(*FEEDS, "publish", "shop", "orders.new", "2", "49", "0", "stay")
    publisher.until(lambda it: "addressed 1" in it.out)
    publisher.signal(signal.SIGKILL)
    publisher.ended()

    start(*ZEROWAIT, "run", "tests.integration.feeds:billing")

    wait_until(lambda: len(handled(tmp_path, "billed")) >= 50, within=20)
    assert sorted(int(order) for order, *_ in handled(tmp_path, "billed")) == list(range(1, 51))


def test_status_shows_what_is_published_for_whom_and_what_they_miss(
    bank: Client, settings: Settings, screen: Client
) -> None:
    fast = screen.subscribe("prices.eur", idle=10)
    slow = screen.subscribe("prices.*", queue=4)
    bank.subscribers(PRICES).at_least(1).result(10)
    wait_until(lambda: [len(each.subscriptions) for each in bank.status().topics] == [2], within=5)
    for number in range(40):
        bank.publish(PRICES.at("eur"), number)
        take(fast, 1)
    bank.publish("news.today", "nothing")

    def shown() -> dict[str, tuple[int, dict[str, tuple[int, int]]]]:
        return {
            each.topic: (each.published, {s.pattern: (s.subscribers, s.waiting) for s in each.subscriptions})
            for each in bank.status().topics
        }

    both = {"prices.eur": (1, 0), "prices.*": (1, 3)}  # a quarter of its queue is at the subscriber
    wait_until(lambda: shown() == {"prices.*": (40, both), "news.today": (1, {})}, within=5)
    [dropped] = [s.dropped for each in bank.status().topics for s in each.subscriptions if s.pattern == "prices.*"]
    left = [event.missed for event in take(slow, 40 - dropped)]
    assert sum(left) == dropped > 20

    wait_until(lambda: shown()["prices.*"][1]["prices.*"] == (1, 0), within=5)
    screen.close()
    wait_until(lambda: shown()["prices.*"][1].get("prices.eur", (0, 0)) == (0, 0), within=5)


def test_a_durable_group_that_will_not_come_back_is_forgotten_with_what_waits_for_it(
    start: Start, settings: Settings, tmp_path: Path
) -> None:
    # Given a group that has met its publishers, of which one lives, and one has left what it published.
    def forget(*more: str) -> tuple[int, str]:
        ran = start(*ZEROWAIT, "topic", "forget", *more)
        return ran.ended(), ran.err

    def shown(zw: Client) -> list[tuple[Any, ...]]:
        [orders] = zw.status().topics
        return [(s.pattern, s.group, s.subscribers, s.waiting + s.in_flight, s.dropped) for s in orders.subscriptions]

    with Client("till", settings=Settings.load()) as till:
        billing = start(*ZEROWAIT, "run", "tests.integration.feeds:billing")
        till.subscribers(ORDERS).at_least(1).result(20)
        assert start(*FEEDS, "publish", "web", "orders.web", "0", "3").ended() == 0
        wait_until(lambda: shown(till) == [("orders.>", "billing", 1, 0, 0)], within=10)
        wait_until(lambda: len(handled(tmp_path, "billed")) >= 3, within=20)  # perhaps only once web has left
        code, said = forget("orders.>", "billing", "--yes")
        assert (code, "billing of orders.> is there: billing. Stop it" in said) == (1, True), said
        billing.signal(signal.SIGTERM)
        billing.ended()
        assert start(*FEEDS, "publish", "web", "orders.web", "0", "3", "0").ended() == 0
        for number in range(5):
            till.publish(ORDERS.at("till"), number).result(5)
        wait_until(lambda: shown(till)[0][3] >= 5, within=10)

        # When it is forgotten.
        code, said = forget("orders.>", "billing")
        assert (code, "8 events that wait" in said) == (2, True), said
        code, said = forget("orders.>", "bilings", "--yes")
        assert (code, "Did you mean orders.> billing?" in said) == (1, True), said
        code, said = forget("orders.>", "billing", "--yes")

        # Then nothing waits for it any more, the ledgers say so, and nothing more is kept for it.
        assert (code, "8 events dropped" in said) == (0, True), said
        assert till.publish(ORDERS.at("till"), 9).result(5) == 0
        rows = [row for box in till.status().boxes for row in box.channels if row.channel == "orders.>@billing"]
        assert sum(row.dropped for row in rows) >= 5
        assert sum(row.unsettled for row in rows) == 0
        code, said = forget("orders.>", "billing", "--yes")
        assert (code, "knows a durable group billing" in said) == (1, True), said


def test_the_banner_says_who_handles_each_event(start: Start) -> None:
    service = start(*ZEROWAIT, "run", "tests.integration.feeds:sharing")
    service.until(lambda it: "Ctrl-C" in it.err)
    assert "one process of group sharing handles each event" in service.err


def test_logging_is_quiet_where_nothing_is_wrong(
    bank: Client, screen: Client, caplog: pytest.LogCaptureFixture
) -> None:
    events = screen.subscribe(PRICES, idle=10)
    bank.subscribers(PRICES).at_least(1).result(10)
    bank.publish(PRICES.at("eur"), 1)
    take(events, 1)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.asyncio
async def test_several_loops_share_a_subscription(settings: Settings) -> None:
    async with Client("bank", settings=settings) as bank, Client("screen", settings=settings) as screen:
        events = screen.subscribe(PRICES, idle=0.5)
        await bank.subscribers(PRICES).at_least(1)
        for number in range(100):
            bank.publish(PRICES.at("eur"), number)

        async def loop() -> list[int]:
            return [event.value async for event in events]

        found = await asyncio.gather(loop(), loop())
    assert sorted(found[0] + found[1]) == list(range(100))


# -- how many ----------------------------------------------------------------------------------------------------------


def test_one_subscription_too_many_is_refused_where_it_is_asked_for(
    bank: Client, screen: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publishers ended the connection, with all pushes and requests on it, and again each time it was back."""
    monkeypatch.setattr(feeds, "SUBSCRIPTIONS_MOST", 3)
    monkeypatch.setattr(publishing, "SUBSCRIPTIONS_MOST", 3)
    mine = [screen.subscribe(f"prices.{at}", idle=10) for at in range(3)]
    with pytest.raises(UsageError, match=r"'screen' has 3 subscriptions, and may not have more: prices\.3"):
        screen.subscribe("prices.3")
    # those that there are go on
    bank.subscribers("prices.2").at_least(1).result(10)
    assert bank.publish("prices.2", 1).result(10) == 1
    assert numbers(mine[2], 1) == [("prices.2", 1, 0)]
    # one that is over makes room for another, on all connections
    for at in range(3, 20):
        mine.pop(0).cancel()
        mine.append(screen.subscribe(f"prices.{at}", idle=10))
    bank.subscribers("prices.19").at_least(1).result(10)
    assert bank.publish("prices.19", 2).result(10) == 1
    assert numbers(mine[-1], 1) == [("prices.19", 2, 0)]


def test_an_app_with_a_subscription_too_many_does_not_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "SUBSCRIPTIONS_MOST", 1)
    app = App("board", settings=settings)
    for topic in ("prices.a", "prices.b"):

        @app.subscribe(topic)
        async def heard(price: int) -> None: ...

    with pytest.raises(UsageError, match="may not have more"), app:
        pass


def test_many_subscriptions_are_announced_together(monkeypatch: pytest.MonkeyPatch) -> None:
    # The entry names all of them: written for each, a thousand would keep the process from everything else for seconds.
    with Client("many") as zw:
        node = zw._open().node
        announced, gate, announce = list[int](), threading.Event(), node._footing.announce

        def counted(*given: Any) -> None:
            announced.append(len(given[3]))
            announce(*given)

        monkeypatch.setattr(node._footing, "announce", counted)
        node.call(lambda: gate.wait(10))
        kept = [zw.subscribe(f"n.a{number}") for number in range(500)]
        gate.set()
        wait_until(lambda: announced and announced[-1] == 500, within=10)
        assert len(announced) < 20
        assert len(kept) == 500
