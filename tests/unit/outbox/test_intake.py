"""The any-thread side: exact room, nothing lost between threads and exceptions."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from threading import Barrier, Thread
from time import monotonic, sleep, time_ns
from typing import Any, cast

import msgspec
import pytest

from tests.unit.outbox.boxes import Nowhere
from zerowait.client import Client
from zerowait.errors import Closed, QueueFull, StoreError, TooLarge
from zerowait.message import BODY_START, SEGMENT_BYTES, SEGMENT_MESSAGES
from zerowait.outbox import intake as intake_module
from zerowait.outbox.intake import Intake, Limits
from zerowait.outbox.lane import Lane
from zerowait.outbox.sheaf import MESSAGE_COST, Sheaf
from zerowait.receipts import Receipt
from zerowait.turns import SEGMENTS_A_TURN

encoder = msgspec.msgpack.Encoder()


def make(wake: Callable[[], object] = lambda: None, **limits: Any) -> Intake:
    return Intake(Limits(**limits), durable=True, wake=wake, room=Nowhere, now_us=lambda: time_ns() // 1000)


class Pushing:
    """A client that has one lane and nothing else."""

    def __init__(self, lane: Lane) -> None:
        self._lanes = {lane.channel: lane}

    def _first(self, to: str, lane: Lane, value: object) -> Receipt:
        return Receipt(*lane.first(value))

    def _push(self, to: str, value: object, options: dict[str, Any]) -> Receipt:
        """Where a client would say what is wrong with the value."""
        raise TypeError(value)


def push(lane: Lane, value: object) -> tuple[Sheaf, int]:
    receipt: Receipt = cast(Any, Client.push)(Pushing(lane), lane.channel, value)
    return receipt._sheaf, receipt._index


def a_lane(intake: Intake, **options: Any) -> Lane:
    return Lane(intake, "mail", str, encoder.encode_into, **options)


def taken(intake: Intake) -> list[list[object]]:
    values: list[list[object]] = []
    for _, piece in intake.take():
        decoded = msgspec.msgpack.decode(piece.body)
        assert len(decoded) == piece.count
        values.append(decoded)
    return values


def test_pushes_become_one_sheaf_whose_body_is_a_list_of_the_payloads() -> None:
    intake = make()
    lane = a_lane(intake)
    places = [push(lane, f"m{i}") for i in range(5)]
    assert [index for _, index in places] == [0, 1, 2, 3, 4]
    assert len({sheaf for sheaf, _ in places}) == 1
    assert intake.counts() == {"mail": 5}
    assert taken(intake) == [["m0", "m1", "m2", "m3", "m4"]]
    assert taken(intake) == []


def test_the_owner_is_woken_once_for_each_sheaf_and_finds_the_message() -> None:
    found: list[list[list[object]]] = []
    intake = make(wake=lambda: found.append(taken(intake)))
    lane = a_lane(intake)
    push(lane, "first")
    push(lane, "second")
    push(lane, "third")
    assert found == [[["first"]], [["second"]], [["third"]]]


def test_a_sheaf_is_sealed_when_it_has_as_many_messages_as_a_segment_may() -> None:
    intake = make()
    lane = a_lane(intake)
    for i in range(SEGMENT_MESSAGES + 1):
        push(lane, str(i))
    assert [len(values) for values in taken(intake)] == [SEGMENT_MESSAGES, 1]


def test_a_message_that_does_not_fit_into_a_segment_any_more_begins_the_next() -> None:
    intake = make()
    lane = a_lane(intake)
    for i in range(6):
        _, index = push(lane, str(i) * 100_000)
        assert index == i % 2
    values = taken(intake)
    assert [[v[0] for v in some] for some in values] == [["0", "1"], ["2", "3"], ["4", "5"]]  # type: ignore[index]


def test_a_message_larger_than_a_segment_is_alone() -> None:
    intake = make()
    lane = a_lane(intake)
    push(lane, "small")
    push(lane, "L" * SEGMENT_BYTES)
    push(lane, "small again")
    assert sorted(len(values) for values in taken(intake)) == [1, 1, 1]


def test_a_message_over_the_limit_is_refused_and_nothing_of_it_stays() -> None:
    for limit in (1_000, SEGMENT_BYTES + 1_000):
        intake = make(message_bytes=limit)
        lane = a_lane(intake)
        if lane.exact is None:
            lane.append(encoder.encode("small"))
            with pytest.raises(TooLarge):
                lane.append(encoder.encode("x" * (limit + 1)))
        else:
            push(lane, "small")
            with pytest.raises(TooLarge):
                push(lane, "x" * (limit + 1))
        assert taken(intake) == [["small"]]
        intake.settled(1, len(encoder.encode("small")) + MESSAGE_COST)
        assert (intake._messages, intake._bytes) == (0, 0)


def test_an_encoding_that_fails_leaves_nothing_behind() -> None:
    intake = make()
    lane = a_lane(intake)
    push(lane, "good")
    with pytest.raises(TypeError):
        push(lane, ["begun", object()])
    push(lane, "good too")
    assert taken(intake) == [["good", "good too"]]


def test_options_have_sheaves_of_their_own_and_headers_do_not() -> None:
    intake = make()
    lane = a_lane(intake, ttl=10.0)
    lane.append(b"\x01", headers={"a": "b"})
    lane.append(b"\x02")
    lane.append(b"\x03", priority=1)
    lane.append(b"\x04", due=1_000_001)
    lane.append(b"\x05", due=1_000_002, headers={"c": "d"})
    sheaves = intake.take()
    assert [msgspec.msgpack.decode(piece.body) for _, piece in sheaves] == [[1, 2], [3], [4, 5]]
    plain, high, later = (sheaf for sheaf, _ in sheaves)
    assert plain.headers == {0: {"a": "b"}}
    assert plain.terms.expires is not None
    assert abs(plain.terms.expires - plain.terms.accepted_at - 10_000_000) <= 1_000
    assert high.terms.priority == 1
    assert later.terms.due == 1_001_000
    assert later.terms.expires == 11_001_000
    assert later.headers == {1: {"c": "d"}}


@pytest.mark.parametrize("messages", [1, 2, 7, 100, 1_500])
def test_the_limit_in_messages_is_exact_and_at_it_nothing_is_taken(messages: int) -> None:
    intake = make(messages=messages)
    lane = a_lane(intake)
    for _ in range(messages):
        push(lane, "x")
    for _ in range(3):
        with pytest.raises(QueueFull) as refused:
            push(lane, "x")
        assert refused.value.limit_messages == messages
    assert sum(len(values) for values in taken(intake)) == messages
    intake.settled(1, 1 + 1 + MESSAGE_COST)
    push(lane, "y")
    with pytest.raises(QueueFull):
        push(lane, "y")
    assert taken(intake) == [["y"]]


def test_the_limit_in_bytes_is_exact() -> None:
    payload = len(encoder.encode("x" * 36)) + MESSAGE_COST
    for some in (1, 2, 10, 3_000):
        intake = make(nbytes=some * payload + payload - 1)
        lane = a_lane(intake)
        for _ in range(some):
            push(lane, "x" * 36)
        with pytest.raises(QueueFull):
            push(lane, "x" * 36)
        push(lane, "x" * 20)  # it is the bytes that were lacking, and these few are there
        assert sum(len(values) for values in taken(intake)) == some + 1


def test_what_others_have_set_aside_and_not_used_refuses_nobody() -> None:
    intake = make(messages=100)
    lanes = [Lane(intake, f"c{i}", str, encoder.encode_into) for i in range(10)]
    for i in range(100):
        push(lanes[i % 10], "x")
    for lane in lanes:
        with pytest.raises(QueueFull):
            push(lane, "x")
    assert sum(intake.counts().values()) == 100


def test_outputs_of_runs_already_begun_are_taken_beyond_the_limit() -> None:
    intake = make(messages=90)
    lane = a_lane(intake)
    for _ in range(90):
        push(lane, "x")
    with pytest.raises(QueueFull):
        push(lane, "x")
    for _ in range(20):
        lane.append(b"\x01", force=True)
    with pytest.raises(QueueFull):
        lane.append(b"\x01")
    assert intake.counts() == {"mail": 110}


def test_room_is_told_when_a_tenth_is_free_and_not_before() -> None:
    intake = make(messages=100)
    lane = a_lane(intake)
    told: list[str] = []
    for _ in range(100):
        push(lane, "x")
    intake.on_room(lambda: told.append("room"))
    taken(intake)
    intake.settled(9, 9 * 66)
    assert told == []
    intake.settled(1, 66)
    assert told == ["room"]
    intake.on_room(lambda: told.append("at once"))
    assert told == ["room", "at once"]


def test_a_broken_or_closed_outbox_takes_nothing_but_what_was_begun() -> None:
    intake = make()
    lane = a_lane(intake)
    intake.broken = StoreError("no space", path="/x", errno=28)
    with pytest.raises(StoreError) as refused:
        push(lane, "x")
    assert refused.value.errno == 28
    lane.append(b"\x01", force=True)
    intake.broken = None
    intake.take()
    intake.close("uploader")
    with pytest.raises(Closed):
        push(lane, "x")


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads change places between any two instructions."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize(
    ("messages", "nbytes", "channels"), [(1_000, 1 << 30, 1), (64, 1 << 30, 8), (10**9, 50_000, 3)]
)
def test_eight_threads_at_a_small_limit_get_exactly_what_there_is(messages: int, nbytes: int, channels: int) -> None:
    # given a limit far below what is pushed, and an owner that takes and settles meanwhile
    intake = make(messages=messages, nbytes=nbytes)
    lanes = [Lane(intake, f"c{i}", str, encoder.encode_into) for i in range(channels)]
    start = Barrier(9)
    accepted: list[list[object]] = [[] for _ in range(8)]
    refused = [0] * 8

    def pusher(who: int) -> None:
        start.wait()
        for n in range(1_500):
            value = f"{who}-{n}"
            try:
                push(lanes[(who + n) % channels], value)
                accepted[who].append(value)
            except QueueFull:
                refused[who] += 1

    threads = [Thread(target=pusher, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    start.wait()
    got: list[object] = []
    while any(thread.is_alive() for thread in threads) or intake.held:
        for _, piece in intake.take():
            got += msgspec.msgpack.decode(piece.body)
            if len(got) < 2_000:
                intake.settled(piece.count, len(piece.body) - BODY_START + MESSAGE_COST * piece.count)
        sleep(0.0001)
    for _, piece in intake.take():
        got += msgspec.msgpack.decode(piece.body)
    # then every accepted message was taken once, and every attempt has one answer
    assert Counter(got) == Counter(chain.from_iterable(accepted))
    assert sum(map(len, accepted)) + sum(refused) == 8 * 1_500
    assert sum(refused) > 0
    # and room is neither leaked nor overdrawn: exactly what is missing fits
    assert 0 <= intake._messages <= messages
    assert 0 <= intake._bytes <= nbytes
    for _ in range(min(messages - intake._messages, (nbytes - intake._bytes) // (2 + MESSAGE_COST))):
        push(lanes[0], "x")
    with pytest.raises(QueueFull):
        push(lanes[0], "x")


def test_a_sheaf_that_an_exception_took_from_its_slot_is_taken_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a push interrupted between popping the sheaf and binding it to a name
    monkeypatch.setattr(intake_module, "PATIENCE", 0.0)
    monkeypatch.setattr(intake_module, "PATIENCE_TURNS", 3)
    intake = make(messages=10)
    lane = a_lane(intake)
    push(lane, "a")
    push(lane, "b")
    lost = lane.slot.pop()
    # when the owner has looked for it long enough
    turns = [taken(intake) for _ in range(5)]
    # then what is whole is taken, once, and its room is only what it used
    assert [turn for turn in turns if turn] == [[["a", "b"]]]
    assert intake.held == 0
    assert intake._messages == 2
    # and if it was no exception but a slow push, its message comes later, in its own place
    lane.encode_into("late", lost.buffer, -1)  # type: ignore[misc]
    lost.ends.append(len(lost.buffer))
    assert len(lost.ends) - 1 >= lost.last_index
    sheaf, slot, mine, index = lane.full(lost)
    slot.append(sheaf)
    assert (mine, index) == (lost, 2)
    ((again, piece),) = intake.take()
    assert again is lost
    assert (piece.start, piece.count, msgspec.msgpack.decode(piece.body)) == (2, 1, ["late"])
    assert intake._messages == 3


def test_states_of_receipts_follow_what_the_owner_reports() -> None:
    intake = make()
    lane = a_lane(intake)
    sheaf, _ = [push(lane, str(i)) for i in range(6)][-1]
    told: list[str] = []
    sheaf.when_stored(0, lambda: told.append("stored"))
    sheaf.when_settled(1, lambda: told.append("1 settled"))
    sheaf.when_settled(4, lambda: told.append("4 settled"))
    assert sheaf in intake.watched
    intake.take()
    sheaf.sealed(77, 100)
    assert sheaf.state(0) == "accepted"
    sheaf.stored()
    assert told == ["stored"]
    sheaf.moved(100, 6, "sent")
    assert sheaf._states is None
    sheaf.moved(101, 2, "handled")
    sheaf.moved(104, 1, "dead", b"why", 3)
    sheaf.moved(100, 6, "sent")
    assert told == ["stored", "1 settled", "4 settled"]
    assert sheaf not in intake.watched
    assert [sheaf.state(i) for i in range(6)] == ["sent", "handled", "handled", "sent", "dead", "sent"]
    assert sheaf.note(4) == (3, b"why")
    sheaf.moved(104, 1, "stored")
    assert sheaf.state(4) == "stored"
    sheaf.when_settled(2, lambda: told.append("at once"))
    assert told[-1] == "at once"
    sheaf.failed(OSError("gone"))
    assert sheaf.state(2) == "handled"
    assert sheaf.state(3) == "unknown"


def test_a_push_costs_little() -> None:
    intake = make()
    lane = a_lane(intake)
    best = 1.0
    for _ in range(50):
        began = monotonic()
        for _ in range(1_000):
            push(lane, "x" * 20)
        best = min(best, (monotonic() - began) / 1_000)
        intake.take()
    print(f"\none push without its receipt: {best * 1e9:.0f} ns")


def test_an_event_loop_gives_way_only_in_a_turn_that_begins_segment_after_segment() -> None:
    intake, given = make(), list[int]()
    intake.give_way = lambda: given.append(1)
    lane = Lane(intake, "c", bytes, cast(Any, encoder.encode_into))

    def begin_segments(count: int) -> None:
        for _ in range(count):
            lane.first(b"")
            intake.take()

    async def turns() -> None:
        for _ in range(5):
            begin_segments(SEGMENTS_A_TURN)
            await asyncio.sleep(0)
        assert given == [], "others turn in between"
        begin_segments(SEGMENTS_A_TURN + 3)
        assert len(given) == 3

    asyncio.run(turns())
    given.clear()
    begin_segments(3)
    assert len(given) == 3, "a thread that pushes gives way each time"


def test_a_thread_that_pushes_waits_for_those_who_read_back_what_it_has_pushed(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr(intake_module, "sleep", naps.append)
    intake = make()
    lane = Lane(intake, "c", bytes, cast(Any, encoder.encode_into))
    for behind, expected in ((False, []), (True, [intake_module.BEHIND_NAP]), (False, [])):
        naps.clear()
        intake.is_behind = behind
        lane.first(b"")
        intake.take()
        assert naps == expected
