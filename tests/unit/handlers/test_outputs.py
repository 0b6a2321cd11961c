"""What handlers send: part of their outcome."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.unit.handlers.fakes import FakeOutputs, Spec, delivery, hall
from tests.waiting import wait_until_in_loop
from zerowait.errors import UsageError
from zerowait.handlers.visits import Visit
from zerowait.message import Verdict

HANDLED, RETRY = Verdict.HANDLED, Verdict.RETRY

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("is_async", [True, False])
async def test_what_a_handler_pushes_leaves_only_if_it_succeeds(is_async: bool) -> None:
    def push(value: int, ctx: Visit) -> None:
        ctx.push("next", value, {})
        if value == 1:
            raise ValueError

    async def push_in_loop(value: int, ctx: Visit) -> None:
        push(value, ctx)

    async with hall(Spec("work", push_in_loop if is_async else push, is_async=is_async, wants_ctx=True)) as here:
        here.desk.admit(work := delivery([0, 1, 2]))
        await here.desk.until_done()
        assert here.desk.fates(work) == [HANDLED, RETRY, HANDLED]
        assert sorted(here.outputs.sent, key=str) == [("next", 0), ("next", 2)]


async def values_go_on(value: int) -> int | None:
    return value or None


def values_go_on_plainly(value: int) -> int | None:
    return value or None


async def lists_are_one(value: int) -> list[int]:
    return [value, value]


async def generated(value: int) -> AsyncIterator[int | None]:
    for n in range(value):
        yield n
    yield None


def generated_plainly(value: int) -> Iterator[int | None]:
    yield from range(value)
    yield None


@pytest.mark.parametrize(
    ("fn", "is_async", "is_generator", "expected"),
    [
        (values_go_on, True, False, [2]),
        (values_go_on_plainly, False, False, [2]),
        (lists_are_one, True, False, [[0, 0], [2, 2]]),
        (generated, True, True, [0, 1]),
        (generated_plainly, False, True, [0, 1]),
    ],
)
async def test_values_go_on_to_every_target_and_none_does_not(
    fn: Any, is_async: bool, is_generator: bool, expected: list[Any]
) -> None:
    spec = Spec("work", fn, is_async=is_async, is_generator=is_generator, to=("a", "b"), concurrency=1)
    async with hall(spec) as here:
        here.desk.admit(delivery([0, 2]))
        await here.desk.until_done()
        assert here.outputs.sent == [(to, value) for value in expected for to in ("a", "b")]


async def test_each_output_names_the_message_that_it_is_sent_for() -> None:
    async def some(value: int) -> AsyncIterator[int]:
        for n in range(value):
            yield n

    async with hall(Spec("work", some, is_generator=True, to=("a",), concurrency=1)) as here:
        here.desk.admit(delivery([2, 0, 1], ranges=((5, 2), (9, 1))))
        await here.desk.until_done()
        assert here.outputs.tagged == [(5, ("a", 0)), (5, ("a", 1)), (9, ("a", 0))]


async def test_a_generator_that_fails_half_way_sends_nothing() -> None:
    async def half(value: int) -> AsyncIterator[int]:
        yield 1
        raise ValueError

    async with hall(Spec("work", half, is_generator=True, to=("a",))) as here:
        here.desk.admit(work := delivery([0]))
        await here.desk.until_done()
        assert here.desk.fates(work) == [RETRY]
        assert here.outputs.sent == []


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_message_is_handled_once_its_outputs_have_a_place_and_its_runner_goes_on_meanwhile(
    is_async: bool,
) -> None:
    async def forward(value: int) -> int:
        return value

    def forward_plainly(value: int) -> int:
        return value

    outputs = FakeOutputs(at_once=False)
    fn = forward if is_async else forward_plainly
    async with hall(Spec("work", fn, is_async=is_async, concurrency=1, to=("a",)), outputs=outputs) as here:
        here.desk.admit(work := delivery([0]), other := delivery([1]))
        await wait_until_in_loop(lambda: len(outputs.pending) == 2, within=5)
        assert here.desk.fates(work) == here.desk.fates(other) == [None]
        outputs.pending[1].open()
        assert here.desk.fates(other) == [HANDLED]
        assert here.desk.fates(work) == [None]
        outputs.pending[0].open()
        assert here.desk.fates(work) == [HANDLED]


async def test_a_message_whose_outputs_have_no_place_has_failed() -> None:
    async def forward(value: int) -> int:
        return value

    outputs = FakeOutputs(at_once=False)
    async with hall(Spec("work", forward, to=("a",)), outputs=outputs) as here:
        here.desk.admit(late := delivery([0]))
        await wait_until_in_loop(lambda: outputs.pending, within=5)
        outputs.pending[0].open(OSError("disk"))
        assert here.desk.fates(late) == [RETRY]
        outputs.refuses = OSError("disk")
        here.desk.admit(at_once := delivery([0, 1]))
        await here.desk.until_done()
        assert here.desk.fates(at_once) == [RETRY, RETRY]


async def test_draining_waits_until_outputs_have_a_place() -> None:
    async def forward(value: int) -> int:
        return value

    outputs = FakeOutputs(at_once=False)
    async with hall(Spec("work", forward, to=("a",)), outputs=outputs) as here:
        here.desk.admit(work := delivery([0]))
        await wait_until_in_loop(lambda: outputs.pending, within=5)
        draining = asyncio.create_task(here.stage.drain(10))
        await asyncio.sleep(0)
        assert not draining.done()
        outputs.pending[0].open()
        async with asyncio.timeout(5):
            await draining
        assert here.desk.fates(work) == [HANDLED]


async def test_a_handler_that_outlived_its_timeout_sends_nothing() -> None:
    async def stubborn(value: int, ctx: Visit) -> None:
        ctx.push("next", value, {})
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

    async with hall(Spec("work", stubborn, wants_ctx=True, timeout=0.05)) as here:
        here.desk.admit(work := delivery([0]))
        await here.desk.until_done()
        assert here.desk.fates(work) == [RETRY]
        assert here.outputs.sent == []


async def test_the_callers_mistakes_are_raised_at_the_push() -> None:
    raised: list[BaseException] = []

    async def push(value: int, ctx: Visit) -> None:
        try:
            ctx.push("next", object(), {})
        except TypeError as error:
            raised.append(error)

    async with hall(Spec("work", push, wants_ctx=True)) as here:
        here.desk.admit(work := delivery([0]))
        await here.desk.until_done()
        assert len(raised) == 1
        assert here.desk.fates(work) == [HANDLED]


async def test_a_context_ends_with_its_handler() -> None:
    kept: list[Visit] = []

    async def keep(value: int, ctx: Visit) -> None:
        kept.append(ctx)

    async with hall(Spec("work", keep, wants_ctx=True)) as here:
        here.desk.admit(delivery([0]))
        await here.desk.until_done()
        with pytest.raises(UsageError, match="Send with a client"):
            kept[0].push("next", 1, {})


async def test_a_visit_knows_its_message() -> None:
    seen: list[tuple[Any, ...]] = []

    async def look(value: int, ctx: Visit) -> None:
        seen.append((ctx.id, ctx.attempt, dict(ctx.headers), ctx.resources, ctx.delivery.sender))

    async with hall(Spec("work", look, wants_ctx=True, concurrency=1), resources=resources) as here:
        here.desk.admit(
            delivery([0, 1], ranges=((3, 1), (7, 1)), epoch=71, failures={7: 2}, headers={7: {"trace": "x"}})
        )
        await here.desk.until_done()
        assert seen == [
            ("0000000000000abc-1z-3", 1, {}, "open", "sender"),
            ("0000000000000abc-1z-7", 3, {"trace": "x"}, "open", "sender"),
        ]
    assert log == ["opened", "closed"]


log: list[str] = []


class Opened:
    def __enter__(self) -> str:
        self.thread = threading.get_ident()
        log[:] = ["opened"]
        return "open"

    def __exit__(self, *_: object) -> None:
        assert threading.get_ident() == self.thread
        log.append("closed")


def resources() -> Opened:
    return Opened()


async def test_resources_that_do_not_open_are_raised_and_nothing_runs() -> None:
    def broken() -> Opened:
        raise ConnectionError("no database")

    async def handle(value: int) -> None: ...

    with pytest.raises(ConnectionError, match="no database"):
        async with hall(Spec("work", handle), resources=broken):
            raise AssertionError("opened")


async def test_middleware_wraps_an_async_handler_and_may_change_what_goes_on() -> None:
    order: list[str] = []

    async def outer(ctx: Visit, call: Any) -> Any:
        order.append(f"outer {ctx.number}")
        given = await call()
        return given * 10

    async def inner(ctx: Visit, call: Any) -> Any:
        order.append("inner")
        return await call()

    async def forward(value: int) -> int:
        return value

    async with hall(Spec("work", forward, to=("a",)), middleware=[outer, inner]) as here:
        here.desk.admit(delivery([4]))
        await here.desk.until_done()
        assert order == ["outer 1", "inner"]
        assert here.outputs.sent == [("a", 40)]
