"""The short way of a handler with `to=`: a job of messages that succeed is one output, and whatever does not fit in
there changes nothing for its neighbours."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tests.unit.handlers.fakes import FakeOutputs, Spec, delivery, hall
from tests.waiting import wait_until_in_loop
from zerowait.errors import EncodeError
from zerowait.message import BODY_START, SEGMENT_BYTES, Prepared, Verdict
from zerowait.outbox.bundle import Gathered, gather
from zerowait.outbox.lane import Lane

HANDLED, RETRY = Verdict.HANDLED, Verdict.RETRY
LIMITS = SimpleNamespace(message_bytes=64 << 20)


def lane(exact: type = str, **options: Any) -> Lane:
    intake: Any = SimpleNamespace(limits=LIMITS)
    return Lane(intake, "next", exact, msgspec.msgpack.Encoder().encode_into, **options)


def opened(made: Prepared) -> list[tuple[int, Any]]:
    """For which message, and what."""
    ends = memoryview(made.ends).cast("I")
    starts = [BODY_START, *ends]
    assert len(msgspec.msgpack.decode(made.body)) == len(made.inputs) == len(ends)
    return [
        (index, msgspec.msgpack.decode(made.body[start:end]))
        for index, start, end in zip(made.inputs, starts, ends, strict=False)
    ]


class Outputs(FakeOutputs):
    """Texts, of any class; one lane. together: what was sent, output by output: (number, value)."""

    def __init__(self) -> None:
        super().__init__()
        self.lane: Lane | None = lane()
        self.together: list[list[tuple[int, Any]]] = []

    def prepare(self, to: object, value: object, options: Any) -> Any:
        if not isinstance(value, str):
            raise EncodeError(f"{to} takes texts, not {value!r}")
        return str(value)

    def gather(self, to: object) -> Gathered | None:
        return gather(self.lane) if self.lane is not None else None

    def send(self, delivery: Any, outputs: Any) -> Any:
        for index, output in outputs:
            sent = opened(output.closed(0)) if isinstance(output, Gathered) else [(index, output)]
            self.together.append([(delivery.number(at), value) for at, value in sent])
        return super().send(delivery, outputs)

    @property
    def each(self) -> list[tuple[int, Any]]:
        return [each for output in self.together for each in output]


class Shout(str):
    """No text of the exact class."""

    __slots__ = ()


LARGE = "x" * SEGMENT_BYTES

pytestmark = pytest.mark.asyncio


def in_one_job(here: Any) -> None:
    here.stage._crews["work"].most = 128  # as after many quick ones


async def test_a_job_of_messages_that_succeed_is_one_output() -> None:
    async def forward(value: int) -> str:
        return str(value)

    outputs = Outputs()
    async with hall(Spec("work", forward, to=("next",), concurrency=1), outputs=outputs) as here:
        here.desk.admit(delivery([0]))  # which is prepared: nobody knows the target yet
        await here.desk.until_done()
        in_one_job(here)
        here.desk.admit(delivery(list(range(100)), ranges=((11, 60), (101, 40))))
        await here.desk.until_done()
    numbers = [*range(11, 71), *range(101, 141)]
    assert outputs.together == [[(1, "0")], [(number, str(at)) for at, number in enumerate(numbers)]]


async def test_what_fails_is_none_of_another_class_or_large_takes_nothing_from_its_neighbours() -> None:
    gives: list[Any] = ["a", None, "b", ValueError(), "c", 7, "d", Shout("e"), "f", LARGE, "g", None]

    async def mixed(value: int) -> Any:
        if isinstance(gives[value], Exception):
            raise gives[value]
        return gives[value]

    outputs = Outputs()
    async with hall(Spec("work", mixed, to=("next",), concurrency=1), outputs=outputs) as here:
        here.desk.admit(delivery([0]))
        await here.desk.until_done()
        in_one_job(here)
        here.desk.admit(work := delivery(list(range(len(gives)))))
        await here.desk.until_done()
    failed = {3, 5}
    assert here.desk.fates(work) == [RETRY if at in failed else HANDLED for at in range(len(gives))]
    assert "takes texts" in here.desk.note(work, 5)["reason"]
    expected = [(at + 1, given) for at, given in enumerate(gives) if at not in failed and given is not None]
    assert outputs.each == [(1, "a"), *expected]
    assert [len(output) for output in outputs.together] == [1, 2, 1, 1, 1, 1, 1, 1]


async def test_what_outlives_a_slow_neighbour_is_reported_before_it_and_goes_on_in_an_output_of_its_own() -> None:
    go_on = asyncio.Event()

    async def waits_at_two(value: int) -> str:
        if value == 2:
            await go_on.wait()
        return str(value)

    outputs = Outputs()
    async with hall(Spec("work", waits_at_two, to=("next",), concurrency=1), outputs=outputs) as here:
        here.desk.admit(delivery([0]))
        await here.desk.until_done()
        in_one_job(here)
        here.desk.admit(work := delivery(list(range(5))))
        await wait_until_in_loop(lambda: here.desk.fates(work)[:3] == [HANDLED, HANDLED, None], within=5)
        assert outputs.together[1:] == [[(1, "0"), (2, "1")]]
        go_on.set()
        await here.desk.until_done()
    assert sorted(outputs.each[1:]) == [(at + 1, str(at)) for at in range(5)]


async def test_a_handler_that_returns_after_its_timeout_sends_nothing() -> None:
    async def stubborn(value: int) -> str:
        try:
            if value:
                await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
        return str(value)

    outputs = Outputs()
    async with hall(Spec("work", stubborn, to=("next",), concurrency=1, timeout=0.05), outputs=outputs) as here:
        here.desk.admit(work := delivery([0, 1]))
        await here.desk.until_done()
    assert here.desk.fates(work) == [HANDLED, RETRY]
    assert outputs.each == [(1, "0")]


async def test_of_several_targets_all_or_none_get_what_a_handler_returns() -> None:
    class Second(Outputs):
        def prepare(self, to: object, value: object, options: Any) -> Any:
            if (to, value) == ("b", "1"):
                raise EncodeError("no")
            return to, value

    async def forward(value: int) -> str:
        return str(value)

    outputs = Second()
    async with hall(Spec("work", forward, to=("a", "b"), concurrency=1), outputs=outputs) as here:
        here.desk.admit(work := delivery([0, 1, 2]))
        await here.desk.until_done()
    assert here.desk.fates(work) == [HANDLED, RETRY, HANDLED]
    assert outputs.sent == [("a", "0"), ("b", "0"), ("a", "2"), ("b", "2")]


async def test_where_there_is_no_short_way_each_value_is_prepared() -> None:
    async def forward(value: int) -> str:
        return str(value)

    outputs = Outputs()
    outputs.lane = None
    async with hall(Spec("work", forward, to=("next",), concurrency=1), outputs=outputs) as here:
        in_one_job(here)
        here.desk.admit(delivery([0, 1, 2]))
        await here.desk.until_done()
    assert outputs.together == [[(1, "0")], [(2, "1")], [(3, "2")]]


async def test_a_body_that_is_full_takes_no_more_and_keeps_what_it_has() -> None:
    body, half = gather(lane(ttl=2.0005)), "x" * (SEGMENT_BYTES // 2)
    assert body.take(half, 0)
    assert not body.take(half, 1)
    assert not body.take(b"bytes", 2)
    assert body.take("small", 3)
    made = body.closed(1_000)
    assert opened(made) == [(0, half), (3, "small")]
    assert (made.channel, made.due, made.expires) == ("next", None, 2_002_000)
    assert [ready.payload for ready in body.apart()] == [msgspec.msgpack.encode(value) for value in (half, "small")]
