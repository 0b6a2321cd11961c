"""The ventilator, its workers and the sink: three plain programs, and each of them replaced by one of ours."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plain.ports import endpoint, plain
from tests.programs import ZEROWAIT, Start
from tests.waiting import wait_until
from zerowait import App, Client, Plain, PushChannel

TASKS = 60


class Ventilator:
    """The plain one: it waits for a line before it gives out its tasks."""

    def __init__(self, where: str, sink: str) -> None:
        command = [*plain("ventilator"), where, sink, str(TASKS)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@pytest.fixture
def ventilators() -> Iterator[list[Ventilator]]:
    made: list[Ventilator] = []
    yield made
    for each in made:
        each.process.kill()
        each.process.communicate()


def test_our_workers_stand_between_a_plain_ventilator_and_a_plain_sink(
    start: Start, witness: Path, ventilators: list[Ventilator]
) -> None:
    tasks, results = endpoint(), endpoint()
    sink = start(*plain("task_sink"), results, str(TASKS))
    sink.until(lambda it: "ready" in it.out)
    ventilators.append(Ventilator(tasks, results))
    for _ in range(2):
        ours = start(
            "env", f"CONNECT={tasks}", f"BIND={results}", *ZEROWAIT, "run", "tests.integration.plain_services:worker"
        )
        ours.until(lambda it: "Ctrl-C" in it.err, that="it serves")
    ventilators[0].go()
    assert sink.ended(within=30) == 0
    assert sink.out.splitlines() == ["ready", "start 0", f"all {TASKS}"]


def test_our_sink_collects_what_plain_workers_send(start: Start, ventilators: list[Ventilator]) -> None:
    tasks, results = endpoint(), endpoint()
    app, got = App("sink"), list[str]()

    @app.pull(PushChannel[str]("results", plain=Plain("text", bind=results)))
    def collect(result: str) -> None:
        got.append(result)

    with app:
        for _ in range(2):
            start(*plain("task_worker"), tasks, results)
        ventilators.append(Ventilator(tasks, results))
        ventilators[0].go()
        wait_until(lambda: len(got) == 1 + TASKS, within=30)
    assert sorted(got) == [""] * TASKS + ["0"]


def test_our_ventilator_gives_plain_workers_their_tasks(start: Start) -> None:
    where, results = endpoint(), endpoint()
    sink = start(*plain("task_sink"), results, str(TASKS))
    sink.until(lambda it: "ready" in it.out)
    tasks = PushChannel[int]("tasks", plain=Plain("text", bind=where))
    told = PushChannel[str]("told", plain=Plain("text", connect=results))
    with Client("ventilator") as zw:
        zw.push(told, "0")
        sink.until(lambda it: "start 0" in it.out)
        for _ in range(2):
            start(*plain("task_worker"), where, results)
        receipts = [zw.push(tasks, number % 5) for number in range(TASKS)]
        receipts[-1].result(10)
        assert sink.ended(within=30) == 0
    assert sink.out.splitlines()[-1] == f"all {TASKS}"


def test_all_three_are_ours_on_plain_sockets() -> None:
    where, results = endpoint(), endpoint()
    app, sink, got = App("worker"), App("sink"), list[str]()

    @app.pull(
        PushChannel[int]("tasks", plain=Plain("text", connect=where)),
        to=PushChannel[str]("done", plain=Plain("text", connect=results)),
    )
    async def work(milliseconds: int) -> str:
        await asyncio.sleep(milliseconds / 1_000)
        return ""

    @sink.pull(PushChannel[str]("results", plain=Plain("text", bind=results)))
    def collect(result: str) -> None:
        got.append(result)

    tasks = PushChannel[int]("ventilated", plain=Plain("text", bind=where))
    with sink, app, Client("ventilator") as zw:
        for number in range(TASKS):
            zw.push(tasks, number % 5)
        wait_until(lambda: got == [""] * TASKS, within=20)
