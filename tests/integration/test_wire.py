"""The wire against real sockets: itself at the other end, bare ZeroMQ, bare TCP, and processes that are killed."""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from tests.waiting import wait_until
from zerowait.engines.brokerless import dialled, listener
from zerowait.engines.brokerless.shears import is_itself
from zerowait.engines.brokerless.wire import (
    Event,
    Heard,
    Lost,
    Opened,
    PlainHeard,
    Wire,
    capabilities,
    libzmq,
    raise_descriptor_limit,
)
from zerowait.errors import SettingsError, UsageError

SECOND = 1.0
LOOPBACK = "tcp://127.0.0.1:*"


class End:
    """A wire and all it has told."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.events: list[Event] = []

    def turn(self) -> None:
        self.events += self.wire.poll(0.005)

    def opened(self, conn: int) -> bool:
        return any(isinstance(event, Opened) and event.conn == conn for event in self.events)

    def heard(self, conn: int | None = None) -> list[bytes]:
        return [bytes(e.frame) for e in self.events if isinstance(e, Heard) and conn in (None, e.conn)]

    def met(self) -> list[int]:
        return [event.conn for event in self.events if isinstance(event, Heard) and event.first]

    def lost(self, conn: int | None = None) -> list[Lost]:
        return [event for event in self.events if isinstance(event, Lost) and conn in (None, event.conn)]

    def plain(self) -> list[list[bytes]]:
        return [event.parts for event in self.events if isinstance(event, PlainHeard)]


Make = Callable[..., End]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Wire] = []

    def end(**options: float) -> End:
        made.append(Wire(**options))  # type: ignore[arg-type]
        return End(made[-1])

    yield end
    for wire in made:
        started = time.monotonic()
        wire.close()
        assert time.monotonic() - started < 2.5, "close() is bounded"


def until(*ends: End, that: Callable[[], object], within: float = 5.0) -> None:
    def turned() -> object:
        for end in ends:
            end.turn()
        return that()

    wait_until(turned, within=within)


def joined(server: End, client: End, endpoint: str) -> tuple[int, int]:
    """The connection as the dialler and as the listener have it."""
    conn = client.wire.dial(endpoint)
    until(server, client, that=lambda: client.opened(conn))
    greeting = b"hello %d" % conn
    assert client.wire.send(conn, greeting)
    before = len(server.met())
    until(server, client, that=lambda: len(server.met()) > before)
    assert server.heard(server.met()[-1]) == [greeting]
    return conn, server.met()[-1]


def send_all(end: End, conn: int, frames: list[bytes], *others: End) -> None:
    left = list(reversed(frames))

    def sent() -> bool:
        while left and end.wire.send(conn, left[-1]):
            left.pop()
        return not left

    until(end, *others, that=sent, within=20)


@pytest.fixture(params=["tcp", "tcp6", "ipc"])
def endpoint(request: pytest.FixtureRequest, home: Path) -> str:
    if request.param == "tcp6":
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 loopback here")
    return {"tcp": LOOPBACK, "tcp6": "tcp://[::1]:*", "ipc": f"ipc://{home}/socket"}[request.param]


PEER = """
import sys, time
from zerowait.engines.brokerless.wire import Heard, Opened, Wire
wire = Wire()
what, endpoint = sys.argv[1:]
if what == "listen":
    print(wire.listen(endpoint), flush=True)
else:
    conn = wire.dial(endpoint)
while True:
    for event in wire.poll(1):
        if isinstance(event, Opened):
            wire.send(event.conn, b"hello")
        elif isinstance(event, Heard):
            wire.send(event.conn, bytes(event.frame))
