"""What waits: how soon a backlog goes on, how fast it drains, what it costs in memory, how long leaving it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from bench.__main__ import Run, ask
from bench.figures.report import Row, at_least, at_most
from bench.messages import DURABLE, MEMORY, Order, memory_kib, most_memory_kib, order
from bench.sender import client
from zerowait import Client, QueueFull

NOBODY = ("tcp://127.0.0.1:9", "tcp://192.0.2.1:5511")  # one refuses, one never answers
MIB = 1024.0


# -- in a process of its own -------------------------------------------------------------------------------------------


def fill(count: int) -> dict[str, float]:
    """Leaves so many messages behind."""
    with client("", outbox_messages=2 * count) as zw:
        for number in range(count):
            zw.push(DURABLE, order(number))
        zw.push_all(DURABLE, [order()]).result(60)
        zw.close(0).result()
    return {}


def drain(endpoint: str, count: int) -> dict[str, float]:
    """Opens what was left behind, and delivers it."""
    began = time.perf_counter()
    zw = client(endpoint, outbox_messages=2 * count)
    with zw:
        while not (first := _counted(zw, "handled")):
            time.sleep(0.001)
        at_first = time.perf_counter()
        while (over := _counted(zw, "handled")) <= count:
            time.sleep(0.002)
        return {
            "first_s": at_first - began,
            "per_second": (over - first) / (time.perf_counter() - at_first),
        }


def steady(endpoint: str, count: int) -> dict[str, float]:
    """The same messages, pushed while the worker is there."""
    with client(endpoint, outbox_messages=2 * count) as zw:
        zw.workers(DURABLE).at_least(1).result(10)
        began, message = time.perf_counter(), order()
        for _ in range(count):
            zw.push(DURABLE, message)
        while _counted(zw, "handled") < count:
            time.sleep(0.002)
        return {"per_second": count / (time.perf_counter() - began)}


def large(endpoint: str, count: int) -> dict[str, float]:
    """Resident KiB while so many messages of 1 KB wait, above a client that has sent one."""
    with client(endpoint, outbox_messages=2 * count, outbox_bytes=4 << 30) as zw:
        if endpoint:
            zw.workers(DURABLE).at_least(1).result(10)
        message = Order(1, "x" * 980, 3.25, ["alpha"])
        zw.push(DURABLE, message).result(10)
        idle = memory_kib()
        last = None
        for _ in range(count):
            last = zw.push(DURABLE, message)
        assert last is not None
        last.result(300)
        row = next(each for box in zw.status().boxes for each in box.channels)
        found = {"now": memory_kib() - idle, "most": most_memory_kib() - idle, "waiting": float(row.waiting)}
        zw.close(0)
    return found


def leave(count: int) -> dict[str, float]:
    zw = client("", addresses={"bench.*": NOBODY}).__enter__()
    last = None
    for number in range(count):
        last = zw.push(DURABLE, order(number))
    assert last is not None
    last.result(60)
    began = time.perf_counter()
    left = zw.close().result()
    return {"seconds": time.perf_counter() - began, "left": float(left)}


def leave_memory(count: int) -> dict[str, float]:
    zw = client("", addresses={"bench.*": NOBODY}, memory_messages=2 * count).__enter__()
    for number in range(count):
        try:
            zw.push(MEMORY, order(number))
        except QueueFull as full:
            raise SystemExit(str(full)) from None
    began = time.perf_counter()
    zw.close().result()
    return {"seconds": time.perf_counter() - began}


def _counted(zw: Client, what: str) -> int:
    """From the ledger itself: a status waits until busy threads have a moment for it."""
    rows = [ledger.rows().get(DURABLE.name) for ledger in zw._open().estate.inventory.ledgers()]
    return sum(getattr(row, what) for row in rows if row is not None)


# -- what starts them --------------------------------------------------------------------------------------------------


def _run(run: Run, what: str, **args: Any) -> tuple[dict[str, float], str]:
    command = [sys.executable, "-m", "bench.figures.waiting", what, json.dumps(args)]
    out = subprocess.run(command, capture_output=True, text=True, env=run.env, timeout=900, check=False)
    if out.returncode:
        raise SystemExit(f"{what} failed:\n{out.stderr}")
    found: dict[str, float] = json.loads(out.stdout.splitlines()[-1])
    return found, out.stderr


def backlog(run: Run, count: int = 100_000, rounds: int = 5) -> Iterator[Row]:
    firsts, ratios, rates, steadies = list[float](), list[float](), list[float](), list[float]()
    for _ in range(rounds):
        _run(run, "fill", count=count)
        with run.worker("async") as (_, endpoint):
            found, _ = _run(run, "drain", endpoint=endpoint, count=count)
        with run.worker("async") as (_, endpoint):
            live, _ = _run(run, "steady", endpoint=endpoint, count=count)
        firsts.append(found["first_s"])
        rates.append(found["per_second"])
        steadies.append(live["per_second"])
        ratios.append(found["per_second"] / live["per_second"])
    middle = rounds // 2
    yield Row(
        f"{count:,} stored messages: the first is handled after the start, s",
        {"median": sorted(firsts)[middle], "max": max(firsts), "rounds": float(rounds)},
        at_most("max", 1.0),
    )
    yield Row(
        f"{count:,} stored messages: drained, parts of the steady rate",
        {"median": sorted(ratios)[middle], "min": min(ratios), "messages/s": sorted(rates)[middle],
         "steady messages/s": sorted(steadies)[middle]},
        at_least("median", 0.8),
    )  # fmt: skip


def memory(run: Run, count: int = 300_000) -> Iterator[Row]:
    """The window: what is read ahead of a backlog, 4 MiB a channel."""
    found, _ = _run(run, "large", endpoint="", count=count)
    measured = {name: value / MIB for name, value in found.items() if name != "waiting"}
    yield Row(
        f"a sender with {count:,} × 1 KB waiting, MiB above idle",
        measured | {"messages": found["waiting"]},
        at_most("now", 32.0 + 4.0),
    )
    run = Run(os.path.join(run.env["ZEROWAIT_HOME"], "with-worker"))
    with run.worker("stalled") as (process, endpoint):
        found, _ = _run(run, "large", endpoint=endpoint, count=count)
        worker = int(ask(process, "memory")) / MIB
    measured = {name: value / MIB for name, value in found.items() if name != "waiting"}
    yield Row(
        "  the same with a worker that stands still",
        measured | {"messages": found["waiting"], "worker in all": worker},
        at_most("now", 32.0 + 4.0),
    )


def leaving(run: Run, count: int = 10_000, rounds: int = 5) -> Iterator[Row]:
    took: list[float] = []
    for _ in range(rounds):
        found, _ = _run(run, "leave", count=count)
        took.append(found["seconds"])
    yield Row(
        f"a clean stop, all peers absent, {count:,} messages waiting, s",
        {"median": sorted(took)[rounds // 2], "max": max(took), "rounds": float(rounds)},
        at_most("max", 2.0),
    )
    found, said = _run(run, "leave_memory", count=count)
    line = next((line for line in said.splitlines() if "lay only in memory" in line), "nothing")
    yield Row("  the same with messages in memory, s", found, at_most("seconds", 2.0), f"it said: {line}")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    what, args = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps(globals()[what](**args)), flush=True)
