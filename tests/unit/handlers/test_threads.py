"""Plain handlers in threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import Any

import pytest

from tests.unit.handlers.fakes import Json, Spec, delivery, hall
from tests.waiting import wait_until_in_loop
from zerowait.errors import Reject
from zerowait.message import Verdict

HANDLED, RETRY, DEAD = Verdict.HANDLED, Verdict.RETRY, Verdict.DEAD

pytestmark = pytest.mark.asyncio


def plain(fn: Any, **fields: Any) -> Spec:
    return Spec("work", fn, is_async=False, **fields)


async def test_every_message_is_handled_once_off_the_loop() -> None:
    threads: set[int] = set()

    def handle(value: int) -> None:
        threads.add(threading.get_ident())

    async with hall(plain(handle)) as here:
        works = [delivery(range(1_024)) for _ in range(10)]
        here.desk.admit(*works)
        await here.desk.until_done()
        assert all(here.desk.fates(work) == [HANDLED] * 1_024 for work in works)
        assert threading.get_ident() not in threads


async def test_ten_idle_threads_get_one_each_of_ten_messages() -> None:
    barrier = threading.Barrier(11)

    def handle(value: int) -> None:
        barrier.wait(5)

    async with hall(plain(handle, concurrency=10)) as here:
        await wait_until_in_loop(lambda: here.stage._crews["work"].is_idle(), within=5)
        here.desk.admit(work := delivery(range(10)))
        await asyncio.to_thread(barrier.wait, 5)  # passed only if all ten are in their handlers at once
        await here.desk.until_done()
        assert here.desk.fates(work) == [HANDLED] * 10


async def test_failures_bad_values_and_decisions_end_as_with_async_handlers() -> None:
    def handle(value: int) -> None:
        if value == 1:
            raise ValueError("one")
        if value == 2:
            raise Reject("two")
        if value == 3:
            raise SystemExit
        if value == 4:
            raise StopIteration

    async with hall(plain(handle, codec=Json(int))) as here:
        here.desk.admit(warm := delivery([0] * 500), work := delivery([0, 1, 2, "x", 3, 4, 0]))
        await here.desk.until_done()
        assert here.desk.fates(warm) == [HANDLED] * 500
        assert here.desk.fates(work) == [HANDLED, RETRY, DEAD, DEAD, RETRY, RETRY, HANDLED]


async def test_the_rest_of_a_job_does_not_wait_for_a_slow_message() -> None:
    gate = threading.Event()

    def handle(value: int | None) -> None:
        if value == 5:
            gate.wait(10)

    async with hall(plain(handle, concurrency=4)) as here:
        here.desk.admit(*(delivery([None] * 1_024) for _ in range(8)))
        await here.desk.until_done()
        here.desk.admit(work := delivery(range(64)))
        await wait_until_in_loop(lambda: here.desk.fates(work).count(HANDLED) == 63, within=5)
        gate.set()
        await here.desk.until_done()


async def test_what_comes_while_the_only_busy_thread_is_stuck_is_taken_by_another() -> None:
    gate, begun = threading.Event(), threading.Event()

    def handle(value: int | None) -> None:
        if value == 5:
            begun.set()
            gate.wait(10)

    async with hall(plain(handle, concurrency=2)) as here:
        here.desk.admit(*(delivery([None] * 1_024) for _ in range(8)))
        await here.desk.until_done()
        here.desk.admit(delivery([5]))
        await asyncio.to_thread(begun.wait, 5)
        here.desk.admit(other := delivery([1]))  # at once: the other's job looks as if it were about to end
        await here.desk.until_done(other, within=5)
        gate.set()
        await here.desk.until_done()


async def test_an_awaitable_that_a_plain_function_returns_is_awaited() -> None:
    seen: list[Any] = []

    async def work(value: int) -> None:
        await asyncio.sleep(0)
        if value == 1:
            raise ValueError("one")
        if value == 2:
            raise SystemExit
        seen.append((value, threading.get_ident()))

    def begin(value: int) -> Awaitable[None]:
        return work(value)

    async with hall(plain(begin)) as here:
        here.desk.admit(given := delivery(range(4)))
        await here.desk.until_done()
        assert here.desk.fates(given) == [HANDLED, RETRY, RETRY, HANDLED]
        assert sorted(seen) == [(0, threading.get_ident()), (3, threading.get_ident())]


async def test_middleware_wraps_a_plain_handler_too() -> None:
    label: ContextVar[str] = ContextVar("label", default="")
    seen: list[Any] = []

    async def outer(ctx: Any, call: Any) -> Any:
        label.set(f"attempt {ctx.attempt}")
        return await call()

    async def twice(ctx: Any, call: Any) -> Any:
        try:
            return await call()
        except ValueError:
            return await call()

    def handle(value: int) -> None:
        seen.append((value, label.get(), threading.get_ident()))
        if value == 1 and len(seen) < 3:
            raise ValueError
        if value == 2:
            raise SystemExit

    async with hall(plain(handle, concurrency=1), middleware=[outer, twice]) as here:
        here.desk.admit(work := delivery([0, 1, 2]))
        await here.desk.until_done()
        assert here.desk.fates(work) == [HANDLED, HANDLED, RETRY]
        assert [(value, text) for value, text, _ in seen] == [(n, "attempt 1") for n in (0, 1, 1, 2)]
        assert threading.get_ident() not in {thread for *_, thread in seen}


async def test_middleware_that_does_not_call_has_handled_the_message_itself() -> None:
    async def skip(ctx: Any, call: Any) -> None: ...

    def handle(value: int) -> None:
        raise AssertionError("ran")

    async with hall(plain(handle), middleware=[skip]) as here:
        here.desk.admit(work := delivery([0]))
        await here.desk.until_done()
        assert here.desk.fates(work) == [HANDLED]


async def test_draining_waits_for_threads_and_leaves_the_slow_ones_behind_by_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gates = {1: threading.Event(), 2: threading.Event()}

    def handle(value: int) -> None:
        gates[value].wait(10)

    async with hall(plain(handle, concurrency=2)) as here:
        here.desk.admit(quick := delivery([1]), slow := delivery([2]))
        await wait_until_in_loop(lambda: len(here.stage.current()) == 2, within=5)
        draining = asyncio.create_task(here.stage.drain(0.5))
        await asyncio.sleep(0)
        gates[1].set()
        await draining
        assert here.desk.fates(quick) == [HANDLED]
        await here.stage.close()
        gates[2].set()  # ends after all: too late to be told
        assert here.desk.fates(slow) == [None]
        assert len([line for line in caplog.messages if "Still being handled" in line]) == 1


async def test_a_thread_that_awaits_something_is_released_when_the_drain_is_over() -> None:
    async def for_ever() -> None:
        await asyncio.sleep(60)

    def begin(value: int) -> Awaitable[None]:
        return for_ever()

    async with hall(plain(begin)) as here:
        here.desk.admit(work := delivery([1]))
        await wait_until_in_loop(here.stage.current, within=5)
        began = time.monotonic()
        await here.stage.drain(0.05)
        await here.stage.close()
        assert time.monotonic() - began < 5
        assert here.desk.fates(work) == [None]


async def test_what_a_message_sends_is_reported_with_it_whenever_its_run_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def handle(value: int, ctx: Any) -> None:
        ctx.push("next", value, {})

    async with hall(plain(handle, concurrency=1, wants_ctx=True)) as here:
        crew = here.stage._crews["work"]
        keep = crew.keep

        def keep_and_be_looked_at(run: Any, sent: Any) -> None:
            keep(run, sent)
            if run.position % 3 == 2:  # and some before it have ended, too
                crew._relieve(run, time.monotonic())  # as the loop's thread does, at any moment

        here.desk.admit(first := delivery(range(400)))  # from which on jobs are of many
        await here.desk.until_done()
        monkeypatch.setattr(crew, "keep", keep_and_be_looked_at)
        here.desk.admit(work := delivery(range(400)))
        await here.desk.until_done()
        assert here.desk.fates(first) == here.desk.fates(work) == [HANDLED] * 400
        assert sorted(number for number, _ in here.outputs.tagged) == sorted([*range(1, 401)] * 2)
        without = [(start, stop) for _, start, stop, outcome in here.desk.finished if outcome is None]
        assert without == [], "each has sent something, which goes with its own outcome"


async def test_what_fails_after_its_handler_has_returned_sends_nothing() -> None:
    async def late() -> None:
        raise ValueError("found out late")

    async def wrapped() -> Any:
        return late()

    def handle(value: int, ctx: Any) -> Any:
        ctx.push("next", value, {})
        return wrapped() if value == 1 else None

    async with hall(plain(handle, concurrency=1, wants_ctx=True)) as here:
        here.desk.admit(work := delivery(range(3)))
        await here.desk.until_done()
        assert here.desk.fates(work) == [HANDLED, RETRY, HANDLED]
        assert [number for number, _ in here.outputs.tagged] == [1, 3]
