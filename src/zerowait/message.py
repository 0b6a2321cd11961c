"""The records that pass between the rooms: what a message is on its way, and what becomes of it. No behaviour."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any

from msgspec import Struct

# A body is a msgpack array of payloads, always with the five-byte array32 header, so that the header can be written in
# place once the count is known and an offset into the body does not depend on the count.
BODY_HEADER = struct.Struct(">BI")
BODY_START = BODY_HEADER.size
ARRAY32 = 0xDD
SEGMENT_MESSAGES = 1_024
SEGMENT_BYTES = 256 * 1024 - 4_096  # a segment and the frame around it stay under the 256 KiB of one wire frame
UNIT_BYTES = 16 * 1024  # a message costs 1 + size // 16 KiB units of credit


class Verdict(IntEnum):
    """What became of a message at a worker, or at its owner. The numbers are on the wire and on disk."""

    HANDLED = 1
    RETRY = 2
    DEAD = 3
    EXPIRED = 4
    UNSTARTED = 5
    STARTED = 6
    RELEASED = 7
    DROPPED = 8
    CANCELLED = 9  # of a run that was cancelled for who asked: nobody is told


class Death(Struct, frozen=True, array_like=True, gc=False):
    """A process ended while it had a message."""

    instance: int
    name: str = ""
    proved: bool = False  # else its connection closed, and it did not come back
    ran: bool = False  # its list of what it ran names the message; else it is only known to have been held there
    alone: bool = False  # the message was all that it was given to run
    exit_code: int | None = None
    signal: int | None = None


class Marks(Struct, frozen=True, array_like=True):
    """What makes a message a suspect: the deaths that it was there for, and at whom it runs alone now (0: nobody)."""

    deaths: tuple[Death, ...] = ()
    alone_at: int = 0

    def died(self, death: Death) -> Marks:
        """One death more, or more that is known of one."""
        known = next((each for each in self.deaths if each.instance == death.instance), None)
        here = self.alone_at == death.instance
        alone = here or (known is not None and known.alone)
        whole = Death(
            death.instance,
            death.name or (known.name if known is not None else ""),
            death.proved or (known is not None and known.proved),
            death.ran or (known is not None and known.ran),
            alone,
            death.exit_code if death.exit_code is not None or known is None else known.exit_code,
            death.signal if death.signal is not None or known is None else known.signal,
        )
        deaths = (
            (*self.deaths, whole) if known is None else tuple(whole if each is known else each for each in self.deaths)
        )
        return Marks(deaths, 0 if here else self.alone_at)

    def cleared(self, instance: int) -> Marks:
        """That process has not died, or not of this."""
        return Marks(tuple(each for each in self.deaths if each.instance != instance), self.alone_at)

    def alone(self, instance: int) -> Marks:
        return Marks(self.deaths, instance)

    @property
    def ran(self) -> int:
        """Deaths that are proved and came while it ran."""
        return sum(each.proved and each.ran for each in self.deaths)


class Segment(Struct, gc=False):
    """Messages of one channel that were accepted together: one row of the outbox, and the bytes that travel.

    Numbers first … first + count - 1, less those in `gone` (settled already, or living in a row of their own).
    """

    channel: str
    epoch: int
    first: int
    count: int
    body: bytes | bytearray | memoryview
    ends: bytes  # uint32 little endian for each message: where its payload ends in body
    accepted_at: int  # microseconds UTC
    seq: int = 0  # the row in its outbox
    failures: int = 0  # how often a handler has failed on it (a segment with failures is a message alone)
    due: int | None = None  # microseconds UTC; None: now
    expires: int | None = None  # microseconds UTC; None: never
    priority: int = 0  # -1, 0, 1
    key: bytes | None = None
    headers: Mapping[int, Mapping[str, str]] | None = None  # number → the user's headers
    gone: tuple[tuple[int, int], ...] = ()
    marks: Marks | None = None  # of a suspect, which is a message alone
    hedge: bool = False  # of requests: another worker is asked, too, if the first is slow


class Delivery(Struct):
    """A batch as a worker has it: messages of one outbox, epoch and channel."""

    channel: str
    box: int
    epoch: int
    ranges: tuple[tuple[int, int], ...]  # (first, count), ascending; together as many as the body holds
    count: int
    body: bytes | memoryview
    ends: bytes | memoryview
    accepted_at: int
    sender: str
    failures: Mapping[int, int] | None = None  # number → failures so far; absent: none
    headers: Mapping[int, Mapping[str, str]] | None = None
    expires: float | None = None  # on the worker's own clock (the one that runs while the machine sleeps)
    key: bytes | None = None
    base: int = 0  # what to subtract from ends: a part of a segment travels with the segment's own ends
    token: Any = None  # the engine's own
    deaths: Mapping[int, int] | None = None  # number → workers that died while they ran it; absent: none
    durable: bool = True  # it lies on its sender's disk: so must what is sent for it
    missed: dict[int, int] | None = None  # of events: index → lost directly before it; absent: none

    def number(self, index: int) -> int:
        for first, count in self.ranges:
            if index < count:
                return first + index
            index -= count
        raise IndexError(index)

    def part(self, start: int, stop: int) -> bytearray:
        """The payloads start … stop - 1, as a body of their own."""
        ends = memoryview(self.ends).cast("I")
        body = bytearray(BODY_HEADER.pack(ARRAY32, stop - start))
        body += memoryview(self.body)[ends[start - 1] - self.base if start else BODY_START : ends[stop - 1] - self.base]
        return body

    def payload(self, index: int) -> bytes:
        ends = memoryview(self.ends).cast("I")
        start = ends[index - 1] - self.base if index else BODY_START
        return bytes(memoryview(self.body)[start : ends[index] - self.base])


class Prepared(Struct):
    """What runs of a handler send: messages of one channel and one due time, encoded. They are accepted, and get their
    numbers, when their inputs' owner has chosen these runs (rules §6)."""

    channel: str
    body: bytearray | bytes  # as a segment's
    ends: bytes
    inputs: list[int]  # for each of them, ascending: for which message it is sent, as an index into its delivery
    accepted_at: int  # microseconds UTC, as all times here
    due: int | None = None
    expires: int | None = None
    priority: int = 0
    headers: Mapping[int, Mapping[str, str]] | None = None  # by the index of the message in the body
    id: str | None = None  # by which its sender knows it; it is alone then
    row: Any = None  # the outbox's own: it lies there already, before the run has ended
    key: bytes | None = None


