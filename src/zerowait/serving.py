"""Running an app: its handlers on a loop, its client beside them, from the first message to the last acknowledgement.

start:  client opens → resources → runners → the channels are announced
stop:   channels withdrawn, what has not begun goes back → what runs ends, at most `drain` → outcomes confirmed
        → goodbye
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from msgspec.structs import replace

from zerowait.client import Client
from zerowait.context import Context
from zerowait.engines.brokerless.clock import clock
from zerowait.errors import Closed, UsageError
from zerowait.feeding import Feeding
from zerowait.handlers.registry import Feed
from zerowait.handlers.stage import Stage
from zerowait.outgoing import Outgoing
from zerowait.processes.child import Parent, Started
from zerowait.processes.parent import supervise
from zerowait.processes.roster import NOT_WHOLE
from zerowait.settings import Settings
from zerowait.ticking import Ticking, one_at_a_time

if TYPE_CHECKING:
    from zerowait.handlers.registry import Registry
    from zerowait.handlers.stage import Resources
    from zerowait.opening import Opened

log = logging.getLogger("zerowait")


class Served(Protocol):
    """What is run: see `app.App`. What it is while it runs is kept in it: its client, its serving, its loop."""

    name: str
    _settings: Settings | None

    @property
    def _registry(self) -> Registry: ...
    @property
    def _resources(self) -> Resources | None: ...


def _shared(feed: Feed) -> str:
    if feed.group:
        return f"one process of group {feed.group} handles each event"
    return "each process handles each event; group= to share"


class Serving:
    """An app at work."""

    def __init__(self, app: Served) -> None:
        self.app = app
        self.pid = os.getpid()
        self.client = client_of(app)
        self.drain = 0.0  # seconds; of the settings, once they are read
        self.stuck_after = 0.0
        self._stage: Stage | None = None
        self._opened: Opened | None = None
        self._feeding: Feeding | None = None
        self._ticking: asyncio.Task[None] | None = None

    async def start(self) -> Started:
        """Raises what any of its steps raises; then nothing runs, and what was opened before it is closed again."""
        await self.client.__aenter__()
        try:
            return await self._start()
        except BaseException:
            await self._undo()
            raise

    async def _start(self) -> Started:
        app, client = self.app, self.client
        self._opened = opened = client._open()
        node, settings = opened.node, opened.settings  # those that the client was opened with are everybody's
        self.drain, self.stuck_after = settings.drain, settings.stuck_after
        assert node.counter is not None
        marks = settings.home_folder() / settings.namespace / "every"
        specs = [one_at_a_time(spec, marks) for spec in app._registry.handlers(settings)]
        self._stage = stage = Stage(
            specs,
            worker=app.name,
            clock=clock,
            make_context=lambda visit: Context(visit, lambda: client),
            resources=app._resources,
            middleware=app._registry.layers(),
            traceback_bytes=settings.traceback_bytes,
            message_bytes=settings.message_bytes,
            prefetch=settings.prefetch,
        )
        if any(spec.inbox == "disk" for spec in specs):
            await asyncio.wrap_future(opened.estate.own_disk())
        # What a handler publishes is kept for those groups that are known when it ends.
        await asyncio.wrap_future(opened.feeds.groups.read())
        self._feeding = feeding = Feeding(node.counter, opened.feeds, specs, stage.ready)
        desk = feeding if len(feeding) else node.counter
        node.list_unbegun()
        await stage.open(desk, Outgoing(opened), node.list_started(stage.runners))
        for spec in specs:
            opened.plains.serve(spec, settings)
        await asyncio.wrap_future(node.call(lambda: node.serve(stage)))
        feeding.begin()
        ticking = Ticking(specs, marks, self._tick)
        self._ticking = asyncio.create_task(ticking.run(), name="zerowait every")
        from zerowait import __version__

        return Started(
            version=__version__, pid=os.getpid(), name=app.name, instance=node.instance, namespace=settings.namespace,
            endpoints=tuple(node.endpoints), serves=tuple(stage.services), drain=settings.drain,
            subscribes={spec.channel: _shared(spec.feed) for spec in specs if spec.feed is not None},
            timed={spec.channel: str(spec.rhythm) for spec in specs if spec.rhythm is not None},
        )  # fmt: skip

    @property
    def life(self) -> int | None:
        """The descriptor of the lock of this process's life."""
        directory = self._opened.node.directory if self._opened is not None else None
        return directory.life if directory is not None else None

    def _tick(self, channel: str, time: str, ttl: float | None) -> None:
        self.client.push(channel, time, durable=False, ttl=ttl)

    async def _undo(self) -> None:
        """After a step that failed: the error is that step's, so what goes wrong here is only logged."""
        opened, stage = self._opened, self._stage
        self._stage = self._opened = None
        if opened is not None and stage is not None:
            try:
                await stage.close()
                await asyncio.wrap_future(opened.node.call(opened.node.forget_handlers))
            except Exception:
                log.exception("closing %s after its start had failed went wrong", self.app.name)
        await self.client.close()

    async def finish_own(self) -> None:
        """At the end of a block: what was pushed in it to channels that this app serves itself is handled first, as far
        as `drain` reaches. A service that is told to stop does not do that: its backlog is for the next one."""
        until = time.monotonic() + self.drain
        opened = self._opened
        with suppress(Closed):
            while opened is not None and time.monotonic() < until:
                if await self._is_own_finished(opened, until):
                    return
                await asyncio.sleep(0.005)

    async def _is_own_finished(self, opened: Opened, until: float) -> bool:
        """What a handler sends is in flight, then prepared until its run is chosen, then stored and offered, then in
        flight again. No moment sees all of that, so it is followed in its own direction: what has passed from the
        prepared to the stored since the first look has made more that was accepted."""
        estate, inventory = opened.estate, opened.estate.inventory
        accepted = inventory.accepted()
        if not inventory.is_stored():
            return False
        try:  # what is stored has been offered, too; a disk that hangs holds up nobody for longer than `drain`
            await asyncio.wait_for(asyncio.wrap_future(estate.turned()), until - time.monotonic())
        except TimeoutError:
            return False
        if not await asyncio.wrap_future(opened.node.call(self._has_finished_own)):
            return False
        return not inventory.is_choosing() and inventory.is_stored() and inventory.accepted() == accepted

    def _has_finished_own(self) -> bool:
        """On the network thread."""
        assert self._opened is not None
        node, feeding = self._opened.node, self._feeding
        events = feeding is not None and len(feeding) and (not node.topical.is_settled() or feeding.has_rest())
        return node.has_finished_own() and not events

    async def stop(self) -> int:
        """Drains: afterwards nothing of this app runs, and what was settled is known to its senders as far as they
        could be reached. Gives how many runs did not end in time and were given up.

        Raises what closing the resources raises; all else is closed then too."""
        opened, stage = self._opened, self._stage
        if opened is None or stage is None:
            return 0
        node, until = opened.node, time.monotonic() + self.drain
        if self._ticking is not None:
            self._ticking.cancel()
        if self._feeding is not None:
            self._feeding.end()
        # Closed: somebody has closed its client before, and with it all that would have to be told.
        with suppress(Closed):
            await asyncio.wrap_future(node.call(node.drain))
        given_up = await stage.drain(self.drain)
        with suppress(Closed):
            await self._until_drained(until)
        try:
            await stage.close()
        finally:
            with suppress(Closed):
                await asyncio.wrap_future(node.call(node.forget_handlers))
            await self.client.close(max(0.0, until - time.monotonic()))
            self._stage = self._opened = None
        return given_up

    async def _until_drained(self, until: float) -> None:
        """What has ended is said at once; its senders' confirmations take a commit of theirs."""
        assert self._opened is not None
        node = self._opened.node
        patience = max(until, time.monotonic() + 0.5)
        while time.monotonic() < patience:
            if await asyncio.wrap_future(node.call(node.is_drained)):
                return
            await asyncio.sleep(0.005)


