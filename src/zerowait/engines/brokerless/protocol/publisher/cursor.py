"""A pattern's stream, and its subscriptions as their publisher has them: a position in the stream, what the subscriber
has room for, and what becomes of what has no room."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable

from zerowait.engines.brokerless.protocol.frames import CONFLATE, Subscribe
from zerowait.engines.brokerless.protocol.owner.credit import units
from zerowait.engines.brokerless.protocol.publisher.history import Block, Part, Ranges


class Stream:
    """A pattern's events. count: of all that have matched it. low: counts above that are of this stream; history: so
    many of them are left for what had been published before it, and may be replayed."""

    def __init__(self, pattern: str, low: int, history: int = 0) -> None:
        self.pattern = pattern
        self.low = low
        self.count = low + history
        self.parts: list[Part] = []
        self.nbytes = 0
        self.cursors: list[Cursor] = []
        self.conflating: list[Cursor] = []
        self.idle_since: float | None = None
        self.is_reliable = False  # some of what it matches is
        self.dropped = 0  # not sent to those who stand for themselves, each for each
        self._has_gaps = False  # some counts between the parts have none any more
        self._settled = 0  # how many of the parts have been looked at by `keep`

    def append(self, block: Block, ranges: Ranges, count: int) -> None:
        part = Part(block, ranges, count, self.count + 1)
        self.count += count
        self.parts.append(part)
        self.nbytes += part.nbytes
        if self.conflating:
            newest = part.newest()
            for cursor in self.conflating:
                cursor.conflate(newest)

    def oldest(self) -> int:
        """The count before the first event that is still here."""
        return self.parts[0].c - 1 if self.parts else self.count

    def gone(self, c: int) -> int:
        """How many events directly after that count are no more here."""
        if (oldest := self.oldest()) > c:
            return oldest - c
        if not self._has_gaps or c >= self.count:
            return 0
        at = bisect_right(self.parts, c + 1, key=_c)
        if self.parts[at - 1].last > c:
            return 0
        return (self.parts[at].c - 1 if at < len(self.parts) else self.count) - c

    def after(self, c: int) -> tuple[Part, int]:
        """The part in which the event after that count is, and how many of the part's come before it."""
        part = self.parts[-1]
        if part.c > c + 1:
            part = self.parts[bisect_right(self.parts, c + 1, key=_c) - 1]
        return part, c + 1 - part.c

    def room(self, most_bytes: int) -> int | None:
        """How many events the fullest queue takes; None: there is none. Half of the bytes may wait: the rest is for
        what is accepted meanwhile."""
        room = min((cursor.queue - cursor.lag() for cursor in self.cursors if cursor.dirty is None), default=None)
        if room is not None and self.nbytes > most_bytes // 2:
            low = self._sent()
            if sum(part.nbytes for part in self.parts if part.last > low) > most_bytes // 2:
                return 0
        return room

    def droppable(self, c: int, most: int) -> int:
        """How many of so many events after that count may be passed over: up to the first reliable one."""
        if not self.is_reliable or not self.parts:
            return most
        at = max(0, bisect_right(self.parts, c + 1, key=_c) - 1)
        while at < len(self.parts) and self.parts[at].c <= c + most:
            for part in self.parts[at].reliable():
                if part.last > c:
                    return min(most, max(0, part.c - 1 - c))
            at += 1
        return most

    def _sent(self) -> int:
        """Up to which count all have been sent what there is."""
        return min((cursor.c for cursor in self.cursors if cursor.dirty is None), default=self.count)

    def keep(self, most_bytes: int) -> None:
        """Forgets what all have, and the oldest of what is more than so many bytes."""
        if not self.parts:
            return
        low = min((cursor.kept() for cursor in self.cursors), default=self.count)
        gone = 0
        # What nobody has confirmed is kept for who comes back, as far as there is room.
        most_low = self._sent() if self.is_reliable else self.count
        while gone < len(self.parts) and (
            self.parts[gone].last <= low or (self.nbytes > most_bytes and self.parts[gone].last <= most_low)
        ):
            self.nbytes -= self.parts[gone].nbytes
            gone += 1
        if gone:
            del self.parts[:gone]
            self._settled = max(0, self._settled - gone)
        if self.nbytes > most_bytes:
            self._thin(most_bytes)
        for at in range(self._settled, len(self.parts)):
            self.parts[at] = self.parts[at].compact()
        self._settled = len(self.parts)

    def _thin(self, most_bytes: int) -> None:
        """Of what is more than so many bytes only the reliable events are kept, which were accepted because there was
        room for them."""
        kept: list[Part] = []
        at = 0
        while at < len(self.parts) and self.nbytes > most_bytes:
            part = self.parts[at]
            kept += (each.compact() for each in part.reliable())
            self.nbytes -= part.nbytes
            at += 1
        self.nbytes += sum(part.nbytes for part in kept)
        self._has_gaps = True
        self.parts[:at] = kept
        self._settled = len(kept)


