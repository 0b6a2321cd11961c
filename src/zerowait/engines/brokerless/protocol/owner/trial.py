"""What follows from a death for the messages that were there, and from what is learned of it later (rules §5).

A mark goes to the disk first. Until it is there, the message is nowhere in memory: its outbox offers it again, alone in
its row and with all that is known against it, and here it is decided whether that is enough."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from zerowait.engines.brokerless.protocol.effects import Effects
from zerowait.engines.brokerless.protocol.frames import Obituary
from zerowait.engines.brokerless.protocol.owner.custody import Custody
from zerowait.engines.brokerless.protocol.owner.dispatch import Dispatch
from zerowait.engines.brokerless.protocol.owner.flights import Slice
from zerowait.engines.brokerless.protocol.owner.suspects import (
    REMEMBERED,
    Evidence,
    Name,
    is_convicted,
    runs_of,
    verdict_of,
)
from zerowait.engines.brokerless.protocol.peers import Peers
from zerowait.message import Alone, Bury, Death, Mark, Marks, Segment
from zerowait.numbers import Numbers

Ranges = Iterable[tuple[int, int, int]]  # (epoch, first, count)


class Trial:
    def __init__(
        self, effects: Effects, peers: Peers, limit: int, custody: Mapping[int, Custody], dispatch: Dispatch
    ) -> None:
        self._effects = effects
        self._peers = peers
        self._limit = limit
        self._custody = custody
        self._dispatch = dispatch
        self.evidence = Evidence()
        # Of messages that another has by now: they are marked when they come back.
        self._owed: dict[Name, list[Death]] = {}
        self.guilty: list[Slice] = []  # to be sentenced before anything is sent

    # -- a death -----------------------------------------------------------------------------------------------------

    def blame(self, custody: Custody, death: Death, suspected: Ranges, pieces: list[Slice]) -> list[Slice]:
        """These were there when it died. pieces: what comes back from there; gives those of them that may go on as
        they are."""
        if custody.is_asked:
            return pieces  # nothing is kept of requests: see `Asks.lost`
        numbers: dict[int, Numbers] = {}
        for epoch, first, count in suspected:
            numbers.setdefault(epoch, Numbers()).add(first, count)
        for epoch, number in custody.withdrawing:  # it comes back to be dropped
            if epoch in numbers:
                numbers[epoch].remove(number, 1)
        free = [part for piece in pieces for part in self._split(custody, death, numbers, piece)]
        for epoch, left in numbers.items():
            for first, count in left:
                self._elsewhere(custody, death, epoch, first, count)
        return free

    def _split(self, custody: Custody, death: Death, numbers: dict[int, Numbers], piece: Slice) -> list[Slice]:
        blamed = numbers.get(piece.segment.epoch)
        if blamed is None:
            return [piece]
        mine = blamed.overlap(piece.first, piece.count)
        for first, count in mine:
            blamed.remove(first, count)
            self._mark_all(custody, piece.segment, first, count, death)
        rest = Numbers(mine).missing(piece.first, piece.count)
        return [Slice(piece.box, piece.segment, first, count) for first, count in rest]

    def _elsewhere(self, custody: Custody, death: Death, epoch: int, first: int, count: int) -> None:
        """It ran there, as far as its list tells, and is not in flight there: another has it, it waits, or only its row
        knows (its sender has begun a new life)."""
        unknown = Numbers([(first, count)])
        for _, at, many in list(custody.flights.over(epoch, first, count)):
            unknown.remove(at, many)
            for number in range(at, at + many):
                self._owe((custody.box, epoch, number), death)
        for at, many in list(unknown):
            for piece in [*self._dispatch.remove(custody.box, epoch, at, many), *custody.unpast(epoch, at, many)]:
                unknown.remove(piece.first, piece.count)
                self._mark_all(custody, piece.segment, piece.first, piece.count, death)
        for at, many in unknown:
            for number in range(at, at + many):
                self._mark(custody, None, epoch, number, [death], [])

    def _owe(self, name: Name, death: Death) -> None:
        self._owed.setdefault(name, []).append(death)
        while len(self._owed) > REMEMBERED:
            del self._owed[next(iter(self._owed))]

    def _mark_all(self, custody: Custody, segment: Segment, first: int, count: int, death: Death) -> None:
        for number in range(first, first + count):
            self._mark(custody, segment, segment.epoch, number, [death], [])

    def _mark(
        self,
        custody: Custody,
        segment: Segment | None,
        epoch: int,
        number: int,
        died: list[Death],
        cleared: list[int],
    ) -> None:
        """segment: its row; None: that was not read."""
        channel, seq = (segment.channel, segment.seq) if segment is not None else ("", 0)
        mark = Mark(channel, epoch, number, tuple(died), tuple(cleared), seq)
        ticket = self._effects.commit(custody.box, [mark])
        if segment is not None:
            self._dispatch.keys.breaks(custody.box, segment)
        ticket.marked.append((epoch, number))
        custody.marking.want(epoch, number, died, cleared, ticket.number)

    def mark_again(self, custody: Custody, mark: Mark) -> None:
        """The opening before this one had said so; it may not have reached the disk."""
        self._mark(custody, None, mark.epoch, mark.number, list(mark.died), list(mark.cleared))

    def disown(self, box: int) -> None:
        """This opening of the outbox is over: the next is offered all suspects anew."""
        self.guilty = [piece for piece in self.guilty if piece.box != box]

    # -- what is known of it -----------------------------------------------------------------------------------------

    def again(self, custody: Custody, instance: int) -> None:
        """An outbox is opened that has noted this instance, which died before: with what its list names."""
        if self.evidence.ending(instance) is not None:
            self.blame(custody, self.evidence.death(instance, proved=True, ran=True), self.ran(custody, instance), [])

    def ran(self, custody: Custody, instance: int) -> list[tuple[int, int, int]]:
        """What of this outbox the list of that instance names."""
        obituary = self.evidence.ending(instance)
        running = obituary.running if obituary is not None else ()
        return [(epoch, first, count) for box, epoch, first, count in running if box == custody.box]

    def lives(self, instance: int) -> None:
        """It is back: it has not died of anything."""
        self.evidence.lives(instance)
        self.reconsider(instance)

    def told(self, obituary: Obituary) -> bool:
        """What that instance ran when it died. False: that was known."""
        return self.evidence.told(obituary)

    def learned(self, obituary: Obituary, name: str) -> None:
        """What an instance ran that is known to be dead: perhaps more than was known."""
        self.evidence.died(obituary.instance, name)
        before = self.evidence.ending(obituary.instance)
        if not self.told(obituary):
            return
        if before is None:
            death = self.evidence.death(obituary.instance, name=name, proved=True, ran=True)
            for custody in self._custody.values():
                self.blame(custody, death, self.ran(custody, obituary.instance), [])
        self.reconsider(obituary.instance)

    def reconsider(self, instance: int) -> None:
        """More is known of it than when it was first called dead."""
        for piece in list(self._dispatch.suspects):
            marks, custody = piece.segment.marks, self._custody[piece.box]
            if marks is not None and any(death.instance == instance for death in marks.deaths):
                self._dispatch.remove(piece.box, piece.segment.epoch, piece.first, piece.count)
                self._dispatch.ready(self.sift(custody, [piece]))

    # -- what comes to wait ------------------------------------------------------------------------------------------

    def concerns(self, pieces: Iterable[Slice]) -> bool:
        return bool(self._owed) or any(piece.segment.marks is not None for piece in pieces)

    def sift(self, custody: Custody, pieces: Iterable[Slice]) -> list[Slice]:
        """What of this may wait now, among the others or in a lane of its own. The rest has to be written first, or has
        been found guilty."""
        parts = [part for piece in pieces for part in (self._pay(custody, piece) if self._owed else [piece])]
        return [
            part for part in parts if part.segment.marks is None or self._may_wait(custody, part, part.segment.marks)
        ]

    def _pay(self, custody: Custody, piece: Slice) -> list[Slice]:
        """What another has had meanwhile is marked now."""
        epoch, numbers = piece.segment.epoch, range(piece.first, piece.first + piece.count)
        mine = [name for name in self._owed if name[:2] == (piece.box, epoch) and name[2] in numbers]
        for name in mine:
            died = self._owed.pop(name)
            self._mark(custody, piece.segment, epoch, name[2], died, [])
        rest = Numbers((name[2], 1) for name in mine).missing(piece.first, piece.count)
        return [Slice(piece.box, piece.segment, first, count) for first, count in rest]

    def _may_wait(self, custody: Custody, piece: Slice, marks: Marks) -> bool:
        segment = piece.segment
        name = (piece.box, segment.epoch, piece.first)
        died, cleared = self.evidence.revise(name, marks)
        if marks.alone_at and (last := self._of_the_one_alone(custody, piece, marks)) is not None:
            died.append(last)
        if died or cleared:
            self._mark(custody, segment, segment.epoch, piece.first, died, cleared)
            return False
        if is_convicted(marks, self._limit):
            self.guilty.append(piece)
            return False
        return True

    def _of_the_one_alone(self, custody: Custody, piece: Slice, marks: Marks) -> Death | None:
        """It was to run alone there, as its row says, and is not there now: who has sent it has ended since."""
        instance = marks.alone_at
        if instance in custody.cleared:  # and what it did run is in flight there, or came back from there
            self._not_alone(custody, piece)
        elif self._peers.is_dead(instance):
            if self.evidence.ending(instance) is None:
                return self.evidence.death(instance, proved=True, ran=False)
            if self.evidence.names(instance, (piece.box, piece.segment.epoch, piece.first)):
                return self.evidence.death(instance, proved=True, ran=True)
            self._not_alone(custody, piece)
        else:
            peer = self._peers.get(instance)
            if peer is not None and peer.link is not None and piece.box in peer.link.resumed:
                self._not_alone(custody, piece)  # it is back, and does not name it
        return None

    def returned(self, custody: Custody, pieces: Iterable[Slice]) -> None:
        """These have come back from who is well: none of them runs alone there."""
        for piece in pieces:
            if piece.segment.marks is not None and piece.segment.marks.alone_at:
                self._not_alone(custody, piece)

    def _not_alone(self, custody: Custody, piece: Slice) -> None:
        segment = piece.segment
        assert segment.marks is not None, "alone, and no suspect"
        segment.marks = segment.marks.alone(0)
        self._effects.commit(custody.box, [Alone(segment.channel, segment.epoch, piece.first, 0, segment.seq)])

    def settled(self, box: int, epoch: int, first: int, count: int) -> None:
        """These have ended well, whatever is owed to them."""
        for name in [n for n in self._owed if n[:2] == (box, epoch) and first <= n[2] < first + count]:
            del self._owed[name]

    @property
    def owes(self) -> bool:
        return bool(self._owed)

    # -- the end -----------------------------------------------------------------------------------------------------

    def sentence(self, now_us: int) -> None:
        """Who has been found guilty becomes a dead letter."""
        guilty, self.guilty = self.guilty, []
        for piece in guilty:
            segment = piece.segment
            assert segment.marks is not None, "guilty of nothing"
            note = verdict_of(segment.marks, segment.failures, now_us)
            runs = runs_of(segment.marks, segment.failures)
            if piece.box in self._custody:
                bury = Bury(segment.channel, segment.epoch, piece.first, runs, note, segment.seq)
                self._effects.commit(piece.box, [bury])
