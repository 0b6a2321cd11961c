"""Messages with a key: of each key only the head goes out, and nothing else while something of it is out."""

from __future__ import annotations

from threading import Thread
from typing import Any

import pytest

from tests.unit.outbox.boxes import Time, handled, values
from tests.unit.outbox.conftest import Maker
from zerowait.message import Again, Bury, Death, Mark, Segment, Settle, Shelve, Verdict
from zerowait.outbox import ahead as ahead_module
from zerowait.outbox.heads import heads
from zerowait.outbox.lane import Lane
from zerowait.outbox.letters import Letters


def given(segments: list[Segment]) -> list[list[Any]]:
    return [values([segment]) for segment in segments]


def again(segment: Segment, time: Time, *, index: int = 0, after: float = 0.5) -> Again:
    due = time.now_us() + int(after * 1e6)
    return Again(segment.channel, segment.epoch, segment.first + index, 1, due, b"", segment.seq)


def shelved(segment: Segment) -> Shelve:
    return Shelve(segment.channel, segment.epoch, segment.first, segment.seq)


def gone(segment: Segment, index: int, verdict: Verdict = Verdict.HANDLED) -> Settle:
    return Settle(segment.channel, segment.epoch, segment.first + index, 1, verdict, segment.seq)


def test_messages_of_one_key_share_a_row_and_never_one_with_those_of_another(make: Maker) -> None:
    bench = make()
    for number in range(3):
        bench.push(f"a{number}", key=b"a")
        bench.push(f"b{number}", key=b"b")
        bench.push(number)
    segments = bench.turns()
    assert sorted(((s.key, values([s])) for s in segments), key=str) == [
        (None, [0, 1, 2]), (b"a", ["a0", "a1", "a2"]), (b"b", ["b0", "b1", "b2"]),
    ]  # fmt: skip


def test_what_is_pushed_later_waits_until_all_of_its_key_that_is_out_is_settled(make: Maker) -> None:
    bench = make()
    bench.push("a1", "a2", key=b"a")
    (first,) = bench.turns()
    bench.push("a3", key=b"a")
    bench.push("b1", key=b"b")
    (other,) = bench.turns()
    assert given([first, other]) == [["a1", "a2"], ["b1"]]
    assert given(bench.turn(gone(first, 0))) == []
    assert given(bench.turn(gone(first, 1))) == [["a3"]]


def test_a_retry_delays_its_key_and_no_other(make: Maker, time: Time) -> None:
    bench = make()
    bench.push("a1", "a2", "a3", key=b"a")
    bench.push("b1", key=b"b")
    a, b = bench.turns()
    bench.turn(again(a, time, after=0.5))
    assert bench.turn(shelved(a)) == []
    bench.push("b2", key=b"b")
    bench.push("a4", key=b"a")
    assert given(bench.turn(handled(b)) + bench.turns()) == [["b2"]]
    time.pass_(0.6)
    (retried,) = bench.turns()
    assert given([retried]) == [["a1"]]
    (rest,) = bench.turn(handled(retried)) + bench.turns()
    assert given([rest]) == [["a2", "a3"]]
    assert given(bench.turn(gone(rest, 1), gone(rest, 2)) + bench.turns()) == [["a4"]]


def test_what_is_left_of_a_row_comes_after_those_that_have_left_it(make: Maker, time: Time) -> None:
    """The row is the first by name, and its first messages are gone."""
    bench = make()
    bench.push("a1", "a2", "a3", "a4", "a5", key=b"a")
    (row,) = bench.turns()
    bench.turn(gone(row, 0), again(row, time, index=2), again(row, time, index=1, after=0.6), shelved(row))
    assert bench.turns() == []
    time.pass_(0.55)
    assert bench.turns() == [], "the third is due, and the second is its head"
    time.pass_(0.1)
    order: list[Any] = []
    while segments := bench.turns():
        (segment,) = segments
        order += values([segment])
        left = [(number, 1) for number in range(segment.first, segment.first + segment.count)]
        for first, count in segment.gone:
            left = [each for each in left if not first <= each[0] < first + count]
        bench.segments.clear()
        changes = [Settle("mail", segment.epoch, at, many, Verdict.HANDLED, segment.seq) for at, many in left]
        got = bench.turn(*changes)
        while got:
            (segment,) = got
            order += values([segment])
            living = [
                n for n in range(segment.first, segment.first + segment.count)
                if not any(first <= n < first + count for first, count in segment.gone)
            ]  # fmt: skip
            got = bench.turn(*(Settle("mail", segment.epoch, n, 1, Verdict.HANDLED, segment.seq) for n in living))
    assert order == ["a2", "a3", "a4", "a5"]
    assert bench.row().handled == 5


