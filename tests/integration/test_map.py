"""`map`, in real processes: spread, gathered, and no dearer for a killed worker than what it held."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.programs import ZEROWAIT, Start
from tests.waiting import wait_until
from zerowait import App, Client, NoResponder, RequestChannel, Settings
from zerowait.errors import RemoteError, UsageError

DOUBLE = RequestChannel[int, int]("double")

WORKER = """
import asyncio, os
from zerowait import App, RequestChannel

app = App("doubler")

@app.reply(RequestChannel[int, int]("double"), concurrency=8)
async def double(number: int) -> int:
    with open(os.environ["WITNESS"], "a", encoding="utf-8") as file:
        file.write(f"{number} {os.getpid()}\\n")
    if number < 0:
        raise ValueError("below zero")
    await asyncio.sleep(0.005)
    return number * 2
"""


def worker(start: Start, tmp_path: Path) -> int:
    (tmp_path / "doubling.py").write_text(WORKER)
    program = start(*ZEROWAIT, "run", "doubling:app")
    program.until(lambda it: "Ctrl-C" in it.err)
    return program.process.pid


def test_a_killed_worker_costs_only_the_repetition_of_what_it_held(start: Start, witness: Path, tmp_path: Path) -> None:
    # given two workers, and a list that takes both of them a while
    first, _ = worker(start, tmp_path), worker(start, tmp_path)
    with Client("asker") as zw:
        zw.workers(DOUBLE).at_least(2).result(10)
        results = zw.map(DOUBLE, range(600), window=100)
        got: list[int] = []
        for output in results:
            got.append(output)
            if len(got) == 200:
                # when one of them is killed, and another joins
                os.kill(first, signal.SIGKILL)
                wait_until(lambda: len(zw.workers(DOUBLE)) == 1, within=10)
                worker(start, tmp_path)
                zw.workers(DOUBLE).at_least(2).result(10)

    # then all is there, in its order, and little ran twice
    assert got == [number * 2 for number in range(600)]
    runs = Counter(int(line.split()[0]) for line in witness.read_text().splitlines())
    assert set(runs) == set(range(600))
    assert sum(runs.values()) - 600 <= 100
    assert len(Counter(line.split()[1] for line in witness.read_text().splitlines())) == 3


def test_failures_come_with_their_input_and_end_a_list(start: Start, witness: Path, tmp_path: Path) -> None:
    worker(start, tmp_path)
    with Client("asker") as zw:
        items = list(zw.map(DOUBLE, [1, -1, 2]).as_completed())
        assert {item.input: item.error is None for item in items} == {1: True, -1: False, 2: True}
        with pytest.raises(RemoteError, match="below zero"):
            zw.map(DOUBLE, [1, -1, 2]).result(10)


def test_nobody_there_is_told_within_a_second_or_so(settings: Settings) -> None:
    with Client("asker", settings=settings) as zw, pytest.raises(NoResponder):
        zw.map(DOUBLE, [1, 2, 3]).result(10)


def test_leaving_it_early_leaves_nothing_to_be_answered(settings: Settings) -> None:
    app, ran = App("doubler", settings=settings), list[int]()

    @app.reply(DOUBLE)
    async def double(number: int) -> int:
        ran.append(number)
        return number * 2

    with app as zw:
        for output in zw.map(DOUBLE, range(100_000), window=10):
            if output == 40:
                break
        wait_until(lambda: not sum(each.outstanding for each in zw.status().requests), within=10)
        assert len(ran) < 200


@pytest.mark.asyncio
async def test_async_values_are_asked_about_in_a_loop(settings: Settings) -> None:
    app = App("doubler", settings=settings)

    @app.reply("double")
    async def double(number: int) -> int:
        return number * 2

    async def values() -> AsyncIterator[int]:
        for number in range(50):
            yield number

    async with app as zw:
        assert await zw.map(DOUBLE, values()) == [number * 2 for number in range(50)]
        assert await zw.map("double", [1, 2], returns=int) == [2, 4]


def test_what_cannot_be_a_map_is_said_at_the_call(settings: Settings) -> None:
    from zerowait import PushChannel

    with Client("asker", settings=settings) as zw:
        for wrong in (
            lambda: zw.map(PushChannel[int]("numbers"), [1]),  # type: ignore[call-overload]
            lambda: zw.map(DOUBLE, 5),  # type: ignore[call-overload]
            lambda: zw.map(DOUBLE, [1], window=0),
            lambda: zw.map(DOUBLE, [1], timeout=0),
            lambda: zw.map(DOUBLE, [1], windows=3),  # type: ignore[call-overload]
        ):
            with pytest.raises(UsageError):
                wrong()
