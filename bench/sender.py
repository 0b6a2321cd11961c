"""The sending process of the measurements."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from bench.messages import DURABLE, LONE_DURABLE, LONE_MEMORY, MEMORY, Order, Timed, most_memory_kib, order
from zerowait import Client, PushChannel, QueueFull, Settings


def client(endpoint: str, **more: Any) -> Client:
    addresses = {"bench.*": endpoint} if endpoint else {}
    flags = {"namespace": "bench-sender", "addresses": addresses} | more
    return Client("bench-sender", settings=Settings.load(flags=flags))


def handled(zw: Client, channel: str) -> int:
    return sum(each.handled for box in zw.status().boxes for each in box.channels if each.channel == channel)


def push_again(zw: Client, channel: PushChannel[Order], message: Order, full: QueueFull) -> None:
    while True:
        full.room.result(60)
        try:
            zw.push(channel, message)
        except QueueFull as again:
            full = again
        else:
            return


def throughput(endpoint: str, durable: bool, count: int) -> dict[str, float]:
    """From the first push until the ledger says that all are handled; one push() for each message."""
    channel = DURABLE if durable else MEMORY
    with client(endpoint, outbox_messages=2 * count, memory_messages=100_000) as zw:
        zw.workers(channel).at_least(1).result(10)
        message, push = order(), zw.push
        began = time.perf_counter()
        for _ in range(count):
            try:
                push(channel, message)
            except QueueFull as full:
                push_again(zw, channel, message, full)
        pushing = time.perf_counter() - began
        while handled(zw, channel.name) < count:
            time.sleep(0.002)
        return {"seconds": time.perf_counter() - began, "pushing_s": pushing}


def push_ns(durable: bool, blocks: int = 200) -> dict[str, float]:
    """One push(), network and store threads alive, no worker: the median of blocks of 1,000."""
    channel = DURABLE if durable else MEMORY
    with client("", outbox_messages=2_000_000, memory_messages=2_000_000, memory_bytes=1 << 30) as zw:
        message, push = order(), zw.push
        times: list[float] = []
        push(channel, message)
        for _ in range(blocks):
            began = time.perf_counter_ns()
            for _ in range(1_000):
                push(channel, message)
            times.append((time.perf_counter_ns() - began) / 1_000)
        zw.close(0)
    return {"ns": sorted(times)[len(times) // 2]}


def lone(endpoint: str, durable: bool, count: int = 2_000, warm: int = 200) -> dict[str, float]:
    """One message alone, 100 a second; the worker keeps the times."""
    channel = LONE_DURABLE if durable else LONE_MEMORY
    with client(endpoint) as zw:
        zw.workers(channel).at_least(1).result(10)
        at = time.perf_counter()
        for _ in range(warm + count):
            zw.push(channel, Timed(time.time_ns()))
            at += 0.01
            time.sleep(max(0.0, at - time.perf_counter()))
    return {}


def memory(endpoint: str, count: int) -> dict[str, float]:
    """The most resident memory while a worker is stalled and a million durable messages are pushed."""
    with client(endpoint, outbox_messages=2 * count) as zw:
        zw.workers(DURABLE).at_least(1).result(10)
        message = order()
        for _ in range(count):
            zw.push(DURABLE, message)
        zw.push(DURABLE, message).result(120)
        time.sleep(1.0)
        most = most_memory_kib()
        zw.close(0)
    return {"kib": float(most)}


if __name__ == "__main__":
    what, args = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps(globals()[what](**args)), flush=True)
