"""How a handler's exception travels to who asked: as data, never as code.

A note is a msgpack map. Of an exception that the channel's contract names: its class's name and its fields; the other
end looks the name up in its own list, and nowhere else. Of any other: the name, text and traceback, for people. Of an
answer that is not of the channel's type: where it differs. Of one that is too large (`large.py`): how large it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import MsgspecError, msgpack

from zerowait.codec import Codec
from zerowait.contract import type_name
from zerowait.errors import BadAnswer, RemoteError, UsageError, ZerowaitError

SAME_CONTRACT = "deploy both ends with the same contract"
AWAIT = "did it forget `await`? Write `return await …` there"


class Errors:
    """The exceptions of one channel's contract.

    Raises UsageError for what cannot be one: an exception travels by its fields, so that it must be a dataclass.
    """

    def __init__(self, classes: Sequence[Any]) -> None:
        self._codecs: dict[str, Codec[Any]] = {}
        for each in classes:
            name = getattr(each, "__name__", "NotFound")
            if not isinstance(each, type) or not issubclass(each, Exception) or not dataclasses.is_dataclass(each):
                raise UsageError(
                    f"errors=[…] takes exception classes that are dataclasses, for they travel by their fields, not "
                    f"{each!r}: write @dataclass above `class {name}(Exception)`."
                )
            if name in self._codecs:
                raise UsageError(f"errors=[…] names two classes {name}: they are told apart by their names.")
            self._codecs[name] = Codec(each)

    def pack(self, error: BaseException) -> bytes | None:
        """The note of an exception of this contract; None if it is none, or its fields cannot be encoded."""
        codec = self._codecs.get(type(error).__name__)
        if codec is None or codec.type is not type(error):
            return None
        try:
            return msgpack.encode({"error": type(error).__name__, "data": codec.encode(error)})
        except ZerowaitError:
            return None

    def made(self, name: object, data: object) -> Exception | None:
        """The exception itself; None if this end's contract has none of that name, or of that shape."""
        codec = self._codecs.get(name) if isinstance(name, str) else None
        if codec is None or not isinstance(data, bytes):
            return None
        try:
            found = codec.decode_one(data)
        except Exception:  # whatever the class's own code raises
            return None
        # Anew, as `raise NotFound(…)` makes it: decoding fills in fields and leaves `args` empty.
        fields = [field for field in dataclasses.fields(found) if field.init]
        places = [getattr(found, field.name) for field in fields if not field.kw_only]
        names = {field.name: getattr(found, field.name) for field in fields if field.kw_only}
        error: Exception = codec.type(*places, **names)
        return error


NO_ERRORS = Errors(())


def pack_remote(type: str, message: str, traceback: str) -> bytes:
    """The note of an exception that no contract names."""
    return msgpack.encode({"type": type, "message": message, "traceback": traceback})


def pack_bad(path: str, reason: str, remedy: str = "") -> bytes:
    """The note of an answer that is not what the channel promises. remedy: if it is another than `SAME_CONTRACT`."""
    return msgpack.encode({"path": path, "reason": reason, **({"remedy": remedy} if remedy else {})})


def unpack(note: bytes, errors: Errors, *, channel: str, id: str) -> Exception:
    """What who asked raises."""
    try:
        said: Mapping[str, Any] = msgpack.decode(note, type=dict[str, Any])
    except (MsgspecError, ValueError, RecursionError):
        return RemoteError(type="unknown", message="its failure cannot be read here", channel=channel, id=id)
    if "error" in said:
        made = errors.made(said["error"], said.get("data"))
        if made is not None:
            return made
        name = str(said["error"])
        words = f"an exception of the contract that is not in this end's errors=[…], or not of this shape ({name})"
        return RemoteError(type=name, message=words, channel=channel, id=id)
    if "path" in said:
        remedy = str(said.get("remedy", SAME_CONTRACT))
        if said.get("large"):
            words = f"The answer of {channel} is too large: {said.get('reason', '')}. The handler has run; {remedy}."
            return BadAnswer(words, path=str(said["path"]), channel=channel, id=id)
        return bad_answer(str(said["path"]), str(said.get("reason", "")), channel=channel, id=id, remedy=remedy)
    return RemoteError(
        type=str(said.get("type", "unknown")),
        message=str(said.get("message", "")),
        traceback=str(said.get("traceback", "")),
        channel=channel,
        id=id,
    )


def bad_answer(path: str, reason: str, *, channel: str, id: str, remedy: str = SAME_CONTRACT) -> BadAnswer:
    return BadAnswer(
        f"The answer of {channel} is not of the type promised: {reason} (at {path}). The handler has run; {remedy}.",
        path=path,
        channel=channel,
        id=id,
    )


def not_of(wanted: Any, given: object) -> str:
    """Why a value is no answer, in words."""
    return f"expected {type_name(wanted)}, got {type_name(given.__class__)}"
