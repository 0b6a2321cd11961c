"""Messages with a key in real processes: in their order, one at a time, whichever worker is killed."""

from __future__ import annotations

import signal
import sys
import threading
from collections import defaultdict
from functools import partial
from pathlib import Path

import pytest

from tests.programs import Program, programs
from tests.waiting import wait_until
from zerowait import App, Client, Receipt, Settings

WORKER = """
import os, time
from zerowait import App, Context

app = App("books")

def witness(line):
    file = os.open(os.environ["WITNESS"], os.O_WRONLY | os.O_APPEND)
    os.write(file, (line + "\\n").encode())
    os.close(file)

@app.pull("book.entry", concurrency=4)
KIND work(entry: list[int], ctx: Context) -> None:
    account, number = entry
    assert ctx.key == f"account {account}"
    witness(f"begin {account} {number} {os.getpid()}")
    time.sleep(0.002)
    if number % 17 == 5 and ctx.attempt == 1:
        witness(f"fail {account} {number} {os.getpid()}")
        raise OSError("not now")
    witness(f"end {account} {number} {os.getpid()}")
"""
RETRIES = 'app.pull("book.entry", concurrency=4'


def test_what_is_withdrawn_behind_one_of_its_key_lets_the_others_pass(settings: Settings) -> None:
    app, begun, may_end = App("books", settings=settings), list[int](), threading.Event()

    @app.pull("book.entry", concurrency=16)
    def work(number: int) -> None:
        begun.append(number)
        assert number or may_end.wait(10)

    with Client("sender", settings=settings) as zw:
        receipts = [zw.push("book.entry", number, key="a") for number in range(8)]
        with app:
            wait_until(lambda: begun, within=10)  # and the others stand behind it there
            taken = [receipts[2].withdraw().result(10), receipts[5].withdraw().result(10)]
            may_end.set()
            for number in (0, 1, 3, 4, 6, 7):
                receipts[number].handled.result(10)
    assert taken == [True, True]
    assert begun == [0, 1, 3, 4, 6, 7]


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("durable", [True, False])
def test_workers_are_killed_and_each_key_is_handled_in_order_by_one_at_a_time(
    kind: str, durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = tmp_path / "witness"
    witness.touch()
    monkeypatch.setenv("WITNESS", str(witness))
    program = WORKER.replace("KIND", kind).replace(RETRIES, RETRIES + ", retry=Retry(delay=0.05)")
    (tmp_path / "books.py").write_text(program.replace("import App, Context", "import App, Context, Retry"))
    accounts, entries = 6, 60
    killed: set[int] = set()
    with programs(tmp_path) as start, Client("sender") as zw:

        def worker() -> Program:
            return start(sys.executable, "-m", "zerowait", "run", "books:app")

        # given two workers
        workers = [worker(), worker()]
        zw.workers("book.entry").at_least(2).result(timeout=60)

        # when one of them is killed again and again, and started again, while entries of six accounts are pushed
        receipts = [
            zw.push("book.entry", [account, number], key=f"account {account}", durable=durable)
            for number in range(entries)
            for account in range(accounts)
        ]
        for at in (0, 1, 0):
            seen = len(witness.read_text())
            wait_until(partial(has_grown, witness, seen, receipts), within=60)
            victim = workers[at].process
            killed.add(victim.pid)
            workers[at].signal(signal.SIGKILL)
            victim.wait()
            workers[at] = worker()
        wait_until(lambda: all_done(receipts), within=90, that="all are handled")
        assert {receipt.state for receipt in receipts} == {"handled"}

    ended: dict[str, list[int]] = defaultdict(list)
    running: dict[str, tuple[int, int]] = {}
    for line in witness.read_text().splitlines():
        verb, account, number, pid = line.split()
        if verb == "begin":
            # then no two of an account run at once, unless the first was killed in the middle of it
            before = running.get(account)
            assert before is None or before[1] in killed, f"{line}, while {before} ran"
            running[account] = (int(number), int(pid))
        else:
            assert running.pop(account) == (int(number), int(pid))
        if verb == "end" and int(number) not in ended[account]:
            ended[account].append(int(number))
    # and each account has its entries in the order in which they were pushed
    assert dict(ended) == {str(account): list(range(entries)) for account in range(accounts)}


def all_done(receipts: list[Receipt]) -> bool:
    return all(receipt.handled.done() for receipt in receipts)


def has_grown(witness: Path, since: int, receipts: list[Receipt]) -> bool:
    return len(witness.read_text()) > since + 400 or all_done(receipts)
