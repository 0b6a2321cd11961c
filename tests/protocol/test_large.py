"""Answers, notes and items of streams that are larger than who asked takes (rules §9): each fails in words, and its
link lives on."""

from __future__ import annotations

from itertools import count

import msgspec
import pytest

from tests.protocol.puppet import BOX, CHANNEL, Puppet, Stage
from tests.protocol.store import segment
from tests.protocol.test_requests import EPOCH, X, give
from tests.protocol.world import Process, Said, World
from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.config import Config
from zerowait.engines.brokerless.protocol.effects import Answered, Cancel
from zerowait.engines.brokerless.protocol.frames import Chunk, Confirm, Credit, Outcome, Owned, array_of
from zerowait.engines.brokerless.protocol.owner.dispatch import Dispatch, Taker
from zerowait.engines.brokerless.protocol.owner.flights import Slice
from zerowait.engines.brokerless.protocol.worker.parcel import Taken
from zerowait.engines.brokerless.protocol.worker.streams import CHUNK_BYTES, Outflow
from zerowait.errors import BadAnswer, RemoteError
from zerowait.failures import NO_ERRORS, unpack
from zerowait.large import NOTE_BYTES
from zerowait.message import SEGMENT_BYTES, Service, Verdict
from zerowait.message import Outcome as Ended

LIMIT = 1_000
ASKED = (Owned(BOX, EPOCH, "asker", False),)
PUSHED = (Owned(BOX, EPOCH, "sender"),)


def packed(size: int) -> bytes:
    """A payload of so many bytes."""
    return b"\xc6" + (size - 5).to_bytes(4, "big") + bytes(size - 5)


def answering(kind: str = "request", most: int = LIMIT) -> tuple[Stage, Puppet]:
    stage = Stage()
    stage.core.serve([Service(CHANNEL, kind, 4)])
    return stage, stage.peer(X, boxes=ASKED, message_bytes=most)


def back(stage: Stage, most: int) -> Puppet:
    return stage.peer(X, boxes=ASKED, serial=2, message_bytes=most)


def answered(owner: Puppet) -> dict[int, bytes | Exception]:
    """Number → what was answered, or what who asked raises."""
    found: dict[int, bytes | Exception] = {}
    for outcome in owner.all(Outcome):
        frames.check_answers(outcome)
        noted = {number: unpack(note, NO_ERRORS, channel=CHANNEL, id="") for _, number, _, note in outcome.notes}
        numbers = [part.first + more for part in outcome.parts for more in range(part.count)]
        rest = [number for number in numbers if number not in noted]
        found |= noted | dict(zip(rest, frames.payloads(outcome.body), strict=True))
    return found


def is_refused(said: object, words: str = "") -> bool:
    return isinstance(said, BadAnswer) and "message_bytes" in said.message and words in said.message


def ends(stage: Stage, many: int, *answers: bytes, note: bytes = b"") -> None:
    taken = stage.take(most=many)
    assert taken is not None
    assert taken.stop - taken.start == many
    stage.core.finish([(taken, taken.start, taken.stop, Ended(Verdict.HANDLED, note=note, answers=b"".join(answers)))])
    stage.step()


def test_an_answer_larger_than_who_asked_takes_is_a_failure_in_words() -> None:
    """It ended their link, and every link on which it came again: the two could say nothing to each other any more."""
    stage, owner = answering()
    part = owner.send(1, n=1, epoch=EPOCH, fence=EPOCH)
    ends(stage, 1, packed(LIMIT + 1))
    (said,) = answered(owner).values()
    assert is_refused(said, "1,001 bytes, and who asked takes 1,000 at most")
    assert "has run" in str(said)
    owner.say(Confirm(BOX, (part,)))
    assert not stage.core.worker.memory.unconfirmed()


def test_an_answer_of_just_so_many_bytes_is_given() -> None:
    stage, owner = answering()
    owner.send(1, n=1, epoch=EPOCH, fence=EPOCH)
    ends(stage, 1, packed(LIMIT))
    assert answered(owner) == {1: packed(LIMIT)}


