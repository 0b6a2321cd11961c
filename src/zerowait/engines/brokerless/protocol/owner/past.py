"""What is owed to the past (rules §3.3): after an opening, messages of earlier epochs wait until each worker that was
noted has said what it holds, is proved dead, or the grace is over. Without: the workers still run what the new owner
sends again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from zerowait.engines.brokerless.protocol.owner.flights import Slice
from zerowait.numbers import Numbers


class Past:
    def __init__(self, box: int, epoch: int, noted: Iterable[int], until: float) -> None:
        self._box = box
        self._epoch = epoch
        self._awaited: set[int] = set(noted)
        self._until = until
        self._pieces: list[Slice] = []

    def __iter__(self) -> Iterator[Slice]:
        return iter(list(self._pieces))

    def awaits(self, holder: int) -> bool:
        return holder in self._awaited

    def keep(self, pieces: list[Slice]) -> list[Slice]:
        """What of this may go out now; the rest waits here."""
        if not self._awaited:
            return pieces
        # With a key also what is new: something of that key that is older may run at one of them.
        late = [piece for piece in pieces if piece.segment.epoch < self._epoch or piece.segment.key is not None]
        self._pieces.extend(late)
        return [p for p in pieces if p.segment.epoch >= self._epoch and p.segment.key is None] if late else pieces

    def take(self, epoch: int, first: int, count: int) -> list[Slice]:
        """These do not wait here any more: settled, adopted or withdrawn meanwhile. Gives those that did."""
        kept: list[Slice] = []
        taken: list[Slice] = []
        for piece in self._pieces:
            mine = Numbers([(first, count)]).overlap(piece.first, piece.count) if piece.segment.epoch == epoch else []
            rest = Numbers(mine).missing(piece.first, piece.count)
            taken.extend(Slice(self._box, piece.segment, at, many) for at, many in mine)
            kept.extend(Slice(self._box, piece.segment, at, many) for at, many in rest)
        self._pieces = kept
        return taken

    def take_row(self, seq: int) -> list[Slice]:
        """None of this row waits here any more, if it has a key. Gives what did."""
        taken = [piece for piece in self._pieces if piece.segment.seq == seq and piece.segment.key is not None]
        if taken:
            self._pieces = [piece for piece in self._pieces if piece.segment.seq != seq]
        return taken

    def empty(self, channel: str, last: tuple[int, int]) -> list[Slice]:
        """None of this channel waits here any more, up to the message of that name. Gives what did."""
        taken = [piece for piece in self._pieces if piece.segment.channel == channel and piece.name <= last]
        out = set(map(id, taken))
        self._pieces = [piece for piece in self._pieces if id(piece) not in out]
        return taken

    def released(self, holder: int) -> list[Slice]:
        """This worker is not waited for any more: perhaps all may go out now."""
        self._awaited.discard(holder)
        return self._release()

    def over(self, now: float) -> tuple[list[int], list[Slice]]:
        """Whom the grace has been too short for, and what may go out therefore."""
        if not self._awaited or now < self._until:
            return [], []
        late = sorted(self._awaited)
        self._awaited.clear()
        return late, self._release()

    def _release(self) -> list[Slice]:
        if self._awaited:
            return []
        pieces, self._pieces = self._pieces, []
        return pieces

    def wake(self) -> float | None:
        return self._until if self._awaited else None
