"""Bugs of how processes meet (rules §3.1), are proved dead (§4.1, §4.2), stand still (§4.3) and leave (§4.4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from tests.mutants.planting import Put, bug, nothing
from zerowait.engines.brokerless import presence
from zerowait.engines.brokerless.presence import Standing
from zerowait.engines.brokerless.protocol import core, frames, sessions
from zerowait.engines.brokerless.protocol.peers import Peers
from zerowait.engines.brokerless.protocol.worker import window, worker
from zerowait.message import Verdict

RULES = "tests/protocol/test_rules.py"
MEETING = "tests/protocol/test_meeting.py"
FRAMES = "tests/protocol/test_frames.py"
DIRECTORY = "tests/unit/test_directory.py"

# -- HELLO, STATE, versions --------------------------------------------------------------------------------------------


@bug("what is said in another version is read as this one", by=FRAMES)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def decode_first(data: Any) -> Any:
            if bytes(data[:4]) == frames.MAGIC:
                data = bytes(data[:4]) + bytes(frames.VERSIONS) + bytes(data[6:])
            return right(data)

        return decode_first

    put(frames, "decode_first", made)


@bug("who speaks another version is not told which one this is", by=MEETING)
def _(put: Put) -> None:
    def end(self: Any, link: Any, code: int, words: str, now: float, *, missed: Any = None, why: str = "") -> None:
        self.close(link, words, now)

    put(sessions.Sessions, "end", lambda right: end)


@bug("each dialling of who speaks another version is told again", by="tests/unit/test_telling.py")
def _(put: Put) -> None:
    from zerowait.engines.brokerless.telling import Telling

    def made(right: Any) -> Any:
        def refuse(self: Any, *args: Any) -> None:
            self._refused.clear()
            right(self, *args)

        return refuse

    put(Telling, "_refuse", made)


class Strict:
    """Takes no frame with more fields than are known."""

    def __init__(self, right: Any) -> None:
        self._right = right

    def decode(self, data: Any) -> Any:
        frame = self._right.decode(data)
        if len(msgspec.msgpack.decode(data)) > 1 + len(frame.__struct_fields__):
            raise msgspec.ValidationError("more than is known")
        return frame


@bug("a frame that has grown at its end cannot be read", by=FRAMES)
def _(put: Put) -> None:
    put(frames, "_decoder", Strict)


@bug("a change of what a process is and serves is not told to those who are there")
def _(put: Put) -> None:
    put(core.Core, "_tell_state", nothing)


@bug("frames of a connection that was given up still count", by=MEETING)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def lost(self: Any, conn: int, now: float, words: str) -> None:
            link = self.links.get(conn)
            phase = link.phase if link is not None else None
            right(self, conn, now, words)
            if link is not None:
                self.links[conn], link.phase = link, phase

        return lost

    put(sessions.Sessions, "lost", made)


# -- proofs ------------------------------------------------------------------------------------------------------------


def proved(where: Any) -> Any:
    """Dead also where nothing is known, if `where` says so of (path, instance, named)."""

    def made(right: Any) -> Any:
        def examine(path: str, instance: int, named: Any) -> Any:
            found = right(path, instance, named)
            if found[0] is Standing.UNKNOWN and where(Path(path)):
                return Standing.DEAD, 0.0
            return found

        return examine

    return made


@bug("who has no lock file is dead", by=DIRECTORY)
def _(put: Put) -> None:
    put(presence, "_examine", proved(lambda path: not path.exists()))


@bug("whose lock file is another is dead", by=DIRECTORY)
def _(put: Put) -> None:
    put(presence, "_examine", lambda right: lambda path, instance, named: right(path, instance, None))


@bug("a lock file that another instance has written is a proof", by=DIRECTORY)
def _(put: Put) -> None:
    put(presence, "_examine", proved(lambda path: path.is_file()))


@bug("a lock file of another boot is a proof", by=DIRECTORY)
def _(put: Put) -> None:
    put(presence, "standing", lambda right: lambda folder, here, instance, boot, *file: right(
        folder, here, instance, here, *file))  # fmt: skip


@bug("a death is not proved")
def _(put: Put) -> None:
    put(core.Core, "buried", nothing)


@bug("an obituary is no proof", by=RULES)
def _(put: Put) -> None:
    put(core.Core, "_state_of", lambda right: lambda self, link, state, now: right(
        self, link, replace(state, obituaries=()), now))  # fmt: skip


@bug("an obituary is not handed on", by=RULES)
def _(put: Put) -> None:
    put(core.Core, "_state", lambda right: lambda self, side: replace(right(self, side), obituaries=()))


@bug("all obituaries that there ever were are handed on", by=RULES)
def _(put: Put) -> None:
    put(core, "OBITUARIES", lambda right: 1_000)


@bug("how an earlier life ended is told by nobody", by=MEETING)
def _(put: Put) -> None:
    put(core.Core, "inherit", nothing)


@bug("no proof is looked for when a connection ends", by=RULES)
def _(put: Put) -> None:
    put(Peers, "is_local", lambda right: lambda self, peer: False)


@bug("a proof is looked for once and no more", by=RULES)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def proofs_wanted(self: Any, now: float) -> Any:
            wanted = right(self, now)
            for peer in wanted:
                peer.prove_at = None
            return wanted

        return proofs_wanted

    put(Peers, "proofs_wanted", made)


@bug("who has lost a connection is gone at once", by=RULES)
def _(put: Put) -> None:
    put(Peers, "_over_at", lambda right: lambda self, peer: peer.lost_at)


# -- standing still ----------------------------------------------------------------------------------------------------


@bug("a worker whose handlers' loop stands gets new work", by=RULES)
def _(put: Put) -> None:
    put(core.Core, "_pong", lambda right: lambda self, link, peer, pong, now: right(
        self, link, peer, replace(pong, still_ms=0), now))  # fmt: skip


@bug("what a worker runs whose loop stands is given to another", by=RULES)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def stuck(self: Any, peer: Any, *args: Any) -> None:
            right(self, peer, *args)
            self.owner.gone(peer.instance)

        return stuck

    put(core.Core, "_stuck", made)


@bug("what has not begun stays with a worker whose loop stands", by=RULES)
def _(put: Put) -> None:
    put(worker.Worker, "tick", lambda right: lambda self, now, *, stands: right(self, now, stands=False))


@bug("who was stuck gets no new work any more", by=RULES)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def pong(self: Any, link: Any, peer: Any, said: Any, now: float) -> None:
            since = peer.stuck_since if peer is not None else None
            right(self, link, peer, said, now)
            if since is not None:
                peer.stuck_since = since

        return pong

    put(core.Core, "_pong", made)


# -- leaving -----------------------------------------------------------------------------------------------------------


@bug("who is leaving does not say so on a session that begins then", by=RULES)
def _(put: Put) -> None:
    put(sessions.Sessions, "greet", lambda right: lambda self, link, hello, state, now: right(
        self, link, hello, lambda side: replace(state(side), draining=False), now))  # fmt: skip


@bug("what is handed back counts as a failure")
def _(put: Put) -> None:
    from zerowait.engines.brokerless.protocol.owner import custody

    put(custody.Custody, "settle", lambda right: lambda self, holder, verdict, *rest: right(
        self, holder, Verdict.RETRY if verdict is Verdict.UNSTARTED else verdict, *rest))  # fmt: skip


@bug("who leaves goes before its limits are confirmed", by=RULES)
def _(put: Put) -> None:
    put(window.Window, "is_given_back", lambda right: lambda self: True)


@bug("who leaves goes before its outcomes are confirmed", by=RULES)
def _(put: Put) -> None:
    put(worker.Worker, "is_done", lambda right: lambda self: not self.desk.total_running() and all(
        each.is_given_back() for each in self.windows.values()))  # fmt: skip


@bug("who leaves says that nothing is left although something is", by=MEETING)
def _(put: Put) -> None:
    put(core.Core, "farewell", lambda right: lambda self, now, *, final: right(self, now, final=True))
