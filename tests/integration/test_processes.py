"""`zerowait run --processes`: one app in several processes, which start and stop together."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.programs import ZEROWAIT, Program, Start, finished, programs
from tests.waiting import wait_until

ADDER = """
import asyncio, os, signal, sys, time
from zerowait import App

app = App("adder")
here = os.path.dirname(os.path.abspath(__file__))


@app.pull("numbers")
async def add(number: int) -> None:
    os.write(1, f"{os.getpid()} has {number}\\n".encode())
    await asyncio.sleep(0.05)


@app.pull("deaths")
async def die(number: int) -> None:
    if number > 0:
        os.kill(os.getpid(), number)
    os._exit(-number)


@app.pull("blocks")
async def block(seconds: float) -> None:
    marked = os.path.join(here, "blocked")
    if os.path.exists(marked):
        os.write(1, b"done\\n")
        return
    open(marked, "w").close()
    time.sleep(seconds)


@app.pull("naps")
async def nap(seconds: float) -> None:
    os.write(1, b"napping\\n")
    await asyncio.sleep(seconds)
    os.write(1, b"slept\\n")


if __name__ == "__main__":
    app.run()
"""

Zerowait = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "adder.py").write_text(ADDER, encoding="utf-8")
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    with programs(folder) as start:
        yield start


@pytest.fixture
def zerowait(folder: Path) -> Zerowait:
    def run(*args: str, stdin: str = "") -> str:
        ran = finished(*ZEROWAIT, *args, folder=folder, stdin=stdin)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    return run


def serving(start: Start, *options: str, processes: int = 3) -> tuple[Program, list[int]]:
    """Gives it once all serve, and the numbers of its processes."""
    program = start(*ZEROWAIT, "run", "adder:app", "--processes", str(processes), *options)
    return program, children(program)


def children(program: Program) -> list[int]:
    program.until(lambda it: "Ctrl-C" in it.err, that="the banner says how to stop")
    found = re.search(r"^ +process +([\d ]+)$", program.err, re.MULTILINE)
    assert found is not None, program.err
    return [int(pid) for pid in found[1].split()]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return (
        Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z" if Path("/proc").is_dir() else True
    )


def served(zerowait: Zerowait) -> dict[int, int]:
    """Process number → how many numbers it has handled."""
    told = json.loads(zerowait("status", "--json"))
    return {
        process["pid"]: sum(each["ended"] for each in process["serves"] if each["channel"] == "numbers")
        for process in told["processes"]
    }


def test_all_of_them_share_the_channel_and_stop_together(start: Start, zerowait: Zerowait) -> None:
    program, pids = serving(start)
    assert len(set(pids)) == 3
    assert program.process.pid not in pids
    assert program.err.count("Ctrl-C") == 1, "one banner"

    zerowait("push", "numbers", "--wait", stdin="".join(f"{number}\n" for number in range(300)))
    counts = served(zerowait)
    assert set(counts) == set(pids)
    assert sum(counts.values()) == 300
    assert all(counts.values()), counts

    program.signal(signal.SIGTERM)
    assert program.ended() == 0, str(program)
    assert not any(is_alive(pid) for pid in pids)
    assert sorted(int(number) for number in re.findall(r"has (\d+)", program.out)) == list(range(300))


def test_what_runs_is_finished_when_they_are_told_to_stop(start: Start, zerowait: Zerowait) -> None:
    program, _ = serving(start, processes=2)
    zerowait("push", "naps", "0.8")
    program.until(lambda it: "napping" in it.out)
    program.signal(signal.SIGINT)
    assert program.ended() == 0, str(program)
    assert "slept" in program.out


def test_a_signal_to_all_of_them_at_once_lets_them_finish_too(start: Start, zerowait: Zerowait) -> None:
    # As Ctrl-C in a terminal does, and systemd.
    program, _ = serving(start, processes=2)
    zerowait("push", "naps", "0.8")
    program.until(lambda it: "napping" in it.out)
    os.killpg(program.process.pid, signal.SIGINT)
    assert program.ended() == 0, str(program)
    assert "slept" in program.out


def test_a_second_signal_leaves_at_once(start: Start, zerowait: Zerowait) -> None:
    program, pids = serving(start, "--drain", "60", processes=2)
    zerowait("push", "naps", "60", "--drain", "0.2")
    program.until(lambda it: "napping" in it.out)
    program.signal(signal.SIGTERM)
    program.until(lambda it: "once more" in it.err)
    program.signal(signal.SIGTERM)
    assert program.ended(within=5) == 128 + signal.SIGTERM, str(program)
    wait_until(lambda: not any(is_alive(pid) for pid in pids), within=5)


def test_who_is_killed_is_started_again_and_the_others_go_on(start: Start, zerowait: Zerowait) -> None:
    program, pids = serving(start)
    os.kill(pids[1], signal.SIGKILL)
    program.until(lambda it: re.search(rf"process {pids[1]} has ended .*signal 9 \(SIGKILL\)", it.err))
    program.until(lambda it: re.search(r"process \d+ serves", it.err), that="another serves")
    now = served(zerowait)
    assert len(now) == 3
    assert set(now) > {pids[0], pids[2]}
    assert pids[1] not in now


@pytest.mark.parametrize(
    ("value", "signal_number", "exit_code"),
    [(int(signal.SIGSEGV), int(signal.SIGSEGV), None), pytest.param(-7, None, 7, marks=pytest.mark.long)],
)
def test_a_dead_letter_tells_how_each_process_that_it_killed_ended(
    start: Start, zerowait: Zerowait, value: int, signal_number: int | None, exit_code: int | None
) -> None:
    serving(start, processes=2)
    zerowait("push", "deaths", stdin=f"{value}\n")

    def letters() -> list[dict[str, Any]]:
        return [json.loads(line) for line in zerowait("dead", "list", "--json").splitlines()]

    wait_until(letters, within=30, that="three processes have died of it")
    (shown,) = [json.loads(zerowait("dead", "show", letter["id"], "--json")) for letter in letters()]
    deaths = [(death["worker"], death["signal"], death["exit_code"]) for death in shown["deaths"]]
    assert deaths == [("adder", signal_number, exit_code)] * 3
    assert (f"signal {signal_number}" if signal_number else f"exit code {exit_code}") in shown["reason"]


def test_children_end_when_their_parent_is_killed(start: Start, zerowait: Zerowait) -> None:
    program, pids = serving(start, processes=2)
    zerowait("push", "naps", "0.8")
    program.until(lambda it: "napping" in it.out)
    program.process.kill()
    wait_until(
        lambda: not any(is_alive(pid) for pid in pids), within=15, that="nobody is left that would be started twice"
    )
    assert "slept" in program.out, "what ran was finished"


def test_one_whose_loop_stands_is_killed_after_stuck_after(start: Start, zerowait: Zerowait) -> None:
    program, pids = serving(start, "--stuck-after", "1", processes=2)
    zerowait("push", "blocks", "600")
    program.until(lambda it: "has not turned for 1 s" in it.err)
    program.until(lambda it: "done" in it.out, that="another ran it")
    assert sum(is_alive(pid) for pid in pids) == 1


@pytest.mark.long
def test_one_that_is_stopped_is_killed_after_stuck_after(start: Start) -> None:
    program, pids = serving(start, "--stuck-after", "1", processes=2)
    os.kill(pids[0], signal.SIGSTOP)
    program.until(lambda it: re.search(rf"process {pids[0]} has ended .*SIGKILL", it.err))
    program.until(lambda it: re.search(r"process \d+ serves", it.err))
    assert is_alive(pids[1])


def test_what_keeps_them_from_serving_is_said_once(start: Start, folder: Path) -> None:
    (folder / "adder.py").write_text("import nowhere_to_be_found\n", encoding="utf-8")
    program = start(*ZEROWAIT, "run", "adder:app", "--processes", "3")
    assert program.ended() == 2, str(program)
    assert program.err.count("nowhere_to_be_found") == 2, program.err  # the line, and what is wrong with it
    assert "Ctrl-C" not in program.err


def test_each_listens_at_a_port_of_its_own_and_one_that_is_taken_stops_all(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        program = start(*ZEROWAIT, "run", "adder:app", "--processes", "2", "--listen", f"tcp://127.0.0.1:{port - 1}")
        assert program.ended() == 2, str(program)
        assert f"{port}" in program.err
        assert "the others stop" in program.err

    program, _ = serving(start, "--listen", f"tcp://127.0.0.1:{port - 1}", processes=2)
    for each in (port - 1, port):
        assert f"tcp://127.0.0.1:{each}\n" in program.err
        socket.create_connection(("127.0.0.1", each), timeout=5).close()


def test_a_program_that_runs_its_app_itself_is_started_so_many_times(
    start: Start, folder: Path, zerowait: Zerowait, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as around:
        around.setenv("ZEROWAIT_PROCESSES", "2")
        program = start(sys.executable, "adder.py")
    wait_until(lambda: len(served(zerowait)) == 2, within=15)
    assert program.process.pid not in served(zerowait)
    program.signal(signal.SIGTERM)
    assert program.ended() == 0, str(program)


def test_a_log_line_says_which_process_wrote_it(start: Start) -> None:
    program, pids = serving(start, "--log-format", "json", processes=2)
    os.kill(pids[1], signal.SIGTERM)
    program.until(lambda it: re.search(rf"process {pids[1]} has ended", it.err))
    lines = [json.loads(line) for line in program.err.splitlines() if line.startswith("{")]
    assert any(line.get("process") == pids[1] and "SIGTERM" in line["message"] for line in lines)
