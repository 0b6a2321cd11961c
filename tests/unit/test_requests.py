"""Asking, in one process: what the call refuses, what a reply says of itself, and the mistakes of api §13."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any, cast

import pytest

from tests.waiting import wait_until, wait_until_in_loop
from zerowait import App, Client, Context, PushChannel, Reply, RequestChannel, Settings, StreamChannel
from zerowait.errors import Cancelled, EncodeError, Expired, QueueFull, RemoteError, UsageError


@dataclass
class NotFound(Exception):
    name: str


COUNT = RequestChannel[str, int]("unit.count", errors=[NotFound])
AGAIN = RequestChannel[str, int]("unit.again", idempotent=True)
LINES = StreamChannel[int, int]("unit.lines")
PUSHED = PushChannel[str]("unit.pushed")


def service(settings: Settings, **how: Any) -> App:
    app = App("service", settings=settings)

    @app.reply(COUNT, **how)
    async def count(text: str) -> int:
        if text == "slow":
            await asyncio.sleep(60)
        if text == "bad":
            raise ValueError(text)
        return len(text)

    @app.reply(LINES)
    def lines(most: int) -> Iterator[int]:
        yield from range(most)

    return app


def test_a_channel_says_what_it_takes() -> None:
    channel = RequestChannel[str, int]("a.b", timeout=3, errors=[NotFound], idempotent=True)
    assert (channel.timeout, channel.idempotent, channel.errors, channel.kind) == (3.0, True, (NotFound,), "request")
    assert repr(channel) == "RequestChannel[str, int]('a.b')"
    assert pickle.loads(pickle.dumps(channel)) == channel
    assert StreamChannel[str, int]("a.b", timeout=inf).timeout == inf


SENSELESS: list[tuple[Callable[[], Any], str]] = [
    (lambda: cast("Any", RequestChannel)("a"), "wants its type in brackets"),
    (lambda: cast("Any", RequestChannel)("a", str, int), "wants its type in brackets"),
    (lambda: RequestChannel[str]("a"), "takes 2 types"),  # type: ignore[misc]
    (lambda: RequestChannel[str, int]("a", timeout=0), "above 0"),
    (lambda: RequestChannel[str, int]("a", timeout="1"), "above 0"),  # type: ignore[arg-type]
    (lambda: RequestChannel[str, int]("a", errors=[KeyError]), "dataclasses"),
    (lambda: RequestChannel[str, int]("a", errors=NotFound), "takes a list"),  # type: ignore[arg-type]
    (lambda: RequestChannel[str, int]("a", idempotent=1), "True or False"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("make", "words"), SENSELESS)
def test_a_channel_that_makes_no_sense_is_refused(make: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make()


MISTAKES: list[tuple[Callable[[Any], Any], type[Exception], str]] = [
    (lambda zw: zw.request(PUSHED, "a"), UsageError, r"of kind push: use push\(\)"),
    (lambda zw: zw.push(COUNT, "a"), UsageError, "of kind request"),
    (lambda zw: zw.stream(COUNT, "a"), UsageError, r"use request\(\)"),
    (lambda zw: zw.request(LINES, 1), UsageError, r"use stream\(\)"),
    (lambda zw: zw.request(COUNT, 3), EncodeError, "takes str"),
    (lambda zw: zw.request(COUNT, "a", timeout=0), UsageError, "above 0"),
    (lambda zw: zw.request(COUNT, "a", hedge=True), UsageError, "idempotent=True"),
    (lambda zw: zw.request(COUNT, "a", delay=3), UsageError, "takes no delay="),
    (lambda zw: zw.request(COUNT, "a", returns=str), UsageError, "says itself what comes back"),
    (lambda zw: zw.request(3, "a"), UsageError, "takes a channel or its name first"),
    (lambda zw: zw.request("a b", "a"), UsageError, "cannot be the name"),
]


@pytest.mark.parametrize(("ask", "error", "words"), MISTAKES)
def test_the_callers_mistakes_are_raised_at_the_call(
    ask: Any, error: type[Exception], words: str, settings: Settings
) -> None:
    with Client("asker", settings=settings) as zw:
        with pytest.raises(error, match=words):
            ask(zw)
        assert not any(row.asked for row in zw.status().requests)


def test_a_handler_is_no_channel(settings: Settings) -> None:
    app = service(settings)

    @app.reply("unit.other")
    def other(value: int) -> int:
        return value

    with Client("asker", settings=settings) as zw, pytest.raises(UsageError, match=r"request\('unit.other', …\)"):
        zw.request(other, 1)  # type: ignore[call-overload]


def test_a_full_outbox_refuses_and_has_room_again(settings: Settings) -> None:
    small = Settings(home=settings.home, namespace=settings.namespace, memory_messages=3, no_responder=60, drain=0)
    with Client("asker", settings=small) as zw:
        replies: list[Reply[int]] = []

        def fill() -> None:
            while len(replies) < 10:
                replies.append(zw.request(COUNT, "a"))

        with pytest.raises(QueueFull) as full:
            fill()
        assert 0 < len(replies) <= 3
        for reply in replies:
            reply.cancel()
        full.value.room.result(10)
        zw.request(COUNT, "a").cancel()


def test_a_reply_says_what_it_knows(settings: Settings) -> None:
    with service(settings), Client("asker", settings=settings) as zw:
        reply = zw.request(COUNT, "abc", timeout=20)
        assert reply.result(20) == 3
        assert reply.exception() is None
        assert not reply.cancelled()
        assert repr(reply).startswith("<Reply unit.count ")
        assert repr(reply).endswith(": 3>")
        slow = zw.request(COUNT, "slow", timeout=20)
        wait_until(lambda: slow.id, within=10)
        assert " s left>" in repr(slow)
        with pytest.raises(TimeoutError, match="nothing was cancelled"):
            slow.result(0.01)
        slow.cancel()
        assert isinstance(slow.exception(), Cancelled)
        with pytest.raises(UsageError, match="send its result"):
            pickle.dumps(reply)
        assert repr(zw.stream(LINES, 1)).startswith("<Stream unit.lines")


def test_callbacks_are_told(settings: Settings) -> None:
    with service(settings), Client("asker", settings=settings) as zw:
        told: list[int] = []
        replies = [zw.request(COUNT, "a" * n) for n in range(10)]
        for reply in replies:
            reply.add_done_callback(lambda it: told.append(it.result()))
        wait_until(lambda: sorted(told) == list(range(10)), within=20)


@pytest.mark.asyncio
async def test_a_wait_that_would_block_the_loop_says_what_to_write(settings: Settings) -> None:
    async with service(settings), Client("asker", settings=settings) as zw:
        slow, endless = zw.request(COUNT, "slow"), zw.stream(LINES, 10**9)
        with pytest.raises(UsageError, match=r"await zw\.request"):
            slow.result()
        with pytest.raises(UsageError, match="async for item in"):
            for _ in endless:
                pass
        slow.cancel()  # to leave would wait for both
        endless.cancel()
        with pytest.raises(UsageError, match="async with"), zw.stream(LINES, 1):
            pass
        done = zw.request(COUNT, "abc")
        assert await done == 3
        assert done.result() == 3


@pytest.mark.asyncio
async def test_a_reply_that_nobody_looks_at_runs_once_and_its_failure_is_said(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "zerowait.requests"):
        async with service(settings), Client("asker", settings=settings) as zw:
            zw.request(COUNT, "bad")
            with pytest.raises(RemoteError):
                await zw.request(COUNT, "bad")

            def is_said() -> bool:
                gc.collect()
                return "nobody has looked at its reply" in caplog.text

            await wait_until_in_loop(lambda: zw.status().requests[0].outstanding == 0, within=10)
            await wait_until_in_loop(is_said, within=10)
    assert "use push()" in caplog.text


def test_threads_that_all_wait_for_their_own_app_are_noticed(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("service", settings=settings)

    @app.reply("unit.inner")
    def inner(value: int, ctx: Context) -> int:
        return value if value == 0 else int(ctx.request("unit.inner", value - 1, returns=int).result())

    app.reply("unit.inner.few", concurrency=2)(inner)

    @app.reply("unit.deep", concurrency=2)
    def deep(value: int, ctx: Context) -> int:
        return ctx.request("unit.deep", value, returns=int).result()

    with caplog.at_level(logging.WARNING, "zerowait.handlers"), app, Client("asker", settings=settings) as zw:
        began = time.monotonic()
        with pytest.raises((Expired, RemoteError)):
            zw.request("unit.deep", 1, timeout=1.5).result(60)
        assert time.monotonic() - began < 30
    assert "all 2 threads of" in caplog.text
    assert "unit.deep" in caplog.text


def test_a_forked_child_has_no_part_in_a_reply(settings: Settings) -> None:
    with service(settings), Client("asker", settings=settings) as zw:
        reply = zw.request(COUNT, "slow", timeout=20)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            said = "nothing"
            try:
                reply.result(1)
            except UsageError as error:
                said = str(error)
            finally:
                os.write(write, said.encode())
                os._exit(0)
        os.waitpid(child, 0)
        assert "This reply belongs to process" in os.read(read, 4096).decode()
        for end in (read, write):
            os.close(end)
        reply.cancel()


def test_what_a_handler_sends_leaves_if_it_has_answered(settings: Settings) -> None:
    app = App("service", settings=settings)
    got: list[str] = []

    @app.pull(PUSHED)
    async def pulled(text: str) -> None:
        got.append(text)

    @app.reply(COUNT)
    async def count(text: str, ctx: Context) -> int:
        ctx.push(PUSHED, text)
        if text == "bad":
            raise ValueError(text)
        return len(text)

    with app, Client("asker", settings=settings) as zw:
        assert zw.request(COUNT, "good").result(20) == 4
        assert isinstance(zw.request(COUNT, "bad").exception(20), RemoteError)
        wait_until(lambda: got == ["good"], within=20)
        assert zw.request(COUNT, "more").result(20) == 4
        wait_until(lambda: got == ["good", "more"], within=20)


def test_a_context_that_is_over_asks_no_more(settings: Settings) -> None:
    app = App("service", settings=settings)
    kept: list[Context] = []

    @app.reply(COUNT)
    async def count(text: str, ctx: Context) -> int:
        kept.append(ctx)
        return len(text)

    with app, Client("asker", settings=settings) as zw:
        assert zw.request(COUNT, "good").result(20) == 4
        with pytest.raises(UsageError, match="Ask with a client"):
            kept[0].request(COUNT, "late")