def client_of(app: Served) -> Client:
    """The app's own client; made at first use."""
    there: Client | None = vars(app).get("_client")
    if there is not None:
        return there
    made: Client = vars(app).setdefault("_client", Client(app.name, settings=app._settings))
    return made


def _new(app: Served) -> Serving:
    running: Serving | None = vars(app).get("_serving")
    if running is not None and running.pid == os.getpid():
        raise UsageError(f"App {app.name!r} is running in this process already: run another App, or another process.")
    serving = Serving(app)
    vars(app)["_serving"] = serving
    return serving


def _forget(app: Served) -> None:
    vars(app)["_serving"] = None


async def serve(app: Served) -> None:
    """Serves on the running loop until cancelled, then drains."""
    serving = _new(app)
    try:
        await serving.start()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.shield(asyncio.ensure_future(serving.stop()))
    finally:
        _forget(app)


async def aenter(app: Served) -> Client:
    serving = _new(app)
    try:
        await serving.start()
    except BaseException:
        _forget(app)
        raise
    return serving.client


async def aleave(app: Served) -> None:
    serving: Serving | None = vars(app).get("_serving")
    if serving is not None:
        try:
            await serving.finish_own()
            await serving.stop()
        finally:
            _forget(app)


class _LoopThread:
    """A loop of its own for `with app:`."""

    def __init__(self, name: str) -> None:
        self._name = name
        begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._main, args=(begun,), name=f"zerowait handlers {name}", daemon=True)
        self._thread.start()
        self._loop, self._told = begun.result()

    def _main(self, begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
        async def until_told() -> None:
            told = asyncio.Event()
            begun.set_result((asyncio.get_running_loop(), told))
            await told.wait()

        try:
            # The runner's end cancels what tasks are left, and ends the generators and the threads of `to_thread`.
            with asyncio.Runner() as runner:
                runner.run(until_told())
        except BaseException as error:
            if begun.done():
                raise
            begun.set_exception(error)  # no descriptors for a loop, say

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._told.set)
        self._thread.join(5.0)
        if self._thread.is_alive():
            log.warning("%s: something on its loop does not end when it is cancelled; it is left behind", self._name)


