"""An outbox that has filled its disk can still be emptied: the last room is kept for what must be written then."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.unit.outbox.boxes import Bench, Time, handled, values
from zerowait.errors import StoreError
from zerowait.message import Again, Bury
from zerowait.outbox import headroom as headroom_module
from zerowait.outbox.database import Database, Disk
from zerowait.outbox.headroom import KEPT_PART
from zerowait.outbox.outbox import TRY_AGAIN

packed = msgspec.msgpack.encode
Maker = Callable[..., Bench]
MIB = 1 << 20


class Small:
    """A file system of so many bytes, in which somebody else has some, too. It refuses nothing: it says what is free,
    and remembers how much there ever was in it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.size = 2 * MIB
        self.others = 0
        self.most = 0
        real = Database.commit, Database.checkpoint

        def commit(database: Database) -> None:
            real[0](database)
            self.used()

        def checkpoint(database: Database, *, truncate: bool = False) -> None:
            real[1](database, truncate=truncate)
            self.used()

        monkeypatch.setattr(headroom_module, "LOOK_S", 0.0)
        monkeypatch.setattr(Database, "commit", commit)
        monkeypatch.setattr(Database, "checkpoint", checkpoint)
        monkeypatch.setattr(Disk, "room", self.room)

    def room(self, path: Path) -> tuple[int, int]:
        assert path.parent == self.folder
        return max(0, self.size - self.used()), self.size

    def used(self) -> int:
        used = self.others + sum(file.stat().st_size for file in self.folder.iterdir())
        self.most = max(self.most, used)
        return used


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    return Small(tmp_path, monkeypatch)


RNG = random.Random(1)


