"""What an outbox promises, in memory as on disk."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec import msgpack

from tests.unit.outbox.boxes import START_US, Bench, Time, encoder, handled, values
from zerowait.errors import QueueFull, StoreError
from zerowait.message import BODY_START, Again, Bury, Change, Forget, Note, Segment, Settle, Verdict
from zerowait.outbox import ahead, intake, outbox
from zerowait.outbox import tables as rows
from zerowait.outbox.letters import Letters
from zerowait.outbox.row import Headers, pack_headers
from zerowait.outbox.settlement import Dropped, Settlement
from zerowait.outbox.sheaf import MESSAGE_COST
from zerowait.snapshot import LetterFilter

Maker = Callable[..., Bench]


def books(bench: Bench, channel: str = "mail") -> tuple[int, int, int, int, int, int]:
    row = bench.row(channel)
    return row.accepted, row.handled, row.dead, row.expired, row.dropped, row.waiting_and_in_flight


def test_what_was_pushed_is_given_to_dispatch_as_the_segment_that_was_stored(make: Maker) -> None:
    bench = make()
    sheaf, _ = bench.push("a", "b", "c")
    assert sheaf.state(0) == "accepted"
    assert bench.row().waiting_and_in_flight == 3  # counted although not yet stored
    (segment,) = bench.turn()
    assert values([segment]) == ["a", "b", "c"]
    assert (segment.channel, segment.epoch, segment.first, segment.count) == ("mail", bench.box.epoch, 1, 3)
    assert (sheaf.epoch, sheaf.first) == (segment.epoch, 1)
    assert sheaf.state(2) == "stored"
    assert books(bench) == (3, 0, 0, 0, 0, 3)
    assert bench.room() == (3, 3 * (2 + MESSAGE_COST))


def test_numbers_count_over_all_channels_of_an_epoch(make: Maker) -> None:
    bench = make()
    bench.push("a", "b")
    bench.push("c", channel="other")
    bench.push("d", priority=1)
    firsts = {(s.channel, s.priority): s.first for s in bench.turn()}
    assert firsts == {("mail", 0): 1, ("other", 0): 3, ("mail", 1): 4}


def test_a_settled_segment_is_gone_with_its_room(make: Maker) -> None:
    bench = make()
    sheaf, _ = bench.push("a", "b", "c")
    (segment,) = bench.turn()
    assert not bench.box.is_empty()
    bench.turn(handled(segment))
    assert books(bench) == (3, 3, 0, 0, 0, 0)
    assert bench.room() == (0, 0)
    assert sheaf.state(1) == "handled"
    assert bench.box.is_empty()
    bench.turn(handled(segment))
    assert books(bench) == (3, 3, 0, 0, 0, 0)


def test_parts_are_settled_one_after_another_and_twice_counts_once(make: Maker) -> None:
    bench = make()
    sheaf, _ = bench.push(*"abcdefgh")
    (segment,) = bench.turn()
    bench.turn(handled(segment, 1, 3), handled(segment, 2, 4), handled(segment, 6, 7))
    assert books(bench) == (8, 4, 0, 0, 0, 4)
    assert bench.room() == (4, 4 * (2 + MESSAGE_COST))
    assert [sheaf.state(i) for i in (0, 1, 3, 4, 6, 7)] == [
        "stored",
        "handled",
        "handled",
        "stored",
        "handled",
        "stored",
    ]
    bench.turn(handled(segment))
    assert books(bench) == (8, 8, 0, 0, 0, 0)
    assert bench.room() == (0, 0)
    assert bench.box.is_empty()


def test_verdicts_go_into_their_own_columns(make: Maker) -> None:
    bench = make()
    sheaf, _ = bench.push(*"abcd")
    (segment,) = bench.turn()
    first, epoch, seq = segment.first, segment.epoch, segment.seq
    bench.turn(
        Settle("mail", epoch, first, 1, Verdict.EXPIRED, seq),
        Settle("mail", epoch, first + 1, 1, Verdict.DROPPED, seq),
        Bury("mail", epoch, first + 2, 3, b"\x80", seq),
    )
    assert books(bench) == (4, 0, 1, 1, 1, 1)
    assert [sheaf.state(i) for i in range(4)] == ["expired", "withdrawn", "dead", "stored"]
    assert sheaf.note(2) == (3, b"\x80")


def test_a_failed_message_leaves_its_segment_and_comes_back_when_it_is_due(make: Maker, time: Time) -> None:
    # given a segment with headers of which the second message fails
    bench = make()
    bench.push("a")
    bench.push("b", headers={"who": "me"})
    bench.push("c")
    (segment,) = bench.turn()
    assert segment.headers == {segment.first + 1: {"who": "me"}}
    time.pass_(1)
    bench.turn(Again("mail", segment.epoch, segment.first + 1, 1, time.now_us() + 10_000_000, b"\x80", segment.seq))
    # when its time comes
    assert bench.box.next_due() == pytest.approx(10)
    time.pass_(9.9)
    assert bench.turn() == []
    time.pass_(0.2)
    (alone,) = bench.turn()
    # then it is a segment of its own, with all that it had
    assert values([alone]) == ["b"]
    assert (alone.epoch, alone.first, alone.count, alone.failures) == (segment.epoch, segment.first + 1, 1, 1)
    assert alone.headers == {segment.first + 1: {"who": "me"}}
    assert alone.accepted_at == segment.accepted_at
    assert alone.seq != segment.seq
    # and fails again in the row that it has
    bench.turn(Again("mail", alone.epoch, alone.first, 2, time.now_us() + 1_000_000, b"", alone.seq))
    time.pass_(1.1)
    (again,) = bench.turn()
    assert (again.seq, again.failures, values([again])) == (alone.seq, 2, ["b"])
    bench.turn(handled(again), handled(segment))
    assert books(bench) == (3, 3, 0, 0, 0, 0)
    assert bench.room() == (0, 0)
    assert bench.box.is_empty()


def test_a_late_handled_finds_the_message_wherever_it_lives_now(make: Maker, time: Time) -> None:
    bench = make()
    sheaf, _ = bench.push(*"abcd")
    (segment,) = bench.turn()
    bench.turn(Again("mail", segment.epoch, segment.first + 2, 1, time.now_us() + 10**9, b"", segment.seq))
    # by the range of its old segment, whose row it has left, and without knowing any row
    bench.turn(handled(segment, 1, 3))
    assert books(bench) == (4, 2, 0, 0, 0, 2)
    bench.turn(Settle("", segment.epoch, segment.first, 4, Verdict.HANDLED))
    assert books(bench) == (4, 4, 0, 0, 0, 0)
    assert sheaf.state(2) == "handled"
    assert bench.box.is_empty()


def test_changes_of_one_turn_see_one_another(make: Maker, time: Time) -> None:
    bench = make()
    bench.push(*"abcd")
    (segment,) = bench.turn()
    epoch, first, seq = segment.epoch, segment.first, segment.seq
    bench.turn(
        Again("mail", epoch, first, 1, time.now_us(), b"", seq),
        Settle("mail", epoch, first, 1, Verdict.HANDLED, seq),
        handled(segment, 1, 2),
        Again("mail", epoch, first + 1, 1, time.now_us(), b"", seq),
        Bury("mail", epoch, first + 2, 9, b"", seq),
        Settle("mail", epoch, first + 2, 2, Verdict.HANDLED, seq),
        Note(1),
        Forget(1),
    )
    assert books(bench) == (4, 3, 1, 0, 0, 0)
    assert bench.turn() == []
    assert len(Letters(bench.box).page()) == 1


def test_a_letter_stays_a_letter_until_it_is_given_back(make: Maker, time: Time) -> None:
    bench = make()
    sheaf, _ = bench.push("good", "bad", "ugly", headers={"h": "v"})
    (segment,) = bench.turn()
    note = msgpack.encode({"reason": "KeyError: 'x'", "rule": "attempts"})
    time.pass_(5)
    bench.turn(
        Bury("mail", segment.epoch, segment.first + 1, 4, note, segment.seq),
        Bury("mail", segment.epoch, segment.first + 2, 1, note, segment.seq),
        handled(segment, 0, 1),
    )
    bench.turn(Settle("mail", segment.epoch, segment.first + 1, 1, Verdict.HANDLED, segment.seq))
    assert books(bench) == (3, 1, 2, 0, 0, 0)
    assert bench.room()[0] == 2
    letters = Letters(bench.box)
    bad, ugly = letters.page()
    assert bad.noted()["reason"] == "KeyError: 'x'"
    assert (bad.channel, bad.failures, bad.headers, bad.died_at) == ("mail", 4, {"h": "v"}, START_US + 5_000_000)
    assert letters.payload(bad) == msgpack.encode("bad")
    assert letters.show(bad.id) == bad
    assert letters.show("0-0-0") is None
    assert letters.show("nonsense") is None
    assert letters.page(after=bad.id) == [ugly]
    assert letters.page(LetterFilter(channel="other")) == []
    # one is given back, one is dropped
    assert letters.retry([bad.id, "x"]) == [bad.id]
    assert letters.drop([ugly.id]) == [ugly.id]
    assert books(bench) == (3, 1, 0, 0, 1, 1)
    assert sheaf.state(1) == "stored"
    time.pass_(0.001)
    (again,) = bench.turn()
    assert (values([again]), again.failures, again.headers) == (["bad"], 0, {segment.first + 1: {"h": "v"}})
    bench.turn(handled(again))
    assert books(bench) == (3, 2, 0, 0, 1, 0)
    assert bench.room() == (0, 0)
    assert bench.box.is_empty()


@pytest.mark.parametrize("payload", ["short", "x" * 5_000])
def test_a_letter_with_another_payload_is_accounted_for_and_delivered_with_it(make: Maker, payload: str) -> None:
    bench = make()
    bench.push("good", "bad", "good")
    (segment,) = bench.turn()
    bench.turn(handled(segment, 0, 1), Bury("mail", segment.epoch, segment.first + 1, 3, b"\x80", segment.seq))
    letters = Letters(bench.box)
    (bad,) = letters.page()
    assert letters.edit(bad.id, encoder.encode(payload))
    assert not letters.edit(bad.id[:-1] + "9", b"")
    assert bench.room() == (2, 2 * MESSAGE_COST + len(encoder.encode("good")) + len(encoder.encode(payload)))
    assert bench.row().nbytes == bench.room()[1]
    letters.retry([bad.id])
    assert values(bench.turns()) == [payload]
    assert bench.row().waiting_and_in_flight == 2


def test_a_message_alone_becomes_a_letter_at_the_end_of_the_row(make: Maker, time: Time) -> None:
    bench = make()
    bench.push("first")
    (one,) = bench.turn()
    bench.push("x", "second")
    (two,) = bench.turn()
    bench.turn(Bury("mail", two.epoch, two.first + 1, 1, b"", two.seq))
    bench.turn(Bury("mail", one.epoch, one.first, 1, b"", one.seq))
    assert [Letters(bench.box).payload(letter) for letter in Letters(bench.box).page()] == [b"\xa6second", b"\xa5first"]
    assert bench.turn() == []


def test_dead_letters_are_bounded_in_number_and_age(make: Maker, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(letters=5)
    bench.push(*range(12))
    (segment,) = bench.turn()
    for i in range(12):
        bench.turn(Bury("mail", segment.epoch, segment.first + i, 1, b"", segment.seq))
    assert books(bench) == (12, 0, 5, 0, 7, 0)
    assert bench.room()[0] == 5
    assert [Letters(bench.box).payload(letter) for letter in Letters(bench.box).page()] == [
        b"\x07",
        b"\x08",
        b"\x09",
        b"\x0a",
        b"\x0b",
    ]
    assert sum(notice.count for notice in bench.box.notices) == 7
    time.pass_(31 * 86_400)
    bench.box._books.aging.letters_at = 0.0
    bench.turn()
    assert books(bench) == (12, 0, 0, 0, 12, 0)
    assert bench.room() == (0, 0)
    assert bench.box.is_empty()


def test_what_waits_too_long_expires_and_what_dispatch_has_is_its_own_to_judge(make: Maker, time: Time) -> None:
    bench = make()
    out, _ = bench.push("out", expires=START_US + 10_000_000)
    bench.turn()
    later, _ = bench.push("later", due=START_US + 20_000_000, expires=START_US + 15_000_000)
    bench.push("for ever", due=START_US + 20_000_000)
    assert bench.turn() == []
    assert bench.box.next_due() == pytest.approx(15)
    time.pass_(15.1)
    assert bench.turn() == []
    assert books(bench) == (3, 0, 0, 1, 0, 2)
    assert (out.state(0), later.state(0)) == ("stored", "expired")
    time.pass_(5)
    assert values(bench.turn()) == ["for ever"]


def test_jumps_of_the_wall_clock_within_a_life_do_nothing(make: Maker, time: Time) -> None:
    bench = make()
    bench.push("a", due=time.now_us() + 60_000_000, expires=time.now_us() + 90_000_000)
    bench.turn()
    time.wall_us += 3_600_000_000
    assert bench.turn() == []
    assert bench.box.next_due() == pytest.approx(60, abs=0.01)
    time.wall_us -= 7_200_000_000
    time.pass_(60.1)
    (segment,) = bench.turn()
    # what is told is in the caller's time as it is now
    assert segment.expires is not None
    assert (segment.expires - time.now_us()) / 1e6 == pytest.approx(29.9, abs=0.01)
    # and what is said is too
    bench.turn(Again("mail", segment.epoch, segment.first, 1, time.now_us() + 10_000_000, b"", segment.seq))
    time.pass_(9.9)
    assert bench.turn() == []
    time.pass_(0.2)
    assert len(bench.turn()) == 1


def test_a_high_priority_is_read_before_a_low_one(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "CHANNEL_ROWS", 1)
    bench = make()
    bench.push("out")
    bench.turn(drawn=False)
    for priority in (-1, 0, 1, 0, 1, -1):
        bench.push(priority, priority=priority)
        bench.turn(drawn=False)
    got: list[int] = []
    for _ in range(6):
        segments = bench.box.turn((), {"mail": 10})
        got += values(segments)
    assert got == [1, 1, 0, 0, -1, -1]


@pytest.mark.parametrize(("low", "high"), [(-1, 0), (0, 1), (-1, 1)])
@pytest.mark.parametrize("of", ["rows", "bytes"])
def test_a_higher_priority_is_given_at_once_though_the_room_is_full_of_a_lower_one(
    low: int, high: int, of: str, make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dispatch lets it overtake what it has; what dispatch has not, it cannot send."""
    monkeypatch.setattr(ahead, "CHANNEL_ROWS", 40 if of == "rows" else 1_000)
    monkeypatch.setattr(ahead, "CHANNEL_BYTES", 4_000 if of == "bytes" else 4 << 20)
    bench = make()
    for i in range(100):
        bench.push([low, i, "x" * 100], priority=low)
        bench.turn(drawn=False)
    given = len(bench.segments)
    if of == "bytes" and not bench.box.durable:
        return  # what memory holds anyway is given as it comes
    assert given < 100
    bench.push([high, 0, "x"], priority=high)
    assert [value[:2] for value in values(bench.turn(drawn=False))] == [[high, 0]]
    # and as to memory, of the highest there is a quarter more at most than of what has none
    for i in range(1, 200):
        bench.push([high, i, "x" * 100], priority=high)
        bench.turn(drawn=False)
    assert sum(len(segment.body) - BODY_START for segment in bench.segments) < 5_000 + 200 or of == "rows"
    assert len(bench.segments) <= 50
    got = [value[:2] for value in values(bench.segments)]
    for _ in range(300):
        got += [value[:2] for value in values(bench.box.turn((), {"mail": 400}))]
    assert [i for priority, i in got if priority == high] == list(range(200)), "each in the order of pushing"
    assert [i for priority, i in got if priority == low] == list(range(100))
    lows = [at for at, (priority, _) in enumerate(got) if priority == low]
    highs = [at for at, (priority, _) in enumerate(got) if priority == high]
    assert highs[-1] < lows[given], "what lies on disk of the higher one is read before any of the lower one"


