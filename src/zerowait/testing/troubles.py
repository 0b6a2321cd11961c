"""How each kind of fault is done to a cluster, and how it heals."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from random import Random

from zerowait.testing.cluster import Cluster
from zerowait.testing.disk import Trouble
from zerowait.testing.node import Node
from zerowait.testing.plan import Event
from zerowait.testing.surroundings import Home


class Troubles:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._rng = Random(f"troubles {cluster.plan.seed}")
        self._numbers = count()
        self._over: dict[int, Callable[[], None]] = {}
        self._kinds: dict[str, Callable[[Event], Callable[[], None] | None]] = {
            "slow network": self._slow,
            "partition": self._partition,
            "one-way partition": self._one_way,
            "connection cut": self._cut,
            "late frames": self._late,
            "old frames first": self._old_first,
            "dialled twice": self._dial_twice,
            "sender killed": self._kill_sender,
            "worker killed": self._kill_worker,
            "killed in a commit": self._kill_in_commit,
            "power cut": self._power_cut,
            "adoption": self._adopt,
            "disk full": lambda event: self._disk(event, "full"),
            "write error": lambda event: self._disk(event, "write"),
            "sync error": lambda event: self._disk(event, "sync"),
            "sender paused": lambda event: self._pause(event, self._sender(event)),
            "worker paused": lambda event: self._pause(event, self._worker(event)),
            "wall clock set": self._set_clock,
            "worker leaves": self._leave,
            "worker joins": self._join,
        }

    def strike(self, event: Event) -> None:
        heal = self._kinds[event.kind](event)
        self._cluster.history.tell("fault", event.kind, event.one, event.other, heal is not None)
        if heal is not None:
            number = next(self._numbers)
            self._over[number] = heal
            self._cluster.timeline.after(event.lasts, lambda: self._heal(number))

    def _heal(self, number: int) -> None:
        heal = self._over.pop(number, None)
        if heal is not None:
            heal()

    def heal_all(self) -> None:
        for number in list(self._over):
            self._heal(number)

    def _happens(self, event: Event) -> None:
        self._cluster.fired.add(event.kind)

    # -- who -----------------------------------------------------------------------------------------------------------

    def _sender(self, event: Event) -> Node | None:
        living = [node for node in self._cluster.senders if node is not None]
        return living[event.one % len(living)] if living else None

    def _worker(self, event: Event) -> Node | None:
        living = [node for node in self._cluster.workers if node is not None]
        return living[event.other % len(living)] if living else None

    def _pair(self, event: Event) -> tuple[Node, Node] | None:
        a, b = self._sender(event), self._worker(event)
        if a is None or b is None:
            return None
        return (a, b) if event.one % 2 else (b, a)

    def _home(self, event: Event) -> Home | None:
        homes = [home for home in self._cluster.homes if home.owner is not None]
        return homes[event.one % len(homes)] if homes else None

    # -- the network ---------------------------------------------------------------------------------------------------

    def _slow(self, event: Event) -> Callable[[], None] | None:
        pair = self._pair(event)
        if pair is None:
            return None
        self._happens(event)
        a, b = pair
        self._cluster.network.slow(a, b, self._rng.uniform(0.05, 0.4))
        return lambda: self._cluster.network.slow(a, b, 0.0)

    def _partition(self, event: Event) -> Callable[[], None] | None:
        pair = self._pair(event)
        if pair is None:
            return None
        self._happens(event)
        a, b = pair
        network = self._cluster.network
        network.wall(a, b)
        network.wall(b, a)

        def heal() -> None:
            network.unwall(a, b)
            network.unwall(b, a)

        return heal

    def _one_way(self, event: Event) -> Callable[[], None] | None:
        pair = self._pair(event)
        if pair is None:
            return None
        self._happens(event)
        a, b = pair
        self._cluster.network.wall(a, b)
        return lambda: self._cluster.network.unwall(a, b)

    def _cut(self, event: Event) -> None:
        pair = self._pair(event)
        for end in self._cluster.network.between(*pair) if pair is not None else ():
            self._happens(event)
            self._cluster.network.cut(end)

    def _late(self, event: Event) -> None:
        """One end dials anew, while what it had said before still arrives."""
        pair = self._pair(event)
        if pair is None:
            return
        for end in self._cluster.network.between(*pair):
            self._happens(event)
            self._cluster.network.half_cut(end, self._rng.choice((0.01, 0.1, 0.5)))
        if pair[0].alive and not pair[0].paused:
            self._cluster.network.dial(*pair)

    def _old_first(self, event: Event) -> None:
        pair = self._pair(event)
        if pair is None or pair[0].paused:
            return
        said = list(self._cluster.network.said.get(pair[0].key, ()))
        if said:
            self._happens(event)
            self._cluster.network.dial(*pair, first=tuple(said[-self._rng.randint(1, len(said)) :]))

    def _dial_twice(self, event: Event) -> None:
        pair = self._pair(event)
        if pair is not None and not pair[0].paused:
            self._happens(event)
            for _ in range(self._rng.choice((1, 2, 3))):
                self._cluster.network.dial(*pair)

    # -- processes -----------------------------------------------------------------------------------------------------

    def _kill_sender(self, event: Event) -> Callable[[], None] | None:
        return self._kill(event, self._sender(event), power=False)

    def _kill_worker(self, event: Event) -> Callable[[], None] | None:
        return self._kill(event, self._worker(event), power=False)

    def _power_cut(self, event: Event) -> Callable[[], None] | None:
        """Nobody is told of it. Mostly in the middle of writing, where it matters."""
        home = self._home(event)
        if home is not None and home.owner in self._cluster.senders and self._rng.random() < 0.8:
            return self._light(home, power=True)
        return self._kill(event, self._sender(event) if event.other % 4 else self._worker(event), power=True)

    def _kill_in_commit(self, event: Event) -> Callable[[], None] | None:
        home = self._home(event)
        return self._light(home, power=False) if home is not None else None

    def _light(self, home: Home, *, power: bool) -> Callable[[], None]:
        home.disk.light(self._rng.randint(1, 40), power=power)
        return self._restart_all

    def _kill(self, event: Event, node: Node | None, *, power: bool) -> Callable[[], None] | None:
        if node is None:
            return None
        self._happens(event)
        self._cluster.kill(node, power=power, why="killed")
        return self._restart_all

    def _restart_all(self) -> None:
        for index in range(len(self._cluster.senders)):
            self._cluster.start_sender(index)
        for index in range(self._cluster.plan.workers):
            self._cluster.start_worker(index)

    def _adopt(self, event: Event) -> Callable[[], None] | None:
        """A sender dies, and another process takes over its file; the next of its name begins another."""
        node = self._sender(event)
        others = [other for other in self._cluster.nodes if other.alive and not other.paused and other is not node]
        if node is None or not others or not node.homes:
            return None
        home = next(iter(node.homes.values()))
        self._cluster.kill(node, power=False, why="killed")
        adopter = others[event.other % len(others)]
        if home.owner is None and not adopter.leaving and adopter.holdings.open(home, pushes=False) is not None:
            self._happens(event)
            self._cluster.dial_all()
        return self._restart_all

    def _pause(self, event: Event, node: Node | None) -> Callable[[], None] | None:
        if node is None or node.paused:
            return None
        self._happens(event)
        node.pause()
        return node.resume

    def _leave(self, event: Event) -> Callable[[], None] | None:
        node = self._worker(event)
        if node is None or node.boxes.keys() - {node.crew.home}:
            return None
        self._happens(event)
        self._cluster.leave(node)
        return self._restart_all

    def _join(self, event: Event) -> None:
        self._happens(event)
        self._cluster.workers.append(None)
        self._cluster.start_worker(len(self._cluster.workers) - 1)

    # -- machines ------------------------------------------------------------------------------------------------------

    def _disk(self, event: Event, trouble: Trouble) -> Callable[[], None] | None:
        home = self._home(event)
        if home is None or home.disk.trouble:
            return None
        before, disk = home.disk.failures, home.disk
        disk.trouble = trouble

        def heal() -> None:
            disk.trouble = ""
            if disk.failures > before:
                self._happens(event)

        return heal

    def _set_clock(self, event: Event) -> None:
        """By seconds, an hour, ten years. It concerns lives that begin from now on."""
        self._happens(event)
        seconds = self._rng.choice((2.0, 3_600.0, 10 * 365 * 86_400.0))
        self._cluster.wall.ahead_us += int(seconds * 1e6) * self._rng.choice((-1, 1))
