"""Sheaves that somebody still has receipts of, by the names of the segments they became."""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakValueDictionary

from zerowait.outbox.known import Twin
from zerowait.outbox.row import Row
from zerowait.outbox.settlement import Event
from zerowait.outbox.sheaf import Sheaf, State


class Followed:
    """Knows them weakly: with its last receipt a sheaf is forgotten. `find` and `moved` on any thread."""

    def __init__(self) -> None:
        self._sheaves: WeakValueDictionary[tuple[int, int], Sheaf] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._sheaves)

    def stored(self, row: Row, sheaf: Sheaf) -> None:
        """It became that row, and all of it is safe."""
        self._sheaves[row.epoch, row.home] = sheaf
        sheaf.stored()

    def again(self, twin: Twin) -> None:
        """A push that came again has the receipt of the first."""
        name, sheaf = (twin.epoch, twin.number), twin.fresh.sheaf
        first = self._sheaves.setdefault(name, sheaf)
        sheaf.become(*name, twin.state, twin.note, twin.failures, first)

    def find(self, epoch: int, home: int) -> Sheaf | None:
        return self._sheaves.get((epoch, home))

    def moved(self, epoch: int, home: int, first: int, count: int, state: State) -> None:
        """Messages first … of the sheaf of that name are in that state now."""
        sheaf = self._sheaves.get((epoch, home))
        if sheaf is not None:
            sheaf.moved(first, count, state)

    def tell(self, events: Iterable[Event]) -> None:
        """What a transaction that is durable now has made of them."""
        for event in events:
            sheaf = self._sheaves.get((event.row.epoch, event.row.home))
            if sheaf is not None:
                sheaf.moved(event.first, event.count, event.state, event.note, event.failures)
