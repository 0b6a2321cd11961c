"""`make simulate SEEDS=n FROM=k`: plays seeds k … k + n - 1. One alone is played before your eyes."""

from __future__ import annotations

import sys

from tests.simulation.seeds import cores, play_on_all_cores, replay
from zerowait.testing.plan import plan
from zerowait.testing.simulation import simulate


def main(seeds: int, first: int) -> int:
    if seeds == 1:
        for event in plan(first).events:
            print(f"{event.at:.3f} {event.kind} for {event.lasts:.2f} s")
        report = simulate(first, log=print)
        for words in report.wrong:
            print(f"WRONG: {words}")
        print(f"seed {first}: {report.hash}, {report.steps:,} steps, {'fails' if report.wrong else 'is well'}")
        print(f"again: {replay(first)}")
        return bool(report.wrong)
    beside = min(cores(), seeds)
    tally = play_on_all_cores([range(first + one, first + seeds, beside) for one in range(beside)])
    print(tally.words())
    return not tally.is_good()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
