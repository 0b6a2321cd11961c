"""A worker at the limit of its descriptors, flooded with greetings that never end, and stormed by its own peers: what
it costs, and whether those who work feel it."""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.__main__ import Run, ask
from bench.figures.crowd import MIB, crowd_at
from bench.figures.report import Row, at_least, at_most, percentile
from bench.messages import DURABLE, order
from bench.sender import client

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\x00") + bytes(32)
PACE_S = 0.01


# -- in a process of its own -------------------------------------------------------------------------------------------


def steady_sender(endpoint: str, seconds: float) -> dict[str, Any]:
    """Pushes 100 messages a second and waits for each: s from each push until it was handled."""
    took: list[float] = []
    with client(endpoint) as zw:
        zw.workers(DURABLE).at_least(1).result(30)
        print("working", flush=True)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.monotonic()
            zw.push(DURABLE, order()).handled.result(60)
            took.append(time.monotonic() - began)
            time.sleep(max(0.0, began + PACE_S - time.monotonic()))
        zw.close(0)
    return {"took": took}


# -- what starts them --------------------------------------------------------------------------------------------------


class Sender:
    def __init__(self, run: Run, endpoint: str, seconds: float) -> None:
        args = json.dumps({"endpoint": endpoint, "seconds": seconds})
        command = [sys.executable, "-m", "bench.figures.limits", args]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=run.env)
        assert self._process.stdout is not None
        self._out = self._process.stdout
        assert self._out.readline() == "working\n"

    def took(self) -> list[float]:
        with self._out:
            found: list[float] = json.loads(self._out.read().splitlines()[-1])["took"]
        self._process.wait()
        return found


def _place(endpoint: str) -> tuple[str, int]:
    parts = urlsplit(endpoint)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def _dialled(place: tuple[str, int], count: int) -> list[socket.socket]:
    made: list[socket.socket] = []
    for _ in range(count):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(place)
        made.append(one)
    return made


def _cpu_s(process: subprocess.Popen[str]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rows(run: Run, many: int) -> Iterator[Row]:
    yield from descriptors(run)
    yield from flood(run, many)
    yield from storm(run, many)


def descriptors(run: Run, crowd: int = 60, seconds: float = 5.0) -> Iterator[Row]:
    """Processor time of a worker whose last descriptor is gone while so many wait to be accepted."""
    with run.worker("async") as (worker, endpoint):
        soft, hard = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
        yield Row(
            "open files a worker may have, of those it was allowed",
            {"soft": soft, "hard": hard},
            at_least("soft", min(hard, 65_536) if hard != resource.RLIM_INFINITY else 65_536),
        )
        sender = Sender(run, endpoint, seconds + 4.0)
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{worker.pid}/fd")) + 2, hard))
        idle, began = _cpu_s(worker), time.monotonic()
        time.sleep(1.0)
        idle = (_cpu_s(worker) - idle) / (time.monotonic() - began)
        waiting = _dialled(_place(endpoint), crowd)
        time.sleep(1.0)  # until the first of them have taken what there was
        used, began = _cpu_s(worker), time.monotonic()
        time.sleep(seconds)
        used = (_cpu_s(worker) - used) / (time.monotonic() - began)
        for one in waiting:
            one.close()
        took = sender.took()
    found = {
        "processor": used,
        "with nobody waiting": idle,
        "p99 s": percentile(took, 99),
        "messages": float(len(took)),
    }
    yield Row(f"without descriptors, {crowd} waiting: processor time a second", found, at_most("processor", 0.5))


def flood(run: Run, many: int, seconds: float = 8.0) -> Iterator[Row]:
    """So many greetings a byte at a time, again and again."""
    with run.worker("async") as (_, endpoint):
        quiet = Sender(run, endpoint, 4.0).took()
        sender = Sender(run, endpoint, seconds)
        until, at, cut = time.monotonic() + seconds - 1.0, 0, 0
        strangers: list[socket.socket] = []
        while time.monotonic() < until:
            if not strangers or at >= 20:
                cut += _close(strangers)
                strangers, at = _dialled(_place(endpoint), many), 0
            for one in strangers:
                with suppress(OSError):
                    one.send(GREETING[at : at + 1])
            at += 1
            time.sleep(0.05)
        _close(strangers)
        took = sender.took()
    yield Row(
        f"{many:,} slow greetings at once: push to handled, s",
        {"p50": statistics.median(took), "p99": percentile(took, 99), "p99 without": percentile(quiet, 99),
         "ended for them": float(cut), "messages": float(len(took))},
        at_most("p99", 1.0),
    )  # fmt: skip


def _close(strangers: list[socket.socket]) -> int:
    """How many of them the other end had given up."""
    ended = len(select.select(strangers, [], [], 0)[0]) if len(strangers) < 1_000 else 0
    for one in strangers:
        one.close()
    return ended


def storm(run: Run, many: int, seconds: float = 15.0) -> Iterator[Row]:
    """All peers at once, again and again, beside one who works."""
    with ExitStack() as stack:
        worker, endpoint = stack.enter_context(run.worker("async"))
        before = int(ask(worker, "now"))
        sender = Sender(run, endpoint, seconds + 5.0)
        began, took = time.monotonic(), list[float]()
        while time.monotonic() < began + seconds:
            at = time.monotonic()
            with crowd_at(run, endpoint, many) as crowd:  # killed at its end: every connection breaks
                took.append(max(each.until_all(at) for each in crowd) - at)
        served = sender.took()
        most = (int(ask(worker, "memory")) - before) / MIB
    yield Row(
        f"{many:,} peers dial at once, {len(took)} times: push to handled, s",
        {"p50": statistics.median(served), "p99": percentile(served, 99), "most": max(served),
         "all there after": statistics.median(took), "messages": float(len(served)), "worker's MiB": most},
        at_most("p99", 1.0),
    )  # fmt: skip


if __name__ == "__main__":
    given: dict[str, Any] = json.loads(sys.argv[1])
    print(json.dumps(steady_sender(**given)), flush=True)
