"""Requests on bad days: random askers and repliers, connections that break, processes that stop, die and come back.

Whatever happens, each request ends once: answered, failed or cancelled; what may not run twice is begun at most once;
and when all is well again nothing is left anywhere."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.protocol.world import Process, Run, Said, World
from zerowait.engines.brokerless.protocol.config import Config
from zerowait.engines.brokerless.protocol.effects import Answered, Unanswered
from zerowait.message import Outcome, Service, Verdict

SURE, AGAIN = "sure", "again"  # channels: of the second a request may run twice
SEEDS = 40
STEPS = 60
Name = tuple[int, int]  # asker, number


class Day:
    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.world = World(Config(prefetch=64))
        self.world.tells = self.hear
        self.askers = [Process(self.world, f"asker{n}") for n in range(2)]
        self.repliers: list[Process] = []
        self.asked: dict[Name, str] = {}
        self.cancelled: set[Name] = set()
        self.answered: Counter[Name] = Counter()
        self.failed: Counter[Name] = Counter()
        self.runs: Counter[Name] = Counter()
        for _ in range(2):
            self.start()

    def hear(self, process: Process, said: Said) -> None:
        if isinstance(said, Answered):
            for part in said.outcome.parts:
                self.answered.update((process.instance, part.first + at) for at in range(part.count))
        elif isinstance(said, Unanswered):
            names = [(process.instance, said.first + at) for at in range(said.count)]
            self.failed.update(names)
            if not said.sent:
                ran = [name for name in names if self.runs[name]]
                assert not ran, f"{ran} have run, and are said to have not ({said.why})"
        elif isinstance(said, tuple) and said[0] == "starts":
            runs: list[Run] = said[1]
            self.runs.update((run.name[0], run.name[2]) for run in runs)

    def start(self) -> None:
        replier = Process(self.world, f"replier{len(self.world.processes)}", services={SURE: 2, AGAIN: 2})
        replier.core.serve([Service(SURE, "request", 2), Service(AGAIN, "request", 2, idempotent=True)])

        def handle(channel: str, epoch: int, number: int) -> tuple[float, Outcome]:
            return self.chance.choice((0.001, 0.05, 0.5, 4.0)), Outcome(Verdict.HANDLED, answers=b"\x01")

        replier.handler = handle
        self.repliers.append(replier)

    def dial_all(self) -> None:
        for asker in self.askers:
            for replier in self.repliers:
                peer = asker.core.peers.get(replier.instance)
                if asker.alive and not asker.paused and (peer is None or peer.link is None):
                    self.world.dial(asker, replier)

    def step(self) -> None:
        chance, world = self.chance, self.world
        asker, replier = chance.choice(self.askers), chance.choice(self.repliers)
        match chance.randrange(12):
            case 0 | 1 | 2 | 3 if not asker.paused:
                channel, count = chance.choice((SURE, AGAIN)), chance.choice((1, 1, 3, 20))
                first = asker.asked + 1
                self.asked.update(dict.fromkeys(((asker.instance, first + n) for n in range(count)), channel))
                hedge = channel == AGAIN and chance.random() < 0.5
                timeout = chance.choice((0.2, 3.0, 30.0))
                asker.ask(channel, count, idempotent=channel == AGAIN, timeout=timeout, hedge=hedge)
            case 4 if asker.asked and not asker.paused:
                number = chance.randint(1, asker.asked)
                name = (asker.instance, number)
                if not self.answered[name] and not self.failed[name]:
                    self.cancelled.add(name)
                    asker.core.owner.asks.cancel(asker.instance, 1, number)
                    world.touch(asker)
            case 5:
                world.cut_all(asker, replier)
            case 6:
                for conn in world.connections(asker, replier):
                    world.half_cut(asker, conn)
            case 7:
                world.partition(asker, replier, both=chance.random() < 0.7)
            case 8:
                world.heal()
            case 9 if len(self.repliers) > 1 or chance.random() < 0.3:
                replier.kill()
                self.repliers.remove(replier)
                if not self.repliers or chance.random() < 0.7:
                    self.start()
            case 10:
                chance.choice((asker, replier)).pause()
            case _:
                for process in (*self.askers, *self.repliers):
                    if process.paused:
                        process.resume()
        world.run(world.now + chance.choice((0.01, 0.1, 0.5, 2.0, 6.0)))
        self.dial_all()

    def settle(self) -> None:
        self.world.heal()
        for process in (*self.askers, *self.repliers):
            if process.paused:
                process.resume()
        for _ in range(30):
            self.dial_all()
            self.world.run(self.world.now + 2.0)

    def check(self) -> None:
        for name, channel in self.asked.items():
            ends = bool(self.answered[name]) + self.failed[name] + (name in self.cancelled)
            assert ends, f"{name} of {channel} never ends"
            assert self.failed[name] <= 1, f"{name} of {channel} has failed {self.failed[name]} times"
            assert channel == AGAIN or self.runs[name] <= 1, (
                f"{name} may not run twice, and has {self.runs[name]} times"
            )
        for asker in self.askers:
            owner = asker.core.owner
            assert not any(owner.in_flight(asker.instance).values())
            assert not owner.pieces(asker.instance)
        for replier in self.repliers:
            worker = replier.core.worker
            assert not worker.memory.unconfirmed(), "answers are kept that nobody will ask for"
            for channel, window in worker.windows.items():
                window.check()
                assert not worker.desk.running(channel)
                assert not worker.desk.queued(channel)
                assert window.held() < 1e-3


@pytest.mark.parametrize("seed", range(SEEDS))
def test_each_request_ends_once_whatever_happens(seed: int) -> None:
    day = Day(seed)
    for _ in range(STEPS):
        day.step()
    day.settle()
    day.check()
