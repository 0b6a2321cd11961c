"""An outbox under test, with a clock that the test sets."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from zerowait.message import BODY_START, Change, Segment, Settle, Verdict
from zerowait.outbox import clock as clock_module
from zerowait.outbox.intake import Intake, Limits
from zerowait.outbox.lane import Lane
from zerowait.outbox.ledger import LedgerRow
from zerowait.outbox.outbox import Outbox
from zerowait.outbox.sheaf import Sheaf

encoder = msgspec.msgpack.Encoder()
START_US = 1_700_000_000_000_000


class Nowhere:
    """The room of a QueueFull that nobody waits for."""

    def done(self) -> bool:
        return False

    def result(self, timeout: float | None = None) -> None:
        raise TimeoutError

    def __await__(self) -> Generator[object, None, None]:
        raise NotImplementedError


class Time:
    """The wall clock and the clock that nobody sets."""

    def __init__(self) -> None:
        self.wall_us = START_US
        self.steady_us = 5_000_000

    def pass_(self, seconds: float) -> None:
        self.wall_us += int(seconds * 1e6)
        self.steady_us += int(seconds * 1e6)

    def now_us(self) -> int:
        return self.wall_us

    def steady_ns(self) -> int:
        return self.steady_us * 1_000


class Bench:
    """One outbox and what a dispatcher would remember of it."""

    box: Outbox

    def __init__(self, path: Path | None, time: Time, **limits: Any) -> None:
        self.path = path
        self.time = time
        self.limits = Limits(**limits)
        self.reopen(first=True)

    def reopen(self, *, first: bool = False, floor_epoch: int = 0) -> None:
        """Another life; what is in the file is all that is left."""
        if not first:
            self.box.close()
        self.intake = Intake(
            self.limits, durable=self.path is not None, wake=lambda: None, room=Nowhere, now_us=self.time.now_us
        )
        self.box = Outbox.open(
            self.path, "tester", now_us=self.time.now_us, intake=self.intake, floor_epoch=floor_epoch
        )
        self.segments: list[Segment] = []
        self.lanes: dict[str, Lane] = {}

    def lane(self, channel: str = "mail") -> Lane:
        lane = self.lanes.get(channel)
        if lane is None:
            lane = self.lanes[channel] = Lane(self.intake, channel, str, encoder.encode_into)
        return lane

    def push(self, *values: object, channel: str = "mail", **options: Any) -> tuple[Sheaf, int]:
        place = None
        for value in values:
            place = self.lane(channel).append(encoder.encode(value), **options)
        assert place is not None
        return place

    def turn(self, *changes: Change, drawn: bool = True) -> list[Segment]:
        """A turn; by default dispatch sends all that it is given."""
        segments = self.begin()
        segments += self.box.turn(changes)
        if drawn:
            amounts: dict[str, int] = {}
            for segment in segments:
                amounts[segment.channel] = amounts.get(segment.channel, 0) + len(segment.body) - BODY_START
            self.box.turn((), amounts) if amounts else None
        self.segments += segments
        return segments

    def begin(self) -> list[Segment]:
        """In memory, what was pushed may be sent before the turn that makes it count; as the network thread does."""
        return [] if self.box.durable else self.box.begin()

    def turns(self) -> list[Segment]:
        """Turns until there is nothing more to get."""
        got: list[Segment] = []
        while True:
            segments = self.begin()
            segments += self.box.turn()
            drawn: dict[str, int] = {}
            for segment in segments:
                drawn[segment.channel] = drawn.get(segment.channel, 0) + len(segment.body) - BODY_START
            got += segments
            if not segments and not self.box._books.ahead.wants(self.box._clock.now()):
                return got
            while drawn:
                segments = self.box.turn((), drawn)
                got += segments
                drawn = {}
                for segment in segments:
                    drawn[segment.channel] = drawn.get(segment.channel, 0) + len(segment.body) - BODY_START

    def row(self, channel: str = "mail") -> LedgerRow:
        return self.box.ledger.rows().get(channel, LedgerRow())

    def room(self) -> tuple[int, int]:
        """Messages and bytes that count for the limit now."""
        return self.intake._messages, self.intake._bytes


def values(segments: Sequence[Segment]) -> list[Any]:
    """What is in these segments and not gone, message by message."""
    found: list[Any] = []
    for segment in segments:
        decoded = msgspec.msgpack.decode(segment.body)
        assert len(decoded) == segment.count
        assert len(segment.ends) == 4 * segment.count
        ends = memoryview(segment.ends).cast("I")
        assert ends[-1] == len(segment.body)
        gone = {number for first, count in segment.gone for number in range(first, first + count)}
        found += [value for at, value in enumerate(decoded) if segment.first + at not in gone]
    return found


def handled(segment: Segment, start: int = 0, stop: int | None = None) -> Settle:
    stop = segment.count if stop is None else stop
    return Settle(segment.channel, segment.epoch, segment.first + start, stop - start, Verdict.HANDLED, segment.seq)


__all__ = ["START_US", "Bench", "Nowhere", "Time", "clock_module", "encoder", "handled", "values"]
