"""A client's life: opened, failed, closed, and opened again."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq
from msgspec import structs

from tests.waiting import wait_until
from zerowait import App, Client, QueueFull, Receipt, Settings, observing
from zerowait.engines.brokerless.contacts import Contact, Contacts
from zerowait.engines.brokerless.directory import Directory
from zerowait.engines.brokerless.shelf import OutboxFile
from zerowait.errors import Closed, EncodeError, StoreError, UsageError, ZerowaitError
from zerowait.estate import Estate
from zerowait.notices import DeadLettered
from zerowait.outbox import database

VERBS: list[Callable[[Client], Any]] = [
    lambda zw: zw.push("c", 1),
    lambda zw: zw.push("c", 1, priority="high"),
    lambda zw: zw.push_all("c", [1]),
    lambda zw: zw.workers("c"),
    lambda zw: zw.status(),
    lambda zw: zw.listen(DeadLettered, print),
]


def test_every_verb_of_a_closed_client_raises_closed_and_entering_opens_it_again() -> None:
    zw = Client("sender")
    with zw:
        zw.push("c", 1).result(5)
    for verb in VERBS:
        with pytest.raises(Closed) as raised:
            verb(zw)
        assert raised.value.__context__ is None
    with zw:
        assert zw.push("c", 2).result(5).id


def test_a_first_push_while_it_looks_for_what_was_left_opens_one_outbox(
    home: Path, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given what an earlier life has left; when the first push comes just as that is found; then both are one."""
    settings = Settings(home=home, namespace=namespace)
    with Client("sender", settings=settings) as zw:
        zw.push("c", 1).result(5)
    zw, look = Client("sender", settings=settings), Directory.outboxes
    pushed: list[Receipt] = []

    def look_and_push(directory: Directory, name: str | None = None) -> list[OutboxFile]:
        found = look(directory, name)
        if threading.current_thread().name == "zerowait network sender" and not pushed:
            pushed.append(zw.push("c", 2))
        return found

    monkeypatch.setattr(Directory, "outboxes", look_and_push)
    with zw:
        wait_until(lambda: pushed, within=5)
        pushed[0].result(5)
        (box,) = zw.status().boxes
        assert [row.accepted for row in box.channels] == [2]