def test_a_low_priority_alone_is_read_however_little_room_there_is(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "CHANNEL_ROWS", 1)
    bench = make()
    for i in range(3):
        bench.push(i, priority=-1)
        bench.turn(drawn=False)
    got = values(bench.segments)
    while more := values(bench.box.turn((), {"mail": 10})):
        got += more
    assert got == [0, 1, 2]


def test_a_high_priority_with_a_key_is_given_at_once_and_waits_for_what_is_before_it_of_its_key(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "CHANNEL_ROWS", 40)
    bench = make()
    for i in range(100):
        bench.push(["low", i], priority=-1, key=b"%d" % i)
        bench.turn(drawn=False)
    bench.push(["high", 1], priority=1, key=b"0")
    assert bench.turn(drawn=False) == []
    bench.push(["high", 2], priority=1, key=b"another")
    assert values(bench.turn(drawn=False)) == [["high", 2]]
    head = bench.segments[0]
    assert values([head]) == [["low", 0]]
    assert ["high", 1] in values(bench.turn(handled(head, 0, 1), drawn=False))


def test_a_backlog_is_read_in_order_and_only_as_far_as_there_is_room(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "CHANNEL_ROWS", 10)
    bench = make()
    given: list[int] = []
    for i in range(700):
        bench.push(i, channel=f"c{i % 2}")
        given += values(bench.turn(drawn=False))
    # given room for ten rows of each channel, no more than those are out
    assert len(given) == 20
    assert bench.box.next_due() is None
    rest = values(bench.box.turn((), {"c0": 100, "c1": 100}))
    assert len(rest) == 20
    for _ in range(100):
        rest += values(bench.box.turn((), {"c0": 100, "c1": 100}))
    for which in (0, 1):
        assert [i for i in given + rest if i % 2 == which] == [i for i in range(700) if i % 2 == which]
    assert len(bench.box._books.ahead.out) == 700


