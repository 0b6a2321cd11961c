"""Who serves a channel and does not answer: stopped, hanging, or cut off. For people who find nobody else there; to the
protocol such a process is stuck, silent or gone."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from zerowait.engines.brokerless.contacts import Contacts
from zerowait.engines.brokerless.protocol.core import Core
from zerowait.engines.brokerless.protocol.effects import Say
from zerowait.engines.brokerless.telling import LEFT
from zerowait.names import process_name

KEPT = 256  # processes that are remembered; beyond them the oldest go
KEPT_S = 600.0  # after which it is no news of this channel any more
TOLD = 3  # in one sentence
SAME_S = 0.1  # in which it is not looked again: requests end by the thousand

IsDead = Callable[[int, str, int, int], bool]


class Silent(Struct, frozen=True):
    """Somebody who was heard, and is not any more."""

    who: str
    since: float  # when he was heard last
    serves: frozenset[str]
    proof: tuple[str, int, int]  # boot id, and device and inode of his lock file


class Silence:
    """On the network thread. is_dead: whether that instance, of this boot id, device and inode, is proved dead."""

    def __init__(self, core: Core, contacts: Contacts, is_dead: IsDead) -> None:
        self._core = core
        self._contacts = contacts
        self._is_dead = is_dead
        self._silent: dict[int, Silent] = {}
        self._told = "", 0.0, ""  # channel, when, what

    def say(self, said: Say) -> None:
        """What is told of a process."""
        if said.topic == "lost" and said.words not in LEFT:
            self._remember(said.instance)
        elif said.topic in ("met", "left", "dead"):
            self._silent.pop(said.instance, None)

    def _remember(self, instance: int) -> None:
        peer = self._core.peers.get(instance)
        if peer is None or not peer.serves or peer.draining:
            return
        hello, where = peer.hello, self._contacts.address_met(instance)
        who = process_name(hello.name, hello.pid, where)
        self._silent[instance] = Silent(who, peer.heard_at, peer.serves, (hello.boot, hello.device, hello.inode))
        while len(self._silent) > KEPT:
            del self._silent[next(iter(self._silent))]

    def of(self, channel: str, now: float) -> str:
        """A sentence: who serves this channel and does not answer, for how long, and what to do. "": nobody."""
        about, at, words = self._told
        if about != channel or not at <= now < at + SAME_S:
            words = self._words(channel, now)
            self._told = channel, now, words
        return words

    def _words(self, channel: str, now: float) -> str:
        blocked, mute = self._blocked(channel, now), self._mute(channel, now)
        if not blocked and not mute:
            return ""
        clauses = [
            *(f"{who} serves that channel, and its handlers' loop has not turned for {s:.0f} s" for who, s in blocked),
            *(f"{who} serves that channel, and has not answered for {s:.0f} s" for who, s in mute),
        ]
        more = f", and {len(clauses) - TOLD} more" if len(clauses) > TOLD else ""
        one = len(clauses) == 1
        if mute:
            how = "it is stopped, hangs or is cut off" if one else "they are stopped, hang or are cut off"
        else:
            how = f"what blocks {'it' if one else 'each'} is named in its log"
        them = "it" if one else "them"
        return f"{'; '.join(clauses[:TOLD])}{more}: {how}. Let {them} go on, restart {them}, or start another worker."

    def _blocked(self, channel: str, now: float) -> list[tuple[str, float]]:
        """Those whose transport lives."""
        peers = [self._core.peers.get(link.instance) for link in self._core.owner.sender.serving(channel)]
        return [
            (process_name(peer.hello.name, peer.hello.pid), now - peer.stuck_since)
            for peer in peers
            if peer is not None and peer.stuck_since is not None
        ]

    def unmet(self, channel: str, now: float) -> tuple[str, ...]:
        """Who is known to serve this channel, by name: no connection with them, and their death is not proved."""
        return tuple(who for who, _ in self._unmet(channel, now))

    def _mute(self, channel: str, now: float) -> list[tuple[str, float]]:
        """Those of them who do not answer, and for how long."""
        return [(who, now - since) for who, since in self._unmet(channel, now) if since is not None]

    def _unmet(self, channel: str, now: float) -> list[tuple[str, float | None]]:
        """Since when they do not answer; None: nobody has asked yet."""
        found: list[tuple[str, float | None]] = []
        for instance, silent in list(self._silent.items()):
            if now - silent.since >= KEPT_S or self._is_dead(instance, *silent.proof):
                del self._silent[instance]
            elif channel in silent.serves:
                found.append((silent.who, silent.since))
        for entry in self._contacts.local_workers(channel):
            if entry.instance in self._silent or self._core.peers.is_linked(entry.instance):
                continue
            if not self._is_dead(entry.instance, entry.boot, entry.device, entry.inode):
                found.append((process_name(entry.name, entry.pid), self._contacts.asked_since(entry.instance)))
        return found
