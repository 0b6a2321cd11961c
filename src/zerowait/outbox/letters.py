"""Dead letters: looked at, mended, given back, dropped. All is bounded; the outbox's thread only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import DecodeError, Struct, msgpack

from zerowait.errors import TooLarge
from zerowait.message import BODY_START
from zerowait.names import message_id
from zerowait.outbox.database import Database, integers
from zerowait.outbox.ledger import Tally
from zerowait.outbox.outbox import Outbox
from zerowait.outbox.row import alone, checksum, unpack_headers
from zerowait.outbox.settlement import Dropped
from zerowait.outbox.sheaf import MESSAGE_COST
from zerowait.snapshot import LetterFilter

AT_ONCE: Final = 1_000
ALL: Final = LetterFilter()

_COLUMNS: Final = (
    "SELECT seq, name, epoch, first, home, accepted_at, due, attempt, note, length(body.bytes), headers, message.body, "
    "retried FROM message JOIN ledger USING (channel) LEFT JOIN body ON body.id = message.body WHERE state = 3 "
)

_SAID: Final = ("reason", "rule", "type", "traceback")  # of a note, what a filter looks into
_note = msgpack.Decoder(dict[str, Any]).decode


class Letter(Struct, frozen=True, kw_only=True):
    """A message that no attempt got through. Times in microseconds UTC; note: a msgpack map of reason, rule …"""

    seq: int
    id: str
    channel: str
    epoch: int
    number: int
    home: int
    accepted_at: int
    died_at: int
    failures: int
    note: bytes
    size_bytes: int
    headers: dict[str, str]
    body: int
    retried: int

    def noted(self) -> dict[str, Any]:
        try:
            return _note(self.note) if self.note else {}
        except (DecodeError, UnicodeDecodeError, RecursionError):
            return {"reason": "what its worker said about it cannot be read"}

    def is_meant(self, which: LetterFilter) -> bool:
        """By what is not asked of the tables, or not sharply."""
        return which.names(self.id) and (which.error is None or self.is_noted(which.error))

    def is_noted(self, text: str) -> bool:
        """Whether it stands in what is said of the error: not in who said so, nor in what the parts are called."""
        noted = self.noted()
        return any(text in str(noted.get(part, "")) for part in _SAID)


class Letters:
    def __init__(self, box: Outbox) -> None:
        self._box = box

    def page(self, which: LetterFilter = ALL, *, limit: int = 50, after: str | None = None) -> list[Letter]:
        """The oldest first, at most `limit` (and AT_ONCE). after: the id of a letter, to page on. Raises StoreError.

        Fewer than that are all there are behind `after`.
        """
        where, bindings = "", list[object]()
        for condition, value in (
            ("name = ?", which.channel),
            # Strings lie in notes and payloads as they are, so that most need not be taken apart. A note has the names
            # of its fields too, and its worker's: what is found is looked at again below.
            ("instr(note, ?)", which.error.encode() if which.error is not None else None),
            ("instr(body.bytes, ?)", which.text.encode() if which.text is not None else None),
            ("due < ?", which.died_before_us),
            ("due >= ?", which.died_after_us),
        ):
            if value is not None:
                where += f"AND {condition} "
                bindings.append(value)
        if after is not None and (last := self.show(after)) is not None:
            where += "AND seq > ? "
            bindings.append(last.seq)
        found: list[Letter] = []
        limit, seq = min(limit, AT_ONCE), -1
        while len(found) < limit:
            rows = self._find(where + "AND seq > ? ORDER BY seq LIMIT ?", [*bindings, seq, limit])
            found += [letter for letter in rows if letter.is_meant(which)]
            if len(rows) < limit:
                break
            seq = rows[-1].seq  # of those read: there may be many that are not meant
        return found[:limit]

    def show(self, id: str) -> Letter | None:
        """One of them; None if it is not here. Raises StoreError."""
        name = self._name(id)
        found = self._find("AND epoch = ? AND first = ? LIMIT 1", name) if name is not None else []
        return found[0] if found else None

    def payload(self, letter: Letter) -> bytes:
        """What was pushed, msgpack. Raises StoreError."""
        rows = self._box.read("SELECT substr(bytes, ?) FROM body WHERE id = ?", (BODY_START + 1, letter.body))
        return bytes(rows[0][0]) if rows else b""

    def retry(self, ids: Sequence[str]) -> list[str]:
        """Give them back to their channels as if they had never been tried, but for `retried`; gives those that were
        here."""
        letters = self._named(ids)

        def change(database: Database, tally: Tally) -> Dropped:
            for channel in {letter.channel for letter in letters}:
                seqs = [letter.seq for letter in letters if letter.channel == channel]
                database.run(
                    "UPDATE message SET state = 0, due = ?, attempt = 0, deaths = NULL, note = NULL, "
                    "retried = retried + 1 "
                    "WHERE seq IN carray(?)",
                    (self._box.later(channel), integers(seqs)),
                )
                tally.of(channel).dead -= len(seqs)
            return Dropped()

        if letters:
            self._box.amend(change)
        for letter in letters:
            sheaf = self._box.find_sheaf(letter.epoch, letter.home)
            if sheaf is not None:
                sheaf.moved(letter.number, 1, "stored")
        return [letter.id for letter in letters]

    def edit(self, id: str, payload: bytes) -> bool:
        """Put another payload in place of the one it has, msgpack; it stays a dead letter. False: it is not here.

        Raises TooLarge and StoreError; then it is as it was.
        """
        letter = self.show(id)
        if letter is None:
            return False
        limit = self._box.intake.limits.message_bytes
        if len(payload) > limit:
            raise TooLarge(size_bytes=len(payload), limit_bytes=limit, channel=letter.channel)
        body = alone(payload)
        crc = checksum(body, b"") if self._box.durable else None

        def change(database: Database, tally: Tally) -> Dropped:
            database.run("UPDATE body SET bytes = ?, lengths = NULL, crc = ? WHERE id = ?", (body, crc, letter.body))
            tally.of(letter.channel).nbytes += len(payload) - letter.size_bytes
            return Dropped(0, letter.size_bytes - len(payload))

        self._box.amend(change)
        return True

    def drop(self, ids: Sequence[str]) -> list[str]:
        """Drop them for good; the ledger counts them as dropped. Gives those that were here."""
        letters = self._named(ids)

        def change(database: Database, tally: Tally) -> Dropped:
            dropped = Dropped()
            database.run("DELETE FROM body WHERE id IN carray(?)", (integers([each.body for each in letters]),))
            database.run("DELETE FROM message WHERE seq IN carray(?)", (integers([each.seq for each in letters]),))
            for letter in letters:
                row = tally.of(letter.channel)
                row.dead -= 1
                row.dropped += 1
                row.nbytes -= letter.size_bytes + MESSAGE_COST
                dropped.messages += 1
                dropped.nbytes += letter.size_bytes + MESSAGE_COST
            return dropped

        if letters:
            self._box.amend(change)
        return [letter.id for letter in letters]

    def keys(self, ids: Sequence[str]) -> set[tuple[str, bytes]]:
        """Channel and key of those of them that have a key. Raises StoreError."""
        letters = self._named(ids)
        sql = "SELECT seq, key FROM message WHERE key IS NOT NULL AND seq IN carray(?)"
        keys = dict(self._box.read(sql, (integers([letter.seq for letter in letters]),))) if letters else {}
        return {(letter.channel, bytes(keys[letter.seq])) for letter in letters if letter.seq in keys}

    def _named(self, ids: Sequence[str]) -> list[Letter]:
        found = {letter.seq: letter for id in ids[:AT_ONCE] if (letter := self.show(id)) is not None}
        return list(found.values())

    def _name(self, id: str) -> tuple[int, int] | None:
        box, _, rest = id.partition("-")
        epoch, _, number = rest.partition("-")
        try:
            return (int(epoch, 36), int(number)) if int(box, 16) == self._box.id else None
        except ValueError:
            return None

    def _find(self, where: str, bindings: Sequence[object]) -> list[Letter]:
        return [
            Letter(
                seq=seq,
                id=message_id(self._box.id, epoch, first),
                channel=channel,
                epoch=epoch,
                number=first,
                home=home,
                accepted_at=accepted_at,
                died_at=died_at,
                failures=failures,
                note=note or b"",
                size_bytes=max(0, (size or 0) - BODY_START),
                headers=dict((unpack_headers(headers) or {}).get(first, {})) if headers else {},
                body=body,
                retried=retried,
            )
            for seq, channel, epoch, first, home, accepted_at, died_at, failures, note, size, headers, body, retried
            in self._box.read(_COLUMNS + where, bindings)
        ]  # fmt: skip
