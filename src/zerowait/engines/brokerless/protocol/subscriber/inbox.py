"""What has come of a subscription and was not looked at: a queue for each publisher, from which one takes in turn.

The publisher sends no more than there is room for, so each queue is bounded by its window. What was missed is reckoned
when an event is taken, from its count and that of the event taken before it, so that whatever is dropped on the way is
counted once, wherever that was."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from itertools import islice

from msgspec import Struct

from zerowait.engines.brokerless.protocol.frames import UNKNOWN

OVER_MOST = 1_024  # publishers that are no more, and of which something is still to be told


class Piece(Struct):
    """Events of one frame that match the subscription. runs: (topic, start, stop), positions in the frame, ascending;
    c: the count of the first, 0: they have none."""

    runs: tuple[tuple[str, int, int], ...]
    c: int
    count: int
    cost: float  # of one event, in units
    body: memoryview | bytes
    ends: memoryview  # of uint32
    base: int
    sent_at: int
    headers: Mapping[int, dict[str, str]] | None
    taken: int = 0
    run: int = 0  # the runs before this one are taken whole …
    before: int = 0  # … and have so many events


class Mark(Struct):
    """A session begins: so many before its first event are lost; UNKNOWN: nobody knows how many. refused: none begins,
    but so many came here that could not be read."""

    c: int
    missed: int
    refused: bool = False


class Source:
    """The queue of one publisher. taken: units that were looked at; told: how many of them it knows of."""

    __slots__ = (
        "c", "has_left", "instance", "is_over", "latest", "lost", "name", "queue", "refused", "seen", "sender", "taken",
        "told", "unknown", "unread", "unsent",
    )  # fmt: skip

    def __init__(self, instance: int, sender: str) -> None:
        self.instance = instance
        self.sender = sender
        self.queue: deque[Piece | Mark] = deque()
        self.latest: dict[str, Piece] = {}  # of a subscription that conflates: topic → its newest event
        self.c = 0  # the count of the event taken last
        self.lost = 0  # known to be lost before the next one
        self.refused = 0  # of those: they came, and could not be read; the log has said so
        self.unknown = False  # and perhaps more
        self.unread = 0  # taken by somebody who could not read them, or lost before these: told with the next one
        self.taken = 0.0
        self.told = 0.0
        self.seen = 0  # the count of the last that has come
        self.is_over = False  # its publisher is gone
        self.has_left = False  # and will not be back: it has said so, or another of its name has come in its place
        self.unsent = 0  # by then: told with the next event of one of its name, once what has come is taken

    def is_empty(self) -> bool:
        """Whether nothing of it is left to take."""
        return not self.queue and not self.latest

    def is_told(self) -> bool:
        """Whether all that is known to be missed was told with some event."""
        return not (self.lost or self.unknown or self.unread or self.unsent)

    def inherit(self, other: Source) -> None:
        """What was missed of that one, and not told, is told with the next event of this one."""
        self.lost += other.lost
        self.refused += other.refused
        self.unread += other.unread + other.unsent
        self.unknown |= other.unknown
        other.lost, other.refused, other.unread, other.unsent, other.unknown = 0, 0, 0, 0, False


class Taken(Struct):
    """Events start … stop - 1 of a piece, in their order. missed: lost directly before the first of them, of which
    those that `unread` was told of are `known` already, and `refused` those that `lose` was told of. c: the count of
    the first; 0: they have none."""

    source: Source
    piece: Piece
    topics: tuple[tuple[str, int], ...]  # (topic, how many)
    start: int
    stop: int
    missed: int
    known: int = 0
    c: int = 0
    refused: int = 0


class Inbox:
    """put, mark, end: the network thread. take: any thread. renew: told, under no lock, that a publisher should learn
    of more room; notify: that there is something to take, or that there will be nothing more."""

    def __init__(
        self,
        lock: AbstractContextManager[object],
        window: int,
        *,
        conflate: bool = False,
        renew: Callable[[], object],
        notify: Callable[[], object],
    ) -> None:
        self.window = window
        self.conflate = conflate
        self.error: Exception | None = None  # why there will be nothing more
        self.missed = 0  # in all that was taken
        self._lock = lock
        self._renew = renew
        self._notify = notify
        self._sources: dict[int, Source] = {}
        self._turns: deque[Source] = deque()  # those that have something
        self._again: deque[tuple[Taken, int]] = deque()

    def __bool__(self) -> bool:
        """Whether there is something to take."""
        return bool(self._turns)

    def source(self, instance: int, sender: str) -> Source:
        """Of a publisher that was gone, and is back, the same as before: what of it was not taken comes before what it
        sends now, and what was missed and not told is told. The next one of its name tells it, if it is not back."""
        with self._lock:
            source = self._sources.get(instance)
            if source is None:
                source = self._sources[instance] = Source(instance, sender)
                for old in self._sources.values():
                    if old.is_over and old.sender == sender:
                        old.has_left = True  # for as long as it is not back: what is learned of it yet is handed on
                        if old.is_empty():
                            source.inherit(old)  # it stays until `forget`: its last events may yet be unreadable
            source.is_over = source.has_left = False
            return source

    def begin(self, source: Source) -> int:
        """A session with this publisher begins: how much it may use of the window until it is told of more. What is
        here from before counts against it."""
        with self._lock:
            pieces = [p for p in (*source.queue, *source.latest.values()) if isinstance(p, Piece)]
            held = sum(p.cost * (p.count - p.taken) for p in pieces)
            source.taken = source.told = -held
            return max(0, int(self.window - held))

    def part(self, source: Source, missed: int) -> None:
        """Its publisher has left, and so many were not sent, as whoever reads this was told. The next event of one
        of its name tells it once more, in its place."""
        with self._lock:
            source.has_left, source.unsent = True, missed
            self._hand_on(source)

    def _hand_on(self, source: Source) -> None:
        """What nobody of it will tell any more is told by another of its name that is there by now."""
        if source.has_left and source.is_empty() and not source.is_told():
            for other in self._sources.values():
                if other.sender == source.sender and not other.has_left:
                    other.inherit(source)
                    return

    def forget(self, instance: int) -> None:
        """Its publisher is gone; what has come of it stays, and so does what is still to be told of it."""
        with self._lock:
            source = self._sources.pop(instance, None)
            if source is None:
                return
            # Who has just taken the last may have to say that he could not read it: so this one goes at the next time.
            over = [each for each in self._sources.values() if each.is_over]
            for at, old in enumerate(over):
                if len(over) - at >= OVER_MOST or (old.is_empty() and old.is_told()):
                    del self._sources[old.instance]
            source.is_over = True
            self._sources[instance] = source  # the last, so that the oldest come first

    def put(self, source: Source, piece: Piece) -> None:
        with self._lock:
            was_empty = source.is_empty()
            if self.conflate:
                self._conflate(source, piece)
            else:
                source.queue.append(piece)
            if piece.c:
                source.seen = piece.c + piece.count - 1
            if was_empty:
                self._turns.append(source)
        self._notify()

    def crop(self, source: Source, given: float, most: int) -> None:
        """For a publisher that nobody can hold back, and whose events have no counts. given: units that were put in
        all; most: how many may wait. The oldest that are over are dropped; they count as missed."""
        with self._lock:
            while (over := given - source.taken - most) > 0 and source.queue:
                piece = source.queue[0]
                if isinstance(piece, Mark):
                    source.queue.popleft()
                    self._passed(source, piece)
                    continue
                left = piece.count - piece.taken
                dropped = min(left, int(over // piece.cost) or 1)
                if dropped == left and not any(isinstance(each, Piece) for each in islice(source.queue, 1, 3)):
                    dropped -= 1  # the newest stays, however large it is
                if not dropped:
                    return
                piece.taken += dropped
                source.taken += piece.cost * dropped
                source.lost += dropped
                if piece.taken >= piece.count:
                    source.queue.popleft()

    def lose(self, source: Source, count: int) -> None:
        """So many events came, after all that was put so far, that nobody can read; the log has said so. They are
        missed before the next that is put."""
        with self._lock:
            last = source.queue[-1] if source.queue else None
            if isinstance(last, Mark) and last.refused:
                last.missed += count
            elif last is not None and not self.conflate:
                source.queue.append(Mark(0, count, refused=True))
            else:
                source.lost += count
                source.refused += count

    def _conflate(self, source: Source, piece: Piece) -> None:
        c = piece.c
        for topic, start, stop in piece.runs:
            old = source.latest.pop(topic, None)
            source.taken += piece.cost * (stop - start - 1) + (old.cost if old is not None else 0.0)
            last = c + stop - start - 1 if c else 0
            source.latest[topic] = Piece(
                ((topic, stop - 1, stop),), last, 1, piece.cost, piece.body, piece.ends, piece.base, piece.sent_at,
                piece.headers,
            )  # fmt: skip
            c += stop - start if c else 0

    def mark(self, source: Source, mark: Mark) -> None:
        """A session with this publisher begins."""
        with self._lock:
            source.seen = mark.c
            if source.is_empty():
                self._passed(source, mark)
            elif self.conflate:
                source.lost += max(0, mark.missed)
                source.unknown |= mark.missed == UNKNOWN
            else:
                source.queue.append(mark)

    def _passed(self, source: Source, mark: Mark) -> None:
        if not source.c or mark.missed:
            source.c = max(source.c, mark.c) if mark.missed > 0 else mark.c
        if mark.missed == UNKNOWN:
            source.unknown = True
        else:
            source.lost += mark.missed
            source.refused += mark.missed if mark.refused else 0

    def end(self, error: Exception) -> None:
        """Nothing more comes. What has come can be taken."""
        if self.error is None:
            self.error = error
        self._notify()

    def take(self, most: int, *, one_topic: bool = False) -> Taken | None:
        """The next events, at most so many, all of one publisher: one after another has its turn."""
        with self._lock:
            while self._turns:
                source = self._turns.popleft()
                found = self._take(source, most, one_topic)
                if not source.is_empty():
                    self._turns.append(source)
                elif source.has_left:
                    self._hand_on(source)
                if found is not None:
                    renew = source.taken - source.told >= self.window / 2
                    break
            else:
                return None
        if renew:
            self._renew()
        return found

    def _take(self, source: Source, most: int, one_topic: bool) -> Taken | None:
        while source.queue and isinstance(mark := source.queue[0], Mark):
            source.queue.popleft()
            self._passed(source, mark)
        if self.conflate and source.latest:
            piece = source.latest.pop(next(iter(source.latest)))
        elif source.queue:
            first = source.queue[0]
            assert isinstance(first, Piece)
            piece = first
        else:
            return None
        begun = piece.taken
        topics: list[tuple[str, int]] = []
        at = start = stop = -1
        runs, run, skip = piece.runs, piece.run, begun - piece.before
        while skip >= (size := runs[run][2] - runs[run][1]):
            skip, run = skip - size, run + 1
            piece.run, piece.before = run, piece.before + size
        while run < len(runs):
            topic, a, b = runs[run]
            run += 1
            a, skip = a + skip, 0
            if start < 0:
                start = at = a
            if a != at or most <= 0 or (one_topic and topics and topics[0][0] != topic):
                break
            stop = at = min(b, a + most)
            topics.append((topic, stop - a))
            most -= stop - a
            if stop < b:
                break
        count = stop - start
        piece.taken += count
        if not self.conflate and piece.taken >= piece.count:
            source.queue.popleft()
        source.taken += piece.cost * count
        missed, source.lost = source.lost, 0
        known, source.unread = source.unread, 0
        refused, source.refused = source.refused, 0
        first_c = 0
        if piece.c:
            first_c = piece.c + begun
            missed += first_c - source.c - 1 if source.c or first_c else 0
            source.c = first_c + count - 1
        self.missed += missed
        missed += known
        if source.unknown:
            missed, source.unknown = UNKNOWN, False
        return Taken(source, piece, tuple(topics), start, stop, missed, known, first_c, refused)

    def unread(self, instance: int, missed: int) -> None:
        """Whoever took the last events of this publisher could not read them: `missed`, with those lost before them,
        are lost before the next one that is taken. UNKNOWN: nobody knows how many. Any thread."""
        with self._lock:
            source = self._sources.get(instance) or next((s for s in self._turns if s.instance == instance), None)
            if source is None:  # its publisher is no more, and nothing is left of it that this could be told with
                return
            if missed == UNKNOWN:
                source.unknown = True
            else:
                source.unread += missed
            self._hand_on(source)

    def rooms(self) -> list[tuple[Source, int]]:
        """Who is to be told of more room: and how much there may be used since its session began."""
        with self._lock:
            enough = self.window / 2
            return [(each, self._limit(each)) for each in self._sources.values() if each.taken - each.told >= enough]

    def room(self, source: Source) -> int | None:
        """How much its publisher may use by now; None: that is what it knows."""
        with self._lock:
            return self._limit(source) if source.taken > source.told else None

    def _limit(self, source: Source) -> int:
        source.told = source.taken
        return int(source.taken + 1e-6) + self.window
