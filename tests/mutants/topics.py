"""Bugs of topics (rules §10)."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from tests.mutants.planting import Put, bug
from zerowait.engines.brokerless.protocol.publisher import cursor, publisher, sending
from zerowait.engines.brokerless.protocol.subscriber import inbox, subscriber
from zerowait.topics import groups


@bug("events of a session that is over are counted as missed although they came")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def has_passed(self: Any, source: Any, mark: Any) -> None:
            source.c = max(0, source.c - 1)
            right(self, source, mark)

        return has_passed

    put(inbox.Inbox, "_passed", made)


@bug("a subscription without room holds up the others of its connection")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def feed(self: Any, conn: int, cursors: Any) -> None:
            if all(each.left() > 0 or not each.pending() for each in cursors):
                right(self, conn, cursors)

        return feed

    put(sending.Sending, "feed", made)


@bug("what conflates shares a frame with what does not")
def _(put: Put) -> None:
    put(cursor.Cursor, "is_whole", lambda right: lambda self: True)


@bug("what is replayed has counts that nobody knows")
def _(put: Put) -> None:
    put(publisher, "Stream", lambda right: lambda pattern, low, kept=0: right(pattern, low))


@bug("a publisher that was lost is not asked about by the next of its name")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        return lambda self, instance, name, *, left: right(self, instance, name, left=True)

    put(subscriber.Subscriber, "gone", made)


@bug("what is replayed comes once more when it is live")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def took(self: Any, part: Any, count: int, skip: int) -> None:
            was_ahead, c = bool(self.ahead), self.c
            right(self, part, count, skip)
            if was_ahead and not self.ahead and self.stream.parts:
                self.c = min(self.c, max(c, self.stream.oldest()))

        return took

    put(cursor.Cursor, "took", made)


@bug("a subscription that comes back has once more what it has had")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def begin(self: Any, stream: Any, link: Any, said: Any, now: float) -> Any:
            if said.epoch == self.epoch and said.count > stream.low:
                said = replace(said, count=said.count - 1)
            return right(self, stream, link, said, now)

        return begin

    put(publisher.Publisher, "_begin", made)


@bug("what was not told of a publisher is forgotten when it is away for long")
def _(put: Put) -> None:
    put(inbox.Inbox, "forget", lambda right: lambda self, instance: self._sources.pop(instance, None))


@bug("a publisher that is back after long is taken for another of its name")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def left_off(self: Any, instance: int, name: str, id: int) -> Any:
            self._gone.pop((instance, id), None)
            return right(self, instance, name, id)

        return left_off

    put(subscriber.Subscriber, "_left_off", made)


@bug("of several durable groups only one has an event")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        return lambda self, topic, codec: right(self, topic, codec)[:1]

    put(groups.Groups, "of", made)


@bug("what comes for a durable group does not say on which topic it was published")
def _(put: Put) -> None:
    put(groups, "_said", lambda right: lambda headers, topic, says_topic: headers)


@bug("a durable group has what is published on another topic")
def _(put: Put) -> None:
    put(groups, "matches", lambda right: lambda pattern, topic: right(pattern, topic) or "*" in pattern)
