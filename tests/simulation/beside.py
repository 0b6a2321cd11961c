"""The seeds of a run of all tests are played beside the others: these mostly wait, and leave the processors to them.

`python -m tests.simulation.beside FIRST STEP LAST SECONDS` plays one part and writes its tally.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.seeds import Tally, play

SEEDS = 2_000
BUDGET_S = 120.0  # of processor time, on each core; what a slow machine does not play in that time is left out
MANY = 500  # tests beside which they are played


class Beside:
    """beside: processes. until: seconds of its processor time after which a process begins no seed."""

    def __init__(self, seeds: int, beside: int, until: float) -> None:
        root = Path(__file__).parents[2]
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.simulation.beside", *map(str, (1 + one, beside, seeds, until))],
                cwd=root,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )
            for one in range(beside)
        ]

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def tally(self, within: float) -> Tally:
        """Waits for all of them. Raises subprocess.TimeoutExpired, and CalledProcessError for one that broke."""
        tally = Tally()
        for process in self._processes:
            said, _ = process.communicate(timeout=within)
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, process.args)
            tally.add(pickle.loads(said))
        return tally

    def end(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


BESIDE = pytest.StashKey[Beside]()


def give_way() -> None:
    """To everything that is not idle: no other test is to notice us."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)


def unless_orphaned(seeds: range) -> Iterator[int]:
    """These, until nobody waits for them any more."""
    parent = os.getppid()
    for seed in seeds:
        if os.getppid() != parent:
            return
        yield seed


def main() -> None:
    first, step, last, seconds = sys.argv[1:]
    give_way()
    tally = play(unless_orphaned(range(int(first), int(last) + 1, int(step))), until=float(seconds))
    sys.stdout.buffer.write(pickle.dumps(tally))


if __name__ == "__main__":
    main()
