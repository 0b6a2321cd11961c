"""From values to payloads and back, for one type."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from types import GenericAlias
from typing import Any, Generic, TypeVar

from msgspec import msgpack

from zerowait.accept import Acceptance
from zerowait.contract import Description, describe, fingerprint, holds_pydantic, type_name
from zerowait.errors import EncodeError, UsageError
from zerowait.faults import fault_of, find_unencodable

T = TypeVar("T")


class Codec(Generic[T]):
    """Encodes and decodes messages of one type: msgspec struct, dataclass, TypedDict, built-in, union, pydantic model …

    Made once for a type and kept. Raises UsageError when made for a type that no message can be of.

    type: what it was made for. exact: the one class whose instances need no further look, so that
    `value.__class__ is codec.exact` is the whole test for nearly all values; None for a union, `Any` and the like.
    encode_into: `Encoder.encode_into(value, bytearray, offset)` in C, or None when encoding this type may run Python
    code (a pydantic model), which must not happen while a buffer is half written. When it raises, cut the buffer back
    and call `encode`, which gives the bytes or says what is wrong. decode_list: a msgpack array of payloads → the list
    of values, in one typed call. decode_one: one payload → its value. `faults.fault_of` explains what those two raise.
    """

    encode_into: Callable[[T, bytearray, int], None] | None
    decode_list: Callable[[Any], list[T]]
    decode_one: Callable[[Any], T]

    def __init__(self, type: Any) -> None:
        self.type = type
        self._description = describe(type)
        accepts = Acceptance(type)
        self._accepts = accepts.test
        self.exact = accepts.exact
        runs_python = holds_pydantic(type) and type is not object
        self._encoder = msgpack.Encoder()
        self._patient = msgpack.Encoder(enc_hook=_encode_foreign)
        hook = _decode_foreign if runs_python else None
        try:
            one: Any = Any if type is object else type
            many: Any = GenericAlias(list, (one,))
            self.decode_list = msgpack.Decoder(many, dec_hook=hook).decode
            self.decode_one = msgpack.Decoder(one, dec_hook=hook).decode
        except TypeError as error:
            raise UsageError(f"Messages cannot be of type {type_name(type)}: {error}.") from None
        self.encode_into = None if runs_python else self._encoder.encode_into

    def __repr__(self) -> str:
        return f"<Codec of {type_name(self.type)}>"

    def encode(self, value: T) -> bytes:
        """The payload. Raises EncodeError with the path of the part that cannot be encoded."""
        try:
            return self._encoder.encode(value) if self.encode_into else self._patient.encode(value)
        except Exception as error:
            # An untyped channel takes whatever there is, and a union a pydantic model beside others.
            if self.encode_into and isinstance(error, TypeError):
                try:
                    return self._patient.encode(value)
                except Exception as second:
                    error = second
            path, reason = find_unencodable(value, self._patient.encode, error)
            raise EncodeError(f"{_at(path)} {reason}: nothing was taken.", path=path) from None

    def check(self, value: object, deep: bool = False, channel: str = "") -> None:
        """Raises EncodeError if the value is not of the type. channel: for the sentence.

        The type of the value itself is looked at; with deep=True all of it, by encoding and decoding it.
        """
        if not self._accepts(value):
            wanted, name = type_name(self.type), type_name(value.__class__)
            hint = " Did you mean a value of it, not the class?" if isinstance(value, type) else ""
            raise EncodeError(
                f"{channel or 'The channel'} takes {wanted}, and this value is of type {name}: nothing was taken.{hint}"
            )
        if deep:
            payload = self.encode(value)  # type: ignore[arg-type]
            try:
                self.decode_one(payload)
            except Exception as error:
                reason, path = fault_of(error)
                raise EncodeError(
                    f"{_at(path)} is not what {type_name(self.type)} says: {reason}. Nothing was taken.", path=path
                ) from None

    def describe(self) -> Description:
        """The canonical description of the type: what two ends compare. See `contract`."""
        return self._description

    def fingerprint(self) -> bytes:
        """16 bytes, equal for equal descriptions."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> bytes:
        return fingerprint(self._description)


def _at(path: str) -> str:
    return "The value" if path == "$" else path


# What follows is for pydantic, which is never imported from here: whoever holds one of its models has imported it.


def _encode_foreign(value: Any) -> Any:
    if not hasattr(value.__class__, "__pydantic_validator__"):
        raise TypeError(f"Encoding objects of type {type_name(value.__class__)} is unsupported")
    from msgspec import to_builtins

    # Not mode="json": that would make text of bytes, and asterisks of a secret without a word.
    fields = value.model_dump(mode="python", round_trip=True, warnings=False)
    return to_builtins(fields, builtin_types=(bytes, bytearray, memoryview), enc_hook=_encode_leaf)


def _encode_leaf(value: Any) -> Any:
    if value.__class__.__module__.partition(".")[0] in _WRITTEN_AS_TEXT:
        reveal = getattr(value, "get_secret_value", None)
        return str(value) if reveal is None else reveal()
    raise TypeError(f"Encoding objects of type {type_name(value.__class__)} is unsupported")


_WRITTEN_AS_TEXT = {"pathlib", "ipaddress", "pydantic", "pydantic_core"}


def _decode_foreign(type: Any, value: Any) -> Any:
    try:
        return type.model_validate(value, by_name=True)
    except ValueError as error:
        errors = getattr(error, "errors", None)
        if errors is None:
            raise
        first = errors()[0]
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
        # A ValueError, for only to those does msgspec add the place of the model in what holds it.
        raise ValueError(f"{first['msg']} - at `${place}`" if place else first["msg"]) from error
