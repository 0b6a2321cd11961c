"""A thousand peers and more at one listening worker: what they cost, and how soon all are back when it restarts.

The peers are light: each is a connection of its own, dialled by the product's `Wire`, over which a few lines say what a
sender's frames say (HELLO, STATE, DROP, PONG, WANT, BATCH, CONFIRM); a thousand of them are one process. The worker is
a real one.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from array import array
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from bench.__main__ import Run, ask
from bench.figures.report import Row, at_most
from bench.messages import DURABLE, Order
from zerowait.engines.brokerless.contacts import FIRST_PAUSE, LONGEST_PAUSE
from zerowait.engines.brokerless.node import BACKSTOP
from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.config import Config
from zerowait.engines.brokerless.protocol.frames import (
    Batch,
    Confirm,
    Credit,
    Drop,
    Held,
    Hello,
    Outcome,
    Owned,
    Ping,
    Pong,
    State,
    Want,
)  # fmt: skip
from zerowait.engines.brokerless.wire import Heard, Lost, Opened, Wire, raise_descriptor_limit
from zerowait.message import BODY_HEADER, BODY_START

EACH = 1_000  # peers of a process
# Dialling is 0.2 ms of a processor. Were a thousand dialled before any is heard, the first would not speak for so long
# that they were cut off: as many processes would not do that to each other.
DIALS_A_TURN = 32
PAYLOAD = msgspec.msgpack.encode(Order(1, "x" * 980, 3.25, ["alpha"]))
MIB = 1024.0
SILENCE = Config().silence


# -- in a process of its own -------------------------------------------------------------------------------------------


class Light(Struct):
    """One peer."""

    instance: int
    serial: int = 0
    pause: float = FIRST_PAUSE
    has_resumed: bool = False
    limits: dict[str, int] = field(default_factory=dict[str, int])
    seen: int = 0
    sent: int = 0  # messages, and units: these are small


class Crowd:
    """spends: whether each sends as much as it has credit for."""

    def __init__(self, endpoint: str, count: int, *, spends: bool) -> None:
        raise_descriptor_limit()
        # As a node makes its own, with the defaults of its settings.
        self._wire = Wire(connections=count + 64, heartbeat_s=SILENCE, silence_s=BACKSTOP * SILENCE)
        self._endpoint = endpoint
        self._spends = spends
        self.peers = [Light(random.getrandbits(63) | 1) for _ in range(count)]
        self._by_conn: dict[int, Light] = {}
        self._late = {peer.instance: peer for peer in self.peers}
        self._again: list[tuple[float, int]] = [(0.0, peer.instance) for peer in self.peers]  # a heap: when, and who
        self.resumed = 0
        self.last_at = 0.0

    def turn(self) -> None:
        now = time.monotonic()
        for _ in range(DIALS_A_TURN):
            if not self._again or self._again[0][0] > now:
                break
            late = self._late[heappop(self._again)[1]]
            self._by_conn[self._wire.dial(self._endpoint)] = late
        for event in self._wire.poll(0.01):
            match event:
                case Opened(conn):
                    self._hello(conn, self._by_conn[conn])
                case Heard(conn):
                    if (peer := self._by_conn.get(conn)) is not None:
                        self._hear(conn, peer, bytes(event.frame))
                case Lost(conn):
                    self._lost(self._by_conn.pop(conn), now)
                case _:
                    pass

    def _lost(self, peer: Light, now: float) -> None:
        self.resumed -= peer.has_resumed
        peer.has_resumed, peer.sent, peer.limits = False, 0, {}
        heappush(self._again, (now + peer.pause * (0.5 + random.random()), peer.instance))
        peer.pause = min(LONGEST_PAUSE, 2 * peer.pause)

    def _hello(self, conn: int, peer: Light) -> None:
        peer.serial += 1
        self._say(conn, Hello(peer.instance, "light", 1, "", 0, 0, peer.serial))

    def _say(self, conn: int, frame: frames.Frame) -> None:
        self._wire.send(conn, frames.encode(frame))

    def _hear(self, conn: int, peer: Light, data: bytes) -> None:
        frame = frames.decode_first(data) if data.startswith(frames.MAGIC) else frames.decode(data)
        match frame:
            case Hello():
                peer.pause = FIRST_PAUSE
                self._say(conn, State((), (Owned(peer.instance, 1, "light", durable=True),)))
            case Ping(serial):
                self._say(conn, Pong(serial))
            case Held(box, serial):
                self._say(conn, Drop(box, serial))
                peer.has_resumed, self.last_at = True, time.monotonic()
                self.resumed += 1
                self._say(conn, Want(DURABLE.name, 0, 0, 0, 1_000 if self._spends else 0))
            case Credit(channel, _, limit, serial):
                if channel == DURABLE.name:
                    if self._spends and limit > peer.sent:
                        self._send(conn, peer, channel, limit - peer.sent)
                    self._say(conn, Want(channel, 0, peer.sent, serial, 1_000 if self._spends else 0))
            case Outcome(box, _, parts):
                self._say(conn, Confirm(box, parts))
            case _:
                pass

    def _send(self, conn: int, peer: Light, channel: str, count: int) -> None:
        body, ends = bytearray(BODY_START), array("I")
        BODY_HEADER.pack_into(body, 0, 0xDD, count)
        for _ in range(count):
            body += PAYLOAD
            ends.append(len(body))
        first, box = peer.sent + 1, peer.instance
        peer.sent += count
        batch = Batch(
            box=box, epoch=1, fence=1, n=first, channel=channel, lane=0, ranges=((first, count),), accepted_at=(0, 0),
            sender="", failures={}, keys={}, left_ms={}, traces={}, headers={}, base=0,
            ends=memoryview(ends.tobytes()), body=memoryview(bytes(body)),
        )  # fmt: skip
        self._say(conn, batch)


def peers(endpoint: str, count: int, spends: bool) -> None:
    """Says `all <monotonic>` whenever all are there, and how many messages they have sent so far."""
    crowd, were = Crowd(endpoint, count, spends=spends), False
    said = 0
    while True:
        crowd.turn()
        sent = sum(peer.sent for peer in crowd.peers) if crowd.resumed == count else 0
        if (crowd.resumed == count) != were or sent != said:
            were, said = crowd.resumed == count, sent
            print(f"{'all' if were else 'some'} {crowd.last_at} {sent}", flush=True)


# -- what starts them --------------------------------------------------------------------------------------------------


class Peers:
    def __init__(self, run: Run, endpoint: str, count: int, *, spends: bool) -> None:
        args = json.dumps({"endpoint": endpoint, "count": count, "spends": spends})
        command = [sys.executable, "-m", "bench.figures.crowd", args]
        self._log = Path(run.env["ZEROWAIT_HOME"]) / f"peers{id(self)}"
        with self._log.open("w") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, env=run.env)

    def said(self) -> list[str]:
        lines = self._log.read_text().splitlines()
        return lines[-1].split() if lines else ["some", "0", "0"]

    def until_all(self, after: float, within: float = 120.0) -> float:
        """When the last of them was there."""
        end = time.monotonic() + within
        while not ((said := self.said())[0] == "all" and float(said[1]) > after):
            assert self.process.poll() is None, "the peers ended"
            if time.monotonic() > end:
                raise SystemExit(f"not all peers were there within {within:g} s: {said}")
            time.sleep(0.02)
        return float(said[1])


@contextmanager
def crowd_at(run: Run, endpoint: str, count: int, *, spends: bool = False) -> Generator[list[Peers]]:
    many = [Peers(run, endpoint, min(EACH, count - at), spends=spends) for at in range(0, count, EACH)]
    try:
        yield many
    finally:
        for each in many:
            each.process.kill()
            each.process.wait()


def cost(run: Run, count: int = 1_000) -> Iterator[Row]:
    with run.worker("stalled") as (worker, endpoint):
        before = int(ask(worker, "now"))
        with crowd_at(run, endpoint, count, spends=True) as many:
            for each in many:
                each.until_all(0.0)
            sent, still = -1, 0
            while still < 20:  # until nobody has been given more for two seconds
                time.sleep(0.1)
                now = sum(int(each.said()[2]) for each in many)
                still, sent = (still + 1, sent) if now == sent else (0, now)
            grown, most = (int(ask(worker, word)) - before for word in ("now", "memory"))
    credit = sent * len(PAYLOAD) / (1 << 20)
    yield Row(
        f"{count:,} peers that use all their credit, MiB",
        {"grown": grown / MIB, "most": most / MIB, "credit": credit, "messages": float(sent)},
        at_most("grown", 64.0 + credit),
    )


def storm(run: Run, count: int = 3_000, rounds: int = 3, bound: float = 10.0) -> Iterator[Row]:
    took: list[float] = []
    with ExitStack() as stack:
        worker, endpoint = stack.enter_context(run.worker("async"))
        with crowd_at(run, endpoint, count) as many:
            for each in many:
                each.until_all(0.0)
            for _ in range(rounds):
                worker.kill()
                worker.wait()
                worker, listens = stack.enter_context(run.worker("async", endpoint))
                back = time.monotonic()
                assert listens == endpoint
                took.append(max(each.until_all(back - 1.0) for each in many) - back)
    yield Row(
        f"{count:,} peers are back after their worker listens again, s",
        {"median": statistics.median(took), "max": max(took), "rounds": float(rounds)},
        at_most("max", bound),
    )


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    given: dict[str, Any] = json.loads(sys.argv[1])
    peers(**given)
