"""Dropping what waits for a channel."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.outbox.boxes import START_US, Bench, Time, handled, values
from zerowait.errors import Cancelled
from zerowait.message import Again, Bury
from zerowait.outbox import waiting
from zerowait.outbox.answering import answer, waiting_status
from zerowait.outbox.waiting import Sweep, drop
from zerowait.receipts import Receipt
from zerowait.snapshot import Question

Maker = Callable[..., Bench]
FAR = (1 << 62, 1 << 62)


def numbers(sweep: Sweep) -> list[int]:
    found: list[int] = []
    while ranges := sweep.page():
        found += [number for _, first, count in ranges for number in range(first, first + count)]
    return found


def test_all_that_waits_is_dropped_and_counted_and_nothing_else(make: Maker, time: Time) -> None:
    bench = make()
    receipt = Receipt(*bench.push("a", "b", "c", "d", "e", channel="numbres"))
    bench.push("mine", channel="numbers")
    bench.turn()
    [typo] = [segment for segment in bench.segments if segment.channel == "numbres"]
    bench.turn(
        handled(typo, 0, 1),
        Again("numbres", typo.epoch, typo.first + 1, 1, time.now_us() + 10, b"", typo.seq),
        Bury("numbres", typo.epoch, typo.first + 2, 1, b"", typo.seq),
    )
    bench.push("f", channel="numbres", due=START_US + 3_600_000_000)
    bench.push("g", channel="numbres", priority=1)
    bench.turn()
    room = bench.room()

    assert drop(bench.box, "numbres", FAR) == 5
    row = bench.row("numbres")
    assert (row.accepted, row.handled, row.dead, row.dropped, row.waiting_and_in_flight) == (7, 1, 1, 5, 0)
    assert bench.room()[0] == room[0] - 5
    assert bench.row("numbers").waiting_and_in_flight == 1
    with pytest.raises(Cancelled, match="zerowait outbox drop"):
        receipt.handled.result(1)
    bench.reopen()
    assert bench.path is None or values(bench.turns()) == ["mine"]


def test_nothing_that_came_after_the_question_is_dropped(make: Maker) -> None:
    bench = make()
    bench.push("a", "b")
    bench.turn()
    status = waiting_status(bench.box, "mail", {"mail": 1})
    assert (status.waiting, status.in_flight, status.channels) == (1, 1, ["mail"])
    bench.push("c")
    bench.turn()

    assert drop(bench.box, "mail", status.last) == 2
    assert bench.row().waiting_and_in_flight == 1
    assert numbers(Sweep(bench.box, "mail", FAR)) == [3]


def test_a_large_backlog_is_gone_through_page_by_page(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "ROWS", 4)
    bench = make()
    for n in range(30):
        bench.push(str(n), channel="numbers" if n % 3 else "others", priority=n % 2)
        bench.box.turn()
    sweep = Sweep(bench.box, "numbers", FAR)
    assert sum(count for _, _, count in sweep.page()) == 4
    assert len(numbers(sweep)) == 16
    assert drop(bench.box, "numbers", FAR) == 20
    assert bench.row("others").waiting_and_in_flight == 10


def test_pages_are_found_by_indexes_alone(make: Maker) -> None:
    bench = make()
    for kind in waiting._KINDS:
        sql = "EXPLAIN QUERY PLAN " + waiting._PAGE.format(kind)
        plan = "\n".join(row[3] for row in bench.box.read(sql, (1, 0, 0, 9, 9, 4)))
        assert "SEARCH message USING INDEX" in plan, plan
        assert "TEMP B-TREE" not in plan, plan


def test_an_unknown_channel_has_nothing_to_drop(make: Maker) -> None:
    bench = make()
    bench.push("a")
    bench.turn()
    assert drop(bench.box, "mial", FAR) == 0
    assert bench.row().waiting_and_in_flight == 1


def test_a_file_that_nobody_has_open_answers_for_its_own_name_only(on_disk: Maker) -> None:
    bench = on_disk()
    bench.push("a", "b")
    bench.turn()
    assert answer(bench.box, Question("outbox.waiting", {"name": "other", "channel": "mail"})).value == []
    [told] = answer(bench.box, Question("outbox.waiting", {"name": "tester", "channel": "mail"})).value
    assert told["waiting"] == 2
    assert answer(bench.box, Question("outbox.drop", {"channel": "mail", "boxes": {"0f" * 8: FAR}})).value == {}
    asked = Question("outbox.drop", {"channel": "mail", "boxes": {told["box"]: told["last"]}})
    assert answer(bench.box, asked).value == {told["box"]: (2, False)}
