"""Something removes our files while we run: a cleaning of temporary folders, a hand that slipped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until
from zerowait import App, Client, Settings


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