def test_new_messages_do_not_overtake_what_lies_unread(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "CHANNEL_BYTES", 1_000)
    bench = make()
    got: list[int] = []
    for i in range(30):
        bench.push([i, "x" * 200])
        got += [value[0] for value in values(bench.turn(drawn=i % 5 == 4))]
    for _ in range(30):
        got += [value[0] for value in values(bench.box.turn((), {"mail": 400}))]
    assert got == list(range(30))


def test_the_intake_is_behind_only_while_workers_take_what_must_be_read_back(
    on_disk: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "CHANNEL_BYTES", 1_000)
    bench, room = on_disk(), 1_000
    intake = bench.box.intake
    for i in range(30):
        bench.push([i, "x" * 200])
        bench.turn(drawn=False)
    assert not intake.is_behind, "nobody takes any: who pushes on would wait for nothing"
    bench.box.turn((), {"mail": room})
    assert intake.is_behind
    bench.box.turn()
    assert not intake.is_behind, "nobody has taken more"
    while bench.box.turn((), {"mail": room}):
        assert intake.is_behind
    bench.push([30, ""])
    bench.box.turn((), {"mail": room})
    assert not intake.is_behind, "what is pushed now need not be read"


def test_room_for_reading_comes_back_when_messages_are_settled_without_being_sent(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "CHANNEL_ROWS", 2)
    bench = make()
    for i in range(6):
        bench.push(i)
        bench.turn(drawn=False)
    assert len(bench.segments) == 2
    more: list[Segment] = []
    for segment in bench.segments[:]:
        more = bench.turn(Settle("mail", segment.epoch, segment.first, 1, Verdict.DROPPED, segment.seq), drawn=False)
    assert len(bench.segments) == 4
    assert values(more) == [3]


