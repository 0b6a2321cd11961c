"""The fields of a record of settings: their types, what they decide in words, and what is wrong with a value."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from msgspec import Meta, Struct, ValidationError, convert

from zerowait.errors import SettingsError

LONGEST = 100 * 365.25 * 86_400  # seconds: a hundred years; the system's clocks and locks cannot wait for all times


def check_fields(record: Struct) -> None:
    # A msgspec struct made in code does not look at its own fields.
    for name, kind in field_types(type(record)).items():
        value = getattr(record, name)
        try:
            convert(value, kind)
        except ValidationError as error:
            raise SettingsError(f"{name} = {value!r}: {reason_of(error, kind)}") from None


@cache
def field_types(of: type[Struct]) -> Mapping[str, Any]:
    """Each field's annotated type: what a value of it is converted to, with its bounds and its description."""
    hints = get_type_hints(of, include_extras=True)
    types = {name: hints[name] for name in of.__struct_fields__}
    if "home" in types:
        types["home"] = str | None  # a Path is text by now
    return types


def documentation(of: type[Struct]) -> Mapping[str, str]:
    """What each field decides, in words, with its unit: for `zerowait config show` and the reference page."""
    hints = get_type_hints(of, include_extras=True)
    return {name: _description(hints[name]) for name in of.__struct_fields__}


def _allowed(kind: Any, place: str) -> tuple[Any, ...]:
    """The values of the Literal that is meant; place: the key inside the value, if it is not the value itself."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    if isinstance(kind, type) and issubclass(kind, Struct):
        name, _, rest = place.partition(".")
        return _allowed(get_type_hints(kind).get(name), rest)
    return next(filter(None, (_allowed(part, place) for part in get_args(kind))), ())


def _description(kind: Any) -> str:
    for part in (*getattr(kind, "__metadata__", ()), *get_args(kind)):
        found = part.description if isinstance(part, Meta) else _description(part)
        if found:
            return str(found)
    return ""


def reason_of(error: ValidationError, kind: Any = None) -> str:
    """msgspec's sentence, with the place inside the value in words. kind: the field's type, whose allowed values are
    said if it has a list of them."""
    said, _, place = str(error).partition(" - at `$")
    if said.startswith("Invalid enum value") and (allowed := _allowed(kind, place.rstrip("`").lstrip("."))):
        said = f"It is one of {', '.join(map(repr, allowed))}"
    return f"{said[:1].lower()}{said[1:]}" + (f" (at {place.rstrip('`')})" if place else "")
