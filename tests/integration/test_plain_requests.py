"""We ask plain REP programs, which answer one after another and know nothing of deadlines."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from tests.plain.ports import endpoint, plain
from tests.programs import Program, Start
from tests.waiting import wait_until
from zerowait import App, Client, Context, Plain, PushChannel, RequestChannel, Settings
from zerowait.errors import (
    BadAnswer,
    Cancelled,
    EncodeError,
    Expired,
    NoResponder,
    PeerLost,
    TooLarge,
    UsageError,
)


def hello(where: str, **more: Any) -> RequestChannel[str, str]:
    return RequestChannel[str, str]("hello", plain=Plain("text", connect=where), **more)


def serve(start: Start, where: str, work_s: float) -> Program:
    server = start(*plain("hello_server"), where, str(work_s))
    server.until(lambda it: "ready" in it.out)
    return server


class Replier:
    """A REP in this process that answers what it is told."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.REP)
        self.socket.linger, self.socket.rcvtimeo = 0, 10_000
        self.where = f"tcp://127.0.0.1:{self.socket.bind_to_random_port('tcp://127.0.0.1')}"


@pytest.fixture
def replier() -> Iterator[Replier]:
    made = Replier()
    yield made
    made.socket.close()
    made.context.term()


def test_a_plain_server_answers_what_is_asked(start: Start) -> None:
    where = endpoint()
    serve(start, where, 0)
    with Client("asker") as zw:
        replies = [zw.request(hello(where), f"Hello {n}") for n in range(50)]
        assert [reply.result(10) for reply in replies] == [f"World {n}" for n in range(50)]
        [row] = zw.status().requests
        assert (row.asked, row.answered, row.outstanding) == (50, 50, 0)


def test_who_waits_less_than_the_server_works_is_told_in_time_and_gets_no_answer_of_another(start: Start) -> None:
    where = endpoint()
    server = serve(start, where, 1)
    with Client("asker") as zw:
        before = time.monotonic()
        with pytest.raises(Expired) as raised:
            zw.request(hello(where), "Hello 1", timeout=0.3).result(10)
        assert raised.value.sent, "the server had it"
        assert 0.25 < time.monotonic() - before < 0.9
        # The server still works on the first, and answers it before the second.
        assert zw.request(hello(where), "Hello 2", timeout=10).result(15) == "World 2"
        assert server.out.split("\n")[1:3] == ["Hello 1", "Hello 2"]
        replies = [zw.request(hello(where), f"Hello {n}", timeout=0.2 if n % 2 else 10) for n in range(3, 5)]
        for n, reply in enumerate(replies, 3):
            if n % 2:
                with pytest.raises(Expired):
                    reply.result(15)
            else:
                assert reply.result(15) == f"World {n}"


def test_an_event_loop_is_not_held_by_a_slow_plain_server(start: Start) -> None:
    where = endpoint()
    serve(start, where, 0.3)

    async def ask() -> int:
        async with Client("asker") as zw:
            turns = 0
            reply = zw.request(hello(where), "Hello")
            while not reply.done():
                turns += 1
                await asyncio.sleep(0.001)
            assert await reply == "World"
            return turns

    assert asyncio.run(ask()) > 20


def test_a_server_that_is_killed_loses_what_it_had_and_its_successor_answers_the_next(start: Start) -> None:
    where = endpoint()
    server = serve(start, where, 30)
    with Client("asker") as zw:
        held = zw.request(hello(where), "Hello 1")
        server.until(lambda it: "Hello 1" in it.out)
        server.signal(signal.SIGKILL)
        with pytest.raises(PeerLost, match="may have run"):
            held.result(10)
        serve(start, where, 0)
        assert zw.request(hello(where), "Hello 2").result(10) == "World 2"


