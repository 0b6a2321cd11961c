"""What is wrong with a value or a payload, and where in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from zerowait.contract import type_name

_DEEPEST = 64


def fault_of(error: BaseException) -> tuple[str, str]:
    """What a failed decode was about: the reason in words, and the path of the field, `$` being the message."""
    text = str(error).strip()
    reason, _, place = text.rpartition(" - at `$")
    if not reason:
        reason, place = text, ""
    # A reason that was itself given with a place (a pydantic model inside a struct) lies deeper.
    inner, _, deeper = reason.rpartition(" - at `$")
    if inner:
        reason, place = inner, place.rstrip("`") + deeper
    reason = (reason or type_name(error.__class__)).replace("`", "")
    place = place.rstrip("`")
    if not place and reason.endswith("got array"):
        reason += "; it is a list: should the stage before yield its items?"
    return reason[:1].lower() + reason[1:], "$" + place


def find_unencodable(value: object, encode: Callable[[Any], object], error: Exception) -> tuple[str, str]:
    """The path of the innermost part of a value that cannot be encoded, and why. error: what encoding it all raised.

    msgspec's error names no place, so the parts are tried one by one.
    """
    path = "$"
    around: list[int] = []
    while len(around) < _DEEPEST:
        around.append(id(value))
        for step, part in _parts(value):
            if id(part) in around:
                return path + step, "is inside itself"
            try:
                encode(part)
            except Exception as inner:
                value, error, path = part, inner, path + step
                break
        else:
            return path, _reason(value, error)
    return path, "is nested too deeply"


def _parts(value: object) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        entries = cast("dict[object, object]", value)
        for key in entries:
            yield f" (the key {_short(key)})", key
        for key, part in entries.items():
            yield f"[{_short(key)}]", part
    elif isinstance(value, (list, tuple)):
        for at, part in enumerate(cast("list[object]", value)):
            yield f"[{at}]", part
    elif isinstance(value, (set, frozenset)):
        for part in cast("set[object]", value):
            yield "[…]", part
    elif not isinstance(value, type):
        names = (
            getattr(value, "__struct_fields__", None)
            or getattr(value, "__dataclass_fields__", None)
            or getattr(value.__class__, "model_fields", None)
            or ()
        )
        for name in names:
            yield f".{name}", getattr(value, name, None)


def _reason(value: object, error: Exception) -> str:
    if isinstance(error, OverflowError):
        return "is an integer of more than 64 bits, which does not travel (send it as a str)"
    if isinstance(error, UnicodeError):
        return "is a str that is not valid Unicode (send it as bytes)"
    if isinstance(value, type):
        return f"is the class {type_name(value)} itself, not a value of it"
    said = str(error)
    if isinstance(error, TypeError) and "unsupported" in said:
        return f"is of type {type_name(value.__class__)}, which cannot be encoded"
    return f"(of type {type_name(value.__class__)}) cannot be encoded: {said.rstrip('.')}"


def _short(key: object) -> str:
    text = repr(key)
    return text if len(text) <= 40 else text[:39] + "…"
