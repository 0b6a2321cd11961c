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
        def feed(self: Any, conn: int, cursors: Any) -> bool:
            is_held_up = any(each.left() <= 0 and each.pending() for each in cursors)
            return is_held_up or right(self, conn, cursors)

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
    put(subscriber.Subscriber, "gone", lambda right: lambda self, instance, name: right(self, instance, ""))


@bug("a publisher that leaves does not say what it has not sent")
def _(put: Put) -> None:
    put(publisher.Publisher, "part", lambda right: lambda self, conn: {})


@bug("what was passed over before a publisher leaves is not told")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def part(self: Any, conn: int) -> Any:
            for of in self._cursors.get(conn, ()):
                of.told = of.c
            return right(self, conn)

        return part

    put(publisher.Publisher, "part", made)


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


@bug("who has room for more than a turn's events is not sent the rest", by="tests/protocol/test_topics_in_turn.py")
def _(put: Put) -> None:
    put(publisher.Publisher, "resume", lambda right: lambda self: self._later.clear())


@bug("what goes at the next turn is passed over if the queue is short", by="tests/protocol/test_topics_in_turn.py")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def flush(self: Any, **how: Any) -> None:
            right(self, **how)
            for stream in self._streams.values():
                for of in list(stream.cursors):
                    self._bound(of)

        return flush

    put(publisher.Publisher, "flush", made)


@bug("a publisher leaves before a turn that was to come", by="tests/protocol/test_topics_in_turn.py")
def _(put: Put) -> None:
    put(publisher.Publisher, "flush", lambda right: lambda self, **how: right(self))


# -- what is missed ----------------------------------------------------------------------------------------------------


@bug("what was missed is judged by the numbers of events and not of those that matched")
def _(put: Put) -> None:
    """The first draft: what did not match was called lost."""

    def made(right: Any) -> Any:
        def events(self: Any, taps: Any, said: Any) -> None:
            first = said.event - sum(many for _, many in said.topics) + 1
            right(self, taps, replace(said, subscriptions={id: c and first for id, c in said.subscriptions.items()}))

        return events

    put(subscriber.Subscriber, "_events", made)


@bug("what was missed before an event is not told with it")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def take(self: Any, most: int, **how: Any) -> Any:
            taken = right(self, most, **how)
            if taken is not None:
                taken.missed = 0
            return taken

        return take

    put(inbox.Inbox, "take", made)


@bug("what is dropped for a subscription without room has no counts")
def _(put: Put) -> None:
    def events(right: Any) -> Any:
        def heard(self: Any, taps: Any, said: Any) -> None:
            counts = {id: taps[id].place.count + 1 if c and id in taps else c for id, c in said.subscriptions.items()}
            right(self, taps, replace(said, subscriptions=counts))

        return heard

    put(subscriber.Subscriber, "_events", events)


@bug("where a subscription has left off is forgotten with its connection")
def _(put: Put) -> None:
    put(subscriber.Subscriber, "_left_off", lambda right: lambda self, instance, name, id: None)


@bug("a subscription goes on behind what was on its way when its connection broke")
def _(put: Put) -> None:
    """And calls it neither come nor missed."""

    def made(right: Any) -> Any:
        def begin(self: Any, stream: Any, link: Any, said: Any, now: float) -> Any:
            for ghost in self._ghosts:
                if (ghost.instance, ghost.id) == (link.instance, said.subscription) and said.epoch == self.epoch:
                    said = replace(said, count=max(said.count, ghost.c))
            return right(self, stream, link, said, now)

        return begin

    put(publisher.Publisher, "_begin", made)


@bug("what lies in history for who comes back is called unknown", by="tests/protocol/test_scenarios.py")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def begin(self: Any, stream: Any, link: Any, said: Any, now: float) -> Any:
            return right(self, stream, link, replace(said, epoch=said.epoch and said.epoch + 1), now)

        return begin

    put(publisher.Publisher, "_begin", made)


@bug("what a publisher had not told when it was restarted is called nothing")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def begin(self: Any, stream: Any, link: Any, said: Any, now: float) -> Any:
            answer = right(self, stream, link, said, now)
            return replace(answer, missed=max(0, answer.missed))

        return begin

    put(publisher.Publisher, "_begin", made)


@bug("who comes back to a publisher that was restarted is taken for one that knows its counts")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def begin(self: Any, stream: Any, link: Any, said: Any, now: float) -> Any:
            return right(self, stream, link, replace(said, epoch=said.epoch and self.epoch), now)

        return begin

    put(publisher.Publisher, "_begin", made)


@bug("between what is replayed and what is live one is missing")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def go_back(self: Any, cursor: Any, said: Any, now: float, **how: Any) -> None:
            right(self, cursor, said, now, **how)
            if cursor.ahead and cursor.ahead[-1].c:
                cursor.ahead.pop()

        return go_back

    put(publisher.Publisher, "_go_back", made)


@bug("what is published while a subscriber is away is kept for nobody", by="tests/protocol/test_scenarios.py")
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def closed(self: Any, link: Any, now: float) -> None:
            right(self, link, now)
            for ghost in list(self._ghosts):
                self._end_ghost(ghost)

        return closed

    put(publisher.Publisher, "closed", made)


@bug("the groups that a publisher has met are forgotten with its life", by="tests/unit/topics/test_groups.py")
def _(put: Put) -> None:
    put(groups.Groups, "_remembered", lambda right: lambda self: {})


@bug("a group that was forgotten is known to the next life", by="tests/unit/topics/test_groups.py")
def _(put: Put) -> None:
    put(groups, "forget", lambda right: lambda folder, channel: True)
