"""Giving way to a thread that works."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator

import pytest

from tests.waiting import wait_until
from zerowait import turns
from zerowait.turns import Turn


class Worker:
    """A thread whose turn is on until it is told to end it."""

    def __init__(self, turn: Turn) -> None:
        self.began, self.end, self.ended = threading.Event(), threading.Event(), threading.Event()
        self._turn = turn
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()
        assert self.began.wait(5)

    def _work(self) -> None:
        self._turn.begin()
        self.began.set()
        self.end.wait(10)
        self._turn.end()
        self.ended.set()


@pytest.fixture
def turn() -> Turn:
    return Turn()


@pytest.fixture
def worker(turn: Turn) -> Generator[Worker]:
    worker = Worker(turn)
    yield worker
    worker.end.set()
    worker.thread.join(5)


def test_nobody_waits_for_a_turn_that_is_not_on(turn: Turn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "GIVEN_WAY_S", 60.0)
    turn.give_way()
    turn.begin()
    turn.end()
    turn.give_way()


def test_who_gives_way_waits_for_the_end_of_the_turn(
    turn: Turn, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "GIVEN_WAY_S", 60.0)
    given = threading.Event()

    def pusher() -> None:
        turn.give_way()
        given.set()

    pushing = threading.Thread(target=pusher, daemon=True)
    pushing.start()
    assert not given.wait(0.05)
    worker.end.set()
    wait_until(given.is_set, within=5)
    assert worker.ended.wait(5)
    pushing.join(5)


def test_who_gives_way_waits_a_millisecond_and_no_longer(turn: Turn, worker: Worker) -> None:
    began = time.monotonic()
    for _ in range(10):
        turn.give_way()
    assert 10 * turns.GIVEN_WAY_S * 0.5 < time.monotonic() - began < 2.0
    assert not worker.ended.is_set()


def test_nobody_waits_while_the_disk_is_waited_for(turn: Turn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "GIVEN_WAY_S", 60.0)
    turn.begin()
    with turn.outside():
        pushing = threading.Thread(target=turn.give_way, daemon=True)
        pushing.start()
        pushing.join(5)
        assert not pushing.is_alive()
    # and then it is on again
    with pytest.raises(ZeroDivisionError), turn.outside():
        raise ZeroDivisionError
    turn.end()


def test_outside_a_turn_that_is_not_on_is_nothing(turn: Turn) -> None:
    with turn.outside():
        turn.give_way()
    turn.begin()
    turn.end()


def test_who_is_interrupted_while_he_gives_way_stops_nobody(turn: Turn, monkeypatch: pytest.MonkeyPatch) -> None:
    in_turn, over, ended = threading.Event(), threading.Event(), threading.Event()

    class Interrupted:
        """Ctrl-C comes when it has just been acquired by who gives way."""

        def __init__(self) -> None:
            self._lock = threading.Lock()
            self.release = self._lock.release

        def acquire(self, timeout: float | None = None) -> bool:
            if timeout is None:
                return self._lock.acquire()
            over.set()
            assert self._lock.acquire(timeout=5)
            raise KeyboardInterrupt

    monkeypatch.setattr(turns, "Lock", Interrupted)

    def work() -> None:
        turn.begin()
        in_turn.set()
        over.wait(10)
        turn.end()
        turn.begin()
        turn.end()
        ended.set()

    threading.Thread(target=work, daemon=True).start()
    assert in_turn.wait(5)
    with pytest.raises(KeyboardInterrupt):
        turn.give_way()
    assert ended.wait(5)


def test_nobody_gives_way_to_himself(turn: Turn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "GIVEN_WAY_S", 60.0)
    turn.begin()
    turn.give_way()
    turn.end()
