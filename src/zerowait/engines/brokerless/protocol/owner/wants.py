"""WANT: what the links are told of what waits for them.

A link is told once that something waits which its credit does not reach, and once that nothing does any more; in
between its worker renews the credit before it runs out, and no frame is needed. That nothing waits is told at once to
a link that nothing has gone to since it was asked (another worker was quicker, and what it has set aside for us
others may use), else after a quiet tick: a stream pauses for moments all the time."""

from __future__ import annotations

from collections.abc import Collection
from math import inf

from zerowait.engines.brokerless.protocol.config import Config
from zerowait.engines.brokerless.protocol.effects import Effects
from zerowait.engines.brokerless.protocol.frames import Want
from zerowait.engines.brokerless.protocol.link import Link
from zerowait.engines.brokerless.protocol.owner.contracts import Contracts
from zerowait.engines.brokerless.protocol.owner.dispatch import Dispatch


class Wants:
    def __init__(self, effects: Effects, config: Config, dispatch: Dispatch, contracts: Contracts) -> None:
        self._contracts = contracts
        self._effects = effects
        self._config = config
        self._dispatch = dispatch
        self._quiet: dict[tuple[int, str], Link] = {}

    def waiting(self, link: Link, channel: str) -> int:
        return self._dispatch.waiting_for(channel, self._contracts.fitting(link, channel), link.message_bytes)

    def tell(self, link: Link, channel: str) -> None:
        credit = link.credit(channel)
        self._quiet.pop((link.conn, channel), None)
        credit.quiet_since = None
        credit.told = self.waiting(link, channel)
        credit.sent_when_told = credit.sent
        self._effects.send(link.conn, Want(channel, 0, credit.sent, credit.serial, credit.told))

    def speak(self, link: Link, channel: str, now: float) -> None:
        """After what could go has gone."""
        credit = link.credit(channel)
        waiting = self.waiting(link, channel)
        if waiting and credit.left() <= 0:
            if credit.quiet_since is not None:
                credit.quiet_since = None
                self._quiet.pop((link.conn, channel), None)
            if not credit.told:
                self.tell(link, channel)
        elif credit.told and not waiting:
            if credit.sent == credit.sent_when_told:
                self.tell(link, channel)
            elif credit.quiet_since is None:
                credit.quiet_since = now
                self._quiet[link.conn, channel] = link

    def tick(self, now: float, open_conns: Collection[int]) -> None:
        for (conn, channel), link in list(self._quiet.items()):
            since = link.credit(channel).quiet_since
            if conn not in open_conns or since is None:
                del self._quiet[conn, channel]
            elif now >= since + self._config.tick:
                if self.waiting(link, channel):
                    link.credit(channel).quiet_since = None
                    del self._quiet[conn, channel]
                else:
                    self.tell(link, channel)

    def wake(self) -> float:
        if not self._quiet:
            return inf
        since = [link.credit(channel).quiet_since for (_, channel), link in self._quiet.items()]
        return min((at + self._config.tick for at in since if at is not None), default=inf)
