"""`make soak MINUTES=n`: senders and workers under load, with outboxes on disk and in memory, on one machine and across
a (made) cable; every few seconds something is done to them. At the end all is mended and everything settles: nothing
may be lost, nothing repeated without a cause, and nothing of what processes use may grow without end.

In the folder that it names are histories, logs, the picture `soak.png` and its figures."""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tests.faults import machine
from tests.faults.checker import Report
from tests.faults.network import Network
from tests.faults.nursery import Nursery
from tests.faults.scene import Life, Scene
from tests.faults.tally import Tally
from tests.faults.watch import Growth, Watch, draw, size_of
from tests.waiting import wait_until

BUGS = ("Traceback (most recent call last)", "an error in the network thread", "in a way that it should not")
DISK = "256m"  # of the home of those on one machine, where root may mount one
KEPT_S = 900.0  # after which what was done to somebody explains nothing any more


class Terms(Struct, frozen=True, kw_only=True):
    """seconds: of load. faults: the shortest and the longest time between two. pace: seconds between two pushes of a
    sender. look: seconds between two looks at what is used."""

    seconds: float
    seed: int
    faults: tuple[float, float] = (5.0, 30.0)
    pace: float = 0.01
    look: float = 1.0

    @property
    def warm_up(self) -> float:
        return min(600.0, self.seconds / 4)


class Outcome(Struct):
    report: Report
    faults: Counter[str]
    causes: Counter[str]
    growths: list[Growth]
    watch: Watch
    skipped: list[str]

    @property
    def wrong(self) -> list[str]:
        return [*self.report.violations, *(str(growth) for growth in self.growths if growth.is_leak)]


