"""What lies at this worker: queued messages and those that run, by name.

The desk is where a message's start is decided. A runner takes messages by one atomic pop that includes the test of
permission; DROP and hand-back remove from the same queue under the same lock, so "not started" is never a guess
(rules §3.4). The lock comes from outside: in tests there is none, and the time is passed in."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from math import inf

from zerowait.engines.brokerless.protocol.frames import ALONE, Held, Part
from zerowait.engines.brokerless.protocol.worker.parcel import Back, Parcel, Permit, Taken
from zerowait.engines.brokerless.protocol.worker.single import Lines, name_of
from zerowait.engines.brokerless.protocol.worker.unbegun import Unbegun, Unlisted
from zerowait.numbers import Numbers

__all__ = ["Back", "Desk", "Parcel", "Permit", "Taken"]

Name = tuple[int, int, int]  # (epoch, fence, n)
REMEMBERED = 10_000  # outboxes of which it is known when they had a turn


class _Channel:
    __slots__ = ("ended", "lines", "queued", "running", "served", "started_at", "turn", "turns")

    def __init__(self) -> None:
        self.turns: OrderedDict[int, deque[Parcel]] = OrderedDict()  # outbox → its parcels; the first has its turn
        self.lines = Lines()  # of keys
        self.served: dict[int, int] = {}  # outbox → its last turn
        self.turn = 0
        self.queued = 0
        self.running = 0
        self.ended = 0  # runs, in this life
        self.started_at = 0.0

    def put(self, parcel: Parcel) -> None:
        """Who comes back after a while does not stand behind one who has had a turn since."""
        box = parcel.box
        parcels = self.turns.get(box)
        if parcels is None:
            parcels = self.turns[box] = deque()
            if self.served.get(box, 0) < self.served.get(next(iter(self.turns)), 0):
                self.turns.move_to_end(box, last=False)
        parcels.append(parcel)

    def take_out(self, box: int) -> deque[Parcel]:
        """All of this outbox that has not begun, also what stands behind others of its key."""
        parcels = self.turns.pop(box, None) or deque[Parcel]()
        if self.lines:
            for _, behind in self.lines.behind(box):
                parcels.extend(behind)
                behind.clear()
            for name in [name for parcel in parcels if (name := name_of(parcel)) is not None]:
                self.lines.leave(name)
        return parcels

    def took(self, box: int) -> None:
        """That outbox has had its turn: the others have theirs first."""
        self.turn += 1
        if len(self.served) > REMEMBERED:
            self.served.clear()
        self.served[box] = self.turn
        if self.turns[box]:
            self.turns.move_to_end(box)
        else:
            del self.turns[box]


class Desk:
    def __init__(self, lock: AbstractContextManager[object]) -> None:
        self._lock = lock
        self._channels: dict[str, _Channel] = {}
        self._here: dict[tuple[int, int], Numbers] = {}  # (outbox, epoch) → queued or running
        self._running: dict[int, dict[Name, Numbers]] = {}  # outbox → dispatch → what runs
        # (outbox, epoch) → number → the newer dispatch that it has taken (rules §2.4)
        self._retagged: dict[tuple[int, int], dict[int, tuple[int, int]]] = {}
        self._stands_still = False  # for a suspect that is to run alone in this process: nothing else is started
        self.unbegun: Unbegun = Unlisted()
        self._clock: Callable[[], float] = _ever

    def list_unbegun(self, unbegun: Unbegun, clock: Callable[[], float]) -> None:
        """From now on that list says what has not begun. Before the first message is admitted."""
        self._clock = clock
        self.unbegun = unbegun

    def is_listed(self) -> bool:
        """Whether there is a list that says what has not begun."""
        return not isinstance(self.unbegun, Unlisted)

    def unlist(self) -> Unbegun:
        """At the end of this life: that list says nothing any more, whatever runners still do. Given back, to be closed
        by who made it."""
        with self._lock:
            unbegun, self.unbegun, self._clock = self.unbegun, Unlisted(), _ever
            return unbegun

    # -- any thread ------------------------------------------------------------------------------------------------

    def start(self, channel: str, most: int, now: float) -> Taken | None:
        """Takes at most `most` messages to be run at once, from the outboxes in turn. None: nothing that may be
        started."""
        with self._lock:
            state = self._channels.get(channel)
            if state is None or not state.queued:
                return None
            if self._stands_still:
                return self._start_alone(state, now)
            for box in list(state.turns):
                parcels = state.turns[box]
                parcel = parcels[0]
                until = parcel.permit.until
                if not parcel.permit.allows(now):
                    continue
                start = parcel.at
                name = name_of(parcel) if parcel.delivery.key is not None else None
                stop = min(parcel.stop, start + (most if name is None else 1))
                if not self._tells(parcel, stop, until):
                    continue
                if name is not None:  # what is left of it stands in line, until this one is handled
                    parcels.popleft()
                    state.lines.starts(name, parcel, now)
                else:
                    parcel.at = stop
                    if stop == parcel.stop:
                        parcels.popleft()
                state.took(box)
                count = stop - start
                state.queued -= count
                state.running += count
                state.started_at = now
                self._starts(parcel, start, count)
                return Taken(parcel.delivery, start, stop, parcel)
        return None

    def _tells(self, parcel: Parcel, stop: int, until: float) -> bool:
        """Whether those before that index may begin, now that this is told. until: the end of the permission that was
        looked at. Since then this process may have stood still, for any time: whoever found meanwhile that they have
        not begun has taken them back, and that there is a new permission by now does not make them ours again."""
        self.unbegun.begins(parcel, stop)
        if self._clock() < until:
            if stop == parcel.stop:
                self.unbegun.remove(parcel)
            return True
        self.unbegun.begins(parcel, parcel.at)
        return False

    def handled(self, parcel: Parcel, index: int) -> None:
        """That message of a key has been handled: the next may be started. Nothing, if that was said before."""
        with self._lock:
            state = self._channels[parcel.delivery.channel]
            following = state.lines.ends(parcel, index)
            if following is not None:
                state.put(following)

    def _start_alone(self, state: _Channel, now: float) -> Taken | None:
        parcel = self._alone_in(state)
        if parcel is None:
            return None
        until = parcel.permit.until
        if not parcel.permit.allows(now):
            return None
        if not self._tells(parcel, parcel.stop, until):
            return None
        parcels = state.turns[parcel.box]
        parcels.remove(parcel)
        state.took(parcel.box)
        start, parcel.at = parcel.at, parcel.stop
        state.queued -= 1
        state.running += 1
        state.started_at = now
        self._starts(parcel, start, 1)
        return Taken(parcel.delivery, start, parcel.stop, parcel)

    @staticmethod
    def _alone_in(state: _Channel) -> Parcel | None:
        return next((each for parcels in state.turns.values() for each in parcels if each.lane == ALONE), None)

    def _starts(self, parcel: Parcel, start: int, count: int) -> None:
        running = self._running.setdefault(parcel.box, {})
        name = (parcel.delivery.epoch, parcel.fence, parcel.n)
        numbers = running.get(name)
        if numbers is None:
            numbers = running[name] = Numbers()
        numbers.add(parcel.first + start, count)

    # -- the thread that owns the protocol -------------------------------------------------------------------------

    def here(self, box: int, epoch: int) -> Numbers | None:
        return self._here.get((box, epoch))

    def lies(self, box: int, number: int) -> bool:
        """Whether that message of the outbox is queued or runs here, of whatever epoch."""
        return any(number in here for (of, _), here in self._here.items() if of == box)

    def epochs(self, box: int) -> set[int]:
        return {epoch for of, epoch in self._here if of == box}

    def queued(self, channel: str) -> int:
        state = self._channels.get(channel)
        return state.queued if state is not None else 0

    def running(self, channel: str) -> int:
        state = self._channels.get(channel)
        return state.running if state is not None else 0

    def ended(self, channel: str) -> int:
        """How many runs have ended in this life, however they did."""
        state = self._channels.get(channel)
        return state.ended if state is not None else 0

    def started_at(self, channel: str) -> float:
        """When a message of this channel was started last."""
        state = self._channels.get(channel)
        return state.started_at if state is not None else 0.0

    def total_running(self) -> int:
        return sum(state.running for state in self._channels.values())

    def may_start(self, channel: str, now: float) -> bool:
        """Whether a runner would be given something."""
        with self._lock:
            state = self._channels.get(channel)
            if state is not None and self._stands_still:
                alone = self._alone_in(state)
                return alone is not None and alone.permit.allows(now)
            return state is not None and any(parcels[0].permit.allows(now) for parcels in state.turns.values())

    def stand_still(self, stands: bool) -> None:
        """From now on nothing is started but what is to run alone; or everything again."""
        with self._lock:
            self._stands_still = stands

    def is_queued_alone(self) -> bool:
        """Whether the message that is to run alone has not begun."""
        with self._lock:
            return any(self._alone_in(state) is not None for state in self._channels.values())

    def admit(self, parcels: Iterable[Parcel], now: float) -> None:
        with self._lock:
            for parcel in parcels:
                delivery = parcel.delivery
                state = self._channels.setdefault(delivery.channel, _Channel())
                if not state.queued and not state.running:
                    state.started_at = now
                name = name_of(parcel) if delivery.key is not None else None
                if name is None or state.lines.join(name, parcel):
                    state.put(parcel)
                self.unbegun.put(parcel)
                count = parcel.stop - parcel.at
                state.queued += count
                self._here.setdefault((parcel.box, delivery.epoch), Numbers()).add(parcel.first + parcel.at, count)

    def retag(self, box: int, epoch: int, ranges: Iterable[tuple[int, int]], fence: int, n: int) -> None:
        """What is held takes the newer dispatch number: its outcome will quote that one (rules §2.4)."""
        with self._lock:
            tags = self._retagged.setdefault((box, epoch), {})
            for first, count in ranges:
                for number in range(first, first + count):
                    tags[number] = max((fence, n), tags.get(number, (0, 0)))

    def finish(self, taken: Taken, start: int, stop: int) -> list[Part]:
        """These have ended: under which dispatch numbers that is to be said."""
        parcel, delivery = taken.parcel, taken.delivery
        epoch, first, count = delivery.epoch, parcel.first + start, stop - start
        part = Part(epoch, first, count, parcel.fence, parcel.n)
        with self._lock:
            state = self._channels[delivery.channel]
            state.running -= count
            state.ended += count
            running = self._running[parcel.box]
            name = (epoch, parcel.fence, parcel.n)
            running[name].remove(first, count)
            if not running[name]:
                del running[name]
                if not running:
                    del self._running[parcel.box]
            parts = self._tagged(parcel.box, part)
            self._leaves(parcel.box, part)
        return parts

    def _leaves(self, box: int, part: Part) -> None:
        """It lies here no more."""
        name = (box, part.epoch)
        here = self._here[name]
        here.remove(part.first, part.count)
        if not here:
            del self._here[name]
        tags = self._retagged.get(name)
        if tags:
            for number in range(part.first, part.first + part.count):
                tags.pop(number, None)
        if tags is not None and not tags:
            del self._retagged[name]

    def _tagged(self, box: int, part: Part) -> list[Part]:
        """The dispatch numbers under which these are known now."""
        tags = self._retagged.get((box, part.epoch))
        if not tags:
            return [part]
        tagged: list[Part] = []
        for number in range(part.first, part.first + part.count):
            fence, n = tags.get(number, (part.fence, part.n))
            last = tagged[-1] if tagged else None
            if last is not None and (last.fence, last.n) == (fence, n):
                tagged[-1] = Part(part.epoch, last.first, last.count + 1, fence, n)
            else:
                tagged.append(Part(part.epoch, number, 1, fence, n))
        return tagged

    def failed(self, parcel: Parcel, index: int) -> list[Back]:
        """That message of a key has ended otherwise: takes back all of the key that has not begun."""
        channel = parcel.delivery.channel
        with self._lock:
            state = self._channels[channel]
            return [self._back_whole(channel, state, each) for each in state.lines.fails(parcel, index)]

    def leave_lasting(self, channel: str, before: float) -> list[Back]:
        """Takes back what waits behind a message of its key that runs since before that time."""
        with self._lock:
            state = self._channels.get(channel)
            if state is None or not state.lines:
                return []
            return [self._back_whole(channel, state, each) for each in state.lines.lasting(before)]

    def held(self, box: int, serial: int, epoch: int) -> Held:
        """All that lies here of an outbox, for its owner, who has opened it with this epoch."""
        queued: list[Part] = []
        running: list[Part] = []
        with self._lock:
            for state in self._channels.values():
                behind = [parcel for _, line in state.lines.behind(box) for parcel in line] if state.lines else []
                for parcel in (*state.turns.get(box, ()), *behind):
                    queued.extend(self._tagged(box, parcel.waiting()))
            for part in self._runs(box):
                running.extend(self._tagged(box, part))
        return Held(box, serial, tuple(queued), tuple(running), epoch)

    def _runs(self, box: int) -> list[Part]:
        return [
            Part(epoch, first, count, fence, n)
            for (epoch, fence, n), numbers in self._running.get(box, {}).items()
            for first, count in numbers
        ]

    def drop(self, box: int, epoch: int, first: int, count: int) -> tuple[list[Back], list[Part]]:
        """Removes what has not been started. Gives that, and what runs and cannot be taken back."""
        dropped: list[Back] = []
        with self._lock:
            for channel, state in self._channels.items():
                if box in state.turns or state.lines:
                    self._drop_in(channel, state, box, epoch, Numbers([(first, count)]), dropped)
            running = [
                part
                for whole in self._runs(box)
                if whole.epoch == epoch
                for at, many in Numbers([(whole.first, whole.count)]).overlap(first, count)
                for part in self._tagged(box, Part(epoch, at, many, whole.fence, whole.n))
            ]
        return dropped, running

    def _drop_in(
        self, channel: str, state: _Channel, box: int, epoch: int, numbers: Numbers, dropped: list[Back]
    ) -> None:
        def without(parcels: Iterable[Parcel]) -> deque[Parcel]:
            kept: deque[Parcel] = deque()
            for parcel in parcels:
                at, size = parcel.first + parcel.at, parcel.stop - parcel.at
                wanted = numbers.overlap(at, size) if parcel.delivery.epoch == epoch else []
                if not wanted:
                    kept.append(parcel)
                    continue
                for start, many in Numbers(wanted).missing(at, size):
                    kept.append(cut := parcel.cut(start, many))
                    self.unbegun.put(cut)
                dropped.extend(self._back(channel, state, parcel, start, many) for start, many in wanted)
            return kept

        turns = state.turns.get(box, ())
        keyed = [parcel for parcel in turns if parcel.delivery.key is not None]
        # Of a key only the first part of what is left is current; what is cut off it stands behind.
        kept = without(parcel for parcel in turns if name_of(parcel) is None)
        for name, behind in state.lines.behind(box) if state.lines else ():
            rest = without([*(parcel for parcel in keyed if name_of(parcel) == name), *behind])
            behind.clear()
            behind.extend(rest)
            if (current := state.lines.next(name)) is not None:
                kept.append(current)
        if kept:
            state.turns[box] = kept
        else:
            state.turns.pop(box, None)

    def leave_alone(self) -> list[Back]:
        """Takes back the message that was to run alone and has not begun."""
        left: list[Back] = []
        with self._lock:
            for name, state in self._channels.items():
                parcel = self._alone_in(state)
                if parcel is not None:
                    state.turns[parcel.box].remove(parcel)
                    if not state.turns[parcel.box]:
                        del state.turns[parcel.box]
                    left.append(self._back(name, state, parcel, parcel.first + parcel.at, 1))
        return left

    def leave(self, box: int | None = None, channel: str | None = None) -> list[Back]:
        """Takes back everything that has not begun: of one outbox, of one channel."""
        left: list[Back] = []
        with self._lock:
            for name, state in self._channels.items():
                if channel is not None and name != channel:
                    continue
                boxes = {*state.turns, *(of for (of, _), _ in state.lines.behind())}
                for of in [of for of in boxes if box is None or of == box]:
                    left.extend(self._back_whole(name, state, parcel) for parcel in state.take_out(of))
        return left

    def _back_whole(self, channel: str, state: _Channel, parcel: Parcel) -> Back:
        return self._back(channel, state, parcel, parcel.first + parcel.at, parcel.stop - parcel.at)

    def _back(self, channel: str, state: _Channel, parcel: Parcel, first: int, count: int) -> Back:
        box = parcel.box
        self.unbegun.remove(parcel)
        state.queued -= count
        part = Part(parcel.delivery.epoch, first, count, parcel.fence, parcel.n)
        parts = self._tagged(box, part)
        self._leaves(box, part)
        return Back(box, channel, parcel.conn, parcel.cost * count, parcel.lane, parts)

    def boxes(self) -> set[int]:
        with self._lock:
            queued = {box for state in self._channels.values() for box in state.turns}
            return queued | set(self._running)


def _ever() -> float:
    """The time by which a permission has never lapsed: without a list nobody has found meanwhile what has not begun."""
    return -inf
