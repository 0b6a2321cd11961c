"""A dead letter's payload: as it is shown, as it is edited, and as it is given back."""

from __future__ import annotations

from typing import Any

from zerowait.cli.binary import Binary, NotBytes
from zerowait.cli.output import MISUSED, Failure
from zerowait.snapshot import LetterDetail


def readable(payload: bytes) -> object:
    """The message as JSON can show it; bytes that are no text as base64."""
    from msgspec import DecodeError, msgpack, to_builtins

    try:
        return to_builtins(msgpack.decode(payload), str_keys=True)
    except (DecodeError, ValueError):
        return payload


def editable(letter: LetterDetail) -> tuple[str, Any]:
    """Its payload as JSON, and as it is. Raises Failure if JSON cannot hold all of it."""
    from msgspec import DecodeError, json, msgpack

    text, value = b"", None
    try:
        value = msgpack.decode(letter.payload)
        text = json.encode(value)
        whole = Binary().read(json.decode(text), like=value) == value
    except (DecodeError, TypeError, ValueError):
        whole = False
    if not whole:
        raise Failure(
            f"The payload of {letter.id} holds what JSON cannot (times, keys that are no strings), so it cannot be "
            "edited here: push the message again from a program, and drop this one.",
            MISUSED,
        )
    return json.format(text, indent=2).decode() + "\n", value


def parsed(payload: str) -> Any:
    """What was given as JSON. Raises Failure if it is none."""
    from msgspec import DecodeError, json

    try:
        return json.decode(payload)
    except (DecodeError, UnicodeError, RecursionError) as error:
        raise Failure(f"That is no JSON ({error}); nothing was changed.", MISUSED) from None


def encoded(payload: str, binary: Binary, before: Any) -> bytes:
    """What was given as JSON, as a message carries it. before: what was there. Raises Failure if none can."""
    from msgspec import msgpack

    try:
        return msgpack.encode(binary.read(parsed(payload), like=before))
    except NotBytes as error:
        raise Failure(f"{error}; nothing was changed.", MISUSED) from None
    except OverflowError:
        raise Failure(
            "That holds a whole number of more than 64 bits, which no message can carry: write it as a string. "
            "Nothing was changed.",
            MISUSED,
        ) from None
