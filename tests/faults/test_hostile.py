"""What strangers do to a listener while it works: garbage, greetings that never end, messages that never end, and
everybody coming back at once. Who sends and handles meanwhile does not feel it, and memory stays."""

from __future__ import annotations

import random
import select
import signal
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from tests.faults.history import Kind
from tests.faults.kills import until_stored
from tests.faults.scene import Life, Scene
from tests.waiting import wait_until
from zerowait.engines.brokerless.directory import Directory

Told = Callable[[str], None]
MIB = 1 << 20
GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\x00") + bytes(32)
READY = b"\x05READY" + b"\x0bSocket-Type" + b"\x00\x00\x00\x06DEALER" + b"\x08Identity" + b"\x00\x00\x00\x00"


def listening(scene: Scene, worker: Life) -> tuple[str, int]:
    """Where that worker listens for other machines."""
    directory = Directory(Path(scene.settings["home"]), scene.settings["namespace"])

    def found() -> tuple[str, int] | None:
        for entry in directory.look() or ():
            for endpoint in entry.endpoints:
                if entry.pid == worker.pid and endpoint.startswith("tcp:"):
                    parts = urlsplit(endpoint)
                    assert parts.hostname is not None
                    assert parts.port is not None
                    return parts.hostname, parts.port
        return None

    place = wait_until(found, within=10)
    assert place is not None
    return place


def memory_of(life: Life) -> int:
    """Bytes that are resident."""
    status = Path(f"/proc/{life.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024


@contextmanager
def at_work(
    scene: Scene, told: Told, what: str, *, most_bytes: int = 48 * MIB
) -> Generator[tuple[Life, tuple[str, int]]]:
    """A worker that listens, and a sender that pushes to it; afterwards nothing is lost, late or repeated, and memory
    has not grown."""
    worker = scene.worker(settings={"listen": "tcp://127.0.0.1:0", "handshake_timeout": 1.0})
    sender = scene.sender(pace=0.005)
    scene.until(Kind.SETTLED, 20)
    place = listening(scene, worker)
    before, began = memory_of(worker), time.monotonic()
    yield worker, place
    scene.until(Kind.SETTLED, 5, after=time.monotonic())
    grown = memory_of(worker) - before
    sender.signal(signal.SIGUSR1)
    scene.until(Kind.READY, by=sender)
    until_stored(scene, sender)
    pushed = {record.number: record.at for record in scene.of(Kind.ATTEMPT) if record.at > began}
    waits = sorted(record.at - pushed[record.number] for record in scene.of(Kind.STARTED) if record.number in pushed)
    late = waits[len(waits) * 99 // 100]
    told(f"{what}: memory +{max(grown, 0) / MIB:.0f} MiB, push to handler at the 99th percentile {late * 1e3:.0f} ms")
    assert scene.assert_accounted().repeated == 0
    assert grown < most_bytes
    assert late < 1.0


def dial(place: tuple[str, int]) -> socket.socket:
    return socket.create_connection(place, timeout=5)


def test_garbage_does_not_disturb_those_who_work(scene: Scene, told: Told) -> None:
    chance = random.Random(5)
    with at_work(scene, told, "600 garbage connections") as (_, place):
        for number in range(600):
            with dial(place) as stranger, suppress(OSError):
                kind = number % 4
                if kind == 0:
                    stranger.sendall(chance.randbytes(chance.randint(1, 4_000)))
                elif kind == 1:
                    stranger.sendall(GREETING + chance.randbytes(2_000))
                elif kind == 2:
                    stranger.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
                else:
                    body = chance.randbytes(300)
                    stranger.sendall(
                        GREETING + b"\x04" + bytes([len(READY)]) + READY + b"\x02" + _long(len(body)) + body
                    )


def test_slow_greetings_are_ended_and_keep_nobody_out(scene: Scene, told: Told) -> None:
    with at_work(scene, told, "400 slow greetings") as (_, place):
        strangers = [dial(place) for _ in range(400)]
        try:
            for at in range(4):
                for stranger in strangers:
                    with suppress(OSError):
                        stranger.sendall(GREETING[at : at + 1])
                time.sleep(0.05)  # a byte at a time is the fault
            wait_until(lambda: all(is_closed(stranger) for stranger in strangers), within=10)
        finally:
            for stranger in strangers:
                stranger.close()


def test_a_message_that_never_ends_is_cut_off_with_its_sender(scene: Scene, told: Told) -> None:
    """ZeroMQ shows a message when it is whole and keeps its parts until then, whatever its limits: it is bounded by the
    time that a stranger has for his first word."""
    part = b"\x03" + _long(60_000) + bytes(60_000)  # of many; more follow
    what = "an endless message"
    with at_work(scene, told, what, most_bytes=512 * MIB) as (_, place), dial(place) as stranger:
        stranger.sendall(GREETING + b"\x04" + bytes([len(READY)]) + READY)
        answer = b""
        while b"READY" not in answer:  # it is a peer as far as ZeroMQ can know
            answer += stranger.recv(4_096)
        sent, began = 0, time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() - began < 10:
                stranger.sendall(part)
                sent += len(part)
                time.sleep(0.0005)  # 100 MB/s at most: the bound is one of time
        lasted = time.monotonic() - began
        told(f"{what}: cut off after {lasted:.1f} s and {sent / 1e6:.0f} MB")
        assert lasted < 4, "its handshake has 1 s"


def test_when_a_worker_comes_back_everybody_does_within_seconds(scene: Scene, told: Told) -> None:
    many = 40
    worker = scene.worker(seconds=0.0)
    senders = [scene.sender(count=3, pace=0) for _ in range(many)]
    scene.until(Kind.SETTLED, 3 * many, within=30)
    scene.kill(worker)
    back = scene.worker(seconds=0.0)
    born = time.monotonic()
    wait_until(lambda: all(back_in_view(scene, back, sender) for sender in senders), within=20)
    told(f"{many} senders found the restarted worker within {time.monotonic() - born:.2f} s")
    assert scene.assert_accounted().repeated == 0
    assert time.monotonic() - born < 20


def back_in_view(scene: Scene, worker: Life, sender: Life) -> bool:
    return f"{sender.pid}" in worker_peers(scene, worker)


def worker_peers(scene: Scene, worker: Life) -> set[str]:
    from zerowait.snapshot import Question, Status

    for reach in scene.reaches():
        for place in reach.places():
            if place.living and f"(pid {worker.pid})" in place.who:
                status = place.reply(Question("status")).value(Status)
                return {f"{peer.pid}" for peer in status.peers if peer.state == "up"} if status is not None else set()
    return set()


def is_closed(stranger: socket.socket) -> bool:
    try:
        return bool(select.select([stranger], [], [], 0)[0]) and not _drained(stranger)
    except (OSError, ValueError):
        return True


def _drained(stranger: socket.socket) -> bytes:
    """What it has still to say to us; empty at its end."""
    data = b""
    while chunk := stranger.recv(4_096, socket.MSG_DONTWAIT):
        data = chunk
        if not select.select([stranger], [], [], 0)[0]:
            return data
    return b""


def _long(size: int) -> bytes:
    return size.to_bytes(8, "big")