def test_those_that_end_with_one_that_is_too_large_are_answered() -> None:
    stage, owner = answering()
    owner.send(1, 4, n=1, epoch=EPOCH, fence=EPOCH)
    ends(stage, 4, b"\x01", packed(LIMIT), packed(LIMIT + 1), b"\x04")
    found = answered(owner)
    assert is_refused(found.pop(3))
    assert found == {1: b"\x01", 2: packed(LIMIT), 4: b"\x04"}


def test_answers_that_are_too_large_only_together_travel_apart() -> None:
    """What ran in one job was one frame, however large."""
    most = 4 * CHUNK_BYTES
    stage, owner = answering(most=most)
    owner.send(1, 8, n=1, epoch=EPOCH, fence=EPOCH)
    ends(stage, 8, *[packed(most)] * 8)
    assert answered(owner) == dict.fromkeys(range(1, 9), packed(most))
    assert all(len(outcome.body) <= most + 5 for outcome in owner.all(Outcome))


@pytest.mark.parametrize("before", [LIMIT, 1 << 20])
def test_what_comes_again_on_a_new_link_is_measured_by_that_link(before: int) -> None:
    stage, owner = answering(most=before)
    owner.send(1, 2, n=1, epoch=EPOCH, fence=EPOCH)
    ends(stage, 2, b"\x01", packed(LIMIT + 1))
    assert is_refused(answered(owner)[2]) == (before == LIMIT)
    owner.lose()
    again = back(stage, LIMIT)
    found = answered(again)
    assert found[1] == b"\x01"
    assert is_refused(found[2])
    again.forget()
    again.send(1, 2, n=2, epoch=EPOCH, fence=EPOCH)  # its owner does not know that they were answered
    assert is_refused(answered(again)[2])


def test_a_failure_larger_than_who_asked_takes_comes_without_its_fields() -> None:
    stage, owner = answering()
    owner.send(1, 3, n=1, epoch=EPOCH, fence=EPOCH)
    contract = msgspec.msgpack.encode({"error": "NotFound", "data": bytes(2 * NOTE_BYTES)})
    other = {"type": "ValueError", "message": "no", "traceback": "in f\n" * NOTE_BYTES}
    for note in (contract, msgspec.msgpack.encode(other), b"\xff" * 2 * NOTE_BYTES):
        ends(stage, 1, note=note)
    fields, story, unreadable = answered(owner).values()
    assert isinstance(fields, RemoteError)
    assert fields.type == "NotFound"
    assert "message_bytes" in fields.message
    assert isinstance(story, RemoteError)
    assert (story.type, story.message) == ("ValueError", "no")
    assert "characters left out" in story.traceback
    assert isinstance(unreadable, RemoteError)
    assert all(len(note) < NOTE_BYTES for outcome in owner.all(Outcome) for _, _, _, note in outcome.notes)


def test_a_failure_of_so_few_bytes_is_told_whatever_who_asked_takes() -> None:
    stage, owner = answering()
    owner.send(1, n=1, epoch=EPOCH, fence=EPOCH)
    ends(stage, 1, note=msgspec.msgpack.encode({"type": "E", "message": "no", "traceback": "t" * 2 * LIMIT}))
    (said,) = answered(owner).values()
    assert isinstance(said, RemoteError)
    assert said.traceback == "t" * 2 * LIMIT


def test_why_a_push_failed_is_told_in_few_words_to_an_owner_who_takes_no_more() -> None:
    stage = Stage()
    stage.core.serve([Service(CHANNEL, "push", 4)])
    owner = stage.peer(X, boxes=PUSHED, message_bytes=LIMIT)
    owner.send(1, n=1, epoch=EPOCH, fence=EPOCH)
    note = {"reason": "no", "traceback": "t" * 2 * NOTE_BYTES, "attempts": 1}
    stage.end(stage.take(), Ended(Verdict.DEAD, note=msgspec.msgpack.encode(note)))
    owner.lose()
    again = stage.peer(X, boxes=PUSHED, serial=2, message_bytes=LIMIT)
    for heard in (owner, again):
        ((_, number, _, told),) = heard.last(Outcome).notes
        assert (number, len(told) < NOTE_BYTES) == (1, True)
        said = msgspec.msgpack.decode(told)
        assert (said["reason"], said["attempts"]) == ("no", 1)
        assert "characters left out" in said["traceback"]