def test_what_may_run_twice_is_asked_again_when_its_server_is_killed(start: Start) -> None:
    where = endpoint()
    server = serve(start, where, 30)
    with Client("asker", settings=Settings.load(env={"ZEROWAIT_NO_RESPONDER": "20"})) as zw:
        replies = [zw.request(hello(where, idempotent=True), f"Hello {n}") for n in range(3)]
        server.until(lambda it: "Hello 0" in it.out)
        server.signal(signal.SIGKILL)
        server.ended()
        serve(start, where, 0)
        assert [reply.result(20) for reply in replies] == ["World 0", "World 1", "World 2"]


def test_where_nobody_listens_who_asked_is_told_within_a_second_that_it_was_not_sent() -> None:
    channel = hello(endpoint())
    with Client("asker") as zw:
        before = time.monotonic()
        with pytest.raises(NoResponder, match="bare ZeroMQ peers at tcp"):
            zw.request(channel, "Hello").result(10)
        assert 0.5 < time.monotonic() - before < 5
        with pytest.raises(Expired) as raised:
            zw.request(channel, "Hello", timeout=0.2).result(10)
        assert not raised.value.sent


def test_a_server_that_starts_after_the_question_answers_it(start: Start) -> None:
    where = endpoint()
    with Client("asker", settings=Settings.load(env={"ZEROWAIT_NO_RESPONDER": "20"})) as zw:
        reply = zw.request(hello(where), "Hello")
        serve(start, where, 0)
        assert reply.result(20) == "World"


def test_two_servers_share_the_questions(start: Start) -> None:
    one, other = endpoint(), endpoint()
    servers = [serve(start, each, 0) for each in (one, other)]
    both = RequestChannel[str, str]("hello", plain=Plain("text", connect=[one, other]))
    with Client("asker") as zw:
        wait_until(lambda: zw.request(both, "Hello").result(10) and all("Hello" in it.out for it in servers), within=10)
        replies = [zw.request(both, f"Hello {n}") for n in range(20)]
        assert [reply.result(10) for reply in replies] == [f"World {n}" for n in range(20)]


def test_plain_servers_may_connect_to_an_address_of_ours() -> None:
    where = endpoint()
    context = zmq.Context()
    rep = context.socket(zmq.REP)
    try:
        rep.linger, rep.rcvtimeo = 0, 10_000
        rep.connect(where)
        bound = RequestChannel[str, str]("hello", plain=Plain("text", bind=where))
        with Client("asker", settings=Settings.load(env={"ZEROWAIT_NO_RESPONDER": "20"})) as zw:
            reply = zw.request(bound, "Hello")
            assert rep.recv() == b"Hello"
            rep.send(b"World")
            assert reply.result(10) == "World"
    finally:
        rep.close()
        context.term()


def test_an_answer_that_is_not_of_the_type_is_a_bad_answer_and_the_next_is_read(replier: Replier) -> None:
    count = RequestChannel[list[int], int]("count", plain=Plain("json", connect=replier.where))
    with Client("asker") as zw:
        for wrong in ([b'"many"'], [b"{not json"], [b""], [b"1", b"2"]):
            reply = zw.request(count, [1, 2])
            assert replier.socket.recv() == b"[1,2]"
            replier.socket.send_multipart(wrong)
            with pytest.raises(BadAnswer):
                reply.result(10)
        reply = zw.request(count, [1, 2])
        replier.socket.recv()
        replier.socket.send(b"2")
        assert reply.result(10) == 2


@pytest.mark.parametrize(
    ("encoding", "value", "frame"),
    [
        ("bytes", b"\x00\xff", b"\x00\xff"),
        ("text", "gr\u00fc\u00df", "gr\u00fc\u00df".encode()),
        ("json", {"a": [1, None]}, b'{"a":[1,null]}'),
        ("msgpack", {"a": [1, None]}, b"\x81\xa1a\x92\x01\xc0"),
    ],
)
def test_each_encoding_goes_out_and_comes_back(replier: Replier, encoding: Any, value: Any, frame: bytes) -> None:
    channel = RequestChannel[object, object]("echo", plain=Plain(encoding, connect=replier.where))
    with Client("asker") as zw:
        reply = zw.request(channel, value)
        assert replier.socket.recv() == frame
        replier.socket.send(frame)
        assert reply.result(10) == value


