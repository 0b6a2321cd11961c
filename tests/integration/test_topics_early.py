"""What is published before a client knows for which durable groups it is to be kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stalling import stall_groups
from tests.waiting import wait_until
from zerowait import App, Client, Context, Settings, Topic
from zerowait.errors import Closed
from zerowait.topics.groups import folder_of, remembered

ORDERS = Topic[int]("orders.>")
NEW = ORDERS.at("new")


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A disk of which folders of groups can be read while this is set."""
    moves = stall_groups(monkeypatch)
    moves.set()
    yield moves
    moves.set()


class Billing:
    """A durable group, which the client `bank` has met, and which is away again."""

    def __init__(self, settings: Settings) -> None:
        self.got = got = list[int]()
        self.app = App("billing", settings=settings)

        @self.app.subscribe(ORDERS, group="billing", durable=True, concurrency=1)
        async def bill(order: int) -> None:
            got.append(order)

        folder = folder_of(Path(settings.home_folder()), settings.namespace, "bank")
        with self.app, Client("bank", settings=settings) as bank:
            bank.publish(NEW, 0)
            wait_until(lambda: list(remembered(folder)) == ["orders.>@billing"], within=10)


@pytest.fixture
def billing(settings: Settings, moves: threading.Event) -> Billing:
    return Billing(settings)


def stored(bank: Client) -> int:
    rows = [row for box in bank.status().boxes for row in box.channels if row.channel.startswith("orders")]
    return sum(row.accepted - row.handled for row in rows)


@pytest.mark.parametrize("when", ["before it is closed", "while it is closed"])
def test_what_is_published_at_once_for_a_group_that_is_away_waits_in_the_outbox(
    settings: Settings, billing: Billing, moves: threading.Event, when: str
) -> None:
    # Given a disk that stands still, when the next life publishes as the first that it does
    moves.clear()
    bank = Client("bank", settings=settings)
    began = time.monotonic()
    safe = [bank.publish(NEW, number) for number in range(1, 101)]
    # then that waits for nothing, and nothing of it is called safe
    assert time.monotonic() - began < 5
    with pytest.raises(TimeoutError):
        safe[-1].result(0.3)
    # and when the disk moves, all of it waits in the outbox, for who comes back
    if when == "before it is closed":
        moves.set()
        assert [each.result(10) for each in safe] == [1] * 100
        assert stored(bank) >= 100
        bank.close(0).result(10)
    else:
        closing = bank.close(10)
        moves.set()
        closing.result(20)
        assert [each.result(0) for each in safe] == [1] * 100
    with billing.app, Client("bank", settings=settings) as bank:
        bank.publish(NEW, 101)
        wait_until(lambda: billing.got[-1:] == [101], within=10)
    assert [order for order in billing.got if order] == list(range(1, 102))


def test_who_closes_while_the_disk_stands_still_is_told_that_it_is_not_kept(
    settings: Settings, billing: Billing, moves: threading.Event
) -> None:
    moves.clear()
    bank = Client("bank", settings=settings)
    safe = bank.publish(NEW, 1)
    bank.close(0).result(10)
    with pytest.raises(Closed):
        safe.result(0)


def test_an_app_handles_nothing_before_it_knows_for_whom_its_events_are_kept(
    settings: Settings, billing: Billing, moves: threading.Event
) -> None:
    # Given a stage of the publisher's name, whose disk stands still at its start
    app, handled = App("bank", settings=settings), threading.Event()

    @app.pull("numbers")
    async def tell(number: int, ctx: Context) -> None:
        ctx.publish(NEW, number)
        handled.set()

    moves.clear()
    late = threading.Timer(0.5, moves.set)
    late.start()
    with Client("sender", settings=settings) as zw:
        receipt = zw.push("numbers", 7)
        with app:
            assert moves.is_set()
            receipt.handled.result(10)
    # Then what it has published waits for the group that is away
    with billing.app, Client("bank", settings=settings):
        wait_until(lambda: 7 in billing.got, within=10)
