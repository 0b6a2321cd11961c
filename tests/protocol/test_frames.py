"""The wire format: what goes out comes in, byte for byte what the documentation shows, and nothing that comes in does
harm."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.protocol.vectors import FOLDER, ONE, TWO, VECTORS, Vector, files
from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.frames import (
    Batch,
    Fragment,
    Frame,
    Goodbye,
    Hello,
    Limits,
    Part,
    Ping,
    ProtocolError,
)
from zerowait.engines.brokerless.protocol.link import Link

U64 = st.integers(0, 2**64 - 1)
SMALL = st.integers(0, 2**31)
quick = settings(max_examples=300, derandomize=True, database=None, deadline=None)


def decode(data: bytes) -> Frame:
    return frames.decode_first(data) if data.startswith(frames.MAGIC) else frames.decode(data)


def plain(frame: Frame) -> Any:
    """The same with bytes for views, which do not compare by content inside a record."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(frame))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{type(v.frame).__name__}-{v.name}")
def test_a_frame_comes_back_as_it_went(vector: Vector) -> None:
    again = decode(frames.encode(vector.frame))
    assert type(again) is type(vector.frame)
    assert plain(again) == plain(vector.frame)


def test_every_frame_has_a_vector() -> None:
    assert {type(vector.frame) for vector in VECTORS} == set(frames.FRAMES)


@pytest.mark.parametrize("name", files())
def test_the_vectors_in_the_documentation_are_what_is_sent(name: str) -> None:
    """When this fails the wire format has changed. If that is meant: python -m tests.protocol.vectors"""
    assert (FOLDER / name).read_text(encoding="utf-8") == files()[name]


def test_no_vector_is_left_over() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(files())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{type(v.frame).__name__}-{v.name}")
def test_fields_that_a_later_version_adds_are_ignored(vector: Vector) -> None:
    data = frames.encode(vector.frame)
    start = 6 if data.startswith(frames.MAGIC) else 0
    longer = [*msgspec.msgpack.decode(data[start:]), "later", {"and": [1, 2]}]
    again = decode(data[:start] + msgspec.msgpack.encode(longer))
    assert plain(again) == plain(vector.frame)


@quick
@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_end_a_link(data: bytes) -> None:
    for read in (frames.decode, frames.decode_first):
        with suppress(ProtocolError):
            read(data)


@quick
@given(
    st.recursive(st.none() | st.booleans() | U64 | st.text(max_size=5) | st.binary(max_size=9), st.lists, max_leaves=20)
)
def test_no_msgpack_does_more_than_end_a_link(value: object) -> None:
    for tag in range(20):
        rest = value if isinstance(value, list) else [value]
        try:
            frame = frames.decode(msgspec.msgpack.encode([tag, *rest]))
            if isinstance(frame, Batch):
                frames.check_batch(frame)
        except ProtocolError:
            pass


@quick
@given(instance=st.integers(1, 2**64 - 1), name=st.text(max_size=64), serial=U64, device=U64, boot=st.text(max_size=36))
def test_a_hello_of_any_process_comes_back(instance: int, name: str, serial: int, device: int, boot: str) -> None:
    hello = Hello(instance, name, 1, boot, device, device, serial, (), Limits())
    assert frames.decode_first(frames.encode(hello)) == hello


@quick
@given(epoch=U64, first=U64, count=U64, fence=U64, n=U64)
def test_numbers_have_all_their_64_bits(epoch: int, first: int, count: int, fence: int, n: int) -> None:
    confirm = frames.Confirm(epoch, (Part(epoch, first, count, fence, n),))
    assert frames.decode(frames.encode(confirm)) == confirm


def test_a_stranger_is_told_apart_from_a_wrong_version() -> None:
    with pytest.raises(ProtocolError) as stranger:
        frames.decode_first(b"GET / HTTP/1.1\r\n")
    assert stranger.value.code == frames.NOT_OURS
    newer = frames.MAGIC + bytes((2, 3)) + b"what nobody can read yet"
    with pytest.raises(ProtocolError) as version:
        frames.decode_first(newer)
    assert version.value.code == frames.NO_COMMON_VERSION
    assert "2 to 3" in version.value.words
    assert "1 to 1" in version.value.words


