"""`map` over workers, each of which does one task of a millisecond at a time.

python -m bench.mapping serve | ask WORKERS COUNT
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from zerowait import App, Client, RequestChannel, Settings

TASK = RequestChannel[float, float]("bench.task")
SECONDS = 0.001


def settings() -> Settings:
    return Settings.load(flags={"namespace": "bench-map"})


async def serve() -> None:
    app = App("bench-tasks", settings=settings())

    @app.reply(TASK, concurrency=1)
    def task(seconds: float) -> float:
        """How long it took: a sleep lasts longer than is asked, and differs from machine to machine."""
        began = time.perf_counter()
        time.sleep(seconds)
        return time.perf_counter() - began

    async with app:
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


def ask(workers: int, count: int) -> dict[str, float]:
    with Client("bench-asking", settings=settings()) as zw:
        zw.workers(TASK).at_least(workers).result(30)
        zw.map(TASK, [SECONDS] * 50 * workers).result(60)
        began = time.perf_counter()
        took = zw.map(TASK, [SECONDS] * count).result(300)
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "ideal": sum(took) / workers, "one_task": sum(took) / count}


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            asyncio.run(serve())
        case ["ask", workers, count]:
            print(json.dumps(ask(int(workers), int(count))))
        case _:
            raise SystemExit(__doc__)