class Sent(Struct):
    """All that runs of a handler send, and in which outbox it is to lie until it is chosen."""

    home: int
    parts: list[Prepared]


class Outcome(Struct):
    """How a run ended, when it was not plainly handled."""

    verdict: Verdict
    after: float = 0.0  # seconds until a retry is due
    note: bytes = b""  # a msgpack map for people: reason, rule, traceback, worker …; of an answer: the failure
    outputs: Sent | None = None  # of what was handled and has sent something
    answers: bytes | None = None  # of requests (None: of none): the payloads of their answers, one after another
    is_unread: bool = False  # it is not of the handler's type, which has not seen it


class Service(Struct, frozen=True):
    """A channel that this process serves, as it is announced to peers."""

    channel: str
    kind: str  # "push", "request", "stream", "topic"
    concurrency: int
    fingerprint: bytes = b""
    prefetch: int = 50_000
    sends: bool = True  # its handler may send something: nothing is taken for it while there is no room for that
    keeps: bool = False  # every outcome lies on this process's disk before it is told (`inbox="disk"`)
    description: bytes = b""  # of its type, as `contract.packed` gives it; peers ask for it where fingerprints differ
    idempotent: bool = False  # a request of it may run twice


# Changes to an outbox. They name messages, not rows: (epoch, first, count); seq is the row they were offered from.


class Settle(Struct, gc=False):
    """These are finished: HANDLED, EXPIRED or DROPPED. Their rows shrink or go."""

    channel: str
    epoch: int
    first: int
    count: int
    verdict: Verdict
    seq: int = 0


class Again(Struct, gc=False):
    """A handler failed on it: it becomes a row of its own, due later.

    fence, n: the dispatch under which it failed. If a failure under that or a later one is counted already, this one is
    not: it is said again, or began before."""

    channel: str
    epoch: int
    number: int
    failures: int
    due: int  # microseconds UTC
    note: bytes = b""
    seq: int = 0
    fence: int = 0
    n: int = 0


