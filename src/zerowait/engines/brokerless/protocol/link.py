"""A connection: what phase it is in, what its other end told, and when it may be trusted.

    dialled ──HELLO──▶ greeted ──STATE──▶ ready      each of our outboxes resumes on it by itself: HELD, answered by
    DROP
                 any of them ──▶ lost

A link is thin: what crosses links (a late `handled`, the shared window, taking back) is in owner/ and worker/.
"""

from __future__ import annotations

from enum import Enum
from math import inf

from msgspec import Struct

from zerowait.contract import Description
from zerowait.engines.brokerless.protocol.frames import (
    UNEXPECTED,
    Fragment,
    Hello,
    Owned,
    ProtocolError,
    Served,
    State,
)
from zerowait.engines.brokerless.protocol.owner.credit import Credit

FRAGMENTED_AT_ONCE = 4  # messages of a connection that may arrive in fragments side by side
PINGS_REMEMBERED = 16
TOPIC = "topic"  # the kind of what is published
PUT_OFF_ANEW = 1.0  # who was not late for so long is late anew
OURS = 0  # in place of an outbox: what this process pushes itself, to whichever of its own


class LinkPhase(Enum):
    DIALLED = "dialled"  # connected; our HELLO is on its way or theirs has not come
    GREETED = "greeted"  # their HELLO was accepted; whether ours was, their STATE will say
    READY = "ready"  # both HELLO and STATE are here; each outbox resumes by itself
    LOST = "lost"


class Mismatch(Struct, frozen=True):
    """The two ends of a channel do not agree: nothing of it is sent there. In words."""

    difference: str
    sent: str
    expected: str


class Link:
    __slots__ = (
        "begun",
        "boxes",
        "conn",
        "credits",
        "draining",
        "held",
        "hello",
        "is_round",
        "opened_at",
        "ours",
        "parts",
        "permitted_until",
        "phase",
        "pings",
        "put_off_at",
        "put_off_since",
        "resumed",
        "schemas",
        "serial",
        "served",
        "side",
        "topics",
        "unfit",
    )

    def __init__(self, conn: int, *, ours: bool, side: str, now: float) -> None:
        self.conn = conn
        self.opened_at = now
        self.ours = ours  # we dialled it
        self.side = side  # "both"; or of the link to ourselves, which has two ends: "owner" or "worker"
        self.phase = LinkPhase.DIALLED
        self.begun = False  # it is the session with its other end, or was
        self.hello: Hello | None = None
        self.serial = 0  # of our HELLO on it
        self.served: dict[str, Served] = {}
        self.topics: tuple[Served, ...] = ()  # what its other end publishes
        # (channel, outbox or OURS) → why nothing of that goes there; None: not known yet whether it may
        self.unfit: dict[tuple[str, int], Mismatch | None] = {}
        self.schemas: dict[bytes, Description | None] = {}  # types of theirs that we have asked for; None: no answer
        self.boxes: dict[int, Owned] = {}
        self.draining = False
        self.resumed: set[int] = set()  # our outboxes that its HELD has been answered for
        self.credits: dict[tuple[str, int], Credit] = {}
        self.held: dict[int, int] = {}  # outbox of theirs → the serial of the HELD that its DROP must answer
        self.permitted_until = 0.0  # they cannot have taken anything back before that time (rules §3.4)
        self.is_round = False  # a PONG has come: what its other end says to our STATE has come before it
        self.pings: dict[int, float] = {}  # serial → when it was sent; answered ones go
        self.parts: dict[int, tuple[bytearray, int]] = {}
        self.put_off_since = self.put_off_at = -inf

    @property
    def instance(self) -> int:
        assert self.hello is not None, "asked before its HELLO"
        return self.hello.instance

    @property
    def message_bytes(self) -> int:
        """The largest message that its other end takes."""
        return self.hello.limits.message_bytes if self.hello is not None else 0

    def dialled_serial(self) -> int:
        """The number of the HELLO that its dialler said: of two connections from one dialler the higher is the
        later."""
        assert self.hello is not None, "asked before its HELLO"
        return self.serial if self.ours else self.hello.serial

    def state(self, state: State) -> None:
        """Takes a snapshot."""
        self.phase = LinkPhase.READY
        self.served = {served.channel: served for served in state.channels if served.kind != TOPIC}
        self.topics = tuple(served for served in state.channels if served.kind == TOPIC)
        self.draining = state.draining
        self.boxes = {owned.box: owned for owned in state.boxes}

    def credit(self, channel: str, lane: int = 0) -> Credit:
        credit = self.credits.get((channel, lane))
        if credit is None:
            credit = self.credits[channel, lane] = Credit()
        return credit

    def whole(self, part: Fragment, limit_bytes: int) -> bytearray | None:
        """Puts a FRAGMENT in its place; gives the frame when that was the last. Bounded by what one message may
        have."""
        if part.total > limit_bytes or part.offset + len(part.data) > part.total or not len(part.data):
            words = f"a FRAGMENT of {part.total} bytes, where {limit_bytes} are allowed, or one that says nothing"
            raise ProtocolError(UNEXPECTED, words)
        known = self.parts.get(part.serial)
        if known is None:
            if part.offset != 0 or len(self.parts) >= FRAGMENTED_AT_ONCE:
                raise ProtocolError(UNEXPECTED, "a FRAGMENT without its beginning, or too many at once")
            known = (bytearray(), part.total)
        data, total = known
        if part.offset != len(data) or part.total != total:
            raise ProtocolError(UNEXPECTED, "a FRAGMENT out of its order")
        data += part.data
        if len(data) == total:
            self.parts.pop(part.serial, None)
            return data
        self.parts[part.serial] = (data, total)
        return None

    def ping(self, serial: int, now: float) -> None:
        self.pings[serial] = now
        if len(self.pings) > PINGS_REMEMBERED:
            del self.pings[list(self.pings)[1]]  # the oldest stays: it says since when no PONG has come

    def answered(self, serial: int) -> float | None:
        """When the PING that this PONG answers was sent. Those before it will not be answered any more."""
        sent = self.pings.get(serial)
        self.is_round = True
        if sent is not None:
            self.pings = {number: at for number, at in self.pings.items() if number > serial}
        return sent

    def put_off(self, now: float) -> float:
        """It is late, and is not judged at this look; for how long that goes on without a break, at each look."""
        if now - self.put_off_at > PUT_OFF_ANEW:
            self.put_off_since = now
        self.put_off_at = now
        return now - self.put_off_since

    def unanswered_since(self) -> float | None:
        return next(iter(self.pings.values()), None)
