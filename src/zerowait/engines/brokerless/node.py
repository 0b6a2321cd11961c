"""The network thread: it drives the pure protocol with real sockets, clocks and files, and has no logic of its own.

One turn: read what has arrived, then what other threads left (segments that are stored, runs that have ended, calls),
then timers; then everything that follows from it leaves together. After a pause of the whole process what has arrived
is read before a timer fires, so nobody is called silent who was only not heard (rules §3.5).

What is done in a turn is elsewhere: `performing` (what the protocol wants), `outboxes` (what they offer, and what
becomes of it), `finding` and `contacts` (whom to dial), `footing` (what others find of us), `loop` (what we send to
ourselves), `herald`, `views` and `concerns` (what is told and shown), `calls` (of other threads).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol, TypeVar

from zerowait.callbacks import begin
from zerowait.engines.brokerless import unbegun_file
from zerowait.engines.brokerless.addresses import AddressBook
from zerowait.engines.brokerless.calls import Calls
from zerowait.engines.brokerless.clock import clock
from zerowait.engines.brokerless.concerns import Concerns
from zerowait.engines.brokerless.contacts import Contacts
from zerowait.engines.brokerless.counter import Counter
from zerowait.engines.brokerless.directory import Directory
from zerowait.engines.brokerless.finding import Finder, Wanted
from zerowait.engines.brokerless.footing import Footing, identity_of
from zerowait.engines.brokerless.hands import Hands
from zerowait.engines.brokerless.herald import Herald
from zerowait.engines.brokerless.loop import OWNER_END, Loop
from zerowait.engines.brokerless.outboxes import Box, Outboxes, Questions
from zerowait.engines.brokerless.outlets import Outlets
from zerowait.engines.brokerless.performing import Performer
from zerowait.engines.brokerless.protocol import ending
from zerowait.engines.brokerless.protocol.config import Config
from zerowait.engines.brokerless.protocol.core import OBITUARIES, Core
from zerowait.engines.brokerless.protocol.effects import Say
from zerowait.engines.brokerless.protocol.frames import FRAME_BYTES
from zerowait.engines.brokerless.protocol.link import Mismatch
from zerowait.engines.brokerless.protocol.subscriber.subscriber import Wanted as Subscription
from zerowait.engines.brokerless.resolve import Resolver
from zerowait.engines.brokerless.silence import Silence
from zerowait.engines.brokerless.started import Started
from zerowait.engines.brokerless.telling import Stays, addresses_in_words
from zerowait.engines.brokerless.topical import Topical
from zerowait.engines.brokerless.unread import Unread
from zerowait.engines.brokerless.views import PeerView, TopicView, Views
from zerowait.engines.brokerless.wire import (
    Heard,
    Lost,
    Opened,
    PlainDialled,
    PlainHeard,
    PlainJoined,
    PlainParted,
    Wire,
    raise_descriptor_limit,
)
from zerowait.engines.engine import Handlers
from zerowait.errors import ZerowaitError
from zerowait.message import Bury, Change
from zerowait.names import new_id
from zerowait.settings import Settings
from zerowait.turns import Turn

log = logging.getLogger("zerowait.node")
T = TypeVar("T")
# ZeroMQ's own heartbeat is the backstop of ours: it gives peers up whose words lie unread before its thread, and of
# three thousand quiet ones each frame of it counts. So it asks as seldom as we give up, and waits this much longer.
BACKSTOP = 3


class Plainly(Protocol):
    """What is done with bare ZeroMQ sockets, on the network thread."""

    def open(self, wire: Wire) -> None: ...
    def heard(self, event: PlainHeard | PlainJoined | PlainParted | PlainDialled) -> None: ...
    def turn(self) -> float | None: ...
    def has_work(self) -> bool: ...
    def has_kept(self) -> bool: ...
    def drain(self) -> None: ...
    def leave(self) -> None: ...


class Node:
    """submit: hands changes of a durable outbox, decided for that epoch, to the store thread, and gives their number.
    pressure: how full our outboxes are, given what that was before. waiting: channels with something unsettled.
    reopen: opens an outbox again with an epoch above the floor, and then calls `outboxes.reopened`.
    answer: a question of the command line, and how to reply. error: opening went wrong; nothing will ever be sent."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        *,
        submit: Callable[[int, int, Sequence[Change], dict[str, int]], int],
        reopen: Callable[[int, int], None],
        answer: Callable[[bytes, Callable[[bytes], None]], None],
        notice: Callable[[Say, str], None],
        buried: Callable[[int, Bury], None],
        lonely: Callable[[str, Sequence[str], Mapping[str, str]], None],
        wall_us: Callable[[float], int],
        plainly: Plainly,
        pressure: Callable[[int], int],
        waiting: Callable[[], Collection[str]],
        topical: Callable[[Callable[[], None]], Topical],
    ) -> None:
        self.name = name
        self.settings = settings
        self.instance = new_id()
        self.directory: Directory | None = None
        self.endpoints: list[str] = []
        self.error: ZerowaitError | None = None
        self.counter: Counter | None = None  # as soon as there is one, `core` is there, too
        self.outboxes = Outboxes(name, submit=submit, buried=buried, wake=self.wake)
        self._reopen = reopen
        self._answer = answer
        self._notice = notice
        self._lonely = lonely
        self._wall_us = wall_us
        self._plainly = plainly
        self._pressed = 0
        self._pressure = pressure
        self._waiting = waiting
        self.topical = topical(self.wake)
        self._thread: threading.Thread | None = None
        self._wire: Wire | None = None
        self._turning = Turn()  # while the thread is awake
        self._stopping = False
        self._is_final = False
        self._leaving = False
        self._is_to_announce = False  # topics have come or gone in this turn
        self._calls = Calls(name, self.wake)
        self._wanted = Wanted(self.wake)
        self._unread = Unread()
        self._plain_again: float | None = None  # in how many seconds a bare socket is to be tried again
        self._since_us = wall_us(clock())

    # -- any thread ------------------------------------------------------------------------------------------------

    def start(self, started: Callable[[ZerowaitError | None], None]) -> None:
        """Starts the thread; `started` is called on it when it listens, or with what went wrong."""
        self._thread = threading.Thread(
            target=self._run, args=(started,), name=f"zerowait network {self.name}", daemon=True
        )
        begin(self._thread)

    def wake(self) -> None:
        if self._wire is not None:
            self._wire.wake()

    def give_way(self) -> None:
        """For a thread that pushes without a pause. While there is nobody to carry anything to, there is no hurry."""
        if self.counter is not None and self.core.links:
            self._turning.give_way()

    def call(self, fn: Callable[[], T]) -> Future[T]:
        """Runs `fn` on the network thread."""
        return self._calls.call(fn)

    def want(self, channel: str) -> None:
        """Something is or will be pushed to this channel: its workers are to be found."""
        self._wanted.add(channel)

    def ask_for(self, channel: str) -> None:
        """Somebody asks who serves this channel, which nothing need be pushed to."""
        self._wanted.ask(channel)

    def declare(self, channel: str, description: bytes) -> None:
        """What is or will be pushed to this channel, as `contract.packed` gives it: to be said before the first push.
        Workers that expect another type get nothing of it."""

        def tell() -> None:
            self._wanted.forget(self.core.declare(channel, description, self._waiting))
            self._wanted.add(channel)  # it may have been forgotten just after whoever declares it had found it there
            self._herald.changed()

        self.call(tell)

    def other_kind(self, channel: str, kind: str = "push") -> tuple[str, str] | None:
        """If a peer serves this channel as another kind than that: its kind, and who."""
        return self._herald.other_kind(channel, kind) if self.counter is not None else None

    def use(self, channel: str, kind: str, *, idempotent: bool) -> None:
        """This process asks at that channel, which is of this kind: to be said before `declare`."""

        def tell() -> None:
            self.core.owner.sender.use(channel, kind, idempotent=idempotent)
            self._herald.changed()

        self.call(tell)

    def list_started(self, slots: int) -> Started | None:
        """Where the runners say what they are at, a slot each, for whoever finds this process dead."""
        return self.directory.list_started(self.instance, slots) if self.directory is not None else None

    def list_unbegun(self) -> None:
        """From now on the desk says what has not begun, for whoever finds this process held. To be called before
        anything is served."""
        if self.directory is None or self.core.worker.desk.is_listed():
            return
        unbegun = self.directory.list_lying(self.instance)
        if unbegun is not None:
            self.call(lambda: self.core.worker.list_unbegun(unbegun, clock))

    def announce_topic(self, pattern: str, fingerprint: bytes, description: bytes, history: int) -> None:
        """This process publishes there: to be said before the first event."""

        def tell() -> None:
            if self.topical.announce(pattern, fingerprint, description, history):
                self._self_link()
                self._is_to_announce = True
                self._wanted.look_at = 0.0

        self.call(tell)

    def subscribe(self, wanted: Subscription) -> Future[None]:
        """This process wants these events."""

        def tell() -> None:
            self.topical.subscribe(wanted)
            self._self_link()
            self._performer.perform(clock())
            while self._loop:  # what this process publishes from here on is for it, too
                self._loop.carry(clock())
                self.core.flush(clock())
                self._performer.perform(clock())
            self._is_to_announce = True
            self._wanted.look_at = 0.0

        return self.call(tell)

    def seek(self, pattern: str) -> None:
        """Who publishes this is to be found, whether it is subscribed to or not."""

        def tell() -> None:
            self.topical.seek(pattern)
            self._is_to_announce = True
            self._wanted.look_at = 0.0

        self.call(tell)

    def unsubscribe(self, id: int) -> None:
        def tell() -> None:
            self.topical.unsubscribe(id)
            self._is_to_announce = True

        self.call(tell)

    def served_here(self, topic: str) -> tuple[str, str] | None:
        """If a peer serves a channel of this name that is no topic: its kind, and who. Any thread."""
        if self.counter is None:
            return None
        return self._herald.served(topic) or self._contacts.serving(topic)

    def subscribers(self, pattern: str) -> list[str]:
        """Who has subscribed to something of this, by name."""
        return self._views.subscribers(pattern) if self.counter is not None else []

    def publishers(self, pattern: str) -> list[str]:
        """Who publishes something of this, by name."""
        return self.core.subscriber.publishers(pattern) if self.counter is not None else []

    def in_flight(self, box: int) -> dict[str, int]:
        """How many messages of each channel are in flight."""
        return self.core.owner.in_flight(box) if self.counter is not None else {}

    def peers(self) -> list[PeerView]:
        return self._views.peers(clock()) if self.counter is not None else []

    def topics(self) -> list[TopicView]:
        return self._views.topics() if self.counter is not None else []

    def workers(self, channel: str) -> list[str]:
        """Who serves this channel now, by name."""
        return self._views.workers(channel) if self.counter is not None else []

    def there_for(self, channel: str, box: int) -> Stays:
        """Who may take what this outbox has for the channel; else why nobody is there. On the network thread."""
        served, unfit = self._views.there_for(channel, box)
        tried = addresses_in_words(self.troubles(channel))
        return Stays(served=served, unfit=unfit, unmet=self._silence.unmet(channel, clock()), tried=tried)

    def misfits(self, channel: str) -> list[tuple[str, Mismatch]]:
        """Who serves this channel and expects another type than is pushed here: name, and the difference."""
        return self._views.misfits(channel) if self.counter is not None else []

    def served(self) -> list[str]:
        """The channels that somebody serves, as far as is known. On the network thread."""
        return sorted({*self.core.owner.sender.kinds_served(), *self._contacts.channels()})

    def troubles(self, channel: str) -> Mapping[str, str]:
        """The addresses that settings name for this channel, and what is wrong there. On the network thread."""
        return self._contacts.troubles(channel)

    def silent(self, channel: str) -> str:
        """A sentence: who serves this channel and does not answer; "": nobody. On the network thread."""
        return self._silence.of(channel, clock())

    def when_peers_change(self, look: Callable[[], bool]) -> None:
        """Calls `look` on the network thread, now and at each change, until it gives True."""
        self.call(lambda: self._herald.watch(look))

    def stop(self, *, final: bool) -> None:
        """Says goodbye, closes all sockets, ends the thread. Waits at most about two seconds."""

        def leave() -> None:
            self._is_final = final
            self._leaving = True

        thread = self._thread
        if thread is not None and (thread.is_alive() or thread.ident is None):  # None: it is being started
            self.call(leave)
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(2.0)

    # -- on the network thread, through `call` -------------------------------------------------------------------------

    def own(self, box: Box, types: Mapping[str, Sequence[bytes]] | None = None, *, keeps: bool = False) -> None:
        """This process has opened that outbox. types: channel → of what lies in it already. keeps: outcomes of its own
        that are to be on disk lie there."""
        if keeps:
            self.core.keep_in(box.id)
        self.outboxes.own(box, types or {})
        # What waits for workers of an earlier life need not wait for those that are proved dead.
        for instance in box.noted:
            if self.directory is not None and self.directory.is_over(instance):
                obituary, name = self.directory.ending(instance), self.directory.called(instance)
                self.core.buried(instance, clock(), obituary, name)
        self._self_link()
        self._announce()

    def ask(self, questions: Questions) -> None:
        """This process asks: the outbox of its requests."""
        self.outboxes.ask(questions)
        self._self_link()
        self._announce()

    def drop(self, epoch: int, first: int, count: int) -> None:
        """Nobody waits for the answers to these any more."""
        self.core.owner.asks.cancel(self.instance, epoch, first, count)

    def feed(self, number: int, limit: int, over: bool) -> None:
        """The reader of that stream takes so many units in all; over: he has all."""
        self.core.owner.asks.feed(self.instance, number, limit, over=over)

    def give_back(self, box: int) -> bool:
        """Disowns it if nothing of it is in flight or on its way to the file; whether it did."""
        if not self.outboxes.is_at_rest(box):
            return False
        self.outboxes.part(box)
        self.outboxes.disown(box)
        self._announce()
        return True

    def serve(self, handlers: Handlers) -> None:
        self._hands.serve(handlers)
        self._self_link()
        self._announce()

    def _self_link(self) -> None:
        # Who has taken over what was sent for messages of its own asks itself which of it may leave.
        own, sought = self.core.owner.custody, self.core.worker.claims.sought()
        if (self._hands and self.outboxes) or self.core.subscriber.wanted or not own.keys().isdisjoint(sought):
            self._loop.open(clock())

    def drain(self) -> None:
        """No more work: what has not begun is handed back."""
        self.core.drain()
        if self.directory is not None:
            self.directory.drain()
        self._plainly.drain()
        self._announce()

    def forget_handlers(self) -> None:
        """They are closed: nothing of them turns any more, and nothing is wrong with that."""
        self._hands.forget()

    def is_drained(self) -> bool:
        return self.core.is_drained()

    def is_settled(self, patient: bool = False) -> bool:
        """Whether waiting any longer is of no use for what this process sends (rules §11.2). patient: it is of use too
        while somebody who is known has not said whether he takes what waits. One question, for who answers between two
        would be missed by both."""
        if patient and (ending.may_answer(self.core) or self._contacts.unanswered()):
            return False
        if self.outboxes.offers():  # calls are answered before these are taken
            return False
        if not ending.is_settled(self.core) or not self.topical.is_settled():
            return False
        plainly = self._plainly
        return not self._outlets.has_fragments() and not plainly.has_work() and not plainly.has_kept()

    def has_finished_own(self) -> bool:
        """Whether nothing waits or is in flight of what this process pushes to channels that it serves itself."""
        return not self.outboxes.offers() and ending.has_finished_own(self.core, OWNER_END)

    # -- for the parts -------------------------------------------------------------------------------------------------

    def _has_unread(self, conn: int) -> bool:
        return self._wire is not None and self._wire.has_unread(conn)

    def _whence(self, conn: int) -> str:
        """Of somebody who has not said his name."""
        return self._contacts.address_of(conn) or f"somebody who dialled {' or '.join(self.endpoints)}"

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self, started: Callable[[ZerowaitError | None], None]) -> None:
        try:
            self._open()
        except ZerowaitError as error:
            self.error = error
        except Exception as error:
            log.exception("the network thread could not start")
            self.error = ZerowaitError(f"The network thread could not start: {error!r}")
        if self.error is not None:
            if self._wire is not None:
                self._wire.close()
            self._calls.end(self.error)
            started(self.error)
            return
        started(None)
        self._turning.begin()
        try:
            while not self._stopping:
                try:
                    self._turn()
                except Exception:  # a bug of ours must cost a line in the log, not everything that waits
                    log.exception("an error in the network thread; it goes on")
                    time.sleep(0.05)
        finally:
            self._turning.end()
            assert self._wire is not None
            assert self.directory is not None
            self._calls.end()
            self._resolver.close()
            self._performer.close()
            self._wire.close()
            unbegun_file.close(self.core.worker.desk.unlist())
            # Who has served may be noted in outboxes that nobody has open: they need the proof that it is over.
            self.directory.leave(settled=self._is_final and not self.core.worker.services)

    def _open(self) -> None:
        settings = self.settings
        self.directory = directory = Directory(settings.home_folder(), settings.namespace)
        me = directory.enter(self.instance, self.name)
        config = Config(
            ping=settings.ping,
            silence=settings.silence,
            resume_grace=settings.resume_grace,
            prefetch=settings.prefetch,
            handshake=settings.handshake_timeout,
            message_bytes=settings.message_bytes,
            outcome_keep=settings.outcomes_days * 86_400.0,
            undecided_after=settings.undecided_after,
            drain=settings.drain,
            crash_limit=settings.crash_limit,
            no_responder=settings.no_responder,
        )
        self.core = core = Core(
            identity_of(me), config, lock=threading.Lock(), wall_us=self._wall_us, has_unread=self._has_unread
        )
        core.inherit([directory.ending(instance) for instance in directory.ended(self.name, OBITUARIES)])
        self.outboxes.open(core)
        self.topical.open(core)
        self._loop = Loop(core)
        self._resolver = Resolver(on_change=self.wake)
        self._contacts = contacts = Contacts(
            me.instance, AddressBook(settings.addresses), self._resolver.resolve, random.random
        )
        self._herald = Herald(self._wanted, core, self._notice, self._whence, contacts.address_of)
        self._silence = Silence(core, contacts, directory.is_dead)
        self._views = Views(core, contacts, self._herald.is_asker, self._herald.name)
        self._concerns = Concerns(self._wanted, core.owner, contacts, say=self._herald.say, lonely=self._lonely)
        counter = Counter(core.worker.desk, clock, self.wake)
        self._hands = Hands(core, counter)
        self.counter = counter
        if (files := raise_descriptor_limit()) < settings.connections:
            log.info(
                "this process may open %d files, and has `connections = %d`: at that limit newcomers are turned away. "
                "Raise the hard limit (ulimit -Hn, LimitNOFILE=) to have more",
                files,
                settings.connections,
            )
        self._wire = wire = Wire(
            frame_bytes=FRAME_BYTES,
            connections=settings.connections,
            handshakes=settings.handshakes,
            handshake_s=settings.handshake_timeout,
            heartbeat_s=settings.silence,
            silence_s=BACKSTOP * settings.silence,
        )
        self._outlets = Outlets(wire.send)
        self._finder = Finder(self._wanted, core, directory, contacts, wire, self._resolver.refresh)
        self._footing = Footing(directory, me, wire, self._since_us, become=core.become, own=contacts.own)
        self._performer = Performer(
            core, wire, directory, outlets=self._outlets, loop=self._loop, outboxes=self.outboxes, finder=self._finder,
            contacts=contacts, hands=self._hands, reopen=self._reopen, say=self._told,
            answer=self._answer, call=self.call,
        )  # fmt: skip
        self._footing.listen([settings.listen] if isinstance(settings.listen, str) else list(settings.listen))
        self.endpoints = self._footing.endpoints
        self._announce()
        self._plainly.open(wire)

    def _told(self, said: Say) -> None:
        if said.topic == "state":  # a durable group may have come
            self.topical.met([*said.channels, *self.core.owner.channels_served()])
        self._silence.say(said)
        self._herald.say(said)

    def _announce(self) -> None:
        worker = self.core.worker
        serves = {} if worker.draining else {each.channel: each.kind for each in worker.services.values()}
        finder, topical = self._finder, self.topical
        finder.publishes, finder.subscribes = topical.publishes(), topical.subscribes()
        self._footing.announce(serves, self.outboxes, finder.publishes, finder.subscribes)

    def _turn(self) -> None:
        wire, core = self._wire, self.core
        assert wire is not None
        core.worker.desk.unbegun.beat()
        timeout = 0.0 if self._has_work() else self._rest(clock())
        self._turning.end()
        try:
            events = wire.poll(timeout)
        finally:
            self._turning.begin()
        now = clock()
        for event in events:
            match event:
                case Heard():
                    if event.first:
                        core.opened(event.conn, now, ours=False)
                    core.receive(event.conn, event.frame, now)
                case Opened():
                    core.opened(event.conn, now, ours=True)
                case Lost():
                    self._outlets.forget(event.conn)
                    self._finder.lost(event.conn, event.reason, now)
                    core.lost(event.conn, now, event.reason)
                case PlainHeard() | PlainJoined() | PlainParted() | PlainDialled():
                    self._plainly.heard(event)
        core.read_until = self._unread.read(len(core.links), now, is_behind=wire.is_behind())
        self._loop.carry(now)
        self._from_others(now)
        # What has come goes on before anything else is looked at: somebody may wait for it.
        core.flush(now)
        self._perform(now)
        self.topical.allow()
        self._plain_again = self._plainly.turn()
        if self._is_to_announce:  # once for a thousand subscriptions: it writes a file with the names of all of them
            self._is_to_announce = False
            self._announce()
        self._look(now)
        self._hands.feel()
        if self._hands and (pressed := self._pressure(self._pressed)) != self._pressed:
            self._pressed = pressed
            core.bound(pressed)
        core.wake(now)
        core.flush(now)
        self._perform(now)
        if self._outlets:
            self._outlets.flush()
        if self._leaving and not self.outboxes.offers():  # what was committed last is confirmed before the last word
            core.farewell(now, final=self._is_final)
            self._performer.perform(now)
            self._plainly.leave()
            for box in self.outboxes:
                self.outboxes.part(box)
            self._stopping = True

    def _perform(self, now: float) -> None:
        self._performer.perform(now)
        self._herald.look()

    def _has_work(self) -> bool:
        return bool(
            self._calls
            or self.outboxes.has_work()
            or self._loop
            or self._outlets.has_fragments()
            or self.counter
            or self.topical.has_work()
            or self._plainly.has_work()
        )

    def _rest(self, now: float) -> float:
        """How long there is nothing to do, if nothing comes."""
        times = [self._wanted.look_at]
        if (at := self.core.next_wake()) is not None:
            times.append(at)
        if (due := self.outboxes.next_due()) is not None:
            times.append(now + due)
        if self._plain_again is not None:
            times.append(now + self._plain_again)
        return max(0.0, min(times) - now)

    def _from_others(self, now: float) -> None:
        # An outbox is announced by a call before its first offer: so those that came before the calls, and no others.
        offers = self.outboxes.offers()
        self._calls.run()
        self.outboxes.take(offers)
        self._hands.take()
        self.outboxes.begin()
        self.topical.take(now)

    def _look(self, now: float) -> None:
        if now < self._wanted.look_at:
            return
        self._wanted.look_at = now + self._finder.pause()
        self._hands.watch()
        self._footing.mend()
        self._finder.look(now)
        self._self_link()
        self.topical.met([*self._contacts.groups(), *self.core.owner.channels_served()])
        published = {served.channel for link in self.core.links.values() for served in link.topics}
        self.topical.look(now, published | self._contacts.published())
        self._concerns.look(now)
