"""What is asked of bare peers, and by them, on a wire that is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from tests.unit.outbox.boxes import Nowhere
from zerowait.codec import Codec
from zerowait.engines.brokerless.plainly import replies
from zerowait.engines.brokerless.plainly.ports import PlainPorts
from zerowait.engines.brokerless.wire import PlainHeard, PlainJoined, PlainParted
from zerowait.errors import Expired, NoResponder, PeerLost, QueueFull, TooLarge
from zerowait.failures import NO_ERRORS
from zerowait.outbox.intake import Intake, Limits
from zerowait.outbox.plaincodec import plain_encoder, plain_reader
from zerowait.plain import Plain
from zerowait.requests.box import Requests
from zerowait.requests.bundle import AskLane, Bundle

ONE, OTHER = "tcp://127.0.0.1:5601", "tcp://127.0.0.1:5602"


class FakeWire:
    """Sockets that take what they have room for. closed: those that are no more."""

    def __init__(self) -> None:
        self.opened: list[tuple[str, Sequence[str], Sequence[str]]] = []
        self.sent: list[tuple[int, list[bytes]]] = []
        self.closed: list[int] = []
        self.held: dict[int, bool] = {}
        self.full: set[int] = set()
        self.gone = False

    def plain(
        self, kind: str, bind: Sequence[str], connect: Sequence[str], *, message_bytes: int, watched: bool = False
    ) -> int:
        self.opened.append((kind, bind, connect))
        return len(self.opened)

    def send_parts(self, plain: int, parts: list[bytes], *, again: bool = False) -> bool | None:
        assert plain not in self.closed
        if plain in self.full:
            return False
        if self.gone:
            return None
        self.sent.append((plain, parts))
        return True

    def close_plain(self, plain: int) -> None:
        self.closed.append(plain)

    def hold_plain(self, plain: int, held: bool) -> None:
        self.held[plain] = held


class Asker:
    def __init__(self, *endpoints: str, bind: str = "", idempotent: bool = False) -> None:
        self.now = 100.0
        self.wire = FakeWire()
        self.ports = PlainPorts(1_000, clock=lambda: self.now)
        wire: Any = self.wire
        self.ports.open(wire)
        intake = Intake(Limits(), durable=False, wake=lambda: None, room=Nowhere, now_us=self.now_us)
        intake.make = Bundle
        requests = Requests(
            7,
            "asker",
            intake,
            epoch=1,
            drop=self.drop,
            feed=self.drop,
            wake=lambda: None,
            served=self.served,
            no_responder=1.0,
        )
        self.asks = asks = self.ports.asks(requests, 1.0)
        plain = Plain("text", bind=bind or (), connect=endpoints)
        self.encode, codec = plain_encoder(plain, Codec(str)), Codec[Any](str)
        asks.ask_at("hello", plain, plain_reader(plain, codec), idempotent=idempotent)
        self.lane = AskLane(intake, "hello", None, None, timeout=5.0, out=codec, errors=NO_ERRORS, requests=requests)

    def drop(self, epoch: int, first: int, count: int) -> None:
        self.asks.drop(first, count)

    def served(self, channel: str) -> str:
        return self.asks.served(channel)

    def now_us(self) -> int:
        return int(self.now * 1e6)

    def ask(self, text: str) -> tuple[Bundle, int]:
        bundle, index = self.lane.append(self.encode(text))
        self.ports.turn()
        return cast("Bundle", bundle), index

    def join(self, *sockets: int) -> None:
        self.ports.turn()
        for socket in sockets:
            self.ports.heard(PlainJoined(socket))
        self.ports.turn()

    def answer(self, socket: int, envelope: list[bytes], *body: bytes) -> None:
        self.ports.heard(PlainHeard(socket, [*envelope, *body]))
        self.ports.turn()

    def sent(self) -> list[tuple[int, bytes]]:
        return [(socket, parts[-1]) for socket, parts in self.wire.sent]


def became(asked: tuple[Bundle, int]) -> Any:
    bundle, index = asked
    return bundle.value(index) if bundle.is_done(index) else None


def test_a_question_waits_for_a_connection_and_its_answer_is_found_by_its_number() -> None:
    asker = Asker(ONE)
    first, second = asker.ask("a"), asker.ask("b")
    assert not asker.wire.sent, "nobody is there, and nothing is left with ZeroMQ"
    asker.join(1)
    assert asker.sent() == [(1, b"a"), (1, b"b")]
    (_, one), (_, other) = asker.wire.sent
    asker.answer(1, other[:2], b"B")
    assert (became(first), became(second)) == (None, "B")
    asker.answer(1, one[:2], b"A")
    assert became(first) == "A"


def test_an_answer_after_its_time_is_nobodys() -> None:
    asker = Asker(ONE)
    first = asker.ask("a")
    asker.join(1)
    asker.now += 5.1
    asker.ports.turn()
    with pytest.raises(Expired) as raised:
        became(first)
    assert raised.value.sent
    second = asker.ask("b")
    (_, late), (_, due) = asker.wire.sent
    asker.answer(1, late[:2], b"A")
    assert became(second) is None
    assert asker.asks.ports["hello"].late == 1
    asker.answer(1, due[:2], b"B")
    assert became(second) == "B"
    asker.answer(1, due[:2], b"again")
    assert asker.asks.ports["hello"].late == 2


def test_a_turn_comes_back_when_the_next_question_expires() -> None:
    asker = Asker(ONE)
    asker.join(1)
    asker.ask("a")
    assert asker.ports.turn() == pytest.approx(5.0, abs=0.01)
    asker.now += 4.0
    assert asker.ports.turn() == pytest.approx(1.0, abs=0.01)


def test_without_a_connection_a_question_ends_after_a_second_and_was_not_sent() -> None:
    asker = Asker(ONE)
    asker.ports.turn()
    first = asker.ask("a")
    asker.now += 0.9
    asker.ports.turn()
    assert became(first) is None
    asker.now += 0.2
    asker.ports.turn()
    with pytest.raises(NoResponder, match=ONE):
        became(first)
    asker.join(1)
    assert not asker.wire.sent


def test_a_peer_that_is_full_has_not_gone() -> None:
    asker = Asker(ONE)
    asker.join(1)
    asker.wire.full = {1}
    first = asker.ask("a")
    asker.now += 3.0
    asker.ports.turn()
    assert became(first) is None
    asker.now += 2.1
    asker.ports.turn()
    with pytest.raises(Expired) as raised:
        became(first)
    assert not raised.value.sent, "it stayed here"


def test_when_a_connection_breaks_what_it_had_is_lost_and_the_next_connection_is_new() -> None:
    asker = Asker(ONE)
    first = asker.ask("a")
    asker.join(1)
    asker.ports.heard(PlainParted(1, "gone"))
    asker.ports.turn()
    with pytest.raises(PeerLost):
        became(first)
    assert asker.wire.closed == [1]
    second = asker.ask("b")
    asker.now += 0.2
    asker.ports.turn()
    asker.ports.heard(PlainJoined(1))  # told before it was closed, of a socket that is no more
    asker.join(2)
    assert asker.sent() == [(1, b"a"), (2, b"b")]
    asker.answer(2, asker.wire.sent[1][1][:2], b"B")
    assert became(second) == "B"


def test_a_connection_that_zeromq_has_made_again_meanwhile_goes_with_the_one_that_broke() -> None:
    asker = Asker(ONE)
    asker.join(1)
    asker.ports.heard(PlainParted(1, "gone"))
    asker.ports.heard(PlainJoined(1))
    asker.ask("a")
    asker.now += 0.2
    asker.ports.turn()
    assert asker.wire.closed == [1]
    assert not asker.wire.sent, "the new socket is not connected yet"
    asker.join(2)
    assert asker.sent() == [(2, b"a")]


def test_what_may_run_twice_is_asked_again_in_its_order() -> None:
    asker = Asker(ONE, idempotent=True)
    asked = [asker.ask(text) for text in "abc"]
    asker.join(1)
    asker.answer(1, asker.wire.sent[1][1][:2], b"B")
    asker.ports.heard(PlainParted(1, "gone"))
    asker.ports.turn()
    asker.now += 0.2
    asker.join(2)
    assert asker.sent()[3:] == [(2, b"a"), (2, b"c")]
    for _, parts in asker.wire.sent[3:]:
        asker.answer(2, parts[:2], parts[-1].upper())
    assert [became(each) for each in asked] == ["A", "B", "C"]


def test_what_was_sent_once_and_finds_nobody_again_may_have_run() -> None:
    asker = Asker(ONE, idempotent=True)
    first = asker.ask("a")
    asker.join(1)
    asker.ports.heard(PlainParted(1, "gone"))
    for _ in range(4):
        asker.ports.turn()
        asker.now += 0.5
    with pytest.raises(PeerLost):
        became(first)


def test_peers_are_asked_in_turn_and_one_that_is_away_or_full_is_passed_over() -> None:
    asker = Asker(ONE, OTHER)
    asker.join(1, 2)
    for text in "abcd":
        asker.ask(text)
    assert asker.sent() == [(1, b"a"), (2, b"b"), (1, b"c"), (2, b"d")]
    asker.wire.full = {1}
    asker.ask("e")
    asker.ask("f")
    assert asker.sent()[4:] == [(2, b"e"), (2, b"f")]
    asker.ports.heard(PlainParted(2, "gone"))
    asker.wire.full = set()
    asker.ask("g")
    assert asker.sent()[6:] == [(1, b"g")]


def test_an_answer_by_another_connection_than_the_question_went_by_is_nobodys() -> None:
    asker = Asker(ONE, OTHER)
    asker.join(1, 2)
    first = asker.ask("a")
    asker.answer(2, asker.wire.sent[0][1][:2], b"forged")
    assert became(first) is None
    asker.answer(1, asker.wire.sent[0][1][:2], b"A")
    assert became(first) == "A"


def test_what_is_no_answer_is_refused_and_counted() -> None:
    asker = Asker(ONE)
    first = asker.ask("a")
    asker.join(1)
    for wrong in ([b"x"], [b"", b"x"], [b"1234567", b"", b"x"], [b"12345678", b"x"], []):
        asker.answer(1, wrong)
    assert asker.asks.ports["hello"].refused == 5
    assert became(first) is None


def test_what_is_cancelled_before_it_was_sent_is_not_sent() -> None:
    asker = Asker(ONE)
    first, second = asker.ask("a"), asker.ask("b")
    asker.lane.requests.cancel(*first)
    asker.ports.turn()
    asker.join(1)
    assert asker.sent() == [(1, b"b")]
    assert became(second) is None


def test_peers_that_connect_to_us_are_one_socket_and_nobody_is_there_while_it_takes_nothing() -> None:
    asker = Asker(bind=ONE)
    asker.ports.turn()
    asker.wire.full = {1}
    first = asker.ask("a")
    asker.now += 1.1
    asker.ports.turn()
    with pytest.raises(NoResponder):
        became(first)
    asker.wire.full = set()
    second = asker.ask("b")
    asker.answer(1, asker.wire.sent[0][1][:2], b"B")
    assert became(second) == "B"


# -- by them -----------------------------------------------------------------------------------------------------------


class Replier:
    """A ROUTER whose questions are asked on a lane that is answered by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.wire = FakeWire()
        self.ports = PlainPorts(1_000, clock=lambda: self.now)
        wire: Any = self.wire
        self.ports.open(wire)
        self.inner = Asker(ONE)
        self.inner.join(1)
        self.errors: list[Exception] = []
        plain = Plain("text", bind=OTHER)

        def ask(payload: bytes) -> tuple[Bundle, int]:
            if self.errors:
                raise self.errors.pop(0)
            return self.inner.ask(payload.decode())

        self.ports.reply_to("hello", plain, lambda data: data, ask, plain_encoder(plain, Codec(str)))
        self.ports.turn()
        [self.port] = self.ports._replies

    def hear(self, *parts: bytes, complete: bool = True) -> None:
        self.ports.heard(PlainHeard(1, list(parts), complete))
        self.ports.turn()

    def reply(self, at: int, *body: bytes) -> None:
        self.inner.answer(1, self.inner.wire.sent[at][1][:2], *body)
        assert self.ports.has_work()
        self.ports.turn()
        assert not self.ports.has_work()

    def sent(self) -> list[list[bytes]]:
        return [parts for _, parts in self.wire.sent]


