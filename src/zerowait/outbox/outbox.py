"""An outbox: what was accepted, until it is settled. On disk, or in memory by the same statements.

A turn is one transaction and everything in it: what has been pushed gets its numbers and rows, what has been settled
loses them, the ledger follows. So whatever the owner is told after a turn is durable, and a file that is opened again
has exact numbers. What a turn could not commit is kept and goes into the next one.

Time. Due and expiry are stored as the outbox's own time: the wall clock at opening (or where the last life left off, if
that is later), and from then on a clock that no one sets. What comes in and goes out is in the caller's `now_us`.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from zerowait.errors import OutcomeUnknown, Room, StoreError
from zerowait.message import Change, Segment
from zerowait.outbox.attempt import Attempt, Notice
from zerowait.outbox.books import Books
from zerowait.outbox.clock import Clock
from zerowait.outbox.damage import damage_notice, damaged
from zerowait.outbox.database import DISK, WAL_IDLE_PAGES, WAL_MOST_PAGES, Database, DatabaseError, Disk, explain
from zerowait.outbox.file import File, keeps, open_database
from zerowait.outbox.followed import Followed
from zerowait.outbox.headroom import Headroom
from zerowait.outbox.intake import Intake, Limits
from zerowait.outbox.known import Twin
from zerowait.outbox.ledger import Ledger, Tally
from zerowait.outbox.numbering import raise_epoch
from zerowait.outbox.place import Lock
from zerowait.outbox.reading import Found
from zerowait.outbox.row import Fresh, Row, unsigned
from zerowait.outbox.settlement import Dropped
from zerowait.outbox.sheaf import Piece, Sheaf
from zerowait.outbox.transaction import Transaction
from zerowait.outbox.trouble import Trouble

log = logging.getLogger("zerowait.outbox")

TRIES: Final = 3  # of storing what fails by an error that nobody foresaw, and that may pass
TRY_AGAIN: Final = 1.0  # seconds until a failing file is tried again
HELD_AGAIN: Final = 0.001  # seconds until a sheaf that a push had in hand is looked for again


class Outbox:
    """All methods on one thread, unless they say otherwise; `ledger`, `intake`, `moved` and `find_sheaf` are for any.

    id: 64 random bits, lasting. epoch: of this opening, or of its last coming back from an error. noted: the worker
    instances noted when that began. kept: outcomes that earlier lives have left. turns: how many transactions there
    have been.
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
        self._file = File(database, lock)
        self._clock = clock
        self._books = Books(database, self.ledger, intake.limits, clock.seconds)
        self._followed = Followed()
        self._trouble = Trouble(database.path, intake, self.notices, clock.seconds)
        self._headroom = Headroom(clock.seconds)
        self._is_held = False  # what is pushed, for want of room, since a turn that did all else
        self._in_vain = 0  # turns in a row in which nothing of what was pushed could be stored, by an error of ours
        self._fresh: list[Fresh] = []  # these three are for the next transaction
        self._changes: list[Change] = []
        self._spoilt: list[Row] = []
        self._attempt: Attempt | None = None  # whose commit has begun, and not come back
        self.id = int.from_bytes(database.one("SELECT id FROM box"), "big")
        self.kept = tuple(self._books.claims.told())
        self.noted = _noted(database)
        self._floor = 0  # a peer has seen this epoch: ours goes above it before anything else is done

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
        disk: Disk = DISK,
        steady: Callable[[], int] | None = None,
    ) -> Outbox:
        """Open an outbox, or make it; path None: in memory.

        floor_epoch: the epoch will be above it. id: of a new one, else random. intake: where pushes go; without one
        (and with limits) it takes no pushes. lock: the right to the file, released by `close`. disk, steady: where
        files lie, and nanoseconds on a clock that no one sets; for simulations. Raises StoreError, and then what is no
        outbox of this version is as it was, and the lock is still the caller's.
        """
        if intake is None:
            intake = Intake(limits or Limits(), durable=path is not None, wake=_nothing, room=_no_room, now_us=now_us)
            intake.close(name)
        try:
            database, clock = open_database(path, name, id, now_us, floor_epoch, disk, steady)
            try:
                outbox = cls(database, name, intake, clock, lock)
            except BaseException:
                database.close()
                raise
        except DatabaseError as error:
            raise explain(error, path, None) from error
        intake.box = outbox.id
        intake.load(*outbox.ledger.held())
        intake.load(*outbox._books.claims.room())
        return outbox

    # The turn

    def turn(self, changes: Sequence[Change] = (), drawn: Mapping[str, int] | None = None) -> list[Segment]:
        """Store what has been pushed, apply the changes, and give what dispatch may have next.

        drawn: for each channel how many payload bytes dispatch has sent since the last turn. Raises StoreError, and
        has changed nothing durable: sheaves and changes are kept and written by the next turn; try again in a second.
        """
        if drawn:
            self._books.ahead.drawn(drawn)
        self._changes += changes
        for sheaf, piece in self.intake.take():
            self._seal(sheaf, piece)
        try:
            self._mind()
            database = self._file.database or self._reopen()
            self._rise(database)
            now = self._clock.now()
            shift = self._clock.shift()
            self._store(database, now, shift)
            self.intake.is_behind = self._books.read_ahead(database, now, shift, self._set_aside)
        except DatabaseError as error:
            raise self._failed(error) from error
        except StoreError as error:
            self._break(error)
            raise
        self.intake.disk_pressure = self._headroom.pressure(database)
        self._is_held = self._headroom.is_short
        if self._is_held:  # and all else goes on
            self._trouble.begins(self._headroom.refusal(database), is_open=True)
        else:
            self._trouble.ends()
        return self._books.take_segments()

    def begin(self) -> list[Segment]:
        """In memory only: what was just pushed, for dispatch to send before `turn`, which must follow, makes its rows.

        A message alone is thus on its way before three statements are run for it. It is no less safe: none of them
        would have put it on a disk.
        """
        assert not self.durable
        segments: list[Segment] = []
        shift = self._clock.shift()
        for sheaf, piece in self.intake.take():
            fresh = self._seal(sheaf, piece)
            # What has an id may have come again, what has a key may have to wait: the tables know.
            terms = sheaf.terms
            plain = terms.id is None and terms.key is None
            segment = self._books.hand_at_once(fresh, shift) if plain else None
            if segment is not None:
                self._followed.stored(fresh.row, sheaf)
                segments.append(segment)
        return segments

    def _seal(self, sheaf: Sheaf, piece: Piece) -> Fresh:
        shift = self._clock.shift() if sheaf.terms.due is not None or sheaf.terms.expires is not None else 0
        fresh = self._books.numbering.seal(sheaf, piece, shift)
        self._fresh.append(fresh)
        return fresh

    def _store(self, database: Database, now: int, shift: int) -> None:
        """What was pushed, as far as there is room for it, and all that was decided."""
        headroom = self._headroom
        headroom.notice(database)
        fits, is_over = headroom.fits(database, self._fresh), False
        while not is_over:
            changes = headroom.at_once(database, self._changes, self._books.ahead.out)
            if fits or changes or self._spoilt or self._books.aging.has_work(now):
                try:
                    self._make(database, now, shift, fits, changes)
                except (DatabaseError, StoreError):
                    raise
                except Exception:
                    if not fits:
                        raise
                    # Something pushed that nobody foresaw would be tried again for ever, and all that comes after it.
                    self._make(database, now, shift, 0, changes)  # raises if it is one of these
                    self._make_one_by_one(database, now, shift, fits)
            fits, is_over = 0, not self._changes

    def _make(self, database: Database, now: int, shift: int, fits: int, changes: int) -> None:
        write = partial(self._write, database, now, shift, fits, changes)
        self._hand_out(self._commit(database, write), shift)

    def _make_one_by_one(self, database: Database, now: int, shift: int, fits: int) -> None:
        """What cannot be stored where others can, or not at several times, is given up alone."""
        stored, failed = 0, list[tuple[Fresh, Exception]]()
        for _ in range(fits):
            try:
                self._make(database, now, shift, 1, 0)
                stored += 1
            except (DatabaseError, StoreError, MemoryError):
                self._fresh[:0] = [each for each, _ in failed]
                raise
            except Exception as error:
                failed.append((self._fresh.pop(0), error))
        self._in_vain = 0 if stored else self._in_vain + 1
        if not stored and self._in_vain < TRIES:
            self._fresh[:0] = [each for each, _ in failed]
            raise failed[0][1]
        self._in_vain = 0
        for each, why in failed:
            log.error("A message for %s cannot be stored: it is lost", each.sheaf.channel, exc_info=why)
            said = f"A message for {each.sheaf.channel} could not be stored: {why!r}."
            self._abandon([each], StoreError(said, path=self.path or ""))

    def _commit(self, database: Database, write: Callable[[], Attempt]) -> Attempt:
        self._attempt = None
        try:
            attempt = write()
        except DatabaseError:
            raise
        except BaseException:
            database.roll_back()
            raise
        # From here until it is applied, an error leaves open whether it is on disk: `_reopen` finds out.
        self._attempt = attempt
        with self.outside():
            database.commit()
        self._books.aging.expiry_at = attempt.expiry_at
        self._apply(attempt)
        return attempt

    def _hand_out(self, attempt: Attempt, shift: int) -> None:
        del self._fresh[: len(attempt.fresh)]
        self._books.hand_out(attempt.new, shift)
        self._books.hand_out_released(attempt.claiming.released, shift)

    def _write(self, database: Database, now: int, shift: int, fits: int, changes: int) -> Attempt:
        """fits, changes: so many of what has been pushed, and of what was decided, are among it."""
        fresh = self._fresh[:fits]
        transaction = Transaction(self._books, database, now, shift)
        transaction.settle(fresh, self._changes[:changes], self._spoilt)
        # Rows that are new come after all that looks for rows: nothing of this turn is about them.
        if fresh:
            self._insert(transaction, fresh)
        return transaction.finish(fresh, changes, len(self._spoilt))

    def _insert(self, transaction: Transaction, fresh: Sequence[Fresh]) -> None:
        transaction.insert(fresh)

    def _apply(self, attempt: Attempt) -> None:
        """The transaction is durable: remember it, and tell whoever asked."""
        settlement, claiming = attempt.settlement, attempt.claiming
        self._attempt = None
        stored = [(each.sheaf, each.piece.count) for each in attempt.fresh if not each.given_up]
        self._books.committed(attempt, lambda: self.intake.stored(stored))
        for each in attempt.new:
            if each.given_up:
                self.intake.load(each.row.count, each.row.nbytes(each.row.first, each.row.count))
            if not each.handed:  # else that was said before, and it may have been sent since
                self._followed.stored(each.row, each.sheaf)
        self._came_again(attempt.twins)
        self._books.settled(settlement)
        self._followed.tell(settlement.events)
        for spool in claiming.spools():
            spool.told()
        del self._changes[: attempt.changes]
        del self._spoilt[: attempt.spoilt]
        dropped = attempt.dropped
        if dropped.messages:
            kept = f"at most {self.intake.limits.letters:,} are kept, for {self.intake.limits.letter_days:g} days"
            said = f"{dropped.messages:,} dead letters of {self.name} were dropped: {kept}."
            self.notices.append(Notice("letters dropped", said, count=dropped.messages))
        self.intake.settled(
            settlement.messages + dropped.messages - claiming.messages,
            settlement.nbytes + dropped.nbytes - claiming.nbytes,
        )

    def _came_again(self, twins: Sequence[Twin]) -> None:
        for twin in twins:
            self._followed.again(twin)
            row = twin.fresh.row
            if not twin.fresh.given_up:
                self.intake.settled(row.count, row.nbytes(row.first, row.count))
            if twin.differs:
                said = (
                    f"A push to {row.channel} with id={twin.fresh.sheaf.terms.id!r} had other content than the first "
                    "with that id, which is the one that counts: nothing more was taken."
                )
                self.notices.append(Notice("other content", said, channel=row.channel))

    def next_due(self) -> float | None:
        """In how many seconds a turn is wanted although nothing is pushed and nothing changes; None: not at all."""
        now = self._clock.now()
        if self.intake.held:
            return HELD_AGAIN
        if self.intake.broken is not None and not self._is_held:
            return TRY_AGAIN
        if self._spoilt or (self._fresh and not self._is_held) or self._books.ahead.wants(now):
            return 0.0
        times = [
            self._books.aging.next_look(self.ledger, now),
            TRY_AGAIN if self._is_held or self.intake.disk_pressure else None,
        ]
        if (due := self._books.ahead.next_due()) is not None:
            times.append(max(0.0, (due - now) / 1e6))
        return min((wait for wait in times if wait is not None), default=None)

    # Failing and coming back

    def _failed(self, error: DatabaseError) -> StoreError:
        # What was read and not given would be given after changes that it knows nothing of: it is read again.
        described = self._file.failed(error, committing=self._attempt is not None or self._books.has_segments())
        self._break(described)
        return described

    def _break(self, error: StoreError) -> None:
        self._is_held = False
        if self._trouble.begins(error, is_open=self._file.database is not None):
            self._give_up()

    def _give_up(self) -> None:
        """Whoever waits is told that nobody knows; what was stored before is not concerned."""
        fresh, self._fresh = self._fresh, []
        self._abandon(fresh, None)

    def _abandon(self, fresh: Sequence[Fresh], error: StoreError | None) -> None:
        """error: None if nobody knows whether they are stored."""
        for each in fresh:
            each.given_up = True
            each.sheaf.failed(error or OutcomeUnknown(channel=each.sheaf.channel, path=self.path or ""))
            self.intake.settled(each.row.count, each.row.nbytes(each.row.first, each.row.count))
        self.intake.stored([(each.sheaf, each.piece.count) for each in fresh])

    def _reopen(self) -> Database:
        """Open the file again after an error: a new epoch, and certainty about the transaction that failed."""
        attempt, books = self._attempt, self._books
        attempted = attempt.turn if attempt is not None else None
        database, epoch, arrived = self._file.reopen(
            self.id, books.turns, attempted, self._clock, max(books.numbering.epoch, self._floor)
        )
        self._begin_epoch(epoch, database)
        self._attempt = None  # not before: if reading fails, it is still to be found out what became of it
        if arrived:
            assert attempt is not None
            self._fresh = [each for each in self._fresh if each not in attempt.fresh]
            self._apply(attempt)
            books.missed(attempt.new)
            books.missed_released(attempt.claiming.released)
        books.numbering.again(self._fresh)
        return database

    def is_displaced(self) -> bool:
        """Whether its file, or its log, is not where it was opened: a turn is wanted. Any thread."""
        return self._file.is_displaced()

    def _mind(self, *, at_once: bool = False) -> None:
        said = self._file.mind(at_once=at_once)
        if said is not None:
            self._trouble.passes(said)

    def raise_epoch(self, above: int) -> int:
        """A new epoch above that one, durable: a peer has seen a later owner than this.

        Raises StoreError; then the next turn that succeeds does it. Also if it is another's by now, whose lock is in
        the place of ours: then nothing is written any more, and people hear of it.
        """
        self._floor = max(self._floor, above)
        try:
            self._mind(at_once=True)
            self._rise(self._file.database or self._reopen())
        except DatabaseError as error:
            raise self._failed(error) from error
        except StoreError as error:
            self._break(error)
            raise
        return self.epoch

    def _rise(self, database: Database) -> None:
        if self.epoch <= self._floor:
            self._begin_epoch(raise_epoch(database, self._clock, self._floor), database)
            self._books.numbering.again(self._fresh)

    def _begin_epoch(self, epoch: int, database: Database) -> None:
        self.noted = _noted(database)  # before the epoch, by which others see that it is another
        self._books.numbering.begin(epoch)
        self._books.offer_again(database)

    def _set_aside(self, found: Found | int) -> None:
        """A body on disk is not what was written: its row leaves the queue with the next transaction."""
        database = self._file.database
        assert database is not None
        row = damaged(found, database, self.ledger.channels)
        if any(row.seq == each.seq for each in self._spoilt):
            return
        count = sum(n for _, n in row.living(row.first, row.count, row.gone))
        self._spoilt.append(row)
        self.set_aside += count
        self.notices.append(damage_notice(row, count, self.path))

    # Questions

    @property
    def epoch(self) -> int:
        """Of this opening, or of its last coming back from an error."""
        return self._books.numbering.epoch

    @property
    def turns(self) -> int:
        """How many transactions there have been."""
        return self._books.turns

    def stubs(self) -> int:
        """Of how many of its messages the outputs were chosen and are not released, as far as it knows. Any thread."""
        return self._books.stubs.count()

    def prepared(self) -> int:
        """For how many messages of others it has outputs of which it is not known whether they were chosen. Any
        thread."""
        return self._books.claims.unasked()

    def find_sheaf(self, epoch: int, first: int) -> Sheaf | None:
        """The sheaf that became this segment, if somebody still has a receipt of it. Any thread."""
        return self._followed.find(epoch, first)

    def moved(self, seq: int, first: int, count: int, state: Literal["sent", "stored"]) -> None:
        """For receipts: these, of a segment that is out, have been sent to a worker, or wait again, because it is gone
        or handed them back. Any thread."""
        row = self._books.ahead.out.get(seq)
        if row is not None:
            self._followed.moved(row.epoch, row.home, first, count, state)

    def oldest(self) -> dict[str, int]:
        """When the oldest message of each channel that is not settled was accepted, microseconds UTC. Raises
        StoreError."""
        database = self._file.database
        if database is None:
            return {}
        try:
            return self._books.oldest(database)
        except DatabaseError as error:
            raise self._failed(error) from error

    def newest(self) -> tuple[int, int]:
        """Epoch and number of the last message that was stored: what is accepted later has a later name."""
        return self._books.numbering.newest()

    def amend(self, change: Callable[[Database, Tally], Dropped]) -> None:
        """A transaction of its own, for who looks after dead letters. Raises StoreError; then nothing has changed.

        change: makes and counts the changes, and says what is gone from the outbox.
        """
        try:
            database = self._file.database or self._reopen()
            transaction = Transaction(self._books, database, self._clock.now(), 0)
            self._commit(database, lambda: transaction.amend(change))
        except DatabaseError as error:
            raise self._failed(error) from error

    def read(self, sql: str, bindings: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Rows of a question about the tables, in which everything is then. Raises StoreError."""
        try:
            database = self._file.database or self._reopen()
            self._books.bring_young(database)
            return database.rows(sql, bindings)
        except DatabaseError as error:
            raise self._failed(error) from error

    def now_us(self) -> int:
        """The time by which it is judged what is due."""
        return self._clock.now()

    def later(self, channel: str) -> int:
        """The due time of what shall go at once although it is older than what has been read."""
        return self._books.ahead.later(channel, self._clock.now())

    def is_empty(self) -> bool:
        """Whether nothing is kept here: nothing unsettled, no dead letter, nothing set aside or owed to others."""
        database = self._file.database
        if self._fresh or self._books.young or self.intake.counts() or database is None:
            return False
        try:
            return not keeps(database, self.intake.limits.ids_kept_us)
        except DatabaseError:
            return False

    # Leaving

    def rest(self, *, idle: bool = True) -> bool:
        """Between turns: shorten the log, give free pages back. True: there is more of it.

        idle: there is nothing else to do; otherwise only what cannot be put off any longer is done.
        """
        database = self._file.database
        if database is None:
            return False
        try:
            if idle and self._headroom.is_wanted(database):
                with self.outside():
                    return self._headroom.make(database)
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
        self._headroom.use_up()
        try:
            self._mind(at_once=True)
            self.turn()
            while self.intake.held and time.monotonic() < give_up:
                time.sleep(HELD_AGAIN)
                self.turn()
        except StoreError:
            self._give_up()
        except Exception:  # nobody foresaw it: the file is closed all the same, and nobody waits for ever
            log.exception("The last turn of the outbox %s failed", self.path)
            self._give_up()
        said = self._file.close(empty=self.is_empty())
        if said is not None:
            self.notices.append(Notice("failed", said, reason=said))


def _noted(database: Database) -> frozenset[int]:
    return frozenset(unsigned([row[0] for row in database.rows("SELECT instance FROM noted")]))


def _nothing() -> None:
    return None


def _no_room() -> Room:
    raise AssertionError("this outbox takes no pushes")