"""


@pytest.fixture
def peer() -> Iterator[Callable[[str, str], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(what: str, endpoint: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PEER, what, endpoint], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


# -- frames ------------------------------------------------------------------------------------------------------------


def test_frames_pass_both_ways_in_order(make: Make, endpoint: str) -> None:
    server, client = make(), make()
    ours, theirs = joined(server, client, server.wire.listen(endpoint))
    there = [b"there %d" % n for n in range(1000)]
    back = [b"back %d" % n for n in range(1000)]
    send_all(client, ours, there, server)
    send_all(server, theirs, back, client)
    until(server, client, that=lambda: len(server.heard(theirs)) == 1001 and len(client.heard(ours)) == 1000)
    assert server.heard(theirs)[1:] == there
    assert client.heard(ours) == back
    assert not server.lost()
    assert not client.lost()


def test_the_largest_frame_passes_as_it_is(make: Make, endpoint: str) -> None:
    server, client = make(), make()
    ours, theirs = joined(server, client, server.wire.listen(endpoint))
    frames = [os.urandom(256 * 1024) for _ in range(40)]
    send_all(client, ours, frames, server)
    send_all(server, theirs, frames, client)
    until(server, client, that=lambda: len(server.heard(theirs)) == 41 and len(client.heard(ours)) == 40)
    assert server.heard(theirs)[1:] == frames
    assert client.heard(ours) == frames


def test_who_sends_a_frame_that_is_too_large_is_disconnected(make: Make) -> None:
    server, client = make(frame_bytes=10_000), make()
    ours, theirs = joined(server, client, server.wire.listen(LOOPBACK))
    client.wire.send(ours, bytes(20_000))
    until(server, client, that=lambda: server.lost(theirs) and client.lost(ours))
    assert len(server.heard(theirs)) == 1


def test_a_peer_that_does_not_read_blocks_only_itself_and_poll_returns_when_it_reads_again(make: Make) -> None:
    server, stalled, lively = make(), make(), make()
    real = server.wire.listen(LOOPBACK)
    a, to_stalled = joined(server, stalled, real)
    b, to_lively = joined(server, lively, real)
    frame, sent = bytes(200_000), 0
    # Given one peer that reads nothing, until ZeroMQ takes nothing more for it.
    while server.wire.send(to_stalled, frame):
        sent += 1
        assert sent < 2_000, "the backstop holds"
        server.wire.poll(0.001)
    # The other one is served.
    send_all(server, to_lively, [b"still here"], lively)
    until(server, lively, that=lambda: lively.heard(b) == [b"still here"])
    # And when it reads, what blocked is taken.
    until(server, stalled, that=lambda: server.wire.send(to_stalled, b"last"))
    until(server, stalled, that=lambda: stalled.heard(a)[-1:] == [b"last"])
    assert len(stalled.heard(a)) == sent + 1


def test_a_dialler_that_blocked_is_woken_by_room_and_not_by_time(make: Make) -> None:
    server, client = make(), make()
    ours, theirs = joined(server, client, server.wire.listen(LOOPBACK))
    frame = bytes(200_000)

    def slept() -> float:
        while client.wire.send(ours, frame):
            pass
        started = time.monotonic()
        assert client.wire.poll(0.5) == []
        return time.monotonic() - started

    # Given a link where all is full, the buffers of the system too: then it sleeps.
    wait_until(lambda: slept() > 0.4, within=10)
    reader = threading.Thread(target=lambda: until(server, that=lambda: len(server.heard(theirs)) > 100))
    reader.start()
    assert slept() < 0.4
    reader.join()


# -- connections -------------------------------------------------------------------------------------------------------


def test_the_listener_tells_of_a_killed_peer_at_once(
    make: Make, endpoint: str, peer: Callable[..., subprocess.Popen[str]]
) -> None:
    server = make()
    process = peer("dial", server.wire.listen(endpoint))
    until(server, that=lambda: server.met(), within=20)
    process.send_signal(signal.SIGKILL)
    until(server, that=lambda: server.lost(server.met()[0]), within=SECOND)
    assert server.wire.send(server.met()[0], b"to nobody")


def test_the_dialler_tells_of_a_killed_peer_at_once(
    make: Make, endpoint: str, peer: Callable[..., subprocess.Popen[str]]
) -> None:
    client = make()
    process = peer("listen", endpoint)
    assert process.stdout is not None
    real = process.stdout.readline().strip()
    conn = client.wire.dial(real)
    until(client, that=lambda: client.opened(conn))
    client.wire.send(conn, b"echo")
    until(client, that=lambda: client.heard(conn) == [b"echo"])
    process.send_signal(signal.SIGKILL)
    until(client, that=lambda: client.lost(conn), within=SECOND)
    assert real in client.lost(conn)[0].reason


def test_a_stopped_peer_is_lost_when_its_heartbeat_is(make: Make, peer: Callable[..., subprocess.Popen[str]]) -> None:
    server = make(heartbeat_s=0.1, silence_s=0.5)
    process = peer("dial", server.wire.listen(LOOPBACK))
    until(server, that=lambda: server.met(), within=20)
    process.send_signal(signal.SIGSTOP)
    until(server, that=lambda: server.lost(server.met()[0]), within=2)
    process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("side", ["dialler", "listener"])
def test_what_was_said_before_leaving_is_heard_before_lost(make: Make, side: str, endpoint: str) -> None:
    server, client = make(), make()
    ours, theirs = joined(server, client, server.wire.listen(endpoint))
    speaker, to, hearer, at = (client, ours, server, theirs) if side == "dialler" else (server, theirs, client, ours)
    frames = [b"%d" % n for n in range(100)]
    for frame in frames:
        assert speaker.wire.send(to, frame)
    speaker.wire.drop(to)
    until(speaker, hearer, that=lambda: hearer.lost(at))
    assert hearer.heard(at)[-100:] == frames
    assert isinstance(hearer.events[-1], Lost)
    assert not speaker.lost(), "who dropped it knows"


def test_nobody_there_is_told_at_once(make: Make, home: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stale = home / "stale"
    with socket.socket(socket.AF_UNIX) as died:
        died.bind(str(stale))
    client = make()
    endpoints = [f"tcp://127.0.0.1:{port}", f"ipc://{home}/absent", f"ipc://{stale}", "tcp://nobody.invalid:5511"]
    conns = [client.wire.dial(endpoint) for endpoint in endpoints]
    until(client, that=lambda: len(client.lost()) == len(conns), within=3)
    for conn, endpoint in zip(conns, endpoints, strict=True):
        [lost] = client.lost(conn)
        assert endpoint in lost.reason
        assert "nobody listens" in lost.reason
    assert not any(isinstance(event, Opened) for event in client.events)


def test_who_takes_the_connection_and_does_not_shake_hands_is_given_up(make: Make) -> None:
    client = make(handshake_s=0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        conn = client.wire.dial(f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        until(client, that=lambda: client.lost(conn), within=2)
    assert not client.opened(conn)


def test_a_connection_dialled_again_is_a_new_one(make: Make) -> None:
    server, client = make(), make()
    real = server.wire.listen(LOOPBACK)
    first, _ = joined(server, client, real)
    client.wire.drop(first)
    second, theirs = joined(server, client, real)
    assert second != first
    until(server, client, that=lambda: len(server.lost()) == 1)
    assert server.lost()[0].conn != theirs
    assert server.heard(theirs) == [b"hello %d" % second]


def test_two_hundred_connections_speak_and_leave(make: Make) -> None:
    server, client = make(), make()
    real = server.wire.listen(LOOPBACK)
    conns = [client.wire.dial(real) for _ in range(200)]
    until(server, client, that=lambda: all(map(client.opened, conns)), within=20)
    for conn in conns:
        assert client.wire.send(conn, b"i am %d" % conn)
    until(server, client, that=lambda: len(server.met()) == 200)
    for theirs in server.met():
        assert server.wire.send(theirs, server.heard(theirs)[0])
    until(server, client, that=lambda: len(client.heard()) == 200)
    assert all(client.heard(conn) == [b"i am %d" % conn] for conn in conns)
    for conn in conns[:100]:
        client.wire.drop(conn)
    gone = {theirs for theirs in server.met() if int(server.heard(theirs)[0][5:]) in set(conns[:100])}
    until(server, client, that=lambda: len(server.lost()) == 100)
    assert {lost.conn for lost in server.lost()} == gone


def test_connections_that_take_over_the_descriptors_of_others_are_never_mixed_up(make: Make, endpoint: str) -> None:
    server = make()
    real = server.wire.listen(endpoint)

    def come_and_go(name: int) -> None:
        with zmq.Context() as context:
            for turn in range(150):
                with context.socket(zmq.DEALER) as peer:
                    peer.linger = 2_000
                    peer.ipv6 = True
                    peer.connect(real)
                    for n in range(1 + turn % 20):
                        peer.send(b"%d %d %d" % (name, turn, n))

    threads = [threading.Thread(target=come_and_go, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    until(server, that=lambda: len(server.lost()) == 450, within=30)
    for thread in threads:
        thread.join()
    assert len(server.met()) == 450
    over: set[int] = set()
    said: dict[int, list[bytes]] = {}
    for event in server.events:
        assert isinstance(event, Heard | Lost)
        assert event.conn not in over, "its frames come before its Lost"
        if isinstance(event, Lost):
            over.add(event.conn)
        else:
            said.setdefault(event.conn, []).append(bytes(event.frame))
    for frames in said.values():
        name, turn, _ = map(int, frames[0].split())
        assert frames == [b"%d %d %d" % (name, turn, n) for n in range(1 + turn % 20)]
    there = server.wire._listeners[0]
    assert [there._by_id, there._doors, there._silent] == [{}, {}, {}]


def test_who_has_spoken_in_time_is_not_cut_off_however_late_it_is_read(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three thousand peers that came at once were cut off as silent while their first words lay unread, and came again:
    the listener did the same work for ever."""
    monkeypatch.setattr(listener, "FRAMES_A_TURN", 4)
    monkeypatch.setattr(listener, "CROWDED_S", 0.1)
    server, client = make(handshakes=4), make()
    real = server.wire.listen(LOOPBACK)
    conns = [client.wire.dial(real) for _ in range(60)]
    until(client, that=lambda: all(map(client.opened, conns)))
    for conn in conns:
        assert client.wire.send(conn, b"hello")

    def slowly() -> bool:
        server.turn()
        time.sleep(0.03)  # what is done with four of them takes so long
        return len(server.met()) == 60

    until(client, that=slowly, within=20)
    assert not server.lost()
    assert not client.lost()