def test_each_question_gets_its_answer_with_its_own_envelope_in_any_order() -> None:
    replier = Replier()
    replier.hear(b"peer1", b"", b"a")
    replier.hear(b"peer2", b"broker", b"", b"b")
    replier.reply(1, b"B")
    replier.reply(0, b"A")
    assert replier.sent() == [[b"peer2", b"broker", b"", b"B"], [b"peer1", b"", b"A"]]


def test_what_is_no_question_gets_an_empty_answer_if_it_says_where_it_ends() -> None:
    replier = Replier()
    replier.hear(b"peer", b"no empty frame")
    assert not replier.sent()
    replier.hear(b"peer", b"", b"a", b"b")
    replier.hear(b"peer", b"")
    replier.hear(b"peer", b"", b"a", b"", complete=False)
    assert replier.sent() == [[b"peer", b"", b""]] * 3
    assert replier.ports.refused() == {"hello": 4}


def test_while_there_is_no_room_to_ask_the_socket_is_not_read_and_what_was_read_is_asked_later() -> None:
    replier = Replier()
    full = QueueFull(limit_bytes=1, limit_messages=1, room=Nowhere())
    replier.errors = [full, full]
    replier.hear(b"peer", b"", b"a")
    assert replier.wire.held == {1: True}
    replier.ports.turn()
    assert replier.wire.held == {1: False}
    replier.reply(0, b"A")
    assert replier.sent() == [[b"peer", b"", b"A"]]
    replier.errors = [TooLarge(size_bytes=9, limit_bytes=1)]
    replier.hear(b"peer", b"", b"large")
    assert replier.sent()[1:] == [[b"peer", b"", b""]]


