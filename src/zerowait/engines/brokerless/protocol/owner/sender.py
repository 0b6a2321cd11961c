"""What leaves: which links serve what, and what goes to each of them as its credit allows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from zerowait.engines.brokerless.protocol.config import Config
from zerowait.engines.brokerless.protocol.effects import Dispatched, Effects, Say
from zerowait.engines.brokerless.protocol.frames import ALONE, ORDINARY, Batch, Schema
from zerowait.engines.brokerless.protocol.link import OURS, Link, LinkPhase, Mismatch
from zerowait.engines.brokerless.protocol.owner.contracts import Contracts
from zerowait.engines.brokerless.protocol.owner.credit import units
from zerowait.engines.brokerless.protocol.owner.custody import Custody
from zerowait.engines.brokerless.protocol.owner.dispatch import Dispatch, Taker, body_of, largest_of
from zerowait.engines.brokerless.protocol.owner.flights import Slice
from zerowait.engines.brokerless.protocol.owner.lanes import Lanes
from zerowait.engines.brokerless.protocol.owner.wants import Wants
from zerowait.engines.brokerless.protocol.peers import Peers
from zerowait.message import BODY_START, Alone

PUSH = "push"  # what a channel is unless something else is said


class Sender:
    def __init__(
        self,
        effects: Effects,
        peers: Peers,
        config: Config,
        wall_us: Callable[[float], int],
        custody: Mapping[int, Custody],
        dispatch: Dispatch,
    ) -> None:
        self._effects = effects
        self._peers = peers
        self._wall_us = wall_us
        self._custody = custody
        self._dispatch = dispatch
        self.contracts = Contracts(effects, self.kind_of)
        self.wants = Wants(effects, config, dispatch, self.contracts)
        self.lanes = Lanes(effects, dispatch.suspects, self.contracts.fitting)
        self._links: dict[int, Link] = {}
        self.asked: Callable[[Link, Slice, int, float], None] | None = None  # told of each batch of requests
        self.deserted: Callable[[str], None] | None = None  # told of a channel whose last worker has gone
        self.idempotent: set[str] = set()  # channels whose requests may run twice
        self._kinds: dict[str, str] = {}  # what this process uses a channel as, where that is not to push
        self._serving: dict[str, dict[int, Link]] = {}  # channel → connection → link
        self._told_too_large: set[tuple[int, str]] = set()
        self._dirty: set[str] = set()

    def look(self, *channels: str) -> None:
        """Something has changed that may let messages of these go."""
        self._dirty.update(channels)

    # -- links -----------------------------------------------------------------------------------------------------

    def opened(self, link: Link) -> None:
        self._links[link.conn] = link

    def served(self, link: Link, before: Iterable[str]) -> None:
        """Its STATE has come: which channels it serves now."""
        before = set(before)
        # A push that went to a channel of requests would be asked for an answer: what is of another kind is no worker.
        pushes = [channel for channel, served in link.served.items() if served.kind == self.kind_of(channel)]
        # Only of what is asked here: a peer may serve, and forget, any number of names.
        self.idempotent.update(
            channel for channel, served in link.served.items() if served.idempotent and channel in self._kinds
        )
        for channel in sorted(before.difference(pushes)):
            self._serves_no_more(channel, link)
        for channel in pushes:
            self._serving.setdefault(channel, {})[link.conn] = link
            self._dirty.add(channel)
            if channel not in before:
                link.credit(channel).told = 0  # what it was told before it served this it has not heard
                self.lanes.unheard(link, channel)
        self._compare(link)

    def closed(self, link: Link) -> None:
        self._links.pop(link.conn, None)
        for channel in [channel for channel, links in self._serving.items() if link.conn in links]:
            self._serves_no_more(channel, link)
        self._dirty |= self.lanes.closed(link.conn)
        self._told_too_large = {told for told in self._told_too_large if told[0] != link.conn}

    def _serves_no_more(self, channel: str, link: Link) -> None:
        links = self._serving.get(channel)
        if links is None or links.pop(link.conn, None) is None or links:
            return
        del self._serving[channel]
        if channel in self._kinds and self.deserted is not None:
            self.deserted(channel)

    def kind_of(self, channel: str) -> str:
        """What this process uses that channel as."""
        return self._kinds.get(channel, PUSH)

    def uses(self, channel: str) -> bool:
        """Whether it asks or pushes there; who only wants to know who serves it has said nothing of its kind."""
        return channel in self._kinds or self.contracts.knows(channel)

    def use(self, channel: str, kind: str, *, idempotent: bool) -> None:
        """This process asks at that channel. idempotent: what it asks there may run twice."""
        if idempotent:
            self.idempotent.add(channel)
        if self.kind_of(channel) == kind:
            return
        self._kinds[channel] = kind
        for link in self._links.values():
            if link.phase is LinkPhase.READY:
                self._serves_no_more(channel, link)
                self.served(link, [name for name in link.served if name != channel])

    def other(self, channel: str, box: int, holder: int) -> Link | None:
        """Who could be asked beside that one: whoever has most credit."""
        links = [
            link
            for link in self.workers(channel)
            if link.instance != holder
            and link.side != "worker"
            and box in link.resumed
            and link.credit(channel).left() > 0
            and self._takes_work(link)
        ]
        return max(links, key=lambda link: link.credit(channel).left(), default=None)

    def declare(
        self, channel: str, description: bytes, waiting: Callable[[], Collection[str]] = frozenset
    ) -> list[str]:
        """This process sends messages of that type to the channel. Gives channels that are forgotten for it: of which
        nothing is under way, nobody is there, and nothing was said for thousands of others. waiting: channels of
        which something has been accepted and is not settled."""
        if self.contracts.declare(channel, description):
            for link in self._serving.get(channel, {}).values():
                self._compare(link)
        forgotten = self.contracts.prune(lambda: self._in_use(waiting()))
        for each in forgotten:
            self._kinds.pop(each, None)
            self.idempotent.discard(each)
        return forgotten

    def _in_use(self, waiting: Collection[str]) -> set[str]:
        flying = (c for custody in self._custody.values() for c, count in custody.in_flight.items() if count)
        return {*self._serving, *self._dispatch.channels(), *flying, *waiting}

    def left(self, box: int, channel: str, descriptions: Iterable[bytes], *, adopted: bool) -> None:
        """An outbox that is about to be opened holds messages of these types."""
        self.contracts.left(box, channel, descriptions, adopted=adopted)
        for link in self.serving(channel):
            self._compare(link)

    def forget(self, box: int) -> None:
        """It is not open here any more."""
        for channel in self.contracts.forget(box):
            for link in self.serving(channel):
                self._compare(link)

    def described(self, link: Link, schema: Schema) -> None:
        if self.contracts.answered(link, schema):
            self._compare(link)

    def _compare(self, link: Link) -> None:
        for channel in self.contracts.look(link):
            if link.credit(channel).told:
                self.wants.tell(link, channel)  # it may have set something aside for what does not come now
            self._dirty.add(channel)

    def serving(self, channel: str) -> list[Link]:
        return [link for link in self._serving.get(channel, {}).values() if link.phase is LinkPhase.READY]

    def workers(self, channel: str) -> list[Link]:
        """Those who serve it and expect what is sent."""
        return [link for link in self.serving(channel) if (channel, OURS) not in link.unfit]

    def there(self, channel: str) -> list[Link]:
        """As `workers`; of a channel that this process does not use by now, all who serve it, as whatever kind."""
        if self.uses(channel):
            return self.workers(channel)
        return [link for link in self._links.values() if link.phase is LinkPhase.READY and channel in link.served]

    def misfits(self, channel: str) -> list[tuple[Link, Mismatch]]:
        """Those who serve it and expect something else than this process sends."""
        found = [(link, link.unfit.get((channel, OURS))) for link in self.serving(channel)]
        return [(link, mismatch) for link, mismatch in found if mismatch is not None]

    def may_take(self, link: Link, channel: str) -> bool:
        """Whether something of this channel waits that this worker expects."""
        return any(self.contracts.may_fit(link, channel, box) for box in self._dispatch.boxes(channel))

    def kinds_served(self) -> dict[str, tuple[str, int]]:
        """What each channel is served as by a worker that uses it otherwise than this process, or by any: the kind, and
        its instance."""
        return {
            channel: (served.kind, link.instance)
            for link in self._links.values()
            if link.phase is LinkPhase.READY
            for channel, served in (*link.served.items(), *((each.channel, each) for each in link.topics))
        }

    def channels_served(self) -> dict[str, int]:
        return {channel: len(links) for channel, links in self._serving.items() if links}

    def disowned(self, box: int, unsent: Iterable[tuple[int, Batch]]) -> None:
        """That opening of the outbox is over; these batches have been paid for and will never leave."""
        for link in self._links.values():
            link.resumed.discard(box)
        for conn, batch in unsent:
            payer = self._links.get(conn)
            if payer is not None:
                cost = units(len(batch.ends) // 4, len(batch.body) - BODY_START)
                payer.credit(batch.channel, batch.lane).refund(cost)
                if batch.lane == ORDINARY:
                    self.wants.tell(payer, batch.channel)
                else:
                    self.lanes.confirm(payer, batch.channel, batch.lane)
                self.look(batch.channel)

    def tick(self, now: float) -> None:
        self.wants.tick(now, self._links.keys())

    # -- sending ---------------------------------------------------------------------------------------------------

    def send(self, now: float) -> None:
        """Everything that may go, goes: to each worker of a channel by its credit."""
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, set()
        for channel in sorted(dirty):  # in an order that is the same wherever Python puts what
            links = {
                conn: link
                for conn, link in self._serving.get(channel, {}).items()
                if link.phase is LinkPhase.READY and link.side != "worker" and self._takes_work(link)
            }
            if not links:
                continue
            takers = [
                Taker(conn, left, boxes, link.message_bytes)
                for conn, link in links.items()
                if (left := link.credit(channel).left()) > 0 and (boxes := self.contracts.fitting(link, channel))
            ]
            for taker, piece in self._dispatch.pick(channel, takers):
                self.batch(links[taker.conn], piece, now)
            if self.lanes.concerns(channel):
                for link, piece, lane in self.lanes.pick(channel, links):
                    self.batch(link, piece, now, lane)
            for link in links.values():
                self.wants.speak(link, channel, now)
            if self._dispatch.too_large(channel):
                self._tell_too_large(channel, links.values())

    def _takes_work(self, link: Link) -> bool:
        peer = self._peers.get(link.instance)
        return not link.draining and (peer is None or peer.stuck_since is None)

    def _tell_too_large(self, channel: str, links: Iterable[Link]) -> None:
        """A message that no worker takes waits for one that does, and a person is told (rules §7)."""
        largest = max(largest_of(piece) for piece in self._dispatch.too_large(channel))
        for link in links:
            if link.message_bytes < largest and (link.conn, channel) not in self._told_too_large:
                self._told_too_large.add((link.conn, channel))
                words = (
                    f"a message of {largest} bytes for {channel} is not offered to it: it takes {link.message_bytes} "
                    "at most. Nothing is lost; raise message_bytes there"
                )
                self._effects.add(Say("too large", words, link.instance, channel))

    def batch(self, link: Link, piece: Slice, now: float, lane: int = ORDINARY, *, hedged: bool = False) -> None:
        """It goes there. hedged: it has gone to another before, who may still answer."""
        segment, custody = piece.segment, self._custody[piece.box]
        body, ends, base = body_of(piece)
        n, note = custody.take(link.instance, piece)
        deaths = {}
        if lane != ORDINARY:
            assert segment.marks is not None, "a suspect without marks"
            deaths = {piece.first: segment.marks.ran} if segment.marks.ran else {}
            if lane == ALONE:
                # Before it leaves: its sender may die with it, and whoever opens the outbox then must know.
                segment.marks = segment.marks.alone(link.instance)
                alone = Alone(segment.channel, segment.epoch, piece.first, link.instance, segment.seq)
                note = [*note, alone]
                custody.cleared.discard(link.instance)
        link.credit(segment.channel, lane).spend(units(piece.count, len(body) - BODY_START))
        left_ms = {}
        if segment.expires is not None:
            left_ms = {piece.first: max(0, (segment.expires - self._wall_us(now)) // 1_000)}
        numbers = range(piece.first, piece.first + piece.count)
        headers = {n: dict(segment.headers[n]) for n in numbers if n in segment.headers} if segment.headers else {}
        batch = Batch(
            box=piece.box,
            epoch=segment.epoch,
            fence=custody.epoch,
            n=n,
            channel=segment.channel,
            lane=lane,
            ranges=((piece.first, piece.count),),
            accepted_at=(segment.accepted_at, segment.accepted_at),
            sender=custody.name,
            failures={piece.first: segment.failures} if segment.failures else {},
            keys={piece.first: segment.key} if segment.key is not None else {},
            left_ms=left_ms,
            traces={},
            headers=headers,
            base=base,
            ends=ends,
            body=memoryview(body),
            deaths=deaths,
        )
        if note:
            self._effects.commit(piece.box, note, then=[batch], on=link.conn)
        else:
            # The note of this worker may have been asked for on a connection that is over.
            self._effects.follow(piece.box, batch, link.conn, waits=link.instance in custody.noting)
        if custody.is_asked:
            if self.asked is not None and not hedged:
                self.asked(link, piece, n, now)
            return  # nothing else is kept of a request: there are no rows whose reading it would be about
        # Suspects do not count as read ahead.
        drawn = len(body) if lane == ORDINARY else 0
        self._effects.add(Dispatched(piece.box, segment, piece.first, piece.count, drawn))
