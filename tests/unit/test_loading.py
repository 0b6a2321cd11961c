"""push_all: who waits loads, and what ends a waiting ends nothing else."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec
import pytest

from tests.waiting import wait_until
from zerowait.callbacks import Callbacks
from zerowait.client import Client
from zerowait.errors import OutcomeUnknown, QueueFull, UsageError
from zerowait.loading import Loading
from zerowait.outbox.intake import Intake, Limits
from zerowait.outbox.lane import Lane
from zerowait.pending import Pending, Promise
from zerowait.receipts import Receipt

encoder = msgspec.msgpack.Encoder()


class Sender:
    """A client whose outbox has room for so many."""

    def __init__(self, room: int = 1_000_000) -> None:
        self.callbacks = Callbacks("test")
        self.room = room
        self.pushed: list[Any] = []
        self.keys: list[str | None] = []
        self.doors: list[Promise[None]] = []
        self.safe = True
        self.intake = Intake(Limits(), durable=True, wake=lambda: None, room=self.door, now_us=lambda: 0)
        self.lane = Lane(self.intake, "c", int, encoder.encode_into)

    def door(self) -> Promise[None]:
        self.doors.append(Promise(self.callbacks))
        return self.doors[-1]

    def push(self, to: object, value: Any, key: str | None = None) -> Receipt:
        if len(self.pushed) >= self.room:
            raise QueueFull(limit_bytes=1, limit_messages=self.room, room=self.door())
        self.pushed.append(value)
        self.keys.append(key)
        receipt = Receipt(*self.lane.append(encoder.encode(value)))
        if self.safe:
            self.store()
        return receipt

    def store(self, error: Exception | None = None) -> None:
        for sheaf, piece in self.intake.take():
            sheaf.sealed(1, 1)
            if error is None:
                sheaf.stored()
            else:
                sheaf.failed(error)
            self.intake.stored([(sheaf, piece.count)])

    def make_room(self) -> None:
        self.room = 1_000_000
        for door in self.doors:
            door.set(None)


def load(sender: Sender, values: Any, progress: bool = False) -> Pending[int]:
    return Loading(sender.callbacks, sender.push, "c", values, {}, progress, "here.py:7")


async def later(count: int, gate: asyncio.Event | None = None) -> AsyncIterator[int]:
    for number in range(count):
        if gate is not None and number == 2:
            await gate.wait()
        await asyncio.sleep(0)
        yield number


def test_each_value_is_pushed_with_its_key_also_after_the_outbox_was_full() -> None:
    sender = Sender(room=3)
    loading = Loading(
        sender.callbacks, sender.push, "c", iter(range(5)), {}, False, "here.py:7", lambda n: str(n % 2) if n else None
    )
    with pytest.raises(TimeoutError):
        loading.result(0.01)
    sender.make_room()
    assert loading.result(5) == 5
    assert sender.keys == [None, "1", "0", "1", "0"]


def _divides(number: int) -> str:
    return str(1 // (number - 3))


def _too_short(number: int) -> str:
    return "k" * (3 - number)


@pytest.mark.parametrize(("key", "error"), [(_divides, ZeroDivisionError), (_too_short, UsageError)])
def test_a_key_that_cannot_be_had_names_the_index_of_its_value_of_which_nothing_is_taken(
    key: Callable[[int], str], error: type[Exception]
) -> None:
    sender = Sender()
    with pytest.raises(error) as raised:
        Loading(sender.callbacks, sender.push, "c", iter(range(5)), {}, False, "here.py:7", key).result(5)
    notes = " ".join(raised.value.__notes__)
    assert "the value with index 3" in notes
    assert "had pushed 3 messages" in notes
    assert sender.pushed == [0, 1, 2]


def test_a_timeout_at_a_full_outbox_ends_only_that_waiting() -> None:
    sender = Sender(room=3)
    loading = load(sender, iter(range(10)))
    for _ in range(2):
        with pytest.raises(TimeoutError, match="pushed 3"):
            loading.result(0.01)
    assert not loading.done()
    sender.make_room()
    assert loading.result(5) == 10
    assert sender.pushed == list(range(10))
    assert not any(door.watchers for door in sender.doors)


@pytest.mark.parametrize("values", [lambda: iter(range(10)), lambda: later(10)])
def test_a_cancelled_await_at_a_full_outbox_ends_only_that_waiting(values: Any) -> None:
    async def wait() -> None:
        sender = Sender(room=3)
        loading = load(sender, values())
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(loading, 0.01)
        sender.make_room()
        assert await asyncio.wait_for(loading, 5) == 10
        assert sender.pushed == list(range(10))

    asyncio.run(wait())


def test_a_cancelled_await_does_not_end_an_async_iterator_at_work() -> None:
    async def wait() -> None:
        sender, gate = Sender(), asyncio.Event()
        loading = load(sender, later(5, gate))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loading, 0.02)
        assert sender.pushed == [0, 1]
        gate.set()
        assert await asyncio.wait_for(loading, 5) == 5
        assert sender.pushed == list(range(5))

    asyncio.run(wait())


def test_nothing_is_taken_while_nobody_waits() -> None:
    async def wait() -> None:
        sender, gate = Sender(), asyncio.Event()
        loading = load(sender, later(5, gate))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loading, 0.02)
        gate.set()
        for _ in range(20):
            await asyncio.sleep(0)
        assert sender.pushed == [0, 1]
        assert await loading == 5

    asyncio.run(wait())


def test_who_stands_by_goes_on_when_the_loader_gives_up() -> None:
    sender = Sender(room=3)
    loading = load(sender, iter(range(10)))
    given: list[int] = []

    def give_up() -> None:
        with pytest.raises(TimeoutError):
            loading.result(0.2)

    first = threading.Thread(target=give_up)
    first.start()
    wait_until(lambda: sender.doors, within=5)
    second = threading.Thread(target=lambda: given.append(loading.result(10)))
    second.start()
    first.join(5)
    sender.make_room()
    second.join(5)
    assert given == [10]
    assert sender.pushed == list(range(10))


def test_two_threads_that_wait_load_each_value_once() -> None:
    sender = Sender()
    loading = load(sender, iter(range(2_000)))
    given: list[int] = []
    threads = [threading.Thread(target=lambda: given.append(loading.result(10))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert given == [2_000] * 4
    assert sender.pushed == list(range(2_000))


def test_the_timeout_is_one_for_all_of_the_waiting() -> None:
    sender = Sender(room=0)
    loading = load(sender, range(3))
    began = time.monotonic()

    def open_shut() -> None:
        for _ in range(3_000):
            for door in list(sender.doors):
                door.set(None)
            if over.wait(0.01):
                return

    over = threading.Event()
    opener = threading.Thread(target=open_shut)
    opener.start()
    with pytest.raises(TimeoutError):
        loading.result(0.1)
    over.set()
    opener.join()
    assert time.monotonic() - began < 10


def test_a_timeout_while_the_last_are_not_safe_ends_only_that_waiting() -> None:
    sender = Sender()
    sender.safe = False
    loading = load(sender, range(3))
    with pytest.raises(TimeoutError, match="pushed 3"):
        loading.result(0.01)
    sender.store()
    assert loading.result(1) == 3


def test_what_became_of_an_earlier_sheaf_is_noticed() -> None:
    sender = Sender()
    sender.safe = False

    def values() -> Iterator[int]:
        yield 0
        sender.store(OutcomeUnknown(channel="c"))
        yield 1
        sender.store()

    loading = load(sender, values())
    with pytest.raises(OutcomeUnknown):
        loading.result(5)
    with pytest.raises(OutcomeUnknown):
        loading.result(5)


def test_many_sheaves_are_not_kept_once_they_are_safe() -> None:
    sender = Sender()
    loading = load(sender, range(500))
    assert isinstance(loading, Loading)
    most = 0
    push = sender.push

    def look(to: object, value: Any, key: str | None = None) -> Receipt:
        nonlocal most
        most = max(most, len(loading.last))
        return push(to, value)

    sender.push = look  # type: ignore[method-assign]
    assert loading.result(10) == 500
    assert most <= 32


@pytest.mark.parametrize("in_loop", [False, True])
def test_an_error_of_the_iterable_is_raised_from_where_it_happened_and_ends_all(in_loop: bool) -> None:
    def values() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    loading = load(Sender(), values())

    def wait() -> int:
        async def awaited() -> int:
            return await loading

        return asyncio.run(awaited()) if in_loop else loading.result(5)

    with pytest.raises(LookupError, match="no more") as raised:
        wait()
    assert any(entry.name == "values" for entry in raised.traceback)
    assert "pushed 1 messages" in raised.value.__notes__[0]
    with pytest.raises(LookupError):
        wait()


def test_the_warning_of_what_was_never_waited_for_names_the_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "zerowait"):
        load(Sender(), [1])
    assert "here.py:7: push_all(c) was never waited for" in caplog.text


def test_a_bar_is_shown_for_async_values_too(capfd: pytest.CaptureFixture[str]) -> None:
    async def wait() -> int:
        return await load(Sender(), later(5), progress=True)

    assert asyncio.run(wait()) == 5
    assert load(Sender(), range(4), progress=True).result(5) == 4
    out, err = capfd.readouterr()
    assert out == ""
    assert "push c" in err


def test_a_missing_rich_is_told_at_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found(name: str) -> None:
        return None

    monkeypatch.setattr("importlib.util.find_spec", not_found)
    client = Client("sender")
    with pytest.raises(UsageError, match="pip install"):
        client.push_all("c", [1], progress=True)
    assert client._opened is None
