"""What is sent in all measurements: a typed message of four fields, 76 bytes as msgpack."""

from __future__ import annotations

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


MEMORY = PushChannel[Order]("bench.memory", durable=False)
DURABLE = PushChannel[Order]("bench.durable", durable=True)
LONE_MEMORY = PushChannel[Timed]("bench.lone.memory", durable=False)
LONE_DURABLE = PushChannel[Timed]("bench.lone.durable", durable=True)
