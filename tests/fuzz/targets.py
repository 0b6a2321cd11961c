"""What reads the bytes of others, and what it may say to them. Each takes any bytes and raises nothing but what its
caller expects of it: anything else is a bug, whoever has sent them.

Run by `make fuzz` a great many times, led by what is reached in the code, and by `make test` with what Hypothesis
chooses."""

from __future__ import annotations

import datetime
import decimal
import random
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from tests.fuzz import bare, hostile
from tests.fuzz.mutations import mutated
from tests.protocol.vectors import VECTORS
from zerowait.codec import Codec
from zerowait.contract import Description, describe, packed, unpacked
from zerowait.engines.brokerless.entry import NotAnEntry, decode_entry
from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.link import Link
from zerowait.engines.brokerless.protocol.owner.contracts import _mismatch as mismatch_of
from zerowait.faults import fault_of
from zerowait.outbox.plaincodec import plain_decoder
from zerowait.plain import Encoding, Plain

Mutate = Callable[[bytes, random.Random, Sequence[bytes]], bytes]


class Target(Struct, frozen=True):
    """mutate: what is done to its bytes, beside what libFuzzer does."""

    name: str
    run: Callable[[bytes], None]
    seeds: Sequence[bytes]
    mutate: Mutate = mutated


# -- frames ------------------------------------------------------------------------------------------------------------


def read_frame(data: bytes) -> None:
    """As the first of a connection, and as any other; and what looks into what was read."""
    for read in (frames.decode_first, frames.decode):
        with suppress(frames.ProtocolError):
            _look_into(read(data))


def _look_into(frame: frames.Frame) -> None:
    match frame:
        case frames.Batch():
            assert 0 < frames.check_batch(frame) <= 1_024
        case frames.Outcome() | frames.Confirm():
            frames.check_parts(frame.parts)
        case frames.Held():
            frames.check_parts((*frame.queued, *frame.running))
        case frames.Fragment():
            link = Link(1, ours=True, side="both", now=0.0)
            whole = link.whole(frame, 1 << 20)
            assert whole is None or len(whole) == frame.total
        case _:
            pass
    again = frames.encode(frame)  # what could be read can be written
    frames.decode_first(again) if again.startswith(frames.MAGIC) else frames.decode(again)


FRAMES = [frames.encode(vector.frame) for vector in VECTORS]


# -- bare ZeroMQ peers -------------------------------------------------------------------------------------------------


class Point(Struct):
    x: int
    y: float = 0.0


class Item(Struct):
    id: uuid.UUID
    at: datetime.datetime
    price: decimal.Decimal
    blob: bytes = b""
    points: list[Point] = []
    more: dict[str, Any] = {}


TYPES: tuple[Any, ...] = (
    object, str, int, float, bytes, bool, Item, Point, dict[str, Any], list[int | None], datetime.datetime, uuid.UUID,
    tuple[int, str], Point | None, dict[int, bytes],
)  # fmt: skip
ENCODINGS: tuple[Encoding, ...] = ("bytes", "text", "json", "msgpack")
CODECS: list[Codec[Any]] = [Codec(each) for each in TYPES]
READERS = [
    (codec, plain_decoder(Plain(encoding, bind="tcp://*:5511"), codec)) for encoding in ENCODINGS for codec in CODECS
]


def read_plain(data: bytes) -> None:
    """The first byte says how; the rest is what a bare socket has sent. What was read, a handler's type reads or says
    why not."""
    if not data:
        return
    codec, decode = READERS[data[0] % len(READERS)]
    try:
        payload = decode(data[1:])
    except ValueError:
        return
    try:
        codec.decode_list(b"\xdd\x00\x00\x00\x01" + payload)
    except Exception as error:  # its dead letter says it
        reason, _ = fault_of(error)
        assert reason


def _plain_seeds() -> list[bytes]:
    item = Item(
        uuid.UUID(int=7), datetime.datetime.fromtimestamp(0, datetime.UTC), decimal.Decimal("1.5"), b"x", [Point(1)]
    )
    values: list[Any] = [item, Point(3, 1.5), "text", 7, 2**70, -1.5e300, [1, None], {"a": {"b": [True]}}, None]
    seeds: list[bytes] = []
    for at in range(len(READERS)):
        encoding = ENCODINGS[at // len(CODECS)]
        for value in values if at % len(CODECS) in (0, 6) else values[1:4]:
            if encoding == "msgpack":
                with suppress(OverflowError):
                    seeds.append(bytes([at]) + msgspec.msgpack.encode(value))
            else:
                seeds.append(bytes([at]) + msgspec.json.encode(value))
    return seeds


def _mutated_plain(data: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes:
    head = data[:1] or b"\x00"
    if chance.random() < 0.1:
        head = chance.randbytes(1)
    return head + mutated(data[1:], chance, [other[1:] for other in others[:50]])


# -- types and entries -------------------------------------------------------------------------------------------------


class Tree(Struct, tag="tree"):
    left: Tree | None = None
    leaves: list[Tree | int] = []


DESCRIPTIONS: list[Description] = [describe(each) for each in (*TYPES, Tree)]


def read_types(data: bytes) -> None:
    """A description of a worker's type, and what is said where it is not ours."""
    try:
        theirs = unpacked(data)
    except ValueError:
        return
    for ours in DESCRIPTIONS:
        found = mismatch_of(ours, theirs)
        assert found is None or (found.difference and len(found.expected) <= 300)


def read_entry(data: bytes) -> None:
    """What lies in the directory of a namespace."""
    with suppress(NotAnEntry):
        decode_entry(data)


ENTRY = (
    b'{"instance":7,"name":"a","pid":1,"boot":"b","device":1,"inode":2,"endpoints":["ipc:///x"],"boxes":[1],"since":3}'
)

TARGETS = {
    target.name: target
    for target in (
        Target("frames", read_frame, FRAMES),
        Target("plain", read_plain, _plain_seeds(), _mutated_plain),
        Target("bare", bare.hear, bare.SEEDS),
        Target("types", read_types, [packed(each) for each in DESCRIPTIONS]),
        Target("entries", read_entry, [ENTRY]),
        Target("core", hostile.hear, hostile.SEEDS, hostile.mutated_talk),
    )
}
