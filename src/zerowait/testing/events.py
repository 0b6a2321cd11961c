"""What was published in a simulated world, and what each subscription has had of it: in order, without double, and
what it has not had is said exactly (§10)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from msgspec import Struct, field

from zerowait.patterns import matches

UNKNOWN = -1


class Declared(Struct, frozen=True):
    """A topic that publishers declare."""

    pattern: str
    history: int
    retain: bool


DECLARED = (Declared("t.*", 5, retain=True), Declared("u.c", 0, retain=False))
TOPICS = ("t.a", "t.b", "u.c")


class Got(Struct, frozen=True):
    """n: the publisher's number of the event. counted: it is no retained value. missed: as it was told."""

    n: int
    counted: bool
    missed: int


class Feed(Struct, eq=False):
    """A subscription and one life of a publisher. joined: how many events that had published then; None: it has not
    answered. was_lost: the publisher's earlier life was known and lost. sessions: how often they have begun anew."""

    joined: int | None = None
    was_lost: bool = False
    sessions: int = 0
    got: list[Got] = field(default_factory=list[Got])


class Subscription(Struct, eq=False):
    """subscriber: the instance. ended: its queue was full, and it did not want to go on (events lost)."""

    id: int
    subscriber: int
    pattern: str
    replay: int
    group: str
    overflow: str
    feeds: dict[int, Feed] = field(default_factory=dict[int, Feed])  # by the publisher's instance
    ended: dict[int, int] = field(default_factory=dict[int, int])  # by the publisher's instance

    @property
    def name(self) -> str:
        return f"subscription {self.id} of {self.subscriber} to {self.pattern}"