def test_who_refuses_our_hello_can_say_why_without_one_of_its_own() -> None:
    refusal = Goodbye(frames.NO_COMMON_VERSION, "it speaks protocol 1 to 1, this process 2 to 3: upgrade the older one")
    assert frames.decode_first(frames.encode(refusal)) == refusal


@pytest.mark.parametrize("instance", [0, -1])
def test_a_hello_of_nobody_is_malformed(instance: int) -> None:
    with pytest.raises(ProtocolError) as nobody:
        frames.decode_first(frames.encode(Hello(instance, "a")))
    assert nobody.value.code == frames.MALFORMED


def test_a_second_hello_on_a_connection_is_a_violation() -> None:
    hello = frames.encode(Hello(1, "a"))
    for data in (hello, hello[6:]):
        with pytest.raises(ProtocolError):
            frames.decode(data)


def changed(batch: Batch, **values: Any) -> Batch:
    return msgspec.structs.replace(batch, **values)


@pytest.mark.parametrize(
    "wrong",
    [
        changed(TWO, ranges=()),
        changed(TWO, ranges=((1, 3),)),
        changed(TWO, ranges=((2, 1), (1, 1))),
        changed(TWO, ranges=((1, 1), (1, 1))),
        changed(TWO, ranges=((0, 2),)),
        changed(TWO, ends=memoryview(bytes(TWO.ends)[:7])),
        changed(TWO, body=memoryview(bytes(TWO.body) + b"\xc0")),
        changed(TWO, body=memoryview(b"\x92\xa3one\xa3two")),
        changed(TWO, base=1),
        changed(TWO, body=memoryview(b"")),
        changed(TWO, ranges=((2**62 - 1, 2),)),
        changed(TWO, ranges=((2**64 - 1, 2),)),
        changed(TWO, epoch=2**62),
        changed(TWO, epoch=-1),
    ],
)
def test_a_batch_whose_parts_do_not_fit_is_malformed(wrong: Batch) -> None:
    assert frames.check_batch(TWO) == 2
    assert frames.check_batch(ONE) == 1
    with pytest.raises(ProtocolError):
        frames.check_batch(wrong)


@pytest.mark.parametrize(
    "part",
    [
        Part(1, 1, 0, 1, 1), Part(1, 0, 1, 1, 1), Part(1, 1, 2**60, 1, 1), Part(1, 2**62, 1, 1, 1),
        Part(2**62, 1, 1, 1, 1), Part(-1, 1, 1, 1, 1),
    ],
)  # fmt: skip
def test_a_range_that_no_batch_had_is_malformed(part: Part) -> None:
    with pytest.raises(ProtocolError):
        frames.check_parts([part])


@quick
@given(size=st.integers(1, 5 * frames.FRAGMENT_BYTES))
def test_a_large_frame_goes_in_fragments_and_comes_together_again(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    link = Link(1, ours=True, side="both", now=0.0)
    cut = frames.fragments(data, 7)
    assert all(len(part) <= frames.FRAME_BYTES for part in cut)
    whole = None
    for part in cut:
        fragment = frames.decode(part)
        assert isinstance(fragment, Fragment)
        assert whole is None
        whole = link.whole(fragment, len(data))
    assert whole is not None
    assert bytes(whole) == data
    assert not link.parts


@pytest.mark.parametrize(
    "part",
    [
        Fragment(1, 0, 101, memoryview(b"x")),
        Fragment(1, 5, 50, memoryview(b"x")),
        Fragment(1, 0, 2, memoryview(b"xyz")),
        Fragment(1, 0, 2, memoryview(b"")),
    ],
)
def test_a_fragment_that_does_not_fit_is_a_violation(part: Fragment) -> None:
    link = Link(1, ours=True, side="both", now=0.0)
    with pytest.raises(ProtocolError):
        link.whole(part, 100)


def test_only_a_few_messages_arrive_in_fragments_at_once() -> None:
    link = Link(1, ours=True, side="both", now=0.0)
    for serial in range(4):
        assert link.whole(Fragment(serial, 0, 2, memoryview(b"x")), 100) is None
    with pytest.raises(ProtocolError):
        link.whole(Fragment(9, 0, 2, memoryview(b"x")), 100)


def test_a_ping_is_a_few_bytes() -> None:
    assert len(frames.encode(Ping(300))) == 5
