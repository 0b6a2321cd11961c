"""What runs of a handler send, put together as it is kept: messages of one channel and one due time in a body."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from zerowait.message import ARRAY32, BODY_HEADER, BODY_START, SEGMENT_BYTES, SEGMENT_MESSAGES, Prepared
from zerowait.outbox.entrance import Ready
from zerowait.outbox.lane import Lane


class _Open:
    """A row that is being filled."""

    __slots__ = ("body", "channel", "ends", "headers", "inputs", "key", "terms")

    def __init__(self, channel: str, terms: tuple[int | None, int | None, int], key: bytes | None) -> None:
        self.channel = channel
        self.terms = terms
        self.key = key
        self.body = bytearray(BODY_START)
        self.ends = array("I")
        self.inputs: list[int] = []
        self.headers: dict[int, Mapping[str, str]] = {}

    def takes(self, nbytes: int) -> bool:
        if not self.inputs:
            return True
        return len(self.inputs) < SEGMENT_MESSAGES and len(self.body) + nbytes <= SEGMENT_BYTES

    def put(self, index: int, payload: bytes, headers: Mapping[str, str] | None) -> None:
        if headers:
            self.headers[len(self.inputs)] = headers
        self.body += payload
        self.ends.append(len(self.body))
        self.inputs.append(index)

    def closed(self, now_us: int, id: str | None) -> Prepared:
        due, expires, priority = self.terms
        BODY_HEADER.pack_into(self.body, 0, ARRAY32, len(self.inputs))
        return Prepared(
            self.channel, self.body, self.ends.tobytes(), self.inputs, now_us, due, expires, priority,
            self.headers or None, id, key=self.key,
        )  # fmt: skip


class Gathered(Struct):
    """What runs send by one lane without options, encoded as they return it: a row that needs no `bundle`."""

    lane: Lane
    body: bytearray
    ends: array[int]
    inputs: list[int]

    def take(self, value: object, index: int) -> bool:
        """Sent for the message with that index. False: not of the lane's class, cannot be encoded, or has no room here;
        nothing was taken."""
        lane, body, inputs = self.lane, self.body, self.inputs
        if value.__class__ is not lane.exact:
            return False
        try:
            lane.encode_into(value, body, -1)  # type: ignore[misc]  # a lane with `exact` has it
            size = len(body)
            if size <= SEGMENT_BYTES and len(inputs) < SEGMENT_MESSAGES:
                self.ends.append(size)
                inputs.append(index)
                return True
        except BaseException as error:
            self._undo()
            if isinstance(error, Exception):
                return False
            raise
        self._undo()
        return False

    def _undo(self) -> None:
        """What was begun goes: an interrupt may come between any two steps."""
        del self.ends[len(self.inputs) :]
        del self.body[self.ends[-1] if self.ends else BODY_START :]

    def closed(self, now_us: int) -> Prepared:
        lane, count = self.lane, len(self.inputs)
        expires = now_us + int(lane.ttl * 1e6) if lane.ttl is not None else None
        BODY_HEADER.pack_into(self.body, 0, ARRAY32, count)
        return Prepared(
            lane.channel, self.body, self.ends.tobytes(), self.inputs, now_us, None, _in_whole_ms(expires),
            lane.priority,
        )  # fmt: skip

    def apart(self) -> Iterator[Ready]:
        """Each by itself, for where nobody chooses."""
        start = BODY_START
        for end in self.ends:
            yield Ready(self.lane, bytes(memoryview(self.body)[start:end]), {})
            start = end


def gather(lane: Lane) -> Gathered:
    """lane: with `exact`."""
    return Gathered(lane, bytearray(BODY_START), array("I"), [])


def _in_whole_ms(at_us: int | None) -> int | None:
    """So that what is sent with a delay does not make a row of each."""
    return at_us and -(-at_us // 1000) * 1000


def bundle(outputs: Iterable[tuple[int, Ready]], now_us: int) -> list[Prepared]:
    """In the order in which they were sent. outputs: each with the index of the message that it is sent for."""
    open_rows: dict[tuple[Any, ...], _Open] = {}
    made: list[tuple[_Open, str | None]] = []
    for index, ready in outputs:
        lane, options = ready.lane, ready.options
        due, expires = options.get("due"), options.get("expires")
        if expires is None and lane.ttl is not None:
            expires = (due or now_us) + int(lane.ttl * 1e6)
        terms = (_in_whole_ms(due), _in_whole_ms(expires), options.get("priority", lane.priority))
        key: bytes | None = options.get("key")
        # Of a key only the row that was begun last is added to: they get their numbers in the order of rows.
        name = (lane.channel, terms) if key is None else (lane.channel, key)
        id: str | None = options.get("id")
        row = open_rows.get(name)
        if id is not None or row is None or row.terms != terms or not row.takes(len(ready.payload)):
            row = _Open(lane.channel, terms, key)
            made.append((row, id))
            if id is None:
                open_rows[name] = row
            elif key is not None:
                open_rows.pop(name, None)
        row.put(index, ready.payload, options.get("headers"))
    return [row.closed(now_us, id) for row, id in made]
