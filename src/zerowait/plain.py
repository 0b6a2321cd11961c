"""How a channel speaks with bare ZeroMQ sockets, which know nothing of zerowait."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

from msgspec import Struct
from msgspec.structs import force_setattr

from zerowait.errors import UsageError

Encoding = Literal["bytes", "text", "json", "msgpack"]

_TCP = re.compile(r"tcp://(\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]]+):(\d{1,5}|\*)")
_OTHER = re.compile(r"(ipc|inproc)://\S+")


# Apart, so that the first field may be given by position and all others by name only.
class _Encoded(Struct, frozen=True):
    encoding: Encoding


class Plain(_Encoded, frozen=True, kw_only=True):
    """A channel's bare ZeroMQ socket: `Plain("text", connect="tcp://ventilator:5559")`. ZeroMQ's guarantees hold.

    The socket's type follows from the channel's kind and the side that uses it: pull PULL, push PUSH, reply REP,
    request REQ, subscribe SUB, publish PUB. A push to it is not durable, and its receipt is done when the socket took
    it. What a pull receives from it is accepted into the worker's own outbox, with retries and dead letters as always.
    A REQ that asks gets one answer, an empty frame if there is none.

    encoding: what a frame holds, "bytes" as they are, UTF-8 "text", "json" or "msgpack". bind, connect: one endpoint
    or several (kept as tuples), at least one in all. Of topics only: topic_frame: an event is two frames, its topic and
    its body, and not its body alone; prefix: how what is subscribed to begins, the topic where it has a frame, else the
    body, both as text. Raises UsageError when made with anything else.
    """

    bind: str | Sequence[str] = ()
    connect: str | Sequence[str] = ()
    prefix: str = ""
    topic_frame: bool = False

    def __post_init__(self) -> None:
        if self.encoding not in get_args(Encoding):
            raise UsageError(f'Plain(…) takes "bytes", "text", "json" or "msgpack" first, not {self.encoding!r}.')
        for side, given in (("bind", self.bind), ("connect", self.connect)):
            endpoints = (given,) if isinstance(given, str) else tuple(given)
            for endpoint in endpoints:
                if (wrong := endpoint_fault(endpoint)) is not None:
                    raise UsageError(f"Plain({side}=…): {wrong}")
            force_setattr(self, side, endpoints)
        said: object = self.prefix
        if not isinstance(said, str):
            raise UsageError(f'Plain(prefix=…) takes text, as in prefix="10001 ", not {said!r}.')
        if not self.bind and not self.connect:
            raise UsageError('Plain(…) needs an endpoint: bind="tcp://*:5559" or connect="tcp://host:5559".')


def check_plain(plain: Plain, kind: str, channel: str) -> Plain:
    """Gives it back if a channel of that kind ("push", "request", "stream", "topic") can have it, else UsageError."""
    if kind == "stream":
        raise UsageError(f"{channel}: streams do not exist on bare ZeroMQ sockets: leave plain= away, or answer once.")
    if kind != "topic" and (plain.prefix or plain.topic_frame):
        raise UsageError(f"{channel}: prefix= and topic_frame= of Plain(…) are for topics: leave them away.")
    if kind == "topic" and not plain.topic_frame and ("*" in channel or ">" in channel):
        raise UsageError(
            f"{channel} stands for several topics, and an event of one frame does not say which: "
            "Plain(…, topic_frame=True) gives the topic a frame of its own."
        )
    return plain


def endpoint_fault(endpoint: object) -> str | None:
    """What is wrong with a ZeroMQ endpoint, as a sentence, or None."""
    if isinstance(endpoint, str) and (_OTHER.fullmatch(endpoint) or _is_tcp(endpoint)):
        return None
    return f'{endpoint!r} is no endpoint: write "tcp://host:5511" (an IPv6 address in brackets) or "ipc:///run/x.sock".'


def _is_tcp(endpoint: str) -> bool:
    found = _TCP.fullmatch(endpoint)
    return found is not None and (found[2] == "*" or int(found[2]) < 65_536)