def enter(app: Served) -> Client:
    from zerowait.opening import refuse_blocking

    refuse_blocking("async with")
    thread = _LoopThread(app.name)
    try:
        client: Client = thread.run(aenter(app))
    except BaseException:
        thread.stop()
        raise
    vars(app)["_loop_thread"] = thread
    return client


def leave(app: Served) -> None:
    thread: _LoopThread | None = vars(app).pop("_loop_thread", None)
    if thread is not None:
        try:
            thread.run(aleave(app))
        finally:
            thread.stop()


def run(
    app: Served,
    on_started: Callable[[Sequence[Started]], None] | None = None,
    parent: Parent | None = None,
    source: str = "",
) -> int:
    """Serves until SIGTERM or SIGINT, then drains; gives the exit code: 0 after a whole drain, NOT_WHOLE if something
    still ran when it was over. A second signal leaves at once. Raises what keeps it from serving.

    on_started: called with what runs, once all of it does. parent: the process that started this one for that, if it is
    known already. source: the file that the app came from.
    """
    parent = parent or Parent.inherited()
    settings = app._settings or Settings.load()
    if parent is None and settings.processes > 1:
        return supervise(settings, on_started)
    if parent is not None:
        app._settings = parent.settings(settings)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_run(app, on_started, parent, source))


async def _run(
    app: Served, on_started: Callable[[Sequence[Started]], None] | None, parent: Parent | None, source: str
) -> int:
    serving = _new(app)
    loop, told = asyncio.get_running_loop(), asyncio.Event()

    signals: list[int] = []

    def stop(why: str, more: str = "", level: int = logging.INFO) -> None:
        if not told.is_set():
            log.log(level, "%s: finishing what runs, for at most %g s%s", why, serving.drain, more)
            told.set()

    def signalled(number: int) -> None:
        name = signal.Signals(number).name
        if signals:
            log.warning("%s: leaving at once; what runs here is given to others", name)
            os._exit(128 + number)
        signals.append(number)
        stop(name, "; once more to leave at once")

    def by_parent(is_there: bool) -> None:
        if is_there:  # which has said so for all
            stop("told to stop", level=logging.DEBUG)
        else:
            stop("the process that started this one has died", level=logging.WARNING)

    is_main = threading.current_thread() is threading.main_thread()
    for number in (signal.SIGTERM, signal.SIGINT) if is_main else ():
        loop.add_signal_handler(number, signalled, number)
    if parent is not None:
        parent.attend(by_parent)
    try:
        started = replace(await serving.start(), source=source)
        if parent is not None:
            parent.serves(started, serving.life, serving.stuck_after)
        if on_started is not None:
            on_started([started])
        await told.wait()
        given_up = await serving.stop()
    finally:
        _forget(app)
        if parent is not None:
            parent.leave()
        for number in (signal.SIGTERM, signal.SIGINT) if is_main else ():
            loop.remove_signal_handler(number)
    return NOT_WHOLE if given_up else 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    loops: Any = uvloop  # an extra, which need not be installed where this is checked
    factory: Callable[[], asyncio.AbstractEventLoop] = loops.new_event_loop
    return factory
