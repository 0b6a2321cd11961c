"""Messages that are taken back before they begin (rules §2.9): one, for who has its receipt, or all of a channel.

What waits is gone with a commit. What is in flight is asked for where it is, and is in custody until its worker has
said whether it had begun; the effect Withdrawn tells how it came out."""

from __future__ import annotations

from collections.abc import Iterable

from zerowait.engines.brokerless.protocol.effects import Effects, Withdrawn
from zerowait.engines.brokerless.protocol.frames import Drop, Held
from zerowait.engines.brokerless.protocol.owner.custody import Custody, Ranges
from zerowait.engines.brokerless.protocol.owner.dispatch import Dispatch
from zerowait.engines.brokerless.protocol.owner.flights import Slice
from zerowait.engines.brokerless.protocol.owner.sender import Sender
from zerowait.engines.brokerless.protocol.peers import Peers
from zerowait.message import Settle, Verdict
from zerowait.numbers import Numbers


class Withdrawals:
    def __init__(
        self, effects: Effects, peers: Peers, custody: dict[int, Custody], dispatch: Dispatch, sender: Sender
    ) -> None:
        self._effects = effects
        self._peers = peers
        self._custody = custody
        self._dispatch = dispatch
        self._sender = sender

    def withdraw(self, box: int, epoch: int, number: int) -> None:
        """Takes a message back if it has not begun (rules §2.9). What became of it is told by the effect Withdrawn:
        at once where it waits (once that is durable), after its worker's answer where it is in flight."""
        custody = self._custody.get(box)
        if custody is None:
            self._effects.add(Withdrawn(box, epoch, number, None))
            return
        if custody.unpast(epoch, number, 1) or self._dispatch.remove(box, epoch, number, 1):
            self._drop_waiting(custody, epoch, number, True)
            return
        flight = next((flight for flight, _, _ in custody.flights.over(epoch, number, 1)), None)
        if flight is None:
            self._drop_waiting(custody, epoch, number, None)
            return
        custody.withdrawing.add((epoch, number))
        self.drop_at(flight.holder, box, ((epoch, number, 1),))

    def _drop_waiting(self, custody: Custody, epoch: int, number: int, taken_back: bool | None) -> None:
        ticket = self._effects.commit(custody.box, [custody.vanish(epoch, number, 1, Verdict.DROPPED)])
        ticket.phantoms.append((epoch, number, 1))
        ticket.withdrawn.append(Withdrawn(custody.box, epoch, number, taken_back))

    def drop(
        self, box: int, channel: str, last: tuple[int, int], ranges: Iterable[tuple[int, int, int]]
    ) -> tuple[int, int] | None:
        """Drops what waits of this channel up to the message of that name: here all of it, on disk what `ranges` name.
        What is in flight is left alone.

        Gives the name under which Withdrawn tells that it is durable; None: there was nothing to drop."""
        custody = self._custody.get(box)
        if custody is None:
            return None
        here = [*custody.empty_past(channel, last), *self._dispatch.empty(channel, box, last)]
        changes = [
            Settle(channel, piece.segment.epoch, piece.first, piece.count, Verdict.DROPPED, piece.segment.seq)
            for piece in here
        ]
        taken: dict[int, Numbers] = {}
        for piece in here:
            taken.setdefault(piece.segment.epoch, Numbers()).add(piece.first, piece.count)
        phantoms: list[tuple[int, int, int]] = []
        for epoch, start, length in ranges:
            known = taken.get(epoch) or Numbers()
            for first, count in custody.resting(epoch, start, length):
                phantoms += [(epoch, at, many) for at, many in known.missing(first, count)]
        for epoch, first, count in phantoms:
            custody.absent(epoch, first, count)  # it may have been read, and be on its way here
            changes.append(Settle(channel, epoch, first, count, Verdict.DROPPED, 0))
        if not changes:
            return None
        self._sender.look(channel)
        ticket = self._effects.commit(box, changes)
        ticket.phantoms.extend(phantoms)
        ticket.withdrawn.append(Withdrawn(box, changes[-1].epoch, changes[-1].first, True))
        return changes[-1].epoch, changes[-1].first

    def over(self, custody: Custody) -> None:
        """This opening of the outbox is over, and nobody knows what becomes of what was asked for."""
        for epoch, number in custody.withdrawing:
            self._effects.add(Withdrawn(custody.box, epoch, number, None))

    # -- at whoever has them -----------------------------------------------------------------------------------------

    def drop_at(self, holder: int, box: int, ranges: tuple[tuple[int, int, int], ...]) -> None:
        """To whoever has these: not yours any more. A worker that is not there now is asked when it says what it
        holds."""
        peer = self._peers.get(holder)
        link = peer.link if peer is not None else None
        if link is not None and box in link.resumed:
            self._effects.follow(box, Drop(box, 0, ranges), link.conn)

    def queued(self, custody: Custody, held: Held) -> Ranges:
        """What is queued there and has been asked back meanwhile: it is answered `unstarted`, as if DROP had come at
        once."""
        return [
            (epoch, number, 1)
            for epoch, number in custody.withdrawing
            if any(part.epoch == epoch and part.first <= number < part.first + part.count for part in held.queued)
        ]

    def started(self, custody: Custody, running: Ranges) -> None:
        """These have begun there, and cannot be taken back."""
        for epoch, number in list(custody.withdrawing):
            if any(of == epoch and first <= number < first + count for of, first, count in running):
                custody.withdrawing.discard((epoch, number))
                self._effects.add(Withdrawn(custody.box, epoch, number, False))

    def left_of(self, custody: Custody, pieces: Iterable[Slice]) -> list[Slice]:
        """These came back unstarted: what of them was asked for is dropped here, before it can go to another."""
        return [left for piece in pieces for left in self._without_withdrawn(custody, piece)]

    def _without_withdrawn(self, custody: Custody, piece: Slice) -> list[Slice]:
        epoch, numbers = piece.segment.epoch, range(piece.first, piece.first + piece.count)
        mine = sorted(number for of, number in custody.withdrawing if of == epoch and number in numbers)
        start = piece.first
        left: list[Slice] = []
        for number in [*mine, numbers.stop]:
            if number > start:
                left.append(Slice(piece.box, piece.segment, start, number - start))
            start = number + 1
        for number in mine:
            custody.withdrawing.discard((epoch, number))
            self._drop_waiting(custody, epoch, number, True)
        return left