@pytest.mark.parametrize("is_cut", [False, True])
def test_two_processes_live_with_an_answer_that_is_too_large_for_one_of_them(is_cut: bool) -> None:
    """Told at once, or on the connection that follows the one on which it was asked; all else goes on."""
    world = World()
    right, serials = world.carry, count(1)

    def carry(sender: Process, conn: int, data: bytes) -> None:
        is_large = len(data) > frames.FRAME_BYTES
        for piece in frames.fragments(data, next(serials)) if is_large else [data]:
            right(sender, conn, piece)

    world.carry = carry  # type: ignore[method-assign]
    told: dict[int, bytes] = {}

    def hear(_: Process, said: Said) -> None:
        if isinstance(said, Answered):
            body = iter(frames.payloads(said.outcome.body))
            notes = {number: note for _, number, _, note in said.outcome.notes}
            for part in said.outcome.parts:
                for number in range(part.first, part.first + part.count):
                    told[number] = notes[number] if number in notes else next(body)

    world.tells = hear
    asker = Process(world, "asker", config=Config(message_bytes=300 << 10))
    replier = Process(world, "replier", services={CHANNEL: 2})
    replier.core.serve([Service(CHANNEL, "request", 2)])
    sizes = {1: 1 << 20, 2: 6}
    replier.handler = lambda _, epoch, number: (0.5, Ended(Verdict.HANDLED, answers=packed(sizes[number])))
    world.dial(asker, replier)
    world.run(0.1)
    asker.ask(CHANNEL, 1, idempotent=False, timeout=60.0, hedge=False)
    world.run(0.2)
    if is_cut:
        world.cut_all(asker, replier)
        world.run(1.0)
        world.dial(asker, replier)
    world.run(1.2)
    connections = world.connections(asker, replier)
    asker.ask(CHANNEL, 1, idempotent=False, timeout=60.0, hedge=False)
    world.run(3.0)
    assert is_refused(unpack(told[1], NO_ERRORS, channel=CHANNEL, id=""))
    assert told[2] == packed(6)
    assert world.connections(asker, replier) == connections
    assert not replier.core.worker.memory.unconfirmed()


# -- streams -----------------------------------------------------------------------------------------------------------


def flowing(most: int = LIMIT) -> tuple[Stage, Puppet, Outflow, Taken]:
    stage, owner = answering("stream", most)
    owner.send(1, n=1, epoch=EPOCH, fence=EPOCH)
    owner.say(Credit(CHANNEL, 0, 64, 0, BOX, 1))
    taken = stage.take()
    assert taken is not None
    return stage, owner, Outflow(BOX, EPOCH, 1), taken


def over(stage: Stage, taken: Taken, verdict: Verdict = Verdict.HANDLED) -> None:
    stage.core.finish([(taken, 0, 1, Ended(verdict, answers=b""))])
    stage.step()


def items(owner: Puppet) -> list[bytes]:
    return [item for chunk in owner.all(Chunk) for item in frames.payloads(chunk.body)]


@pytest.mark.parametrize("verdict", [Verdict.CANCELLED, Verdict.HANDLED])
def test_a_stream_ends_at_an_item_larger_than_its_reader_takes(verdict: Verdict) -> None:
    """What was before it is read. Its handler is stopped, unless it has come to its end meanwhile."""
    stage, owner, flow, taken = flowing()
    give(stage, flow, b"\x01")
    give(stage, flow, b"\x02", packed(LIMIT + 1), b"\x03")
    assert items(owner) == [b"\x01", b"\x02"]
    assert Cancel(BOX, ((EPOCH, 1, 1),)) in stage.effect(Cancel)
    give(stage, flow, b"\x04")
    flow.put(b"\x05")
    over(stage, taken, verdict)
    assert items(owner) == [b"\x01", b"\x02"], "nothing comes behind it"
    ((_, number, chunks, note),) = owner.last(Outcome).notes
    assert (number, chunks) == (1, 2)
    assert is_refused(unpack(note, NO_ERRORS, channel=CHANNEL, id=""), "an item is 1,001 bytes")
    owner.say(Credit(CHANNEL, 0, 64, 2, BOX, 1), Confirm(BOX, owner.last(Outcome).parts))
    assert not len(stage.core.worker.streams)
    assert not stage.core.worker.streams.refused
    assert not stage.core.worker.memory.unconfirmed()


