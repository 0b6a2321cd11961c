"""Which run of a message counts, where its handler has sent something (rules §6).

A handler may run twice, and each run's outputs lie in the outbox of the process that ran it. They leave when the
message's owner says *chosen*, and it says so to one of them: to the first whose claim it commits together with the
settlement. Whose that was a stub says until those outputs are released. What a message is that is not in memory, only
its row knows; so who is chosen is known once the commit is made, and only then anybody is told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zerowait.engines.brokerless.protocol.effects import Asking, Effects, Ticket
from zerowait.engines.brokerless.protocol.frames import Outcome, Part
from zerowait.message import Change, Choose, Settle, Unstub
from zerowait.numbers import Numbers


class Choices:
    def __init__(self, effects: Effects) -> None:
        self._effects = effects
        self._open: dict[tuple[int, int, int], Numbers] = {}  # (outbox, epoch, outbox of the outputs) → not released

    def choose(self, box: int, outputs: int, part: Part, changes: Sequence[Change], conn: int) -> None:
        """Its run claims these: `changes` is what would settle them if nobody had before."""
        asked = [
            Choose(change.channel, change.epoch, change.first, change.count, outputs, change.seq)
            for change in changes
            if isinstance(change, Settle)
        ]
        others = [change for change in changes if not isinstance(change, Settle)]
        ticket = self._effects.commit(box, [*asked, *others])
        ticket.asking.append(Asking(conn, part, asked))

    def release(self, box: int, outcome: Outcome, conn: int) -> None:
        """The outputs of these have left: nobody needs the stub any more. What confirms that does not say chosen."""
        ticket = self._effects.commit(
            box, [Unstub(part.epoch, part.first, part.count, outcome.outputs) for part in outcome.parts], patient=True
        )
        ticket.asking.extend(Asking(conn, part, []) for part in outcome.parts)

    def committed(self, ticket: Ticket) -> None:
        for change in ticket.changes:
            if isinstance(change, Choose) and change.chosen:
                numbers = self._open.setdefault((ticket.box, change.epoch, change.outputs), Numbers())
                for first, count in change.chosen:
                    numbers.add(first, count)
            elif isinstance(change, Unstub):
                name = (ticket.box, change.epoch, change.outputs)
                if (there := self._open.get(name)) is not None:
                    there.remove(change.first, change.count)
                    if not there:
                        del self._open[name]

    def disown(self, box: int) -> None:
        for name in [name for name in self._open if name[0] == box]:
            del self._open[name]

    def outstanding(self, boxes: Iterable[int]) -> bool:
        """Whether one of these outboxes has outputs that were chosen in this life, and has not said that they left."""
        there = set(boxes)
        return any(name[2] in there for name in self._open)
