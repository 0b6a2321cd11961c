"""Whether a handler fits what it is registered for: what can be known to be wrong before anything runs.

All of it raises UsageError, when the module is imported."""

from __future__ import annotations

import typing
from collections.abc import Callable
from math import inf
from typing import Any, cast

from zerowait.channels import Channel
from zerowait.contract import type_name
from zerowait.errors import UsageError
from zerowait.handlers.reading import UNREAD, Reading, called, items_of, unmet
from zerowait.handlers.registry import Target
from zerowait.retry import Retry


def check_value(fn: Callable[..., Any], reading: Reading, declared: Channel | None) -> None:
    """What it takes, against what its channel carries."""
    if declared is None:
        return
    sent = declared.types[0]
    if unmet(sent, reading.value) is not None:
        raise UsageError(
            f"{called(fn)} takes {type_name(reading.value)}, and {declared!r} carries {type_name(sent)}: "
            "make the annotation and the channel agree."
        )


def check_result(fn: Callable[..., Any], reading: Reading, targets: tuple[Target, ...]) -> None:
    """What it gives, against where that goes."""
    if not targets:
        if reading.is_generator or unmet(reading.result, None) is not None:
            said = "yields" if reading.is_generator else f"returns {type_name(reading.result)}"
            raise UsageError(
                f"{called(fn)} {said}, and that goes nowhere: a pull handler returns nothing. Say where it goes, "
                "@app.pull(…, to=…)."
            )
        return
    for target in targets:
        if isinstance(target, str):
            continue
        wanted = target.types[0]
        if (wrong := unmet(items_of(reading.result), wanted)) is not None:
            hint = " To send each item of a list, yield them." if wrong.startswith("list[") else ""
            raise UsageError(
                f"{called(fn)} gives {wrong}, and {target!r} carries {type_name(wanted)}: make them agree.{hint}"
            )


def check_answer(fn: Callable[..., Any], reading: Reading, declared: Channel | None) -> None:
    """What it answers, against what its channel promises."""
    if declared is None:
        return
    wanted = declared.types[1]
    if declared.kind == "stream":
        if not reading.is_generator:
            raise UsageError(
                f"{called(fn)} returns one answer, and {declared!r} is for many: yield them, or use a RequestChannel."
            )
        given, verb = item_of(reading.result), "yields"
    else:
        if reading.is_generator:
            raise UsageError(
                f"{called(fn)} yields, and {declared!r} is for one answer: return it, or use a StreamChannel."
            )
        given, verb = reading.result, "returns"
    if unmet(given, wanted) is not None:
        raise UsageError(
            f"{called(fn)} {verb} {type_name(given)}, and {declared!r} promises {type_name(wanted)}: make the "
            "annotation and the channel agree."
        )


def item_of(result: Any) -> Any:
    """What an iterator gives, by its annotation."""
    return UNREAD if result is UNREAD else (typing.get_args(result) or (UNREAD,))[0]


def check_terms(
    fn: Callable[..., Any],
    reading: Reading,
    concurrency: object,
    timeout: object,
    retry: object = None,
    inbox: object = "memory",
    *,
    instead: str = "",
) -> None:
    """What is said of how it runs. instead: of `ctx.checkpoint()`, which a plain function has in place of a timeout."""
    whose = called(fn)
    if inbox not in ("memory", "disk"):
        raise UsageError(f'inbox of {whose} is "memory" or "disk", not {inbox!r:.80}.')
    if concurrency is not None and (type(concurrency) is not int or concurrency < 1):
        raise UsageError(f"concurrency of {whose} is how many run at once, at least 1, not {concurrency!r}.")
    if timeout is not None and (type(timeout) not in (int, float) or not 0 < cast("float", timeout) < inf):
        raise UsageError(f"timeout of {whose} takes seconds as a number above 0, not {timeout!r}.")
    if retry is not None and not isinstance(retry, Retry):
        raise UsageError(f"retry of {whose} is a policy, as in retry=Retry(attempts=5), not {retry!r}.")
    if timeout is not None and not reading.is_async:
        raise UsageError(
            f"{whose} is a plain function, and nothing can stop a thread: timeout={timeout:g} could not be kept. "
            f"Make it `async def`, or call `ctx.checkpoint()` in it now and then{', ' if instead else ''}{instead}."
        )
