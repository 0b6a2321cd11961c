"""Many seeds, one after another: which of them fail, and whether every kind of fault has happened often enough."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from math import sqrt
from multiprocessing import get_context
from time import process_time

from msgspec import Struct, field

from zerowait.testing.plan import FAULTS
from zerowait.testing.simulation import Report, simulate

OFTEN = 0.2  # in this part of the seeds at least each kind of fault has happened
ENOUGH = 150  # with fewer seeds chance decides how often
TWICE = 50  # each so many-th seed is played twice


class Tally(Struct):
    seeds: int = 0
    seconds: float = 0.0
    failed: list[Report] = field(default_factory=list[Report])
    unlike: list[int] = field(default_factory=list[int])  # seeds of which a second playing was another
    fired: Counter[str] = field(default_factory=Counter[str])
    counts: Counter[str] = field(default_factory=Counter[str])
    causes: Counter[str] = field(default_factory=Counter[str])
    ends: Counter[str] = field(default_factory=Counter[str])
    asked_again: Counter[str] = field(default_factory=Counter[str])
    topics: Counter[str] = field(default_factory=Counter[str])
    steps: int = 0
    simulated: float = 0.0

    def take(self, report: Report) -> None:
        self.seeds += 1
        self.fired.update(report.fired)
        self.counts.update(report.counts)
        self.causes.update(report.causes)
        self.ends.update(report.ends)
        self.asked_again.update(report.asked_again)
        self.topics.update(report.topics)
        self.steps += report.steps
        self.simulated += report.seconds
        if report.wrong:
            self.failed.append(report)

    def add(self, other: Tally) -> None:
        """What another process has played."""
        self.seeds += other.seeds
        self.seconds += other.seconds
        self.failed += other.failed
        self.unlike += other.unlike
        for mine, theirs in (
            (self.fired, other.fired), (self.counts, other.counts), (self.causes, other.causes),
            (self.ends, other.ends), (self.asked_again, other.asked_again), (self.topics, other.topics),
        ):  # fmt: skip
            mine.update(theirs)
        self.steps += other.steps
        self.simulated += other.simulated

    def seldom(self) -> dict[str, float]:
        """Kinds of faults that have happened too seldom, and in which part of the seeds."""
        if self.seeds < ENOUGH:
            return {}
        # As many as chance may leave out of so many seeds: a slow machine plays few.
        least = OFTEN - 2 * sqrt(OFTEN * (1 - OFTEN) / self.seeds)
        return {kind: part for kind in FAULTS if (part := self.fired[kind] / self.seeds) < least}

    def words(self) -> str:
        each_ms = 1_000 * self.seconds / max(1, self.seeds)
        lines = [
            f"{self.seeds:,} seeds in {self.seconds:.1f} s of processor time, {each_ms:.0f} ms each",
            f"{self.steps:,} steps in {self.simulated:,.0f} simulated seconds",
            f"messages: {_listed(self.counts)}; started again for {_listed(self.causes)}",
            f"requests: {_listed(self.ends)}; begun again for {_listed(self.asked_again)}",
            f"events: {_listed(self.topics)}",
            "faults, in percent of the seeds: "
            + ", ".join(f"{kind} {100 * self.fired[kind] / max(1, self.seeds):.0f}" for kind in FAULTS),
        ]
        for report in self.failed:
            lines += [
                f"seed {report.seed} fails; to see it: {replay(report.seed)}",
                *(f"  {w}" for w in report.wrong[:5]),
            ]
        lines += [f"seed {seed} is not the same when it is played again" for seed in self.unlike]
        lines += [f"too seldom: {kind}, in {100 * part:.0f} %" for kind, part in self.seldom().items()]
        return "\n".join(lines)

    def is_good(self) -> bool:
        return not (self.failed or self.unlike or self.seldom())


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.most_common()) or "none"


def replay(seed: int) -> str:
    return f"make simulate SEEDS=1 FROM={seed}"


def play_on_all_cores(parts: Sequence[Iterable[int]], *, until: float | None = None) -> Tally:
    """A process for each part. until: seconds of its processor time after which a process begins no seed."""
    if len(parts) == 1:
        return play(parts[0], until=until)
    tally = Tally()
    # Spawned: a process that was forked has what threads of earlier tests had in hand.
    with ProcessPoolExecutor(len(parts), get_context("spawn")) as pool:
        for other in pool.map(partial(play, until=until), parts):
            tally.add(other)
    return tally


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def play(seeds: Iterable[int], *, until: float | None = None) -> Tally:
    """until: seconds of processor time after which no seed is begun; None: all are played."""
    tally, began = Tally(), process_time()
    gc.disable()  # a world is gone with its seed: to look for circles in it meanwhile costs a tenth
    try:
        for at, seed in enumerate(seeds):
            if until is not None and process_time() - began >= until:
                break
            report = simulate(seed)
            tally.take(report)
            if at % TWICE == 0:
                gc.collect()
                if simulate(seed).hash != report.hash:
                    tally.unlike.append(seed)
    finally:
        gc.enable()
    tally.seconds = process_time() - began
    return tally
