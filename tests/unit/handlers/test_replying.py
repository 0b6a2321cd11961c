"""Handlers that answer: what they return or raise goes back; who has stopped waiting ends the run."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from tests.unit.handlers.fakes import FakeDesk, FakeOutputs, Spec, delivery, hall
from tests.waiting import wait_until_in_loop
from zerowait.ambient import DEADLINE
from zerowait.callbacks import Callbacks
from zerowait.codec import Codec
from zerowait.errors import BadAnswer, RemoteError
from zerowait.failures import Errors, unpack
from zerowait.message import Delivery, Verdict
from zerowait.pending import Promise

pytestmark = pytest.mark.asyncio
BOTH = pytest.mark.parametrize("is_async", [True, False])


@dataclass
class NotFound(Exception):
    name: str


def spec(fn: Any, *, is_async: bool, out: Any = int, **more: Any) -> Spec:
    return Spec("work", fn, is_async=is_async, kind=more.pop("kind", "request"), answers=Codec(out), **more)


def either(fn: Callable[[Any], Any], is_async: bool) -> Any:
    """The same as a coroutine, or as it is."""

    async def coroutine(value: Any) -> Any:
        return fn(value)

    return coroutine if is_async else fn


def answers(desk: FakeDesk, of: Delivery) -> dict[int, Any]:
    """Index → its answer, or the exception that who asked raises."""
    found: dict[int, Any] = {}
    for each, start, stop, outcome in desk.finished:
        if each is not of:
            continue
        assert outcome is not None
        if outcome.verdict is Verdict.CANCELLED:
            found |= dict.fromkeys(range(start, stop), "cancelled")
        elif outcome.answers:
            body = b"\xdd" + (stop - start).to_bytes(4, "big") + outcome.answers
            found |= dict(zip(range(start, stop), msgspec.msgpack.decode(body), strict=True))
        else:
            found |= {
                index: unpack(outcome.note, Errors([NotFound]), channel="work", id="") for index in range(start, stop)
            }
    return found


@BOTH
async def test_answers_go_back_in_order_for_all_of_a_batch(is_async: bool) -> None:
    batch = delivery(range(300))
    async with hall(spec(either(lambda n: n * 2, is_async), is_async=is_async)) as here:
        here.desk.admit(batch)
        await here.desk.until_done()
        assert answers(here.desk, batch) == {index: index * 2 for index in range(300)}


@BOTH
async def test_an_exception_is_the_answer_and_the_others_have_theirs(is_async: bool) -> None:
    def handle(n: int) -> int:
        if n == 3:
            raise NotFound("three")
        if n == 5:
            raise ValueError("five")
        return n

    batch = delivery(range(20))
    async with hall(spec(either(handle, is_async), is_async=is_async, errors=(NotFound,))) as here:
        here.desk.admit(batch)
        await here.desk.until_done()
        found = answers(here.desk, batch)
    assert found[3] == NotFound("three")
    assert isinstance(found[5], RemoteError)
    assert (found[5].type, found[5].message) == ("ValueError", "five")
    assert "in handle" in found[5].traceback
    assert {index: value for index, value in found.items() if index not in (3, 5)} == {
        index: index for index in range(20) if index not in (3, 5)
    }


@BOTH
@pytest.mark.parametrize(("given", "path"), [("text", "$"), ({1, "a"}, "$"), (None, "$")])
async def test_an_answer_of_another_type_is_a_bad_answer(is_async: bool, given: Any, path: str) -> None:
    batch = delivery([1])
    async with hall(spec(either(lambda n: given, is_async), is_async=is_async)) as here:
        here.desk.admit(batch)
        await here.desk.until_done()
        (found,) = answers(here.desk, batch).values()
    assert isinstance(found, BadAnswer)
    assert found.path == path


@pytest.mark.parametrize("out", [int, Any])
@pytest.mark.parametrize("what", ["a coroutine", "a reply"])
async def test_an_answer_that_was_not_awaited_is_called_that(what: str, out: Any) -> None:
    callbacks = Callbacks("test")

    async def other() -> int:
        return 1

    async def forgets(n: int) -> Any:
        return other() if what == "a coroutine" else Promise[int](callbacks)

    batch = delivery([1])
    async with hall(spec(forgets, is_async=True, out=out)) as here:
        here.desk.admit(batch)
        await here.desk.until_done()
        (found,) = answers(here.desk, batch).values()
    assert isinstance(found, BadAnswer)
    assert found.path == "$"
    assert "did it forget `await`?" in str(found)
    assert "same contract" not in str(found)


@BOTH
async def test_a_field_that_cannot_be_encoded_is_named(is_async: bool) -> None:
    batch = delivery([1])
    async with hall(spec(either(lambda n: {"a": object()}, is_async), is_async=is_async, out=dict[str, Any])) as here:
        here.desk.admit(batch)
        await here.desk.until_done()
        (found,) = answers(here.desk, batch).values()
    assert isinstance(found, BadAnswer)
    assert found.path == "$['a']"


async def test_what_waits_holds_up_neither_what_is_done_nor_what_has_not_begun() -> None:
    gate = asyncio.Event()

    async def handle(n: int) -> int:
        if n == 5:
            await gate.wait()
        return n

    warm, batch = delivery([0] * 1_024), delivery(range(10))
    async with hall(spec(handle, is_async=True)) as here:
        here.desk.admit(warm)
        await here.desk.until_done()  # by now a job has many
        began = time.monotonic()
        here.desk.admit(batch)
        await wait_until_in_loop(lambda: len(answers(here.desk, batch)) == 9, within=10)
        assert time.monotonic() - began < 5
        gate.set()
        await here.desk.until_done()
        assert answers(here.desk, batch) == {index: index for index in range(10)}


async def test_a_run_that_nobody_waits_for_is_cancelled_and_nothing_is_told() -> None:
    ended: list[str] = []

    async def handle(n: int) -> int:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return n

    batch, other = delivery([1]), delivery([2], box=0xDEF)
    async with hall(spec(handle, is_async=True)) as here:
        here.desk.admit(batch, other)
        await wait_until_in_loop(lambda: len(here.desk.jobs) == 2, within=10)
        here.stage.cancel(batch.box, ((35, 1, 1),))
        await here.desk.until_done(batch)
        assert ended == ["cancelled"]
        assert answers(here.desk, batch) == {0: "cancelled"}
        assert not answers(here.desk, other)
        here.stage.cancel(other.box, ())
        await here.desk.until_done(other)
        assert answers(here.desk, other) == {0: "cancelled"}


async def test_the_deadline_of_a_request_ends_its_run() -> None:
    async def handle(n: int) -> int:
        await asyncio.sleep(60)
        return n

    batch = delivery([1], expires=time.monotonic() + 0.2)
    async with hall(spec(handle, is_async=True)) as here:
        here.desk.admit(batch)
        await here.desk.until_done()
        assert answers(here.desk, batch) == {0: "cancelled"}


@BOTH
async def test_what_comes_too_late_is_not_begun(is_async: bool) -> None:
    batch = delivery([1], expires=time.monotonic() - 1)
    async with hall(spec(either(lambda n: pytest.fail("it ran"), is_async), is_async=is_async)) as here:
        here.desk.admit(batch)
        await here.desk.until_done()
        assert here.desk.fates(batch) == [Verdict.EXPIRED]


@BOTH
async def test_a_handler_knows_the_deadline_of_what_it_works_on(is_async: bool) -> None:
    until = time.monotonic() + 60
    batch = delivery([1], expires=until)
    async with hall(spec(either(lambda n: DEADLINE.get(), is_async), is_async=is_async, out=float)) as here:
        here.desk.admit(batch)
        await here.desk.until_done()
        assert answers(here.desk, batch) == {0: until}


@BOTH
async def test_a_stream_is_held_where_its_reader_has_made_no_room(is_async: bool) -> None:
    given: list[int] = []

    async def items(n: int) -> AsyncIterator[int]:
        for each in range(n):
            given.append(each)
            yield each

    def plain_items(n: int) -> Iterator[int]:
        for each in range(n):
            given.append(each)
            yield each

    fn: Any = items if is_async else plain_items
    batch = delivery([10])
    async with hall(spec(fn, is_async=is_async, kind="stream", is_generator=True)) as here:
        here.desk.room = 3
        here.desk.admit(batch)
        await wait_until_in_loop(lambda: here.desk.flows and here.desk.flows[0].values == [0, 1, 2], within=10)
        assert given == [0, 1, 2]
        here.desk.flows[0].make_room(100)
        await here.desk.until_done()
        assert here.desk.flows[0].values == list(range(10))
        outcome = here.desk.outcome(batch, 0)
        assert (outcome.verdict, outcome.note, outcome.answers) == (Verdict.HANDLED, b"", b"")


@BOTH
async def test_a_stream_that_nobody_reads_any_more_ends(is_async: bool) -> None:
    closed = threading.Event()

    async def items(n: int) -> AsyncIterator[int]:
        try:
            while True:
                yield n
        finally:
            closed.set()

    def plain_items(n: int) -> Iterator[int]:
        try:
            while True:
                yield n
        finally:
            closed.set()

    fn: Any = items if is_async else plain_items
    batch = delivery([10])
    async with hall(spec(fn, is_async=is_async, kind="stream", is_generator=True)) as here:
        here.desk.room = 3
        here.desk.admit(batch)
        await wait_until_in_loop(lambda: here.desk.flows and not here.desk.flows[0].has_room(), within=10)
        here.stage.cancel(batch.box, ())
        await here.desk.until_done()
        assert closed.is_set()
        assert answers(here.desk, batch) == {0: "cancelled"}


@BOTH
async def test_an_item_of_another_type_ends_its_stream(is_async: bool) -> None:
    async def items(n: int) -> AsyncIterator[Any]:
        yield 1
        yield "two"

    def plain_items(n: int) -> Iterator[Any]:
        yield 1
        yield "two"

    fn: Any = items if is_async else plain_items
    batch = delivery([10])
    async with hall(spec(fn, is_async=is_async, kind="stream", is_generator=True)) as here:
        here.desk.admit(batch)
        await here.desk.until_done()
        assert here.desk.flows[0].values == [1]
        assert isinstance(answers(here.desk, batch)[0], BadAnswer)


@BOTH
async def test_an_answer_larger_than_its_process_sends_fails_and_sends_nothing(is_async: bool) -> None:
    """The others of its job are answered; the text names the handler."""

    def handle(size: int, ctx: Any) -> bytes:
        ctx.push("next", size, {})
        return bytes(size)

    async def handle_async(size: int, ctx: Any) -> bytes:
        return handle(size, ctx)

    fn: Any = handle_async if is_async else handle
    batch = delivery([1, 98, 99, 2])
    outputs = FakeOutputs()
    service = spec(fn, is_async=is_async, out=bytes, wants_ctx=True, concurrency=1)
    async with hall(service, outputs=outputs, message_bytes=100) as here:
        here.desk.admit(batch)
        await here.desk.until_done()
        found = answers(here.desk, batch)
    large = found.pop(2)
    assert found == {0: bytes(1), 1: bytes(98), 3: bytes(2)}
    assert isinstance(large, BadAnswer)
    assert "handle" in large.message
    assert "101 bytes, and its process sends 100 at most" in large.message
    assert "raise message_bytes" in large.message
    assert outputs.sent == [("next", size) for size in (1, 98, 2)]


@BOTH
async def test_an_item_larger_than_its_process_sends_ends_its_stream(is_async: bool) -> None:
    async def items(size: int) -> AsyncIterator[bytes]:
        yield b""
        yield bytes(size)
        yield b""

    def plain_items(size: int) -> Iterator[bytes]:
        yield b""
        yield bytes(size)
        yield b""

    fn: Any = items if is_async else plain_items
    batch = delivery([99])
    service = spec(fn, is_async=is_async, kind="stream", is_generator=True, out=bytes)
    async with hall(service, message_bytes=100) as here:
        here.desk.admit(batch)
        await here.desk.until_done()
        assert here.desk.flows[0].values == [b""]
        (found,) = answers(here.desk, batch).values()
        assert isinstance(found, BadAnswer)
        assert "101 bytes" in found.message


@BOTH
async def test_an_exception_with_fields_larger_than_its_process_sends_comes_without_them(is_async: bool) -> None:
    def handle(size: int) -> int:
        raise NotFound("x" * size)

    batch = delivery([1_000, 70_000])
    service = spec(either(handle, is_async), is_async=is_async, errors=(NotFound,))
    async with hall(service, message_bytes=100) as here:
        here.desk.admit(batch)
        await here.desk.until_done()
        found = answers(here.desk, batch)
    assert found[0] == NotFound("x" * 1_000), "so little goes to anybody"
    assert isinstance(found[1], RemoteError)
    assert found[1].type.endswith("NotFound")
    assert "raise message_bytes" in found[1].message
    assert len(found[1].message) < 1_000


async def test_what_runs_and_answers_ends_before_it_leaves() -> None:
    gate = asyncio.Event()

    async def handle(n: int) -> int:
        await gate.wait()
        return n

    batch = delivery([7])
    async with hall(spec(handle, is_async=True)) as here:
        here.desk.admit(batch)
        await wait_until_in_loop(lambda: len(here.desk.jobs) == 1, within=10)
        asyncio.get_running_loop().call_later(0.05, gate.set)
        assert await here.stage.drain(10) == 0
        assert answers(here.desk, batch) == {0: 7}


@BOTH
async def test_what_is_sent_leaves_only_with_an_answer(is_async: bool) -> None:
    def handle(value: int, visit: Any) -> Any:
        visit.push("out", value, {})
        if value % 3 == 1:
            raise ValueError(value)
        return "no number" if value % 3 == 2 else value

    async def later(value: int, visit: Any) -> Any:
        return handle(value, visit)

    fn: Any = later if is_async else handle
    batch = delivery(range(300))
    async with hall(spec(fn, is_async=is_async, wants_ctx=True)) as here:
        here.desk.admit(batch)
        await here.desk.until_done()
        sent: Any = here.outputs.sent
        assert sorted(output[1] for output in sent) == list(range(0, 300, 3))
        assert {
            index: value for index, value in answers(here.desk, batch).items() if not isinstance(value, Exception)
        } == {index: index for index in range(0, 300, 3)}


async def test_an_item_with_a_field_that_cannot_be_encoded_ends_its_stream() -> None:
    async def items(n: int) -> AsyncIterator[Any]:
        yield {"a": 1}
        yield {"a": object()}

    batch = delivery([10])
    async with hall(spec(items, is_async=True, kind="stream", is_generator=True, out=dict)) as here:
        here.desk.admit(batch)
        await here.desk.until_done()
        found = answers(here.desk, batch)[0]
    assert isinstance(found, BadAnswer)
    assert found.path == "$['a']"
