"""An outbox: what was accepted, until it is settled. On disk, or in memory by the same statements.

A turn is one transaction and everything in it: what has been pushed gets its numbers and rows, what has been settled
loses them, the ledger follows. So whatever the owner is told after a turn is durable, and a file that is opened again
has exact numbers. What a turn could not commit is kept and goes into the next one.

Time. Due and expiry are stored as the outbox's own time: the wall clock at opening (or where the last life left off, if
that is later), and from then on a clock that no one sets. What comes in and goes out is in the caller's `now_us`.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final, Literal, Protocol
from weakref import WeakValueDictionary

from msgspec import json

from zerowait.errors import OutcomeUnknown, Room, StoreError
from zerowait.message import BODY_START, SEGMENT_MESSAGES, Change, Segment
from zerowait.outbox.aging import Aging
from zerowait.outbox.ahead import Ahead
from zerowait.outbox.attempt import Attempt, Notice
from zerowait.outbox.clock import Clock
from zerowait.outbox.database import (
    WAL_IDLE_PAGES,
    WAL_MOST_PAGES,
    Database,
    DatabaseError,
    check,
    create,
    explain,
    is_passing,
    remove,
)
from zerowait.outbox.intake import Intake, Limits
from zerowait.outbox.ledger import Ledger, Tally
from zerowait.outbox.place import Place, Standing
from zerowait.outbox.reading import OLDEST, Found, segment_of
from zerowait.outbox.row import Fresh, Row, unpack_gone, unsigned
from zerowait.outbox.settlement import Dropped, Own, Settlement
from zerowait.outbox.sheaf import Piece, Sheaf
from zerowait.outbox.tables import insert
from zerowait.outbox.young import Young

TRY_AGAIN: Final = 1.0  # seconds until a failing file is tried again
HELD_AGAIN: Final = 0.001  # seconds until a sheaf that a push had in hand is looked for again


class Lock(Protocol):
    """The right to have the file open. intact: whether its own file is there. restore: makes that and its folder again;
    raises StoreError."""

    def release(self) -> None: ...
    def intact(self) -> bool: ...
    def restore(self) -> None: ...


class Outbox:
    """All methods on one thread, unless they say otherwise; `ledger`, `intake`, `moved` and `find_sheaf` are for any.

    id: 64 random bits, lasting. epoch: of this opening, or of its last coming back from an error. noted: the worker
    instances noted by earlier lives. turns: how many transactions there have been.
    """

    def __init__(self, database: Database, name: str, intake: Intake, clock: Clock, lock: Lock | None) -> None:
        self.name = name
        self.path = database.path
        self.durable = database.path is not None
        self.intake = intake
        self.ledger = Ledger(intake.counts)
        self.notices: deque[Notice] = deque(maxlen=1_000)
        self.outside: Callable[[], AbstractContextManager[None]] = nullcontext  # in which the disk is waited for
        self.set_aside = 0  # messages whose bodies on disk were damaged, in this life
        self._database: Database | None = database
        self._clock = clock
        self._lock = lock
        self._place = Place(database.path) if database.path is not None else None
        self._ahead = self._new_ahead()
        self._young = Young()
        self._sheaves: WeakValueDictionary[tuple[int, int], Sheaf] = WeakValueDictionary()
        self._fresh: list[Fresh] = []
        self._segments: list[Segment] = []  # out, and given by the next turn that succeeds
        self._changes: list[Change] = []
        self._spoilt: list[Row] = []
        self._attempt: Attempt | None = None
        self._next = 1
        self._seq: int
        self.epoch: int
        self._aging = Aging(database, intake.limits.letters, intake.limits.letter_days)
        self._broken_since: float | None = None
        self._is_told_broken = False  # somebody was told that it failed, and waits for better news
        self._is_closed = False
        self.turns: int
        box, self.epoch, self.turns = database.one("SELECT id, epoch, turn FROM box")
        self.id = int.from_bytes(box, "big")
        self.noted = frozenset(unsigned([row[0] for row in database.rows("SELECT instance FROM noted")]))
        self.ledger.load(database)
        self._seq = database.one(
            "SELECT max(coalesce((SELECT max(seq) FROM message), 0), coalesce((SELECT max(id) FROM body), 0))"
        )
        for id, channel in self.ledger.channels.items():
            if self.ledger.row(channel).waiting_and_in_flight:
                self._ahead.load(channel, id, database)

    @classmethod
    def open(
        cls,
        path: Path | None,
        name: str,
        limits: Limits | None = None,
        *,
        now_us: Callable[[], int],
        floor_epoch: int = 0,
        id: int | None = None,
        intake: Intake | None = None,
        lock: Lock | None = None,
    ) -> Outbox:
        """Open an outbox, or make it; path None: in memory.

        floor_epoch: the epoch will be above it. id: of a new one, else random. intake: where pushes go; without one
        (and with limits) it takes no pushes. lock: the right to the file, released by `close`. Raises StoreError, and
        then what is no outbox of this version is as it was, and the lock is still the caller's.
        """
        if intake is None:
            intake = Intake(limits or Limits(), durable=path is not None, wake=_nothing, room=_no_room, now_us=now_us)
            intake.close(name)
        try:
            if path is not None and not check(path):
                create(path, id or _random(), name, now_us())
            database = Database(path)
            try:
                if path is None:
                    box = (id or _random()).to_bytes(8, "big")
                    database.run("INSERT INTO box VALUES (?, ?, 0, ?, 0)", (box, name, now_us()))
                clock = Clock(now_us, database.one("SELECT wall FROM box"))
                _raise_epoch(database, clock, floor_epoch)
                outbox = cls(database, name, intake, clock, lock)
            except BaseException:
                database.close()
                raise
        except DatabaseError as error:
            raise explain(error, path, None) from error
        intake.box = outbox.id
        intake.load(*outbox.ledger.held())
        return outbox

    @staticmethod
    def peek(path: Path) -> dict[str, int]:
        """How many messages of each channel wait in a file that nobody has open: reads only. Raises StoreError."""
        if not check(path):
            return {}
        try:
            database = Database(path)
            try:
                ledger = Ledger(dict)
                ledger.load(database)
                rows = ledger.rows().items()
                return {channel: row.waiting_and_in_flight for channel, row in rows if row.waiting_and_in_flight}
            finally:
                database.close()
        except DatabaseError as error:
            raise explain(error, path, None) from error

    # The turn

    def turn(self, changes: Sequence[Change] = (), drawn: Mapping[str, int] | None = None) -> list[Segment]:
        """Store what has been pushed, apply the changes, and give what dispatch may have next.

        drawn: for each channel how many payload bytes dispatch has sent since the last turn. Raises StoreError, and
        has changed nothing durable: sheaves and changes are kept and written by the next turn; try again in a second.
        """
        if drawn:
            self._ahead.drawn(drawn)
        self._changes += changes
        for sheaf, piece in self.intake.take():
            self._seal(sheaf, piece)
        try:
            if self._place is not None and self._place.is_due():
                self._mind(self._place)
            database = self._database or self._reopen()
            now = self._clock.now()
            shift = self._clock.shift()
            if self._has_work(now):
                self._commit(database, now, shift)
                self._hand_out(shift)
            if self._ahead.wants(now):
                self._ahead.read(database, self.ledger, now, shift, self._set_aside, self._segments)
        except DatabaseError as error:
            raise self._failed(error) from error
        except StoreError as error:
            self._break(error)
            raise
        if self._is_told_broken or self.intake.broken is not None:
            self._is_told_broken = False
            self.intake.broken = None
            self.notices.append(Notice("mended", f"The outbox {self.path or 'in memory'} can be written again."))
        self._broken_since = None
        segments, self._segments = self._segments, []
        return segments

    def begin(self) -> list[Segment]:
        """In memory only: what was just pushed, for dispatch to send before `turn`, which must follow, makes its rows.

        A message alone is thus on its way before three statements are run for it. It is no less safe: none of them
        would have put it on a disk.
        """
        assert not self.durable
        segments: list[Segment] = []
        shift = self._clock.shift()
        for sheaf, piece in self.intake.take():
            self._seal(sheaf, piece)
            fresh = self._fresh[-1]
            row = fresh.row
            if self._ahead.takes(row, due=fresh.due is not None):
                fresh.handed = True
                self._sheaves[row.epoch, row.home] = sheaf
                sheaf.stored()
                segments.append(segment_of(row, piece.body, shift))
        return segments

    def _seal(self, sheaf: Sheaf, piece: Piece) -> None:
        """Give the messages their numbers. They may change while nothing has been stored."""
        row = Row(
            self._new_seq(), sheaf.channel, 0, 0, piece.count, 0, 0, len(piece.body),
            piece.ends if piece.count > 1 else b"", sheaf.priority, 0, sheaf.accepted_at, None, None, None,
        )  # fmt: skip
        row.body = row.seq
        shift = self._clock.shift() if sheaf.due is not None or sheaf.expires is not None else 0
        due = sheaf.due + shift if sheaf.due is not None else None
        row.expires = sheaf.expires + shift if sheaf.expires is not None else None
        fresh = Fresh(sheaf, piece, row, due)
        self._number(fresh)
        self._fresh.append(fresh)

    def _number(self, fresh: Fresh) -> None:
        sheaf, piece, row = fresh.sheaf, fresh.piece, fresh.row
        if piece.start:
            row.epoch, row.home, row.first = sheaf.epoch, sheaf.first, sheaf.first + piece.start
        else:
            row.epoch, row.home, row.first = self.epoch, self._next, self._next
            # A sheaf that somebody may still have in hand keeps some numbers for what may yet come.
            self._next += piece.count if sheaf.cut is None else piece.count + SEGMENT_MESSAGES
            sheaf.sealed(row.epoch, row.first)
        if sheaf.headers:
            span = range(piece.start, piece.start + piece.count)
            row.headers = {sheaf.first + at: sheaf.headers[at] for at in span if at in sheaf.headers} or None

    def _new_seq(self) -> int:
        self._seq += 1
        return self._seq

    def _has_work(self, now: int) -> bool:
        return bool(self._fresh or self._changes or self._spoilt or self._aging.has_work(now))

    def _commit(self, database: Database, now: int, shift: int) -> None:
        self._attempt = None
        try:
            attempt = self._write(database, now, shift)
        except DatabaseError:
            raise
        except BaseException:
            database.roll_back()
            raise
        self._settle_on(database, attempt)

    def _settle_on(self, database: Database, attempt: Attempt) -> None:
        # From here until it is applied, an error leaves open whether it is on disk: `_reopen` finds out.
        self._attempt = attempt
        with self.outside():
            database.commit()
        self._aging.expiry_at = attempt.expiry_at
        self._apply(attempt)

    def _write(self, database: Database, now: int, shift: int) -> Attempt:
        tally = Tally()
        settlement = self._settlement(database, tally, now, shift)
        ids: dict[str, int] = {}
        self._young.begin(database, lambda channel: self._id_of(channel, ids, database))
        if self.durable or self._spoilt or self._aging.has_work(now):
            database.begin()  # else there may be nothing to do in the tables
        for fresh in self._fresh:
            if fresh.handed:
                self._young.take(fresh)
        for change in self._changes:
            settlement.apply(change)
        for row in self._spoilt:
            settlement.drop(row)
        expiry_at = self._aging.expire(database, self.ledger.channels, self._ahead.out, settlement, now)
        # Rows that are new come after all that looks for rows: nothing of this turn is about them.
        if self._fresh:
            self._insert(database, ids, tally)
        settlement.write(database, lambda channel: self._id_of(channel, ids, database))
        dropped = self._aging.bound_letters(database, self.ledger, tally, now)
        turn = self._account(database, tally, ids, now)
        changes, spoilt = len(self._changes), len(self._spoilt)
        return Attempt(settlement, tally, ids, list(self._fresh), changes, spoilt, dropped, expiry_at, turn)

    def _settlement(self, database: Database, tally: Tally, now: int, shift: int) -> Settlement:
        return Settlement(
            database, self.ledger.channels, self._ahead.out, self._young, tally, self._new_seq, self._ahead.later, now,
            shift, checked=self.durable,
        )  # fmt: skip

    def _account(self, database: Database, tally: Tally, ids: dict[str, int], now: int) -> int:
        """The ledger, and the number of this transaction, by which it is known again."""
        for channel in tally.rows:
            self._id_of(channel, ids, database)
        turn = self.turns + 1
        if self.durable:
            self.ledger.write(tally, ids, database)
            database.run("UPDATE box SET turn = ?, wall = ?", (turn, now))
        return turn

    def _insert(self, database: Database, ids: dict[str, int], tally: Tally) -> None:
        rows: list[tuple[Row, bytes | bytearray, int | None]] = []
        for fresh in self._fresh:
            row = fresh.row
            counts = tally.of(row.channel)
            counts.accepted += row.count
            counts.nbytes += row.nbytes(row.first, row.count)
            if not fresh.handed:
                if fresh.due is not None:
                    fresh.due = self._ahead.later(row.channel, fresh.due)
                rows.append((row, fresh.piece.body, fresh.due))
        if rows:
            database.begin()
            insert(database, rows, lambda channel: self._id_of(channel, ids, database), checked=self.durable)

    def _id_of(self, channel: str, ids: dict[str, int], database: Database) -> int:
        id = ids.get(channel)
        if id is None:
            id = ids[channel] = self.ledger.id_of(channel, database)
        return id

    def _apply(self, attempt: Attempt) -> None:
        """The transaction is durable: remember it, and tell whoever asked."""
        settlement = attempt.settlement
        self.turns = attempt.turn
        self._attempt = None
        stored = [(each.sheaf, each.piece.count) for each in attempt.fresh if not each.given_up]
        self.ledger.committed(attempt.tally, attempt.ids, lambda: self.intake.stored(stored))
        for each in attempt.fresh:
            if each.given_up:
                self.intake.load(each.row.count, each.row.nbytes(each.row.first, each.row.count))
            if not each.handed:  # else that was said before, and it may have been sent since
                self._sheaves[each.row.epoch, each.row.home] = each.sheaf
                each.sheaf.stored()
        for row in settlement.deleted.values():
            self._ahead.back(row)
            self._young.settled(row)
        self._young.applied()
        for touched in settlement.touched.values():
            self._ahead.shrink(touched.row, touched.gone)
        for own in settlement.own.values():
            self._left(own)
        for event in settlement.events:
            sheaf = self._sheaves.get((event.row.epoch, event.row.home))
            if sheaf is not None:
                sheaf.moved(event.first, event.count, event.state, event.note, event.failures)
                if event.count == 1 and event.state == "stored":
                    self._sheaves[event.row.epoch, event.first] = sheaf  # its own segment begins with itself
        del self._changes[: attempt.changes]
        del self._spoilt[: attempt.spoilt]
        dropped = attempt.dropped
        if dropped.messages:
            kept = f"at most {self.intake.limits.letters:,} are kept, for {self.intake.limits.letter_days:g} days"
            said = f"{dropped.messages:,} dead letters of {self.name} were dropped: {kept}."
            self.notices.append(Notice("letters dropped", said, count=dropped.messages))
        self.intake.settled(settlement.messages + dropped.messages, settlement.nbytes + dropped.nbytes)

    def _left(self, own: Own) -> None:
        if own.row.count == 1:
            self._ahead.back(own.row)
        if own.row.expires is not None and own.state == 0:
            self._aging.expires(own.row.expires)

    def _hand_out(self, shift: int) -> None:
        """What was just stored goes to dispatch as far as it may go without being read again."""
        fresh, self._fresh = self._fresh, []
        for each in fresh:
            if each.handed:
                continue
            if self._ahead.takes(each.row, due=each.due is not None):
                self._segments.append(segment_of(each.row, each.piece.body, shift))
            elif each.row.expires is not None:
                self._aging.expires(each.row.expires)

    def next_due(self) -> float | None:
        """In how many seconds a turn is wanted although nothing is pushed and nothing changes; None: not at all."""
        now = self._clock.now()
        if self.intake.held:
            return HELD_AGAIN
        if self.intake.broken is not None:
            return TRY_AGAIN
        if self._spoilt or self._fresh or self._ahead.wants(now):
            return 0.0
        times = [self._aging.next_look(self.ledger, now)]
        if (due := self._ahead.next_due()) is not None:
            times.append(max(0.0, (due - now) / 1e6))
        return min((wait for wait in times if wait is not None), default=None)

    # Failing and coming back

    def _failed(self, error: DatabaseError) -> StoreError:
        database = self._database
        if database is None:  # while opening it again
            described = explain(error, self.path, None)
            self._break(described)
            return described
        described = explain(error, self.path, database.errno())
        passing = self.path is None or (is_passing(error) and self._attempt is None)
        try:
            database.roll_back()
        except DatabaseError:
            passing = False
        if not passing:
            # After a failed write nothing that the connection remembers can be trusted, and a commit may be on disk.
            self._database = None
            try:
                database.close()
            except DatabaseError:
                pass
        self._break(described)
        return described

    def _break(self, error: StoreError) -> None:
        now = time.monotonic()
        if self.intake.broken is None:
            number = error.errno or errno.EAGAIN  # "temporarily unavailable" says less than our own words
            reason = os.strerror(number) if number != errno.EAGAIN else error.message
            self.notices.append(Notice("failed", error.message, reason=reason))
        self.intake.broken = error
        self._is_told_broken = True
        if error.errno == errno.ENOSPC:
            self._broken_since = None  # what is in memory stays there; there will be room again
        elif self._database is None:
            if self._broken_since is None:
                self._broken_since = now
            elif now - self._broken_since > self.intake.limits.store_grace:
                self._give_up()

    def _give_up(self) -> None:
        """Whoever waits is told that nobody knows; what was stored before is not concerned."""
        fresh, self._fresh = self._fresh, []
        for each in fresh:
            each.given_up = True
            each.sheaf.failed(OutcomeUnknown(channel=each.sheaf.channel, path=self.path or ""))
            self.intake.settled(each.row.count, each.row.nbytes(each.row.first, each.row.count))
        self.intake.stored([(each.sheaf, each.piece.count) for each in fresh])

    def _reopen(self) -> Database:
        """Open the file again after an error: a new epoch, and certainty about the transaction that failed."""
        if self.path is None or self._is_closed:
            raise StoreError(f"The outbox {self.path or 'in memory'} is closed.", path=self.path or "")
        if not check(self.path):
            raise StoreError(
                f"The outbox {self.path} is gone: somebody removed it while it was open. What was in it is lost. Close "
                "the client and open it again to begin a new one.",
                path=self.path,
            )
        database = Database(self.path)
        try:
            box, turns = database.one("SELECT id, turn FROM box")
            attempt = self._attempt
            arrived = attempt is not None and turns == attempt.turn
            if int.from_bytes(box, "big") != self.id or not (turns == self.turns or arrived):
                raise StoreError(
                    f"The file {self.path} is another than the one that was open (restored from a copy?). It was not "
                    "changed. Close the client and open it again to use it.",
                    path=self.path,
                )
            # What the log holds may be in the system's cache only, for its sync has failed: write it out anew.
            database.checkpoint(truncate=True)
            epoch = _raise_epoch(database, self._clock, self.epoch)
        except BaseException:
            database.close()
            raise
        self._database = database
        if self._place is not None:
            self._place.remember()
        self.epoch = epoch
        self._next = 1
        self._attempt = None
        self._offer_again(database)
        if arrived:
            assert attempt is not None
            self._fresh = [each for each in self._fresh if each not in attempt.fresh]
            self._apply(attempt)
            for each in attempt.fresh:
                self._ahead.missed(each.row, due=each.due is not None)
                if each.row.expires is not None:
                    self._aging.expires(each.row.expires)
        for fresh in self._fresh:
            self._number(fresh)
        return database

    def is_displaced(self) -> bool:
        """Whether its file, or its log, is not where it was opened: a turn is wanted. Any thread."""
        return self._place is not None and self._database is not None and self._place.look() is not Standing.THERE

    def _mind(self, place: Place) -> None:
        """What was removed under us is written anew, and opened by who goes on. Raises StoreError while that cannot be;
        then nothing is written where nobody would read it, and what is open is kept open."""
        database = self._database
        if database is None:
            return
        standing = place.look()
        if standing is Standing.REPLACED:
            raise StoreError(
                f"Another file was put in the place of the outbox {self.path} while it was open. It was not touched. "
                "What was stored before is kept by this process alone: do not end it. Move that file away, and within "
                "seconds the outbox is written there again.",
                path=self.path or "",
            )
        if standing is Standing.THERE:
            if self._lock is not None and not self._lock.intact():
                self._lock.restore()
            return
        if standing is Standing.REMOVED:
            if self._lock is not None:
                self._lock.restore()
            place.write_anew(database)
            what = "was removed while it was open. All that it held is written there anew"
        else:
            try:
                database.checkpoint(truncate=True)
            except DatabaseError as error:  # it stays open: that log is nowhere else
                raise explain(error, self.path, database.errno()) from error
            what = "lost its log while it was open. What was in that is now in the file"
        self._database = None
        database.close(touch=False)
        said = f"The outbox {self.path} {what}: nothing is lost. See what removes files."
        self.notices.append(Notice("failed", said, reason=said))
        self._is_told_broken = True

    def raise_epoch(self, above: int) -> int:
        """A new epoch above that one, durable: a peer has seen a later owner than this. Raises StoreError."""
        if self._database is None:
            raise self.intake.broken or StoreError(f"The outbox {self.path} is closed.", path=self.path or "")
        try:
            self.epoch = _raise_epoch(self._database, self._clock, above)
        except DatabaseError as error:
            raise self._failed(error) from error
        self._next = 1
        self._offer_again(self._database)
        for fresh in self._fresh:
            self._number(fresh)
        return self.epoch

    def _new_ahead(self) -> Ahead:
        # What is in memory anyway need not wait for its turn in a table.
        return Ahead() if self.durable else Ahead(nbytes=self.intake.limits.nbytes)

    def _offer_again(self, database: Database) -> None:
        """Who carries the messages begins anew under the new epoch, with nothing in hand: everything is read again."""
        self._segments = []
        self._ahead = self._new_ahead()
        self._bring_young(database)
        for id, channel in self.ledger.channels.items():
            if self.ledger.row(channel).waiting_and_in_flight:
                self._ahead.load(channel, id, database)

    def _bring_young(self, database: Database) -> None:
        if self._young:
            self._young.begin(database, self.ledger.ids.__getitem__)
            self._young.bring_all()
            database.commit()
            self._young.applied()

    def _set_aside(self, found: Found | int) -> None:
        """A body on disk is not what was written: its row leaves the queue with the next transaction."""
        database = self._database
        assert database is not None
        if isinstance(found, Found):
            row = found.row
        else:
            seq, epoch, first, count, channel, home, gone = database.one(
                "SELECT seq, epoch, first, count, channel, home, gone FROM message WHERE seq = ?", (found,)
            )
            row = Row(seq, self.ledger.channels[channel], epoch, first, count, home, 0, BODY_START, b"", 0, 0, 0, None,
                      unpack_gone(gone or b"", first), None)  # fmt: skip
        if any(row.seq == each.seq for each in self._spoilt):
            return
        count = sum(n for _, n in row.living(row.first, row.count, row.gone))
        self._spoilt.append(row)
        self.set_aside += count
        self.notices.append(
            Notice(
                "damaged",
                f"{count} messages of {row.channel} in {self.path} are damaged: what is on disk is not what was "
                f"written (row {row.seq}). They were set aside and counted as dropped; all others are delivered. Look "
                "at the disk.",
                row.channel,
                count,
            )
        )

    # Questions

    def find_sheaf(self, epoch: int, first: int) -> Sheaf | None:
        """The sheaf that became this segment, if somebody still has a receipt of it. Any thread."""
        return self._sheaves.get((epoch, first))

    def moved(self, seq: int, first: int, count: int, state: Literal["sent", "stored"]) -> None:
        """For receipts: these, of a segment that is out, have been sent to a worker, or came back. Any thread."""
        row = self._ahead.out.get(seq)
        if row is not None and (sheaf := self._sheaves.get((row.epoch, row.home))) is not None:
            sheaf.moved(first, count, state)

    def returned(self, epoch: int, home: int, first: int, count: int) -> None:
        """For receipts: these wait again, their worker is gone or handed them back. Any thread."""
        sheaf = self._sheaves.get((epoch, home))
        if sheaf is not None:
            sheaf.moved(first, count, "stored")

    def oldest(self) -> dict[str, int]:
        """When the oldest message of each channel that is not settled was accepted, microseconds UTC. Raises
        StoreError."""
        if self._database is None:
            return {}
        try:
            found = self._database.one(OLDEST, (not self.durable,))  # in memory the tables know no counts
        except DatabaseError as error:
            raise self._failed(error) from error
        oldest = self._young.oldest()
        for channel, at in json.decode(found, type=dict[str, int | None]).items():
            if at is not None:
                oldest[channel] = min(at, oldest.get(channel, at))
        return oldest

    def newest(self) -> tuple[int, int]:
        """Epoch and number of the last message that was stored: what is accepted later has a later name."""
        return self.epoch, self._next - 1

    def amend(self, change: Callable[[Database, Tally], Dropped]) -> None:
        """A transaction of its own, for who looks after dead letters. Raises StoreError; then nothing has changed.

        change: makes and counts the changes, and says what is gone from the outbox.
        """
        try:
            database = self._database or self._reopen()
            self._attempt = None
            now, tally, ids = self._clock.now(), Tally(), dict[str, int]()
            settlement = self._settlement(database, tally, now, 0)
            database.begin()
            try:
                dropped = change(database, tally)
                turn = self._account(database, tally, ids, now)
            except DatabaseError:
                raise
            except BaseException:
                database.roll_back()
                raise
            settlement.messages, settlement.nbytes = dropped.messages, dropped.nbytes
            attempt = Attempt(settlement, tally, ids, [], 0, 0, Dropped(), self._aging.expiry_at, turn)
            self._settle_on(database, attempt)
        except DatabaseError as error:
            raise self._failed(error) from error

    def read(self, sql: str, bindings: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Rows of a question about the tables, in which everything is then. Raises StoreError."""
        try:
            database = self._database or self._reopen()
            self._bring_young(database)
            return database.rows(sql, bindings)
        except DatabaseError as error:
            raise self._failed(error) from error

    def later(self, channel: str) -> int:
        """The due time of what shall go at once although it is older than what has been read."""
        return self._ahead.later(channel, self._clock.now())

    def is_empty(self) -> bool:
        """Whether nothing is kept here: nothing unsettled, no dead letter, nothing set aside or owed to others."""
        if self._fresh or self._young or self.intake.counts() or self._database is None:
            return False
        try:
            return not self._database.one("SELECT EXISTS (SELECT 1 FROM message) OR EXISTS (SELECT 1 FROM outcome)")
        except DatabaseError:
            return False

    # Leaving

    def rest(self, *, idle: bool = True) -> bool:
        """Between turns: shorten the log, give free pages back. True: there is more of it.

        idle: there is nothing else to do; otherwise only what cannot be put off any longer is done.
        """
        database = self._database
        if database is None:
            return False
        try:
            if database.wal_pages > (WAL_IDLE_PAGES if idle else WAL_MOST_PAGES):
                with self.outside():
                    database.checkpoint()
            return idle and database.give_back()
        except DatabaseError as error:
            self._failed(error)
            return False

    def close(self) -> None:
        """Store what has been pushed, close the file, give its lock back; an empty one is removed.

        What cannot be stored ends as OutcomeUnknown for whoever waits. Raises nothing but that.
        """
        if self.intake.closed is None:
            self.intake.close(self.name)
        give_up = time.monotonic() + 1.0
        try:
            if self._place is not None:
                self._mind(self._place)
            self.turn()
            while self.intake.held and time.monotonic() < give_up:
                time.sleep(HELD_AGAIN)
                self.turn()
        except StoreError:
            self._give_up()
        empty = False
        self._is_closed = True
        if self._database is not None:
            empty = self.is_empty()
            database, self._database = self._database, None
            is_ours = self._place is None or self._place.look() is Standing.THERE
            try:
                if not is_ours:
                    self._leave_displaced(database, empty)
                    empty = False  # what is at the path is not ours to remove
                elif not empty:
                    database.checkpoint(truncate=True)
            except DatabaseError:
                pass  # it stays in the log, which the next opening reads
            finally:
                try:
                    database.close(touch=is_ours)
                except DatabaseError:
                    pass
        if empty and self.path is not None:
            try:
                remove(self.path)
            except OSError:
                pass
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _leave_displaced(self, database: Database, empty: bool) -> None:
        """At the very end: another file is in our place, or there is no place at all."""
        assert self._place is not None
        if empty:
            return
        try:
            saved = self._place.save_beside(database)
        except StoreError as error:
            said = f"What the outbox {self.path} held is lost with this process: {error}"
        else:
            said = (
                f"Another file is in the place of the outbox {self.path}, so what it held is saved in {saved}. Nobody "
                f"delivers it from there: move the other file away, and then that one to its place."
            )
        self.notices.append(Notice("failed", said, reason=said))


def _raise_epoch(database: Database, clock: Clock, above: int) -> int:
    """Of this opening, durable before anything is sent: above all earlier ones, also of a backup brought back."""
    now = clock.now()
    epoch = int(max(database.one("SELECT epoch FROM box") + 1, now // 1_000, above + 1))
    database.run("UPDATE box SET epoch = ?, wall = max(wall, ?)", (epoch, now))
    return epoch


def _random() -> int:
    return int.from_bytes(os.urandom(8), "big") or 1


def _nothing() -> None:
    return None


def _no_room() -> Room:
    raise AssertionError("this outbox takes no pushes")
