"""The store thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Lock, Thread
from time import monotonic, time_ns

import apsw
import pytest

from tests.unit.outbox.boxes import Nowhere, encoder, values
from tests.unit.outbox.faults import Faults
from tests.waiting import wait_until
from zerowait.errors import Closed, StoreError
from zerowait.message import BODY_START, Segment, Settle, Verdict
from zerowait.outbox import keeper as keeper_module
from zerowait.outbox.intake import Intake, Limits
from zerowait.outbox.keeper import Keeper
from zerowait.outbox.lane import Lane
from zerowait.outbox.outbox import Outbox


def now_us() -> int:
    return time_ns() // 1_000


class Store:
    """A keeper and all that it has offered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = Lock()
        self.segments: list[Segment] = []
        self.done = 0
        self.threads: set[str] = set()
        self.keeper = Keeper(self.offer)

    def offer(self, box: Outbox, segments: list[Segment], done: int) -> None:
        with self.lock:
            self.segments += segments
            self.done = done
            self.threads.add(threading.current_thread().name)

    def open(self, name: str = "a") -> Outbox:
        intake = Intake(Limits(), durable=True, wake=self.keeper.wake, room=Nowhere, now_us=now_us)
        path = self.folder / f"{name}.1.db"
        box = self.keeper.add(lambda: Outbox.open(path, name, now_us=now_us, intake=intake)).result(5)
        assert box.intake is intake
        return box

    def values(self) -> list[object]:
        with self.lock:
            return values(self.segments)

    def taken(self) -> list[Segment]:
        with self.lock:
            segments, self.segments = self.segments, []
        return segments

    def settle(self, box: Outbox, segments: list[Segment] | None = None) -> int:
        """These were handled, or all that has been offered so far."""
        segments = self.taken() if segments is None else segments
        changes = [Settle(s.channel, s.epoch, s.first, s.count, Verdict.HANDLED, s.seq) for s in segments]
        return self.keeper.submit(box, box.epoch, changes, {"mail": sum(len(s.body) - BODY_START for s in segments)})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    assert store.keeper.stop(5)


def pusher(box: Outbox) -> Callable[[object], object]:
    lane = Lane(box.intake, "mail", str, encoder.encode_into)
    return lambda value: lane.append(encoder.encode(value))


def test_what_is_pushed_is_stored_and_offered_without_anybody_asking(store: Store) -> None:
    box = store.open()
    push = pusher(box)
    push("a")
    wait_until(lambda: store.values() == ["a"], within=5)
    assert store.threads == {"zerowait-store"}
    number = store.settle(box)
    wait_until(lambda: store.done == number, within=5)
    assert box.ledger.rows()["mail"].handled == 1


