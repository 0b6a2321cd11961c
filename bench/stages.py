"""Three durable stages in a row, each a process: what one message costs the middle one, beside a plain push and a plain
pull of it, and how long one alone takes from its push to the last handler's start.

python -m bench.stages serve NAME | push CHANNEL COUNT | alone COUNT
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from bench.messages import Order, Timed, order
from zerowait import App, Client, PushChannel, QueueFull, Settings

STAGES = [PushChannel[Order](f"bench.stage{n}", durable=True) for n in (1, 2, 3)]
ALONE = [PushChannel[Timed](f"bench.alone{n}", durable=True) for n in (1, 2, 3)]
PLAIN = PushChannel[Order]("bench.plain", durable=True)


def settings(**more: Any) -> Settings:
    return Settings.load(flags={"namespace": "bench-stages", **more})


class Served:
    """What a stage has handled."""

    def __init__(self) -> None:
        self.count = 0
        self.took_ns: list[int] = []


def app_of(name: str, served: Served) -> App[Any]:
    """name: the number of a stage, or plain."""
    app = App(f"bench-{name}", settings=settings())
    if name == "plain":

        @app.pull(PLAIN)
        async def take(value: Order) -> None:
            served.count += 1

        return app
    at = int(name) - 1
    if at < 2:

        @app.pull(STAGES[at], to=STAGES[at + 1])
        async def hand_on(value: Order) -> Order:
            return value

        @app.pull(ALONE[at], to=ALONE[at + 1])
        async def hand_on_alone(value: Timed) -> Timed:
            return value

    else:

        @app.pull(STAGES[at])
        async def end(value: Order) -> None:
            served.count += 1

        @app.pull(ALONE[at])
        async def clock(value: Timed) -> None:
            served.took_ns.append(time.time_ns() - value.sent_ns)

    return app


async def serve(name: str) -> None:
    served = Served()
    async with app_of(name, served):
        print("ready", flush=True)
        loop = asyncio.get_running_loop()
        while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
            if line == "state":
                print(json.dumps({"cpu": time.process_time(), "count": served.count}), flush=True)
            elif line == "times":
                print(json.dumps(served.took_ns), flush=True)
                served.took_ns.clear()


def push(channel: str, count: int) -> dict[str, float]:
    """Until all are handled: what it cost this process."""
    to = next(each for each in (*STAGES, PLAIN) if each.name == channel)
    with Client("bench-sender", settings=settings(outbox_messages=2 * count)) as zw:
        zw.workers(to).at_least(1).result(10)
        message, began, cpu = order(), time.perf_counter(), time.process_time()
        for _ in range(count):
            while True:
                try:
                    zw.push(to, message)
                    break
                except QueueFull as full:
                    full.room.result(60)
        while sum(box.unsettled for box in zw.status().boxes):
            time.sleep(0.01)
        return {"cpu": time.process_time() - cpu, "seconds": time.perf_counter() - began}


def push_alone(count: int) -> dict[str, float]:
    """50 a second, after 50 to warm up."""
    with Client("bench-sender", settings=settings()) as zw:
        zw.workers(ALONE[0]).at_least(1).result(10)
        at = time.perf_counter()
        for _ in range(count + 50):
            zw.push(ALONE[0], Timed(time.time_ns()))
            at += 0.02
            time.sleep(max(0.0, at - time.perf_counter()))
        return {}


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", name]:
            asyncio.run(serve(name))
        case ["push", channel, count]:
            print(json.dumps(push(channel, int(count))))
        case ["alone", count]:
            print(json.dumps(push_alone(int(count))))
        case _:
            raise SystemExit(__doc__)
