"""A few processes that are treated badly, and what must hold whatever is done to them.

The checks share nothing with what they check: the ledger is recounted from the store's own dictionary, credit from
what lies at the desk, and every second start of a message must have one of the causes that the rules name (§13)."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from tests.protocol.store import Store
from tests.protocol.world import Name, Process, Run, World
from zerowait.engines.brokerless.protocol.config import Config
from zerowait.engines.brokerless.protocol.link import LinkPhase
from zerowait.message import Outcome, Verdict

CHANNEL = "work"
CONFIG = Config(prefetch=64)
SAMPLE = 0.1
Pair = tuple[int, Process]  # an outbox, and a worker


class Cluster:
    def __init__(self, owners: int = 2, workers: int = 2, *, commit_s: float = 0.002) -> None:
        self.world = World(CONFIG)
        self.commit_s = commit_s
        self.stores = [Store(700 + index) for index in range(owners)]
        self.owners: list[Process | None] = [None] * owners
        self.homes = [Store(800 + index) for index in range(workers)]  # of the workers, for what handlers send
        self.workers: list[Process | None] = [None] * workers
        self.work_s = 0.02
        self.tries: Counter[tuple[int, int]] = Counter()
        self.broken_since: dict[Pair, float] = {}
        self.breaks: dict[Pair, list[tuple[float, float]]] = {}
        for index in range(owners):
            self.start_owner(index)
        for index in range(workers):
            self.start_worker(index)
        self.dial_all()

    # -- what is done to them ----------------------------------------------------------------------------------------

    def start_owner(self, index: int) -> None:
        if self.owners[index] is None:
            store = self.stores[index]
            self.owners[index] = Process(
                self.world, f"owner{index}", boxes=[store], commit_s=self.commit_s, read_ahead=50
            )
            self._sample()

    def start_worker(self, index: int) -> None:
        if self.workers[index] is None:
            worker = Process(
                self.world, f"worker{index}", services={CHANNEL: 3}, job=1 + index, commit_s=self.commit_s,
                home=self.homes[index], keeps=index > 0,
            )  # fmt: skip
            worker.handler = self._handle
            worker.sends = self._send
            self.workers[index] = worker
            for store in self.stores:
                self.broken_since[store.box, worker] = self.world.now

    def _handle(self, channel: str, epoch: int, number: int) -> tuple[float, Outcome | None]:
        past = self.tries[epoch, number]  # of both outboxes, if both have that name: it only must not fail for ever
        self.tries[epoch, number] += 1
        seconds = self.work_s * (1 + number % 5)
        if number % 7 == 3 and past < 2:
            return seconds, Outcome(Verdict.RETRY, 0.2)
        if number % 31 == 5:
            return seconds, Outcome(Verdict.DEAD)
        if number % 29 == 4 and past < 1:
            return seconds, Outcome(Verdict.UNSTARTED)
        return seconds, None

    @staticmethod
    def _send(run: Run) -> list[bytes]:
        """Two outputs of every other message: which message they are sent for stands in them."""
        box, epoch, number = run.name
        return [f"{box} {epoch} {number} {letter}".encode() for letter in "ab"] if number % 2 else []

    def kill_owner(self, index: int) -> None:
        owner = self.owners[index]
        if owner is not None:
            owner.kill()
            self.owners[index] = None
            self._sample()

    def kill_worker(self, index: int) -> None:
        worker = self.workers[index]
        if worker is not None:
            worker.kill()
            self.workers[index] = None

    def leave_worker(self, index: int) -> None:
        """As a deploy does: it drains, and goes when all is confirmed, or after a while."""
        worker = self.workers[index]
        if worker is None or worker.paused:
            return
        worker.core.drain()
        self.world.touch(worker)
        self.world.run_while(lambda: not worker.core.is_drained(), self.world.now + 2.0)
        worker.core.farewell(self.world.now, final=True)
        worker.turn()
        worker.alive = False
        self.workers[index] = None

    def push(self, index: int, count: int, size: int = 10, key: bytes | None = None) -> None:
        owner = self.owners[index]
        if owner is not None:
            owner.push(CHANNEL, [size] * count, key=key)

    def withdraw(self, index: int, back: int) -> None:
        owner, store = self.owners[index], self.stores[index]
        if owner is not None and not owner.paused and store.rows:
            names = sorted(store.rows)
            epoch, number = names[back % len(names)]
            owner.core.owner.withdrawals.withdraw(store.box, epoch, number)
            self.world.touch(owner)

    def dial(self, index: int, to: int, *, back: bool = False, both: bool = False) -> None:
        owner, worker = self.owners[index], self.workers[to]
        if owner is None or worker is None:
            return
        if (both or not back) and not owner.paused:
            self.world.dial(owner, worker)
        if (both or back) and not worker.paused:
            self.world.dial(worker, owner)

    def dial_all(self) -> None:
        for index, owner in enumerate(self.owners):
            for to, worker in enumerate(self.workers):
                if owner is not None and worker is not None and not self._linked(owner, worker):
                    self.dial(index, to)

    @staticmethod
    def _linked(a: Process, b: Process) -> bool:
        peer = a.core.peers.get(b.instance)
        return peer is not None and peer.link is not None

    def cut(self, index: int, to: int, *, half: str = "") -> None:
        owner, worker = self.owners[index], self.workers[to]
        if owner is None or worker is None:
            return
        process, other = (worker, owner) if half == "worker" else (owner, worker)
        for conn in self.world.connections(process, other):
            if half:
                self.world.half_cut(process, conn)
            else:
                self.world.cut(process, conn)
        self._sample()

    def partition(self, index: int, to: int, *, both: bool, back: bool) -> None:
        owner, worker = self.owners[index], self.workers[to]
        if owner is not None and worker is not None:
            self.world.partition(*((worker, owner) if back else (owner, worker)), both=both)
            self._break(self.stores[index].box, worker)

    def heal(self) -> None:
        self.world.heal()

    def pause(self, process: Process | None) -> None:
        if process is not None:
            process.pause()
            self._sample()

    def resume_all(self) -> None:
        for process in [*self.owners, *self.workers]:
            if process is not None and process.paused:
                process.resume()

    def run(self, seconds: float, *, redial: bool = True) -> None:
        until = self.world.now + seconds
        while self.world.now < until - 1e-9:
            self.world.run(min(until, self.world.now + SAMPLE))
            self._sample()
            if redial:
                self.dial_all()

    def settle(self) -> None:
        """All is well again, and stays so; there is little work left."""
        self.work_s = 0.001
        self.heal()
        self.resume_all()
        for index in range(len(self.owners)):
            self.start_owner(index)
        for index in range(len(self.workers)):
            self.start_worker(index)
        for _ in range(40):
            self.run(2.0)
            # What was handled by another still runs where it was begun: nobody can take that back.
            running = any(worker is not None and any(worker.busy.values()) for worker in self.workers)
            if not running and not any(store.rows for store in self.stores):
                self.run(2.0)
                return

    # -- who could hear whom -----------------------------------------------------------------------------------------

    def _break(self, box: int, worker: Process) -> None:
        self.broken_since.setdefault((box, worker), self.world.now)

    def _sample(self) -> None:
        for store, owner in zip(self.stores, self.owners, strict=True):
            for worker in self.world.processes:
                if not worker.services:
                    continue
                pair = (store.box, worker)
                if owner is not None and self._hear_each_other(owner, worker, store.box):
                    since = self.broken_since.pop(pair, None)
                    if since is not None:
                        self.breaks.setdefault(pair, []).append((since, self.world.now))
                else:
                    self.broken_since.setdefault(pair, self.world.now)

    def _hear_each_other(self, owner: Process, worker: Process, box: int) -> bool:
        if owner.paused or worker.paused or not worker.alive or self.world.is_partitioned(owner, worker):
            return False
        peer = owner.core.peers.get(worker.instance)
        link = peer.link if peer is not None else None
        return link is not None and box in link.resumed and (owner, link.conn) in self.world.wires

    # -- what must hold ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        for store, owner in zip(self.stores, self.owners, strict=True):
            assert store.is_exact(), f"the ledger of {store.box} is wrong: {store.accepted} accepted, {store.counts}"
            if owner is not None:
                self._check_owner(store, owner)
        for worker in self.workers:
            if worker is not None:
                self._check_worker(worker)
        self._check_starts()
        self._check_outputs()
        for store in self.stores:
            if store.keys:
                self._check_order(store)

    def _check_outputs(self) -> None:
        """Whatever is done to them, an output is accepted once, in one outbox, and only of what was handled."""
        accepted = Counter(payload for home in self.homes for payload in home.released)
        twice = [payload.decode() for payload, times in accepted.items() if times > 1]
        assert not twice, f"sent twice: {twice[:3]}"
        settled = {store.box: store.settled for store in self.stores}
        for payload in accepted:
            box, epoch, number, _ = payload.decode().split()
            verdict = settled[int(box)].get((int(epoch), int(number)))
            assert verdict is Verdict.HANDLED, f"{payload.decode()} was sent, and its message is {verdict}"

    def _check_all_sent(self) -> None:
        accepted = {payload for home in self.homes for payload in home.released}
        for store in self.stores:
            for (epoch, number), verdict in store.settled.items():
                if verdict is Verdict.HANDLED and number % 2:
                    lacking = {f"{store.box} {epoch} {number} {letter}".encode() for letter in "ab"} - accepted
                    assert not lacking, f"handled, and never sent: {lacking}"

    def _check_order(self, store: Store) -> None:
        runs: dict[bytes, list[Run]] = {}
        for run in self.world.runs:
            if run.name[0] == store.box and (key := store.keys.get(run.name[1:])) is not None:
                runs.setdefault(key, []).append(run)
        for key, of_key in runs.items():
            handled = [run.name for run in of_key if run.ended_at is not None and run.outcome is None]
            firsts = list(dict.fromkeys(handled))
            assert firsts == sorted(firsts), f"of {key!r} were handled {[name[2] for name in firsts]}"
            for at, after in enumerate(of_key):
                for before in of_key[max(0, at - 4) : at]:
                    over = before.ended_at is not None and before.ended_at <= after.started_at
                    # One who was thought gone may have handled it, while another was at it for that reason.
                    over = over or any(
                        run.name == before.name and run.outcome is None and (run.ended_at or 1e9) <= after.started_at
                        for run in of_key
                    )
                    assert over or not before.process.alive or self._is_cut_off(before, after), (
                        f"of {key!r} {before.name} runs at {before.process.name} since {before.started_at:.3f}, and "
                        f"{after.name} was started at {after.started_at:.3f} by {after.process.name}"
                    )

    def _check_owner(self, store: Store, owner: Process) -> None:
        custody = owner.core.owner.custody[store.box]
        places: Counter[tuple[int, int]] = Counter()
        counted = 0
        for holder in custody.flights.holders():
            for flight in custody.flights_of(holder):
                for first, count in flight.left:
                    places.update((flight.epoch, number) for number in range(first, first + count))
                    for read, _, many in flight.pieces(first, count):
                        counted += many if read is not None else 0
        assert counted == sum(custody.in_flight.values()), "what is in flight is counted wrongly"
        for piece in owner.core.owner.pieces(store.box):
            places.update((piece.segment.epoch, number) for number in range(piece.first, piece.first + piece.count))
        twice = [name for name, times in places.items() if times > 1]
        assert not twice, f"{twice[:3]} are in two places at once"
        pending = {name for change in owner.core.effects.undecided(store.box) for name in store.named_by(change)}
        lost = [name for name in store.read if name in store.rows and name not in places and name not in pending]
        assert not lost, f"{lost[:3]} of {store.box} are nowhere: neither waiting nor in flight"
        for link in owner.core.links.values():
            for credit in link.credits.values():
                assert credit.sent >= 0

    def _check_worker(self, worker: Process) -> None:
        for channel, window in worker.core.worker.windows.items():
            desk = worker.core.worker.desk
            lies = desk.queued(channel) + desk.running(channel)
            assert window.held() >= lies - 1e-3, f"{window.held()} units are booked, {lies} messages lie there"
            assert lies or window.held() < 1e-3, f"{window.held()} units are booked for nothing"
            window.check()

    def _check_starts(self) -> None:
        for name, runs in self.world.by_name.items():
            for before, after in pairwise(runs):
                assert self._is_explained(name, before, after), (
                    f"{name} was started at {before.started_at:.3f} by {before.process.name} and again at "
                    f"{after.started_at:.3f} by {after.process.name} without a cause"
                )

    def _is_explained(self, name: Name, before: Run, after: Run) -> bool:
        if before.outcome is not None and before.outcome.verdict in (Verdict.RETRY, Verdict.UNSTARTED):
            return True
        if not before.process.alive:
            return True  # it was killed, or left before all was confirmed
        return self._is_cut_off(before, after)

    def _is_cut_off(self, before: Run, after: Run) -> bool:
        pair = (before.name[0], before.process)
        breaks = list(self.breaks.get(pair, ()))
        if pair in self.broken_since:
            breaks.append((self.broken_since[pair], self.world.now))
        grace = CONFIG.resume_grace - 2 * SAMPLE
        return any(
            end > before.started_at and start < after.started_at and min(end, after.started_at) - start >= grace
            for start, end in breaks
        )

    def check_settled(self) -> None:
        self._check_all_sent()
        for store in self.stores:
            assert not store.stubs, f"{len(store.stubs)} stubs of {store.box} never go"
        for home in self.homes:
            assert not home.claims, f"{len(home.claims)} outcomes of {home.box} are never confirmed"
        for store, owner in zip(self.stores, self.owners, strict=True):
            assert not store.rows, f"{len(store.rows)} of {store.box} never settle, such as {next(iter(store.rows))}"
            assert owner is not None
            assert not any(owner.core.owner.in_flight(store.box).values())
            # It may have been started, failed, and been asked for again while it waited.
            answers = {(each.epoch, each.number): each for each in owner.withdrawn}
            for name, last in answers.items():
                if last.taken_back is None:
                    continue
                dropped = store.settled.get(name) is Verdict.DROPPED
                assert dropped == last.taken_back, f"{last} but {store.settled.get(name)}"
        for worker in self.workers:
            assert worker is not None
            assert all(window.held() < 1e-3 for window in worker.core.worker.windows.values())
            assert not worker.core.worker.memory.unconfirmed()
            for link in worker.core.links.values():
                assert link.phase is LinkPhase.READY
