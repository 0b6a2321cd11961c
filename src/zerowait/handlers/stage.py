"""All runners of an app, on one event loop: opened, served, drained and closed in this order.

stage = Stage(specs, …)          nothing starts
await stage.open(desk, outputs)  resources, then runners; from here on `ready()` wakes them
await stage.drain(seconds)       takes nothing more; what runs may end
await stage.close()              runners, then resources
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

from zerowait.contract import packed
from zerowait.engines.engine import Desk, Started
from zerowait.handlers.crew import Crew, Kit, log
from zerowait.handlers.outputs import Outputs
from zerowait.handlers.replying import KINDS, AsyncReplyCrew, Replying, ThreadReplyCrew
from zerowait.handlers.runners import AsyncCrew
from zerowait.handlers.runs import Running
from zerowait.handlers.threads import ThreadCrew
from zerowait.handlers.verdicts import Judge
from zerowait.handlers.visits import Visit
from zerowait.handlers.watchdog import Watchdog
from zerowait.message import Service

if TYPE_CHECKING:
    from zerowait.handlers.registry import HandlerSpec

BEAT = 0.25
CREWS: dict[tuple[bool, bool], type[Crew]] = {  # (answers, is async)
    (False, True): AsyncCrew,
    (False, False): ThreadCrew,
    (True, True): AsyncReplyCrew,
    (True, False): ThreadReplyCrew,
}

Resources = Callable[[], AbstractAsyncContextManager[Any] | AbstractContextManager[Any]]


class Stage:
    """The handlers' side of an engine (`Handlers`).

    specs: what is served, options settled (`Registry.handlers(settings)`). worker: this process's name, for people.
    resources: opened before the first message, closed after the last, both in one task. clock: of `Delivery.expires`.
    make_context: what a handler that wants `ctx`, and middleware, is given. traceback_bytes: bound of what a dead
    letter keeps. message_bytes: of the largest answer. prefetch: bound of the window that is announced, in messages.
    """

    def __init__(
        self,
        specs: Sequence[HandlerSpec],
        *,
        worker: str,
        clock: Callable[[], float],
        make_context: Callable[[Visit], Any],
        resources: Resources | None = None,
        middleware: Sequence[Callable[..., Any]] = (),
        traceback_bytes: int = 16 * 1024,
        message_bytes: int = 16 << 20,
        prefetch: int = 50_000,
    ) -> None:
        self._specs = tuple(specs)
        self._judge = Judge(worker, traceback_bytes)
        self._message_bytes = message_bytes
        self._clock = clock
        self._make_context = make_context
        self._resources = resources
        self._middleware = tuple(middleware)
        self._crews: dict[str, Crew] = {}
        self._kit: Kit | None = None
        self._thread = 0
        self._quiet: asyncio.Event | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._leave_resources: asyncio.Event | None = None
        self._watchdog = Watchdog(spec.fn for spec in self._specs if spec.is_async)
        self.services: Sequence[Service] = tuple(
            Service(
                channel=spec.channel,
                kind=spec.kind,
                concurrency=spec.concurrency or 1,
                fingerprint=spec.codec.fingerprint(),
                prefetch=prefetch,
                sends=bool(spec.to or spec.wants_ctx or middleware),
                keeps=spec.inbox == "disk",
                description=packed(spec.codec.describe()),
                idempotent=spec.idempotent,
            )
            for spec in self._specs
            if spec.feed is None
        )

    # From the engine, any thread

    def ready(self, channel: str) -> None:
        crew = self._crews.get(channel)  # None: not open yet, and runners look by themselves when they start
        if crew is not None:
            crew.ready()

    def cancel(self, box: int, ranges: Sequence[tuple[int, int, int]]) -> None:
        for crew in self._crews.values():
            if isinstance(crew, Replying):
                crew.cancel(box, ranges)

    def beat(self) -> float:
        return self._kit.turned if self._kit is not None else time.monotonic()

    def watch(self, now: float) -> None:
        """Looks whether the loop turns, and names in the log what blocks it. now: `time.monotonic`.

        To be called about four times a second from a thread other than the loop's.
        """
        if self._ticker is not None:
            self._watchdog.watch(self.beat(), now, self._thread)

    def current(self) -> list[Running]:
        """What runs at this moment; for status and the started-list."""
        return [running for crew in self._crews.values() for running in crew.running()]

    # The life of it, on the loop

    @property
    def runners(self) -> int:
        """How many there are of all channels: slots in the list of what they have begun."""
        return sum(spec.concurrency or 1 for spec in self._specs)

    async def open(self, desk: Desk, outputs: Outputs, started: Started | None = None) -> None:
        """Opens the resources, then starts the runners. Raises what opening the resources raises; then nothing runs.

        started: where the runners say what they have begun, if anybody wants to know.
        """
        loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._quiet = quiet = asyncio.Event()

        def ended() -> None:
            try:
                loop.call_soon_threadsafe(quiet.set)
            except RuntimeError:
                log.debug("a run ended after the event loop was closed")

        kit = Kit(
            desk=desk,
            outputs=outputs,
            judge=self._judge,
            loop=loop,
            clock=self._clock,
            make_context=self._make_context,
            ended=ended,
            message_bytes=self._message_bytes,
            middleware=self._middleware,
            turned=time.monotonic(),
            started=started,
            serves=frozenset(spec.channel for spec in self._specs),
        )
        if self._resources is not None:
            kit.resources = await self._open_resources(self._resources)
        self._kit = kit
        for spec in self._specs:
            self._crews[spec.channel] = crew = CREWS[spec.kind in KINDS, spec.is_async](spec, kit)
            crew.open()
        self._tick()

    async def drain(self, seconds: float) -> int:
        """Takes nothing more, hands back what was taken and not begun, and lets what runs end, `seconds` at most. Gives
        how many still ran then.

        Then async handlers are cancelled and threads left to themselves, named in the log; nothing is reported of
        these: their messages are redelivered by their owner. Afterwards nothing is reported any more.
        """
        crews = self._crews.values()
        for crew in crews:
            crew.leave()
        deadline = time.monotonic() + seconds
        quiet = self._quiet
        while quiet is not None and not all(crew.is_idle() for crew in crews):
            quiet.clear()
            if all(crew.is_idle() for crew in crews):
                break
            left = deadline - time.monotonic()
            if left <= 0:
                break
            try:
                async with asyncio.timeout(left):
                    await quiet.wait()
            except TimeoutError:
                break
        return self._give_up(seconds)

    async def close(self) -> None:
        """Ends the runners, then closes the resources. Raises what closing the resources raises."""
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        for crew in self._crews.values():
            crew.leave()
        self._give_up(0.0)
        for crew in self._crews.values():
            await crew.close()
        self._crews.clear()
        await self._close_resources()

    def _give_up(self, waited: float) -> int:
        running = [name for crew in self._crews.values() for name in crew.give_up()]
        if running:
            shown = ", ".join(running[:10]) + (f" and {len(running) - 10} more" if len(running) > 10 else "")
            log.warning(
                "Still being handled when leaving could wait no longer (%g s): %s. Nothing is lost: their senders give "
                "them to another worker",
                waited,
                shown,
            )
        return len(running)

    def _tick(self) -> None:
        assert self._kit is not None
        self._kit.turned = time.monotonic()
        self._ticker = self._kit.loop.call_later(BEAT, self._tick)

    # Resources: entered and left in one task, as cancel scopes and task groups among them demand

    async def _open_resources(self, resources: Resources) -> Any:
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._leave_resources = asyncio.Event()
        self._keeper = asyncio.create_task(
            self._keep(resources, opened, self._leave_resources), name="zerowait resources"
        )
        try:
            await asyncio.wait((opened, self._keeper), return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            self._keeper.cancel()
            raise
        if not opened.done():
            keeper, self._keeper = self._keeper, None
            await keeper
        return opened.result()

    async def _keep(self, resources: Resources, opened: asyncio.Future[Any], leave: asyncio.Event) -> None:
        async with _entered(resources) as given:
            opened.set_result(given)
            await leave.wait()

    async def _close_resources(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None and self._leave_resources is not None:
            self._leave_resources.set()
            await keeper


@asynccontextmanager
async def _entered(resources: Resources) -> AsyncGenerator[Any, None]:
    manager = resources()
    if isinstance(manager, AbstractAsyncContextManager):
        async with manager as given:
            yield given
    else:
        with manager as given:
            yield given
