"""What this process keeps on disk as a worker: how runs ended, and what they send until it is known whether they were
chosen (rules §2.5, §6).

A claim is an outcome of messages of somebody else's outbox: "these were handled, and what they send lies here". What
was sent is prepared: rows in state 1, without a number and outside of the ledger. Chosen, they get their numbers and
are accepted, in one transaction; not chosen, they go. The claim stays until its owner has confirmed it, so that a
process which finds this file asks again for what was never answered.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable
from typing import Final

from msgspec import Struct, json, msgpack
from msgspec.structs import replace

from zerowait.message import (
    ARRAY32,
    BODY_HEADER,
    BODY_START,
    Discard,
    Keep,
    Kept,
    Prepared,
    Release,
    Spool,
    Unspool,
    Verdict,
)
from zerowait.outbox.database import Database, integers
from zerowait.outbox.ledger import Tally
from zerowait.outbox.reading import find
from zerowait.outbox.row import Row, checksum, pack_headers
from zerowait.outbox.spans import Drafts, over, put, take
from zerowait.outbox.tables import BODY, BODY_VALUES

IN_MEMORY_BYTES: Final = 8 << 20  # bodies of what is prepared that are kept at hand; those beyond are read again

_INPUT: Final = struct.Struct(">QQQ")  # outbox, epoch and number of the first message that it is sent for
INPUT_BYTES: Final = _INPUT.size  # and four for each message
_PAGE: Final = 256
_PREPARED: Final = (
    "message (seq, epoch, first, count, channel, priority, due, expires, state, attempt, body, input, note, home, "
    "accepted_at, headers, key)"
)
_PREPARED_VALUES: Final = (
    "(?, 0, 1, ?, ?, ?, ?, ?, 1, 0, ?, ?, ?, 1, ?, ?, ?)"  # its id, if it has one, where notes are
)
_RELEASE: Final = (
    "UPDATE message SET state = 0, epoch = j.value ->> 1, first = j.value ->> 2, home = j.value ->> 2, "
    "due = j.value ->> 3, headers = CASE WHEN j.value ->> 4 IS NULL THEN NULL ELSE unhex(j.value ->> 4) END, "
    "input = NULL, note = NULL FROM json_each(?) AS j WHERE seq = j.value ->> 0"
)
_FORGET: Final = (
    "DELETE FROM outcome WHERE (origin, epoch, first) IN "
    "(SELECT unhex(value ->> 0), value ->> 1, value ->> 2 FROM json_each(?))"
)
_OUTCOME: Final = "outcome (origin, epoch, first, count, dispatch, verdict, note)"
_OUTCOME_VALUES: Final = "(?, ?, ?, ?, ?, ?, ?)"
_SENT: Final = b"\xc3"  # the note of what was handled and has sent something: true

Origin = tuple[int, int]  # an outbox, and an epoch of it
_said = msgpack.Decoder(tuple[int, bytes])


class Output(Struct, eq=False):
    """A row of what is prepared. inputs: for each of its messages the number that it is sent for, ascending. body: None
    if it is to be read again."""

    row: Row
    inputs: list[int]
    due: int | None
    body: bytes | bytearray | None
    id: str | None = None

    @property
    def nbytes(self) -> int:
        return self.row.nbytes(self.row.first, self.row.count)


class Claim(Struct, eq=False):
    """How these messages ended. rows: what was sent for them and is not accepted yet."""

    first: int
    count: int
    fence: int
    n: int
    verdict: Verdict
    after_ms: int
    note: bytes
    has_outputs: bool
    rows: list[Output]


class Claims:
    """Those in one outbox; all are in memory, without the bodies beyond a bound."""

    def __init__(self, database: Database, channels: dict[int, str]) -> None:
        self.kept: dict[Origin, list[Claim]] = {}
        self.body_bytes = 0  # of what is prepared, in memory
        for origin, epoch, first, count, dispatch, verdict, note in database.rows(
            "SELECT origin, epoch, first, count, dispatch, verdict, note FROM outcome ORDER BY origin, epoch, first"
        ):
            fence, n = struct.unpack(">QQ", dispatch)
            after_ms, words = _said.decode(note) if note is not None and note != _SENT else (0, b"")
            claim = Claim(first, count, fence, n, Verdict(verdict), after_ms, words, note == _SENT, [])
            self.kept.setdefault((int.from_bytes(origin, "big"), epoch), []).append(claim)
        self._load_prepared(database, channels)

    def _load_prepared(self, database: Database, channels: dict[int, str]) -> None:
        if not database.one("SELECT EXISTS (SELECT 1 FROM message WHERE state = 1)"):
            return  # most outboxes have none, and the query below takes long to prepare
        orphans: list[int] = []
        seq = 0
        while True:
            rows = find(database, channels, "state = 1 AND seq > ? ORDER BY seq", (seq,), _PAGE, bodies=False)
            for found in rows:
                seq = found.row.seq
                packed, id = database.one("SELECT input, note FROM message WHERE seq = ?", (seq,))
                origin, epoch, first = _INPUT.unpack_from(packed)
                offsets = memoryview(packed[_INPUT.size :]).cast("I")
                output = Output(
                    found.row,
                    [first + offset for offset in offsets],
                    found.due,
                    None,
                    id.decode() if id is not None else None,
                )
                claims = over(self.kept.get((origin, epoch), []), first, 1)
                if claims and claims[0].verdict is Verdict.HANDLED and claims[0].has_outputs:
                    claims[0].rows.append(output)
                else:
                    orphans.append(seq)
            if len(rows) < _PAGE:
                break
        if orphans:  # of runs that were under way when their process ended: they have never succeeded
            database.run(
                "DELETE FROM body WHERE id IN (SELECT body FROM message WHERE seq IN carray(?))", (integers(orphans),)
            )
            database.run("DELETE FROM message WHERE seq IN carray(?)", (integers(orphans),))

    def __bool__(self) -> bool:
        return bool(self.kept)

    def told(self) -> list[Kept]:
        """What an earlier life has left."""
        return [
            Kept(
                origin, epoch, claim.first, claim.count, claim.fence, claim.n, claim.verdict, claim.after_ms,
                claim.note, claim.has_outputs,
            )
            for (origin, epoch), claims in self.kept.items()
            for claim in claims
        ]  # fmt: skip

    def room(self) -> tuple[int, int]:
        """Messages and bytes that are prepared."""
        rows = [row for claims in self.kept.values() for claim in claims for row in claim.rows]
        return sum(row.row.count for row in rows), sum(row.nbytes for row in rows)

    def unasked(self) -> int:
        """How many messages of others have outputs here that are not accepted. Any thread."""
        return sum(claim.count for claims in list(self.kept.values()) for claim in list(claims) if claim.rows)


class Claiming:
    """Claims, as one transaction makes and changes them.

    number: gives so many messages their epoch and first number, as those that are accepted now. is_new: whether a row
    with an id is to be accepted under that name, or was before. later: the due time to
    store for a channel's row. shift: by how much the outbox's own time is ahead of the caller's, microseconds."""

    def __init__(
        self,
        claims: Claims,
        database: Database,
        tally: Tally,
        *,
        next_seq: Callable[[], int],
        number: Callable[[int], tuple[int, int]],
        is_new: Callable[[Output, tuple[int, int], bytes | bytearray], bool],
        later: Callable[[str, int], int],
        shift: int,
        checked: bool,
    ) -> None:
        self._claims = claims
        self._database = database
        self._tally = tally
        self._next_seq = next_seq
        self._number = number
        self._is_new = is_new
        self._later = later
        self._shift = shift
        self._checked = checked
        self._drafts: Drafts[Origin, Claim] = Drafts(claims.kept)
        self._seen: set[int] = set()
        self._spools: list[Spool] = []
        self._spooled: dict[int, Output] = {}  # by the identity of what was prepared
        self._kept: list[Keep] = []
        self._written: dict[tuple[int, int, int], Claim] = {}
        self._forgotten: set[tuple[int, int, int]] = set()
        self._new: dict[int, tuple[Origin, Output]] = {}  # rows that are to be made
        self._dropped: list[Output] = []
        self.released: list[Output] = []
        self.messages = 0  # prepared, less those that are dropped
        self.nbytes = 0

    def __bool__(self) -> bool:
        return bool(self._written or self._forgotten or self._new or self._dropped or self.released)

    # What is to be done

    def keep(self, change: Keep) -> None:
        if change.is_kept or id(change) in self._seen:
            return
        self._seen.add(id(change))
        self._kept.append(change)
        origin = change.origin, change.epoch
        for claim in self._cut(origin, change.first, change.count):  # an earlier outcome of these, of another dispatch
            self._discard(origin, claim)
        claim = Claim(
            change.first, change.count, change.fence, change.n, change.verdict, change.after_ms, change.note,
            bool(change.prepared), [],
        )  # fmt: skip
        for prepared in change.prepared:
            there = self._there(prepared)
            if there is not None:  # it was spooled, by one run for one message
                if change.first <= there.inputs[0] < change.first + change.count:
                    claim.rows.append(there)
                continue
            output = self._output(prepared, change)
            if output is not None:
                claim.rows.append(output)
                self._make(origin, output)
        self._put(origin, claim)

    def spool(self, change: Spool) -> None:
        self._spools.append(change)
        origin = change.origin, change.epoch
        as_one = Keep(change.origin, change.epoch, change.number, 1, 0, 0, Verdict.HANDLED, shift=change.shift)
        for prepared in change.prepared:
            output = self._output(prepared, as_one)
            assert output is not None, "spooled for another message than its own"
            self._make(origin, output)
            self._spooled[id(prepared)] = output

    def unspool(self, change: Unspool) -> None:
        for prepared in change.prepared:
            output = self._there(prepared)
            if output is not None:
                self._drop(output)

    def _there(self, prepared: Prepared) -> Output | None:
        there: Output | None = prepared.row or self._spooled.get(id(prepared))
        return there

    def release(self, change: Release) -> None:
        origin = change.origin, change.epoch
        for claim in self._cut(origin, change.first, change.count, (change.fence, change.n)):
            if claim.verdict is not Verdict.HANDLED or not claim.has_outputs:
                continue
            for output in claim.rows:
                self._accept(output)
            verdict = Verdict.HANDLED if change.unasked else Verdict.RELEASED
            self._remove(origin, claim)
            self._put(origin, replace(claim, verdict=verdict, rows=[]))

    def discard(self, change: Discard) -> None:
        origin = change.origin, change.epoch
        for claim in self._cut(origin, change.first, change.count, (change.fence, change.n)):
            self._discard(origin, claim)

    # Claims

    def _put(self, origin: Origin, claim: Claim) -> None:
        put(self._drafts.edit(origin), claim)
        self._written[(*origin, claim.first)] = claim
        self._forgotten.discard((*origin, claim.first))

    def _remove(self, origin: Origin, claim: Claim) -> None:
        take(self._drafts.edit(origin), claim)
        name = (*origin, claim.first)
        self._written.pop(name, None)
        self._forgotten.add(name)

    def _discard(self, origin: Origin, claim: Claim) -> None:
        for output in claim.rows:
            self._drop(output)
        self._remove(origin, claim)

    def _cut(self, origin: Origin, first: int, count: int, dispatch: tuple[int, int] | None = None) -> list[Claim]:
        """The claims of just these: one that reaches beyond is divided, with what was sent for it. dispatch: only those
        that ended under it."""
        found: list[Claim] = []
        for claim in over(self._drafts.look(origin), first, count):
            if dispatch is not None and (claim.fence, claim.n) != dispatch:
                continue
            start, stop = max(first, claim.first), min(first + count, claim.first + claim.count)
            if (start, stop) == (claim.first, claim.first + claim.count):
                found.append(claim)
                continue
            self._remove(origin, claim)
            for at, until in ((claim.first, start), (start, stop), (stop, claim.first + claim.count)):
                if at < until:
                    rows = [part for row in claim.rows if (part := self._part(origin, row, at, until)) is not None]
                    piece = replace(claim, first=at, count=until - at, rows=rows)
                    self._put(origin, piece)
                    if at == start:
                        found.append(piece)
            for row in claim.rows:
                self._drop_divided(origin, claim, row)
        return found

    # Rows

    def _output(self, prepared: Prepared, change: Keep) -> Output | None:
        """Those of them that are sent for these messages; they may be fewer than all."""
        numbers = [index + change.shift for index in prepared.inputs]
        low, high = change.first, change.first + change.count
        due = prepared.due + self._shift if prepared.due is not None else None
        expires = prepared.expires + self._shift if prepared.expires is not None else None
        row = Row(
            self._next_seq(), prepared.channel, 0, 1, len(numbers), 1, 0, len(prepared.body),
            prepared.ends if len(numbers) > 1 else b"", prepared.priority, 0, prepared.accepted_at, expires, None,
            {index + 1: given for index, given in prepared.headers.items()} if prepared.headers else None,
            key=prepared.key,
        )  # fmt: skip
        row.body = row.seq
        whole = Output(row, numbers, due, prepared.body, prepared.id)
        if numbers[0] >= low and numbers[-1] < high:
            return whole
        return _sliced(whole, prepared.body, low, high, self._next_seq)

    def _part(self, origin: Origin, output: Output, low: int, high: int) -> Output | None:
        """What of a row was sent for these, in a row of its own."""
        if output.inputs[0] >= low and output.inputs[-1] < high:
            return output
        part = _sliced(output, self.body(output), low, high, self._next_seq)
        if part is not None:
            self._make(origin, part)
        return part

    def _drop_divided(self, origin: Origin, claim: Claim, row: Output) -> None:
        """Its parts have rows of their own now, unless it lies in one of the pieces."""
        if not any(row in piece.rows for piece in over(self._drafts.look(origin), claim.first, claim.count)):
            self._drop(row)

    def body(self, output: Output) -> bytes | bytearray:
        if output.body is not None:
            return output.body
        body: bytes = self._database.one("SELECT bytes FROM body WHERE id = ?", (output.row.body,))
        return body

    def _make(self, origin: Origin, output: Output) -> None:
        self._new[output.row.seq] = origin, output
        self.messages += output.row.count
        self.nbytes += output.nbytes

    def _drop(self, output: Output) -> None:
        self.messages -= output.row.count
        self.nbytes -= output.nbytes
        if self._new.pop(output.row.seq, None) is None:
            self._dropped.append(output)

    def _accept(self, output: Output) -> None:
        """Now it gets its numbers, and enters the ledger."""
        row = output.row
        epoch, first = self._number(row.count)
        if output.id is not None and not self._is_new(output, (epoch, first), self.body(output)):
            self._drop(output)
            return
        headers = {first + at - 1: given for at, given in row.headers.items()} if row.headers else None
        accepted = replace(row, epoch=epoch, first=first, home=first, headers=headers)
        due = self._later(row.channel, output.due) if output.due is not None else None
        self.released.append(Output(accepted, output.inputs, due, output.body))
        counts = self._tally.of(row.channel)
        counts.accepted += row.count
        counts.nbytes += row.nbytes(row.first, row.count)

    # Writing

    def write(self, database: Database, id_of: Callable[[str], int]) -> None:
        if self._forgotten:
            names = [(origin.to_bytes(8, "big").hex(), epoch, first) for origin, epoch, first in self._forgotten]
            database.run(_FORGET, (json.encode(names).decode(),))
        if self._written:
            rows = [
                (origin.to_bytes(8, "big"), epoch, claim.first, claim.count, struct.pack(">QQ", claim.fence, claim.n),
                 int(claim.verdict), _note_of(claim))
                for (origin, epoch, _), claim in self._written.items()
            ]  # fmt: skip
            names = [(row[0].hex(), row[1], row[2]) for row in rows]
            database.run(_FORGET, (json.encode(names).decode(),))
            database.insert(_OUTCOME, _OUTCOME_VALUES, rows)
        if self._new:
            self._write_new(database, id_of)
        if self._dropped:
            database.run("DELETE FROM body WHERE id IN carray(?)", (integers([o.row.body for o in self._dropped]),))
            database.run("DELETE FROM message WHERE seq IN carray(?)", (integers([o.row.seq for o in self._dropped]),))
        if self.released:
            moved = [
                (o.row.seq, o.row.epoch, o.row.first, o.due, packed.hex() if packed is not None else None)
                for o in self.released
                for packed in (pack_headers(o.row.headers),)
            ]
            database.run(_RELEASE, (json.encode(moved).decode(),))

    def _write_new(self, database: Database, id_of: Callable[[str], int]) -> None:
        bodies: list[tuple[object, ...]] = []
        messages: list[tuple[object, ...]] = []
        for (box, epoch), output in self._new.values():
            row, body = output.row, self.body(output)
            crc = checksum(body, row.ends) if self._checked else None
            bodies.append((row.seq, row.ends or None, body, crc))
            first = output.inputs[0]
            packed = _INPUT.pack(box, epoch, first) + array("I", [number - first for number in output.inputs]).tobytes()
            messages.append(
                (row.seq, row.count, id_of(row.channel), row.priority, output.due, row.expires, row.seq, packed,
                 output.id.encode() if output.id is not None else None, row.accepted_at, pack_headers(row.headers),
                 row.key)
            )  # fmt: skip
        database.insert(BODY, BODY_VALUES, bodies)
        database.insert(_PREPARED, _PREPARED_VALUES, messages)

    def spools(self) -> list[Spool]:
        return self._spools

    def applied(self) -> None:
        """It is durable."""
        self._drafts.enter()
        for keep in self._kept:
            keep.is_kept = True
        claims = self._claims
        for spool in self._spools:
            for prepared in spool.prepared:
                prepared.row = self._spooled[id(prepared)]
                prepared.body, prepared.row.body = b"", None  # it is read again when it is accepted
        for _, output in self._new.values():
            if output.body is None or claims.body_bytes + output.row.size > IN_MEMORY_BYTES:
                output.body = None
            else:
                claims.body_bytes += output.row.size
        for output in (*self._dropped, *self.released):
            if output.body is not None:
                claims.body_bytes = max(0, claims.body_bytes - output.row.size)


