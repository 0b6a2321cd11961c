"""The publisher's side: who has subscribed to what, and what each of them is sent (rules §10).

An event is matched once for each topic's set of patterns, encoded once, and framed once for all subscribers that stand
at the same place. What a subscriber has no room for waits here, as a position in its pattern's stream; beyond its queue
the oldest are passed over, and their counts say how many.

A subscription is known again, after its connection broke, by (epoch, last count): the epoch is this life of the
publisher, and the counts of a pattern go on while nobody has subscribed to it.
"""

from __future__ import annotations

from math import inf

from msgspec import Struct

from zerowait.engines.brokerless.protocol.config import Config
from zerowait.engines.brokerless.protocol.effects import Effects, Say
from zerowait.engines.brokerless.protocol.frames import (
    DISCONNECT,
    MALFORMED,
    SUBSCRIPTIONS_MOST,
    UNKNOWN,
    ProtocolError,
    Room,
    Served,
    Subscribe,
    Subscribed,
    check_subscribe,
)
from zerowait.engines.brokerless.protocol.link import Link
from zerowait.engines.brokerless.protocol.publisher.cursor import Cursor, Stream, Taker
from zerowait.engines.brokerless.protocol.publisher.history import Block, Part, Range, Ring, extend
from zerowait.engines.brokerless.protocol.publisher.replay import first_of, history
from zerowait.engines.brokerless.protocol.publisher.sending import Sending
from zerowait.patterns import Patterns, overlap

STREAMS_REMEMBERED = 1_024  # patterns that nobody subscribes to any more and whose events are still counted …
STREAM_IDLE = 3_600.0  # … for so many seconds
RETAINED_MOST = 100_000  # topics whose last value is kept
TAKING = 1.25  # pings: who has not made room for so long may be busy with one event for as long as it likes


class Announced(Struct):
    """A topic that this process publishes, as it was declared. fingerprint and description: of its type. published: how
    many events it stood for."""

    pattern: str
    fingerprint: bytes = b""
    description: bytes = b""
    ring: Ring | None = None
    published: int = 0


