"""What the protocol wants done, done: frames leave, changes are committed, connections end, people are told."""

from __future__ import annotations

import logging
from collections.abc import Callable

from zerowait.engines.brokerless.contacts import Contacts
from zerowait.engines.brokerless.directory import Directory
from zerowait.engines.brokerless.finding import Finder
from zerowait.engines.brokerless.hands import Hands
from zerowait.engines.brokerless.loop import Loop
from zerowait.engines.brokerless.outboxes import Outboxes
from zerowait.engines.brokerless.outlets import Outlets
from zerowait.engines.brokerless.protocol.core import Core
from zerowait.engines.brokerless.protocol.effects import (
    Answered,
    Asked,
    Cancel,
    Chunked,
    Close,
    Dispatched,
    Effect,
    Look,
    Met,
    Prove,
    Ready,
    Reopen,
    Returned,
    Say,
    Send,
    Unanswered,
    Withdrawn,
)  # fmt: skip
from zerowait.engines.brokerless.pulses import Pulses
from zerowait.engines.brokerless.wire import Wire

log = logging.getLogger("zerowait.node")

OF_THE_HEARD = ("met", "gone", "dead", "left")  # what is told of who is there again, or over


class Performer:
    """On the network thread. reopen and say: told of what these effects say. answer: a question of the command line,
    and how to reply to it, from any thread by `call`."""

    def __init__(
        self,
        core: Core,
        wire: Wire,
        directory: Directory,
        *,
        outlets: Outlets,
        loop: Loop,
        outboxes: Outboxes,
        finder: Finder,
        contacts: Contacts,
        hands: Hands,
        reopen: Callable[[int, int], None],
        say: Callable[[Say], None],
        answer: Callable[[bytes, Callable[[bytes], None]], None],
        call: Callable[[Callable[[], None]], object],
    ) -> None:
        self._core = core
        self._wire = wire
        self._directory = directory
        self._pulses = Pulses(directory)
        self._outlets = outlets
        self._loop = loop
        self._outboxes = outboxes
        self._finder = finder
        self._contacts = contacts
        self._hands = hands
        self._reopen = reopen
        self._say = say
        self._answer = answer
        self._call = call

    def perform(self, now: float) -> None:
        """All that is wanted, and what follows from it."""
        core = self._core
        while core.effects:
            for effect in core.effects.take():
                self._do(effect, now)
            for ticket in core.effects.take_tickets():
                self._outboxes.commit(ticket)
            core.flush(now)
        if self._outboxes.make_rows():
            core.flush(now)
            self.perform(now)
        self._outboxes.tell_drawn()

    def _do(self, effect: Effect, now: float) -> None:
        match effect:
            case Send():
                if effect.conn < 0:
                    self._loop.send(effect.conn, effect.data)
                else:
                    self._outlets.send(effect.conn, effect.data, passable=effect.passable, behind=effect.behind)
            case Dispatched():
                self._outboxes.dispatched(effect)
            case Returned():
                self._outboxes.returned(effect)
            case Withdrawn():
                self._outboxes.withdrawn(effect)
            case Reopen():
                log.warning("%s", effect.words)
                self._reopen(effect.box, effect.floor_epoch)
            case Ready():
                self._hands.ready(effect.channel)
            case Answered() | Unanswered() | Chunked():
                self._outboxes.told(effect)
            case Cancel():
                self._hands.cancel(effect.box, effect.ranges)
            case Close():
                self._outlets.finish(effect.conn)
                self._wire.drop(effect.conn)
                self._finder.lost(effect.conn, effect.words, now)
            case Prove():
                if self._directory.is_dead(effect.instance, effect.boot, effect.device, effect.inode):
                    self._core.buried(effect.instance, now, self._directory.ending(effect.instance))
                else:
                    self._pulses.feel(effect.instance, now)
            case Look():
                looked = self._pulses.look(effect.instance, now)
                self._core.looked(effect.instance, looked.listing, now, stirs=looked.stirs)
            case Asked():
                self._asked(effect)
            case Say():
                if effect.topic in OF_THE_HEARD:
                    self._pulses.forget(effect.instance)
                self._say(effect)
            case Met():
                self._contacts.met(effect.conn, effect.instance)

    def close(self) -> None:
        self._pulses.close()

    def _asked(self, asked: Asked) -> None:
        if not self._wire.is_from_here(asked.conn):
            return  # payloads, and what may be done with them, are for this user on this machine only

        def reply(body: bytes) -> None:
            self._call(lambda: self._core.answer(asked.conn, asked.serial, body))

        self._answer(asked.body, reply)
