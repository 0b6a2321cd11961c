"""What the runners say of what they are at, for whoever finds their process dead."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.unit.handlers.fakes import FakeDesk, FakeOutputs, Spec, delivery, itself
from tests.waiting import wait_until_in_loop
from zerowait.handlers.stage import Stage

pytestmark = pytest.mark.asyncio


class FakeStarted:
    def __init__(self) -> None:
        self.slots: dict[int, tuple[int, int, int, int]] = {}
        self.told: list[tuple[int, int]] = []

    def begin(self, slot: int, box: int, epoch: int, first: int, count: int) -> None:
        self.slots[slot] = (box, epoch, first, count)
        self.told.append((first, count))

    def end(self, slot: int) -> None:
        self.slots.pop(slot, None)


async def opened(started: FakeStarted, desk: FakeDesk, *specs: Any) -> Stage:
    stage = Stage(specs, worker="tester", clock=lambda: 0.0, make_context=itself)
    assert stage.runners == sum(spec.concurrency for spec in specs)
    await stage.open(desk, FakeOutputs(), started)
    desk.stage = stage
    return stage


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_message_is_in_the_list_before_its_handler_runs_and_not_after(is_async: bool) -> None:
    started, desk, seen = FakeStarted(), FakeDesk(), list[Any]()

    def look(value: int) -> None:
        seen.append((value, sorted(started.slots.values())))

    async def look_async(value: int) -> None:
        look(value)

    stage = await opened(started, desk, Spec("work", look_async if is_async else look, is_async, concurrency=2))
    for number in (1, 2):
        desk.admit(delivery([number], ranges=((10 + number, 1),)))
        await wait_until_in_loop(lambda: desk.count == number, within=5)  # noqa: B023
        await wait_until_in_loop(lambda: not started.slots, within=5)
    assert seen == [(1, [(0xABC, 35, 11, 1)]), (2, [(0xABC, 35, 12, 1)])]
    await stage.close()


async def test_each_runner_of_each_channel_has_a_slot_of_its_own() -> None:
    started, desk, go = FakeStarted(), FakeDesk(), asyncio.Event()

    async def wait(value: int) -> None:
        await go.wait()

    stage = await opened(started, desk, Spec("a", wait, concurrency=2), Spec("b", wait, concurrency=2))
    desk.admit(delivery([1, 2], "a"), delivery([3, 4], "b"))
    await wait_until_in_loop(lambda: len(started.slots) == 4, within=5)
    assert sorted(started.slots) == [0, 1, 2, 3]
    go.set()
    await wait_until_in_loop(lambda: not started.slots, within=5)
    await stage.close()


async def test_when_one_of_many_lasts_only_that_one_is_left_in_the_list() -> None:
    started, desk, go = FakeStarted(), FakeDesk(), asyncio.Event()

    async def work(value: int) -> None:
        if value == 3:
            await go.wait()

    stage = await opened(started, desk, Spec("work", work, concurrency=1))
    stage._crews["work"].most = 8  # as after many quick ones
    desk.admit(delivery([1, 2, 3, 4, 5]))
    await wait_until_in_loop(lambda: list(started.slots.values()) == [(0xABC, 35, 3, 1)], within=5)
    assert started.told[0] == (1, 5)
    go.set()
    await wait_until_in_loop(lambda: desk.count == 5, within=5)
    await stage.close()
