"""Suspects on their way to the disk and back: of each it is noted what its row is to say before it is offered again
(rules §5.1). Until then it is nowhere in memory, and what was read of it before does not count."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from zerowait.message import Death, Marks, Segment
from zerowait.numbers import Numbers


class _Wanted(Struct):
    """A change of its row that is not known to be durable."""

    ticket: int
    died: tuple[Death, ...]
    cleared: tuple[int, ...]

    def is_said(self, row: Marks) -> bool:
        """Whether that row would not change by it, also in what is known of those deaths: one that it has may be proved
        only now."""
        said = row
        for death in self.died:
            said = said.died(death)
        for instance in self.cleared:
            said = said.cleared(instance)
        return said == row


class Marking:
    """Of one outbox, by (epoch, number)."""

    def __init__(self) -> None:
        self._wanted: dict[tuple[int, int], list[_Wanted]] = {}

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def want(self, epoch: int, number: int, died: Iterable[Death], cleared: Iterable[int], ticket: int) -> None:
        """Its row is to say that it was there at those deaths, and not at these. ticket: of the change."""
        self._wanted.setdefault((epoch, number), []).append(_Wanted(ticket, tuple(died), tuple(cleared)))

    def lasting(self, epoch: int, number: int, ticket: int) -> None:
        """That is durable: what is offered from now on was read since."""
        wanted = self._wanted.get((epoch, number))
        if wanted is None:
            return
        if left := [each for each in wanted if each.ticket > ticket]:
            self._wanted[epoch, number] = left
        else:
            del self._wanted[epoch, number]

    def concerns(self, segment: Segment) -> bool:
        return bool(self._names(segment))

    def _names(self, segment: Segment) -> list[tuple[int, int]]:
        mine = range(segment.first, segment.first + segment.count)
        return [name for name in self._wanted if name[0] == segment.epoch and name[1] in mine]

    def leave_out(self, segment: Segment, absent: Numbers) -> None:
        """Adds to `absent` what of the segment was read before its row said that: it will be read again."""
        for epoch, number in self._names(segment):
            row = segment.marks or Marks()
            # One that changes the row has it read again, even if the next undoes it.
            if segment.count == 1 and all(each.is_said(row) for each in self._wanted[epoch, number]):
                del self._wanted[epoch, number]
            else:
                absent.add(number, 1)
