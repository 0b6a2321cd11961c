"""Finding the workers of the channels that are pushed to: who is there is looked up in the directory, and dialled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable

from zerowait.engines.brokerless.contacts import Contacts
from zerowait.engines.brokerless.directory import Directory
from zerowait.engines.brokerless.protocol.core import Core
from zerowait.engines.brokerless.wire import Wire
from zerowait.errors import ZerowaitError

ASKED_MOST = 1_024  # channels whose workers were asked for though nothing is pushed there: those asked for last
LOOK_S = 0.1  # how often the directory is looked at while a channel that is pushed to has no worker; else seldomer


class Wanted:
    """The channels whose workers are to be found. used: of those, what something is or will be pushed to; the rest was
    only asked for. look_at: when they are looked for next."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.channels: frozenset[str] = frozenset()
        self.used: frozenset[str] = frozenset()
        self.look_at = 0.0
        self._asked: dict[str, None] = {}
        self._wake = wake
        self._lock = threading.Lock()

    def add(self, channel: str) -> None:
        """Something is or will be pushed to it. Any thread."""
        if channel not in self.used:
            with self._lock:
                self._use(self.used | {channel})
            self.look_at = 0.0
            self._wake()

    def ask(self, channel: str) -> None:
        """Somebody asks who serves it. Any thread."""
        with self._lock:
            is_new = channel not in self.channels
            self._asked.pop(channel, None)
            self._asked[channel] = None
            is_too_many = len(self._asked) > ASKED_MOST
            if is_too_many:
                del self._asked[next(iter(self._asked))]
            if is_new or is_too_many:
                self._use(self.used)
        if is_new:
            self.look_at = 0.0
            self._wake()

    def also(self, channels: Iterable[str]) -> None:
        """On the network thread, before a look: what waits is to be taken by somebody, however it came to wait. What
        handlers have sent begins to only once it is chosen, perhaps in an outbox that was taken over."""
        if not self.used.issuperset(channels):
            with self._lock:
                self._use(self.used | {*channels})

    def forget(self, channels: Collection[str]) -> None:
        """Nothing is pushed to them any more. On the network thread; whoever wants one again declares it, too."""
        if channels:
            with self._lock:
                self._use(self.used.difference(channels))

    def _use(self, used: frozenset[str]) -> None:
        """Under the lock. Other sets, and the old ones unchanged: the network thread may be going through those."""
        self.used = used
        self.channels = used.union(self._asked)


class Finder:
    """On the network thread. refresh: told of an address in settings by which nobody could be reached."""

    def __init__(
        self,
        wanted: Wanted,
        core: Core,
        directory: Directory,
        contacts: Contacts,
        wire: Wire,
        refresh: Callable[[str], None],
    ) -> None:
        self._wanted = wanted
        self._core = core
        self._directory = directory
        self._contacts = contacts
        self._wire = wire
        self._refresh = refresh
        self.publishes: tuple[str, ...] = ()
        self.subscribes: tuple[str, ...] = ()

    def pause(self) -> float:
        """How many seconds the next look may wait."""
        wanted, owner = self._wanted.channels, self._core.owner
        is_lonely = any(not owner.workers(channel) for channel in wanted) or bool(self._core.worker.claims.sought())
        has_topics = self.publishes or self.subscribes
        return LOOK_S if is_lonely else 5 * LOOK_S if wanted or has_topics else 10 * LOOK_S

    def look(self, now: float) -> None:
        """Dials whoever is due."""
        entries = self._directory.look()
        if entries is not None:
            self._contacts.look(entries)
        self._wanted.also(self._core.owner.dispatch.channels())
        served, sought = self._core.worker.services, self._core.worker.claims.sought()
        due = self._contacts.due(
            self._wanted.channels, served, self._core.peers.is_linked, now, sought, publishes=self.publishes,
            subscribes=self.subscribes,
        )  # fmt: skip
        for contact in due:
            try:
                self._contacts.dialled(contact, self._wire.dial(contact.endpoint, contact.connect_s()), now)
            except ZerowaitError as error:
                self._contacts.refused(contact, str(error), now)

    def lost(self, conn: int, words: str, now: float) -> None:
        """A connection is over: if we dialled it, it is tried again after a while, where its name leads by then."""
        contact = self._contacts.lost(conn, words, now)
        if contact is not None and contact.source:
            self._refresh(contact.source)
