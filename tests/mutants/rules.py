"""Bugs of rules that have none elsewhere: fences and connections (§1), openings and withdrawals (§2), who is gone,
stuck or leaves (§4), credit (§7), time, priority and ids (§8)."""

from __future__ import annotations

from typing import Any

from tests.mutants.planting import Put, bug, nothing
from zerowait.engines.brokerless import outboxes
from zerowait.engines.brokerless.protocol import core, effects, link, sessions
from zerowait.engines.brokerless.protocol.owner import custody, dispatch, openings, owner, withdrawals
from zerowait.engines.brokerless.protocol.peers import Peers
from zerowait.engines.brokerless.protocol.worker import memory, share, worker
from zerowait.outbox import ahead, known, outbox, settlement

RULES = "tests/protocol/test_rules.py"
CROWD = "tests/protocol/test_crowd.py"
OUTBOX = "tests/unit/outbox/test_outbox.py"
PRIORITY = "tests/protocol/test_priority.py"
KNOWN = "tests/unit/outbox/test_known.py"

# -- names and connections ---------------------------------------------------------------------------------------------


@bug("an outbox is not opened above the fence that a worker names")
def _(put: Put) -> None:
    put(owner.Owner, "fenced", nothing)


@bug("a fence that could not be followed at once is not followed")
def _(put: Put) -> None:
    put(outbox.Outbox, "_rise", nothing)


@bug("a fence a month ahead is followed")
def _(put: Put) -> None:
    put(owner, "DAY_MS", lambda right: 1_000 * right)


@bug("a second HELLO on a connection is taken")
def _(put: Put) -> None:
    put(core, "is_expected", lambda right: lambda phase, frame: True)


@bug("of two connections between two processes the wrong one stays")
def _(put: Put) -> None:
    put(sessions.Sessions, "_stays", lambda right: lambda self, known, link: not right(self, known, link))


@bug("what waited for a commit leaves by the next connection if its own is over")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def send(self: Any, conn: int, frame: Any) -> None:
            right(self, conn if conn in self.live else max(self.live, default=conn), frame)

        return send

    put(effects.Effects, "send", made)


# -- openings, and what is taken back ----------------------------------------------------------------------------------


@bug("what is decided for an opening that is over is made all the same")
def _(put: Put) -> None:
    put(outboxes.Outboxes, "_epoch", lambda right: lambda self, box: self._boxes[box].epoch)


@bug("what nobody says twice is forgotten with the opening that had decided it")
def _(put: Put) -> None:
    put(openings.Openings, "_decide_again", nothing)


@bug("the next opening counts a failure again that is said again")
def _(put: Put) -> None:
    put(settlement, "_counted", lambda right: lambda change: None)


@bug("what is held does not take the newer dispatch")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def sort(self: Any, *args: Any) -> Any:
            found = right(self, *args)
            found.here.clear()
            return found

        return sort

    put(memory.Memory, "sort", made)


@bug("what is queued of an owner that is gone stays queued", by=RULES)
def _(put: Put) -> None:
    put(worker.Worker, "owner_gone", nothing)


@bug("who has what is withdrawn is not told", by=RULES)
def _(put: Put) -> None:
    put(withdrawals.Withdrawals, "drop_at", nothing)


# -- gone, stuck, leaving ----------------------------------------------------------------------------------------------


@bug("time in which we stood still counts against others", by=RULES)
def _(put: Put) -> None:
    put(Peers, "paused", nothing)


@bug("who was proved dead is let in again", by=RULES)
def _(put: Put) -> None:
    put(Peers, "is_dead", lambda right: lambda self, instance: False)


@bug("silence is not noticed", by=CROWD)
def _(put: Put) -> None:
    put(Peers, "silent", lambda right: lambda self, now, heard: right(self, now, heard)[:0])


@bug("who says a byte now and then is never found to be silent", by=CROWD)
def _(put: Put) -> None:
    put(link.Link, "put_off", lambda right: lambda self, now: 0.0)


@bug("who does not come back is waited for for ever", by=RULES)
def _(put: Put) -> None:
    put(Peers, "over", lambda right: lambda self, now, heard: right(self, now, heard)[:0])


@bug("who answers no more gets new work", by=RULES)
def _(put: Put) -> None:
    put(sessions.Sessions, "deaf", lambda right: lambda self, now, heard: right(self, now, heard)[:0])


@bug("what has not begun stays with who leaves", by=RULES)
def _(put: Put) -> None:
    put(worker.Worker, "leave", nothing)


# -- credit, time, priority, ids ---------------------------------------------------------------------------------------


@bug("a limit that is lowered counts as given back at once", by=RULES)
def _(put: Put) -> None:
    put(share.Share, "highest", lambda right: lambda self: self.limit)


@bug("what waits behind runners that stand still is not handed back", by=RULES)
def _(put: Put) -> None:
    put(worker.Worker, "_hand_back", nothing)


@bug("what is to run again does not wait for its time")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def settle(self: Any, holder: int, verdict: Any, part: Any, notes: Any, now_us: int) -> Any:
            return right(self, holder, verdict, part, {at: (0, note) for at, (_, note) in notes.items()}, now_us)

        return settle

    put(custody.Custody, "settle", made)


@bug("what is urgent waits for what is not", by=OUTBOX)
def _(put: Put) -> None:
    put(ahead, "PRIORITIES", lambda right: tuple(reversed(right)))


@bug("what is urgent waits for what is not and is in memory already", by=PRIORITY)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def _level(self: Any, priority: int) -> Any:
            return self.levels[0]

        return _level

    put(dispatch.Queue, "_level", made)


@bug("what is urgent has no room where what is not has filled it", by=OUTBOX)
def _(put: Put) -> None:
    put(ahead, "QUARTERS", lambda right: dict.fromkeys(right, 4))


@bug("a push that comes again by its id is taken again", by=KNOWN)
def _(put: Put) -> None:
    put(known.Known, "admit", lambda right: lambda self, database, fresh, id_of, now: (list(fresh), []))
