"""Bugs, as they could be made. Each is planted from outside, in place of what is right, and taken out again.

A bug is a function that is given `put(owner, name, made)`: it puts what `made(right)` gives in the place of
`owner.name`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Put = Callable[[Any, str, Callable[[Any], Any]], None]
BUGS: dict[str, Callable[[Put], None]] = {}


def bug(words: str) -> Callable[[Callable[[Put], None]], None]:
    def add(plant: Callable[[Put], None]) -> None:
        BUGS[words] = plant

    return add


@contextmanager
def planted(words: str) -> Iterator[None]:
    undo: list[tuple[Any, str, Any]] = []

    def put(owner: Any, name: str, made: Callable[[Any], Any]) -> None:
        right = vars(owner)[name]
        undo.append((owner, name, right))
        setattr(owner, name, made(right))

    try:
        BUGS[words](put)
        yield
    finally:
        for owner, name, right in reversed(undo):
            setattr(owner, name, right)


def nothing(right: Any) -> Any:
    return lambda *args, **kwargs: None