def test_who_speaks_just_before_it_is_looked_for_the_silent_is_heard(make: Make) -> None:
    """Asked whether there is something to read, ZeroMQ's descriptor tells nothing more of what is there: first words
    lay unread until somebody else spoke."""
    server, client = make(), make()
    conn = client.wire.dial(server.wire.listen(LOOPBACK))
    there = server.wire._listeners[0]
    until(server, client, that=lambda: client.opened(conn) and there._silent)
    while server.wire.poll(0):
        pass
    client.wire.send(conn, b"hello")
    until(client, that=lambda: select.select([there.bare.descriptor], [], [], 0)[0])
    there.tick(time.monotonic(), server.events)
    until(server, that=server.met, within=2)


def test_who_is_silent_is_cut_off_also_while_others_speak_without_a_pause(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "FRAMES_A_TURN", 4)
    monkeypatch.setattr(listener, "BEHIND_S", 0.5)
    server, client = make(handshakes=0, handshake_s=0.5), make()
    talker, _ = joined(server, client, real := server.wire.listen(LOOPBACK))
    silent = client.wire.dial(real)
    until(server, client, that=lambda: client.opened(silent))

    def talks() -> bool:
        for _ in range(20):
            client.wire.send(talker, b"more")
        return bool(client.lost(silent))

    until(client, server, that=talks)


