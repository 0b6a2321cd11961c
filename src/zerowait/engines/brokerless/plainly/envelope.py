"""Frames of bare ZeroMQ peers, and what they mean. Nothing here knows a socket.

a request     envelope … · empty · body      envelope: of a REQ nothing, of a REQ_CORRELATE its number, of each
its answer    envelope … · empty · body      broker on the way what it put there; it goes back as it came
ours          number     · empty · body      what libzmq sends with REQ_CORRELATE; a REP gives all of it back
an event      body                           subscribed to by how the body begins
              topic · body                   with topic_frame=True, by how the topic begins
"""

from __future__ import annotations

from collections.abc import Sequence

from zerowait.errors import UsageError
from zerowait.names import check_channel
from zerowait.patterns import is_wild, matches
from zerowait.plain import Plain

NUMBER_BYTES = 8
NO_ANSWER = b""  # the body of the answer to a request that has failed, whatever the reason


def parted(parts: Sequence[bytes]) -> tuple[list[bytes], list[bytes]] | None:
    """Envelope, with the empty frame that ends it, and the body's frames. None: there is no such frame."""
    try:
        at = list(parts).index(b"")
    except ValueError:
        return None
    return list(parts[: at + 1]), list(parts[at + 1 :])


def asked(number: int, body: bytes) -> list[bytes]:
    """A request of ours."""
    return [number.to_bytes(NUMBER_BYTES, "big"), b"", body]


def answered(parts: Sequence[bytes]) -> tuple[int, list[bytes]] | None:
    """To which request of ours that is the answer, and the frames of its body. None: to none."""
    if len(parts) < 2 or len(parts[0]) != NUMBER_BYTES or parts[1]:
        return None
    return int.from_bytes(parts[0], "big"), list(parts[2:])


def filter_of(pattern: str, plain: Plain) -> bytes:
    """What a SUB subscribes to for this topic, which may stand for several."""
    if plain.prefix or not plain.topic_frame:
        return plain.prefix.encode()
    if not is_wild(pattern):
        return pattern.encode()
    words = pattern.split(".")
    plain_words = words[: next(at for at, word in enumerate(words) if word in ("*", ">"))]
    return "".join(f"{word}." for word in plain_words).encode()


def event_of(pattern: str, plain: Plain, parts: Sequence[bytes]) -> tuple[str, bytes, str] | None:
    """Topic and body of an event, and the frame that stood for the topic where that is no topic's name; None: it is not
    for this subscription. Only what has as many frames as it should (`has_form`) may be asked about."""
    if not plain.topic_frame:
        return (pattern, parts[0], "") if parts[0].startswith(filter_of(pattern, plain)) else None
    said, body = parts
    if not said.startswith(filter_of(pattern, plain)):
        return None
    try:
        topic = said.decode()
        check_channel(topic)
    except (UnicodeDecodeError, UsageError):
        topic = ""
    if topic and matches(pattern, topic):
        return topic, body, ""
    # Names as others make them, with slashes say: whoever says a prefix wants all that begins so.
    if plain.prefix and not is_wild(pattern):
        return pattern, body, said.decode(errors="backslashreplace")
    return None


def has_form(plain: Plain, parts: Sequence[bytes]) -> bool:
    """Whether an event has the frames that this channel's events have."""
    return len(parts) == (2 if plain.topic_frame else 1)
