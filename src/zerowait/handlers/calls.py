"""From a value to a call of the handler: context, middleware, generators, and what goes on to the next stage.

A handler that wants none of it is called as it is. What a handler sends is gathered in its Visit and becomes part of
the run only once it has succeeded.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial
from math import inf
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from zerowait.handlers.runs import Call, Run
from zerowait.handlers.visits import Visit

if TYPE_CHECKING:
    from concurrent.futures import Future

    from zerowait.handlers.crew import Crew

Answer = tuple[Any, BaseException | None]


def is_bare(crew: Crew) -> bool:
    """Whether the handler is called with its value and nothing else."""
    spec = crew.spec
    return not (spec.wants_ctx or spec.is_generator or crew.kit.middleware)


def async_call(crew: Crew, run: Run) -> Call:
    """What an async runner awaits for each value. What a bare handler gives is still to be passed on (`onward`)."""
    spec, kit = crew.spec, crew.kit
    fn: Callable[..., Any] = spec.fn
    if is_bare(crew):
        return fn
    to = spec.to
    is_stream = spec.kind == "stream"

    async def call(value: Any) -> Any:
        visit, context = _visit(crew, run)
        try:
            begin = partial(fn, value, context) if spec.wants_ctx else partial(fn, value)

            async def handle() -> Any:
                given = begin()
                if is_stream:
                    return await _stream(crew, run, given)
                if inspect.isasyncgen(given):
                    async for item in given:
                        _pass_on(visit, to, item)
                        if (spooled := visit.spool()) is not None:
                            await asyncio.wrap_future(spooled.stored)
                    return None
                return await given

            step: Callable[[], Any] = handle
            for middleware in reversed(kit.middleware):
                step = partial(middleware, context, step)
            given = await step()
            if to:
                _pass_on(visit, to, given)
                given = None
        except BaseException:
            visit.failed()
            raise
        finally:
            visit.over = True
        if run.cut:
            visit.failed()
        else:  # its timeout was over, though it did not heed that: it has failed, and sends nothing
            run.outputs.extend((visit.index, each) for each in visit.succeeded())
        return given

    return call


def plain_call(crew: Crew, run: Run, begin_on_loop: Callable[[Awaitable[Any]], Future[Answer]]) -> Call:
    """What a thread calls for each value. What it gives back may still have to be awaited.

    begin_on_loop: awaits it on the app's loop.
    """
    spec, kit = crew.spec, crew.kit
    fn: Callable[..., Any] = spec.fn
    if is_bare(crew) and not spec.to:
        return fn
    to = spec.to
    is_stream = spec.kind == "stream"

    def call(value: Any) -> Any:
        visit, context = _visit(crew, run)
        try:
            begin = partial(fn, value, context) if spec.wants_ctx else partial(fn, value)

            def handle() -> Any:
                given = begin()
                if inspect.isawaitable(given):
                    given = given_by(begin_on_loop(given))
                if is_stream:
                    return _stream_here(crew, run, given)
                if inspect.isgenerator(given):
                    item: Any
                    for item in given:
                        _pass_on(visit, to, item)
                        if (spooled := visit.spool()) is not None:
                            spooled.stored.result()
                    return None
                return given

            given = _through(crew, begin_on_loop, context, handle) if kit.middleware else handle()
            if to:
                _pass_on(visit, to, given)
                given = None
        except BaseException:
            visit.failed()
            raise
        finally:
            visit.over = True
        if sent := [(visit.index, each) for each in visit.succeeded()]:
            # The loop's thread may look at this run at any moment, to report what has ended of it: it takes what was
            # sent by then. Of a run that was given up nothing is reported, whatever it still adds.
            crew.keep(run, sent)
        return given

    return call


def _visit(crew: Crew, run: Run) -> tuple[Visit, Any]:
    kit, spec, job = crew.kit, crew.spec, run.job
    assert job is not None
    now = time.monotonic()
    deadline = inf if spec.timeout is None else now + spec.timeout
    expires = job.delivery.expires if spec.kind != "push" else None  # a push must only begin by then
    if expires is not None:
        deadline = min(deadline, now + expires - kit.clock())
    visit = Visit(job.delivery, run.position, kit.resources, kit.outputs, lambda: crew.leaving, deadline)
    visit.served = spec.channel
    if spec.kind != "push":
        visit.answers = True
        run.visit = visit
    if deadline < inf:
        visit.until = kit.clock() + deadline - now
    return visit, kit.make_context(visit) if spec.wants_ctx or kit.middleware else None


def _pass_on(visit: Visit, to: tuple[Any, ...], value: Any) -> None:
    if value is not None:
        for target in to:
            visit.push(target, value, {})


async def _stream(crew: Any, run: Run, given: Any) -> None:
    """The items of a stream go as they come, each when its reader has made room."""
    if not hasattr(given, "__aiter__"):
        given = await given
    try:
        async for item in given:
            if (room := crew.give(run, item)) is not None:
                await room
    finally:
        if inspect.isasyncgen(given):
            await given.aclose()


def _stream_here(crew: Any, run: Run, given: Any) -> None:
    try:
        for item in given:
            crew.give(run, item)
    finally:
        if inspect.isgenerator(given):
            given.close()


def _through(
    crew: Crew,
    begin_on_loop: Callable[[Awaitable[Any]], Future[Answer]],
    context: Any,
    handle: Callable[[], Any],
) -> Any:
    """Runs the middleware on the loop, where it was written for, and the handler itself here, on its thread.

    The two sides take turns: the thread waits until the innermost `call()` asks for the handler, or all has ended.
    """
    wanted: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
    loop = crew.kit.loop

    async def call() -> Any:
        answer: asyncio.Future[Any] = loop.create_future()
        variables = copy_context()  # what the middleware has set is seen by the handler

        def handle_here() -> None:
            given, error = None, None
            try:
                given = variables.run(handle)
            except BaseException as raised:
                error = raised
            loop.call_soon_threadsafe(_settle, answer, given, error)

        wanted.put(handle_here)
        given, error = await answer
        if error is not None:
            raise error
        return given

    async def chain() -> Any:
        step: Callable[[], Any] = call
        for middleware in reversed(crew.kit.middleware):
            step = partial(middleware, context, step)
        return await step()

    ended = begin_on_loop(chain())
    ended.add_done_callback(lambda _: wanted.put(None))
    while (handle_now := wanted.get()) is not None:
        handle_now()
    return given_by(ended)


def given_by(future: Future[Answer]) -> Any:
    """What it gave, or raises what it raised. Waits for it."""
    given, error = future.result()
    if error is not None:
        raise error
    return given


def _settle(answer: asyncio.Future[Any], given: Any, error: BaseException | None) -> None:
    if not answer.done():  # its waiter may have been cancelled
        answer.set_result((given, error))
