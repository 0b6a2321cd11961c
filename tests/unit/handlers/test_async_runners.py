"""Async runners: who gets what, in which order, and that each message is reported once."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

from tests.unit.handlers.fakes import FakeDesk, Json, Spec, delivery, hall
from tests.waiting import wait_until_in_loop
from zerowait.errors import Reject, RetryLater
from zerowait.message import Outcome, Verdict
from zerowait.retry import Retry

HANDLED, RETRY, DEAD, EXPIRED = Verdict.HANDLED, Verdict.RETRY, Verdict.DEAD, Verdict.EXPIRED

pytestmark = pytest.mark.asyncio


async def test_every_message_reaches_the_handler_in_order_and_is_reported_once() -> None:
    seen: list[int] = []

    async def handle(value: int) -> None:
        seen.append(value)

    async with hall(Spec("work", handle, concurrency=1)) as here:
        here.desk.admit(work := delivery(range(1_000)))
        await here.desk.until_done()
        assert seen == list(range(1_000))
        assert here.desk.fates(work) == [HANDLED] * 1_000


async def test_quick_messages_come_many_to_a_job_and_are_reported_together() -> None:
    async def handle(value: int) -> None: ...

    async with hall(Spec("work", handle)) as here:
        here.desk.admit(*(delivery(range(1_024)) for _ in range(8)))
        await here.desk.until_done()
        assert max(job.stop - job.start for job in here.desk.jobs) == 128
        assert len(here.desk.finished) < 1_000


async def test_what_was_admitted_before_the_stage_opened_is_handled() -> None:
    async def handle(value: int) -> None: ...

    async with hall(Spec("work", handle), admitted=[delivery(range(5))]) as here:
        await here.desk.until_done()


async def test_ten_idle_runners_get_one_each_of_ten_messages() -> None:
    gate = asyncio.Event()
    started: list[int] = []

    async def handle(value: int) -> None:
        started.append(value)
        await gate.wait()

    async with hall(Spec("work", handle, concurrency=10)) as here:
        await asyncio.sleep(0)
        here.desk.admit(delivery(range(10)))
        await wait_until_in_loop(lambda: len(started) == 10, within=5)
        assert sorted(running.index for running in here.stage.current()) == list(range(10))
        gate.set()
        await here.desk.until_done()
        assert here.stage.current() == []


async def test_a_burst_wakes_the_loop_once_and_nobody_who_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = asyncio.Event()

    async def handle(value: int) -> None:
        await gate.wait()

    async with hall(Spec("work", handle, concurrency=2)) as here:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)
        woken = 0
        wake = loop.call_soon_threadsafe

        def count(*args: Any, **options: Any) -> Any:
            nonlocal woken
            woken += 1
            return wake(*args, **options)

        monkeypatch.setattr(loop, "call_soon_threadsafe", count)
        for _ in range(5):
            here.desk.admit(delivery([0]))
        assert woken == 1
        await wait_until_in_loop(lambda: len(here.stage.current()) == 2, within=5)
        here.desk.admit(delivery([0]))
        assert woken == 1
        monkeypatch.undo()
        gate.set()
        await here.desk.until_done()


async def test_a_lone_message_starts_within_one_turn_of_the_loop() -> None:
    started: list[int] = []

    async def handle(value: int) -> None:
        started.append(value)

    async with hall(Spec("work", handle)) as here:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        here.desk.admit(delivery([7]))
        await asyncio.sleep(0)  # the bell was rung before this, and rings in the same turn
        assert started == [7]


async def test_handlers_that_never_wait_leave_the_loop_its_turns() -> None:
    async def handle(value: int) -> None: ...

    async with hall(Spec("work", handle), Spec("other", handle)) as here:
        here.desk.admit(*(delivery(range(1_024)) for _ in range(100)))
        turns = 0
        while here.desk.waiting():
            await asyncio.sleep(0)
            turns += 1
        assert turns > 5
        await here.desk.until_done()


async def test_a_failure_in_the_middle_leaves_those_around_it_handled() -> None:
    async def handle(value: int) -> None:
        if value % 10 == 3:
            raise ValueError(value)

    async with hall(Spec("work", handle)) as here:
        here.desk.admit(warm := delivery([0] * 300), work := delivery(range(200)))
        await here.desk.until_done()
        assert here.desk.fates(warm) == [HANDLED] * 300
        assert here.desk.fates(work) == [RETRY if n % 10 == 3 else HANDLED for n in range(200)]


async def test_a_policy_bounds_the_attempts() -> None:
    async def handle(value: int) -> None:
        raise ValueError("no")

    async with hall(Spec("work", handle, retry=Retry(attempts=3, delay=8.0))) as here:
        here.desk.admit(work := delivery([0, 0, 0], failures={2: 1, 3: 2}))
        await here.desk.until_done()
        assert here.desk.fates(work) == [RETRY, RETRY, DEAD]
        assert here.desk.outcome(work, 0).after <= 8.0
        assert here.desk.note(work, 2)["attempts"] == 3


async def test_a_handler_may_decide_by_itself() -> None:
    async def handle(value: str) -> None:
        raise Reject("never") if value == "reject" else RetryLater(after=60, reason="closed today")

    async with hall(Spec("work", handle)) as here:
        here.desk.admit(work := delivery(["reject", "later"]))
        await here.desk.until_done()
        assert here.desk.fates(work) == [DEAD, RETRY]
        assert here.desk.outcome(work, 1).after == 60
        assert here.desk.note(work, 1)["reason"] == "closed today"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
async def test_whatever_a_handler_raises_is_its_messages_failure_and_no_runners_end(error: BaseException) -> None:
    async def handle(value: int) -> None:
        if value == 0:
            raise error

    async with hall(Spec("work", handle, concurrency=1)) as here:
        here.desk.admit(work := delivery([0, 1, 0, 2]))
        await here.desk.until_done()
        assert here.desk.fates(work) == [RETRY, HANDLED, RETRY, HANDLED]


async def test_a_handler_that_cancels_its_own_task_fails_and_its_runner_is_replaced() -> None:
    async def handle(value: int) -> None:
        if value == 0:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(1)

    async with hall(Spec("work", handle, concurrency=1)) as here:
        here.desk.admit(work := delivery([0, 1, 0, 2]))
        await here.desk.until_done()
        assert here.desk.fates(work) == [RETRY, HANDLED, RETRY, HANDLED]


async def test_a_message_that_does_not_fit_the_type_dies_alone_with_its_path() -> None:
    seen: list[dict[str, int]] = []

    async def handle(value: dict[str, int]) -> None:
        seen.append(value)

    async with hall(Spec("work", handle, codec=Json(dict[str, int]))) as here:
        here.desk.admit(work := delivery([{"a": 1}, {"a": "x"}, {"a": 2}, bytearray(b"\xc1")]))
        await here.desk.until_done()
        assert here.desk.fates(work) == [HANDLED, DEAD, HANDLED, DEAD]
        assert seen == [{"a": 1}, {"a": 2}]
        note = here.desk.note(work, 1)
        assert note["rule"] == "decode"
        assert "(at $[...])" in note["reason"]
        assert note["traceback"] == ""


async def test_a_stage_that_returned_its_list_is_told_so() -> None:
    async def handle(value: str) -> None: ...

    async with hall(Spec("work", handle, codec=Json(str))) as here:
        here.desk.admit(work := delivery([["a", "b"]]))
        await here.desk.until_done()
        assert "should the stage before yield" in here.desk.note(work)["reason"]


async def test_what_expired_before_its_turn_is_not_run() -> None:
    async def handle(value: int) -> None:
        raise AssertionError("ran")

    async with hall(Spec("work", handle)) as here:
        here.desk.admit(work := delivery([1, 2], expires=time.monotonic() - 1))
        await here.desk.until_done()
        assert here.desk.fates(work) == [EXPIRED, EXPIRED]


async def test_a_value_that_goes_nowhere_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(value: int) -> int:
        return value

    async with hall(Spec("work", handle)) as here:
        here.desk.admit(work := delivery(range(50)))
        await here.desk.until_done()
        assert here.desk.fates(work) == [HANDLED] * 50
        assert len([line for line in caplog.messages if "goes nowhere" in line]) == 1


async def test_a_storm_of_failures_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(value: int) -> None:
        raise ValueError(value)

    with caplog.at_level(logging.WARNING, "zerowait"):
        async with hall(Spec("work", handle)) as here:
            here.desk.admit(delivery(range(100)))
            await here.desk.until_done()
    assert len([line for line in caplog.messages if "failed on message" in line]) <= 2
    assert "99 more failures of work" in caplog.text


async def test_a_death_among_many_failures_has_its_line(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(value: int) -> None:
        raise (Reject("unlucky") if value == 13 else ValueError(value))

    with caplog.at_level(logging.WARNING, "zerowait"):
        async with hall(Spec("work", handle)) as here:
            here.desk.admit(delivery(range(100)))
            await here.desk.until_done()
            assert [line for line in caplog.messages if "unlucky; it is a dead letter now" in line]


async def test_what_of_many_deaths_had_no_line_is_summed_up_in_time_though_nothing_fails_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handle(value: int) -> None:
        raise Reject(f"no {value}")

    monkeypatch.setattr("zerowait.handlers.failing.SUM_S", 0.2)
    with caplog.at_level(logging.WARNING, "zerowait"):
        async with hall(Spec("work", handle, concurrency=1)) as here:
            here.desk.admit(delivery(range(100)))
            await here.desk.until_done()
            await wait_until_in_loop(lambda: "more of work became dead letters" in caplog.text, within=5)
    alone = len([line for line in caplog.messages if "it is a dead letter now" in line])
    summed = [int(line.partition(": ")[2].split()[0]) for line in caplog.messages if "became dead letters" in line]
    assert alone + sum(summed) == 100
    assert "The last was" in caplog.text


# A message that lasts


async def warmed(desk: FakeDesk) -> None:
    """Until the runners know that handlers are quick."""
    desk.admit(*(delivery([None] * 1_024) for _ in range(4)))
    await desk.until_done()
    assert desk.jobs[-1].stop - desk.jobs[-1].start > 64


async def test_the_rest_of_a_job_does_not_wait_for_a_slow_message() -> None:
    gate = asyncio.Event()

    async def handle(value: int | None) -> None:
        if value == 5:
            await gate.wait()

    async with hall(Spec("work", handle, concurrency=4)) as here:
        await warmed(here.desk)
        here.desk.admit(work := delivery(range(64)))
        await wait_until_in_loop(lambda: here.desk.fates(work).count(HANDLED) == 63, within=5)
        assert here.desk.fates(work)[5] is None
        (running,) = here.stage.current()
        assert running.index == 5
        assert running.delivery is work
        gate.set()
        await here.desk.until_done()


async def test_a_rest_that_nobody_is_idle_for_goes_before_new_jobs() -> None:
    gates = {5: asyncio.Event(), 500: asyncio.Event()}
    seen: list[int] = []

    async def handle(value: int | None) -> None:
        if value is not None:
            seen.append(value)
            if value in gates:
                await gates[value].wait()

    async with hall(Spec("work", handle, concurrency=2)) as here:
        await warmed(here.desk)
        here.desk.admit(delivery([500]))
        await wait_until_in_loop(lambda: seen == [500], within=5)
        here.desk.admit(delivery(range(20)), delivery(range(100, 120)))
        # given: one runner on 500, the other on 5, and what follows 5 taken from it
        await wait_until_in_loop(lambda: 5 in seen and here.stage._crews["work"]._rests, within=5)
        gates[500].set()
        await wait_until_in_loop(lambda: 119 in seen, within=5)
        assert seen == [500, *range(20), *range(100, 120)]
        gates[5].set()
        await here.desk.until_done()


async def test_an_overdue_handler_is_cancelled_and_has_failed() -> None:
    async def handle(value: int) -> None:
        if value == 1:
            await asyncio.sleep(60)

    async with hall(Spec("work", handle, concurrency=1, timeout=0.1)) as here:
        here.desk.admit(work := delivery([0, 1, 2]))
        began = time.monotonic()
        await here.desk.until_done()
        assert 0.1 <= time.monotonic() - began < 2
        assert here.desk.fates(work) == [HANDLED, RETRY, HANDLED]
        note = here.desk.note(work, 1)
        assert note["reason"] == "timed out after 0.1 s"
        assert note["type"] == "TimeoutError"
        assert "asyncio.sleep(60)" in note["traceback"]
        assert "zerowait/handlers" not in note["traceback"]


async def test_after_a_timeout_the_next_message_may_use_timeouts_of_its_own() -> None:
    async def handle(value: int) -> None:
        if value == 0:
            await asyncio.sleep(60)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.sleep(60)

    async with hall(Spec("work", handle, concurrency=1, timeout=0.1)) as here:
        here.desk.admit(work := delivery([0, 1]))
        await here.desk.until_done()
        assert here.desk.fates(work) == [RETRY, HANDLED]


async def test_a_handler_that_swallows_its_cancellation_has_failed_and_is_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handle(value: int) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

    async with hall(Spec("work", handle, timeout=0.05)) as here:
        here.desk.admit(work := delivery([0, 1, 2]))
        await here.desk.until_done()
        assert here.desk.fates(work) == [RETRY] * 3
        assert len([line for line in caplog.messages if "catches CancelledError" in line]) == 1


async def test_an_error_raised_out_of_the_cancellation_is_still_a_timeout() -> None:
    async def handle(value: int) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise RuntimeError("while cleaning up") from None

    async with hall(Spec("work", handle, timeout=0.05, retry=Retry(unless=TimeoutError))) as here:
        here.desk.admit(work := delivery([0]))
        await here.desk.until_done()
        assert here.desk.fates(work) == [DEAD]
        assert here.desk.note(work)["rule"] == "unless"
        assert "while cleaning up" in here.desk.note(work)["traceback"]


# Leaving


async def test_draining_lets_what_runs_end_and_hands_the_rest_back() -> None:
    gate = asyncio.Event()

    async def handle(value: int | None) -> None:
        if value == 5:
            await gate.wait()

    async with hall(Spec("work", handle, concurrency=1)) as here:
        await warmed(here.desk)
        here.desk.admit(work := delivery(range(64)), other := delivery(range(3)))
        await wait_until_in_loop(lambda: [r.index for r in here.stage.current()] == [5], within=5)
        draining = asyncio.create_task(here.stage.drain(5.0))
        await asyncio.sleep(0)
        assert here.desk.fates(work)[:7] == [HANDLED] * 5 + [None, Verdict.UNSTARTED]
        gate.set()
        await draining
        assert here.desk.fates(work) == [HANDLED] * 6 + [Verdict.UNSTARTED] * 58
        assert here.desk.fates(other) == [None] * 3


async def test_what_still_runs_when_the_drain_is_over_is_cancelled_named_and_not_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cleaned: list[int] = []

    async def handle(value: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.append(value)

    async with hall(Spec("work", handle)) as here:
        here.desk.admit(work := delivery([1]))
        await wait_until_in_loop(here.stage.current, within=5)
        await here.stage.drain(0.05)
        await here.stage.close()
        assert cleaned == [1]
        assert here.desk.fates(work) == [None]
        (line,) = [line for line in caplog.messages if "Still being handled" in line]
        assert "0000000000000abc-z-1" in line


async def test_a_drain_without_work_ends_at_once() -> None:
    async def handle(value: int) -> None: ...
    def handle_plainly(value: int) -> None: ...

    async with hall(Spec("work", handle), Spec("plain", handle_plainly, is_async=False)) as here:
        began = time.monotonic()
        await here.stage.drain(30)
        assert time.monotonic() - began < 5


async def test_a_loop_that_cancels_all_tasks_is_not_kept_waiting() -> None:
    async def handle(value: int) -> None:
        await asyncio.sleep(60)

    async with hall(Spec("work", handle, concurrency=3)) as here:
        here.desk.admit(delivery([1]))
        await wait_until_in_loop(here.stage.current, within=5)
        crew: Any = here.stage._crews["work"]
        tasks = list(crew._tasks.values())
        crew._closed = True  # as when the stage closes at the same time: nobody is hired any more
        for task in tasks:
            task.cancel()
        async with asyncio.timeout(5):
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_finish_that_is_not_handled_is_an_outcome() -> None:
    async def handle(value: int) -> None:
        raise ValueError

    async with hall(Spec("work", handle)) as here:
        here.desk.admit(work := delivery([1]))
        await here.desk.until_done()
        assert isinstance(here.desk.outcome(work, 0), Outcome)


def runners(here: Any) -> Any:
    return here.stage._crews["work"]


async def test_idle_runners_that_somebody_cancels_are_replaced() -> None:
    seen: list[int] = []

    async def handle(value: int | None) -> None:
        if value is not None:
            seen.append(value)

    async with hall(Spec("work", handle, concurrency=2)) as here:
        await warmed(here.desk)
        # given: a program that cancels all that is on its loop but itself
        for task in asyncio.all_tasks():
            if task.get_name() == "zerowait work":
                task.cancel()
        await wait_until_in_loop(lambda: not runners(here)._tasks, within=5)
        # when, then: what comes is handled
        here.desk.admit(delivery(range(10)))
        await here.desk.until_done()
        assert sorted(seen) == list(range(10))
