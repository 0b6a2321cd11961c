"""How often messages have failed. A run that began before one whose failure was counted already fails for free (rules
§3.2)."""

from __future__ import annotations

from msgspec import Struct

from zerowait.engines.brokerless.protocol.frames import Part
from zerowait.message import Segment

ONE_MORE = 0  # in a change: one failure more than the row says (no failure that is counted leaves it at 0)


class Counted(Struct, gc=False):
    """The dispatch whose failure was counted last, and how many there were then."""

    fence: int
    n: int
    failures: int


class Failures:
    def __init__(self) -> None:
        self._counted: dict[tuple[int, int], Counted] = {}

    def count(self, part: Part, number: int, segment: Segment | None) -> int:
        """It has failed under that dispatch: how often now. segment: None, its row was not read."""
        name = (part.epoch, number)
        counted = self._counted.get(name)
        if counted is not None and (part.fence, part.n) < (counted.fence, counted.n):
            return counted.failures
        if segment is None and counted is None:
            return ONE_MORE
        failures = (segment.failures if segment is not None else counted.failures if counted is not None else 0) + 1
        self._counted[name] = Counted(part.fence, part.n, failures)
        return failures

    def forget(self, epoch: int, first: int, count: int) -> None:
        """These will not fail again. Few messages ever do: a batch costs no more than there are of those."""
        if count == 1:
            self._counted.pop((epoch, first), None)
            return
        for name in [name for name in self._counted if name[0] == epoch and first <= name[1] < first + count]:
            del self._counted[name]
