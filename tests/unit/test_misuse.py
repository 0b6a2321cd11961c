"""What a user does wrong, and what happens then: the rows of the table of misuse that concern push and pull, by their
numbers. Tested beside the part that they are about: 3 (test_loading.py), 8 and 11 (test_codec.py, handlers/), 10, 14
and 15 (test_app.py), 16 (handlers/test_stage.py), 19 (test_telling.py)."""

from __future__ import annotations

import asyncio
import gc
import logging
import pickle
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

from tests.waiting import wait_until
from zerowait import App, Client, Context, Plain, PushChannel, Retry, Settings
from zerowait.callbacks import Callbacks
from zerowait.engines.brokerless import home as home_module
from zerowait.engines.brokerless.telling import Telling
from zerowait.errors import UsageError
from zerowait.message import Service


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING, "zerowait"):
        yield caplog


# 1 and 2: waiting from habit, and where it would block a loop


@pytest.mark.asyncio
async def test_awaiting_a_push_waits_for_the_disk_and_for_no_worker() -> None:
    async with Client("sender", settings=Settings.load(flags={"drain": 0.0})) as zw:
        receipt = await asyncio.wait_for(zw.push("nobody.serves.this", 1), 10)
        assert (receipt.state, receipt.handled.done()) == ("stored", False)


@pytest.mark.asyncio
async def test_what_would_block_the_loop_is_refused_with_the_line_to_write() -> None:
    zw = Client("sender", settings=Settings.load(flags={"drain": 0.0}))
    with pytest.raises(UsageError, match="write `async with`"), zw:
        pass
    async with zw:
        with pytest.raises(UsageError, match="would block the event loop"):
            zw.push("numbers", 1).handled.result()


@pytest.mark.asyncio
async def test_a_plain_with_or_for_on_a_loop_is_refused_at_its_first_line() -> None:
    async with Client("sender", settings=Settings.load(flags={"drain": 0.0})) as zw:
        for leaving, verb in (
            (zw.map("numbers", [1]), "map"),
            (zw.subscribe("prices.*"), "subscribe"),
            (zw.stream("lines", "a"), "stream"),
        ):
            with pytest.raises(UsageError, match=rf"write `async with zw\.{verb}\(…\)` instead"), leaving:
                pytest.fail("the block was entered")
        for items in (zw.map("numbers", [1]), zw.map("numbers", [1]).as_completed(), zw.subscribe("prices.*")):
            with pytest.raises(UsageError, match=r"would block the event loop .* `async for"):
                next(iter(items))
        async with zw.map("numbers", list[int]()) as results:
            assert await results == []


# 4: `zw.workers(x).at_least(4)`, not awaited


def test_waiting_for_workers_without_waiting_is_told_with_the_line(warned: pytest.LogCaptureFixture) -> None:
    with Client("sender") as zw:
        zw.workers("numbers").at_least(4)
        gc.collect()
        assert f"{__file__}:" in warned.text
        assert "zw.workers('numbers').at_least(4) was never waited for" in warned.text


def test_who_looks_waits_or_calls_back_is_not_warned(warned: pytest.LogCaptureFixture) -> None:
    app, called = App("taker"), threading.Event()

    @app.pull("numbers")
    def take(number: int) -> None: ...

    with Client("sender") as zw:
        zw.workers("numbers").at_least(1).add_done_callback(lambda _: called.set())
        assert not zw.workers("numbers").at_least(1).done()
        with pytest.raises(TimeoutError):
            zw.workers("numbers").at_least(1).result(0.01)
        gc.collect()
        with app:
            zw.workers("numbers").at_least(1).result(10)
            assert called.wait(10), "a callback keeps alive what it waits for"
    gc.collect()
    assert "never waited for" not in warned.text


# 6: a typo in a string channel


