"""Durable groups of a simulated world: what its publishers remember of them, and that each event is kept for each group
that was there (§10.8). What becomes of it then is a message's story, as of all that is pushed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from zerowait.codec import Codec
from zerowait.errors import StoreError
from zerowait.message import Prepared
from zerowait.outbox.bundle import bundle
from zerowait.outbox.entrance import Ready
from zerowait.outbox.lane import Lane
from zerowait.outbox.sheaf import Sheaf
from zerowait.patterns import TOPIC_HEADER, channel_of, is_wild, matches, overlap, parted
from zerowait.testing.events import DECLARED
from zerowait.testing.history import Message, Output, payload_of
from zerowait.topics.groups import Groups

if TYPE_CHECKING:
    from zerowait.testing.node import Node

GROUPED: Final = 500_000  # tokens from there on are of events for durable groups
TOLD: Final = 2_000_000  # likewise, of those that handlers publish
TEMPERS: Final = 24  # of so many of them it may be planned how their handlers behave
KEPT_S: Final = 0.01  # until a publisher that has met a group has it on its disk
GROUPS: Final = tuple(channel_of(*each) for each in (("t.a", "bill"), ("t.*", "bill"), (">", "log"), ("u.c", "mail")))


def told(token: int, channel: str) -> int:
    """The token of what is published for that group while the message of that token is handled."""
    return TOLD + 10 * token + GROUPS.index(channel)


Watch = Callable[[Message, "Node", Sheaf, int], None]
_any: Codec[Any] = Codec(Any)


class Serve(Struct, frozen=True):
    """Each life of that worker serves this group. after: seconds after its life began."""

    worker: int
    after: float
    channel: str


def serves(rng: Random, workers: int, during_s: float) -> list[Serve]:
    """One group, or some, and which workers serve them."""
    return [
        Serve(worker, rng.choice((0.0, 0.0, rng.uniform(0.0, during_s))), channel)
        for channel in rng.sample(GROUPS, rng.choice((1, 1, 2)))
        for worker in rng.sample(range(workers), rng.randint(1, workers))
    ]


class GroupBook:
    """What there is to be known of groups, by nobody's word but that of those who serve them."""

    def __init__(self) -> None:
        self.remembered: dict[str, set[str]] = {}  # client → the groups on its disk
        self.wrong: list[str] = []
        self.count = 0  # events for groups, each for each
        self.told = 0  # likewise, of those that handlers have published
        self._met: dict[int, set[str]] = {}  # a life of a publisher → the groups that it knows
        self._heard: dict[int, set[str]] = {}  # likewise, or has heard of since it turned last

    def born(self, instance: int, name: str) -> None:
        self._met[instance] = set(self.remembered.get(name, ()))
        self._heard[instance] = set(self._met[instance])

    def meets(self, instance: int, channels: Iterable[str]) -> None:
        """Somebody has told that publisher that he serves these."""
        self._heard[instance].update(
            channel
            for channel in channels
            if (both := parted(channel)) is not None and any(overlap(each.pattern, both[0]) for each in DECLARED)
        )

    def turned(self, instance: int) -> None:
        """It has made of all that it has heard what follows from it."""
        self._met[instance] |= self._heard[instance]

    def publishes(self, instance: int, topic: str, kept_for: set[str]) -> None:
        least, most = (
            {channel for channel in channels[instance] if matches(channel.rpartition("@")[0], topic)}
            for channels in (self._met, self._heard)
        )
        if not least <= kept_for <= most:
            words = f"and it knows of {sorted(most)}"
            self.wrong.append(f"{instance} keeps an event on {topic} for {sorted(kept_for)}, {words}")