class Soak:
    """terms: how long, and how often. told: where to say what is done."""

    def __init__(self, scene: Scene, home: Path, terms: Terms, told: Callable[[str], None]) -> None:
        self.scene = scene
        self.home = home
        self.terms = terms
        self._told = told
        self._chance = random.Random(terms.seed)
        self._fates: dict[int, str] = {}
        self._names: dict[int, str] = {}
        self._born: Counter[str] = Counter()
        self.tally = Tally(scene.folder, scene.judged)
        self.watch = Watch(time.monotonic())
        self._looked_at = self._tallied_at = 0.0
        self.skipped: list[str] = []
        self.network = self._network()
        self._ballast = self._small_disk()
        # Those who live through all of it: what they use is what a leak shows in.
        self.elder_sender = self._durable("elder sender")
        self.memory_sender = self._start("memory sender", settings={"durable": False})
        self.elder_worker = self._worker("elder worker")
        # Those who may die at any time.
        self.sender = self._durable("sender")
        self.workers = [self._worker("worker")]
        self.far: dict[str, Life] = {}
        if self.network is not None:
            self.far = {"far worker": self._far("far worker"), "far sender": self._far("far sender")}

    # -- who is there --------------------------------------------------------------------------------------------------

    def _network(self) -> Network | None:
        needed = ("network namespaces", "virtual links", "killing connections (ss -K)")
        if reasons := [reason for what in needed if (reason := machine.lacks(what)) is not None]:
            self.skipped.append(f"no cable: {reasons[0]}")
            return None
        return Network(self.scene)

    def _small_disk(self) -> Path | None:
        if (reason := machine.lacks("small file systems")) is not None:
            self.skipped.append(f"no disk is filled: {reason}")
            return None
        options = f"size={DISK},mode=700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.home)], check=True)
        return self.home / "ballast"

    def _called(self, kind: str, life: Life) -> Life:
        self._born[kind] += 1
        self._names[life.pid] = f"{kind} {self._born[kind]}"
        return life

    def _start(self, kind: str, **plan: Any) -> Life:
        return self._called(kind, self.scene.sender(pace=self.terms.pace, most_bytes=2_000, **plan))

    def _durable(self, kind: str) -> Life:
        return self._start(kind)

    def _worker(self, kind: str) -> Life:
        seconds = self._chance.choice((0.0, 0.001, 0.01))
        return self._called(kind, self.scene.worker(seconds=seconds, concurrency=8))

    def _far(self, kind: str) -> Life:
        assert self.network is not None
        if kind == "far worker":
            return self._called(kind, self.network.worker(self.scene, concurrency=8))
        return self._called(kind, self.network.sender(self.scene, pace=self.terms.pace, most_bytes=2_000))

    def _senders(self) -> list[Life]:
        return [life for life in self._living() if life.plan.role == "sender"]

    def _living(self) -> list[Life]:
        return [life for life in self.scene.lives if life.plan.role in ("sender", "worker") and not life.is_over()]

    # -- what is done to them ------------------------------------------------------------------------------------------

    def faults(self) -> dict[str, Callable[[], None]]:
        near: dict[str, Callable[[], None]] = {
            "kill worker": self.kill_worker,
            "kill sender": self.kill_sender,
            "stop": self.stop,
            "more workers": self.more_workers,
            "fewer workers": self.fewer_workers,
        }
        if self._ballast is not None:
            near["disk full"] = self.fill_disk
        if self.network is not None:
            near |= {
                "reset": self.reset,
                "kill far worker": lambda: self.kill_far("far worker"),
                "kill far sender": lambda: self.kill_far("far sender"),
            }
        return near

    def kill_worker(self) -> None:
        at = self._chance.randrange(len(self.workers))
        self._kill(self.workers[at])
        self.rest(self._chance.choice((0.0, 0.5, 2.0)))
        self.workers[at] = self._worker("worker")

    def kill_sender(self) -> None:
        self._kill(self.sender)
        self.rest(self._chance.choice((0.0, 0.5, 2.0)))
        self.sender = self._durable("sender")
        self.scene.back()

    def kill_far(self, kind: str) -> None:
        self._kill(self.far[kind])
        self.rest(self._chance.choice((0.0, 0.5)))
        self.far[kind] = self._far(kind)
        self.scene.back()

    def _kill(self, life: Life) -> None:
        self._fates[life.pid] = f"{life.plan.role} killed"
        life.kill()
        self.look(at_once=True)  # its last words
        self.scene.killed(life, self.tally.last_at.get(life.pid, life.died_at))

    def stop(self) -> None:
        """Shorter than silence and the grace after it, so that nothing may be repeated for it."""
        life = self._chance.choice(self._living())
        since = time.monotonic()
        life.signal(signal.SIGSTOP)
        self.rest(self._chance.choice((0.2, 1.0, 2.5, 5.0)))
        life.signal(signal.SIGCONT)
        if life.plan.role == "sender":
            self.scene.away(since)
            self.scene.back()
        else:
            self._fates.setdefault(life.pid, "worker stopped")

    def more_workers(self) -> None:
        if len(self.workers) < 4:
            self.workers.append(self._worker("worker"))

    def fewer_workers(self) -> None:
        if len(self.workers) > 1:
            leaver = self.workers.pop(self._chance.randrange(len(self.workers)))
            leaver.signal(signal.SIGTERM)
            leaver.until_over(30)

    def reset(self) -> None:
        assert self.network is not None
        for _ in range(self._chance.randint(1, 4)):
            self.network.reset(self._chance.choice((self.network.left, self.network.right)))
            self.rest(0.3)

    def fill_disk(self) -> None:
        assert self._ballast is not None
        from tests.faults.test_disk import fill

        fill(self._ballast)
        self.rest(self._chance.choice((0.5, 2.0)))
        self._ballast.unlink()

    # -- the run -------------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        done: Counter[str] = Counter()
        end = time.monotonic() + self.terms.seconds
        waiting: list[str] = []
        self.rest(min(self.terms.faults))
        while time.monotonic() < end or len(done) < len(self.faults()):  # a short one has had each, too
            waiting = waiting or self._all_in_any_order()
            name = waiting.pop()
            self.watch.fault(name, time.monotonic())
            self._told(f"{time.monotonic() - end + self.terms.seconds:7.1f} s  {name}")
            self.faults()[name]()
            done[name] += 1
            self.rest(min(self._chance.uniform(*self.terms.faults), max(0.0, end - time.monotonic())))
        return self._settle(done)

    def _all_in_any_order(self) -> list[str]:
        names = list(self.faults())
        self._chance.shuffle(names)
        return names

    def _settle(self, done: Counter[str]) -> Outcome:
        self._told("pushing ends; everything settles")
        senders = self._senders()
        for life in senders:
            life.signal(signal.SIGUSR1)
        rows = self.scene.until_quiet(within=60)

        def told() -> bool:
            self.look(at_once=True)
            return all(self.tally.knows_all(life.pid) for life in senders)

        wait_until(told, within=30, that="every sender knows of each of its pushes what became of it")
        rows = self.scene.until_quiet(within=60)
        self.tally.look(time.monotonic())
        report = self.tally.end(rows)
        report.violations += self._bugs()
        growths = self.watch.growths(self.terms.warm_up, self.terms.seconds / 3)
        causes = self.tally.causes(self._fates)
        return Outcome(report, done, causes, growths, self.watch, self.skipped)

    def _bugs(self) -> list[str]:
        """What no log may say."""
        found: list[str] = []
        for life in self.scene.lives:
            log = life.log()
            found += [f"{life.plan.log}: {bug!r} × {log.count(bug)}" for bug in BUGS if bug in log]
        return found

    def rest(self, seconds: float) -> None:
        """Time goes by, and what is used meanwhile is looked at."""
        until = time.monotonic() + seconds
        while True:
            self.look()
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, self.terms.look))

    def look(self, *, at_once: bool = False) -> None:
        self.scene.whole()
        now = time.monotonic()
        if now >= self._looked_at + self.terms.look:
            self._looked_at = now
            for life in self._living():
                self.watch.process(self._names[life.pid], life.pid, now)
            self.watch.note("all", "outbox", size_of(self.home, "*.db"), now)
            self.watch.note("all", "log", size_of(self.home, "*.db-wal"), now)
        if at_once or now >= self._tallied_at + 5 * self.terms.look:
            self._tallied_at = now
            self.scene.forget(now - KEPT_S)
            self.tally.look(now)

    def close(self) -> None:
        self.scene.close()
        if self._ballast is not None:
            subprocess.run(["umount", "-l", str(self.home)], check=False)


