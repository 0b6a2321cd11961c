"""Requests and streams: the process that answers, and the one that asks, ours and raw (`zmq.asyncio`, REQ and REP).

python -m bench.asking answer | ask ENDPOINT | raw-answer | raw-ask ENDPOINT COUNT
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import AsyncIterator

import msgspec
import zmq
import zmq.asyncio

from bench.messages import Order, order
from zerowait import App, Client, Reply, RequestChannel, Settings, StreamChannel

ECHO = RequestChannel[Order, Order]("bench.echo")
CHUNKS = StreamChannel[int, bytes]("bench.chunks")
CHUNK = b"x" * 1_024


async def answer() -> None:
    app = App("bench-answering", settings=Settings.load(flags={"namespace": "bench-a", "listen": "tcp://127.0.0.1:0"}))

    @app.reply(ECHO)
    async def echo(value: Order) -> Order:
        return value

    @app.reply(CHUNKS)
    async def chunks(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield CHUNK

    async with app:
        from zerowait.serving import client_of

        print(client_of(app)._open().node.endpoints[-1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


async def ask(endpoint: str) -> dict[str, float]:
    settings = Settings.load(flags={"namespace": "bench-q", "addresses": {"bench.*": endpoint}})
    found: dict[str, float] = {}
    async with Client("bench-asking", settings=settings) as zw:
        await zw.workers(ECHO).at_least(1)
        message = order()
        times: list[float] = []
        for _ in range(2_200):
            began = time.perf_counter()
            await zw.request(ECHO, message)
            times.append((time.perf_counter() - began) * 1e6)
        times = sorted(times[200:])
        found["alone_p50"], found["alone_p99"] = times[len(times) // 2], times[len(times) * 99 // 100]
        for most, count in ((10, 20_000), (100, 100_000), (1_000, 300_000)):
            waiting: deque[Reply[Order]] = deque()
            began = time.perf_counter()
            for _ in range(count):
                if len(waiting) >= most:
                    await waiting.popleft()
                waiting.append(zw.request(ECHO, message))
            for reply in waiting:
                await reply
            found[f"outstanding_{most}"] = count / (time.perf_counter() - began)
        began, size = time.perf_counter(), 0
        async for chunk in zw.stream(CHUNKS, 300_000):
            size += len(chunk)
        found["stream_mb"] = size / 1e6 / (time.perf_counter() - began)
    return found


async def raw_answer() -> None:
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.REP)
    print(f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}", flush=True)
    decode, encode = msgspec.msgpack.Decoder(Order).decode, msgspec.msgpack.Encoder().encode
    while request := await socket.recv():
        await socket.send(encode(decode(request)))
    await socket.send(b"")
    socket.close(1_000)
    context.term()


async def raw_ask(endpoint: str, count: int) -> dict[str, float]:
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.REQ)
    socket.connect(endpoint)
    decode, encode, message = msgspec.msgpack.Decoder(Order).decode, msgspec.msgpack.Encoder().encode, order()
    times: list[float] = []
    for _ in range(count + 200):
        began = time.perf_counter()
        await socket.send(encode(message))
        decode(await socket.recv())
        times.append((time.perf_counter() - began) * 1e6)
    await socket.send(b"")
    await socket.recv()
    socket.close(0)
    context.term()
    times = sorted(times[200:])
    return {"alone_p50": times[len(times) // 2]}


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["answer"]:
            asyncio.run(answer())
        case ["raw-answer"]:
            asyncio.run(raw_answer())
        case ["raw-ask", endpoint, count]:
            print(json.dumps(asyncio.run(raw_ask(endpoint, int(count)))))
        case ["ask", endpoint]:
            print(json.dumps(asyncio.run(ask(endpoint))))
        case _:
            raise SystemExit(__doc__)
