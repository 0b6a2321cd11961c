"""A row of the outbox as its owner remembers it while it is out, and how it lies in the file."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Mapping, Sequence
from zlib import crc32

from msgspec import Struct, msgpack

from zerowait.message import BODY_HEADER, BODY_START, Marks
from zerowait.numbers import Numbers
from zerowait.outbox.sheaf import MESSAGE_COST, Piece, Sheaf

Headers = Mapping[int, Mapping[str, str]]


class Row(Struct, gc=False):
    """What a change of it needs to know, so that settling costs no reading."""

    seq: int
    channel: str
    epoch: int
    first: int
    count: int
    home: int  # first of the segment it was accepted in: receipts know it by that
    body: int
    size: int  # bytes of the body
    ends: bytes  # as on disk: empty for one message alone
    priority: int
    failures: int
    accepted_at: int
    expires: int | None
    gone: Numbers | None
    headers: Headers | None
    marks: Marks | None = None
    key: bytes | None = None

    def nbytes(self, first: int, count: int) -> int:
        """What messages first … count for in the room of the outbox."""
        if not self.ends or count == self.count:
            return self.size - BODY_START + MESSAGE_COST * count
        start, stop = self.span(first, count)
        return stop - start + MESSAGE_COST * count

    def span(self, first: int, count: int) -> tuple[int, int]:
        """Where their payloads lie in the body."""
        if not self.ends:
            return BODY_START, self.size
        ends = memoryview(self.ends).cast("I")
        index = first - self.first
        return ends[index - 1] if index else BODY_START, ends[index + count - 1]

    def living(self, first: int, count: int, gone: Numbers | None) -> list[tuple[int, int]]:
        """The parts of first … first + count that are in this row and not gone."""
        start, stop = max(first, self.first), min(first + count, self.first + self.count)
        if start >= stop:
            return []
        return gone.missing(start, stop - start) if gone else [(start, stop - start)]


class Fresh(Struct, eq=False):
    """Messages on their way to the disk: a piece of a sheaf, and the row it becomes."""

    sheaf: Sheaf
    piece: Piece
    row: Row
    due: int | None
    given_up: bool = False
    handed: bool = False  # dispatch has it already


def pack_gone(gone: Numbers, first: int) -> bytes:
    offsets = [n for start, count in gone for n in (start - first, count)]
    return struct.pack(f"<{len(offsets)}I", *offsets)


def unpack_gone(packed: bytes, first: int) -> Numbers | None:
    if not packed:
        return None
    offsets = struct.unpack(f"<{len(packed) // 4}I", packed)
    return Numbers((first + at, count) for at, count in zip(offsets[::2], offsets[1::2], strict=True))


def pack_headers(headers: Headers | None) -> bytes | None:
    return msgpack.encode(headers) if headers else None


def pack_marks(marks: Marks | None) -> bytes | None:
    return msgpack.encode(marks) if marks is not None and (marks.deaths or marks.alone_at) else None


_marks = msgpack.Decoder(Marks)


def unpack_marks(packed: bytes) -> Marks | None:
    return _marks.decode(packed) if packed else None


_headers = msgpack.Decoder(dict[int, dict[str, str]])


def unpack_headers(packed: bytes) -> Headers | None:
    return _headers.decode(packed) if packed else None


def alone(payload: bytes | memoryview) -> bytes:
    """The body of one message."""
    return BODY_HEADER.pack(0xDD, 1) + payload


_CHUNK = 5 * 1024  # crc32 of more than that gives the interpreter up, and may wait 5 ms to get it back


def checksum(body: bytes | bytearray, ends: bytes) -> int:
    crc = crc32(ends)
    view = memoryview(body)
    for at in range(0, len(view), _CHUNK):
        crc = crc32(view[at : at + _CHUNK], crc)
    return crc


def ends_of(row: Row) -> bytes:
    """The ends as a segment has them."""
    return row.ends or array("I", (row.size,)).tobytes()


def is_whole(body: bytes, ends: bytes, count: int) -> bool:
    """Whether body and ends fit one another: what would otherwise be found by the one who takes a payload out."""
    if len(body) < BODY_START or BODY_HEADER.unpack_from(body) != (0xDD, count):
        return False
    return not ends or (len(ends) == 4 * count and memoryview(ends).cast("I")[-1] == len(body))


def unsigned(values: Sequence[int]) -> list[int]:
    """64-bit ids, which SQLite has as signed."""
    return [value & 0xFFFF_FFFF_FFFF_FFFF for value in values]


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
