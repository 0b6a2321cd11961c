"""Suspects on their way to the disk and back: of each it is noted what its row is to say before it is offered again
(rules §5.1). Until then it is nowhere in memory, and what was read of it before does not count."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from zerowait.message import Death, Marks, Numbers, Segment


class _Wanted(Struct):
    ticket: int
    died: Marks  # its deaths
    cleared: set[int]

    def is_said(self, marks: Marks | None) -> bool:
        """Whether the row would not change by it, also in what is known of those deaths: one that it has may be proved
        only now."""
        row = said = marks or Marks()
        for death in self.died.deaths:
            said = said.died(death)
        for instance in self.cleared:
            said = said.cleared(instance)
        return said == row


class Marking:
    """Of one outbox, by (epoch, number)."""

    def __init__(self) -> None:
        self._wanted: dict[tuple[int, int], _Wanted] = {}

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def want(self, epoch: int, number: int, died: Iterable[Death], cleared: Iterable[int], ticket: int) -> None:
        """Its row is to say that it was there at those deaths, and not at these. ticket: of the last such change."""
        wanted = self._wanted.get((epoch, number))
        if wanted is None:
            wanted = self._wanted[epoch, number] = _Wanted(ticket, Marks(), set())
        wanted.ticket = ticket
        for death in died:
            wanted.died = wanted.died.died(death)
            wanted.cleared.discard(death.instance)
        for instance in cleared:
            wanted.died = wanted.died.cleared(instance)
            wanted.cleared.add(instance)

    def lasting(self, epoch: int, number: int, ticket: int) -> None:
        """That is durable: what is offered from now on was read since."""
        wanted = self._wanted.get((epoch, number))
        if wanted is not None and wanted.ticket <= ticket:
            del self._wanted[epoch, number]

    def concerns(self, segment: Segment) -> bool:
        return bool(self._names(segment))

    def _names(self, segment: Segment) -> list[tuple[int, int]]:
        mine = range(segment.first, segment.first + segment.count)
        return [name for name in self._wanted if name[0] == segment.epoch and name[1] in mine]

    def leave_out(self, segment: Segment, absent: Numbers) -> None:
        """Adds to `absent` what of the segment was read before its row said that: it will be read again."""
        for epoch, number in self._names(segment):
            if segment.count == 1 and self._wanted[epoch, number].is_said(segment.marks):
                del self._wanted[epoch, number]
            else:
                absent.add(number, 1)
