"""What has become of requests, as their replies and streams find it. Nothing is decoded before somebody asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from zerowait.errors import BadAnswer
from zerowait.errors import Cancelled as CancelledError
from zerowait.failures import bad_answer, unpack
from zerowait.faults import fault_of

if TYPE_CHECKING:
    from zerowait.codec import Codec
    from zerowait.failures import Errors

_raws = msgspec.msgpack.Decoder(list[msgspec.Raw])


class Promised(Protocol):
    """What the answers to requests are to be: see `requests.bundle.AskLane`."""

    @property
    def out(self) -> Codec[Any]: ...
    @property
    def errors(self) -> Errors: ...


class Asked(Protocol):
    """Requests that lie together, as far as what becomes of them needs to know them: see `requests.bundle.Bundle`."""

    @property
    def channel(self) -> str: ...
    @property
    def lane(self) -> Promised: ...
    def id(self, index: int) -> str: ...
    def told(self, index: int) -> None: ...


class End(Protocol):
    """What has become of requests that lie together."""

    def value(self, bundle: Asked, index: int) -> Any:
        """The answer of that one, or raises what became of it."""
        ...


class Body:
    """Answers that came in one frame."""

    __slots__ = ("_data", "_values")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._values: dict[int, list[Any]] = {}  # codec → values; one, unless channels share a frame

    def values(self, codec: Codec[Any]) -> list[Any]:
        values = self._values.get(id(codec))
        if values is None:
            try:
                values = codec.decode_list(self._data)
            except Exception:  # about one of them: the next lines find which
                values = self._one_by_one(codec)
            self._values[id(codec)] = values
        return values

    def _one_by_one(self, codec: Codec[Any]) -> list[Any]:
        try:
            return [_decoded(codec, each) for each in _raws.decode(self._data)]
        except msgspec.MsgspecError as error:  # what the other end has sent is no msgpack at all
            return [Bad(error)] * int.from_bytes(self._data[1:5], "big")


class Bad:
    """In the place of an answer that is not of the type promised."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error

    def told(self, bundle: Asked, index: int) -> BadAnswer:
        reason, path = fault_of(self.error)
        return bad_answer(path, reason, channel=bundle.channel, id=bundle.id(index))


def _decoded(codec: Codec[Any], payload: Any) -> Any:
    try:
        return codec.decode_one(payload)
    except Exception as error:
        return Bad(error)


class Span:
    """Answers that lie together in a bundle and in a body: the answer at `index` is the body's at `index + shift`."""

    __slots__ = ("_body", "_shift", "_values")

    def __init__(self, body: Body, shift: int) -> None:
        self._body = body
        self._shift = shift
        self._values: list[Any] | None = None  # of the whole body

    def value(self, bundle: Asked, index: int) -> Any:
        values = self._values
        if values is None:
            values = self._values = self._body.values(bundle.lane.out)
        value = values[index + self._shift]
        if value.__class__ is Bad:
            raise value.told(bundle, index)
        return value


class Frame:
    """The answer of a bare ZeroMQ peer. read: what makes a value of it; it may raise anything."""

    __slots__ = ("_data", "_found", "_read")

    def __init__(self, data: bytes, read: Callable[[bytes], Any]) -> None:
        self._data = data
        self._read = read
        self._found: list[Any] = []  # the value, once it was read

    def value(self, bundle: Asked, index: int) -> Any:
        if not self._found:
            try:
                found = self._read(self._data)
            except Exception as error:
                found = Bad(error)
            self._found = [found]
        value = self._found[0]
        if value.__class__ is Bad:
            raise value.told(bundle, index)
        return value


class Failed:
    """These have failed. make: what is raised, made for the first who asks."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[Asked, int], Exception]) -> None:
        self._make = make

    def error(self, bundle: Asked, index: int) -> Exception:
        return self._make(bundle, index)

    def value(self, bundle: Asked, index: int) -> Any:
        bundle.told(index)
        raise self.error(bundle, index)


class Cancelled(Failed):
    """By who asked: nobody need be told of it."""

    __slots__ = ()


def failure(note: bytes) -> Failed:
    """What the handler raised."""
    return Failed(lambda bundle, index: unpack(note, bundle.lane.errors, channel=bundle.channel, id=bundle.id(index)))


class Over:
    """A stream has been given whole: so many chunks, and then that failure, if any."""

    __slots__ = ("chunks", "failed")

    def __init__(self, chunks: int, failed: Failed | None) -> None:
        self.chunks = chunks
        self.failed = failed

    def value(self, bundle: Asked, index: int) -> Any:
        return self


def _cancelled(bundle: Asked, index: int) -> Exception:
    id = bundle.id(index)
    which = f"Request {id} for {bundle.channel}" if id else f"The request for {bundle.channel}"
    return CancelledError(f"{which} was cancelled by who asked.", channel=bundle.channel, id=id)


def _closed(bundle: Asked, index: int) -> Exception:
    id = bundle.id(index)
    words = f"Request {id} for {bundle.channel}: the client was closed before it was answered; it may have run."
    return CancelledError(words, channel=bundle.channel, id=id)


CANCELLED = Cancelled(_cancelled)
CLOSED = Cancelled(_closed)