def test_many_due_at_once_are_bounded_by_the_room_for_reading(
    make: Maker, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "CHANNEL_ROWS", 100)
    bench = make()
    for i in range(1_000):
        bench.push(i, due=START_US + 1_000_000 + i * 1_000)
        if i % 50 == 0:
            bench.turn()
    bench.turn()
    time.pass_(10)
    got = values(bench.box.turn())
    assert len(got) == 100
    assert bench.box.next_due() is None  # nothing to do before dispatch has sent some
    while len(got) < 1_000:
        more = values(bench.box.turn((), {"mail": 100}))
        assert more
        got += more
    assert sorted(got) == list(range(1_000))


def test_a_message_of_any_size_goes_through(make: Maker) -> None:
    bench = make()
    sizes = [0, 1, 2_000, 2_048, 2_049, 260_000, 3_000_000]
    for size in sizes:
        bench.push("x" * size)
    assert sorted(len(value) for value in values(bench.turns())) == sizes


def test_a_full_outbox_takes_nothing_and_has_room_again_when_some_is_settled(make: Maker) -> None:
    bench = make(messages=10)
    bench.push(*range(10))
    with pytest.raises(QueueFull):
        bench.push("eleven")
    (segment,) = bench.turn()
    with pytest.raises(QueueFull):
        bench.push("eleven")
    bench.turn(handled(segment, 0, 2))
    bench.push("eleven", "twelve")
    with pytest.raises(QueueFull):
        bench.push("thirteen")


