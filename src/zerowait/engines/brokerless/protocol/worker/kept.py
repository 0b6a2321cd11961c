"""Which outcomes lie in an outbox of this process: those of channels that keep them, and those with outputs (rules
§2.5, §6). What is here are ranges; `Memory` has the verdicts. A channel that keeps nothing and a handler that sends
nothing never come by.

    unsaid ──committed──▶ said ──CONFIRM chosen, and the outputs accepted──▶ released ──CONFIRM──▶ forgotten
                            └──── CONFIRM of what sent nothing, or not chosen ────▶ forgotten
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct, field

from zerowait.engines.brokerless.protocol.frames import Part
from zerowait.message import Verdict
from zerowait.numbers import Numbers

Name = tuple[int, int, int, int]  # (outbox, epoch, fence, n): a dispatch
Claim = tuple[Verdict, int]  # HANDLED or RELEASED, and the outbox where the outputs lie


class Phases(Struct):
    """What ended under one dispatch, and lies in one of our outboxes: how far each of them is."""

    unsaid: Numbers = field(default_factory=Numbers)  # on its way to the disk
    said: Numbers = field(default_factory=Numbers)
    released: Numbers = field(default_factory=Numbers)
    outputs: Numbers = field(default_factory=Numbers)  # of the first two: with outputs
    unasked: Numbers = field(default_factory=Numbers)  # of `said`: their outputs have left without being chosen

    def __bool__(self) -> bool:
        return bool(self.unsaid or self.said or self.released)


class KeptOutcomes:
    def __init__(self) -> None:
        self._phases: dict[Name, dict[int, Phases]] = {}  # dispatch → outbox of ours → what lies there

    def __bool__(self) -> bool:
        return bool(self._phases)

    def _homes(self, box: int, part: Part) -> dict[int, Phases]:
        return self._phases.get((box, part.epoch, part.fence, part.n), {})

    # -- what happens to them ----------------------------------------------------------------------------------------

    def keep(self, box: int, part: Part, home: int, *, has_outputs: bool) -> None:
        """On their way to that outbox."""
        phases = self._made(box, part, home)
        phases.unsaid.add(part.first, part.count)
        if has_outputs:
            phases.outputs.add(part.first, part.count)

    def found(self, box: int, part: Part, home: int, *, has_outputs: bool, released: bool) -> None:
        """An earlier life has left them there."""
        phases = self._made(box, part, home)
        (phases.released if released else phases.said).add(part.first, part.count)
        if has_outputs and not released:
            phases.outputs.add(part.first, part.count)

    def _made(self, box: int, part: Part, home: int) -> Phases:
        homes = self._phases.setdefault((box, part.epoch, part.fence, part.n), {})
        phases = homes.get(home)
        if phases is None:
            phases = homes[home] = Phases()
        return phases

    def stored(self, box: int, part: Part, home: int) -> list[Part]:
        """They lie there now. Gives those that are still remembered: they may be said."""
        phases = self._homes(box, part).get(home)
        found = phases.unsaid.overlap(part.first, part.count) if phases is not None else []
        for first, count in found:
            assert phases is not None
            phases.unsaid.remove(first, count)
            phases.said.add(first, count)
        return [_of(part, first, count) for first, count in found]

    def released(self, box: int, part: Part, home: int) -> list[Part]:
        """Their outputs are accepted. Gives those that were chosen, which is to be said."""
        phases = self._homes(box, part).get(home)
        found = phases.said.overlap(part.first, part.count) if phases is not None else []
        for first, count in found:
            assert phases is not None
            phases.said.remove(first, count)
            phases.outputs.remove(first, count)
            phases.unasked.remove(first, count)
            phases.released.add(first, count)
        return [_of(part, first, count) for first, count in found]

    def left_unasked(self, box: int, part: Part, home: int) -> None:
        """Their outputs leave although nobody has chosen: their owner is away."""
        phases = self._homes(box, part).get(home)
        if phases is not None:
            phases.unasked.add(part.first, part.count)

    def forget(self, box: int, part: Part) -> list[tuple[int, Part]]:
        """Nothing of these is known here any more. Gives where something was."""
        found: list[tuple[int, Part]] = []
        homes = self._homes(box, part)
        for home, phases in list(homes.items()):
            for numbers in (phases.unsaid, phases.said, phases.released):
                found += [(home, _of(part, *span)) for span in numbers.overlap(part.first, part.count)]
            for numbers in (phases.unsaid, phases.said, phases.released, phases.outputs, phases.unasked):
                numbers.remove(part.first, part.count)
            if not phases:
                del homes[home]
        if not homes:
            self._phases.pop((box, part.epoch, part.fence, part.n), None)
        return found

    def left(self, home: int) -> list[tuple[int, Part]]:
        """That outbox is not ours any more: who has it now tells what lies there. Gives what that was: (outbox of
        others, part)."""
        gone: list[tuple[int, Part]] = []
        for (box, epoch, fence, n), homes in list(self._phases.items()):
            phases = homes.pop(home, None)
            if phases is not None:
                for numbers in (phases.unsaid, phases.said, phases.released):
                    gone += [(box, Part(epoch, first, count, fence, n)) for first, count in numbers]
            if not homes:
                del self._phases[box, epoch, fence, n]
        return gone

    # -- questions ---------------------------------------------------------------------------------------------------

    def known(self, box: int, part: Part) -> Numbers:
        """Which of these lie in an outbox of ours, or are on their way there."""
        found = Numbers()
        for phases in self._homes(box, part).values():
            for numbers in (phases.unsaid, phases.said, phases.released):
                for span in numbers.overlap(part.first, part.count):
                    found.add(*span)
        return found

    def unsaid(self, box: int, part: Part) -> bool:
        """Whether any of these is not durable yet, and must not be said."""
        return any(phases.unsaid.overlap(part.first, part.count) for phases in self._homes(box, part).values())

    def apart(self, box: int, handled: list[Part]) -> tuple[list[Part], dict[Claim, list[Part]]]:
        """What was handled, as it is to be said: what sent nothing, and what claims something. What is not durable is
        left out."""
        plain: list[Part] = []
        claims: dict[Claim, list[Part]] = {}
        for part in handled:
            homes = self._homes(box, part)
            if not homes:
                plain.append(part)
                continue
            rest = Numbers([(part.first, part.count)])
            for home, phases in homes.items():
                for span in phases.unsaid.overlap(part.first, part.count):
                    rest.remove(*span)
                for verdict, spans in (
                    (Verdict.HANDLED, _claiming(phases, part.first, part.count)),
                    (Verdict.RELEASED, phases.released.overlap(part.first, part.count)),
                ):
                    for span in spans:
                        rest.remove(*span)
                        claims.setdefault((verdict, home), []).append(_of(part, *span))
            plain += [_of(part, *span) for span in rest]
        return plain, claims

    def waiting(self, box: int, part: Part) -> Iterator[tuple[int, Part]]:
        """Those of these that have been said, and claim to be chosen, each with where it lies."""
        yield from self._pick(box, part, _claiming)

    def plain(self, box: int, part: Part) -> Iterator[tuple[int, Part]]:
        """Those of these that have been said, and sent nothing."""
        yield from self._pick(box, part, _plain)

    def on_their_way(self, box: int, part: Part) -> Iterator[tuple[int, Part]]:
        """Those of these that are not durable yet."""
        yield from self._pick(box, part, lambda phases, first, count: phases.unsaid.overlap(first, count))

    def over(self, box: int, part: Part) -> Iterator[tuple[int, Part]]:
        """Those of these that were chosen, and whose outputs have left."""
        yield from self._pick(box, part, lambda phases, first, count: phases.released.overlap(first, count))

    def _pick(
        self, box: int, part: Part, which: Callable[[Phases, int, int], Iterable[tuple[int, int]]]
    ) -> Iterator[tuple[int, Part]]:
        for home, phases in list(self._homes(box, part).items()):
            for span in which(phases, part.first, part.count):
                yield home, _of(part, *span)

    def undecided(self, box: int) -> list[tuple[int, Part]]:
        """All of that outbox that claims to be chosen, and whose outputs lie here still."""
        found: list[tuple[int, Part]] = []
        for (of, epoch, fence, n), homes in self._phases.items():
            if of == box:
                for home, phases in homes.items():
                    claims = _without(_within(phases.outputs, phases.said), phases.unasked)
                    found += [(home, Part(epoch, first, count, fence, n)) for first, count in claims]
        return found

    def unsaid_of(self, box: int) -> list[Part]:
        """All of that outbox that is not durable yet: to its owner they still run."""
        return [
            Part(epoch, first, count, fence, n)
            for (of, epoch, fence, n), homes in self._phases.items()
            if of == box
            for phases in homes.values()
            for first, count in phases.unsaid
        ]

    def boxes(self) -> set[int]:
        return {name[0] for name in self._phases}

    def is_home(self, home: int) -> bool:
        """Whether anything lies in that outbox of ours that its owner has not confirmed."""
        return any(home in homes for homes in self._phases.values())


def _of(part: Part, first: int, count: int) -> Part:
    return Part(part.epoch, first, count, part.fence, part.n)


# Of these numbers only: what else lies there of the dispatch is not looked at.


def _claiming(phases: Phases, first: int, count: int) -> list[tuple[int, int]]:
    """What has been said, with outputs."""
    return [found for span in phases.said.overlap(first, count) for found in phases.outputs.overlap(*span)]


def _plain(phases: Phases, first: int, count: int) -> list[tuple[int, int]]:
    """What has been said, without."""
    return [found for span in phases.said.overlap(first, count) for found in phases.outputs.missing(*span)]


def _within(numbers: Numbers, others: Numbers) -> Numbers:
    return Numbers(span for first, count in numbers for span in others.overlap(first, count))


def _without(numbers: Numbers, others: Numbers) -> Numbers:
    return Numbers(span for first, count in numbers for span in others.missing(first, count))
