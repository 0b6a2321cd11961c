"""Topics of one client or app: what it publishes and has subscribed to, from the verbs to the network thread."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerowait.channels import Channel
from zerowait.codec import Codec
from zerowait.contract import packed
from zerowait.engines.brokerless.protocol.frames import SUBSCRIPTIONS_MOST
from zerowait.engines.brokerless.protocol.subscriber.inbox import Inbox
from zerowait.engines.brokerless.protocol.subscriber.subscriber import Wanted, window_of
from zerowait.engines.brokerless.topical import Topical
from zerowait.errors import Closed, Overflowed, UsageError, ZerowaitError
from zerowait.names import check_topic
from zerowait.outbox.lane import Lane
from zerowait.outbox.plaincodec import plain_decoder
from zerowait.pending import Pending, refuse_elsewhere
from zerowait.plain import Plain, check_plain
from zerowait.results import Peers
from zerowait.subscriptions import Subscription
from zerowait.topic import CONFLATE, DISCONNECT, Topic, check_plain_terms, checked
from zerowait.topics.bundle import Press, TopicLane
from zerowait.topics.entrance import TopicEntrance, plain_of
from zerowait.topics.groups import Groups, folder_of

if TYPE_CHECKING:
    from zerowait.engines.brokerless.plainly.ports import PlainPorts
    from zerowait.ground import Ground
    from zerowait.plains import Plains


class Feeds:
    """group_lane: for a durable group's channel, the way into the outbox of what is published for it. plains, ports:
    of topics that are bare ZeroMQ sockets."""

    def __init__(
        self,
        opened: Ground,
        short: dict[Any, TopicLane],
        headers: Callable[[], Mapping[str, str]] | None,
        *,
        group_lane: Callable[[str, Codec[Any]], Lane],
        plains: Plains,
        ports: PlainPorts,
    ) -> None:
        self._opened = opened
        self._plains, self._ports = plains, ports
        self._numbers = count(1)
        self._held: set[int] = set()  # subscriptions, but for those of bare sockets
        self._holding = threading.Lock()
        self._inboxes: weakref.WeakSet[Inbox] = weakref.WeakSet()
        self.press = self._press()
        self._plain_press = self._press()  # of what goes to bare sockets
        self.groups = Groups(
            self._folder,
            lane=group_lane,
            promise=opened.promise,
            want=lambda channel: opened.node.want(channel),
            behind=lambda act: opened.node.call(act),
        )
        self.entrance = TopicEntrance(
            opened.settings,
            self.press,
            self.groups,
            short=short,
            announce=self._announce,
            headers=headers,
            other_kind=lambda topic: opened.node.served_here(topic),
            plain=self._publish_plainly,
        )
        self._topical: Topical

    def _press(self) -> Press:
        opened = self._opened
        return Press(
            opened.callbacks,
            now_us=opened.now_us,
            wake=lambda: opened.node.wake(),
            give_way=lambda: opened.node.give_way(),
            room=lambda: opened.promise("write `await error.room`"),
        )

    def topical(self, wake: Callable[[], None]) -> Topical:
        """The part on the network thread."""
        self._topical = Topical(self.press, self.groups, wake)
        return self._topical

    # -- publishing ----------------------------------------------------------------------------------------------------

    def publish(self, to: Any, value: Any, options: Mapping[str, Any]) -> Pending[int]:
        return self.entrance.publish(to, value, options)

    def _publish_plainly(self, topic: str, plain: Plain) -> Press:
        self._plains.publish_to(topic, plain, self._plain_press)
        return self._plain_press

    def _announce(self, pattern: str, codec: Codec[Any], history: int) -> None:
        self._opened.node.announce_topic(pattern, codec.fingerprint(), packed(codec.describe()), history)

    def _folder(self) -> Path:
        settings = self._opened.settings
        return folder_of(Path(settings.home_folder()), settings.namespace, self._opened.name)

    # -- subscribing ---------------------------------------------------------------------------------------------------

    def subscribe(self, to: Any, options: Mapping[str, Any]) -> Subscription[Any]:
        given = dict(options)
        yields = given.pop("yields", Any)
        name, codec = _subject(to, yields)
        idle = given.pop("idle", None)
        if idle is not None and (isinstance(idle, bool) or not isinstance(idle, (int, float)) or not 0 < idle < inf):
            raise UsageError(f"idle= takes seconds as a number above 0, or None, not {idle!r}.")
        terms = checked(given)
        plain = self.plain_for(name, to if isinstance(to, Channel) else None, terms)
        if self.press.is_over is not None:
            raise Closed(name=self.press.is_over)
        id, pid, node = next(self._numbers), self._opened.pid, self._opened.node
        subscription: Subscription[Any] = Subscription(
            name,
            codec,
            idle,
            partial(_unsubscribe, node, self._ports, self._held, id),
            partial(refuse_elsewhere, pid, "This subscription"),
        )
        told = weakref.ref(subscription)

        def notify() -> None:
            mine = told()
            if mine is not None:
                mine._ring()

        inbox = self.inbox(terms, notify, plain)
        subscription._inbox = inbox

        def ended(peer: str, missed: int, words: str) -> None:
            mine = told()
            if mine is not None:
                mine._lose(missed)
            inbox.end(Overflowed(channel=name, peer=peer, missed=missed))

        def lost(missed: int) -> None:
            mine = told()
            if mine is not None:
                mine._lose(missed)

        over = ended if terms["overflow"] == DISCONNECT else None
        self.want(id, name, inbox, terms, codec, ended=over, lost=lost, plain=plain)
        return subscription

    def plain_for(self, name: str, declared: Channel | None, terms: Mapping[str, Any], group: str = "") -> Plain | None:
        """The bare socket by which this topic comes; None: it comes by our own links. Raises UsageError for what no
        bare publisher can give."""
        plain = plain_of(self._opened.settings, name, declared)
        if plain is None:
            return None
        check_plain(plain, "topic", name)
        check_plain_terms(name, terms, group)
        return plain

    def inbox(self, terms: Mapping[str, Any], notify: Callable[[], object], plain: Plain | None = None) -> Inbox:
        window = window_of(terms["queue"], terms["overflow"])
        conflate = terms["overflow"] == CONFLATE
        renew: Callable[[], object] = self._topical.renew if plain is None else lambda: None
        inbox = Inbox(threading.Lock(), window, conflate=conflate, renew=renew, notify=notify)
        self._inboxes.add(inbox)
        return inbox

    def want(
        self,
        id: int,
        pattern: str,
        inbox: Inbox,
        terms: Mapping[str, Any],
        codec: Codec[Any],
        *,
        group: str = "",
        ended: Callable[[str, int, str], object] | None = None,
        lost: Callable[[int], object] | None = None,
        plain: Plain | None = None,
    ) -> None:
        if plain is not None:
            self._ports.subscribe(id, pattern, plain, plain_decoder(plain, codec), inbox, terms["queue"])
            self._opened.node.wake()
            return
        self._hold(id, pattern)
        wanted = Wanted(
            id, pattern, inbox, terms["replay"], round(terms["replay_seconds"] * 1_000), group, terms["queue"],
            terms["overflow"], packed(codec.describe()), ended, lost,
        )  # fmt: skip
        asked = self._opened.node.subscribe(wanted)
        asked.add_done_callback(lambda over: inbox.end(error) if (error := _error(over)) is not None else None)

    def _hold(self, id: int, pattern: str) -> None:
        """Raises UsageError for one that publishers would not have: they would end the connection, and all that is on
        its way on it."""
        with self._holding:
            if len(self._held) >= SUBSCRIPTIONS_MOST:
                raise UsageError(
                    f"{self._opened.name!r} has {SUBSCRIPTIONS_MOST:,} subscriptions, and may not have more: {pattern} "
                    "was not subscribed to. One subscription to a pattern (* stands for a word, > at the end for one "
                    "or more) has the events of many topics."
                )
            self._held.add(id)

    def unwant(self, id: int) -> None:
        _unsubscribe(self._opened.node, self._ports, self._held, id)

    def number(self) -> int:
        return next(self._numbers)

    # -- looking -------------------------------------------------------------------------------------------------------

    def subscribers(self, of: Any) -> Peers:
        name, _ = _subject(of, Any)
        self._plains.refuse_peers(name, of, "subscribers")
        return Peers(self._opened, "subscribers", self.entrance.announce(of))

    def publishers(self, of: Any) -> Peers:
        name, _ = _subject(of, Any)
        self._plains.refuse_peers(name, of, "publishers")
        self._opened.node.seek(name)
        return Peers(self._opened, "publishers", name)

    # -- the end -------------------------------------------------------------------------------------------------------

    def fail(self, error: ZerowaitError) -> None:
        self.press.fail(error)
        self.groups.fail(error)
        self._plain_press.fail(error)
        for inbox in list(self._inboxes):
            inbox.end(error)

    def close(self) -> None:
        """Accepts nothing more."""
        self.press.close(self._opened.name)
        self._plain_press.close(self._opened.name)

    def end(self) -> None:
        """The network thread is no more: who waits for events is told."""
        self.press.fail(Closed(name=self._opened.name))
        self.groups.fail(Closed(name=self._opened.name))
        self._plain_press.fail(Closed(name=self._opened.name))
        for inbox in list(self._inboxes):
            inbox.end(Closed(f"The client {self._opened.name!r} is closed: nothing more comes of its subscriptions."))


def _subject(to: Any, yields: Any) -> tuple[str, Codec[Any]]:
    if isinstance(to, str):
        return check_topic(to), Codec(yields)
    if isinstance(to, Topic):
        if yields is not Any:
            raise UsageError(f"yields= is for a topic given by its name: {to!r} says its type itself.")
        return to.name, to.codec()
    if isinstance(to, Channel):
        raise UsageError(f"subscribe() is for topics, and {to!r} is of kind {to.kind}.")
    raise UsageError(f"subscribe() takes a Topic or a topic's name, not {to!r:.80}.")


def _unsubscribe(node: Any, plain: Any, held: set[int], id: int) -> None:
    """Perhaps in the garbage collection, where no lock may be taken."""

    def tell() -> None:
        if not plain.unsubscribe(id):
            node.unsubscribe(id)

    node.call(tell)
    held.discard(id)  # whoever has its place now is told of after that


def _error(over: Any) -> Exception | None:
    error: Exception | None = over.exception()
    return error