def test_a_channel_that_nobody_serves_is_told_with_the_nearest_that_is(warned: pytest.LogCaptureFixture) -> None:
    Telling("sender", Callbacks("sender")).lonely("numbres", 1, ["mail.parse", "numbers"], {})
    assert "nobody serves channel numbres: its messages wait here, safe. Did you mean numbers?" in warned.text
    assert "Served are: numbers, mail.parse." in warned.text


# 7: a push to what others serve as another kind


class Requests:
    """The handlers of a later version: a channel of another kind."""

    services = (Service("mail.count", "request", 1),)

    def ready(self, channel: str) -> None: ...

    def cancel(self, box: int, ranges: Sequence[tuple[int, int, int]]) -> None: ...

    def beat(self) -> float:
        return time.monotonic()

    def watch(self, now: float) -> None: ...


def test_a_channel_that_is_served_as_another_kind_takes_no_push_and_what_waits_stays(
    warned: pytest.LogCaptureFixture,
) -> None:
    with Client("sender", settings=Settings.load(flags={"drain": 0.0})) as zw, Client("counter") as other:
        before = [zw.push("mail.count", n) for n in range(3)]
        node = other._open().node
        node.call(lambda: node.serve(Requests())).result(5)
        wait_until(lambda: "serves mail.count as a request channel" in warned.text, within=10)

        with pytest.raises(UsageError, match=r"served as a request channel by counter \(pid"):
            zw.push("mail.count", 3)
        assert "counter (pid" in warned.text
        [ledger] = zw.status().boxes[0].channels
        assert (ledger.waiting, ledger.in_flight) == (len(before), 0)
        assert not list(zw.workers("mail.count"))
        assert zw.push("mail.parse", 1).result(5).id, "other channels are not concerned"


def test_who_only_looks_who_serves_a_channel_is_not_told_of_its_kind(warned: pytest.LogCaptureFixture) -> None:
    with Client("looker") as zw, Client("counter") as other:
        node = other._open().node
        node.call(lambda: node.serve(Requests())).result(5)
        zw.workers("mail.count").at_least(1).result(10)
        node = zw._open().node
        assert node.call(lambda: node.other_kind("mail.count")).result(5) is not None, "it was looked at"
        assert "as another kind" not in warned.text


# 12: a client's push inside a handler


@pytest.mark.parametrize("is_async", [False, True])
def test_a_clients_push_in_a_handler_is_told_once(warned: pytest.LogCaptureFixture, is_async: bool) -> None:
    app, got = App("stage"), list[int]()
    with Client("elsewhere") as zw:

        @app.pull("out")
        def out(number: int) -> None:
            got.append(number)

        if is_async:

            @app.pull("in")
            async def forward(number: int) -> None:
                zw.push("out", number)
        else:

            @app.pull("in")
            def forward_in_a_thread(number: int) -> None:
                zw.push("out", number)

        with app as own:
            for n in range(5):
                own.push("in", n)
            wait_until(lambda: sorted(got) == list(range(5)), within=10)
    lines = [record.getMessage() for record in warned.records if "with a client" in record.getMessage()]
    assert len(lines) == 1, lines
    assert "forward" in lines[0]
    assert "pushes to out with a client" in lines[0]
    assert "ctx.push" in lines[0]


def test_a_contexts_push_and_pushes_outside_of_handlers_are_not_told(warned: pytest.LogCaptureFixture) -> None:
    app, got = App("stage"), list[int]()

    @app.pull("in")
    async def forward(number: int, ctx: Context) -> None:
        ctx.push("out", number)

    @app.pull("out")
    def out(number: int) -> None:
        got.append(number)

    async def serve() -> None:
        async with app as zw:
            await zw.push("in", 1)

    asyncio.run(serve())
    assert got == [1]
    assert "with a client" not in warned.text


# 13: waiting for what leaves when the handler ends


