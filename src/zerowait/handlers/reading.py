"""What a handler says of itself: how it is called, and what its annotations promise."""

from __future__ import annotations

import inspect
import typing
from collections import abc
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from zerowait.contract import type_name
from zerowait.errors import UsageError

UNREAD: Any = object()  # in place of an annotation that is absent, or names what is not known yet

_ONE_BY_ONE = (abc.Iterator, abc.Generator, abc.AsyncIterator, abc.AsyncGenerator)
_METHOD = "is a method. A handler is a plain function: what it needs, it gets as resources, App(…, resources=…)."
_AWAITED = (abc.Awaitable, abc.Coroutine)


class Reading(Struct, frozen=True):
    """A handler, read. value, result: annotated types, UNREAD where there is none, or none that can be found now;
    result without its await. annotation: of the value, as it was written."""

    is_async: bool
    is_generator: bool
    wants_ctx: bool
    value: Any
    result: Any
    annotation: Any = None


def read(fn: Callable[..., Any], names: Mapping[str, Any] | None = None) -> Reading:
    """Reads a handler. names: of the place where it is decorated, for annotations that name local classes.

    Raises UsageError for what cannot be a handler: a method, a class, an object, several arguments. The second is the
    context, and says so by its annotation or by its name, ctx.
    """
    who = called(fn)
    _must_be_plain(fn, who)
    hints = _hints(fn, names or {})
    parameters = _parameters(fn, who, hints)
    wants_ctx = len(parameters) > 1
    result = hints.get("return", UNREAD)
    is_generator = inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn)
    origin = typing.get_origin(result) or result
    if origin in _AWAITED and not inspect.iscoroutinefunction(fn):
        result = (typing.get_args(result) or (UNREAD,))[-1]
    return Reading(
        is_async=inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn),
        is_generator=is_generator or origin in _ONE_BY_ONE,
        wants_ctx=wants_ctx,
        value=hints.get(parameters[0].name, UNREAD) if _is_single(parameters[0]) else UNREAD,
        result=result,
        annotation=None if parameters[0].annotation is inspect.Parameter.empty else parameters[0].annotation,
    )


def read_timed(fn: Callable[..., Any], names: Mapping[str, Any] | None = None) -> Reading:
    """Reads a handler that runs by the clock: of nothing, or of the context. Raises UsageError for any other."""
    who = called(fn)
    _must_be_plain(fn, who)
    hints = _hints(fn, names or {})
    places = [each for each in inspect.signature(fn).parameters.values() if each.default is each.empty]
    wanted = [each for each in places if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    if places and places[0].name in ("self", "cls"):
        raise UsageError(f"{who} {_METHOD}")
    if len(wanted) > 1 or not all(_says_context(each, hints) and each.kind is not each.KEYWORD_ONLY for each in wanted):
        raise UsageError(f"{who} runs by the clock, which gives it nothing: it may take `ctx: Context`, and no value.")
    result = hints.get("return", UNREAD)
    is_generator = inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn)
    if is_generator or unmet(result, None) is not None:
        raise UsageError(f"{who} gives a value, and that goes nowhere: what it is to send, it sends by `ctx.push(…)`.")
    return Reading(
        is_async=inspect.iscoroutinefunction(fn), is_generator=False, wants_ctx=bool(wanted), value=None, result=None
    )


def called(fn: object) -> str:
    """A handler as people find it again: `mail.parse (mail.py:12)`."""
    fn = inspect.unwrap(fn) if callable(fn) else fn
    name = getattr(fn, "__qualname__", None) or getattr(fn, "__name__", None) or repr(fn)
    module = getattr(fn, "__module__", None)
    code = getattr(fn, "__code__", None)
    where = f" ({code.co_filename.rpartition('/')[2]}:{code.co_firstlineno})" if code is not None else ""
    return f"{module}.{name}{where}" if module else f"{name}{where}"


def unmet(given: Any, wanted: Any) -> str | None:
    """Which part of a type `given` certainly does not fit where `wanted` is expected, by name; None if all may fit."""
    if given is UNREAD or wanted is UNREAD:
        return None
    choices = _members(wanted)
    for member in _members(given):
        if not any(_may_fit(member, choice) for choice in choices):
            return type_name(member)
    return None


def items_of(result: Any) -> Any:
    """What a stage's result promises for one message: without None, and without the iterator around it."""
    if result is UNREAD:
        return UNREAD
    if (typing.get_origin(result) or result) in _ONE_BY_ONE:
        return (typing.get_args(result) or (UNREAD,))[0]
    members = [each for each in _members(result) if each is not type(None)]
    return typing.Union[tuple(members)] if members else UNREAD  # noqa: UP007