def test_receipts_that_nobody_has_are_not_kept(make: Maker) -> None:
    bench = make()
    bench.push("a", "b")
    (segment,) = bench.turn()
    assert len(bench.box._followed) == 0
    sheaf, index = bench.push("c")
    told: list[str] = []
    sheaf.when_settled(index, lambda: told.append("settled"))
    (segment,) = bench.turn()
    del sheaf
    bench.box.moved(segment.seq, segment.first, 1, "sent")
    bench.turn(handled(segment))
    assert told == ["settled"]
    assert len(bench.box._followed) == 0


def test_receipts_follow_a_message_that_came_back_from_the_row_that_it_has_by_then(make: Maker, time: Time) -> None:
    bench = make()
    sheaf, _ = bench.push(*"abc")
    (segment,) = bench.turn()
    bench.box.moved(segment.seq, segment.first, 3, "sent")
    bench.turn(Again("mail", segment.epoch, segment.first + 1, 1, time.now_us() + 1_000_000, b"", segment.seq))
    assert [sheaf.state(index) for index in range(3)] == ["sent", "stored", "sent"]
    # when it is sent again, alone, and its worker hands it back
    time.pass_(1.1)
    (alone,) = bench.turn()
    bench.box.moved(alone.seq, alone.first, 1, "sent")
    assert sheaf.state(1) == "sent"
    bench.box.moved(alone.seq, alone.first, 1, "stored")
    assert sheaf.state(1) == "stored"
    # and what is said of it when it is over changes nothing
    bench.turn(handled(alone))
    bench.box.moved(alone.seq, alone.first, 1, "stored")
    assert [sheaf.state(index) for index in range(3)] == ["sent", "handled", "sent"]


