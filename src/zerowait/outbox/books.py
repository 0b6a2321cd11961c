"""What the owner of an outbox knows of its tables without looking: who has which row, and what is to be looked at when.

A transaction reads here; what it changed is entered once it is durable. So a turn whose commit fails is worked out
again from the same books.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import json

from zerowait.message import Segment
from zerowait.outbox.aging import Aging
from zerowait.outbox.ahead import Ahead
from zerowait.outbox.attempt import Attempt
from zerowait.outbox.claims import Claims, Output
from zerowait.outbox.database import Database
from zerowait.outbox.intake import Limits
from zerowait.outbox.known import Known
from zerowait.outbox.ledger import Ledger
from zerowait.outbox.numbering import Numbering
from zerowait.outbox.reading import OLDEST, Found, segment_of
from zerowait.outbox.row import Fresh, Row
from zerowait.outbox.settlement import Settlement
from zerowait.outbox.stubs import Stubs
from zerowait.outbox.young import Young


class Books:
    """turns: how many transactions there have been. ahead: what dispatch has, and what it may read next. young: what is
    in no table yet. known: the ids of messages. aging: what passes with time."""

    def __init__(self, database: Database, ledger: Ledger, limits: Limits, seconds: Callable[[], float]) -> None:
        self.durable = database.path is not None
        self.turns: int = database.one("SELECT turn FROM box")
        self.ledger = ledger
        self.numbering = Numbering(database)
        self.young = Young()
        self.known = Known(database, limits.ids, limits.ids_kept_us)
        self.aging = Aging(database, limits.letters, limits.letter_days, seconds)
        self._nbytes = limits.nbytes
        self._segments: list[Segment] = []  # out, and given by the next turn that succeeds
        ledger.load(database)
        self.claims = Claims(database, ledger.channels)
        self.stubs = Stubs(database, ledger.channels, int(limits.choice_days * 86_400_000_000))
        self.ahead = self._new_ahead()
        self._load_ahead(database)

    def _new_ahead(self) -> Ahead:
        # What is in memory anyway need not wait for its turn in a table.
        return Ahead() if self.durable else Ahead(nbytes=self._nbytes)

    def _load_ahead(self, database: Database) -> None:
        for id, channel in self.ledger.channels.items():
            if self.ledger.row(channel).waiting_and_in_flight:
                self.ahead.load(channel, id, database)

    # For dispatch

    def hand_at_once(self, fresh: Fresh, shift: int) -> Segment | None:
        """In memory: what dispatch may have before it has a row."""
        if not self.ahead.takes(fresh.row, due=fresh.due is not None):
            return None
        fresh.handed = True
        return segment_of(fresh.row, fresh.piece.body, shift)

    def hand_out(self, stored: list[Fresh], shift: int) -> None:
        """What was just stored goes to dispatch as far as it may go without being read again."""
        for each in stored:
            if each.handed:
                continue
            if each.row.key is not None:
                self.ahead.keyed(each.row, each.piece.body, due=each.due is not None)
                self._waits_on_disk(each.row)
            elif self.ahead.takes(each.row, due=each.due is not None):
                self._segments.append(segment_of(each.row, each.piece.body, shift))
            else:
                self._waits_on_disk(each.row)

    def _waits_on_disk(self, row: Row) -> None:
        if row.expires is not None:
            self.aging.expires(row.expires)

    def hand_out_released(self, released: list[Output], shift: int) -> None:
        """What handlers have sent and is accepted now; what is not in memory any more is read again."""
        for each in released:
            row = each.row
            if row.key is not None:
                self.ahead.keyed(row, each.body, due=each.due is not None)
                self._waits_on_disk(row)
            elif each.body is None or not self.ahead.takes(row, due=each.due is not None):
                self._missed(row, each.due)
            else:
                self._segments.append(segment_of(row, each.body, shift))

    def missed_released(self, released: list[Output]) -> None:
        """These are accepted, and were not handed out: they are to be read."""
        for each in released:
            self._missed(each.row, each.due)

    def missed(self, stored: list[Fresh]) -> None:
        """These were stored, and not handed out: they are to be read."""
        for each in stored:
            self._missed(each.row, each.due)

    def _missed(self, row: Row, due: int | None) -> None:
        self.ahead.missed(row, due)
        self._waits_on_disk(row)

    def read_ahead(self, database: Database, now: int, shift: int, spoilt: Callable[[Found | int], None]) -> bool:
        """Read for dispatch as much as there is room for; False: there was none, or nothing to read. spoilt: see
        `Ahead.read`."""
        reads = self.ahead.wants(now)
        if reads:
            self.ahead.read(database, self.ledger, now, shift, spoilt, self._segments)
        self.ahead.just_stored.clear()
        return reads

    def has_segments(self) -> bool:
        return bool(self._segments)

    def take_segments(self) -> list[Segment]:
        segments, self._segments = self._segments, []
        return segments

    def offer_again(self, database: Database) -> None:
        """Who carries the messages begins anew under the new epoch, with nothing in hand: everything is read again."""
        self._segments = []
        self.ahead = self._new_ahead()
        self.bring_young(database)
        self._load_ahead(database)

    def bring_young(self, database: Database) -> None:
        """From here on all that is kept is in the tables."""
        if not self.young:
            return
        self.young.begin(database, lambda channel: self.ledger.id_of(channel, database))
        try:
            self.young.bring_all()
            database.commit()
        except BaseException:
            database.roll_back()
            raise
        self.young.applied()

    def oldest(self, database: Database) -> dict[str, int]:
        """When the oldest message of each channel that is not settled was accepted, microseconds UTC."""
        found = database.one(OLDEST, (not self.durable,))  # in memory the tables know no counts
        oldest = self.young.oldest()
        for channel, at in json.decode(found, type=dict[str, int | None]).items():
            if at is not None:
                oldest[channel] = min(at, oldest.get(channel, at))
        return oldest

    # A transaction is durable

    def committed(self, attempt: Attempt, stored: Callable[[], object]) -> None:
        """stored: see `Ledger.committed`."""
        self.turns = attempt.turn
        attempt.claiming.applied()
        attempt.choosing.applied()
        self.ledger.committed(attempt.tally, attempt.ids, stored)

    def settled(self, settlement: Settlement) -> None:
        for row in settlement.deleted.values():
            self.ahead.back(row)
            self.young.settled(row)
            if row.key is not None:
                self.ahead.freed(row.channel, row.key)
        self.young.applied()
        for touched in settlement.touched.values():
            self.ahead.shrink(touched.row, touched.gone)
            self._freed(touched.row)
        for own in settlement.own.values():
            if own.row.count == 1:
                self.ahead.back(own.row)
            self._freed(own.row)
            if own.row.expires is not None and own.state == 0:
                self.aging.expires(own.row.expires)
        for row, marks in settlement.alone.values():
            row.marks = marks
        for row in settlement.shelved:
            self.ahead.back(row)
            self._waits_on_disk(row)
            self._freed(row)
        for row in settlement.set_aside:
            self._freed(row)

    def _freed(self, row: Row) -> None:
        if row.key is not None:
            self.ahead.freed(row.channel, row.key)
