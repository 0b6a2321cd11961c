"""What a simulated process publishes, and what it has subscribed to: taken at its own pace."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct, msgpack

from zerowait.engines.brokerless.protocol.frames import Subscribe, Subscribed
from zerowait.engines.brokerless.protocol.publisher.history import block_of
from zerowait.engines.brokerless.protocol.subscriber.inbox import Inbox
from zerowait.engines.brokerless.protocol.subscriber.subscriber import Wanted, window_of
from zerowait.patterns import matches
from zerowait.testing.events import DECLARED, Got, Subscription
from zerowait.topic import OVERFLOWS

if TYPE_CHECKING:
    from zerowait.testing.durable import Durable
    from zerowait.testing.node import Node
    from zerowait.testing.traffic import Join


class Reading(Struct, eq=False):
    """pace: seconds for so many (most) events; 0: at once."""

    subscription: Subscription
    inbox: Inbox
    pace: float
    most: int
    is_called: bool = False


class Topics:
    def __init__(self, node: Node) -> None:
        self._node = node
        self._book = node.around.events
        self._readings: dict[int, Reading] = {}
        self._named: dict[tuple[int, int], int] = {}  # (connection, subscription) → the life that SUBSCRIBE named
        self.durable: Durable | None = None

    # -- publishing --------------------------------------------------------------------------------------------------

    def declare(self) -> None:
        for declared in DECLARED:
            self._node.core.announce_topic(declared.pattern, b"", b"", declared.history)

    def publish(self, topics: tuple[str, ...]) -> None:
        """Together, as they gather while a turn lasts."""
        node, payloads = self._node, list[bytes]()
        runs: list[tuple[str, int, int, bool, bool]] = []
        for topic in topics:
            if self.durable is not None and not self.durable.publish(topic):
                continue
            n = self._book.publish(node.instance, topic)
            payloads.append(msgpack.encode((node.instance, n, topic, b"." * (20_000 if n % 13 == 0 else 3))))
            retain = any(declared.retain and matches(declared.pattern, topic) for declared in DECLARED)
            runs.append((topic, len(payloads) - 1, len(payloads), retain, False))
        if payloads:
            node.core.publisher.publish(block_of(payloads, tuple(runs), 0, node.around.timeline.now))
        node.touch()

    # -- subscribing -------------------------------------------------------------------------------------------------

    def subscribe(self, id: int, join: Join) -> None:
        node = self._node
        subscription = Subscription(id, node.instance, join.pattern, join.replay, join.group, join.overflow)
        self._book.subscriptions.append(subscription)
        how = OVERFLOWS[join.overflow]
        inbox = Inbox(
            nullcontext(), window_of(join.queue, how), conflate=join.overflow == "conflate", renew=self._renew,
            notify=partial(self._call, id),
        )  # fmt: skip
        self._readings[id] = Reading(subscription, inbox, join.pace, join.most)
        ended = partial(self._ended, id) if join.overflow == "disconnect" else None
        node.core.subscriber.add(
            Wanted(id, join.pattern, inbox, join.replay, 0, join.group, join.queue, how, ended=ended)
        )
        node.touch()

    def _ended(self, id: int, peer: str, missed: int, words: str) -> None:
        """As the product does: the whole subscription is over."""
        subscription = self._readings[id].subscription
        for publisher in subscription.feeds:
            subscription.ended[publisher] = missed
        self._book.counts["ended"] += 1
        self._node.around.timeline.after(0.0, lambda: self._node.when_awake(lambda: self._leave(id)))

    def _leave(self, id: int) -> None:
        if self._readings.pop(id, None) is not None:
            self._node.core.subscriber.remove(id)
            self._node.touch()

    def _renew(self) -> None:
        self._node.core.subscriber.renew()
        self._node.touch()

    def _call(self, id: int) -> None:
        reading = self._readings.get(id)
        if reading is None or reading.is_called:
            return
        reading.is_called = True
        pace = 0.0 if self._node.around.is_well() else reading.pace
        self._node.around.timeline.after(pace, lambda: self._node.when_awake(lambda: self._take(reading)))

    def _take(self, reading: Reading) -> None:
        reading.is_called = False
        if self._readings.get(reading.subscription.id) is not reading:
            return
        taken = reading.inbox.take(reading.most)
        if taken is None:
            return
        values = msgpack.decode(bytes(taken.piece.body))[taken.start : taken.stop]
        topics = [topic for topic, many in taken.topics for _ in range(many)]
        for at, (topic, value) in enumerate(zip(topics, values, strict=True)):
            publisher, n, said, _ = value
            if publisher != taken.source.instance or said != topic:
                self._book.wrong.append(f"event {value} came from {taken.source.instance} on {topic}")
            got = Got(n, taken.piece.c != 0, taken.missed if at == 0 else 0)
            self._book.takes(reading.subscription, publisher, n, topic, got)
        self._call(reading.subscription.id)

    # -- for the books -----------------------------------------------------------------------------------------------

    def says(self, conn: int, said: Subscribe) -> None:
        """This process sends it."""
        self._named[conn, said.subscription] = said.epoch

    def hears(self, conn: int, said: Subscribed) -> None:
        """On a connection that counts."""
        reading = self._readings.get(said.subscription)
        named = self._named.get((conn, said.subscription))
        if reading is not None and named is not None and not said.ends:
            self._book.begins(reading.subscription, said.epoch, said.event, named=named)

    def lacks(self, publishers: list[Node]) -> bool:
        """Whether something is to come yet: an answer of one of these, or of what lies here."""
        return any(
            reading.inbox or not all(self._is_answered(id, each) for each in publishers)
            for id, reading in self._readings.items()
        )

    def _is_answered(self, id: int, publisher: Node) -> bool:
        """In the session of now."""
        peer = self._node.core.peers.get(publisher.instance)
        taps = self._node.core.subscriber._taps.get(peer.link.conn, {}) if peer is not None and peer.link else {}
        return id in taps and taps[id].is_answered
