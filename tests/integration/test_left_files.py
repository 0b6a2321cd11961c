"""Who takes over which file (rules §11.1), and how long a process that ends waits (§11.2)."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from tests.waiting import wait_until
from zerowait import App, Client, Settings
from zerowait.adopting import Adopter
from zerowait.engines.brokerless.directory import Directory


def leave(settings: Settings, name: str, *values: int) -> None:
    """A script that pushes, and ends while nobody serves."""
    with Client(name, settings=settings) as zw:
        zw.push_all("numbers", list(values)).result(10)


def service(settings: Settings, seen: list[int]) -> App[Any]:
    app: App[Any] = App("service", settings=settings)

    @app.pull("numbers")
    def take(number: int) -> None:
        seen.append(number)

    return app


def files(settings: Settings) -> list[Path]:
    return [file.path for file in Directory(settings.home_folder(), settings.namespace).outboxes()]


def open_boxes(zw: Client) -> set[str]:
    return {box.path for box in zw.status().boxes if box.path}


def looks_of(adopter: Adopter) -> list[float]:
    """When it has looked around, from now on."""
    looks: list[float] = []
    look = adopter._look

    def counted() -> None:
        look()
        looks.append(time.monotonic())

    adopter._look = counted  # type: ignore[method-assign]
    return looks


def test_the_next_process_of_a_name_opens_what_the_last_one_has_left_and_no_other(settings: Settings) -> None:
    leave(settings, "script", 1)
    [left] = files(settings)
    with Client("script", settings=settings) as zw:
        zw.push("numbers", 2).result(10)
        assert open_boxes(zw) == {str(left)}
        assert files(settings) == [left]


def test_a_file_that_somebody_only_looks_into_is_waited_for_however_slow_the_disk_is(settings: Settings) -> None:
    """The ids in it (`id=`) are known to that file and to no new one."""
    # given: a bill that was pushed, and a process that looks whether it waits, and is held up
    with Client("script", settings=settings) as zw:
        first = zw.push("numbers", 1, id="bill-1").result(10)
    [left] = files(settings)
    looking = Directory(settings.home_folder(), settings.namespace).lock_outbox(left)
    assert looking is not None
    # when it is pushed again by the next process of that name
    with Client("script", settings=settings) as zw:
        again = zw.push("numbers", 1, id="bill-1")
        threading.Timer(0.8, looking.release).start()  # the fault
        again.result(10)
    # then it is the same one
    assert (again.id, again.duplicate) == (first.id, True)
    assert files(settings) == [left]


def test_of_a_name_that_somebody_has_open_the_second_gets_a_file_of_its_own_at_once(settings: Settings) -> None:
    with Client("script", settings=settings) as one, Client("script", settings=settings) as other:
        one.push("numbers", 1).result(10)
        before = time.monotonic()
        other.push("numbers", 2).result(10)
        assert time.monotonic() - before < 1.5
        assert len(files(settings)) == 2


def test_what_one_of_a_name_leaves_another_of_that_name_takes_over_though_nobody_serves_it(settings: Settings) -> None:
    """Its dead letters and its status are with whoever goes by that name."""
    first, second = Client("script", settings=settings), Client("script", settings=settings)
    with second:
        with first:
            first.push("numbers", 1).result(10)
            [left] = files(settings)
        wait_until(lambda: str(left) in open_boxes(second), within=10)


def test_one_of_another_name_leaves_alone_what_nobody_serves(settings: Settings) -> None:
    leave(settings, "script", 1)
    with Client("another", settings=settings) as zw:
        assert zw._opened is not None
        adopter = zw._opened.estate._adopter
        wait_until(lambda: adopter._seen, within=10)
        wait_until(lambda: "numbers" in zw._open().node._wanted.channels, within=5)
        assert open_boxes(zw) == set()


def test_the_elected_one_looks_for_workers_of_what_was_left_and_delivers_it_to_them(settings: Settings) -> None:
    """It serves nothing itself, and has sent nothing: it dials them for what the file says."""
    leave(settings, "script", 1, 2)
    seen: list[int] = []
    with Client("another", settings=settings) as zw:
        assert zw._opened is not None
        directory = zw._opened.node.directory
        assert directory is not None
        wait_until(lambda: directory._elected is not None, within=10)
        with service(settings, seen):
            wait_until(lambda: sorted(seen) == [1, 2], within=15)
            wait_until(lambda: not files(settings), within=10)


def test_who_is_not_elected_takes_nothing_over_of_another_name(settings: Settings) -> None:
    directory = Directory(settings.home_folder(), settings.namespace)
    leave(settings, "script", 1)
    assert directory.try_elect()
    seen: list[int] = []
    with service(settings, seen) as zw:
        looks = looks_of(zw._open().estate._adopter)
        wait_until(lambda: len(looks) >= 2, within=10)
        assert seen == []
        directory.leave()
        wait_until(lambda: seen == [1], within=10)


def test_what_was_taken_over_stays_open_while_something_of_it_is_in_flight(settings: Settings) -> None:
    """Without: each opening is a new epoch, and its workers say each second anew what they hold."""
    leave(settings, "script", 1)
    app: App[Any] = App("service", settings=settings)
    begun, done = threading.Event(), threading.Event()

    @app.pull("numbers")
    def take(number: int) -> None:
        begun.set()
        assert done.wait(20)

    with app as zw:
        assert begun.wait(10)
        estate = zw._open().estate
        [box] = [box for box in estate.boxes() if box.name == "script"]
        epoch, looks = box.epoch, looks_of(estate._adopter)
        wait_until(lambda: len(looks) >= 4, within=10)
        assert [(each.epoch, each is box) for each in estate.boxes() if each.name == "script"] == [(epoch, True)]
        done.set()
        wait_until(lambda: not files(settings), within=10)


def test_a_file_of_another_version_is_named_once_left_as_it_is_and_holds_up_no_other(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    leave(settings, "script", 2)
    [script] = files(settings)
    leave(settings, "ancient", 1)
    [ancient] = [path for path in files(settings) if path != script]
    content = bytearray(ancient.read_bytes())
    content[60:64] = (1).to_bytes(4, "big")  # user_version
    ancient.write_bytes(content)
    seen: list[int] = []
    with service(settings, seen):
        wait_until(lambda: seen == [2], within=10)
        wait_until(lambda: files(settings) == [ancient], within=10)
    assert ancient.read_bytes() == bytes(content)
    said = [record.getMessage() for record in caplog.records if "left alone" in record.getMessage()]
    assert len(said) == 1
    assert str(ancient) in said[0]


def closing_s(zw: Client) -> float:
    began = time.monotonic()
    zw.close(10).result(15)
    return time.monotonic() - began


def test_closing_waits_a_second_for_an_address_that_has_not_answered_and_no_longer(settings: Settings) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        address = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        zw = Client("script", settings=structs.replace(settings, addresses={"numbers": address}))
        with zw:
            zw.push("numbers", 1).result(10)
            took = closing_s(zw)
        assert 0.5 < took < 3.0


def test_closing_waits_for_nobody_where_nothing_is_left(settings: Settings) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        address = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        zw = Client("script", settings=structs.replace(settings, addresses={"numbers": address}))
        with zw:
            zw.status()
            assert closing_s(zw) < 0.9


def test_closing_does_not_wait_for_what_nobody_serves(settings: Settings) -> None:
    zw = Client("script", settings=settings)
    with zw:
        zw.push("numbers", 1).result(10)
        assert closing_s(zw) < 3.0


def test_closing_waits_for_what_is_in_flight(settings: Settings) -> None:
    """Longer than for addresses that have not answered."""
    app: App[Any] = App("service", settings=settings)
    done = threading.Event()
    seen: list[int] = []

    @app.pull("numbers")
    def take(number: int) -> None:
        assert done.wait(20)
        seen.append(number)

    with app:
        zw = Client("script", settings=settings)
        with zw:
            zw.workers("numbers").at_least(1).result(10)
            zw.push("numbers", 1)
            threading.Timer(1.5, done.set).start()
            assert zw.close(10).result(15) == 0
            assert seen == [1]


def test_closing_waits_for_what_is_stored_and_has_not_been_offered_yet(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the commit and the network thread. Without: it is left behind although its worker is there."""
    seen: list[int] = []
    gate = threading.Event()
    with service(settings, seen):
        zw = Client("script", settings=settings)
        with zw:
            zw.workers("numbers").at_least(1).result(10)
            zw.push("numbers", 1).handled.result(10)
            node, estate = zw._open().node, zw._open().estate
            offered, turned, stop = node.outboxes.offered, estate.turned, node.stop

            def late(*args: Any) -> None:
                assert gate.wait(20)
                offered(*args)

            def asked() -> Future[None]:
                answer = turned()
                if not answer.done():  # it is waited for: now it may come
                    gate.set()
                return answer

            def stopped(*, final: bool) -> None:
                gate.set()  # too late
                stop(final=final)

            monkeypatch.setattr(node.outboxes, "offered", late)
            monkeypatch.setattr(estate, "turned", asked)
            monkeypatch.setattr(node, "stop", stopped)
            zw.push("numbers", 2).result(10)
            assert zw.close(10).result(15) == 0
            assert seen == [1, 2]


