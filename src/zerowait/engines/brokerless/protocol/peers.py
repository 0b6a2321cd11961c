"""Who is there: one record for each process that this one has met, from its first HELLO until it is known to be dead
or forgotten.

    up ──silent for 3 s, or the connection closed──▶ silent ──resume_grace without a new session──▶ gone ──▶ (forgotten)
     ▲                                                  │
     └──────────────a new session resumes───────────────┤
                                                        └──proof──▶ dead: redelivered at once, and refused if it turns
                                                        up again

`stuck` is no state of its own: the transport lives, PONG shows a loop that does not turn. Such a peer gets no new
work, and what it runs is never given to another while it lives (rules §4.3).

Nor is `held`: silent on this machine for longer than the grace, and it is known that its process is neither stopped nor
dead, but cannot run a line. It stays silent, for as long as it is so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum

from zerowait.engines.brokerless.protocol.config import Config
from zerowait.engines.brokerless.protocol.due import Due
from zerowait.engines.brokerless.protocol.frames import Hello, Owned
from zerowait.engines.brokerless.protocol.link import Link

LOOK_AGAIN = 0.1  # at who may have been heard, and was not read yet
REMEMBERED = 4_096  # instances of which it is known that they are dead, or how old a HELLO of theirs may be


class Phase(Enum):
    UP = "up"
    SILENT = "silent"
    GONE = "gone"
    DEAD = "dead"


def look_again(at: float, now: float) -> float:
    """When to look again at somebody who is late from `at` on."""
    return at if at > now else now + LOOK_AGAIN


class Peer:
    __slots__ = (
        "boxes",
        "draining",
        "heard_at",
        "hello",
        "instance",
        "is_abrupt",
        "is_held",
        "link",
        "lost_at",
        "patient_until",
        "phase",
        "serves",
        "stuck_since",
    )

    def __init__(self, hello: Hello, now: float) -> None:
        self.instance = hello.instance
        self.hello = hello
        self.link: Link | None = None
        self.boxes: list[Owned] = []  # what it owned when it was last there
        self.serves: frozenset[str] = frozenset()  # likewise
        self.phase = Phase.SILENT
        self.heard_at = now
        self.lost_at = now
        self.stuck_since: float | None = None
        self.draining = False  # when it was last there
        self.is_held = False  # its interpreter is: what it has begun stays with it
        self.patient_until = 0.0  # it is not gone before that, whenever it was lost
        self.is_abrupt = False  # its connection closed in the midst of life, and not because nothing was heard any more


class Peers:
    def __init__(self, boot: str, config: Config) -> None:
        self._boot = boot
        self._config = config
        self._peers: dict[int, Peer] = {}
        self._dead: dict[int, None] = {}  # insertion order: the oldest go first
        self._serials: dict[int, int] = {}
        self._silent = Due()  # when who is there may be silent for too long; looked at again if he was heard meanwhile
        self._over = Due()  # likewise, when the grace of who is away may be over
        self._prove = Due()

    def __iter__(self) -> Iterator[Peer]:
        return iter(list(self._peers.values()))

    def get(self, instance: int) -> Peer | None:
        return self._peers.get(instance)

    def is_linked(self, instance: int) -> bool:
        """Whether there is a session with it."""
        peer = self._peers.get(instance)
        return peer is not None and peer.link is not None

    def is_dead(self, instance: int) -> bool:
        return instance in self._dead

    def is_stale(self, hello: Hello) -> bool:
        """A HELLO that is older than one accepted from the same instance (rules §1.4)."""
        return hello.serial < self._serials.get(hello.instance, 0)

    def accepted(self, hello: Hello) -> None:
        self._serials.pop(hello.instance, None)
        self._serials[hello.instance] = hello.serial
        while len(self._serials) > REMEMBERED:
            del self._serials[next(iter(self._serials))]

    def meet(self, hello: Hello, link: Link, now: float) -> Peer:
        """A session with this process begins on that link."""
        peer = self._peers.get(hello.instance)
        if peer is None:
            peer = self._peers[hello.instance] = Peer(hello, now)
        peer.hello, peer.link, peer.phase, peer.heard_at = hello, link, Phase.UP, now
        peer.is_held, peer.patient_until = False, 0.0
        self._silent.set(peer.instance, self._silent_at(peer))
        self._over.discard(peer.instance)
        self._prove.discard(peer.instance)
        return peer

    def lost(self, peer: Peer, now: float) -> None:
        """Its connection closed or fell silent. On the same machine proof is looked for at once."""
        if peer.link is not None:
            peer.boxes = list(peer.link.boxes.values())
            peer.serves = frozenset(peer.link.served)
            peer.draining = peer.link.draining
        peer.is_abrupt = now - peer.heard_at <= 2 * self._config.ping
        peer.link = None
        peer.phase = Phase.SILENT
        peer.lost_at = now
        peer.stuck_since = None
        self._silent.discard(peer.instance)
        self._over.set(peer.instance, self._over_at(peer))
        if self.is_local(peer):
            self._prove.set(peer.instance, now)

    def is_local(self, peer: Peer) -> bool:
        return bool(self._boot) and peer.hello.boot == self._boot and peer.hello.inode != 0

    def seems_dead(self, peer: Peer) -> bool:
        """Of who has not come back: whether it may be called a death although that is not proved (rules §5.4). Silence
        by itself is none; nor is anything where a proof could be had; nor the end of who was leaving."""
        return peer.is_abrupt and not peer.draining and not self.is_local(peer)

    def bury(self, instance: int) -> Peer | None:
        """Proved dead: whoever turns up under this number again is refused."""
        self._dead[instance] = None
        while len(self._dead) > REMEMBERED:
            del self._dead[next(iter(self._dead))]
        peer = self._peers.get(instance)
        if peer is not None:
            self._drop(peer, Phase.DEAD)
        return peer

    def forget(self, peer: Peer) -> None:
        """It did not come back within the grace. Not dead for all we know: it may return and say what it holds."""
        self._drop(peer, Phase.GONE)

    def _drop(self, peer: Peer, phase: Phase) -> None:
        peer.phase = phase
        self._peers.pop(peer.instance, None)
        for timer in (self._silent, self._over, self._prove):
            timer.discard(peer.instance)

    def proofs_wanted(self, now: float) -> list[Peer]:
        """Whom to prove dead now: each 50 ms within the first 0.3 s, then each second."""
        wanted = [peer for instance in self._prove.take(now) if (peer := self._peers.get(instance)) is not None]
        for peer in wanted:
            pause = 0.05 if now - peer.lost_at < self._config.proof_within else 1.0
            self._prove.set(peer.instance, now + pause)
        return wanted

    def over(self, now: float, heard: float) -> list[Peer]:
        """Whose grace is over. heard: what had come by then was read; what came later may lie unread."""
        return self._late(self._over, Phase.SILENT, self._over_at, now, heard)

    def _over_at(self, peer: Peer) -> float:
        return max(peer.lost_at + self._config.resume_grace, peer.patient_until)

    def is_away(self, peer: Peer) -> bool:
        """Whether it has been lost for longer than the grace, and is not forgotten."""
        return peer.phase is Phase.SILENT and self._peers.get(peer.instance) is peer

    def wait_for(self, peer: Peer, until: float) -> None:
        """It is not gone before that time."""
        peer.patient_until = until
        self._over.set(peer.instance, self._over_at(peer))

    def silent(self, now: float, heard: float) -> list[Peer]:
        """Whose connection says nothing any more. heard: what had come by then was read."""
        return self._late(self._silent, Phase.UP, self._silent_at, now, heard)

    def _late(self, timer: Due, phase: Phase, due_at: Callable[[Peer], float], now: float, heard: float) -> list[Peer]:
        """Of those in that phase whose timer fires who is late, as is now known of them. All are looked at again: who
        is late, too, unless that ends the phase."""
        found: list[Peer] = []
        for instance in timer.take(now):
            peer = self._peers.get(instance)
            if peer is None or peer.phase is not phase:
                continue
            if (at := due_at(peer)) <= heard:
                found.append(peer)
            timer.set(instance, look_again(at, now))
        return found

    def _silent_at(self, peer: Peer) -> float:
        return peer.heard_at + self._config.silence

    def paused(self, seconds: float, now: float) -> None:
        """This process itself stood still for so long. What reached the machine meanwhile may still be on its way
        through the sockets, so nobody is called silent or gone for time in which we did not listen (rules §3.5)."""
        for peer in self._peers.values():
            peer.heard_at = min(now, peer.heard_at + seconds)
            peer.lost_at = min(now, peer.lost_at + seconds)
            peer.patient_until = peer.patient_until and peer.patient_until + seconds

    def wake(self) -> float:
        return min(self._silent.next(), self._over.next(), self._prove.next())
