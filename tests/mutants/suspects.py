"""Bugs of how a killer is found (rules §5)."""

from __future__ import annotations

from typing import Any

from tests.mutants.planting import Put, bug, nothing
from zerowait.engines.brokerless.protocol.frames import Obituary
from zerowait.engines.brokerless.protocol.owner import custody, lanes, marking, owner, suspects, trial
from zerowait.engines.brokerless.protocol.worker import desk
from zerowait.engines.brokerless.protocol.worker import lanes as worker_lanes
from zerowait.message import Again, Mark, Marks
from zerowait.outbox import settlement


@bug("a death is not noted before its message is offered again")
def _(put: Put) -> None:
    put(trial.Trial, "blame", lambda right: lambda self, custody, death, suspected, pieces: pieces)


@bug("a message that was marked waits on before its row says so")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def split(self: Any, custody: Any, death: Any, numbers: Any, piece: Any) -> Any:
            right(self, custody, death, numbers, piece)
            return [piece]

        return split

    put(trial.Trial, "_split", made)


@bug("what was read before a death was noted is offered as it was")
def _(put: Put) -> None:
    put(marking.Marking, "leave_out", nothing)


@bug("a row that has a death says all that was learned of it since", by="tests/protocol/test_suspects.py")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def is_said(self: Any, row: Any) -> bool:
            instances = {death.instance for death in row.deaths}
            return {death.instance for death in self.died} <= instances and not {*self.cleared} & instances

        return is_said

    put(marking._Wanted, "is_said", made)


@bug("what is learned of a death makes the wait for a retry shorter", by="tests/unit/outbox/test_suspects.py")
def _(put: Put) -> None:
    put(settlement.Settlement, "_due_of", lambda right: lambda self, change, row: (
        right(self, change, row) if isinstance(change, Again) else self._now))  # fmt: skip


@bug("where a message runs alone is not noted before it is sent")
def _(put: Put) -> None:
    put(settlement.Settlement, "_alone", nothing)


@bug("a note of who runs alone gets lost beside a death of the same turn")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def alone(self: Any, change: Any) -> None:
            if (change.epoch, change.number) not in self.own:
                right(self, change)

        return alone

    put(settlement.Settlement, "_alone", made)


@bug("a death that its row tells already makes a message be offered twice")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def part(self: Any, change: Any) -> None:
            if isinstance(change, Mark) and not change.seq:
                marks_of, self._marks_of = self._marks_of, lambda row: Marks()
                try:
                    right(self, change)
                    if (own := self.own.get((change.epoch, change.number))) is not None:
                        own.marks = _both(marks_of(own.row), own.marks)
                finally:
                    del self._marks_of
                return
            right(self, change)

        return part

    put(settlement.Settlement, "_part", made)


def _both(before: Marks, after: Marks) -> Marks:
    for death in after.deaths:
        before = before.died(death)
    return before


@bug("a later list does not clear whom it does not name")
def _(put: Put) -> None:
    put(suspects.Evidence, "revise", lambda right: lambda self, name, marks: ([], []))


@bug("who is back does not clear its marks")
def _(put: Put) -> None:
    put(suspects.Evidence, "lives", nothing)


@bug("all that a dead worker held is suspect although it has left a list")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def gone(self: Any, instance: int, **how: Any) -> int:
            held = [
                (custody.box, flight.epoch, first, count)
                for custody in self.custody.values()
                for flight in custody.flights_of(instance)
                for first, count in flight.left
            ]
            obituary = how.get("obituary")
            if obituary is not None and obituary.listed:
                how["obituary"] = Obituary(instance, None, None, tuple(held), True)
            return int(right(self, instance, **how))

        return gone

    put(owner.Owner, "gone", made)


@bug("a list is not read when an outbox is opened again")
def _(put: Put) -> None:
    put(trial.Trial, "_elsewhere", nothing)


@bug("who has died three times is never found guilty")
def _(put: Put) -> None:
    put(trial, "is_convicted", lambda right: lambda marks, limit: False)


@bug("three deaths are enough, also if it never ran alone")
def _(put: Put) -> None:
    put(trial, "is_convicted", lambda right: lambda marks, limit: len(marks.deaths) >= limit)


@bug("a suspect waits among the others")
def _(put: Put) -> None:
    put(suspects, "lane_of", lambda right: lambda marks: min(1, right(marks)))


@bug("suspects are sent without credit of their lane")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def spend(self: Any, link: Any, channel: str, lane: int) -> Any:
            piece = self._suspects.pop(channel, lane, self._fitting(link, channel), link.message_bytes)
            if piece is not None:
                yield link, piece, lane

        return spend

    put(lanes.Lanes, "_spend", made)


@bug("a worker does not stand still for one that is to run alone")
def _(put: Put) -> None:
    put(desk.Desk, "stand_still", nothing)


@bug("a worker never moves again after one has run alone")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        return lambda self, stands: right(self, True) if stands else None

    put(desk.Desk, "stand_still", made)


@bug("the end of a suspect gives no credit back")
def _(put: Put) -> None:
    put(worker_lanes.Lanes, "left", nothing)


@bug("what a worker has said to hold is forgotten before the row is read that it was to run alone")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def resumed(self: Any, holder: int) -> Any:
            released = right(self, holder)
            self.cleared.clear()
            return released

        return resumed

    put(custody.Custody, "resumed", made)
