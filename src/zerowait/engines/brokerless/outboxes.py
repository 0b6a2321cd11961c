"""Between the protocol and the outboxes: what they offer goes in, what becomes of it goes back.

    on disk:    offered ── store thread ──▶ dispatch … changes ── submit ──▶ store thread ── done ──▶ committed
    in memory:  begin ──▶ dispatch … changes ── turn ──▶ committed, all on the network thread

Frames that wait for a commit leave by `Core.committed`, whichever way it was made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, Protocol

from zerowait.engines.brokerless.clock import clock
from zerowait.engines.brokerless.protocol.core import Core
from zerowait.engines.brokerless.protocol.effects import (
    Answered,
    Chunked,
    Dispatched,
    Returned,
    Ticket,
    Unanswered,
    Withdrawn,
)
from zerowait.engines.brokerless.protocol.frames import Chunk, Outcome
from zerowait.message import Bury, Change, Kept, Segment

DRAWN_BYTES = 1 << 20  # half of the read-ahead of a channel is gone: the store thread reads more


SOON_S = 0.001  # also what somebody had in hand when it was looked for is looked for again so soon


class Box(Protocol):
    """What the network thread needs of an outbox."""

    @property
    def id(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def durable(self) -> bool: ...
    @property
    def noted(self) -> Iterable[int]: ...
    @property
    def kept(self) -> Iterable[Kept]: ...
    def begin(self) -> list[Segment]: ...
    def turn(self, changes: Sequence[Change], drawn: dict[str, int]) -> list[Segment]: ...
    def next_due(self) -> float | None: ...
    def moved(self, seq: int, first: int, count: int, state: Literal["sent", "stored"]) -> None: ...


class Questions(Box, Protocol):
    """An outbox of requests (rules §9), which is told what becomes of each of them."""

    def answered(self, outcome: Outcome) -> None: ...
    def unanswered(self, what: Unanswered) -> None: ...
    def chunk(self, chunk: Chunk) -> None: ...


class Outboxes:
    """On the network thread, but for `offered`, `pushed` and `asked`.

    name: of this process. submit: hands changes of a durable outbox, decided for that epoch, to the store thread and
    gives their running number. buried: told of each message that has become a dead letter. wake: tells the network
    thread that there is something. now: the protocol's clock.
    """

    def __init__(
        self,
        name: str,
        *,
        submit: Callable[[int, int, Sequence[Change], dict[str, int]], int],
        buried: Callable[[int, Bury], None],
        wake: Callable[[], None],
        now: Callable[[], float] = clock,
    ) -> None:
        self._name = name
        self._submit = submit
        self._buried = buried
        self._wake = wake
        self._now = now
        self._core: Core
        self._boxes: dict[int, Box] = {}
        self._offers: deque[tuple[int, int, list[Segment], int]] = deque()
        self._drawn: dict[int, dict[str, int]] = {}  # what dispatch has sent, and the outbox has not been told
        # On their way to the disk: running number, ticket, and the letters among them.
        self._tickets: dict[int, deque[tuple[int, int, Sequence[Bury]]]] = {}
        self._memory: Box | None = None
        self._questions: Questions | None = None
        self._was_asked = False
        self._memory_pushed = False
        self._memory_owes = False  # what was begun there has no rows yet
        self._withdrawals: dict[tuple[int, int, int], list[Callable[[bool | None], None]]] = {}

    def open(self, core: Core) -> None:
        self._core = core

    # -- from other threads --------------------------------------------------------------------------------------------

    def pushed(self) -> None:
        """Something was pushed to the outbox in memory, which the network thread owns."""
        self._memory_pushed = True
        self._wake()

    def asked(self) -> None:
        """Something was asked."""
        self._was_asked = True
        self._wake()

    def offered(self, box: int, epoch: int, segments: list[Segment], done: int) -> None:
        """From the store thread, after a turn of that outbox under that epoch. done: the running number up to which
        what was submitted is durable."""
        self._offers.append((box, epoch, segments, done))
        self._wake()

    # -- which are open ------------------------------------------------------------------------------------------------

    def __bool__(self) -> bool:
        return bool(self._boxes)

    def __iter__(self) -> Iterator[int]:
        return iter(self._boxes)

    def own(self, box: Box, types: Mapping[str, Sequence[bytes]]) -> None:
        """This process has opened that outbox. types: channel → of what lies in it already."""
        self._boxes[box.id] = box
        for channel, descriptions in types.items():
            self._core.left(box.id, channel, descriptions, adopted=box.name != self._name)
        self._core.own(
            box.id, box.epoch, box.name, durable=box.durable, noted=box.noted, now=self._now(), kept=box.kept
        )
        if not box.durable:
            self._memory = box

    def ask(self, questions: Questions) -> None:
        """This process asks: the outbox of its requests."""
        self._boxes[questions.id] = self._questions = questions
        self._core.own(
            questions.id, questions.epoch, self._name, durable=False, noted=(), now=self._now(), is_asked=True
        )

    def told(self, what: Answered | Unanswered | Chunked) -> None:
        """What has become of requests."""
        if self._questions is None:
            return
        match what:
            case Answered():
                self._questions.answered(what.outcome)
            case Unanswered():
                self._questions.unanswered(what)
            case Chunked():
                self._questions.chunk(what.chunk)

    def reopened(self, box: Box) -> None:
        """It has a new epoch, if that was not noticed before: every worker says anew what it holds of it."""
        custody = self._core.owner.custody.get(box.id)
        if custody is None or custody.epoch != box.epoch:
            self._drawn.pop(box.id, None)  # of what it had offered before
            self._core.own(box.id, box.epoch, box.name, durable=box.durable, noted=box.noted, now=self._now())

    def is_at_rest(self, box: int) -> bool:
        """Whether nothing of it is in flight or on its way to the file, and nobody is to be asked about what it
        keeps."""
        return (
            not self._core.worker.claims.is_home(box)
            and not any(self._core.owner.in_flight(box).values())
            and not self._tickets.get(box)
            and not self._core.effects.undecided(box)
        )

    def part(self, box: int) -> None:
        """It is about to be closed: what its next opening has not to wait for goes to the file, with its last turn."""
        custody = self._core.owner.custody.get(box)
        if custody is not None and (changes := custody.part()):
            self._submit(box, custody.epoch, changes, {})

    def disown(self, box: int) -> None:
        self._boxes.pop(box, None)
        self._tickets.pop(box, None)
        self._drawn.pop(box, None)
        self._core.disown(box)

    # -- what they offer -----------------------------------------------------------------------------------------------

    def has_work(self) -> bool:
        return bool(self._offers or self._memory_pushed or self._was_asked)

    def offers(self) -> int:
        """How many turns of outboxes on disk have not been looked at."""
        return len(self._offers)

    def next_due(self) -> float | None:
        """In how many seconds the one in memory wants a turn."""
        times = [box.next_due() for box in (self._memory, self._questions) if box is not None]
        return min((at for at in times if at is not None), default=None)

    def take(self, offers: int) -> None:
        """So many of the turns of outboxes on disk: dispatch has what they give, and what they made durable leaves."""
        owner = self._core.owner
        for _ in range(offers):
            box, epoch, segments, done = self._offers.popleft()
            self._notice_reopening(box)
            # First what is durable: what is offered was read since. What failed may be among it, and go at once.
            tickets = self._tickets.get(box)
            while tickets and tickets[0][0] <= done:
                _, ticket, letters = tickets.popleft()
                self._core.committed(box, ticket)
                self._tell_letters(box, letters)
            custody = owner.custody.get(box)
            # Those of an epoch that is over are read and offered again.
            if custody is not None and epoch == custody.epoch:
                owner.offer(box, segments)

    def tell_last_letters(self) -> None:
        """The network thread and the store thread have ended: whoever listens is told of the letters that were made
        while they did. From whichever thread has ended them."""
        for box, tickets in self._tickets.items():
            for _, _, letters in tickets:
                self._tell_letters(box, letters)
            tickets.clear()

    def _tell_letters(self, box: int, letters: Iterable[Bury]) -> None:
        for letter in letters:
            if letter.is_made:
                self._buried(box, letter)

    def _notice_reopening(self, box: int) -> None:
        """An outbox that failed and came back has a new epoch: every worker says anew what it holds of it. One that was
        fenced, and whose epoch could not be raised then, is ours again."""
        mine, custody = self._boxes.get(box), self._core.owner.custody.get(box)
        if mine is None:
            return
        fence = self._core.owner.openings.fences.get(box)
        if mine.epoch != custody.epoch if custody is not None else fence is not None and mine.epoch > fence:
            self.reopened(mine)

    def begin(self) -> None:
        """Dispatch has what was pushed to the one in memory, or has come due there; its rows follow."""
        memory = self._memory
        if memory is not None and (self._memory_pushed or _is_due(memory)):
            self._memory_pushed = False
            self._core.owner.offer(memory.id, memory.begin())
            self._memory_owes = True
        questions = self._questions
        if questions is not None and (self._was_asked or _is_due(questions)):
            self._was_asked = False
            self._core.owner.offer(questions.id, questions.begin())

    # -- what becomes of it --------------------------------------------------------------------------------------------

    def commit(self, ticket: Ticket) -> None:
        letters = [change for change in ticket.changes if isinstance(change, Bury)]
        drawn = self._drawn.pop(ticket.box, {})
        if self._memory is not None and ticket.box == self._memory.id:
            self._memory_owes = False
            segments = self._memory.turn(ticket.changes, drawn)
            self._core.committed(ticket.box, ticket.number)
            self._core.owner.offer(ticket.box, segments)
            self._tell_letters(ticket.box, letters)
        else:
            number = self._submit(ticket.box, self._epoch(ticket.box), ticket.changes, drawn)
            self._tickets.setdefault(ticket.box, deque()).append((number, ticket.number, letters))

    def _epoch(self, box: int) -> int:
        """For which opening something is decided; 0: for none, it is fenced."""
        custody = self._core.owner.custody.get(box)
        return custody.epoch if custody is not None else 0

    def make_rows(self) -> bool:
        """Of what was begun in memory, if no change has led to that already. Whether it gave dispatch more."""
        if not self._memory_owes or self._memory is None:
            return False
        self._memory_owes = False
        segments = self._memory.turn((), self._drawn.pop(self._memory.id, {}))
        if segments:
            self._core.owner.offer(self._memory.id, segments)
        return bool(segments)

    def tell_drawn(self) -> None:
        """What has been sent makes room in the read-ahead. On disk it is told when half of that is gone; below that the
        store thread learns of it with the next change."""
        for box, drawn in list(self._drawn.items()):
            if self._memory is not None and box == self._memory.id:
                del self._drawn[box]
                self._core.owner.offer(box, self._memory.turn((), drawn))
            elif sum(drawn.values()) >= DRAWN_BYTES:
                del self._drawn[box]
                self._submit(box, self._epoch(box), (), drawn)

    def dispatched(self, sent: Dispatched) -> None:
        segment = sent.segment
        drawn = self._drawn.setdefault(sent.box, {})
        drawn[segment.channel] = drawn.get(segment.channel, 0) + sent.body_bytes
        box = self._boxes.get(sent.box)
        if box is not None:
            box.moved(segment.seq, sent.first, sent.count, "sent")

    def returned(self, back: Returned) -> None:
        box = self._boxes.get(back.box)
        if box is not None:
            box.moved(back.seq, back.first, back.count, "stored")

    # -- taking back ---------------------------------------------------------------------------------------------------

    def withdraw(self, box: int, epoch: int, number: int, tell: Callable[[bool | None], None]) -> None:
        """Takes a message back if no worker has begun it; `tell` is told. None: it lay on disk, so its row says."""
        self._withdrawals.setdefault((box, epoch, number), []).append(tell)
        self._core.owner.withdrawals.withdraw(box, epoch, number)

    def outrun(self, box: int, keys: Iterable[tuple[str, bytes]]) -> None:
        """Dead letters with these keys (and channels) were given back: they go before what waits of their keys."""
        for channel, key in keys:
            self._core.owner.outrun(box, channel, key)

    def drop(
        self,
        box: int,
        channel: str,
        last: tuple[int, int],
        ranges: Iterable[tuple[int, int, int]],
        tell: Callable[[], None],
    ) -> None:
        """Drops what waits of this channel (see `Owner.drop`); `tell` is called once that is durable."""
        name = self._core.owner.withdrawals.drop(box, channel, last, ranges)
        if name is None:
            tell()
        else:
            self._withdrawals.setdefault((box, *name), []).append(lambda taken_back: tell())

    def withdrawn(self, done: Withdrawn) -> None:
        for tell in self._withdrawals.pop((done.box, done.epoch, done.number), ()):
            tell(done.taken_back)


def _is_due(box: Box) -> bool:
    due = box.next_due()
    return due is not None and due <= SOON_S
