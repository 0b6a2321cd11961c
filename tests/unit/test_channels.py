from __future__ import annotations

import copy
import pickle
import threading
from dataclasses import dataclass
from timeit import repeat
from typing import Annotated, Any, TypedDict

import msgspec
import pytest

from zerowait.channels import Channel, PushChannel
from zerowait.errors import UsageError
from zerowait.plain import Plain


class RawMail(msgspec.Struct):
    path: str


@dataclass
class Created:
    n: int


class Deleted(TypedDict):
    n: int


PARSE = PushChannel[RawMail]("mail.parse")


def test_a_channel_knows_its_name_kind_and_types() -> None:
    assert (PARSE.name, PARSE.kind, PARSE.types) == ("mail.parse", "push", (RawMail,))
    assert (PARSE.durable, PARSE.ttl, PARSE.plain) == (None, None, None)
    assert isinstance(PARSE, PushChannel)


def test_it_is_shown_as_it_is_written() -> None:
    assert repr(PARSE) == "PushChannel[RawMail]('mail.parse')"
    assert repr(PushChannel[Created | None]("a")) == "PushChannel[Created | None]('a')"
    assert repr(PushChannel[dict[str, int]]("a")) == "PushChannel[dict[str, int]]('a')"


@pytest.mark.parametrize(
    "kind",
    [RawMail, Created, Deleted, Created | Deleted, list[int], None, Annotated[int, msgspec.Meta(ge=0)], Any],
    ids=str,
)
def test_the_brackets_take_every_form_of_type_and_give_the_same_class_each_time(kind: Any) -> None:
    assert PushChannel[kind] is PushChannel[kind]
    assert PushChannel[kind]("a").types == (kind,)


def test_a_type_with_what_cannot_be_hashed_is_taken_too() -> None:
    kind: Any = Annotated[int, {"unhashable": 1}]

    assert PushChannel[kind]("a") == PushChannel[kind]("a")


def test_it_is_equal_by_name_kind_and_types_whatever_else_is_said() -> None:
    same = PushChannel[RawMail]("mail.parse", durable=False, ttl=60)

    assert same == PARSE
    assert hash(same) == hash(PARSE)
    assert {PARSE: 1}[same] == 1
    others: list[object] = [PushChannel[RawMail]("mail.body"), PushChannel[Created]("mail.parse"), "mail.parse"]
    assert PARSE not in others


def test_it_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        PARSE.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    "channel",
    [
        PARSE,
        PushChannel[Created | None]("a", ttl=3, durable=True),
        PushChannel[list[int]]("b", plain=Plain("json", bind="tcp://*:1")),
    ],
    ids=repr,
)
def test_it_can_be_pickled_and_copied(channel: Any) -> None:
    for again in (pickle.loads(pickle.dumps(channel)), copy.copy(channel), copy.deepcopy(channel)):
        assert again == channel
        assert type(again) is type(channel)
        assert (again.durable, again.ttl, again.plain) == (channel.durable, channel.ttl, channel.plain)


def test_two_threads_that_make_the_same_channel_make_equal_ones() -> None:
    class Local(msgspec.Struct):
        a: int

    made: list[Any] = []
    start = threading.Barrier(8)

    def make() -> None:
        start.wait()
        made.append(PushChannel[Local]("a"))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(each == made[0] for each in made)


@pytest.mark.parametrize(
    "name", ["", "a b", "a..b", ".a", "a.", "ä", "a/b", "a.*", "a.>", "a" * 201, "a\n", 3, None], ids=repr
)
def test_a_name_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(UsageError, match="name"):
        PushChannel[int](name)


@pytest.mark.parametrize("name", ["a", "mail.parse", "A-1_b.c", "a" * 200])
def test_dotted_words_are_names(name: str) -> None:
    assert PushChannel[int](name).name == name


def test_only_topics_may_have_stars() -> None:
    with pytest.raises(UsageError, match="Only topics may hold"):
        PushChannel[int]("mail.*")


def test_without_brackets_it_says_what_to_write() -> None:
    with pytest.raises(UsageError, match=r"PushChannel\[RawMail\]\('mail.parse'\)"):
        PushChannel("mail.parse")
    with pytest.raises(UsageError, match="brackets"):
        Channel("mail.parse")  # type: ignore[call-arg]


def test_the_brackets_take_one_type_and_not_its_name() -> None:
    with pytest.raises(UsageError, match="one type, not 2"):
        PushChannel[int, str]  # type: ignore[misc]
    with pytest.raises(UsageError, match="give the type itself"):
        PushChannel["RawMail"]
    with pytest.raises(UsageError, match="has its types already"):
        type(PARSE)[int]  # type: ignore[index]


@pytest.mark.parametrize(
    "wrong",
    [
        {"durable": 1},
        {"durable": "yes"},
        {"ttl": 0},
        {"ttl": -1},
        {"ttl": "1h"},
        {"ttl": True},
        {"ttl": float("inf")},
        {"plain": "tcp"},
    ],
    ids=repr,
)
def test_terms_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        PushChannel[int]("a", **wrong)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"encoding": "xml", "bind": "tcp://*:1"}, "xml"),
        ({"encoding": "text"}, "needs an endpoint"),
        ({"encoding": "text", "bind": "*:1"}, "no endpoint"),
        ({"encoding": "text", "connect": ["tcp://a:1", "tcp://b"]}, "'tcp://b' is no endpoint"),
    ],
    ids=repr,
)
def test_a_plain_peer_that_makes_no_sense_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Plain(**arguments)


def test_a_plain_peers_endpoints_are_kept_as_tuples() -> None:
    plain = Plain("text", bind="tcp://*:5559", connect=["tcp://a:1", "ipc:///run/x"])

    assert (plain.bind, plain.connect) == (("tcp://*:5559",), ("tcp://a:1", "ipc:///run/x"))


def test_its_codec_is_made_at_first_use_and_kept() -> None:
    class Unused(msgspec.Struct):
        event: threading.Event

    channel = PushChannel[Unused]("a")

    with pytest.raises(UsageError, match="cannot hold a"):
        channel.codec()
    assert PARSE.codec() is PushChannel[RawMail]("other").codec()


def test_looking_a_channel_up_costs_hardly_more_than_looking_up_a_string() -> None:
    """Every push does it. A hash or a comparison in Python would cost several times as much."""
    found = {PARSE: 1, "mail.parse": 2}
    assert type(PARSE).__hash__ is msgspec.Struct.__hash__

    by_channel = min(repeat("found[key]", globals={"found": found, "key": PARSE}, number=20_000, repeat=25))
    by_string = min(repeat("found[key]", globals={"found": found, "key": "mail.parse"}, number=20_000, repeat=25))

    assert by_channel < 3 * by_string
