"""What two ends must agree on: a type as a plain description, and its fingerprint.

The description is our own and holds only what is seen on the wire, never a library's schema output, which changes with
its version: two programs with the same types agree whatever they have installed, a dataclass agrees with a msgspec
struct of the same fields, and what a class is called does not matter. Bounds (a length, a minimum) are not in it: a
value out of bounds is a dead letter of its own, not a quarrel about types.

    "int" "float" "bool" "str" "bytes" "none" "datetime" "date" "time" "timedelta" "uuid" "decimal" "ext" "any"
    ["list", item]   ["tuple", [item, …]]   ["map", key, value]   ["values", [value, …]]   ["union", [member, …]]
    ["record", tag, is_array, is_closed, [[name, type, is_required, is_always_sent], …]]
    ["up", n]        the n-th record around this place, counted outwards from 1: a type that holds itself
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zerowait.errors import UsageError

Description = str | list[Any]

# Same on the wire, so the same in a description.
_SCALARS = {
    "AnyType": "any",
    "RawType": "any",
    "NoneType": "none",
    "BoolType": "bool",
    "IntType": "int",
    "FloatType": "float",
    "StrType": "str",
    "BytesType": "bytes",
    "ByteArrayType": "bytes",
    "MemoryViewType": "bytes",
    "DateTimeType": "datetime",
    "DateType": "date",
    "TimeType": "time",
    "TimeDeltaType": "timedelta",
    "UUIDType": "uuid",
    "DecimalType": "decimal",
    "ExtType": "ext",
}
_ARRAYS = {"ListType", "VarTupleType", "SetType", "FrozenSetType", "CollectionType"}


def describe(type: Any) -> Description:
    """The canonical description of a type. Raises UsageError if no message can be of it."""
    from msgspec import inspect

    if type is object:
        return "any"
    try:
        node = inspect.type_info(type)
    except (TypeError, NameError) as error:
        raise UsageError(f"Messages cannot be of type {type_name(type)}: {error}.") from None
    return _describe(node, [])


def packed(description: Description) -> bytes:
    """A description as it travels in SCHEMA."""
    from msgspec import msgpack

    return msgpack.encode(description)


def unpacked(data: bytes) -> Description:
    """What `packed` gave. Raises ValueError if it cannot be read; whether it is one only a comparison finds."""
    from msgspec import DecodeError, msgpack

    try:
        description: Description = msgpack.decode(data)
    except (DecodeError, ValueError, RecursionError) as error:
        raise ValueError(f"the description of a type cannot be read: {error}") from None
    if description.__class__ not in (str, list):
        raise ValueError(f"the description of a type is a {type_name(description.__class__)}")
    return description


def together(descriptions: Iterable[bytes]) -> bytes:
    """Several, as an outbox keeps them."""
    from msgspec import msgpack

    return msgpack.encode(sorted(descriptions))


def apart(kept: bytes) -> list[bytes]:
    """What `together` gave; of what cannot be read those that can: without a type a message goes to any worker."""
    from msgspec import DecodeError, ValidationError, msgpack

    found: list[bytes] = []
    try:
        for each in msgpack.decode(kept, type=list[bytes]):
            unpacked(each)
            found.append(each)
    except (DecodeError, ValidationError, ValueError):
        pass
    return found


def fingerprint(description: Description) -> bytes:
    """16 bytes that are equal for equal descriptions, on every machine and with every version of every library."""
    return fingerprint_of(packed(description))


def fingerprint_of(description: bytes) -> bytes:
    """The same, of a description as it travels."""
    from hashlib import sha256

    return sha256(b"zerowait type 1:" + description).digest()[:16]


def is_pydantic(type: Any) -> bool:
    """Whether this is a pydantic model, without importing pydantic."""
    return hasattr(type, "__pydantic_validator__") and hasattr(type, "model_fields")


def holds_pydantic(type: Any) -> bool:
    """Whether a value of this type may be, or have inside, a pydantic model."""
    from msgspec import inspect

    return _any_custom(inspect.type_info(type), set())


def type_name(type: Any) -> str:
    """A type as its author writes it: `RawMail`, `list[int]`, `Created | Deleted`."""
    if type is None or type is _NONE:
        return "None"
    if isinstance(type, str):
        return repr(type)
    arguments = getattr(type, "__args__", None)
    if getattr(type, "__metadata__", None) is not None:
        return type_name(type.__origin__)
    if arguments is None or not hasattr(type, "__origin__"):
        if arguments is not None:  # int | None
            return " | ".join(type_name(each) for each in arguments)
        return str(getattr(type, "__qualname__", None) or getattr(type, "__name__", None) or type).split("<locals>.")[
            -1
        ]
    import typing

    if type.__origin__ is typing.Union:
        return " | ".join(type_name(each) for each in arguments)
    if type.__origin__ is typing.Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    return f"{type_name(type.__origin__)}[{', '.join('...' if each is ... else type_name(each) for each in arguments)}]"


def _describe(node: Any, around: list[Any]) -> Description:
    kind = type(node).__name__
    if kind in _SCALARS:
        return _SCALARS[kind]
    if kind == "Metadata":
        return _describe(node.type, around)
    if kind in _ARRAYS:
        return ["list", _describe(node.item_type, around)]
    if kind == "TupleType":
        return ["tuple", [_describe(each, around) for each in node.item_types]]
    if kind == "DictType":
        return ["map", _describe(node.key_type, around), _describe(node.value_type, around)]
    if kind == "EnumType":
        return ["values", _sorted([each.value for each in node.cls])]
    if kind == "LiteralType":
        return ["values", _sorted(node.values)]
    if kind == "UnionType":
        members = [_describe(each, around) for each in node.types]
        return ["union", _sorted([each for at, each in enumerate(members) if each not in members[:at]])]
    return _describe_record(node, kind, around)


def _describe_record(node: Any, kind: str, around: list[Any]) -> Description:
    cls: Any = node.cls
    identity = cls if kind == "CustomType" else node
    for depth, outer in enumerate(reversed(around), 1):
        if outer is identity:
            return ["up", depth]
    around = [*around, identity]
    tag: Any = None
    is_array = is_closed = False
    fields: list[list[Any]]
    if kind == "CustomType":
        if not is_pydantic(cls):
            raise UsageError(
                f"Messages cannot hold a {type_name(cls)}: use msgspec structs, dataclasses, TypedDicts, pydantic "
                "models or built-in types (str, bytes, int, list[…], datetime, UUID, Decimal …)."
            )
        is_closed = cls.model_config.get("extra") == "forbid"
        fields = [
            [name, _describe_foreign(field.annotation, around), field.is_required(), True]
            for name, field in cls.model_fields.items()
        ]
    else:
        always = not (kind == "StructType" and cls.__struct_config__.omit_defaults)
        is_array = kind == "NamedTupleType" or (kind == "StructType" and node.array_like)
        if kind == "StructType":
            tag = None if node.tag is None else [node.tag_field, node.tag]
            is_closed = node.forbid_unknown_fields
        fields = [
            [
                field.encode_name,
                _describe(field.type, around),
                field.required,
                field.required or (always and kind != "TypedDictType"),
            ]
            for field in node.fields
        ]
    return ["record", tag, is_array, is_closed, fields if is_array else sorted(fields, key=lambda field: str(field[0]))]


def _describe_foreign(type: Any, around: list[Any]) -> Description:
    # pydantic knows types that we do not (a URL, a secret): it reads them itself, and says itself what does not fit.
    from msgspec import inspect

    try:
        return _describe(inspect.type_info(type), around)
    except (TypeError, UsageError):
        return "any"


def _any_custom(node: Any, seen: set[int]) -> bool:
    if id(node) in seen:
        return False
    seen.add(id(node))
    if type(node).__name__ == "CustomType":
        return True
    inner = [getattr(node, name, None) for name in ("item_type", "key_type", "value_type", "type")]
    inner += [*getattr(node, "item_types", ()), *getattr(node, "types", ())]
    inner += [field.type for field in getattr(node, "fields", ())]
    return any(each is not None and _any_custom(each, seen) for each in inner)


def _sorted(items: Any) -> list[Any]:
    from msgspec import msgpack

    return sorted(items, key=msgpack.encode)


_NONE = type(None)
