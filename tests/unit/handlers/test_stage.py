"""The stage as a whole: what it announces, whether its loop turns."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from msgspec import Struct

from tests.unit.handlers.fakes import Spec, delivery, hall
from tests.waiting import wait_until, wait_until_in_loop
from zerowait.channels import PushChannel
from zerowait.context import Context
from zerowait.contract import packed
from zerowait.engines.engine import Handlers
from zerowait.handlers.runners import Bell
from zerowait.handlers.specs import pull_spec
from zerowait.handlers.stage import Stage
from zerowait.handlers.visits import Visit
from zerowait.handlers.watchdog import Watchdog
from zerowait.message import Service, Verdict
from zerowait.settings_channels import ChannelSettings

pytestmark = pytest.mark.asyncio


async def handle(value: int) -> None: ...


def handle_plainly(value: int) -> None: ...


async def test_it_announces_what_it_serves() -> None:
    async with hall(Spec("a", handle), Spec("b", handle, concurrency=3)) as here:
        seam: Handlers = here.stage
        name, description = b"\0" * 16, packed("any")
        assert list(seam.services) == [
            Service("a", "push", 32, name, sends=False, description=description),
            Service("b", "push", 3, name, sends=False, description=description),
        ]


async def test_a_stage_that_is_not_open_bears_to_be_called() -> None:
    stage = Stage([], worker="w", clock=time.monotonic, make_context=lambda visit: visit)
    stage.ready("unknown")
    stage.watch(time.monotonic())
    assert stage.current() == []
    await stage.drain(0)
    await stage.close()


async def test_each_of_many_channels_is_served() -> None:
    specs = [Spec(f"c{n}", handle if n % 2 else handle_plainly, is_async=bool(n % 2)) for n in range(6)]
    async with hall(*specs) as here:
        here.desk.admit(*(delivery(range(100), channel=f"c{n}") for n in range(6)))
        await here.desk.until_done()


async def test_the_beat_goes_on_while_the_loop_turns() -> None:
    async with hall(Spec("work", handle)) as here:
        before = here.stage.beat()
        await wait_until_in_loop(lambda: here.stage.beat() > before, within=2)


async def test_a_handler_that_blocks_the_loop_is_named_with_its_line(caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()

    async def blocks(value: int) -> None:
        release.wait(20)  # the line that is to be named

    async with hall(Spec("work", blocks)) as here:
        line = blocks.__code__.co_firstlineno + 1

        def look() -> None:
            at = time.monotonic()  # as if looked at four times a second for three seconds
            wait_until(lambda: here.stage.current(), within=5)
            for n in range(14):
                here.stage.watch(at + n / 4)
            release.set()

        watcher = threading.Thread(target=look)
        here.desk.admit(delivery([0]))
        watcher.start()
        await here.desk.until_done()
        watcher.join()
        said = [text for text in caplog.messages if "blocked the event loop" in text]
        assert len(said) == 2  # at one second and at two
        assert "blocks" in said[0]
        assert f"test_stage.py:{line}" in said[0]


async def test_a_pause_of_the_whole_process_blames_nobody(caplog: pytest.LogCaptureFixture) -> None:
    watchdog = Watchdog([handle])
    watchdog.watch(1.0, 1.0, threading.get_ident())
    watchdog.watch(1.0, 3_600.0, threading.get_ident())
    assert caplog.messages == []


class Mail(Struct):
    path: str
    size: int


async def test_what_the_registry_holds_is_run_with_its_own_codec_and_context() -> None:
    seen: list[tuple[Any, ...]] = []

    async def parse(mail: Mail, ctx: Context) -> str | None:
        seen.append((mail, ctx.channel, ctx.attempt, ctx.id))
        ctx.push("seen", mail.path)
        return mail.path if mail.size else None

    def count(mail: Mail) -> None:
        seen.append((mail,))

    def no_client() -> Any:
        raise AssertionError

    def context(visit: Visit) -> Context[Any]:
        return Context(visit, no_client)

    specs: Any = [
        pull_spec(parse, PushChannel[Mail]("mail.parse"), to="mail.next"),
        pull_spec(count, PushChannel[Mail]("mail.count")),
    ]
    settled = [spec.under(ChannelSettings()) for spec in specs]
    async with hall(*settled, make_context=context) as here:
        here.desk.admit(work := delivery([Mail("a", 1), {"path": "b"}], channel="mail.parse"))
        here.desk.admit(delivery([Mail("c", 0)], channel="mail.count"))
        await here.desk.until_done()
        assert here.desk.fates(work) == [Verdict.HANDLED, Verdict.DEAD]
        assert "size" in here.desk.note(work, 1)["reason"]
        assert (Mail("c", 0),) in seen
        assert (Mail("a", 1), "mail.parse", 1, "0000000000000abc-z-1") in seen
        assert here.outputs.sent == [("seen", "a"), ("mail.next", "a")]


async def test_a_bell_rings_its_task_at_once_and_can_be_cancelled() -> None:
    loop = asyncio.get_running_loop()
    heard: list[object] = []

    async def listen(bell: Bell) -> None:
        try:
            heard.append(await bell)
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise

    bells = [Bell(loop), Bell(loop)]
    tasks = [asyncio.create_task(listen(bell)) for bell in bells]
    await asyncio.sleep(0)

    def ring() -> None:
        bells[0].ring(None)
        heard.append("after")

    loop.call_soon(ring)
    await asyncio.wait([tasks[0]])
    assert heard == [None, "after"]
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    assert tasks[1].cancelled()
    assert heard[-1] == "cancelled"
