"""At the end of a block: what its handlers have sent is handled first, however it moves between two looks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

from zerowait import App
from zerowait.serving import Serving


class Way:
    """One message's way through an app that serves two channels. It takes a step each time that somebody looks."""

    def __init__(self, *places: str) -> None:
        self._left = list(places)
        self.place = self._left.pop(0)
        self.accepted = 1
        inventory = SimpleNamespace(
            is_stored=lambda: self._seen(True),
            is_choosing=lambda: self._seen(self.place == "prepared"),
            accepted=lambda: self._seen(self.accepted),
        )
        self.estate = SimpleNamespace(inventory=inventory, turned=self._turned)
        self.node = SimpleNamespace(call=self._call)

    def step(self) -> None:
        if self._left:
            before, self.place = self.place, self._left.pop(0)
            self.accepted += before == "prepared"

    def is_in_flight(self) -> bool:
        return bool(self._seen(self.place == "in flight"))

    def _seen(self, seen: object) -> Any:
        self.step()
        return seen

    def _turned(self) -> Future[None]:
        if self.place == "stored":  # it is offered
            self.place = self._left.pop(0)
        return _done(None)

    def _call(self, fn: Callable[[], object]) -> Future[Any]:
        return _done(fn())


def _done(value: object) -> Future[Any]:
    done: Future[Any] = Future()
    done.set_result(value)
    return done


def finished(way: Way, drain: float = 5.0) -> str:
    serving: Any = Serving(App("stage"))
    serving.drain = drain
    serving._opened = way
    serving._has_finished_own = lambda: not way.is_in_flight()
    asyncio.run(serving.finish_own())
    return way.place


def test_a_block_does_not_end_while_an_output_passes_from_place_to_place_between_the_looks() -> None:
    # given: a message whose handler sends one, and looks that meet each of them wherever it happens to be
    for first in range(1, 6):
        for prepared in range(1, 6):
            for stored in range(1, 3):
                way = Way(
                    *["in flight"] * first, *["prepared"] * prepared, *["stored"] * stored, "in flight", "in flight",
                    "handled",
                )  # fmt: skip
                # when the block ends, then: all of it was handled
                assert finished(way) == "handled", (first, prepared, stored)


def test_a_block_in_which_nothing_waits_ends_at_once() -> None:
    way = Way("handled")
    assert finished(way) == "handled"


def test_a_block_whose_disk_hangs_ends_when_drain_is_over() -> None:
    way = Way("stored")
    way.estate.turned = Future
    began = time.monotonic()
    assert finished(way, drain=0.05) == "stored"
    assert time.monotonic() - began < 5
