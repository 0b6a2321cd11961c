"""Random pushes, fates and lives against a model of a dozen lines."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import apsw
import pytest

from tests.unit.outbox.boxes import Bench, Time, values
from tests.unit.outbox.faults import Faults
from zerowait.errors import StoreError
from zerowait.message import Again, Bury, Change, Segment, Settle, Verdict
from zerowait.outbox import ahead
from zerowait.outbox.letters import Letters
from zerowait.outbox.sheaf import Sheaf

Maker = Callable[..., Bench]


class Model:
    """value → where it is: waiting, handled, dead, expired, dropped. And where the outbox said it is."""

    def __init__(self) -> None:
        self.fate: dict[int, str] = {}
        self.channel: dict[int, str] = {}
        self.name: dict[int, tuple[int, int]] = {}  # epoch and number
        self.seq: dict[int, int] = {}

    def count(self, channel: str, fate: str) -> int:
        return sum(1 for value, f in self.fate.items() if f == fate and self.channel[value] == channel)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_the_ledger_is_exact_and_nothing_is_lost(
    make: Maker, time: Time, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    run(make, time, monkeypatch, seed, None)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_on_a_failing_disk_the_ledger_is_exact_and_nothing_is_lost(
    faults: Faults, on_disk: Maker, time: Time, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    run(on_disk, time, monkeypatch, seed, faults)


def run(make: Maker, time: Time, monkeypatch: pytest.MonkeyPatch, seed: int, faults: Faults | None) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(ahead, "CHANNEL_ROWS", chance.choice([3, 20, 8_192]))
    monkeypatch.setattr(ahead, "CHANNEL_BYTES", chance.choice([50, 5_000, 4 << 20]))
    bench = make()
    bench.push("never settled, so that the file outlives each life", channel="kept")
    bench.turn()
    model = Model()
    serial = 0
    out: set[int] = set()
    places: dict[int, tuple[Sheaf, int]] = {}

    begun = bench.box.epoch

    def offered(segments: list[Segment]) -> None:
        nonlocal begun
        if bench.box.epoch != begun:  # opened again after a failure: whoever carries messages begins anew
            begun = bench.box.epoch
            out.clear()
        for segment in segments:
            if segment.channel == "kept":
                continue
            gone = {n for first, count in segment.gone for n in range(first, first + count)}
            here = values([segment])
            numbers = [n for n in range(segment.first, segment.first + segment.count) if n not in gone]
            for number, (value, *_) in zip(numbers, here, strict=True):
                assert model.fate[value] == "waiting", "offered although it is settled"
                assert value not in out, "offered twice under one epoch"
                assert model.channel[value] == segment.channel
                out.add(value)
                assert model.name[value] == (segment.epoch, number), "its name has changed"
                model.seq[value] = segment.seq

    def books() -> None:
        rows = bench.box.ledger.rows()
        for channel in ("a", "b"):
            row = rows.get(channel)
            if row is None:
                continue
            for fate in ("handled", "dead", "expired", "dropped"):
                assert getattr(row, fate) == model.count(channel, fate), fate
            assert row.waiting_and_in_flight == model.count(channel, "waiting")

    for _ in range(120):
        kind = chance.random()
        changes: list[Change] = []
        known = [value for value in model.name if model.fate[value] == "waiting"]
        if kind < 0.4:
            channel = chance.choice("ab")
            for _ in range(chance.choice([1, 1, 3, 40])):
                options: dict[str, Any] = {}
                if chance.random() < 0.1:
                    options["due"] = time.now_us() + chance.randrange(3_000_000)
                if chance.random() < 0.1:
                    options["priority"] = chance.choice([-1, 1])
                size = chance.choice([0, 5, 100, 3_000])
                places[serial] = bench.push((serial, "x" * size), channel=channel, **options)
                model.fate[serial], model.channel[serial] = "waiting", channel
                serial += 1
        elif kind < 0.85:
            for value in chance.sample(known, min(len(known), chance.choice([1, 5, 50]))):
                if model.fate[value] != "waiting":
                    continue
                channel, (epoch, number) = model.channel[value], model.name[value]
                seq = chance.choice([model.seq.get(value, 0), model.seq.get(value, 0), 0, 10**6])
                what = chance.random()
                if what < 0.5:
                    changes.append(Settle(channel, epoch, number, 1, Verdict.HANDLED, seq))
                    model.fate[value] = "handled"
                elif what < 0.55:
                    changes.append(Settle("", epoch, number, 1, Verdict.DROPPED, seq))
                    model.fate[value] = "dropped"
                elif what < 0.8:
                    # again, and perhaps a late success in the same turn
                    due = time.now_us() + chance.randrange(-1_000_000, 3_000_000)
                    changes.append(Again(channel, epoch, number, 1, due, b"\x80", seq))
                    out.discard(value)
                    if chance.random() < 0.2:
                        changes.append(Settle(channel, epoch, number, 1, Verdict.HANDLED, seq))
                        model.fate[value] = "handled"
                else:
                    changes.append(Bury(channel, epoch, number, 1, b"\x80", seq))
                    model.fate[value] = "dead"
            if known and chance.random() < 0.3:
                # a range that spans what is settled, unread, elsewhere or another's, said by somebody who came late
                epoch, number = model.name[chance.choice(known)]
                count = chance.choice([2, 10, 2_000])
                changes.append(Settle("", epoch, number, count, Verdict.HANDLED))
                for other, (e, n) in model.name.items():
                    if e == epoch and number <= n < number + count and model.fate[other] == "waiting":
                        model.fate[other] = "handled"
        elif kind < 0.9:
            letters = Letters(bench.box)
            page = letters.page(limit=5)
            ids = [letter.id for letter in page if chance.random() < 0.5]
            done = letters.retry(ids) if chance.random() < 0.5 else None
            if done is None:
                letters.drop(ids)
            for letter in page:
                if letter.id in ids:
                    (value,) = [v for v, name in model.name.items() if name == (letter.epoch, letter.number)]
                    model.fate[value] = "waiting" if done is not None else "dropped"
                    out.discard(value)
        elif kind < 0.93 and bench.path is not None:
            bench.reopen()
            out.clear()
        time.pass_(chance.choice([0.0, 0.1, 2.0]))
        drawn = {channel: chance.randrange(20_000) for channel in "ab"} if chance.random() < 0.7 else {}
        if faults is not None and chance.random() < 0.3:
            faults.failing = chance.choice([apsw.FullError, apsw.IOError])
            faults.what = chance.choice([{"write"}, {"sync"}, {"write", "sync"}])
            faults.done_all_the_same = chance.random() < 0.5 and "write" not in faults.what
            faults.after = chance.randrange(4)
        segments = []
        for attempt in range(4):
            if faults is not None and attempt == 3:
                faults.failing = None
            try:
                segments = bench.begin() if chance.random() < 0.7 else []
                segments += bench.box.turn(changes if attempt == 0 else (), drawn if attempt == 0 else {})
                break
            except StoreError:
                assert faults is not None
                assert faults.failing is not None
        if faults is not None:
            faults.failing = None
        for value, (sheaf, index) in places.items():
            model.name[value] = (sheaf.epoch, sheaf.first + index)
        places.clear()
        offered(segments)
        books()
    # at the end all that waits is offered, in this life or the next
    time.pass_(10)
    while segments := bench.box.turn((), {"a": 1 << 20, "b": 1 << 20}):
        offered(segments)
    assert {value for value, fate in model.fate.items() if fate == "waiting"} <= out
    messages, nbytes = bench.room()
    assert messages == sum(1 for fate in model.fate.values() if fate in ("waiting", "dead")) + 1
    rows = bench.box.ledger.rows().values()
    assert nbytes == sum(row.nbytes for row in rows)