@pytest.mark.parametrize("frees", ["handled", "dead", "expired", "withdrawn"])
def test_whatever_ends_the_head_frees_its_key(make: Maker, frees: str) -> None:
    bench = make()
    bench.push("a1", key=b"a")
    (first,) = bench.turns()
    bench.push("a2", key=b"a")
    assert bench.turns() == []
    change: Any = {
        "handled": handled(first),
        "dead": Bury("mail", first.epoch, first.first, 1, b"", first.seq),
        "expired": gone(first, 0, Verdict.EXPIRED),
        "withdrawn": gone(first, 0, Verdict.DROPPED),
    }[frees]
    assert given(bench.turn(change) + bench.turns()) == [["a2"]]


def test_what_waits_for_its_time_delays_what_was_pushed_after_it_with_its_key(make: Maker, time: Time) -> None:
    bench = make()
    bench.push("later", key=b"a", due=time.now_us() + 1_000_000)
    bench.push("after it", key=b"a")
    bench.push("b", key=b"b")
    assert given(bench.turns()) == [["b"]]
    time.pass_(1.1)
    (head,) = bench.turns()
    assert given([head]) == [["later"]]
    assert given(bench.turn(handled(head)) + bench.turns()) == [["after it"]]


def test_a_head_that_expires_on_disk_frees_its_key(make: Maker, time: Time) -> None:
    bench = make()
    bench.push("late", key=b"a", due=time.now_us() + 5_000_000, expires=time.now_us() + 1_000_000)
    bench.push("next", key=b"a")
    assert bench.turns() == []
    time.pass_(1.1)
    assert given(bench.turns()) == [["next"]]
    assert bench.row().expired == 1


def test_a_dead_letter_that_is_retried_goes_before_all_that_waits_of_its_key(make: Maker) -> None:
    bench = make()
    bench.push("a1", key=b"a")
    (first,) = bench.turns()
    bench.push("a2", key=b"a")
    (second,) = bench.turn(Bury("mail", first.epoch, first.first, 1, b"", first.seq)) + bench.turns()
    bench.push("a3", key=b"a")
    letters = Letters(bench.box)
    assert letters.retry([letter.id for letter in letters.page()])
    assert bench.turns() == [], "a2 is out"
    (retried,) = bench.turn(handled(second)) + bench.turns()
    assert given([retried]) == [["a1"]]
    assert given(bench.turn(handled(retried)) + bench.turns()) == [["a3"]]


def test_a_suspect_blocks_its_key(make: Maker) -> None:
    bench = make()
    bench.push("a1", "a2", key=b"a")
    (row,) = bench.turns()
    (suspect,) = bench.turn(Mark("mail", row.epoch, row.first, (Death(7),), (), row.seq), shelved(row)) + bench.turns()
    assert suspect.marks is not None
    assert suspect.key == b"a"
    assert given([suspect]) == [["a1"]]
    assert bench.turns() == []
    assert given(bench.turn(handled(suspect)) + bench.turns()) == [["a2"]]


@pytest.mark.parametrize("terms", ["ttl", "priority", "id", "size"])
def test_numbers_of_a_key_follow_the_order_of_pushing_whatever_else_is_said(
    make: Maker, time: Time, terms: str
) -> None:
    bench = make()
    others: dict[str, dict[str, Any]] = {
        "ttl": {"expires": time.now_us() + 9_000_000},
        "priority": {"priority": 1},
        "id": {"id": "one"},
        "size": {},
    }
    other = others[terms]
    bench.push("a1", key=b"a")
    bench.push("a2" if terms != "size" else "a" * 300_000, key=b"a", **other)
    bench.push("a3", key=b"a")
    order: list[Any] = []
    got = bench.turns()
    while got:
        (segment,) = got
        order += [str(value)[:2] for value in values([segment])]
        got = bench.turn(handled(segment)) + bench.turns()
    assert order == ["a1", "a2" if terms != "size" else "aa", "a3"]


def test_two_lanes_of_a_channel_keep_the_order_of_a_key(make: Maker) -> None:
    bench = make()
    lanes = [bench.lane(), Lane(bench.intake, "mail", None, None)]
    for number in range(6):
        lanes[number % 2].append(b"\xa1%d" % number, key=b"a")
    order: list[Any] = []
    got = bench.turns()
    while got:
        (segment,) = got
        order += values([segment])
        got = bench.turn(handled(segment)) + bench.turns()
    assert order == ["0", "1", "2", "3", "4", "5"]