def _c(part: Part) -> int:
    return part.c


class Taker:
    """Where events go: a subscription in a session. sent, limit: units since the session began."""

    __slots__ = ("c", "conn", "id", "instance", "limit", "message_bytes", "moved_at", "seen", "sent", "told")

    def __init__(self, conn: int, instance: int, frame: Subscribe, message_bytes: int, c: int) -> None:
        self.conn = conn  # 0: its session is over, and may be taken up again
        self.instance = instance
        self.id = frame.subscription
        self.limit = frame.limit
        self.sent = 0
        self.message_bytes = message_bytes
        self.c = c  # the count of the last event that it was sent, or that was dropped before it
        self.moved_at = 0.0  # when it had room last
        self.seen = c  # of the last that is known to have come
        self.told = c  # of the last that its subscriber has heard of in this session, by SUBSCRIBED or with an event

    def is_taking(self, now: float, patience: float) -> bool:
        """Whether it has room, or has had some more within so many seconds."""
        return self.left() > 0 or now < self.moved_at + patience

    def has_seen(self, count: int) -> None:
        """Of a group's member nothing is kept."""

    def left(self) -> int:
        return self.limit - self.sent if self.conn else 0


class Cursor(Taker):
    """ahead: what comes before the stream: replayed and retained events. dirty: of one that conflates, the newest event
    of each topic that was not sent; else None. beginning: the last event by then, its count, and what was ahead,
    until something is known to have come."""

    __slots__ = (
        "ahead", "beginning", "dirty", "dropped", "flying", "members", "name", "overflow", "parted", "queue", "skipped",
        "stream", "until",
    )  # fmt: skip

    def __init__(self, stream: Stream, conn: int, instance: int, frame: Subscribe, message_bytes: int, c: int) -> None:
        super().__init__(conn, instance, frame, message_bytes, c)
        self.stream = stream
        self.queue = max(1, frame.queue)
        self.overflow = frame.overflow
        self.ahead: deque[Part] = deque()
        self.beginning: tuple[int, int, tuple[Part, ...]] | None = None
        self.dirty: dict[str, Part] | None = {} if frame.overflow == CONFLATE and not frame.group else None
        self.flying: dict[str, Part] = {}  # likewise, what was sent and is not known to have come
        self.until: float | None = None  # without a session: how long it is kept
        self.name = frame.group
        self.members: dict[int, Taker] = {}  # of a group: connection → who shares its events
        self.parted: dict[tuple[int, int], int] = {}  # (instance, subscription) of one that may be back → its count
        self.dropped = 0  # in all
        self.skipped = 0  # of a group: dropped, and told to none of its members yet

    def pending(self) -> bool:
        """Whether there is something to send."""
        if self.ahead:
            return True
        if self.dirty is not None:
            return bool(self.dirty)
        if gone := self.stream.gone(self.c):
            self.skip(gone)
        return self.stream.count > self.c

    def takers(self) -> list[Taker]:
        return list(self.members.values()) if self.name else [self]

    def kept(self) -> int:
        """Up to which count nothing need be kept for it."""
        return self.stream.count if self.dirty is not None else self.c if self.name else self.seen

    def lag(self) -> int:
        """How many events wait for it here."""
        return len(self.dirty) if self.dirty is not None else self.stream.count - self.c

    def next(self) -> tuple[Part, int]:
        """Of one with something pending: what is to be sent next, and how many of it have been sent."""
        if self.ahead:
            part = self.ahead[0]
            return part, max(0, self.c + 1 - part.c) if part.c else 0
        if self.dirty is not None:
            return next(iter(self.dirty.values())), 0
        return self.stream.after(self.c)

    def is_whole(self) -> bool:
        """Whether what is next is all that matches of its block, from some event on: not a replayed piece of it, nor
        the newest of a topic."""
        return not self.ahead and self.dirty is None

    def took(self, part: Part, count: int, skip: int) -> None:
        """These have been sent, or will never be."""
        if self.ahead:
            if part.c:
                self.c = part.c + skip + count - 1
            if skip + count >= part.count:
                self.ahead.popleft()
        elif self.dirty is not None:
            topic = next(iter(self.dirty))
            latest = self.dirty.pop(topic)
            self.flying.pop(topic, None)
            self.flying[topic] = latest
            self.c = part.c
        else:
            self.c += count

    def has_seen(self, count: int) -> None:
        """So far they have come."""
        self.beginning = None
        self.seen = max(self.seen, min(count, self.c))
        while self.flying and next(iter(self.flying.values())).c <= self.seen:
            del self.flying[next(iter(self.flying))]

    def take_over(self, ghost: Cursor) -> None:
        """Goes on for one whose session is over: what had not come there is sent here."""
        self.ahead.extend(part for part in ghost.ahead if not part.c or part.last > self.c)
        self._conflate_again(ghost)

    def begin_again(self, ghost: Cursor, beginning: tuple[int, int, tuple[Part, ...]]) -> None:
        """Begins where one did whose session was over before it was heard of: it was counted as a subscriber from
        there."""
        self.beginning = beginning
        _, self.c, ahead = beginning
        self.ahead.extend(ahead)
        self._conflate_again(ghost)

    def _conflate_again(self, ghost: Cursor) -> None:
        if self.dirty is not None and ghost.dirty is not None:
            latest = ghost.flying | ghost.dirty
            left = sorted(
                ((topic, each) for topic, each in latest.items() if each.c > self.c), key=lambda one: one[1].c
            )
            self.dirty.update(left)

    def skip(self, count: int) -> None:
        self.c += count
        self.lose(count)
        self.skipped += count

    def lose(self, count: int) -> None:
        """So many are not sent to it. What one whose session is over is not sent is reckoned when it is back."""
        self.dropped += count
        if self.conn:
            self.stream.dropped += count

    def conflate(self, newest: Iterable[tuple[str, int, Part]]) -> None:
        """Of one that conflates. newest: topic, how many there were, the last of them."""
        assert self.dirty is not None
        for topic, count, part in newest:
            old = self.dirty.pop(topic, None)  # the newest stand last, so that counts rise
            self.lose(count - (old is None))
            self.dirty[topic] = part

    def shorten(self) -> None:
        """Of one that conflates: what its queue does not hold, as there may be any number of topics."""
        while self.dirty is not None and len(self.dirty) > self.queue:
            del self.dirty[next(iter(self.dirty))]
            self.lose(1)

    def rotate(self) -> Taker | None:
        """Of a group: whose turn it is, among those with room."""
        for conn in list(self.members):
            member = self.members.pop(conn)
            self.members[conn] = member
            if member.left() > 0:
                return member
        return None


def fitting(part: Part, skip: int, left: int) -> tuple[Ranges, int]:
    """As many of the part's events, after the first `skip`, as so many units allow, one at the least: it may
    overdraw. Gives them and what they cost."""
    count = part.count - skip
    if count > left:
        count = left
    while True:
        ranges = part.cut(skip, count)
        cost = units(count, sum(part.block.size(a, b) for a, b in ranges))
        if cost <= left or count == 1:
            return ranges, cost
        count = max(1, min(count - 1, count * left // cost))
