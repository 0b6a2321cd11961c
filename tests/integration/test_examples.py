"""The small programs of the documentation run as they stand."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs import ZEROWAIT, Program, Start, programs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with programs(tmp_path) as starter:
        yield starter


def run(*args: str) -> str:
    done = subprocess.run([sys.executable, "-m", *args], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def printed_all(worker: Program) -> bool:
    """The digits, in any order; `print` writes its newline apart, so lines of two threads may meet."""
    return sorted("".join(worker.out.split())) == ["0", "1", "2"]


def test_the_printer_prints_what_the_counter_pushes(start: Start) -> None:
    worker = start(*ZEROWAIT, "run", "examples.printer:app")
    worker.until(lambda it: "Ctrl-C" in it.err, that="it serves")
    run("examples.printer")
    worker.until(printed_all)
    worker.signal(signal.SIGTERM)
    assert worker.ended() == 0


def test_what_is_pushed_while_the_worker_is_dead_is_printed_when_it_is_back(start: Start) -> None:
    worker = start(*ZEROWAIT, "run", "examples.printer:app")
    worker.until(lambda it: "Ctrl-C" in it.err, that="it serves")
    worker.signal(signal.SIGKILL)
    worker.ended()
    run("examples.printer")
    again = start(*ZEROWAIT, "run", "examples.printer:app")
    again.until(printed_all)


def test_the_pipeline_fans_out(start: Start) -> None:
    assert sorted(run("examples.pipeline").split()) == ["lines", "short", "three"]


def test_the_nightly_job_loads_and_leaves(start: Start) -> None:
    assert "3 mails are safe" in run("examples.nightly")


def test_a_question_gets_its_answer_and_the_exception_of_its_contract() -> None:
    assert run("examples.request_reply").split("\n") == ["7 12", "unknown: example.com", ""]


def test_a_map_gives_its_results_in_order() -> None:
    assert run("examples.map").split("\n") == ["one 3", "three 5", "five 4", "seventeen 9", "failed: []", ""]


def test_a_stream_is_read_as_far_as_one_likes() -> None:
    assert run("examples.stream").split("\n") == ["1: hello", "2: hello", "3: hello", ""]


def test_prices_are_shown_and_counted() -> None:
    said = run("examples.publish_subscribe").splitlines()
    assert said == [
        "the last price is addressed to 2",
        "shown: [1.5, 2.5, 3.5, 1.0]",
        "counted: [1.0, 1.5, 2.5, 3.5]",
    ]


def test_plain_programs_and_ours_stand_at_either_end_of_all_six_sockets() -> None:
    assert sorted(run("examples.plain_peers").splitlines()) == [
        "a plain subscriber: 10001 21 55",
        "our subscriber: 10001 21 55",
        "squares: ['0', '1', '4']",
        "they answered: 1200",
        "we answered: World",
    ]


def test_the_bank_waits_for_a_screen_without_sleeping(start: Start) -> None:
    bank = start(sys.executable, "-m", "examples.publish_subscribe", "bank")
    screen = start(sys.executable, "-m", "examples.publish_subscribe", "screen")
    screen.until(lambda it: "prices.usd 1.0 from bank" in it.out)
    assert bank.ended() == 0
