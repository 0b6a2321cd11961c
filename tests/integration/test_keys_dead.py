"""A dead letter with a key that is given back: it obeys the order of its key."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.waiting import wait_until
from zerowait import App, Client, Context, Dead, Reject, Settings
from zerowait.cli.reach import Reach
from zerowait.snapshot import LetterFilter, Question


class Books:
    """An app that handles numbers of keys: rejects the odd ones of `rejects` at their first run, and holds those of
    `holds` until they may end."""

    def __init__(self, settings: Settings) -> None:
        self.begun: list[tuple[str | None, int]] = []
        self.overlaps: list[str | None] = []
        self.rejects: set[int] = set()
        self.holds: dict[int, threading.Event] = {}
        self.app = App[Any]("books", settings=settings)
        running: set[str | None] = set()

        @self.app.pull("entry", concurrency=4)
        def work(number: int, ctx: Context) -> None:
            if ctx.key in running:
                self.overlaps.append(ctx.key)
            running.add(ctx.key)
            self.begun.append((ctx.key, number))
            try:
                if (hold := self.holds.get(number)) is not None:
                    assert hold.wait(20)
                if number in self.rejects:
                    self.rejects.remove(number)
                    raise Reject("not now")
            finally:
                running.discard(ctx.key)


def retry(settings: Settings) -> list[str]:
    """`zerowait dead retry --all`."""
    reach = Reach(settings)
    ids = [letter.id for letter in reach.letters(LetterFilter(), None).letters]
    replies = reach.ask_all(Question("dead.retry", {"ids": ids}))
    return [id for reply in replies for id in reply.value(list[str]) or []]


Pushed = Callable[[int, str], Any]


@pytest.mark.parametrize("durable", [True, False])
def test_a_letter_that_is_given_back_waits_for_what_runs_and_goes_before_what_waits(
    settings: Settings, durable: bool
) -> None:
    # Given letters, one of their key that runs, and some that wait: at the worker, in memory, on disk.
    books = Books(settings)
    books.rejects = {1, 2}
    books.holds = {3: threading.Event(), 1_001: threading.Event()}
    with books.app, Client("sender", settings=settings) as zw:
        zw.workers("entry").at_least(1).result(10)
        dead = [zw.push("entry", number, key="a", durable=durable) for number in (1, 2)]
        for receipt in dead:
            with pytest.raises(Dead):
                receipt.handled.result(10)
        receipts = [zw.push("entry", number, key="a", durable=durable) for number in range(3, 8)]
        other = zw.push("entry", 1_001, key="b", durable=durable)
        wait_until(lambda: ("a", 3) in books.begun and ("b", 1_001) in books.begun, within=10)
        receipts += [zw.push("entry", number, key="a", durable=durable) for number in range(8, 12)]
        receipts[-1].result(10)

        # When it is given back.
        assert len(retry(settings)) == 2
        unrelated = zw.push("entry", 2_000, key="c", durable=durable)
        unrelated.handled.result(10)
        assert books.begun[-1] == ("c", 2_000), "and not 1: 3 still runs"
        for hold in books.holds.values():
            hold.set()

        # Then it comes after what was at the worker, before what waited, in the order of pushing.
        for receipt in [*dead, *receipts, other]:
            receipt.handled.result(20)
    order = [number for key, number in books.begun if key == "a"]
    again = order.index(1, 1)
    assert 3 <= again <= 7, "behind 3 at most what was pushed before all of that was sent"
    assert order == [1, 2, *range(3, again + 1), 1, 2, *range(again + 1, 12)]
    assert books.overlaps == []


@pytest.mark.parametrize("durable", [True, False])
def test_a_letter_of_a_key_of_which_nothing_waits_runs_at_once(settings: Settings, durable: bool) -> None:
    books = Books(settings)
    books.rejects = {1, 3}
    with books.app, Client("sender", settings=settings) as zw:
        receipts = [zw.push("entry", number, key="a", durable=durable) for number in range(1, 5)]
        wait_until(lambda: len(books.begun) == 4, within=10)
        wait_until(lambda: sum(row.dead for box in zw.status().boxes for row in box.channels) == 2, within=10)
        assert len(retry(settings)) == 2
        for receipt in receipts:
            receipt.handled.result(10)
    assert [number for _, number in books.begun] == [1, 2, 3, 4, 1, 3]
    assert books.overlaps == []
