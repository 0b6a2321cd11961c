"""The head of each key: of what waits with it, the message that was pushed first.

Nothing else of a key goes out, and nothing at all while the head waits for its time or something of the key is out. So
a key costs one look into an index whenever it has become free, however many messages wait behind its head; and many
keys cost one query (see `zerowait.outbox.reading`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct, json

from zerowait.outbox.database import Database, DatabaseError
from zerowait.outbox.row import unpack_gone

# Two rows of each: the first by name may be a segment whose first messages are gone, and one that left it for a row of
# its own come before what is left of it.
_FIRST: Final = """
SELECT json_group_array(json_array(key, seq, epoch, first, due, gone)) FROM (
    SELECT hex(m.key) AS key, m.seq, m.epoch, m.first, m.due, hex(m.gone) AS gone
    FROM json_each(?) AS wanted JOIN message AS m ON m.seq IN (
        SELECT seq FROM message INDEXED BY in_key
        WHERE state = 0 AND key IS NOT NULL AND channel = ? AND key = unhex(wanted.value)
        ORDER BY epoch, first LIMIT 2
    )
)
"""


class _First(Struct, array_like=True, gc=False):
    key: str
    seq: int
    epoch: int
    first: int
    due: int | None
    gone: str

    def name(self) -> tuple[int, int]:
        """Of its first message that is not gone."""
        gone = unpack_gone(bytes.fromhex(self.gone), self.first)
        number = self.first
        for first, count in gone or ():
            if first != number:
                break
            number += count
        return self.epoch, number


_decode = json.Decoder(list[_First]).decode


def heads(database: Database, id: int, keys: Sequence[bytes], now: int) -> list[int]:
    """The rows of the heads of these keys of a channel, as far as their time has come, in the order of the keys."""
    rows: dict[str, _First] = {}
    for row in _read(database, id, keys):
        known = rows.get(row.key)
        if known is None or row.name() < known.name():
            rows[row.key] = row
    found = (rows.get(key.hex().upper()) for key in keys)
    return [row.seq for row in found if row is not None and (row.due is None or row.due <= now)]


def _read(database: Database, id: int, keys: Sequence[bytes]) -> Iterable[_First]:
    try:
        return _decode(database.one(_FIRST, (json.encode([key.hex() for key in keys]).decode(), id)))
    except DatabaseError as error:
        if not database.is_damage(error):
            raise
    found: list[_First] = []
    for key in keys if len(keys) > 1 else ():  # a key whose page is damaged waits until the file is repaired
        found += _read(database, id, [key])
    return found
