"""Whole processes, as far as they are pure, on one virtual clock: cores, an outbox that is a dictionary, handlers
that take time.

The network is made of connections that lose nothing and keep their order until they break, as TCP's do. A partition
holds frames up; what was on its way when a connection breaks is lost."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import count

from tests.protocol.store import START_US, Store, prepared, segment
from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.config import Config, Identity
from zerowait.engines.brokerless.protocol.core import Core
from zerowait.engines.brokerless.protocol.effects import (
    Answered,
    Cancel,
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
)
from zerowait.engines.brokerless.protocol.worker.parcel import Taken
from zerowait.engines.brokerless.protocol.worker.unbegun import Listing, Unbegun, blank, read
from zerowait.message import Kept, Outcome, Segment, Sent, Service, Verdict
from zerowait.numbers import Numbers

__all__ = ["Numbers", "Process", "Store", "World", "segment"]

Name = tuple[int, int, int]  # (outbox, epoch, number)
Handler = Callable[[str, int, int], tuple[float, Outcome | None]]
Said = Say | Withdrawn | Answered | Unanswered | tuple[str, list["Run"]]
BOOT = "the boot of this machine"
STIRS_S = 1.0  # so long after it goes on it is known that a process has stood still


class Run:
    """A handler at work."""

    __slots__ = ("channel", "ended_at", "name", "outcome", "process", "reached", "started_at")

    def __init__(self, process: Process, channel: str, name: Name, started_at: float) -> None:
        self.process = process
        self.channel = channel
        self.name = name
        self.started_at = started_at
        self.ended_at: float | None = None
        self.outcome: Outcome | None = None
        self.reached = False  # it ended while its process lived


class Process:
    def __init__(
        self,
        world: World,
        name: str,
        *,
        boxes: Sequence[Store] = (),
        services: Mapping[str, int] | None = None,
        commit_s: float = 0.0,
        job: int = 1,
        read_ahead: int = 1_000_000,
        config: Config | None = None,
        instance: int | None = None,
        boot: str = BOOT,
        home: Store | None = None,
        keeps: bool = False,
    ) -> None:
        self.world = world
        self.name = name
        self.instance = instance if instance is not None else next(world.instances)
        self.config = config or world.config
        identity = Identity(
            instance=self.instance, name=name, pid=self.instance, boot=boot, device=1, inode=self.instance
        )
        self.core = Core(identity, self.config, lock=nullcontext(), wall_us=world.wall_us)
        # home: where it keeps outcomes and what its handlers send; keeps: all outcomes
        self.home = home
        boxes = [*boxes, *([home] if home is not None else [])]
        self.sends: Callable[[Run], list[bytes]] = lambda run: []
        self.stores = {store.box: store for store in boxes}
        self.alive = True
        self.running: dict[int, list[Run]] = {}  # what its mapped list names: by runner
        self._jobs: dict[int, list[Run]] = {}  # likewise, but known to itself
        self._taken: dict[int, Taken] = {}
        self.exit_code: int | None = None
        self.paused = False
        self.held = False  # paused, but not stopped: a line of its own does not end
        self.resumed_at = -STIRS_S
        self.commit_s = commit_s
        self.job = job  # how many messages a runner takes at once
        self.read_ahead = read_ahead
        self.services = dict(services or {})
        self.busy: dict[str, int] = dict.fromkeys(self.services, 0)
        self.busy_s: dict[str, float] = dict.fromkeys(self.services, 0.0)
        self.handler: Handler = lambda channel, epoch, number: (0.0, None)
        self.said: list[Say] = []
        self.withdrawn: list[Withdrawn] = []
        self.asked = 0  # requests
        self.frames: Counter[str] = Counter()  # sent, by kind
        self.most_held = 0
        self._later: deque[Callable[[], None]] = deque()  # what came while it was paused
        self.commits: deque[tuple[Ticket, float]] = deque()
        if home is not None:
            self.core.keep_in(home.box)
        for store in boxes:
            self._open(store, kept=store.kept())
        self._words = blank() if self.services else None
        if self._words is not None:
            self.core.worker.list_unbegun(Unbegun(self._words), lambda: world.now)
            served = self.services.items()
            self.core.serve([Service(channel, "push", runners, keeps=keeps) for channel, runners in served])
        world.processes.append(self)
        world.touch(self)

    def _open(self, store: Store, floor_epoch: int = 0, kept: Sequence[Kept] = ()) -> None:
        noted = frozenset(store.noted)
        store.epoch = max(store.epoch, floor_epoch)
        epoch = store.open(self.world.wall_us(self.world.now) // 1_000)
        self.core.own(store.box, epoch, self.name, durable=store.durable, noted=noted, now=self.world.now, kept=kept)

    # -- what a test does --------------------------------------------------------------------------------------------

    def push(
        self,
        channel: str,
        sizes: list[int] | int,
        box: int | None = None,
        key: bytes | None = None,
        priority: int = 0,
    ) -> Segment:
        store = self.stores[box] if box is not None else next(iter(self.stores.values()))
        made = store.accept(channel, [10] * sizes if isinstance(sizes, int) else sizes, key, priority)
        if key is None:
            self.core.owner.offer(store.box, [made])
        self.world.touch(self)
        return made

    def kill(self, exit_code: int | None = None) -> None:
        self.alive = False
        self.exit_code = exit_code
        for conn in [conn for (process, conn) in self.world.wires if process is self]:
            self.world.cut(self, conn)

    def obituary(self) -> frames.Obituary:
        """What whoever can take its lock reads beside it."""
        names = [run.name for runs in self.running.values() for run in runs]
        running = tuple((box, epoch, number, 1) for box, epoch, number in names)
        return frames.Obituary(self.instance, self.exit_code, None, running, self.world.lists)

    def pause(self) -> None:
        self.paused = True

    def hold(self) -> None:
        self.paused = self.held = True

    def listing(self) -> Listing | None:
        """What whoever finds it held reads of it."""
        return read(self._words, self._words) if self._words is not None and self.alive and self.held else None

    def resume(self) -> None:
        """It reads what has arrived before a timer fires."""
        self.paused = self.held = False
        self.resumed_at = self.world.now
        while self._later:
            self._later.popleft()()
        self.world.touch(self)

    def when_awake(self, act: Callable[[], None]) -> None:
        if not self.alive:
            return
        if self.paused:
            self._later.append(act)
        else:
            act()

    def says(self, topic: str) -> list[str]:
        return [said.words for said in self.said if said.topic == topic]

    # -- what its network thread does --------------------------------------------------------------------------------

    def turn(self) -> None:
        """What has arrived is there; then timers, then what follows."""
        if not self.alive or self.paused:
            return
        now, world = self.world.now, self.world
        for store in self.stores.values():
            read = [*store.due_now(world.wall_us(now)), *store.unread(self.read_ahead)]
            read += store.heads(world.wall_us(now))
            if read:
                self.core.owner.offer(store.box, read)
        self.core.wake(now)
        self.core.flush(now)
        self._perform()
        at = self.core.next_wake()
        if at is not None:
            world.at(max(at, now + 1e-6), self)
        for store in self.stores.values():
            if (due := store.due_at()) is not None:
                world.at(max(now, (due - START_US) / 1e6) + 1e-6, self)

    def _perform(self) -> None:
        while self.core.effects:
            for effect in self.core.effects.take():
                self._do(effect)
            for ticket in self.core.effects.take_tickets():
                self.commits.append((ticket, self.world.now + self.commit_s))
                if self.commit_s:
                    self.world.call(self.world.now + self.commit_s, lambda: self.when_awake(self._commit))
            if not self.commit_s:
                self._commit()
            self.core.flush(self.world.now)
        held = sum(int(window.held()) for window in self.core.worker.windows.values())
        self.most_held = max(self.most_held, held)

    def _commit(self) -> None:
        while self.commits and self.commits[0][1] <= self.world.now:
            ticket, _ = self.commits.popleft()
            self.stores[ticket.box].apply(ticket.changes)
            self.core.committed(ticket.box, ticket.number)
            self.world.touch(self)

    def _do(self, effect: Effect) -> None:
        world = self.world
        match effect:
            case Send():
                world.carry(self, effect.conn, effect.data)
            case Close():
                world.close(self, effect.conn)
            case Ready():
                self._run(effect.channel)
            case Prove():
                peer = world.by_instance(effect.instance)
                if peer is not None and not peer.alive and world.proofs:
                    self.core.buried(effect.instance, world.now, peer.obituary())
            case Look():
                peer = world.by_instance(effect.instance)
                stirs = peer is not None and world.now - peer.resumed_at < STIRS_S
                listing = peer.listing() if peer is not None else None
                self.core.looked(effect.instance, listing, world.now, stirs=stirs)
            case Say():
                self.said.append(effect)
                if world.tells is not None:
                    world.tells(self, effect)
            case Withdrawn():
                self.withdrawn.append(effect)
                if world.tells is not None:
                    world.tells(self, effect)
            case Answered() | Unanswered():
                if world.tells is not None:
                    world.tells(self, effect)
            case Cancel():
                self._cancel(effect)
            case Reopen():
                if effect.box in self.stores and world.owners.get(effect.box, self) is self:
                    self._open(self.stores[effect.box], effect.floor_epoch)
                else:
                    self.stores.pop(effect.box, None)
                    self.core.disown(effect.box)
            case Dispatched():
                world.dispatched += effect.count
            case Returned():
                world.returned += effect.count
            case _:
                pass

    # -- what its runners do -----------------------------------------------------------------------------------------

    def _run(self, channel: str) -> None:
        while self.alive and self.busy[channel] < self.services[channel]:
            taken = self.core.worker.desk.start(channel, self.job, self.world.now)
            if taken is None:
                return
            self.busy[channel] += 1
            self._run_job(channel, taken)

    def _run_job(self, channel: str, taken: Taken) -> None:
        runs: list[Run] = []
        seconds = 0.0
        for index in range(taken.start, taken.stop):
            delivery = taken.delivery
            number = delivery.number(index)
            spent, outcome = self.handler(channel, delivery.epoch, number)
            run = Run(self, channel, (delivery.box, delivery.epoch, number), self.world.now + seconds)
            run.outcome = outcome
            runs.append(run)
            seconds += spent
        self.running[id(taken)] = self._jobs[id(taken)] = runs
        self._taken[id(taken)] = taken
        self.world.began(runs)
        if not self.alive:
            return  # its handler has ended it
        if self.world.tells is not None:
            self.world.tells(self, ("starts", runs))
        self.world.call(self.world.now + seconds, lambda: self.when_awake(lambda: self._end(channel, taken, runs)))
        self.busy_s[channel] += seconds

    def ask(self, channel: str, count: int, *, idempotent: bool, timeout: float, hedge: bool) -> None:
        """Requests, of an outbox whose id is the instance's."""
        box = self.instance
        if not self.asked:
            self.core.own(box, 1, self.name, durable=False, noted=(), now=self.world.now, is_asked=True)
        self.core.owner.sender.use(channel, "request", idempotent=idempotent)
        made = segment(channel, 1, self.asked + 1, [10] * count)
        made.expires = self.world.wall_us(self.world.now + timeout)
        made.hedge = hedge
        self.asked += count
        self.core.owner.offer(box, [made])
        self.world.touch(self)

    def _cancel(self, cancel: Cancel) -> None:
        """What runs of these ends now; of a request each run is a job of its own."""
        for taken, (run,) in [(taken, runs) for taken, runs in self._jobs.items() if len(runs) == 1]:
            box, epoch, number = run.name
            mine = any(of == epoch and first <= number < first + count for of, first, count in cancel.ranges)
            if box == cancel.box and (mine or not cancel.ranges):
                run.outcome = Outcome(Verdict.CANCELLED, answers=b"")
                self._end(run.channel, self._taken[taken], [run])

    def _end(self, channel: str, taken: Taken, runs: list[Run]) -> None:
        if self._jobs.pop(id(taken), None) is None:
            return  # it was cancelled
        del self._taken[id(taken)]
        self.busy[channel] -= 1
        self.running.pop(id(taken), None)
        finished: list[tuple[Taken, int, int, Outcome | None]] = []
        for index, run in enumerate(runs, taken.start):
            run.ended_at = self.world.now
            run.reached = True
            payloads = self.sends(run) if run.outcome is None else []
            if payloads and not self.world.chooses:
                assert self.home is not None  # as it was before: they are accepted with the run that sent them
                self.home.accept_outputs(payloads)
                payloads = []
            if payloads:
                assert self.home is not None
                run.outcome = Outcome(Verdict.HANDLED, outputs=Sent(self.home.box, [prepared(index, payloads)]))
                finished.append((taken, index, index + 1, run.outcome))
            elif run.outcome is None and finished and finished[-1][3] is None:
                finished[-1] = (taken, finished[-1][1], index + 1, None)
            else:
                finished.append((taken, index, index + 1, run.outcome))
        self.world.finished(len(runs))
        if self.world.tells is not None:
            self.world.tells(self, ("ends", runs))
        self.core.finish(finished)
        self._run(channel)
        self.world.touch(self)


