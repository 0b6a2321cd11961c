from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.unit.outbox.boxes import Bench, Time, clock_module
from tests.unit.outbox.faults import Faults


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(clock_module, "steady_ns", clock.steady_ns)
    return clock


Maker = Callable[..., Bench]


@pytest.fixture
def on_disk(time: Time, tmp_path: Path) -> Iterator[Maker]:
    """Makes outboxes in files."""
    made: list[Bench] = []

    def make(**limits: Any) -> Bench:
        made.append(Bench(tmp_path / f"tester.{len(made):016x}.db", time, **limits))
        return made[-1]

    yield make
    for bench in made:
        bench.box.close()


@pytest.fixture
def in_memory(time: Time) -> Maker:
    """Makes outboxes in memory."""

    def make(**limits: Any) -> Bench:
        return Bench(None, time, **limits)

    return make


@pytest.fixture(params=["memory", "file"])
def make(request: pytest.FixtureRequest, in_memory: Maker, on_disk: Maker) -> Maker:
    """Makes outboxes of either kind: what holds for one holds for the other."""
    return on_disk if request.param == "file" else in_memory


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    vfs = Faults()
    real = apsw.Connection

    def connect(path: str, flags: int) -> apsw.Connection:
        return real(path, flags, vfs=vfs.name if path != ":memory:" else None)

    monkeypatch.setattr(apsw, "Connection", connect)
    return vfs
