"""The lanes of suspects, as their owner sees them: whom it asks for credit, and what goes where.

Each lane needs the worker's credit on this very connection: none before its first CREDIT, none while it drains.
Without that a suspect spins between an owner that sends and a worker that hands back. Aside: every link that serves the
channel is told that suspects wait, and takes one, then more with each that it survives. Alone: one link is asked,
because all of its process stands still for it; the next one when that has been of no use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from zerowait.engines.brokerless.protocol.effects import Effects
from zerowait.engines.brokerless.protocol.frames import ALONE, ASIDE, LANES, Want
from zerowait.engines.brokerless.protocol.link import Link
from zerowait.engines.brokerless.protocol.owner.flights import Slice
from zerowait.engines.brokerless.protocol.owner.suspects import Suspects

Fitting = Callable[[Link, str], Collection[int]]


class Lanes:
    """fitting: the outboxes whose messages for that channel may go to that link."""

    def __init__(self, effects: Effects, suspects: Suspects, fitting: Fitting) -> None:
        self._effects = effects
        self._suspects = suspects
        self._fitting = fitting
        self._asked: dict[str, int] = {}  # channel → the connection that is asked to run one alone
        self._last: dict[str, int] = {}  # channel → the one that was asked last
        self._told: dict[tuple[int, str, int], None] = {}  # (connection, channel, lane): it was told that some wait

    def concerns(self, channel: str) -> bool:
        """Whether there is anything to be said or sent of this channel."""
        return bool(self._suspects or self._told) and (
            bool(self._suspects.count(channel)) or any(told[1] == channel for told in self._told)
        )

    def closed(self, conn: int) -> set[str]:
        """Gives the channels whose suspects it was asked to run alone: another is to be asked."""
        for name in [name for name in self._told if name[0] == conn]:
            del self._told[name]
        free = {channel for channel, asked in self._asked.items() if asked == conn}
        for channel in free:
            del self._asked[channel]
        return free

    def unheard(self, link: Link, channel: str) -> None:
        """What it was told before it served this channel it has not heard."""
        for name in [name for name in self._told if name[:2] == (link.conn, channel)]:
            del self._told[name]
        if self._asked.get(channel) == link.conn:
            del self._asked[channel]

    def lowered(self, link: Link, channel: str, lane: int) -> None:
        """A limit has fallen: that is confirmed. Of the lane alone it means that nothing came in time, or not again."""
        if lane == ALONE and self._asked.get(channel) == link.conn:
            del self._asked[channel]
        self._tell(link, channel, lane, 0 if lane == ALONE else self._waiting(link, channel, lane))

    def confirm(self, link: Link, channel: str, lane: int) -> None:
        """What was spent is given back: say how much has been sent now."""
        self._tell(link, channel, lane, self._waiting(link, channel, lane))

    def pick(self, channel: str, links: Mapping[int, Link]) -> Iterator[tuple[Link, Slice, int]]:
        """What goes where now, of those links that take work; who asks for the next has spent the credit for the
        last."""
        able = {conn: link for conn, link in links.items() if link.served[channel].lanes >= LANES}
        for link in able.values():
            yield from self._spend(link, channel, ASIDE)
            self._speak(link, channel)
        for link in able.values():
            for given in self._spend(link, channel, ALONE):
                self._told.pop((link.conn, channel, ALONE), None)
                if self._asked.get(channel) == link.conn:
                    del self._asked[channel]
                yield given
            if (link.conn, channel, ALONE) in self._told and not self._waiting(link, channel, ALONE):
                self._tell(link, channel, ALONE, 0)  # it need not stand still any longer
                if self._asked.get(channel) == link.conn:
                    del self._asked[channel]
        if self._asked.get(channel) not in able:
            self._ask(channel, able)

    def _spend(self, link: Link, channel: str, lane: int) -> Iterator[tuple[Link, Slice, int]]:
        while link.credit(channel, lane).left() > 0:
            piece = self._suspects.pop(channel, lane, self._fitting(link, channel), link.message_bytes)
            if piece is None:
                return
            yield link, piece, lane

    def _speak(self, link: Link, channel: str) -> None:
        waiting = self._waiting(link, channel, ASIDE)
        was_told = (link.conn, channel, ASIDE) in self._told
        if waiting and not was_told and link.credit(channel, ASIDE).left() <= 0:
            self._tell(link, channel, ASIDE, waiting)
        elif was_told and not waiting:
            self._tell(link, channel, ASIDE, 0)

    def _ask(self, channel: str, links: Mapping[int, Link]) -> None:
        last = self._last.get(channel, 0)
        for conn in sorted(links, key=lambda conn: (conn <= last, conn)):
            waiting = self._waiting(links[conn], channel, ALONE)
            if waiting:
                self._asked[channel] = self._last[channel] = conn
                self._tell(links[conn], channel, ALONE, waiting)
                return

    def _waiting(self, link: Link, channel: str, lane: int) -> int:
        return self._suspects.waiting_for(channel, lane, self._fitting(link, channel), link.message_bytes)

    def _tell(self, link: Link, channel: str, lane: int, waiting: int) -> None:
        credit = link.credit(channel, lane)
        if waiting:
            self._told[link.conn, channel, lane] = None
        else:
            self._told.pop((link.conn, channel, lane), None)
        self._effects.send(link.conn, Want(channel, lane, credit.sent, credit.serial, waiting))
