"""`make figures`: what the library is held to, measured on this machine. Each figure beside its bound.

--json: a JSON line for each row. --only NAME …: gone partitions backlog memory crowd storm holding leaving limits.
--partitions S …: their lengths in seconds, 300 among them once by hand. --quick: fewer rounds, less weight.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from bench.__main__ import Run
from bench.figures import crowd, faults, holding, limits, waiting
from bench.figures.report import Row, load

LENGTHS = (1.0, 2.0, 3.0, 5.0, 9.0, 13.0, 20.0, 31.0)
Part = Callable[[Run, argparse.Namespace], Iterator[Row]]
PARTS: dict[str, Part] = {
    "gone": lambda run, args: faults.gone(*((5, 1) if args.quick else (100, 5))),
    "partitions": lambda run, args: faults.partitions(
        tuple(args.partitions or ((1.0, 9.0) if args.quick else LENGTHS))
    ),
    "backlog": lambda run, args: waiting.backlog(run, rounds=1 if args.quick else 5),
    "memory": lambda run, args: waiting.memory(run, 100_000 if args.quick else 1_000_000),
    "crowd": lambda run, args: crowd.cost(run, 100 if args.quick else 1_000),
    "storm": lambda run, args: crowd.storm(run, 100 if args.quick else 3_000, 1 if args.quick else 3),
    "holding": lambda run, args: holding.rows(Path(run.env["ZEROWAIT_HOME"]), 5.0 if args.quick else 40.0),
    "leaving": lambda run, args: waiting.leaving(run, rounds=1 if args.quick else 5),
    "limits": lambda run, args: limits.rows(run, 100 if args.quick else 1_000),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.figures", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--partitions", nargs="*", type=float)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if not args.json:
        print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {load()}")
    missed = 0
    for name in args.only:
        with tempfile.TemporaryDirectory(prefix="zerowait-figures-") as folder:
            for row in PARTS[name](Run(folder), args):
                missed += row.is_met() is False
                said = msgspec.to_builtins(row) | {"met": row.is_met()}
                print(json.dumps(said) if args.json else row.shown(), flush=True)
    if not args.json:
        print(f"{load()}; {missed} not reached" if missed else f"{load()}; all reached")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
