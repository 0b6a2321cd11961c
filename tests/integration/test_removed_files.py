"""Something removes our files while we run: a cleaning of temporary folders, a hand that slipped."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until
from zerowait import App, Client, Settings
from zerowait.errors import StoreError
from zerowait.notices import StoreBroken, StoreMended


def root(settings: Settings) -> Path:
    home = settings.home_folder()
    assert home is not None
    return home / settings.namespace


@pytest.fixture
def app(settings: Settings) -> App[Any]:
    app: App[Any] = App("service", settings=settings)

    @app.pull("numbers")
    def take(number: int) -> None: ...

    return app


def test_a_socket_that_was_removed_is_bound_again_and_who_is_connected_stays_so(
    app: App[Any], settings: Settings
) -> None:
    with app, Client("early", settings=settings) as early:
        early.push("numbers", 1, durable=False).handled.result(10)
        links = [peer.instance for peer in early.status().peers]
        for path in (root(settings) / "s").iterdir():
            path.unlink()
        wait_until(lambda: len(list((root(settings) / "s").iterdir())) == 2, within=5)
        early.push("numbers", 2, durable=False).handled.result(5)
        assert [peer.instance for peer in early.status().peers] == links
        with Client("late", settings=settings) as late:
            late.push("numbers", 3, durable=False).handled.result(5)


def test_processes_meet_although_all_their_folders_were_removed(
    app: App[Any], settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with app, Client("early", settings=settings) as early:
        early.push("numbers", 1, durable=False).handled.result(10)
        shutil.rmtree(root(settings))
        wait_until(lambda: caplog.text.count("they are made again") == 2, within=10)
        for folder in ("s", "peers", "instances"):
            assert len(list((root(settings) / folder).iterdir())) == 2, folder
        with Client("late", settings=settings) as late:
            late.push("numbers", 2, durable=False).handled.result(5)
        early.push("numbers", 3, durable=False).handled.result(5)
    for folder in ("s", "peers"):
        assert list((root(settings) / folder).iterdir()) == [], folder


def test_an_outbox_at_rest_whose_folder_was_removed_is_noticed_written_anew_and_delivered_by_the_next_life(
    settings: Settings,
) -> None:
    folder, told = root(settings) / "outbox", list[Any]()
    with Client("sender", settings=settings) as zw:
        zw.listen(StoreBroken, told.append)
        zw.listen(StoreMended, told.append)
        zw.push("numbers", 1).result(5)
        (path,) = folder.glob("sender.*.db")
        shutil.rmtree(folder)
        wait_until(lambda: len(told) == 2, within=5)
        assert [type(notice) for notice in told] == [StoreBroken, StoreMended]
        assert [notice.path for notice in told] == [str(path)] * 2
        assert path.exists()
        zw.push("numbers", 2).result(5)
        assert [(row.accepted, row.waiting) for box in zw.status().boxes for row in box.channels] == [(2, 2)]
    seen: list[int] = []
    served: App[Any] = App("sender", settings=settings)

    @served.pull("numbers")
    def take(number: int) -> None:
        seen.append(number)

    with served:
        wait_until(lambda: sorted(seen) == [1, 2], within=10)


def test_what_is_in_flight_when_its_outbox_is_removed_is_handled_once_and_settled(settings: Settings) -> None:
    gate, seen = threading.Event(), list[int]()
    app: App[Any] = App("service", settings=settings)

    @app.pull("numbers", concurrency=2)
    def take(number: int) -> None:
        seen.append(number)
        assert gate.wait(20)

    with app, Client("sender", settings=settings) as zw:
        told: list[Any] = []
        zw.listen(StoreMended, told.append)
        receipts = [zw.push("numbers", number) for number in range(6)]
        wait_until(lambda: len(seen) == 2, within=10)
        shutil.rmtree(root(settings) / "outbox")
        wait_until(lambda: told, within=5)
        gate.set()
        for receipt in receipts:
            receipt.handled.result(10)
        assert sorted(seen) == list(range(6))


def test_while_an_outbox_cannot_be_written_anew_verbs_raise_and_then_it_goes_on_by_itself(settings: Settings) -> None:
    folder = root(settings) / "outbox"
    with Client("sender", settings=settings) as zw:
        first = zw.push("numbers", 1)
        first.result(5)
        shutil.rmtree(folder)
        folder.write_text("a file where the folder was")

        def refused() -> StoreError | None:
            try:
                zw.push("numbers", 2)
            except StoreError as error:
                return error
            return None

        error = wait_until(refused, within=5)
        assert str(folder) in str(error)
        folder.unlink()
        wait_until(lambda: not refused(), within=5)
        assert list(folder.glob("sender.*.db"))
        rows = [row for box in zw.status().boxes for row in box.channels]
        assert rows[0].accepted == rows[0].waiting >= 2
