"""What happens to messages because time has passed: they expire, and dead letters are not kept for ever."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Final

from zerowait.outbox.database import Database
from zerowait.outbox.ledger import Ledger, Tally
from zerowait.outbox.reading import find
from zerowait.outbox.settlement import Dropped, Settlement, drop_letters

LETTERS_LOOKED_AT: Final = 3_600.0  # seconds between looks for dead letters that are too old
EXPIRING_AT_ONCE: Final = 1_024
DAY_US: Final = 86_400_000_000

_EXPIRING: Final = "state = 0 AND expires IS NOT NULL AND (expires, seq) > (?, ?) ORDER BY expires, seq"
_BATCH: Final = 256


class Aging:
    """letters, letter_days: how many dead letters are kept, and for how long. seconds: a clock that no one sets."""

    def __init__(self, database: Database, letters: int, letter_days: float, seconds: Callable[[], float]) -> None:
        # When the next row expires that waits here, by the outbox's own time.
        self.expiry_at: int | None = database.one(
            "SELECT min(expires) FROM message WHERE state = 0 AND expires IS NOT NULL"
        )
        self.letters_at = 0.0  # when dead letters are looked at for their age
        self._letters = letters
        self._letter_days = letter_days
        self._seconds = seconds

    def expires(self, at: int) -> None:
        """A row that expires then waits here from now on."""
        if self.expiry_at is None or at < self.expiry_at:
            self.expiry_at = at

    def has_work(self, now: int) -> bool:
        return (self.expiry_at is not None and self.expiry_at <= now) or self._seconds() >= self.letters_at

    def expire(
        self, database: Database, channels: dict[int, str], out: Container[int], settlement: Settlement, now: int
    ) -> int | None:
        """Settle what waits on disk and whose time is over; gives when to look again, once this is durable."""
        if self.expiry_at is None or self.expiry_at > now:
            return self.expiry_at
        cursor = (0, 0)
        expired = 0
        while True:
            found = find(database, channels, _EXPIRING, cursor, _BATCH, bodies=False)
            for each in found:
                row = each.row
                assert row.expires is not None
                cursor = (row.expires, row.seq)
                if row.seq in out or row.seq in settlement.deleted:
                    continue  # those out are dispatch's and the worker's to judge
                if row.expires > now or expired >= EXPIRING_AT_ONCE:
                    return row.expires
                settlement.expire(row)
                expired += 1
            if len(found) < _BATCH:
                return None

    def bound_letters(self, database: Database, ledger: Ledger, tally: Tally, now: int) -> Dropped:
        """Keep dead letters within their number and age; what goes is counted as dropped."""
        dead = ledger.dead + sum(row.dead for row in tally.rows.values())
        excess = max(0, dead - self._letters)
        before = -1
        if self._seconds() >= self.letters_at:
            self.letters_at = self._seconds() + LETTERS_LOOKED_AT
            before = now - int(self._letter_days * DAY_US)
            # What was set aside lies here as long as a dead letter would.
            old = "SELECT body FROM message WHERE state = 4 AND due < ?"
            database.run(f"DELETE FROM body WHERE id IN ({old})", (before,))
            database.run("DELETE FROM message WHERE state = 4 AND due < ?", (before,))
        if not excess and (not dead or before < 0):
            return Dropped()
        return drop_letters(database, ledger.channels, tally, excess, before)

    def next_look(self, ledger: Ledger, now: int) -> float | None:
        """Seconds until something passes with time."""
        wait = None if self.expiry_at is None else max(0.0, (self.expiry_at - now) / 1e6)
        if ledger.dead:
            letters = max(0.0, self.letters_at - self._seconds())
            wait = letters if wait is None else min(wait, letters)
        return wait
