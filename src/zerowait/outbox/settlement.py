"""What the changes of one turn do to the rows. Worked out in memory first, then written in few statements.

Nothing here changes what the outbox remembers until the transaction is durable (`Outbox` applies it then), so that a
turn whose commit fails can be worked out again from the same changes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from msgspec import Struct, json, msgpack

from zerowait.message import (
    BODY_START,
    Again,
    Alone,
    Bury,
    Change,
    Choose,
    Forget,
    Mark,
    Marks,
    Note,
    Settle,
    Shelve,
    Verdict,
)
from zerowait.numbers import Numbers
from zerowait.outbox.database import Database, integers
from zerowait.outbox.ledger import Tally
from zerowait.outbox.reading import find
from zerowait.outbox.row import Row, alone, checksum, pack_gone, pack_headers, pack_marks, signed
from zerowait.outbox.sheaf import MESSAGE_COST, State
from zerowait.outbox.tables import BODY, BODY_VALUES, MESSAGE, MESSAGE_VALUES
from zerowait.outbox.young import Young

WAITING: Final = 0
PREPARED: Final = 1
STUB: Final = 2
LETTER: Final = 3
SET_ASIDE: Final = 4

_BY_NAME: Final = "epoch = ? AND first > ? AND first < ? ORDER BY epoch, first"
_OWN: Final = MESSAGE[:-1] + ", deaths, input)"
_OWN_VALUES: Final = MESSAGE_VALUES[:-1] + ", ?, ?)"
_COUNTED: Final = struct.Struct("<QQ")  # in `input` of what waits: the dispatch whose failure was counted last
_LONGEST: Final = 1_024  # numbers of one row
_AT_ONCE: Final = 4_096  # numbers looked for in one query
_ROWS_AT_ONCE: Final = 2 * (_LONGEST + _AT_ONCE)  # a number is in its segment's row and perhaps in one of its own

_DAMAGED: Final = msgpack.encode(
    {"reason": "what is on disk is not what was written; it was set aside", "rule": "checksum"}
)
_STATES: Final[dict[Verdict, State]] = {Verdict.HANDLED: "handled", Verdict.EXPIRED: "expired"}


class Touched(Struct):
    """A row that stays, without some of its messages."""

    row: Row
    gone: Numbers


class Own(Struct):
    """A message with a fate of its own: a row for itself, new or moved."""

    row: Row  # where it has been; a row alone stays itself
    number: int
    seq: int
    state: int
    failures: int
    due: int
    note: bytes | None  # None: as it was
    marks: Marks
    is_marked: bool  # so far only a death was noted
    counted: bytes | None  # see _COUNTED; None: as it was


class Event(Struct):
    """For receipts."""

    row: Row
    first: int
    count: int
    state: State
    note: bytes = b""
    failures: int = 0


class Settlement:
    """out: the rows that dispatch has, by seq. young: those of them that are in no table. later: gives the due time to
    store for a channel's row. epoch: of the present opening."""

    def __init__(
        self,
        database: Database,
        channels: dict[int, str],
        out: dict[int, Row],
        young: Young,
        tally: Tally,
        next_seq: Callable[[], int],
        later: Callable[[str, int], int],
        now: int,
        shift: int,
        *,
        epoch: int,
        checked: bool,
    ) -> None:
        self._epoch = epoch
        self._database = database
        self._channels = channels
        self._out = out
        self._young = young
        self._tally = tally
        self._next_seq = next_seq
        self._later = later
        self._now = now
        self._shift = shift
        self._checked = checked
        self._bodies: dict[int, bytes] = {}
        self.deleted: dict[int, Row] = {}
        self.touched: dict[int, Touched] = {}
        self.own: dict[tuple[int, int], Own] = {}
        self.alone: dict[int, tuple[Row, Marks]] = {}  # by seq: suspects that are out, with what their rows say now
        self.set_aside: list[Row] = []
        self.shelved: list[Row] = []
        self.noted: dict[int, bool] = {}
        self.events: list[Event] = []
        self.messages = 0  # settled
        self.nbytes = 0

    def apply(self, change: Change) -> None:
        if isinstance(change, Settle):
            row = self._out.get(change.seq)
            if (
                row is not None
                and row.gone is None
                and row.first == change.first
                and row.count == change.count
                and row.seq not in self.touched
                and row.seq not in self.deleted
                and not self.own
            ):
                self._finish(row, row.first, row.count, change.verdict)
                self.deleted[row.seq] = row
            else:
                self._settle(change, row)
        elif isinstance(change, Again | Bury | Mark):
            self._part(change)
        elif isinstance(change, Alone):
            self._alone(change)
        elif isinstance(change, Shelve):
            if (row := self._out.get(change.seq)) is not None:
                self.shelved.append(row)
        elif isinstance(change, Note):
            self.noted[change.instance] = True
        else:
            assert isinstance(change, Forget)
            self.noted[change.instance] = False

    def choose(self, change: Choose) -> list[tuple[str, int, int]]:
        """Those of these that were not settled are. Gives them, with their channel."""
        before = len(self.events)
        self.apply(Settle(change.channel, change.epoch, change.first, change.count, Verdict.HANDLED, change.seq))
        return [(event.row.channel, event.first, event.count) for event in self.events[before:]]

    def expire(self, row: Row) -> None:
        """A row on disk whose time is over: what is in it, and not what has left it for rows of their own."""
        if row.count == 1 and (row.epoch, row.first) in self.own:
            return
        parts = row.living(row.first, row.count, self._gone(row))
        for first, count in parts:
            self._finish(row, first, count, Verdict.EXPIRED)
        self._remove(row, parts)

    def drop(self, row: Row) -> None:
        """A row whose body is not what was written: out of the queue, and kept for who can read it."""
        if row.seq in self.deleted:
            return
        for first, count in row.living(row.first, row.count, self._gone(row)):
            self._finish(row, first, count, Verdict.DROPPED)
            self.events[-1] = Event(row, first, count, "dead", _DAMAGED, row.failures)
        self.set_aside.append(row)

    def _gone(self, row: Row) -> Numbers | None:
        touched = self.touched.get(row.seq)
        return touched.gone if touched is not None else row.gone

    def _finish(self, row: Row, first: int, count: int, verdict: Verdict) -> None:
        nbytes = row.nbytes(first, count)
        self._tally.settle(row.channel, verdict, count, nbytes)
        self.events.append(Event(row, first, count, _STATES.get(verdict, "withdrawn")))
        self.messages += count
        self.nbytes += nbytes

    def _remove(self, row: Row, parts: list[tuple[int, int]]) -> None:
        """These messages are in the row no more."""
        touched = self.touched.get(row.seq)
        if touched is None:
            touched = self.touched[row.seq] = Touched(row, row.gone.copy() if row.gone else Numbers())
        for first, count in parts:
            touched.gone.add(first, count)
        if not touched.gone.missing(row.first, row.count):
            del self.touched[row.seq]
            self.deleted[row.seq] = row

    def _settle(self, change: Settle, row: Row | None) -> None:
        left = change.count
        if self.own:
            for name in self._own_within(change.epoch, change.first, change.count):
                if self.own[name].state == WAITING:
                    own = self.own.pop(name)
                    self._finish(own.row, own.number, 1, change.verdict)
                    if own.row.count == 1:
                        self.deleted[own.row.seq] = own.row
                left -= 1
            if left <= 0:
                return
        for each in self._rows(change.epoch, change.first, change.count, row):
            parts = each.living(change.first, change.count, self._gone(each))
            for first, count in parts:
                self._finish(each, first, count, change.verdict)
                left -= count
            if parts:
                self._remove(each, parts)
            if left <= 0:
                return

    def _own_within(self, epoch: int, first: int, count: int) -> list[tuple[int, int]]:
        if count == 1:
            return [(epoch, first)] if (epoch, first) in self.own else []
        return [name for name in self.own if name[0] == epoch and first <= name[1] < first + count]

    def _rows(self, epoch: int, first: int, count: int, row: Row | None) -> list[Row]:
        """The rows that may hold these; only the one they were offered from, if it holds them all."""
        if row is not None and row.seq not in self.deleted and row.epoch == epoch:
            living = sum(n for _, n in row.living(first, count, self._gone(row)))
            if living == count:
                return [row]
        self._young.bring_all()
        found: dict[int, Row] = {}
        for at in range(first, first + count, _AT_ONCE):
            bindings = (epoch, at - _LONGEST, min(at + _AT_ONCE, first + count))
            for each in find(self._database, self._channels, _BY_NAME, bindings, _ROWS_AT_ONCE, bodies=False):
                moved = (each.row.epoch, each.row.first) in self.own and each.row.count == 1
                if each.state == WAITING and each.row.seq not in self.deleted and not moved:
                    found[each.row.seq] = self._out.get(each.row.seq, each.row)
        return list(found.values())

    def _alone(self, change: Alone) -> None:
        """Where it runs alone; it stays where it is."""
        own = self.own.get((change.epoch, change.number))
        if own is not None:  # more was learned of a death in this very transaction
            own.marks = own.marks.alone(change.instance)
            return
        row = self._out.get(change.seq)
        if row is None or row.count > 1 or row.seq in self.deleted:
            return
        self._young.bring(row)
        self.alone[row.seq] = row, self._marks_of(row).alone(change.instance)

    def _marks_of(self, row: Row) -> Marks:
        """As far as they are known in this transaction."""
        return self.alone[row.seq][1] if row.seq in self.alone else row.marks or Marks()

    def _part(self, change: Again | Bury | Mark) -> None:
        """A message leaves its segment for a row of its own."""
        name = (change.epoch, change.number)
        if name in self.own:
            self._once_more(self.own[name], change)
            return
        for row in self._rows(change.epoch, change.number, 1, self._out.get(change.seq)):
            if not row.living(change.number, 1, self._gone(row)):
                continue
            self._young.bring(row)
            letter = isinstance(change, Bury)
            marks, note, counted = self._marks_of(row), None, None
            if isinstance(change, Mark):
                failures, before, marks = row.failures, marks, _marked(marks, change)
                if not change.seq and marks == before:
                    return  # who says it had not read the row, which said so already: it is offered as it is
            else:
                failures, note, counted = self._failures(change, row), change.note, _counted(change)
            # What has deaths always has a time too: that is how it is found again.
            due = self._now if letter else self._later(row.channel, self._due_of(change, row))
            # A letter moves to the end even if it was alone, so that letters lie in the order of their deaths.
            seq = row.seq if row.count == 1 and not letter else self._next_seq()
            state = LETTER if letter else WAITING
            is_marked = isinstance(change, Mark)
            self.own[name] = Own(row, change.number, seq, state, failures, due, note, marks, is_marked, counted)
            if row.count > 1:
                self._remove(row, [(change.number, 1)])
            if isinstance(change, Bury):
                change.is_made = True
                self._tally.of(row.channel).dead += 1
            self.events.append(
                Event(row, change.number, 1, "dead" if letter else "stored", (note or b"") if letter else b"", failures)
            )
            return

    def _due_of(self, change: Again | Bury | Mark, row: Row) -> int:
        if isinstance(change, Again):
            return change.due + self._shift
        if change.seq:
            return self._now
        # Who says it had not read the row: it may wait for its time, and a death of long ago makes that no shorter.
        due = self._database.one("SELECT due FROM message WHERE seq = ?", (row.seq,))
        return self._now if due is None else max(self._now, due)

    def _once_more(self, own: Own, change: Again | Bury | Mark) -> None:
        """It has left its segment in this transaction already: a death was noted, or one more."""
        if own.state != WAITING:
            return
        if isinstance(change, Mark):
            own.marks = _marked(own.marks, change)
            return
        if not own.is_marked:
            return
        own.is_marked = False
        own.failures = self._failures(change, own.row)
        own.note, own.counted = change.note, _counted(change)
        if isinstance(change, Again):
            own.due = self._later(own.row.channel, change.due + self._shift)
            return
        own.due, own.state, own.seq = self._now, LETTER, self._next_seq()
        change.is_made = True
        self._tally.of(own.row.channel).dead += 1
        self.events.append(Event(own.row, own.number, 1, "dead", change.note, own.failures))

    def _failures(self, change: Again | Bury, row: Row) -> int:
        """How often it has failed now."""
        if row.count == 1 and 0 < change.fence < self._epoch and row not in self._young:
            # The opening before this one may have counted that, and its worker was not told.
            before = self._database.one("SELECT input FROM message WHERE seq = ?", (row.seq,))
            if before is not None and (change.fence, change.n) <= _COUNTED.unpack(before):
                return row.failures
        # Who says it without a row had not read it.
        return change.failures if change.seq else max(change.failures, row.failures + 1)

    # Writing

    def write(self, database: Database, id_of: Callable[[str], int]) -> None:
        deleted = [row for row in self.deleted.values() if row not in self._young]
        touched = [each for each in self.touched.values() if each.row not in self._young]
        alone = [(seq, marks) for seq, (row, marks) in self.alone.items() if (row.epoch, row.first) not in self.own]
        if self.own or deleted or touched or alone or self.set_aside or self.noted:
            database.begin()
        if self.own:
            self._write_own(id_of)
        if deleted:
            database.run("DELETE FROM body WHERE id IN carray(?)", (integers([row.body for row in deleted]),))
            database.run("DELETE FROM message WHERE seq IN carray(?)", (integers([row.seq for row in deleted]),))
        if touched:
            gone = [(each.row.seq, pack_gone(each.gone, each.row.first).hex()) for each in touched]
            database.run(
                "UPDATE message SET gone = unhex(j.value ->> 1) FROM json_each(?) AS j WHERE seq = j.value ->> 0",
                (json.encode(gone).decode(),),
            )
        for seq, marks in alone:
            database.run("UPDATE message SET deaths = ? WHERE seq = ?", (pack_marks(marks), seq))
        if self.set_aside:
            # When it happened stands where its due time was, as for dead letters.
            database.run(
                "UPDATE message SET state = 4, due = ? WHERE seq IN carray(?)",
                (self._now, integers([row.seq for row in self.set_aside])),
            )
        for instance, there in self.noted.items():
            if there:
                database.run("INSERT OR IGNORE INTO noted VALUES (?, ?)", (signed(instance), self._now))
            else:
                database.run("DELETE FROM noted WHERE instance = ?", (signed(instance),))

    def _write_own(self, id_of: Callable[[str], int]) -> None:
        moved: list[tuple[int, int, int, int, int, str | None, str, str | None]] = []
        bodies: list[tuple[object, ...]] = []
        messages: list[tuple[object, ...]] = []
        for own in self.own.values():
            row = own.row
            if row.count == 1:
                note, deaths = own.note, pack_marks(own.marks) or b""
                said = note.hex() if note is not None else None
                counted = own.counted.hex() if own.counted is not None else None
                moved.append((row.seq, own.seq, own.state, own.failures, own.due, said, deaths.hex(), counted))
                continue
            body = alone(self._payload(row, own.number))
            crc = checksum(body, b"") if self._checked else None
            headers = row.headers.get(own.number) if row.headers else None
            bodies.append((own.seq, b"", body, crc))
            messages.append(
                (own.seq, row.epoch, own.number, 1, id_of(row.channel), row.priority, own.due, row.expires, own.state,
                 own.failures, own.seq, own.note, row.home, row.accepted_at,
                 pack_headers({own.number: headers} if headers else None), row.key, pack_marks(own.marks), own.counted)
            )  # fmt: skip
        self._database.insert(BODY, BODY_VALUES, bodies)
        self._database.insert(_OWN, _OWN_VALUES, messages)
        if moved:
            self._database.run(
                "UPDATE message SET seq = j.value ->> 1, state = j.value ->> 2, attempt = j.value ->> 3, "
                "due = j.value ->> 4, note = coalesce(unhex(j.value ->> 5), note), "
                "deaths = nullif(unhex(j.value ->> 6), x''), input = coalesce(unhex(j.value ->> 7), input) "
                "FROM json_each(?) AS j WHERE seq = j.value ->> 0",
                (json.encode(moved).decode(),),
            )

    def _payload(self, row: Row, number: int) -> memoryview:
        body = self._bodies.get(row.body)
        if body is None:
            body = self._database.one("SELECT bytes FROM body WHERE id = ?", (row.body,))
            self._bodies = {row.body: body}  # those of one segment come together
        start, stop = row.span(number, 1)
        return memoryview(body)[start:stop]


