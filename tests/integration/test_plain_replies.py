"""Plain REQ programs ask what an app of ours answers."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from tests.plain.ports import endpoint, plain
from tests.programs import ZEROWAIT, Program, Start
from tests.waiting import wait_until
from zerowait import App, Client, Plain, RequestChannel, Settings, StreamChannel
from zerowait.errors import SettingsError, UsageError
from zerowait.settings_channels import ChannelSettings


class Peers:
    """Plain sockets in this process."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.sockets: list[zmq.Socket[bytes]] = []

    def make(self, kind: int, where: str) -> zmq.Socket[bytes]:
        made = self.context.socket(kind)
        made.linger, made.rcvtimeo = 0, 10_000
        made.connect(where)
        self.sockets.append(made)
        return made


@pytest.fixture
def peers() -> Iterator[Peers]:
    made = Peers()
    yield made
    for each in made.sockets:
        each.close()
    made.context.term()


def hello(where: str, *, name: str = "hello") -> App:
    app = App(name)

    @app.reply(RequestChannel[str, str]("hello", plain=Plain("text", bind=where)))
    async def say(text: str) -> str:
        if text.startswith("slow"):
            await asyncio.sleep(1.0)
        if text.startswith("fail"):
            raise ValueError(text)
        return text.replace("Hello", "World")

    return app


def test_a_plain_client_says_hello_ten_times(start: Start) -> None:
    where = endpoint()
    with hello(where):
        client = start(*plain("hello_client"), where)
        assert client.ended() == 0
    assert client.out.splitlines() == [f"World {n}" for n in range(10)]


def test_twenty_plain_clients_at_once_each_get_their_own_answers(start: Start) -> None:
    where = endpoint()
    with hello(where):
        clients = [start(*plain("hello_client"), where, f"{name} ", "5") for name in range(20)]
        for name, client in enumerate(clients):
            assert client.ended(within=60) == 0
            assert client.out.splitlines() == [f"World {name} {n}" for n in range(5)]


def test_one_slow_answer_stops_neither_the_others_nor_the_loop(peers: Peers) -> None:
    where = endpoint()
    with hello(where) as zw:
        slow, quick = peers.make(zmq.REQ, where), peers.make(zmq.REQ, where)
        slow.send(b"slow")
        wait_until(lambda: [each.running for each in zw.status().serves] == [1], within=5)
        quick.send(b"Hello")
        assert quick.recv() == b"World"
        assert not slow.poll(0), "its answer takes a second"
        assert slow.recv() == b"slow"


def test_a_dealer_with_the_empty_frame_has_many_questions_out(peers: Peers) -> None:
    where = endpoint()
    with hello(where):
        dealer = peers.make(zmq.DEALER, where)
        for n in range(30):
            dealer.send_multipart([b"", b"Hello %d" % n])
        answers = [dealer.recv_multipart() for _ in range(30)]
        assert sorted(answers) == sorted([b"", b"World %d" % n] for n in range(30))


def test_a_dealer_that_reads_its_answers_late_gets_every_one_of_them_and_holds_up_nobody(peers: Peers) -> None:
    where, app, questions = endpoint(), App("large"), 5_000

    @app.reply(RequestChannel[str, str]("large", plain=Plain("text", bind=where)))
    async def large(text: str) -> str:
        return f"{text} {'x' * 5_000}"  # 25 MB in all: no buffer on the way has room for that

    with app as zw:
        dealer, other = peers.make(zmq.DEALER, where), peers.make(zmq.REQ, where)
        for n in range(questions):
            dealer.send_multipart([b"", b"%d" % n])
        wait_until(lambda: [each.answered for each in zw.status().requests] == [questions], within=30)
        other.send(b"other")
        assert other.recv().startswith(b"other ")
        answers = [dealer.recv_multipart()[1].split()[0] for _ in range(questions)]
        assert sorted(answers, key=int) == [b"%d" % n for n in range(questions)]
        assert not dealer.poll(0)


def test_answers_that_wait_for_a_dealer_reach_it_though_the_service_is_told_to_stop(peers: Peers) -> None:
    where, app, questions = endpoint(), App("large"), 5_000

    @app.reply(RequestChannel[str, str]("large", plain=Plain("text", bind=where)))
    async def large(text: str) -> str:
        return f"{text} {'x' * 5_000}"

    with app as zw:
        dealer = peers.make(zmq.DEALER, where)
        for n in range(questions):
            dealer.send_multipart([b"", b"%d" % n])
        wait_until(lambda: [each.answered for each in zw.status().requests] == [questions], within=30)
        got = set[bytes]()
        reading = threading.Thread(
            target=lambda: got.update(dealer.recv_multipart()[1].split()[0] for _ in range(questions))
        )
        reading.start()
    reading.join()
    assert len(got) == questions


