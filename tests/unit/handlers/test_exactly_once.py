"""Whatever happens to it, each message is reported exactly once, with the right fate."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any

import pytest
from msgspec import msgpack

from tests.unit.handlers.fakes import FakeOutputs, Json, Spec, delivery, hall
from tests.waiting import wait_until_in_loop
from zerowait.errors import Reject, RetryLater
from zerowait.handlers.visits import Visit
from zerowait.message import Delivery, Verdict

pytestmark = pytest.mark.asyncio

FATES = {
    "ok": Verdict.HANDLED,
    "turn": Verdict.HANDLED,
    "wait": Verdict.HANDLED,
    "slow": Verdict.HANDLED,
    "send": Verdict.HANDLED,
    "raise": Verdict.RETRY,
    "later": Verdict.RETRY,
    "exit": Verdict.RETRY,
    "cancel": Verdict.RETRY,
    "hang": Verdict.RETRY,
    "swallow": Verdict.RETRY,
    "reject": Verdict.DEAD,
    "bad": Verdict.DEAD,
}
RARE = {"slow": 2, "hang": 1, "swallow": 1, "wait": 3}


async def act(value: str, ctx: Visit | None) -> None:
    match value:
        case "turn":
            await asyncio.sleep(0)
        case "wait":
            await asyncio.sleep(0.002)
        case "slow":
            await asyncio.sleep(0.06)
        case "hang":
            await asyncio.sleep(30)
        case "swallow":
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                pass
        case "cancel":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(30)
        case _:
            speak(value, ctx)


def speak(value: str, ctx: Visit | None) -> None:
    match value:
        case "send" if ctx is not None:
            ctx.push("next", value, {})
        case "slow":
            time.sleep(0.06)
        case "turn" | "wait":
            time.sleep(0)
        case "raise":
            raise ValueError("raised")
        case "exit":
            raise SystemExit(1)
        case "cancel":
            raise asyncio.CancelledError
        case "later":
            raise RetryLater(after=1)
        case "reject":
            raise Reject("rejected")
        case _:
            pass


async def alone(value: str) -> None:
    await act(value, None)


async def with_context(value: str, ctx: Visit) -> None:
    await act(value, ctx)


def alone_plainly(value: str) -> None:
    speak(value, None)


def with_context_plainly(value: str, ctx: Visit) -> None:
    speak(value, ctx)


SPECS: list[tuple[Any, bool, bool]] = [
    (alone, True, False),
    (with_context, True, True),
    (alone_plainly, False, False),
    (with_context_plainly, False, True),
]


def some_work(rng: random.Random, is_async: bool) -> list[str]:
    kinds = [kind for kind in FATES if is_async or kind not in ("hang", "swallow")]
    troubled = rng.choice([0.0, 0.02, 0.3])
    count = rng.choice([1, 3, 64, 400])
    values = [rng.choice(kinds) if rng.random() < troubled else "ok" for _ in range(count)]
    for kind, most in RARE.items():
        at = [index for index, value in enumerate(values) if value == kind]
        for index in at[most:]:
            values[index] = "raise"
    return values


def delivered(values: list[str]) -> Delivery:
    return delivery([7 if value == "bad" else value for value in values])


@pytest.mark.parametrize("seed", range(24))
async def test_each_message_is_reported_once_with_its_fate(seed: int) -> None:
    rng = random.Random(seed)
    fn, is_async, wants_ctx = SPECS[seed % len(SPECS)]
    spec = Spec(
        "work",
        fn,
        is_async=is_async,
        wants_ctx=wants_ctx,
        codec=Json(str),
        concurrency=rng.choice([1, 2, 8]),
        timeout=0.15 if is_async else None,
    )
    outputs = FakeOutputs(at_once=rng.random() < 0.5)
    works = [some_work(rng, is_async) for _ in range(rng.randint(1, 12))]
    async with hall(spec, outputs=outputs) as here:
        storing = asyncio.create_task(store_all(outputs))
        deliveries = [delivered(values) for values in works]
        for each in deliveries:
            if rng.random() < 0.5:
                await asyncio.to_thread(here.desk.admit, each)
            else:
                here.desk.admit(each)
            if rng.random() < 0.3:
                await asyncio.sleep(0)
        await here.desk.until_done(within=30)
        for values, each in zip(works, deliveries, strict=True):
            assert here.desk.fates(each) == [FATES[value] for value in values]
        assert here.desk.count == sum(len(values) for values in works)
        assert len(outputs.sent) == sum(value == "send" for values in works for value in values) * wants_ctx
        storing.cancel()


@pytest.mark.parametrize("seed", range(12))
async def test_a_drain_in_the_midst_of_it_reports_nothing_twice_and_loses_only_what_ran(seed: int) -> None:
    rng = random.Random(1_000 + seed)
    fn, is_async, wants_ctx = SPECS[seed % len(SPECS)]
    spec = Spec("work", fn, is_async=is_async, wants_ctx=wants_ctx, codec=Json(str), concurrency=rng.choice([1, 4]))
    works = [some_work(rng, is_async) for _ in range(20)]
    async with hall(spec) as here:
        deliveries = [delivered(values) for values in works]
        here.desk.admit(*deliveries)
        enough = rng.randint(1, 300)

        def is_stuck() -> bool:
            # As whatever they are: some are of another type than the handler's.
            at = [msgpack.decode(running.delivery.payload(running.index)) for running in here.stage.current()]
            return len([value for value in at if value in ("hang", "swallow")]) == spec.concurrency

        await wait_until_in_loop(
            lambda: here.desk.count > enough or not here.desk.waiting() or is_stuck(), within=10, that="enough is done"
        )
        await here.stage.drain(rng.choice([0.0, 0.1, 0.5]))
        # A thread that is given up says nothing more, and what an async one was at is cancelled.
        taken = {(id(job.delivery), index) for job in here.desk.jobs for index in range(job.start, job.stop)}
        reported = here.desk.times
        assert set(reported.values()) <= {1}
        assert set(reported) <= taken
        assert len(taken) - len(reported) <= spec.concurrency
        for values, each in zip(works, deliveries, strict=True):
            for value, fate in zip(values, here.desk.fates(each), strict=True):
                assert fate in (None, Verdict.UNSTARTED, FATES[value])


async def store_all(outputs: FakeOutputs) -> None:
    while True:
        await asyncio.sleep(0.001)
        while outputs.pending:
            threading.Thread(target=outputs.pending.popleft().open).start()
