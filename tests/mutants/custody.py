"""Bugs of what is kept and for how long (rules §2.6, §2.7, §5.5), and of what handlers send (§6.4 to §6.7)."""

from __future__ import annotations

from math import inf
from typing import Any

from msgspec.structs import replace

from tests.mutants.planting import Put, bug, nothing
from zerowait import outgoing
from zerowait.engines.brokerless import entries
from zerowait.engines.brokerless.protocol import effects
from zerowait.engines.brokerless.protocol.owner import sender
from zerowait.engines.brokerless.protocol.worker import claims, owners, worker
from zerowait.outbox import headroom, intake, outbox, trouble

RULES = "tests/protocol/test_rules.py"
OUTPUTS = "tests/protocol/test_outputs.py"
SCENARIOS = "tests/protocol/test_scenarios.py"
FILE = "tests/unit/outbox/test_file.py"
ON_DISK = (
    "tests/integration/test_outputs.py::"
    "test_what_is_sent_for_a_durable_message_lies_on_disk_though_its_channel_does_not"
)
HEADROOM = "tests/unit/outbox/test_headroom.py"
INTAKE = "tests/unit/outbox/test_intake.py"

# -- what is kept ------------------------------------------------------------------------------------------------------


@bug("outcomes of an owner that never comes back are kept for ever", by=RULES)
def _(put: Put) -> None:
    put(owners.Owners, "kept_long_enough", lambda right: lambda self, now: [])


@bug("outcomes of an owner that is gone go with it")
def _(put: Put) -> None:
    put(worker.Worker, "owner_gone", lambda right: lambda self, boxes, now, **how: right(
        self, [replace(each, durable=False) for each in boxes], now, **how))  # fmt: skip


@bug("outcomes of an outbox in memory outlive its process", by=(RULES, "tests/protocol/test_streams.py"))
def _(put: Put) -> None:
    put(worker.Worker, "owner_gone", lambda right: lambda self, boxes, now, **how: right(
        self, [replace(each, durable=True) for each in boxes], now, **how))  # fmt: skip


@bug("whoever waits is told at the first error that what was pushed is lost", by=FILE)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def begins(self: Any, error: Any, *, is_open: bool) -> bool:
            right(self, error, is_open=is_open)
            return True

        return begins

    put(trouble.Trouble, "begins", made)


@bug("whoever waits for a file that stays closed waits for ever", by=FILE)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def begins(self: Any, error: Any, *, is_open: bool) -> bool:
            right(self, error, is_open=is_open)
            return False

        return begins

    put(trouble.Trouble, "begins", made)


@bug("new messages are stored up to the last byte of the disk", by=HEADROOM)
def _(put: Put) -> None:
    put(headroom.Headroom, "fits", lambda right: lambda self, database, fresh: len(fresh))


@bug("where room is short all outcomes are written at once", by=HEADROOM)
def _(put: Put) -> None:
    put(headroom.Headroom, "at_once", lambda right: lambda self, database, changes, out: len(changes))


@bug("whoever has too little room for pushes does nothing else in time either", by=HEADROOM)
def _(put: Put) -> None:
    put(outbox.Outbox, "next_due", lambda right: lambda self: right(self) if self.intake.broken is None else 1.0)


@bug("who leaves keeps room free rather than what was accepted", by=HEADROOM)
def _(put: Put) -> None:
    put(headroom.Headroom, "use_up", nothing)


@bug("news that found no room in the directory are never announced", by="tests/unit/test_directory.py")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def announce(self: Any, entry: Any) -> None:
            try:
                right(self, entry)
            finally:
                self._is_stale = False

        return announce

    put(entries.Entries, "announce", made)


@bug("a worker is not told how often its predecessors have died of a message", by="tests/protocol/test_suspects.py")
def _(put: Put) -> None:
    put(sender, "Batch", lambda right: lambda **said: right(**{**said, "deaths": {}}))


# -- what handlers send ------------------------------------------------------------------------------------------------


@bug("a handler that sends nothing has a commit all the same", by=OUTPUTS)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def serve(self: Any, services: Any) -> None:
            right(self, [replace(each, keeps=True) for each in services])

        return serve

    put(worker.Worker, "serve", made)


@bug("what was sent for an owner that stays away never leaves", by=SCENARIOS)
def _(put: Put) -> None:
    put(claims.Claims, "tick", nothing)


@bug("what is sent for a durable message lies in memory", by=ON_DISK)
def _(put: Put) -> None:
    put(outgoing.Outgoing, "send", lambda right: lambda self, delivery, outputs: right(
        self, replace(delivery, durable=False), outputs))  # fmt: skip


@bug("a process whose outbox is full takes messages all the same", by=OUTPUTS)
def _(put: Put) -> None:
    put(worker.Worker, "bound", nothing)


@bug("outputs of runs that have begun are refused when the outbox is full", by=INTAKE)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def begin(self: Any, *args: Any, **how: Any) -> Any:
            return right(self, *args, **{**how, "force": False})

        return begin

    put(intake.Intake, "begin", made)


# -- what nobody waits for (§6.3) --------------------------------------------------------------------------------------


@bug("what nobody waits for is never committed", by=OUTPUTS)
def _(put: Put) -> None:
    put(effects.Effects, "wake", lambda right: lambda self: inf)


@bug("who leaves puts off what nobody waits for", by=OUTPUTS)
def _(put: Put) -> None:
    put(effects.Effects, "hurry", nothing)


@bug("what nobody waits for holds up what somebody waits for", by=OUTPUTS)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def ticket(self: Any, box: int, *, patient: bool = False) -> Any:
            before = self._open.get(box)
            until = before.until if before is not None else None
            given = right(self, box, patient=patient)
            if until is not None:
                given.until = until
            return given

        return ticket

    put(effects.Effects, "ticket", made)
