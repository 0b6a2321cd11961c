"""Outboxes that somebody left behind: who takes them over, and what becomes of them then."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from tests.waiting import wait_until
from zerowait import App, Client, Reject, Settings
from zerowait.adopting import _stamp
from zerowait.cli.reach import Reach
from zerowait.engines.brokerless.directory import Directory
from zerowait.errors import Closed
from zerowait.outbox.answering import answer
from zerowait.outbox.database import create
from zerowait.outbox.file import peek
from zerowait.outbox.keeper import Keeper
from zerowait.outbox.outbox import Outbox
from zerowait.snapshot import BoxStatus, LetterFilter, Question


def leave(settings: Settings, *values: int) -> None:
    """A script that pushes, and ends while nobody serves."""
    with Client("script", settings=settings) as zw:
        zw.push_all("numbers", list(values)).result(10)


def folder(settings: Settings) -> Path:
    home = settings.home_folder()
    assert home is not None
    return home / settings.namespace / "outbox"


def files(settings: Settings) -> list[str]:
    return sorted(path.name for path in folder(settings).glob("script.*.db"))


def boxes(zw: Client) -> list[BoxStatus]:
    return [box for box in zw.status().boxes if box.name == "script" and box.path is not None]


class Service:
    """Handles numbers once the gate is open. 13 is refused."""

    def __init__(self, settings: Settings) -> None:
        self.app: App[Any] = App("service", settings=settings)
        self.gate = threading.Event()
        self.gate.set()
        self.seen: list[int] = []

        @self.app.pull("numbers", concurrency=4)
        def take(number: int) -> None:
            assert self.gate.wait(20)
            self.seen.append(number)
            if number == 13:
                raise Reject("unlucky")


@pytest.fixture
def service(settings: Settings) -> Service:
    return Service(settings)


def test_what_was_taken_over_is_removed_once_it_is_delivered(settings: Settings, service: Service) -> None:
    leave(settings, 1, 2, 3)
    assert len(files(settings)) == 1
    with service.app as zw:
        wait_until(lambda: sorted(service.seen) == [1, 2, 3], within=10)
        wait_until(lambda: not files(settings), within=10)
        wait_until(lambda: not boxes(zw), within=5)
        assert list(folder(settings).glob("*.lock")) == []
        zw.push("numbers", 4).handled.result(5)  # and its adopter goes on


def test_an_empty_outbox_that_is_taken_over_and_removed_is_no_news(
    settings: Settings, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed scripts leave files in which nothing waits: of each there were two lines in the log of a service."""
    caplog.set_level(logging.DEBUG, "zerowait.outbox")
    leave(settings, 1)
    create(folder(settings) / f"killed.{0xAA:016x}.db", 0xAA, "killed", 1)

    def said(name: str, level: int) -> list[str]:
        lines = [each.getMessage() for each in caplog.records if each.levelno == level]
        return [line for line in lines if name in line and ("took over" in line or "is settled" in line)]

    with service.app:
        wait_until(lambda: len(said("script.", logging.INFO)) == len(said("killed.", logging.DEBUG)) == 2, within=10)
    assert not said("killed.", logging.INFO)


def test_what_was_taken_over_and_holds_dead_letters_is_left_to_its_own_name(
    settings: Settings, service: Service
) -> None:
    leave(settings, 13, 14)
    with service.app as zw:
        wait_until(lambda: sorted(service.seen) == [13, 14], within=10)
        wait_until(lambda: not boxes(zw), within=10)
        assert len(files(settings)) == 1
        with Client("script", settings=settings) as script:
            wait_until(lambda: boxes(script), within=10)
            assert [channel.dead for box in boxes(script) for channel in box.channels] == [1]
            assert len(files(settings)) == 1


def test_a_name_that_comes_back_while_its_outbox_is_taken_over_gets_another_and_both_are_delivered(
    settings: Settings, service: Service
) -> None:
    service.gate.clear()
    leave(settings, 1, 2)
    with service.app as zw:
        wait_until(lambda: boxes(zw), within=10)
        with Client("script", settings=settings) as script:
            receipt = script.push("numbers", 3)
            receipt.result(5)
            assert len(files(settings)) == 2
            assert not {box.id for box in boxes(script)} & {box.id for box in boxes(zw)}
            service.gate.set()
            receipt.handled.result(10)
            wait_until(lambda: len(files(settings)) == 1, within=10)
            assert [box.path for box in boxes(script)] == [str(folder(settings) / files(settings)[0])]
    assert sorted(service.seen) == [1, 2, 3]


def test_closing_while_something_is_taken_over_leaves_no_thread_and_no_lock(
    settings: Settings, service: Service
) -> None:
    directory = Directory(settings.home_folder(), settings.namespace)
    service.gate.clear()
    for number in range(10):
        leave(settings, number)
        with Client("service", settings=settings) as zw:
            zw.close(0)
        for file in directory.outboxes():
            lock = directory.lock_outbox(file.path)
            assert lock is not None
            lock.release()


def test_nothing_is_taken_over_by_who_is_closed_and_the_lock_is_given_back(settings: Settings) -> None:
    leave(settings, 1)
    zw = Client("another", settings=settings)
    with zw:
        assert zw._opened is not None
        estate = zw._opened.estate
    directory = Directory(settings.home_folder(), settings.namespace)
    path: Path = directory.outboxes()[0].path
    lock = directory.lock_outbox(path)
    assert lock is not None
    with pytest.raises(Closed):
        estate.adopt(path, lock)
    assert not lock.held
    again = directory.lock_outbox(path)
    assert again is not None
    again.release()