def test_numbers_come_back_of_text(replier: Replier) -> None:
    with Client("asker") as zw:
        reply = zw.request(RequestChannel[int, float]("half", plain=Plain("text", connect=replier.where)), 3)
        assert replier.socket.recv() == b"3"
        replier.socket.send(b"1.5")
        assert reply.result(10) == 1.5


def test_what_is_cancelled_is_not_waited_for_and_its_answer_is_dropped(replier: Replier) -> None:
    channel = hello(replier.where)
    with Client("asker") as zw:
        first = zw.request(channel, "Hello 1")
        assert replier.socket.recv() == b"Hello 1"
        first.cancel()
        with pytest.raises(Cancelled):
            first.result(10)
        second = zw.request(channel, "Hello 2")
        replier.socket.send(b"World 1")
        assert replier.socket.recv() == b"Hello 2"
        replier.socket.send(b"World 2")
        assert second.result(10) == "World 2"


def test_a_question_whose_answer_is_too_large_ends_with_the_connection_and_the_next_is_answered(
    replier: Replier,
) -> None:
    channel = RequestChannel[str, bytes]("blob", plain=Plain("bytes", connect=replier.where))
    text = RequestChannel[bytes, bytes]("blob2", plain=Plain("bytes", connect=replier.where))
    with Client("asker", settings=Settings.load(env={"ZEROWAIT_MESSAGE_BYTES": "70000"})) as zw:
        with pytest.raises(EncodeError):
            zw.request(channel, "bytes were promised")
        with pytest.raises(TooLarge):
            zw.request(text, bytes(100_000))
        reply = zw.request(text, b"x")
        replier.socket.recv()
        replier.socket.send(bytes(200_000))
        with pytest.raises(PeerLost):
            reply.result(10)
        reply = zw.request(text, b"y")
        replier.socket.recv()
        replier.socket.send(b"small")
        assert reply.result(10) == b"small"


def test_map_and_a_handler_ask_plain_servers(start: Start) -> None:
    where = endpoint()
    serve(start, where, 0)
    app, got = App("asks"), list[str]()
    texts = PushChannel[str]("texts")

    @app.pull(texts)
    async def ask(text: str, ctx: Context) -> None:
        got.append(await ctx.request(hello(where), text))

    with app as zw:
        assert zw.map(hello(where), [f"Hello {n}" for n in range(20)]).result(20) == [f"World {n}" for n in range(20)]
        zw.push(texts, "Hello you")
        wait_until(lambda: got == ["World you"], within=10)


def test_many_threads_ask_one_plain_server_and_each_gets_its_own(start: Start) -> None:
    where = endpoint()
    serve(start, where, 0)
    wrong = list[str]()
    with Client("asker") as zw:

        def ask(name: int) -> None:
            for n in range(20):
                answer = zw.request(hello(where), f"Hello {name}.{n}").result(20)
                if answer != f"World {name}.{n}":
                    wrong.append(answer)

        threads = [threading.Thread(target=ask, args=(name,)) for name in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_client_that_closes_tells_who_waits_for_a_plain_server(replier: Replier) -> None:
    with Client("asker") as zw:
        reply = zw.request(hello(replier.where), "Hello")
        replier.socket.recv()
        zw.close(0.1).result()
        with pytest.raises(Cancelled):
            reply.result(10)


def test_options_that_a_plain_server_knows_nothing_of_are_refused() -> None:
    with Client("asker") as zw:
        many: list[dict[str, Any]] = [{"headers": {"a": "b"}}, {"hedge": True}]
        for options in many:
            with pytest.raises(UsageError, match="bare ZeroMQ socket"):
                zw.request(hello("tcp://127.0.0.1:9", idempotent=True), "x", **options)
