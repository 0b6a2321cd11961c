"""Time in an outbox (rules §8.1, §8.3): due times and deadlines over several lives and with clocks that are set. Within
one life and with a clock set back between two: `test_outbox.py`, `test_file.py`."""

from __future__ import annotations

import pytest

from tests.unit.outbox.boxes import START_US, Time, handled, values
from tests.unit.outbox.conftest import Maker
from zerowait.message import Again
from zerowait.outbox import ahead
from zerowait.outbox.lane import Lane

MINUTE_US = 60_000_000


def test_the_next_life_waits_for_what_the_last_one_was_to_wait_for(on_disk: Maker, time: Time) -> None:
    """Pushed for later, or failed and to run again."""
    bench = on_disk()
    bench.push("failed")
    (segment,) = bench.turn()
    bench.turn(Again("mail", segment.epoch, segment.first, 1, time.now_us() + MINUTE_US, b"", segment.seq))
    bench.push("later", due=time.now_us() + MINUTE_US)
    bench.turn()
    time.pass_(20)
    bench.reopen()
    assert bench.turns() == []
    assert bench.box.next_due() == pytest.approx(40, abs=0.1)
    time.pass_(40.1)
    assert sorted(values(bench.turns())) == ["failed", "later"]


def test_a_wall_clock_set_forward_between_lives_cannot_be_told_from_time(on_disk: Maker, time: Time) -> None:
    bench = on_disk()
    bench.push("later", due=time.now_us() + MINUTE_US)
    bench.turn()
    time.wall_us += 61_000_000
    bench.reopen()
    assert values(bench.turns()) == ["later"]


def test_what_waits_for_its_time_takes_no_room_from_what_may_go(
    make: Maker, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without: a few thousand retries that are due in an hour stop a channel for an hour."""
    monkeypatch.setattr(ahead, "CHANNEL_ROWS", 4)
    bench = make()
    for number in range(20):
        bench.push(number, due=time.now_us() + 60 * MINUTE_US + number * 1_000_000)
        assert bench.turn() == []
    for _ in range(6):
        bench.push("failed")
        (segment,) = bench.turn()
        assert values([segment]) == ["failed"]
        bench.turn(Again("mail", segment.epoch, segment.first, 1, time.now_us() + MINUTE_US, b"", segment.seq))
    bench.push("now")
    (segment,) = bench.turn()
    assert values([segment]) == ["now"]


def test_a_deadline_holds_in_the_next_life_too(on_disk: Maker, time: Time) -> None:
    bench = on_disk()
    bench.push("short", due=time.now_us() + 60 * MINUTE_US, expires=time.now_us() + MINUTE_US)
    bench.turn()
    time.pass_(20)
    bench.reopen()
    assert bench.turns() == []
    assert bench.row().expired == 0
    time.pass_(40.1)
    bench.turns()
    assert bench.row().expired == 1
    assert bench.box.is_empty()


def test_what_a_life_leaves_tells_the_next_how_much_is_left(on_disk: Maker, time: Time) -> None:
    """In the time of whoever asks, be that set as it may."""
    bench = on_disk()
    bench.push("a", expires=time.now_us() + MINUTE_US)
    bench.turn()
    time.pass_(20)
    time.wall_us -= 3_600_000_000
    bench.reopen()
    (segment,) = bench.turns()
    assert segment.expires is not None
    # a backward jump counts as no time passed, and the last that was written down was the opening
    assert (segment.expires - time.now_us()) / 1e6 == pytest.approx(60, abs=0.1)
    bench.turn(handled(segment))


def test_the_time_to_live_of_a_channel_counts_from_when_a_message_is_due(make: Maker, time: Time) -> None:
    """Without: what is pushed for tomorrow with a ttl of an hour expires today."""
    bench = make()
    lane = Lane(bench.intake, "mail", ttl=10.0)
    sheaf, _ = lane.append(b"\xa1a", due=START_US + 60_000_000)
    lane.append(b"\xa1b")
    assert values(bench.turn()) == ["b"]
    time.pass_(60.1)
    (segment,) = bench.turn()
    assert values([segment]) == ["a"]
    assert segment.expires is not None
    assert (segment.expires - time.now_us()) / 1e6 == pytest.approx(9.9, abs=0.05)
    assert sheaf.state(0) == "stored"
