"""A worker comes back and says what it holds: what goes on, what is adopted, what waits again, what it must drop.

The table is in `zerowait.engines.brokerless.protocol.tables`; the reasons are in rules §3.2. Running is adopted but
queued is dropped because of keys: m1 waits for a retry elsewhere, m2, queued here, would run first."""

from __future__ import annotations

from msgspec import Struct

from zerowait.engines.brokerless.protocol.frames import Held, Part
from zerowait.engines.brokerless.protocol.owner.custody import Custody
from zerowait.engines.brokerless.protocol.owner.flights import Slice
from zerowait.numbers import Numbers


class Plan(Struct):
    again: list[Slice]  # in flight there and not held: waits again
    adopt: list[Part]  # running there and in flight nowhere
    drop: list[tuple[int, int, int]]  # (epoch, first, count): queued there, but not its to run any more
    started: list[tuple[int, int, int]]  # running there: what was to be withdrawn of it is not taken back


def reconcile(custody: Custody, holder: int, held: Held) -> Plan:
    """What follows from a HELD. What goes on is renamed here; the rest of the plan is carried out by who asked."""
    plan = Plan([], [], [], [])
    kept: dict[int, Numbers] = {}
    for part, running in [(part, True) for part in held.running] + [(part, False) for part in held.queued]:
        mine = _keep(custody, holder, part)
        for first, count in mine:
            kept.setdefault(part.epoch, Numbers()).add(first, count)
        if running:
            plan.started.append((part.epoch, part.first, part.count))
        for first, count in mine.missing(part.first, part.count):
            if not running:
                plan.drop.append((part.epoch, first, count))
                continue
            elsewhere = custody.in_flight_elsewhere(holder, part.epoch, first, count)
            for at, many in elsewhere.missing(first, count):
                plan.adopt.append(Part(part.epoch, at, many, part.fence, part.n))
    for flight in custody.flights_of(holder):
        for at, many in _not_in(kept.get(flight.epoch), flight.left):
            plan.again.extend(custody.give_back(flight, at, many))
    return plan


def _keep(custody: Custody, holder: int, part: Part) -> Numbers:
    """What of this is in flight there already: it goes on, under the number by which the holder knows it."""
    mine = Numbers()
    for flight, first, count in list(custody.flights.over(part.epoch, part.first, part.count)):
        if flight.holder == holder:
            mine.add(first, count)
            custody.rename(flight, Part(part.epoch, first, count, part.fence, part.n))
    return mine


def _not_in(kept: Numbers | None, left: Numbers) -> list[tuple[int, int]]:
    if kept is None:
        return list(left)
    return [found for first, count in left for found in kept.missing(first, count)]
