"""Programs that know nothing of zerowait: the two of the well-known push/pull example, unmodified, both ways."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from tests.waiting import wait_until
from zerowait import App, Client, Plain, PushChannel
from zerowait.errors import EncodeError, UsageError

PUSH_THAT_BINDS = """
import sys, time, zmq
context = zmq.Context()
socket = context.socket(zmq.PUSH)
port = socket.bind_to_random_port("tcp://127.0.0.1")
print(port, flush=True)
for n in range(3):
    socket.send_string(str(n))
sys.stdin.readline()
"""

PULL_THAT_CONNECTS = """
import sys, zmq
context = zmq.Context()
socket = context.socket(zmq.PULL)
socket.connect(sys.argv[1])
while True:
    print(socket.recv_string(), flush=True)
"""


@contextmanager
def program(code: str, *args: str) -> Generator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code, *args]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_plain_push_that_binds_feeds_a_handler_that_connects() -> None:
    with program(PUSH_THAT_BINDS) as sender:
        numbers = PushChannel[int]("numbers", plain=Plain("text", connect=f"tcp://127.0.0.1:{line_of(sender)}"))
        app, got = App("printer"), list[int]()

        @app.pull(numbers)
        def show(number: int) -> None:
            got.append(number)

        with app:
            wait_until(lambda: sorted(got) == [0, 1, 2], within=10)


def test_a_plain_pull_that_connects_receives_what_a_client_pushes() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        endpoint = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    out = PushChannel[str]("out", plain=Plain("text", bind=endpoint))
    with program(PULL_THAT_CONNECTS, endpoint) as receiver, Client("sender") as zw:
        receipts = [zw.push(out, str(n)) for n in range(3)]
        assert [line_of(receiver) for _ in range(3)] == ["0", "1", "2"]
        receipts[-1].result(5)
        with pytest.raises(UsageError, match="acknowledges nothing"):
            _ = receipts[0].handled
        with pytest.raises(UsageError, match="durable"):
            zw.push(out, "3", durable=True)
        with pytest.raises(EncodeError):
            zw.push(out, 3.5 + 1j)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("encoding", "sent", "received"),
    [
        ("bytes", b"\x00\xff", b"\x00\xff"),
        ("text", "gr\u00fc\u00df".encode(), "gr\u00fc\u00df"),
        ("json", b'{"a": [1, null]}', {"a": [1, None]}),
        ("msgpack", b"\x81\xa1a\x92\x01\xc0", {"a": [1, None]}),
    ],
)
def test_each_encoding_comes_in_and_goes_out(encoding: str, sent: bytes, received: object) -> None:
    import zmq

    context = zmq.Context()
    push, pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    try:
        pull.rcvtimeo = 10_000
        into, out = (f"tcp://127.0.0.1:{each.bind_to_random_port('tcp://127.0.0.1')}" for each in (push, pull))
        app, got = App("through"), list[object]()

        @app.pull(PushChannel[object]("in", plain=Plain(encoding, connect=into)))  # type: ignore[arg-type]
        def take(value: object) -> None:
            got.append(value)

        with app as zw:
            push.send(sent)
            wait_until(lambda: got == [received], within=10)
            zw.push(PushChannel[object]("out", plain=Plain(encoding, connect=out)), received)  # type: ignore[arg-type]
            back = pull.recv()
            assert back == sent or encoding == "json"
    finally:
        for each in (push, pull):
            each.close(0)
        context.term()


def test_what_cannot_be_read_is_refused_and_the_service_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    import zmq

    context = zmq.Context()
    push = context.socket(zmq.PUSH)
    try:
        endpoint = f"tcp://127.0.0.1:{push.bind_to_random_port('tcp://127.0.0.1')}"
        app, got = App("careful"), list[dict[str, int]]()

        @app.pull(PushChannel[dict[str, int]]("in", plain=Plain("json", connect=endpoint)))
        def take(value: dict[str, int]) -> None:
            got.append(value)

        with app as zw:
            push.send(b"{not json")
            push.send_multipart([b"one", b"two"])
            push.send(b'{"a": "of another type"}')
            push.send(b'{"a": 1}')
            wait_until(lambda: got == [{"a": 1}], within=10)
            wait_until(lambda: [row.dead for box in zw.status().boxes for row in box.channels] == [1], within=5)
            assert [(each.channel, each.refused) for each in zw.status().serves] == [("in", 2)]
        assert "2 frames" in caplog.text
        assert "refused" in caplog.text
    finally:
        push.close(0)
        context.term()
