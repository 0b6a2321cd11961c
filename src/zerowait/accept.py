"""Whether a value is of a type, as far as `isinstance` goes: what a call looks at before it encodes."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

_ALSO_MEANT: dict[type, tuple[type, ...]] = {
    float: (float, int),  # as the type checkers have it
    bytes: (bytes, bytearray, memoryview),
}


class Acceptance:
    """The test for one type. exact: the one class for which the test needs no call, or None."""

    def __init__(self, type: Any) -> None:
        self._classes: list[type[Any]] = []
        self._literals: list[object] = []
        self._anything = False
        self._gather(type)
        self.exact: type[Any] | None = None
        if len(self._classes) == 1 and not self._literals and not self._anything:
            self.exact = None if _is_abstract(self._classes[0]) else self._classes[0]
        self.test: Callable[[object], bool] = _always if self._anything else self._test

    def _gather(self, kind: Any) -> None:
        """Adds the classes that the type stands for."""
        origin = typing.get_origin(kind)
        if kind is None:
            self._classes.append(type(None))
        elif kind is Any or kind is object or isinstance(kind, typing.TypeVar):
            self._anything = True
        elif origin is typing.Literal:
            self._literals += typing.get_args(kind)
        elif origin is typing.Annotated:
            self._gather(kind.__origin__)
        elif origin is typing.Union or kind.__class__.__name__ == "UnionType":
            for member in typing.get_args(kind):
                self._gather(member)
        elif typing.is_typeddict(origin or kind):
            self._classes.append(dict)
        elif hasattr(kind, "__supertype__"):  # NewType
            self._gather(kind.__supertype__)
        elif origin is None and hasattr(kind, "__value__"):  # type X = …, from Python 3.12 on
            self._gather(kind.__value__)
        elif isinstance(origin or kind, type):
            self._classes.append(origin or kind)
        else:
            self._anything = True  # whatever this form is, decoding at the other end will look at it

    def _test(self, value: object) -> bool:
        for kind in self._classes:
            if type(value) is kind or (
                isinstance(value, _ALSO_MEANT.get(kind, (kind,))) and not isinstance(value, _not_meant(kind))
            ):
                return True
        return any(value == each and type(value) is type(each) for each in self._literals)


def _not_meant(kind: type) -> tuple[type, ...]:
    """Classes whose values pass `isinstance` and would be encoded as something else than the type says."""
    if kind in (int, float):
        return (bool,)
    if _is_abstract(kind):
        return (str, bytes, bytearray, memoryview)  # to isinstance a str is a Sequence[str]
    if kind.__module__ == "datetime" and kind.__name__ == "date":
        from datetime import datetime

        return (datetime,)
    return ()


def _is_abstract(kind: type) -> bool:
    return kind.__module__ == "collections.abc"


def _always(value: object) -> bool:
    return True
