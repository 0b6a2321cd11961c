"""Looking in: the status of this process, and the questions of the command line. Reads; what it changes, it is told
to."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from zerowait.callbacks import running_loop
from zerowait.errors import StoreError, ZerowaitError
from zerowait.outbox.answering import box_status, letters_answer, refusal, waiting_status
from zerowait.outbox.letters import Letters
from zerowait.outbox.waiting import Ranges, Sweep
from zerowait.patterns import overlap, parted
from zerowait.snapshot import (
    Answer,
    BoxStatus,
    ChannelStatus,
    GroupStatus,
    PeerStatus,
    Question,
    RequestStatus,
    ServedStatus,
    Status,
    SubscriptionStatus,
    TopicStatus,
    WaitingStatus,
)

if TYPE_CHECKING:
    from datetime import datetime

    from zerowait.engines.brokerless.node import Node
    from zerowait.engines.brokerless.plainly.ports import PlainPorts
    from zerowait.engines.brokerless.views import PeerView, TopicView
    from zerowait.estate import Estate
    from zerowait.feeds import Feeds
    from zerowait.outbox.intake import Intake
    from zerowait.outbox.outbox import Outbox
    from zerowait.requests.box import Requests
    from zerowait.settings import Settings

log = logging.getLogger("zerowait")
T = TypeVar("T")

ANSWER_S = 30.0  # for a question that is a command: who asks waits for less
DROP_S = 1.0  # for one question: who asks waits three seconds, and asks again
LOOKS = 3  # at what another thread may be changing
PATIENCE_S = 0.5  # a turn takes milliseconds, an fsync of a slow disk some hundred


class Observed(Protocol):
    """What is looked at: see `opening.Opened`."""

    name: str
    settings: Settings
    started_at: datetime
    node: Node
    estate: Estate
    ports: PlainPorts
    feeds: Feeds

    def all_requests(self) -> list[Requests]:
        """The outboxes of what is asked."""
        ...


def status_of(opened: Observed) -> Status:
    """Any thread but the network's and the store's. What those two do not say within PATIENCE_S is left away, and said
    to be unknown. An event loop waits for neither: see `_at_once`."""
    from zerowait import __version__

    node, estate = opened.node, opened.estate
    is_open = node.counter is not None
    core = node.core if is_open else None
    serves = list(core.worker.services.values()) if core is not None else []
    refused = opened.ports.refused()
    # Before it is looked which are open: else one that opens meanwhile is left out.
    unopened = _being_opened(opened)
    boxes = estate.boxes()
    there = {box.id for box in boxes}
    begun = [_unopened(opened, intake) for intake in estate.intakes() if intake.box not in there]
    look = _asked if running_loop() is None else _at_once
    peers, topics, oldest, unknown = look(opened, boxes, is_open)
    known = opened.feeds.groups.seen()
    told = [
        *(box_status(box, node.in_flight(box.id), at or {}) for box, at in zip(boxes, oldest, strict=True)),
        *begun,
    ]
    return Status(
        name=opened.name,
        instance=f"{node.instance:016x}",
        pid=os.getpid(),
        version=__version__,
        started_at=opened.started_at,
        namespace=opened.settings.namespace,
        state="starting" if core is None else "draining" if core.worker.draining else "running",
        boxes=told,
        peers=[
            PeerStatus(
                name=peer.name,
                instance=f"{peer.instance:016x}",
                pid=peer.pid if peer.is_local else None,
                address=peer.address,
                state=peer.state,
                serves=list(peer.serves),
                in_flight=peer.in_flight,
                silent_for_s=peer.silent_for_s,
                mismatches=peer.mismatches,
            )
            for peer in peers or ()
        ],
        serves=[
            ServedStatus(
                channel=service.channel,
                concurrency=service.concurrency,
                running=core.worker.desk.running(service.channel) if core is not None else 0,
                queued=core.worker.desk.queued(service.channel) if core is not None else 0,
                ended=core.worker.desk.ended(service.channel) if core is not None else 0,
                refused=refused.get(service.channel, 0),
            )
            for service in serves
        ],
        requests=_requests(opened),
        topics=topics_of(topics or [], [_durable(opened, channel, told) for channel in dict(known)]),
        released_undecided=core.worker.claims.released_unasked if core is not None else 0,
        unknown=[*unopened, *unknown],
    )


# Peers, topics, of each outbox, unknown
Seen = tuple["list[PeerView] | None", "list[TopicView] | None", "list[dict[str, int] | None]", list[str]]


def _asked(opened: Observed, boxes: list[Outbox], is_open: bool) -> Seen:
    """As the threads say that own it."""
    node, estate = opened.node, opened.estate
    # All are asked before any is waited for: a thread that is in the middle of something costs its time once.
    asked = [estate.ask(box, box.oldest) for box in boxes]
    views = node.call(lambda: (node.peers(), node.topics())) if is_open else None
    groups = opened.feeds.groups.read()
    waiting = _Waiting()
    seen = waiting.for_(views, "its peers and topics", "the network thread") if views is not None else None
    peers, topics = seen if seen is not None else (None, None)
    if topics is not None:
        waiting.for_(groups, "its durable groups", "the disk")
    oldest = [
        waiting.for_(each, f"oldest of outbox {box.name}", _owner(box)) for box, each in zip(boxes, asked, strict=True)
    ]
    return peers, topics, oldest, waiting.unknown


def _at_once(opened: Observed, boxes: list[Outbox], is_open: bool) -> Seen:
    """For an event loop, which must not wait: peers as they stand in memory, and of the oldest messages what was found
    out since the last look, which is asked for again."""
    unknown: list[str] = []
    peers: list[PeerView] | None = None
    topics: list[TopicView] | None = None
    for _ in range(LOOKS) if is_open else ():
        try:
            peers, topics = opened.node.peers(), opened.node.topics()
            break
        except RuntimeError:  # the network thread put in or took out something while we went through it
            continue
    else:
        if is_open:
            unknown.append("its peers and topics: they come and go at this moment; ask again")
    oldest = [opened.estate.inventory.oldest_known(box) for box in boxes]
    unknown += [
        f"oldest of outbox {box.name}: {_owner(box)} is asked, and an event loop does not wait for it; ask again"
        for box, each in zip(boxes, oldest, strict=True)
        if each is None
    ]
    return peers, topics, oldest, unknown


def _requests(opened: Observed) -> list[RequestStatus]:
    return [
        RequestStatus(
            channel=channel,
            asked=counts.asked,
            answered=counts.answered,
            failed=counts.failed,
            cancelled=counts.cancelled,
            outstanding=counts.outstanding,
        )
        for requests in opened.all_requests()
        for channel, counts in sorted(requests.counts().items())
    ]


def _durable(opened: Observed, channel: str, boxes: list[BoxStatus]) -> SubscriptionStatus:
    pattern, group = parted(channel) or (channel, "")
    rows = [row for box in boxes for row in box.channels if row.channel == channel]
    return SubscriptionStatus(
        pattern=pattern,
        group=group,
        durable=True,
        subscribers=len(opened.node.workers(channel)),
        waiting=sum(row.waiting for row in rows),
        in_flight=sum(row.in_flight for row in rows),
        dropped=sum(row.dropped for row in rows),
    )


def topics_of(views: Sequence[TopicView], durable: Sequence[SubscriptionStatus]) -> list[TopicStatus]:
    """What is published, with all who want it. A durable group of what this life of the process has not published yet
    stands for itself."""
    topics: list[TopicStatus] = []
    for view in sorted(views, key=lambda view: view.topic):
        subscriptions = [
            SubscriptionStatus(
                pattern=each.pattern,
                group=each.group,
                subscribers=each.subscribers,
                waiting=each.waiting,
                dropped=each.dropped,
            )
            for each in view.subscriptions
        ]
        subscriptions += [each for each in durable if overlap(each.pattern, view.topic)]
        topics.append(TopicStatus(topic=view.topic, published=view.published, subscriptions=subscriptions))
    left = [each for each in durable if not any(overlap(each.pattern, view.topic) for view in views)]
    return topics + [
        TopicStatus(topic=pattern, subscriptions=[each for each in left if each.pattern == pattern])
        for pattern in sorted({each.pattern for each in left})
    ]


class _Waiting:
    """For answers of other threads, PATIENCE_S for all of them together."""

    def __init__(self) -> None:
        self._until = time.monotonic() + PATIENCE_S
        self.unknown: list[str] = []

    def for_(self, asked: Future[T], what: str, who: str) -> T | None:
        try:
            return asked.result(max(0.0, self._until - time.monotonic()))
        except TimeoutError:
            self.unknown.append(f"{what}: {who} is busy and did not answer within {PATIENCE_S:g} s; ask again")
        except ZerowaitError as error:
            self.unknown.append(f"{what}: {error}")
        return None


def _owner(box: Outbox) -> str:
    return "the store thread" if box.durable else "the network thread"


def _unopened(opened: Observed, intake: Intake) -> BoxStatus:
    """What is accepted while its outbox is still being opened: it waits."""
    counts = intake.counts()
    channels = [ChannelStatus(channel=c, accepted=n, waiting=n) for c, n in sorted(counts.items())]
    return BoxStatus(id="", name=opened.name, path=None, durable=intake.durable, channels=channels)


def _being_opened(opened: Observed) -> list[str]:
    """Until its file is open, nobody knows what an earlier life of this name has left in it."""
    if not opened.estate.is_opening():
        return []
    return [f"what an earlier {opened.name} has left in its outbox: the file is being opened; ask again"]


def answer(opened: Observed, body: bytes, reply: Callable[[bytes], None]) -> None:
    """A question that came over the local socket. Called on the network thread, which must not wait: a thread does."""

    def work() -> None:
        try:
            question = msgspec.msgpack.decode(body, type=Question)
            said = Answer(True, _answer(opened, question))
        except ZerowaitError as error:
            said = refusal(error)
        except Exception as error:
            log.exception("a question of the command line could not be answered")
            said = Answer(False, error=f"{type(error).__name__}: {error}")
        reply(msgspec.msgpack.encode(said))

    threading.Thread(target=work, name="zerowait answering", daemon=True).start()


def _answer(opened: Observed, question: Question) -> Any:
    estate, args = opened.estate, question.args
    boxes = estate.boxes()
    if question.verb == "status":
        return msgspec.to_builtins(status_of(opened))
    if question.verb == "channel.types":
        service = opened.node.core.worker.services.get(args["channel"]) if opened.node.counter is not None else None
        return [service.description] if service is not None and service.description else []
    if question.verb == "topic.group":
        groups = opened.feeds.groups.known()
        members = opened.node.call(partial(opened.node.workers, args["channel"])).result(ANSWER_S)
        told = GroupStatus(is_known=args["channel"] in groups, members=members, groups=sorted(groups))
        return msgspec.to_builtins(told)
    if question.verb == "topic.forget":
        return opened.feeds.groups.forget(args["channel"])
    named = [box for box in boxes if args.get("name") in (None, box.name)]
    if question.verb == "outbox.waiting":
        return [msgspec.to_builtins(_waiting(opened, box, args["channel"])) for box in named]
    if question.verb == "outbox.drop":
        last = {box: name for box in boxes if (name := args["boxes"].get(f"{box.id:016x}")) is not None}
        return {f"{box.id:016x}": _drop(opened, box, args["channel"], (n[0], n[1])) for box, n in last.items()}
    if question.verb == "dead.retry":
        return [id for ids in _of_each(estate, boxes, lambda box: _retry(opened, box, question)) for id in ids]
    answers = _of_each(
        estate, boxes, lambda box: estate.ask(box, partial(letters_answer, box, question)).result(ANSWER_S)
    )
    if question.verb == "dead.show":
        return next((letter for letter in answers if letter is not None), None)
    if question.verb == "dead.edit":
        return any(answers)
    return [found for each in answers for found in each]


def _of_each(estate: Estate, boxes: Sequence[Outbox], ask: Callable[[Outbox], T]) -> list[T]:
    """What each says. One that was given back meanwhile says nothing: it is another's now, who is asked as well."""
    said: list[T] = []
    for box in boxes:
        try:
            said.append(ask(box))
        except StoreError:
            if box in estate.boxes():
                raise
    return said