def test_a_failure_is_an_empty_answer_and_a_peer_that_has_left_is_counted() -> None:
    replier = Replier()
    replier.hear(b"peer", b"", b"a")
    replier.reply(0, b"two", b"frames")  # of the type promised that is none
    assert replier.sent() == [[b"peer", b"", b""]]
    assert replier.port.failed == 1
    replier.hear(b"peer", b"", b"b")
    replier.wire.gone = True
    replier.reply(1, b"B")
    assert replier.port.gone == 1


def test_an_answer_that_its_peer_has_no_room_for_waits_in_its_place_until_it_has() -> None:
    replier = Replier()
    for n in range(3):
        replier.hear(b"peer", b"", b"%d" % n)
    replier.wire.full = {1}
    replier.reply(0, b"A")
    replier.reply(1, b"B")
    assert not replier.sent()
    assert replier.ports.has_kept()
    assert replier.wire.held == {1: False}, "that is not much"
    assert 0 < (replier.ports.turn() or 0) < 1
    replier.wire.full = set()
    replier.reply(2, b"C")
    assert not replier.sent(), "none overtakes another"
    replier.now += 1
    replier.ports.turn()
    assert [parts[-1] for parts in replier.sent()] == [b"A", b"B", b"C"]
    assert replier.port.gone == 0
    assert not replier.ports.has_kept()


