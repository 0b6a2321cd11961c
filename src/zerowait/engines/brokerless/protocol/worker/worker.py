"""The worker's side: what is said about messages of others' outboxes, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

from msgspec.structs import replace

from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.config import Config
from zerowait.engines.brokerless.protocol.effects import Cancel, Effects
from zerowait.engines.brokerless.protocol.frames import (
    ALONE,
    LANES,
    ORDINARY,
    Batch,
    Confirm,
    Credit,
    Drop,
    Goodbye,
    Held,
    Outcome,
    Owned,
    Part,
    Want,
)
from zerowait.engines.brokerless.protocol.link import Link
from zerowait.engines.brokerless.protocol.owner.credit import units
from zerowait.engines.brokerless.protocol.worker.arrival import parcels_of
from zerowait.engines.brokerless.protocol.worker.claims import Claims
from zerowait.engines.brokerless.protocol.worker.desk import Desk
from zerowait.engines.brokerless.protocol.worker.lanes import Lanes
from zerowait.engines.brokerless.protocol.worker.memory import Memory
from zerowait.engines.brokerless.protocol.worker.neighbours import Neighbours, neighbours
from zerowait.engines.brokerless.protocol.worker.outcomes import Answer, Dispatch, Known, Outcomes, answer_frames
from zerowait.engines.brokerless.protocol.worker.owners import Owners
from zerowait.engines.brokerless.protocol.worker.parcel import Back, Taken
from zerowait.engines.brokerless.protocol.worker.streams import Outflow, Streams
from zerowait.engines.brokerless.protocol.worker.unbegun import Unbegun
from zerowait.engines.brokerless.protocol.worker.window import Window
from zerowait.message import BODY_START, Kept, Service, Verdict
from zerowait.message import Outcome as Ended
from zerowait.numbers import Numbers

Finished = tuple[Taken, int, int, Ended | None]
NOBODY = 0  # no connection has that number: suspects count in the window as what is held from elsewhere


class Worker:
    def __init__(self, effects: Effects, config: Config, lock: AbstractContextManager[object]) -> None:
        self._effects = effects
        self._config = config
        self.desk = Desk(lock)
        self.memory = Memory()
        self.lanes = Lanes(config, self.desk, self.memory.is_told)
        self.owners = Owners(config)
        self.claims = Claims(effects, config, self.memory, self.owners.link)
        self.streams = Streams(effects, self.owners.link, self.desk.lies)
        self.outcomes = Outcomes(effects, self.owners)
        self.windows: dict[str, Window] = {}
        self.services: dict[str, Service] = {}
        self.answers = False  # it serves, or has served, channels of requests
        self.draining = False
        self._keeping: set[str] = set()  # channels of which every outcome is kept
        self._pressure = 0
        self._stood = False  # it stood still for a suspect when credit was shared last
        self._pauses = False  # nothing is taken: the handlers' loop stands, or one has been running alone for long
        self._links: dict[int, Link] = {}
        self._dirty: set[str] = set()

    def list_unbegun(self, unbegun: Unbegun, clock: Callable[[], float]) -> None:
        """From now on that list says what has not begun of what comes."""
        for box in self.owners.present():
            fence = self.owners.fence(box)
            unbegun.met(box, fence, _read(self._held(box, 0, fence), self.memory.replay(box)))
        self.desk.list_unbegun(unbegun, clock)

    def serve(self, services: Sequence[Service]) -> None:
        """All that is served from now on. What is queued of a channel that is not among it is handed back by `unserve`,
        after peers were told."""
        self.services = {service.channel: service for service in services}
        self._keeping = {service.channel for service in services if service.keeps}
        self.answers = self.answers or any(service.kind in ("request", "stream") for service in services)
        for service in services:
            window = self.windows.get(service.channel)
            if window is None:
                window = self.windows[service.channel] = Window(
                    service.channel, service.concurrency, self._config, service.prefetch
                )
                for conn in self._links:
                    window.joined(conn)
            window.closed = self.draining  # one that was served before goes on counting where it was
            self._dirty.add(service.channel)
        pressure, self._pressure = self._pressure, 0
        self.bound(pressure)

    def description(self, fingerprint: bytes) -> bytes | None:
        """Of the type of that fingerprint, if something of it is served."""
        found = (s.description for s in self.services.values() if s.fingerprint == fingerprint and s.description)
        return next(found, None)

    def unserve(self) -> None:
        for channel, window in self.windows.items():
            if channel not in self.services and not window.closed:
                window.closed = True
                self._hand_back(channel)

    def bound(self, pressure: int) -> None:
        """How full the outboxes are in which what handlers send is to lie: 0, not; 1, pushes are refused, and messages
        are taken one by one; 2, none of others is taken, for outputs of runs that have begun always are. What this
        process has pushed itself is taken even then: nothing else would make room (rules §6.7)."""
        if pressure == self._pressure:
            return
        self._pressure = pressure
        own = next((link.conn for link in self._links.values() if link.side == "worker"), NOBODY)
        for channel, service in self.services.items():
            if service.sends:
                self.windows[channel].bound(1 if pressure else None, own if pressure == 2 else None)
                self._dirty.add(channel)
                if pressure and not self.draining:
                    self._hand_back(channel)  # others have room, or its sender keeps it

    def own(self, home: int, kept: Iterable[Kept], now: float) -> None:
        """An outbox of this process is open, with what an earlier life has kept in it."""
        self.claims.opened(home, kept, now)

    def disown(self, home: int) -> None:
        self.claims.closed(home)

    # -- links -----------------------------------------------------------------------------------------------------

    def opened(self, link: Link) -> None:
        if link.side == "owner":
            return
        self._links[link.conn] = link
        for window in self.windows.values():
            window.joined(link.conn)
        self._dirty.update(self.windows)

    def announced(self, link: Link, before: Iterable[Owned], now: float) -> None:
        """Its STATE names its outboxes: what we know and hold of each new one is said, and none of it starts before
        the answer."""
        known = {owned.box: owned.epoch for owned in before}
        for owned in before:
            if owned.box not in link.boxes:
                self._lost(owned, link, now)
        for owned in link.boxes.values():
            if known.get(owned.box) == owned.epoch:
                continue
            fence = self.owners.fence(owned.box)
            if owned.epoch < fence:
                self._fence(link, owned.box, fence)
                continue
            self.owners.announced(owned, link)
            self.claims.met(owned.box)
            self.memory.opened(owned.box, owned.epoch, self.desk.epochs(owned.box))
            for number, note in self.streams.fit(owned.box, link) if self.streams else ():
                self.memory.amend(owned.box, number, note)
            ended = self.memory.replay(owned.box, link.message_bytes)
            for outcome in ended:
                self._effects.send(link.conn, outcome)
            serial = link.held[owned.box] = link.held.get(owned.box, 0) + 1
            held = self._held(owned.box, serial, owned.epoch)
            self.desk.unbegun.met(owned.box, owned.epoch, _read(held, ended))
            self._effects.send(link.conn, held)

    def _held(self, box: int, serial: int, epoch: int) -> Held:
        """What lies here of an outbox. What has ended and is not on our disk yet cannot be said: it still runs."""
        held = self.desk.held(box, serial, epoch)
        if self.memory.kept and (unsaid := self.memory.kept.unsaid_of(box)):
            held = replace(held, running=(*held.running, *unsaid))
        return held

    def _fence(self, link: Link, box: int, fence: int) -> None:
        words = f"outbox {box:016x} has been opened by somebody else since (its epoch is {fence} now)"
        self._effects.send(link.conn, Goodbye(frames.FENCED, words, box, fence))

    def closed(self, link: Link, now: float) -> None:
        if self._links.pop(link.conn, None) is None:
            return
        for window in self.windows.values():
            window.left(link.conn)
        self.lanes.lost(link.conn)
        self._dirty.update(self.windows)
        for owned in link.boxes.values():
            self._lost(owned, link, now)
        self.outcomes.closed()

    def _lost(self, owned: Owned, link: Link, now: float) -> None:
        if self.owners.link(owned.box) is link:
            self.claims.lost(owned.box, now)
        self.owners.lost(owned, link, now)

    def owner_gone(self, boxes: Iterable[Owned], now: float, *, final: bool = False) -> None:
        """An owner is dead, has left or has not come back within its grace: what is queued of it goes, so that it
        does not fill the window. The outcomes of a durable outbox stay for days, for whoever opens it next; those of
        one in memory go with it (rules §2.6), and all of them if it said itself that it has none left."""
        for owned in boxes:
            if self.owners.link(owned.box) is not None:
                continue  # somebody else has opened it
            self._release(self.desk.leave(box=owned.box))
            if self.answers:
                self._effects.add(Cancel(owned.box))  # what is pushed runs on; nobody waits for what was asked
            if owned.durable and not final:
                self.owners.keep(owned, now)
            else:
                if final:
                    self.claims.over(owned.box)
                self._forget(owned.box, claims=final)

    def _forget(self, box: int, *, claims: bool) -> None:
        """claims: also those of which it is not known whether they were chosen."""
        if self.memory.kept:
            self.claims.dropped(box, claims=claims)
        self.desk.unbegun.forget(box)
        self.memory.drop(box)
        self.owners.forget(box)
        self.streams.drop(box)

    def renew(self, link: Link, until: float, now: float) -> None:
        """A PONG: the owner of these outboxes knew us alive, and cannot have taken anything back before that time."""
        self.owners.renew(link, until)
        self._wake_runners(now)

    def _wake_runners(self, now: float) -> None:
        for channel in self.windows:
            if self.desk.queued(channel) and self.desk.may_start(channel, now):
                self._effects.ready(channel)

    # -- frames ----------------------------------------------------------------------------------------------------

    def receive(self, link: Link, frame: Batch | Confirm | Drop | Want, now: float) -> None:
        match frame:
            case Batch():
                self._batch(link, frame, now)
            case Confirm():
                if self.owners.link(frame.box) is link:
                    if self.memory.kept:
                        for part in frame.parts:
                            self.claims.confirm(frame.box, part, chosen=frame.chosen)
                    self.memory.confirm(frame.box, frame.parts)
                    self.lanes.confirmed(frame.box, frame.parts)
                    self.outcomes.handed_back.difference_update((frame.box, part) for part in frame.parts)
            case Drop():
                if self.owners.link(frame.box) is link:
                    self._drop(link, frame, now)
            case Want():
                self._want(link, frame)

    def _want(self, link: Link, want: Want) -> None:
        window = self.windows.get(want.channel)
        if window is None:
            return
        if want.lane == ORDINARY:
            window.want(link.conn, want)
            self._dirty.add(want.channel)
        elif want.lane < LANES:
            self.lanes.want(link.conn, want)

    def _batch(self, link: Link, batch: Batch, now: float) -> None:
        count = frames.check_batch(batch)
        fence = self.owners.fence(batch.box)
        if batch.fence >= fence and self.owners.link(batch.box) is not link:
            words = f"a BATCH of outbox {batch.box:016x}, which it has not announced"
            raise frames.ProtocolError(frames.UNEXPECTED, words)
        cost = units(count, len(batch.body) - BODY_START)
        window = self.windows.get(batch.channel)
        conn = link.conn
        if batch.lane != ORDINARY:
            if not ORDINARY < batch.lane < LANES or count != 1:
                words = f"a BATCH of {count} messages in lane {batch.lane}"
                raise frames.ProtocolError(frames.UNEXPECTED, words)
            conn = NOBODY
            self.lanes.received(link.conn, batch.channel, batch.lane, cost)
        if window is not None:
            window.received(conn, cost, now)
            self._dirty.add(batch.channel)
        if batch.fence < fence:
            self._fence(link, batch.box, fence)
            taken = 0
        else:
            taken = self._admit(link, batch, count, cost / count, window, now)
        if window is not None and taken < count:
            window.released(conn, cost * (count - taken) / count)
        if batch.lane == ALONE and not taken and self.lanes.expects(link.conn, batch.channel):
            self.lanes.refused(now)

    def _admit(self, link: Link, batch: Batch, count: int, cost: float, window: Window | None, now: float) -> int:
        """How many of its messages are queued here from now on."""
        self.desk.unbegun.came(batch.box, batch.fence, batch.n)
        sorted_ = self.memory.sort(batch.box, batch.epoch, batch.ranges, self.desk.here(batch.box, batch.epoch))
        if sorted_.superseded:
            self.claims.superseded(batch.box, sorted_.superseded)
        if sorted_.known:
            most = link.message_bytes
            for outcome in self.memory.again(batch.box, batch.epoch, sorted_.known, batch.fence, batch.n, most):
                self._effects.send(link.conn, outcome)
        if sorted_.here:
            self.desk.retag(batch.box, batch.epoch, sorted_.here, batch.fence, batch.n)
        if not sorted_.fresh:
            return 0
        permit = self.owners.permit(batch.box)
        is_late = batch.lane == ALONE and not (
            self.lanes.expects(link.conn, batch.channel) and permit.allows(now) and not self._pauses
        )
        if window is None or window.closed or is_late:
            # A channel that was taken out of STATE, or all of them, or one alone for whom nothing stands still any
            # more: nothing is discarded, the owner keeps it.
            parts = tuple(Part(batch.epoch, first, many, batch.fence, batch.n) for first, many in sorted_.fresh)
            self.outcomes.tell(batch.box, Verdict.UNSTARTED, parts)
            return 0
        parcels = parcels_of(link, batch, count, sorted_.fresh, permit, cost, now)
        self.desk.admit(parcels, now)
        if batch.lane != ORDINARY:
            name = batch.box, batch.epoch, sorted_.fresh[0][0]
            self.lanes.admitted(link.conn, batch.channel, batch.lane, name, now)
        self._effects.ready(batch.channel)
        return sum(many for _, many in sorted_.fresh)

    def _drop(self, link: Link, frame: Drop, now: float) -> None:
        unstarted: list[Part] = []
        started: list[Part] = []
        for epoch, first, count in frame.ranges:
            dropped, running = self.desk.drop(frame.box, epoch, first, count)
            self._release(dropped)
            unstarted.extend(part for back in dropped for part in back.parts)
            started.extend(running)
        if unstarted:
            self.outcomes.tell(frame.box, Verdict.UNSTARTED, unstarted)
        if frame.cancel:
            self.streams.left(frame.box, frame.ranges, started)
        if started and frame.cancel:
            self._effects.add(Cancel(frame.box, frame.ranges))
        elif started and not frame.answers:
            self.outcomes.tell(frame.box, Verdict.STARTED, started)
        if frame.answers and frame.answers == link.held.get(frame.box):
            self.owners.permit(frame.box).resuming = False
            if self.streams:
                self.streams.resumed(frame.box, link.conn)
            self._wake_runners(now)

    # -- what the runners report -----------------------------------------------------------------------------------

    def finish(self, finished: Iterable[Finished]) -> None:
        """These runs have ended. What was handled is said in as few frames as it takes."""
        handled: dict[Dispatch, list[tuple[int, int]]] = {}
        kept: dict[Dispatch, list[tuple[int, int]]] = {}
        answers: dict[tuple[int, str], list[Answer]] = {}
        released: dict[tuple[str, int], float] = {}
        behind: list[Back] = []
        sent: list[Neighbours] = []
        for taken, start, stop, ended in finished:
            parcel, channel = taken.parcel, taken.delivery.channel
            name = (channel, parcel.conn)
            if parcel.lane != ORDINARY:
                name = (channel, NOBODY)
                self.lanes.ended(parcel.conn, channel, parcel.lane)
            released[name] = released.get(name, 0.0) + parcel.cost * (stop - start)
            parts = self.desk.finish(taken, start, stop)
            if taken.delivery.key is not None:
                if ended is None or ended.verdict is Verdict.HANDLED:
                    self.desk.handled(parcel, start)
                    self._effects.ready(channel)  # in any case: who could have gone on with it may be at something else
                else:
                    behind += self.desk.failed(parcel, start)
            if parcel.box not in self.owners and channel not in self._keeping and (not ended or not ended.outputs):
                self.streams.leave(parcel.box, parts)
                continue  # its owner lived in memory and is over: what ends after that is nobody's (rules §2.6)
            if ended is not None and ended.answers is not None:
                told = answers.setdefault((parcel.box, channel), [])
                told.extend(self._answered(parcel.box, parts, ended))
                continue
            if ended is not None and ended.outputs is not None:
                for part in parts:
                    if not sent or not sent[-1].takes(parcel.box, part, ended.outputs, parcel.first):
                        sent.append(neighbours(parcel.box, part, ended.outputs, parcel.first))
                continue
            if channel in self._keeping:
                for part in parts:
                    self._keep(parcel.box, part, ended, kept)
                continue
            if ended is None or ended.verdict is Verdict.HANDLED:
                for part in parts:
                    self.memory.remember(parcel.box, part, Verdict.HANDLED)
                    dispatch = (parcel.box, part.epoch, part.fence, part.n)
                    handled.setdefault(dispatch, []).append((part.first, part.count))
                continue
            after_ms = min(round(ended.after * 1_000), frames.LATER_MOST_MS)  # RetryLater takes any finite number
            self.streams.leave(parcel.box, parts)  # of one whose time was over
            for part in parts:
                self.memory.remember(parcel.box, part, ended.verdict, after_ms, ended.note)
            self.outcomes.tell(parcel.box, ended.verdict, parts, after_ms, ended.note)
        for (channel, conn), cost in released.items():
            self.windows[channel].finished(conn, cost)
            self._dirty.add(channel)
            self.lanes.moved(channel)
        self.outcomes.handled(handled)
        if behind:
            self._give_back(behind)
        for each in sent:
            self.claims.keep(each.box, each.part, Verdict.HANDLED, outputs=each.outputs(), shift=each.shift)
        for (box, epoch, fence, n), ranges in kept.items():
            for first, count in Numbers(ranges):
                self.claims.keep(box, Part(epoch, first, count, fence, n), Verdict.HANDLED)
        for (box, _), told in answers.items():
            link = self.owners.link(box)
            if link is not None:
                for outcome in answer_frames(box, told, link.message_bytes):
                    self._effects.send(link.conn, outcome)

    def _answered(self, box: int, parts: Sequence[Part], ended: Ended) -> list[Answer]:
        """Requests have ended, which is remembered; gives what is to be told: nothing, where nobody asks any more."""
        assert ended.answers is not None
        told: list[Answer] = []
        if ended.verdict is Verdict.CANCELLED and (box, parts[0].first) not in self.streams.refused:
            self.streams.leave(box, parts)
            return told
        if not ended.answers:
            for part in parts:
                for number in range(part.first, part.first + part.count):
                    chunks = self.streams.end(box, number)
                    note = Known(Verdict.HANDLED, chunks, self.streams.refused.pop((box, number), ended.note))
                    told.append(Answer(Part(part.epoch, number, 1, part.fence, part.n), note=note))
            return self._remembered(box, told)
        self.streams.answered(box, parts)
        if len(parts) == 1:
            told.append(Answer(parts[0], ended.answers))
        else:
            each = iter(frames.payloads(frames.array_of([ended.answers], sum(part.count for part in parts))))
            told.extend(Answer(part, b"".join(next(each) for _ in range(part.count))) for part in parts)
        return self._remembered(box, told)

    def _remembered(self, box: int, told: list[Answer]) -> list[Answer]:
        for answer in told:
            self.memory.answered(box, answer)
        return told

    def flow(self, outflows: Iterable[Outflow]) -> None:
        """Handlers have given items of these streams."""
        self.streams.flow(outflows)

    def feed(self, link: Link, credit: Credit) -> None:
        """A reader has made room in his stream."""
        if self.owners.link(credit.box) is link:
            self.streams.feed(link, credit)

    def _keep(self, box: int, part: Part, ended: Ended | None, handled: dict[Dispatch, list[tuple[int, int]]]) -> None:
        """Of a channel that keeps its outcomes. handled: what was only that, for as few rows as it takes."""
        if ended is None or ended.verdict is Verdict.HANDLED:
            handled.setdefault((box, part.epoch, part.fence, part.n), []).append((part.first, part.count))
        elif ended.verdict is Verdict.UNSTARTED:  # nothing is lost with it
            self.memory.remember(box, part, ended.verdict)
            self.outcomes.tell(box, ended.verdict, [part])
        else:
            after_ms = min(round(ended.after * 1_000), frames.LATER_MOST_MS)
            self.claims.keep(box, part, ended.verdict, after_ms, ended.note)

    def _release(self, left: Iterable[Back]) -> None:
        for back in left:
            if back.lane != ORDINARY:
                self.lanes.left(back.conn, back.channel, back.lane)
            self.windows[back.channel].released(back.conn if back.lane == ORDINARY else NOBODY, back.cost)
            self._dirty.add(back.channel)
            self.streams.leave(back.box, back.parts)

    # -- time ------------------------------------------------------------------------------------------------------

    def tick(self, now: float, *, stands: bool) -> None:
        """`stands`: the handlers' loop has not turned for long. What it has not begun goes back meanwhile (rules
        §4.3)."""
        for owned in self.owners.over(now):
            self.owner_gone([owned], now)
        for box in self.owners.kept_long_enough(now):
            self._forget(box, claims=True)
        self.claims.tick(now)
        # While one runs alone for long, others may do what lies here.
        long = self.lanes.stood(now) >= self._config.idle_after and not self.desk.is_queued_alone()
        if (stands or long) != self._pauses:
            self._pause(stands or long)
        if self.lanes.is_overdue(now):
            self._give_back(self.desk.leave_alone())
        for channel, window in self.windows.items():
            if not window.is_active():
                continue
            window.tick(now, self.desk.running(channel))
            self._dirty.add(channel)
            self._give_back(self.desk.leave_lasting(channel, now - self._config.idle_after))
            long = now >= self.desk.started_at(channel) + self._config.idle_after
            if long and self.desk.queued(channel) and self.desk.running(channel) >= window.concurrency:
                self._hand_back(channel)

    def _pause(self, pauses: bool) -> None:
        self._pauses = self.lanes.paused = pauses
        for channel, window in self.windows.items():
            window.paused = pauses
            self._dirty.add(channel)
            if pauses:
                self._hand_back(channel)

    def _hand_back(self, channel: str) -> None:
        left = self.desk.leave(channel=channel)
        self.windows[channel].hand_back()
        self._dirty.add(channel)
        if self.desk.running(channel):
            self.lanes.rest(channel)
        self._give_back(left)

    def _give_back(self, left: Sequence[Back]) -> None:
        self._release(left)
        boxes: dict[int, list[Part]] = {}
        for back in left:
            boxes.setdefault(back.box, []).extend(back.parts)
        for box, parts in boxes.items():
            self.outcomes.tell(box, Verdict.UNSTARTED, parts)

    def share(self, now: float) -> None:
        """Tells the links what they may send now."""
        stands = False
        if self.lanes:
            for conn, credit in self.lanes.grants(now):
                self._effects.send(conn, credit)
            stands = self.lanes.is_active()
        if self._stood != stands:
            self._stood = stands
            if not stands:
                self._wake_runners(now)
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, set()
        for channel in sorted(dirty):  # in an order that is the same wherever Python puts what
            window = self.windows.get(channel)
            if window is not None:
                for conn, credit in window.grants():
                    self._effects.send(conn, credit)

    def is_active(self) -> bool:
        return self._pauses or self.lanes.is_active() or any(map(Window.is_active, self.windows.values()))

    def wake(self) -> float:
        return min(self.owners.wake(), self.lanes.wake(), self.claims.wake())

    # -- leaving ---------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """No more work: limits down to what was received, what has not begun goes back (attempt uncounted)."""
        self.draining = self.outcomes.leaving = True
        self.lanes.close()
        for channel, window in self.windows.items():
            window.closed = True
            self._hand_back(channel)

    def is_done(self) -> bool:
        """Nothing runs, every limit is confirmed, and every outcome is: this worker may go."""
        if self.desk.total_running() or not all(window.is_given_back() for window in self.windows.values()):
            return False
        if not self.lanes.is_given_back():
            return False
        return not self.outcomes.handed_back and not any(self.memory.unconfirmed(box) for box in self.owners.present())


def _read(held: Held, ended: Iterable[Outcome]) -> list[Part]:
    """What its owner may think to be here and has been read: it lies here, or has ended, which he may not know."""
    return [*held.queued, *held.running, *(part for outcome in ended for part in outcome.parts)]


__all__ = ["Finished", "Worker"]
