"""Handlers that run by the clock, in real processes."""

from __future__ import annotations

import time
from pathlib import Path

from tests.programs import ZEROWAIT, Start
from tests.waiting import wait_until
from zerowait import App, Context, Settings

PROGRAM = """
import os
from zerowait import App, Context

app = App("clock")

@app.every(0.3)
async def tick(ctx: Context) -> None:
    with open(os.environ["WITNESS"], "a", encoding="utf-8") as file:
        file.write(f"tick {os.getpid()} {ctx.attempt}\\n")
"""


def test_of_two_processes_one_does_it_each_time_and_one_goes_on_alone(
    start: Start, witness: Path, tmp_path: Path
) -> None:
    # given two processes of one app
    (tmp_path / "clock.py").write_text(PROGRAM)
    first, second = (start(*ZEROWAIT, "run", "clock:app") for _ in range(2))
    for each in (first, second):
        each.until(lambda each: "Ctrl-C" in each.err)
        assert "every.clock.tick  every 0.3 s" in each.err

    # when it is due some times
    began, before = time.time(), len(witness.read_text().splitlines())
    wait_until(lambda: len(witness.read_text().splitlines()) >= before + 5, within=20)
    took = time.time() - began

    # then it has run once each time, whoever did it
    assert len(witness.read_text().splitlines()) - before <= took / 0.3 + 2

    # and when one of them is killed, the other goes on
    first.process.kill()
    wait_until(lambda: first.process.poll() is not None, within=5)
    killed = len(witness.read_text().splitlines())
    wait_until(lambda: len(witness.read_text().splitlines()) >= killed + 3, within=20)
    assert {line.split()[1] for line in witness.read_text().splitlines()[killed + 1 :]} == {str(second.process.pid)}


def test_what_it_sends_by_its_context_leaves_if_it_succeeds_and_its_failure_is_a_letter(settings: Settings) -> None:
    app, runs, got = App("clock", settings=settings), list[int](), list[int]()

    @app.every(0.1)
    def now_and_then(ctx: Context) -> None:
        runs.append(len(runs))
        ctx.push("results", runs[-1])
        if runs[-1] == 1:
            raise ValueError("not this time")

    @app.pull("results")
    async def take(number: int) -> None:
        got.append(number)

    with app as zw:
        wait_until(lambda: len(got) >= 3, within=20)
        rows = [row for box in zw.status().boxes for row in box.channels if row.channel == "every.clock.now_and_then"]
        assert sum(row.dead for row in rows) == 1
    assert 1 not in got
    assert got[:3] == [0, 2, 3]
