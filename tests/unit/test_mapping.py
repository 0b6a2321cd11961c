"""`map`: results in order, taken as they are wanted; what a dead worker held is given to another."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests.waiting import wait_until
from zerowait.callbacks import Callbacks
from zerowait.errors import (
    Cancelled,
    ContractMismatch,
    EncodeError,
    Expired,
    NoResponder,
    PeerLost,
    QueueFull,
    RemoteError,
    UsageError,
)
from zerowait.mapping import Results
from zerowait.pending import Promise
from zerowait.spreading import BUFFERED, TAKE, WAIT, Work


class Ask(Promise[Any]):
    """A reply that the test gives."""

    cancelled_at: int = 0

    def cancel(self) -> None:
        self.cancelled_at += 1
        self.fail(Cancelled("cancelled", channel="score"))

    def _let_go(self) -> None:
        self.cancel()


class Workers:
    """Answers what is asked when the test says so, or at once by a function."""

    def __init__(self, callbacks: Callbacks, answer: Callable[[Any], Any] | None = None) -> None:
        self.callbacks = callbacks
        self.answer = answer
        self.asked: list[tuple[Any, Ask]] = []
        self.timeouts: list[float | None] = []
        self.refuses: Exception | None = None

    def ask(self, value: Any, timeout: float | None) -> Ask:
        if self.refuses is not None:
            raise self.refuses
        reply = Ask(self.callbacks)
        self.asked.append((value, reply))
        self.timeouts.append(timeout)
        if self.answer is not None:
            try:
                reply.set(self.answer(value))
            except Exception as error:
                reply.fail(error)
        return reply

    def outstanding(self) -> list[Any]:
        return [value for value, reply in self.asked if not reply.done()]


@pytest.fixture
def callbacks() -> Iterator[Callbacks]:
    made = Callbacks("test")
    yield made
    made.stop()


def results_of(
    workers: Workers, values: Any, *, window: int = 4, timeout: float | None = None, progress: bool = False
) -> Results[Any, Any]:
    work = Work(workers.ask, window, timeout, 3)
    return Results(workers.callbacks, "score", work, values, progress, "here.py:7")


def double(value: int) -> int:
    return value * 2


def refused() -> RemoteError:
    return RemoteError(type="ValueError", message="no", traceback="", channel="score", id="2")


def lost() -> PeerLost:
    return PeerLost("died", channel="score", id="1", peer="w")


def test_a_list_has_the_order_of_the_inputs(callbacks: Callbacks) -> None:
    results = results_of(Workers(callbacks, double), range(50))
    assert results.result(5) == [number * 2 for number in range(50)]
    assert results.result() == results.result(), "as often as one likes"
    assert (results.total, results.finished, results.done()) == (50, 50, True)
    assert repr(results) == "<Results score: 50 of 50>"


def test_no_values_are_an_empty_list(callbacks: Callbacks) -> None:
    assert results_of(Workers(callbacks), iter(())).result(5) == []


def test_nothing_is_taken_before_somebody_wants_it_nor_more_than_the_window(callbacks: Callbacks) -> None:
    # given values that tell when they are taken
    taken: list[int] = []

    def values() -> Iterator[int]:
        for number in range(1_000):
            taken.append(number)
            yield number

    workers = Workers(callbacks)
    results = results_of(workers, values())
    assert taken == []

    # when somebody iterates, and nobody answers
    got: list[int] = []
    reader = threading.Thread(target=lambda: got.extend(results), daemon=True)
    reader.start()
    wait_until(lambda: len(workers.outstanding()) == 4, within=5)
    assert taken == [0, 1, 2, 3]

    # and all but the first are answered
    for _ in range(60):
        for value, reply in workers.asked[1:]:
            reply.set(value)
        if len(taken) == 4 * BUFFERED:
            break
        wait_until(lambda: workers.outstanding() != [0] or len(taken) == 4 * BUFFERED, within=5)

    # then others are asked meanwhile, within a bound
    assert len(taken) <= 4 * BUFFERED
    assert got == []
    workers.answer = double
    workers.asked[0][1].set(0)
    reader.join(5)
    assert not reader.is_alive()
    assert len(got) == 1_000


def test_as_completed_gives_each_as_it_comes_with_its_input_and_its_failure(callbacks: Callbacks) -> None:
    workers = Workers(callbacks)
    results = results_of(workers, ["a", "b", "c"])
    items = iter(results.as_completed())
    seen: list[Any] = []
    reader = threading.Thread(target=lambda: seen.extend(items), daemon=True)
    reader.start()
    wait_until(lambda: len(workers.asked) == 3, within=5)
    for at, end in ((2, 20), (0, 0), (1, None)):
        reply = workers.asked[at][1]
        reply.set(end) if end is not None else reply.fail(refused())
        wait_until(lambda: bool(seen) and seen[-1].index == at, within=5)  # noqa: B023
    reader.join(5)
    assert [(item.index, item.input) for item in seen] == [(2, "c"), (0, "a"), (1, "b")]
    assert [item.output for item in seen[:2]] == [20, 0]
    assert isinstance(seen[2].error, RemoteError)
    with pytest.raises(RemoteError):
        _ = seen[2].output


def test_the_first_failure_is_raised_in_its_place_and_the_rest_is_cancelled(callbacks: Callbacks) -> None:
    def answer(value: int) -> int:
        if value == 2:
            raise refused()
        return value

    got: list[int] = []
    workers = Workers(callbacks)
    results = results_of(workers, range(100))
    workers.answer = answer
    with pytest.raises(RemoteError):
        got.extend(results)
    assert got == [0, 1]
    assert len(workers.asked) < 10
    assert not workers.outstanding()
    with pytest.raises(RemoteError):
        results_of(Workers(callbacks, answer), range(100)).result(5)


def test_a_list_that_failed_fails_again(callbacks: Callbacks) -> None:
    def answer(value: int) -> int:
        raise refused()

    results = results_of(Workers(callbacks, answer), [1])
    for _ in range(2):
        with pytest.raises(RemoteError):
            results.result(5)


def test_what_a_dead_worker_held_is_asked_again(callbacks: Callbacks) -> None:
    deaths = {3: 2, 7: 1}

    def answer(value: int) -> int:
        if deaths.get(value):
            deaths[value] -= 1
            raise lost()
        return value

    workers = Workers(callbacks, answer)
    results = results_of(workers, range(10))
    assert results.result(5) == list(range(10))
    assert len(workers.asked) == 13
    assert results.finished == 10


def test_a_value_is_not_asked_again_once_its_timeout_is_over(
    callbacks: Callbacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("zerowait.spreading.time.monotonic", lambda: now[0])

    def answer(value: int) -> int:
        now[0] += 2.0
        raise lost()

    workers = Workers(callbacks, answer)
    with pytest.raises(PeerLost):
        results_of(workers, [1], timeout=5.0).result()
    assert workers.timeouts == [5.0, 3.0, 1.0]


def nobody() -> NoResponder:
    return NoResponder("nobody", channel="score", id="1")


def test_nobody_there_at_all_is_a_failure_and_nobody_there_for_a_while_is_not(callbacks: Callbacks) -> None:
    def nobody(value: int) -> int:
        raise NoResponder("nobody", channel="score", id="1")

    with pytest.raises(NoResponder):
        results_of(Workers(callbacks, nobody), [1, 2]).result(5)

    gone = [2]

    def away_for_a_while(value: int) -> int:
        if value == 5 and gone[0]:
            gone[0] -= 1
            raise NoResponder("nobody", channel="score", id="1")
        return value

    assert results_of(Workers(callbacks, away_for_a_while), range(8)).result(5) == list(range(8))


def test_a_value_that_ran_somewhere_is_never_said_not_to_have_run(callbacks: Callbacks) -> None:
    # given the only value, whose only worker dies with it, and nobody for a second or two
    ends: list[Exception | None] = [lost(), nobody(), nobody(), None]

    def answer(value: int) -> int:
        end = ends.pop(0)
        if end is not None:
            raise end
        return value

    # then it waits until one is back
    assert results_of(Workers(callbacks, answer), [1]).result(5) == [1]

    # and if its time is over meanwhile, what is raised says that it may have run
    for late in (Expired(channel="score", id="2", sent=False), ContractMismatch("no", difference="", channel="score")):
        ends[:] = [lost(), nobody(), late]
        with pytest.raises(PeerLost) as raised:
            results_of(Workers(callbacks, answer), [1]).result(5)
        assert "did not run again" in raised.value.__notes__[0]


def test_a_handler_that_raised_was_there(callbacks: Callbacks) -> None:
    ends: list[Exception] = [refused(), nobody()]

    def answer(value: int) -> int:
        if ends:
            raise ends.pop(0)
        return value

    items = list(results_of(Workers(callbacks, answer), [1, 2], window=1).as_completed())
    assert [type(item.error) for item in items] == [RemoteError, type(None)]


def driven(workers: Workers, values: Iterator[Any], window: int, together: Callable[[list[Any]], bool]) -> list[Any]:
    """Items as they come, where one worker always holds all that is asked. together: whether it survives that."""
    work, items = Work(workers.ask, window, None, 3), list[Any]()
    work.in_order = False
    for step in work.steps():
        if step is TAKE:
            value = next(values, None)
            if value is None:
                work.ended = True
            else:
                work.ask(value)
        elif step is WAIT:
            held = [(value, reply) for value, reply in workers.asked if not reply.done()]
            survives = together([value for value, _ in held])
            for value, reply in held:
                if survives:
                    reply.set(value)
                else:
                    reply.fail(lost())
        else:
            items.append(step)
    return items


def test_a_value_that_ends_each_process_is_given_up_and_no_other_with_it(callbacks: Callbacks) -> None:
    deaths: list[list[int]] = []

    def survives(held: list[int]) -> bool:
        if 13 in held:
            deaths.append(held)
        return 13 not in held

    items = driven(Workers(callbacks), iter(range(20)), 8, survives)
    assert 3 <= len(deaths) <= 4
    assert deaths[-1] == [13]
    (bad,) = [item for item in items if item.error is not None]
    assert (bad.index, type(bad.error), len(items)) == (13, PeerLost, 20)
    assert "Value number 13 (from 0)" in str(bad.error)


def test_many_that_were_lost_twice_without_guilt_are_tried_more_and_more_at_once(callbacks: Callbacks) -> None:
    asked: list[int] = []

    def survives(held: list[int]) -> bool:
        asked.append(len(held))
        return len(asked) > 2

    items = driven(Workers(callbacks), iter(range(64)), 64, survives)
    assert all(item.error is None for item in items)
    assert asked == [64, 64, 1, 2, 4, 8, 16, 32, 1]


def test_a_waiting_ends_though_values_keep_coming_and_says_so_as_others_do(callbacks: Callbacks) -> None:
    # given answers at once, and values without end
    now = itertools.count()
    results = results_of(Workers(callbacks, double), iter(lambda: next(now), -1))
    for _ in range(2):
        with pytest.raises(TimeoutError, match="goes on there") as raised:
            results.result(0.02)
        assert type(raised.value) is TimeoutError
    assert results.finished > 10


def test_the_only_item_is_given_before_the_next_value_is_taken(callbacks: Callbacks) -> None:
    got = [1]

    def values() -> Iterator[int]:
        while got[-1] < 100:
            yield got[-1]  # made of the answer before it

    for output in results_of(Workers(callbacks, double), values(), window=1):
        got += [output]
    assert got == [1, 2, 4, 8, 16, 32, 64, 128]


@pytest.mark.asyncio
async def test_an_item_need_not_wait_for_the_next_async_value(callbacks: Callbacks) -> None:
    # given values each of which waits for the answer before it
    came = asyncio.Event()

    async def values() -> AsyncIterator[int]:
        for number in range(10):
            yield number
            await came.wait()
            came.clear()

    # then they go through, in any way to take them
    for way in ("in order", "as completed"):
        results = results_of(Workers(callbacks, double), values())
        got: list[int] = []

        async def gather(results: Results[Any, Any] = results, got: list[int] = got, way: str = way) -> None:
            if way == "in order":
                async for output in results:
                    got.append(output)
                    came.set()
            else:
                async for item in results.as_completed():
                    got.append(item.output)
                    came.set()

        await asyncio.wait_for(gather(), 10)
        assert got == [number * 2 for number in range(10)], way


@pytest.mark.asyncio
async def test_async_values_run_in_one_task_no_further_than_may_be_asked_and_are_left_with_it(
    callbacks: Callbacks,
) -> None:
    # given values without end, which note where they run
    tasks: set[Any] = set()
    taken = 0

    async def values() -> AsyncIterator[int]:
        nonlocal taken
        while True:
            tasks.add(asyncio.current_task())
            taken += 1
            yield taken
            await asyncio.sleep(0)

    # when nobody answers, and the waiting is given up
    workers = Workers(callbacks)
    waiting = asyncio.ensure_future(_list(results_of(workers, values(), window=4)))
    await asyncio.to_thread(wait_until, lambda: len(workers.outstanding()) == 4, within=5)
    for _ in range(20):
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    # then no more was taken than may be asked, one task went through all of it, and nothing is left
    assert taken <= 5
    (task,) = tasks
    assert task.done()
    assert not workers.outstanding()


@pytest.mark.asyncio
async def test_what_async_values_raise_is_raised_by_the_map(callbacks: Callbacks) -> None:
    async def values() -> AsyncIterator[int]:
        yield 1
        raise ConnectionError("the source is gone")

    with pytest.raises(ConnectionError, match="the source is gone"):
        await results_of(Workers(callbacks, double), values())


def test_a_waiting_that_is_over_ends_nothing_else(callbacks: Callbacks) -> None:
    workers = Workers(callbacks)
    results = results_of(workers, [1, 2])
    with pytest.raises(TimeoutError, match="goes on there"):
        results.result(0.01)
    assert workers.outstanding() == [1, 2]
    for value, reply in workers.asked:
        reply.set(value)
    assert results.result(5) == [1, 2]


def test_a_value_that_is_refused_ends_it_with_its_place(callbacks: Callbacks) -> None:
    workers = Workers(callbacks)
    workers.refuses = EncodeError("no", path="$.x")
    with pytest.raises(EncodeError) as refused:
        results_of(workers, ["bad"]).result(5)
    assert "value number 0 (from 0)" in refused.value.__notes__[0]


def test_a_full_queue_is_waited_for(callbacks: Callbacks) -> None:
    workers, room = Workers(callbacks, double), Promise[None](callbacks)
    workers.refuses = QueueFull(limit_bytes=1, limit_messages=1, room=room, channel="score", durable=False)
    results = results_of(workers, [1, 2, 3])
    got: list[Any] = []
    waiter = threading.Thread(target=lambda: got.append(results.result(10)), daemon=True)
    waiter.start()
    wait_until(lambda: bool(room.watchers), within=5)
    workers.refuses = None
    room.set(None)
    waiter.join(5)
    assert got == [[2, 4, 6]]


def test_cancelling_it_cancels_what_is_asked_and_tells_who_waits(callbacks: Callbacks) -> None:
    workers = Workers(callbacks)
    results = results_of(workers, range(100))
    ended: list[Exception | None] = []
    waiter = threading.Thread(target=lambda: ended.append(results.exception(10)), daemon=True)
    waiter.start()
    wait_until(lambda: len(workers.outstanding()) == 4, within=5)
    results.cancel()
    waiter.join(5)
    assert isinstance(ended[0], Cancelled)
    assert not workers.outstanding()
    assert results.cancelled()


def test_leaving_the_loop_or_the_block_cancels_what_is_asked(callbacks: Callbacks) -> None:
    for leave in ("break", "with"):
        # given four that are asked, and answers to two of them
        workers = Workers(callbacks)
        results = results_of(workers, range(100))

        def answer(workers: Workers = workers) -> None:
            wait_until(lambda: len(workers.asked) == 4, within=5)
            for value, reply in workers.asked[:2]:
                reply.set(value)

        answers = threading.Thread(target=answer, daemon=True)
        answers.start()

        # when they are left after that
        if leave == "break":
            for output in results:
                if output == 1:
                    break
            gc.collect()
        else:
            with results:
                assert next(iter(results)) == 0

        # then nothing is asked any more
        answers.join(5)
        assert len(workers.asked) > 2
        assert not workers.outstanding(), leave


def test_its_last_reference_gone_it_is_cancelled(callbacks: Callbacks) -> None:
    workers = Workers(callbacks)
    results = results_of(workers, range(100))
    with pytest.raises(TimeoutError):
        results.result(0.01)
    assert workers.outstanding()
    del results
    gc.collect()
    assert not workers.outstanding()


def test_one_that_nobody_waits_for_says_so(callbacks: Callbacks, caplog: pytest.LogCaptureFixture) -> None:
    results_of(Workers(callbacks), [1])
    gc.collect()
    assert "here.py:7: map(score) was never waited for, so nothing was asked" in caplog.text


def test_it_is_gone_through_once_and_in_one_way(callbacks: Callbacks) -> None:
    results = results_of(Workers(callbacks, double), [1, 2])
    assert list(results) == [2, 4]
    with pytest.raises(UsageError):
        list(results)
    with pytest.raises(UsageError):
        results.result(5)
    with pytest.raises(UsageError):
        list(results.as_completed())


@pytest.mark.asyncio
async def test_it_is_awaited_and_iterated_in_a_loop(callbacks: Callbacks) -> None:
    assert await results_of(Workers(callbacks, double), range(20)) == [number * 2 for number in range(20)]
    assert [each async for each in results_of(Workers(callbacks, double), [3, 4])] == [6, 8]
    items = [item async for item in results_of(Workers(callbacks, double), [3, 4]).as_completed()]
    assert [(item.index, item.output) for item in items] == [(0, 6), (1, 8)]

    async def values() -> AsyncIterator[int]:
        for number in range(5):
            await asyncio.sleep(0)
            yield number

    assert await results_of(Workers(callbacks, double), values()) == [0, 2, 4, 6, 8]


@pytest.mark.asyncio
async def test_answers_from_another_thread_wake_the_loop(callbacks: Callbacks) -> None:
    workers = Workers(callbacks)
    waiting = asyncio.ensure_future(asyncio.wait_for(_list(results_of(workers, range(10), window=3)), 10))

    def answer() -> None:
        for at in range(10):
            wait_until(lambda: len(workers.asked) > at, within=5)  # noqa: B023
            workers.asked[at][1].set(at)

    await asyncio.to_thread(answer)
    assert await waiting == list(range(10))


async def _list(results: Results[Any, Any]) -> list[Any]:
    return await results


@pytest.mark.asyncio
async def test_a_cancelled_task_cancels_what_is_asked(callbacks: Callbacks) -> None:
    workers = Workers(callbacks)
    results = results_of(workers, range(10))
    task = asyncio.ensure_future(_list(results))
    await asyncio.to_thread(wait_until, lambda: len(workers.outstanding()) == 4, within=5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not workers.outstanding()


@pytest.mark.asyncio
async def test_waiting_for_it_on_a_loop_is_refused_with_what_to_write(callbacks: Callbacks) -> None:
    with pytest.raises(UsageError, match=r"await zw\.map"):
        results_of(Workers(callbacks), [1]).result(1)


def test_async_values_want_a_loop(callbacks: Callbacks) -> None:
    async def values() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(UsageError, match="async for"):
        results_of(Workers(callbacks), values()).result(1)


@pytest.mark.asyncio
async def test_the_loop_turns_while_a_long_iterable_is_taken(callbacks: Callbacks) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counter = asyncio.ensure_future(count())
    assert len(await results_of(Workers(callbacks, double), range(20_000), window=100)) == 20_000
    counter.cancel()
    assert turns > 5
