"""What people and programs see when they look into a running process: frozen records, and the questions for them.

A look never changes what it looks at. `Client.status()` gives the status of its own process; `zerowait status` asks
each process of the namespace over its local socket and gets the same record.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from msgspec import Struct, to_builtins

Verb = Literal[
    "status",
    "dead.list",
    "dead.show",
    "dead.edit",
    "dead.retry",
    "dead.drop",
    "outbox.waiting",
    "outbox.drop",
    "channel.types",
    "topic.group",
    "topic.forget",
]


def moment(us: int) -> datetime:
    """A time as the outbox and the wire have it (microseconds UTC) as people and programs want it."""
    return datetime.fromtimestamp(us / 1_000_000, UTC)


class ChannelStatus(Struct, frozen=True, kw_only=True):
    """The ledger of one channel in one outbox. Exact at every moment:
    accepted = handled + dead + expired + dropped + waiting + in_flight."""

    channel: str
    accepted: int = 0
    handled: int = 0
    dead: int = 0
    expired: int = 0
    dropped: int = 0  # withdrawn, or dropped as dead letters
    waiting: int = 0  # with nobody yet, those due later too
    in_flight: int = 0  # sent to a worker, whose outcome is not known yet
    oldest_at: datetime | None = None  # when the oldest unsettled one of this channel was accepted

    @property
    def unsettled(self) -> int:
        return self.waiting + self.in_flight


class BoxStatus(Struct, frozen=True, kw_only=True):
    """One outbox: where it is, and its ledger."""

    id: str  # 16 hexadecimal digits; part of the file's name
    name: str  # of the client or app that fills it
    path: str | None  # None: in memory
    durable: bool
    channels: list[ChannelStatus]

    @property
    def unsettled(self) -> int:
        return sum(each.unsettled for each in self.channels)


class RequestStatus(Struct, frozen=True, kw_only=True):
    """The ledger of the requests (and streams) that this process asks at one channel. Exact at every moment:
    asked = answered + failed + cancelled + outstanding."""

    channel: str
    asked: int = 0
    answered: int = 0
    failed: int = 0  # an exception of the handler's, nobody there, a worker lost, too late
    cancelled: int = 0
    outstanding: int = 0  # nobody knows yet


class SubscriptionStatus(Struct, frozen=True, kw_only=True):
    """What is subscribed to something of a topic, as its publisher has it.

    subscribers: connected now; of a group its members. waiting: events that were not sent yet, to the slowest of those
    who stand for themselves; of a durable group what nobody has. in_flight: of a durable group, those that a member
    has. dropped: not sent for want of room, to each of them; of a durable group as its ledger says.
    """

    pattern: str
    group: str = ""  # "": each of the subscribers gets each event
    durable: bool = False
    subscribers: int = 0
    waiting: int = 0
    in_flight: int = 0
    dropped: int = 0


class TopicStatus(Struct, frozen=True, kw_only=True):
    """A topic that this process publishes, as it was declared. published: events since it was started, of all topics
    that this one stands for."""

    topic: str
    published: int = 0
    subscriptions: list[SubscriptionStatus] = []


class PeerStatus(Struct, frozen=True, kw_only=True):
    """A process at the other end of a link."""

    name: str
    instance: str
    pid: int | None  # None: on another machine
    address: str
    state: str  # up, stuck, silent, gone, dead
    serves: list[str]
    in_flight: int = 0  # of our messages, there
    silent_for_s: float = 0.0
    mismatches: dict[str, str] = {}  # channel → what its types differ in: nothing of that is sent there


class ServedStatus(Struct, frozen=True, kw_only=True):
    """A channel that this process handles."""

    channel: str
    concurrency: int
    running: int = 0
    queued: int = 0
    ended: int = 0  # runs since this process was started, however they ended
    refused: int = 0  # frames of bare ZeroMQ senders that could not be read as a message of it


class Status(Struct, frozen=True, kw_only=True):
    """One process, at one moment."""

    name: str
    instance: str  # 16 hexadecimal digits: this life of the process
    pid: int
    version: str
    started_at: datetime
    namespace: str
    state: str  # starting, running, draining
    boxes: list[BoxStatus]
    peers: list[PeerStatus]
    serves: list[ServedStatus]
    requests: list[RequestStatus] = []
    topics: list[TopicStatus] = []
    released_undecided: int = 0  # messages whose outputs left without their sender's word, after `undecided_after`
    unknown: list[str] = []  # what is left away because it could not be found out yet, and why, a sentence each

    def as_dict(self) -> dict[str, Any]:
        """Plain values that any JSON encoder takes; times are ISO 8601 in UTC."""
        plain: dict[str, Any] = to_builtins(self)
        return plain


class LetterStatus(Struct, frozen=True, kw_only=True):
    """A dead letter, in one line: what it is, and why it is dead."""

    id: str
    channel: str
    box: str  # the name of its outbox
    accepted_at: datetime
    died_at: datetime | None
    attempts: int
    reason: str
    rule: str = ""  # what sent it there: the retry policy, Reject, a message that does not fit …
    worker: str = ""
    size_bytes: int = 0
    retried: int = 0  # how often it was given back before


class LetterFilter(Struct, frozen=True, kw_only=True):
    """Which dead letters: everything that is said must be so. Upper and lower case matter."""

    channel: str | None = None
    error: str | None = None  # stands in its reason, rule, exception or traceback
    text: str | None = None  # stands in its payload
    died_before_us: int | None = None  # microseconds UTC
    died_after_us: int | None = None
    id: str | None = None  # its id begins or ends with this

    @property
    def is_all(self) -> bool:
        return self == LetterFilter()

    def names(self, id: str) -> bool:
        """Whether a letter of that id may be meant, by its id."""
        return self.id is None or id.startswith(self.id) or id.endswith(self.id)


class DeathStatus(Struct, frozen=True, kw_only=True):
    """A process that ended while it had the message. exit_code, signal: as its parent saw it, where that is told."""

    worker: str
    instance: str  # 16 hexadecimal digits
    proved: bool  # else its connection closed, and it did not come back
    ran: bool  # it had begun the message; else it is only known to have been sent it
    alone: bool  # and nothing else
    exit_code: int | None = None
    signal: int | None = None


class LetterDetail(LetterStatus, frozen=True, kw_only=True):
    """A dead letter whole."""

    payload: bytes  # msgpack, as it was pushed
    type: str = ""  # the exception's class
    traceback: str = ""  # without local variables
    headers: dict[str, str] = {}
    deaths: list[DeathStatus] = []  # of its workers, oldest first


class WaitingStatus(Struct, frozen=True, kw_only=True):
    """What waits in one outbox for one channel. The sum of `waiting` is confirmed before it is dropped, and nothing is
    dropped then that came after `last`."""

    box: str  # 16 hexadecimal digits
    waiting: int
    in_flight: int
    last: tuple[int, int]  # epoch and number of the newest message in the outbox
    channels: list[str]  # of the outbox, those with something unsettled
    sent_to: int = 0  # no process has it open: how many workers were sent something of it, and may have it still


class GroupStatus(Struct, frozen=True, kw_only=True):
    """What a process knows of a durable group."""

    is_known: bool  # what it publishes for it is kept
    members: list[str]  # who is there, by name
    groups: list[str]  # all durable groups that it knows, as channels


class Question(Struct, frozen=True):
    """What the command line asks a living process.

    | verb | args | value of the answer |
    |---|---|---|
    | status | | Status |
    | dead.list | which (LetterFilter), limit, after | list of LetterStatus, of each outbox the oldest `limit` |
    | dead.show | id | LetterDetail, or nothing if it is not there |
    | dead.edit | id, payload (msgpack) | whether it was there, and has that payload now |
    | dead.retry, dead.drop | ids | list of the ids for which that was done |
    | outbox.waiting | name, channel | list of WaitingStatus, one for each outbox of that name (none: of any) |
    | outbox.drop | channel, boxes (id → last) | id of each of them that is there → how many were dropped, any left |
    | channel.types | channel | list of the types that it is served as there, as `contract` packs them |
    | topic.group | channel (of a durable group) | GroupStatus |
    | topic.forget | channel | whether it was known: nothing more is kept for it |

    after: ids of letters, the last one known of each outbox: the list goes on behind it.
    """

    verb: Verb
    args: dict[str, Any] = {}


class Answer(Struct, frozen=True):
    """ok: value holds what the verb gives, as plain values. Else error is a sentence for who asked. is_final: it would
    be the same if he asked again."""

    ok: bool
    value: Any = None
    error: str = ""
    is_final: bool = False
