"""What verbs return: waiting leaves nothing behind, callbacks run and are forgotten, a fork is told so."""

from __future__ import annotations

import asyncio
import os
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from tests.unit.outbox.boxes import Nowhere
from tests.waiting import wait_until
from zerowait.callbacks import Callbacks
from zerowait.errors import Dead, EncodeError, OutcomeUnknown, StoreError, UsageError
from zerowait.outbox.intake import Intake, Limits
from zerowait.outbox.lane import Lane
from zerowait.pending import Promise, anew
from zerowait.receipts import Receipt

encoder = msgspec.msgpack.Encoder()


@pytest.fixture
def callbacks() -> Iterator[Callbacks]:
    made = Callbacks("test")
    yield made
    made.stop()


@pytest.fixture
def intake(callbacks: Callbacks) -> Intake:
    made = Intake(Limits(), durable=True, wake=lambda: None, room=Nowhere, now_us=lambda: 0)
    made.callbacks = callbacks
    made.pid = os.getpid()
    made.box = 1
    return made


@pytest.fixture
def receipt(intake: Intake) -> Receipt:
    return Receipt(*Lane(intake, "c", int, encoder.encode_into).first(1))


def store(intake: Intake) -> None:
    for sheaf, piece in intake.take():
        sheaf.sealed(1, 1)
        sheaf.stored()
        intake.stored([(sheaf, piece.count)])


def test_a_result_that_times_out_leaves_nothing_behind(receipt: Receipt, intake: Intake) -> None:
    for _ in range(50):
        with pytest.raises(TimeoutError):
            receipt.result(0)
        with pytest.raises(TimeoutError):
            receipt.handled.result(0)
    assert receipt._sheaf._stored_watchers is None
    assert receipt._sheaf._settled_watchers is None
    assert not intake.watched


def test_a_cancelled_await_leaves_nothing_behind_and_the_others_wait_on(receipt: Receipt, intake: Intake) -> None:
    async def wait() -> None:
        other = asyncio.ensure_future(asyncio.wait_for(receipt, 10))
        for _ in range(20):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(receipt, 0.001)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(receipt.handled, 0.001)
        assert len(receipt._sheaf._stored_watchers[0]) == 1
        assert receipt._sheaf._settled_watchers is None
        store(intake)
        assert await other is receipt

    asyncio.run(wait())
    assert not intake.watched


def test_a_promise_forgets_whoever_waits_no_more(callbacks: Callbacks) -> None:
    promise: Promise[int] = Promise(callbacks)
    for _ in range(20):
        with pytest.raises(TimeoutError):
            promise.result(0)
    assert not promise.watchers
    promise.set(3)
    assert promise.result() == 3


def test_a_callback_is_removed_through_another_object_of_the_same_message(receipt: Receipt, intake: Intake) -> None:
    called: list[object] = []
    receipt.handled.add_done_callback(called.append)
    assert receipt.handled.remove_done_callback(print) == 0
    assert receipt.handled.remove_done_callback(called.append) == 1
    assert receipt.handled.remove_done_callback(called.append) == 0
    assert not intake.watched
    store(intake)
    receipt._sheaf.moved(1, 1, "handled")
    over = threading.Event()
    receipt.handled.add_done_callback(lambda _: over.set())
    assert over.wait(5)
    assert called == []


def test_remembering_callbacks_costs_no_look_at_all_of_them(callbacks: Callbacks) -> None:
    looks = 0

    class Looked(Promise[int]):
        def _same(self, other: object) -> bool:
            return self is other

    promise: Promise[int] = Looked(callbacks)
    for _ in range(2_000):
        before = callbacks._known
        promise.add_done_callback(print)
        looks += callbacks._known is not before
    assert looks < 10
    assert promise.remove_done_callback(print) == 2_000
    assert not promise.watchers


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ValueError])
def test_no_error_of_a_callback_ends_their_thread(callbacks: Callbacks, error: type[BaseException]) -> None:
    def fail() -> None:
        raise error

    over = threading.Event()
    callbacks.call(fail)
    callbacks.call(over.set)
    assert over.wait(5)


def test_an_error_that_is_raised_often_keeps_no_frames_and_all_it_says(callbacks: Callbacks) -> None:
    error = StoreError("the disk is full", path="/x", errno=28)
    error.add_note("look")
    promise: Promise[int] = Promise(callbacks)
    promise.fail(error)
    depths = set[int]()
    for _ in range(5):
        with pytest.raises(StoreError, match="disk is full") as raised:
            promise.result()
        depths.add(len(traceback.extract_tb(raised.value.__traceback__)))
        assert (raised.value.path, raised.value.errno, raised.value.__notes__) == ("/x", 28, ["look"])
    assert len(depths) == 1
    assert error.__traceback__ is None


class Peculiar(Exception):
    def __init__(self, first: int, *, second: int) -> None:
        super().__init__(first)


@pytest.mark.parametrize(
    "error",
    [
        EncodeError("no", path="$.a"),
        Dead(reason="why", attempts=2, traceback="there", channel="c", id="i"),
        OutcomeUnknown(channel="c"),
        ValueError("v"),
        KeyError("k"),
        Peculiar(1, second=2),
    ],
)
def test_an_error_made_anew_is_as_the_first(error: Exception) -> None:
    again = anew(error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_a_damaged_note_does_not_hide_that_a_letter_is_dead(receipt: Receipt, intake: Intake) -> None:
    store(intake)
    receipt._sheaf.moved(1, 1, "dead", b"\xc1\xff", 3)
    with pytest.raises(Dead, match="cannot be read") as raised:
        receipt.handled.result(1)
    assert raised.value.attempts == 3


USES: list[Callable[[Receipt], Any]] = [
    lambda receipt: receipt.result(5),
    lambda receipt: receipt.handled.result(5),
    lambda receipt: receipt.withdraw(),
    lambda receipt: receipt.add_done_callback(print),
]


@pytest.mark.parametrize("use", USES)
def test_a_receipt_of_another_process_says_whose_it_is(
    receipt: Receipt, intake: Intake, use: Callable[[Receipt], Any]
) -> None:
    intake.pid = 4_194_305
    with pytest.raises(UsageError, match="belongs to process 4194305"):
        use(receipt)


def test_a_promise_in_a_forked_child_does_not_hang(callbacks: Callbacks) -> None:
    promise: Promise[int] = Promise(callbacks)
    callbacks.pid = 4_194_305
    with pytest.raises(UsageError, match="belongs to process 4194305"):
        promise.result(5)


def test_a_callback_of_a_receipt_runs_once(receipt: Receipt, intake: Intake) -> None:
    called: list[object] = []
    receipt.add_done_callback(called.append)
    store(intake)
    wait_until(lambda: called, within=5)
    assert called == [receipt]
