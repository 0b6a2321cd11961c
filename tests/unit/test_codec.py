from __future__ import annotations

import enum
import ipaddress
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, TypedDict
from uuid import UUID, uuid4

import msgspec
import pydantic
import pytest

from zerowait.agreement import compatible
from zerowait.codec import Codec
from zerowait.contract import describe, fingerprint, type_name
from zerowait.errors import EncodeError, UsageError
from zerowait.faults import fault_of


class Attachment(msgspec.Struct):
    name: str
    size: int


class Mail(msgspec.Struct):
    path: str
    attachments: list[Attachment] = []
    extra: Any = None


@dataclass
class Order:
    number: int
    lines: list[str] = field(default_factory=list[str])


class Reminder(TypedDict):
    to: str
    why: NotRequired[str]


class Point(NamedTuple):
    x: int
    y: int


class Colour(enum.Enum):
    RED = "red"


class Created(msgspec.Struct, tag=True):
    n: int


class Deleted(msgspec.Struct, tag=True):
    n: int


class Node(msgspec.Struct):
    value: int
    next: Node | None = None


class Address(pydantic.BaseModel):
    street: str
    number: int = pydantic.Field(gt=0)


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(alias="fullName")
    born: datetime
    id: UUID
    secret: pydantic.SecretStr
    page: pydantic.HttpUrl
    folder: Path
    host: ipaddress.IPv4Address
    photo: bytes
    tags: set[str]
    address: Address | None = None


class Household(msgspec.Struct):
    address: Address
    people: int


Number = NewType("Number", int)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Mail, Mail("a", [Attachment("x", 1)])),
        (Order, Order(1, ["a"])),
        (Reminder, {"to": "ann"}),
        (Point, Point(1, 2)),
        (str, "ü"),
        (bytes, b"\xff"),
        (int, 2**64 - 1),
        (float, 0.1),
        (bool, True),
        (None, None),
        (list[int], [1, 2]),
        (dict[str, list[float]], {"a": [1.0]}),
        (set[int], {1, 2}),
        (tuple[int, str], (1, "a")),
        (datetime, datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)),
        (date, date(2026, 1, 2)),
        (timedelta, timedelta(seconds=1.5)),
        (UUID, UUID(int=5)),
        (Decimal, Decimal("1.10")),
        (Colour, Colour.RED),
        (int | None, None),
        (Created | Deleted, Deleted(3)),
        (Annotated[int, msgspec.Meta(ge=0)], 3),
        (Literal["a", "b"], "b"),
        (Number, 3),
        (Any, {"a": [1, None, "x"]}),
        (Node, Node(1, Node(2))),
        (Address, Address(street="x", number=1)),
        (list[Address], [Address(street="x", number=1)]),
        (Household, Household(Address(street="x", number=1), 3)),
    ],
    ids=lambda each: type_name(each) if not isinstance(each, (str, bytes)) else None,
)
def test_what_is_encoded_comes_back_equal_alone_and_in_a_list(kind: Any, value: Any) -> None:
    codec: Codec[Any] = Codec(kind)

    payload = codec.encode(value)
    codec.check(value)
    codec.check(value, deep=True)

    assert codec.decode_one(payload) == value
    assert codec.decode_list(memoryview(b"\xdd\x00\x00\x00\x02" + payload + payload)) == [value, value]


def test_a_pydantic_model_keeps_what_json_would_lose() -> None:
    person = Person(
        fullName="Ann",
        born=datetime(2000, 1, 1, tzinfo=UTC),
        id=uuid4(),
        secret=pydantic.SecretStr("password"),
        page=pydantic.HttpUrl("https://example.org/"),
        folder=Path("/tmp"),
        host=ipaddress.IPv4Address("10.0.0.1"),
        photo=b"\xff\x00",
        tags={"a"},
        address=Address(street="x", number=1),
    )
    codec: Codec[Person] = Codec(Person)

    back = codec.decode_one(codec.encode(person))

    assert back == person
    assert back.secret.get_secret_value() == "password"


