"""Base64 in JSON is bytes where the type, an option, or what was there before says so, and nowhere else."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import msgspec
import pytest

from zerowait.cli.binary import Binary, NotBytes
from zerowait.contract import describe

TEXT = b64encode(b"\x00\xff").decode()


class Part(msgspec.Struct):
    data: bytes
    name: str = ""


class Leaf(msgspec.Struct, tag="leaf"):
    data: bytes


class Twig(msgspec.Struct, tag="twig"):
    data: str
    twigs: list[Twig | Leaf] = []


class Row(msgspec.Struct, array_like=True):
    name: str
    data: bytes | None


@pytest.mark.parametrize(
    ("type", "given", "read"),
    [
        (bytes, TEXT, b"\x00\xff"),
        (str, TEXT, TEXT),
        (bytes | None, TEXT, b"\x00\xff"),
        (bytes | None, None, None),
        (list[bytes], [TEXT, TEXT], [b"\x00\xff"] * 2),
        (tuple[str, bytes], [TEXT, TEXT], [TEXT, b"\x00\xff"]),
        (dict[str, bytes], {"a": TEXT}, {"a": b"\x00\xff"}),
        (Part, {"data": TEXT, "name": TEXT, "other": TEXT}, {"data": b"\x00\xff", "name": TEXT, "other": TEXT}),
        (list[Part] | None, [{"data": TEXT}], [{"data": b"\x00\xff"}]),
        (Row, [TEXT, TEXT], [TEXT, b"\x00\xff"]),
        (
            Twig | Leaf,
            {"type": "twig", "data": TEXT, "twigs": [{"type": "leaf", "data": TEXT}, {"type": "twig", "data": TEXT}]},
            {
                "type": "twig",
                "data": TEXT,
                "twigs": [{"type": "leaf", "data": b"\x00\xff"}, {"type": "twig", "data": TEXT}],
            },
        ),
        (object, {"data": TEXT}, {"data": TEXT}),
        (int, TEXT, TEXT),  # wrong as it is: its worker says so
    ],
)
def test_a_string_is_bytes_where_the_type_has_bytes(type: Any, given: Any, read: Any) -> None:
    assert Binary([describe(type)]).read(given) == read


def test_what_may_be_text_is_left_as_it_is() -> None:
    assert Binary([["union", ["bytes", "str"]]]).read(TEXT) == TEXT
    assert Binary([["union", ["bytes", ["values", ["none"]]]]]).read(TEXT) == TEXT


def test_a_type_that_says_nothing_gives_way_to_one_that_does() -> None:
    assert Binary(["any", describe(Part)]).read({"data": TEXT}) == {"data": b"\x00\xff"}


@pytest.mark.parametrize(
    ("path", "given", "read"),
    [
        ("$", TEXT, b"\x00\xff"),
        ("data", {"data": TEXT, "name": TEXT}, {"data": b"\x00\xff", "name": TEXT}),
        ("parts[].data", {"parts": [{"data": TEXT}]}, {"parts": [{"data": b"\x00\xff"}]}),
        ("$.a.b", {"a": {"b": TEXT}}, {"a": {"b": b"\x00\xff"}}),
        ("[]", [TEXT, 1], [b"\x00\xff", 1]),
    ],
)
def test_a_string_is_bytes_in_a_place_that_was_named(path: str, given: Any, read: Any) -> None:
    assert Binary((), [path]).read(given) == read


def test_a_place_in_which_there_is_no_string_is_named() -> None:
    with pytest.raises(NotBytes, match=r"--bytes date: there is no string in that place"):
        Binary((), ["date"]).read({"data": TEXT})


def test_what_is_no_base64_is_refused_with_its_place() -> None:
    with pytest.raises(NotBytes, match=r"\$\.parts\[1\]\.data is bytes, which JSON has as base64, and this is none"):
        Binary((), ["parts[].data"]).read({"parts": [{"data": TEXT}, {"data": "hello!"}]})


def test_what_bytes_were_before_is_bytes_where_no_type_says_otherwise() -> None:
    before = {"a": b"x", "b": "x", "c": [b"x"], "d": {"e": b"x"}}
    given = {"a": TEXT, "b": TEXT, "c": [TEXT, TEXT], "d": {"e": TEXT}, "new": TEXT}
    read = {"a": b"\x00\xff", "b": TEXT, "c": [b"\x00\xff"] * 2, "d": {"e": b"\x00\xff"}, "new": TEXT}
    assert Binary().read(given, like=before) == read
    typed = Binary([describe(dict[str, str])])
    assert typed.read({"a": TEXT}, like={"a": b"x"}) == {"a": TEXT}


@pytest.mark.parametrize(
    "nonsense", [[], ["up", 3], ["record"], ["union", []], ["union", 7], ["list"], [7], ["map", "str"], ["tuple", 1]]
)
def test_a_description_that_is_none_changes_nothing(nonsense: Any) -> None:
    for given in (TEXT, [TEXT], {"a": TEXT}):
        assert Binary([nonsense]).read(given) == given


def test_what_is_nested_too_deeply_is_refused() -> None:
    given: Any = TEXT
    for _ in range(100_000):
        given = [given]
    with pytest.raises(NotBytes, match="too deeply"):
        Binary().read(given, like=given)