def _note_of(claim: Claim) -> bytes | None:
    if claim.has_outputs:
        return _SENT
    return msgpack.encode((claim.after_ms, claim.note)) if claim.verdict is not Verdict.HANDLED else None


def _sliced(whole: Output, body: bytes | bytearray, low: int, high: int, next_seq: Callable[[], int]) -> Output | None:
    """What of it was sent for low … high - 1, as a row of its own; None: nothing."""
    chosen = [at for at, number in enumerate(whole.inputs) if low <= number < high]
    if not chosen:
        return None
    row, start = whole.row, chosen[0]
    begin, end = row.span(row.first + start, len(chosen))
    part = BODY_HEADER.pack(ARRAY32, len(chosen)) + bytes(memoryview(body)[begin:end])
    ends = b""
    if len(chosen) > 1:
        stops = memoryview(row.ends).cast("I")[start : start + len(chosen)]
        ends = array("I", [stop - begin + BODY_START for stop in stops]).tobytes()
    headers = {at - start + 1: row.headers[at + 1] for at in chosen if at + 1 in row.headers} if row.headers else None
    seq = next_seq()
    made = replace(row, seq=seq, body=seq, count=len(chosen), size=len(part), ends=ends, headers=headers or None)
    return Output(made, [whole.inputs[at] for at in chosen], whole.due, part)
