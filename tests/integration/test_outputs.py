"""What handlers send, in whole processes: where it lies, when it leaves, and what a full outbox means for them."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.programs import Start
from tests.waiting import wait_until
from zerowait import App, Client, Context, PushChannel, Retry, Settings
from zerowait.message import Change, Spool
from zerowait.outbox.outbox import Outbox

LIGHT = PushChannel[int]("light", durable=False)


def accepted(zw: Client, channel: str) -> dict[bool, int]:
    """So many messages of that channel are accepted: durable → count."""
    return {
        box.durable: row.accepted for box in zw.status().boxes for row in box.channels if row.channel == channel
    }  # fmt: skip


def test_what_is_sent_for_a_durable_message_lies_on_disk_though_its_channel_does_not(settings: Settings) -> None:
    app = App("stage", settings=settings)

    @app.pull("numbers")
    async def send(number: int, ctx: Context) -> None:
        ctx.push(LIGHT, number)

    with app as inside, Client("sender", settings=settings) as zw:
        zw.push("numbers", 1).handled.result(10)
        wait_until(lambda: accepted(inside, "light") == {True: 1}, within=5)
        zw.push("numbers", 2, durable=False).handled.result(10)
        wait_until(lambda: accepted(inside, "light") == {True: 1, False: 1}, within=5)


def test_what_goes_on_through_three_stages_comes_once_and_no_file_is_left(settings: Settings) -> None:
    first, second, third = (App(name, settings=settings) for name in ("first", "second", "third"))
    seen: Counter[tuple[int, str]] = Counter()

    @first.pull("one")
    async def forward(number: int, ctx: Context) -> None:
        ctx.push("two", number, headers={"from": str(number)})
        ctx.push("two", number + 1_000, delay=0.05)

    @second.pull("two", to="three", inbox="disk")
    def double(number: int) -> int | None:
        return number * 2 if number < 1_000 else number

    @third.pull("three", inbox="disk")
    async def see(number: int) -> None:
        seen[number, "three"] += 1

    with first, second, third, Client("sender", settings=settings) as zw:
        for number in range(50):
            zw.push("one", number)
        wait_until(lambda: len(seen) == 100, within=20)
    assert set(seen.values()) == {1}
    assert settings.home is not None
    boxes = list((settings.home_folder() / settings.namespace / "outbox").glob("*.db"))
    assert boxes == [], "what is all settled leaves no file"


def test_what_leaves_without_the_word_of_its_sender_is_counted(
    settings: Settings, start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a handler that runs while its sender dies, and with it the disk that has the message.
    runs, may_end, got = threading.Event(), threading.Event(), list[int]()
    app = App("stage", settings=replace(settings, undecided_after=0.5))

    @app.pull("numbers", to="results")
    def double(number: int) -> int:
        runs.set()
        assert may_end.wait(20)
        return 2 * number

    @app.pull("results")
    async def see(number: int) -> None:
        got.append(number)

    (tmp_path / "sender.py").write_text(
        "import time\nfrom zerowait import Client\n"
        "with Client('sender') as zw:\n    zw.push('numbers', 21)\n    time.sleep(60)\n"
    )
    with app as zw:
        sender = start(sys.executable, "sender.py")
        assert runs.wait(20)
        assert zw.status().released_undecided == 0
        for file in (settings.home_folder() / settings.namespace / "outbox").glob("sender.*"):
            file.unlink()
        sender.signal(signal.SIGKILL)
        sender.ended()

        # When it ends.
        may_end.set()

        # Then what it sent leaves after that time, and that is counted and said.
        wait_until(lambda: got == [42], within=20)
        assert zw.status().released_undecided == 1
    assert "what was sent for 1 of its messages leaves now" in caplog.text


def test_a_failing_run_sends_nothing_and_the_one_that_succeeds_sends_it_once(settings: Settings) -> None:
    app, seen, tried = App("stage", settings=settings), list[int](), Counter[int]()

    @app.pull("numbers", retry=Retry(delay=0.01))
    async def send(number: int, ctx: Context) -> None:
        tried[number] += 1
        ctx.push("out", number)
        if tried[number] < 3:
            raise ValueError("not yet")

    @app.pull("out")
    async def see(number: int) -> None:
        seen.append(number)

    with app as zw:
        zw.push("numbers", 7).handled.result(10)
        wait_until(lambda: seen == [7], within=5)
    assert (tried[7], seen) == (3, [7])


def test_of_quick_runs_with_mixed_ends_just_what_succeeded_goes_on_once_and_in_order(settings: Settings) -> None:
    app, seen = App("stage", settings=settings), list[str]()
    words = PushChannel[str]("words", durable=True)

    @app.pull("numbers", to=words, concurrency=1, retry=Retry(attempts=1))
    async def send(number: int) -> str | None:
        match number % 100:
            case 13:
                raise ValueError("not this one")
            case 15:
                return None
            case 17:
                return number  # type: ignore[return-value]  # is no text: it fails
            case 19:
                return f"{number} " + "x" * 300_000  # fits into no body with others
            case _:
                return str(number)

    @app.pull(words, concurrency=1)
    async def see(word: str) -> None:
        seen.append(word.split()[0])

    numbers = range(1_000)
    expected = [str(number) for number in numbers if number % 100 not in (13, 15, 17)]
    with app as zw:
        for number in numbers:
            zw.push("numbers", number)
        wait_until(lambda: len(seen) >= len(expected), within=20)
        [row] = [row for box in zw.status().boxes for row in box.channels if row.channel == "numbers"]
        wait_until(lambda: zw.status().boxes[0].unsettled == 0, within=5)
    assert (seen, row.dead) == (expected, 20)


def test_a_full_outbox_lets_nothing_more_in_and_loses_nothing(settings: Settings) -> None:
    small = replace(settings, outbox_messages=20)
    app, begun = App("stage", settings=small), list[int]()

    @app.pull("numbers", concurrency=2)
    async def send(number: int, ctx: Context) -> None:
        begun.append(number)
        await asyncio.sleep(0.005)
        ctx.push("nobody", number)

    with Client("sender", settings=settings) as zw:
        with app as inside:
            for number in range(200):
                zw.push("numbers", number)
            wait_until(lambda: sum(accepted(inside, "nobody").values()) >= 20, within=15)
            gate = threading.Event()
            gate.wait(0.5)  # long enough for all of them, were they let in
            # What was on its way when it became full, and what is kept for outputs.
            assert len(begun) < 100, "it goes on taking work"
            held = len(begun)
        seen: set[int] = set()
        rest = App("stage", settings=settings)

        @rest.pull("numbers")
        async def again(number: int, ctx: Context) -> None:
            ctx.push("nobody", number)

        @rest.pull("nobody")
        async def see(number: int) -> None:
            assert number not in seen, "it has come twice"
            seen.add(number)

        with rest:
            wait_until(lambda: len(seen) == 200, within=20)
        assert held < 200


def test_a_crawler_whose_outbox_is_full_goes_on(settings: Settings) -> None:
    """It pushes to its own channel: only its own work makes room."""
    small = replace(settings, outbox_messages=30)
    app, seen = App("crawler", settings=small), set[int]()

    @app.pull("pages", concurrency=4)
    async def crawl(page: int, ctx: Context) -> None:
        assert page not in seen
        seen.add(page)
        for link in (page * 3 + 1, page * 3 + 2, page * 3 + 3):
            if link < 400:
                ctx.push("pages", link)

    with app as zw:
        zw.push("pages", 0)
        wait_until(lambda: len(seen) == 400, within=30)


@pytest.mark.parametrize("is_async", [True, False])
def test_a_generator_that_gives_more_than_memory_should_hold_is_written_down_as_it_goes(
    settings: Settings, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zerowait.handlers.visits.SPOOL_BYTES", 20_000)
    spooled: list[int] = []
    real = Outbox.turn

    def turn(self: Outbox, changes: Sequence[Change] = (), *args: object) -> object:
        changes = list(changes)
        spooled.extend(change.number for change in changes if isinstance(change, Spool))
        return real(self, changes, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Outbox, "turn", turn)
    app, seen, tried = App("stage", settings=settings), Counter[int](), Counter[int]()

    def some(number: int) -> Iterator[int]:
        tried[number] += 1
        for n in range(2_000):
            if n == 1_500 and tried[number] == 1:
                raise ValueError("the first time it fails, with much of it on disk")
            yield n

    async def some_in_loop(number: int) -> AsyncIterator[int]:
        for n in some(number):
            yield n

    app.pull("numbers", to="out", retry=Retry(delay=0.01))(some_in_loop if is_async else some)

    @app.pull("out")
    async def see(number: int) -> None:
        seen[number] += 1

    with app as zw:
        zw.push("numbers", 1).handled.result(20)
        wait_until(lambda: len(seen) == 2_000, within=20)
        wait_until(lambda: accepted(zw, "out") == {True: 2_000}, within=5)
    assert set(seen.values()) == {1}
    assert len(spooled) >= 10
    assert list((settings.home_folder() / settings.namespace / "outbox").glob("*.db")) == []


def test_a_generator_that_is_cancelled_while_the_disk_takes_what_it_gave_harms_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a disk that takes what a run has sent so far only once that run was cancelled for its timeout
    monkeypatch.setattr("zerowait.handlers.visits.SPOOL_BYTES", 20_000)
    cancelled, failed, real = threading.Event(), list[str](), Outbox.turn

    def turn(self: Outbox, changes: Sequence[Change] = (), *args: object) -> object:
        changes = list(changes)
        if any(isinstance(change, Spool) for change in changes):
            assert cancelled.wait(10)
        try:
            return real(self, changes, *args)  # type: ignore[arg-type]
        except Exception as error:
            failed.append(repr(error))
            raise

    monkeypatch.setattr(Outbox, "turn", turn)
    app, seen = App("stage", settings=settings), Counter[int]()

    @app.middleware
    async def watch(ctx: Context, call: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await call()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    @app.pull("numbers", to="out", timeout=1.0, retry=Retry(delay=0.01))
    async def some(number: int) -> AsyncIterator[int]:
        for n in range(1_000):
            yield n

    @app.pull("out")
    async def see(number: int) -> None:
        seen[number] += 1

    # When it is tried again
    with app as zw:
        zw.push("numbers", 1).handled.result(20)
        wait_until(lambda: len(seen) == 1_000, within=20)
    # Then the outbox knows of nothing that went wrong, and all was sent once
    assert failed == []
    assert set(seen.values()) == {1}
