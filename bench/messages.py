"""What is sent in all measurements: a typed message of four fields, 76 bytes as msgpack."""

from __future__ import annotations

from pathlib import Path

import msgspec

from zerowait import PushChannel


class Order(msgspec.Struct):
    id: int
    name: str
    price: float
    tags: list[str]


class Timed(msgspec.Struct):
    sent_ns: int


def order(number: int = 123456) -> Order:
    return Order(number, "hello world, this is text", 3.25, ["alpha", "beta", "gamm"])


def most_memory_kib() -> int:
    """Of this process so far, resident (Linux)."""
    return _status_kib("VmHWM")


def memory_kib() -> int:
    """Of this process now, resident (Linux)."""
    return _status_kib("VmRSS")


def _status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


MEMORY = PushChannel[Order]("bench.memory", durable=False)
DURABLE = PushChannel[Order]("bench.durable", durable=True)
LONE_MEMORY = PushChannel[Timed]("bench.lone.memory", durable=False)
LONE_DURABLE = PushChannel[Timed]("bench.lone.durable", durable=True)
