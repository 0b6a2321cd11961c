"""An outbox as the disk would hold it, in a dictionary: it survives its process, and keeps a ledger of its own."""

from __future__ import annotations

import heapq
from array import array
from collections import deque
from collections.abc import Iterable

from zerowait.engines.brokerless.protocol.owner.failures import ONE_MORE
from zerowait.message import (
    ARRAY32,
    BODY_HEADER,
    BODY_START,
    Again,
    Alone,
    Bury,
    Change,
    Choose,
    Discard,
    Forget,
    Keep,
    Kept,
    Mark,
    Marks,
    Note,
    Prepared,
    Release,
    Segment,
    Settle,
    Shelve,
    Unstub,
    Verdict,
)
from zerowait.numbers import Numbers

START_US = 1_700_000_000_000_000
Name = tuple[int, int]  # (epoch, number)


def segment(
    channel: str,
    epoch: int,
    first: int,
    sizes: Iterable[int],
    *,
    seq: int = 0,
    failures: int = 0,
    due: int | None = None,
    marks: Marks | None = None,
    key: bytes | None = None,
    priority: int = 0,
    gone: tuple[tuple[int, int], ...] = (),
) -> Segment:
    sizes = list(sizes)
    body = bytearray(BODY_HEADER.pack(ARRAY32, len(sizes)))
    ends = array("I")
    for size in sizes:
        body += bytes(size)
        ends.append(len(body))
    assert ends[-1] == BODY_START + sum(sizes)
    return Segment(
        channel,
        epoch,
        first,
        len(sizes),
        body,
        ends.tobytes(),
        START_US,
        seq=seq,
        failures=failures,
        due=due,
        marks=marks,
        key=key,
        priority=priority,
        gone=gone,
    )


def prepared(index: int, payloads: Iterable[bytes], channel: str = "next") -> Prepared:
    """What is sent for that message of a delivery."""
    body, ends = bytearray(BODY_START), array("I")
    for payload in payloads:
        body += payload
        ends.append(len(body))
    BODY_HEADER.pack_into(body, 0, ARRAY32, len(ends))
    return Prepared(channel, body, ends.tobytes(), [index] * len(ends), START_US)


class Claim:
    """How a message of another outbox ended, and what was sent for it."""

    def __init__(self, change: Keep, number: int) -> None:
        self.dispatch = (change.fence, change.n)
        self.verdict = change.verdict
        self.after_ms, self.note = change.after_ms, change.note
        self.has_outputs = bool(change.prepared)
        self.outputs: list[tuple[str, bytes]] = []
        for each in change.prepared:
            start = BODY_START
            for index, stop in zip(each.inputs, memoryview(each.ends).cast("I"), strict=True):
                if index + change.shift == number:
                    self.outputs.append((each.channel, bytes(each.body[start:stop])))
                start = stop


class Row:
    __slots__ = ("channel", "counted", "due", "failures", "key", "line", "marks", "note", "priority", "size")

    def __init__(self, channel: str, size: int, key: bytes | None = None, priority: int = 0) -> None:
        self.channel = channel
        self.size = size
        self.key = key
        self.priority = priority
        self.line = 0  # with a key: the row of the outbox that it lies in
        self.failures = 0
        self.counted = (0, 0)  # the dispatch whose failure was counted last
        self.due = 0
        self.marks: Marks | None = None
        self.note = b""


