"""Requests by nats-py, through a nats-server on this machine: the process that answers, and the one that asks.

Both sides encode and decode each message by itself, as ours do. `why_not` says what is missing on this machine.

python -m bench.nats answer PORT | ask PORT
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import msgspec

from bench.messages import Order, order

SUBJECT = "bench.echo"


def why_not() -> str | None:
    """Why it cannot be measured here; None: it can."""
    if find_spec("nats") is None:
        return "nats-py is not here; `make bench` installs it"
    if server() is None:
        return "there is no nats-server here; Debian: apt install nats-server"
    return None


def server() -> str | None:
    return shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def serving() -> Generator[int]:
    """A server on a free port of the loopback."""
    program = server()
    assert program is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [program, "--addr", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def _wait_for(port: int) -> None:
    until = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


async def connected(port: int) -> Any:
    nats: Any = import_module("nats")
    return await nats.connect(f"nats://127.0.0.1:{port}")


async def answer(port: int) -> None:
    client = await connected(port)
    decode, encode = msgspec.msgpack.Decoder(Order).decode, msgspec.msgpack.Encoder().encode

    async def echo(message: Any) -> None:
        await message.respond(encode(decode(message.data)))

    await client.subscribe(SUBJECT, cb=echo)
    await client.flush()
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await client.close()


async def ask(port: int) -> dict[str, float]:
    client = await connected(port)
    decode, encode, message = msgspec.msgpack.Decoder(Order).decode, msgspec.msgpack.Encoder().encode, order()

    async def request() -> Order:
        return decode((await client.request(SUBJECT, encode(message), timeout=30)).data)

    found: dict[str, float] = {}
    times: list[float] = []
    for _ in range(2_200):
        began = time.perf_counter()
        await request()
        times.append((time.perf_counter() - began) * 1e6)
    times = sorted(times[200:])
    found["alone_p50"] = times[len(times) // 2]
    most, count = 1_000, 30_000
    waiting: deque[asyncio.Task[Order]] = deque()
    began = time.perf_counter()
    for _ in range(count):
        if len(waiting) >= most:
            await waiting.popleft()
        waiting.append(asyncio.ensure_future(request()))
    for each in waiting:
        await each
    found[f"outstanding_{most}"] = count / (time.perf_counter() - began)
    await client.close()
    return found


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["answer", port]:
            asyncio.run(answer(int(port)))
        case ["ask", port]:
            print(json.dumps(asyncio.run(ask(int(port)))))
        case _:
            raise SystemExit(__doc__)
