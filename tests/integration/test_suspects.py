"""A handler that ends its process, in real processes: found by its third death, and nobody else is condemned."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.programs import Program, programs
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


def test_a_handler_that_ends_its_process_is_a_dead_letter_and_all_others_are_handled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        receipts = [zw.push("mail.parse", number) for number in range(500)]
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
    assert letter.reason.startswith("its worker died three times while it ran (mail")
