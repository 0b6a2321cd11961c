"""Frames of bare peers, and what they mean."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerowait.engines.brokerless.plainly.envelope import (
    answered,
    asked,
    event_of,
    filter_of,
    has_form,
    parted,
)
from zerowait.errors import UsageError
from zerowait.plain import Plain, check_plain

FRAMES = st.lists(st.binary(max_size=20), max_size=8)


def plain(*, prefix: str = "", topic_frame: bool = False) -> Plain:
    return Plain("text", bind="tcp://*:1", prefix=prefix, topic_frame=topic_frame)


def test_the_envelope_ends_with_the_first_empty_frame() -> None:
    assert parted([b"", b"body"]) == ([b""], [b"body"])
    assert parted([b"a", b"b", b"", b"body"]) == ([b"a", b"b", b""], [b"body"])
    assert parted([b"a", b"", b"", b"x"]) == ([b"a", b""], [b"", b"x"])
    assert parted([b"body"]) is None
    assert parted([]) is None


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(FRAMES)
def test_whatever_comes_is_parted_so_that_its_envelope_can_go_back(parts: list[bytes]) -> None:
    found = parted(parts)
    if found is None:
        assert b"" not in parts
        return
    envelope, body = found
    assert [*envelope, *body] == parts
    assert envelope[-1] == b""
    assert b"" not in envelope[:-1]


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(st.integers(0, 2**64 - 1), st.binary())
def test_what_a_rep_gives_back_is_found_by_its_number(number: int, body: bytes) -> None:
    sent = asked(number, body)
    found = parted(sent)
    assert found is not None
    assert answered([*found[0], b"answer"]) == (number, [b"answer"])


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(FRAMES)
def test_what_is_no_answer_is_to_nothing(parts: list[bytes]) -> None:
    found = answered(parts)
    if found is not None:
        assert parts[:2] == asked(found[0], b"")[:2]
        assert found[1] == parts[2:]


@pytest.mark.parametrize(
    ("pattern", "prefix", "topic_frame", "wanted"),
    [
        ("weather", "", False, b""),
        ("weather", "10001 ", False, b"10001 "),
        ("weather", "", True, b"weather"),
        ("room.*.heat", "", True, b"room."),
        ("room.a.>", "", True, b"room.a."),
        (">", "", True, b""),
        ("*", "", True, b""),
        ("heat", "house/", True, b"house/"),
    ],
)
def test_what_is_subscribed_to(pattern: str, prefix: str, topic_frame: bool, wanted: bytes) -> None:
    assert filter_of(pattern, plain(prefix=prefix, topic_frame=topic_frame)) == wanted


def test_an_event_of_one_frame_is_of_the_topic_that_was_subscribed_to() -> None:
    assert event_of("weather", plain(prefix="10001 "), [b"10001 7 8"]) == ("weather", b"10001 7 8", "")
    assert event_of("weather", plain(prefix="10001 "), [b"10002 7 8"]) is None
    assert event_of("weather", plain(), [b""]) == ("weather", b"", "")


def test_an_event_of_two_frames_is_of_the_topic_that_it_says() -> None:
    framed = plain(topic_frame=True)
    assert event_of("room.*", framed, [b"room.a", b"7"]) == ("room.a", b"7", "")
    assert event_of("room.*", framed, [b"room.a.b", b"7"]) is None
    assert event_of("room", framed, [b"roomy", b"7"]) is None
    assert event_of("room.*", framed, [b"room.\xff", b"7"]) is None
    assert event_of("room.*", framed, [b"room.*", b"7"]) is None, "a pattern is no topic"


def test_a_name_that_is_none_of_ours_is_said_beside_the_topic_where_its_prefix_was_asked_for() -> None:
    framed = plain(prefix="house/", topic_frame=True)
    assert event_of("heat", framed, [b"house/\xff", b"7"]) == ("heat", b"7", "house/\\xff")
    assert event_of("heat.*", framed, [b"house/a", b"7"]) is None, "no topic of the pattern would fit"


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(
    parts=FRAMES,
    pattern=st.sampled_from(["a", "a.*", "a.>", ">", "*"]),
    prefix=st.sampled_from(["", "a", "a.", "\u00e9"]),
    topic_frame=st.booleans(),
)
def test_whatever_a_publisher_sends_is_an_event_or_none(
    parts: list[bytes], pattern: str, prefix: str, topic_frame: bool
) -> None:
    given_plain = plain(prefix=prefix, topic_frame=topic_frame)
    if not has_form(given_plain, parts):
        return
    found = event_of(pattern, given_plain, parts)
    if found is not None:
        assert parts[0].startswith(filter_of(pattern, given_plain))
        assert found[1] == parts[-1]


def test_what_a_kind_of_channel_cannot_have_is_refused() -> None:
    for kind in ("push", "request"):
        assert check_plain(plain(), kind, "a") == plain()
        for wrong in (plain(prefix="a"), plain(topic_frame=True)):
            with pytest.raises(UsageError, match="for topics"):
                check_plain(wrong, kind, "a")
    with pytest.raises(UsageError, match="streams"):
        check_plain(plain(), "stream", "a")
    with pytest.raises(UsageError, match="several topics"):
        check_plain(plain(), "topic", "a.*")
    assert check_plain(plain(topic_frame=True), "topic", "a.*").topic_frame
