"""The records of handlers, from what their decorators say and what their functions are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from zerowait.channels import Channel, PushChannel, RequestChannel, StreamChannel
from zerowait.errors import UsageError
from zerowait.handlers.fitting import check_answer, check_result, check_terms, check_value, item_of
from zerowait.handlers.reading import read
from zerowait.handlers.registry import HandlerSpec, Target
from zerowait.names import check_channel
from zerowait.retry import Retry


def pull_spec(
    fn: Callable[..., Any],
    channel: PushChannel[Any] | str,
    *,
    to: Target | Iterable[Target] | None = None,
    concurrency: int | None = None,
    timeout: float | None = None,
    retry: Retry | None = None,
    inbox: str = "memory",
    names: Mapping[str, Any] | None = None,
) -> HandlerSpec:
    """The record of an `@app.pull`. names: of the place where it stands, for annotations.

    Raises UsageError for all that can be known to be wrong before anything runs.
    """
    name, declared = pulled(channel)
    reading = read(fn, names)
    targets = _targets(to, name)
    check_value(fn, reading, declared)
    check_result(fn, reading, targets)
    check_terms(fn, reading, concurrency, timeout, retry, inbox)
    return HandlerSpec(
        kind="push",
        channel=name,
        fn=fn,
        is_async=reading.is_async,
        is_generator=reading.is_generator,
        wants_ctx=reading.wants_ctx,
        value_type=reading.value,
        declared=declared,
        to=targets,
        concurrency=concurrency,
        timeout=timeout,
        retry=retry,
        inbox=inbox,
    )


def pulled(channel: object) -> tuple[str, Channel | None]:
    """The name and, if it is declared, the channel of an `@app.pull`."""
    if isinstance(channel, str):
        return check_channel(channel), None
    if isinstance(channel, Channel):
        if channel.kind == "push":
            return channel.name, channel
        use = ": use @app.reply" if channel.kind in ("request", "stream") else ""
        raise UsageError(f"@app.pull serves push channels, and {channel!r} is of kind {channel.kind}{use}.")
    if callable(channel):
        raise UsageError('@app.pull wants its channel: write @app.pull("numbers"), or @app.pull(PARSE).')
    raise UsageError(f"@app.pull takes a PushChannel or a name, not {channel!r}.")


def _targets(to: Target | Iterable[Target] | None, own: str) -> tuple[Target, ...]:
    if to is None:
        return ()
    targets: tuple[Target, ...] = tuple(to) if isinstance(to, (list, tuple, set, frozenset)) else (cast("Target", to),)
    if not targets:
        raise UsageError(f"to=[] of the handler of {own!r} sends nowhere: leave it away, or name a channel.")
    return tuple(_checked_target(target, own) for target in targets)


def _checked_target(target: Target, own: str) -> Target:
    if isinstance(target, str):
        return check_channel(target)
    if not isinstance(target, PushChannel):
        raise UsageError(f"to= of the handler of {own!r} takes push channels or names, one or a list, not {target!r}.")
    return target


def reply_spec(
    fn: Callable[..., Any],
    channel: RequestChannel[Any, Any] | StreamChannel[Any, Any] | str,
    *,
    concurrency: int | None = None,
    timeout: float | None = None,
    idempotent: bool | None = None,
    names: Mapping[str, Any] | None = None,
) -> HandlerSpec:
    """The record of an `@app.reply`. names: of the place where it stands, for annotations.

    Raises UsageError for all that can be known to be wrong before anything runs.
    """
    name, declared = replied(channel)
    reading = read(fn, names)
    kind = declared.kind if declared is not None else "stream" if reading.is_generator else "request"
    check_value(fn, reading, declared)
    check_answer(fn, reading, declared)
    check_terms(fn, reading, concurrency, timeout, instead="which knows the request's deadline")
    if idempotent is not None and not isinstance(idempotent, bool):
        raise UsageError(f"idempotent= is True or False, not {idempotent!r}.")
    if idempotent is not None and declared is not None:
        raise UsageError(
            f"idempotent= of the handler of {name!r} belongs to its contract, which both ends share: say it there, "
            f"{type(declared).__name__}({name!r}, idempotent={idempotent})."
        )
    if idempotent and kind == "stream":
        raise UsageError(f"idempotent= of the handler of {name!r}: a stream is never asked again.")
    return HandlerSpec(
        kind=kind,
        channel=name,
        fn=fn,
        is_async=reading.is_async,
        is_generator=reading.is_generator,
        wants_ctx=reading.wants_ctx,
        value_type=reading.value,
        result_type=item_of(reading.result) if kind == "stream" else reading.result,
        declared=declared,
        idempotent=bool(idempotent) if declared is None else declared.terms.idempotent,
        concurrency=concurrency,
        timeout=timeout,
    )


def replied(channel: object) -> tuple[str, Channel | None]:
    """The name and, if it is declared, the channel of an `@app.reply`."""
    if isinstance(channel, str):
        return check_channel(channel), None
    if isinstance(channel, Channel):
        if channel.kind in ("request", "stream"):
            return channel.name, channel
        raise UsageError(
            f"@app.reply serves request and stream channels, and {channel!r} is of kind {channel.kind}"
            f"{': use @app.pull.' if channel.kind == 'push' else '.'}"
        )
    if callable(channel):
        raise UsageError('@app.reply wants its channel: write @app.reply("count"), or @app.reply(COUNT).')
    raise UsageError(f"@app.reply takes a RequestChannel, a StreamChannel or a name, not {channel!r}.")