def _waiting(opened: Observed, box: Outbox, channel: str) -> WaitingStatus:
    in_flight = opened.node.in_flight(box.id)
    status: WaitingStatus = opened.estate.ask(box, lambda: waiting_status(box, channel, in_flight)).result(ANSWER_S)
    return status


def _retry(opened: Observed, box: Outbox, question: Question) -> list[str]:
    """Gives dead letters back. With a key they go before what is in memory of it, of which the outbox knows nothing."""

    def retry() -> tuple[set[tuple[str, bytes]], list[str]]:
        letters, named = Letters(box), question.args["ids"]
        return letters.keys(named), letters.retry(named)

    told: tuple[set[tuple[str, bytes]], list[str]] = opened.estate.ask(box, retry).result(ANSWER_S)
    keys, ids = told
    if keys:
        opened.node.call(partial(opened.node.outboxes.outrun, box.id, keys)).result(ANSWER_S)
    return ids


def _drop(opened: Observed, box: Outbox, channel: str, last: tuple[int, int]) -> tuple[int, bool]:
    """Drops what waits for the channel, in memory and on disk, a page at a time; gives how many, and whether the time
    was too short for all.

    Only the network thread knows what is in flight, only the outbox's thread what lies on disk: so each page is read by
    the one, dropped by the other, and committed before the next.
    """

    def dropped() -> int:
        row = box.ledger.rows().get(channel)
        return row.dropped if row is not None else 0

    until = time.monotonic() + DROP_S
    before, sweep = dropped(), Sweep(box, channel, last)
    while True:
        ranges: Ranges = opened.estate.ask(box, sweep.page).result(ANSWER_S)
        is_durable = threading.Event()
        opened.node.call(partial(opened.node.outboxes.drop, box.id, channel, last, ranges, is_durable.set)).result(
            ANSWER_S
        )
        if not is_durable.wait(ANSWER_S):
            raise StoreError(
                f"{box.name} could not write within {ANSWER_S:g} s that messages of {channel} are dropped. It does so "
                "as soon as its outbox can be written: look again with `zerowait status`.",
                path=box.path or "",
            )
        if not ranges or time.monotonic() > until:
            return dropped() - before, bool(ranges)
