"""The processes of a simulated world: which live, which outbox is whose, who finds whom."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import Final

from zerowait.engines.brokerless.protocol.config import Config
from zerowait.engines.brokerless.protocol.core import OBITUARIES
from zerowait.engines.brokerless.protocol.effects import Withdrawn
from zerowait.engines.brokerless.protocol.frames import Obituary
from zerowait.engines.brokerless.protocol.worker.unbegun import Listing
from zerowait.errors import StoreError
from zerowait.message import Prepared
from zerowait.outbox.lane import Lane
from zerowait.outbox.sheaf import Sheaf
from zerowait.testing.asking import Asking
from zerowait.testing.crew import NEXT
from zerowait.testing.durable import Durable, Serve
from zerowait.testing.events import TOPICS
from zerowait.testing.history import LEFT, History, Life, Message, Output, payload_of
from zerowait.testing.network import Network
from zerowait.testing.node import Node
from zerowait.testing.plan import HELD_S, HOLDS, KILLS, REFORMS, Plan
from zerowait.testing.surroundings import Home, Surroundings
from zerowait.testing.timeline import Timeline, WallClock
from zerowait.testing.topics import Topics
from zerowait.testing.traffic import Publication, Push

CHANNEL: Final = "work"
OUTPUTS: Final = 1_000_000  # tokens from there on are of what handlers send
REDIAL_S: Final = 0.1
# A quarter of what is usual, so that a bad day takes seconds.
CONFIG: Final = Config(
    ping=0.25, silence=0.75, resume_grace=1.25, proof_within=0.1, prefetch=64, idle_after=0.1, stuck=0.75,
    handshake=1.25, drain=1.0, alone_within=0.5, no_responder=0.5,
)  # fmt: skip


class Cluster:
    def __init__(self, plan: Plan, timeline: Timeline, history: History) -> None:
        self.plan = plan
        self.timeline = timeline
        self.history = history
        self._rng = Random(f"world {plan.seed}")
        self.network = Network(timeline, Random(f"network {plan.seed}"), plan.latency_s)
        around = Surroundings(timeline, self.network, history, CONFIG, Random(f"processes {plan.seed}"))
        around.commit_s, around.job, around.temper = plan.commit_s, plan.job, self._temper
        around.ending, around.ended, around.boot = self._ending, self._ended, self._boot
        around.proves, around.looked = plan.proves, self._looked
        around.died = self._killed_by_push
        around.keeps, around.sends = plan.keeps, self._sends
        around.is_well = lambda: self.healed
        self.around = around
        self.wall = WallClock(timeline)
        self.homes: list[Home] = []
        self.nodes: list[Node] = []
        self.senders: list[Node | None] = [None] * plan.senders
        self.workers: list[Node | None] = [None] * plan.workers
        self.fired: set[str] = set()
        self.healed = False
        self.asking = Asking(self, around.questions)
        self._places: dict[int, tuple[Node, Sheaf, int]] = {}
        self._asked: dict[tuple[int, int, int], Message] = {}
        self._dialled: dict[tuple[int, int], float] = {}

    # -- lives -------------------------------------------------------------------------------------------------------

    def _born(self, name: str, services: dict[str, int], *, serves: bool = False) -> Node:
        instance = self._rng.getrandbits(40) | 1
        node = Node(self.around, len(self.nodes) + 1, instance, name, self.wall, services, serves=serves)
        node.withdrawn = self._withdrawn
        if self.plan.mixes and len(self.nodes) % 2:
            node.is_younger = True
            self.fired.add("versions mixed")
        self.nodes.append(node)
        self.history.tell("born", name, node.key, instance)
        return node

    def start_sender(self, index: int) -> None:
        """It takes over what its namesake has left, or begins a new outbox."""
        if self.senders[index] is not None:
            return
        name = f"sender{index}"
        node = self.senders[index] = self._born(name, {})
        if self.plan.publications:
            node.topics = Topics(node)
            node.topics.declare()
            if self.plan.serves:
                node.topics.durable = Durable(node, self._watch)
        if self.plan.has_files and node.holdings.open(self._home_of(name), pushes=True) is None:
            self.kill(node, power=False, why="its outbox cannot be opened")
        self.dial_all()

    def _home_of(self, name: str) -> Home:
        home = next((home for home in self.homes if home.name == name and home.owner is None), None)
        if home is None:
            home = Home(self._rng.getrandbits(63) | 1, name, Random(f"disk {self.plan.seed} {len(self.homes)}"))
            self.homes.append(home)
        return home

    def start_worker(self, index: int) -> None:
        if self.workers[index] is not None:
            return
        name, runners = f"worker{index}", self.plan.runners
        services = {CHANNEL: runners} if self.plan.pushes else {}
        if self.plan.sends:
            services[NEXT] = runners
        late: list[Serve] = []
        for group in self.plan.serves:
            if group.worker == index and group.after:
                late.append(group)
            elif group.worker == index:
                services[group.channel] = runners
        node = self.workers[index] = self._born(name, services, serves=True)
        for group in late:
            come = partial(node.when_awake, partial(node.serve_also, group.channel, runners))
            self.timeline.after(group.after, come)
        node.serve(self.asking.serve(node) if self.plan.asks else [])
        if self.plan.joins:
            topics = node.topics = Topics(node)
            for id, join in enumerate(self.plan.joins, 1):
                if join.worker == index:
                    come = partial(node.when_awake, partial(topics.subscribe, id, join))
                    self.timeline.after(join.after, come)
        if self.plan.tells:
            publishes = node.topics = node.topics or Topics(node)
            publishes.declare()
            publishes.durable = Durable(node, self._watch)
            node.crew.tells = partial(self._tells, publishes.durable)
        if self.plan.has_homes:
            home = self._home_of(name)
            node.core.keep_in(home.box)
            node.crew.home = home.box
            if node.holdings.open(home, pushes=False) is None:
                self.kill(node, power=False, why="its outbox cannot be opened")
        self.dial_all()

    def kill(self, node: Node, *, power: bool, why: str) -> None:
        """power: its machine dies too. Others do not notice, and nobody can prove it."""
        if not node.alive:
            return
        node.alive = False
        life = self.history.lives[node.instance]
        life.ended_at, life.how = self.timeline.now, why
        life.is_silent, life.was_leaving = power, node.leaving
        if self.plan.lists and not power:
            life.running = () if node.leaving else tuple(node.crew.begun.values())
        life.unsettled = node.core.worker.desk.total_running() + node.core.worker.memory.unconfirmed()
        if power:
            self.fired.add("power cut")
        self.network.died(node, silently=power)
        self.history.tell("killed", node.name, node.key, why)
        for home in self.homes:
            if home.owner is node:
                home.disk.part(power=power)
                home.owner = None
        node.store.stop()
        for token, (sender, _, _) in list(self._places.items()):
            message = self.history.messages[token]
            if sender is node and message.fate == "pending":
                message.fate = "unknown"
        self._vacate(node)

    def _vacate(self, node: Node) -> None:
        for group in (self.senders, self.workers):
            for index, other in enumerate(group):
                if other is node:
                    group[index] = None

    def _killed_by_push(self, node: Node, message: Message | None) -> None:
        kind = self.plan.tempers.get(message.token, "") if message is not None else ""
        owner = None
        if message is not None and kind == "handler kills both ends":
            owner = next((home.owner for home in self.homes if home.box == message.box), None)
        self.killed_by_handler(node, kind, owner)

    def killed_by_handler(self, node: Node, kind: str, other: Node | None) -> None:
        """other: goes with it."""
        self.fired.add(kind)
        if other is not None and other is not node and other.alive:
            self.kill(other, power=False, why="a handler")
            self.timeline.after(0.3, self._start_senders)
        index = self.workers.index(node) if node in self.workers else None
        self.kill(node, power=False, why="a handler")
        if index is not None:
            self.timeline.after(0.2, lambda: self.start_worker(index))

    def leave(self, node: Node) -> None:
        """As a deploy does: it drains, and goes when all is confirmed, or has to."""
        if node.leaving or node.paused:
            return
        node.leaving = True
        node.core.drain()
        node.touch()
        until = self.timeline.now + CONFIG.drain

        def look() -> None:
            if not node.alive:
                return
            if node.paused or not (node.core.is_drained() or self.timeline.now >= until):
                self.timeline.after(0.02, look)
                return
            settled = not any(box.ledger.unsettled() or box.stubs() for box in node.boxes.values())
            node.core.farewell(self.timeline.now, final=settled)
            node.say_all()
            self.timeline.after(0.0, lambda: self.kill(node, power=False, why=LEFT))

        self.timeline.after(0.02, look)

    def _start_senders(self) -> None:
        for index in range(len(self.senders)):
            self.start_sender(index)

    def _obituary(self, life: Life) -> Obituary | None:
        if life.ended_at is None or life.is_silent:
            return None
        return Obituary(life.instance, running=life.running or (), listed=life.running is not None)

    def _ending(self, instance: int) -> Obituary | None:
        life = self.history.lives.get(instance)
        return self._obituary(life) if self.plan.proves and life is not None else None

    def _ended(self, name: str) -> list[Obituary]:
        if not self.plan.heirs:
            return []
        lives = [life for life in self.history.lives.values() if life.name == name and life.running is not None]
        return [obituary for life in lives[-OBITUARIES:] if (obituary := self._obituary(life)) is not None]

    def _looked(self, instance: int) -> tuple[Listing | None, bool]:
        node = self._node_of(instance)
        return node.listing(), node.stirs()

    def _node_of(self, instance: int) -> Node:
        return next(node for node in self.nodes if node.instance == instance)

    def _boot(self, name: str) -> str:
        return "this boot" if self.plan.proves else f"the boot of {name}"

    # -- finding each other ------------------------------------------------------------------------------------------

    def dial_all(self) -> None:
        now = self.timeline.now
        for owner in self.nodes:
            if not owner.alive or owner.paused or not (owner.boxes or owner in self.senders):
                continue
            for worker in self.workers:
                if worker is None or worker is owner:
                    continue
                peer = owner.core.peers.get(worker.instance)
                linked = peer is not None and peer.link is not None
                if not linked and now - self._dialled.get((owner.key, worker.key), -1.0) >= REDIAL_S:
                    self._dialled[owner.key, worker.key] = now
                    self.network.dial(owner, worker)

        for node in self.nodes:
            if node.alive and not node.paused:
                self._dial_sought(node, now)

    def _dial_sought(self, node: Node, now: float) -> None:
        """Who has found outcomes of others in a file asks those, wherever they are."""
        for box in node.core.worker.claims.sought():
            owner = next((home.owner for home in self.homes if home.box == box), None)
            if owner is None or owner is node or not owner.alive:
                continue
            peer = node.core.peers.get(owner.instance)
            linked = peer is not None and peer.link is not None
            if not linked and now - self._dialled.get((node.key, owner.key), -1.0) >= REDIAL_S:
                self._dialled[node.key, owner.key] = now
                self.network.dial(node, owner)

    def owners(self) -> list[Node]:
        return [node for node in self.nodes if node.alive and node.boxes]

    # -- events --------------------------------------------------------------------------------------------------------

    def publish(self, what: Publication) -> None:
        node = self.senders[what.sender]
        if node is not None and not node.paused and node.topics is not None:
            node.topics.publish(what.topics)

    def publish_last(self) -> None:
        """Something on each topic, behind which nothing can be missed and not told."""
        for node in self.senders:
            if node is not None and node.topics is not None:
                node.topics.publish(TOPICS)

    # -- messages ----------------------------------------------------------------------------------------------------

    def push(self, push: Push) -> None:
        node, ttl, delay = self.senders[push.sender], push.ttl, push.delay
        if node is None or node.holdings.intake is None or node.paused:
            return
        lane, now = Lane(node.holdings.intake, CHANNEL), node.now_us()
        due = now + int(delay * 1e6) if delay is not None else None
        expires = (due or now) + int(ttl * 1e6) if ttl is not None else None
        for token, key in zip(push.tokens, push.keys, strict=True):
            payload = payload_of(token, self._rng.choice((10, 10, 100, 3_000)))
            message = self.history.pushed(
                node.holdings.intake.box, payload, expires=ttl is not None, key=key, delay_s=delay or 0.0
            )
            try:
                sheaf, index = lane.append(payload, due=due, expires=expires, key=key.encode() or None)
            except StoreError:
                message.fate = "refused"
                continue
            self._watch(message, node, sheaf, index)

    def _watch(self, message: Message, node: Node, sheaf: Sheaf, index: int) -> None:
        self._places[message.token] = (node, sheaf, index)

        def is_told() -> bool:
            """A process whose last moment has come tells nobody any more."""
            home = node.homes[message.box]
            return node.alive and not home.disk.blown

        def stored() -> None:
            if is_told():
                message.fate = "unknown" if sheaf.error is not None else "accepted"
                self.history.tell(message.fate, message.token)

        def settled() -> None:
            if is_told():
                message.said.append(sheaf.state(index))
                self.history.tell("settled", message.token, sheaf.state(index))

        sheaf.when_stored(index, stored)
        sheaf.when_settled(index, settled)

    def withdraw(self, token: int) -> None:
        place = self._places.get(token)
        if place is None:
            return
        node, sheaf, index = place
        message = self.history.messages[token]
        if node.alive and not node.paused and message.fate == "accepted":
            message.said.append("withdrawal asked")
            name = (message.box, sheaf.epoch, sheaf.first + index)
            self._asked[name] = message
            node.core.owner.withdrawals.withdraw(*name)
            node.touch()

    def _withdrawn(self, effect: Withdrawn) -> None:
        message = self._asked.get((effect.box, effect.epoch, effect.number))
        if message is not None:
            message.said.append({True: "taken back", False: "begun", None: "its row says"}[effect.taken_back])

    def _sends(self, channel: str, token: int) -> list[bytes]:
        if channel != CHANNEL or not self.plan.sends:
            return []
        count = self.plan.sends[token % len(self.plan.sends)]
        return [payload_of(OUTPUTS + 10 * token + n, 10 if token % 5 else 3_000) for n in range(count)]

    def _tells(self, durable: Durable, channel: str, token: int, index: int) -> tuple[list[Prepared], list[Output]]:
        topic = self.plan.tells[token % len(self.plan.tells)] if channel == CHANNEL else ""
        return durable.tells(topic, token, index) if topic else ([], [])

    def _temper(self, token: int) -> tuple[float, str]:
        kind = self.plan.tempers.get(token, "")
        seconds = self.plan.handler_s * (0.5 + self._rng.random())
        if kind == "handler rejects":
            self.fired.add(kind)
            return seconds, "dead"
        if kind == "handler fails":
            self.fired.add(kind)
            failures = self.history.failures(token)
            return seconds, "retry" if failures < 1 + token % 3 else "dead" if token % 2 else "handled"
        if kind in KILLS and len(self.history.messages[token].runs) <= REFORMS:
            return min(seconds, 0.01), "kills"
        if self.healed:
            return min(seconds, 0.005), "handled"
        if kind == HOLDS:
            self.fired.add(kind)
            seconds = self._rng.uniform(0.4, 1.0) * HELD_S
            self._node_of(self.history.messages[token].runs[-1].worker).hold(seconds)
            return seconds, "handled"
        if kind == "slow handler":
            self.fired.add(kind)
            return self._rng.uniform(0.3, 4.0), "handled"  # also longer than silence and grace together
        return seconds, "handled"
