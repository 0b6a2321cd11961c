"""Publish and subscribe beside raw pyzmq PUB/SUB: typed events from one process to others, each over tcp loopback.

`python -m bench.topics` runs both; each receiver is a process of its own. Both sides encode and decode each event by
itself. Rates are from the first publish until the last receiver has had the last event.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import msgspec
import zmq

from bench.messages import Order, order
from zerowait import Client, Settings, Topic

FEED = Topic[Order]("bench.feed")
MOST = 1_000_000  # a queue that drops nothing


def raw_receive(port: str, count: str) -> None:
    context = zmq.Context()
    sub, done = context.socket(zmq.SUB), context.socket(zmq.PUSH)
    sub.rcvhwm = 0
    sub.connect(f"tcp://127.0.0.1:{port}")
    sub.subscribe(b"")
    done.connect(f"tcp://127.0.0.1:{int(port) + 1}")
    decode, recv = msgspec.msgpack.Decoder(Order).decode, sub.recv
    while recv() == b"?":  # the slow joiner: until the first event has come
        done.send(b"here")
    for _ in range(int(count) - 1):
        decode(recv())
    done.send(b"all")
    done.close()
    sub.close(0)
    context.term()


def raw_publish(port: str, count: str, receivers: str) -> None:
    context = zmq.Context()
    pub, done = context.socket(zmq.PUB), context.socket(zmq.PULL)
    pub.sndhwm = 0
    pub.bind(f"tcp://127.0.0.1:{port}")
    done.bind(f"tcp://127.0.0.1:{int(port) + 1}")
    print("ready", flush=True)
    here = 0
    while here < 200 * int(receivers):  # each has answered often
        pub.send(b"?")
        time.sleep(0.001)
        while done.poll(0):
            done.recv()
            here += 1
    time.sleep(0.5)
    while done.poll(0):
        done.recv()
    encode, send, message = msgspec.msgpack.Encoder().encode, pub.send, order()
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(int(count)):
        send(encode(message))
    over = 0
    while over < int(receivers):
        over += done.recv() == b"all"
    print(json.dumps({"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}), flush=True)
    pub.close(0)
    done.close(0)
    context.term()


def settings(name: str, **more: Any) -> Settings:
    return Settings.load(flags={"namespace": f"bench-{name}", **more})


def ours_receive(port: str, count: str) -> None:
    with Client(
        "receiver", settings=settings(str(os.getpid()), addresses={"bench.*": f"tcp://127.0.0.1:{port}"})
    ) as zw:
        last = 0
        for _ in zw.subscribe(FEED, queue=MOST):
            last += 1
            if last == int(count):
                break
        zw.push("bench.done", last, durable=False).handled.result(30)


def ours_publish(port: str, count: str, receivers: str) -> None:
    from zerowait import App

    app = App("publisher", settings=settings("publisher", listen=f"tcp://127.0.0.1:{port}"))
    over: list[int] = []

    @app.pull("bench.done")
    def done(received: int) -> None:
        over.append(received)

    with app as zw:
        print("ready", flush=True)
        zw.subscribers(FEED).at_least(int(receivers)).result(60)
        message, publish = order(), zw.publish
        began, cpu = time.perf_counter(), time.process_time()
        for _ in range(int(count)):
            publish(FEED, message)
        calls = time.perf_counter() - began
        while len(over) < int(receivers):
            time.sleep(0.001)
        took = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu, "calls": calls}
        print(json.dumps(took), flush=True)


def once(kind: str, port: int, count: int, receivers: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="zw-bench-") as home:
        env = os.environ | {"ZEROWAIT_HOME": home}
        me = [sys.executable, "-m", "bench.topics", kind]
        publisher = subprocess.Popen(
            [*me, "publish", str(port), str(count), str(receivers)], stdout=subprocess.PIPE, text=True, env=env
        )
        assert publisher.stdout is not None
        publisher.stdout.readline()
        others = [subprocess.Popen([*me, "receive", str(port), str(count)], env=env) for _ in range(receivers)]
        try:
            found: dict[str, float] = json.loads(publisher.stdout.readline())
            publisher.wait(30)
            return found
        finally:
            for each in others:
                try:
                    each.wait(10)
                except subprocess.TimeoutExpired:
                    each.kill()


def main() -> None:
    if len(sys.argv) > 2:
        globals()[f"{sys.argv[1]}_{sys.argv[2]}"](*sys.argv[3:])
        return
    port = 21_000 + os.getpid() % 10_000
    for receivers, count in ((1, 300_000), (32, 20_000)):
        for kind in ("raw", "ours", "raw", "ours"):
            port += 3
            found = once(kind, port, count, receivers)
            delivered = count * receivers
            print(
                f"{kind:<5} to {receivers:>2}: {delivered / found['seconds']:>12,.0f} delivered/s, "
                f"{delivered / found['cpu']:>12,.0f} a second of publisher CPU",
                {name: round(value, 3) for name, value in found.items()},
                flush=True,
            )


if __name__ == "__main__":
    main()