def test_encoding_that_may_run_python_code_is_not_done_into_a_buffer() -> None:
    assert Codec[Address](Address).encode_into is None
    assert Codec[Household](Household).encode_into is None
    assert Codec[Mail](Mail).encode_into is not None


def test_encoding_into_a_buffer_gives_the_same_bytes() -> None:
    codec: Codec[Mail] = Codec(Mail)
    mail = Mail("a", [Attachment("x", 1)])
    buffer = bytearray(b"head")

    assert codec.encode_into is not None
    codec.encode_into(mail, buffer, -1)

    assert bytes(buffer) == b"head" + codec.encode(mail)


@pytest.mark.parametrize(
    ("kind", "exact"),
    [
        (Mail, Mail),
        (Order, Order),
        (Reminder, dict),
        (str, str),
        (list[int], list),
        (None, type(None)),
        (Annotated[int, msgspec.Meta(ge=0)], int),
        (Number, int),
        (Address, Address),
        (int | None, None),
        (Created | Deleted, None),
        (Any, None),
        (object, None),
        (Literal["a"], None),
        (Sequence[str], None),
    ],
    ids=str,
)
def test_most_types_have_one_class_whose_instances_need_no_further_look(kind: Any, exact: type | None) -> None:
    assert Codec(kind).exact is exact


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, True),
        (int, 1.0),
        (int, "1"),
        (float, True),
        (str, b"a"),
        (bytes, "a"),
        (date, datetime.now(UTC)),
        (list[int], (1,)),
        (Sequence[str], "abc"),
        (Literal["a"], "b"),
        (Literal[1], True),
        (Mail, {"path": "a"}),
        (Mail, Mail),
        (Mail, None),
        (int | None, "a"),
        (Reminder, [("to", "ann")]),
        (Created | Deleted, Mail("a")),
        (Address, {"street": "x", "number": 1}),
    ],
    ids=str,
)
def test_a_value_of_another_type_is_refused_without_encoding_it(kind: Any, value: Any) -> None:
    with pytest.raises(EncodeError) as raised:
        Codec(kind).check(value, channel="mail.parse")

    assert raised.value.path == "$"
    assert str(raised.value).startswith(f"mail.parse takes {type_name(kind)}, and this value is of type ")


class Sub(Mail):
    pass


class Count(int):
    pass


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (float, 1),
        (Mail, Sub("a")),
        (int, Count(3)),
        (bytes, bytearray(b"a")),
        (bytes, memoryview(b"a")),
        (Sequence[str], ["a"]),
        (Sequence[str], ("a",)),
        (object, Mail("a")),
        (Any, 3),
        (int | None, 3),
        (Point, Point(1, 2)),
    ],
    ids=str,
)
def test_a_value_that_fits_is_taken(kind: Any, value: Any) -> None:
    Codec(kind).check(value)


def test_the_class_in_place_of_a_value_is_recognised() -> None:
    with pytest.raises(EncodeError, match="Did you mean a value of it, not the class"):
        Codec(Mail).check(Mail)


@pytest.mark.parametrize(
    ("value", "path", "says"),
    [
        (Mail("a", [Attachment("x", 1), Attachment("y", 2**70)]), "$.attachments[1].size", "more than 64 bits"),
        (Mail("a", extra={"k": [0, threading.Lock()]}), "$.extra['k'][1]", "of type lock, which cannot be encoded"),
        (Mail("\ud800"), "$.path", "not valid Unicode"),
        (Mail("a", extra=Mail), "$.extra", "is the class Mail itself"),
        (Mail("a", extra={1, object()}), "$.extra[…]", "of type object"),
        (Mail("a", extra=Order(1, [object()])), "$.extra.lines[0]", "of type object"),  # type: ignore[list-item]
    ],
)
def test_what_cannot_be_encoded_is_named_by_its_path(value: Mail, path: str, says: str) -> None:
    with pytest.raises(EncodeError) as raised:
        Codec[Mail](Mail).encode(value)

    assert raised.value.path == path
    assert says in str(raised.value)
    assert "nothing was taken" in str(raised.value)


