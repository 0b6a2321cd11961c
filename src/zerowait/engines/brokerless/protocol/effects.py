"""What the pure part wants done, in the order in which it must be done.

Durability is an order here: a frame that may only leave once something is on disk is handed to `commit` with the
changes that it waits for, and belongs to one connection. It leaves when the shell reports that commit, and not at all
if the connection is another by then (rules §1.5)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from math import inf
from typing import Literal

from msgspec import Struct, field

from zerowait.engines.brokerless.protocol.frames import (
    Batch,
    Chunk,
    Confirm,
    Drop,
    Frame,
    Goodbye,
    Outcome,
    Part,
    encode,
)
from zerowait.message import Change, Choose, Segment
from zerowait.numbers import Numbers

# Seconds for which nobody minds that what is over is still in the file: most of it goes with what cannot wait.
PATIENCE = 0.05


class Send(Struct, gc=False):
    """Frames of a connection leave in the order in which they are given, with one exception: a BATCH that is larger
    than a frame goes in fragments, and whatever is not `behind` passes between them."""

    conn: int
    data: bytes
    passable: bool = False  # a BATCH: others may pass its fragments. Anything else that is large holds the others up
    behind: bool = False  # a DROP that nobody asked for: it may not arrive before the BATCH that it is about. EVENTS
    # keep their order so, and the GOODBYE that says how many are not sent comes after those that are


class Close(Struct, gc=False):
    conn: int
    words: str = ""


class Met(Struct, gc=False):
    """Who is at the other end of this connection. Of two connections with one process only one stays: the address of
    the other need not be dialled again while there is any."""

    conn: int
    instance: int


class Prove(Struct, gc=False):
    """Look whether this instance is dead, and say so with `Core.buried`."""

    instance: int
    boot: str
    device: int
    inode: int


class Look(Struct, gc=False):
    """Look what that instance is at, which is on this machine and has not been heard for the grace, and say so with
    `Core.looked`."""

    instance: int


class Dispatched(Struct, gc=False):
    """These have been sent: receipts move, and the read-ahead has room again."""

    box: int
    segment: Segment
    first: int
    count: int
    body_bytes: int


class Returned(Struct, gc=False):
    """These came back unstarted or with a lost worker: receipts move back."""

    box: int
    seq: int  # of the row that they were read from
    first: int
    count: int


class Withdrawn(Struct, gc=False):
    """What became of `Owner.withdraw`, once that is durable. taken_back: True: it never ran and is dropped; False: it
    has been started, or has ended; None: it was not in memory, so its row says (dropped, or settled before)."""

    box: int
    epoch: int
    number: int
    taken_back: bool | None


class Reopen(Struct, gc=False):
    """A worker knows a later opening of this outbox. Who still holds the file's lock opens it again with an epoch above
    the floor (`Core.own` follows); who has lost it says `Core.disown`, and its receipts end as OutcomeUnknown."""

    box: int
    floor_epoch: int
    words: str


Why = Literal["expired", "lost", "nobody", "mismatch"]


class Answered(Struct, gc=False):
    """Requests have been answered, well or with a failure. Perhaps some of them a second time."""

    box: int
    outcome: Outcome


class Unanswered(Struct, gc=False):
    """Nobody will answer these any more, and that is why. sent: they may have run."""

    box: int
    epoch: int
    first: int
    count: int
    why: Why
    sent: bool = False
    peer: str = ""  # who is lost, or does not fit
    words: str = ""


class Chunked(Struct, gc=False):
    """Items of a stream have come."""

    chunk: Chunk


class Cancel(Struct, gc=False):
    """Who asked these wants no answer any more: their runs here are to be cancelled. No ranges: all of that box."""

    box: int
    ranges: tuple[tuple[int, int, int], ...] = ()  # (epoch, first, count)


class Ready(Struct, gc=False):
    """There is work for the runners of this channel."""

    channel: str


class Asked(Struct, gc=False):
    """A question of the command line; `Core.answer` takes what is to be said."""

    conn: int
    serial: int
    body: bytes


WE_LEAVE = "this process leaves"  # why a connection is over, for people at this end


class Say(Struct, gc=False):
    """Something for a person: a key that names the kind, and the sentence."""

    topic: str
    words: str
    instance: int = 0
    channel: str = ""
    conn: int = 0  # of a refusal: the connection, for who has not said his name
    channels: tuple[str, ...] = ()  # of who was met, or has told its state: what it serves
    messages: int = 0  # of who is gone: what it had begun or held, and others get now
    seconds: float = 0.0  # of who is stuck: since when
    types: tuple[str, str] = ("", "")  # of a mismatch: as it is sent, and as it is expected


Effect = (
    Send
    | Close
    | Met
    | Prove
    | Look
    | Dispatched
    | Returned
    | Withdrawn
    | Answered
    | Unanswered
    | Chunked
    | Cancel
    | Reopen
    | Ready
    | Say
    | Asked
)


class Asking(Struct):
    """Somebody has asked whether its run of these is chosen; the changes know once they are durable."""

    conn: int
    part: Part
    asked: list[Choose]

    def answers(self) -> Iterable[tuple[Part, bool]]:
        part = self.part
        chosen = Numbers(span for change in self.asked for span in change.chosen)
        for first, count in chosen.overlap(part.first, part.count):
            yield Part(part.epoch, first, count, part.fence, part.n), True
        for first, count in chosen.missing(part.first, part.count):
            yield Part(part.epoch, first, count, part.fence, part.n), False


class Ticket(Struct):
    """The changes of one outbox that are to be committed together, and what leaves after that.

    until: it is committed then at the latest, and sooner if something joins it for which somebody waits."""

    box: int
    number: int
    until: float = inf
    changes: list[Change] = field(default_factory=list[Change])
    then: list[tuple[int, Frame]] = field(default_factory=list[tuple[int, Frame]])
    confirm: dict[int, list[Part]] = field(default_factory=dict[int, list[Part]])
    # (epoch, first, count): see `Custody.lasting`
    phantoms: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])
    withdrawn: list[Withdrawn] = field(default_factory=list[Withdrawn])
    asking: list[Asking] = field(default_factory=list[Asking])
    # Outcomes of this process as a worker that lie in this outbox from then on, and may be told: (outbox, part)
    kept: list[tuple[int, Part]] = field(default_factory=list[tuple[int, Part]])
    # Likewise what was accepted since it was chosen, and what is remembered no more.
    released: list[tuple[int, Part]] = field(default_factory=list[tuple[int, Part]])
    discarded: list[tuple[int, Part]] = field(default_factory=list[tuple[int, Part]])
    marked: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])  # see `Marking.lasting`


class Effects:
    """Collects effects; the shell takes them after each step. now: the time of that step."""

    def __init__(self) -> None:
        self.now = 0.0
        self.patience = PATIENCE
        self._effects: list[Effect] = []
        self._open: dict[int, Ticket] = {}
        self._waiting: dict[int, deque[Ticket]] = {}
        self._numbers: dict[int, int] = {}
        self._delayed: dict[tuple[int, int], int] = {}  # (outbox, connection) → frames that wait for a commit
        self._ready: set[str] = set()
        self.live: set[int] = set()  # the connections to which something may still be sent

    def __bool__(self) -> bool:
        return bool(self._effects) or any(ticket.until <= self.now for ticket in self._open.values())

    def send(self, conn: int, frame: Frame) -> None:
        if conn in self.live:
            last = isinstance(frame, Goodbye) and frame.missed is not None
            behind = last or (isinstance(frame, Drop) and not frame.answers)
            self._effects.append(Send(conn, encode(frame), frame.__class__ is Batch, behind))

    def send_events(self, conn: int, data: bytes) -> None:
        """Encoded already, for all who get the same. Of one connection they keep their order, large ones too."""
        if conn in self.live:
            self._effects.append(Send(conn, data, passable=True, behind=True))

    def close(self, conn: int, words: str = "") -> None:
        if conn in self.live:
            self.live.discard(conn)
            self._effects.append(Close(conn, words))

    def add(self, effect: Effect) -> None:
        self._effects.append(effect)

    def ready(self, channel: str) -> None:
        if channel not in self._ready:
            self._ready.add(channel)
            self._effects.append(Ready(channel))

    def ticket(self, box: int, *, patient: bool = False) -> Ticket:
        """What is being collected for the next commit of this outbox. patient: nobody waits for what joins it now: a
        commit of its own would only make others wait for the disk."""
        ticket = self._open.get(box)
        if ticket is None:
            number = self._numbers[box] = self._numbers.get(box, 0) + 1
            ticket = self._open[box] = Ticket(box, number)
        ticket.until = min(ticket.until, self.now + self.patience) if patient else -inf
        return ticket

    def commit(
        self, box: int, changes: Iterable[Change], then: Sequence[Frame] = (), on: int = 0, *, patient: bool = False
    ) -> Ticket:
        """Make the changes last; after that, send the frames on that very connection. patient: see `ticket`."""
        ticket = self.ticket(box, patient=patient)
        ticket.changes.extend(changes)
        self._delay(ticket, then, on)
        return ticket

    def _delay(self, ticket: Ticket, then: Sequence[Frame], on: int) -> None:
        if then:
            ticket.then.extend((on, frame) for frame in then)
            self._delayed[ticket.box, on] = self._delayed.get((ticket.box, on), 0) + len(then)

    def follow(self, box: int, frame: Frame, on: int, *, waits: bool = False) -> None:
        """Send this frame after all of this outbox that waits for a commit before it may go to that connection: a
        second batch may not overtake the note that the first one waits for, nor a DROP the batch that it is about.
        waits: it waits for a commit of this outbox in any case."""
        if waits or (box, on) in self._delayed:
            self._delay(self._latest(box), [frame], on)
        else:
            self.send(on, frame)

    def _latest(self, box: int) -> Ticket:
        """The ticket that is committed last of those there are: what joins it waits for nothing that it need not."""
        return self.ticket(box) if box in self._open else self._waiting[box][-1]

    def confirm(self, box: int, parts: Sequence[Part], on: int, lasting: bool) -> None:
        """CONFIRM these once all is durable that was decided about this outbox: what changes nothing now may repeat
        what changed something a moment ago."""
        if lasting:
            self.ticket(box).confirm.setdefault(on, []).extend(parts)
        elif box in self._open or self._waiting.get(box):
            self._latest(box).confirm.setdefault(on, []).extend(parts)
        else:
            self.send(on, Confirm(box, tuple(parts)))

    def take(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        self._ready.clear()
        return effects

    def take_tickets(self) -> list[Ticket]:
        """What must be committed now, an outbox each; the shell reports each number with `committed`."""
        tickets = [ticket for ticket in self._open.values() if ticket.until <= self.now]
        for ticket in tickets:
            del self._open[ticket.box]
            self._waiting.setdefault(ticket.box, deque()).append(ticket)
        return tickets

    def hurry(self) -> None:
        """From now on nothing is put off: this process leaves."""
        self.patience = -inf
        for ticket in self._open.values():
            ticket.until = -inf

    def wake(self) -> float:
        """When the first of what was put off is to be committed."""
        return max(self.now, min((ticket.until for ticket in self._open.values()), default=inf))

    def committed(self, box: int, number: int) -> list[Ticket]:
        """All tickets of this outbox up to that number are durable: what waited for them leaves."""
        waiting = self._waiting.get(box)
        done: list[Ticket] = []
        while waiting and waiting[0].number <= number:
            ticket = waiting.popleft()
            done.append(ticket)
            for conn, parts in ticket.confirm.items():
                self.send(conn, Confirm(box, tuple(parts)))
            if ticket.asking:
                self._answer(ticket)
            for conn, frame in ticket.then:
                self._leaves(box, conn)
                self.send(conn, frame)
            self._effects.extend(ticket.withdrawn)
        return done

    def _answer(self, ticket: Ticket) -> None:
        """CONFIRM: chosen or not."""
        said: dict[tuple[int, bool], list[Part]] = {}
        for asking in ticket.asking:
            for part, chosen in asking.answers():
                said.setdefault((asking.conn, chosen), []).append(part)
        for (conn, chosen), parts in said.items():
            self.send(conn, Confirm(ticket.box, tuple(parts), chosen))

    def _leaves(self, box: int, conn: int) -> None:
        left = self._delayed[box, conn] = self._delayed[box, conn] - 1
        if not left:
            del self._delayed[box, conn]

    def undecided(self, box: int) -> list[Change]:
        """Changes that are not durable yet, in their order."""
        tickets = [*self._waiting.get(box, ()), *([self._open[box]] if box in self._open else ())]
        return [change for ticket in tickets for change in ticket.changes]

    def disown(self, box: int) -> list[Ticket]:
        """This opening of the outbox is over: what waited for these commits never leaves."""
        tickets = [*self._waiting.pop(box, ()), *([self._open.pop(box)] if box in self._open else ())]
        for name in [name for name in self._delayed if name[0] == box]:
            del self._delayed[name]
        return tickets