def test_pushes_of_many_threads_and_their_settlement_are_all_counted(store: Store) -> None:
    box = store.open()
    push = pusher(box)

    def work(who: int) -> None:
        for n in range(2_000):
            push((who, n))

    threads = [Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    seen: list[object] = []

    def all_handled() -> bool:
        segments = store.taken()
        seen.extend(values(segments))
        store.settle(box, segments)
        return box.ledger.rows().get("mail", None) is not None and box.ledger.rows()["mail"].handled == 8_000

    wait_until(all_handled, within=20)
    for thread in threads:
        thread.join()
    assert box.ledger.rows()["mail"].accepted == 8_000
    assert len(seen) == len({tuple(each) for each in seen}) == 8_000  # type: ignore[arg-type]
    assert store.keeper.ask(box.is_empty).result(5)


def test_what_is_due_later_is_offered_when_it_is_due(store: Store) -> None:
    box = store.open()
    lane = Lane(box.intake, "mail")
    began = monotonic()
    lane.append(b"\x07", due=now_us() + 150_000)
    wait_until(lambda: store.values() == [7], within=5)
    assert monotonic() - began >= 0.149


def test_opening_that_fails_tells_whoever_opened(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.1.db").write_bytes(b"foreign")
    with pytest.raises(StoreError):
        store.open()
    assert store.keeper.ask(lambda: 7).result(5) == 7


def test_stopping_stores_what_was_pushed_and_refuses_what_is_asked_then(store: Store, tmp_path: Path) -> None:
    box = store.open()
    pusher(box)("kept")
    assert store.keeper.stop(5)
    with pytest.raises(Closed):
        store.keeper.ask(lambda: 1).result(5)
    with pytest.raises(Closed):
        pusher(box)("too late")
    again = Outbox.open(tmp_path / "a.1.db", "a", now_us=now_us)
    assert values(again.turn()) == ["kept"]
    again.close()


def test_a_removed_outbox_is_closed_and_the_others_stay(store: Store, tmp_path: Path) -> None:
    one, two = store.open("one"), store.open("two")
    pusher(one)("a")
    store.keeper.remove(one).result(5)
    assert not (tmp_path / "one.1.db-wal").exists()
    pusher(two)("b")
    wait_until(lambda: "b" in store.values(), within=5)


def test_a_full_disk_is_tried_again_each_second_and_goes_on_within_two(
    faults: Faults, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (apsw.FullError, apsw.IOError):
        box = store.open(error.__name__)
        push = pusher(box)
        push("before")
        wait_until(lambda: "before" in store.values(), within=5)
        faults.failing = error
        push("while")
        wait_until(lambda: box.intake.broken is not None, within=5)  # noqa: B023
        with pytest.raises(StoreError):
            push("refused")
        number = store.settle(box)
        faults.failing = None
        began = monotonic()
        wait_until(lambda: "while" in store.values(), within=2)
        print(f"\n{error.__name__}: on again {monotonic() - began:.2f} s after there was room")
        assert box.intake.broken is None
        wait_until(lambda: store.done >= number, within=2)  # noqa: B023
        store.settle(box)


def test_an_outbox_at_rest_wakes_nobody(store: Store) -> None:
    box = store.open()
    pusher(box)("a")
    wait_until(lambda: store.values() == ["a"], within=5)
    store.keeper.ask(lambda: None).result(5)
    wait_until(lambda: store.keeper._is_asleep, within=5)
    assert box.next_due() is None or box.next_due() > 60  # type: ignore[operator]


def test_a_bug_in_a_turn_is_told_and_does_not_end_the_thread(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper_module, "RETRY", 0.01)
    box = store.open()
    real = box._insert

    def buggy(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(box, "_insert", buggy)
    push = pusher(box)
    push("a")
    wait_until(lambda: box.intake.broken is not None, within=5)
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.setattr(box, "_insert", real)
    wait_until(lambda: store.values() == ["a"], within=5)


@pytest.mark.parametrize("is_taken", [False, True])
def test_a_turn_that_fails_by_a_bug_keeps_its_changes_and_makes_them_once(
    store: Store, is_taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "RETRY", 0.01)
    box = store.open()
    pusher(box)("a")
    wait_until(lambda: store.values() == ["a"], within=5)
    name, whole = ("_store", box._store) if is_taken else ("turn", box.turn)
    failed: list[object] = []

    def fail_once(*given: object) -> object:
        if not failed:
            failed.append(given)
            raise KeyError("a bug")
        return whole(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(box, name, fail_once)
    number = store.settle(box)
    wait_until(lambda: store.done == number, within=5)
    assert failed
    assert box.ledger.rows()["mail"].handled == 1
    assert box.ledger.rows()["mail"].waiting_and_in_flight == 0


def test_whoever_asks_while_the_thread_ends_is_answered_or_refused(tmp_path: Path) -> None:
    for _ in range(20):
        keeper = Store(tmp_path).keeper
        futures: list[Future[int]] = []
        ends = threading.Event()

        def ask(keeper: Keeper = keeper, futures: list[Future[int]] = futures, ends: threading.Event = ends) -> None:
            while not ends.is_set():
                futures.append(keeper.ask(lambda: 1))

        asker = Thread(target=ask)
        asker.start()
        assert keeper.stop(5)
        ends.set()
        asker.join()
        for future in futures:
            assert future.exception(5) is None or isinstance(future.exception(), Closed)
