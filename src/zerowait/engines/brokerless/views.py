"""What is shown of peers: their state, what they serve, and what they expect."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from zerowait.engines.brokerless.contacts import Contacts
from zerowait.engines.brokerless.protocol.core import Core
from zerowait.engines.brokerless.protocol.link import Link, Mismatch
from zerowait.engines.brokerless.protocol.publisher.cursor import Stream
from zerowait.patterns import overlap


class PeerView(Struct, frozen=True):
    """A peer, as it is shown."""

    name: str
    instance: int
    pid: int
    is_local: bool
    address: str
    state: str
    serves: tuple[str, ...]
    in_flight: int
    silent_for_s: float
    mismatches: dict[str, str]  # channel → what the two ends of it disagree about


class SubscriptionView(Struct, frozen=True):
    """What is subscribed to something that this process publishes. group: of which each event goes to one; "": those
    who stand for themselves, together. waiting: the most that waits for one of them."""

    pattern: str
    group: str
    subscribers: int
    waiting: int
    dropped: int


class TopicView(Struct, frozen=True):
    """A topic that this process publishes, as it was declared."""

    topic: str
    published: int
    subscriptions: tuple[SubscriptionView, ...]


class Views:
    """is_hidden: whether an instance is not to be shown. name: what an instance is called for people."""

    def __init__(
        self, core: Core, contacts: Contacts, is_hidden: Callable[[int], bool], name: Callable[[int], str]
    ) -> None:
        self._core = core
        self._contacts = contacts
        self._is_hidden = is_hidden
        self._name = name

    def peers(self, now: float) -> list[PeerView]:
        peers = self._core.peers
        views: list[PeerView] = []
        for peer in peers:
            if peer.instance == self._core.me.instance or self._is_hidden(peer.instance):
                continue
            link = peer.link
            conn = link.conn if link is not None else 0
            entry = self._contacts.entry(peer.instance)
            in_flight = sum(
                len(flight.left) for c in self._core.owner.custody.values() for flight in c.flights_of(peer.instance)
            )
            views.append(
                PeerView(
                    name=peer.hello.name,
                    instance=peer.instance,
                    pid=peer.hello.pid,
                    is_local=peers.is_local(peer),
                    address=self._contacts.address_of(conn) or (entry.endpoints[0] if entry is not None else ""),
                    state="stuck" if peer.is_held or peer.stuck_since is not None else peer.phase.value,
                    serves=tuple(link.served) if link is not None else (),
                    in_flight=in_flight,
                    silent_for_s=round(now - peer.heard_at, 3),
                    mismatches=_differences(link) if link is not None else {},
                )
            )
        return views

    def workers(self, channel: str) -> list[str]:
        """Who serves this channel now, by name."""
        return [link.hello.name for link in self._core.owner.sender.there(channel) if link.hello is not None]

    def subscribers(self, pattern: str) -> list[str]:
        """Who has subscribed to something of this, by name; a durable group's members among them."""
        conns = self._core.publisher.subscribers(pattern)
        return [
            link.hello.name
            for conn, link in self._core.links.items()
            if link.hello is not None and link.is_round and (conn in conns or _has_group(link, pattern))
        ]

    def topics(self) -> list[TopicView]:
        """What this process publishes, and for whom; without durable groups, which are channels."""
        publisher = self._core.publisher
        return [
            TopicView(
                each.pattern,
                each.published,
                tuple(view for stream in publisher.streams(each.pattern) for view in _subscriptions(stream)),
            )
            for each in publisher.announced.values()
        ]

    def there_for(self, channel: str, box: int) -> tuple[bool, tuple[str, ...]]:
        """Whether somebody may take what this outbox has for the channel; and by name, who expects another type."""
        fit, unfit = self._core.owner.there_for(channel, box)
        return bool(fit), tuple(sorted({self._name(link.instance) for link in unfit}))

    def misfits(self, channel: str) -> list[tuple[str, Mismatch]]:
        """Who serves this channel and expects another type than is pushed here: name, and the difference."""
        return [(self._name(link.instance), each) for link, each in self._core.owner.misfits(channel)]


def _subscriptions(stream: Stream) -> list[SubscriptionView]:
    alone = [cursor for cursor in stream.cursors if not cursor.name]
    views = [
        SubscriptionView(stream.pattern, cursor.name, len(cursor.members), cursor.lag(), cursor.dropped)
        for cursor in stream.cursors
        if cursor.name
    ]
    if alone or stream.dropped:
        waiting = max((cursor.lag() for cursor in alone), default=0)
        there = sum(cursor.conn != 0 for cursor in alone)
        views.insert(0, SubscriptionView(stream.pattern, "", there, waiting, stream.dropped))
    return views


def _differences(link: Link) -> dict[str, str]:
    return {channel: mismatch.difference for (channel, _), mismatch in link.unfit.items() if mismatch is not None}


def _has_group(link: Link, pattern: str) -> bool:
    """Whether a member of a durable group of this is at its other end."""
    return any("@" in each and overlap(each.rpartition("@")[0], pattern) for each in link.served)
