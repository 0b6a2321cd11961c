"""Custody of an outbox: which of its messages are in flight, at whom, and under which dispatch number.

A message lives in its sender's outbox until it is settled (rules §2). This is the part of the outbox's state that
only exists while the process lives: the rows themselves are on disk, and what the disk must be told leaves here as
changes.

    waiting ──take──▶ in flight (holder, dispatch) ──settle──▶ gone from here; the change makes it last
       ▲                    │
       └────give_back───────┘   the holder is gone, did not name it in HELD, or handed it back

`handled` counts from anybody, every other verdict only under the message's last dispatch number (rules §2.3). What a
message is, once it is no longer here, only its row knows; so a change may name one whose row was never read (`seq` 0,
no channel)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from zerowait.engines.brokerless.protocol.frames import Part
from zerowait.engines.brokerless.protocol.owner.failures import Failures
from zerowait.engines.brokerless.protocol.owner.flights import Flight, Flights, Name, Slice
from zerowait.engines.brokerless.protocol.owner.marking import Marking
from zerowait.engines.brokerless.protocol.owner.past import Past
from zerowait.message import Again, Alone, Bury, Change, Forget, Note, Segment, Settle, Verdict
from zerowait.numbers import Numbers

Notes = Mapping[tuple[int, int], tuple[int, bytes]]  # (epoch, number) → (milliseconds until due, note)
Ranges = list[tuple[int, int, int]]  # (epoch, first, count)


class Settled(Struct):
    """What an outcome changed."""

    changes: list[Change]
    elsewhere: list[tuple[int, int, int, int]]  # (holder, epoch, first, count): held by another, to be DROPped there
    returned: list[Slice]  # waits again
    unqueue: Ranges  # settled while it waited, in memory or on disk
    answered: list[tuple[int, int, bool]]  # (epoch, number, taken back): what was asked for by `withdraw`
    torn: list[Segment]  # rows with a key of which a message is to run again: what comes after it there waits for it


class Custody:
    def __init__(
        self,
        box: int,
        epoch: int,
        name: str,
        *,
        durable: bool,
        noted: Iterable[int],
        now: float,
        grace: float,
        is_asked: bool = False,
    ) -> None:
        self.box = box
        self.is_asked = is_asked  # its messages are requests: see `asks`
        self.epoch = epoch  # the fence of this opening
        self.name = name
        self.durable = durable
        self.flights = Flights()
        self.withdrawing: set[tuple[int, int]] = set()  # asked to come back from where it is in flight
        self._n = 0
        self.noted: set[int] = set(noted)
        self.noting: set[int] = set()  # of them those whose note is not durable yet
        self._past = Past(box, epoch, noted, now + grace)
        # Workers of earlier openings that have said what they hold, and were sent nothing to run alone since: what lies
        # on disk as running alone there does not.
        self.cleared: set[int] = set()
        self._earlier = frozenset(self.noted)
        # Settled while not in memory (a late `handled` for what waits on disk): kept out of what is read until that is
        # durable.
        self._phantoms: dict[int, Numbers] = {}
        # What was given back because its holder is gone, under the dispatch by which it may still tell how it ended.
        self._ghosts: dict[Name, Flight] = {}
        self._failures = Failures()
        self.marking = Marking()

    @property
    def in_flight(self) -> dict[str, int]:
        return self.flights.counts

    # -- what waits ------------------------------------------------------------------------------------------------

    def offer(self, segment: Segment) -> list[Slice]:
        """A segment read from the outbox: what of it may go out now. Adopted parts stay with their holders."""
        if not (segment.gone or self._phantoms or self.flights.adopted or self.marking):
            return self._past.keep([Slice(self.box, segment, segment.first, segment.count)])
        absent = Numbers(segment.gone)
        for first, count in self._phantom(segment.epoch, segment.first, segment.count):
            absent.add(first, count)
        if self.marking:
            self.marking.leave_out(segment, absent)
        if self.flights.adopted:
            self._attach(segment, absent)
        slices = [
            Slice(self.box, segment, first, count) for first, count in absent.missing(segment.first, segment.count)
        ]
        return self._past.keep(slices)

    def _attach(self, segment: Segment, absent: Numbers) -> None:
        """What of the segment is in flight already, because a worker runs it from before this opening."""
        for flight, at, many in list(self.flights.over(segment.epoch, segment.first, segment.count)):
            for start, n in absent.missing(at, many):
                for unread, mine in flight.unread.overlap(start, n):
                    self.flights.attach(flight, segment, unread, mine)
                absent.add(start, n)

    def resumed(self, holder: int) -> list[Slice]:
        """This worker has said how everything ended and what it holds: perhaps the past may go out now."""
        if self._ghosts:
            self._exorcise(holder)
        if holder in self._earlier:
            self.cleared.add(holder)
        return self.released(holder)

    def released(self, holder: int) -> list[Slice]:
        """This worker is not waited for any more."""
        return self._past.released(holder)

    def tick(self, now: float) -> tuple[list[Slice], list[Change]]:
        """The grace after an opening ends: who has not come is waited for no more, and forgotten."""
        late, released = self._past.over(now)
        return released, [change for holder in late for change in self.forget(holder)]

    def wake(self) -> float | None:
        return self._past.wake()

    def past(self) -> list[Slice]:
        return list(self._past)

    def unpast(self, epoch: int, first: int, count: int) -> list[Slice]:
        """These do not wait for the past any more. Gives those that did."""
        return self._past.take(epoch, first, count)

    def unpast_row(self, seq: int) -> list[Slice]:
        """None of this row, which has a key, waits for the past any more. Gives what did."""
        return self._past.take_row(seq)

    def is_torn(self, segment: Segment) -> bool:
        """Whether a message has left this row, or is leaving it, of which the row did not say so when it was read."""
        if segment.count == 1:
            return False
        return bool(self._phantom(segment.epoch, segment.first, segment.count)) or self.marking.concerns(segment)

    def empty_past(self, channel: str, last: tuple[int, int]) -> list[Slice]:
        """None of this channel waits for the past any more, up to the message of that name. Gives what did."""
        return self._past.empty(channel, last)

    def resting(self, epoch: int, first: int, count: int) -> list[tuple[int, int]]:
        """What of these, as it is on disk, is neither in flight nor being settled."""
        absent = Numbers(self._phantom(epoch, first, count))
        for _, at, many in self.flights.over(epoch, first, count):
            absent.add(at, many)
        return absent.missing(first, count)

    def _phantom(self, epoch: int, first: int, count: int) -> list[tuple[int, int]]:
        phantoms = self._phantoms.get(epoch)
        return phantoms.overlap(first, count) if phantoms else []

    def absent(self, epoch: int, first: int, count: int) -> None:
        """Settled without having been in memory: if it is read before that is durable, it does not count."""
        self._phantoms.setdefault(epoch, Numbers()).add(first, count)

    def lasting(self, epoch: int, first: int, count: int) -> None:
        """A settlement of what was not in memory is durable: from now on the outbox itself leaves it out."""
        phantoms = self._phantoms.get(epoch)
        if phantoms is not None:
            phantoms.remove(first, count)
            if not phantoms:
                del self._phantoms[epoch]

    # -- in flight -------------------------------------------------------------------------------------------------

    def take(self, holder: int, piece: Slice) -> tuple[int, list[Change]]:
        """It goes to this worker: its dispatch number, and the note that must be durable before it leaves (or
        nothing)."""
        self._n += 1
        segment = piece.segment
        self.flights.add((holder, segment.epoch, self.epoch, self._n), piece.first, piece.count, [segment])
        self.flights.count(segment.channel, piece.count)
        if self._ghosts:
            self._lay(segment.epoch, piece.first, piece.count)
        if self.durable and holder not in self.noted:
            self.noted.add(holder)
            self.noting.add(holder)
            return self._n, [Note(holder)]
        return self._n, []

    def forget(self, holder: int) -> list[Change]:
        """A worker is dead or long gone, and nothing is in flight there: the next opening need not wait for it."""
        if not self.durable or holder not in self.noted or self.flights.of(holder):
            return []
        self.noted.discard(holder)
        return [Forget(holder)]

    def part(self) -> list[Change]:
        """This opening ends in order. The next one need wait for none who holds nothing of it: they leave in order,
        too, and then nobody would be left to forget them, nor anything that proves their end."""
        holders = [holder for holder in sorted(self.noted) if not self._past.awaits(holder)]
        return [change for holder in holders for change in self.forget(holder)]

    def flights_of(self, holder: int) -> list[Flight]:
        return self.flights.of(holder)

    def give_back(self, flight: Flight, first: int, count: int) -> list[Slice]:
        """It waits again. What was adopted and has not been read from disk simply stops being in flight."""
        again: list[Slice] = []
        for segment, at, many in flight.pieces(first, count):
            self.flights.leave(flight, segment, at, many)
            if segment is not None:
                again.append(Slice(self.box, segment, at, many))
        return again

    def give_up(self, holder: int, *, is_dead: bool) -> list[Slice]:
        """All that is in flight there waits again. Who is only gone may come back: until another has it, the dispatch
        by which it knows a message is the message's last."""
        again: list[Slice] = []
        for flight in self.flights.of(holder):
            if not is_dead:
                self._ghosts[flight.name] = flight.copy()
            for first, count in list(flight.left):
                again.extend(self.give_back(flight, first, count))
        if is_dead:
            self._exorcise(holder)
        return again

    def abandon(self, epoch: int, first: int, count: int) -> Ranges:
        """Of requests: nobody waits for these any more. Gives what was in flight: (holder, first, count)."""
        gone: Ranges = []
        for flight, at, many in list(self.flights.over(epoch, first, count)):
            for segment, start, n in flight.pieces(at, many):
                self.flights.leave(flight, segment, start, n)
            gone.append((flight.holder, at, many))
        return gone

    def forgotten(self) -> None:
        """Of requests: what is settled is so at once, and no row would still have to say it."""
        self._phantoms.clear()

    def _lay(self, epoch: int, first: int, count: int) -> None:
        """These have a later dispatch now."""
        for name in [name for name in self._ghosts if name[1] == epoch]:
            self._ghosts[name].left.remove(first, count)
            if not self._ghosts[name].left:
                del self._ghosts[name]

    def _exorcise(self, holder: int) -> None:
        for name in [name for name in self._ghosts if name[0] == holder]:
            del self._ghosts[name]

    def wait_for_the_past(self, pieces: list[Slice]) -> list[Slice]:
        """What of this may go out now: what is of an earlier epoch waits for those who may still hold such."""
        return self._past.keep(pieces)

    def adopt(self, holder: int, part: Part, queued: Iterable[Slice]) -> None:
        """A worker runs what this opening has not sent: it goes on there, under the number by which the worker knows
        it. `queued`: what dispatch had of it, which is no longer waiting."""
        flight = self.flights.add((holder, part.epoch, part.fence, part.n), part.first, part.count, [])
        self.flights.unread(flight, part.first, part.count)
        for piece in [*queued, *self.unpast(part.epoch, part.first, part.count)]:
            self.flights.attach(flight, piece.segment, piece.first, piece.count)

    def rename(self, flight: Flight, part: Part) -> None:
        """The newer batch was lost on its way, the holder knows these under an older number: that one counts."""
        if (flight.fence, flight.n) == (part.fence, part.n):
            return
        segments, unread = list(flight.segments), flight.unread.overlap(part.first, part.count)
        self.flights.take_out(flight, part.first, part.count)
        renamed = self.flights.add((flight.holder, flight.epoch, part.fence, part.n), part.first, part.count, segments)
        for first, count in unread:
            self.flights.unread(renamed, first, count)

    def in_flight_elsewhere(self, holder: int, epoch: int, first: int, count: int) -> Numbers:
        over = self.flights.over(epoch, first, count)
        return Numbers((at, many) for flight, at, many in over if flight.holder != holder)

    # -- outcomes --------------------------------------------------------------------------------------------------

    def settle(self, holder: int, verdict: Verdict, part: Part, notes: Notes, now_us: int) -> Settled:
        """An outcome: what it changes. What changes nothing (said before, or under an old number) is confirmed all
        the same."""
        result = Settled([], [], [], [], [], [])
        flight = self.flights.get((holder, part.epoch, part.fence, part.n))
        ours = flight.left.overlap(part.first, part.count) if flight is not None else []
        if verdict is Verdict.HANDLED:
            for first, count in ours:
                assert flight is not None
                self._done(result, flight, first, count)
            if sum(count for _, count in ours) < part.count:
                self._handled_late(ours, part, result)
            return result
        for first, count in ours:
            assert flight is not None
            if verdict is Verdict.UNSTARTED:
                result.returned.extend(self.give_back(flight, first, count))
            elif verdict is Verdict.STARTED:
                self._answer(result, part.epoch, first, count)
            elif verdict in (Verdict.RETRY, Verdict.DEAD, Verdict.EXPIRED):
                for segment, at, many in flight.pieces(first, count):
                    self._failed(result, verdict, part, segment, at, many, notes, now_us)
                    self._leave(result, flight, segment, at, many)
        if verdict in (Verdict.RETRY, Verdict.DEAD, Verdict.EXPIRED) and sum(n for _, n in ours) < part.count:
            for first, count in Numbers(ours).missing(part.first, part.count):
                self._failed_while_it_waits(holder, result, verdict, part, first, count, notes, now_us)
        return result

    def _failed_while_it_waits(
        self,
        holder: int,
        result: Settled,
        verdict: Verdict,
        part: Part,
        first: int,
        count: int,
        notes: Notes,
        now_us: int,
    ) -> None:
        """It waits, and this is about its last dispatch: of the opening before this one, as far as its noted workers
        have not all been heard, or to a worker that was thought gone. It is applied, or it would run again
        uncounted."""
        ghost = self._ghosts.get((holder, part.epoch, part.fence, part.n))
        if ghost is not None:
            waiting = ghost.left.overlap(first, count)
        elif part.fence < self.epoch and self._past.awaits(holder):
            flying = Numbers((at, many) for _, at, many in self.flights.over(part.epoch, first, count))
            waiting = flying.missing(first, count)
        else:
            return
        for at, many in waiting:
            known = self.unpast(part.epoch, at, many)
            pieces = ghost.pieces(at, many) if ghost is not None else [(p.segment, p.first, p.count) for p in known]
            unread = Numbers((start, n) for _, start, n in pieces).missing(at, many)
            for segment, start, n in [*pieces, *((None, start, n) for start, n in unread)]:
                self._failed(result, verdict, part, segment, start, n, notes, now_us)
            self.absent(part.epoch, at, many)
            result.unqueue.append((part.epoch, at, many))
            self._lay(part.epoch, at, many)

    def _leave(self, result: Settled, flight: Flight, segment: Segment | None, first: int, count: int) -> None:
        """It has ended. If its row has not been read, it may have been read just now by who does not know that yet."""
        self.flights.leave(flight, segment, first, count)
        if segment is None:
            self.absent(flight.epoch, first, count)
            result.unqueue.append((flight.epoch, first, count))

    def _answer(self, result: Settled, epoch: int, first: int, count: int) -> None:
        """It was started, or has ended: it was not taken back."""
        if self.withdrawing:
            for number in [
                number for of, number in self.withdrawing if of == epoch and first <= number < first + count
            ]:
                self.withdrawing.discard((epoch, number))
                result.answered.append((epoch, number, False))

    def _failed(
        self,
        result: Settled,
        verdict: Verdict,
        part: Part,
        segment: Segment | None,
        first: int,
        count: int,
        notes: Notes,
        now_us: int,
    ) -> None:
        channel, seq = (segment.channel, segment.seq) if segment is not None else ("", 0)
        self._answer(result, part.epoch, first, count)
        if verdict is Verdict.EXPIRED:
            self._failures.forget(part.epoch, first, count)
            result.changes.append(Settle(channel, part.epoch, first, count, Verdict.EXPIRED, seq))
            return
        if verdict is Verdict.RETRY and segment is not None and segment.key is not None:
            result.torn.append(segment)
        if segment is not None and segment.marks is not None and segment.marks.alone_at:
            result.changes.append(Alone(channel, part.epoch, first, 0, seq))
        for number in range(first, first + count):
            after_ms, note = notes.get((part.epoch, number), (0, b""))
            failures = self._failures.count(part, number, segment)
            if verdict is Verdict.DEAD:
                self._failures.forget(part.epoch, number, 1)
                result.changes.append(Bury(channel, part.epoch, number, failures, note, seq, part.fence, part.n))
            else:
                due = now_us + after_ms * 1_000
                result.changes.append(Again(channel, part.epoch, number, failures, due, note, seq, part.fence, part.n))

    def _handled_late(self, ours: list[tuple[int, int]], part: Part, result: Settled) -> None:
        """Handled by somebody who was thought gone: settled already, in flight elsewhere, or waiting (perhaps on
        disk)."""
        for first, count in Numbers(ours).missing(part.first, part.count):
            found = Numbers()
            for other, at, many in list(self.flights.over(part.epoch, first, count)):
                found.add(at, many)
                result.elsewhere.append((other.holder, part.epoch, at, many))
                self._done(result, other, at, many)
            for at, many in found.missing(first, count):
                self._failures.forget(part.epoch, at, many)
                result.changes.append(self.vanish(part.epoch, at, many, Verdict.HANDLED))
                result.unqueue.append((part.epoch, at, many))

    def vanish(self, epoch: int, first: int, count: int, verdict: Verdict) -> Settle:
        """Settles what is not in flight: it waits in memory, on disk, or was settled before; its row will know."""
        self.unpast(epoch, first, count)
        self.absent(epoch, first, count)
        return Settle("", epoch, first, count, verdict, 0)

    def _done(self, result: Settled, flight: Flight, first: int, count: int) -> None:
        for segment, at, many in flight.pieces(first, count):
            channel, seq = (segment.channel, segment.seq) if segment is not None else ("", 0)
            result.changes.append(Settle(channel, flight.epoch, at, many, Verdict.HANDLED, seq))
            self._leave(result, flight, segment, at, many)
        self._failures.forget(flight.epoch, first, count)
        self._answer(result, flight.epoch, first, count)