class EventBook:
    def __init__(self, tell: Callable[..., None]) -> None:
        self.tell = tell
        self.published: dict[int, list[str]] = {}  # the publisher's instance → topics of its events, in their order
        self.subscriptions: list[Subscription] = []
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()

    def publish(self, publisher: int, topic: str) -> int:
        """The event's number."""
        events = self.published.setdefault(publisher, [])
        events.append(topic)
        self.tell("publish", publisher, len(events), topic)
        return len(events)

    def begins(self, subscription: Subscription, publisher: int, event: int, *, named: int) -> None:
        """That publisher has answered. event: its last by then. named: the life of it that the subscriber has named as
        the one that it had events of; 0: none."""
        feed = subscription.feeds.setdefault(publisher, Feed())
        feed.sessions += 1
        self.tell("subscribed", subscription.id, subscription.subscriber, publisher, event, named)
        if named == publisher:
            if feed.joined is None:
                self.wrong.append(f"{subscription.name} names {publisher}, and never had an answer of it")
        elif feed.got and feed.joined is not None:
            self.wrong.append(f"{subscription.name} begins anew at {publisher}, of which it has had events")
        else:
            feed.joined, feed.was_lost = event, named != 0

    def takes(self, subscription: Subscription, publisher: int, n: int, topic: str, got: Got) -> None:
        self.tell("takes", subscription.id, subscription.subscriber, publisher, n, got.missed)
        events = self.published.get(publisher, [])
        if not 1 <= n <= len(events) or events[n - 1] != topic or not matches(subscription.pattern, topic):
            self.wrong.append(
                f"{subscription.name} has had event {n} of {publisher} on {topic}, which is none of its own"
            )
            return
        feed = subscription.feeds.setdefault(publisher, Feed())
        if feed.joined is None:
            self.wrong.append(f"{subscription.name} has had event {n} of {publisher}, which has not answered it")
        feed.got.append(got)
        self.counts["taken"] += 1
        self.counts["missed"] += max(0, got.missed)

    # -- at the end --------------------------------------------------------------------------------------------------

    def judge(self, living: Iterable[int]) -> list[str]:
        """All that is wrong; empty if nothing is. living: instances; each of their publishers has published something
        on each topic when all was well again."""
        alive = set(living)
        wrong = list(self.wrong)
        for subscription in self.subscriptions:
            for publisher, feed in subscription.feeds.items():
                at_end = {subscription.subscriber, publisher} <= alive and publisher not in subscription.ended
                words = (
                    self._group(subscription, feed)
                    if subscription.group
                    else self._feed(subscription, publisher, feed, at_end)
                )
                wrong += [f"{subscription.name}: of {publisher} {each}" for each in words]
        return wrong + self._twice()

    def _feed(self, subscription: Subscription, publisher: int, feed: Feed, at_end: bool) -> list[str]:
        if feed.joined is None:
            return []
        topics = self.published.get(publisher, [])
        retained, expected = _expected(subscription, topics, feed)
        first, wrong = len(feed.got), list[str]()
        kept = [got for got in feed.got if not got.counted]
        counted = [got for got in feed.got if got.counted]
        if [got.n for got in kept] != sorted({got.n for got in kept} & retained):
            wrong.append(f"it has had the retained values {[got.n for got in kept]}, and {sorted(retained)} were there")
        # One that conflates may have a newer value of that topic in its place.
        is_whole = subscription.overflow == "conflate" or {got.n for got in kept} == retained
        if at_end and feed.sessions == 1 and not is_whole:
            wrong.append(f"it has had the retained values {[got.n for got in kept]}, not all of {sorted(retained)}")
        if first and feed.was_lost != (feed.got[0].missed == UNKNOWN):
            said = "not known" if feed.got[0].missed == UNKNOWN else "known"
            lost = "was" if feed.was_lost else "was not"
            wrong.append(f"what was missed is said to be {said}, and an earlier life {lost} lost")
        places = {n: place for place, n in enumerate(expected)}
        last = -1
        for at, got in enumerate(counted):
            place = places.get(got.n)
            if place is None or place <= last:
                wrong.append(f"event {got.n} came again, or out of order, or from before it was subscribed to")
                return wrong
            is_unknown = got.missed == UNKNOWN and at == 0 and not kept and feed.was_lost
            if not is_unknown and got.missed != place - last - 1:
                wrong.append(f"{place - last - 1} were missed before event {got.n}, and it was told {got.missed}")
            last = place
        if at_end and last != len(expected) - 1:
            wrong.append(f"the last {len(expected) - 1 - last} neither came nor were told to be missed")
        return wrong

    def _group(self, subscription: Subscription, feed: Feed) -> list[str]:
        """A group that was gone for a while and asks for what was has that again."""
        if subscription.replay:
            return []
        counted = [got.n for got in feed.got if got.counted]
        return [] if counted == sorted(set(counted)) else [f"came {counted}, which is not in order"]

    def _twice(self) -> list[str]:
        """Of a group one has each event."""
        had: Counter[tuple[int, str, str, int]] = Counter()
        for subscription in self.subscriptions:
            if subscription.group and not subscription.replay:
                for publisher, feed in subscription.feeds.items():
                    name = publisher, subscription.pattern, subscription.group
                    had.update((*name, got.n) for got in feed.got if got.counted)
        return [f"event {n} of {publisher} was had by two of the group {group} of {pattern}"
                for (publisher, pattern, group, n), times in had.items() if times > 1]  # fmt: skip


def _expected(subscription: Subscription, topics: list[str], feed: Feed) -> tuple[set[int], list[int]]:
    """Numbers of the retained values that come first, and of what follows: replayed, then live."""
    assert feed.joined is not None
    before = topics[: feed.joined]
    pattern = subscription.pattern
    history: list[int] = []
    retained: dict[str, int] = {}
    for declared in DECLARED:
        mine = [n for n, topic in enumerate(before, 1) if matches(declared.pattern, topic)]
        if declared.history and (subscription.replay or feed.was_lost):
            history += [n for n in mine[-declared.history :] if matches(pattern, topics[n - 1])]
        if declared.retain:
            retained.update((topics[n - 1], n) for n in mine if matches(pattern, topics[n - 1]))
    history.sort()
    if not feed.was_lost:
        history = history[-subscription.replay :] if subscription.replay else []
    live = [n for n, topic in enumerate(topics, 1) if n > feed.joined and matches(pattern, topic)]
    return set(retained.values()) - set(history), [*history, *live]