def test_there_is_nothing_to_await_of_a_contexts_push() -> None:
    app, said = App("stage"), list[str]()

    @app.pull("in", retry=Retry(attempts=1))
    async def forward(number: int, ctx: Context) -> None:
        try:
            await cast("Any", ctx).push("out", number)
        except TypeError as error:
            said.append(str(error))

    with app as zw:
        zw.push("in", 1)
        wait_until(lambda: said, within=10)
    assert "NoneType" in said[0]


# 18: pickled clients (channels: test_channels.py; forks: test_pending.py and test_main_job.py)


def test_a_client_cannot_be_pickled_and_says_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"make one in the process that uses it, as Client\('sender'\)"):
        pickle.dumps(Client("sender"))


# 20: two services pull one channel, each expecting all


def test_two_services_of_one_channel_are_named_to_who_pushes(warned: pytest.LogCaptureFixture) -> None:
    def take(order: int) -> None: ...

    apps = [App("mail"), App("billing"), App("mail")]
    for app in apps:
        app.pull("orders")(take)
    with Client("shop") as zw:
        zw.push("orders", 1)
        with apps[0], apps[2]:
            zw.workers("orders").at_least(2).result(10)
            with apps[1]:
                zw.workers("orders").at_least(3).result(10)
                wait_until(lambda: "served by billing and mail" in warned.text, within=10)
    assert warned.text.count("channel orders is served by") == 1
    assert "each message goes to one of them" in warned.text


# 22 and 23: options that make no sense


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"at": datetime(2030, 1, 1)}, "with its time zone"),  # noqa: DTZ001
        ({"delay": timedelta(seconds=3)}, "takes seconds as a number"),
        ({"delay": -1}, "from 0 on"),
        ({"ttl": 0}, "above 0"),
    ],
    ids=repr,
)
def test_times_are_seconds_and_moments_have_a_zone(options: dict[str, Any], says: str) -> None:
    with Client("sender") as zw:
        with pytest.raises(UsageError, match=says):
            zw.push("numbers", 1, **options)
        assert not [each for box in zw.status().boxes for each in box.channels], "nothing was taken"


def test_what_a_bare_peer_or_a_worker_cannot_keep_is_refused_with_the_reason() -> None:
    plain = PushChannel[str]("texts", plain=Plain("text", connect="tcp://127.0.0.1:9"))
    with Client("sender") as zw, pytest.raises(UsageError, match="which acknowledges nothing"):
        zw.push(plain, "a", durable=True)
    with pytest.raises(UsageError, match="its sender's business"):
        App("taker").pull("numbers", **cast("Any", {"durable": True}))
    with pytest.raises(UsageError, match="nothing can stop a thread"):

        @App("taker").pull("numbers", timeout=3)
        def take(number: int) -> None: ...


# 25: patched threads; a file system that forgets


def test_threads_that_gevent_has_patched_are_refused_at_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    patched = ModuleType("gevent.monkey")
    vars(patched)["is_module_patched"] = {"threading": True}.get
    monkeypatch.setitem(sys.modules, "gevent.monkey", patched)
    zw = Client("sender")
    with pytest.raises(UsageError, match=r"gevent has patched threads.*patch_all\(thread=False\)"):
        zw.push("numbers", 1)

    vars(patched)["is_module_patched"] = {"threading": False}.get
    with zw:
        assert zw.push("numbers", 1).result(5).id


def test_an_outbox_on_what_forgets_is_told_at_opening(
    monkeypatch: pytest.MonkeyPatch, warned: pytest.LogCaptureFixture
) -> None:
    def in_memory(path: Path, mounts: str) -> str:
        return "tmpfs"

    monkeypatch.setattr(home_module, "filesystem", in_memory)
    with Client("sender") as zw:
        zw.push("numbers", 1, durable=False)
        assert "tmpfs" not in warned.text, "nothing is stored there"
        zw.push("numbers", 1).result(5)
        wait_until(lambda: "in memory (tmpfs)" in warned.text, within=5)
    assert "ZEROWAIT_HOME" in warned.text
    assert warned.text.count("(tmpfs)") == 1
