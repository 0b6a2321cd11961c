"""Bugs, as they could be made. Each is planted from outside, in place of what is right, and taken out again.

A bug is a function that is given `put(owner, name, made)`: it puts what `made(right)` gives in the place of
`owner.name`.

Most are looked for by the simulation first. What that has nothing of (files, what CLI and dashboard show, frames of
other versions), or what it would find late, names its tests: `by`, as pytest takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Put = Callable[[Any, str, Callable[[Any], Any]], None]
BUGS: dict[str, Callable[[Put], None]] = {}
FOUND_BY: dict[str, tuple[str, ...]] = {}


def bug(words: str, *, by: str | tuple[str, ...] = ()) -> Callable[[Callable[[Put], None]], None]:
    """by: the tests that find it."""

    def add(plant: Callable[[Put], None]) -> None:
        assert words not in BUGS, f"there are two bugs of these words: {words}"
        BUGS[words] = plant
        if by:
            FOUND_BY[words] = (by,) if isinstance(by, str) else by

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
