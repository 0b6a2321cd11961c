"""Bugs of what is taken back from a process whose interpreter is held (rules §4.3)."""

from __future__ import annotations

from typing import Any

from tests.mutants.planting import Put, bug, nothing
from zerowait.engines.brokerless import pulses
from zerowait.engines.brokerless.protocol import core, peers
from zerowait.engines.brokerless.protocol.worker import desk, unbegun

HELD = "tests/protocol/test_held.py"


@bug("what one who is held has begun is given to another too")
def _(put: Put) -> None:
    put(unbegun.Listing, "spares", lambda right: lambda self, box, epoch, dispatch, first, count: [(first, count)])


@bug("one who is held counts as gone")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def looked(self: Any, instance: int, listing: Any, now: float, *, stirs: bool = False) -> None:
            right(self, instance, None, now)

        return looked

    put(core.Core, "looked", made)


@bug("what has not begun at one who is held stays there", by=HELD)
def _(put: Put) -> None:
    put(unbegun.Listing, "spares", lambda right: lambda self, box, epoch, dispatch, first, count: [])


@bug("the list of one who is held is read before its permission to start is over", by=HELD)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def lost(self: Any, peer: Any, now: float) -> None:
            right(self, peer, now)
            peer.lost_at -= self._config.resume_grace - 0.5
            self._over.set(peer.instance, self._over_at(peer))

        return lost

    put(peers.Peers, "lost", made)


@bug("a runner that stood still asks for no permission again", by=HELD)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def tells(self: Any, parcel: Any, stop: int, until: float) -> bool:
            return bool(right(self, parcel, stop, float("inf")))

        return tells

    put(desk.Desk, "_tells", made)


@bug("a runner asks for permission before it tells that it begins", by=HELD)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def tells(self: Any, parcel: Any, stop: int, until: float) -> bool:
            return bool(self._clock() < until) and bool(right(self, parcel, stop, until))

        return tells

    put(desk.Desk, "_tells", made)


@bug("a batch that was read is not noted", by=HELD)
def _(put: Put) -> None:
    put(unbegun.Unbegun, "came", nothing)


@bug("one who is held and dies is not asked for his death", by=HELD)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def wait_for(self: Any, peer: Any, until: float) -> None:
            right(self, peer, until)
            self._prove.discard(peer.instance)

        return wait_for

    put(peers.Peers, "wait_for", made)


@bug("one who has just gone on counts as gone", by=HELD)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def looked(self: Any, instance: int, listing: Any, now: float, *, stirs: bool = False) -> None:
            peer = self.peers.get(instance)
            if peer is not None and listing is None:
                peer.is_held = False
            right(self, instance, listing, now)

        return looked

    put(core.Core, "looked", made)


@bug("one who is stopped counts as held", by="tests/unit/test_pulses.py")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def ask(self: Any, pulse: Any, instance: int, now: float) -> None:
            right(self, pulse, instance, now)
            pulse.greeted_at = now

        return ask

    put(pulses.Pulses, "_ask", made)


@bug("one who is cut off counts as held", by="tests/unit/test_pulses.py")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def look(self: Any, instance: int, now: float) -> Any:
            if (pulse := self._pulses.get(instance)) is not None and (beats := pulse.of.beats()) is not None:
                pulse.beats, pulse.since = beats, now - pulses.STILL_S
            return right(self, instance, now)

        return look

    put(pulses.Pulses, "look", made)
