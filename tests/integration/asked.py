"""Apps that the tests of requests run in processes of their own: `zerowait run tests.integration.asked:answering`."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from tests.integration.services import witness
from zerowait import App, Context, PushChannel, RequestChannel, StreamChannel


@dataclass
class NotFound(Exception):
    name: str
    near: list[str]


ADD = RequestChannel[int, int]("ask.add", errors=[NotFound])
SLOW = RequestChannel[float, int]("ask.slow")
SLOW_AGAIN = RequestChannel[float, int]("ask.again", idempotent=True)
NESTED = RequestChannel[float, str]("ask.nested")
BLOCKS = RequestChannel[float, None]("ask.blocks")
DEADLINE = RequestChannel[None, float]("ask.deadline")
RELAYED = RequestChannel[None, list[float]]("ask.relayed")
COUNT = StreamChannel[int, int]("ask.count")
COUNT_PLAINLY = StreamChannel[int, int]("ask.count.plainly")
BYTES = RequestChannel[int, bytes]("ask.bytes", errors=[NotFound])  # below 0: an exception with so large a field
PIECES = StreamChannel[list[int], bytes]("ask.pieces")
PUSHED = PushChannel[int]("ask.pushed")
answering = App("answering")
twin = App("twin")
relay = App("relay")


@answering.reply(ADD)
async def add(number: int) -> int:
    if number < 0:
        raise NotFound(str(number), ["0"])
    if number == 13:
        raise ValueError("unlucky")
    return number + 1


@answering.reply(BYTES)
async def some_bytes(size: int) -> bytes:
    if size < 0:
        raise NotFound("x" * -size, [])
    return bytes(size)


@answering.reply(PIECES)
async def pieces(sizes: list[int]) -> AsyncIterator[bytes]:
    for size in sizes:
        yield bytes(size)


@answering.pull(PUSHED)
async def pushed(_: int) -> None: ...


async def sleep(seconds: float, ctx: Context) -> int:
    witness("begin", os.getpid(), ctx.channel)
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        witness("cancelled", os.getpid(), ctx.channel)
        raise
    witness("end", os.getpid(), ctx.channel)
    return os.getpid()


answering.reply(SLOW)(sleep)
answering.reply(SLOW_AGAIN)(sleep)
twin.reply(SLOW)(sleep)
twin.reply(SLOW_AGAIN)(sleep)


@answering.reply(BLOCKS)
async def block(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251 -- the mistake


@answering.reply(DEADLINE)
async def deadline(_: None, ctx: Context) -> float:
    return ctx.remaining()


@relay.reply(NESTED)
async def nested(seconds: float, ctx: Context) -> str:
    witness("nested", os.getpid())
    try:
        await ctx.request(SLOW, seconds)
    except asyncio.CancelledError:
        witness("nested cancelled", os.getpid())
        raise
    return "done"


@relay.reply(RELAYED)
async def relayed(_: None, ctx: Context) -> list[float]:
    """What is left here, and of what was asked in turn, by the context and by a client."""
    left = ctx.remaining()
    return [left, await ctx.request(DEADLINE, None), await ctx.client.request(DEADLINE, None, timeout=1_000)]


@relay.reply("ask.relayed.plainly")
def relayed_plainly(_: None, ctx: Context) -> list[float]:
    left = ctx.remaining()
    return [left, ctx.request(DEADLINE, None).result(), ctx.client.request(DEADLINE, None).result()]


@answering.reply(COUNT)
async def count(most: int) -> AsyncIterator[int]:
    try:
        for number in range(most):
            if number % 100 == 0:
                witness("at", number)
            yield number
    finally:
        witness("count over", most)


@answering.reply(COUNT_PLAINLY)
def count_plainly(most: int) -> Iterator[int]:
    try:
        for number in range(most):
            yield number
            if number == 3_000_000:
                raise NotImplementedError(threading.current_thread().name)
    finally:
        witness("plain count over", most)