def text(size: int) -> str:
    return RNG.randbytes(size // 2).hex()


def fill(bench: Bench, size: int, *, turn_each: bool = False) -> int:
    """Pushes, a turn for each or for many small ones, until that is refused; gives how many were taken."""
    for taken in range(100_000):
        try:
            bench.push(text(size))
        except StoreError as error:
            if "so that what it holds can be settled" not in str(error):
                raise
            bench.turn()
            return taken
        if turn_each or size >= 1_000 or taken % 20 == 0:
            bench.turn()
    raise AssertionError("it was never refused")


@pytest.mark.parametrize("size", [100, 2_000, 40_000])
def test_what_has_filled_the_disk_is_settled_and_makes_room(
    on_disk: Maker, time: Time, small: Small, size: int
) -> None:
    # given: pushes that were taken as long as there was room
    bench = on_disk()
    taken = fill(bench, size)
    assert taken * size > MIB // 8
    assert small.most <= small.size
    # when all of it is settled at once, as after a pause of the connection
    bench.turns()
    bench.turn(*[handled(segment) for segment in bench.segments])
    # then that found room, and what was accepted last follows
    assert small.most <= small.size
    time.pass_(1)
    bench.turn(*[handled(segment) for segment in bench.turns()])
    row = bench.row()
    assert (row.accepted, row.handled, row.waiting_and_in_flight) == (taken, taken, 0)
    # and the disk can be filled again
    time.pass_(1)
    bench.turn()
    assert fill(bench, size) > taken // 2
    assert small.most <= small.size


def test_outcomes_that_touch_every_page_are_written_bit_by_bit(on_disk: Maker, small: Small) -> None:
    # given: a disk full of messages that have each a row, and little that is kept
    small.size = MIB // 2
    bench = on_disk()
    fill(bench, 8, turn_each=True)
    bench.turns()
    half = bench.segments[::2]
    # when every second one is handled, and all those outcomes come at once
    bench.turn(*[handled(segment) for segment in half])
    # then they are settled in what is kept
    assert bench.row().handled == len(half)
    assert small.most <= small.size


def test_outcomes_for_which_there_is_room_are_not_written_bit_by_bit(on_disk: Maker, small: Small) -> None:
    # given: more outcomes than there is room for at worst, though nothing is short yet
    small.size = 3 * MIB
    bench = on_disk()
    for number in range(800):
        bench.push(str(number))
        bench.turn()
    bench.turns()
    before = bench.box.turns
    # when they all come at once
    bench.turn(*[handled(segment) for segment in bench.segments[::2]])
    # then as many as surely fit go together: each transaction is a sync, and a few at a time were 25
    assert bench.row().handled == 400
    assert bench.box.turns - before < 12
    assert small.most <= small.size


@pytest.mark.parametrize("change", [Again, Bury])
@pytest.mark.parametrize("size", [2_000, 40_000])
def test_failures_with_long_tracebacks_fit_into_what_is_kept_and_what_is_behind_them_is_settled(
    on_disk: Maker, time: Time, small: Small, change: type[Again | Bury], size: int
) -> None:
    # given: a full disk
    bench = on_disk()
    fill(bench, size)
    bench.turns()
    names = [(each, each.first + at) for each in bench.segments for at in range(each.count)]
    # when half of them fail, each with a story to tell, and all others are handled
    half = len(names) // 2
    told: list[Again | Bury] = []
    for segment, number in names[:half]:
        note = {"reason": "TooOld: 1", "rule": "attempts", "traceback": text(16 << 10), "worker": "w"}
        place = segment.channel, segment.epoch, number
        told.append(
            Bury(*place, 5, packed(note), segment.seq)
            if change is Bury
            else Again(*place, 1, time.now_us() + 10**9, packed(note), segment.seq)
        )
    bench.turn(*told, *[handled(each, number - each.first, number - each.first + 1) for each, number in names[half:]])
    # then all of that was written, into what is kept, each failure with its reason, if without its story
    assert small.most <= small.size
    assert bench.row().handled == len(names) - half
    rows = bench.box.read("SELECT note FROM message WHERE note IS NOT NULL")
    notes = [msgspec.msgpack.decode(note) for (note,) in rows]
    assert len(notes) == half
    assert {each["reason"] for each in notes} == {"TooOld: 1"}
    assert any("no room" in each["traceback"] for each in notes)


@pytest.mark.parametrize(
    "note", [b"\x81\xa1a" + b"\x91" * 20_000 + b"\xc0", packed({"reason": "why", "more": "x" * (6 << 20)})]
)
def test_what_another_process_says_of_a_failure_cannot_fill_what_is_kept_nor_stop_what_is_behind_it(
    on_disk: Maker, small: Small, note: bytes
) -> None:
    # given: a full disk
    bench = on_disk()
    fill(bench, 2_000)
    bench.turns()
    first = bench.segments[0]
    # when a worker tells more of a failure than there is room for, or than can be read
    bench.turn(Bury(first.channel, first.epoch, first.first, 5, note, first.seq), handled(first, 1, 2))
    # then that is not kept, and both are settled
    assert small.most <= small.size
    assert bench.row().handled == 1
    assert bench.row().dead == 1


def test_where_there_is_room_a_failure_keeps_its_story(on_disk: Maker, small: Small) -> None:
    bench = on_disk()
    bench.push("one")
    (segment,) = bench.turn()
    note = packed({"reason": "why", "traceback": text(16 << 10)})
    bench.turn(Bury(segment.channel, segment.epoch, segment.first, 5, note, segment.seq))
    assert bench.box.read("SELECT note FROM message") == [(note,)]


def test_the_disk_is_not_filled_beyond_what_is_kept(on_disk: Maker, small: Small) -> None:
    fill(on_disk(), 5_000)
    assert small.most <= small.size - small.size // KEPT_PART


def test_what_is_too_much_at_once_is_stored_bit_by_bit_in_order(on_disk: Maker, time: Time, small: Small) -> None:
    # given: more in one turn than there is room for
    bench = on_disk()
    sent = [text(40_000) for _ in range(60)]
    bench.push(*sent)
    # when it is stored, and settled as it comes
    got: list[str] = []
    segments = bench.turn(drawn=False) + bench.turns()
    assert 0 < len(segments) < 30
    while segments:
        got += values(segments)
        time.pass_(1)
        segments = bench.turn(*[handled(segment) for segment in segments], drawn=False) + bench.turns()
    # then all of it has come, once, in its order
    assert got == sent
    assert small.most <= small.size
    assert bench.row().handled == len(sent)


def test_who_leaves_stores_what_was_accepted_in_what_is_kept(on_disk: Maker, small: Small) -> None:
    # given: a message accepted and held, for others have taken the room
    bench = on_disk()
    bench.push("first")
    bench.turn()
    sheaf, index = bench.push("held")
    small.others = small.size
    bench.turn()
    assert not sheaf.is_stored(index)
    # when the process leaves
    bench.reopen()
    # then it is there for the next
    assert values(bench.turns()) == ["first", "held"]


def test_what_is_due_or_waits_to_be_read_is_not_late_while_pushes_are_held(
    on_disk: Maker, time: Time, small: Small
) -> None:
    # given: a message that is due soon, and one that is held, for others have taken the room
    bench = on_disk()
    bench.push("soon", due=time.now_us() + 200_000)
    bench.turn()
    bench.push("held")
    small.others = small.size
    bench.turn()
    # then that one is looked for when it is due, and the next time when there may be room again
    assert bench.box.next_due() == pytest.approx(0.2, abs=0.01)
    time.pass_(0.2)
    assert bench.box.next_due() == 0
    assert values(bench.turn()) == ["soon"]
    assert bench.box.next_due() == TRY_AGAIN


def test_pushes_are_held_and_outcomes_are_not_while_others_fill_the_disk(
    on_disk: Maker, time: Time, small: Small
) -> None:
    # given: a disk that others have filled but for what is kept
    bench = on_disk()
    bench.push("first")
    (segment,) = bench.turn()
    small.others = small.size - small.size // KEPT_PART
    sheaf, index = bench.push("held")
    # when the first is settled: then it is, the second is neither stored nor lost, and a third is refused
    assert bench.turn(handled(segment)) == []
    assert bench.row().handled == 1
    assert not sheaf.is_stored(index)
    with pytest.raises(StoreError):
        bench.push("third")
    # when there is room
    small.others = 0
    time.pass_(1)
    # then the second is stored
    assert values(bench.turn()) == ["held"]
    assert sheaf.is_stored(index)
    assert [notice.kind for notice in bench.box.notices] == ["failed", "mended"]


@pytest.mark.parametrize(("many", "size"), [(20, 30_000), (300, 2_000)])
def test_outboxes_that_fill_a_disk_together_leave_room_to_settle(
    on_disk: Maker, small: Small, monkeypatch: pytest.MonkeyPatch, many: int, size: int
) -> None:
    # given: three processes that push much at once, each at the same moment as the others, until all are refused
    monkeypatch.setattr(headroom_module, "LOOK_S", 60.0)
    small.size = 8 * MIB
    benches = [on_disk() for _ in range(3)]
    left = list(benches)
    while left:
        for bench in list(left):
            try:
                bench.push(*[text(size) for _ in range(many)])
            except StoreError:
                left.remove(bench)
            bench.turn()
    # then the disk was never full
    assert small.most <= small.size
    # when all that is stored is settled: then that finds room, whoever begins
    monkeypatch.setattr(headroom_module, "LOOK_S", 0.0)
    for bench in benches:
        stored = sum(segment.count for segment in bench.segments)
        assert stored
        bench.turn(*[handled(segment) for segment in bench.segments])
        assert bench.row().handled == stored
    assert small.most <= small.size


def test_what_an_outbox_does_not_need_is_left_to_others_where_room_is_scarce(on_disk: Maker, small: Small) -> None:
    # given: one that was full, and is empty
    bench = on_disk()
    fill(bench, 2_000)
    bench.turns()
    bench.turn(*[handled(segment) for segment in bench.segments])
    # when it rests
    while bench.box.rest():
        pass
    # then another can have the disk
    assert small.used() < small.size // 4


def test_a_file_system_that_does_not_say_what_is_free_is_not_taken_for_full(
    tmp_path: Path, on_disk: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: one in user space that leaves all of it zero, as libfuse does
    nothing = os.statvfs_result((512, 0, 0, 0, 0, 0, 0, 0, 0, 255))

    def statvfs(_: Path) -> os.statvfs_result:
        return nothing

    monkeypatch.setattr(os, "statvfs", statvfs)
    # when something is pushed: then it is stored
    bench = on_disk()
    bench.push("first")
    assert values(bench.turn()) == ["first"]
    bench.push("second")
    assert values(bench.turn()) == ["second"]


def test_what_handlers_send_leaves_half_of_what_is_kept_to_what_settles(
    on_disk: Maker, time: Time, small: Small
) -> None:
    """Without: a worker that sends beside an owner on the same full disk uses up what the owner needs to settle, and
    both stand still."""
    # given: the outbox of a worker that sends, and pushes nothing itself
    bench = on_disk()
    kept = small.size // KEPT_PART

    def pressure(free: int) -> int:
        small.others = 0
        small.others = small.size - small.used() - free
        bench.turn()
        return bench.intake.pressure(0)

    # when others fill its disk: then it takes one message at a time, and nothing once half of what is kept is used
    assert pressure(MIB) == 0
    assert bench.box.next_due() is None
    assert pressure(kept - 4_096) == 1
    assert pressure(kept // 2 - 65_536) == 2
    # and looks by itself whether there is room
    assert bench.box.next_due() == TRY_AGAIN
    assert pressure(MIB) == 0