def test_an_outbox_that_found_no_room_to_be_made_is_made_once_there_is_some(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a full disk at the first push; when there is room, then pushes are taken without a restart."""
    full, tries = True, list[Path]()

    def create(path: Path, box: int, name: str, wall: int, disk: database.Disk) -> None:
        tries.append(path)
        if full:
            raise StoreError("on its disk is no room left", path=path, errno=errno.ENOSPC)
        database.create(path, box, name, wall, disk)

    monkeypatch.setattr("zerowait.outbox.file.create", create)
    zw, got = Client("sender"), list[int]()
    with pytest.raises(StoreError, match="no room"):
        zw.push("c", 1).result(5)
    wait_until(lambda: len(tries) >= 2, within=5)
    with pytest.raises(StoreError, match="no room"):
        zw.push("c", 2)
    full = False

    def is_taken() -> bool:
        try:
            zw.push("c", 3).result(5)
        except StoreError:
            return False
        return True

    wait_until(is_taken, within=5)
    app = App("taker")

    @app.pull("c")
    def take(number: int) -> None:
        got.append(number)

    with app:
        wait_until(lambda: got, within=10)
    zw.close().result(10)
    assert got == [3], "what was refused was not taken"
    why, end = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "no room" in why, "said once"
    assert "1 message (1 for c) in no outbox" in end, "the first one was"


def test_a_client_that_was_closed_before_its_first_verb_is_closed_too() -> None:
    zw = Client("sender")
    assert zw.close().result(1) == 0
    with pytest.raises(Closed):
        zw.status()


@pytest.fixture
def blocked(home: Path, namespace: str) -> tuple[Settings, Path]:
    """Settings whose home is a file, so that opening fails, and that file."""
    wrong = home / "home"
    wrong.write_text("not a folder")
    return Settings(home=wrong, namespace=namespace), wrong


def test_what_was_to_be_called_back_before_the_end_has_been_when_it_is_known(settings: Settings) -> None:
    told = list[str]()
    zw = Client("sender", settings=settings)
    zw.push("c", 1).add_done_callback(lambda over: time.sleep(0.2))  # somebody's callback that takes its time
    zw.push("c", 2).add_done_callback(lambda over: told.append("the second"))
    zw.close(0).result(10)
    assert told == ["the second"]


def test_a_failed_opening_is_not_for_ever(blocked: tuple[Settings, Path]) -> None:
    settings, wrong = blocked
    zw = Client("sender", settings=settings)
    for _ in range(2):
        with pytest.raises(ZerowaitError), zw:
            pass
        with pytest.raises(Closed):
            zw.push("c", 1)
    wrong.unlink()
    with zw:
        assert zw.push("c", 1).result(5).id


def test_a_failed_opening_in_a_loop_is_not_for_ever(blocked: tuple[Settings, Path]) -> None:
    settings, wrong = blocked

    async def live() -> None:
        zw = Client("sender", settings=settings)
        for _ in range(2):
            with pytest.raises(ZerowaitError):
                await zw.__aenter__()
        wrong.unlink()
        async with zw:
            assert (await zw.push("c", 1)).id

    asyncio.run(live())


@pytest.mark.parametrize("drain", [-1, float("nan"), float("inf"), True, "5"])
def test_close_takes_seconds(drain: Any) -> None:
    zw = Client("sender")
    with pytest.raises(UsageError, match="close"):
        zw.close(drain)
    with zw:
        zw.push("c", 1).result(5)


def fill(zw: Client, options: dict[str, Any]) -> None:
    for number in range(20):
        zw.push("c", number, **options)


def test_no_error_of_push_shows_what_it_stumbled_over_inside(home: Path, namespace: str) -> None:
    small = Settings(home=home, namespace=namespace, outbox_messages=5)
    with Client("sender", settings=small) as zw:
        with pytest.raises(EncodeError) as refused:
            zw.push("c", object())
        assert not isinstance(refused.value.__context__, (KeyError, IndexError))
        for options in ({}, {"priority": "high"}):
            with pytest.raises(QueueFull) as full:
                fill(zw, options)
            assert full.value.__context__ is None


def test_the_warning_of_push_all_names_the_callers_line(caplog: pytest.LogCaptureFixture) -> None:
    with Client("sender") as zw, caplog.at_level(logging.WARNING, "zerowait"):
        zw.push_all("c", [1])
        assert f"{Path(__file__).name}:" in caplog.text


def test_the_transport_gives_nobody_up_before_the_protocol_does(settings: Settings) -> None:
    """ZeroMQ's heartbeat counted what lay unread before its own thread as silence, and ended three thousand connections
    of a busy machine again and again; and it was two thirds of what a quiet connection cost."""
    with Client("sender", settings=settings) as zw:
        wire = zw._open().node._wire
        assert wire is not None
        socket = wire._listeners[0].bare.socket
        asks, waits, ttl = (
            int(socket.get(option)) for option in (zmq.HEARTBEAT_IVL, zmq.HEARTBEAT_TIMEOUT, zmq.HEARTBEAT_TTL)
        )
        assert asks >= settings.silence * 1_000, "seldom"
        assert waits >= 2 * settings.silence * 1_000
        assert ttl >= 2 * settings.silence * 1_000, "what the other end is asked to do"


def test_a_status_says_what_is_known_although_a_thread_is_busy(settings: Settings) -> None:
    with Client("sender", settings=settings) as zw:
        zw.push("c", 1).result(5)
        opened = zw._open()
        [box] = opened.estate.boxes()
        over = threading.Event()
        opened.estate.ask(box, lambda: over.wait(30))
        opened.node.call(lambda: over.wait(30))
        began = time.monotonic()
        try:
            status = zw.status()
            took = time.monotonic() - began
        finally:
            over.set()
        assert took < 3
        assert [(each.channel, each.waiting, each.oldest_at) for each in status.boxes[0].channels] == [("c", 1, None)]
        unknown = [what.partition(":")[0] for what in status.unknown]
        assert unknown == ["its peers and topics", "oldest of outbox sender"]

        wait_until(lambda: not zw.status().unknown, within=10)
        assert zw.status().boxes[0].channels[0].oldest_at is not None
        zw.close(0)


def test_a_status_leaves_out_no_outbox_that_opens_while_it_looks(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_own, look, goes_on = Estate._open_own, observing._asked, threading.Event()

    def open_slowly(estate: Estate) -> Any:
        goes_on.wait(30)
        return open_own(estate)

    with Client("sender", settings=settings) as zw:
        # Given a message whose outbox is not open yet, and opens when it has been looked which are.
        monkeypatch.setattr(Estate, "_open_own", open_slowly)
        zw.push("c", 1)
        estate = zw._open().estate

        def looked(*args: Any) -> Any:
            goes_on.set()
            wait_until(lambda: not estate.unopened(), within=10)
            return look(*args)

        monkeypatch.setattr(observing, "_asked", looked)
        # When its status is asked, then the message is in it, once.
        told = [(each.channel, each.accepted, each.waiting) for box in zw.status().boxes for each in box.channels]
        assert told == [("c", 1, 1)]
        zw.close(0)


def test_until_the_outbox_of_an_earlier_life_is_open_a_status_says_that_it_is_not_known_what_is_in_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given what an earlier life has left, and a disk that is slow to open it.
    with Client("sender", settings=settings) as zw:
        zw.push("c", 1).result(5)
        zw.close(0)
    open_own, goes_on = Estate._open_own, threading.Event()

    def open_slowly(estate: Estate) -> Any:
        goes_on.wait(30)
        return open_own(estate)

    monkeypatch.setattr(Estate, "_open_own", open_slowly)
    with Client("sender", settings=settings) as zw:
        try:
            wait_until(lambda: zw.status().unknown, within=10)
            # When it is asked what waits, then nothing is known yet of the file; once it is open, all is.
            (unknown,) = zw.status().unknown
            assert unknown.startswith("what an earlier sender has left in its outbox: ")
        finally:
            goes_on.set()
        wait_until(lambda: not zw.status().unknown, within=10)
        assert [box.unsettled for box in zw.status().boxes] == [1]
        zw.close(0)


def test_what_was_stored_only_just_before_the_end_of_an_apps_block_is_handled_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a store thread that is slow to offer what it has stored.
    offer = Estate._offer

    def late(estate: Estate, *args: Any) -> None:
        time.sleep(0.05)
        offer(estate, *args)

    monkeypatch.setattr(Estate, "_offer", late)
    app, got = App("taker"), list[int]()

    @app.pull("numbers")
    def take(number: int) -> None:
        got.append(number)

    with app as zw:
        zw.push("numbers", 1).result(5)
    assert got == [1]


def _left_by_a_client(settings: Settings, caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    zw = Client("sender", settings=settings)
    zw.push("numbers", 1).result(5)
    assert zw.close(drain=0.5).result(10) == 1
    [said] = [each for each in caplog.messages if "undelivered" in each]
    return said


def test_what_waits_for_a_worker_that_was_not_met_is_not_said_to_be_taken_by_nobody(
    settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App("service", settings=settings)

    @app.pull("numbers")
    async def take(number: int) -> None: ...

    def none_due(*_: object, **__: object) -> list[Contact]:
        return []

    with app:
        monkeypatch.setattr(Contacts, "due", none_due)  # as if it stood still
        said = _left_by_a_client(settings, caplog)
        monkeypatch.undo()
    assert f"(1 for numbers: wait for service (pid {os.getpid()}), with which there is no connection)" in said
    # and where there is none, nobody takes it
    said = _left_by_a_client(structs.replace(settings, namespace=f"{settings.namespace}x"), caplog)
    assert "(1 for numbers: nobody takes it)" in said


def test_where_nobody_listens_is_said_with_what_is_left(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    nowhere = "tcp://127.0.0.1:1"
    said = _left_by_a_client(structs.replace(settings, addresses={"numbers": (nowhere,)}), caplog)
    assert f"(1 for numbers: nobody takes it ({nowhere}: nobody listens there" in said