def _counted(change: Again | Bury) -> bytes | None:
    return _COUNTED.pack(change.fence, change.n) if change.fence else None


def _marked(marks: Marks, mark: Mark) -> Marks:
    for death in mark.died:
        marks = marks.died(death)
    for instance in mark.cleared:
        marks = marks.cleared(instance)
    return marks


class Dropped(Struct):
    messages: int = 0
    nbytes: int = 0


def drop_letters(database: Database, channels: dict[int, str], tally: Tally, excess: int, before: int) -> Dropped:
    """Drop the oldest dead letters: so many, and all that died before that time."""
    dropped = Dropped()
    letters = database.rows(
        "SELECT seq, body, channel, (SELECT length(bytes) FROM body WHERE id = body) FROM message "
        "WHERE state = 3 AND (seq IN (SELECT seq FROM message WHERE state = 3 ORDER BY seq LIMIT ?) OR due < ?)",
        (excess, before),
    )
    for _, _, channel, size in letters:
        nbytes = (size or BODY_START) - BODY_START + MESSAGE_COST
        row = tally.of(channels[channel])
        row.dead -= 1
        row.dropped += 1
        row.nbytes -= nbytes
        dropped.messages += 1
        dropped.nbytes += nbytes
    if letters:
        database.run("DELETE FROM body WHERE id IN carray(?)", (integers([letter[1] for letter in letters]),))
        database.run("DELETE FROM message WHERE seq IN carray(?)", (integers([letter[0] for letter in letters]),))
    return dropped
