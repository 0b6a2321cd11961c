"""What could not be sent at once: what goes in fragments, what may pass them, and what stays behind."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from zerowait.engines.brokerless.outlets import FRAGMENTS_A_TURN, Outlets
from zerowait.engines.brokerless.protocol.effects import Effects, Send
from zerowait.engines.brokerless.protocol.frames import (
    FRAGMENT_BYTES,
    FRAME_BYTES,
    Batch,
    Drop,
    Fragment,
    Frame,
    Ping,
    ProtocolError,
    decode,
)
from zerowait.engines.brokerless.protocol.link import Link

CONN, OTHER = 7, 8
LIMIT = 1 << 30
HUGE = b"L" * (5 * FRAGMENT_BYTES)  # five fragments
LARGE = b"N" * (2 * FRAGMENT_BYTES)  # two


class Wire:
    """Takes so many frames of a connection and then blocks. What has left is put together as the other end does it."""

    def __init__(self) -> None:
        self.room: dict[int, int] = {}  # absent: endless
        self.sent: list[tuple[int, bytes]] = []
        self.outlets = Outlets(self._send)

    def _send(self, conn: int, data: bytes) -> bool:
        if self.room.get(conn, 1) <= 0:
            return False
        if conn in self.room:
            self.room[conn] -= 1
        self.sent.append((conn, bytes(data)))
        return True

    def went(self, conn: int = CONN) -> list[str]:
        """All that has left, in a letter each: `l` a fragment of LLL…, and so on; small frames as they are."""
        return [_letter(data) for of, data in self.sent if of == conn]

    def arrived(self, conn: int = CONN) -> list[bytes]:
        """Whole frames, in the order in which the other end has them."""
        link, whole = Link(conn, ours=True, side="both", now=0.0), list[bytes]()
        for of, data in self.sent:
            if of != conn:
                continue
            fragment = _fragment(data)
            if fragment is None:
                whole.append(data)
            elif (frame := link.whole(fragment, LIMIT)) is not None:
                whole.append(bytes(frame))
        return whole

    def drain(self) -> None:
        self.room.clear()
        for _ in range(1_000):
            if not self.outlets:
                return
            self.outlets.flush()
        raise AssertionError("what was blocked never left")


def _fragment(data: bytes) -> Fragment | None:
    try:
        frame = decode(data)
    except ProtocolError:
        return None
    return frame if isinstance(frame, Fragment) else None


def _letter(data: bytes) -> str:
    fragment = _fragment(data)
    return data.decode() if fragment is None else bytes(fragment.data[:1]).decode().lower()


@pytest.fixture
def wire() -> Wire:
    return Wire()


# -- fragments ---------------------------------------------------------------------------------------------------------


def test_a_frame_leaves_at_once_and_whole_up_to_the_size_of_a_frame(wire: Wire) -> None:
    wire.outlets.send(CONN, b"W" * FRAME_BYTES)
    assert wire.sent == [(CONN, b"W" * FRAME_BYTES)]
    assert not wire.outlets


def test_a_larger_one_is_cut_and_arrives_whole(wire: Wire) -> None:
    data = bytes(range(256)) * (FRAME_BYTES // 256) + b"!"
    wire.outlets.send(CONN, data)
    wire.drain()
    assert len(wire.sent) == 2
    assert all(len(piece) <= FRAME_BYTES for _, piece in wire.sent)
    assert wire.arrived() == [data]


def test_fragments_go_a_few_a_turn_and_until_then_there_is_work(wire: Wire) -> None:
    wire.outlets.send(CONN, HUGE)
    assert not wire.sent, "they go with the next flush"
    for _ in range(5 // FRAGMENTS_A_TURN):
        assert wire.outlets.has_fragments()
        before = len(wire.sent)
        wire.outlets.flush()
        assert len(wire.sent) == before + FRAGMENTS_A_TURN
    wire.outlets.flush()
    assert wire.arrived() == [HUGE]
    assert not wire.outlets.has_fragments()
    assert not wire.outlets


@pytest.mark.parametrize("room", [0, 3, 100])
def test_who_is_closed_gets_at_once_what_can_still_leave_and_the_last_word_behind_it(wire: Wire, room: int) -> None:
    wire.room[CONN] = room
    wire.outlets.send(CONN, HUGE, behind=True)
    wire.outlets.send(CONN, b"goodbye", behind=True)
    wire.outlets.finish(CONN)
    assert wire.went() == ["l", "l", "l", "l", "l", "goodbye"][:room]
    assert not wire.outlets


def test_large_frames_of_one_connection_go_one_after_another(wire: Wire) -> None:
    """Side by side they would be more at once than a receiver takes (`FRAGMENTED_AT_ONCE`)."""
    frames = [bytes([65 + n]) * len(HUGE) for n in range(8)]
    for frame in frames:
        wire.outlets.send(CONN, frame)
    wire.drain()
    assert wire.went() == [letter for n in range(8) for letter in [chr(97 + n)] * 5]
    assert wire.arrived() == frames


def test_large_frames_of_different_connections_go_side_by_side(wire: Wire) -> None:
    wire.outlets.send(CONN, HUGE)
    wire.outlets.send(OTHER, HUGE)
    wire.outlets.flush()
    assert len(wire.went(CONN)) == len(wire.went(OTHER)) == FRAGMENTS_A_TURN


# -- what may pass -----------------------------------------------------------------------------------------------------


def test_others_pass_the_fragments_of_a_batch(wire: Wire) -> None:
    wire.outlets.send(CONN, HUGE, passable=True)
    wire.outlets.flush()
    wire.outlets.send(CONN, b"ping")
    wire.drain()
    assert wire.went() == ["l", "l", "ping", "l", "l", "l"]
    assert wire.arrived() == [b"ping", HUGE]


def test_another_large_frame_passes_the_fragments_of_a_batch_too(wire: Wire) -> None:
    wire.outlets.send(CONN, HUGE, passable=True)
    wire.outlets.flush()
    wire.outlets.send(CONN, LARGE, passable=False)
    wire.drain()
    assert wire.arrived() == [LARGE, HUGE]


def test_nothing_passes_any_other_large_frame(wire: Wire) -> None:
    """A large STATE: what follows it speaks of what it says."""
    wire.outlets.send(CONN, LARGE, passable=False)
    wire.outlets.send(CONN, b"held")
    wire.outlets.send(CONN, HUGE, passable=True)
    wire.drain()
    assert wire.went() == ["n", "n", "held", "l", "l", "l", "l", "l"]


def test_a_large_frame_that_blocks_half_way_still_holds_the_others_up(wire: Wire) -> None:
    wire.room[CONN] = 1
    wire.outlets.send(CONN, LARGE, passable=False)
    wire.outlets.flush()
    assert wire.went() == ["n"]
    wire.room[CONN] = 10
    wire.outlets.send(CONN, b"held")
    assert wire.went() == ["n"]
    wire.drain()
    assert wire.arrived() == [LARGE, b"held"]


# -- what stays behind -------------------------------------------------------------------------------------------------


def test_a_drop_that_nobody_asked_for_stays_behind_the_batch_that_it_is_about(wire: Wire) -> None:
    """Before it, it would name what is not there yet; and the batch would be run although it was taken back."""
    wire.outlets.send(CONN, HUGE, passable=True)
    wire.outlets.flush()
    wire.outlets.send(CONN, b"drop", behind=True)
    wire.outlets.send(CONN, b"ping")
    wire.drain()
    assert wire.arrived() == [b"ping", HUGE, b"drop"]


def test_a_large_drop_stays_behind_too(wire: Wire) -> None:
    wire.outlets.send(CONN, HUGE, passable=True)
    wire.outlets.flush()
    wire.outlets.send(CONN, LARGE, passable=False, behind=True)
    wire.drain()
    assert wire.arrived() == [HUGE, LARGE]


def test_with_no_fragments_before_it_nothing_is_behind(wire: Wire) -> None:
    wire.outlets.send(CONN, b"drop", behind=True)
    assert wire.went() == ["drop"]
    wire.outlets.send(OTHER, HUGE, passable=True)
    wire.outlets.send(CONN, b"drop", behind=True)
    assert wire.went() == ["drop", "drop"], "those of another connection are nothing to it"
    wire.outlets.send(CONN, LARGE, passable=False, behind=True)
    wire.outlets.send(CONN, b"batch")
    wire.drain()
    assert wire.arrived()[-2:] == [LARGE, b"batch"], "a large one holds the others up, as any other"


def test_what_is_behind_keeps_its_order(wire: Wire) -> None:
    wire.outlets.send(CONN, HUGE, passable=True)
    for n in range(3):
        wire.outlets.send(CONN, f"drop{n}".encode(), behind=True)
    wire.drain()
    assert wire.arrived() == [HUGE, b"drop0", b"drop1", b"drop2"]


# -- blocked -----------------------------------------------------------------------------------------------------------


def test_what_blocks_is_kept_and_leaves_in_its_order(wire: Wire) -> None:
    wire.room[CONN] = 1
    for n in range(4):
        wire.outlets.send(CONN, f"{n}".encode())
    assert wire.went() == ["0"]
    assert wire.outlets
    assert not wire.outlets.has_fragments(), "to try again without a pause would be of no use"
    wire.room[CONN] = 2
    wire.outlets.send(CONN, b"4")
    assert wire.went() == ["0"], "there is room, but others were before it"
    wire.outlets.flush()
    assert wire.went() == ["0", "1", "2"]
    wire.drain()
    assert wire.went() == ["0", "1", "2", "3", "4"]


def test_a_connection_that_blocks_holds_up_no_other(wire: Wire) -> None:
    wire.room[CONN] = 0
    wire.outlets.send(CONN, b"0")
    wire.outlets.send(OTHER, b"0")
    wire.outlets.send(OTHER, HUGE)
    wire.outlets.flush()
    assert not wire.went(CONN)
    assert wire.went(OTHER) == ["0", "l", "l"]


def test_what_blocked_leaves_before_more_fragments(wire: Wire) -> None:
    wire.outlets.send(CONN, HUGE, passable=True)
    wire.room[CONN] = 0
    wire.outlets.flush()
    wire.outlets.send(CONN, b"ping")
    assert not wire.sent
    wire.room[CONN] = 2
    wire.outlets.flush()
    assert wire.went() == ["ping", "l"]
    wire.drain()
    assert wire.arrived() == [b"ping", HUGE]


# -- the end of a connection -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passable", [True, False])
def test_what_is_kept_for_a_connection_that_is_over_is_forgotten(wire: Wire, passable: bool) -> None:
    wire.room[CONN] = 1
    wire.outlets.send(CONN, HUGE, passable=passable)
    wire.outlets.send(OTHER, HUGE)
    wire.outlets.flush()
    wire.outlets.forget(CONN)
    wire.outlets.forget(CONN)
    wire.outlets.forget(99)
    wire.drain()
    assert wire.went() == ["l"]
    assert wire.arrived(OTHER) == [HUGE]


# -- all of it together ------------------------------------------------------------------------------------------------


class Step(Struct, frozen=True):
    size: int = 10
    passable: bool = False
    behind: bool = False
    room: int = -1  # not a frame: so much room from now on
    flush: bool = False


_SIZES = st.sampled_from([10, 10, 10, FRAME_BYTES + 1, 3 * FRAGMENT_BYTES])
STEPS = st.lists(
    st.one_of(
        st.builds(Step, size=_SIZES, passable=st.booleans()),
        st.builds(Step, size=_SIZES, behind=st.just(value=True)),
        st.builds(Step, room=st.integers(0, 4)),
        st.just(Step(flush=True)),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_whatever_blocks_all_arrives_and_only_what_may_passes(steps: list[Step]) -> None:
    wire, given_ = Wire(), dict[bytes, Step]()
    for number, step in enumerate(steps):
        if step.flush:
            wire.outlets.flush()
        elif step.room >= 0:
            wire.room[CONN] = step.room
        else:
            data = b"%04d" % number + bytes(step.size)
            given_[data] = step
            wire.outlets.send(CONN, data, passable=step.passable, behind=step.behind)
    wire.drain()
    arrived = wire.arrived()
    assert sorted(arrived) == list(given_), "each once, none lost"
    place = {data: at for at, data in enumerate(arrived)}
    names = list(given_)
    for at, early in enumerate(names):
        first = given_[early]
        may_be_passed = first.behind or (first.passable and first.size > FRAME_BYTES)
        for late in names[at + 1 :]:
            if place[late] < place[early]:
                assert may_be_passed, f"{late[:4]!r} has passed {early[:4]!r}"
                assert not given_[late].behind, f"{late[:4]!r} was to stay behind {early[:4]!r}"


def test_which_frames_are_which() -> None:
    """A BATCH may be passed; a DROP stays behind, unless it answers a HELD: that one is awaited."""
    effects = Effects()
    effects.live.add(CONN)
    batch = Batch(1, 1, 1, 1, "c", 0, ((1, 1),), (0, 0), "", {}, {}, {}, {}, {}, 0, memoryview(b""), memoryview(b""))
    said: list[Frame] = [batch, Drop(1), Drop(1, answers=3), Ping(1)]
    for frame in said:
        effects.send(CONN, frame)
    sends = [effect for effect in effects.take() if isinstance(effect, Send)]
    assert [(send.passable, send.behind) for send in sends] == [
        (True, False),
        (False, True),
        (False, False),
        (False, False),
    ]