class Store:
    """What waits or is in flight, the ledger, and who is noted."""

    def __init__(self, box: int, durable: bool = True) -> None:
        self.box = box
        self.durable = durable
        self.epoch = 0
        self.next = 1
        self.rows: dict[Name, Row] = {}
        self.letters: dict[Name, Row] = {}
        self.noted: set[int] = set()
        self.accepted = 0
        self.counts = dict.fromkeys((Verdict.HANDLED, Verdict.DEAD, Verdict.EXPIRED, Verdict.DROPPED), 0)
        self.settled: dict[Name, Verdict] = {}
        self.stubs: dict[Name, int] = {}  # → the outbox whose outputs were chosen
        self.claims: dict[tuple[int, int, int], Claim] = {}  # outcomes of others' messages
        self.released: list[bytes] = []  # outputs that were accepted
        self.keys: dict[Name, bytes] = {}  # of all that were ever accepted with one
        self._due: list[tuple[int, int, int]] = []
        self._offered: set[Name] = set()
        self._unread: deque[Name] = deque()
        self._lines: dict[
            int, list[Name]
        ] = {}  # with a key: all that were accepted together, or one with a fate of its own
        self._out: dict[tuple[str, bytes], int] = {}  # keys of which a row is out

    def open(self, now_ms: int) -> int:
        self.epoch = max(self.epoch + 1, now_ms)
        self.next = 1
        self._offered = set()
        self._out = {}
        plain = (name for name, row in self.rows.items() if not row.due and row.key is None)
        self._unread = deque(sorted(plain))
        self._due = [(row.due, epoch, number) for (epoch, number), row in self.rows.items() if row.due]
        heapq.heapify(self._due)
        return self.epoch

    def accept(self, channel: str, sizes: list[int], key: bytes | None = None, priority: int = 0) -> Segment:
        """Without a key it is offered at once; else `heads` does."""
        made = segment(channel, self.epoch, self.next, sizes, key=key, priority=priority)
        self.next += len(sizes)
        self.accepted += len(sizes)
        for number, size in enumerate(sizes, made.first):
            self.rows[made.epoch, number] = Row(channel, size, key, priority)
            if key is not None:
                self.keys[made.epoch, number] = key
            else:
                self._offered.add((made.epoch, number))
        if key is not None:
            self._line([(made.epoch, made.first + index) for index in range(made.count)])
        return made

    def _line(self, names: list[Name]) -> None:
        line = len(self._lines) + 1
        self._lines[line] = names
        for name in names:
            self.rows[name].line = line

    def heads(self, now_us: int) -> list[Segment]:
        """Of each key of which nothing is out, the row of what was pushed first, if its time has come."""
        first: dict[tuple[str, bytes], Name] = {}
        for name in sorted(self.keys.keys() & self.rows.keys()) if self.keys else ():
            row = self.rows[name]
            assert row.key is not None
            first.setdefault((row.channel, row.key), name)
        found: list[Segment] = []
        for key, name in first.items():
            row = self.rows[name]
            if key in self._out or row.due > now_us:
                continue
            self._out[key] = row.line
            names = self._lines[row.line]
            gone = [n for n in names if n not in self.rows or self.rows[n].line != row.line]
            self._offered.update(n for n in names if n not in gone)
            found.append(
                segment(
                    row.channel, names[0][0], names[0][1], [self._size(n, row) for n in names], seq=row.line,
                    failures=row.failures, due=row.due or None, marks=row.marks, key=row.key, priority=row.priority,
                    gone=tuple((number, 1) for _, number in gone),
                )
            )  # fmt: skip
        return found

    def _size(self, name: Name, like: Row) -> int:
        return self.rows[name].size if name in self.rows else like.size

    def _own_line(self, name: Name, row: Row) -> None:
        """It has a row of its own from now on, which is not out."""
        if row.key is None:
            return
        if len(self._lines[row.line]) == 1:
            self._shelve(row.line)
        else:
            before = row.line
            self._line([name])
            self._left(before)

    def _left(self, line: int) -> None:
        """Its last message may have left that row."""
        if not any(n in self.rows and self.rows[n].line == line for n in self._lines[line]):
            self._shelve(line)

    def _shelve(self, line: int) -> None:
        for key in [key for key, out in self._out.items() if out == line]:
            del self._out[key]
            self._offered.difference_update(
                n for n in self._lines[line] if n in self.rows and self.rows[n].line == line
            )

    def apply(self, changes: list[Change]) -> None:
        for change in changes:
            match change:
                case Settle():
                    for number in range(change.first, change.first + change.count):
                        self._leaves((change.epoch, number), change.verdict)
                case Again():
                    self._again(change)
                case Bury():
                    row = self._leaves((change.epoch, change.number), Verdict.DEAD)
                    if row is not None:
                        row.failures, row.note = change.failures, change.note
                        self.letters[change.epoch, change.number] = row
                case Mark():
                    self._mark(change)
                case Alone():
                    row = self.rows.get((change.epoch, change.number))
                    if row is not None:
                        row.marks = (row.marks or Marks()).alone(change.instance)
                case Shelve():
                    self._shelve(change.seq)
                case Note():
                    self.noted.add(change.instance)
                case Forget():
                    self.noted.discard(change.instance)
                case Choose():
                    self._choose(change)
                case Unstub():
                    for number in range(change.first, change.first + change.count):
                        if self.stubs.get((change.epoch, number)) == change.outputs:
                            del self.stubs[change.epoch, number]
                case Keep():
                    if not change.is_kept:
                        change.is_kept = True
                        for number in range(change.first, change.first + change.count):
                            self.claims[change.origin, change.epoch, number] = Claim(change, number)
                case Release() | Discard():
                    self._decide(change)

    def _choose(self, change: Choose) -> None:
        chosen = Numbers()
        for number in range(change.first, change.first + change.count):
            name = change.epoch, number
            if self._leaves(name, Verdict.HANDLED) is not None:
                self.stubs[name] = change.outputs
            if self.stubs.get(name) == change.outputs:
                chosen.add(number, 1)
        change.chosen = tuple(chosen)

    def _decide(self, change: Release | Discard) -> None:
        for number in range(change.first, change.first + change.count):
            name = change.origin, change.epoch, number
            claim = self.claims.get(name)
            if claim is None or claim.dispatch != (change.fence, change.n):
                continue
            if isinstance(change, Discard):
                del self.claims[name]
            elif claim.verdict is Verdict.HANDLED and claim.has_outputs:
                outputs, claim.outputs = claim.outputs, []
                claim.verdict = Verdict.HANDLED if change.unasked else Verdict.RELEASED
                for channel, payload in outputs:
                    self._accept_output(channel, payload)

    def accept_outputs(self, payloads: Iterable[bytes]) -> None:
        for payload in payloads:
            self._accept_output("next", payload)

    def _accept_output(self, channel: str, payload: bytes) -> None:
        name = self.epoch, self.next
        self.next += 1
        self.accepted += 1
        self.rows[name] = Row(channel, len(payload))
        self.released.append(payload)
        self._unread.append(name)

    def kept(self) -> list[Kept]:
        """What an opening finds."""
        return [
            Kept(*name, 1, *each.dispatch, each.verdict, each.after_ms, each.note, each.has_outputs)
            for name, each in self.claims.items()
        ]

    def _leaves(self, name: Name, verdict: Verdict) -> Row | None:
        row = self.rows.pop(name, None)
        if row is not None:
            assert name not in self.settled, f"{name} is settled twice"
            self.counts[verdict] += 1
            self.settled[name] = verdict
            if row.key is not None:
                self._left(row.line)
        return row

    def _again(self, change: Again) -> None:
        name = (change.epoch, change.number)
        row = self.rows.get(name)
        if row is None:
            return
        dispatch = (change.fence, change.n)
        if not 0 < change.fence < self.epoch or dispatch > row.counted:
            row.failures = row.failures + 1 if change.failures == ONE_MORE else change.failures
        row.counted = max(row.counted, dispatch)
        row.due = change.due
        self._offered.discard(name)
        self._own_line(name, row)
        heapq.heappush(self._due, (change.due, *name))

    def _mark(self, change: Mark) -> None:
        name = (change.epoch, change.number)
        row = self.rows.get(name)
        if row is None:
            return
        marks = row.marks or Marks()
        for death in change.died:
            marks = marks.died(death)
        for instance in change.cleared:
            marks = marks.cleared(instance)
        if not change.seq and marks == row.marks:
            return
        row.marks = marks if marks.deaths or marks.alone_at else None
        row.due = row.due or START_US
        self._offered.discard(name)
        self._own_line(name, row)
        heapq.heappush(self._due, (row.due, *name))

    @property
    def read(self) -> set[Name]:
        """What this opening has offered, and not taken back to wait for a time."""
        return self._offered

    def named_by(self, change: Change) -> list[Name]:
        match change:
            case Shelve():
                return self._lines[change.seq]
            case Settle() | Choose():
                return [(change.epoch, number) for number in range(change.first, change.first + change.count)]
            case Again() | Bury() | Mark():
                return [(change.epoch, change.number)]
            case _:
                return []

    def due_at(self) -> int | None:
        return self._due[0][0] if self._due else None

    def due_now(self, now_us: int) -> list[Segment]:
        found = []
        while self._due and self._due[0][0] <= now_us:
            due, epoch, number = heapq.heappop(self._due)
            row = self.rows.get((epoch, number))
            if row is not None and row.due == due and row.key is None and (epoch, number) not in self._offered:
                found.append(self._offer(epoch, number, row))
        return found

    def _offer(self, epoch: int, number: int, row: Row) -> Segment:
        self._offered.add((epoch, number))
        return segment(
            row.channel, epoch, number, [row.size], failures=row.failures, due=row.due or None, marks=row.marks,
            priority=row.priority,
        )  # fmt: skip

    def unread(self, most: int) -> list[Segment]:
        """The next so many that no dispatch has seen since the opening, in order."""
        found: list[Segment] = []
        while self._unread and len(found) < most:
            name = self._unread.popleft()
            if name in self.rows:
                found.append(self._offer(*name, self.rows[name]))
        return found

    def waiting_or_in_flight(self) -> int:
        return len(self.rows)

    def is_exact(self) -> bool:
        return self.accepted == sum(self.counts.values()) + len(self.rows)
