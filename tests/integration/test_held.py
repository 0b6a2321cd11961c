"""A handler that holds the interpreter, as a C extension does that does not let go of it: its process lives, and
nothing else of it goes on. In real processes."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.programs import ZEROWAIT, Program, Start
from tests.waiting import wait_until
from zerowait import Client, notices

WORKER = """
import ctypes, os, time
from zerowait import App

app = App("mail")
libc = ctypes.PyDLL(None)  # CDLL would let go of the interpreter while it calls

def witness(*words):
    with open(os.environ["WITNESS"], "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")

@app.pull("mail.parse", concurrency=3)
def parse(number: int) -> None:
    witness("begin", number, os.getpid())
    if number == 100:
        libc.open(os.environ["GATE"].encode(), os.O_RDONLY)  # a pipe: until somebody opens its other end
    time.sleep(0.002 if number != 6 else 1.0)
    witness("end", number, os.getpid())
"""
HOLDS = 100
IN_HAND = 6  # three runners: each has one message, and perhaps one for a neighbour
QUICK = {"ZEROWAIT_PING": "0.5", "ZEROWAIT_SILENCE": "1.5", "ZEROWAIT_RESUME_GRACE": "3"}


class Scene:
    """Two workers, and what their handlers have written."""

    def __init__(self, folder: Path, witness: Path, start: Start) -> None:
        self._witness = witness
        self.gate = folder / "gate"
        os.mkfifo(self.gate)
        (folder / "mail.py").write_text(WORKER)
        self.workers = [start(*ZEROWAIT, "run", "mail:app") for _ in range(2)]
        for worker in self.workers:
            worker.until(lambda program: "Ctrl-C" in program.err)

    def lines(self, word: str) -> list[tuple[int, int]]:
        """(number, pid)"""
        found = [line.split() for line in self._witness.read_text().splitlines()]
        return [(int(number), int(pid)) for what, number, pid in found if what == word]

    def of(self, word: str, worker: Program) -> set[int]:
        return {number for number, pid in self.lines(word) if pid == worker.process.pid}

    def who_began(self, number: int) -> tuple[Program, Program]:
        """That one, and the other."""
        (pid,) = wait_until(lambda: [pid for each, pid in self.lines("begin") if each == number], within=15)
        return tuple(sorted(self.workers, key=lambda worker: worker.process.pid != pid))  # type: ignore[return-value]

    def let_go(self) -> None:
        with self.gate.open("wb"):
            pass

    def twice(self) -> list[int]:
        return [number for number, times in Counter(number for number, _ in self.lines("begin")).items() if times > 1]


@pytest.fixture
def scene(tmp_path: Path, witness: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> Scene:
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GATE", str(tmp_path / "gate"))
    return Scene(tmp_path, witness, start)


def in_flight(zw: Client, worker: Program) -> int:
    return sum(peer.in_flight for peer in zw.status().peers if peer.pid == worker.process.pid)


def told(zw: Client, kind: type[notices.Notice]) -> Callable[[], bool]:
    heard: list[object] = []
    zw.listen(kind, heard.append)
    return lambda: bool(heard)


def test_what_one_who_is_held_has_not_begun_is_handled_by_another_and_what_it_has_stays_with_it(scene: Scene) -> None:
    with Client("sender") as zw:
        is_stuck, is_gone = told(zw, notices.PeerStuck), told(zw, notices.PeerGone)
        zw.push("mail.parse", 1_000).handled.result(15)
        wait_until(lambda: sum(peer.state == "up" for peer in zw.status().peers) == 2, within=15)
        # given one whose interpreter is held by a handler, and that has more than its runners have in hand
        receipts = [zw.push("mail.parse", number) for number in range(400)]
        held, other = scene.who_began(HOLDS)

        def left() -> set[int]:
            return set(range(400)) - {number for number, _ in scene.lines("end")}

        wait_until(lambda: in_flight(zw, other) == 0, within=15, that="the other has nothing more to do")
        assert len(left()) > IN_HAND
        # then another handles the rest when it is told that this one is held, long before it goes on
        wait_until(is_stuck, within=15, that="it is told who is held")
        # (what has ended there is not told yet, and not run again either)
        wait_until(
            lambda: sum(not receipt.handled.done() for receipt in receipts) == in_flight(zw, held),
            within=15,
            that="only what it has begun is not handled",
        )
        assert len(left()) <= IN_HAND
        stays, ended = left(), scene.of("end", held)
        assert HOLDS in stays
        # when it goes on, what it had in hand ends there, and it is given work as before
        scene.let_go()
        wait_until(lambda: all(receipt.handled.done() for receipt in receipts), within=15)
        assert scene.of("end", held) - ended == stays
        assert not is_gone()
        other.signal(signal.SIGTERM)
        other.ended()
        zw.push("mail.parse", 2_000).handled.result(15)
        assert 2_000 in scene.of("end", held)
    assert scene.twice() == []


def test_one_who_dies_while_it_is_held_is_found_dead_and_what_it_had_begun_is_given_to_another(scene: Scene) -> None:
    with Client("sender") as zw:
        is_stuck = told(zw, notices.PeerStuck)
        receipts = [zw.push("mail.parse", number) for number in range(95, 110)]
        held, other = scene.who_began(HOLDS)
        wait_until(is_stuck, within=15)
        begun = scene.of("begin", held)
        held.signal(signal.SIGKILL)
        wait_until(lambda: HOLDS in scene.of("begin", other), within=15)
        scene.let_go()
        wait_until(lambda: all(receipt.handled.done() for receipt in receipts), within=20)
    assert set(scene.twice()) <= begun


def test_one_who_is_stopped_is_not_held_but_gone_and_another_has_what_it_had_begun(scene: Scene) -> None:
    with Client("sender") as zw:
        is_gone, is_stuck = told(zw, notices.PeerGone), told(zw, notices.PeerStuck)
        receipt = zw.push("mail.parse", 6)
        stopped, other = scene.who_began(6)
        stopped.signal(signal.SIGSTOP)
        wait_until(lambda: 6 in scene.of("begin", other), within=15, that="another has it")
        receipt.handled.result(15)
        assert is_gone()
        assert not is_stuck()
        stopped.signal(signal.SIGCONT)
