"""Bugs of time (rules §8.1, §8.3): due times, clocks that are set, and what expires."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from tests.mutants.planting import Put, bug, nothing
from zerowait.engines.brokerless.protocol.owner import expiry, sender
from zerowait.engines.brokerless.protocol.worker import arrival
from zerowait.outbox import aging, ahead, clock, file, intake, known, numbering, settlement, transaction

OUTBOX = "tests/unit/outbox/test_outbox.py"
FILE = "tests/unit/outbox/test_file.py"
TIMES = "tests/unit/outbox/test_times.py"
TRAVELS = "tests/protocol/test_times.py"
CREW = "tests/unit/handlers/test_async_runners.py"

# -- due times ---------------------------------------------------------------------------------------------------------


@bug("a due time is not written down", by=TIMES)
def _(put: Put) -> None:
    """The next life runs at once what was to wait."""

    def made(right: Any) -> Any:
        def init(self: Any, *args: Any, **more: Any) -> None:
            right(self, *args, **more)
            self._later = lambda channel, due: 0

        return init

    put(settlement.Settlement, "__init__", made)


@bug("what is pushed with a delay does not wait for its time")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def begin(self: Any, lane: Any, slot: Any, terms: Any, *args: Any, **more: Any) -> Any:
            return right(self, lane, slot, replace(terms, due=None), *args, **more)

        return begin

    put(intake.Intake, "begin", made)


@bug("what waits for its time is read with the rest", by=TIMES)
def _(put: Put) -> None:
    put(ahead, "_READY", lambda right: right.replace("due IS NULL AND ", ""))


@bug("what waits for its time fills the room for reading", by=TIMES)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def later(self: Any, channel: str, due: int) -> int:
            self.reader(channel).rows += 1
            return int(right(self, channel, due))

        return later

    put(ahead.Ahead, "later", made)


@bug("what is due is looked up only when something else happens")
def _(put: Put) -> None:
    put(ahead.Ahead, "next_due", lambda right: lambda self: None)


@bug("a delay counts from the opening of the outbox", by=OUTBOX)
def _(put: Put) -> None:
    put(clock.Clock, "shift", lambda right: lambda self: self._started // 1_000)


# -- clocks that are set -----------------------------------------------------------------------------------------------


@bug("an outbox waits by the wall clock", by=OUTBOX)
def _(put: Put) -> None:
    put(clock.Clock, "now", lambda right: lambda self: self._now_us())


@bug("what is told of times is in the outbox's own time", by=OUTBOX)
def _(put: Put) -> None:
    put(clock.Clock, "shift", lambda right: lambda self: 0)


@bug("a wall clock set back between two lives makes what is due wait for as long", by=FILE)
def _(put: Put) -> None:
    put(clock.Clock, "__init__", lambda right: lambda self, now_us, wall, steady=None: right(self, now_us, 0, steady))


@bug("how far the outbox's time has got is not written down", by=FILE)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def account(self: Any) -> int:
            before = self._database.one("SELECT wall FROM box")
            turn = int(right(self))
            self._database.run("UPDATE box SET wall = ?", (before,))
            return turn

        return account

    put(transaction.Transaction, "_account", made)


@bug("an epoch is one more than the last and knows nothing of the time", by=FILE)
def _(put: Put) -> None:
    """A backup that is brought back is fenced for ever."""

    def made(right: Any) -> Any:
        def raise_epoch(database: Any, clock: Any, above: int) -> int:
            epoch = int(max(database.one("SELECT epoch FROM box"), above)) + 1
            database.run("UPDATE box SET epoch = ?, wall = max(wall, ?)", (epoch, clock.now()))
            return epoch

        return raise_epoch

    put(file, "raise_epoch", made)


# -- expiry ------------------------------------------------------------------------------------------------------------


@bug("what waits on disk never expires")
def _(put: Put) -> None:
    put(aging.Aging, "expires", lambda right: lambda self, at: None)


@bug("an earlier life's deadlines are not looked for", by=TIMES)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def init(self: Any, *args: Any) -> None:
            right(self, *args)
            self.expiry_at = None

        return init

    put(aging.Aging, "__init__", made)


@bug("the outbox expires what dispatch has", by=OUTBOX)
def _(put: Put) -> None:
    put(aging.Aging, "expire", lambda right: lambda self, database, channels, out, *rest: right(
        self, database, channels, (), *rest))  # fmt: skip


@bug("a worker is not told how much time is left", by=TRAVELS)
def _(put: Put) -> None:
    put(sender, "Batch", lambda right: lambda **said: right(**{**said, "left_ms": {}}))


@bug("a worker judges by the time that was left when it was accepted", by=TRAVELS)
def _(put: Put) -> None:
    """It is told the time of day, and its own clock is another."""

    def made(right: Any) -> Any:
        def delivery(link: Any, batch: Any, count: int, now: float) -> Any:
            found = right(link, batch, count, now)
            if found.expires is not None:
                left = min(batch.left_ms.values()) / 1_000
                found = replace(found, expires=batch.accepted_at[0] / 1e6 + left)
            return found

        return delivery

    put(arrival, "_delivery", made)


@bug("a worker begins what is over", by=CREW)
def _(put: Put) -> None:
    from zerowait.handlers import crew

    def made(right: Any) -> Any:
        def begin(self: Any, run: Any, job: Any, now: float) -> bool:
            job.delivery.expires = None
            return bool(right(self, run, job, now))

        return begin

    put(crew.Crew, "_begin", made)


@bug("time to live counts from the push and not from when it is due", by=TIMES)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def seal(self: Any, sheaf: Any, piece: Any, shift: int) -> Any:
            fresh = right(self, sheaf, piece, shift)
            if sheaf.terms.due is not None and sheaf.terms.expires is not None:
                fresh.row.expires -= sheaf.terms.due - sheaf.terms.accepted_at
            return fresh

        return seal

    put(numbering.Numbering, "seal", made)


@bug("what waits in memory is looked at for its time only when it is read")
def _(put: Put) -> None:
    put(expiry.Expiry, "watch", lambda right: lambda self, box, segment, first, count: None)


# -- ids ---------------------------------------------------------------------------------------------------------------


@bug("an id is forgotten with the life that has seen it", by="tests/unit/outbox/test_known.py")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def init(self: Any, database: Any, most: int, kept_us: int) -> None:
            database.run("DELETE FROM known")
            right(self, database, most, kept_us)

        return init

    put(known.Known, "__init__", made)


@bug("an id is remembered for ever", by="tests/unit/outbox/test_known.py")
def _(put: Put) -> None:
    put(
        known.Known,
        "__init__",
        lambda right: lambda self, database, most, kept_us: right(self, database, most, 1 << 60),
    )


@bug("any number of ids is remembered", by="tests/unit/outbox/test_known.py")
def _(put: Put) -> None:
    put(known.Known, "_tidy", nothing)


@bug("an id counts for all channels", by="tests/unit/outbox/test_known.py")
def _(put: Put) -> None:
    put(known.Known, "admit", lambda right: lambda self, database, fresh, id_of, now: right(
        self, database, fresh, lambda channel: 1, now))  # fmt: skip
