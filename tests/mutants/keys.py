"""Bugs of the order of keys (rules §8.2)."""

from __future__ import annotations

from typing import Any

from tests.mutants.planting import Put, bug, nothing
from zerowait.engines.brokerless.protocol.owner import keys, past
from zerowait.engines.brokerless.protocol.worker import desk, single
from zerowait.outbox import ahead, heads


@bug("of a key the row goes out that is first by name, also behind one that has left it")
def _(put: Put) -> None:
    put(heads._First, "name", lambda right: lambda self: (self.epoch, self.first))


@bug("a key is not held up by a head that waits for its time")
def _(put: Put) -> None:
    put(ahead, "heads", lambda right: lambda database, id, keys, now: right(database, id, keys, 1 << 62))


@bug("a row goes out while another of its key is out")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def back(self: Any, row: Any) -> None:
            self._readers[row.channel].busy.clear()
            right(self, row)

        return back

    put(ahead.Ahead, "back", made)


@bug("a key that is free again is not looked up")
def _(put: Put) -> None:
    put(ahead.Ahead, "freed", nothing)

    def made(right: Any) -> Any:
        def back(self: Any, row: Any) -> None:
            right(self, row)
            self._readers[row.channel].free.pop(row.key, None)

        return back

    put(ahead.Ahead, "back", made)


@bug("the rest of a key goes to another worker while its first messages are in flight")
def _(put: Put) -> None:
    put(keys.Keys, "_is_blocked", lambda right: lambda self, line: False)


@bug("a retry does not hold up what follows it in its row")
def _(put: Put) -> None:
    put(keys.Keys, "breaks", nothing)


@bug("what is new of a key does not wait for those who may run what is old")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def keep(self: Any, pieces: Any) -> Any:
            new = [piece for piece in pieces if piece.segment.epoch >= self._epoch]
            return [*right(self, [piece for piece in pieces if piece.segment.epoch < self._epoch]), *new]

        return keep

    put(past.Past, "keep", made)


@bug("a worker runs two of a key at once")
def _(put: Put) -> None:
    put(single, "name_of", lambda right: lambda parcel: None)
    put(desk, "name_of", lambda right: lambda parcel: None)


@bug("a worker goes on with a key of which one has failed")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def failed(self: Any, parcel: Any, index: int) -> list[Any]:
            self.handled(parcel, index)
            return []

        return failed

    put(desk.Desk, "failed", made)


@bug("what lies behind a hole in its row goes on before the one that has left it")
def _(put: Put) -> None:
    put(keys, "_first_hole", lambda right: lambda segment: 1 << 62)
