"""Pieces of deliveries, as they lie at the desk, leave it and come back to it."""

from __future__ import annotations

from msgspec import Struct

from zerowait.engines.brokerless.protocol.frames import Part
from zerowait.message import Delivery


class Permit:
    """Whether queued messages of an outbox may be started. They may while its owner cannot have taken them back: it
    has answered a PING sent less than the grace ago, and our HELD of this session."""

    __slots__ = ("resuming", "until")

    def __init__(self) -> None:
        self.until = 0.0
        self.resuming = True

    def allows(self, now: float) -> bool:
        return now < self.until and not self.resuming


class Parcel:
    """A run of a delivery as it lies here: messages from `at` on have not been started."""

    __slots__ = (
        "at", "begin", "box", "conn", "cost", "delivery", "fence", "first", "lane", "n", "permit", "place", "stop",
    )  # fmt: skip

    def __init__(
        self,
        delivery: Delivery,
        at: int,
        stop: int,
        fence: int,
        n: int,
        permit: Permit,
        conn: int,
        cost: float,
        lane: int = 0,
    ) -> None:
        self.delivery = delivery
        self.box = delivery.box
        self.begin = self.at = at  # indexes into the delivery
        self.stop = stop
        self.first = delivery.number(at) - at  # a parcel's numbers have no hole: number = first + index
        self.fence = fence
        self.n = n
        self.permit = permit
        self.conn = conn
        self.cost = cost  # units of credit a message
        self.lane = lane
        self.place = 0  # where the list of what has not begun tells of it; 0: nowhere

    def waiting(self) -> Part:
        """What of it has not been started."""
        return Part(self.delivery.epoch, self.first + self.at, self.stop - self.at, self.fence, self.n)

    def cut(self, first: int, count: int) -> Parcel:
        """A parcel of these of its messages, by number. The delivery remembers all that were made of it."""
        at = first - self.first
        part = Parcel(self.delivery, at, at + count, self.fence, self.n, self.permit, self.conn, self.cost, self.lane)
        self.delivery.token = (*(self.delivery.token or ()), part)
        return part


class Taken(Struct):
    """What a runner took: a Job, and where it came from."""

    delivery: Delivery
    start: int
    stop: int
    parcel: Parcel


class Back(Struct):
    """Messages that leave the desk without having begun."""

    box: int
    channel: str
    conn: int
    cost: float
    lane: int
    parts: list[Part]