def main() -> int:
    parser = argparse.ArgumentParser(description="Senders and workers under load, with a fault every few seconds.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="of the faults; else by the clock")
    parser.add_argument("--faults", type=float, nargs=2, default=(5.0, 30.0), help="seconds between two: from, to")
    parser.add_argument("--pace", type=float, default=0.01, help="seconds between two pushes of each sender")
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else time.time_ns() // 1_000_000_000
    least, most = asked.faults
    terms = Terms(seconds=asked.minutes * 60, seed=seed, faults=(least, most), pace=asked.pace)
    folder, home = Path(tempfile.mkdtemp(prefix="zw-soak-")), Path(tempfile.mkdtemp(prefix="zw-"))
    print(f"seed {seed}; histories, logs and the picture: {folder}", flush=True)
    nursery = Nursery()
    soak = Soak(Scene(nursery, folder, home, "soak"), home, terms, lambda words: print(words, flush=True))
    try:
        outcome = soak.run()
    finally:
        soak.close()
        nursery.close()
        shutil.rmtree(home, ignore_errors=True)
    say(outcome)
    leaks = [growth for growth in outcome.growths if growth.is_leak]
    draw(outcome.watch, folder / "soak.png", f"{asked.minutes:g} minutes, seed {seed}: {outcome.report}", leaks)
    (folder / "soak.json").write_bytes(msgspec.json.encode(list(outcome.watch.series.values())))
    for words in outcome.wrong:
        print(words)
    print(f"{len(outcome.wrong)} things wrong; the picture: {folder / 'soak.png'}")
    return 1 if outcome.wrong else 0


def say(outcome: Outcome) -> None:
    for words in outcome.skipped:
        print(f"skipped: {words}")
    print("faults: " + ", ".join(f"{name} × {count}" for name, count in sorted(outcome.faults.items())))
    print(outcome.report)
    causes = ", ".join(f"{name} × {count}" for name, count in outcome.causes.items()) or "none"
    print(f"repeated, by what was done to who had begun it before: {causes}")
    for growth in outcome.growths:
        print(growth)


if __name__ == "__main__":
    sys.exit(main())