@pytest.mark.parametrize("side", ["dialler", "listener"])
def test_what_lies_before_the_thread_that_takes_it_off_the_network_is_seen(
    make: Make, side: str, endpoint: str
) -> None:
    """Peers were given up as silent whose words our own thread had not got to."""
    server, client = make(), make()
    ours, theirs = joined(server, client, server.wire.listen(endpoint))
    speaker, to, hearer, at = (client, ours, server, theirs) if side == "dialler" else (server, theirs, client, ours)
    assert not hearer.wire.has_unread(at)
    # given a peer that says more than is taken off while nobody reads here
    sent = 0

    def lies_there() -> bool:
        nonlocal sent
        for _ in range(100):
            sent += speaker.wire.send(to, bytes(10_000))
        return hearer.wire.has_unread(at)

    until(speaker, that=lies_there)
    # when it is read
    until(hearer, that=lambda: len(hearer.heard(at)) >= sent)
    # then nothing is left there
    assert not hearer.wire.has_unread(at)
    assert not hearer.wire.has_unread(10_000), "a connection that is gone"


def test_all_that_a_listener_bears_may_wait_at_once_to_be_accepted(make: Make) -> None:
    """Three thousand came at once where a thousand could wait: the others tried again after one second, or three."""
    server = make(connections=3_000)
    server.wire.listen(LOOPBACK)
    assert server.wire._listeners[0].bare.socket.get(zmq.BACKLOG) == 3_000


def test_whoever_comes_is_greeted_however_long_nobody_looks(make: Make, home: Path) -> None:
    """By which it is known of a process whose interpreter is held that it is not stopped. What was to be told of those
    who had come was full after an hour and a half, or after minutes where many felt for it."""
    path = home / "socket"
    server = make()
    server.wire.listen(f"ipc://{path}")
    for _ in range(7_000):
        with socket.socket(socket.AF_UNIX) as came:
            came.settimeout(5)
            came.connect(str(path))
            assert came.recv(1)
    joined(server, make(), f"ipc://{path}")