def test_what_was_offered_and_not_looked_at_yet_is_not_settled(settings: Settings) -> None:
    """Calls from other threads are answered before it is."""
    with Client("script", settings=settings) as zw:
        zw.push("numbers", 1).result(10)
        node, [box] = zw._open().node, zw._open().estate.boxes()

        def ask() -> tuple[bool, bool]:
            before = node.is_settled()
            node.outboxes.offered(box.id, box.epoch, [], 0)
            return before, node.is_settled()

        wait_until(lambda: node.call(ask).result(5) == (True, False), within=5)


def test_closing_does_not_wait_for_a_worker_that_is_leaving_itself(settings: Settings) -> None:
    """All of a service are stopped at once. Without: its senders wait for all of `drain` beside a worker that takes
    nothing any more."""
    app: App[Any] = App("service", settings=settings)
    begun, done = threading.Event(), threading.Event()

    @app.pull("numbers")
    def take(number: int) -> None:
        begun.set()
        assert done.wait(20)

    with Client("holder", settings=settings) as holder, Client("script", settings=settings) as zw, app as serving:
        zw.workers("numbers").at_least(1).result(10)
        holder.push("numbers", 1)
        assert begun.wait(10)
        node = serving._open().node
        node.call(node.drain).result(5)
        wait_until(lambda: any(link.draining for link in list(zw._open().node.core.links.values())), within=5)
        zw.push("numbers", 2).result(5)
        assert closing_s(zw) < 3.0
        done.set()
