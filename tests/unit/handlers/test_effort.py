"""Whether plain handlers compute or wait, and what follows for their threads."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator
from typing import Any

import pytest

from tests.unit.handlers.fakes import Spec, delivery, hall
from zerowait.handlers import effort


def plain(fn: Any, **fields: Any) -> Spec:
    return Spec("work", fn, is_async=False, **fields)


kernel_counts = pytest.mark.skipif(effort.THREAD is None, reason="the waits of a thread are not counted by this kernel")


@kernel_counts
@pytest.mark.parametrize(("waits", "does_wait", "own_s"), [(0, False, 0.001), (3, False, 0.001), (64, True, 0.03)])
def test_a_job_of_many_waits_if_it_does_so_for_every_second_message(waits: int, does_wait: bool, own_s: float) -> None:
    waited, seconds = effort.judge((2.0, 10), (2.001, 10 + waits), 128, 0.03)
    assert waited == does_wait
    assert seconds == pytest.approx(own_s)


def test_what_is_its_own_is_never_longer_than_the_job() -> None:
    assert effort.judge((2.0, 10), (2.004, 10), 128, 0.003) == (False, 0.003)


@kernel_counts
def test_the_kernel_counts_each_wait_of_a_thread() -> None:
    before = effort.read()
    for _ in range(20):
        time.sleep(0.0001)
    waited = effort.judge(before, effort.read(), 20, 0.01)
    assert waited == (True, 0.01)


@contextlib.contextmanager
def hungry(threads: int) -> Generator[None]:
    """Threads that want the interpreter all the time: each of ours waits for it, 5 ms for each of them."""
    over = threading.Event()

    def spin() -> None:
        while not over.is_set():
            sum(range(1_000))

    spinning = [threading.Thread(target=spin) for _ in range(threads)]
    for thread in spinning:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in spinning:
            thread.join()


@kernel_counts
@pytest.mark.asyncio
async def test_a_quick_handler_keeps_one_thread_though_others_hold_the_interpreter() -> None:
    def handle(value: int) -> None: ...

    async with hall(plain(handle, concurrency=6)) as here:
        here.desk.admit(*(delivery([0] * 1_000) for _ in range(4)))
        await here.desk.until_done(within=20)
        before = len(here.desk.jobs)
        with hungry(2):
            here.desk.admit(*(delivery([0] * 1_000) for _ in range(40)))
            await here.desk.until_done(within=50)
        assert len(here.desk.jobs) - before < 2_000, "of 40,000 messages: hardly any was a job of its own"
        # Whatever it was taken for in a moment of that, it is found out again.
        crew: Any = here.stage._crews["work"]
        deadline = time.monotonic() + 20
        while not (crew._is_lone() and crew.most == 128):
            assert time.monotonic() < deadline, (crew.most, crew.average, crew._waiting_jobs)
            here.desk.admit(delivery([0] * 1_000))
            await here.desk.until_done(within=20)


@pytest.mark.asyncio
async def test_a_handler_that_takes_no_time_that_can_be_measured_goes_on_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def judge(*measured: object) -> tuple[bool, float]:
        return False, 0.0

    def handle(value: int) -> None: ...

    monkeypatch.setattr(effort, "judge", judge)
    async with hall(plain(handle)) as here:
        crew = here.stage._crews["work"]
        crew.most, crew.average = 128, 1e-315  # where an average of zeros comes in time
        here.desk.admit(*(delivery([0] * 100) for _ in range(20)))
        await here.desk.until_done()


@pytest.mark.asyncio
async def test_a_handler_that_begins_to_wait_is_given_to_all_threads() -> None:
    waiting: set[int] = set()
    all_wait = threading.Barrier(6)

    def handle(value: int) -> None:
        if value:
            time.sleep(0.002)
            waiting.add(threading.get_ident())
            if value == 2:
                all_wait.wait(10)

    async with hall(plain(handle, concurrency=6)) as here:
        here.desk.admit(*(delivery([0] * 1_000) for _ in range(4)))
        await here.desk.until_done()
        here.desk.admit(delivery([1] * 300))
        await here.desk.until_done()
        assert len(waiting) == 6
        here.desk.admit(delivery([2] * 6))  # no one of them ends before all are there
        await here.desk.until_done()