def test_a_value_that_holds_itself_is_named_where_it_begins() -> None:
    inner: list[Any] = []
    inner.append(inner)

    with pytest.raises(EncodeError) as raised:
        Codec[Mail](Mail).encode(Mail("a", extra=inner))

    assert raised.value.path == "$.extra[0]"
    assert "inside itself" in str(raised.value)


def test_a_key_that_cannot_be_encoded_is_named() -> None:
    with pytest.raises(EncodeError, match=r"\$\.extra \(the key <object"):
        Codec[Mail](Mail).encode(Mail("a", extra={object(): 1}))


def test_the_type_is_looked_at_and_only_the_deep_look_sees_its_fields() -> None:
    codec: Codec[Mail] = Codec(Mail)
    wrong = Mail("a", [Attachment("x", "big")])  # type: ignore[arg-type]

    codec.check(wrong)
    with pytest.raises(EncodeError) as raised:
        codec.check(wrong, deep=True)

    assert raised.value.path == "$.attachments[0].size"
    assert "expected int, got str" in str(raised.value)


def test_the_deep_look_at_a_pydantic_model_names_the_field_inside_it() -> None:
    wrong = Household(Address.model_construct(street="x", number=0), 3)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(EncodeError) as raised:
            Codec(Household).check(wrong, deep=True)

    assert raised.value.path == "$.address.number"
    assert "greater than 0" in str(raised.value)


def test_an_untyped_channel_takes_pydantic_models_too() -> None:
    codec: Codec[Any] = Codec(Any)

    assert codec.decode_one(codec.encode({"a": Address(street="x", number=1)})) == {"a": {"street": "x", "number": 1}}


@pytest.mark.parametrize(
    ("payload", "reason", "path"),
    [
        (msgspec.msgpack.encode({"path": 3}), "expected str, got int", "$.path"),
        (msgspec.msgpack.encode({}), "object missing required field path", "$"),
        (
            msgspec.msgpack.encode({"path": "a", "attachments": [{}]}),
            "object missing required field name",
            "$.attachments[0]",
        ),
        (
            msgspec.msgpack.encode([1]),
            "expected object, got array; it is a list: should the stage before yield its items?",
            "$",
        ),
        (b"", "input data was truncated", "$"),
    ],
)
def test_a_payload_that_does_not_fit_is_explained(payload: bytes, reason: str, path: str) -> None:
    with pytest.raises(msgspec.MsgspecError) as raised:
        Codec(Mail).decode_one(payload)

    assert fault_of(raised.value) == (reason, path)


class Handle:
    pass


@pytest.mark.parametrize(
    "kind", [Handle, list[Handle], dict[str, threading.Lock], int | list[int] | tuple[int, ...]], ids=str
)
def test_a_type_that_no_message_can_be_of_is_refused(kind: Any) -> None:
    with pytest.raises(UsageError, match="Messages cannot"):
        Codec(kind)


# What two ends must agree on


class Mail2(msgspec.Struct):
    path: str
    attachments: list[Attachment] = []
    extra: Any = None
    flags: int | None = None


class Mail3(msgspec.Struct):
    path: str
    sender: str


class Mail4(msgspec.Struct):
    path: bytes


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    path: str


class Lazy(msgspec.Struct, omit_defaults=True):
    path: str = ""


class Node2(msgspec.Struct):
    value: str
    next: Node2 | None = None


class MailModel(pydantic.BaseModel):
    path: str


@dataclass
class MailData:
    path: str


class MailDict(TypedDict):
    path: str


