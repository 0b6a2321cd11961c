"""The receiving process of the measurements: an app that listens on tcp, with the handlers that are asked for."""

from __future__ import annotations

import asyncio
import sys
import time

from bench.messages import DURABLE, LONE_DURABLE, LONE_MEMORY, MEMORY, Order, Timed, memory_kib, most_memory_kib
from zerowait import App, Settings

took_ns: list[int] = []


def app_of(kind: str, settings: Settings) -> App:
    app = App("bench-worker", settings=settings)
    for channel in (MEMORY, DURABLE):
        if kind == "async":

            @app.pull(channel)
            async def handle(order: Order) -> None:
                pass

        elif kind == "plain":

            @app.pull(channel)
            def handle_plainly(order: Order) -> None:
                pass

        else:

            @app.pull(channel, concurrency=1)
            async def stall(order: Order) -> None:
                await asyncio.sleep(3600)

    for lone in (LONE_MEMORY, LONE_DURABLE):

        @app.pull(lone)
        async def clock(message: Timed) -> None:
            took_ns.append(time.time_ns() - message.sent_ns)

    return app


async def main(kind: str, listen: str = "tcp://127.0.0.1:0") -> None:
    settings = Settings.load(flags={"namespace": "bench-worker", "listen": listen})
    app = app_of(kind, settings)
    async with app:
        from zerowait.serving import client_of

        opened = client_of(app)._open()
        print(opened.node.endpoints[-1], flush=True)
        loop = asyncio.get_running_loop()
        while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
            if line == "times":
                print(" ".join(map(str, took_ns)), flush=True)
                took_ns.clear()
            elif line == "memory":
                print(most_memory_kib(), flush=True)
            elif line == "now":
                print(memory_kib(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