def test_receipts_follow_what_came_late_in_its_sheaf_although_its_segment_begins_later(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a sheaf that was taken while a slow push had it in hand
    monkeypatch.setattr(intake, "PATIENCE", -1.0)
    monkeypatch.setattr(intake, "PATIENCE_TURNS", 2)
    bench = make()
    bench.push("a", "b")
    sheaf = bench.lane().slot.pop()
    (first,) = [segment for _ in range(4) for segment in bench.turn()]
    sheaf.buffer += msgpack.encode("late")
    sheaf.ends.append(len(sheaf.buffer))
    bench.lane().full(sheaf)[1].append(sheaf)
    (late,) = bench.turn()
    assert (late.first, values([late])) == (first.first + 2, ["late"])
    # when the worker of its second segment has it, and is gone
    bench.box.moved(late.seq, late.first, 1, "sent")
    assert sheaf.state(2) == "sent"
    bench.box.moved(late.seq, late.first, 1, "stored")
    assert sheaf.state(2) == "stored"


def test_a_turn_that_fails_changes_nothing_and_the_next_does_it_all(
    make: Maker, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a transaction that runs out of room
    bench = make()
    bench.push(*range(100))
    (segment,) = bench.turn()
    pages = bench.box._file.database.one("PRAGMA page_count")  # type: ignore[union-attr]
    bench.box._file.database.run(f"PRAGMA max_page_count = {pages + 4}").fetchall()  # type: ignore[union-attr]
    big, _ = bench.push("x" * 250_000)
    small, _ = bench.push("y", channel="new")
    changes: list[Change] = [
        handled(segment, 0, 10),
        Again("mail", segment.epoch, segment.first + 20, 1, time.now_us(), b"", segment.seq),
        Bury("mail", segment.epoch, segment.first + 30, 1, b"", segment.seq),
    ]
    for attempt in range(3):
        with pytest.raises(StoreError):
            bench.box.turn(changes if attempt == 0 else ())
        # then nothing of it is true, and verbs say so
        assert books(bench) == (101, 0, 0, 0, 0, 101)
        assert big.state(0) == "accepted"
        with pytest.raises(StoreError):
            bench.push("z", channel="another")
    bench.box._file.database.run("PRAGMA max_page_count = 1000000").fetchall()  # type: ignore[union-attr]
    # when there is room, all of it is, once
    time.pass_(0.001)
    got = bench.turns()
    assert {segment.channel for segment in got} == {"mail", "new"}
    assert books(bench) == (101, 10, 1, 0, 0, 90)
    assert small.state(0) == "stored"
    bench.push("z", channel="another")


def tables(bench: Bench) -> int:
    """How many rows lie in the tables of a memory outbox."""
    database = bench.box._file.database
    assert database is not None
    count: int = database.one("SELECT count(*) FROM message")
    return count


def test_in_memory_what_is_handed_out_and_handled_never_comes_into_a_table(in_memory: Maker) -> None:
    bench = in_memory()
    for at in range(3):
        bench.push(f"{at}-a", f"{at}-b")
        bench.turn()
    first, second, third = bench.segments
    bench.turn(handled(first), handled(second, 0, 1))
    bench.turn(handled(third), handled(second, 1, 2))
    assert tables(bench) == 0
    assert (bench.row().handled, bench.row().waiting_and_in_flight) == (6, 0)
    assert bench.room() == (0, 0)


def test_in_memory_a_message_that_failed_brings_its_segment_into_the_tables_without_what_is_over(
    in_memory: Maker, time: Time
) -> None:
    bench = in_memory()
    bench.push("a", "b", "c", "d")
    bench.push("other", channel="other")
    bench.turn()
    segment, other = sorted(bench.segments, key=lambda segment: segment.channel)
    bench.turn(handled(segment, 0, 1))
    # when one of those left fails
    due = time.now_us() + 1_000_000
    bench.turn(Again("mail", segment.epoch, segment.first + 1, 1, due, b"\x80", segment.seq))
    # then there are its own row and that of its segment, and none of the other channel
    assert tables(bench) == 2
    time.pass_(2)
    (again,) = bench.turn()
    assert (values([again]), again.failures) == (["b"], 1)
    bench.turn(handled(again), handled(segment, 2, 4), handled(other))
    assert tables(bench) == 0
    assert bench.box.is_empty()


def test_in_memory_a_new_epoch_offers_again_what_had_no_row(in_memory: Maker) -> None:
    bench = in_memory()
    bench.push("a", "b", "c")
    (segment,) = bench.turn()
    bench.turn(handled(segment, 0, 1))
    epoch = bench.box.raise_epoch(bench.box.epoch + 5)
    offered = bench.turns()
    assert values(offered) == ["b", "c"]
    # under the names that they had
    assert [each.epoch for each in offered] == [segment.epoch]
    assert epoch > segment.epoch
    bench.turn(*(handled(each, 1, 3) for each in offered))
    assert bench.row().handled == 3


def test_in_memory_what_is_named_by_nobody_knows_which_row_is_found(in_memory: Maker) -> None:
    bench = in_memory()
    bench.push("a", "b", "c")
    (segment,) = bench.turn()
    bench.turn(Settle("mail", segment.epoch, segment.first + 1, 1, Verdict.DROPPED, 0))
    assert (bench.row().dropped, bench.row().waiting_and_in_flight) == (1, 2)
    bench.turn(handled(segment, 0, 1), handled(segment, 2, 3))
    assert bench.box.is_empty()


def test_in_memory_a_turn_that_failed_and_a_letter_given_back_lose_nothing(
    in_memory: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = in_memory()
    bench.push("good", "bad", "ugly")
    (segment,) = bench.turn()
    bench.turn(Bury("mail", segment.epoch, segment.first + 1, 1, b"\x80", segment.seq))
    bench.push("late", "later")
    late = bench.turn()[-1]
    # when a turn that brought rows into the tables fails
    with monkeypatch.context() as failing:

        def no_memory(*_: object) -> None:
            raise MemoryError

        failing.setattr(Settlement, "write", no_memory)
        with pytest.raises(MemoryError):
            bench.box.turn([Bury("mail", late.epoch, late.first, 1, b"\x80", late.seq)])
    # and something is amended before the next, and a letter given back
    bench.box.amend(lambda database, tally: Dropped())
    letters = Letters(bench.box)
    letters.retry([letter.id for letter in letters.page()])
    # then all is there: the turn is made again
    (again,) = bench.turns()
    assert values([again]) == ["bad"]
    assert [letters.payload(letter) for letter in letters.page()] == [msgpack.encode("late")]
    bench.turn(handled(again), handled(segment, 0, 1), handled(segment, 2, 3), handled(late, 1, 2))
    assert (bench.row().handled, bench.row().dead, bench.row().waiting_and_in_flight) == (4, 1, 0)


def test_what_cannot_be_stored_is_given_up_alone(on_disk: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    # given: among others one that nobody foresaw, whose row cannot be made
    bench = on_disk()

    def pack(headers: Headers | None) -> bytes | None:
        if headers:
            raise TypeError("Only dicts with str keys are supported")
        return pack_headers(headers)

    monkeypatch.setattr(rows, "pack_headers", pack)
    before, _ = bench.push("a")
    bad, _ = bench.push("b", channel="other", headers={"trace": "x"})
    after, _ = bench.push("c", channel="third")
    # when, then: the others are stored, its own receipt says why it is not, and the ledger knows of two
    assert values(bench.turn()) == ["a", "c"]
    assert isinstance(bad.error, StoreError)
    assert "could not be stored" in str(bad.error)
    assert before.error is None
    assert after.error is None
    assert [books(bench, channel)[0] for channel in ("mail", "other", "third")] == [1, 0, 1]
    assert bench.room() == (2, 2 * (2 + MESSAGE_COST))
    # and all goes on; one alone is tried several times, for the error may pass
    bench.push("d", channel="other", headers={"trace": "x"})
    for _ in range(outbox.TRIES - 1):
        with pytest.raises(TypeError):
            bench.turn()
    assert values(bench.turn()) == []
    bench.push("e", channel="other")
    assert values(bench.turn()) == ["e"]
