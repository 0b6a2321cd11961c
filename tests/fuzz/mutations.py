"""What may have happened to bytes on their way, or been done to them on purpose: flipped, cut, put together from two,
and, for what is msgpack, values of their own that no writer of ours would write."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from zerowait.engines.brokerless.protocol.frames import MAGIC

EDGES: tuple[Any, ...] = (
    0, 1, -1, 2, 8, 127, 255, 1_024, 1_025, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 2**53 + 1,
    None, True, False, 0.0, -1.5, float("inf"), float("nan"), "", "faults", "\x00", "é" * 40, b"",
    b"\xdd\x00\x00\x00\x01",    b"\xff" * 8, (), ((),), {}, {0: 0}, {2**64 - 1: 2**64 - 1}, {"": {"": ""}},
)  # fmt: skip
DEPTHS = (2, 40, 600, 3_000)  # lists in lists, around and beyond what Python can follow
PREAMBLE = 6

Chance = random.Random


def mutated(data: bytes, chance: Chance, others: Sequence[bytes] = ()) -> bytes:
    """One to four things happen to it. others: what it may be put together with."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        data = chance.choice(ALL)(data, chance, others)
    return data


def _flip(data: bytes, chance: Chance, others: Sequence[bytes]) -> bytes:
    if not data:
        return chance.randbytes(1)
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]


def _replace(data: bytes, chance: Chance, others: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.randbytes(chance.choice((1, 1, 2, 8))) + data[at + 1 :]


def _cut(data: bytes, chance: Chance, others: Sequence[bytes]) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _take_out(data: bytes, chance: Chance, others: Sequence[bytes]) -> bytes:
    at, end = sorted((chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)))
    return data[:at] + data[end:]


def _repeat(data: bytes, chance: Chance, others: Sequence[bytes]) -> bytes:
    at, end = sorted((chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)))
    return data[:end] + data[at:end] + data[end:]


def _splice(data: bytes, chance: Chance, others: Sequence[bytes]) -> bytes:
    other = chance.choice(others) if others else data
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


def _deepen(data: bytes, chance: Chance, others: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + b"\x91" * chance.choice(DEPTHS) + data[at:]


def _edit(data: bytes, chance: Chance, others: Sequence[bytes]) -> bytes:
    """As msgpack: one of its values is another, and all is written again."""
    start = PREAMBLE if data.startswith(MAGIC) else 0
    with suppress(Exception):
        tree = msgspec.msgpack.decode(data[start:])
        return data[:start] + msgspec.msgpack.encode(edited(tree, chance))
    return _flip(data, chance, others)


ALL: tuple[Callable[[bytes, Chance, Sequence[bytes]], bytes], ...] = (
    _flip, _replace, _cut, _take_out, _repeat, _splice, _deepen, _edit, _edit, _edit, _edit,
)  # fmt: skip


def edited(tree: Any, chance: Chance) -> Any:
    """The same, but for one value somewhere in it."""
    if not tree or tree.__class__ not in (list, dict) or chance.random() < 0.1:
        return _another(tree, chance)
    edit: Callable[[Any, Chance], Any] = _edited_map if tree.__class__ is dict else _edited_list
    return edit(tree, chance)


def _edited_map(tree: dict[Any, Any], chance: Chance) -> dict[Any, Any]:
    key = chance.choice(list(tree))
    rest = {name: value for name, value in tree.items() if name != key}
    if chance.random() < 0.3:
        return {**rest, _hashable(_another(key, chance)): tree[key]}
    return {**rest, key: edited(tree[key], chance)}


def _edited_list(tree: list[Any], chance: Chance) -> list[Any]:
    at, how = chance.randrange(len(tree)), chance.random()
    if how < 0.08:
        return [*tree[:at], *tree[at + 1 :]]
    if how < 0.16:
        return [*tree[: at + 1], *tree[at:]]
    return [*tree[:at], edited(tree[at], chance), *tree[at + 1 :]]


def _another(value: Any, chance: Chance) -> Any:
    how = chance.random()
    if isinstance(value, int) and how < 0.5:
        near = value + chance.choice((-2, -1, 1, 2, 1_000))
        return near if -(2**63) <= near < 2**64 else 0
    if isinstance(value, (bytes, str)) and value and how < 0.5:
        return value[: chance.randrange(len(value))] if how < 0.25 else value * 2
    return [value] if how > 0.95 else chance.choice(EDGES)


def _hashable(value: Any) -> Any:
    return value if isinstance(value, (int, str, bytes, type(None))) else 0
