"""`python -m bench`: zerowait beside raw pyzmq, in one run. Figures of two processes on this machine over tcp loopback.

--json: a JSON line for each row. --only NAME …: throughput push lone memory topics import
requests nats map stages. --count N: messages (1,000,000). --pairs N (5).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench import nats, raw, topics


class Run:
    def __init__(self, folder: str) -> None:
        self.env = os.environ | {"ZEROWAIT_HOME": folder}

    def worker(self, kind: str, *listen: str) -> AbstractContextManager[tuple[subprocess.Popen[str], str]]:
        return self.serving("worker", kind, *listen)

    def sender(self, what: str, **args: Any) -> dict[str, float]:
        # A folder of its own: what one leaves undelivered, the next of its name would adopt while it is measured.
        with tempfile.TemporaryDirectory(dir=self.env["ZEROWAIT_HOME"]) as folder:
            return self.asked("sender", what, json.dumps(args), home=folder)

    def raw(self, count: int) -> float:
        command = [sys.executable, "-m", "bench.raw", str(count)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.env
        ) as process:
            assert process.stdout is not None
            return count / raw.send(int(process.stdout.readline()), count, process)

    def raw_alone(self, count: int = 1_000) -> list[float]:
        """µs from before send() until recv() has returned in another process, 100 a second, less 100 to warm up."""
        command = [sys.executable, "-m", "bench.raw", "alone", str(count)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self.env) as process:
            assert process.stdout is not None
            raw.send_alone(int(process.stdout.readline()), count)
            return [int(each) / 1_000 for each in process.stdout.readline().split()[100:]]

    def asking(self, whose: str, *args: str) -> dict[str, float]:
        """What who asks has found of who answers; whose: "" for ours, "raw-"."""
        with self.serving("asking", f"{whose}answer") as (_, endpoint):
            return self.asked("asking", f"{whose}ask", endpoint, *args)

    @contextmanager
    def serving(self, module: str, *args: str) -> Generator[tuple[subprocess.Popen[str], str]]:
        """A process that says when it is ready, with its endpoint if it has one, and ends with its stdin."""
        command = [sys.executable, "-m", f"bench.{module}", *args]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.env
        ) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            endpoint = process.stdout.readline().strip()
            try:
                yield process, endpoint
            finally:
                process.stdin.close()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()

    def asked(self, module: str, *args: str, home: str | None = None) -> dict[str, float]:
        """What a process has found, on its last line. home: where it keeps what it keeps, if not where all do."""
        command = [sys.executable, "-m", f"bench.{module}", *args]
        env = self.env if home is None else self.env | {"ZEROWAIT_HOME": home}
        out = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)
        if out.returncode:
            raise SystemExit(f"{module} {' '.join(args)} failed:\n{out.stderr}")
        found: dict[str, float] = json.loads(out.stdout.splitlines()[-1])
        return found

    def ours(self, kind: str, durable: bool, count: int) -> float:
        with self.worker(kind) as (_, endpoint):
            return count / self.sender("throughput", endpoint=endpoint, durable=durable, count=count)["seconds"]


def ask(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(word + "\n")
    process.stdin.flush()
    return process.stdout.readline()


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def throughput(run: Run, count: int, pairs: int) -> Iterator[dict[str, Any]]:
    goals = {("async", False): 1.2, ("plain", False): None, ("async", True): 1.0, ("plain", True): None}
    for (kind, durable), goal in goals.items():
        theirs: list[float] = []
        ours: list[float] = []
        for _ in range(pairs):
            theirs.append(run.raw(count))
            ours.append(run.ours(kind, durable, count))
        ratios = [b / a for a, b in zip(theirs, ours, strict=True)]
        name = f"{'durable' if durable else 'memory'}, {kind} handler, messages/s"
        yield {"name": name, "ours": spread(ours), "raw": spread(theirs), "ratio": spread(ratios), "at_least": goal}


def push(run: Run, count: int, pairs: int) -> Iterator[dict[str, Any]]:
    for durable in (False, True):
        theirs: list[float] = []
        ours: list[float] = []
        for _ in range(3 * pairs):  # they are short, and a shared machine has fast and slow seconds
            theirs.append(raw.push_ns())
            ours.append(run.sender("push_ns", durable=durable)["ns"])
        ratios = [b / a for a, b in zip(theirs, ours, strict=True)]
        name = f"one push(), {'durable' if durable else 'memory'}, ns"
        yield {"name": name, "ours": spread(ours), "raw": spread(theirs), "ratio": spread(ratios), "at_most": 0.75}


def lone(run: Run, count: int, pairs: int) -> Iterator[dict[str, Any]]:
    for durable in (False, True):
        with run.worker("async") as (process, endpoint):
            run.sender("lone", endpoint=endpoint, durable=durable)
            times = sorted(int(each) / 1_000 for each in ask(process, "times").split()[200:])
        name = f"one message alone, {'durable' if durable else 'memory'}, µs"
        found = {"p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100], "count": len(times)}
        yield {"name": name, "ours": found, "at_most_p50": 1_000 if durable else 150}
    yield {"name": "beside: raw pyzmq, one message alone, µs", "ours": {"p50": statistics.median(run.raw_alone())}}
    yield {"name": "beside: two thread wake-ups, µs", "ours": {"p50": two_wake_ups()}}
    yield {"name": "beside: one fdatasync of this disk, µs", "ours": {"p50": one_sync(run.env["ZEROWAIT_HOME"])}}


def two_wake_ups() -> float:
    there, back = threading.Semaphore(0), threading.Semaphore(0)

    def echo() -> None:
        while there.acquire():
            back.release()

    threading.Thread(target=echo, daemon=True).start()
    times: list[float] = []
    for _ in range(300):
        time.sleep(0.005)
        began = time.perf_counter_ns()
        there.release()
        back.acquire()
        times.append((time.perf_counter_ns() - began) / 1_000)
    return statistics.median(times)


def one_sync(folder: str) -> float:
    times: list[float] = []
    with open(Path(folder) / "sync", "wb") as file:
        sync = getattr(os, "fdatasync", os.fsync)
        for _ in range(200):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter_ns()
            sync(file.fileno())
            times.append((time.perf_counter_ns() - began) / 1_000)
    return statistics.median(times)


def memory(run: Run, count: int, pairs: int) -> Iterator[dict[str, Any]]:
    with run.worker("stalled") as (process, endpoint):
        sender = run.sender("memory", endpoint=endpoint, count=count)["kib"] / 1024
        worker = int(ask(process, "memory")) / 1024
    yield {"name": "most memory, sender of stalled worker, MiB", "ours": {"most": sender}, "at_most": 150}
    yield {"name": "most memory, stalled worker, MiB", "ours": {"most": worker}, "at_most": 150}


def events(run: Run, count: int, pairs: int) -> Iterator[dict[str, Any]]:
    port = 21_000 + os.getpid() % 10_000
    for receivers, many, by, goal in ((1, count // 2, "seconds", 1.0), (32, count // 10, "cpu", 3.0)):
        theirs: list[float] = []
        ours: list[float] = []
        for _ in range(pairs):
            for kind, found in (("raw", theirs), ("ours", ours)):
                port += 3
                found.append(many * receivers / topics.once(kind, port, many, receivers)[by])
        ratios = [b / a for a, b in zip(theirs, ours, strict=True)]
        what = "delivered/s" if by == "seconds" else "delivered a second of publisher CPU"
        name = f"events to {receivers}, {what}"
        yield {"name": name, "ours": spread(ours), "raw": spread(theirs), "ratio": spread(ratios), "at_least": goal}


def importing(run: Run, count: int, pairs: int) -> Iterator[dict[str, Any]]:
    # As it is once installed: compiled.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def once(code: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, env=env)
        return (time.perf_counter() - began) * 1_000

    once("import zerowait")
    bare = statistics.median(once("pass") for _ in range(10))
    ours = statistics.median(
        once("import zerowait; zerowait.App, zerowait.Client, zerowait.PushChannel") for _ in range(10)
    )
    yield {"name": "import zerowait, ms", "ours": {"median": ours - bare}, "at_most": 100}


def requests(run: Run, count: int, pairs: int) -> Iterator[dict[str, Any]]:
    theirs: list[dict[str, float]] = []
    ours: list[dict[str, float]] = []
    for _ in range(pairs):
        theirs.append(run.asking("raw-", "2000"))
        ours.append(run.asking(""))
    alone = [each["alone_p50"] for each in ours]
    raw_alone = [each["alone_p50"] for each in theirs]
    ratios = [b / a for a, b in zip(raw_alone, alone, strict=True)]
    yield {
        "name": "one request at a time, p50, µs",
        "ours": spread(alone),
        "raw": spread(raw_alone),
        "ratio": spread(ratios),
        "at_most": 2.2,
    }
    for most, goal in ((10, None), (100, None), (1_000, 250_000)):
        found = [each[f"outstanding_{most}"] for each in ours]
        yield {"name": f"{most:,} requests outstanding, answers/s", "ours": spread(found), "at_least": goal}
    yield {"name": "a stream of 1 KiB, MB/s", "ours": spread([each["stream_mb"] for each in ours]), "at_least": 300}


def by_nats(run: Run, count: int, pairs: int) -> Iterator[dict[str, Any]]:
    if (why := nats.why_not()) is not None:
        print(f"not measured beside nats-py: {why}", file=sys.stderr)
        return
    theirs: list[dict[str, float]] = []
    ours: list[dict[str, float]] = []
    for _ in range(pairs):
        with nats.serving() as port, run.serving("nats", "answer", str(port)):
            theirs.append(run.asked("nats", "ask", str(port)))
        ours.append(run.asking(""))
    for name, what, goal in (
        ("one request at a time, p50, µs", "alone_p50", {"at_most": 1.0}),
        ("1,000 requests outstanding, answers/s", "outstanding_1000", {"at_least": 1.0}),
    ):
        mine, other = [each[what] for each in ours], [each[what] for each in theirs]
        ratios = [b / a for a, b in zip(other, mine, strict=True)]
        row = {"name": f"{name}, and nats-py", "ours": spread(mine), "raw": spread(other), "whose": "nats-py"}
        yield {**row, "ratio": spread(ratios), **goal}


def mapped(run: Run, count: int, pairs: int) -> Iterator[dict[str, Any]]:
    workers, tasks = 4, 10_000
    found: list[dict[str, float]] = []
    for _ in range(pairs):
        with ExitStack() as stack:
            for _ in range(workers):
                stack.enter_context(run.serving("mapping", "serve"))
            found.append(run.asked("mapping", "ask", str(workers), str(tasks)))
    yield {
        "name": f"map of {tasks:,} tasks of 1 ms by {workers}, of the ideal",
        "ours": spread([each["ideal"] / each["seconds"] for each in found]),
        "at_least": 0.95,
    }
    yield {"name": "beside: one such task, ms", "ours": spread([each["one_task"] * 1_000 for each in found])}


def staged(run: Run, count: int, pairs: int) -> Iterator[dict[str, Any]]:
    many = count // 10
    ratios: list[float] = []
    middle: list[float] = []
    plain: list[float] = []
    times: list[float] = []
    for _ in range(pairs):
        with ExitStack() as stack:
            _, second, last = [stack.enter_context(run.serving("stages", "serve", name))[0] for name in "123"]
            before = json.loads(ask(second, "state"))["cpu"]
            run.asked("stages", "push", "bench.stage1", str(many))
            while json.loads(ask(last, "state"))["count"] < many:
                time.sleep(0.05)
            middle.append((json.loads(ask(second, "state"))["cpu"] - before) / many * 1e6)
            run.asked("stages", "alone", "500")
            time.sleep(1)
            times += [took / 1e6 for took in json.loads(ask(last, "times"))[50:]]
        with run.serving("stages", "serve", "plain") as (process, _):
            before = json.loads(ask(process, "state"))["cpu"]
            pushed = run.asked("stages", "push", "bench.plain", str(many))["cpu"]
            pulled = json.loads(ask(process, "state"))["cpu"] - before
            plain.append((pushed + pulled) / many * 1e6)
        ratios.append(middle[-1] / plain[-1])
    yield {
        "name": "middle of three stages, CPU µs a message",
        "ours": spread(middle),
        "raw": spread(plain),
        "whose": "a push and a pull",
        "ratio": spread(ratios),
        "at_most": 1.3,
    }
    times.sort()
    p50, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
    yield {"name": "one message through three stages, ms", "ours": {"p50": p50, "p99": p99}, "at_most_p50": 8}


PARTS = {
    "throughput": throughput,
    "push": push,
    "lone": lone,
    "memory": memory,
    "topics": events,
    "import": importing,
    "requests": requests,
    "nats": by_nats,
    "map": mapped,
    "stages": staged,
}


def shown(row: dict[str, Any]) -> str:
    def number(value: float) -> str:
        return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"

    text = f"{row['name']:<48} " + "  ".join(f"{k} {number(v)}" for k, v in row["ours"].items())
    if "raw" in row:
        ratio = row["ratio"]
        text += f"  | {row.get('whose', 'raw')} {number(row['raw']['median'])}"
        text += f"  | ratio {ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})"
    for word, name in (("at_least", "at least"), ("at_most", "at most"), ("at_most_p50", "p50 at most")):
        if row.get(word) is not None:
            text += f"  [{name} {row[word]}]"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    if not args.json:
        machine = f"{os.cpu_count()} cores, Python {sys.version.split()[0]}"
        print(f"{machine}; medians, with minimum and maximum of {args.pairs} pairs")
    for name in args.only:
        with tempfile.TemporaryDirectory(prefix="zerowait-bench-") as folder:
            for row in PARTS[name](Run(folder), args.count, args.pairs):
                print(json.dumps(row) if args.json else shown(row), flush=True)


if __name__ == "__main__":
    main()
