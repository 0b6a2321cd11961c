"""What becomes of events that a publisher has not sent when it leaves, between real processes."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.programs import Start, programs
from tests.waiting import wait_until, wait_until_in_loop
from zerowait import App, Client, Context, Settings, Topic
from zerowait.errors import Overflowed
from zerowait.results import Subscription

ROOT = Path(__file__).parents[2]
FEEDS = (sys.executable, "-m", "tests.integration.feeds")
PRICES = Topic[int]("prices.*")


@pytest.fixture
def screen(settings: Settings) -> Iterator[Client]:
    with Client("screen", settings=settings) as zw:
        yield zw


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT / "src"), str(ROOT))))
    with programs(tmp_path) as starter:
        yield starter


def publish(start: Start, first: int, count: int) -> None:
    """A process of its own does, and ends."""
    assert start(*FEEDS, "publish", "bank", "prices.eur", str(first), str(count)).ended() == 0


def taken(events: Subscription[Any], count: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for event in events:
        found.append((event.value, event.missed))
        if len(found) == count:
            break
    return found


def test_what_a_process_had_not_sent_when_it_ended_is_told_at_once_and_with_the_next_event(
    start: Start, screen: Client, caplog: pytest.LogCaptureFixture
) -> None:
    # Given two subscribers, of which one takes nothing.
    slow, quick = screen.subscribe(PRICES, queue=8, idle=10), screen.subscribe(PRICES, idle=10)

    # When a process publishes more than fits the queue of that one, and ends.
    publish(start, 0, 100)

    # Then it is told how many it will not get, though nobody looks.
    wait_until(lambda: slow.missed == 98, within=10)
    assert "bank" in caplog.text
    assert "98 events of prices.* that waited there for this process are missed" in caplog.text
    assert taken(slow, 2) == [(0, 0), (1, 0)]
    assert taken(quick, 100) == [(number, 0) for number in range(100)]

    # And the first event of the next process of that name says it again, once.
    publish(start, 100, 2)
    assert taken(slow, 2) == [(100, 98), (101, 0)]
    assert taken(quick, 2) == [(100, 0), (101, 0)]
    assert (slow.missed, quick.missed) == (98, 0)


def test_who_wants_rather_nothing_than_holes_is_told_by_an_error(start: Start, screen: Client) -> None:
    """One that is closed while it is not full ends as one that was full does: events are missing that matched it."""
    events = screen.subscribe(PRICES, queue=100, overflow="disconnect")
    publish(start, 0, 60)

    wait_until(lambda: events.missed == 35, within=10)
    with pytest.raises(Overflowed) as error:
        assert taken(events, 26) == []
    assert (error.value.missed, error.value.peer) == (35, "bank")


@pytest.mark.asyncio
async def test_a_handler_is_told_with_its_next_event(settings: Settings) -> None:
    seen: list[tuple[int, int]] = []
    go = threading.Event()
    app = App("slow", settings=settings)

    @app.subscribe(PRICES, queue=8, concurrency=1)
    def handle(price: int, ctx: Context) -> None:
        go.wait(20)
        seen.append((price, ctx.missed))

    async with app:
        async with Client("bank", settings=settings) as bank:
            await bank.subscribers(PRICES).at_least(1)
            for number in range(100):
                bank.publish(PRICES.at("eur"), number)
        go.set()
        async with Client("bank", settings=settings) as bank:
            await bank.subscribers(PRICES).at_least(1)
            await bank.publish(PRICES.at("eur"), 100)
            await wait_until_in_loop(lambda: seen[-1:] and seen[-1][0] == 100, within=10)

    assert seen[-1][1] > 0
    assert len(seen) + sum(missed for _, missed in seen) == 101


def test_a_publisher_that_closes_waits_for_who_takes_slowly(settings: Settings, screen: Client) -> None:
    """So slowly that half of what is on its way takes longer than a publisher has patience with who takes nothing."""
    events = screen.subscribe(PRICES, idle=10)
    found: list[tuple[int, int]] = []
    closed = threading.Event()

    def read() -> None:
        for event in events:
            found.append((event.value, event.missed))
            closed.wait(0.025)
            if event.value == 299:
                return

    reader = threading.Thread(target=read)
    bank = Client("bank", settings=settings)
    bank.subscribers(PRICES).at_least(1).result(10)
    for number in range(300):
        bank.publish(PRICES.at("eur"), number)
    reader.start()
    bank.close(30).result(40)
    closed.set()
    reader.join(20)
    assert found == [(number, 0) for number in range(300)]
    assert events.missed == 0


def test_an_event_that_is_still_on_its_way_in_pieces_comes_before_the_last_word(
    settings: Settings, screen: Client
) -> None:
    files = Topic[bytes]("files")
    events = screen.subscribe(files, queue=20_000, idle=15)
    with Client("bank", settings=settings) as bank:
        bank.subscribers(files).at_least(1).result(10)
        bank._open().feeds.groups.read().result(10)  # until then little is held
        for at in range(3):
            bank.publish(files, bytes([at]) * 12_000_000)

    assert [(event.value[0], len(event.value), event.missed) for _, event in zip(range(3), events, strict=False)] == [
        (at, 12_000_000, 0) for at in range(3)
    ]