class Publisher:
    def __init__(self, epoch: int, effects: Effects, config: Config) -> None:
        self.epoch = epoch
        self.event = 0  # the number of the last that was published
        self.announced: dict[str, Announced] = {}
        self.version = 0  # of what is subscribed to: another one whenever a pattern comes or goes
        self._effects = effects
        self._config = config
        self._streams: dict[str, Stream] = {}
        self._forgotten = 0  # no stream that was forgotten has counted further
        self._patterns: Patterns[Stream] = Patterns()
        self._cursors: dict[int, list[Cursor]] = {}  # connection → subscriptions that stand for themselves
        self._groups: dict[tuple[str, str], Cursor] = {}
        self._joined: dict[int, dict[int, tuple[str, str]]] = {}  # connection → its subscription → the group
        self._ghosts: list[Cursor] = []
        self._declared: Patterns[Announced] = Patterns()
        self._retained: dict[str, Part] = {}
        self._dirty: dict[Stream, None] = {}
        self._roomy: dict[int, None] = {}  # connections that have more room
        # What was not sent all that it has room for, as its turn was over: connections, and streams with such a group.
        self._later: dict[int | Stream, None] = {}
        self._groups_first = False

    # -- what is published ---------------------------------------------------------------------------------------------

    def declare(self, pattern: str, fingerprint: bytes, description: bytes, history: int) -> bool:
        """This process publishes to that topic. False: that was known."""
        known = self.announced.get(pattern)
        if known is None:
            known = self.announced[pattern] = Announced(pattern)
            self._declared.add(pattern, known)
        elif known.fingerprint == fingerprint and (known.ring or not history):
            return False
        known.fingerprint, known.description = fingerprint, description
        if history and known.ring is None:
            known.ring = Ring(pattern, history)
        return True

    def served(self) -> tuple[Served, ...]:
        """As STATE says it."""
        return tuple(Served(each.pattern, "topic", fingerprint=each.fingerprint) for each in self.announced.values())

    def description(self, fingerprint: bytes) -> bytes | None:
        found = (each.description for each in self.announced.values() if each.fingerprint == fingerprint)
        return next((each for each in found if each), None)

    def publish(self, block: Block) -> dict[str, int]:
        """Takes these events: they get their numbers, and leave at the next flush. Gives for each topic to how many
        subscriptions they are addressed."""
        block.first = self.event + 1
        self.event += block.count
        addressed: dict[str, int] = {}
        found: dict[Stream, list[Range]] = {}
        kept: dict[Ring, list[Range]] = {}
        for topic, start, stop, retain, reliable in block.runs:
            for stream in self._patterns.match(topic):
                if reliable:
                    stream.is_reliable = True
                extend(found.setdefault(stream, []), start, stop)
            for declared in self._declared.match(topic):
                declared.published += stop - start
                if declared.ring is not None:
                    extend(kept.setdefault(declared.ring, []), start, stop)
            if retain:
                self._retain(topic, block, stop - 1)
            if topic not in addressed:
                addressed[topic] = self.addressed(topic)
        for stream, ranges in found.items():
            stream.append(block, tuple(ranges), sum(stop - start for start, stop in ranges))
            self._dirty[stream] = None
        for ring, ranges in kept.items():
            ring.append(block, ranges, self._config.topic_bytes)
        return addressed

    def _retain(self, topic: str, block: Block, at: int) -> None:
        self._retained.pop(topic, None)
        self._retained[topic] = Part(block, ((at, at + 1),), 1, 0).compact()
        while len(self._retained) > RETAINED_MOST:
            del self._retained[next(iter(self._retained))]

    def addressed(self, topic: str) -> int:
        """To how many subscriptions an event of this topic goes, a group counting as one: also to those whose
        connection broke a moment ago, for whom it is kept."""
        return sum(len(stream.cursors) for stream in self._patterns.match(topic))

    def patterns(self) -> list[str]:
        """All that are subscribed to, or were a while ago."""
        return list(self._streams)

    def room(self, pattern: str) -> int | None:
        """How many events the fullest queue of those who have subscribed to this still takes; None: there is none."""
        stream = self._streams.get(pattern)
        return None if stream is None else stream.room(self._config.topic_bytes)

    def subscribers(self, pattern: str) -> set[int]:
        """The connections with processes that have subscribed to something of this."""
        return {
            conn
            for stream in self.streams(pattern)
            for cursor in stream.cursors
            for conn in (cursor.members or (cursor.conn,))
            if conn
        }

    def streams(self, pattern: str) -> list[Stream]:
        """What somebody has subscribed to and overlaps with this."""
        return [stream for stream in self._streams.values() if overlap(stream.pattern, pattern)]

    def is_settled(self, now: float) -> bool:
        """Whether waiting any longer is of no use: everything has been sent to those who go on taking it. Who has taken
        nothing for a while holds up nobody's end, and this process itself will not."""
        cursors = [c for of in self._cursors.values() for c in of] + list(self._groups.values())
        patience = TAKING * self._config.ping
        return not any(
            cursor.pending() and any(taker.conn > 0 and taker.is_taking(now, patience) for taker in cursor.takers())
            for cursor in cursors
        )

    # -- subscriptions -------------------------------------------------------------------------------------------------

    def receive(self, link: Link, said: Subscribe | Room, now: float) -> None:
        if isinstance(said, Room):
            taker = self._taker(link.conn, said.subscription)
            if taker is not None:
                taker.has_seen(said.count)
                taker.moved_at = now
                taker.limit = max(taker.limit, said.limit)
                self._roomy[link.conn] = None
        elif said.ends:
            self._leave(link.conn, said.subscription)
            self._effects.add(Say("state", "", link.instance))
        else:
            self._subscribe(link, said, now)

    def _taker(self, conn: int, id: int) -> Taker | None:
        for cursor in self._cursors.get(conn, ()):
            if cursor.id == id:
                return cursor
        key = self._joined.get(conn, {}).get(id)
        return None if key is None else self._groups[key].members.get(conn)

    def _subscribe(self, link: Link, said: Subscribe, now: float) -> None:
        check_subscribe(said)
        if self._taker(link.conn, said.subscription) is not None:
            raise ProtocolError(MALFORMED, f"subscription {said.subscription} twice on one connection")
        # Ours stop before that, in their process: this is for those who do not.
        if len(self._cursors.get(link.conn, ())) + len(self._joined.get(link.conn, ())) >= SUBSCRIPTIONS_MOST:
            raise ProtocolError(MALFORMED, f"more than {SUBSCRIPTIONS_MOST} subscriptions on one connection")
        stream = self._stream(said.pattern)
        answer = self._join(stream, link, said, now) if said.group else self._begin(stream, link, said, now)
        self._effects.send(link.conn, answer)
        self._roomy[link.conn] = None
        self._dirty[stream] = None
        self._effects.add(Say("state", "", link.instance))

    def _stream(self, pattern: str) -> Stream:
        stream = self._streams.get(pattern)
        if stream is None:
            # Counts begin where no earlier life of this stream can have been, also those of what is replayed.
            history = sum(ring.kept for each in self.announced.values() if (ring := each.ring) is not None)
            stream = self._streams[pattern] = Stream(pattern, max(self.event, self._forgotten), history)
            self._patterns.add(pattern, stream)
            self.version += 1
        stream.idle_since = None
        return stream

    def _begin(self, stream: Stream, link: Link, said: Subscribe, now: float) -> Subscribed:
        """A subscription that stands for itself: where it left off if that is known, else from now on or as far back
        as it asks. One whose earlier connection broke before it heard anything begins where it began then."""
        conn, id = link.conn, said.subscription
        ghost = next(
            (g for g in self._ghosts if g.instance == link.instance and g.id == id and g.stream is stream), None
        )
        if ghost is not None:
            self._end_ghost(ghost)
        is_ours = said.epoch == self.epoch
        is_known = is_ours and stream.low <= said.count <= stream.count
        cursor = Cursor(stream, conn, link.instance, said, link.message_bytes, stream.count)
        event, missed = self.event, 0
        if is_known:
            cursor.c = said.count
            if ghost is not None:
                cursor.take_over(ghost)
        elif ghost is not None and ghost.beginning is None and not said.epoch:
            # It has heard of us, and would name that: this was on its way before. What it had first is not sent again.
            cursor.c = ghost.seen
            cursor.take_over(ghost)
        else:
            missed = UNKNOWN if said.epoch else 0
            if ghost is not None and ghost.beginning is not None and not is_ours:
                cursor.begin_again(ghost, ghost.beginning)
                event = ghost.beginning[0]
            else:
                self._go_back(cursor, said, now, all_there_is=bool(said.epoch))
                cursor.beginning = event, cursor.c, tuple(cursor.ahead)
        first = cursor.seen = cursor.told = cursor.c
        cursor.moved_at = now
        self._cursors.setdefault(conn, []).append(cursor)
        stream.cursors.append(cursor)
        if cursor.dirty is not None:
            stream.conflating.append(cursor)
        return Subscribed(id, self.epoch, event, first, missed)

    def _go_back(self, cursor: Cursor, said: Subscribe, now: float, *, all_there_is: bool) -> None:
        """Puts replayed and retained events before the stream. all_there_is: of a publisher that was restarted nothing
        has been seen."""
        pattern, replay = cursor.stream.pattern, said.replay
        past: list[Part] = []
        if replay or said.replay_ms or all_there_is:
            since = now - said.replay_ms / 1_000 if said.replay_ms and not all_there_is else float("-inf")
            rings = [each.ring for each in self.announced.values() if each.ring is not None]
            past = history(rings, pattern, since, 0 if all_there_is else replay)
        c = cursor.stream.count - sum(part.count for part in past)
        c = max(c, 0)
        cursor.c = c
        for part in past:
            part.c = c + 1
            c += part.count
        kept = [part for topic, part in self._retained.items() if overlap(pattern, topic)]
        if kept:
            told = {part.block.first + at for part in past for start, stop in part.ranges for at in range(start, stop)}
            kept = [part for part in kept if first_of(part) not in told]
            kept.sort(key=first_of)
        cursor.ahead.extend([*kept, *past])

    def _join(self, stream: Stream, link: Link, said: Subscribe, now: float) -> Subscribed:
        """A member of a group: one of them gets each event. Its counts are its own."""
        key = (stream.pattern, said.group)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Cursor(stream, 0, 0, said, link.message_bytes, stream.count)
            self._go_back(group, said, now, all_there_is=False)
            stream.cursors.append(group)
        group.until = None
        group.queue = max(group.queue, said.queue)
        is_ours = said.epoch == self.epoch
        missed = UNKNOWN if said.epoch and not is_ours else 0
        member = Taker(link.conn, link.instance, said, link.message_bytes, said.count if is_ours else 0)
        member.moved_at = now
        joined = self._joined.setdefault(link.conn, {})
        if (before := group.members.get(link.conn)) is not None:
            joined.pop(before.id, None)
        joined[said.subscription] = key
        group.members[link.conn] = member
        answer = Subscribed(said.subscription, self.epoch, self.event, member.c, missed)
        # What was on its way to it when its connection broke went to nobody else: its next count says how many.
        sent = group.parted.pop((link.instance, said.subscription), 0)
        if not missed:
            member.c = max(member.c, sent)
        return answer

    def _leave(self, conn: int, id: int) -> None:
        for cursor in self._cursors.get(conn, []):
            if cursor.id == id:
                self._cursors[conn].remove(cursor)
                self._forget(cursor)
                return
        key = self._joined.get(conn, {}).pop(id, None)
        if key is not None:
            group = self._groups[key]
            del group.members[conn]
            if not group.members:
                del self._groups[key]
                self._forget(group)

    def _forget(self, cursor: Cursor) -> None:
        stream = cursor.stream
        stream.cursors.remove(cursor)
        if cursor in stream.conflating:
            stream.conflating.remove(cursor)
        self._dirty[stream] = None

    # -- connections ---------------------------------------------------------------------------------------------------

    def closed(self, link: Link, now: float) -> None:
        """Its subscriptions are kept for a while: they may be taken up again on another connection."""
        until = now + self._config.resume_grace
        for cursor in self._cursors.pop(link.conn, []):
            cursor.conn, cursor.until = 0, until
            self._ghosts.append(cursor)
        for key in self._joined.pop(link.conn, {}).values():
            group = self._groups[key]
            member = group.members.pop(link.conn)
            group.parted[member.instance, member.id] = member.c
            if not group.members:
                group.until = until
        self._roomy.pop(link.conn, None)
        self._later.pop(link.conn, None)

    def part(self, conn: int) -> dict[int, int]:
        """This process leaves: how many events each subscription of that connection has not been told of, and never
        will be sent, as far as there are any. What a group has not been sent is said to one of it."""
        missed: dict[int, int] = {}
        for cursor in self._cursors.get(conn, ()):
            missed[cursor.id] = cursor.stream.count - cursor.told
        for id, key in self._joined.get(conn, {}).items():
            group = self._groups[key]
            member = group.members[conn]
            missed[id] = member.c - member.told + group.skipped + group.stream.count - group.c
            group.c, group.skipped = group.stream.count, 0
        return {id: count for id, count in missed.items() if count}

    def gone(self, instance: int) -> None:
        """It will not be back."""
        for ghost in [each for each in self._ghosts if each.instance == instance]:
            self._end_ghost(ghost)
        for group in self._groups.values():
            for name in [name for name in group.parted if name[0] == instance]:
                del group.parted[name]

    def _end_ghost(self, ghost: Cursor) -> None:
        self._ghosts.remove(ghost)
        self._forget(ghost)

    # -- time ----------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        if not self._streams:
            return  # nobody has subscribed, or is away: a stream stays as long as that
        for ghost in [each for each in self._ghosts if each.until is not None and each.until <= now]:
            self._end_ghost(ghost)
        for key, group in list(self._groups.items()):
            if not group.members and group.until is not None and group.until <= now:
                del self._groups[key]
                self._forget(group)
        idle = [s for s in self._streams.values() if not s.cursors]
        for stream in idle:
            if stream.idle_since is None:
                stream.idle_since = now
        idle.sort(key=lambda s: s.idle_since or 0.0)
        beyond = len(idle) - STREAMS_REMEMBERED
        for at, stream in enumerate(idle):
            if at < beyond or now >= (stream.idle_since or now) + STREAM_IDLE:
                self._forgotten = max(self._forgotten, stream.count)
                del self._streams[stream.pattern]
                self._patterns.remove(stream.pattern, stream)
                self.version += 1
                self._dirty.pop(stream, None)

    def wake(self) -> float:
        """When `tick` is to be called next, for those who have been away too long."""
        if not self._ghosts and not self._groups:
            return inf
        return min((c.until for c in (*self._ghosts, *self._groups.values()) if c.until is not None), default=inf)

    # -- sending -------------------------------------------------------------------------------------------------------

    @property
    def is_behind(self) -> bool:
        """Whether something could go that has not gone: at the next turn."""
        return bool(self._later)

    def resume(self) -> None:
        """A turn begins: whoever was not sent all in the one before goes on, before others."""
        if self._later:
            later, self._later = self._later, {}
            conns = [one for one in later if isinstance(one, int)]
            self._roomy = dict.fromkeys(conns) | self._roomy
            self._dirty = dict.fromkeys(one for one in later if isinstance(one, Stream)) | self._dirty

    def flush(self, *, is_last: bool = False) -> None:
        """What may go, goes, as far as the turn of each allows. is_last: everything that may."""
        if is_last:
            self.resume()
        if not self._dirty and not self._roomy:
            return
        dirty, self._dirty = self._dirty, {}
        roomy, self._roomy = self._roomy, {}
        conns = dict.fromkeys(roomy)
        groups: dict[Cursor, None] = {}
        for stream in dirty:
            for cursor in stream.cursors:
                if cursor.name:
                    groups[cursor] = None
                elif cursor.conn:
                    conns[cursor.conn] = None
        for conn in roomy:
            groups.update((self._groups[key], None) for key in self._joined.get(conn, {}).values())
        # What is more than the bytes that are kept will be forgotten: before that it goes to all who have room.
        is_bounded = not is_last and all(stream.nbytes <= self._config.topic_bytes for stream in dirty)
        sending = Sending(self._effects, self.epoch, is_bounded=is_bounded)
        touched = dict(dirty)
        first: dict[int | Stream, None] = {}  # those that were sent nothing are the first at the next turn
        served: list[int | Cursor] = [*groups, *conns] if self._groups_first else [*conns, *groups]
        for one in served:
            was_spent = sending.is_spent
            if isinstance(one, Cursor):
                touched[one.stream] = None
                if not sending.share(one):
                    (first if was_spent else self._later)[one.stream] = None
                continue
            cursors = self._cursors.get(one, ())
            touched.update((cursor.stream, None) for cursor in cursors)
            if sending.feed(one, cursors):
                self._later.pop(one, None)
            else:
                (first if was_spent else self._later)[one] = None
        self._groups_first = any(isinstance(one, Stream) for one in first)
        if first:
            self._later = first | self._later
        for stream in touched:
            for cursor in list(stream.cursors):
                # Who has room for what waits, and has it at the next turn, loses nothing.
                if (stream if cursor.name else cursor.conn) not in self._later:
                    self._bound(cursor)
            stream.keep(self._config.topic_bytes)

    def _bound(self, cursor: Cursor) -> None:
        """What its queue does not hold, but for what was accepted as reliable: that is not passed over."""
        if cursor.dirty is not None:
            cursor.shorten()
            return
        beyond = cursor.stream.count - cursor.c - cursor.queue
        if beyond <= 0 or cursor.ahead:
            return
        beyond = cursor.stream.droppable(cursor.c, beyond)
        if not beyond:
            return
        if cursor.overflow == DISCONNECT and not cursor.name:
            if cursor.conn:
                words = f"more than {cursor.queue} events waited for it"
                said = Subscribed(cursor.id, self.epoch, self.event, cursor.c, cursor.lag(), True, words)
                self._effects.send(cursor.conn, said)
                cursor.lose(cursor.lag())
                self._cursors[cursor.conn].remove(cursor)
            else:
                self._ghosts.remove(cursor)
            self._forget(cursor)
            return
        cursor.skip(beyond)
