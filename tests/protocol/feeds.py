"""Publishers and subscribers in the world of the protocol's tests: events are numbers, counted by their publisher."""

from __future__ import annotations

from contextlib import nullcontext

import msgspec

from tests.protocol.world import Process, World
from zerowait.engines.brokerless.protocol.publisher.history import block_of
from zerowait.engines.brokerless.protocol.subscriber.inbox import Inbox
from zerowait.engines.brokerless.protocol.subscriber.subscriber import Wanted, window_of
from zerowait.topic import OVERFLOWS

Got = tuple[str, str, int, int]  # (publisher, topic, its number, missed before it)


def publish(process: Process, *events: tuple[str, int], retain: bool = False, reliable: bool = False) -> dict[str, int]:
    """Together, as they gather while a turn lasts: (topic, number)."""
    runs = tuple((topic, at, at + 1, retain, reliable) for at, (topic, _) in enumerate(events))
    payloads = [msgspec.msgpack.encode(number) for _, number in events]
    addressed = process.core.publisher.publish(block_of(payloads, runs, 0, process.world.now))
    process.world.touch(process)
    return addressed


class Feed:
    """A subscription of a process, and what has been taken of it."""

    def __init__(
        self,
        world: World,
        process: Process,
        pattern: str,
        id: int,
        *,
        queue: int = 1_000,
        overflow: str = "drop_oldest",
        replay: int = 0,
        replay_s: float = 0.0,
        group: str = "",
    ) -> None:
        self.world = world
        self.process = process
        self.id = id
        how = OVERFLOWS[overflow]
        self.inbox = Inbox(
            nullcontext(),
            window_of(queue, how),
            conflate=overflow == "conflate",
            renew=self._renew,
            notify=lambda: None,
        )
        self.ended: list[int] = []
        self.lost = 0  # told by a publisher that left, and by no event
        process.core.subscriber.add(
            Wanted(
                id, pattern, self.inbox, replay, round(replay_s * 1_000), group, queue, how,
                ended=self._ended if overflow == "disconnect" else None, lost=self._lost,
            )
        )  # fmt: skip
        world.touch(process)

    def _ended(self, peer: str, missed: int, words: str) -> None:
        self.ended.append(missed)

    def _lost(self, missed: int) -> None:
        self.lost += missed

    def _renew(self) -> None:
        if self.process.alive:
            self.process.core.subscriber.renew()
            self.world.touch(self.process)

    def take(self, most: int = 1_000_000) -> list[Got]:
        """What has come, in the order in which it is handed out; at most so many."""
        found: list[Got] = []
        while len(found) < most and (taken := self.inbox.take(min(64, most - len(found)))) is not None:
            values = msgspec.msgpack.decode(bytes(taken.piece.body))[taken.start : taken.stop]
            topics = [topic for topic, many in taken.topics for _ in range(many)]
            for at, (topic, value) in enumerate(zip(topics, values, strict=True)):
                found.append((taken.source.sender, topic, value, taken.missed if at == 0 else 0))
        return found