def test_what_waits_for_a_peer_goes_with_it() -> None:
    replier = Replier()
    replier.hear(b"peer", b"", b"a")
    replier.wire.full = {1}
    replier.reply(0, b"A")
    replier.wire.full, replier.wire.gone = set(), True
    replier.now += 1
    replier.ports.turn()
    assert replier.port.gone == 1
    assert not replier.ports.has_kept()


def test_while_much_waits_for_peers_no_question_is_read_and_who_takes_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(replies, "KEPT_BYTES", 1_000)
    replier = Replier()
    for n in range(4):
        replier.hear(b"peer", b"", b"%d" % n)
    replier.wire.full = {1}
    for n in range(2):
        replier.reply(n, b"x")
    assert replier.wire.held == {1: False}
    replier.reply(2, b"x")
    assert replier.wire.held == {1: True}
    assert "do not read their answers as fast as they ask" in caplog.text
    replier.now += replies.PATIENCE_S
    replier.ports.turn()
    assert replier.wire.held == {1: False}, "the others go on"
    assert not replier.ports.has_kept()
    replier.reply(3, b"x")
    assert replier.port.gone == 3
    replier.wire.full = set()
    replier.now += 1
    replier.ports.turn()
    replier.hear(b"peer", b"", b"again")
    replier.reply(4, b"y")
    assert [parts[-1] for parts in replier.sent()] == [b"x", b"y"], "it reads again"


def test_what_waits_when_we_leave_is_tried_once_more_and_counted() -> None:
    replier = Replier()
    for peer in (b"peer1", b"peer2"):
        replier.hear(peer, b"", b"a")
    replier.wire.full = {1}
    for n in range(2):
        replier.reply(n, b"A")
    replier.ports.leave()
    assert replier.port.gone == 2
    assert not replier.ports.has_kept()


def test_at_the_end_nobody_is_left_waiting_and_what_comes_after_it_is_not_sent() -> None:
    replier = Replier()
    replier.hear(b"peer1", b"", b"a")
    replier.errors = [QueueFull(limit_bytes=1, limit_messages=1, room=Nowhere())] * 2
    replier.ports.drain()
    replier.hear(b"peer2", b"", b"b")
    assert replier.wire.held == {1: True}
    replier.ports.leave()
    assert replier.sent()[0] == [b"peer1", b"", b""]
    replier.inner.answer(1, replier.inner.wire.sent[0][1][:2], b"A")
    replier.ports.leave()
    assert [parts[-1] for parts in replier.sent()] == [b""] * len(replier.sent())
