"""`make mutants`: plants each bug and says who finds it. ARGS="a word" for those whose name has it."""

from __future__ import annotations

import sys

from tests.mutants.hunt import hunt
from tests.mutants.planting import BUGS

SEEDS = 150


def main(word: str = "") -> int:
    survivors = 0
    for bug in BUGS:
        if word not in bug:
            continue
        find = hunt(bug, SEEDS)
        survivors += not find.by
        print(f"{bug:<75} {find.by or 'NOT FOUND':<15} {find.seconds:5.1f} s  {find.words[:90]}", flush=True)
    print(f"{survivors} not found" if survivors else "all are found")
    return survivors


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
