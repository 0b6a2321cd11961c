"""Rows out of the file, many at a time.

Each step of a statement gives the interpreter up, and beside a busy thread each costs milliseconds to get it back. So
a query gives one row: a JSON list of all that were found, with the bodies in it if they are small. Large bodies are
read one by one, which is few steps for many bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct, json

from zerowait.message import Segment
from zerowait.outbox.database import Database, DatabaseError
from zerowait.outbox.row import Row, checksum, ends_of, is_whole, unpack_gone, unpack_headers, unpack_marks

SMALL_BYTES: Final = 2_048

_SELECT: Final = """
SELECT json_group_array(json_array(
    seq, epoch, first, count, channel, priority, due, expires, state, gone, attempt, body, home, accepted_at, headers,
    size, ends, crc, small, deaths, key
)) FROM (
    SELECT seq, epoch, first, count, channel, priority, due, expires, state, hex(gone) AS gone, attempt, body, home,
        accepted_at, hex(headers) AS headers, length(bytes) AS size, hex(lengths) AS ends, crc, {small} AS small,
        hex(deaths) AS deaths, hex(key) AS key
    FROM message LEFT JOIN body ON body.id = message.body
    WHERE {where} LIMIT ?
)
"""
_WITH_BODY: Final = f"CASE WHEN length(bytes) <= {SMALL_BYTES} THEN hex(bytes) END"

_OLDEST_OF: Final = "coalesce((SELECT accepted_at FROM message WHERE {} ORDER BY epoch, first LIMIT 1), 9e18)"
_OF_READY: Final = "state = 0 AND due IS NULL AND deaths IS NULL AND channel = ledger.channel AND priority = "
# Of each channel with something unsettled: the first by name in each index that it is in. A few steps down a tree for
# a channel, whatever waits there; and one row for all of them (see above). Given 1 it looks at all channels.
OLDEST: Final = f"""
SELECT json_group_object(name, at) FROM (
    SELECT name, nullif(min(
        {_OLDEST_OF.format(_OF_READY + "1")},
        {_OLDEST_OF.format(_OF_READY + "0")},
        {_OLDEST_OF.format(_OF_READY + "-1")},
        {_OLDEST_OF.format("state = 0 AND due IS NOT NULL AND channel = ledger.channel")},
        {_OLDEST_OF.format("state = 0 AND deaths IS NOT NULL AND channel = ledger.channel")}
    ), 9e18) AS at FROM ledger WHERE ? OR accepted > handled + dead + expired + dropped
)
"""


class Found(Struct, gc=False):
    """A row as it is in the file."""

    row: Row
    due: int | None
    state: int
    crc: int | None
    small: bytes | None  # the body, if it was asked for and is small

    def name(self) -> tuple[int, int]:
        return self.row.epoch, self.row.first


class _Record(Struct, array_like=True, gc=False):
    seq: int
    epoch: int
    first: int
    count: int
    channel: int
    priority: int
    due: int | None
    expires: int | None
    state: int
    gone: str
    attempt: int
    body: int
    home: int
    accepted_at: int
    headers: str
    size: int | None
    ends: str
    crc: int | None
    small: str | None
    deaths: str
    key: str


_decode = json.Decoder(list[_Record]).decode


def find(
    database: Database, channels: dict[int, str], where: str, bindings: Sequence[Any], limit: int, *, bodies: bool
) -> list[Found]:
    """Rows, in the order that `where` ends with."""
    sql = _SELECT.format(where=where, small=_WITH_BODY if bodies else "NULL")
    found: list[Found] = []
    for record in _decode(database.one(sql, (*bindings, limit))):
        first = record.first
        row = Row(
            record.seq,
            channels[record.channel],
            record.epoch,
            first,
            record.count,
            record.home,
            record.body,
            record.size or 0,
            bytes.fromhex(record.ends),
            record.priority,
            record.attempt,
            record.accepted_at,
            record.expires,
            unpack_gone(bytes.fromhex(record.gone), first),
            unpack_headers(bytes.fromhex(record.headers)),
            unpack_marks(bytes.fromhex(record.deaths)),
            bytes.fromhex(record.key) or None,
        )
        small = bytes.fromhex(record.small) if record.small is not None else None
        found.append(Found(row, record.due, record.state, record.crc, small))
    return found


def body_of(database: Database, found: Found) -> bytes | None:
    """The body of a row, or None if it is not what was written."""
    row = found.row
    try:
        body = (
            found.small if found.small is not None else database.one("SELECT bytes FROM body WHERE id = ?", (row.body,))
        )
    except DatabaseError as error:
        if not database.is_damage(error):
            raise
        return None
    if body is None or not is_whole(body, row.ends, row.count):
        return None
    if found.crc is not None and found.crc != checksum(body, row.ends):
        return None
    return bytes(body)


def segment_of(row: Row, body: bytes | bytearray, shift: int) -> Segment:
    """What dispatch is given. shift: by how much the outbox's own time is ahead of the caller's, microseconds."""
    return Segment(
        row.channel,
        row.epoch,
        row.first,
        row.count,
        body,
        ends_of(row),
        row.accepted_at,
        row.seq,
        row.failures,
        None,
        row.expires - shift if row.expires is not None else None,
        row.priority,
        row.key,
        row.headers,
        tuple(row.gone) if row.gone else (),
        row.marks,
    )
