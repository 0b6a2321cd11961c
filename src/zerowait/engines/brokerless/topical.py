"""Topics on the network thread: what was published goes into the protocol, and what this process wants is known
there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from zerowait.engines.brokerless.clock import clock
from zerowait.engines.brokerless.protocol.core import Core
from zerowait.engines.brokerless.protocol.publisher.history import Block
from zerowait.engines.brokerless.protocol.subscriber.subscriber import Wanted
from zerowait.names import nearest
from zerowait.patterns import overlap, parted
from zerowait.topics.bundle import RELIABLE, RETAIN, Press
from zerowait.topics.groups import Groups

log = logging.getLogger("zerowait.node")

LONELY_S = 10.0
SOUGHT_MOST = 1_024  # topics that are sought though nobody subscribes to them: those that were asked for last


class Topical:
    """On the network thread, but for `renew`.

    press: where what is published gathers. groups: the durable ones. wake: tells the network thread that there is
    something.
    """

    def __init__(self, press: Press, groups: Groups, wake: Callable[[], None]) -> None:
        self._press = press
        self._groups = groups
        self._wake = wake
        self._renew = False
        self._lonely: dict[str, float] = {}  # subscriptions that nobody publishes for, and since when
        self._told: set[str] = set()
        self._unheard: dict[str, float] = {}  # topics that are published, and since when, until it is known who hears
        self._heard: set[str] = set()  # those of which it is known, or nobody does and that was told
        self._sought: dict[str, None] = {}  # topics whose publishers are asked for, subscribed to or not
        self._core: Core

    def open(self, core: Core) -> None:
        self._core = core

    def renew(self) -> None:
        """Any thread: something was taken, and publishers should learn that there is room."""
        if not self._renew:
            self._renew = True
            self._wake()

    def has_work(self) -> bool:
        return self._renew or self._press.has_work()

    def is_settled(self) -> bool:
        """Whether all that was published has been sent to those who have room for it."""
        return not self._press.has_work() and self._core.publisher.is_settled(clock())

    def take(self, now: float) -> None:
        """What was published since the last turn is numbered and addressed."""
        if self._renew:
            self._renew = False
            self._core.subscriber.renew()
        publisher = self._core.publisher
        for bundle in self._press.take():
            if not bundle.ends:
                bundle.addressed({})
                continue
            lanes = [(lane, start) for lane, start in bundle.runs if lane.reliable]
            headers = {at: dict(said) for at, said in bundle.headers.items()} if bundle.headers else None
            body, ends, said = bundle.let_go()
            starts = {start: stop - start for _, start, stop, _ in said}
            for lane, start in lanes:
                lane.published += starts[start]
            runs = tuple((t, a, b, bool(f & RETAIN), bool(f & RELIABLE)) for t, a, b, f in said)
            try:
                addressed = publisher.publish(Block(body, ends, runs, bundle.sent_at, now, headers))
            except Exception as error:  # whoever waits for it is told, and what comes after it is not lost with it
                log.exception("%d events are lost: they cannot be published. This is a bug in zerowait", len(ends))
                bundle.failed(error)
            else:
                bundle.addressed(addressed)

    def allow(self) -> None:
        """After what could go has gone: how much more of reliable topics may be published."""
        publisher = self._core.publisher
        self._press.allow(publisher.version, publisher.patterns, publisher.room)

    def look(self, now: float, published: Iterable[str]) -> None:
        """A subscription that nobody publishes for says so after a while, if it may be a mistake: another name is
        near. published: topics that are, in this namespace and by peers."""
        names = sorted({*published, *self._core.publisher.announced})
        patterns = {wanted.pattern for wanted in self._core.subscriber.wanted.values()}
        # What is not wanted any more begins anew if it is wanted again.
        self._lonely = {pattern: since for pattern, since in self._lonely.items() if pattern in patterns}
        self._told &= patterns
        for pattern in patterns:
            if any(overlap(pattern, name) for name in names):
                self._lonely.pop(pattern, None)
                continue
            since = self._lonely.setdefault(pattern, now)
            meant = nearest(pattern, names) if now - since >= LONELY_S else None
            if meant is not None and pattern not in self._told:
                self._told.add(pattern)
                log.warning(
                    "nobody publishes %s, for 10 s now; published are %s. Did you mean %s?",
                    pattern,
                    ", ".join(names[:10]),
                    meant,
                )

        self._look_at_unheard(now, patterns)

    def _look_at_unheard(self, now: float, mine: Iterable[str]) -> None:
        """What is published and nobody has subscribed to says so, once a topic: that may be as it should be. mine: what
        this process subscribes to itself."""
        publisher = self._core.publisher
        if len(self._heard) >= len(publisher.announced):
            return
        for topic, announced in publisher.announced.items():
            if topic in self._heard or not announced.published:
                continue
            if now - self._unheard.setdefault(topic, now) < LONELY_S:
                continue
            del self._unheard[topic]
            self._heard.add(topic)
            groups = (pattern for pattern, _ in self._groups.seen().values())
            if not publisher.subscribers(topic) and not any(overlap(each, topic) for each in (*mine, *groups)):
                subscribed = sorted({stream.pattern for stream in publisher.streams(">")})
                meant = nearest(topic, subscribed)
                log.info(
                    "nobody has subscribed to %s, which is published for 10 s now: its events go to nobody%s",
                    topic,
                    f". Subscribed to is {meant}: did you mean that?" if meant is not None else "",
                )

    # -- through calls -------------------------------------------------------------------------------------------------

    def announce(self, pattern: str, fingerprint: bytes, description: bytes, history: int) -> bool:
        return self._core.announce_topic(pattern, fingerprint, description, history)

    def subscribe(self, wanted: Wanted) -> None:
        self._core.subscriber.add(wanted)

    def unsubscribe(self, id: int) -> None:
        self._core.subscriber.remove(id)

    def publishes(self) -> tuple[str, ...]:
        return tuple(self._core.publisher.announced)

    def subscribes(self) -> tuple[str, ...]:
        return tuple({*self._sought, *(wanted.pattern for wanted in self._core.subscriber.wanted.values())})

    def seek(self, pattern: str) -> None:
        """Somebody asks who publishes this."""
        self._sought.pop(pattern, None)
        self._sought[pattern] = None
        if len(self._sought) > SOUGHT_MOST:
            del self._sought[next(iter(self._sought))]

    def met(self, channels: Iterable[str]) -> None:
        """Channels that others serve: durable groups among them are remembered by who publishes what they want."""
        mine = self._core.publisher.announced
        for channel in channels:
            both = parted(channel)
            if both is not None and any(overlap(pattern, both[0]) for pattern in mine):
                self._groups.met(channel)
