"""Bare sockets that fail, on a wire that is none."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from tests.unit.outbox.boxes import Nowhere
from zerowait.codec import Codec
from zerowait.engines.brokerless.plainly.port import CUT_MOST_S, CUT_S, LASTED_S, MEND_S
from zerowait.engines.brokerless.plainly.ports import PlainPorts
from zerowait.engines.brokerless.wire import PlainDialled, PlainHeard
from zerowait.errors import QueueFull, TooLarge, UsageError
from zerowait.outbox.intake import Intake, Limits
from zerowait.outbox.lane import Lane
from zerowait.outbox.plaincodec import plain_decoder, plain_encoder, plain_reader
from zerowait.plain import Plain

PLAIN = Plain("bytes", bind="tcp://127.0.0.1:5599")


class FakeWire:
    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.held = False
        self.room = 0
        self.opening: Exception | None = None
        self.sending: Exception | None = None
        self.message_bytes = 0
        self.redialled: list[str] = []

    def plain(self, kind: str, bind: object, connect: object, *, message_bytes: int) -> int:
        if self.opening is not None:
            raise self.opening
        self.message_bytes = message_bytes
        return 7

    def send_plain(self, plain: int, payload: bytes) -> bool:
        if self.sending is not None:
            raise self.sending
        if len(self.sent) >= self.room:
            return False
        self.sent.append(payload)
        return True

    def hold_plain(self, plain: int, held: bool) -> None:
        self.held = held

    def redial_plain(self, plain: int, endpoint: str) -> None:
        if self.opening is not None:
            raise self.opening
        self.redialled.append(endpoint)


class Bench:
    def __init__(self) -> None:
        self.now = 1.0
        self.wire = FakeWire()
        self.ports = PlainPorts(1_000, clock=lambda: self.now)
        wire: Any = self.wire
        self.ports.open(wire)
        self.intake = Intake(Limits(), durable=False, wake=lambda: None, room=Nowhere, now_us=lambda: 1)
        self.lane = Lane(self.intake, "out")

    def push(self, *payloads: bytes) -> None:
        self.ports.push_to("out", PLAIN, self.intake)
        for payload in payloads:
            self.lane.append(payload)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_what_no_socket_has_taken_is_counted_once(bench: Bench) -> None:
    bench.push(b"a", b"b", b"c")
    assert bench.ports.left() == {"out": 3}
    bench.ports.turn()
    assert bench.ports.left() == {"out": 3}
    bench.wire.room = 1
    bench.ports.turn()
    assert bench.ports.left() == {"out": 2}
    assert not bench.ports.is_empty()
    bench.intake.close("test")
    assert bench.ports.left() == {"out": 2}
    bench.wire.room = 9
    assert bench.ports.turn() is None
    assert bench.wire.sent == [b"a", b"b", b"c"]
    assert bench.ports.is_empty()
    assert bench.wire.message_bytes == 1_000


def test_an_address_in_use_is_told_once_and_tried_again_each_second(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.push(b"a")
    bench.wire.room = 9
    bench.wire.opening = UsageError("it is in use.")
    for _ in range(3):
        assert bench.ports.turn() == MEND_S
        bench.now += MEND_S
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "it is in use. It is tried again" in caplog.text
    bench.wire.opening = None
    assert bench.ports.turn() is None
    assert bench.wire.sent == [b"a"]


def test_a_socket_that_does_not_open_does_not_keep_the_others_from_their_work(bench: Bench) -> None:
    bench.ports.pull_from("in", PLAIN, bytes, lambda payload: None)
    bench.ports.turn()
    bench.wire.opening = OSError("no more sockets")
    bench.push(b"a")
    bench.ports.turn()
    bench.ports.heard(PlainHeard(7, [b"x", b"y"]))
    assert bench.ports.refused() == {"in": 1}


def test_a_send_that_raises_loses_nothing(bench: Bench) -> None:
    bench.push(b"a", b"b")
    bench.wire.room = 1
    bench.ports.turn()
    bench.wire.sending = OSError("broken")
    assert bench.ports.turn() == MEND_S
    assert bench.ports.left() == {"out": 1}
    bench.wire.sending, bench.wire.room = None, 9
    bench.now += MEND_S
    bench.ports.turn()
    assert bench.wire.sent == [b"a", b"b"]


def test_what_never_fits_is_refused_and_what_does_not_fit_now_is_held_back(bench: Bench) -> None:
    errors: list[Exception] = [
        TooLarge(size_bytes=9, limit_bytes=1),
        QueueFull(limit_bytes=1, limit_messages=1, room=Nowhere()),
    ]
    got: list[bytes] = []

    def accept(payload: bytes) -> None:
        if errors:
            raise errors.pop(0)
        got.append(payload)

    bench.ports.pull_from("in", PLAIN, bytes, accept)
    bench.ports.turn()
    bench.ports.heard(PlainHeard(7, [b"too large"]))
    assert bench.ports.refused() == {"in": 1}
    assert bench.ports.turn() is None
    bench.ports.heard(PlainHeard(7, [b"later"]))
    assert not got
    bench.ports.turn()
    assert got == [b"later"]
    assert bench.ports.refused() == {"in": 1}


def test_a_decoder_that_raises_anything_costs_one_frame(bench: Bench) -> None:
    def decode(data: bytes) -> bytes:
        raise OverflowError

    bench.ports.pull_from("in", PLAIN, decode, lambda payload: None)
    bench.ports.turn()
    bench.ports.heard(PlainHeard(7, [b"1"]))
    assert bench.ports.refused() == {"in": 1}


class Stamped(msgspec.Struct):
    data: bytes
    at: datetime
    numbers: dict[int, bytes]


def test_json_brings_back_what_it_cannot_say_itself() -> None:
    plain, codec = Plain("json", connect="tcp://127.0.0.1:5599"), Codec[Stamped](Stamped)
    value = Stamped(b"\x00\xff", datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC), {3: b"x"})
    frame = plain_encoder(plain, codec)(value)
    assert codec.decode_one(plain_decoder(plain, codec)(frame)) == value


@pytest.mark.parametrize("encoding", ["text", "bytes"])
def test_nothing_is_an_empty_frame_where_the_type_is_none(encoding: Any) -> None:
    plain, codec = Plain(encoding, connect="tcp://127.0.0.1:5599"), Codec[None](None)
    assert plain_encoder(plain, codec)(None) == b""
    assert plain_reader(plain, codec)(b"") is None
    assert codec.decode_one(plain_decoder(plain, codec)(b"")) is None
    with pytest.raises(ValueError, match="null"):
        plain_reader(plain, codec)(b"x")
    text: Codec[Any] = Codec(object)
    assert plain_reader(plain, text)(b"") == ("" if encoding == "text" else b"")


def test_json_of_another_type_comes_in_as_it_is() -> None:
    plain = Plain("json", connect="tcp://127.0.0.1:5599")
    payload = plain_decoder(plain, Codec(Stamped))(b'{"data": 7}')
    assert msgspec.msgpack.decode(payload) == {"data": 7}
    with pytest.raises(msgspec.DecodeError):
        plain_decoder(plain, Codec(Stamped))(b"{")


@pytest.mark.parametrize("frame", [b"[" * 5_000 + b"]" * 5_000, b"123456789012345678901234567890"])
def test_json_that_no_payload_can_hold_is_refused_with_the_reason(frame: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be kept"):
        plain_decoder(Plain("json", connect="tcp://127.0.0.1:5599"), Codec(object))(frame)


def test_a_connection_that_zeromq_makes_again_is_left_to_it_and_one_that_it_does_not_is_dialled(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.ports.pull_from("in", Plain("bytes", connect=("tcp://a:1", "tcp://b:1")), bytes, lambda payload: None)
    bench.ports.turn()
    bench.ports.heard(PlainDialled(7, "tcp://a:1", "cut"))
    assert bench.ports.turn() == pytest.approx(CUT_S)
    bench.ports.heard(PlainDialled(7, "tcp://a:1", "dialling"))
    bench.now += CUT_S
    assert bench.ports.turn() is None
    assert not bench.wire.redialled
    bench.ports.heard(PlainDialled(7, "tcp://a:1", "joined"))
    bench.now += LASTED_S
    pause = CUT_S
    for times in range(1, 10):
        bench.ports.heard(PlainDialled(7, "tcp://a:1", "cut"))
        assert bench.ports.turn() == pytest.approx(pause)
        bench.now += pause
        assert bench.ports.turn() is None
        assert bench.wire.redialled == ["tcp://a:1"] * times
        bench.ports.heard(PlainDialled(7, "tcp://a:1", "joined"))
        pause = min(2 * pause, CUT_MOST_S)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 4, "the 1st, 2nd, 4th and 8th"
    assert "tcp://a:1 ended by what came over it" in caplog.text
    bench.ports.heard(PlainDialled(7, "tcp://b:1", "cut"))
    bench.now += CUT_S
    bench.wire.opening = OSError("no more sockets")
    assert bench.ports.turn() == MEND_S
    bench.wire.opening, bench.now = None, bench.now + MEND_S
    assert bench.ports.turn() is None
    assert bench.wire.redialled[-1] == "tcp://b:1"
