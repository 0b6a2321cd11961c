"""Bodies on disk that are not what was written: their rows leave the queue, all others are delivered."""

from __future__ import annotations

from pathlib import Path

from zerowait.message import BODY_START
from zerowait.outbox.attempt import Notice
from zerowait.outbox.database import Database
from zerowait.outbox.reading import Found
from zerowait.outbox.row import Row, unpack_gone


def damaged(found: Found | int, database: Database, channels: dict[int, str]) -> Row:
    """The row whose body is damaged; of which perhaps only its seq could be read with others."""
    if isinstance(found, Found):
        return found.row
    seq, epoch, first, count, channel, home, gone, key = database.one(
        "SELECT seq, epoch, first, count, channel, home, gone, key FROM message WHERE seq = ?", (found,)
    )
    return Row(seq, channels[channel], epoch, first, count, home, 0, BODY_START, b"", 0, 0, 0, None,
               unpack_gone(gone or b"", first), None, None, key)  # fmt: skip


def damage_notice(row: Row, count: int, path: Path | None) -> Notice:
    return Notice(
        "damaged",
        f"{count} messages of {row.channel} in {path} are damaged: what is on disk is not what was "
        f"written (row {row.seq}). They were set aside and counted as dropped; all others are delivered. Look "
        "at the disk.",
        row.channel,
        count,
    )
