"""What runs of a handler send, put together as it is kept: messages of one channel and one due time in a body."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from typing import Any

from zerowait.message import BODY_HEADER, BODY_START, SEGMENT_BYTES, SEGMENT_MESSAGES, Prepared
from zerowait.outbox.entrance import Ready


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
        BODY_HEADER.pack_into(self.body, 0, 0xDD, len(self.inputs))
        return Prepared(
            self.channel, self.body, self.ends.tobytes(), self.inputs, now_us, due, expires, priority,
            self.headers or None, id, key=self.key,
        )  # fmt: skip


def bundle(outputs: Iterable[tuple[int, Ready]], now_us: int) -> list[Prepared]:
    """In the order in which they were sent. outputs: each with the index of the message that it is sent for."""
    open_rows: dict[tuple[Any, ...], _Open] = {}
    made: list[tuple[_Open, str | None]] = []
    for index, ready in outputs:
        lane, options = ready.lane, ready.options
        due, expires = options.get("due"), options.get("expires")
        if expires is None and lane.ttl is not None:
            expires = (due or now_us) + int(lane.ttl * 1e6)
        # Whole milliseconds, so that what is sent with a delay does not make a row of each.
        due, expires = due and -(-due // 1000) * 1000, expires and -(-expires // 1000) * 1000
        terms = (due, expires, options.get("priority", lane.priority))
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