def test_a_last_item_that_is_too_large_is_found_at_the_end() -> None:
    stage, owner, flow, taken = flowing()
    give(stage, flow, b"\x01")
    flow.put(packed(LIMIT + 1))
    over(stage, taken)
    assert items(owner) == [b"\x01"]
    ((_, _, chunks, note),) = owner.last(Outcome).notes
    assert chunks == 1
    assert is_refused(unpack(note, NO_ERRORS, channel=CHANNEL, id=""))


def test_items_that_are_too_large_only_together_are_given() -> None:
    stage, owner, flow, _ = flowing()
    give(stage, flow, *[packed(LIMIT)] * 5)
    assert items(owner) == [packed(LIMIT)] * 5
    assert not stage.effect(Cancel)


@pytest.mark.parametrize("has_ended", [False, True])
def test_items_that_come_again_on_a_new_link_are_measured_by_that_link(has_ended: bool) -> None:
    stage, owner, flow, taken = flowing(1 << 20)
    give(stage, flow, b"\x01")
    give(stage, flow, packed(LIMIT + 1))
    if has_ended:
        over(stage, taken)
    owner.lose()
    again = Puppet(stage, X, boxes=ASKED, serial=2, message_bytes=LIMIT)
    again.greet()
    again.say(frames.State((), ASKED))
    again.say(Credit(CHANNEL, 0, 64, 0, BOX, 1))  # before the DROP that answers HELD
    again.answer()
    if not has_ended:
        over(stage, taken, Verdict.CANCELLED)
    assert items(again) == [b"\x01"]
    ((_, _, chunks, note),) = again.last(Outcome).notes
    assert chunks == 1
    assert is_refused(unpack(note, NO_ERRORS, channel=CHANNEL, id=""))


def test_a_stream_that_is_left_when_it_was_refused_ends_silently() -> None:
    stage, owner, flow, taken = flowing()
    give(stage, flow, packed(LIMIT + 1))
    owner.say(frames.Drop(BOX, 0, ((EPOCH, 1, 1),), True))
    over(stage, taken, Verdict.CANCELLED)
    assert not owner.all(Outcome)
    assert not stage.core.worker.streams.refused
    assert not stage.core.worker.streams._unread


def test_the_whole_of_what_a_peer_takes_arrives_in_fragments() -> None:
    """At its limit: what surrounds it in its frame is not counted."""
    stage, owner = answering(most=1 << 20)
    owner.send(1, n=1, epoch=EPOCH, fence=EPOCH)
    ends(stage, 1, packed(1 << 20))
    body = owner.last(Outcome).body
    assert body == array_of([packed(1 << 20)], 1)


@pytest.mark.parametrize("header_bytes", [10, 8 << 10, 64 << 10])
def test_messages_go_in_batches_that_fit_a_frame_with_the_headers_that_they_carry(header_bytes: int) -> None:
    # Else a thousand small messages with headers were one frame, which their receiver refused on each connection anew.
    dispatch, numbers = Dispatch(), range(1, 301)
    stored = segment(CHANNEL, 5, 1, [10] * len(numbers))
    stored.headers = {number: {"trace": "x" * header_bytes} for number in numbers}
    dispatch.ready([Slice(BOX, stored, 1, len(numbers))])
    found: list[int] = []
    while len(found) < len(numbers):
        for _, piece in dispatch.pick(CHANNEL, [Taker(7, 1_000, {BOX}, 1 << 20)]):
            assert piece.count == 1 or (10 + header_bytes) * piece.count <= SEGMENT_BYTES
            found += range(piece.first, piece.first + piece.count)
    assert found == list(numbers)
