"""How rows and bodies come into the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from zerowait.outbox.database import Database
from zerowait.outbox.row import Row, checksum, pack_headers

MESSAGE: Final = (
    "message (seq, epoch, first, count, channel, priority, due, expires, state, attempt, body, note, home, accepted_at,"
    " headers, key)"
)
MESSAGE_VALUES: Final = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
BODY: Final = "body (id, refs, lengths, bytes, crc)"
BODY_VALUES: Final = "(?, 1, ?, ?, ?)"


def insert(
    database: Database,
    rows: Iterable[tuple[Row, bytes | bytearray, int | None]],
    id_of: Callable[[str], int],
    *,
    checked: bool,
) -> None:
    """Rows that wait, each with its body and the time it is due. checked: with the checksums of the bodies."""
    bodies: list[tuple[object, ...]] = []
    messages: list[tuple[object, ...]] = []
    for row, body, due in rows:
        bodies.append((row.seq, row.ends or None, body, checksum(body, row.ends) if checked else None))
        messages.append(
            (row.seq, row.epoch, row.first, row.count, id_of(row.channel), row.priority, due, row.expires, 0, 0,
             row.seq, None, row.home, row.accepted_at, pack_headers(row.headers), row.key)
        )  # fmt: skip
    if messages:
        database.insert(BODY, BODY_VALUES, bodies)
        database.insert(MESSAGE, MESSAGE_VALUES, messages)
