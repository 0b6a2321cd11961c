"""A handler that ends its process, in real processes: found by its third death, and nobody else is condemned."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.programs import ZEROWAIT, Program, finished, programs
from tests.waiting import wait_until
from zerowait import Client, notices

WORKER = """
import os
from zerowait import App

app = App("mail")

def witness(*words):
    with open(os.environ["WITNESS"], "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")

@app.pull("mail.parse", concurrency=4)
def parse(number: int) -> None:
    witness("begin", number, os.getpid())
    if number == 250:
        os._exit(3)
    witness("end", number, os.getpid())
"""


def lines(witness: Path, word: str) -> list[str]:
    return [line.split()[1] for line in witness.read_text().splitlines() if line.startswith(word + " ")]


@pytest.mark.parametrize("durable", [True, False])
def test_a_handler_that_ends_its_process_is_a_dead_letter_and_all_others_are_handled(
    durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = tmp_path / "witness"
    witness.touch()
    monkeypatch.setenv("WITNESS", str(witness))
    (tmp_path / "mail.py").write_text(WORKER)
    told: list[notices.DeadLettered] = []
    with programs(tmp_path) as start, Client("sender") as zw:
        zw.listen(notices.DeadLettered, told.append)

        def worker() -> Program:
            return start(sys.executable, "-m", "zerowait", "run", "mail:app")

        # given two workers that are started again whenever they die, as a supervisor does
        workers = [worker(), worker()]
        exits: list[int] = []

        def settled() -> bool:
            for at, program in enumerate(workers):
                if (code := program.process.poll()) is not None:
                    exits.append(code)
                    workers[at] = worker()
            return all(receipt.handled.done() for receipt in receipts)

        # when one message of five hundred ends whoever runs it
        receipts = [zw.push("mail.parse", number, durable=durable) for number in range(500)]
        wait_until(settled, within=90, that="all are handled or dead")

        # then it has run three times, and it alone is a dead letter that says so
        (row,) = [row for box in zw.status().boxes for row in box.channels if row.channel == "mail.parse"]
        assert (row.handled, row.dead, row.accepted) == (499, 1, 500)
        assert receipts[250].state == "dead"
        assert {receipt.state for number, receipt in enumerate(receipts) if number != 250} == {"handled"}
        assert exits == [3, 3, 3]
        wait_until(lambda: told, within=5)
    runs = Counter(lines(witness, "begin"))
    assert runs["250"] == 3
    assert set(lines(witness, "end")) == {str(number) for number in range(500) if number != 250}
    (letter,) = told
    assert letter.rule == "crashes"
    assert letter.attempts == 3
    words = "its worker died three times while it ran (mail; mail; mail); it may have been handled"
    assert letter.reason == words, "nobody has waited for these processes and told how they ended"


SELFISH = """
import os, time
from zerowait import App

app = App("selfish")

@app.pull("own.work", concurrency=4)
def work(number: int) -> None:
    with open(os.environ["WITNESS"], "a") as file:
        file.write(f"begin {number}\\n")
    if number == 7:
        os._exit(3)

if __name__ == "__main__":
    with app as zw:
        if not os.environ.get("BEGUN"):
            for number in range(20):
                zw.push("own.work", number)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            status = zw.status()
            if not status.unknown and not sum(box.unsettled for box in status.boxes):
                break
            time.sleep(0.02)
        (row,) = [row for box in zw.status().boxes for row in box.channels]
        print(row.accepted, row.handled, row.dead)
"""


def test_one_that_takes_its_sender_along_is_found_by_the_next_life_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = tmp_path / "witness"
    witness.touch()
    monkeypatch.setenv("WITNESS", str(witness))
    (tmp_path / "selfish.py").write_text(SELFISH)
    lives: list[Program] = []
    with programs(tmp_path) as start:
        while not lives or (lives[-1].ended(within=40) and len(lives) < 6):
            lives.append(start(sys.executable, "selfish.py"))
            lives[-1].ended(within=40)
            monkeypatch.setenv("BEGUN", "yes")
    assert [life.ended() for life in lives] == [3, 3, 3, 0]
    accepted, handled, dead = map(int, lives[-1].out.split())
    assert (dead, handled) == (1, accepted - 1), "what was stored before the first death is accounted for"
    assert Counter(lines(witness, "begin"))["7"] == 3


PATIENT = """
import os, time
from zerowait import App, Context

app = App("patient")

@app.pull("long.work")
def work(number: int, ctx: Context) -> None:
    with open(os.environ["WITNESS"], "a") as file:
        file.write(f"begin {ctx.attempt}\\n")
    if ctx.attempt == 1 and not os.environ.get("AGAIN"):
        time.sleep(60)
"""
PUSHES = """
import time
from zerowait import Client

Client("sender").push("long.work", 1).stored.result(timeout=10)
print("stored", flush=True)
time.sleep(60)
"""


def test_what_ran_at_one_that_was_leaving_when_it_was_killed_is_suspected_by_no_later_life_of_its_sender(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a machine is shut down, and whoever waits for its services loses patience."""
    witness = tmp_path / "witness"
    witness.touch()
    monkeypatch.setenv("WITNESS", str(witness))
    monkeypatch.setenv("ZEROWAIT_DRAIN", "60")
    (tmp_path / "patient.py").write_text(PATIENT)
    (tmp_path / "pushes.py").write_text(PUSHES)
    serve = (*ZEROWAIT, "run", "patient:app")
    with programs(tmp_path) as start:
        # given a message that runs for long, at a worker that is leaving
        sender, worker = start(sys.executable, "pushes.py"), start(*serve)
        worker.until(lambda _: lines(witness, "begin"))
        worker.signal(signal.SIGTERM)
        worker.until(lambda _: '"draining"' in finished(*ZEROWAIT, "status", "--json", folder=tmp_path).stdout)
        # when both are killed, and live again
        for program in (sender, worker):
            program.process.kill()
            program.ended()
        monkeypatch.setenv("AGAIN", "yes")
        start(*serve)
        with Client("sender") as zw:
            wait_until(lambda: len(lines(witness, "begin")) == 2, within=15)
            wait_until(lambda: not sum(box.unsettled for box in zw.status().boxes), within=15)
    # then it is run as if for the first time
    assert lines(witness, "begin") == ["1", "1"]
