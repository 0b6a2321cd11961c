"""Handlers that run by the clock.

Each is the handler of a channel of its own, to which a process pushes when it is due: so runs, failures and the way out
are those of every other handler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from zerowait.errors import UsageError
from zerowait.handlers.reading import Reading, called, read_timed
from zerowait.handlers.registry import HandlerSpec
from zerowait.handlers.rhythm import Rhythm
from zerowait.names import check_channel
from zerowait.retry import Retry


def timed_spec(
    fn: Callable[..., Any], rhythm: Rhythm, app: str, *, names: Mapping[str, Any] | None = None
) -> HandlerSpec:
    """The record of an `@app.every`. names: of the place where it stands, for annotations.

    Raises UsageError for all that can be known to be wrong before anything runs.
    """
    reading = read_timed(fn, names)
    name = getattr(fn, "__name__", "")
    if not name.isascii() or not name.isidentifier():
        raise UsageError(
            f"{called(fn)} runs by the clock, and processes that do the same agree by its name: give it one of ASCII "
            "letters, digits and _."
        )
    return HandlerSpec(
        kind="push",
        channel=check_channel(f"every.{app}.{name}"),
        fn=_of_a_value(fn, reading),
        is_async=reading.is_async,
        is_generator=False,
        wants_ctx=reading.wants_ctx,
        value_type=str | None,  # which time it is; None: somebody has pushed by hand
        concurrency=1,
        retry=Retry(attempts=1),  # it comes again by itself
        rhythm=rhythm,
    )


def _of_a_value(fn: Callable[..., Any], reading: Reading) -> Callable[..., Any]:
    """As handlers are called: with a value, which is of no use here."""
    if reading.is_async:

        @wraps(fn)
        async def run(time: str | None, *context: Any) -> None:
            await fn(*context)

        return run

    @wraps(fn)
    def call(time: str | None, *context: Any) -> Any:
        return fn(*context)

    return call
