"""`make campaign N=1000`: as many kills at named points and at any time, on both sides, in as many small scenes as that
takes. Each scene has a seed of its own, which it names when something is wrong; its files stay then."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.kills import kill_at_point, kill_at_random
from tests.faults.nursery import Nursery
from tests.faults.points import POINTS
from tests.faults.scene import Scene

KILLS_A_SCENE = 20


def main() -> int:
    parser = argparse.ArgumentParser(description="Kills senders and workers, and accounts for every message.")
    parser.add_argument("-n", type=int, default=1_000, help="how many kills; half of them at named points")
    parser.add_argument("--seed", type=int, default=None, help="of the first scene; else by the clock")
    parser.add_argument("--scenes", type=int, default=None, help="how many scenes instead, for one that has failed: 1")
    asked = parser.parse_args()
    seed: int = asked.seed if asked.seed is not None else time.time_ns() // 1_000_000_000
    kills = scenes = bad = accepted = repeated = 0
    nursery = Nursery()
    began = time.monotonic()
    try:
        while kills < asked.n if asked.scenes is None else scenes < asked.scenes:
            done, wrong, counts = one(nursery, seed)
            kills, scenes, bad = kills + done, scenes + 1, bad + wrong
            accepted, repeated = accepted + counts[0], repeated + counts[1]
            seed += 1
    finally:
        nursery.close()
    print(
        f"{kills} kills in {scenes} scenes, {time.monotonic() - began:.0f} s: {accepted} messages accepted, {repeated} "
        f"runs repeated, {bad} scenes wrong"
    )
    return 1 if bad else 0


def one(nursery: Nursery, seed: int) -> tuple[int, bool, tuple[int, int]]:
    """A scene. How many kills it was, whether something was wrong, and (accepted, repeated)."""
    chance = random.Random(seed)
    at_random = chance.random() < 1 / KILLS_A_SCENE
    folder, home = Path(tempfile.mkdtemp(prefix="zw-campaign-")), Path(tempfile.mkdtemp(prefix="zw-"))
    scene = Scene(nursery, folder, home, "campaign")
    what = f"seed {seed}"
    try:
        if at_random:
            report = kill_at_random(scene, seed, KILLS_A_SCENE)
        else:
            point = chance.choice(sorted(POINTS))
            once = "adopting" in point or "drain" in point
            nth = 1 if once else chance.randint(1, 40)
            what += f", {point!r}, passage {nth}"
            report = kill_at_point(scene, point, nth)
        wrong, counts = bool(report.violations), (report.accepted, report.repeated)
        said = str(report)
    except AssertionError as error:
        wrong, counts, said = True, (0, 0), str(error)
    finally:
        scene.close()
        shutil.rmtree(home, ignore_errors=True)
    if wrong:
        print(f"{what}: {said}\n  its files: {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return KILLS_A_SCENE if at_random else 1, wrong, counts


if __name__ == "__main__":
    sys.exit(main())