def test_a_newcomer_whose_first_words_our_own_thread_has_not_read_is_not_cut_off(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    unread = [True]

    def has_unread(descriptor: int) -> bool:
        return unread[0]

    monkeypatch.setattr(listener, "has_unread", has_unread)
    server = make(handshake_s=0.5)
    address = ("127.0.0.1", int(server.wire.listen(LOOPBACK).rpartition(":")[2]))
    there = server.wire._listeners[0]
    with socket.create_connection(address):
        until(server, that=lambda: there._silent)
        began = time.monotonic()
        until(server, that=lambda: there.cut_off or time.monotonic() > began + 0.8)
        assert not there.cut_off, "he may have spoken"
        unread[0] = False
        until(server, that=lambda: there.cut_off)


def test_who_is_dialled_and_says_a_byte_now_and_then_is_given_up_all_the_same(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def has_unread(descriptor: int) -> bool:
        return True

    monkeypatch.setattr(dialled, "has_unread", has_unread)
    monkeypatch.setattr(dialled, "BEHIND_S", 0.5)
    client = make(handshake_s=0.5)
    with socket.create_server(("127.0.0.1", 0)) as there:
        began = time.monotonic()
        conn = client.wire.dial(f"tcp://127.0.0.1:{there.getsockname()[1]}")
        until(client, that=lambda: client.lost(conn))
    assert "did not shake hands" in client.lost(conn)[0].reason, "and not by ZeroMQ, which is three times as patient"
    assert time.monotonic() - began >= 1.0


def test_who_was_cut_off_is_no_newcomer_for_what_it_had_said_before(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "FRAMES_A_TURN", 4)
    monkeypatch.setattr(listener, "EMPTYING_S", 0.0)
    server, client = make(), make()
    real = server.wire.listen(LOOPBACK)
    ours, theirs = joined(server, client, real)
    # given much that it has said, and that is not read before it is gone
    while client.wire.send(ours, b"one more"):
        pass
    until(server, that=lambda: server.wire._listeners[0].is_behind)
    door = server.wire._listeners[0]._callers[theirs].door
    assert door is not None
    server.wire._listeners[0]._cut(door, server.events)
    until(server, that=lambda: server.lost(theirs))
    # when the rest is read
    other, _ = joined(server, client, real)
    until(server, that=lambda: not server.wire._listeners[0].is_behind)
    # then it is nobody's
    assert len(server.met()) == 2
    assert not client.lost(other)


def test_a_listener_bears_only_so_many(make: Make) -> None:
    server, client = make(connections=3), make()
    real = server.wire.listen(LOOPBACK)
    kept = [joined(server, client, real)[0] for _ in range(3)]
    fourth = client.wire.dial(real)
    until(server, client, that=lambda: client.lost(fourth))
    assert not [lost for conn in kept for lost in client.lost(conn)]
    assert len(server.met()) == 3


# -- those who do not keep the rules -----------------------------------------------------------------------------------


@pytest.fixture
def bare() -> Iterator[Callable[[zmq.SocketType], zmq.Socket[bytes]]]:
    context = zmq.Context()
    made: list[zmq.Socket[bytes]] = []

    def make_one(kind: zmq.SocketType) -> zmq.Socket[bytes]:
        made.append(context.socket(kind))
        made[-1].linger = 0
        return made[-1]

    yield make_one
    for one in made:
        one.close()
    context.term()


def test_a_message_of_several_parts_ends_the_connection(make: Make, bare: Callable[..., zmq.Socket[bytes]]) -> None:
    server, client = make(), make()
    real = server.wire.listen(LOOPBACK)
    good, theirs = joined(server, client, real)
    wrong = bare(zmq.DEALER)
    wrong.reconnect_ivl = -1
    wrong.connect(real)
    # Given one that keeps the rules at first, and names another's routing id within what it then sends.
    wrong.send(b"hello")
    until(server, client, that=lambda: len(server.met()) == 2)
    for _ in range(50):
        wrong.send_multipart([b"one", b"two", b"three"])
        wrong.send(b"four")
    until(server, client, that=lambda: server.lost(server.met()[1]))
    assert "several parts" in server.lost()[0].reason
    listener = server.wire._listeners[0]
    until(server, client, that=lambda: listener.cut_off == 1 and len(listener._by_id) == 1)
    assert server.heard(server.met()[1]) == [b"hello"]
    # The other one is served as before.
    assert client.wire.send(good, b"still here")
    until(server, client, that=lambda: server.heard(theirs)[-1] == b"still here")


def test_a_stranger_whose_first_message_has_several_parts_is_never_a_connection(
    make: Make, bare: Callable[..., zmq.Socket[bytes]]
) -> None:
    server = make()
    wrong = bare(zmq.DEALER)
    wrong.reconnect_ivl = -1
    wrong.connect(server.wire.listen(LOOPBACK))
    wrong.send_multipart([b"one", b"two"])
    listener_of = server.wire._listeners
    until(server, that=lambda: listener_of[0].cut_off == 1 and not listener_of[0]._by_id and not listener_of[0]._doors)
    assert server.events == []


def test_who_chooses_its_own_routing_id_is_not_heard(make: Make, bare: Callable[..., zmq.Socket[bytes]]) -> None:
    server = make(handshake_s=0.5)
    wrong = bare(zmq.DEALER)
    wrong.reconnect_ivl = -1
    wrong.routing_id = b"ours"
    wrong.connect(server.wire.listen(LOOPBACK))
    wrong.send(b"hello")
    listener = server.wire._listeners[0]
    until(server, that=lambda: listener.ignored == 1)
    until(server, that=lambda: listener.cut_off == 1 and not listener._doors)
    assert server.events == []


def test_a_connection_that_met_itself_is_seen_to_be_one() -> None:
    with socket.socket() as both, socket.socket() as server:
        both.bind(("127.0.0.1", 0))
        both.connect(both.getsockname())
        assert is_itself(both)
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.create_connection(server.getsockname()) as one:
            assert not is_itself(one)


def test_a_dialled_peer_that_sends_several_parts_is_lost(make: Make, bare: Callable[..., zmq.Socket[bytes]]) -> None:
    client = make()
    wrong = bare(zmq.ROUTER)
    port = wrong.bind_to_random_port("tcp://127.0.0.1")
    conn = client.wire.dial(f"tcp://127.0.0.1:{port}")
    until(client, that=lambda: client.opened(conn))
    client.wire.send(conn, b"hello")
    who, _ = wrong.recv_multipart()
    wrong.send_multipart([who, b"one", b"two"])
    until(client, that=lambda: client.lost(conn))
    assert "several parts" in client.lost(conn)[0].reason


def test_garbage_does_no_harm(make: Make) -> None:
    server, client = make(handshake_s=1.0), make()
    real = server.wire.listen(LOOPBACK)
    ours, theirs = joined(server, client, real)
    address = ("127.0.0.1", int(real.rpartition(":")[2]))
    http, half = b"GET / HTTP/1.1\r\n\r\n", b"\xff" + bytes(8) + b"\x7f"
    for garbage in (http, half, b"", half[:5], os.urandom(4096), b"\xff\0" + os.urandom(100)):
        for _ in range(10):
            with socket.create_connection(address) as stranger:
                stranger.sendall(garbage)
            server.turn()
    assert client.wire.send(ours, b"still here")
    until(server, client, that=lambda: server.heard(theirs)[-1] == b"still here")
    until(server, client, that=lambda: len(server.wire._listeners[0]._doors) == 1)
    assert server.met() == [theirs]
    assert not server.lost()


def test_who_says_nothing_is_cut_off(make: Make, bare: Callable[..., zmq.Socket[bytes]]) -> None:
    server = make(handshake_s=0.3)
    real = server.wire.listen(LOOPBACK)
    silent = bare(zmq.DEALER)  # shakes hands, and then never speaks
    silent.reconnect_ivl = -1
    silent.connect(real)
    with socket.create_connection(("127.0.0.1", int(real.rpartition(":")[2]))) as slow:
        doors = server.wire._listeners[0]._doors
        until(server, that=lambda: len(doors) == 2)
        until(server, that=lambda: not doors, within=3)
        slow.settimeout(2)
        while slow.recv(100):
            pass
    assert server.events == []


def test_without_descriptors_a_listener_stays_calm_and_comes_back(make: Make) -> None:
    result = subprocess.run([sys.executable, "-c", EXHAUSTED], capture_output=True, text=True, timeout=50)
    assert result.returncode == 0, result.stdout + result.stderr


EXHAUSTED = """
import os, resource, socket, time
from zerowait.engines.brokerless.wire import Heard, Lost, Opened, Wire
server, client = Wire(), Wire()
real = server.listen("tcp://127.0.0.1:*")
address = ("127.0.0.1", int(real.rpartition(":")[2]))
conn = client.dial(real)
told = []
def turn(until, within):
    end = time.monotonic() + within
    while not until():
        assert time.monotonic() < end, told[-5:]
        for event in client.poll(0.002) + server.poll(0.002):
            if isinstance(event, Opened):
                client.send(event.conn, b"hello")
            told.append(event)
turn(lambda: any(isinstance(e, Heard) for e in told), 5)
crowd = [socket.socket() for _ in range(30)]
soft = len(os.listdir("/dev/fd")) + 3
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
for one in crowd:
    one.setblocking(False)
    one.connect_ex(address)
end = time.monotonic() + 2
turn(lambda: time.monotonic() > end, 5)
listener = server._listeners[0]
assert listener.cut_off > 10, listener.cut_off
before = time.process_time()
end = time.monotonic() + 1
turn(lambda: time.monotonic() > end, 5)
used = time.process_time() - before
assert used < 0.5, f"{used} s of processor in a second"
assert not any(isinstance(e, Lost) for e in told), told  # who was there stays
for one in crowd:
    one.close()
resource.setrlimit(resource.RLIMIT_NOFILE, (soft + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
again = client.dial(real)
turn(lambda: sum(isinstance(e, Heard) and e.first for e in told) == 2, 5)
client.close(); server.close()
"""

# -- waking and ending -------------------------------------------------------------------------------------------------


def test_any_thread_wakes_a_sleeping_poll_and_rings_without_a_sleeper_cost_one(make: Make) -> None:
    end = make()
    for _ in range(20):
        waker = threading.Timer(0.02, end.wire.wake)
        started = time.monotonic()
        waker.start()
        end.wire.poll(10)
        assert time.monotonic() - started < 5
        waker.join()
    # Rung while nobody sleeps: the next poll returns at once, the one after that sleeps.
    for _ in range(1000):
        end.wire.wake()
    started = time.monotonic()
    end.wire.poll(10)
    assert time.monotonic() - started < 5
    end.wire.poll(0.05)
    assert time.monotonic() - started > 0.05


def test_no_ring_is_ever_missed(make: Make) -> None:
    end = make()
    turns = 3000
    rung, seen, missed = threading.Semaphore(0), [0], list[int]()

    def ringer() -> None:
        for _ in range(turns):
            seen[0] += 1
            end.wire.wake()
            if not rung.acquire(timeout=5):
                missed.append(seen[0])
                return

    thread = threading.Thread(target=ringer)
    thread.start()
    done, slowest = 0, 0.0
    while done < turns and not missed:
        started = time.monotonic()
        end.wire.poll(5)
        slowest = max(slowest, time.monotonic() - started)
        if seen[0] > done:
            done = seen[0]
            rung.release()
    thread.join()
    assert not missed
    assert slowest < 0.9, "a missed ring shows as the longest nap of a second"


def test_waking_after_the_end_does_nothing(make: Make) -> None:
    end = make()
    end.wire.close()
    with open(os.devnull) as a, open(os.devnull) as b:  # may have got the numbers of the pipe
        end.wire.wake()
        assert a.fileno() != b.fileno()
    end.wire.close()


def test_it_ends_quickly_with_absent_and_stalled_peers(make: Make) -> None:
    server, client = make(), make()
    ours, _ = joined(server, client, server.wire.listen(LOOPBACK))
    client.wire.dial("tcp://127.0.0.1:1")
    client.wire.plain("push", connect=["tcp://127.0.0.1:1"])
    while client.wire.send(ours, bytes(200_000)):
        client.wire.poll(0)
    started = time.monotonic()
    client.wire.close()
    assert time.monotonic() - started < SECOND


def test_opening_and_closing_leaves_no_descriptor_and_no_thread(home: Path) -> None:
    def cycle() -> None:
        server, client = End(Wire()), End(Wire())
        for endpoint in (LOOPBACK, f"ipc://{home}/socket"):
            joined(server, client, server.wire.listen(endpoint))
        client.wire.dial(f"ipc://{home}/absent")
        client.wire.plain("pull", bind=[LOOPBACK])
        until(server, client, that=lambda: client.lost())
        client.wire.close()
        server.wire.close()
        assert not (home / "socket").exists()

    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/dev/fd"))

    cycle()
    before, threads = descriptors(), threading.active_count()
    for _ in range(20):
        cycle()
    wait_until(lambda: descriptors() <= before, within=3)
    assert threading.active_count() == threads


def test_dialling_over_and_over_leaves_no_descriptor(make: Make, home: Path) -> None:
    client = make()

    def in_vain() -> None:
        conn = client.wire.dial(f"ipc://{home}/absent")
        until(client, that=lambda: client.lost(conn))

    in_vain()
    before = len(os.listdir("/dev/fd"))
    for _ in range(50):
        in_vain()
    wait_until(lambda: len(os.listdir("/dev/fd")) <= before, within=3)


def test_a_child_process_abandons_it_and_the_parent_goes_on(make: Make) -> None:
    server, client = make(), make()
    ours, theirs = joined(server, client, server.wire.listen(LOOPBACK))
    child = os.fork()
    if child == 0:
        try:
            server.wire.abandon()
            client.wire.abandon()
            client.wire.wake()
            client.wire.close()
            del server, client
            gc.collect()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert client.wire.send(ours, b"still here")
    until(server, client, that=lambda: server.heard(theirs)[-1] == b"still here")


# -- addresses ---------------------------------------------------------------------------------------------------------


def test_an_address_in_use_is_refused_and_says_by_whom(make: Make, home: Path) -> None:
    first, second = make(), make()
    for endpoint in (LOOPBACK, f"ipc://{home}/socket"):
        real = first.wire.listen(endpoint)
        with pytest.raises(UsageError, match=rf"in use.*{os.getpid() if sys.platform == 'linux' else ''}"):
            second.wire.listen(real)
        joined(first, make(), real)  # and the first one still has it


def test_the_socket_of_a_dead_process_is_replaced_and_open_to_its_user_alone(make: Make, home: Path) -> None:
    path = home / "socket"
    with socket.socket(socket.AF_UNIX) as died:
        died.bind(str(path))
    server = make()
    joined(server, make(), server.wire.listen(f"ipc://{path}"))
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_no_socket_is_left_alone(make: Make, home: Path) -> None:
    path = home / "letter"
    path.write_text("dear")
    with pytest.raises(SettingsError, match="something else than a socket"):
        make().wire.listen(f"ipc://{path}")
    assert path.read_text() == "dear"


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("ipc:///tmp/" + "x" * 120, "at most"),
        ("ipc:///nowhere/at/all", "no folder /nowhere/at"),
        ("tcp://192.0.2.1:5511", "not an address of this machine"),
        ("tcp://nobody.invalid:5511", "not an address of this machine"),
        ("udp://127.0.0.1:5511", "there is tcp:// and ipc://"),
        ("tcp://127.0.0.1:99999", "a number from 1 to 65535"),
        ("tcp://127.0.0.1", "the port is missing"),
    ],
)
def test_an_address_that_cannot_be_listened_at_is_refused_in_words(make: Make, endpoint: str, words: str) -> None:
    end = make()
    with pytest.raises(SettingsError, match=words):
        end.wire.listen(endpoint)
    with pytest.raises(SettingsError, match=words):
        end.wire.plain("pull", bind=[endpoint])


