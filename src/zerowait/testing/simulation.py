"""One seed, played: a cluster that is treated badly for two seconds, healed, left alone, and looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

from msgspec import Struct

from zerowait.outbox.outbox import Outbox
from zerowait.testing import deaths, order
from zerowait.testing.causes import Causes
from zerowait.testing.checker import Books, check
from zerowait.testing.cluster import Cluster
from zerowait.testing.history import History
from zerowait.testing.invariants import Invariants, Wrong
from zerowait.testing.node import Node
from zerowait.testing.plan import KILLS, Plan, plan
from zerowait.testing.replies import Replies
from zerowait.testing.timeline import START, Timeline
from zerowait.testing.troubles import Troubles

SAMPLE_S = 0.05
PATIENCE_S = 60.0  # so long after all is well again everything may take to come to rest
QUIET_S = 1.5  # longer than a handshake may take: what was begun with somebody who died is given up


class Report(Struct, frozen=True):
    """hash: of all that happened. wrong: what must not be; empty if all is well. causes: of second starts, by kind."""

    seed: int
    hash: str
    wrong: tuple[str, ...]
    fired: frozenset[str]
    counts: dict[str, int]
    causes: dict[str, int]
    steps: int
    seconds: float
    ends: dict[str, int]  # of requests
    asked_again: dict[str, int]  # why
    topics: dict[str, int]  # how many events were taken, and missed, and kept for durable groups


def simulate(seed: int, *, log: Callable[[str], None] | None = None) -> Report:
    """The same seed does the same, to the last frame."""
    return Simulation(plan(seed), log).play()


class Simulation:
    def __init__(self, plan: Plan, log: Callable[[str], None] | None = None) -> None:
        self._plan = plan
        self.timeline = Timeline()
        self.history = History(self.timeline)
        self.history.log = log
        self.cluster = Cluster(plan, self.timeline, self.history)
        self._troubles = Troubles(self.cluster)
        self._causes = Causes(self.cluster)
        self._invariants = Invariants()
        self._replies = Replies(self.cluster.around.questions, self.history.lives, self._causes)
        self.cluster.around.turned = self._turned
        self.cluster.around.stored = self._stored
        self._wrong: list[str] = []

    def play(self) -> Report:
        try:
            self._begin()
            self.timeline.run(START + self._plan.healed_s)
            self._settle()
        except Wrong as wrong:
            self._wrong.append(str(wrong))
        except AssertionError as error:
            if self.history.log is not None:
                raise
            self._wrong.append(f"an assertion failed: {error!r}")
        finally:
            for node in self.cluster.nodes:
                node.store.stop()
        counts = dict(Counter(message.fate for message in self.history.messages.values()))
        return Report(
            self._plan.seed, self.history.digest(), tuple(self._wrong), frozenset(self.cluster.fired), counts,
            dict(self._causes.counted), self.timeline.steps, self.timeline.now - START, dict(self._replies.ends),
            dict(self._replies.again),
            {
                **self.cluster.around.events.counts,
                "for durable groups": self.cluster.around.groups.count,
                "for them by handlers": self.cluster.around.groups.told,
            },
        )  # fmt: skip

    def _begin(self) -> None:
        cluster, at = self.cluster, self.timeline.call
        for index in range(self._plan.workers):
            cluster.start_worker(index)
        for index in range(self._plan.senders):
            cluster.start_sender(index)
        for push in self._plan.pushes:
            at(START + push.at, partial(cluster.push, push))
        for when, token in self._plan.withdrawals:
            at(START + when, partial(cluster.withdraw, token))
        cluster.asking.schedule()
        for publication in self._plan.publications:
            at(START + publication.at, partial(cluster.publish, publication))
        for event in self._plan.events:
            at(START + event.at, partial(self._troubles.strike, event))
        self._sample()

    def _sample(self) -> None:
        self.cluster.dial_all()
        self._causes.sample()
        self.timeline.after(SAMPLE_S, self._sample)

    def _turned(self, node: Node) -> None:
        self._invariants.of_turn(node)

    def _stored(self, node: Node, box: Outbox) -> None:
        disk = node.homes[box.id].disk
        if disk.blown:
            self.timeline.call(self.timeline.now, lambda: self._blown(node))
        else:
            self._invariants.of_box(box)

    def _blown(self, node: Node) -> None:
        if node.alive:
            self.cluster.fired.add("killed in a commit")
            self.cluster.kill(
                node, power=any(home.disk.power for home in node.homes.values()), why="killed in a commit"
            )

    # -- the end -----------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        cluster = self.cluster
        cluster.healed = True
        self._troubles.heal_all()
        cluster.network.heal()
        for home in cluster.homes:
            home.disk.trouble = ""
            home.disk.put_out()
            if home.disk.blown and home.owner is not None:
                self._blown(home.owner)
        for node in cluster.nodes:
            if node.alive and node.paused:
                node.resume()
        killers = sum(
            kind in KILLS for kind in (*self._plan.tempers.values(), *self._plan.manners.values())
        )  # they may have their way one after another
        give_up = self.timeline.now + PATIENCE_S * (1 + killers)
        self._come_to_rest(give_up)
        if self._plan.publications:
            cluster.publish_last()
            self._come_to_rest(give_up + PATIENCE_S)
        self.timeline.run(self.timeline.now + QUIET_S)
        if not self._is_at_rest():
            raise Wrong(f"was at rest, and moves again: {self._what_moves()}")
        self._judge()

    def _come_to_rest(self, give_up: float) -> None:
        cluster = self.cluster
        while not self._is_at_rest():
            if self.timeline.now > give_up:
                raise Wrong(f"never comes to rest: {self._what_moves()}")
            for index in range(len(cluster.senders)):
                cluster.start_sender(index)
            for index in range(len(cluster.workers)):
                cluster.start_worker(index)
            for home in cluster.homes:
                if home.owner is None:  # its name has another by now: somebody else takes it over
                    adopter = next((node for node in cluster.senders if node is not None and not node.paused), None)
                    if adopter is not None:
                        adopter.holdings.open(home, pushes=False)
            self.timeline.run(self.timeline.now + 0.25)

    def _judge(self) -> None:
        cluster = self.cluster
        self._wrong += self._causes.judge()
        books = [Books.of(home) for home in cluster.homes]
        self._wrong += check(self.history, books)
        condemned = {token for each in books for token in each.crashed}
        letters = {token for each in books for token in each.letters}
        self._wrong += order.judge(self.history, letters, self._causes)
        self._wrong += deaths.judge(self._plan, self.history, condemned, self._causes.silences)
        self._wrong += self._replies.judge(cluster.nodes)
        self._wrong += cluster.around.groups.wrong
        self._wrong += cluster.around.events.judge(node.instance for node in cluster.nodes if node.alive)
        for node in cluster.nodes:
            if node.alive:
                self._wrong += self._invariants.at_rest(node)

    def _is_at_rest(self) -> bool:
        return not self._what_moves()

    def _what_moves(self) -> list[str]:
        moves: list[str] = []
        for home in self.cluster.homes:
            if home.owner is None:
                moves.append(f"the outbox {home.box:x} of {home.name} has no owner")
                continue
            box = home.owner.boxes[home.box]
            if left := sum(box.ledger.unsettled().values()):
                moves.append(f"{left} messages wait in {home.box:x} of {home.name}")
            if stubs := box.stubs():
                moves.append(f"{stubs} stubs in {home.box:x} of {home.name} wait for what was chosen to be released")
            if prepared := box.prepared():
                moves.append(f"the outputs of {prepared} in {home.box:x} of {home.name} wait for their choice")
        for node in self.cluster.nodes:
            if node.alive and node.is_busy():
                moves.append(f"{node.name} works")
            if node.alive and node.leaving:
                moves.append(f"{node.name} leaves")
            if node.alive and node.core.worker.desk.boxes():  # at the latest when the grace of their owner is over
                moves.append(f"{node.name} has messages that have not begun")
            if node.alive and node.store.is_broken():
                moves.append(f"{node.name} has a disk in trouble")
            if node.alive and (left := node.core.worker.memory.unconfirmed()):
                moves.append(f"{node.name} waits for {left} outcomes to be confirmed")
            if node.alive and node.asker is not None and (left := node.asker.outstanding()):
                moves.append(f"{node.name} waits for {left} answers")
            if node.alive and node.asker is not None and node.asker.is_reading():
                moves.append(f"{node.name} reads a stream")
        publishers = [node for node in self.cluster.senders if node is not None]
        moves += [
            f"{node.name} waits for events" for node in self.cluster.nodes
            if node.alive and node.topics is not None and node.topics.lacks(publishers)
        ]  # fmt: skip
        moves += [f"{node.name} has events to send" for node in publishers if not node.core.publisher.is_settled(0.0)]
        moves += [f"sender{i} is not there" for i, node in enumerate(self.cluster.senders) if node is None]
        return moves