def _must_be_plain(fn: Any, who: str) -> None:
    if inspect.ismethod(fn) or isinstance(fn, (staticmethod, classmethod)):
        raise UsageError(f"{who} {_METHOD}")
    if isinstance(fn, type) or not callable(fn) or not (inspect.isroutine(fn) or hasattr(fn, "func")):
        raise UsageError(f"{who} is no function. A handler is a plain function, `def` or `async def`, of one value.")


def _parameters(fn: Callable[..., Any], who: str, hints: Mapping[str, Any]) -> list[inspect.Parameter]:
    """The parameters that are given: the value's, and the context's if it is wanted."""
    try:
        signature = inspect.signature(fn)
    except ValueError:  # some builtins do not say
        return [inspect.Parameter("value", inspect.Parameter.POSITIONAL_ONLY)]
    every = list(signature.parameters.values())
    places = [each for each in every if each.kind is not each.KEYWORD_ONLY and each.kind is not each.VAR_KEYWORD]
    needed = [each for each in places if each.default is each.empty and each.kind is not each.VAR_POSITIONAL]
    named = [each.name for each in every if each.kind is each.KEYWORD_ONLY and each.default is each.empty]
    if places and places[0].name in ("self", "cls"):
        raise UsageError(f"{who} {_METHOD}")
    if not places:
        raise UsageError(f"{who} takes nothing: a handler takes the value, and `ctx: Context` if it wants it.")
    if named:
        raise UsageError(
            f"{who} wants {named[0]} by name: a handler is called with the value, and the context after it."
        )
    if len(needed) > 2:
        raise UsageError(
            f"{who} takes {len(needed)} values: a handler takes one. Put them into one struct, or TypedDict, or tuple."
        )
    second = places[1] if len(places) > 1 else None
    if second is None or not (second in needed or _says_context(second, hints)):
        return places[:1]
    if not _says_context(second, hints):
        raise UsageError(
            f"{who} takes two values, {places[0].name} and {second.name}: a handler takes one, and after it the "
            "context, if it wants it, as `ctx: Context`. Put both values into one struct, or TypedDict, or tuple."
        )
    return places[:2]


def _is_single(parameter: inspect.Parameter) -> bool:
    return parameter.kind is not parameter.VAR_POSITIONAL


def _says_context(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> bool:
    """Whether it is named ctx, or annotated as a Context, also by another name for it."""
    annotation = hints.get(parameter.name, parameter.annotation)
    if parameter.name == "ctx":
        return True
    if isinstance(annotation, str):  # imported for checkers only
        return "Context" in annotation
    return any(getattr(typing.get_origin(each) or each, "__name__", "") == "Context" for each in _members(annotation))


def _hints(fn: Callable[..., Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """The annotations that can be read now: without what is imported for checkers only, or defined further down."""
    fn = getattr(fn, "func", fn)  # partial
    try:
        return typing.get_type_hints(fn, localns=dict(names), include_extras=True)
    except Exception:
        found: dict[str, Any] = {}
    for name, annotation in getattr(fn, "__annotations__", {}).items():
        try:
            alone: Any = type("Alone", (), {"__annotations__": {name: annotation}, "__module__": fn.__module__})
            found |= typing.get_type_hints(alone, getattr(fn, "__globals__", {}), dict(names), include_extras=True)
        except Exception:
            continue
    return found


def _members(kind: Any) -> tuple[Any, ...]:
    if typing.get_origin(kind) is typing.Annotated:
        return _members(kind.__origin__)
    if typing.get_origin(kind) is typing.Union or kind.__class__.__name__ == "UnionType":
        return tuple(inner for each in typing.get_args(kind) for inner in _members(each))
    if hasattr(kind, "__supertype__"):
        return _members(kind.__supertype__)
    return (type(None) if kind is None else kind,)


def _may_fit(given: Any, wanted: Any) -> bool:
    if given is wanted or given == wanted or Any in (given, wanted) or wanted is object or UNREAD in (given, wanted):
        return True
    if typing.is_typeddict(given):
        return wanted in (dict, abc.Mapping) or typing.get_origin(wanted) in (dict, abc.Mapping)
    if typing.is_typeddict(wanted):
        return False
    if typing.get_origin(given) is typing.Literal:
        literals = typing.get_args(given)
        if typing.get_origin(wanted) is typing.Literal:
            return set(literals) <= set(typing.get_args(wanted))
        return all(_may_fit(type(each), wanted) for each in literals)
    left, right = typing.get_origin(given) or given, typing.get_origin(wanted) or wanted
    if not (isinstance(left, type) and isinstance(right, type)):
        return not isinstance(left, type) or typing.get_origin(wanted) is not typing.Literal
    if not issubclass(left, right) and not (left is int and right is float):
        return False
    inside, expected = typing.get_args(given), typing.get_args(wanted)
    if left is not right or len(inside) != len(expected):
        return True
    return all(
        each is ... or other is ... or unmet(each, other) is None for each, other in zip(inside, expected, strict=True)
    )
