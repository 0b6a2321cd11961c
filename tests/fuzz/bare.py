"""Messages of several frames, as bare ZeroMQ peers may send them, at the sockets of a process that hear them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from zerowait.callbacks import Callbacks
from zerowait.codec import Codec
from zerowait.engines.brokerless.plainly.ports import PlainPorts
from zerowait.engines.brokerless.protocol.subscriber.inbox import Inbox
from zerowait.engines.brokerless.wire import PlainHeard
from zerowait.errors import TooLarge
from zerowait.outbox.intake import Intake, Limits
from zerowait.outbox.plaincodec import plain_decoder, plain_reader
from zerowait.pending import Promise
from zerowait.plain import Plain
from zerowait.requests.box import Requests
from zerowait.topics.bundle import Press

CODEC: Codec[Any] = Codec(object)
CALLBACKS = Callbacks("fuzz")


def nothing(*what: object) -> None: ...


def room() -> Promise[None]:
    return Promise(CALLBACKS)


class Silent:
    """A wire to bare peers that takes everything."""

    def plain(self, kind: str, bind: object, connect: object, *, message_bytes: int, watched: bool = False) -> int:
        return {"router": 1, "dealer": 2, "pub": 3, "sub": 4}[kind]

    def send_parts(self, plain: int, parts: Sequence[bytes], *, again: bool = False) -> bool:
        assert parts
        assert all(isinstance(part, bytes) for part in parts)
        return True

    def hold_plain(self, plain: int, held: bool) -> None: ...
    def subscribe_plain(self, plain: int, prefix: bytes, *, wanted: bool) -> None: ...


def hear(data: bytes) -> None:
    """Messages of several frames, at each of the sockets that hear: each byte of the first half says how long a frame
    is, 255 that a message is over."""
    ports = PlainPorts(1_000)
    wire: Any = Silent()
    ports.open(wire)
    plain = Plain("json", bind="tcp://*:5511", topic_frame=data[:1] > b"\x7f")
    there = Plain("json", connect="tcp://a:5511")

    def full(payload: bytes) -> Any:
        raise TooLarge(size_bytes=len(payload), limit_bytes=0)

    inbox = Inbox(threading.Lock(), 10, renew=nothing, notify=nothing)
    press = Press(CALLBACKS, now_us=int, wake=nothing, give_way=nothing, room=room)
    intake = Intake(Limits(), durable=False, wake=nothing, room=room, now_us=int)
    requests = Requests(
        7, "fuzz", intake, epoch=1, drop=nothing, feed=nothing, wake=nothing, served=str, no_responder=1.0
    )
    decode = plain_decoder(plain, CODEC)
    ports.reply_to("a", there, decode, full, lambda value: b"")
    ports.publish_to("b", plain, press)
    ports.subscribe(1, "c.*" if plain.topic_frame else "c", plain, decode, inbox, 3)
    ports.asks(requests, 1.0).ask_at("d", there, plain_reader(there, CODEC), idempotent=False)
    ports.turn()
    parts: list[bytes] = []
    at = half = len(data) // 2
    for size in data[1:half]:
        if size < 255:
            parts.append(data[at : at + size])
            at += size
            continue
        for socket in (1, 2, 3, 4):
            ports.heard(PlainHeard(socket, parts or [b""], complete=len(parts) % 5 < 4))
        ports.turn()
        parts = []
    while (taken := inbox.take(1)) is not None:
        assert taken.stop == taken.start + 1


SEEDS: list[bytes] = [
    bytes([0, 0, 5, 255, 8, 0, 1, 255, 1, 255]) + b"[1,2]12345678x\x01",
    bytes([200, 3, 3, 255, 0, 4, 255, 2, 255]) + b"c.a[1]null\x01c" + bytes(9),
    bytes([0, 0, 1, 255, 0, 1, 1, 255, 3, 255]) + b"1[]\x00ab" + bytes(6),
]