class RememberedGroups(Groups):
    """As the product has them, on the disk of a simulated world, where no thread writes."""

    def __init__(self, node: Node) -> None:
        super().__init__(Path, lane=self._to, promise=lambda words: None, want=lambda channel: None)  # type: ignore[arg-type, return-value]
        self._node = node
        self._lanes: dict[str, Lane] = {}

    def _to(self, channel: str, codec: Codec[Any]) -> Lane:
        lane = self._lanes.get(channel)
        if lane is None:
            holdings = self._node.holdings
            intake = holdings.intake or holdings.boxes[self._node.crew.home].intake
            lane = self._lanes[channel] = Lane(intake, channel)
        return lane

    def _remembered(self) -> dict[str, tuple[str, str]]:
        there = self._node.around.groups.remembered.get(self._node.name, set())
        return {channel: both for channel in sorted(there) if (both := parted(channel)) is not None}

    def _read_behind(self) -> None:
        self.known()

    def _keep(self, channel: str, both: tuple[str, str]) -> None:
        def kept() -> None:
            around = self._node.around
            around.groups.remembered.setdefault(self._node.name, set()).add(channel)
            around.history.tell("remembers", self._node.name, channel)

        self._node.around.timeline.after(KEPT_S, lambda: self._node.when_awake(kept))


class Durable:
    """The groups of one life of a publisher. watch: told of each event that is kept for one."""

    def __init__(self, node: Node, watch: Watch) -> None:
        self._node = node
        self._watch = watch
        self._book = node.around.groups
        self._groups = RememberedGroups(node)
        self._book.born(node.instance, node.name)

    def met(self, channels: Iterable[str]) -> None:
        """As the network thread says it."""
        announced = self._node.core.publisher.announced
        for channel in channels:
            both = parted(channel)
            if both is not None and any(overlap(pattern, both[0]) for pattern in announced):
                self._groups.met(channel)

    def hears(self, conn: int) -> None:
        """For the books: a STATE has come there."""
        link = self._node.core.links.get(conn)
        if link is not None and link.begun:
            self._book.meets(self._node.instance, link.served)

    def turned(self) -> None:
        self._book.turned(self._node.instance)

    def tells(self, topic: str, token: int, index: int) -> tuple[list[Prepared], list[Output]]:
        """What a handler publishes there for the message of that token: to be sent with its outcome."""
        self._groups.known()
        lanes = self._groups.of(topic, _any) or ()
        self._book.publishes(self._node.instance, topic, {lane.channel for lane, _ in lanes})
        ready: list[tuple[int, Ready]] = []
        outputs: list[Output] = []
        for each in lanes:
            channel = each[0].channel
            payload = payload_of(told(token, channel), 3_000 if token % 7 == 0 else 10)
            outputs.append((payload, channel, topic))
            ready += [(index, one) for one in self._groups.ready((each,), topic, payload, None)]
        self._book.told += len(outputs)
        return bundle(ready, self._node.now_us()), outputs

    def publish(self, topic: str) -> bool:
        """For each group that gets it, before anybody else does. False: it was refused, and nobody is to have it."""
        history, intake = self._node.around.history, self._node.holdings.intake
        if intake is None:
            return True
        self._groups.known()
        lanes = self._groups.of(topic, _any) or ()
        self._book.publishes(self._node.instance, topic, {lane.channel for lane, _ in lanes})
        for each in lanes:
            token = GROUPED + self._book.count
            self._book.count += 1
            message = history.pushed(intake.box, payload_of(token, 3_000 if token % 7 == 0 else 10), expires=False)
            message.channel, message.topic = each[0].channel, topic
            try:
                ((sheaf, index),) = self._groups.append((each,), topic, message.payload, None).taken
            except StoreError:
                message.fate = "refused"
                return False
            self._watch(message, self._node, sheaf, index)
        return True


def check_arrival(message: Message, channel: str, headers: dict[str, str]) -> str:
    """What is wrong with how it has come to a handler; empty if nothing is."""
    if message.channel and channel != message.channel:
        return f"it was for {message.channel}, and came on {channel}"
    said = message.topic if message.topic and is_wild(channel.rpartition("@")[0]) else ""
    if headers.get(TOPIC_HEADER, "") != said:
        return f"it was published on {message.topic}, and came with {headers}"
    return ""
