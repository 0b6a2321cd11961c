"""What this process as a worker writes into its own outboxes, until that is durable.

An outbox may be opened again meanwhile, or may not be open yet: what is not known to be durable is handed to its next
opening once more. Said twice, each of these changes does nothing."""

from __future__ import annotations

from collections import deque
from typing import Literal

from msgspec import Struct

from zerowait.engines.brokerless.protocol.effects import Effects, Ticket
from zerowait.engines.brokerless.protocol.frames import Part
from zerowait.message import Discard, Keep, Release

What = Literal["kept", "released", "unasked", "discarded"]


class Deed(Struct, eq=False):
    what: What
    change: Keep | Release | Discard
    box: int
    part: Part
    ticket: int = 0


class Keeping:
    def __init__(self, effects: Effects) -> None:
        self._effects = effects
        self._open: set[int] = set()
        self._pending: dict[int, deque[Deed]] = {}

    def keep(self, home: int, change: Keep) -> None:
        self._add(home, Deed("kept", change, change.origin, _part(change)))

    def release(self, home: int, box: int, part: Part, *, unasked: bool = False) -> None:
        change = Release(box, part.epoch, part.first, part.count, part.fence, part.n, unasked)
        self._add(home, Deed("unasked" if unasked else "released", change, box, part))

    def discard(self, home: int, box: int, part: Part) -> None:
        change = Discard(box, part.epoch, part.first, part.count, part.fence, part.n)
        self._add(home, Deed("discarded", change, box, part))

    def _add(self, home: int, deed: Deed) -> None:
        self._pending.setdefault(home, deque()).append(deed)
        if home in self._open:
            self._submit(home, deed)

    def _submit(self, home: int, deed: Deed) -> None:
        ticket = self._effects.commit(home, [deed.change], patient=deed.what == "discarded")
        deed.ticket = ticket.number
        match deed.what:
            case "kept":
                ticket.kept.append((deed.box, deed.part))
            case "released":
                ticket.released.append((deed.box, deed.part))
            case "discarded":
                ticket.discarded.append((deed.box, deed.part))
            case "unasked":
                pass  # nothing is said of it: it is still asked whether it was chosen

    def opened(self, home: int) -> None:
        self._open.add(home)
        for deed in self._pending.get(home, ()):
            self._submit(home, deed)

    def closed(self, home: int) -> None:
        self._open.discard(home)
        self._pending.pop(home, None)

    def is_busy(self, home: int) -> bool:
        """Whether something for it is not durable yet."""
        return bool(self._pending.get(home))

    def committed(self, ticket: Ticket) -> None:
        pending = self._pending.get(ticket.box)
        while pending and pending[0].ticket <= ticket.number:
            pending.popleft()


def _part(change: Keep) -> Part:
    return Part(change.epoch, change.first, change.count, change.fence, change.n)
