"""Outcomes that a worker keeps, what its runs have sent, and the stub that says which run was chosen: on disk and in
memory alike."""

from __future__ import annotations

import random
from array import array

import apsw
import pytest

from tests.unit.outbox.boxes import Bench, Time, encoder, handled, values
from tests.unit.outbox.conftest import Maker
from tests.unit.outbox.faults import Faults
from zerowait.errors import StoreError
from zerowait.message import (
    BODY_HEADER,
    BODY_START,
    Bury,
    Choose,
    Discard,
    Keep,
    Prepared,
    Release,
    Segment,
    Spool,
    Unspool,
    Unstub,
    Verdict,
)
from zerowait.outbox import claims
from zerowait.outbox.database import Database
from zerowait.outbox.ledger import Tally
from zerowait.outbox.outbox import Outbox
from zerowait.outbox.settlement import Dropped

ORIGIN = 0xF00D
MINE, THEIRS = 0xAAAA, 0xBBBB


def prepared(*sent: tuple[int, object], channel: str = "next", **options: object) -> Prepared:
    """Each with the number of the message that it is sent for."""
    body, ends = bytearray(BODY_START), array("I")
    for _, value in sent:
        body += encoder.encode(value)
        ends.append(len(body))
    BODY_HEADER.pack_into(body, 0, 0xDD, len(sent))
    return Prepared(channel, body, ends.tobytes(), [number for number, _ in sent], 5, **options)  # type: ignore[arg-type]


def keep(first: int, count: int = 1, *parts: Prepared, n: int = 1, verdict: Verdict = Verdict.HANDLED) -> Keep:
    return Keep(ORIGIN, 3, first, count, 3, n, verdict, prepared=parts)


def release(first: int, count: int = 1, *, n: int = 1, unasked: bool = False) -> Release:
    return Release(ORIGIN, 3, first, count, 3, n, unasked)


def discard(first: int, count: int = 1, *, n: int = 1) -> Discard:
    return Discard(ORIGIN, 3, first, count, 3, n)


def rows(bench: Bench) -> dict[int, int]:
    """How many messages are in the tables, by state."""
    counted: list[tuple[int, int]] = bench.box.read("SELECT state, sum(count) FROM message GROUP BY state")
    return dict(counted)


# -- what handlers send ------------------------------------------------------------------------------------------------


def test_what_is_prepared_is_neither_offered_nor_in_the_ledger_and_takes_room(make: Maker) -> None:
    bench = make()
    assert bench.turn(keep(1, 2, prepared((1, "a"), (2, "bb")))) == []
    assert bench.row("next").accepted == 0
    assert bench.box.prepared() == 2
    messages, nbytes = bench.room()
    assert messages == 2
    assert nbytes > 2 * 64
    assert not bench.box.is_empty()


def test_what_was_chosen_gets_numbers_enters_the_ledger_and_leaves(make: Maker) -> None:
    bench = make()
    bench.push("first", channel="next")
    bench.turn()
    bench.turn(keep(1, 2, prepared((1, "a"), (2, "b")), prepared((2, "else"), channel="more")))
    room = bench.room()
    segments = bench.turn(release(1, 2))
    assert {segment.channel: values([segment]) for segment in segments} == {"next": ["a", "b"], "more": ["else"]}
    assert {segment.epoch for segment in segments} == {bench.box.epoch}
    numbers = sorted(n for each in segments for n in range(each.first, each.first + each.count))
    assert numbers == [2, 3, 4], "a number is given twice, or left out"
    assert bench.row("next").accepted == 3
    assert bench.row("more").accepted == 1
    assert bench.room() == room
    for segment in segments:
        bench.turn(handled(segment))
    assert bench.row("next").handled == 2
    assert bench.box.prepared() == 0


def test_what_was_not_chosen_goes_with_its_room(make: Maker) -> None:
    bench = make()
    bench.turn(keep(1, 3, prepared((1, "a"), (3, "b"))))
    assert bench.turn(discard(1, 3)) == []
    assert bench.room() == (0, 0)
    assert bench.box.is_empty()
    assert bench.turn(release(1, 3)) == []
    assert bench.row("next").accepted == 0