def test_all_interfaces_are_heard_at_a_star(make: Make) -> None:
    server = make()
    port = server.wire.listen("tcp://*:0").rpartition(":")[2]
    joined(server, make(), f"tcp://127.0.0.1:{port}")


# -- bare peers --------------------------------------------------------------------------------------------------------

VENTILATOR = """
import sys, zmq
sender = zmq.Context().socket(zmq.PUSH)
sender.bind(sys.argv[1])
for number in range(3):
    sender.send_string(str(number))
sender.close()
"""

SINK = """
import sys, zmq
receiver = zmq.Context().socket(zmq.PULL)
receiver.connect(sys.argv[1])
for _ in range(3):
    print(receiver.recv_string(), flush=True)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_bare_push_that_binds_is_heard_even_if_it_comes_later(make: Make) -> None:
    port, end = free_port(), make()
    end.wire.plain("pull", connect=[f"tcp://127.0.0.1:{port}"])
    end.turn()
    for _ in range(2):
        end.events.clear()
        ventilator = subprocess.Popen([sys.executable, "-c", VENTILATOR, f"tcp://*:{port}"])
        until(end, that=lambda: end.plain() == [[b"0"], [b"1"], [b"2"]], within=20)
        assert ventilator.wait(10) == 0


def test_a_bare_pull_that_connects_gets_what_is_pushed(make: Make) -> None:
    port, end = free_port(), make()
    plain = end.wire.plain("push", bind=[f"tcp://*:{port}"])
    assert not end.wire.send_plain(plain, b"too early"), "nobody is there: nothing is taken"
    assert not end.wire.plain_ready(plain)
    sink = subprocess.Popen([sys.executable, "-c", SINK, f"tcp://localhost:{port}"], stdout=subprocess.PIPE, text=True)
    until(end, that=lambda: end.wire.plain_ready(plain), within=20)
    for number in range(3):
        assert end.wire.send_plain(plain, b"%d" % number)
    out, _ = sink.communicate(timeout=10)
    assert out.split() == ["0", "1", "2"]


def test_what_was_pushed_leaves_before_the_end_if_there_is_time(make: Make) -> None:
    sender, receiver = make(), make()
    port = free_port()
    receiver.wire.plain("pull", bind=[f"tcp://127.0.0.1:{port}"])
    plain = sender.wire.plain("push", connect=[f"tcp://127.0.0.1:{port}"])
    until(sender, receiver, that=lambda: sender.wire.plain_ready(plain))
    for _ in range(20):
        assert sender.wire.send_plain(plain, bytes(100_000))
    sender.wire.close(flush_s=2.0)
    until(receiver, that=lambda: len(receiver.plain()) == 20)


def test_parts_are_given_as_they_came_and_bounded(make: Make, bare: Callable[..., zmq.Socket[bytes]]) -> None:
    end, port = make(), free_port()
    end.wire.plain("pull", bind=[f"tcp://127.0.0.1:{port}"], message_bytes=1000)
    push = bare(zmq.PUSH)
    push.connect(f"tcp://127.0.0.1:{port}")
    push.send_multipart([b"one", b"", b"three"])
    push.send_multipart([b"x"] * 100)
    push.send_multipart([bytes(900), bytes(900), b"x"])
    push.send(b"last")
    until(end, that=lambda: len(end.plain()) == 4)
    told = [event for event in end.events if isinstance(event, PlainHeard)]
    assert [(len(event.parts), event.complete) for event in told] == [(3, True), (65, False), (2, False), (1, True)]
    assert told[0].parts == [b"one", b"", b"three"]
    assert told[3].parts == [b"last"]


def test_a_held_pull_is_not_read_until_it_is_let_go(make: Make, bare: Callable[..., zmq.Socket[bytes]]) -> None:
    end, port = make(), free_port()
    plain = end.wire.plain("pull", bind=[f"tcp://127.0.0.1:{port}"])
    push = bare(zmq.PUSH)
    push.connect(f"tcp://127.0.0.1:{port}")
    push.send(b"first")
    until(end, that=lambda: end.plain() == [[b"first"]])
    end.wire.hold_plain(plain, True)
    push.send(b"second")
    started = time.monotonic()
    while time.monotonic() < started + 0.2:
        end.events += end.wire.poll(0.2)
    assert end.plain() == [[b"first"]]
    end.wire.hold_plain(plain, False)
    until(end, that=lambda: end.plain() == [[b"first"], [b"second"]])


# -- what it says of itself --------------------------------------------------------------------------------------------


def test_it_names_its_library() -> None:
    assert libzmq().version == capabilities()["libzmq"] == zmq.zmq_version()
    assert capabilities()["ipc"] is ("ipc" in libzmq().capabilities)


def test_the_limit_of_descriptors_is_raised_and_never_lowered() -> None:
    limit = raise_descriptor_limit()
    assert limit >= 256
    assert raise_descriptor_limit(1) == limit
