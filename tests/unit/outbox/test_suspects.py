"""What the outbox keeps of deaths (rules §5), in memory as on disk."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec import msgpack

from tests.unit.outbox.boxes import Bench, Time, handled, values
from zerowait.message import Again, Alone, Bury, Change, Death, Mark, Marks, Segment, Settle, Verdict
from zerowait.outbox import ahead
from zerowait.outbox.letters import Letters

Maker = Callable[..., Bench]
X, Y, Z = Death(11, "mail", True, True), Death(12, "mail"), Death(13, "post", True, True, False, 1)


def segment_of(bench: Bench, *names: str) -> Segment:
    bench.push(*names)
    (segment,) = bench.turn()
    return segment


def turn(bench: Bench, *changes: Change) -> list[Segment]:
    """A moment later: two rows of a channel are never due at the same one."""
    bench.time.pass_(0.001)
    return bench.turn(*changes)


def mark(segment: Segment, at: int, *died: Death, cleared: tuple[int, ...] = ()) -> Mark:
    return Mark(segment.channel, segment.epoch, segment.first + at, died, cleared, segment.seq)


def test_a_death_makes_a_row_of_its_own_that_is_offered_again_and_says_so(make: Maker) -> None:
    bench = make()
    segment = segment_of(bench, "a", "b", "c")
    (suspect,) = turn(bench, mark(segment, 1, X))
    assert (suspect.epoch, suspect.first, suspect.count) == (segment.epoch, segment.first + 1, 1)
    assert suspect.marks == Marks((X,))
    assert values([suspect]) == ["b"]
    assert suspect.failures == 0
    turn(bench, handled(segment, 0, 1), handled(segment, 2, 3), handled(suspect))
    assert bench.row().handled == 3
    assert bench.box.is_empty()


def test_a_second_death_is_added_to_the_first(make: Maker) -> None:
    bench = make()
    (once,) = turn(bench, mark(segment_of(bench, "a", "b"), 0, X))
    (twice,) = turn(bench, mark(once, 0, Y))
    assert twice.marks == Marks((X, Y))
    (known,) = turn(bench, mark(twice, 0, Death(12, "", True, True, False, None, 9)))
    assert known.marks == Marks((X, Death(12, "mail", True, True, False, None, 9)))


def test_deaths_of_one_turn_come_together(make: Maker) -> None:
    bench = make()
    segment = segment_of(bench, "a", "b")
    (suspect,) = turn(bench, mark(segment, 0, X), mark(segment, 0, Y), mark(segment, 0, cleared=(11,)))
    assert suspect.marks == Marks((Y,))


def test_who_is_cleared_of_everything_is_a_message_like_others(make: Maker) -> None:
    bench = make()
    (suspect,) = turn(bench, mark(segment_of(bench, "a"), 0, X))
    (free,) = turn(bench, mark(suspect, 0, cleared=(11,)))
    assert free.marks is None


def test_where_it_runs_alone_is_noted_in_place_and_a_death_there_counts_as_alone(make: Maker) -> None:
    bench = make()
    (suspect,) = turn(bench, mark(segment_of(bench, "a", "b"), 0, X))
    assert turn(bench, Alone("mail", suspect.epoch, suspect.first, 13, suspect.seq)) == []
    (dead,) = turn(bench, mark(suspect, 0, Z))
    assert dead.marks == Marks((X, Death(13, "post", True, True, True, 1)))


def test_a_note_of_who_runs_alone_is_kept_although_a_death_is_noted_in_the_same_turn(make: Maker) -> None:
    bench = make()
    (suspect,) = turn(bench, mark(segment_of(bench, "a", "b"), 0, X))
    (once_more,) = turn(bench, mark(suspect, 0, Y), Alone("mail", suspect.epoch, suspect.first, 13, suspect.seq))
    assert once_more.marks == Marks((X, Y), 13)


def test_a_death_that_the_row_tells_already_is_not_noted_again_for_who_has_not_read_it(make: Maker) -> None:
    # Given a suspect that its owner has read, and that is out.
    bench = make()
    (suspect,) = turn(bench, mark(segment_of(bench, "a", "b"), 0, X))
    # When another obituary of the same death names it; then it is not offered a second time.
    assert turn(bench, Mark("", suspect.epoch, suspect.first, (X,))) == []
    # Who had it in hand, and has it no more, gets it again.
    (again,) = turn(bench, mark(suspect, 0, X))
    assert again.marks == Marks((X,))


@pytest.mark.parametrize("others", [(), ("b",)], ids=["a row of its own", "a row of many"])
def test_what_is_learned_of_a_death_makes_the_wait_for_a_retry_no_shorter(
    make: Maker, time: Time, others: tuple[str, ...]
) -> None:
    """Seed 4139. Without: it runs again at once, however long it was to wait."""
    bench = make()
    segment = segment_of(bench, "a", *others)
    # given a message that has failed, and is to run again in a minute
    due = time.now_us() + 60_000_000
    assert turn(bench, Again("mail", segment.epoch, segment.first, 1, due, b"\x80", segment.seq)) == []
    # when an obituary names it, of somebody who had it before
    assert turn(bench, Mark("", segment.epoch, segment.first, (X,))) == []
    # then it is offered when it is due, and says so
    time.pass_(59.0)
    assert bench.turn() == []
    time.pass_(1.1)
    (again,) = bench.turn()
    assert (again.marks, again.failures) == (Marks((X,)), 1)


def test_more_that_is_learned_of_a_death_does_not_change_the_order_of_deaths(make: Maker) -> None:
    bench = make()
    (suspect,) = turn(bench, mark(segment_of(bench, "a", "b"), 0, X, Y))
    (fuller,) = turn(bench, mark(suspect, 0, Death(11, "", True, True, False, None, 9)))
    assert fuller.marks == Marks((Death(11, "mail", True, True, False, None, 9), Y))


def test_the_note_of_who_runs_alone_ends_before_a_failure_of_the_same_turn(make: Maker, time: Time) -> None:
    bench = make()
    (suspect,) = turn(bench, mark(segment_of(bench, "a"), 0, X))
    turn(bench, Alone("mail", suspect.epoch, suspect.first, 13, suspect.seq))
    ended = Alone("mail", suspect.epoch, suspect.first, 0, suspect.seq)
    failed = Again("mail", suspect.epoch, suspect.first, 1, time.now_us(), b"\x80", suspect.seq)
    (again,) = turn(bench, ended, failed)
    assert (again.failures, again.marks) == (1, Marks((X,)))


def test_marks_survive_a_new_life_of_its_owner(on_disk: Maker) -> None:
    bench = on_disk()
    (suspect,) = turn(bench, mark(segment_of(bench, "a", "b"), 1, X))
    turn(bench, Alone("mail", suspect.epoch, suspect.first, 13, suspect.seq))
    bench.reopen()
    marks = {segment.first: segment.marks for segment in bench.turns()}
    assert marks == {suspect.first - 1: None, suspect.first: Marks((X,), 13)}
    # It is found by its name alone, as whoever reads a list of the dead has it.
    (dead,) = turn(bench, Mark("", suspect.epoch, suspect.first, (Z,)))
    assert dead.marks == Marks((X, Death(13, "post", True, True, True, 1)))


def test_a_death_of_what_is_settled_by_now_changes_nothing(make: Maker) -> None:
    bench = make()
    segment = segment_of(bench, "a", "b")
    gone = Settle("mail", segment.epoch, segment.first, 1, Verdict.HANDLED, segment.seq)
    assert turn(bench, gone, mark(segment, 0, X)) == []
    assert turn(bench, mark(segment, 1, X), handled(segment, 1, 2)) == []
    assert bench.row().handled == 2
    assert bench.box.is_empty()


def test_a_dead_letter_of_a_suspect_is_given_back_without_its_marks(make: Maker, time: Time) -> None:
    bench = make()
    (suspect,) = turn(bench, mark(segment_of(bench, "a", "b"), 0, X))
    note = msgpack.encode({"rule": "crashes"})
    turn(bench, Bury("mail", suspect.epoch, suspect.first, 3, note, suspect.seq))
    letters = Letters(bench.box)
    (letter,) = letters.page()
    assert (letter.failures, letter.noted()) == (3, {"rule": "crashes"})
    letters.retry([letter.id])
    time.pass_(1)
    (again,) = turn(bench)
    assert (again.marks, again.failures) == (None, 0)


def test_a_failure_after_a_death_of_the_same_turn_counts(make: Maker, time: Time) -> None:
    bench = make()
    segment = segment_of(bench, "a", "b")
    failed = Again("mail", segment.epoch, segment.first, 1, time.now_us(), b"\x80", segment.seq)
    (again,) = turn(bench, mark(segment, 0, X), failed)
    assert (again.failures, again.marks) == (1, Marks((X,)))
    turn(bench, mark(again, 0, Y), Bury("mail", again.epoch, again.first, 2, b"\x80", again.seq))
    assert bench.row().dead == 1


def test_suspects_do_not_fill_the_room_of_those_that_wait_behind_them(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "CHANNEL_ROWS", 4)
    bench = make()
    segment = segment_of(bench, *"abcdefgh")
    suspects = turn(bench, *(mark(segment, at, X) for at in range(8)))
    assert len(suspects) == 8
    bench.push("z")
    assert values(turn(bench)) == ["z"]
