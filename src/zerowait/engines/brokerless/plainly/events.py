"""PUB and SUB: events for bare peers, and from them. Channels that name the same endpoints share a socket, as several
topics of one bare publisher do.

What is published goes out at once or, where a subscriber is slow, is dropped by ZeroMQ, which tells nobody. What comes
is queued here for each subscription, and what its queue has no room for is dropped, the oldest first, and counted.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from threading import Lock

from msgspec import Struct, field

from zerowait.engines.brokerless.plainly.envelope import event_of, filter_of, has_form
from zerowait.engines.brokerless.plainly.port import Around, Port
from zerowait.engines.brokerless.protocol.owner.credit import units
from zerowait.engines.brokerless.protocol.subscriber.inbox import Inbox, Piece, Source
from zerowait.engines.brokerless.wire import PlainHeard, Wire
from zerowait.message import ARRAY32, BODY_HEADER, BODY_START
from zerowait.plain import Plain
from zerowait.topics.bundle import Press

TOPIC_HEADER = "topic"  # the frame that stood for the topic, where it is no topic's name
PREFIXES_MOST = 100_000  # of one socket that are counted


class PublishPort(Port):
    """A PUB of ours."""

    kind = "pub"
    meanwhile = "nobody hears what is published"

    def __init__(self, channel: str, plain: Plain, around: Around) -> None:
        super().__init__(channel, plain, around)
        self._wanted: set[bytes] = set()  # prefixes that at least one subscribes to
        self._lengths: dict[int, int] = {}  # of a prefix → how many have it

    def turn(self, wire: Wire) -> float | None:
        return self.opening(wire)

    def publish(self, wire: Wire, parts: list[bytes]) -> None:
        """Nobody hears it while the socket could not be opened."""
        if self.socket >= 0:
            wire.send_parts(self.socket, parts)

    def subscriptions(self, topic: bytes | None) -> int:
        """How many different ones there are by now: those to this topic, or, None, all, for the event says which one is
        meant. However many subscribe to the same, ZeroMQ tells it once."""
        if topic is None:
            return len(self._wanted)
        return sum(topic[:length] in self._wanted for length in self._lengths if length <= len(topic))

    def heard(self, event: PlainHeard) -> None:
        if len(event.parts) != 1 or event.parts[0][:1] not in (b"\x00", b"\x01"):
            return  # an XSUB may send what it likes; a PUB is deaf to it
        said = event.parts[0]
        prefix, is_wanted = said[1:], said[0] == 1
        if is_wanted == (prefix in self._wanted) or (is_wanted and len(self._wanted) >= PREFIXES_MOST):
            return
        if is_wanted:
            self._wanted.add(prefix)
        else:
            self._wanted.remove(prefix)
        length, many = len(prefix), self._lengths.get(len(prefix), 0) + (1 if is_wanted else -1)
        if many:
            self._lengths[length] = many
        else:
            self._lengths.pop(length, None)


class Publishing:
    """What is published for bare peers, on whichever of our sockets. `add` may be called by any thread."""

    def __init__(self, around: Around) -> None:
        self.press: Press | None = None
        self._around = around
        self._lock = Lock()
        self._ports: dict[tuple[object, object], PublishPort] = {}
        self._by_topic: dict[str, tuple[PublishPort, bytes | None]] = {}

    def add(self, topic: str, plain: Plain, press: Press) -> None:
        with self._lock:
            self.press = press
            where = (plain.bind, plain.connect)
            if where not in self._ports:
                self._ports = {**self._ports, where: PublishPort(topic, plain, self._around)}
            self._by_topic[topic] = self._ports[where], topic.encode() if plain.topic_frame else None

    def has_work(self) -> bool:
        return self.press is not None and self.press.has_work()

    def turn(self, wire: Wire) -> float | None:
        press = self.press
        if press is None:
            return None
        waits = [wait for port in self._ports.values() if (wait := port.turn(wire)) is not None]
        for bundle in press.take():
            body, ends, runs = bundle.let_go()
            counts: dict[str, int] = {}
            start = BODY_START
            for topic, first, stop, _ in runs:
                port, head = self._by_topic[topic]
                counts[topic] = port.subscriptions(head)
                for at in range(first, stop):
                    event = bytes(body[start : ends[at]])
                    start = ends[at]
                    port.publish(wire, [event] if head is None else [head, event])
            bundle.addressed(counts)
        return min(waits, default=None)


class Wanted(Struct, eq=False):
    """One subscription. decode: a frame to a payload. most: how much may wait, in units."""

    id: int
    pattern: str
    plain: Plain
    decode: Callable[[bytes], bytes]
    inbox: Inbox
    source: Source
    most: int
    given: float = 0.0
    refused: int = 0
    news: list[tuple[str, bytes, str]] = field(default_factory=list[tuple[str, bytes, str]])

    def flush(self, sent_at: int) -> None:
        """What has come in this turn is given as one piece."""
        news, self.news = self.news, []
        if not news:
            return
        body, ends = bytearray(BODY_HEADER.pack(ARRAY32, len(news))), array("I")
        runs: list[tuple[str, int, int]] = []
        headers: dict[int, dict[str, str]] = {}
        for at, (topic, payload, said) in enumerate(news):
            body += payload
            ends.append(len(body))
            if runs and runs[-1][0] == topic:
                runs[-1] = topic, runs[-1][1], at + 1
            else:
                runs.append((topic, at, at + 1))
            if said:
                headers[at] = {TOPIC_HEADER: said}
        cost = units(len(news), len(body) - BODY_START)
        self.given += cost
        piece = Piece(
            tuple(runs), 0, len(news), cost / len(news), bytes(body), memoryview(ends), 0, sent_at, headers or None
        )
        self.inbox.put(self.source, piece)
        if not self.inbox.conflate:
            self.inbox.crop(self.source, self.given, self.most)


class SubscribePort(Port):
    """A SUB of ours, for all subscriptions to these endpoints."""

    kind = "sub"
    meanwhile = "nothing is heard"

    def __init__(self, channel: str, plain: Plain, around: Around) -> None:
        super().__init__(channel, plain, around)
        self.wanted: dict[int, Wanted] = {}
        self._filters: dict[int, bytes] = {}  # of those that the socket knows
        self._news: list[list[bytes]] = []

    def turn(self, wire: Wire) -> float | None:
        if (wait := self.opening(wire)) is not None:
            return wait
        wanted = self.wanted
        if self._filters.keys() != wanted.keys():
            for id in wanted.keys() - self._filters.keys():
                self._filters[id] = prefix = filter_of(wanted[id].pattern, wanted[id].plain)
                wire.subscribe_plain(self.socket, prefix, wanted=True)
            for id in self._filters.keys() - wanted.keys():
                wire.subscribe_plain(self.socket, self._filters.pop(id), wanted=False)
        if self._news:
            news, self._news = self._news, []
            now_us = int(time.time() * 1e6)  # a bare publisher does not say when
            for parts in news:
                self._share(list(wanted.values()), parts, now_us)
            for each in wanted.values():
                each.flush(now_us)
        return None

    def heard(self, event: PlainHeard) -> None:
        self._news.append(event.parts if event.complete else [event.parts[0], b"", b""])

    def _share(self, wanted: list[Wanted], parts: list[bytes], now_us: int) -> None:
        fitting = [each for each in wanted if has_form(each.plain, parts)]
        if not fitting:
            like = [parts[0] if parts else b"", b""]  # as an event of two frames, or of one, would begin
            meant = [each for each in wanted if event_of(each.pattern, each.plain, like) is not None]
            if meant:
                self._refuse(meant, f"an event of {len(parts)} frames, where {_frames(meant[0].plain)}", now_us)
        for each in fitting:
            found = event_of(each.pattern, each.plain, parts)
            if found is None:
                continue  # the filter is coarser than names are, and other subscriptions have theirs
            topic, frame, said = found
            try:
                payload = each.decode(frame)
            except Exception as error:  # a stranger's bytes: whatever is wrong, it is theirs
                self._refuse([each], str(error) or repr(error), now_us)
                continue
            each.news.append((topic, payload, said))

    def _refuse(self, wanted: list[Wanted], words: str, now_us: int) -> None:
        self.refuse(words)
        for each in wanted:
            each.refused += 1
            each.flush(now_us)  # what came before it has its place before it
            each.inbox.lose(each.source, 1)


class Subscribing:
    """What is wanted of bare publishers. `add` and `remove` may be called by any thread."""

    def __init__(self, around: Around) -> None:
        self._around = around
        self._lock = Lock()
        self._ports: dict[tuple[object, object], SubscribePort] = {}
        self._idle: list[SubscribePort] = []  # nobody wants anything of them any more

    def add(
        self, id: int, pattern: str, plain: Plain, decode: Callable[[bytes], bytes], inbox: Inbox, most: int
    ) -> None:
        with self._lock:
            where = (plain.bind, plain.connect)
            port = self._ports.get(where)
            if port is None:
                port = SubscribePort(pattern, plain, self._around)
                self._ports = {**self._ports, where: port}
            source = inbox.source(0, port.where())
            port.wanted = {**port.wanted, id: Wanted(id, pattern, plain, decode, inbox, source, most)}

    def remove(self, id: int) -> bool:
        """Whether it was one of these."""
        with self._lock:
            for where, port in list(self._ports.items()):
                if id in port.wanted:
                    port.wanted = {other: each for other, each in port.wanted.items() if other != id}
                    if not port.wanted:
                        self._ports = {other: each for other, each in self._ports.items() if other != where}
                        self._idle.append(port)
                    return True
        return False

    def turn(self, wire: Wire) -> float | None:
        while self._idle:
            self._idle.pop().close(wire)
        ports = self._ports
        return min((wait for port in ports.values() if (wait := port.turn(wire)) is not None), default=None)

    def refused(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for port in self._ports.values():
            for each in port.wanted.values():
                found[each.pattern] = found.get(each.pattern, 0) + each.refused
        return found


def _frames(plain: Plain) -> str:
    return "two are expected, the topic and the body" if plain.topic_frame else "one is expected"
