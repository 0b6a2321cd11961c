"""What a call of `publish` means: which topic, encoded how, kept for whom. Raises the caller's mistakes, and then
nothing was taken."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, cast

from msgspec import Struct

from zerowait.channels import Channel
from zerowait.codec import Codec
from zerowait.errors import NotAccepted, TooLarge, UsageError
from zerowait.message import SEGMENT_BYTES
from zerowait.names import check_topic
from zerowait.outbox.entrance import Ready, checked_headers, compare_terms
from zerowait.outbox.lane import Lane
from zerowait.outbox.plaincodec import plain_encoder
from zerowait.patterns import is_wild
from zerowait.pending import Pending
from zerowait.plain import Plain, check_plain
from zerowait.settings import Settings
from zerowait.topic import Topic
from zerowait.topics.bundle import Press, TopicLane
from zerowait.topics.groups import Groups
from zerowait.topics.safe import HeldEvent, Safe

log = logging.getLogger("zerowait.topics")

OPTIONS = frozenset({"retain", "headers"})
REMEMBERED = 8_192  # topics whose lanes are kept; a program that makes up names would keep them for ever
NAMED_MOST = 64  # topics without a declaration that are announced by name; beyond that: all


def plain_of(settings: Settings, name: str, declared: Channel | None) -> Plain | None:
    """The bare socket of this topic: what the settings say for its name, or for the one it was declared by, wins."""
    said = settings.channel(name).plain
    if said is None and isinstance(declared, Topic):
        topic = cast("Any", declared)
        said = settings.channel(topic.declared).plain or topic.terms.plain
    return said


class ReadyEvent(Struct):
    """An encoded event with its options: what a handler publishes, until it has succeeded."""

    lane: TopicLane
    payload: bytes
    headers: Mapping[str, str] | None


class TopicEntrance:
    """short: the client's lanes for the short way, which this fills. announce: told of each topic that is published to,
    before its first event: pattern, codec, history. groups: the durable ones. headers: of the client. other_kind: if a
    peer serves a channel of that name as another kind than a topic, the kind and who. plain: where events gather that
    go to a bare socket, by topic and socket."""

    def __init__(
        self,
        settings: Settings,
        press: Press,
        groups: Groups,
        *,
        short: dict[Any, TopicLane],
        announce: Callable[[str, Codec[Any], int], None],
        headers: Callable[[], Mapping[str, str]] | None = None,
        other_kind: Callable[[str], tuple[str, str] | None] = lambda topic: None,
        plain: Callable[[str, Plain], Press] | None = None,
    ) -> None:
        self._settings = settings
        self._press = press
        self._groups = groups
        self._short = short
        self._announce = announce
        self._headers = headers
        self._other_kind = other_kind
        self._plain = plain
        self._lanes: dict[tuple[Any, bool | None], TopicLane] = {}
        self._lock = Lock()  # of the lanes: who makes or drops one, and who looks at all of them
        self._named: set[str] = set()
        groups.changed = self._look_at_groups

    def publish(self, to: Any, value: Any, options: Mapping[str, Any]) -> Pending[int]:
        return self.release(self.prepare(to, value, options))

    def prepare(self, to: Any, value: Any, options: Mapping[str, Any]) -> ReadyEvent:
        """Checks and encodes, takes nothing."""
        for name in options.keys() - OPTIONS:
            raise UsageError(f"publish() takes no {name}=: it takes {', '.join(sorted(OPTIONS))}.")
        retain = options.get("retain")
        if retain is not None and not isinstance(retain, bool):
            raise UsageError(f"retain= is True or False, not {retain!r}.")
        lane = self._lanes.get((to, retain)) if isinstance(to, (str, Channel)) else None
        if lane is None:
            lane = self._lane(to, retain, value)
        elif lane.terms is not None and isinstance(to, Topic) and to.terms is not lane.terms:
            self._compare(to, lane)  # pyright: ignore[reportUnknownArgumentType]
        if lane.is_plain and (retain is not None or options.get("headers") is not None):
            raise UsageError(f"{lane.name} goes to a bare ZeroMQ socket, which knows neither retain nor headers.")
        if not lane.is_plain and (other := self._other_kind(lane.name)) is not None:
            raise UsageError(
                f"publish() is for topics, and {lane.name} is served as a {other[0]} channel by {other[1]}: nothing "
                "was taken. Give one of the two another name."
            )
        lane.codec.check(value, self._settings.check == "deep", lane.name)
        payload = lane.encode(value)
        if len(payload) > self._settings.message_bytes:
            raise TooLarge(size_bytes=len(payload), limit_bytes=self._settings.message_bytes, channel=lane.name)
        return ReadyEvent(lane, payload, None if lane.is_plain else self._checked(options.get("headers"), lane.name))

    def release(self, ready: ReadyEvent) -> Pending[int]:
        """Takes it, or raises and has taken nothing."""
        lane = ready.lane
        if lane.groups == ():
            return lane.press.publish(lane, ready.payload, ready.headers)
        # First all that may be refused: who is told that a queue is full publishes again, and what a group had taken
        # before would be there twice.
        lane.press.reserve(lane)
        try:
            safe = self._keep(lane, ready)
        except BaseException:
            lane.press.give_back(lane)
            raise
        return safe.beside(lane.press.publish_reserved(lane, ready.payload, ready.headers))

    def _keep(self, lane: TopicLane, ready: ReadyEvent) -> Safe | HeldEvent:
        """For durable groups; while it is not known which there are, in memory."""
        if lane.groups is None:
            held = self._groups.hold(lane.name, lane.codec, ready.payload, ready.headers)
            if held is not None:
                return held
        return self._groups.append(self._groups_of(lane), lane.name, ready.payload, ready.headers)

    def _groups_of(self, lane: TopicLane) -> tuple[tuple[Lane, bool], ...]:
        groups = lane.groups
        if groups is None:  # known, and this lane is still to be told
            groups = self._groups.of(lane.name, lane.codec)
        return groups or ()

    def leave(self, ready: ReadyEvent) -> list[Ready]:
        """The same for what a handler publishes, once it has succeeded: taken even if queues are full. Gives what is to
        be pushed for durable groups."""
        lane = ready.lane
        try:
            lane.press.publish(lane, ready.payload, ready.headers, force=True)
        except NotAccepted as error:
            log.warning("what a handler published on %s is lost: %s", lane.name, error)
        # An app reads them before it begins to handle anything.
        return self._groups.ready(self._groups_of(lane), lane.name, ready.payload, ready.headers)

    # -- which way -----------------------------------------------------------------------------------------------------

    def _lane(self, to: Any, retain: bool | None, value: Any) -> TopicLane:
        topic: Topic[Any] | None = None
        if isinstance(to, str):
            name, declared, codec = check_topic(to), "", Codec[Any](Any)
        elif isinstance(to, Topic):
            topic = to  # pyright: ignore[reportUnknownVariableType]
            name, declared, codec = topic.name, topic.declared, topic.codec()
        elif isinstance(to, Channel):
            raise UsageError(f"publish() is for topics, and {to!r} is of kind {to.kind}.")
        else:
            raise UsageError(f"publish() takes a Topic or a topic's name first, not {to!r:.80}.")
        if is_wild(name):
            raise UsageError(
                f"{name} stands for several topics, and an event is published on one: fill its places, as in "
                f'Topic[…]({name!r}).at("word").'
            )
        plain = plain_of(self._settings, name, topic)
        if plain is not None and self._plain is not None:
            press = self._plain(name, check_plain(plain, "topic", declared or name))
            bare = TopicLane(press, name, codec, None, encode=plain_encoder(plain, codec))
            bare.terms = topic.terms if topic is not None else None
            return self._remember(to, retain, bare, is_short=False)
        exact = codec.exact
        if topic is None and codec.encode_into is not None and not hasattr(value.__class__, "__pydantic_validator__"):
            exact = value.__class__
        if codec.encode_into is None or self._settings.message_bytes < SEGMENT_BYTES:
            exact = None  # the short way knows bundles, and no limit of one event
        self._tell(declared or name, codec, topic)
        lane = TopicLane(
            self._press,
            name,
            codec,
            exact,
            retain=topic is not None and topic.retain if retain is None else retain,
            reliable=topic is not None and topic.reliable,
        )
        if topic is not None:
            lane.terms = topic.terms
            lane.declared.add(declared)
        is_short = self._headers is None and self._settings.check == "type" and lane.exact is not None
        return self._remember(to, retain, lane, is_short=is_short and retain is None)

    def _remember(self, to: Any, retain: bool | None, lane: TopicLane, *, is_short: bool) -> TopicLane:
        """Gives the lane by which such events go from now on: this one, or that of a thread that was quicker."""
        with self._lock:
            known = self._lanes.get((to, retain))
            if known is not None:
                return known
            if len(self._lanes) >= REMEMBERED:
                for old in list(self._lanes)[: REMEMBERED // 2]:
                    self._short.pop(old[0], None)
                    del self._lanes[old]
            if not lane.is_plain:
                # Under the lock: of a group that is met meanwhile either this tells, or who looks at all lanes does.
                lane.groups = self._groups.of(lane.name, lane.codec)
            lane.is_short = is_short
            self._lanes[to, retain] = lane
            if is_short and lane.groups == ():
                self._short[to] = lane
            return lane

    def _compare(self, to: Topic[Any], lane: TopicLane) -> None:
        """Equal topics go the same way: with the same terms, by whichever declaration."""
        compare_terms(to, lane.terms, "published on")
        if not lane.is_plain and to.declared not in lane.declared:
            lane.declared.add(to.declared)
            self._tell(to.declared, lane.codec, to)

    def announce(self, topic: Any) -> str:
        """This process will publish there; gives the name."""
        if isinstance(topic, str):
            self._tell(check_topic(topic), Codec[Any](Any), None)
            return topic
        if not isinstance(topic, Topic):
            raise UsageError(f"This takes a Topic or a topic's name, not {topic!r:.80}.")
        declared = cast("Any", topic)
        self._tell(declared.declared, declared.codec(), declared)
        return topic.name

    def _tell(self, pattern: str, codec: Codec[Any], topic: Topic[Any] | None) -> None:
        if topic is None:
            if pattern in self._named:
                return
            if len(self._named) >= NAMED_MOST:
                pattern = ">"
            self._named.add(pattern)
        self._announce(pattern, codec, topic.history if topic is not None else 0)

    def _look_at_groups(self) -> None:
        """Which groups there are is known by now, or one has come: what is published is kept for it from now on."""
        with self._lock:
            for (to, _), lane in self._lanes.items():
                if lane.is_plain:
                    continue
                was_known = lane.groups is not None
                lane.groups = self._groups.of(lane.name, lane.codec)
                if lane.groups:
                    self._short.pop(to, None)
                elif lane.is_short and not was_known and lane.groups is not None:
                    self._short[to] = lane

    # -- options -------------------------------------------------------------------------------------------------------

    def _checked(self, said: Any, topic: str) -> Mapping[str, str] | None:
        if said is None and self._headers is None:
            return None
        if said is not None and not hasattr(said, "items"):
            raise UsageError(f'headers= takes a mapping of text to text, as {{"trace": "1"}}, not {said!r:.80}.')
        headers = dict(self._headers()) if self._headers is not None else {}
        headers.update(said or {})
        return checked_headers(headers, f"an event on {topic}", self._settings.headers_bytes) or None
