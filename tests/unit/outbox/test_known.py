"""`id=`: within the window a second push of one is the first one again, and its receipt is the first one's."""

from __future__ import annotations

import gc

import apsw
import pytest

from tests.unit.outbox.boxes import Bench, values
from tests.unit.outbox.conftest import Maker
from tests.unit.outbox.faults import Faults
from zerowait.errors import StoreError
from zerowait.message import Again, Bury, Segment, Settle, Verdict
from zerowait.outbox import known
from zerowait.outbox.letters import Letters
from zerowait.outbox.sheaf import Sheaf
from zerowait.receipts import Receipt

DAY = 24 * 3_600.0


def handled(segment: Segment) -> Settle:
    return Settle("mail", segment.epoch, segment.first, 1, Verdict.HANDLED, segment.seq)


def names(*sheaves: Sheaf) -> list[tuple[int, int]]:
    return [(sheaf.epoch, sheaf.first) for sheaf in sheaves]


def assert_exact(bench: Bench, *, messages: int) -> None:
    assert bench.room()[0] == messages
    row = bench.row()
    assert row.accepted == row.handled + row.dead + row.expired + row.dropped + row.waiting_and_in_flight


def test_a_second_push_of_an_id_takes_nothing_and_has_the_name_of_the_first(make: Maker) -> None:
    bench = make()
    first, _ = bench.push("a", id="order-7")
    (segment,) = bench.turn()
    second, _ = bench.push("a", id="order-7")
    assert bench.turn() == []
    assert (first.duplicate, second.duplicate) == (False, True)
    assert second.is_stored(0)
    assert names(first) == names(second) == [(segment.epoch, segment.first)]
    assert bench.row().accepted == 1
    assert_exact(bench, messages=1)


def test_two_of_one_id_in_one_transaction_are_one_message(make: Maker) -> None:
    bench = make()
    (first, _), (second, _), (other, _) = (bench.push("a", id=id) for id in ("x", "x", "y"))
    assert values(bench.turn()) == ["a", "a"]
    assert names(first) == names(second) != names(other)
    bench.turn(handled(bench.segments[0]))
    assert [each.state(0) for each in (first, second, other)] == ["handled", "handled", "stored"]
    assert_exact(bench, messages=1)


def test_another_channel_has_ids_of_its_own(make: Maker) -> None:
    bench = make()
    bench.push("a", id="x")
    second, _ = bench.push("a", id="x", channel="other")
    assert values(bench.turn()) == ["a", "a"]
    assert not second.duplicate


def test_a_receipt_that_came_again_follows_the_message_to_its_end(make: Maker) -> None:
    bench = make()
    bench.push("a", id="x")
    (segment,) = bench.turn()
    second, _ = bench.push("a", id="x")
    bench.turn()
    gc.collect()  # nobody has a receipt of the first
    bench.box.moved(segment.seq, segment.first, 1, "sent")
    assert second.state(0) == "sent"
    calls: list[str] = []
    second.when_settled(0, lambda: calls.append(second.state(0)))
    bench.turn(handled(segment))
    assert calls == ["handled"]
    assert_exact(bench, messages=0)


def test_what_came_again_after_the_end_is_told_how_it_ended(make: Maker) -> None:
    bench = make()
    bench.push("a", id="x")
    bench.push("b", id="y")
    bench.push("c", id="z")
    segments = {values([segment])[0]: segment for segment in bench.turn()}
    late, dying = segments["b"], segments["c"]
    bench.turn(
        handled(segments["a"]),
        Settle("mail", late.epoch, late.first, 1, Verdict.EXPIRED, late.seq),
        Bury("mail", dying.epoch, dying.first, 3, b"why", dying.seq),
    )
    gc.collect()
    again = [bench.push(value, id=id)[0] for value, id in (("a", "x"), ("b", "y"), ("c", "z"))]
    bench.turn()
    assert [each.state(0) for each in again] == ["handled", "expired", "dead"]
    assert again[2].note(0) == (3, b"why")
    assert bench.row().accepted == 3
    assert_exact(bench, messages=1)


