"""How soon the living notice who is gone, and how soon messages flow again. Real processes, killed, stopped and cut off
as `tests/faults` does it; every message is accounted for besides.

The workers are forked from a process that has imported everything: what an interpreter needs to start (about 0.3 s) is
no part of the figures.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from bench.figures.report import Row, at_most, percentile, spread
from tests.faults import machine
from tests.faults.history import Kind
from tests.faults.network import Network
from tests.faults.nursery import Nursery
from tests.faults.scene import Life, Scene
from tests.waiting import wait_until

LOOK_S = 0.1  # silence is a setting of 3 s; on top of it comes what noticing it takes
Partitions = tuple[float, ...]


@contextmanager
def scene() -> Generator[Scene]:
    home, folder, nursery = (Path(tempfile.mkdtemp(prefix="zw-")) for _ in range(2)), None, Nursery()
    homes = list(home)
    made = Scene(nursery, homes[0], homes[1], f"b{uuid4().hex[:12]}")
    try:
        yield made
    finally:
        made.close()
        nursery.close()
        for folder in homes:
            shutil.rmtree(folder, ignore_errors=True)


def gone(kills: int = 20, stops: int = 3) -> Iterator[Row]:
    with scene() as here:
        sender, noticed, first = here.sender(pace=0.005), list[float](), list[float]()
        for number in range(kills):
            worker = here.worker(seconds=0.001)
            first.append(here.until(Kind.STARTED, by=worker, within=30) - worker.born_at)
            here.until(Kind.HANDLED, 5, by=worker)
            at = here.kill(worker)
            noticed.append(_until_said(sender, "has died", number + 1) - at)
        yield Row("a killed worker is noticed, s", spread(noticed), at_most("max", 0.3))
        yield Row(
            "a restarted worker has its first message, s",
            {"p50": percentile(first, 50), "p99": percentile(first, 99), "restarts": float(len(first))},
            at_most("p99", 1.0),
        )
    silent: list[float] = []
    with scene() as here:
        sender = here.sender(pace=0.005)
        for number in range(stops):
            worker = here.worker(seconds=0.001)
            here.until(Kind.HANDLED, 5, by=worker, within=30)
            at = time.monotonic()
            worker.signal(signal.SIGSTOP)
            silent.append(_until_said(sender, "is lost", number + 1) - at)
            here.kill(worker)
            _until_said(sender, "has died", number + 1)
    yield Row("a stopped worker is noticed, s", spread(silent), at_most("max", 3.0 + LOOK_S))


def partitions(seconds: Partitions = (1.0, 2.0, 3.0, 5.0, 9.0, 13.0, 20.0, 31.0)) -> Iterator[Row]:
    lacks = [why for what in ("network namespaces", "virtual links", "nftables") if (why := machine.lacks(what))]
    if lacks:
        yield Row("a partition heals, s until messages flow", {}, {}, f"not measured: {lacks[0]}")
        return
    noticed: list[float] = []
    flows: dict[float, float] = {}
    with scene() as here:
        network = Network(here)
        network.worker(here)
        sender = network.sender(here, pace=0.01)
        here.until(Kind.SETTLED, 20, within=30)
        for length in seconds:
            lost, cut = sender.log().count("is lost"), time.monotonic()
            network.cut()
            if length > 4.0:
                noticed.append(_until_said(sender, "is lost", lost + 1) - cut)
            _wait(cut + length)
            healed = time.monotonic()
            network.heal()
            flows[length] = here.until(Kind.STARTED, 5, after=healed, within=60) - healed
            here.until(Kind.SETTLED, 50, after=time.monotonic(), within=60)
    yield Row("a partition is noticed, s", spread(noticed), at_most("max", 3.0 + LOOK_S))
    each = {f"{length:g} s": flow for length, flow in flows.items()}
    yield Row("a partition heals, s until messages flow", each | {"max": max(flows.values())}, at_most("max", 2.0))


def _until_said(life: Life, words: str, times: int) -> float:
    wait_until(lambda: life.log().count(words) >= times, within=30, that=f"{times} × {words!r} in the log")
    return time.monotonic()


def _wait(until: float) -> None:
    """The length of a partition is what is measured against: nothing is waited for."""
    time.sleep(max(0.0, until - time.monotonic()))
