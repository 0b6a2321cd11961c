"""How long a public call keeps the event loop that makes it: beside two busy Python threads, and with the disk stalled.

A process of its own for each run. A tick of its loop makes every call once and times each from its first line to its
last; the control loop does in each tick what takes the same processor time and is no call. Two threads that never rest
take the interpreter whenever it is given up: so what waits, however briefly, shows.

The disk is stalled for real where the machine has loop devices: the outbox lies in a small file system that is frozen
(`fsfreeze`), so that every write and sync of it stands still. Else the store thread is held in place of its commit.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.figures.report import Row, at_most
from zerowait import Client, PushChannel, QueueFull, Settings

STALL_S = 10.0
BLOBS = [bytes(size) for size in (64, 1_024, 16_384, 65_536)]
DURABLE = PushChannel[bytes]("holding.durable", durable=True)
MEMORY = PushChannel[bytes]("holding.memory", durable=False)


# -- in a process of its own -------------------------------------------------------------------------------------------


@contextmanager
def busy_threads(count: int = 2) -> Generator[None]:
    over = threading.Event()

    def work() -> None:
        n = 0
        while not over.is_set():
            n += 1

    threads = [threading.Thread(target=work, name=f"busy {number}", daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


class Watch:
    """A clock for the thread that makes it, which stands while the thread could run and the machine runs others: on a
    machine that has other work, a wall clock tells of that. It is read without giving the interpreter up."""

    def __init__(self) -> None:
        self._pread = ctypes.PyDLL(None).pread
        self._buffer = ctypes.create_string_buffer(64)
        try:
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        except OSError:
            self._file = -1

    def ns(self) -> int:
        if self._file < 0 or self._pread(self._file, self._buffer, 64, 0) <= 0:
            return time.perf_counter_ns()
        return time.perf_counter_ns() - int(self._buffer.value.split()[1])


def waits_of_thread() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def _nothing(over: object) -> None: ...


WATCH = Watch()  # of the main thread, on which the loops run


class Calls:
    """Every public verb and what it gives, each as somebody on a loop would call it."""

    def __init__(self, zw: Client, others: Callable[[], Client]) -> None:
        self._zw = zw
        self._others = others
        self._tick = 0
        self._closing: list[Any] = []
        self.took: dict[str, list[int]] = {}  # ns
        self.spent: dict[str, list[int]] = {}  # ns of processor time
        self.waited: dict[str, int] = {}  # calls in which the thread went to sleep, for whatever
        receipt: Any = None

        def push(to: Any, **options: Any) -> Callable[[], None]:
            def call() -> None:
                nonlocal receipt
                with suppress(QueueFull):
                    receipt = zw.push(to, BLOBS[self._tick % len(BLOBS)], **options)

            return call

        def callback() -> None:
            receipt.add_done_callback(_nothing)

        self.all: dict[str, Callable[[], object]] = {
            "push, durable": push(DURABLE),
            "push, memory": push(MEMORY),
            "push, by name": push("holding.named"),
            "push, delayed": push(DURABLE, delay=3600.0),
            "receipt": lambda: (receipt.done(), receipt.state, receipt.id, receipt.handled.done()),
            "add_done_callback": callback,
            "withdraw": lambda: receipt.withdraw(),
            "status": zw.status,
            "workers": lambda: len(zw.workers(DURABLE)),
            "listen": lambda: zw.listen(int, print)(),
        }

    def tick(self) -> None:
        self._tick += 1
        for name, call in self.all.items():
            self._timed(name, call)
        if self._tick % 20 == 0:
            self._life()

    def _life(self) -> None:
        """A client's first verb, and its close."""
        other = self._others()
        for name, call in {"first push": lambda: other.push(DURABLE, b"x"), "close": lambda: other.close(0)}.items():
            self._closing.append(self._timed(name, call))

    def _timed(self, name: str, call: Callable[[], Any]) -> Any:
        waits, cpu, began = waits_of_thread(), time.thread_time_ns(), WATCH.ns()
        given = call()
        self.took.setdefault(name, []).append(WATCH.ns() - began)
        self.spent.setdefault(name, []).append(time.thread_time_ns() - cpu)
        self.waited[name] = self.waited.get(name, 0) + (waits_of_thread() > waits)
        return given

    async def closed(self) -> None:
        for each in self._closing:
            with suppress(Exception):
                await each


async def called(zw: Client, seconds: float, others: Callable[[], Client]) -> dict[str, Any]:
    calls = Calls(zw, others)
    loaded = asyncio.ensure_future(load(zw, calls.took))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        calls.tick()
        await asyncio.sleep(0.001)
    loaded.cancel()
    return {
        "took": calls.took,
        "spent": {name: statistics.median(each) for name, each in calls.spent.items()},
        "waited": calls.waited,
    }


async def load(zw: Client, took: dict[str, list[int]]) -> None:
    """`await push_all(…)`: it takes from its iterable on the loop, a little at a time."""

    def values() -> Iterator[bytes]:
        for number in range(40):
            yield BLOBS[number % 2]

    while True:
        began = WATCH.ns()
        one = zw.push_all(DURABLE, values())
        took.setdefault("push_all", []).append(WATCH.ns() - began)
        await one
        await asyncio.sleep(0.05)