class Bare(msgspec.Struct):
    path: str


def test_what_is_the_same_on_the_wire_has_the_same_fingerprint() -> None:
    prints = {fingerprint(describe(each)) for each in (MailModel, MailData, MailDict, Bare)}

    assert len(prints) == 1
    assert len(prints.pop()) == 16


def test_fingerprints_are_settled_for_ever() -> None:
    """They are compared between processes of different versions: these numbers must never change."""
    assert fingerprint(describe(int)).hex() == fingerprint("int").hex()
    assert describe(Mail) == [
        "record",
        None,
        False,
        False,
        [
            [
                "attachments",
                ["list", ["record", None, False, False, [["name", "str", True, True], ["size", "int", True, True]]]],
                False, True,
            ],
            ["extra", "any", False, True],
            ["path", "str", True, True],
        ],
    ]  # fmt: skip
    assert describe(Node) == [
        "record", None, False, False,
        [["next", ["union", [["up", 1], "none"]], False, True], ["value", "int", True, True]],
    ]  # fmt: skip
    assert fingerprint("int").hex() == "64e3ac639a49f08ac1d5f710597ad59e"
    assert fingerprint(describe(Mail)).hex() == "2a3471424b58d2c0276801a4427872a6"


def test_the_order_of_a_unions_members_does_not_matter() -> None:
    assert describe(Created | Deleted) == describe(Deleted | Created)
    assert describe(Literal["a", "b"]) == describe(Literal["b", "a"])


@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        (Mail, Mail2),
        (Mail2, Mail),
        (Mail3, Bare),
        (int, float),
        (UUID, str),
        (Any, Mail),
        (Mail, Any),
        (Created, Created | Deleted),
        (Literal["a"], Literal["a", "b"]),
        (Colour, str),
        (tuple[int, str], list[int | str]),
        (set[int], list[int]),
        (Node, Node),
        (int, int | None),
        (dict[str, Mail], dict[str, Mail2]),
    ],
    ids=str,
)
def test_types_that_can_be_read_as_one_another_agree(sent: Any, wanted: Any) -> None:
    assert compatible(describe(sent), describe(wanted)) is None


@pytest.mark.parametrize(
    ("sent", "wanted", "difference"),
    [
        (Bare, Mail3, "the field sender is expected and is not sent"),
        (Bare, Mail4, "the field path is sent as str and expected as bytes"),
        (list[Bare], list[Mail4], "the field […].path is sent as str and expected as bytes"),
        (Mail3, Closed, "the field sender is sent and not allowed there"),
        (Lazy, Bare, "the field path is expected and is not always sent"),
        (float, int, "the message is sent as float and expected as int"),
        (str, UUID, "the message is sent as str and expected as uuid"),
        (int | None, int, "the message is sent as nothing and expected as int"),
        (
            Created | Deleted,
            Created,
            "the message is sent with the tag type='Deleted' and expected with the tag type='Created'",
        ),
        (Literal["a", "b"], Literal["a"], "the message is sent as one of 'a', 'b' and expected as one of 'a'"),
        (Node, Node2, "the field value is sent as int and expected as str"),
        (list[int], tuple[int, int], "the message is sent as list of int and expected as tuple of int, int"),
    ],
    ids=str,
)
def test_a_difference_is_said_in_words(sent: Any, wanted: Any, difference: str) -> None:
    assert compatible(describe(sent), describe(wanted)) == difference


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Mail, "Mail"),
        (None, "None"),
        (list[int], "list[int]"),
        (Created | None, "Created | None"),
        (dict[str, Mail], "dict[str, Mail]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (Annotated[int, msgspec.Meta(ge=0)], "int"),
        (Literal["a", 1], "Literal['a', 1]"),
        (Any, "Any"),
    ],
    ids=str,
)
def test_types_are_written_as_their_authors_write_them(kind: Any, name: str) -> None:
    assert type_name(kind) == name
