"""The room that an outbox leaves on its disk: what it holds must still be settled when nothing more fits.

To settle a message something must be written, and only then its room is free. An outbox that took pushes up to the last
byte could never be emptied again, though its workers had long done everything. So new messages are taken only as far as
KEPT_BYTES stay free beside what the write-ahead log may add to the file; outcomes, and what handlers send, are written
into what is kept. The rest of it is for whoever must start to take the backlog away: a process needs a few small files.

Others fill the same disk, at the same moment, and none of them knows what the others' logs will yet add to their files.
So once it is scarce each looks before every transaction, takes only a part of what it finds, and keeps its log short.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from msgspec import DecodeError, msgpack

from zerowait.errors import StoreError
from zerowait.message import Again, Bury, Change, Keep, Mark, Settle, Spool
from zerowait.outbox.database import BOUNDLESS, Database, DatabaseError, is_passing
from zerowait.outbox.row import Fresh, Row

KEPT_BYTES: Final = 4 << 20
KEPT_PART: Final = 8  # of a small file system at most so large a part is kept: an eighth
LOOK_S: Final = 0.5  # what others write is noticed so soon …
SCARCE_BYTES: Final = 256 << 20  # … and at once when no more than this may be used
SHARE: Final = 4  # then a transaction takes at most a quarter of it, but always one message …
# What is written goes into the log, and from there into the file, which may become longer by it.
TWICE: Final = 2
TURN_BYTES: Final = 32 << 10  # pages that one transaction touches besides: the ledger, the indexes
ROW_BYTES: Final = 512  # of a piece, whose body often begins a page
STEP_PAGES: Final = 64  # given back at once: that goes through the log, too, and needs room there
STEPS: Final = 16  # at one look
FEW: Final = 16  # plain changes for which what is kept is enough, and of which one sync is not one each
CHANGE_BYTES: Final = 16 << 10  # two pages, in the log and in the file; besides what is written with it
LONG_BYTES: Final = 2 << 20  # hardly anything that is written with a change is longer
SHORT_BYTES: Final = 1 << 10  # a note that is not kept may be so long
CUT_BYTES: Final = 8 << 10  # and what is left of one that is cut: nothing of ours is longer
NOT_KEPT: Final = "(left out: on the disk of its outbox was no room for it)\n"
LOG_PART: Final = 4  # of what is kept the log may use a quarter before it is brought into the file, if room is scarce


class Headroom:
    """seconds: of a clock that nobody sets."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._spare = 0  # bytes that might be used at the last look …
        self._log_bytes = 0  # … with so much in the log
        self._free = 0
        self._kept = 0
        self._measured_at = 0.0
        self._look_at = 0.0  # when more is made, if it must be
        self.is_short = False  # pushes are held, or refused
        self._is_used_up = False

    def use_up(self) -> None:
        """Nothing is kept any more: what was accepted is worth more at the end."""
        self._is_used_up = True

    def fits(self, database: Database, fresh: Sequence[Fresh]) -> int:
        """How many of these, from the first on, may be written now. Raises DatabaseError, but not for want of room."""
        if database.path is None or self._is_used_up or not (fresh or self.is_short):
            return len(fresh)
        need = TWICE * (TURN_BYTES + sum(map(_size, fresh)))
        # Once it was short there must be clearly more before all is taken again: else each message would be news.
        wanted = need + self._kept // 2 if self.is_short else need
        if self._seconds() >= self._look_at or (need > self._left(database) and not self.is_short):
            self._look(database, wanted)
        left = self._left(database)
        self.is_short = wanted > left
        if self.is_scarce and fresh:
            first = TWICE * (TURN_BYTES + _size(fresh[0]))
            left = max(left // SHARE, first if first <= left else 0)
        if need <= left:
            return len(fresh)
        left -= TWICE * TURN_BYTES
        for fitting, each in enumerate(fresh):
            left -= TWICE * _size(each)
            if left < 0:
                return fitting
        return len(fresh)

    def at_once(self, database: Database, changes: Sequence[Change], out: Mapping[int, Row]) -> int:
        """How many of these changes go into one transaction. All of them; where room is short so many as surely fit,
        and a few in any case, for what they settle is on many pages, which all lie in the log until that is brought
        into the file. What is kept is not for tracebacks: of those few, where they do not fit, notes are cut.

        out: the rows that dispatch has, by seq.
        """
        if database.path is None or not changes:
            return len(changes)
        self.notice(database)
        if len(changes) * (CHANGE_BYTES + TWICE * LONG_BYTES) <= self._left(database):
            return len(changes)
        first = sum(_needs(change, out) for change in changes[:FEW])
        if self._left(database) < TURN_BYTES + first and database.log_bytes > self._most_log():
            self._look(database, 0)
        left = self._left(database) - TURN_BYTES
        least = min(0, left - FEW * CHANGE_BYTES)  # so much of what is kept is for a few
        for fitting, change in enumerate(changes):
            if _needs(change, out) > left:
                if fitting >= FEW:
                    return fitting
                _cut(change)
            left -= _needs(change, out)
            if fitting and left < least:
                return fitting
        return len(changes)

    def pressure(self, database: Database) -> int:
        """What is to be taken for handlers that send, as `Intake.pressure`: 1 while pushes have no room, and what they
        send uses what is kept; 2 once it has used half of that, which is left to what settles."""
        if database.path is None or self._is_used_up or (left := self._left(database)) > TWICE * TURN_BYTES:
            return 0
        return 2 if left + self._free_of_kept() < self._kept // 2 else 1

    @property
    def is_scarce(self) -> bool:
        """There was little at the last look."""
        return self._spare <= SCARCE_BYTES

    def is_wanted(self, database: Database) -> bool:
        """Whether others may want what this outbox does not need."""
        if database.path is None:
            return False
        self._measured(database)
        return self.is_scarce

    def make(self, database: Database) -> bool:
        """Leave to others what it does not need; True: there is more of it. Raises DatabaseError."""
        if database.log_bytes:
            database.checkpoint(truncate=True)
        return database.give_back(keep=0, most=STEP_PAGES)

    def refusal(self, database: Database) -> StoreError:
        """What those hear who push meanwhile."""
        return StoreError(
            f"The outbox {database.path} takes nothing more: on its disk the last {self._kept >> 10:,} KiB are kept, "
            "so that what it holds can be settled. It is safe, and is delivered. Pushes are taken again by itself once "
            "there is room: make some, or let workers take what waits.",
            path=database.path or "",
            errno=errno.ENOSPC,
        )

    def notice(self, database: Database) -> None:
        """Look what is free: at each turn where that is little, else now and then. Before `fits`."""
        if database.path is None:
            return
        if self.is_scarce or self._seconds() >= self._measured_at + LOOK_S:
            self._measured(database)

    def _left(self, database: Database) -> int:
        """Of what was free at the last look."""
        written = database.log_bytes - self._log_bytes
        if written < 0:  # it was brought into the file since
            return self._measured(database)
        return self._spare - TWICE * written

    def _look(self, database: Database, wanted: int) -> None:
        self._look_at = self._seconds() + LOOK_S
        if 0 < wanted <= self._measured(database) and database.log_bytes <= self._most_log():
            return
        try:
            # The log often holds a page many times, and what was settled is still in the file.
            database.checkpoint(truncate=True)
            for _ in range(STEPS):
                if wanted <= self._measured(database) or not database.give_back(keep=0, most=STEP_PAGES):
                    break
                database.checkpoint(truncate=True)
        except DatabaseError as error:
            if not is_passing(error):
                raise
        self._measured(database)

    def _free_of_kept(self) -> int:
        return max(0, min(self._kept, self._free - self._log_bytes))

    def _most_log(self) -> int:
        return self._kept // LOG_PART if self.is_scarce else BOUNDLESS

    def _measured(self, database: Database) -> int:
        free, whole = database.disk.room(database.path) if database.path is not None else (0, 0)
        self._measured_at = self._seconds()
        self._log_bytes = database.log_bytes
        self._free = free
        self._kept = min(KEPT_BYTES, whole // KEPT_PART)
        self._spare = max(0, free - self._kept - self._log_bytes)
        return self._spare


def _size(fresh: Fresh) -> int:
    return len(fresh.piece.body) + ROW_BYTES


def _needs(change: Change, out: Mapping[int, Row]) -> int:
    """Bytes that surely are enough for it, in the log and in the file."""
    if type(change) is Settle:  # nearly all are: the rest costs ten times as much
        return CHANGE_BYTES
    match change:
        case Again() | Bury() | Mark():
            row = out.get(change.seq)  # out of a segment it takes its payload with it
            written = row.nbytes(change.number, 1) if row is not None and row.count > 1 else 0
            return CHANGE_BYTES + TWICE * (written + (0 if isinstance(change, Mark) else len(change.note)))
        case Keep() | Spool():
            written = sum(len(each.body) for each in change.prepared if each.row is None)
            return CHANGE_BYTES + TWICE * (written + (len(change.note) if isinstance(change, Keep) else 0))
        case _:
            return CHANGE_BYTES


def _cut(change: Change) -> None:
    """Its reason stays, and what it says of where that was raised goes; with all else, if that is still too long."""
    if isinstance(change, Again | Bury) and len(change.note) > SHORT_BYTES:
        try:
            said = {**msgpack.decode(change.note, type=dict[str, Any]), "traceback": NOT_KEPT}
        except (DecodeError, UnicodeDecodeError, RecursionError):
            said = {"traceback": NOT_KEPT}  # it is another process's
        reason = str(said.get("reason", ""))[:SHORT_BYTES]
        change.note = msgpack.encode({**said, "reason": reason} if reason else said)
        if len(change.note) > CUT_BYTES:
            change.note = msgpack.encode({"reason": reason, "traceback": NOT_KEPT})