def test_each_thread_keeps_its_order_within_a_key(make: Maker) -> None:
    bench = make()

    def push(who: int) -> None:
        for number in range(200):
            bench.push([who, number], key=b"a")

    threads = [Thread(target=push, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    order: list[Any] = []
    out: list[Segment] = []
    while any(thread.is_alive() for thread in threads) or out or len(order) < 800:
        out = bench.turn(*[handled(segment) for segment in out])
        order += values(out)
    for who in range(4):
        assert [number for of, number in order if of == who] == list(range(200))


def test_the_next_life_goes_on_in_order(on_disk: Maker, time: Time) -> None:
    bench = on_disk()
    bench.push("a1", "a2", "a3", key=b"a")
    (row,) = bench.turns()
    bench.push("a4", key=b"a")
    bench.turn(gone(row, 0), again(row, time, index=1, after=1.0))
    bench.reopen()
    assert bench.turns() == []
    time.pass_(1.1)
    order: list[Any] = []
    got = bench.turns()
    while got:
        (segment,) = got
        order += values([segment])
        living = [
            n for n in range(segment.first, segment.first + segment.count)
            if not any(first <= n < first + count for first, count in segment.gone)
        ]  # fmt: skip
        changes = [Settle("mail", segment.epoch, n, 1, Verdict.HANDLED, segment.seq) for n in living]
        got = bench.turn(*changes) + bench.turns()
    assert order == ["a2", "a3", "a4"]


def test_a_damaged_head_is_set_aside_and_frees_its_key(on_disk: Maker) -> None:
    bench = on_disk()
    bench.push("a1", key=b"a")
    bench.turns()
    bench.push("a2", key=b"a")
    bench.turns()
    bench.box._file.database.run("UPDATE body SET crc = crc + 1 WHERE id = (SELECT min(body) FROM message)")  # type: ignore[union-attr]
    bench.reopen()
    assert given(bench.turns() + bench.turns()) == [["a2"]]
    assert bench.box.set_aside == 1


def test_thousands_behind_one_key_are_passed_by_without_holding_up_a_turn(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead_module, "PASSED", 64)
    bench = make()
    for number in range(1_500):
        bench.push(number, key=b"a", id=str(number))  # a row each
    bench.push("b", key=b"b")
    bench.push("plain")
    bench.box.turn()
    bench.box._books.offer_again(bench.box._file.database)  # type: ignore[arg-type]
    given_by: list[list[Any]] = []
    while bench.box._books.ahead.wants(bench.box._clock.now()):
        given_by.append(values(bench.box.turn()))
    assert sorted(str(value) for some in given_by for value in some) == ["0", "b", "plain"]
    assert len(given_by) > 3


def test_a_backlog_of_many_keys_is_worked_off_without_looking_at_what_is_blocked(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    many, each = 40, 10
    for number in range(each):
        for key in range(many):
            bench.push((key, number), key=b"%d" % key)
        bench.turn()
    seen: dict[int, list[int]] = {}
    looked: list[bytes] = []

    def counting(database: Any, id: int, keys: Any, now: int) -> Any:
        looked.extend(keys)
        return heads(database, id, keys, now)

    monkeypatch.setattr(ahead_module, "heads", counting)
    out = list(bench.segments)
    while out:
        for segment in out:
            for key, number in values([segment]):
                seen.setdefault(key, []).append(number)
        out = bench.turn(*[handled(segment) for segment in out]) + bench.turns()
    assert seen == {key: list(range(each)) for key in range(many)}
    assert len(looked) <= 2 * many * each


def test_what_expires_on_disk_is_the_row_and_not_what_has_left_it_and_runs(make: Maker, time: Time) -> None:
    bench = make()
    bench.push("a1", "a2", "a3", key=b"a", expires=time.now_us() + 1_000_000)
    (row,) = bench.turns()
    (suspect,) = bench.turn(Mark("mail", row.epoch, row.first, (Death(7),), (), row.seq), shelved(row)) + bench.turns()
    time.pass_(1.5)
    bench.turns()
    assert bench.row().expired == 2, "the one that runs is its worker's to judge"
    bench.turn(handled(suspect))
    assert (bench.row().handled, bench.row().expired) == (1, 2)
