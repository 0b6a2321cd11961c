"""Events for handlers: between the inboxes of subscriptions and the runners, who know jobs and no events.

For each handler of a topic that no outbox is behind there is an inbox; the runners take from it as they take from the
desk. A failure that is to be tried again waits here; what is taken and not handled when the process leaves is lost, as
is said of events that nobody keeps.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from zerowait.engines.engine import Desk, Job, Outflow
from zerowait.message import ARRAY32, BODY_HEADER, BODY_START, Delivery, Outcome, Verdict
from zerowait.subscriptions import UNKNOWN
from zerowait.words import plural

if TYPE_CHECKING:
    from zerowait.engines.brokerless.protocol.subscriber.inbox import Inbox, Taken
    from zerowait.feeds import Feeds
    from zerowait.handlers.registry import HandlerSpec

log = logging.getLogger("zerowait.topics")


class EventFeed:
    """One handler's events. again: those that are tried once more, now."""

    def __init__(self, spec: HandlerSpec, inbox: Inbox, id: int) -> None:
        assert spec.feed is not None
        self.channel = spec.channel
        self.pattern = spec.feed.pattern
        self.most = spec.feed.queue
        self.inbox = inbox
        self.id = id
        self.again: deque[Delivery] = deque()
        self.waiting = 0  # failures that wait until they are due
        self.missed = 0


class Feeding:
    """A desk for all handlers of an app: events from here, everything else from `desk`."""

    def __init__(self, desk: Desk, feeds: Feeds, specs: Sequence[HandlerSpec], ready: Callable[[str], None]) -> None:
        self._desk = desk
        self._feeds = feeds
        self._ready = ready
        self._specs = [spec for spec in specs if spec.feed is not None]
        self._by_channel: dict[str, EventFeed] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._specs)

    def begin(self) -> None:
        """Subscribes. On the loop, once the runners are there."""
        self._loop = asyncio.get_running_loop()
        for spec in self._specs:
            feed, channel = spec.feed, spec.channel
            assert feed is not None

            def notify(channel: str = channel) -> None:
                self._ready(channel)

            plain = self._feeds.plain_for(feed.pattern, spec.declared, feed.terms(), feed.group)
            inbox = self._feeds.inbox(feed.terms(), notify, plain)
            mine = self._by_channel[channel] = EventFeed(spec, inbox, self._feeds.number())
            self._feeds.want(mine.id, feed.pattern, inbox, feed.terms(), spec.codec, group=feed.group, plain=plain)

    def end(self) -> None:
        """Nothing more is wanted."""
        for feed in self._by_channel.values():
            self._feeds.unwant(feed.id)

    def has_rest(self) -> bool:
        """Whether something has come that no runner has taken."""
        return any(feed.inbox or feed.again or feed.waiting for feed in self._by_channel.values())

    # As a desk

    def start(self, channel: str, most: int) -> Job | None:
        feed = self._by_channel.get(channel)
        if feed is None:
            return self._desk.start(channel, most)
        if feed.again:
            try:
                return Job(feed.again.popleft(), 0, 1)
            except IndexError:  # another thread was quicker
                pass
        taken = feed.inbox.take(most, one_topic=True)
        if taken is None:
            return None
        if (unsaid := taken.missed - taken.known - taken.refused) > 0:
            self._tell(feed, unsaid, taken.source.sender)
        delivery = delivered(taken)
        delivery.token = feed
        return Job(delivery, 0, delivery.count)

    def finish(self, job: Job, start: int, stop: int, outcome: Outcome | None) -> None:
        feed = job.delivery.token
        if not isinstance(feed, EventFeed):
            self._desk.finish(job, start, stop, outcome)
            return
        if outcome is None:
            return
        if outcome.is_unread:
            for index in range(start, stop):
                self._unread(feed, job.delivery, index)
        elif outcome.verdict is Verdict.RETRY:
            for index in range(start, stop):
                self._again(feed, job.delivery, index, outcome.after)

    def flow(self, job: Job, index: int) -> Outflow:
        return self._desk.flow(job, index)  # an event has no answers

    def flowing(self, flow: Any) -> None:
        self._desk.flowing(flow)

    @staticmethod
    def _unread(feed: EventFeed, delivery: Delivery, index: int) -> None:
        """The handler has not got it: it is missed by the next one, with what that one had missed."""
        before = _missed(delivery, index)
        missed = before if before == UNKNOWN else before + 1
        if index + 1 < delivery.count:  # this runner, which has told of this one, begins that one next
            delivery.missed = {**(delivery.missed or {}), index + 1: missed}
        else:
            feed.inbox.unread(delivery.box, missed)

    def _again(self, feed: EventFeed, delivery: Delivery, index: int, after: float) -> None:
        number = delivery.number(index)
        failures = (delivery.failures or {}).get(number, 0) + 1
        headers = {number: said} if delivery.headers and (said := delivery.headers.get(number)) else None
        body = bytes(delivery.part(index, index + 1))
        again = Delivery(
            channel=delivery.channel, box=delivery.box, epoch=delivery.epoch, ranges=((number, 1),), count=1, body=body,
            ends=len(body).to_bytes(4, "little"), accepted_at=delivery.accepted_at, sender=delivery.sender,
            failures={number: failures}, headers=headers, token=feed,
            missed={0: missed} if (missed := _missed(delivery, index)) else None,
        )  # fmt: skip
        with self._lock:
            if feed.waiting >= feed.most:
                log.warning(
                    "%s: %d events wait to be tried again, no more are kept, and one is lost", feed.channel, feed.most
                )
                return
            feed.waiting += 1

        def due() -> None:
            with self._lock:
                feed.waiting -= 1
            feed.again.append(again)
            self._ready(feed.channel)

        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._loop.call_later, after, due)
        except RuntimeError:
            log.debug("the event loop of %s is closed", feed.channel)

    def _tell(self, feed: EventFeed, missed: int, sender: str) -> None:
        """The first time, and each time that it is twice as many: who wants to know each has `ctx.missed`."""
        before, feed.missed = feed.missed, feed.missed + missed
        if feed.missed >= 2 * max(before, 1) or not before:
            log.warning(
                "missed %s of %s by now, the last from %s: they came faster than they were handled, or a "
                "connection broke; a larger queue=, more concurrency or a quicker handler misses fewer",
                plural(feed.missed, "event"),
                feed.pattern,
                sender,
            )


def _missed(delivery: Delivery, index: int) -> int:
    return delivery.missed.get(index, 0) if delivery.missed else 0


def delivered(taken: Taken) -> Delivery:
    """Events as runners take them: those of one topic, by their counts."""
    piece, start, stop = taken.piece, taken.start, taken.stop
    count = stop - start
    base = piece.ends[start - 1] - piece.base if start else BODY_START
    body: Any
    if count == len(piece.ends):
        body = piece.body
    else:
        body = bytearray(BODY_HEADER.pack(ARRAY32, count))
        body += memoryview(piece.body)[base : piece.ends[stop - 1] - piece.base]
    first = taken.c or 1  # not from the piece: another thread may have taken more of it since
    headers = None
    if piece.headers:
        headers = {first + at - start: said for at, said in piece.headers.items() if start <= at < stop}
    return Delivery(
        channel=taken.topics[0][0],
        box=taken.source.instance,
        epoch=0,
        ranges=((first, count),),
        count=count,
        body=body,
        ends=piece.ends[start:stop].cast("B"),
        base=piece.base + base - BODY_START,
        accepted_at=piece.sent_at,
        sender=taken.source.sender,
        headers=headers or None,
        missed={0: taken.missed} if taken.missed else None,
    )
