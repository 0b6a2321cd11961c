"""Bugs of what is durable, of outcomes, sessions and credit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.mutants.planting import Put, bug, nothing
from zerowait.engines.brokerless.protocol import effects
from zerowait.engines.brokerless.protocol.frames import Confirm, Part
from zerowait.engines.brokerless.protocol.owner import credit as sender_credit
from zerowait.engines.brokerless.protocol.owner import custody, expiry, failures, owner, past
from zerowait.engines.brokerless.protocol.peers import Peers
from zerowait.engines.brokerless.protocol.worker import (
    claims,
    desk,
    keeping,
    kept,
    memory,
    owners,
    parcel,
    window,
    worker,
)
from zerowait.message import Release, Verdict
from zerowait.outbox import ahead, database, file, ledger, outbox, settlement, stubs, transaction
from zerowait.outbox import claims as outbox_claims

# -- durability --------------------------------------------------------------------------------------------------------


@bug("an outcome is confirmed before it is settled on disk")
def _(put: Put) -> None:
    put(
        effects.Effects, "confirm",
        lambda right: lambda self, box, parts, on, lasting: self.send(on, Confirm(box, tuple(parts))),
    )  # fmt: skip


@bug("a receipt is done before the commit")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def write(self: Any, *args: Any) -> Any:
            attempt = right(self, *args)
            for fresh in attempt.fresh:
                fresh.sheaf.stored()
            return attempt

        return write

    put(outbox.Outbox, "_write", made)


@bug("commits are not synced")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def init(self: Any, *args: Any) -> None:
            right(self, *args)
            self.rows("PRAGMA synchronous = off")

        return init

    put(database.Database, "__init__", made)


@bug("the log that a failed sync has left is not written out anew")
def _(put: Put) -> None:
    put(file, "renew_log", nothing)


@bug("a dead letter is made in two transactions")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def write(self: Any, database: Any, id_of: Any) -> None:
            own, self.own = self.own, {}
            if own:
                self.own = own
                database.begin()
                self._write_own(id_of)
                database.commit()
                self.own = {}
            database.begin()
            right(self, database, id_of)
            self.own = own

        return write

    put(settlement.Settlement, "write", made)


@bug("the epoch is not raised at an opening")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def raise_epoch(database: Any, clock: Any, above: int) -> int:
            stored = int(database.one("SELECT epoch FROM box"))
            return stored or int(right(database, clock, above))

        return raise_epoch

    put(file, "raise_epoch", made)


@bug("a worker is not noted before its first batch")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        return lambda self, holder, piece: (right(self, holder, piece)[0], [])

    put(custody.Custody, "take", made)


@bug("a second batch overtakes the note that the first one waits for")
def _(put: Put) -> None:
    put(effects.Effects, "follow", lambda right: lambda self, box, frame, on, waits=False: self.send(on, frame))


@bug("what a commit that failed had stored for later is not looked for")
def _(put: Put) -> None:
    put(ahead.Ahead, "missed", nothing)


@bug("the ledger counts a dead letter as still waiting")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def write(self: Any, tally: Any, ids: Any, database: Any) -> None:
            for row in tally.rows.values():
                row.dead = max(0, row.dead - 1)
            right(self, tally, ids, database)

        return write

    put(ledger.Ledger, "write", made)


# -- outcomes ----------------------------------------------------------------------------------------------------------


@bug("an outcome is forgotten before it is confirmed")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def init(self: Any, *args: Any) -> None:
            right(self, *args)
            tell = self.outcomes.tell

            def told(box: int, verdict: Verdict, parts: Any, after_ms: int = 0, note: bytes = b"") -> None:
                tell(box, verdict, parts, after_ms, note)
                self.memory.confirm(box, parts)

            self.outcomes.tell = told

        return init

    put(worker.Worker, "__init__", made)


@bug("a CONFIRM of another dispatch makes an outcome forgotten")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def confirm(self: Any, box: int, parts: Any) -> None:
            for part in parts:
                for epoch, fence, n in list(self._ended.get(box, ())):
                    if epoch == part.epoch:
                        self._forget(box, Part(epoch, part.first, part.count, fence, n))

        return confirm

    put(memory.Memory, "confirm", made)


@bug("outcomes are not said again in a new session")
def _(put: Put) -> None:
    put(memory.Memory, "replay", lambda right: lambda self, box, most=0: [])


@bug("the dispatch number of an outcome is not compared")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def settle(self: Any, holder: int, verdict: Any, part: Part, notes: Any, now_us: int) -> Any:
            for flight, first, count in list(self.flights.over(part.epoch, part.first, part.count)):
                if (first, count) == (part.first, part.count):
                    holder, part = flight.holder, Part(part.epoch, first, count, flight.fence, flight.n)
            return right(self, holder, verdict, part, notes, now_us)

        return settle

    put(custody.Custody, "settle", made)


@bug("what was handled by somebody thought gone is not settled")
def _(put: Put) -> None:
    put(custody.Custody, "_handled_late", nothing)


@bug("what is known to have been handled is run again")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def sort(self: Any, box: int, epoch: int, ranges: Any, here: Any) -> Any:
            found = right(self, box, epoch, ranges, here)
            found.fresh.extend(found.known)
            found.known.clear()
            return found

        return sort

    put(memory.Memory, "sort", made)


@bug("failures are not counted")
def _(put: Put) -> None:
    put(failures.Failures, "count", lambda right: lambda self, part, number, segment: 0)


# -- sessions ----------------------------------------------------------------------------------------------------------


@bug("permission to start is ignored")
def _(put: Put) -> None:
    put(parcel.Permit, "allows", lambda right: lambda self, now: True)


@bug("permission to start does not lapse")
def _(put: Put) -> None:
    put(parcel.Permit, "allows", lambda right: lambda self, now: not self.resuming)


@bug("what was held is started before its owner has answered HELD")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def announced(self: Any, owned: Any, link: Any) -> None:
            right(self, owned, link)
            self._permits[owned.box].resuming = False

        return announced

    put(owners.Owners, "announced", made)


def without(field: str) -> Callable[[Any], Any]:
    """A plan, but for that."""

    def made(right: Any) -> Any:
        def reconcile(*args: Any) -> Any:
            plan = right(*args)
            getattr(plan, field).clear()
            return plan

        return reconcile

    return made


@bug("what a worker runs from before is not adopted")
def _(put: Put) -> None:
    put(owner, "reconcile", without("adopt"))


@bug("what a worker does not hold is thought to be there for ever")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def reconcile(custody: Any, holder: int, held: Any) -> Any:
            give_back, custody.__class__.give_back = custody.__class__.give_back, lambda *args: []
            try:
                return right(custody, holder, held)
            finally:
                custody.__class__.give_back = give_back

        return reconcile

    put(owner, "reconcile", made)


@bug("what is queued at a worker and was given to another is not dropped")
def _(put: Put) -> None:
    put(owner, "reconcile", without("drop"))


@bug("DROP takes nothing from the desk")
def _(put: Put) -> None:
    put(desk.Desk, "drop", lambda right: lambda self, box, epoch, first, count: ([], []))


@bug("messages of earlier lives do not wait for those who may still hold them")
def _(put: Put) -> None:
    put(past.Past, "keep", lambda right: lambda self, pieces: pieces)


@bug("what the past releases is looked at only where the last serves it that was waited for")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def resume(self: Any, link: Any, held: Any, now: float) -> None:
            dirty = set(self.sender._dirty)
            right(self, link, held, now)
            self.sender._dirty &= dirty | link.served.keys()

        return resume

    put(owner.Owner, "_resume", made)


@bug("an older HELLO displaces a newer session")
def _(put: Put) -> None:
    put(Peers, "is_stale", lambda right: lambda self, hello: False)


@bug("a fence is ignored")
def _(put: Put) -> None:
    put(owners.Owners, "fence", lambda right: lambda self, box: 0)


@bug("what a dead worker held is not given to another")
def _(put: Put) -> None:
    put(custody.Custody, "give_up", lambda right: lambda self, holder, is_dead: [])


@bug("what expires while it waits in memory never does")
def _(put: Put) -> None:
    put(expiry.Expiry, "over", lambda right: lambda self, now: [])


# -- credit ------------------------------------------------------------------------------------------------------------


@bug("the window is one too large")
def _(put: Put) -> None:
    put(window.Window, "room", lambda right: lambda self: right(self) + 1)


@bug("credit for what is handed back leaks")
def _(put: Put) -> None:
    put(worker.Worker, "_release", nothing)


@bug("credit is counted twice for what came before")
def _(put: Put) -> None:
    put(sender_credit.Credit, "spend", lambda right: lambda self, cost: setattr(self, "sent", self.sent + 2 * cost))


@bug("what a session brought is not counted after its end")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def left(self: Any, conn: int) -> None:
            before = self._elsewhere
            right(self, conn)
            self._elsewhere = before

        return left

    put(window.Window, "left", made)


# -- what handlers send ------------------------------------------------------------------------------------------------


@bug("whose run was chosen is not committed with the settlement")
def _(put: Put) -> None:
    put(stubs.Choosing, "write", nothing)


@bug("a stub is forgotten before the outputs are released")
def _(put: Put) -> None:
    put(stubs.Choosing, "add", nothing)


@bug("everybody who claims a message is chosen")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def choose(self: Any, change: Any) -> None:
            right(self, change)
            change.chosen = ((change.first, change.count),)

        return choose

    put(transaction.Transaction, "_choose", made)


@bug("outputs are released without being chosen")
def _(put: Put) -> None:
    put(
        claims.Claims, "confirm",
        lambda right: lambda self, box, part, *, chosen: right(self, box, part, chosen=True),
    )  # fmt: skip


@bug("outputs leave with the run that sends them")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def keep(self: Any, change: Any) -> None:
            right(self, change)
            self.release(
                Release(change.origin, change.epoch, change.first, change.count, change.fence, change.n, unasked=True)
            )

        return keep

    put(outbox_claims.Claiming, "keep", made)


@bug("what was not chosen is not dropped")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def confirm(self: Any, box: int, part: Any, *, chosen: bool) -> None:
            if chosen:
                right(self, box, part, chosen=True)

        return confirm

    put(claims.Claims, "confirm", made)


@bug("an outcome with outputs is said before it is on disk")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def keep(self: Any, box: int, part: Any, *args: Any, **kwargs: Any) -> None:
            right(self, box, part, *args, **kwargs)
            for home in list(self._memory.kept._homes(box, part)):
                self._tell(box, self._memory.kept.stored(box, part, home))

        return keep

    put(claims.Claims, "keep", made)


@bug("what is not on disk yet is not held")
def _(put: Put) -> None:
    put(kept.KeptOutcomes, "unsaid_of", lambda right: lambda self, box: [])


@bug("what an earlier life has kept is not asked about")
def _(put: Put) -> None:
    put(claims.Claims, "opened", lambda right: lambda self, home, kept, now: right(self, home, (), now))


@bug("`released` is said before the outputs are accepted")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def confirm(self: Any, box: int, part: Any, *, chosen: bool) -> None:
            for home, mine in list(self._memory.kept.waiting(box, part)) if chosen else ():
                self._say_released(box, [mine], home)
            right(self, box, part, chosen=chosen)

        return confirm

    put(claims.Claims, "confirm", made)


@bug("a commit that an opening has not seen is not made by the next")
def _(put: Put) -> None:
    put(keeping.Keeping, "opened", lambda right: lambda self, home: self._open.add(home))
