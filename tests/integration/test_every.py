"""Handlers that run by the clock, in real processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

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


KILLED = """
import os, signal
from pathlib import Path
from zerowait import App, Context

app = App("clock")
witness = Path(os.environ["WITNESS"])

@app.every(0.8)
KIND tick(ctx: Context) -> None:
    with witness.open("a") as file:
        file.write(f"tick {ctx.id}\\n")
    if witness.with_name("kill").exists():
        witness.with_name("kill").unlink()
        with witness.open("a") as file:
            file.write(f"killed {os.getpid()}\\n")
        os.kill(os.getpid(), signal.SIGKILL)
"""

SLOW = """
import os, time
from zerowait import App

app = App("clock")

def say(word: str) -> None:
    with open(os.environ["WITNESS"], "a", encoding="utf-8") as file:
        file.write(f"{word} {os.getpid()} {time.monotonic()}\\n")

@app.every(0.3)
def slow() -> None:
    say("begin")
    time.sleep(1)
    say("end")
"""


@pytest.mark.parametrize("kind", [pytest.param("def", marks=pytest.mark.long), "async def"])
def test_a_run_whose_process_is_killed_is_not_done_again_by_another(
    kind: str, start: Start, witness: Path, tmp_path: Path
) -> None:
    # given more processes than are killed: the one that pushes is often another than the one that runs it
    (tmp_path / "clock.py").write_text(KILLED.replace("KIND", kind))
    running = [start(*ZEROWAIT, "run", "clock:app") for _ in range(6)]
    for each in running:
        each.until(lambda each: "Ctrl-C" in each.err)

    def have_written(word: str, times: int) -> Callable[[], bool]:
        return lambda: witness.read_text().count(word) >= times

    for killed in range(1, 4):
        # when one is killed in the middle of a run
        witness.with_name("kill").touch()
        wait_until(have_written("killed", killed), within=20)
        # then the others go on
        before = witness.read_text().count("tick")
        wait_until(have_written("tick", before + 2), within=20)
    # and nothing was done twice
    done = [line for line in witness.read_text().splitlines() if line.startswith("tick")]
    assert len(set(done)) == len(done)


def test_one_runs_at_a_time_in_all_processes_and_the_next_begins_when_it_has_ended(
    start: Start, witness: Path, tmp_path: Path
) -> None:
    (tmp_path / "clock.py").write_text(SLOW)
    running = [start(*ZEROWAIT, "run", "clock:app") for _ in range(3)]
    for each in running:
        each.until(lambda each: "Ctrl-C" in each.err)
    wait_until(lambda: witness.read_text().count("end") >= 5, within=30)
    lines = [line.split() for line in witness.read_text().splitlines()]
    assert [words[0] for words in lines[:10]] == ["begin", "end"] * 5, "two ran at once"
    begun = [float(words[2]) for words in lines if words[0] == "begin"]
    assert all(after - before < 2.5 for before, after in pairwise(begun))


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
