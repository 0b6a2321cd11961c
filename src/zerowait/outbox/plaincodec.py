"""Values for bare ZeroMQ sockets, which know nothing of our payloads: bytes, text, JSON or msgpack, one message a
frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from zerowait.codec import Codec
from zerowait.contract import type_name
from zerowait.errors import EncodeError
from zerowait.plain import Plain


def plain_encoder(plain: Plain, codec: Codec[Any]) -> Callable[[Any], bytes]:
    """From a value to what the bare socket sends. It raises EncodeError, and then nothing was taken."""
    if plain.encoding == "msgpack":
        return codec.encode
    if plain.encoding == "json":
        return lambda value: _json(codec.encode(value))
    wanted: Any = (str,) if plain.encoding == "text" else (bytes, bytearray, memoryview)

    def encode(value: Any) -> bytes:
        if plain.encoding == "text" and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)
        if value is None:  # an answer that says nothing
            return b""
        if not isinstance(value, wanted):
            raise EncodeError(
                f"A channel whose bare socket speaks {plain.encoding} takes {wanted[0].__name__}, and this value "
                f"is of type {type_name(value.__class__)}: nothing was taken."
            )
        return value.encode() if isinstance(value, str) else bytes(value)

    return encode


def plain_reader(plain: Plain, codec: Codec[Any]) -> Callable[[bytes], Any]:
    """From what a bare socket received to a value of the codec's type. It raises whatever is wrong with the bytes."""
    match plain.encoding:
        case "msgpack":
            return codec.decode_one
        case "json" | "text" | "bytes":
            decode = plain_decoder(plain, codec)
            return lambda data: codec.decode_one(decode(data))


def plain_decoder(plain: Plain, codec: Codec[Any]) -> Callable[[bytes], bytes]:
    """From what a bare socket received to a payload as the outbox has it. Raises ValueError with the reason."""

    read_json = _json_reader(codec)
    is_nothing = codec.type in (None, type(None)) and plain.encoding in ("text", "bytes")

    def value_of(data: bytes) -> Any:
        if not data and is_nothing:
            return None
        match plain.encoding:
            case "bytes":
                return data
            case "text":
                text = data.decode()  # UnicodeDecodeError is a ValueError
                return text if codec.exact in (None, str) else msgspec.convert(text, codec.type, strict=False)
            case "json":
                return read_json(data)
            case "msgpack":
                return msgspec.msgpack.decode(data)

    def decode(data: bytes) -> bytes:
        try:
            return msgspec.msgpack.encode(value_of(data))
        except (OverflowError, RecursionError) as error:  # JSON has integers of any size, and lists of any depth
            raise ValueError(f"it cannot be kept: {error}") from None

    return decode


def _json(payload: bytes) -> bytes:
    try:
        return msgspec.json.encode(msgspec.msgpack.decode(payload))
    except Exception as error:
        raise EncodeError(f"The value cannot be written as JSON ({error}): nothing was taken.") from None


def _json_reader(codec: Codec[Any]) -> Callable[[bytes], Any]:
    """JSON has no bytes and no times: only the channel's type knows which text is one."""
    untyped = msgspec.json.Decoder()
    try:
        typed: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Any if codec.type is object else codec.type)
    except TypeError:
        return untyped.decode

    def read(data: bytes) -> Any:
        try:
            return typed.decode(data)
        except msgspec.ValidationError:  # of another type: a dead letter, at the handler, and not lost here
            return untyped.decode(data)

    return read