def test_a_release_that_comes_twice_releases_once(make: Maker) -> None:
    bench = make()
    bench.turn(keep(1, 1, prepared((1, "a"))))
    assert values(bench.turn(release(1), release(1))) == ["a"]
    assert bench.turn(release(1)) == []
    assert bench.row("next").accepted == 1


def test_a_part_of_what_runs_sent_is_chosen_and_the_rest_is_not(make: Maker) -> None:
    bench = make()
    headers = {0: {"n": "0"}, 3: {"n": "3"}}
    bench.turn(keep(1, 4, prepared((1, "a"), (1, "aa"), (3, "c"), (4, "d"), headers=headers)))
    (segment,) = bench.turn(release(3, 2))
    assert values([segment]) == ["c", "d"]
    assert segment.headers == {segment.first + 1: {"n": "3"}}
    assert bench.room()[0] == 4
    assert bench.turn(discard(2)) == []  # it sent nothing
    (segment,) = bench.turn(release(1))
    assert values([segment]) == ["a", "aa"]
    assert segment.headers == {segment.first: {"n": "0"}}


def test_any_choice_of_parts_gives_each_output_of_the_chosen_once_and_no_other(make: Maker) -> None:
    for seed in range(30):
        rng = random.Random(seed)
        bench = make()
        sent = [(number, f"{number}-{n}") for number in range(1, 13) for n in range(rng.choice((0, 1, 1, 2)))]
        first, second = [each for each in sent if rng.random() < 0.5], []
        second = [each for each in sent if each not in first]
        parts = [prepared(*some) for some in (first, second) if some]
        bench.turn(keep(1, 12, *parts))
        chosen: set[int] = set()
        got: list[str] = []
        at = 1
        while at <= 12:
            count = min(rng.randint(1, 4), 13 - at)
            if rng.random() < 0.6:
                chosen.update(range(at, at + count))
                got += values(bench.turn(release(at, count)))
            else:
                bench.turn(discard(at, count))
            if rng.random() < 0.2 and bench.box.durable:
                bench.reopen()
                got += [value for value in values(bench.turns()) if value not in got]
            at += count
        assert sorted(got) == sorted(value for number, value in sent if number in chosen), seed
        assert bench.box.prepared() == 0


def test_only_the_outcome_of_that_dispatch_is_released_or_dropped(make: Maker) -> None:
    bench = make()
    bench.turn(keep(1, 1, prepared((1, "new")), n=2))
    assert bench.turn(release(1, n=1), discard(1, n=1)) == []
    assert bench.box.prepared() == 1
    assert values(bench.turn(release(1, n=2))) == ["new"]


def test_a_later_outcome_of_the_same_message_takes_the_place_of_the_earlier(make: Maker) -> None:
    bench = make()
    bench.turn(keep(1, 1, prepared((1, "old")), n=1))
    bench.turn(keep(1, 1, prepared((1, "new")), n=2))
    assert bench.room()[0] == 1
    assert values(bench.turn(release(1, n=2))) == ["new"]


def test_due_and_expiry_of_what_was_sent_count_from_when_it_was_sent(make: Maker, time: Time) -> None:
    bench = make()
    now = time.now_us()
    bench.turn(keep(1, 1, prepared((1, "later"), due=now + 5_000_000)))
    bench.turn(keep(2, 1, prepared((2, "short"), expires=now + 2_000_000)))
    assert bench.turn(release(1)) == []
    time.pass_(3)
    bench.turn(release(2))
    time.pass_(3)
    assert "later" in values(bench.turns())


