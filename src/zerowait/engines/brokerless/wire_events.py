"""What the wire tells the node. A connection is a running number: never reused, and over for good once it is Lost."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Conn = int


class Opened(Struct, frozen=True, gc=False):
    """A connection that we dialled has shaken hands: ours is the first frame."""

    conn: Conn
    endpoint: str


class Heard(Struct, frozen=True, gc=False):
    """A frame came. first: it is the first of a connection that dialled us, which has just got its number."""

    conn: Conn
    frame: bytes | memoryview
    first: bool = False


class Lost(Struct, frozen=True, gc=False):
    """A connection is over: disconnected, refused, no handshake, no answer. All that came by it was given before."""

    conn: Conn
    reason: str


class PlainHeard(Struct, frozen=True, gc=False):
    """A message from a bare ZeroMQ peer, in the parts it came in.

    complete: False, it had more than is kept, for which an empty last part stands: it never looks like a single frame.
    """

    plain: int
    parts: list[bytes]
    complete: bool = True


class PlainJoined(Struct, frozen=True, gc=False):
    """A bare socket that watches its one connection has shaken hands."""

    plain: int


class PlainParted(Struct, frozen=True, gc=False):
    """That connection is over, or no hands were shaken. All that came by it was given before."""

    plain: int
    reason: str


class PlainDialled(Struct, frozen=True, gc=False):
    """Of a bare socket that connects: this connection has ended ("cut"), ZeroMQ makes it again ("dialling"), it is
    there ("joined"). What is cut and not dialled at once ZeroMQ never dials again."""

    plain: int
    endpoint: str
    state: Literal["cut", "dialling", "joined"]


Event = Opened | Heard | Lost | PlainHeard | PlainJoined | PlainParted | PlainDialled
