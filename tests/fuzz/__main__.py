"""`make fuzz RUNS=n`: so many executions of what reads the bytes of others, shared among its targets, led by what they
reach in our code (libFuzzer, by atheris), with mutations that know what msgpack is. What was found lies in `.fuzz/`
and is where the next run begins; an input that raised what nobody expects is kept there, and named.

`python -m tests.fuzz --again FILE TARGET` runs one such input alone, to see what it raises."""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / ".fuzz"
RUNS = 1_000_000  # some minutes
INPUT_BYTES = 4_096
SLOWEST_S = 5
MEMORY_MB = 2_048
ANEW = 0.25  # so often a seed is begun with: what C reads shows no coverage, and long frames would be dropped
SHARES = {"frames": 0.55, "plain": 0.28, "bare": 0.02, "types": 0.05, "entries": 0.095, "core": 0.005}


def main() -> int:
    parser = argparse.ArgumentParser(description="Gives what reads the bytes of others any bytes.")
    parser.add_argument("-n", type=int, default=RUNS, help="how many executions, of all targets together")
    parser.add_argument("--again", type=Path, help="an input that was kept: run it once, without libFuzzer")
    parser.add_argument("--within", action="store_true", help=argparse.SUPPRESS)  # one target, in a process of its own
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(SHARES)}; all, if none is named")
    asked = parser.parse_args()
    names: list[str] = asked.targets or list(SHARES)
    if unknown := [name for name in names if name not in SHARES]:
        parser.error(f"there is no target {unknown[0]}")
    if asked.again is not None:
        if len(names) != 1:
            parser.error("--again FILE wants one target")
        from tests.fuzz.targets import TARGETS

        TARGETS[names[0]].run(asked.again.read_bytes())
        return 0
    if asked.within:
        fuzz(names[0], asked.n)
    if find_spec("atheris") is None:
        print("zerowait: atheris is not here; `make fuzz` installs it", file=sys.stderr)
        return 2
    share = sum(SHARES[name] for name in names)
    told = [one(name, max(1, round(asked.n * SHARES[name] / share))) for name in names]
    runs, seconds, bad = (sum(column) for column in zip(*told, strict=True))
    print(f"{runs} executions in {seconds:.0f} s, {runs / max(seconds, 1e-9):.0f} a second: {bad} findings")
    return 1 if bad else 0


def one(name: str, runs: int) -> tuple[int, float, int]:
    """A target, in a process of its own: libFuzzer ends its process. How many executions, seconds and findings."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    log = FOLDER / f"{name}.log"
    before = set(FOLDER.glob(f"{name}-*"))
    began = time.monotonic()
    with log.open("wb") as out:
        command = [sys.executable, "-m", "tests.fuzz", "--within", "-n", str(runs), name]
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False)
    seconds = time.monotonic() - began
    said = log.read_text(errors="replace")
    made = max(map(int, re.findall(r"^#(\d+)", said, re.MULTILINE)), default=0)
    kept = sorted(set(FOLDER.glob(f"{name}-*")) - before)
    is_bad = bool(ended.returncode or kept or made < runs)
    print(f"{name:8} {made:>9} executions, {made / seconds:>7.0f} a second{'  FAILED' if is_bad else ''}", flush=True)
    if is_bad:
        words = [line for line in said.splitlines() if not line.startswith(("INFO:", "WARNING:", "#", "stat::"))]
        print("\n".join(words[-60:]), file=sys.stderr)
        for path in kept:
            print(f"again: python -m tests.fuzz --again {path} {name}", file=sys.stderr)
    return made, seconds, int(is_bad)


def fuzz(name: str, runs: int) -> None:
    """Does not come back."""
    atheris: Any = import_module("atheris")
    with atheris.instrument_imports(include=["zerowait"]):
        target = import_module("tests.fuzz.targets").TARGETS[name]
    folder = FOLDER / name
    seeds = FOLDER / f"seeds.{name}"
    shutil.rmtree(seeds, ignore_errors=True)
    seeds.mkdir()
    for number, seed in enumerate(target.seeds):
        (seeds / str(number)).write_bytes(seed)
    options = [
        f"-runs={runs}", f"-max_len={INPUT_BYTES}", f"-timeout={SLOWEST_S}", f"-rss_limit_mb={MEMORY_MB}",
        f"-artifact_prefix={FOLDER}/{name}-", "-print_final_stats=1", "-len_control=0",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(folder), str(seeds)], target.run, custom_mutator=mutator(target))
    atheris.Fuzz()
    raise AssertionError("libFuzzer ends the process")


def mutator(target: Any) -> Callable[[bytes, int, int], bytes]:
    """Ours only: atheris offers libFuzzer's own to nobody who is not linked with it."""

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if chance.random() < ANEW:
            data = chance.choice(target.seeds)
        made: bytes = target.mutate(data, chance, target.seeds)
        return made[:most]

    return mutate


if __name__ == "__main__":
    sys.exit(main())
