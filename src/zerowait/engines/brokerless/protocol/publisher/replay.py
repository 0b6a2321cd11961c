"""What a new subscription gets of what was published before it: of the histories that are kept, each event once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zerowait.engines.brokerless.protocol.publisher.history import Block, Part, Range, Ring, extend


def history(rings: Iterable[Ring], pattern: str, since: float, most: int) -> list[Part]:
    """What matches and was published since then, in its order; the newest of it, where that is more than `most` (0: all
    of it). An event that several histories have is in it once."""
    found = [parts for ring in rings if (parts := ring.matching(pattern, since))]
    once = found[0] if len(found) == 1 else _merged(part for parts in found for part in parts)
    return _newest(once, most) if most else once


def first_of(part: Part) -> int:
    """The publisher's number of the first event."""
    return part.block.first + part.ranges[0][0]


def _merged(parts: Iterable[Part]) -> list[Part]:
    """Each event once, in their order; of each block as much together as no other has events between."""
    pieces = [(part.block.first + start, start, stop, part.block) for part in parts for start, stop in part.ranges]
    pieces.sort(key=_first)
    once: list[Part] = []
    ranges: list[Range] = []
    of: Block | None = None
    last = 0
    for _, start, stop, block in pieces:
        start = max(start, last + 1 - block.first)
        if start >= stop:
            continue
        last = block.first + stop - 1
        if block is not of:
            if of is not None:
                once.append(_part(of, ranges))
            of, ranges = block, []
        extend(ranges, start, stop)
    if of is not None:
        once.append(_part(of, ranges))
    return once


def _first(piece: tuple[int, int, int, Block]) -> int:
    return piece[0]


def _part(block: Block, ranges: Sequence[Range]) -> Part:
    return Part(block, tuple(ranges), sum(stop - start for start, stop in ranges), 0)


def _newest(history: Sequence[Part], most: int) -> list[Part]:
    found: list[Part] = []
    for part in reversed(history):
        if most <= 0:
            break
        many = min(most, part.count)
        found.append(Part(part.block, part.cut(part.count - many, many), many, 0))
        most -= many
    return found[::-1]
