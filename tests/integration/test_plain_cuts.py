"""A bare peer sends a frame that is too large, to a socket of ours that has connected to it: it is heard again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from tests.waiting import wait_until
from zerowait import App, Client, Plain, PushChannel, RequestChannel, Settings, Topic

SMALL = Settings.load(env={"ZEROWAIT_MESSAGE_BYTES": "70000"})
LARGE = bytes(200_000)


class Binders:
    """Sockets in this process that others connect to, and where."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.sockets: list[zmq.Socket[bytes]] = []

    def make(self, kind: int, host: str = "127.0.0.1") -> tuple[zmq.Socket[bytes], str]:
        """host: a name is looked up, so that what is told of its connections has another address."""
        made = self.context.socket(kind)
        made.linger, made.rcvtimeo, made.sndtimeo = 0, 10_000, 10_000
        self.sockets.append(made)
        return made, f"tcp://{host}:{made.bind_to_random_port('tcp://127.0.0.1')}"


@pytest.fixture
def binders() -> Iterator[Binders]:
    made = Binders()
    yield made
    for each in made.sockets:
        each.close()
    made.context.term()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_subscription_hears_its_publisher_after_a_frame_that_was_too_large(
    binders: Binders, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    (pub, where), (other, elsewhere) = binders.make(zmq.XPUB, host), binders.make(zmq.XPUB)
    wanted = Topic[str]("in", plain=Plain("text", connect=[where, elsewhere]))
    with Client("reader", settings=SMALL) as zw, zw.subscribe(wanted, idle=10) as events:
        for each in (pub, other):
            assert each.recv() == b"\x01"
        heard = iter(events)
        for n in range(2):
            pub.send(b"before")
            assert next(heard).value == "before"
            pub.send(LARGE)
            assert pub.recv() == b"\x00", "its connection ends"
            assert pub.recv() == b"\x01", f"and is made again, {n}"
        pub.send(b"after")
        assert next(heard).value == "after"
        other.send(b"other")
        assert next(heard).value == "other"
        assert not other.poll(0), "that connection was left alone"
    assert f"to the bare peer at {where} ended by what came over it" in caplog.text
    assert "set message_bytes higher" in caplog.text


def test_a_handler_gets_its_work_after_a_frame_that_was_too_large(binders: Binders) -> None:
    push, where = binders.make(zmq.PUSH)
    app, got = App("worker", settings=SMALL), list[str]()

    @app.pull(PushChannel[str]("tasks", plain=Plain("text", connect=where)))
    def take(text: str) -> None:
        got.append(text)

    with app:
        push.send(b"before")
        wait_until(lambda: got == ["before"], within=10)
        push.send(LARGE)
        # What is given to the connection that ends is lost, as ZeroMQ has it.
        wait_until(lambda: _is_given(push, b"after") and "after" in got, within=10)


def _is_given(push: zmq.Socket[bytes], what: bytes) -> bool:
    try:
        push.send(what, zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True


def test_a_service_behind_a_broker_answers_after_a_question_that_was_too_large(
    binders: Binders,
) -> None:
    backend, where = binders.make(zmq.DEALER)
    app = App("behind", settings=SMALL)

    @app.reply(RequestChannel[str, str]("hello", plain=Plain("text", connect=where)))
    def say(text: str) -> str:
        return text.replace("Hello", "World")

    with app:
        backend.send_multipart([b"", b"Hello 1"])
        assert backend.recv_multipart() == [b"", b"World 1"]
        backend.send_multipart([b"", LARGE])

        def is_answered() -> bool:
            try:
                backend.send_multipart([b"", b"Hello 2"], zmq.NOBLOCK)
            except zmq.Again:
                return False
            return bool(backend.poll(10))

        wait_until(is_answered, within=10)
        assert backend.recv_multipart() == [b"", b"World 2"]
