"""Bytes in JSON. `zerowait dead show` prints them as base64, as msgspec's JSON has it; what is given as JSON is read
the same way: a string is base64 of bytes where the type of whoever serves the channel has bytes, or where --bytes says
so.

A type is described as `contract` does it. It is what another process says, perhaps of another version: what makes no
sense in it changes nothing.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Sequence
from typing import Any, TypeGuard

from zerowait.contract import Description

_TEXT = frozenset({"str", "datetime", "date", "time", "timedelta", "uuid", "decimal", "any"})  # strings in JSON, too
_UNKNOWN: Any = object()

Around = tuple[Any, ...]


class NotBytes(ValueError):
    """What stands where bytes are expected cannot be read as such. Its text says where, and why."""


class Binary:
    """Reads the bytes of messages of one channel. types: of those who serve it, the first counts. paths: of --bytes."""

    def __init__(self, types: Sequence[Description] = (), paths: Sequence[str] = ()) -> None:
        known = [each for each in types if each != "any"]
        self._type: Description = known[0] if known else "any"
        self._paths = [(path, _described(path)) for path in paths]

    def read(self, value: Any, like: Any = _UNKNOWN) -> Any:
        """The value with bytes in it. like: what it is to take the place of: where no type says what is there, a string
        in the place of bytes is base64, too. Raises NotBytes."""
        try:
            for path, kind in self._paths:
                reading = _Reading()
                value = reading.of(value, kind, (), "$", _UNKNOWN)
                if not reading.found:
                    raise NotBytes(f"--bytes {path}: there is no string in that place")
            return _Reading().of(value, self._type, (), "$", like)
        except RecursionError:
            raise NotBytes("it is nested too deeply") from None


class _Reading:
    """found: how many were read."""

    def __init__(self) -> None:
        self.found = 0

    def of(self, value: Any, kind: Any, around: Around, path: str, like: Any) -> Any:
        try:
            kind, around = _resolved(kind, around)
            if kind[0] == "union":
                kind, around = _resolved(_member(value, kind[1], around), around)
            return self._of(value, kind, around, path, like)
        except NotBytes:
            raise
        except (LookupError, TypeError, ValueError, AttributeError):  # a description that is none
            return self._like(value, like, path)

    def _of(self, value: Any, kind: Any, around: Around, path: str, like: Any) -> Any:
        if kind == "bytes" and isinstance(value, str):
            return self._decoded(value, path)
        if kind == "any":
            return self._like(value, like, path)
        if _is_list(value):
            return self._list(value, kind, around, path, like)
        if _is_map(value):
            return self._map(value, kind, around, path, like)
        return value

    def _list(self, value: list[Any], kind: Any, around: Around, path: str, like: Any) -> list[Any]:
        kinds = [_UNKNOWN] * len(value)
        if kind[0] == "list":
            kinds = [kind[1]] * len(value)
        elif kind[0] == "tuple":
            kinds[: len(kind[1])] = kind[1]
        elif kind[0] == "record" and kind[2]:
            begin = 1 if kind[1] else 0  # the tag stands first
            kinds[begin : begin + len(kind[4])] = [field[1] for field in kind[4]]
            around = (*around, kind)
        return [
            self.of(each, "any" if of is _UNKNOWN else of, around, f"{path}[{at}]", _item(like, at))
            for at, (each, of) in enumerate(zip(value, kinds, strict=False))
        ]

    def _map(self, value: dict[str, Any], kind: Any, around: Around, path: str, like: Any) -> dict[str, Any]:
        kinds: dict[str, Any] = {}
        if kind[0] == "record" and not kind[2]:
            kinds, around = {field[0]: field[1] for field in kind[4]}, (*around, kind)
        other = kind[2] if kind[0] == "map" else "any"
        return {
            name: self.of(each, kinds.get(name, other), around, f"{path}.{name}", _field(like, name))
            for name, each in value.items()
        }

    def _like(self, value: Any, like: Any, path: str) -> Any:
        if isinstance(like, bytes) and isinstance(value, str):
            return self._decoded(value, path)
        if _is_list(like) and _is_list(value):
            return [self._like(each, _item(like, at), f"{path}[{at}]") for at, each in enumerate(value)]
        if _is_map(like) and _is_map(value):
            return {name: self._like(each, _field(like, name), f"{path}.{name}") for name, each in value.items()}
        return value

    def _decoded(self, text: str, path: str) -> bytes:
        self.found += 1
        try:
            return b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise NotBytes(f"{path} is bytes, which JSON has as base64, and this is none ({error})") from None


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_map(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _resolved(kind: Any, around: Around) -> tuple[Any, Around]:
    if kind[0] == "up":
        return around[-kind[1]], around[: -kind[1]]
    return kind, around


def _member(value: Any, members: Sequence[Any], around: Around) -> Any:
    """Of a union, what this value can be; "any" if that cannot be told."""
    if isinstance(value, str):
        is_text = any(each in _TEXT if isinstance(each, str) else each[0] == "values" for each in members)
        return "any" if is_text or "bytes" not in members else "bytes"
    found: list[Any] = []
    for member in members:
        kind, _ = _resolved(member, around)
        is_array = kind[0] in ("list", "tuple") or (kind[0] == "record" and kind[2])
        is_map = kind[0] == "map" or (kind[0] == "record" and not kind[2])
        if (_is_list(value) and is_array) or (_is_map(value) and is_map):
            tag = kind[1] if kind[0] == "record" else None
            first = value[0] if _is_list(value) and value else None
            if tag and (value.get(tag[0]) if _is_map(value) else first) == tag[1]:
                return member
            found.append(member)
    return found[0] if len(found) == 1 else "any"


def _item(like: Any, at: int) -> Any:
    if not _is_list(like) or not like:
        return _UNKNOWN
    if at < len(like):
        return like[at]
    return like[-1] if all(isinstance(each, bytes) for each in like) else _UNKNOWN


def _field(like: Any, name: str) -> Any:
    return like.get(name, _UNKNOWN) if _is_map(like) else _UNKNOWN


def _described(path: str) -> Description:
    """`data`, `parts[].data`, `[]`, or `$` for all of it. Raises NotBytes."""
    kind: Description = "bytes"
    for name in reversed(path.removeprefix("$").replace("[]", ".[]").split(".")):
        if name == "[]":
            kind = ["list", kind]
        elif name:
            kind = ["record", None, False, False, [[name, kind, False, True]]]
    if path == "":
        raise NotBytes("--bytes takes a place in the message: data, parts[].data, or $ for all of it")
    return kind