async def controlled(spent: dict[str, float], seconds: float) -> dict[str, Any]:
    took: dict[str, list[int]] = {}
    waited: dict[str, int] = {}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for name, ns in spent.items():
            waits = waits_of_thread()
            began, cpu = WATCH.ns(), time.thread_time_ns() + ns
            while time.thread_time_ns() < cpu:
                pass
            took.setdefault(name, []).append(WATCH.ns() - began)
            waited[name] = waited.get(name, 0) + (waits_of_thread() > waits)
        await asyncio.sleep(0.001)
    return {"took": took, "waited": waited}


def child(args: dict[str, Any]) -> dict[str, Any]:
    with busy_threads():
        if args["role"] == "control":
            return asyncio.run(controlled(args["spent"], args["seconds"]))
        settings = Settings(home=args["home"], namespace="holding", memory_bytes=256 << 20)
        others = iter(range(1_000_000))
        zw = Client("holding", settings=settings)

        def other() -> Client:
            return Client(f"holding-{next(others)}", settings=settings)

        async def run() -> dict[str, Any]:
            await zw.push(DURABLE, b"first")
            zw.push(MEMORY, b"first")
            zw.push("holding.named", b"first")
            print("open", flush=True)
            if args["stalled"] and not sys.stdin.readline():
                raise SystemExit("nobody stalls the disk")
            found = await called(zw, args["seconds"], other)
            print("called", flush=True)
            if args["stalled"]:
                await asyncio.to_thread(sys.stdin.readline)  # until the disk moves again
            await asyncio.wait_for(_closed(zw), 60)
            return found

        return asyncio.run(run())


async def _closed(zw: Client) -> None:
    await zw.close(0)


# -- what starts them --------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path) -> Generator[Path]:
    """A file system of its own in a file. Raises CalledProcessError where this machine has none."""
    image, place = folder / "image", folder / "disk"
    place.mkdir()
    subprocess.run(["truncate", "-s", "1G", str(image)], check=True)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=False)


def run_child(folder: Path, stall: Callable[[bool], None] | None = None, **args: Any) -> dict[str, Any]:
    whole = {"home": str(folder), "stalled": stall is not None} | args
    command = [sys.executable, "-m", "bench.figures.holding", json.dumps(whole)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if stall is not None:
                assert process.stdout.readline() == "open\n"
                stall(True)
                print("go", file=process.stdin, flush=True)
                assert process.stdout.readline() == "called\n"
                stall(False)
                print("on", file=process.stdin, flush=True)
            out = process.stdout.read()
        finally:
            if stall is not None:
                stall(False)
        if process.wait():
            raise SystemExit("a run of bench.figures.holding failed")
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def worst(took: list[int]) -> float:
    """The 99.9th percentile, in ms."""
    return sorted(took)[min(len(took) - 1, len(took) * 999 // 1_000)] / 1e6


def rows(folder: Path, seconds: float = 40.0) -> Iterator[Row]:
    moving = run_child(folder, role="calls", seconds=seconds)
    control = run_child(folder, role="control", seconds=seconds, spent=moving["spent"])
    yield from compared("", moving, control)
    stalled: dict[str, Any] = {"took": {}, "waited": {}}
    try:
        with small_disk(folder) as disk:

            def stall(on: bool) -> None:
                subprocess.run(["fsfreeze", "-f" if on else "-u", str(disk)], check=on, stderr=subprocess.DEVNULL)

            for _ in range(2):
                found = run_child(disk, stall, role="calls", seconds=STALL_S)
                for name, took in found["took"].items():
                    stalled["took"].setdefault(name, []).extend(took)
                    stalled["waited"][name] = stalled["waited"].get(name, 0) + found["waited"].get(name, 0)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        yield Row("a call holds the loop, disk stalled for 10 s", {}, {}, f"not measured: {error}")
    else:
        yield from compared(", disk stalled for 10 s", stalled, control)


def compared(when: str, found: dict[str, Any], control: dict[str, Any]) -> Iterator[Row]:
    """waited: percent of the calls in which the thread slept. Where the machine takes the processor from it for longer
    than 5 ms, the busy threads take the interpreter, whatever the call does: hence the control's."""

    def row(name: str, took: list[int], waits: int, beside: list[int], waits_beside: int) -> Row:
        held = worst(beside) if beside else 0.0
        measured = {
            "p50": statistics.median(took) / 1e6,
            "p99.9": worst(took),
            "control p99.9": held,
            "waited %": 100 * waits / len(took),
            "control waited %": 100 * waits_beside / len(beside) if beside else 0.0,
            "calls": float(len(took)),
        }
        return Row(f"{name}{when}, ms", measured, at_most("p99.9", 5.0 + held))

    took, beside = found["took"], control["took"]
    flat = [[each for one in of.values() for each in one] for of in (took, beside)]
    waits = [sum(of["waited"].values()) for of in (found, control)]
    yield row("a public call holds the loop", flat[0], waits[0], flat[1], waits[1])
    for name, one in took.items():
        by = (found["waited"].get(name, 0), beside.get(name, []), control["waited"].get(name, 0))
        yield row(f"  {name}", one, *by)


if __name__ == "__main__":
    print(json.dumps(child(json.loads(sys.argv[1]))), flush=True)
