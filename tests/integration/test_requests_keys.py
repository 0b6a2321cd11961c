"""Requests with a key: one after another, in the order of asking."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.integration.asked import SLOW_AGAIN
from tests.integration.test_requests import ledger, said
from tests.programs import Serve, services
from tests.waiting import wait_until
from zerowait import App, Client, Context, Expired, NoResponder, PeerLost, RequestChannel, Settings
from zerowait.errors import Cancelled, UsageError

BOOK = RequestChannel[int, int]("book")


@pytest.fixture
def serve(witness: Path) -> Iterator[Serve]:
    with services("tests.integration.asked") as serve:
        yield serve


class Books:
    """What apps that serve BOOK have done, in the order in which it began; `overlaps` if two of a key ran at once."""

    def __init__(self) -> None:
        self.begun: list[tuple[str | None, int]] = []
        self.running: Counter[str | None] = Counter()
        self.overlaps: list[str | None] = []
        self.together = 0
        self.lock = threading.Lock()

    def begin(self, number: int, ctx: Context) -> None:
        with self.lock:
            self.begun.append((ctx.key, number))
            self.running[ctx.key] += 1
            self.together = max(self.together, self.running.total())
            if self.running[ctx.key] > 1:
                self.overlaps.append(ctx.key)

    def end(self, ctx: Context) -> None:
        with self.lock:
            self.running[ctx.key] -= 1

    def app(self, name: str, settings: Settings, *, is_async: bool = True) -> App[Any]:
        app = App(name, settings=settings)

        async def book_async(number: int, ctx: Context) -> int:
            self.begin(number, ctx)
            try:
                await asyncio.sleep(0.6 if number == 0 else 0.002 * (number % 3))
            finally:
                self.end(ctx)
            return number

        def book(number: int, ctx: Context) -> int:
            self.begin(number, ctx)
            time.sleep(0.002 * (number % 3))
            self.end(ctx)
            return number

        app.reply(BOOK, concurrency=8)(book_async if is_async else book)
        return app


@pytest.mark.parametrize("is_async", [True, False])
def test_requests_of_one_key_run_one_after_another_in_the_order_of_asking(settings: Settings, is_async: bool) -> None:
    books = Books()
    one, other = (books.app(name, settings, is_async=is_async) for name in ("one", "other"))
    with one, other, Client("asker", settings=settings) as zw:
        zw.workers(BOOK).at_least(2).result(10)
        replies = [zw.request(BOOK, n, key=f"account {n % 5}") for n in range(1, 301)]
        unkeyed = [zw.request(BOOK, 1_000 + n) for n in range(50)]
        assert [reply.result(30) for reply in replies] == list(range(1, 301))
        assert [reply.result(30) for reply in unkeyed] == [1_000 + n for n in range(50)]
        assert ledger(zw, "book") == (350, 350, 0, 0, 0)

    assert [key for key in books.overlaps if key is not None] == []
    assert books.together > 1, "different keys run side by side"
    for key in (f"account {n}" for n in range(5)):
        mine = [number for of, number in books.begun if of == key]
        assert mine == sorted(mine)
        assert len(mine) == 60


def test_threads_keep_their_own_order_within_a_key(settings: Settings) -> None:
    books = Books()
    with books.app("one", settings), Client("asker", settings=settings) as zw:
        zw.workers(BOOK).at_least(1).result(10)

        def ask(base: int) -> None:
            for n in range(100):
                reply = zw.request(BOOK, base + n, key="the one")
                if n % 10 == 9:
                    reply.result(30)

        threads = [threading.Thread(target=ask, args=(1_000 * t,)) for t in range(1, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    assert books.overlaps == []
    for t in range(1, 4):
        assert [n for _, n in books.begun if n // 1_000 == t] == [1_000 * t + n for n in range(100)]


def test_what_runs_out_of_its_time_while_it_waits_has_not_run(settings: Settings) -> None:
    books = Books()
    with books.app("one", settings), Client("asker", settings=settings) as zw:
        zw.workers(BOOK).at_least(1).result(10)
        head = zw.request(BOOK, 0, key="a")
        wait_until(lambda: books.begun, within=5)
        late, after = zw.request(BOOK, 1, key="a", timeout=0.1), zw.request(BOOK, 2, key="a")
        with pytest.raises(Expired) as expired:
            late.result(10)
        assert (expired.value.sent, head.done()) == (False, False)
        assert [head.result(10), after.result(10)] == [0, 2]
        assert ledger(zw, "book") == (3, 2, 1, 0, 0)
    assert books.begun == [("a", 0), ("a", 2)]


def test_what_is_cancelled_while_it_waits_does_not_run_and_the_next_does(settings: Settings) -> None:
    books = Books()
    with books.app("one", settings), Client("asker", settings=settings) as zw:
        zw.workers(BOOK).at_least(1).result(10)
        head = zw.request(BOOK, 0, key="a")
        wait_until(lambda: books.begun, within=5)
        replies = [zw.request(BOOK, n, key="a") for n in range(1, 7)]
        for reply in replies[:5:2]:
            reply.cancel()
        assert [head.result(10), *(reply.result(10) for reply in replies[1::2])] == [0, 2, 4, 6]
        for reply in replies[:5:2]:
            with pytest.raises(Cancelled):
                reply.result(10)
        assert ledger(zw, "book") == (7, 4, 0, 3, 0)
    assert [number for _, number in books.begun] == [0, 2, 4, 6]


def test_what_is_cancelled_while_it_runs_frees_its_key(settings: Settings) -> None:
    books = Books()
    with books.app("one", settings), Client("asker", settings=settings) as zw:
        zw.workers(BOOK).at_least(1).result(10)
        for many in range(1, 8):  # some of them go out with it, and stand behind it there
            books.begun.clear()
            head, *others = [zw.request(BOOK, n, key="a") for n in range(many)]
            wait_until(lambda: books.begun, within=5)
            others.append(zw.request(BOOK, many, key="a"))
            head.cancel()
            assert [reply.result(0.55) for reply in others] == list(range(1, many + 1))
            assert books.begun == [("a", number) for number in range(many + 1)]
    assert books.overlaps == []


def test_what_is_cancelled_behind_one_that_runs_does_not_run_wherever_it_stands(settings: Settings) -> None:
    books = Books()
    with books.app("one", settings), Client("asker", settings=settings) as zw:
        zw.workers(BOOK).at_least(1).result(10)
        for at_once in (2, 5, 9):  # some at the worker, some here, and some not offered yet
            books.begun.clear()
            replies = [zw.request(BOOK, n, key="a") for n in range(at_once)]
            wait_until(lambda: books.begun, within=5)
            replies += [zw.request(BOOK, n, key="a") for n in range(at_once, 12)]
            for reply in replies[1::2]:
                reply.cancel()
            assert [reply.result(5) for reply in replies[::2]] == list(range(0, 12, 2))
            assert [number for _, number in books.begun] == list(range(0, 12, 2))
            _, _, failed, _, outstanding = ledger(zw, "book")
            assert (failed, outstanding) == (0, 0)


def test_all_of_a_key_that_nobody_serves_are_told_so_together(settings: Settings) -> None:
    with Client("asker", settings=settings) as zw:
        began = time.monotonic()
        first = zw.request(BOOK, 1, key="a")
        assert first.id == ""
        wait_until(lambda: first.id, within=5)
        replies = [first, *(zw.request(BOOK, n, key="a") for n in range(2, 6))]
        for reply in replies:
            with pytest.raises(NoResponder):
                reply.result(10)
        assert time.monotonic() - began < 5, "a second, and not one for each"
        assert ledger(zw, "book") == (5, 0, 5, 0, 0)


def begun_since(witness: Path, before: int) -> bool:
    return len(said(witness, "begin")) > before


@pytest.mark.long
def test_a_killed_worker_frees_the_key_or_what_may_run_twice_stays_first(serve: Serve, witness: Path) -> None:
    # Given two of a key, of which the first runs.
    for channel, lost in ((RequestChannel[float, int]("ask.slow"), True), (SLOW_AGAIN, False)):
        first = serve("answering")
        with Client("asker") as zw:
            zw.workers(channel).at_least(1).result(30)
            before = len(said(witness, "begin"))
            head = zw.request(channel, 4.0, key="a", timeout=60)
            wait_until(partial(begun_since, witness, before), within=30)
            second = zw.request(channel, 0.0, key="a", timeout=60)
            other = serve("twin")
            zw.workers(channel).at_least(2).result(30)

            # When its worker is killed.
            first.send_signal(signal.SIGKILL)
            first.wait(10)

            # Then the first is lost, or runs again before the second.
            if lost:
                with pytest.raises(PeerLost):
                    head.result(30)
                assert second.result(30) == other.pid
            else:
                assert [second.result(30), head.done(), head.result(30)] == [other.pid, True, other.pid]
        other.terminate()
        other.wait(20)


def test_what_makes_no_sense_of_a_key_is_refused(settings: Settings) -> None:
    with Client("asker", settings=settings) as zw:
        with pytest.raises(UsageError, match="hedge=True asks two workers at once"):
            zw.request(SLOW_AGAIN, 1.0, key="a", hedge=True)
        with pytest.raises(UsageError, match="text of 1 to 200 bytes"):
            zw.request(BOOK, 1, key="")
        assert zw.status().requests == []
