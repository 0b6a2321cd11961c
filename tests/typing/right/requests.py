# pyright: strict
"""Questions and answers, typed at both ends."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any, assert_type

from contracts import Created, Deleted, RawMail

from zerowait import App, Client, Context, NoResponder, PeerLost, RemoteError, Reply, RequestChannel, StreamChannel
from zerowait.results import Stream


@dataclass
class UnknownDomain(Exception):
    domain: str


COUNT = RequestChannel[str, int]("mail.count", errors=[UnknownDomain], idempotent=True)
SCORE = RequestChannel[RawMail, float]("mail.score", timeout=inf)
LATEST = RequestChannel[None, Created | Deleted]("order.latest")
SUMMARY = StreamChannel[RawMail, str]("mail.summary", timeout=60)
app = App("requests")


@app.reply(COUNT)
async def count(domain: str, ctx: Context) -> int:
    return await ctx.request(COUNT, domain) if ctx.remaining() > 1 else 0


@app.reply(SCORE, concurrency=4)
def score(mail: RawMail) -> float:
    return 1.0 if mail.data else 0  # an int will do for a float


@app.reply(LATEST, timeout=2.0)
async def latest(_: None) -> Created:
    return Created(1)


@app.reply(SUMMARY)
async def summary(mail: RawMail) -> AsyncIterator[str]:
    yield mail.path


@app.reply(SUMMARY)
def summary_of_a_thread(mail: RawMail, ctx: Context) -> Iterator[str]:
    yield ctx.id


@app.reply("by.name", idempotent=True)
def by_name(value: int) -> list[int]:
    return [value]


async def ask(zw: Client) -> int:
    assert_type(zw.request(COUNT, "example.org"), Reply[int])
    assert_type(await zw.request(COUNT, "example.org", timeout=0.5, hedge=True), int)
    assert_type(await zw.request(LATEST, None), Created | Deleted)
    assert_type(await zw.request("by.name", 3, returns=int), int)
    assert_type(await zw.request("by.name", 3), Any)
    wider: Reply[float] = zw.request(COUNT, "example.org")
    wider.cancel()
    try:
        return zw.request(COUNT, "example.org").result(timeout=1)
    except (UnknownDomain, NoResponder, PeerLost, RemoteError, TimeoutError):
        return 0


async def read(zw: Client, mail: RawMail) -> None:
    assert_type(zw.stream(SUMMARY, mail), Stream[str])
    assert_type([line async for line in zw.stream(SUMMARY, mail)], list[str])
    assert_type(list(zw.stream("by.name", mail, yields=bytes)), list[bytes])
    async with zw.stream(SUMMARY, mail, timeout=5) as lines:
        async for line in lines:
            print(line.upper())
    with zw.stream(SUMMARY, mail) as lines:
        lines.cancel()
    await zw.workers(COUNT).at_least(1)


async def spread(zw: Client, domains: list[str]) -> None:
    assert_type(zw.map(COUNT, domains).result(), list[int])
    assert_type(await zw.map(COUNT, domains, window=10, timeout=5, progress=True), list[int])
    assert_type([count async for count in zw.map(COUNT, domains)], list[int])
    for item in zw.map(COUNT, domains).as_completed():
        assert_type(item.input, str)
        assert_type(item.output, int)
    assert_type(zw.map("by.name", [1], returns=int).result(), list[int])
