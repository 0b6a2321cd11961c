"""What a new subscription gets of what was published before it: of the histories that are kept, each event once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zerowait.engines.brokerless.protocol.publisher.history import Part, Ring


def history(rings: Iterable[Ring], pattern: str, since: float, most: int) -> list[Part]:
    """What matches and was published since then, in its order; the newest of it, where that is more than `most` (0: all
    of it). An event that several histories have is in it once."""
    found = [part for ring in rings for part in ring.matching(pattern, since)]
    found.sort(key=first_of)
    once: list[Part] = []
    last = 0
    for part in found:
        start, stop = part.ranges[0]
        start = max(start, last + 1 - part.block.first)
        if start < stop:
            once.append(Part(part.block, ((start, stop),), stop - start, 0))
            last = part.block.first + stop - 1
    return _newest(once, most) if most else once


def first_of(part: Part) -> int:
    """The publisher's number of the first event."""
    return part.block.first + part.ranges[0][0]


def _newest(history: Sequence[Part], most: int) -> list[Part]:
    found: list[Part] = []
    for part in reversed(history):
        if most <= 0:
            break
        stop, many = part.ranges[0][1], min(most, part.count)
        found.append(Part(part.block, ((stop - many, stop),), many, 0))
        most -= many
    return found[::-1]
