"""Asking a living process over its local socket: what `zerowait status` and its like do."""

from __future__ import annotations

import time

import msgspec

from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.wire import Heard, Lost, Opened, Wire
from zerowait.errors import ZerowaitError
from zerowait.names import new_id
from zerowait.snapshot import Answer, Question

ANSWER_BYTES = 64 << 20  # of all that the other end has sent in pieces and not finished; far above any answer


def ask(endpoint: str, question: Question, timeout: float) -> Answer:
    """Never raises for what the other end does or fails to do: the answer says it. timeout: seconds."""
    wire = Wire(connections=4, handshake_s=timeout)
    try:
        return _ask(wire, endpoint, question, time.monotonic() + timeout)
    except frames.ProtocolError as error:
        return Answer(False, error=error.words)
    except (ZerowaitError, msgspec.MsgspecError) as error:
        return Answer(False, error=str(error))
    finally:
        wire.close()


def _ask(wire: Wire, endpoint: str, question: Question, deadline: float) -> Answer:
    conn = wire.dial(endpoint)
    hello = frames.Hello(new_id(), "asking", features=("asking",))
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
                    frame = frames.decode(event.frame) if greeted else frames.decode_first(event.frame)
                    if not greeted:
                        greeted = True
                        asked = msgspec.msgpack.encode(question)
                        wire.send(conn, frames.encode(frames.Control(1, False, asked)))
                        continue
                    if isinstance(frame, frames.Fragment):
                        whole = _joined(parts, frame)
                        if whole is None:
                            continue
                        frame = frames.decode(whole)
                    if isinstance(frame, frames.Goodbye):
                        return Answer(False, error=frame.words or "it is leaving")
                    if isinstance(frame, frames.Control) and frame.answers:
                        wire.send(conn, frames.encode(frames.Goodbye()))
                        return _answer(frame.body)
                case _:
                    pass
    return Answer(False, error="it did not answer in time")


def _joined(parts: dict[int, bytearray], piece: frames.Fragment) -> bytes | None:
    """The whole of what came in pieces, once its last piece is there."""
    data = parts.setdefault(piece.serial, bytearray())
    data += piece.data
    # An empty piece adds nothing, but would add an entry: each counts as much as one costs.
    if piece.total > ANSWER_BYTES or sum(len(part) + 64 for part in parts.values()) > ANSWER_BYTES:
        raise frames.ProtocolError(frames.MALFORMED, f"its answer is larger than {ANSWER_BYTES >> 20} MiB")
    return bytes(parts.pop(piece.serial)) if len(data) >= piece.total else None


def _answer(body: bytes) -> Answer:
    try:
        return msgspec.msgpack.decode(body, type=Answer)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return Answer(False, error=f"its answer cannot be read: {error}")
