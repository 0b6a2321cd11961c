"""The messages of a job as the handler's type: in one call; one by one if that fails, so that only the bad one dies.

A job is decoded, not the whole delivery: a thousand structs at once make the interpreter's garbage collector walk all
there is, several times (measured: seven tenths of a receiver's time); a hundred, gone again before the next hundred,
never call it.
"""

from __future__ import annotations

from typing import Any

from zerowait.codec import Codec
from zerowait.faults import fault_of
from zerowait.handlers.runs import Call, Mixed
from zerowait.handlers.verdicts import Undecodable
from zerowait.message import Delivery


def decode(codec: Codec[Any], delivery: Delivery, start: int, stop: int) -> list[Any]:
    count = stop - start
    try:
        values = codec.decode_list(delivery.body if count == delivery.count else delivery.part(start, stop))
        if len(values) == count:
            return values
    except Exception:  # whatever a type's own code raises, it is about one of the values: the next lines find which
        pass
    return Mixed(_decode_one(codec, delivery, index) for index in range(start, stop))


def _decode_one(codec: Codec[Any], delivery: Delivery, index: int) -> Any:
    try:
        return codec.decode_one(delivery.payload(index))
    except Exception as error:
        reason, path = fault_of(error)
        return Undecodable(f"the message is not of the handler's type: {reason} (at {path})")


def guarded(call: Call) -> Call:
    """For Mixed values."""

    def call_unless_undecodable(value: Any) -> Any:
        if value.__class__ is Undecodable:
            raise value
        return call(value)

    return call_unless_undecodable
