"""The owner's side: what is said about messages of our outboxes, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf

from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.config import Config
from zerowait.engines.brokerless.protocol.effects import Answered, Effects, Reopen, Returned, Say, Ticket, Withdrawn
from zerowait.engines.brokerless.protocol.frames import LANES, ORDINARY, Batch, Drop, Held, Obituary, ProtocolError
from zerowait.engines.brokerless.protocol.link import Link, Mismatch
from zerowait.engines.brokerless.protocol.owner.asks import Asks
from zerowait.engines.brokerless.protocol.owner.choices import Choices
from zerowait.engines.brokerless.protocol.owner.custody import Custody, Ranges, Settled
from zerowait.engines.brokerless.protocol.owner.dispatch import Dispatch
from zerowait.engines.brokerless.protocol.owner.expiry import Expiry
from zerowait.engines.brokerless.protocol.owner.flights import Slice
from zerowait.engines.brokerless.protocol.owner.openings import Openings
from zerowait.engines.brokerless.protocol.owner.reconcile import reconcile
from zerowait.engines.brokerless.protocol.owner.sender import Sender
from zerowait.engines.brokerless.protocol.owner.trial import Trial
from zerowait.engines.brokerless.protocol.owner.withdrawals import Withdrawals
from zerowait.engines.brokerless.protocol.peers import Peers
from zerowait.engines.brokerless.protocol.worker.unbegun import Listing
from zerowait.message import Change, Note, Segment, Settle, Shelve, Verdict
from zerowait.numbers import Numbers

DAY_MS = 86_400_000  # an epoch is the time of its opening, or a little more: one so far ahead is no fence but an error


class Owner:
    def __init__(self, effects: Effects, peers: Peers, config: Config, wall_us: Callable[[float], int]) -> None:
        self._effects = effects
        self._peers = peers
        self._config = config
        self._wall_us = wall_us
        self.custody: dict[int, Custody] = {}
        self.dispatch = Dispatch()
        self.choices = Choices(effects)
        self._past_of: set[int] = set()
        self._expiry = Expiry(wall_us, self._living)
        self.sender = Sender(effects, peers, config, wall_us, self.custody, self.dispatch)
        self.trial = Trial(effects, peers, config.crash_limit, self.custody, self.dispatch)
        self.openings = Openings(effects, self.trial)
        self.asks = Asks(effects, peers, config, self.custody, self.dispatch, self.sender)
        self.withdrawals = Withdrawals(effects, peers, self.custody, self.dispatch, self.sender)

    # -- our outboxes ----------------------------------------------------------------------------------------------

    def own(
        self,
        box: int,
        epoch: int,
        name: str,
        *,
        durable: bool,
        noted: Iterable[int],
        now: float,
        is_asked: bool = False,
    ) -> None:
        if box in self.custody:
            self._end(box)  # opened again, with a later epoch
        noted = list(noted)
        grace = self._config.resume_grace
        custody = Custody(box, epoch, name, durable=durable, noted=noted, now=now, grace=grace, is_asked=is_asked)
        self.custody[box] = custody
        self._past_of.add(box)
        if is_asked:
            self.asks.open(box)
        self.dispatch.keys.open(box, custody.flights)
        for instance in noted:
            if self._peers.is_dead(instance):
                self.trial.again(custody, instance)
                self._past(custody, instance)
        self.openings.begins(custody)

    def disown(self, box: int) -> None:
        """It is ours no more."""
        self._end(box)
        self.openings.forget(box)

    def _end(self, box: int) -> None:
        """This opening of the outbox is over: nothing more of it is sent, and nothing is known of what is in flight."""
        custody = self.custody.pop(box, None)
        if custody is None:
            return
        self.dispatch.disown(box)
        self.choices.disown(box)
        self.asks.close(box)
        self.trial.disown(box)
        tickets = self._effects.disown(box)
        self.openings.over(box, tickets)
        self.sender.disowned(box, [(on, frame) for t in tickets for on, frame in t.then if isinstance(frame, Batch)])
        self.withdrawals.over(custody)

    def offer(self, box: int, segments: Iterable[Segment]) -> None:
        custody = self.custody.get(box)
        if custody is None:
            return
        for segment in segments:
            if segment.key is not None and custody.is_torn(segment):
                self.dispatch.keys.breaks(box, segment)
            pieces = custody.offer(segment)
            if segment.marks is not None or self.trial.owes:
                pieces = self.trial.sift(custody, pieces)
            self.dispatch.ready(pieces)
            if custody.is_asked:
                self.asks.waits(pieces)
            self._expiry.watch(box, segment, segment.first, segment.count)
            self.sender.look(segment.channel)

    def pieces(self, box: int) -> list[Slice]:
        """All of this outbox that waits in memory."""
        custody = self.custody.get(box)
        return [*self.dispatch.pieces(box), *custody.past()] if custody is not None else []

    def _living(self, box: int) -> dict[int, Numbers] | None:
        """What waits or is in flight, by epoch; None where more may: what is being marked waits when it was."""
        custody = self.custody.get(box)
        if custody is None:
            return {}
        if custody.marking:
            return None
        ranges: dict[int, list[tuple[int, int]]] = {}
        for piece in self.pieces(box):
            ranges.setdefault(piece.segment.epoch, []).append((piece.first, piece.count))
        for flight in custody.flights:
            ranges.setdefault(flight.epoch, []).extend(flight.left)
        return {epoch: Numbers(sorted(mine)) for epoch, mine in ranges.items()}

    def in_flight(self, box: int) -> dict[str, int]:
        custody = self.custody.get(box)
        return dict(custody.in_flight) if custody is not None else {}

    def outrun(self, box: int, channel: str, key: bytes) -> None:
        """An earlier message of that key waits in the outbox again: it is the next of the key, after what is in
        flight."""
        custody = self.custody.get(box)
        if custody is None:
            return
        self.dispatch.keys.outrun(box, channel, key)
        for piece in custody.past():
            if piece.segment.channel == channel and piece.segment.key == key:
                self.dispatch.keys.breaks(box, piece.segment)

    # -- links -----------------------------------------------------------------------------------------------------

    def opened(self, link: Link) -> None:
        self.sender.opened(link)

    def served(self, link: Link, before: Iterable[str]) -> None:
        """Its STATE has come: which channels it serves now."""
        self.sender.served(link, before)

    def unstuck(self, link: Link) -> None:
        self.sender.look(*link.served)

    def closed(self, link: Link) -> None:
        self.sender.closed(link)
        self.asks.closed(link)

    def workers(self, channel: str) -> list[Link]:
        return self.sender.workers(channel)

    def misfits(self, channel: str) -> list[tuple[Link, Mismatch]]:
        return self.sender.misfits(channel)

    def there_for(self, channel: str, box: int) -> tuple[list[Link], list[Link]]:
        """Those who serve it: who may take what is in this outbox, and who expects something else."""
        unfit = [link for link in self.sender.serving(channel) if self.sender.contracts.mismatch(link, channel, box)]
        return [link for link in self.sender.there(channel) if link not in unfit], unfit

    def takers(self, channel: str) -> list[Link]:
        """Those who serve it, take more, and expect something of what waits."""
        links = self.sender.serving(channel)
        return [link for link in links if not link.draining and self.sender.may_take(link, channel)]

    def channels_served(self) -> dict[str, int]:
        return self.sender.channels_served()

    # -- frames ----------------------------------------------------------------------------------------------------

    def receive(self, link: Link, frame: frames.Credit | frames.Outcome | frames.Chunk | Held, now: float) -> None:
        match frame:
            case frames.Chunk():
                self.asks.chunk(link, frame)
            case frames.Credit():
                if not ORDINARY <= frame.lane < LANES:
                    return  # of a later version, and nothing of ours is in it
                if link.credit(frame.channel, frame.lane).grant(frame.limit, frame.serial):
                    # lowered: given back only once we have said that we know
                    if frame.lane == ORDINARY:
                        self.sender.wants.tell(link, frame.channel)
                    else:
                        self.sender.lanes.lowered(link, frame.channel, frame.lane)
                self.sender.look(frame.channel)
            case frames.Outcome():
                self._outcome(link, frame, now)
            case Held():
                self._resume(link, frame, now)

    def _outcome(self, link: Link, frame: frames.Outcome, now: float) -> None:
        frames.check_parts(frame.parts)
        if not 0 <= frame.outputs <= frames.ID_MOST:
            raise ProtocolError(frames.MALFORMED, f"an OUTCOME whose outputs lie in the outbox {frame.outputs}")
        custody = self.custody.get(frame.box)
        if custody is None:
            return  # closed here: who opens that file will be told again
        try:
            verdict = Verdict(frame.verdict)
        except ValueError:
            words = f"an OUTCOME with the unknown verdict {frame.verdict}"
            raise ProtocolError(frames.UNEXPECTED, words) from None
        if verdict is Verdict.RELEASED:
            self.choices.release(frame.box, frame, link.conn)
            return
        # What answers a request sends has left already.
        claims = verdict is Verdict.HANDLED and frame.outputs != 0 and not custody.is_asked
        notes = {
            (epoch, number): (min(max(after_ms, 0), frames.LATER_MOST_MS), note)
            for epoch, number, after_ms, note in frame.notes
        }
        now_us = self._wall_us(now)
        returned: list[Slice] = []
        lasting = False
        if custody.is_asked and verdict is Verdict.HANDLED:
            frames.check_answers(frame)
            self._effects.add(Answered(frame.box, frame))
        for part in frame.parts:
            done = custody.settle(link.instance, verdict, part, notes, now_us)
            if done.elsewhere or done.unqueue or done.answered:
                self._beyond(custody, done)
            if self.trial.owes and verdict is Verdict.HANDLED:
                self.trial.settled(frame.box, part.epoch, part.first, part.count)
            if done.returned:
                self.trial.returned(custody, done.returned)
            if claims:
                self.choices.choose(frame.box, frame.outputs, part, done.changes, link.conn)
                self._effects.ticket(frame.box).phantoms.extend(done.unqueue)
            elif done.changes and not custody.is_asked:
                lasting = True
                for segment in done.torn:
                    self.dispatch.keys.breaks(frame.box, segment)
                self._effects.commit(frame.box, done.changes).phantoms.extend(done.unqueue)
            elif done.changes and verdict is not Verdict.HANDLED:
                self.asks.ended(custody, done.changes)
            returned.extend(done.returned)
        # STARTED is an answer, not an outcome: its worker does not keep it. Who claims is confirmed with the choice.
        if custody.is_asked:
            self.asks.settled(custody, frame, now)
            if verdict is not Verdict.STARTED:
                self.asks.confirm(frame.box, frame.parts, link, now)
        elif verdict is not Verdict.STARTED and not claims:
            self._effects.confirm(frame.box, frame.parts, link.conn, lasting)
        if returned:
            self._wait_again(custody, returned)

    def _beyond(self, custody: Custody, done: Settled) -> None:
        """What an outcome means for others than who said it."""
        for holder, epoch, first, count in done.elsewhere:
            if custody.is_asked:
                self.asks.stop(holder, custody.box, (epoch, first, count))
            else:
                self.withdrawals.drop_at(holder, custody.box, ((epoch, first, count),))
        for epoch, first, count in done.unqueue:
            self.dispatch.remove(custody.box, epoch, first, count)
        for epoch, number, taken_back in done.answered:
            self._effects.add(Withdrawn(custody.box, epoch, number, taken_back))

    def committed(self, ticket: Ticket) -> None:
        custody = self.custody.get(ticket.box)
        if custody is not None:
            for epoch, first, count in ticket.phantoms:
                custody.lasting(epoch, first, count)
            custody.noting.difference_update(c.instance for c in ticket.changes if isinstance(c, Note))
            for epoch, number in ticket.marked:
                custody.marking.lasting(epoch, number, ticket.number)
            if ticket.asking:
                self.choices.committed(ticket)

    def _resume(self, link: Link, held: Held, now: float) -> None:
        frames.check_parts((*held.queued, *held.running))
        custody = self.custody.get(held.box)
        if custody is None or held.epoch != custody.epoch:
            return  # it answers an opening that is over; to the present one it answers by itself
        if held.box in link.resumed:
            raise ProtocolError(frames.UNEXPECTED, f"a second HELD of outbox {held.box:016x} in one session")
        plan = reconcile(custody, link.instance, held)
        unwanted: Ranges = []
        if custody.is_asked:
            unwanted = self.asks.resumed(custody, link, plan.adopt)
        else:
            for part in plan.adopt:
                custody.adopt(link.instance, part, self.dispatch.remove(held.box, part.epoch, part.first, part.count))
        drop = (*plan.drop, *self.withdrawals.queued(custody, held))
        self._effects.send(link.conn, Drop(held.box, held.serial, drop))
        if unwanted:
            self._effects.send(link.conn, Drop(held.box, 0, tuple(unwanted), True))
        link.resumed.add(held.box)
        self.withdrawals.started(custody, plan.started)
        self.trial.returned(custody, plan.again)
        self.trial.lives(link.instance)
        again = plan.again
        if custody.is_asked:
            if not self.asks.is_known(held.box, link.instance, now):
                again = self.asks.unsure(custody, link.instance, again, held)
            self.asks.returned(again, self._wall_us(now))
        self._wait_again(custody, again)
        self._go(custody.resumed(link.instance), custody.box, [])  # also of channels that are served elsewhere
        self.sender.look(*link.served)

    def gone(
        self,
        instance: int,
        *,
        is_dead: bool = False,
        is_death: bool = False,
        name: str = "",
        obituary: Obituary | None = None,
    ) -> int:
        """It did not come back within its grace, is proved dead or has left: what it held waits again. Gives how many
        messages that are. is_death: what ran there is suspect, all that it held if that is not known."""
        if obituary is not None:
            self.trial.told(obituary)
        if is_dead or is_death:
            self.trial.evidence.died(instance, name)
        is_listed = is_dead and self.trial.evidence.ending(instance) is not None
        returned = 0
        for custody in self.custody.values():
            if custody.is_asked:
                # Who has had a request and is lost is not heard about it any more, unless he answers after all.
                pieces = self.asks.lost(custody, instance, custody.give_up(instance, is_dead=True))
                returned += sum(piece.count for piece in pieces)
                self._wait_again(custody, pieces)
                continue
            flights = custody.flights_of(instance)
            held = [(flight.epoch, first, count) for flight in flights for first, count in flight.left]
            pieces = custody.give_up(instance, is_dead=is_dead)
            returned += sum(piece.count for piece in pieces)
            if is_death:
                death = self.trial.evidence.death(instance, name=name, proved=is_dead, ran=is_listed)
                there = self.trial.ran(custody, instance) if is_listed else held
                pieces = self.trial.blame(custody, death, there, pieces)
            self._wait_again(custody, pieces)
            self._past(custody, instance)
        if is_listed:
            self.trial.reconsider(instance)
        return returned

    def take_back(self, instance: int, listing: Listing) -> int:
        """It has not been heard for the grace, and lives: what it had certainly not begun when its list was read, after
        that, waits again, as if it had handed it back. Gives how many messages that are. What was asked and has begun
        is lost all the same: nobody waits for an answer longer than for who is gone (rules §9.5)."""
        returned = 0
        for custody in self.custody.values():
            spared = [
                (flight, at, many)
                for flight in custody.flights_of(instance)
                for first, count in list(flight.left)
                for at, many in listing.spares(custody.box, flight.epoch, (flight.fence, flight.n), first, count)
            ]
            pieces = [piece for spare in spared for piece in custody.give_back(*spare)]
            returned += sum(piece.count for piece in pieces)
            self.trial.returned(custody, pieces)
            self._wait_again(custody, pieces)
            if custody.is_asked:
                self._wait_again(custody, self.asks.lost(custody, instance, custody.give_up(instance, is_dead=True)))
        return returned

    def _past(self, custody: Custody, instance: int) -> None:
        """Nothing of the past is owed to this worker any more."""
        self._go(custody.released(instance), custody.box, custody.forget(instance))

    def _go(self, pieces: list[Slice], box: int, changes: list[Change]) -> None:
        if changes:
            self._effects.commit(box, changes)
        if pieces:
            self._ready(self.custody[box], pieces)
        self.sender.look(*(piece.segment.channel for piece in pieces))

    def _ready(self, custody: Custody, pieces: list[Slice], *, back: bool = False) -> None:
        """These wait from now on, as far as nothing has to be written about them before."""
        if self.trial.concerns(pieces):
            pieces = self.trial.sift(custody, pieces)
        self.dispatch.ready(pieces, back=back)

    def _wait_again(self, custody: Custody, pieces: list[Slice]) -> None:
        if custody.is_asked:
            pieces = self.asks.again(custody, pieces)
        for piece in pieces:
            self.sender.look(piece.segment.channel)
            self._effects.add(Returned(piece.box, piece.segment.seq, piece.first, piece.count))
        if custody.withdrawing:
            pieces = self.withdrawals.left_of(custody, pieces)
        self._ready(custody, custody.wait_for_the_past(pieces), back=True)
        for piece in pieces:
            self._expiry.watch(piece.box, piece.segment, piece.first, piece.count)

    # -- time and fences -------------------------------------------------------------------------------------------

    def send(self, now: float) -> None:
        """Everything that may go, goes: to each worker of a channel by its credit."""
        for custody in self._with_past() if self._past_of else ():
            released, forgotten = custody.tick(now)
            if released or forgotten:
                self._go(released, custody.box, forgotten)
        if self.trial.guilty:
            self.trial.sentence(self._wall_us(now))
        self.dispatch.keys.now = now
        if self.dispatch.keys.is_touched:
            self._settle_keys()
        self.sender.send(now)
        if self.asks:
            self.asks.send(now)

    def _settle_keys(self) -> None:
        """Of keys that have become free the next may go; rows that are broken go back to their outbox."""
        channels, broken = self.dispatch.settle_keys()
        self.sender.look(*channels)
        for (box, seq), segment in broken:
            custody = self.custody.get(box)
            if custody is None:
                continue
            late = custody.unpast_row(seq)
            row = segment if segment is not None else late[0].segment if late else None
            if row is not None and row.key is not None:
                self._effects.commit(box, [Shelve(row.channel, row.epoch, row.first, seq)])

    def tick(self, now: float) -> None:
        self.sender.tick(now)
        if self.asks:
            self.asks.tick(now)
        for box, epoch, first, count in self._expiry.over(now):
            custody = self.custody.get(box)
            if custody is None:
                continue
            if custody.is_asked:
                self.asks.expired(custody, epoch, first, count)
                continue
            for piece in [*custody.unpast(epoch, first, count), *self.dispatch.remove(box, epoch, first, count)]:
                segment = piece.segment
                gone = Settle(segment.channel, epoch, piece.first, piece.count, Verdict.EXPIRED, segment.seq)
                self._effects.commit(box, [gone])

    def wake(self) -> float:
        """When `send` has something to do."""
        if not self._past_of:
            return inf
        return min((at for custody in self._with_past() if (at := custody.wake()) is not None), default=inf)

    def _with_past(self) -> list[Custody]:
        """Those of which something waits for workers of before: few, and soon none."""
        found = [custody for box in self._past_of if (custody := self.custody.get(box)) is not None]
        self._past_of = {custody.box for custody in found if custody.wake() is not None}
        return found

    def next_tick(self) -> float:
        """When `tick` has something to do."""
        return min(self.sender.wants.wake(), self._expiry.wake(), self.asks.wake() if self.asks else inf)

    def fenced(self, link: Link, box: int, fence: int, words: str, now: float) -> None:
        """A worker has seen a later opening of this outbox (rules §1.2). Who still holds the file opens it again
        above that epoch; a fence more than a day ahead is nobody's opening, nor is any of an outbox in memory, and is
        never followed: that worker gets nothing of it."""
        custody = self.custody.get(box)
        if custody is None or fence <= custody.epoch:
            return  # said to an earlier opening
        if not custody.durable or fence > self._wall_us(now) // 1_000 + DAY_MS:
            link.resumed.discard(box)
            again = [
                piece
                for flight in custody.flights_of(link.instance)
                if flight.fence == custody.epoch
                for first, count in list(flight.left)
                for piece in custody.give_back(flight, first, count)
            ]
            self._wait_again(custody, again)
            days = fence / DAY_MS - self._wall_us(now) / 1_000 / DAY_MS
            why = (
                f"its epoch for outbox {box:016x} lies {days:.0f} days ahead of this clock, and is not followed"
                if custody.durable
                else f"it knows a later opening of outbox {box:016x}, which is in memory, so that there is none"
            )
            self._effects.add(Say("fenced", f"{why}: nothing of it is sent there. {words}", link.instance))
            return
        self._end(box)
        self.openings.fences[box] = fence
        self._effects.add(Reopen(box, fence, words))
