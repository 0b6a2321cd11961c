"""What goes to who asked in place of what is larger than he takes, or than is sent here: a note, in few words.

He would end the link at a larger frame, and at each link on which it came again: one answer would cut off two processes
from each other.
"""

from __future__ import annotations

from typing import Any

from msgspec import MsgspecError, msgpack

NOTE_BYTES = 64 * 1024  # a note of so many bytes goes to anybody: its frame is whole, and no limit is asked about it
TEXT_BYTES = 2_048  # of a text in a note that was too large
ASKER = "raise message_bytes in the settings of who asks"
BOTH_ENDS = "raise message_bytes in the settings of both ends"
SMALLER = "answer with a stream of smaller items, or with where the data is"


def pack_large(reason: str, remedy: str) -> bytes:
    """The note of an answer, or of an item of a stream, that is too large. Who does not know `large` reads the rest as
    of any answer that is not what the channel promises."""
    return msgpack.encode({"path": "$", "reason": reason, "remedy": f"{remedy}, or {SMALLER}", "large": True})


def refused(size: int, limit: int, *, what: str = "it") -> bytes:
    """The same, where it is who asked that takes no more."""
    return pack_large(f"{what} is {size:,} bytes, and who asked takes {limit:,} at most", ASKER)


def without_fields(size: int, limit: int, remedy: str = BOTH_ENDS) -> str:
    """What is said in place of the fields of an exception of the contract, which arrives as a RemoteError."""
    return f"its fields are {size:,} bytes, and {limit:,} are allowed: it comes without them; {remedy}"


def shortened(note: bytes, limit: int) -> bytes:
    """In place of a note that is larger than its reader takes: the same, with the middle of its texts left out."""
    try:
        said: dict[str, Any] = msgpack.decode(note, type=dict[str, Any])
    except (MsgspecError, ValueError, RecursionError):
        said = {"type": "unknown"}
    if "error" in said:
        words = without_fields(len(note), limit, ASKER)
        return msgpack.encode({"type": _short(str(said["error"])), "message": words, "traceback": ""})
    return msgpack.encode({name: _short(each) for name, each in said.items()})


def _short(said: Any) -> Any:
    """A traceback, above all."""
    if not isinstance(said, str):
        return said if isinstance(said, (int, float, bool)) else None
    if len(said) <= TEXT_BYTES:
        return said
    half = TEXT_BYTES // 2
    return f"{said[:half]}\n… {len(said) - TEXT_BYTES:,} characters left out …\n{said[-half:]}"
