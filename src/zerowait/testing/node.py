"""A whole simulated process: the protocol's core, outboxes, store, runners. What the network thread's shell does, here.

One turn: what has arrived is there already; then timers, then everything that follows from it leaves together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from math import inf

from zerowait.engines.brokerless.protocol.config import Identity
from zerowait.engines.brokerless.protocol.core import Core
from zerowait.engines.brokerless.protocol.effects import (
    Answered,
    Cancel,
    Chunked,
    Close,
    Dispatched,
    Effect,
    Look,
    Prove,
    Ready,
    Reopen,
    Returned,
    Say,
    Send,
    Ticket,
    Unanswered,
    Withdrawn,
)  # fmt: skip
from zerowait.engines.brokerless.protocol.frames import MAGIC, Drop, Subscribe, Subscribed, decode
from zerowait.engines.brokerless.protocol.worker.unbegun import Listing, Unbegun, blank, read
from zerowait.message import Mark, Service
from zerowait.testing.answering import Repliers
from zerowait.testing.asker import Asker
from zerowait.testing.crew import Crew
from zerowait.testing.history import Life
from zerowait.testing.holdings import Holdings
from zerowait.testing.network import ARRAY16, younger
from zerowait.testing.surroundings import Surroundings
from zerowait.testing.timeline import WallClock
from zerowait.testing.topics import Topics

STIRS_S = 0.4  # so long after it goes on it is known of a process that it stood still for longer
_STATE, _DROP, _SUBSCRIBE, _SUBSCRIBED = 2, 4, 15, 22  # tags of frames
_BEATS = (10, 11)  # likewise, of PING and PONG, after which nothing is where it was not before
OWNER_END, WORKER_END = -1, -2  # the two ends of the link of a process to itself


class Node:
    def __init__(
        self,
        around: Surroundings,
        key: int,
        instance: int,
        name: str,
        wall: WallClock,
        services: dict[str, int],
        *,
        serves: bool,
    ) -> None:
        self.around = around
        self.key = key
        self.name = name
        self.instance = instance
        self.alive = True
        self.paused = False
        self.held = False  # and not stopped: its interpreter is
        self._stood = 0.0, 0.0  # since when, and until when, it did nothing last
        self.leaving = False
        self.is_younger = False  # of a later version
        self._later: deque[Callable[[], None]] = deque()  # what came while it was paused
        self._touched = False
        self._answers = False
        self._others: list[Service] = []
        self._stirred = False  # something was heard, or is to be done, since the invariants were looked at last
        self._wake_at: float | None = None
        timeline = around.timeline
        self._offset_us = wall.offset_us()
        identity = Identity(instance=instance, name=name, pid=key, boot=around.boot(name), device=1, inode=key)
        self.core = Core(identity, around.config, lock=nullcontext(), wall_us=self.wall_us)
        self._words = blank() if serves else None
        if self._words is not None:
            self.core.worker.list_unbegun(Unbegun(self._words), lambda: timeline.now)
        self.holdings = Holdings(self)
        self.store, self.homes, self.boxes = self.holdings.store, self.holdings.homes, self.holdings.boxes
        self.crew = Crew(
            timeline, around.history, self.core, around.temper, services, around.job, self.when_awake, self.touch,
            lambda message: around.died(self, message), around.sends,
        )  # fmt: skip
        self.asker: Asker | None = None
        self.repliers: Repliers | None = None
        self.topics: Topics | None = None
        self.withdrawn: Callable[[Withdrawn], None] = lambda effect: None
        self.core.inherit(around.ended(name))
        around.history.lives[instance] = Life(instance, name, serves, timeline.now)
        self._pushes = [
            Service(channel, "push", runners, keeps=channel in around.keeps) for channel, runners in services.items()
        ]
        self.touch()

    def serve(self, others: list[Service]) -> None:
        """What is pushed, and these."""
        self._others = others
        self.core.serve([*self._pushes, *others])

    def serve_also(self, channel: str, runners: int) -> None:
        """What is pushed to that one, too."""
        if not self.leaving:
            self._pushes.append(Service(channel, "push", runners, keeps=channel in self.around.keeps))
            self.crew.serve(channel, runners)
            self.serve(self._others)
            self.link_to_itself()
            self.touch()

    def is_busy(self) -> bool:
        return self.crew.is_busy() or (self.repliers is not None and self.repliers.is_busy())

    # -- time --------------------------------------------------------------------------------------------------------

    def wall_us(self, now: float) -> int:
        return self._offset_us + int(now * 1e6)

    def now_us(self) -> int:
        return self.wall_us(self.around.timeline.now)

    def when_awake(self, act: Callable[[], None]) -> None:
        if not self.alive:
            return
        if self.paused:
            self._later.append(act)
        else:
            act()

    def hold(self, seconds: float) -> None:
        """A handler holds its interpreter, from the next moment on."""

        def begin() -> None:
            if self.alive and not self.paused:
                self.pause(held=True)
                self.around.timeline.after(seconds, let_go)

        def let_go() -> None:
            if self.alive and self.held:
                self.resume()

        self.around.timeline.after(0.0, begin)

    def pause(self, *, held: bool = False) -> None:
        self.paused, self.held = True, held
        now = self.around.timeline.now
        self._stood = now, inf
        if held and self.around.proves:
            self.around.history.lives[self.instance].holds.append((now, inf))

    def listing(self) -> Listing | None:
        """What whoever finds it held reads of it."""
        return read(self._words, self._words) if self._words is not None and self.alive and self.held else None

    def stirs(self) -> bool:
        """Whether it has stood still until a moment ago."""
        since, until = self._stood
        return until - since >= STIRS_S and self.around.timeline.now - until < STIRS_S

    def resume(self) -> None:
        """It reads what has arrived before a timer fires."""
        life = self.around.history.lives[self.instance]
        if self.held and life.holds:
            life.holds[-1] = life.holds[-1][0], self.around.timeline.now
        self._stood = self._stood[0], self.around.timeline.now
        self.paused = self.held = False
        self.around.questions.resumed_at[self.instance] = self.around.timeline.now
        while self._later and self.alive and not self.paused:
            self._later.popleft()()
        self.touch()

    def touch(self) -> None:
        """Something happened here: it turns at this very time, once."""
        self._stirred = True
        self._turn_soon()

    def _answer_soon(self) -> None:
        """A PING or PONG has come: what follows leaves; timers have their own time. Most turns would be these."""
        if not self._answers and not self._touched:
            self._answers = True
            self.around.timeline.call(self.around.timeline.now, self._answer)

    def _answer(self) -> None:
        self._answers = False
        if self.alive and not self.paused and not self._touched:
            self._perform(self.around.timeline.now)
            if self._stirred:
                self._turn_soon()

    def _turn_soon(self) -> None:
        if not self._touched:
            self._touched = True
            self.around.timeline.call(self.around.timeline.now, self._turn)

    # -- what the network brings -------------------------------------------------------------------------------------

    def connected(self, conn: int, *, ours: bool) -> None:
        def hear() -> None:
            self.core.opened(conn, self.around.timeline.now, ours=ours)
            self.touch()

        self.when_awake(hear)

    def hears(self, conn: int, data: bytes) -> None:
        if self.paused or not self.alive:
            self.when_awake(lambda: self._hear(conn, data))
        else:
            self._hear(conn, data)

    def _hear(self, conn: int, data: bytes) -> None:
        tag = data[3] if data[0] == ARRAY16 else data[1] if data[0] != MAGIC[0] else 0
        if tag in (_DROP, _SUBSCRIBED) and conn in self.core.links:
            self._notes(conn, data)
        self.core.receive(conn, data, self.around.timeline.now)
        if tag == _STATE and self.topics is not None and self.topics.durable is not None:
            self.topics.durable.hears(conn)
        if tag in _BEATS:
            self._answer_soon()
        else:
            self.touch()

    def _notes(self, conn: int, data: bytes) -> None:
        """For the books, and by nobody else's: which requests nobody waits for any more, which subscriptions begin."""
        link, frame = self.core.links[conn], decode(data)
        if isinstance(frame, Drop) and frame.cancel and self.core.worker.owners.link(frame.box) is link:
            numbers = [(epoch, number) for epoch, first, n in frame.ranges for number in range(first, first + n)]
            self.around.questions.hears(self.instance, [(frame.box, *name) for name in numbers])
        elif isinstance(frame, Subscribed) and self.topics is not None:
            self.topics.hears(conn, frame)

    def loses(self, conn: int, words: str) -> None:
        def hear() -> None:
            self.core.lost(conn, self.around.timeline.now, words)
            self.touch()

        self.when_awake(hear)

    # -- turns -------------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._touched = False
        if not self.alive or self.paused:
            return
        now = self.around.timeline.now
        if self.asker is not None:
            self.asker.begin()
        self.core.wake(now)
        self.core.flush(now)
        self._perform(now)
        if self.topics is not None and self.topics.durable is not None:
            self.topics.durable.turned()
        if self._stirred:
            self._stirred = False
            self.around.turned(self)
        if self.asker is not None and self.asker.requests.next_due() == 0.0:
            self.touch()
        at = self.core.next_wake()
        if at is not None and self.alive:
            self._wake(max(at, now + 1e-6))

    def say_all(self) -> None:
        """What is to be said leaves at once."""
        self._perform(self.around.timeline.now)

    def _wake(self, at: float) -> None:
        now = self.around.timeline.now
        if self._wake_at is not None and now < self._wake_at <= at:
            return
        self._wake_at = at

        def wake() -> None:
            if self._wake_at == at:
                self._wake_at = None
                self._turn()

        self.around.timeline.call(at, wake)

    def _perform(self, now: float) -> None:
        core = self.core
        while core.effects:
            for effect in core.effects.take():
                self._stirred = self._stirred or not isinstance(effect, Send) or effect.data[1] not in _BEATS
                self._do(effect, now)
            for ticket in core.effects.take_tickets():
                self._stirred = True
                self._remember(ticket)
                self.holdings.outboxes.commit(ticket)
            core.flush(now)
        self.holdings.outboxes.tell_drawn()

    def _remember(self, ticket: Ticket) -> None:
        for change in ticket.changes:
            if isinstance(change, Mark):
                self.around.history.marked(ticket.box, change)

    def _do(self, effect: Effect, now: float) -> None:
        around = self.around
        match effect:
            case Send():
                around.history.frame(self.key, effect.conn, effect.data)
                if self.topics is not None and effect.data[1] == _SUBSCRIBE and effect.data[0] != MAGIC[0]:
                    frame = decode(effect.data)
                    if isinstance(frame, Subscribe):
                        self.topics.says(effect.conn, frame)
                if effect.conn < 0:
                    self._loops(WORKER_END if effect.conn == OWNER_END else OWNER_END, effect.data)
                else:
                    around.network.send(self, effect.conn, younger(effect.data) if self.is_younger else effect.data)
            case Close():
                around.network.close(self, effect.conn)
            case Ready():
                if self.repliers is not None and effect.channel in self.repliers:
                    self.repliers.ready(effect.channel)
                else:
                    self.crew.ready(effect.channel)
            case Answered() | Unanswered() | Chunked():
                if self.asker is not None:
                    self.asker.told(effect)
            case Cancel():
                if self.repliers is not None:
                    self.repliers.cancel(effect.box, effect.ranges)
            case Dispatched():
                self.holdings.outboxes.dispatched(effect)
            case Returned():
                self.holdings.outboxes.returned(effect)
            case Withdrawn():
                self.withdrawn(effect)
            case Reopen():
                self.holdings.raise_epoch(effect.box, effect.floor_epoch)
            case Prove():
                if (obituary := around.ending(effect.instance)) is not None:
                    self.core.buried(effect.instance, now, obituary)
            case Look():
                looked, stirs = around.looked(effect.instance)
                self.core.looked(effect.instance, looked, now, stirs=stirs)
            case Say():
                around.history.tell("say", self.instance, effect.topic, effect.instance)
                if effect.topic == "state" and self.topics is not None and self.topics.durable is not None:
                    self.topics.durable.met([*effect.channels, *self.core.owner.channels_served()])
            case _:
                pass

    def link_to_itself(self) -> None:
        """What this process owns and serves itself goes by a link of its own."""
        if self.core.worker.services and OWNER_END not in self.core.links:
            now = self.around.timeline.now
            self.core.opened(OWNER_END, now, ours=True, side="owner")
            self.core.opened(WORKER_END, now, ours=False, side="worker")

    def _loops(self, conn: int, data: bytes) -> None:
        self.around.timeline.after(0.0, lambda: self.hears(conn, data))
