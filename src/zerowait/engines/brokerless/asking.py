"""Asking a living process over its local socket: what `zerowait status` and its like do."""

from __future__ import annotations

import random
import time

import msgspec

from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.wire import Heard, Lost, Opened, Wire
from zerowait.errors import ZerowaitError
from zerowait.snapshot import Answer, Question


def ask(endpoint: str, question: Question, timeout: float) -> Answer:
    """Never raises for what the other end does or fails to do: the answer says it. timeout: seconds."""
    wire = Wire(connections=4, handshake_s=timeout)
    try:
        return _ask(wire, endpoint, question, time.monotonic() + timeout)
    except ZerowaitError as error:
        return Answer(False, error=str(error))
    finally:
        wire.close()


def _ask(wire: Wire, endpoint: str, question: Question, deadline: float) -> Answer:
    conn = wire.dial(endpoint)
    hello = frames.Hello(random.SystemRandom().getrandbits(64) or 1, "asking", features=("asking",))
    greeted = False
    parts: dict[int, bytearray] = {}
    while time.monotonic() < deadline:
        for event in wire.poll(max(0.0, min(0.5, deadline - time.monotonic()))):
            match event:
                case Opened():
                    wire.send(conn, frames.encode(hello))
                    wire.send(conn, frames.encode(frames.State()))
                case Lost():
                    return Answer(False, error=f"it does not answer: {event.reason}")
                case Heard():
                    try:
                        frame = frames.decode(event.frame) if greeted else frames.decode_first(event.frame)
                    except frames.ProtocolError as error:
                        return Answer(False, error=error.words)
                    if not greeted:
                        greeted = True
                        asked = msgspec.msgpack.encode(question)
                        wire.send(conn, frames.encode(frames.Control(1, False, asked)))
                        continue
                    if isinstance(frame, frames.Fragment):
                        data = parts.setdefault(frame.serial, bytearray())
                        data += frame.data
                        if len(data) < frame.total:
                            continue
                        frame = frames.decode(bytes(parts.pop(frame.serial)))
                    if isinstance(frame, frames.Goodbye):
                        return Answer(False, error=frame.words or "it is leaving")
                    if isinstance(frame, frames.Control) and frame.answers:
                        wire.send(conn, frames.encode(frames.Goodbye()))
                        return msgspec.msgpack.decode(frame.body, type=Answer)
                case _:
                    pass
    return Answer(False, error="it did not answer in time")