def test_what_does_not_stay_in_memory_is_read_again_when_it_is_chosen(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zerowait.outbox.claims.IN_MEMORY_BYTES", 10)
    bench = make()
    bench.turn(keep(1, 1, prepared((1, "a" * 50))), keep(2, 1, prepared((2, "b" * 50))))
    segments = bench.turn(release(1, 2))
    segments += bench.turns()
    assert sorted(values(segments)) == ["a" * 50, "b" * 50]


# -- another life ------------------------------------------------------------------------------------------------------


def test_another_life_finds_what_was_kept_and_releases_it(on_disk: Maker) -> None:
    bench = on_disk()
    bench.turn(keep(1, 3, prepared((1, "a"), (3, "b"))), keep(9, verdict=Verdict.RETRY))
    bench.turn(release(3))
    bench.reopen()
    told = {(kept.first, kept.count): (kept.verdict, kept.has_outputs) for kept in bench.box.kept}
    assert told == {
        (1, 2): (Verdict.HANDLED, True),
        (3, 1): (Verdict.RELEASED, True),
        (9, 1): (Verdict.RETRY, False),
    }
    assert values(bench.turns()) == ["b"]
    assert bench.room()[0] == 2
    segments = bench.turn(release(1, 2))
    segments += bench.turns()
    assert values(segments) == ["a"]
    bench.turn(discard(1, 3), discard(9))
    bench.reopen()
    assert bench.box.kept == ()


def test_a_failure_is_kept_with_what_was_said_of_it(on_disk: Maker) -> None:
    bench = on_disk()
    bench.turn(Keep(ORIGIN, 3, 1, 1, 3, 7, Verdict.RETRY, 1_500, b"why"))
    bench.reopen()
    (kept,) = bench.box.kept
    assert (kept.verdict, kept.after_ms, kept.note, kept.n) == (Verdict.RETRY, 1_500, b"why", 7)


def test_what_is_prepared_without_an_outcome_goes_at_the_opening(on_disk: Maker) -> None:
    bench = on_disk()
    bench.turn(keep(1, 1, prepared((1, "a"))))
    bench.box.amend(_without_outcome)
    bench.reopen()
    assert rows(bench) == {}
    assert bench.box.is_empty()


def _without_outcome(database: Database, tally: Tally) -> Dropped:
    database.run("DELETE FROM outcome")
    return Dropped()


def test_released_without_a_choice_is_still_asked_about_and_leaves_once(make: Maker) -> None:
    bench = make()
    bench.turn(keep(1, 1, prepared((1, "a"))))
    assert values(bench.turn(release(1, unasked=True))) == ["a"]
    assert bench.box.prepared() == 0
    if bench.box.durable:
        bench.reopen()
        bench.turns()
        assert [kept.verdict for kept in bench.box.kept] == [Verdict.HANDLED]
    assert bench.turn(release(1)) == []
    assert bench.row("next").accepted == 1


def test_what_is_said_twice_is_kept_once(make: Maker) -> None:
    bench = make()
    change = keep(1, 1, prepared((1, "a")))
    bench.turn(change, change)
    bench.turn(change)
    assert bench.room()[0] == 1
    bench.turn(release(1))
    assert bench.turn(change) == []
    assert bench.row("next").accepted == 1


def test_a_commit_that_fails_has_kept_nothing_and_the_next_one_keeps_it_once(
    faults: Faults, on_disk: Maker, time: Time
) -> None:
    bench = on_disk()
    bench.push("there", channel="next")
    bench.turn()
    faults.failing, faults.what = apsw.IOError, {"write"}
    change = keep(1, 1, prepared((1, "a")))
    with pytest.raises(StoreError):
        bench.box.turn([change])
    assert not change.is_kept
    faults.failing = None
    time.pass_(2)
    bench.turns()
    assert change.is_kept
    assert bench.box.prepared() == 1
    segments = bench.turn(release(1))
    segments += bench.turns()
    assert values(segments).count("a") == 1


# -- whose run was chosen ----------------------------------------------------------------------------------------------


def choose(segment: Segment, outputs: int, at: int = 0, count: int | None = None, *, seen: bool = True) -> Choose:
    return Choose(
        segment.channel if seen else "", segment.epoch, segment.first + at,
        segment.count if count is None else count, outputs, segment.seq if seen else 0,
    )  # fmt: skip


def test_the_first_who_asks_is_chosen_and_a_stub_says_so_to_the_others(make: Maker) -> None:
    bench = make()
    bench.push("a", "b", "c")
    (segment,) = bench.turn()
    first, other = choose(segment, MINE, 0, 2), choose(segment, THEIRS, 0, 3, seen=False)
    bench.turn(first)
    assert first.chosen == ((segment.first, 2),)
    bench.turn(other)
    assert other.chosen == ((segment.first + 2, 1),)
    again = choose(segment, MINE, 0, 3, seen=False)
    bench.turn(again)
    assert again.chosen == ((segment.first, 2),), "the same run is told the same again"
    row = bench.row()
    assert (row.handled, row.waiting_and_in_flight, row.nbytes) == (3, 0, 0)
    assert bench.box.stubs() == 3
    assert bench.room() == (0, 0), "stubs count for no limit"
    assert rows(bench) == {2: 3}


def test_two_who_ask_in_one_turn_are_not_both_chosen(make: Maker) -> None:
    bench = make()
    bench.push("a")
    (segment,) = bench.turn()
    first, other = choose(segment, MINE), choose(segment, THEIRS, seen=False)
    bench.turn(first, other)
    assert (first.chosen, other.chosen) == (((segment.first, 1),), ())


def test_a_stub_goes_when_the_outputs_are_released_and_then_nobody_is_chosen(make: Maker) -> None:
    bench = make()
    bench.push("a", "b", "c")
    (segment,) = bench.turn()
    bench.turn(choose(segment, MINE))
    bench.turn(Unstub(segment.epoch, segment.first + 1, 1, MINE), Unstub(segment.epoch, segment.first, 1, THEIRS))
    assert bench.box.stubs() == 2
    late = choose(segment, MINE, seen=False)
    bench.turn(late)
    assert late.chosen == ((segment.first, 1), (segment.first + 2, 1))
    bench.turn(Unstub(segment.epoch, segment.first, 3, MINE))
    assert bench.box.stubs() == 0
    assert bench.box.is_empty()


def test_a_stub_outlives_its_process_and_keeps_its_file(on_disk: Maker) -> None:
    bench = on_disk()
    bench.push("a", "b")
    (segment,) = bench.turn()
    bench.turn(choose(segment, MINE))
    bench.reopen()
    assert bench.box.stubs() == 2
    assert bench.turns() == []
    late = choose(segment, THEIRS, seen=False)
    bench.turn(late)
    assert late.chosen == ()
    bench.turn(Unstub(segment.epoch, segment.first, 2, MINE))
    assert bench.box.is_empty()


def test_a_stub_of_which_nothing_is_ever_said_goes_after_its_days(make: Maker, time: Time) -> None:
    bench = make(choice_days=2.0)
    bench.push("a")
    (segment,) = bench.turn()
    bench.turn(choose(segment, MINE))
    time.pass_(86_400)
    bench.push("another")
    bench.turn()
    assert bench.box.stubs() == 1
    time.pass_(86_400 + 3_600)
    bench.push("another")
    bench.turn()
    assert bench.box.stubs() == 0


def test_a_dead_letter_is_chosen_for_nobody(make: Maker) -> None:
    bench = make()
    bench.push("a")
    (segment,) = bench.turn()
    bench.turn(Bury("mail", segment.epoch, segment.first, 1, b"", segment.seq))
    late = choose(segment, MINE, seen=False)
    bench.turn(late)
    assert late.chosen == ()
    assert bench.row().dead == 1


def test_both_ends_may_lie_in_one_outbox(make: Maker) -> None:
    """A process that serves what it pushes: its outbox owns the input and prepares the outputs."""
    bench = make()
    bench.push("in")
    (segment,) = bench.turn()
    box: Outbox = bench.box
    sent = prepared((segment.first, "out"))
    bench.turn(Keep(box.id, segment.epoch, segment.first, 1, box.epoch, 1, Verdict.HANDLED, prepared=[sent]))
    chosen = choose(segment, box.id)
    bench.turn(chosen)
    assert chosen.chosen == ((segment.first, 1),)
    out = bench.turn(Release(box.id, segment.epoch, segment.first, 1, box.epoch, 1))
    assert values(out) == ["out"]
    bench.turn(
        Unstub(segment.epoch, segment.first, 1, box.id), Discard(box.id, segment.epoch, segment.first, 1, box.epoch, 1)
    )
    bench.turn(handled(out[0]))
    assert bench.box.is_empty()


def test_an_output_with_an_id_that_was_accepted_before_is_not_accepted_again(make: Maker) -> None:
    bench = make()
    bench.turn(keep(1, 1, prepared((1, "a"), id="x")), keep(2, 1, prepared((2, "b"), id="x")))
    bench.turn(keep(3, 1, prepared((3, "c"), id="y")))
    if bench.box.durable:
        bench.reopen()
    segments = bench.turn(release(1))
    segments += bench.turn(release(2), release(3))
    segments += bench.turns()
    assert sorted(values(segments)) == ["a", "c"]
    assert bench.row("next").accepted == 2
    bench.push("again", channel="next", id="x")
    assert bench.turn() == []
    assert bench.room()[0] == 2


# -- what a run sends while it goes on ---------------------------------------------------------------------------------


def spool(number: int, *parts: Prepared) -> tuple[Spool, list[str]]:
    told: list[str] = []
    return Spool(ORIGIN, 3, number, 0, parts, lambda: told.append("stored")), told


def test_what_was_spooled_is_kept_with_its_run_and_read_again_when_it_is_chosen(make: Maker) -> None:
    bench = make()
    parts = [prepared((1, "a"), (1, "b")), prepared((1, "c"), channel="more")]
    change, told = spool(1, *parts)
    bench.turn(change)
    assert told == ["stored"]
    assert bench.room()[0] == 3
    assert not parts[0].body, "it need not lie in memory any more"
    bench.turn(keep(1, 1, *parts, prepared((1, "last"))))
    assert bench.room()[0] == 4
    segments = bench.turn(release(1))
    segments += bench.turns()
    assert sorted(values(segments)) == ["a", "b", "c", "last"]


def test_spooled_and_kept_in_one_turn_it_is_there_once(make: Maker) -> None:
    bench = make()
    part = prepared((1, "a"))
    bench.turn(spool(1, part)[0], keep(1, 1, part), release(1))
    assert values(bench.turns()) in ([], ["a"])
    assert bench.row("next").accepted == 1
    assert bench.room()[0] == 1


def test_what_a_failed_run_had_spooled_goes_with_its_room(make: Maker) -> None:
    bench = make()
    part, other = prepared((1, "a")), prepared((2, "b"))
    bench.turn(spool(1, part)[0])
    bench.turn(Unspool([part]), spool(2, other)[0], Unspool([other]))
    assert bench.room() == (0, 0)
    assert bench.box.is_empty()


def test_what_was_spooled_by_a_run_that_its_process_did_not_outlive_goes_at_the_opening(on_disk: Maker) -> None:
    bench = on_disk()
    bench.turn(spool(1, prepared((1, "a")))[0])
    bench.reopen()
    assert rows(bench) == {}
    assert bench.room() == (0, 0)


@pytest.mark.parametrize("in_memory_bytes", [None, 0])
def test_what_handlers_send_with_a_key_leaves_in_the_order_in_which_it_was_chosen(
    make: Maker, monkeypatch: pytest.MonkeyPatch, in_memory_bytes: int | None
) -> None:
    if in_memory_bytes is not None:
        monkeypatch.setattr(claims, "IN_MEMORY_BYTES", in_memory_bytes)  # then it is read again
    bench = make()
    bench.turn(keep(1, 1, prepared((1, "first"), key=b"a"), prepared((1, "other"), key=b"b")))
    bench.turn(keep(2, 1, prepared((2, "second"), key=b"a")))
    out = bench.turn(release(1), release(2))
    out += bench.turns()
    assert sorted((segment.key, *values([segment])) for segment in out) == [(b"a", "first"), (b"b", "other")]
    (first,) = [segment for segment in out if segment.key == b"a"]
    assert values(bench.turn(handled(first)) + bench.turns()) == ["second"]
