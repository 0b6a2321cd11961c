"""What the runners cost for each message: a desk in memory hands out deliveries of 1,024 typed messages of 4 fields.

    python -m bench.runners [--messages 1000000] [--json]

Prints messages/s with decoding, without, and the cost above calling the handler in a bare loop; then how long a lone
message takes from the network thread to its handler.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from zerowait.codec import Codec
from zerowait.engines.engine import Job
from zerowait.handlers.registry import HandlerSpec
from zerowait.handlers.stage import Stage
from zerowait.message import BODY_HEADER, BODY_START, Delivery, Outcome

SIZE = 1_024


class Mail(Struct):
    path: str
    sender: str
    size: int
    score: float


def decoded() -> Codec[Mail]:
    """Costs nothing: the values were decoded before. Every job begins with the same ones."""
    codec: Codec[Mail] = Codec(Mail)
    codec.decode_list = lambda body: VALUES[: BODY_HEADER.unpack_from(body)[1]]
    return codec


def spec_of(fn: Callable[..., Any], codec: Codec[Mail], *, is_async: bool) -> HandlerSpec:
    spec = HandlerSpec(
        kind="push",
        channel="bench",
        fn=fn,
        is_async=is_async,
        is_generator=False,
        wants_ctx=False,
        concurrency=32 if is_async else 6,
    )
    vars(spec)["codec"] = codec  # in place of the one that it would make for itself
    return spec


class Desk:
    """As little as a desk can do: one lock, a cursor, a count."""

    def __init__(self, deliveries: Sequence[Delivery], when_done: Callable[[], object]) -> None:
        self._lock = threading.Lock()
        self._deliveries = deque(deliveries)  # let go when taken, as a desk does
        self._index = 0
        self._left = sum(each.count for each in deliveries)
        self.jobs = 0
        self._when_done = when_done
        self.failed = 0

    def start(self, channel: str, most: int) -> Job | None:
        with self._lock:
            if not self._deliveries:
                return None
            given, start = self._deliveries[0], self._index
            stop = self._index = min(SIZE, start + most)
            if stop == SIZE:
                self._deliveries.popleft()
                self._index = 0
            self.jobs += 1
            return Job(given, start, stop)

    def flow(self, job: Job, index: int) -> Any:
        raise AssertionError("no stream is served here")

    def flowing(self, flow: Any) -> None: ...

    def finish(self, job: Job, start: int, stop: int, outcome: Outcome | None) -> None:
        with self._lock:
            self._left -= stop - start
            if outcome is not None:
                self.failed += stop - start
            if not self._left:
                self._when_done()


class NoOutputs:
    def prepare(self, to: object, value: object, options: Any) -> object:
        return value

    prepare_event = prepare

    def gather(self, to: object) -> None:
        raise AssertionError

    def size(self, output: Any) -> int:
        return 100

    def spool(self, delivery: Delivery, index: int, outputs: list[Any]) -> None:
        return None

    def unspool(self, spooled: Any) -> None:
        raise AssertionError("nothing was spooled")

    def send(self, delivery: Delivery, outputs: list[Any]) -> None:
        return None

    def release(self, outputs: list[Any]) -> Any:
        raise AssertionError("no request is answered here")


def deliveries(messages: int) -> list[Delivery]:
    body, ends = bytearray(BODY_START), array("I")
    for n in range(SIZE):
        body += msgspec.msgpack.encode(Mail(f"folder/mail-{n:06}.eml", "somebody@example.org", n, n / 7))
        ends.append(len(body))
    BODY_HEADER.pack_into(body, 0, 0xDD, SIZE)
    return [
        Delivery("bench", 1, 1, ((n * SIZE + 1, SIZE),), SIZE, bytes(body), ends.tobytes(), 0, "bench")
        for n in range(messages // SIZE)
    ]


MAILS: Codec[Mail] = Codec(Mail)
VALUES: list[Mail] = MAILS.decode_list(deliveries(SIZE)[0].body)


async def handle(mail: Mail) -> None:
    pass


def handle_plainly(mail: Mail) -> None:
    pass


async def wait_briefly(mail: Mail) -> None:
    await asyncio.sleep(0)


async def stage_run(
    fn: Callable[..., Any], given: Sequence[Delivery], codec: Codec[Mail], *, is_async: bool
) -> tuple[float, Desk]:
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    desk = Desk(given, lambda: loop.call_soon_threadsafe(done.set))
    spec = spec_of(fn, codec, is_async=is_async)
    stage = Stage([spec], worker="bench", clock=time.monotonic, make_context=lambda visit: visit)
    began = time.perf_counter()
    await stage.open(desk, NoOutputs())
    await done.wait()
    took = time.perf_counter() - began
    assert not desk.failed
    await stage.close()
    return took, desk


async def bare_async(fn: Callable[[Mail], Any], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        for value in VALUES:
            await fn(value)
    return time.perf_counter() - began


def bare_plain(fn: Callable[[Mail], Any], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        for value in VALUES:
            fn(value)
    return time.perf_counter() - began


async def measure(messages: int, rounds: int) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    for name, fn, is_async in (
        ("async", handle, True),
        ("plain", handle_plainly, False),
        ("async, waits", wait_briefly, True),
    ):
        n = messages // SIZE * SIZE if fn is not wait_briefly else messages // SIZE // 10 * SIZE
        ready: list[float] = []
        with_decoding: list[float] = []
        bare: list[float] = []
        sizes: list[float] = []
        for _ in range(rounds):
            if is_async:
                bare.append(await bare_async(fn, n // SIZE))
            else:
                bare.append(bare_plain(fn, n // SIZE))
            took, desk = await stage_run(fn, deliveries(n), decoded(), is_async=is_async)
            ready.append(took)
            sizes.append(n / desk.jobs)
            took, _ = await stage_run(fn, deliveries(n), Codec(Mail), is_async=is_async)
            with_decoding.append(took)
        lines.append(
            {
                "handler": name,
                "messages": n,
                "messages_per_job": round(statistics.median(sizes), 1),
                "per_second_with_decoding": round(n / statistics.median(with_decoding)),
                "us_with_decoding": round(statistics.median(with_decoding) / n * 1e6, 3),
                "us_decoded": round(statistics.median(ready) / n * 1e6, 3),
                "us_bare": round(statistics.median(bare) / n * 1e6, 3),
                "us_above_bare": round(statistics.median(a - b for a, b in zip(ready, bare, strict=True)) / n * 1e6, 3),
            }
        )
    return lines


class LoneDesk:
    """One message at a time."""

    def __init__(self) -> None:
        self.waiting: deque[Delivery] = deque()

    def start(self, channel: str, most: int) -> Job | None:
        try:
            return Job(self.waiting.popleft(), 0, 1)
        except IndexError:
            return None

    def finish(self, job: Job, start: int, stop: int, outcome: Outcome | None) -> None: ...

    def flow(self, job: Job, index: int) -> Any:
        raise AssertionError("no stream is served here")

    def flowing(self, flow: Any) -> None: ...


async def lone(is_async: bool, messages: int = 1_000) -> dict[str, object]:
    """From `ready()` on another thread to the handler's first line."""
    desk, began, took = LoneDesk(), [0.0], list[float]()
    handled = threading.Event()

    def arrive(mail: Mail) -> None:
        took.append(time.perf_counter() - began[0])
        handled.set()

    async def arrive_in_loop(mail: Mail) -> None:
        arrive(mail)

    spec = spec_of(arrive_in_loop if is_async else arrive, decoded(), is_async=is_async)
    stage = Stage([spec], worker="bench", clock=time.monotonic, make_context=lambda visit: visit)
    await stage.open(desk, NoOutputs())
    one = deliveries(SIZE)[0]

    def send() -> None:
        for _ in range(messages):
            time.sleep(0.002)
            handled.clear()
            desk.waiting.append(one)
            began[0] = time.perf_counter()
            stage.ready("bench")
            handled.wait()

    await asyncio.to_thread(send)
    await stage.close()
    took.sort()
    return {
        "lone message": "async" if is_async else "plain",
        "p50_us": round(took[len(took) // 2] * 1e6, 1),
        "p99_us": round(took[len(took) * 99 // 100] * 1e6, 1),
    }


async def measure_all(messages: int, rounds: int) -> list[dict[str, object]]:
    return [*await measure(messages, rounds), await lone(True), await lone(False)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for line in asyncio.run(measure_all(options.messages, options.rounds)):
        if options.json:
            print(json.dumps(line))
        else:
            print("  ".join(f"{name}={value}" for name, value in line.items()))


if __name__ == "__main__":
    main()
