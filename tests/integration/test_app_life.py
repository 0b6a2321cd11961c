"""An app's life in one process: started, failed, stopped, and started again; nothing of it is left behind."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing.util
import os
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until
from zerowait import App, Client, Plain, PushChannel, Settings
from zerowait.engines.brokerless.node import Node
from zerowait.engines.brokerless.plainly.ports import PlainPorts
from zerowait.handlers.stage import Stage


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def ours() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("zerowait"))


@pytest.fixture
def uncollected() -> Iterator[None]:
    """What only the collector would close counts as left open: in a large program it comes seldom."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.skipif(sys.platform != "linux", reason="counts what /proc shows")
@pytest.mark.usefixtures("uncollected")
def test_fifty_lives_leave_no_thread_no_descriptor_and_no_exit_hook(settings: Settings) -> None:
    app = App("served", settings=settings)
    seen: list[int] = []

    @app.pull("numbers")
    async def take(number: int) -> None:
        await asyncio.to_thread(seen.append, number)  # a thread of the loop's own, which must end with it

    def live(number: int) -> None:
        with app as zw:
            zw.push("numbers", number, durable=number % 2 == 0).result(5)

    for number in range(3):  # what is made once in a process: modules, pools, the system's own
        live(number)
    wait_until(lambda: not ours(), within=5)
    threads, open_files, hooks = threading.active_count(), descriptors(), len(multiprocessing.util._finalizer_registry)  # type: ignore[attr-defined]
    for number in range(3, 53):
        live(number)
    assert sorted(set(seen)) == list(range(53))
    wait_until(lambda: threading.active_count() <= threads, within=5)
    wait_until(lambda: descriptors() <= open_files, within=5)
    assert len(multiprocessing.util._finalizer_registry) <= hooks  # type: ignore[attr-defined]


def test_a_block_ends_only_when_what_it_pushed_to_itself_is_handled(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    app, seen = App("served", settings=settings), list[int]()

    @app.pull("numbers")
    async def take(number: int) -> None:
        seen.append(number)

    for number in range(30):
        with app as zw:
            zw.push("numbers", number).result(5)  # stored; that moment is where it could be overlooked
        assert seen == list(range(number + 1))
    assert "undelivered" not in caplog.text


def test_tasks_that_a_handler_left_running_end_with_the_block(settings: Settings) -> None:
    app, ends = App("served", settings=settings), list[str]()
    begun = threading.Event()

    async def for_ever() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    kept: list[asyncio.Task[None]] = []

    @app.pull("numbers")
    async def take(number: int) -> None:
        kept.append(asyncio.create_task(for_ever()))

    with app as zw:
        zw.push("numbers", 1)
        assert begun.wait(5)
    assert ends == ["cancelled"]
    assert kept[0].cancelled()
    wait_until(lambda: not ours(), within=5)


STEPS: list[tuple[type, str]] = [(Stage, "open"), (PlainPorts, "pull_from"), (Node, "serve")]


@pytest.mark.parametrize(("room", "step"), STEPS)
def test_a_start_that_fails_at_any_step_closes_what_it_had_opened(
    room: type, step: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed: list[str] = []

    @asynccontextmanager
    async def resources() -> AsyncGenerator[None]:
        yield
        closed.append("resources")

    address = f"ipc://{tmp_path}/bare"
    app: App[Any] = App("served", settings=settings, resources=resources)

    @app.pull(PushChannel[int]("numbers", plain=Plain("json", bind=address)))
    async def take(number: int) -> None: ...

    def fail(*_: object) -> None:
        raise ZeroDivisionError(step)

    before = ours()
    with monkeypatch.context() as patched:
        patched.setattr(room, step, fail)
        with pytest.raises(ZeroDivisionError, match=step), app:
            pass
    assert closed == ([] if step == "open" else ["resources"])
    wait_until(lambda: ours() == before, within=5)
    with app as zw:  # and it can be started again
        assert zw.status().state == "running"


def test_each_life_reads_the_settings_of_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    app = App("served")
    for namespace in ("one", "two"):
        monkeypatch.setenv("ZEROWAIT_NAMESPACE", namespace)
        with app as zw:
            assert zw.status().namespace == namespace
    assert app._settings is None


@pytest.mark.parametrize("leaves", ["worker", "sender"])
def test_a_process_that_leaves_in_order_loses_no_connection(
    settings: Settings, caplog: pytest.LogCaptureFixture, leaves: str
) -> None:
    """Its own log said that the connection to each peer was lost, and that what that one holds is kept for it."""
    caplog.set_level("DEBUG", "zerowait.peers")
    app, seen = App("served", settings=settings), list[int]()

    @app.pull("numbers")
    async def take(number: int) -> None:
        seen.append(number)

    with ExitStack() as later:
        worker, sender = app, Client("sender", settings=settings)
        first, other = (worker, sender) if leaves == "worker" else (sender, worker)
        later.enter_context(other)
        with first:
            sender.push("numbers", 1).handled.result(5)
        wait_until(lambda: "has left" in caplog.text, within=5)
    assert "is closed: this process leaves" in caplog.text
    assert "is lost" not in caplog.text


@pytest.mark.parametrize("drain", [0.0, None])
def test_an_app_whose_client_was_closed_in_its_block_leaves_as_any_other(
    settings: Settings, drain: float | None
) -> None:
    app, seen = App("served", settings=settings), list[int]()

    @app.pull("numbers")
    async def take(number: int) -> None:
        seen.append(number)

    for number in range(2):  # and can be entered again
        with app as zw:
            zw.push("numbers", number).result(5)
            wait_until(lambda: len(seen) > number, within=5)  # noqa: B023
            zw.close(drain).result(10)
    assert seen == [0, 1]
    wait_until(lambda: not ours(), within=5)
