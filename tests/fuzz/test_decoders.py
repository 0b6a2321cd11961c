"""What reads the bytes of others takes any: frames and payloads as they should be, with something done to them. Ten
million of them with `make fuzz`."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz import hostile
from tests.fuzz.__main__ import SHARES
from tests.fuzz.mutations import DEPTHS, PREAMBLE
from tests.fuzz.targets import FRAMES, READERS, TARGETS, read_frame
from zerowait.engines.brokerless.plainly.ports import PlainPorts
from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.link import Link
from zerowait.engines.brokerless.wire import PlainHeard
from zerowait.plain import Plain

EXAMPLES = {"core": 300}  # each is some twenty frames
PEERS_LONGEST = 70_000  # bytes


def test_every_target_has_its_share() -> None:
    assert SHARES.keys() == TARGETS.keys()
    assert sum(SHARES.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_as_it_should_be_is_read(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_happened_to_it_on_the_way_nothing_is_raised_but_what_is_expected(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=EXAMPLES.get(name, 600), derandomize=True, database=None, deadline=None)
    @given(which=st.integers(0, len(target.seeds) - 1), times=st.integers(1, 4), chance=st.integers(0, 2**32))
    def run(which: int, times: int, chance: int) -> None:
        drawn, data = random.Random(chance), target.seeds[which]
        for _ in range(times):
            data = target.mutate(data, drawn, target.seeds)
        target.run(data)

    run()


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "core"])
def test_any_bytes_do_no_harm(name: str) -> None:
    @settings(max_examples=300, derandomize=True, database=None, deadline=None)
    @given(st.binary(max_size=300))
    @example(b"")
    def run(data: bytes) -> None:
        TARGETS[name].run(data)

    run()


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame[:12].hex())
def test_every_bit_may_be_flipped_and_every_frame_end_too_soon(frame: bytes) -> None:
    for at in range(len(frame)):
        read_frame(frame[:at])
        for bit in range(8):
            read_frame(frame[:at] + bytes([frame[at] ^ 1 << bit]) + frame[at + 1 :])


def test_any_two_frames_may_be_put_together() -> None:
    for left in FRAMES:
        for right in FRAMES:
            for at in range(0, len(left), 7):
                read_frame(left[:at] + right)
                read_frame(left[:at] + right[at:])


@pytest.mark.parametrize("depth", [*DEPTHS, PEERS_LONGEST])
@pytest.mark.parametrize("opening", [b"\x91", b"\x81\x01", b"\xdd\x00\x00\x00\x01"])
def test_lists_in_lists_end_a_link_however_deep_they_are(opening: bytes, depth: int) -> None:
    nested = opening * depth + b"\xc0"
    for frame in FRAMES:
        for at in (1, len(frame) // 2, len(frame)):
            read_frame(frame[:at] + nested)
    for name in ("types", "entries"):
        TARGETS[name].run(nested)
    TARGETS["types"].run(b"\x92\xa4list" * min(depth, 3_000) + b"\xa3int")
    for how in range(len(READERS)):
        TARGETS["plain"].run(bytes([how]) + nested)
        TARGETS["plain"].run(bytes([how]) + b"[" * depth + b"]" * depth)


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(
    order=st.permutations(range(4)),
    lost=st.sets(st.integers(0, 3), max_size=2),
    twice=st.sets(st.integers(0, 3), max_size=2),
)
def test_pieces_of_a_frame_make_it_whole_in_their_order_or_end_the_link(
    order: list[int], lost: set[int], twice: set[int]
) -> None:
    data = bytes(range(256)) * (3 * frames.FRAGMENT_BYTES // 256 + 2)
    pieces = [frames.decode(piece) for piece in frames.fragments(data, 7)]
    assert len(pieces) == 4
    sent = [pieces[at] for at in order if at not in lost for _ in range(1 + (at in twice))]
    link, whole = Link(1, ours=True, side="both", now=0.0), None
    with suppress(frames.ProtocolError):
        for piece in sent:
            assert isinstance(piece, frames.Fragment)
            whole = link.whole(piece, len(data)) or whole
    assert whole is None or bytes(whole) == data
    assert (whole is not None) == (sent[:4] == pieces)
    assert sum(len(part) for part, _ in link.parts.values()) <= len(data)


@pytest.mark.parametrize("parts", [0, 2, 3, 64])
def test_a_bare_message_of_another_number_of_frames_is_refused_and_the_next_is_taken(parts: int) -> None:
    ports, taken = PlainPorts(), list[bytes]()
    ports.pull_from("a", Plain("bytes", bind="tcp://127.0.0.1:5599"), bytes, taken.append)
    [port] = ports._ports.values()
    ports._around.by_socket[1] = port
    ports.heard(PlainHeard(1, [b"1"] * parts))
    ports.heard(PlainHeard(1, [b"2"]))
    assert taken == [b"2"]
    assert ports.refused() == {"a": 1}


def test_a_talk_is_what_it_was_when_it_is_written_again() -> None:
    for seed in hostile.SEEDS:
        said = list(hostile.talk(seed))
        assert hostile.written(said) == seed
        assert any(not frame.startswith(frames.MAGIC) or len(frame) > PREAMBLE for _, frame in said)