class World:
    def __init__(self, config: Config | None = None, latency_s: float = 0.0002) -> None:
        self.now = 0.0
        self.config = config or Config()
        self.latency_s = latency_s
        self.proofs = True
        self.chooses = True  # rules §6: outputs leave when their run was chosen
        self.lists = True  # a proof comes with what ran there
        self.instances = count(1)
        self.processes: list[Process] = []
        self.owners: dict[int, Process] = {}  # who holds the file's lock, where a test says so
        self.wires: dict[tuple[Process, int], tuple[Process, int]] = {}
        self.runs: list[Run] = []
        self.by_name: dict[Name, list[Run]] = {}
        self._ended = 0
        self.dispatched = 0
        self.returned = 0
        self.log: Callable[[Process, Process, frames.Frame], None] | None = None
        self.tells: Callable[[Process, Said], None] | None = None
        self._partitions: set[tuple[Process, Process]] = set()
        self._held_up: deque[tuple[Process, int, Process, int, bytes]] = deque()
        self._conns = count(1)
        self._order = count()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._wakes: dict[Process, float] = {}
        self._touched: set[Process] = set()

    # -- time --------------------------------------------------------------------------------------------------------

    @staticmethod
    def wall_us(now: float) -> int:
        return START_US + int(now * 1e6)

    def call(self, at: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (at, next(self._order), act))

    def at(self, at: float, process: Process) -> None:
        if self.now <= self._wakes.get(process, -1.0) <= at:
            return
        self._wakes[process] = at

        def wake() -> None:
            if self._wakes.get(process) == at:
                del self._wakes[process]
                process.turn()

        self.call(at, wake)

    def touch(self, process: Process) -> None:
        """Something happened there: it turns at this very time, once."""
        if process not in self._touched:
            self._touched.add(process)

            def turn() -> None:
                self._touched.discard(process)
                process.turn()

            self.call(self.now, turn)

    def run(self, until: float) -> None:
        while self._queue and self._queue[0][0] <= until:
            at, _, act = heapq.heappop(self._queue)
            self.now = max(self.now, at)
            act()
        self.now = until

    def run_while(self, condition: Callable[[], bool], until: float) -> None:
        while condition() and self._queue and self._queue[0][0] <= until:
            at, _, act = heapq.heappop(self._queue)
            self.now = max(self.now, at)
            act()

    # -- connections -------------------------------------------------------------------------------------------------

    def by_instance(self, instance: int) -> Process | None:
        return next((process for process in self.processes if process.instance == instance), None)

    def dial(self, a: Process, b: Process) -> tuple[int, int]:
        """a dials b. What was dialled speaks when it is spoken to."""
        mine, theirs = next(self._conns), next(self._conns)
        self.wires[a, mine] = (b, theirs)
        self.wires[b, theirs] = (a, mine)

        def heard() -> None:
            if (b, theirs) in self.wires:
                b.core.opened(theirs, self.now, ours=False)
                self.touch(b)

        a.core.opened(mine, self.now, ours=True)
        self.call(self.now + self.latency_s, lambda: b.when_awake(heard))
        self.touch(a)
        return mine, theirs

    def link(self, process: Process) -> None:
        """The link of a process to itself."""
        mine, theirs = next(self._conns), next(self._conns)
        self.wires[process, mine] = (process, theirs)
        self.wires[process, theirs] = (process, mine)
        process.core.opened(mine, self.now, ours=True, side="owner")
        process.core.opened(theirs, self.now, ours=False, side="worker")
        self.touch(process)

    def connections(self, a: Process, b: Process) -> list[int]:
        """The connections of a that lead to b."""
        return [conn for (process, conn), (other, _) in self.wires.items() if process is a and other is b]

    def carry(self, sender: Process, conn: int, data: bytes) -> None:
        end = self.wires.get((sender, conn))
        if end is None:
            return
        if self.log is not None or not data.startswith(frames.MAGIC):
            self._note(sender, end[0], data)
        if (sender, end[0]) in self._partitions:
            self._held_up.append((sender, conn, *end, data))
        else:
            self.call(self.now + self.latency_s, lambda: self._arrives(*end, data))

    def _note(self, sender: Process, receiver: Process, data: bytes) -> None:
        if data.startswith(frames.MAGIC):
            frame: frames.Frame = frames.decode_first(data)
        else:
            frame = frames.decode(data)
        sender.frames[type(frame).__name__] += 1
        if self.log is not None:
            self.log(sender, receiver, frame)

    def _arrives(self, receiver: Process, conn: int, data: bytes) -> None:
        def hear() -> None:
            if (receiver, conn) in self.wires:
                receiver.core.receive(conn, data, self.now)
                self.touch(receiver)

        receiver.when_awake(hear)

    def close(self, process: Process, conn: int) -> None:
        """What was said before arrives before the end does."""
        end = self.wires.pop((process, conn), None)
        if end is not None and (process, end[0]) not in self._partitions:
            self.call(self.now + self.latency_s, lambda: self._closed(*end))

    def _closed(self, process: Process, conn: int) -> None:
        def hear() -> None:
            if self.wires.pop((process, conn), None) is not None:
                process.core.lost(conn, self.now, "closed")
                self.touch(process)

        process.when_awake(hear)

    def cut(self, process: Process, conn: int) -> None:
        """The connection breaks: what is on its way is lost, and both ends notice."""
        end = self.half_cut(process, conn)
        if end is not None and self.wires.pop(end, None) is not None:
            other, theirs = end

            def hear() -> None:
                other.core.lost(theirs, self.now, "cut")
                self.touch(other)

            self.call(self.now + self.latency_s, lambda: other.when_awake(hear))

    def half_cut(self, process: Process, conn: int) -> tuple[Process, int] | None:
        """The connection breaks, and only this end notices: what it has sent still arrives."""
        end = self.wires.pop((process, conn), None)
        if process.alive:

            def hear() -> None:
                process.core.lost(conn, self.now, "cut")
                self.touch(process)

            process.when_awake(hear)
        return end

    def cut_all(self, a: Process, b: Process) -> None:
        for conn in self.connections(a, b):
            self.cut(a, conn)

    def partition(self, a: Process, b: Process, *, both: bool = True) -> None:
        """What a says does not reach b, and if both, nor the other way round."""
        self._partitions.update([(a, b), (b, a)] if both else [(a, b)])

    def is_partitioned(self, a: Process, b: Process) -> bool:
        return (a, b) in self._partitions or (b, a) in self._partitions

    def heal(self) -> None:
        """What was held up arrives, on connections that are still there."""
        self._partitions.clear()
        while self._held_up:
            _, _, receiver, theirs, data = self._held_up.popleft()
            if (receiver, theirs) in self.wires:
                self.call(self.now + self.latency_s, partial(self._arrives, receiver, theirs, data))
        for (process, conn), end in list(self.wires.items()):
            if end not in self.wires:
                self.call(self.now + self.latency_s, partial(self._closed, process, conn))

    # -- what is looked at -------------------------------------------------------------------------------------------

    def finished(self, count: int) -> None:
        self._ended += count

    def began(self, runs: Iterable[Run]) -> None:
        for run in runs:
            self.runs.append(run)
            self.by_name.setdefault(run.name, []).append(run)

    def started_times(self) -> Counter[int]:
        """How many messages were started so often."""
        return Counter(len(runs) for runs in self.by_name.values())

    def ended(self) -> int:
        return self._ended