class Bury(Struct, gc=False):
    """It becomes a dead letter: a row of its own in state 3, in the same transaction in which it leaves the queue.

    fence, n: as of `Again`; 0: by no failure."""

    channel: str
    epoch: int
    number: int
    failures: int
    note: bytes = b""
    seq: int = 0
    fence: int = 0
    n: int = 0
    is_made: bool = False  # set by the outbox: it was there, and is a letter by this change


class Mark(Struct, gc=False):
    """Workers have died while they had it, or are known by now not to have died of it: it becomes a row of its own
    that says so, and only then is offered again. Nothing, if it is not there any more."""

    channel: str
    epoch: int
    number: int
    died: tuple[Death, ...] = ()
    cleared: tuple[int, ...] = ()  # instances
    seq: int = 0


class Alone(Struct, gc=False):
    """A suspect is about to be sent to this worker, to run alone there; 0: it does not. Its row says so, and is not
    offered again."""

    channel: str
    epoch: int
    number: int
    instance: int
    seq: int = 0


class Shelve(Struct, gc=False):
    """Nothing of this row is in flight, and what is left of it waits behind one that has left it for a row of its own:
    who had it in memory has it no more. It is offered again when its key is free."""

    channel: str
    epoch: int
    first: int
    seq: int


class Note(Struct, gc=False):
    """A worker instance is noted before its first batch."""

    instance: int


class Forget(Struct, gc=False):
    """A noted worker instance is proved dead or long gone: its note goes."""

    instance: int


class Choose(Struct):
    """These were handled by runs whose outputs lie in that outbox. What of it waits or is in flight is settled, and a
    stub says whose outputs were chosen until they are released.

    chosen: for which of them the choice is that one, now or since before. The outbox says so once it is durable."""

    channel: str
    epoch: int
    first: int
    count: int
    outputs: int
    seq: int = 0
    chosen: tuple[tuple[int, int], ...] = ()


class Unstub(Struct, gc=False):
    """The outputs of these, which lie in that outbox, are released: nobody asks for the choice any more."""

    epoch: int
    first: int
    count: int
    outputs: int


class Keep(Struct):
    """An outcome of messages of another outbox, with what these runs have sent: on disk before it is told.

    prepared: of these runs, and perhaps of others of their delivery, whose numbers are their indexes and `shift`."""

    origin: int
    epoch: int
    first: int
    count: int
    fence: int
    n: int
    verdict: Verdict
    after_ms: int = 0
    note: bytes = b""
    prepared: Sequence[Prepared] = ()
    shift: int = 0
    is_kept: bool = False  # set by the outbox: said again, it changes nothing


class Spool(Struct):
    """What a run that goes on has sent so far: to the outbox, where it is dropped if that run is never kept.

    shift: what makes the message's number of the index that `prepared` name. told: called on the thread that owns the
    outbox, once it is durable."""

    origin: int
    epoch: int
    number: int
    shift: int
    prepared: Sequence[Prepared]
    told: Callable[[], object]


class Unspool(Struct):
    """That run has failed."""

    prepared: Sequence[Prepared]


class Release(Struct, gc=False):
    """What these runs sent is accepted: they were chosen.

    unasked: their owner has not said so, and will not for long; it is asked again if it ever comes back."""

    origin: int
    epoch: int
    first: int
    count: int
    fence: int
    n: int
    unasked: bool = False


class Discard(Struct, gc=False):
    """These outcomes are remembered no more, and what is still prepared of them is dropped: another run was chosen, the
    owner has settled them, or they run again."""

    origin: int
    epoch: int
    first: int
    count: int
    fence: int
    n: int


# What this process writes down as a worker: it holds for any opening of the outbox in which it lies. All other changes
# are decided from what one opening has been offered, and hold for that one.
LASTING = (Keep, Spool, Unspool, Release, Discard)

Change = (
    Settle
    | Again
    | Bury
    | Mark
    | Alone
    | Shelve
    | Note
    | Forget
    | Choose
    | Unstub
    | Keep
    | Spool
    | Unspool
    | Release
    | Discard
)


class Kept(Struct, frozen=True):
    """An outcome that an earlier life has left in an outbox. has_outputs: so that its owner is to be asked for its
    choice; RELEASED: it has chosen, and these are accepted."""

    origin: int
    epoch: int
    first: int
    count: int
    fence: int
    n: int
    verdict: Verdict
    after_ms: int
    note: bytes
    has_outputs: bool