def test_an_envelope_comes_back_as_it_was_whatever_brokers_put_there(peers: Peers) -> None:
    where = endpoint()
    with hello(where):
        dealer = peers.make(zmq.DEALER, where)
        dealer.send_multipart([b"broker", b"\x00client", b"", b"Hello"])
        assert dealer.recv_multipart() == [b"broker", b"\x00client", b"", b"World"]
        correlating = peers.make(zmq.REQ, where)
        correlating.setsockopt(zmq.REQ_CORRELATE, 1)
        correlating.send(b"Hello")
        assert correlating.recv() == b"World"


def test_a_handler_that_raises_is_answered_with_an_empty_frame_that_is_counted_and_logged(
    peers: Peers, caplog: pytest.LogCaptureFixture
) -> None:
    where = endpoint()
    with hello(where) as zw:
        req = peers.make(zmq.REQ, where)
        req.send(b"fail 1")
        assert req.recv_multipart() == [b""]
        req.send(b"Hello")
        assert req.recv() == b"World"
        [row] = zw.status().requests
        assert (row.channel, row.asked, row.answered, row.failed) == ("hello", 2, 1, 1)
    assert "got an empty answer" in caplog.text
    assert "ValueError: fail 1" in caplog.text


def test_a_question_that_nobody_answers_in_its_time_is_answered_with_an_empty_frame(peers: Peers) -> None:
    where, app, begun = endpoint(), App("slow"), threading.Event()

    @app.reply(RequestChannel[str, str]("slow", timeout=0.2, plain=Plain("text", bind=where)))
    async def wait(text: str) -> str:
        begun.set()
        await asyncio.sleep(60)
        return text

    with app:
        req = peers.make(zmq.REQ, where)
        req.send(b"x")
        before = time.monotonic()
        assert req.recv() == b""
        assert begun.is_set()
        assert time.monotonic() - before < 5


def test_what_cannot_be_read_is_refused_with_an_empty_answer_and_the_service_goes_on(
    peers: Peers, caplog: pytest.LogCaptureFixture
) -> None:
    where, app = endpoint(), App("counter")

    @app.reply(RequestChannel[dict[str, int], int]("count", plain=Plain("json", bind=where)))
    def count(values: dict[str, int]) -> int:
        return sum(values.values())

    with app as zw:
        req, dealer = peers.make(zmq.REQ, where), peers.make(zmq.DEALER, where)
        for wrong in ([b"{not json"], [b"two", b"frames"], [b"x"] * 80):
            req.send_multipart(wrong)
            assert req.recv_multipart() == [b""], "no REQ is left waiting"
        dealer.send(b"no empty frame")  # nobody knows what to answer to that
        req.send(b'{"a": "of another type"}')
        assert req.recv() == b""
        req.send(b'{"a": 3, "b": 4}')
        assert req.recv() == b"7"
        wait_until(lambda: [(each.channel, each.refused) for each in zw.status().serves] == [("count", 4)], within=5)
    assert "2 frames" in caplog.text


def test_a_question_larger_than_may_be_is_refused_by_zeromq_itself_and_the_service_goes_on(peers: Peers) -> None:
    where, app = endpoint(), App("small", settings=Settings.load(env={"ZEROWAIT_MESSAGE_BYTES": "70000"}))

    @app.reply(RequestChannel[bytes, int]("size", plain=Plain("msgpack", bind=where)))
    def size(value: bytes) -> int:
        return len(value)

    with app:
        greedy, modest = peers.make(zmq.DEALER, where), peers.make(zmq.REQ, where)
        greedy.send_multipart([b"", bytes(200_000)])
        modest.send(msgspec.msgpack.encode(bytes(60_000)))
        assert msgspec.msgpack.decode(modest.recv()) == 60_000
        assert not greedy.poll(0)


@pytest.mark.parametrize(
    ("encoding", "question", "answer"),
    [
        ("bytes", b"\x00\xff", b"\x00\xff"),
        ("text", "gr\u00fc\u00df".encode(), "gr\u00fc\u00df".encode()),
        ("json", b'{"a":[1,null]}', b'{"a":[1,null]}'),
        ("msgpack", b"\x81\xa1a\x92\x01\xc0", b"\x81\xa1a\x92\x01\xc0"),
    ],
)
def test_each_encoding_is_asked_and_answered(peers: Peers, encoding: str, question: bytes, answer: bytes) -> None:
    where, app = endpoint(), App("echo")

    @app.reply(RequestChannel[object, object]("echo", plain=Plain(encoding, bind=where)))  # type: ignore[arg-type]
    def echo(value: object) -> object:
        return value

    with app:
        req = peers.make(zmq.REQ, where)
        req.send(question)
        assert req.recv() == answer


