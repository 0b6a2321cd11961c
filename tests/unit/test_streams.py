"""Streams as their readers have them, with what comes from the network thread in any order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from zerowait.codec import Codec
from zerowait.engines.brokerless.protocol.effects import Unanswered
from zerowait.engines.brokerless.protocol.frames import Chunk, Outcome, Part, array_of
from zerowait.engines.brokerless.protocol.worker.streams import Outflow
from zerowait.errors import Cancelled, PeerLost, Room
from zerowait.failures import NO_ERRORS
from zerowait.message import UNIT_BYTES, Verdict
from zerowait.outbox.intake import Intake, Limits
from zerowait.replies import Knock
from zerowait.requests.box import COUNTED, Requests
from zerowait.requests.bundle import AskLane, Bundle
from zerowait.streams import Stream, units

BOX, EPOCH = 7, 5


def no_room() -> Room:
    raise AssertionError("there is room")


class Asked:
    """A stream that has been asked for. fed: what its reader has said: (number, limit, over)."""

    def __init__(self) -> None:
        self.fed: list[tuple[int, int, bool]] = []
        intake = Intake(Limits(), durable=False, wake=lambda: None, room=no_room, now_us=lambda: 0)
        intake.make = Bundle
        self.requests = Requests(
            BOX, "asker", intake, epoch=EPOCH, drop=lambda epoch, first, count: None,
            feed=lambda number, limit, over: self.fed.append((number, limit, over)),
            wake=lambda: None, served=lambda channel: "", no_responder=1.0,
        )  # fmt: skip
        lane = AskLane(
            intake, "lines", None, None, timeout=None, out=Codec(Any), errors=NO_ERRORS, requests=self.requests,
            is_stream=True,
        )  # fmt: skip
        bundle, index = lane.append(b"\x01")
        assert isinstance(bundle, Bundle)
        self.bundle, self.index = bundle, index
        self.requests.begin()

    def stream(self) -> Stream[int]:
        return Stream(self.bundle, self.index)

    def ends(self, chunks: int) -> None:
        part = Part(EPOCH, 1, 1, EPOCH, 1)
        self.requests.answered(Outcome(BOX, Verdict.HANDLED, (part,), ((EPOCH, 1, chunks, b""),)))

    def comes(self, serial: int, *items: int) -> None:
        body = array_of([bytes([item]) for item in items], len(items))
        self.requests.chunk(Chunk(BOX, 1, serial, body))

    def is_lost(self) -> None:
        self.requests.unanswered(Unanswered(BOX, EPOCH, 1, 1, "lost", True, "worker"))


def test_items_that_come_after_the_end_of_their_stream_are_read() -> None:
    """On a new connection the end comes first: whoever read waited for ever."""
    asked = Asked()
    stream = asked.stream()
    asked.comes(0, 1, 2)
    asked.ends(chunks=2)
    asked.comes(1, 3)
    assert list(stream) == [1, 2, 3]


def test_a_stream_that_has_ended_is_lost_with_what_has_not_come_of_it() -> None:
    asked = Asked()
    stream = asked.stream()
    asked.comes(0, 1, 2)
    asked.ends(chunks=2)
    asked.is_lost()
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(PeerLost):
        next(stream)


def test_a_stream_that_is_here_whole_is_not_lost_any_more() -> None:
    asked = Asked()
    stream = asked.stream()
    asked.comes(0, 1, 2)
    asked.ends(chunks=1)
    asked.is_lost()
    assert list(stream) == [1, 2]


def test_a_stream_that_has_come_whole_before_its_reader_is_there_is_read() -> None:
    asked = Asked()
    asked.comes(0, 1, 2)
    asked.ends(chunks=1)
    assert list(asked.stream()) == [1, 2]


def test_of_a_stream_that_was_read_nothing_is_kept() -> None:
    asked = Asked()
    stream = asked.stream()
    asked.ends(chunks=1)
    asked.comes(0, 1)
    assert list(stream) == [1]
    asked.requests.begin()
    assert asked.fed[-1][::2] == (1, True)
    assert not asked.bundle.streams
    assert not asked.requests._pieces


def test_of_a_stream_that_was_left_before_all_of_it_had_come_nothing_is_kept() -> None:
    asked = Asked()
    stream = asked.stream()
    asked.ends(chunks=2)
    stream.cancel()
    asked.requests.begin()
    assert asked.fed[-1][::2] == (1, True)
    assert not asked.bundle.streams
    assert not asked.requests._pieces


def test_a_reader_reckons_a_chunk_as_its_producer_did() -> None:
    """By the bytes of all of it, a reader of items below 16 KiB made room for more than had come, and held nobody."""
    ten = b"\xc5" + (10_000).to_bytes(2, "big") + bytes(10_000)
    large = b"\xc6" + (50_000).to_bytes(4, "big") + bytes(50_000)
    for items in ([ten] * 12, [large], [large, ten], [b"\x01"] * 1_024, [bytes(UNIT_BYTES)]):
        flow = Outflow(BOX, 1, 1)
        for item in items:
            flow.put(item)
        assert units(array_of(items, len(items)), len(items)) == flow._used, len(items)


@pytest.mark.parametrize(("size", "ahead"), [(1, 32_768), (1_000, 32_768), (4_000, 8_192), (100_000, 330)])
def test_a_fast_reader_lets_its_producer_get_ahead_by_so_many_items_and_bytes_and_no_more(
    size: int, ahead: int
) -> None:
    item = b"\xc6" + size.to_bytes(4, "big") + bytes(size)
    cost = 1 + len(item) // UNIT_BYTES
    asked = Asked()
    stream = asked.stream()
    for serial in range(40):
        asked.requests.chunk(Chunk(BOX, 1, serial, array_of([item], 1)))
        next(stream)
        assert not stream._next_chunk(), "it waits for the next one: so it makes room for twice as much"
    asked.requests.begin()
    room = asked.fed[-1][1] - 40 * cost
    assert ahead * cost * 0.4 <= room <= ahead * cost


def test_a_stream_that_is_cancelled_gives_nothing_more_and_says_so() -> None:
    """What lay here was still given, and one that was here whole ended as if nothing had happened."""
    for ends, more in ((None, False), (1, False), (2, False), (2, True)):
        asked = Asked()
        stream = asked.stream()
        asked.comes(0, 1, 2, 3)
        if ends is not None:
            asked.ends(chunks=ends)
        assert next(stream) == 1
        stream.cancel()
        if more:
            asked.comes(1, 4)  # on a new connection: that one waited for ever
        with pytest.raises(Cancelled):
            next(stream)
        assert list(stream) == []


def test_a_stream_that_was_read_is_cancelled_no_more() -> None:
    asked = Asked()
    stream = asked.stream()
    asked.comes(0, 1)
    asked.ends(chunks=1)
    assert list(stream) == [1]
    stream.cancel()
    assert list(stream) == []


@pytest.mark.asyncio
async def test_waiting_for_an_item_that_is_given_up_leaves_nothing_behind() -> None:
    asked = Asked()
    stream = asked.stream()
    for _ in range(5):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.001)
    assert not stream._waiting
    asked.comes(0, 1)
    assert await anext(stream) == 1


@pytest.mark.asyncio
async def test_loops_that_wait_for_the_first_time_at_once_do_not_disturb_one_another() -> None:
    """It was a RuntimeError out of `await`, now and then."""
    wakers: dict[Any, Any] = {}

    class OtherLoop:
        def is_closed(self) -> bool:
            wakers[object()] = None  # on another thread, just then
            return False

    wakers[OtherLoop()] = None
    Knock(wakers)
    assert asyncio.get_running_loop() in wakers


def test_counts_of_channels_without_end_are_kept_for_the_newest_and_for_what_is_outstanding() -> None:
    requests = Asked().requests  # one of `lines` is outstanding
    for number in range(COUNTED * 3):
        with requests._lock:
            requests._of(f"made.up.{number}")
    counts = requests.counts()
    assert len(counts) <= 2 * COUNTED
    assert counts["lines"].outstanding == 1
    assert f"made.up.{COUNTED * 3 - 1}" in counts
    assert "made.up.0" not in counts
