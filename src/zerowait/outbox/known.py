"""The ids by which a sender knows its messages (`id=`): within the window a second push of one is the first one again.

All is in the transaction in which the message is stored, and goes with it if that fails: an id is known exactly when
its message is accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from msgspec import Struct, json

from zerowait.outbox.database import Database
from zerowait.outbox.row import Fresh, checksum
from zerowait.outbox.settlement import Event
from zerowait.outbox.sheaf import STATES, State

TIDY_US: Final = 60 * 1_000_000  # how often those are looked for that are out of the window
SLACK: Final = 1_000  # how many more than are to be remembered there may be meanwhile

_FIND: Final = (
    "SELECT k.epoch, k.number, k.digest, k.state, m.state, m.attempt, m.note FROM known AS k LEFT JOIN message AS m "
    "ON m.epoch = k.epoch AND m.first = k.number WHERE k.channel = ? AND k.id = ? AND k.at > ?"
)
_LETTER: Final = 3  # message.state of a dead letter


class Twin(Struct, eq=False):
    """A push that came again: what it was, and the message whose receipt it has got instead."""

    fresh: Fresh
    epoch: int
    number: int
    state: State
    note: bytes
    failures: int
    differs: bool  # other content than the first had


class Known:
    """Of one outbox, as far as it can be known without looking: whether there are any, and when to tidy. most: how many
    are remembered. kept_us: microseconds that one is."""

    def __init__(self, database: Database, most: int, kept_us: int) -> None:
        self._most = most
        self._kept_us = kept_us
        self._count: int = database.one("SELECT count(*) FROM known")  # or more: some transactions fail
        self._tidied_at = 0

    def admit(
        self, database: Database, fresh: Iterable[Fresh], id_of: Callable[[str], int], now: int
    ) -> tuple[list[Fresh], list[Twin]]:
        """Tells those that are new from those that came again, and remembers the ids of the new ones."""
        new: list[Fresh] = []
        twins: list[Twin] = []
        here: set[tuple[int, int]] = set()  # names of this transaction, whose rows are not written yet
        for each in fresh:
            name = each.sheaf.terms.id
            if name is None:
                new.append(each)
                continue
            channel, digest = id_of(each.row.channel), checksum(each.piece.body, b"")
            found = database.one(_FIND, (channel, name, now - self._kept_us))
            if found is not None:
                twins.append(_twin(each, found, digest, is_new=(found[0], found[1]) in here))
                continue
            row = each.row
            self._remember(database, channel, name, (row.epoch, row.first), digest, now)
            here.add((row.epoch, row.first))
            new.append(each)
        if here:
            self._tidy(database, now)
        return new, twins

    def admit_output(
        self, database: Database, channel: int, id: str, name: tuple[int, int], digest: int, now: int
    ) -> bool:
        """Whether what a handler has sent with that id is new, and not a message that was accepted before. name: its
        epoch and number."""
        if database.one(_FIND, (channel, id, now - self._kept_us)) is not None:
            return False
        self._remember(database, channel, id, name, digest, now)
        self._tidy(database, now)
        return True

    def _remember(
        self, database: Database, channel: int, id: str, name: tuple[int, int], digest: int, now: int
    ) -> None:
        database.begin()
        database.run(
            "INSERT OR REPLACE INTO known (channel, id, epoch, number, at, digest) VALUES (?, ?, ?, ?, ?, ?)",
            (channel, id, *name, now, digest),
        )
        self._count += 1

    def settle(self, database: Database, events: Iterable[Event]) -> None:
        """What has left the outbox in this transaction, and how: nothing else would tell, once its row is gone."""
        if not self._count:
            return
        left = [
            (STATES.index(event.state), event.row.epoch, event.first)
            for event in events
            if event.row.count == 1 and event.state in ("handled", "expired", "withdrawn")
        ]
        if left:
            database.run(
                "UPDATE known SET state = j.value ->> 0 FROM json_each(?) AS j "
                "WHERE epoch = j.value ->> 1 AND number = j.value ->> 2",
                (json.encode(left).decode(),),
            )

    def _tidy(self, database: Database, now: int) -> None:
        if now - self._tidied_at >= TIDY_US or self._tidied_at > now:
            self._tidied_at = now
            database.run("DELETE FROM known WHERE at <= ?", (now - self._kept_us,))
        elif self._count <= self._most + SLACK:
            return
        count: int = database.one("SELECT count(*) FROM known")
        if count > self._most:
            database.run(
                "DELETE FROM known WHERE (channel, id) IN (SELECT channel, id FROM known ORDER BY at LIMIT ?)",
                (count - self._most,),
            )
        self._count = min(count, self._most)


def _twin(fresh: Fresh, found: Any, digest: int, *, is_new: bool) -> Twin:
    epoch, number, first_digest = found[:3]
    settled: int | None = found[3]
    row_state, failures, note = found[4:]
    letter = row_state == _LETTER
    state: State = "stored"
    if settled is not None:
        state = STATES[settled]
    elif letter:
        state = "dead"
    elif row_state is None and not is_new:
        state = "withdrawn"  # a dead letter that was dropped: nothing else goes without a word
    return Twin(
        fresh, epoch, number, state, (note or b"") if letter else b"", failures or 0, differs=first_digest != digest
    )