def test_a_letter_that_is_given_back_takes_its_duplicates_along(make: Maker) -> None:
    bench = make()
    bench.push("a", id="x")
    (segment,) = bench.turn()
    bench.turn(Bury("mail", segment.epoch, segment.first, 1, b"", segment.seq))
    second, _ = bench.push("a", id="x")
    bench.turn()
    assert second.state(0) == "dead"
    Letters(bench.box).retry([Receipt(second, 0).id])
    (again,) = bench.turns()
    bench.turn(handled(again))
    third, _ = bench.push("a", id="x")
    bench.turn()
    assert third.state(0) == "handled"


def test_a_retry_is_no_end(make: Maker) -> None:
    bench = make()
    bench.push("a", id="x")
    (segment,) = bench.turn()
    bench.turn(Again("mail", segment.epoch, segment.first, 1, bench.time.now_us() + 1_000_000, b"", segment.seq))
    second, _ = bench.push("a", id="x")
    bench.turn()
    assert (second.duplicate, second.state(0)) == (True, "stored")


def test_an_id_is_remembered_across_lives_and_keeps_the_file(on_disk: Maker) -> None:
    bench = on_disk()
    bench.push("a", id="x")
    (segment,) = bench.turn()
    bench.turn(handled(segment))
    bench.reopen()
    second, _ = bench.push("a", id="x")
    bench.turn()
    assert (second.duplicate, second.state(0)) == (True, "handled")
    bench.time.pass_(DAY + 1)
    bench.reopen()
    bench.box.close()
    assert bench.path is not None
    assert not bench.path.exists(), "a day later nothing is kept for it"


@pytest.mark.parametrize("days", [1, 0.25, 3])
def test_after_a_day_or_what_the_settings_say_the_same_id_is_another_message(make: Maker, days: float) -> None:
    bench = make(id_hours=24 * days)
    bench.push("a", id="x")
    bench.turn()
    bench.time.pass_(days * DAY - 1)
    within, _ = bench.push("a", id="x")
    bench.turn()
    bench.time.pass_(2)
    after, _ = bench.push("a", id="x")
    assert values(bench.turn()) == ["a"]
    assert (within.duplicate, after.duplicate) == (True, False)
    assert bench.row().accepted == 2


def test_no_more_ids_are_kept_than_the_bound_the_oldest_go_first(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "SLACK", 5)
    bench = make(ids=10)
    for number in range(40):
        bench.push("a", id=str(number))
        bench.turn()
        bench.time.pass_(0.001)
        assert bench.box.read("SELECT count(*) FROM known")[0][0] <= 16
    newest, _ = bench.push("a", id="39")
    oldest, _ = bench.push("a", id="0")
    bench.turn()
    assert (newest.duplicate, oldest.duplicate) == (True, False)


def test_the_same_id_with_other_content_is_a_duplicate_and_said(make: Maker) -> None:
    bench = make()
    bench.push("a", id="x")
    bench.push("b", id="x")
    assert values(bench.turn()) == ["a"]
    (notice,) = bench.box.notices
    assert "id='x' had other content than the first" in notice.text
    assert notice.channel == "mail"


def test_an_id_is_known_only_if_its_message_is_stored(on_disk: Maker, faults: Faults) -> None:
    # given a disk that fails under two pushes of one id
    bench = on_disk()
    first, _ = bench.push("a", id="x")
    second, _ = bench.push("a", id="x")
    faults.failing = apsw.FullError
    with pytest.raises(StoreError):
        bench.turn()
    assert not first.is_stored(0)
    # when the file is back
    faults.failing = None
    # then they are one message
    assert values(bench.turns()) == ["a"]
    assert (first.duplicate, second.duplicate) == (False, True)
    assert names(first) == names(second)
    assert_exact(bench, messages=1)


def test_messages_without_an_id_ask_for_none(make: Maker) -> None:
    bench = make()
    for _ in range(3):
        bench.push("a", "a", "a")
        bench.turn()
    assert bench.row().accepted == 9
    assert bench.box.read("SELECT count(*) FROM known")[0][0] == 0


def test_its_receipt_says_that_it_is_a_duplicate(make: Maker) -> None:
    bench = make()
    receipts = [Receipt(*bench.push("a", id="x")) for _ in range(2)]
    assert [receipt.duplicate for receipt in receipts] == [False, False], "nobody knows yet"
    bench.turn()
    assert [receipt.duplicate for receipt in receipts] == [False, True]
    assert receipts[0].id == receipts[1].id != ""
