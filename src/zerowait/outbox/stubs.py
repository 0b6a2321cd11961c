"""What is left of a message whose run was chosen: a stub, which says where the outputs of that run lie.

Whoever has run it too and asks is told by it that another was chosen. It goes when those outputs are released, and
after some days if nobody ever says so (rules §6.2). A row in state 2, without a body; it counts for no limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from zerowait.outbox.database import Database, integers
from zerowait.outbox.spans import Drafts, over, put, take

LOOKED_AT_US: Final = 3_600_000_000  # between looks for stubs that are too old

_COLUMNS: Final = (
    "message (seq, epoch, first, count, channel, priority, due, state, attempt, body, input, home, accepted_at)"
)
_VALUES: Final = "(?, ?, ?, ?, ?, 0, ?, 2, 0, 0, ?, ?, 0)"
_LOAD: Final = "SELECT seq, epoch, first, count, channel, due, input FROM message WHERE state = 2 ORDER BY epoch, first"

Choice = tuple[int, int]  # epoch, and the outbox that has the outputs


class Stub(Struct):
    """due: when it was chosen, by the outbox's own time."""

    first: int
    count: int
    seq: int
    channel: str
    due: int


class Stubs:
    """Those of an outbox; all are in memory, for they are few: what is not released yet."""

    def __init__(self, database: Database, channels: dict[int, str], keep_us: int) -> None:
        self.keep_us = keep_us
        self.kept: dict[Choice, list[Stub]] = {}
        self.look_at = 0
        for seq, epoch, first, count, channel, due, outputs in database.rows(_LOAD):
            choice = epoch, int.from_bytes(outputs, "big")
            self.kept.setdefault(choice, []).append(Stub(first, count, seq, channels[channel], due))

    def __bool__(self) -> bool:
        return bool(self.kept)

    def count(self) -> int:
        """For how many messages. Any thread."""
        return sum(stub.count for stubs in list(self.kept.values()) for stub in list(stubs))


class Choosing:
    """Stubs, as one transaction makes and removes them."""

    def __init__(self, stubs: Stubs, next_seq: Callable[[], int], now: int) -> None:
        self._stubs = stubs
        self._next_seq = next_seq
        self._now = now
        self._drafts: Drafts[Choice, Stub] = Drafts(stubs.kept)
        self._made: dict[int, tuple[Choice, Stub]] = {}
        self._removed: list[int] = []
        self._aged = False

    def __bool__(self) -> bool:
        return bool(self._made or self._removed)

    def chosen(self, choice: Choice, first: int, count: int) -> list[tuple[int, int]]:
        """Of which of these the stub says so."""
        found: list[tuple[int, int]] = []
        for stub in over(self._drafts.look(choice), first, count):
            start, stop = max(first, stub.first), min(first + count, stub.first + stub.count)
            found.append((start, stop - start))
        return found

    def add(self, choice: Choice, first: int, count: int, channel: str, due: int | None = None) -> None:
        stubs = self._drafts.edit(choice)
        due = self._now if due is None else due
        before = stubs[-1] if stubs else None
        adjoins = before is not None and before.first + before.count == first and before.channel == channel
        if before is not None and adjoins and before.seq in self._made:
            before.count += count  # made in this very transaction: nobody else has it
            return
        stub = Stub(first, count, self._next_seq(), channel, due)
        put(stubs, stub)
        self._made[stub.seq] = choice, stub

    def remove(self, choice: Choice, first: int, count: int) -> None:
        for stub in over(self._drafts.look(choice), first, count):
            self._take(choice, stub)
            if stub.first < first:
                self.add(choice, stub.first, first - stub.first, stub.channel, stub.due)
            if (more := stub.first + stub.count - (first + count)) > 0:
                self.add(choice, first + count, more, stub.channel, stub.due)

    def _take(self, choice: Choice, stub: Stub) -> None:
        take(self._drafts.edit(choice), stub)
        if self._made.pop(stub.seq, None) is None:
            self._removed.append(stub.seq)

    def age(self) -> None:
        """Once in a while those go of which nobody has said that they are released. None in the first hour of a life:
        its clock may have been set on since the last one, and who still has to ask does so when it meets this life."""
        stubs = self._stubs
        stubs.look_at = stubs.look_at or self._now + LOOKED_AT_US
        if not stubs.kept or self._now < stubs.look_at:
            return
        self._aged = True
        for choice, kept in list(stubs.kept.items()):
            for stub in kept:
                if stub.due < self._now - stubs.keep_us and stub in self._drafts.look(choice):
                    self._take(choice, stub)

    def write(self, database: Database, id_of: Callable[[str], int]) -> None:
        if self._removed:
            database.run("DELETE FROM message WHERE seq IN carray(?)", (integers(self._removed),))
        if self._made:
            rows = [
                (stub.seq, epoch, stub.first, stub.count, id_of(stub.channel), stub.due, outputs.to_bytes(8, "big"),
                 stub.first)
                for (epoch, outputs), stub in self._made.values()
            ]  # fmt: skip
            database.insert(_COLUMNS, _VALUES, rows)

    def applied(self) -> None:
        self._drafts.enter()
        if self._aged:
            self._stubs.look_at = self._now + LOOKED_AT_US
