"""What nobody foresees: text of odd classes, times of centuries, exceptions from outside. It stops nobody."""

from __future__ import annotations

import asyncio
import gc
import signal

import pytest
from msgspec.structs import replace

from tests.waiting import wait_until
from zerowait import App, Client, Context, RetryLater, Settings
from zerowait.snapshot import ChannelStatus


class Markup(str):
    """As markupsafe, numpy and lxml have them."""


def test_text_of_a_class_of_its_own_is_text(settings: Settings) -> None:
    told: list[object] = []
    app = App(Markup("marked"), settings=settings)

    @app.pull(Markup("mail.marked"), to=Markup("mail.next"))
    async def mark(number: int, ctx: Context) -> int:
        ctx.push(Markup("mail.next"), number, headers={Markup("trace"): Markup("x")})
        return number

    @app.pull("mail.next")
    async def take(number: int, ctx: Context) -> None:
        told.append((number, dict(ctx.headers)))

    @app.reply(Markup("mail.asked"))
    async def answer(number: int, ctx: Context) -> str:
        return ctx.headers["trace"]

    heard: list[str] = []

    @app.subscribe(Markup("mail.heard"))
    async def hear(number: int, ctx: Context) -> None:
        heard.append(ctx.headers["trace"])

    with app as zw:
        headers: dict[str, str] = {Markup("trace"): Markup("t")}
        for durable in (True, False):
            zw.push(Markup("mail.marked"), 1, headers=headers, id=Markup(f"id{durable}"), durable=durable).result(5)
        assert zw.request(Markup("mail.asked"), 1, headers=headers, timeout=5).result(5) == "t"
        zw.subscribers("mail.heard").at_least(1).result(5)
        zw.publish(Markup("mail.heard"), 1, headers=headers).result(5)
        wait_until(lambda: len(told) == 4 and len(heard) == 1, within=10)
    assert heard == ["t"]
    expected: list[object] = [(1, {}), (1, {}), (1, {"trace": "x"}), (1, {"trace": "x"})]
    assert sorted(told, key=repr) == sorted(expected, key=repr)


def test_a_retry_in_three_hundred_years_stops_nobody(settings: Settings) -> None:
    app, ran = App("later", settings=replace(settings, drain=0.2)), list[int]()

    @app.pull("work")
    async def work(number: int) -> None:
        ran.append(number)
        if number == 0:
            raise RetryLater(after=1e10)

    with app as zw:
        zw.push("work", 0).result(5)
        wait_until(lambda: ran == [0] and ledger(zw).in_flight == 0, within=5)
        for number in range(1, 4):
            zw.push("work", number).result(5)  # the store thread goes on
        wait_until(lambda: ran == [0, 1, 2, 3], within=5)
        wait_until(lambda: (ledger(zw).handled, ledger(zw).waiting) == (3, 1), within=5)


def ledger(zw: Client) -> ChannelStatus:
    [found] = [channel for box in zw.status().boxes for channel in box.channels]
    return found


def test_closing_waits_for_centuries_if_it_is_told_to(settings: Settings) -> None:
    app, ran = App("slow", settings=settings), list[int]()

    @app.pull("work", concurrency=1)
    async def work(number: int) -> None:
        await asyncio.sleep(0.05)
        ran.append(number)

    with app:
        zw = Client("sender", settings=settings)
        for number in range(5):
            zw.push("work", number)
        assert zw.close(1e10).result(20) == 0
        assert len(ran) == 5


def test_what_was_pushed_is_stored_although_an_exception_kept_its_owner_from_being_woken(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupt(BaseException):
        pass

    with Client("sender", settings=settings) as zw:
        zw.push("work", 0).result(5)
        intake = zw._open().estate.intake(True)

        def interrupted() -> None:
            raise Interrupt

        # given: a signal handler raises where the store thread would have been woken
        with monkeypatch.context() as patched:
            patched.setattr(intake, "wake", interrupted)
            with pytest.raises(Interrupt):
                zw.push("work", 1)
        # when, then
        zw.push("work", 2).result(10)
        zw.close(0)


def test_what_the_collector_frees_may_push_in_the_middle_of_a_push(settings: Settings) -> None:
    class Temporary:
        def __init__(self) -> None:
            self.me = self  # only the collector frees it, wherever its thread is then

        def __del__(self) -> None:
            zw.push("cleaner", 1)

    with Client("sender", settings=settings) as zw:
        for number in range(30_000):
            Temporary()
            zw.push("work", {"n": number}, ttl=1_000 + number % 60)
        gc.collect()
        zw.push("work", 1).result(10)
        wait_until(lambda: accepted(zw) == {"cleaner": 30_000, "work": 30_001}, within=20)
        zw.close(0)


def test_a_signal_handler_may_push_in_the_middle_of_a_push(settings: Settings) -> None:
    pushed = 0

    def push(number: int, frame: object) -> None:
        nonlocal pushed
        zw.push("signal", pushed)
        pushed += 1
        signal.setitimer(signal.ITIMER_REAL, 0.0002)

    with Client("sender", settings=settings) as zw:
        zw.push("work", -1)
        before = signal.signal(signal.SIGALRM, push)
        signal.setitimer(signal.ITIMER_REAL, 0.0002)
        try:
            for number in range(60_000):
                zw.push("work", number, ttl=1_000 + number % 60)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        zw.push("work", -1).result(10)
        wait_until(lambda: accepted(zw) == {"signal": pushed, "work": 60_002}, within=20)
        assert pushed > 100
        zw.close(0)


def accepted(zw: Client) -> dict[str, int]:
    return {channel.channel: channel.accepted for box in zw.status().boxes for channel in box.channels}


@pytest.mark.parametrize("key", [None, "k"])
def test_many_small_messages_with_large_headers_end_no_connection(
    settings: Settings, key: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    settings = replace(settings, headers_bytes=64 << 10)
    app, ran = App("worker", settings=replace(settings, message_bytes=1 << 20)), list[int]()

    @app.pull("work")
    async def work(number: int, ctx: Context) -> None:
        assert len(ctx.headers["trace"]) == 60_000
        ran.append(number)

    with Client("sender", settings=settings) as zw:
        for number in range(300):
            zw.push("work", number, headers={"trace": "x" * 60_000}, key=key)
        zw.push("work", 300, headers={"trace": "x" * 60_000}, key=key).result(20)
        with app:
            wait_until(lambda: len(ran) == 301, within=30)
        zw.close(0)
    assert len(set(ran)) == 301, "none of them twice"
    assert "FRAGMENT" not in caplog.text
