"""Whom to dial: for each channel in use, the local processes that serve it and the addresses that settings name for it.

The library dials again by itself, with a growing pause, for as long as the channel is in use; ZeroMQ's own reconnecting
is switched off, so that one socket is one session.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from msgspec import Struct

from zerowait.engines.brokerless.addresses import AddressBook
from zerowait.engines.brokerless.entry import Entry
from zerowait.names import process_name
from zerowait.patterns import overlap

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 0.6  # and half of it more by chance: who restarts elsewhere has its first message within a second
# A system asks again 1 s and 3 s after its first, unanswered request for a connection, so that a way that opens in
# between is found by the next dial and not by that one: none waits much beyond the first repetition, but every eighth,
# for whoever is so far away.
CONNECT_S, CONNECT_LONG_S = 1.6, 3.2


class Contact(Struct):
    """One endpoint that is wanted. instance: whose it is, where the directory says so."""

    endpoint: str
    source: str  # the address in settings that it stands for, or "" for a local one
    instance: int = 0
    met: int = 0  # who answered there last: not dialled again while there is any link with that process
    conn: int = 0
    pause: float = FIRST_PAUSE
    vain: int = 0  # dials in a row by which nobody was met
    dial_at: float = 0.0
    asked_at: float | None = None  # when it was dialled first since somebody answered there
    trouble: str = ""

    def connect_s(self) -> float:
        """How long the next dial may wait for a connection."""
        return CONNECT_LONG_S if self.vain % 8 == 7 else CONNECT_S


class Contacts:
    def __init__(
        self, me: int, book: AddressBook, resolve: Callable[[str], list[str]], jitter: Callable[[], float]
    ) -> None:
        self._me = me
        self._book = book
        self._resolve = resolve
        self._jitter = jitter
        self._own: set[str] = set()
        self._local: dict[int, Entry] = {}
        self._contacts: dict[str, Contact] = {}
        self._by_conn: dict[int, Contact] = {}

    def own(self, endpoints: Iterable[str]) -> None:
        """Where this process listens itself: never dialled."""
        self._own.update(endpoints)

    def look(self, entries: Iterable[Entry]) -> None:
        """What the directory shows now."""
        self._local = {entry.instance: entry for entry in entries if entry.instance != self._me and entry.endpoints}

    def entry(self, instance: int) -> Entry | None:
        return self._local.get(instance)

    def due(
        self,
        wanted: Iterable[str],
        served: Iterable[str],
        linked: Callable[[int], bool],
        now: float,
        sought: Collection[int] = (),
        *,
        publishes: Collection[str] = (),
        subscribes: Collection[str] = (),
    ) -> list[Contact]:
        """Those to be dialled at this moment. wanted: channels that this process pushes to; served: those that it
        handles, whose senders may be the ones that listen. publishes, subscribes: topics; either side dials the other,
        so that whoever comes last need not wait to be found. linked: whether there is a link with that instance
        already. sought: outboxes whose owner is to be asked something."""
        keep: dict[str, Contact] = {}
        for entry in self._local.values() if sought else ():
            if any(box in sought for box in entry.boxes):
                self._keep(keep, entry.endpoints[0], "", entry.instance)
        for channel in wanted:
            for entry in self.local_workers(channel):
                self._keep(keep, entry.endpoints[0], "", entry.instance)
        if publishes or subscribes:
            for entry in self._local.values():
                if _meet(publishes, entry.subscribes) or _meet(subscribes, entry.publishes):
                    self._keep(keep, entry.endpoints[0], "", entry.instance)
            for topic in {*publishes, *subscribes}:
                for address in self._book.overlapping(topic):
                    for endpoint in self._resolve(address):
                        if endpoint not in self._own:
                            self._keep(keep, endpoint, address, 0)
        for channel in {*wanted, *served}:
            for address in self._book.of(channel):
                for endpoint in self._resolve(address):
                    if endpoint not in self._own:
                        self._keep(keep, endpoint, address, 0)
        for endpoint, contact in self._contacts.items():
            if contact.conn and endpoint not in keep:
                keep[endpoint] = contact  # not wanted any more, but there: its end is the protocol's to decide
        self._contacts = keep
        return [
            contact
            for contact in keep.values()
            if not contact.conn and contact.dial_at <= now and not linked(contact.instance or contact.met)
        ]

    def _keep(self, keep: dict[str, Contact], endpoint: str, source: str, instance: int) -> None:
        contact = self._contacts.get(endpoint)
        if contact is None or contact.instance != instance:
            contact = Contact(endpoint, source, instance)
        keep[endpoint] = contact

    def dialled(self, contact: Contact, conn: int, now: float) -> None:
        contact.conn = conn
        if contact.asked_at is None:
            contact.asked_at = now
        self._by_conn[conn] = contact

    def refused(self, contact: Contact, words: str, now: float) -> None:
        """It could not even be dialled."""
        self._again(contact, words, now)

    def met(self, conn: int, instance: int) -> None:
        """A process has said HELLO on a connection that we dialled."""
        contact = self._by_conn.get(conn)
        if contact is not None:
            contact.met, contact.pause, contact.vain, contact.trouble = instance, FIRST_PAUSE, 0, ""
            contact.asked_at = None

    def lost(self, conn: int, words: str, now: float) -> Contact | None:
        """A dialled connection is over: it is tried again after a while."""
        contact = self._by_conn.pop(conn, None)
        if contact is not None:
            contact.conn = 0
            self._again(contact, words, now)
        return contact

    def _again(self, contact: Contact, words: str, now: float) -> None:
        contact.trouble = words
        contact.vain += 1
        contact.dial_at = now + contact.pause * (0.5 + self._jitter())
        contact.pause = min(LONGEST_PAUSE, contact.pause * 2)

    def address_of(self, conn: int) -> str:
        contact = self._by_conn.get(conn)
        return contact.endpoint if contact is not None else ""

    def address_met(self, instance: int) -> str:
        """The address of settings at which this process answered last; "" if it was found otherwise."""
        return next((c.endpoint for c in self._contacts.values() if c.source and c.met == instance), "")

    def asked_since(self, instance: int) -> float | None:
        """Since when a process of this namespace is dialled in vain."""
        return next((c.asked_at for c in self._contacts.values() if c.instance == instance and not c.source), None)

    def local_workers(self, channel: str) -> list[Entry]:
        """The processes of this namespace that serve this channel, linked to us or not."""
        return [entry for entry in self._local.values() if channel in entry.serves]

    def unanswered(self) -> bool:
        """Whether an address is known that has neither answered nor failed yet."""
        return any(not contact.trouble and not contact.met for contact in self._contacts.values())

    def troubles(self, channel: str) -> Mapping[str, str]:
        """What is known of each address that settings name for this channel."""
        addresses = self._book.of(channel)
        found = {c.endpoint: c.trouble for c in self._contacts.values() if c.source in addresses}
        return {**{address: "not resolved" for address in addresses if not self._resolve(address)}, **found}

    def serving(self, channel: str) -> tuple[str, str] | None:
        """If a process of this namespace serves a channel of this name: its kind, and who. Any thread."""
        for entry in self._local.values():  # replaced, never changed
            if (kind := entry.serves.get(channel)) is not None:
                return kind, process_name(entry.name, entry.pid)
        return None

    def published(self) -> set[str]:
        """The topics that processes of this namespace publish."""
        return {topic for entry in self._local.values() for topic in entry.publishes}

    def groups(self) -> set[str]:
        """The channels of durable groups that processes of this namespace serve."""
        return {channel for entry in self._local.values() for channel in entry.serves if "@" in channel}

    def channels(self) -> set[str]:
        """What the processes of this namespace serve, linked to us or not."""
        return {channel for entry in self._local.values() for channel in entry.serves}


def _meet(ours: Iterable[str], theirs: Iterable[str]) -> bool:
    return any(overlap(one, other) for one in ours for other in theirs)