def test_our_service_connects_to_a_plain_broker_that_binds(peers: Peers) -> None:
    frontend, backend = peers.context.socket(zmq.ROUTER), peers.context.socket(zmq.DEALER)
    peers.sockets += [frontend, backend]
    for each in (frontend, backend):
        each.linger, each.rcvtimeo = 0, 10_000
    front, back = (f"tcp://127.0.0.1:{each.bind_to_random_port('tcp://127.0.0.1')}" for each in (frontend, backend))
    app = App("behind")

    @app.reply(RequestChannel[str, str]("hello", plain=Plain("text", connect=back)))
    def say(text: str) -> str:
        return text.replace("Hello", "World")

    with app:
        req = peers.make(zmq.REQ, front)
        req.send(b"Hello")
        backend.send_multipart(frontend.recv_multipart())
        frontend.send_multipart(backend.recv_multipart())
        assert req.recv() == b"World"


def test_a_client_that_resends_gets_all_answers_although_the_service_is_killed(start: Start, witness: Path) -> None:
    where = endpoint()

    def serve() -> Program:
        app = start("env", f"BIND={where}", *ZEROWAIT, "run", "tests.integration.plain_services:hello")
        app.until(lambda it: "Ctrl-C" in it.err, that="it serves")
        return app

    first = serve()
    client = start(*plain("lazy_pirate"), where, "200", "300")
    client.until(lambda it: it.out.count("World") >= 20)
    first.signal(signal.SIGKILL)
    first.ended()
    serve()
    assert client.ended(within=60) == 0
    answers = [line for line in client.out.splitlines() if line != "again"]
    assert answers == [f"World {n}" for n in range(200)]


def test_a_peer_that_waits_when_the_service_is_told_to_stop_gets_its_answer(start: Start, witness: Path) -> None:
    where = endpoint()
    app = start("env", f"BIND={where}", *ZEROWAIT, "run", "tests.integration.plain_services:hello")
    app.until(lambda it: "Ctrl-C" in it.err, that="it serves")
    client = start(*plain("hello_client"), where, "slow", "1")
    client.until(lambda _: "asked" in witness.read_text())
    app.signal(signal.SIGTERM)
    assert app.ended() == 0
    assert client.ended() == 0
    assert client.out == "World slow0\n"


def test_a_peer_whose_answer_cannot_come_any_more_gets_an_empty_one_when_the_service_leaves(peers: Peers) -> None:
    where, begun = endpoint(), list[str]()
    app = App("stubborn", settings=Settings.load(env={"ZEROWAIT_DRAIN": "0.1"}))

    @app.reply(RequestChannel[str, str]("wait", plain=Plain("text", bind=where)))
    async def wait(text: str) -> str:
        begun.append(text)
        await asyncio.sleep(60)
        return text

    with app:
        req = peers.make(zmq.REQ, where)
        req.send(b"x")
        wait_until(lambda: begun, within=5)
    assert req.recv() == b""


def test_who_asks_by_our_own_links_is_answered_by_the_same_handler(peers: Peers) -> None:
    where = endpoint()
    with hello(where), Client("other") as zw:
        assert zw.request("hello", "Hello ours", returns=str).result(10) == "World ours"
        req = peers.make(zmq.REQ, where)
        req.send(b"Hello theirs")
        assert req.recv() == b"World theirs"


def test_streams_topics_options_and_two_handlers_on_plain_sockets_are_refused() -> None:
    with pytest.raises(UsageError, match="for topics"):
        RequestChannel[str, str]("a", plain=Plain("text", bind="tcp://*:1", topic_frame=True))
    with pytest.raises(UsageError, match="Plain"):
        RequestChannel[str, str]("a", plain="tcp://*:1")  # type: ignore[arg-type]
    lines = StreamChannel[str, str]("lines")
    settings = Settings(channels={"lines": ChannelSettings(plain=Plain("text", bind=endpoint()))})
    app = App("streaming", settings=settings)

    @app.reply(lines)
    async def give(text: str):  # type: ignore[no-untyped-def]
        yield text

    with pytest.raises((UsageError, SettingsError), match="streams do not exist"), app:
        pass
    with Client("asking", settings=settings) as zw, pytest.raises(UsageError, match="streams do not exist"):
        zw.stream(lines, "x")