def test_what_is_left_of_an_outbox_that_was_taken_over_is_told_by_its_own_name(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings = structs.replace(settings, drain=0.2)
    service = Service(settings)
    service.gate.clear()
    leave(settings, 1)
    caplog.clear()
    with service.app as zw:
        wait_until(lambda: boxes(zw), within=10)
    service.gate.set()
    [said] = [record.getMessage() for record in caplog.records if "undelivered" in record.getMessage()]
    assert said.startswith("service leaves 1 message (1 for numbers: being handled)")
    assert said.endswith("`zerowait outbox deliver script`")


def test_a_letter_that_is_given_back_while_its_outbox_is_closed_is_delivered(
    settings: Settings, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(settings, 13)
    remove = Keeper.remove
    given_back: list[Any] = []

    def just_before(keeper: Keeper, box: Outbox) -> Future[None]:
        if box.name == "script" and not given_back:
            given_back.append(keeper.ask(lambda: retry_all(box)))
        return remove(keeper, box)

    monkeypatch.setattr(Keeper, "remove", just_before)
    with service.app:
        wait_until(lambda: service.seen == [13, 13], within=15)


def test_an_outbox_whose_opening_takes_long_is_given_back_all_the_same(
    settings: Settings, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(settings, 1)
    monkeypatch.setattr("zerowait.adopting.OPENING_S", 0.0)
    with service.app:
        wait_until(lambda: service.seen == [1], within=10)
        wait_until(lambda: not files(settings), within=10)


def test_who_looks_at_dead_letters_makes_nobody_take_their_outbox_over(
    settings: Settings, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "zerowait.outbox")
    leave(settings, 13)

    def taken_over() -> int:
        return sum("took over" in record.getMessage() for record in caplog.records)

    with service.app as zw:
        assert zw._opened is not None
        adopter = zw._opened.estate._adopter
        wait_until(lambda: taken_over() and not boxes(zw), within=10)
        [path] = folder(settings).glob("script.*.db")
        wait_until(lambda: path in adopter._seen, within=5)
        before = _stamp(path)
        [found] = Reach(settings).letters(LetterFilter(), 10).letters
        assert found.box == "script"
        assert _stamp(path) != before
        wait_until(lambda: path in adopter._seen and adopter._seen[path][0] == _stamp(path), within=10)
        assert taken_over() == 1


def test_a_file_that_nobody_serves_is_opened_once_and_not_at_each_look(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(settings, 1)
    looked: list[Path] = []

    def counted(path: Path) -> dict[str, int]:
        looked.append(path)
        return peek(path)

    monkeypatch.setattr("zerowait.adopting.peek", counted)
    asked: list[str] = []
    with Client("another", settings=settings) as zw:
        assert zw._opened is not None
        adopter = zw._opened.estate._adopter
        is_served = adopter._is_served

        def asked_for(waiting: dict[str, int]) -> bool:
            asked.extend(waiting)
            return is_served(waiting)

        monkeypatch.setattr(adopter, "_is_served", asked_for)
        wait_until(lambda: len(asked) >= 2, within=10)
        assert len(looked) <= 1


def retry(settings: Settings) -> None:
    """`zerowait dead retry --all`, of what nobody has open."""
    directory = Directory(settings.home_folder(), settings.namespace)
    for file in directory.outboxes():
        lock = directory.lock_outbox(file.path)
        assert lock is not None
        box = Outbox.open(file.path, file.name, now_us=lambda: time.time_ns() // 1_000, lock=lock)
        assert list(box.noted) == []
        retry_all(box)
        box.close()


def retry_all(box: Outbox) -> None:
    letters: Any = answer(box, Question("dead.list", {"limit": 10})).value
    answer(box, Question("dead.retry", {"ids": [letter["id"] for letter in letters]}))


def test_a_letter_given_back_after_its_worker_had_left_in_order_goes_to_the_next_at_once(settings: Settings) -> None:
    """Its own process's, and that of an outbox that it had taken over: nothing that was noted is waited for."""
    settings = structs.replace(settings, resume_grace=60.0)
    leave(settings, 13)
    first = Service(settings)
    with first.app as zw:
        own = zw.push("numbers", 13)
        wait_until(lambda: own.done() and len(first.seen) == 2, within=10)
        wait_until(lambda: not boxes(zw), within=10)
    retry(settings)
    second = Service(settings)
    with second.app:
        wait_until(lambda: second.seen == [13, 13], within=15)


def test_a_worker_that_has_left_in_order_can_be_proved_over_by_who_finds_it_noted(
    settings: Settings, service: Service
) -> None:
    with service.app as zw:
        assert zw._opened is not None
        instance = zw._opened.node.instance
    assert Directory(settings.home_folder(), settings.namespace).is_over(instance)


def test_what_stays_is_told_by_what_it_waits_for_and_apart_from_what_earlier_lives_have_left(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with Client("again", settings=settings) as first:
        first.push("stays", 1, delay=600).result(10)
        first.push("stays", 2).result(10)
        opened = first._open()
        first.close(0).result(10)
    [stays] = opened.left.values()
    assert (stays.messages, stays.later, stays.waiting, stays.earlier) == (2, 1, 1, 0)
    assert 590 < stays.due_in_s <= 600
    assert "(2 for stays: 1 not due before " in caplog.text

    with Client("again", settings=settings) as second:
        last = second.push("stays", 3, delay=60).result(10)
        opened = second._open()
        second.close(0).result(10)
    [stays] = opened.left.values()
    assert (stays.messages, stays.later, stays.earlier, stays.later_earlier) == (3, 2, 2, 1)
    new = stays.new()
    assert (new.messages, new.later, new.waiting) == (1, 1, 0)
    assert opened.estate.inventory.is_new(last.id)
    assert not opened.estate.inventory.is_new(last.id.partition("-")[0] + "-1-1")
