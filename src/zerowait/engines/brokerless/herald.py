"""What is told of peers, by name; and who waits for news of them."""

from __future__ import annotations

from collections.abc import Callable

from zerowait.engines.brokerless.finding import Wanted
from zerowait.engines.brokerless.protocol.core import Core
from zerowait.engines.brokerless.protocol.effects import Say
from zerowait.names import process_name

ASKING = "asking"  # the feature by which a command line says that it only looks in
OVER = ("left", "dead", "gone")  # what is told of a process last


class Herald:
    """On the network thread, but for `name`, `served`, `other_kind` and `is_asker`.

    notice: told each thing, and whom it is about. whence: who is at the other end of a connection, where he has not
    said who he is. address: which a connection has dialled, "" if it was dialled from there.
    """

    def __init__(
        self,
        wanted: Wanted,
        core: Core,
        notice: Callable[[Say, str], None],
        whence: Callable[[int], str],
        address: Callable[[int], str],
    ) -> None:
        self._wanted = wanted
        self._core = core
        self._notice = notice
        self._whence = whence
        self._address = address
        self._names: dict[int, str] = {}  # of processes that were met, for the lines that tell of their end
        self._askers: set[int] = set()
        self._watching: list[Callable[[], bool]] = []
        self._has_news = False  # of who is there, for those who watch
        self._serving: set[int] = set()  # who serves or publishes anything, as far as it was told
        self._has_other_kinds = False  # one of them has come, gone, or serves otherwise
        self._kinds: dict[str, tuple[str, int]] = {}  # what channels are served as; replaced, never changed
        self._misused: set[str] = set()  # channels that are served as something else than they are used as: was told
        self._served: dict[str, tuple[str, int]] = {}  # likewise, of what is no topic

    def is_asker(self, instance: int) -> bool:
        """Whether this is a command line that only looks in."""
        return instance in self._askers

    def say(self, said: Say) -> None:
        instance = said.instance
        peer = self._core.peers.get(instance)
        link = peer.link if peer is not None else None
        # Who is lost keeps the name that he had while he was there: where he was dialled is known no more.
        if peer is not None and (link is not None or instance not in self._names):
            where = "" if link is None or self._core.peers.is_local(peer) else self._address(link.conn)
            self._names[instance] = process_name(peer.hello.name, peer.hello.pid, where)
        name = self.name(instance) if instance else self._whence(said.conn) if said.conn else ""
        if said.topic in OVER:
            self._names.pop(instance, None)
        if said.topic == "met" and peer is not None and ASKING in peer.hello.features:
            self._askers.add(instance)
        if instance in self._askers:  # a command line that looks in is no news
            if said.topic in OVER:
                self._askers.discard(instance)
            return
        if said.topic in ("state", "lost", *OVER):
            self._has_news = True
            serves = link is not None and bool(link.served or link.topics)
            if serves or instance in self._serving:
                self._has_other_kinds = True
                (self._serving.add if serves else self._serving.discard)(instance)
        self._notice(said, name)

    def look(self) -> None:
        """At all that was told in this turn, once: three thousand peers that come at once must not each cost a look at
        all the others."""
        if self._has_other_kinds:
            self._has_other_kinds = False
            self._look_at_kinds()
        if self._has_news:
            self._has_news = False
            self.changed()

    def name(self, instance: int) -> str:
        """What a process is called for people: one name in all that is said of it. Any thread."""
        return self._names.get(instance) or f"{instance:016x}"

    def watch(self, look: Callable[[], bool]) -> None:
        """Calls `look` now and at each change of who is there and what he serves, until it gives True."""
        if not look():
            self._watching.append(look)

    def changed(self) -> None:
        self._watching = [look for look in self._watching if not look()]

    def served(self, channel: str) -> tuple[str, str] | None:
        """If a peer serves a channel of this name, which is no topic: its kind, and who. Any thread."""
        kind, instance = self._served.get(channel) or ("", 0)
        return (kind, self.name(instance)) if kind else None

    def other_kind(self, channel: str, kind: str) -> tuple[str, str] | None:
        """If a peer serves this channel as another kind than that: its kind, and who. Any thread."""
        served, instance = self._kinds.get(channel) or ("", 0)
        return (served, self.name(instance)) if served and served != kind else None

    def _look_at_kinds(self) -> None:
        """Channels that a peer serves as another kind than we use them as are told of, and no more sent to."""
        sender = self._core.owner.sender
        self._served = {
            channel: (served.kind, link.instance)
            for link in self._core.links.values()
            if link.hello is not None
            for channel, served in link.served.items()
        }
        self._kinds = kinds = sender.kinds_served()
        before, self._misused = self._misused, set()
        for channel, (kind, instance) in kinds.items():
            if channel in self._wanted.channels and sender.uses(channel) and kind != sender.kind_of(channel):
                self._misused.add(channel)
                if channel not in before:
                    self._notice(Say("kind", kind, instance, channel), self.name(instance))
