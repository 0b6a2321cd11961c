"""What an outbox tells those who look in."""

from __future__ import annotations

from collections.abc import Callable

from tests.unit.outbox.boxes import START_US, Bench, Time, handled
from zerowait.message import Again, Bury
from zerowait.outbox.answering import box_status
from zerowait.outbox.reading import OLDEST
from zerowait.snapshot import moment

Maker = Callable[..., Bench]
SECOND = 1_000_000


def ages(bench: Bench) -> dict[str, int]:
    """Of each channel, how many seconds after the start its oldest unsettled message was accepted."""
    return {channel: (at - START_US) // SECOND for channel, at in bench.box.oldest().items()}


def test_each_channel_has_its_own_oldest(make: Maker, time: Time) -> None:
    bench = make()
    for channel in ("a", "b", "a"):
        bench.push("x", channel=channel)
        bench.turn()
        time.pass_(10)
    assert ages(bench) == {"a": 0, "b": 10}

    bench.turn(handled(bench.segments[0]))
    assert ages(bench) == {"a": 20, "b": 10}
    status = box_status(bench.box, {}, bench.box.oldest())
    assert [each.oldest_at for each in status.channels] == [moment(START_US + s * SECOND) for s in (20, 10)]

    bench.turn(*map(handled, bench.segments[1:]))
    assert ages(bench) == {}


def test_what_waits_for_its_time_and_each_priority_count_and_dead_letters_do_not(make: Maker, time: Time) -> None:
    bench = make()
    pushes: list[tuple[str, dict[str, object]]] = [
        ("low", {"priority": -1}),
        ("later", {"due": START_US + 3_600 * SECOND}),
        ("retried", {}),
        ("dead", {}),
    ]
    for channel, options in pushes:
        bench.push("old", channel=channel, **options)
        bench.turn()
        time.pass_(10)
    for channel, _ in pushes:
        bench.push("new", channel=channel, priority=1)
    bench.turn()
    # Each failure waits for longer than the one before, so that by their due times the oldest would be the last.
    of = {segment.channel: segment for segment in reversed(bench.segments)}
    retried, dead = of["retried"], of["dead"]
    bench.turn(
        Again("retried", retried.epoch, retried.first, 1, time.now_us() + 60 * SECOND, b"", retried.seq),
        Bury("dead", dead.epoch, dead.first, 1, b"", dead.seq),
    )

    assert ages(bench) == {"low": 0, "later": 10, "retried": 20, "dead": 40}
    bench.reopen()
    assert bench.path is None or ages(bench) == {"low": 0, "later": 10, "retried": 20, "dead": 40}


def test_the_oldest_are_found_by_indexes_alone_however_much_waits(make: Maker) -> None:
    bench = make()
    plan = "\n".join(row[3] for row in bench.box.read("EXPLAIN QUERY PLAN " + OLDEST, (True,)))

    assert plan.count("SEARCH message USING INDEX") == 5, plan
    assert "USING INDEX later (channel=?)" in plan
    assert "TEMP B-TREE" not in plan
    assert "SCAN message" not in plan
