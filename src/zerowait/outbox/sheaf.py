"""A sheaf: messages accepted one after another, which become one segment; afterwards what their receipts look at."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Final, Literal, NamedTuple, Protocol
from weakref import WeakSet

from msgspec import Struct

from zerowait.message import BODY_HEADER, BODY_START, SEGMENT_BYTES, SEGMENT_MESSAGES

State = Literal["accepted", "stored", "sent", "handled", "dead", "expired", "withdrawn", "unknown"]
STATES: Final[tuple[State, ...]] = (
    "accepted",
    "stored",
    "sent",
    "handled",
    "dead",
    "expired",
    "withdrawn",
    "unknown",
)
_FIRST_FINAL: Final = STATES.index("handled")
MESSAGE_COST: Final = 64  # what a message counts for beside its payload: its share of rows, indexes and records


def _passages() -> dict[State, bytes]:
    """For each state, what every present state becomes: reports of two threads may cross, and what is over stays so.

    Only a dead letter comes back, when it is retried. A late "sent" changes nothing but "stored".
    """
    sources: dict[State, set[State]] = {
        "accepted": set(),
        "stored": {"accepted", "sent", "dead"},
        "sent": {"stored", "accepted"},
        "handled": {"accepted", "stored", "sent", "unknown"},
        "dead": {"accepted", "stored", "sent", "unknown"},
        "expired": {"accepted", "stored", "sent", "unknown"},
        "withdrawn": {"accepted", "stored", "sent", "dead", "unknown"},
        "unknown": {"accepted", "stored", "sent"},
    }
    tables: dict[State, bytes] = {}
    for code, state in enumerate(STATES):
        table = bytearray(range(256))
        for source in sources[state]:
            table[STATES.index(source)] = code
        tables[state] = bytes(table)
    return tables


_PASSAGES: Final = _passages()


class Note(NamedTuple):
    """What is known of a dead letter."""

    failures: int
    text: bytes  # a msgpack map: reason, rule, type, traceback, worker, at


class Piece(Struct, frozen=True):
    """What the owner takes of a sheaf in one go."""

    start: int  # index in the sheaf of the first message
    count: int
    body: bytearray
    ends: bytes


class Terms(Struct, gc=False):
    """What the messages of a sheaf have in common. Times in microseconds UTC."""

    accepted_at: int  # when the first of them came
    due: int | None
    expires: int | None
    priority: int
    id: str | None = None  # of its one message
    key: bytes | None = None


class Watched(Protocol):
    """The accepting side of an outbox, as far as its sheaves and their receipts use it: see `intake.Intake`."""

    @property
    def box(self) -> int: ...
    @property
    def watch(self) -> AbstractContextManager[object]: ...
    @property
    def watched(self) -> set[Sheaf]: ...


class Origin(Protocol):
    """Where a sheaf was begun: see `lane.Lane`."""

    @property
    def channel(self) -> str: ...
    @property
    def slot(self) -> list[Sheaf]: ...
    @property
    def intake(self) -> Watched: ...


class Sheaf:
    """Messages pushed one after another on one lane.

    Whoever popped it from its slot owns `buffer` and `ends`; all else is for any thread. Once the owner of the outbox
    has it, body and ends are gone from here and only what receipts need stays: where the messages are and their state.
    """

    __slots__ = (
        "__weakref__",
        "_notes",
        "_safe",
        "_settled_watchers",
        "_state",
        "_states",
        "_stored_watchers",
        "attended",
        "buffer",
        "channel",
        "count",
        "cut",
        "duplicate",
        "ends",
        "epoch",
        "error",
        "first",
        "headers",
        "lane",
        "last_index",
        "most_bytes",
        "reserved_bytes",
        "reserved_messages",
        "slot",
        "terms",
        "twin_of",
        "twins",
    )

    def __init__(
        self,
        lane: Origin,
        slot: list[Sheaf],
        terms: Terms,
        reserved_messages: int,
        reserved_bytes: int,
    ) -> None:
        self.lane = lane
        self.channel = lane.channel
        self.slot = slot
        self.buffer = bytearray(BODY_START)
        self.ends: list[int] = []
        self.terms = terms
        self.headers: dict[int, Mapping[str, str]] | None = None
        self.epoch = 0
        self.first = 0
        self.count = 0  # how many have been taken from here; 0 until then
        self.attended = False  # somebody has it in the slow path, and will certainly give it back
        self.cut: int | None = None  # so many were taken while somebody held it
        self.error: Exception | None = None
        self.twin_of: Sheaf | None = None  # what it says of itself is what became of that one
        self.twins: WeakSet[Sheaf] | None = None
        self.duplicate = False
        self._safe = 0  # how many of them are stored
        self._state = 0
        self._states: bytearray | None = None
        self._notes: dict[int, Note] | None = None
        self._stored_watchers: dict[int, list[Callable[[], object]]] | None = None
        self._settled_watchers: dict[int, list[Callable[[], object]]] | None = None
        self.reserve(reserved_messages, reserved_bytes)

    def reserve(self, messages: int, nbytes: int) -> None:
        """Room for so many messages and bytes (payload and MESSAGE_COST each) is this sheaf's; its trip-wires follow.

        The wires are cautious: whoever trips one asks the lane, which counts exactly.
        """
        self.reserved_messages = messages
        self.reserved_bytes = nbytes
        most = min(messages, SEGMENT_MESSAGES)
        self.last_index = most - 1
        self.most_bytes = min(SEGMENT_BYTES, BODY_START + nbytes - MESSAGE_COST * most)

    @property
    def used_bytes(self) -> int:
        ends = self.ends
        return ends[-1] - BODY_START + MESSAGE_COST * len(ends) if ends else 0

    def undo(self) -> None:
        """Drop what an interrupted or failed encoding left behind the last whole message."""
        del self.buffer[self.ends[-1] if self.ends else BODY_START :]

    def let_go(self) -> Piece:
        """Give body and ends to the owner of the outbox, who alone has the sheaf now; the body is not copied."""
        self.undo()
        start, self.cut = self.cut or 0, None
        ends = self.ends
        body = self.buffer
        if start:
            ends = [end - self.ends[start - 1] + BODY_START for end in self.ends[start:]]
            body = bytearray(BODY_START) + self.buffer[self.ends[start - 1] :]
        # Small new ones instead of None: whoever still holds the sheaf after all trips the wire, not over a TypeError.
        self.buffer = bytearray(BODY_START)
        self.ends = []
        self.last_index = -1
        self.count = start + len(ends)
        BODY_HEADER.pack_into(body, 0, 0xDD, len(ends))
        return Piece(start, len(ends), body, array("I", ends).tobytes())

    def copy_out(self) -> Piece:
        """Copy what whole messages there are while somebody else may be at work on the next one."""
        self.last_index = -1
        ends = self.ends.copy()
        self.cut = self.count = len(ends)
        body = self.buffer[: ends[-1] if ends else BODY_START]
        BODY_HEADER.pack_into(body, 0, 0xDD, len(ends))
        return Piece(0, len(ends), body, array("I", ends).tobytes())

    # What the owner of the outbox reports. It may come from two threads (stored and settled, sent).

    def sealed(self, epoch: int, first: int) -> None:
        self.epoch, self.first = epoch, first

    def stored(self) -> None:
        """All that has been taken of it so far is safe."""
        self._safe = self.count
        self._move(0, None, "stored", None)

    def moved(self, first_number: int, count: int, state: State, note: bytes = b"", failures: int = 0) -> None:
        """Messages first_number … are in that state now, unless what they are forbids it (what is over stays over)."""
        kept = Note(failures, note) if state == "dead" else None
        self._move(first_number - self.first, count, state, kept)
        if self.twins is not None:
            with self.lane.intake.watch:
                twins = list(self.twins)
            for twin in twins:
                twin.moved(first_number, count, state, note, failures)

    def become(self, epoch: int, number: int, state: State, note: bytes, failures: int, first: Sheaf | None) -> None:
        """It is that message again, which was accepted before. first: whose receipts follow it, if anybody has any."""
        self.sealed(epoch, number)
        self.duplicate = True
        if first is not None and first is not self:
            self.twin_of = first  # it must not go while somebody follows it through us
            with self.lane.intake.watch:
                if first.twins is None:
                    first.twins = WeakSet()
                first.twins.add(self)
            state, kept = first.state(0), first.note(0)
            note, failures = (kept.text, kept.failures) if kept is not None else (b"", 0)
        self.stored()
        if state not in ("accepted", "stored"):
            self.moved(number, 1, state, note, failures)

    def failed(self, error: Exception) -> None:
        """What became of these is not known: whoever asks is given the error."""
        self.error = error
        self._safe = self.count
        self._move(0, None, "unknown", None)

    def _move(self, start: int, count: int | None, state: State, note: Note | None) -> None:
        passage = _PASSAGES[state]
        calls: list[Callable[[], object]] = []
        with self.lane.intake.watch:
            states = self._states
            if states is None and (count is None or (start == 0 and count >= self.count)):
                self._state = passage[self._state]
            else:
                if states is None:
                    states = self._states = bytearray([self._state]) * self.count
                stop = len(states) if count is None else start + count
                states[start:stop] = states[start:stop].translate(passage)
            if note is not None and count is not None:
                if self._notes is None:
                    self._notes = {}
                self._notes.update(dict.fromkeys(range(start, start + count), note))
            if self._stored_watchers is not None:
                for index in [i for i in self._stored_watchers if self.is_stored(i)]:
                    calls += self._stored_watchers.pop(index)
                if not self._stored_watchers:
                    self._stored_watchers = None
            if self._settled_watchers is not None:
                for index in [i for i in self._settled_watchers if self._code(i) >= _FIRST_FINAL]:
                    calls += self._settled_watchers.pop(index)
                if not self._settled_watchers:
                    self._settled_watchers = None
            if calls and self._stored_watchers is None and self._settled_watchers is None:
                self.lane.intake.watched.discard(self)
        for call in calls:
            call()

    # What receipts ask, on any thread.

    def _code(self, index: int) -> int:
        if index >= self._safe:
            return 0
        return self._state if self._states is None or index >= len(self._states) else self._states[index]

    def state(self, index: int) -> State:
        return STATES[self._code(index)]

    def is_stored(self, index: int) -> bool:
        return index < self._safe

    def is_settled(self, index: int) -> bool:
        return self._code(index) >= _FIRST_FINAL

    def note(self, index: int) -> Note | None:
        """Why it is a dead letter."""
        return None if self._notes is None else self._notes.get(index)

    def when_stored(self, index: int, callback: Callable[[], object]) -> None:
        """Call back once, when that message is safe or `error` is set; at once if it is. On the thread that notices."""
        with self.lane.intake.watch:
            if not self.is_stored(index):
                if self._stored_watchers is None:
                    self._stored_watchers = {}
                self._stored_watchers.setdefault(index, []).append(callback)
                # The outbox knows its sheaves weakly; one that somebody waits for must not go with its last receipt.
                self.lane.intake.watched.add(self)
                return
        callback()

    def when_settled(self, index: int, callback: Callable[[], object]) -> None:
        """Call back once, when that message is handled, dead, expired, withdrawn, or unknown; at once if it is."""
        with self.lane.intake.watch:
            if not self.is_settled(index):
                if self._settled_watchers is None:
                    self._settled_watchers = {}
                self._settled_watchers.setdefault(index, []).append(callback)
                self.lane.intake.watched.add(self)
                return
        callback()

    def forget(self, index: int, callback: Callable[[], object]) -> None:
        """Whoever waited for that message does so no more: takes back one `when_stored` or `when_settled`."""
        with self.lane.intake.watch:
            for watchers in (self._stored_watchers, self._settled_watchers):
                calls = watchers.get(index) if watchers is not None else None
                if watchers is not None and calls is not None and callback in calls:
                    calls.remove(callback)
                    if not calls:
                        del watchers[index]
                    break
            self._stored_watchers = self._stored_watchers or None
            self._settled_watchers = self._settled_watchers or None
            if self._stored_watchers is None and self._settled_watchers is None:
                self.lane.intake.watched.discard(self)
