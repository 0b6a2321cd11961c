"""The subscriber's side: what this process has subscribed to, with each publisher that it is connected to (rules §10).

A SUBSCRIBE goes out on every link, also to processes that publish nothing yet: what they publish first is not missed.
It names where we left off, if we did: (epoch, last event, last count).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from zerowait.agreement import compatible, in_words
from zerowait.contract import Description, fingerprint_of, unpacked
from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.effects import Effects, Say
from zerowait.engines.brokerless.protocol.frames import (
    CONFLATE,
    MALFORMED,
    NUMBER_MOST,
    UNEXPECTED,
    UNKNOWN,
    Event,
    Events,
    ProtocolError,
    Room,
    Schema,
    Served,
    Subscribe,
    Subscribed,
)
from zerowait.engines.brokerless.protocol.link import Link
from zerowait.engines.brokerless.protocol.owner.credit import units
from zerowait.engines.brokerless.protocol.subscriber.inbox import Inbox, Mark, Piece, Source
from zerowait.message import ARRAY32, BODY_HEADER, BODY_START
from zerowait.patterns import matches, overlap
from zerowait.words import plural

PLACES_REMEMBERED = 4_096  # publishers that went away, and where we left off with each
TOLD_MOST = 1_024


class Wanted(Struct, eq=False):
    """A subscription of this process. description: of the type it expects; queue: events, a publisher each, of which
    a part may be on their way here (`window`) and the rest waits at the publisher."""

    id: int
    pattern: str
    inbox: Inbox
    replay: int = 0
    replay_ms: int = 0
    group: str = ""
    queue: int = 1_000
    overflow: int = 0
    description: bytes = b""
    ended: Callable[[str, int, str], object] | None = None  # publisher, events lost, why: a publisher has ended it
    lost: Callable[[int], object] | None = None  # so many, of which no event tells yet: their publisher has left


class Place(Struct):
    """Where we are with a publisher."""

    epoch: int
    event: int
    count: int


class Tap(Struct, eq=False):
    """A subscription on a connection."""

    wanted: Wanted
    source: Source
    place: Place
    limit: int  # units that it may be sent in this session
    received: int = 0
    is_answered: bool = False


class Subscriber:
    def __init__(self, effects: Effects) -> None:
        self._effects = effects
        self.wanted: dict[int, Wanted] = {}
        self._links: dict[int, Link] = {}
        self._taps: dict[int, dict[int, Tap]] = {}  # connection → subscription → …
        self._places: dict[tuple[int, int], Place] = {}  # (instance, subscription)
        self._broken: dict[tuple[str, int], Place] = {}  # (publisher's name, subscription) → of a life that broke off
        self._gone: dict[tuple[int, int], Place] = {}  # (instance, subscription) → likewise, if it is back after all
        self._away: dict[int, str] = {}  # instance → name, of those without a connection that may be back
        self._schemas: dict[tuple[int, bytes], Served] = {}  # asked for: (connection, fingerprint)
        self._types: dict[bytes, Description] = {}
        self._told: dict[tuple[int, int, str], None] = {}

    # -- what this process wants ---------------------------------------------------------------------------------------

    def add(self, wanted: Wanted) -> None:
        self.wanted[wanted.id] = wanted
        for link in self._links.values():
            self._subscribe(link, wanted)
            self._compare(link, wanted)

    def remove(self, id: int) -> None:
        wanted = self.wanted.pop(id, None)
        if wanted is None:
            return
        for conn, taps in self._taps.items():
            if taps.pop(id, None) is not None:
                self._effects.send(conn, Subscribe(id, wanted.pattern, group=wanted.group, ends=True))
        for places in (self._places, self._gone):
            for name in [name for name in places if name[1] == id]:
                del places[name]
        for broken in [name for name in self._broken if name[1] == id]:
            del self._broken[broken]

    def publishers(self, pattern: str) -> list[str]:
        """The names of the connected processes that publish something of this, and know of all that we want of it."""
        found: list[str] = []
        for conn, link in sorted(self._links.items()):
            if not any(s.kind == "topic" and overlap(s.channel, pattern) for s in link.topics):
                continue
            taps = self._taps.get(conn, {}).values()
            if all(tap.is_answered for tap in taps if overlap(tap.wanted.pattern, pattern)) and link.hello is not None:
                found.append(link.hello.name)
        return found

    def renew(self) -> None:
        """Publishers learn of room that there is again."""
        for wanted in self.wanted.values():
            for source, limit in wanted.inbox.rooms():
                for conn, taps in self._taps.items():
                    tap = taps.get(wanted.id)
                    if tap is not None and tap.source is source:
                        self._tell_room(conn, tap, limit)

    def beat(self, link: Link) -> None:
        """With each PING a publisher learns of what was taken, be it little: who takes slowly is told from who does not
        take at all, for whom a publisher that leaves does not wait."""
        for tap in self._taps.get(link.conn, {}).values():
            limit = tap.wanted.inbox.room(tap.source)
            if limit is not None:
                self._tell_room(link.conn, tap, limit)

    def _tell_room(self, conn: int, tap: Tap, limit: int) -> None:
        tap.limit = limit
        self._effects.send(conn, Room(tap.wanted.id, limit, tap.source.seen))

    # -- links ---------------------------------------------------------------------------------------------------------

    def announced(self, link: Link) -> None:
        """Its STATE has come: what it publishes may be new."""
        if link.conn not in self._links:
            self._away.pop(link.instance, None)
            self._links[link.conn] = link
            self._taps[link.conn] = {}
            for wanted in self.wanted.values():
                self._subscribe(link, wanted)
        for wanted in self.wanted.values():
            self._compare(link, wanted)

    def closed(self, link: Link) -> None:
        if self._links.pop(link.conn, None) is not None and link.hello is not None:
            self._away[link.instance] = link.hello.name
        for tap in self._taps.pop(link.conn, {}).values():
            if tap.place.epoch:  # answered, or where an earlier connection left off
                self._places[link.instance, tap.wanted.id] = tap.place
        for asked in [asked for asked in self._schemas if asked[0] == link.conn]:
            del self._schemas[asked]

    def left(self, link: Link, missed: Mapping[int, int]) -> None:
        """It says goodbye, and how many events each of our subscriptions was not sent. What it had not answered yet it
        may not have known either: of that nothing is known."""
        taps = self._taps.get(link.conn, {})
        for id, tap in [(id, tap) for id, tap in taps.items() if tap.is_answered]:
            del taps[id]  # there is no place to go on from
            self._lost(link, tap, missed.get(id, 0))

    def _lost(self, link: Link, tap: Tap, count: int) -> None:
        wanted = tap.wanted
        if count and wanted.ended is not None:  # rather nothing than with holes
            wanted.ended(tap.source.sender, count, "it has left")
            return
        wanted.inbox.part(tap.source, count)  # also of none: what was missed before may be told by another of its name
        if not count:
            return
        if wanted.lost is not None:
            wanted.lost(count)
        whom = f"the group {wanted.group}" if wanted.group else "this process"
        are = "is" if count == 1 else "are"
        words = f"{plural(count, 'event')} of {wanted.pattern} that waited there for {whom} {are} missed"
        self._effects.add(Say("unsent", words, link.instance, wanted.pattern))

    def gone(self, instance: int, name: str) -> None:
        """Nobody waits for it any more. Where it has not told how much it had not sent, the next one of its name may
        have published in its place, and nobody knows; unless it is back itself, and was only away for long."""
        self._away.pop(instance, None)
        for key in [key for key in self._places if key[0] == instance]:
            self._gone[key] = place = self._places.pop(key)
            if name:
                self._broken[name, key[1]] = place
        _bound(self._gone)
        _bound(self._broken)
        if not any(link.instance == instance for link in self._links.values()):
            for wanted in self.wanted.values():
                wanted.inbox.forget(instance)

    def _subscribe(self, link: Link, wanted: Wanted) -> None:
        assert link.hello is not None
        source = wanted.inbox.source(link.instance, link.hello.name)
        place = self._left_off(link.instance, link.hello.name, wanted.id) or Place(0, 0, 0)
        limit = wanted.inbox.begin(source)
        self._taps[link.conn][wanted.id] = Tap(wanted, source, place, limit)
        self._effects.send(
            link.conn,
            Subscribe(
                wanted.id, wanted.pattern, place.epoch, place.event, place.count, wanted.replay, wanted.replay_ms,
                wanted.group, False, limit, _waiting(wanted), wanted.overflow,
            ),
        )  # fmt: skip

    def _left_off(self, instance: int, name: str, id: int) -> Place | None:
        """Where we are with that publisher; else with an earlier life of that name that has told not all there was."""
        place = self._places.pop((instance, id), None)
        if place is not None:
            return place
        place = self._gone.pop((instance, id), None)
        if place is not None:
            if self._broken.get((name, id)) is place:
                del self._broken[name, id]
            return place
        place = self._broken.pop((name, id), None)
        if place is not None:
            return place
        # One of its name has perhaps just broken off, and is not known to be dead yet.
        away = (each for each, called in self._away.items() if called == name and each != instance)
        return next((found for each in away if (found := self._places.get((each, id))) is not None), None)

    # -- types ---------------------------------------------------------------------------------------------------------

    def _compare(self, link: Link, wanted: Wanted) -> None:
        """What is published there is compared with what we expect; only told: what can be read is read."""
        if not wanted.description or unpacked(wanted.description) == "any":
            return
        for served in link.topics:
            theirs = served.fingerprint
            if (
                not theirs
                or theirs == fingerprint_of(wanted.description)
                or not overlap(served.channel, wanted.pattern)
            ):
                continue
            if theirs in self._types:
                self._tell(link, wanted, served, self._types[theirs])
            elif (link.conn, theirs) not in self._schemas:
                self._schemas[link.conn, theirs] = served
                self._effects.send(link.conn, Schema(theirs))

    def described(self, link: Link, schema: Schema) -> None:
        served = self._schemas.pop((link.conn, schema.fingerprint), None)
        if served is None or fingerprint_of(schema.description) != schema.fingerprint:
            return
        try:
            self._types[schema.fingerprint] = unpacked(schema.description)
        except ValueError:
            return
        while len(self._types) > TOLD_MOST:
            del self._types[next(iter(self._types))]
        for wanted in self.wanted.values():
            self._compare(link, wanted)

    def _tell(self, link: Link, wanted: Wanted, served: Served, theirs: Description) -> None:
        name = (link.instance, wanted.id, served.channel)
        if name in self._told:
            return
        self._told[name] = None
        while len(self._told) > TOLD_MOST:
            del self._told[next(iter(self._told))]
        ours = unpacked(wanted.description)
        try:
            difference = compatible(theirs, ours)
            types = in_words(theirs), in_words(ours)
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
            difference, types = "what is published there cannot be read here: upgrade the older end", ("unknown", "")
        if difference:
            self._effects.add(Say("misfit", difference, link.instance, served.channel, types=types))

    # -- frames --------------------------------------------------------------------------------------------------------

    def receive(self, link: Link, said: Events | Event | Subscribed) -> None:
        taps = self._taps.get(link.conn)
        if taps is None:
            return
        match said:
            case Events():
                self._events(taps, said)
            case Event():
                self._event(taps, said)
            case Subscribed():
                self._subscribed(link, taps, said)

    def _subscribed(self, link: Link, taps: dict[int, Tap], said: Subscribed) -> None:
        tap = taps.get(said.subscription)
        if tap is None:
            return
        if not 0 <= said.count < NUMBER_MOST or not UNKNOWN <= said.missed < NUMBER_MOST:
            raise ProtocolError(MALFORMED, f"a SUBSCRIBED with count {said.count}, {said.missed} missed")
        if said.ends:
            self._ended(link, taps, tap, said)
            return
        if tap.place.epoch == said.epoch and not said.missed and tap.place.count != said.count:
            # Where it knows that place it goes on there: so this answers what an earlier session had left in the pipe.
            words = f"a SUBSCRIBED at {said.count}, and {tap.place.count} was named"
            raise ProtocolError(UNEXPECTED, words)
        tap.is_answered = True
        tap.place = Place(said.epoch, said.event, said.count)
        tap.wanted.inbox.mark(tap.source, Mark(said.count, said.missed))
        if said.missed == UNKNOWN:
            words = "it was restarted, and what it published before that and did not tell is not known"
            self._effects.add(Say("gap", words, link.instance, tap.wanted.pattern))
        self._effects.add(Say("state", "", link.instance))

    def _ended(self, link: Link, taps: dict[int, Tap], tap: Tap, said: Subscribed) -> None:
        """Its queue there was full. Who does not want to end with it goes on behind what is lost."""
        wanted, missed = tap.wanted, max(0, said.missed)
        del taps[said.subscription]
        if wanted.ended is not None:
            wanted.ended(tap.source.sender, missed, said.words)
            return
        count = said.count + missed
        wanted.inbox.mark(tap.source, Mark(count, missed))
        self._places[link.instance, wanted.id] = Place(said.epoch, said.event, count)
        self._subscribe(link, wanted)

    def _events(self, taps: dict[int, Tap], said: Events) -> None:
        frames.check_events(said)
        ends = said.ends.cast("I")
        headers = said.headers or None
        for id, c in said.subscriptions.items():
            tap = taps.get(id)
            if tap is None:
                continue  # it has just been given up
            pattern, at, many = tap.wanted.pattern, 0, 0
            runs: list[tuple[str, int, int]] = []
            for topic, more in said.topics:
                if matches(pattern, topic):
                    runs.append((topic, at, at + more))
                    many += more
                at += more
            if not many:
                continue
            cost = units(many, len(said.body) - BODY_START)
            if tap.received >= tap.limit:  # the last may overdraw
                words = f"EVENTS for subscription {id} beyond the {tap.limit} units that it has room for"
                raise ProtocolError(UNEXPECTED, words)
            tap.received += cost
            piece = Piece(tuple(runs), c, many, cost / many, said.body, ends, said.base, said.sent_at, headers)
            if c:
                tap.place = Place(said.epoch, said.event, c + many - 1)
            tap.wanted.inbox.put(tap.source, piece)

    def _event(self, taps: dict[int, Tap], said: Event) -> None:
        """One alone, as a publisher may say it that makes no batches."""
        body = BODY_HEADER.pack(ARRAY32, 1) + said.body
        ends = memoryview(len(body).to_bytes(4, "little"))
        headers = {0: said.headers} if said.headers else {}
        many = Events(
            said.epoch, said.event, ((said.topic, 1),), said.subscriptions, said.sent_at, 0, ends, memoryview(body),
            headers,
        )  # fmt: skip
        self._events(taps, many)


def _bound(places: dict[Any, Place]) -> None:
    while len(places) > PLACES_REMEMBERED:
        del places[next(iter(places))]


def _waiting(wanted: Wanted) -> int:
    """How many may wait at a publisher: the rest of the queue; of one that conflates the newest of so many topics, of
    which all that is on its way may be replaced."""
    return wanted.queue if wanted.overflow == CONFLATE else max(1, wanted.queue - wanted.inbox.window)


def window_of(queue: int, overflow: int) -> int:
    """How much of a queue may be on its way: enough that a round trip does not hold it up, and little of what may have
    to be dropped. One that conflates replaces what it has, and needs no more than a step of its own."""
    return max(1, min(queue, 4_096)) if overflow == CONFLATE else max(1, queue // 4)
