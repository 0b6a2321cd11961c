"""Handlers that run by the clock: when, and what cannot be one."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from zerowait import App, Context
from zerowait.errors import UsageError
from zerowait.handlers.rhythm import Rhythm, look, rhythm_of
from zerowait.handlers.verdicts import NotRun
from zerowait.message import Verdict
from zerowait.ticking import BEGUN, Ticking, Turn

MINUTE = Rhythm(seconds=60)
NIGHTLY = Rhythm(cron="0 3 * * *", timezone="Europe/Berlin")


def berlin(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Europe/Berlin")).timestamp()


def test_the_first_look_only_makes_the_mark() -> None:
    assert (look(MINUTE, None, 1_000.0).fire, look(MINUTE, None, 1_000.0).again) == (False, 1_060.0)


def test_it_fires_when_the_time_is_over_and_stays_in_step() -> None:
    early, late = look(MINUTE, 1_000.0, 1_059.9), look(MINUTE, 1_000.0, 1_060.5)
    assert not early.fire
    assert (late.fire, late.mark, late.again) == (True, 1_060.0, 1_120.0)


def test_who_looks_at_the_same_mark_afterwards_does_nothing() -> None:
    first = look(MINUTE, 1_000.0, 1_060.5)
    second = look(MINUTE, first.mark, 1_060.5)
    assert (second.fire, second.again) == (False, 1_120.0)


def test_hours_without_a_process_are_made_up_for_once() -> None:
    found = look(MINUTE, 1_000.0, 9_000.0)
    assert (found.fire, found.mark, found.again) == (True, 9_000.0, 9_060.0)


def test_a_time_of_the_calendar_that_nobody_saw_is_left_out_and_told() -> None:
    found = look(NIGHTLY, berlin("2026-03-10T12:00"), berlin("2026-03-11T09:00"))
    assert (found.fire, found.missed) == (False, berlin("2026-03-11T03:00"))
    assert found.again == berlin("2026-03-12T03:00")


def test_a_time_of_the_calendar_fires_if_it_is_looked_at_within_a_minute() -> None:
    found = look(NIGHTLY, berlin("2026-03-10T12:00"), berlin("2026-03-11T03:00:40"))
    assert found.fire
    assert not look(NIGHTLY, found.mark, berlin("2026-03-11T03:00:50")).fire


def test_the_hour_that_a_time_zone_leaves_out_or_has_twice_gives_one_run_a_day() -> None:
    for day in ("2026-03-29", "2026-10-25"):  # 2:30 is not there, or there twice
        at, times = berlin(f"{day}T00:00"), 0
        rhythm = Rhythm(cron="30 2 * * *", timezone="Europe/Berlin")
        while (at := rhythm.after(at)) < berlin(f"{day}T23:59"):
            times += 1
        assert times == 1, day


def test_a_clock_that_was_set_back_does_not_stop_it_for_as_long() -> None:
    found = look(MINUTE, 9_000.0, 1_000.0)
    assert (found.fire, found.mark, found.again) == (False, 1_000.0, 1_060.0)


@pytest.mark.parametrize(
    ("args", "options", "said"),
    [
        ((), {}, "one of the two"),
        ((5,), {"cron": "* * * * *"}, "one of the two"),
        ((0,), {}, "at least 0.1"),
        (("60",), {}, "at least 0.1"),
        ((True,), {}, "at least 0.1"),
        ((60,), {"timezone": "Europe/Berlin"}, "belongs to cron="),
        ((), {"cron": "* * *"}, "five fields"),
        ((), {"cron": "61 * * * *"}, "no cron line"),
        ((), {"cron": "0 0 30 2 *"}, "day-of-month"),
        ((), {"cron": "* * * * * *"}, "6 fields"),
        ((), {"cron": 5}, "five fields"),
        ((), {"cron": "* * * * *", "timezone": "Europe/Bärlin"}, "no time zone"),
        ((), {"cron": "* * * * *", "timezone": None}, "a name such as"),
    ],
)
def test_what_is_no_time_is_refused_where_it_stands(args: Any, options: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        App("clock").every(*args, **options)


def test_what_cannot_run_by_the_clock_is_refused_where_it_stands() -> None:
    every: Any = App("clock").every(5)

    def of_a_value(number: int) -> None: ...
    def of_two(ctx: Context, number: int) -> None: ...
    def gives() -> int:
        return 1

    def yields() -> Any:
        yield 1

    class Thing:
        def method(self) -> None: ...

    for fn, said in (
        (of_a_value, "no value"),
        (of_two, "no value"),
        (gives, "goes nowhere"),
        (yields, "goes nowhere"),
        (Thing().method, "a method"),
        (lambda: None, "by its name"),
    ):
        with pytest.raises(UsageError, match=said):
            every(fn)


def test_two_of_one_name_in_an_app_are_refused() -> None:
    app = App("clock")

    def tidy() -> None: ...

    app.every(5)(tidy)

    def again() -> None: ...

    again.__name__ = "tidy"
    with pytest.raises(UsageError, match=r"every\.clock\.tidy.*two handlers"):
        app.every(cron="* * * * *")(again)


def test_any_number_that_look_at_once_fire_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given three processes' worth of lookers that share a mark
    app, fired, now = App("clock"), list[tuple[str, float | None]](), [1_000.0]

    @app.every(10)
    def tidy() -> None: ...

    monkeypatch.setattr("zerowait.ticking.time.time", lambda: now[0])
    specs = app._registry.handlers()
    lookers = [
        Ticking(specs, tmp_path / "every", lambda channel, time, ttl: fired.append((channel, ttl))) for _ in range(3)
    ]
    for looker in lookers:
        looker.look(specs[0])
    # when the time comes
    now[0] = 1_010.25
    for looker in lookers:
        looker.look(specs[0])
    # then one of them has fired, and what has not begun when it is due again is worth nothing
    assert fired == [("every.clock.tidy", 9.75)]


def test_what_stands_in_the_way_is_told_once_and_when_it_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app, fired = App("clock"), list[str]()

    @app.every(10)
    def tidy() -> None: ...

    (spec,) = app._registry.handlers()
    (tmp_path / "every").write_text("in the way")
    looker = Ticking([spec], tmp_path / "every", lambda channel, time, ttl: fired.append(channel))
    with caplog.at_level("INFO", "zerowait"):
        looker.look(spec)
        looker.look(spec)
        (tmp_path / "every").unlink()
        looker.look(spec)
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert rhythm_of(10, None, "UTC") == spec.rhythm


def test_a_time_that_has_begun_is_not_begun_again_and_another_waits_until_the_turn_is_over(tmp_path: Path) -> None:
    # two processes' worth
    mine, other = Turn(tmp_path / "every" / "t.run"), Turn(tmp_path / "every" / "t.run")
    calls: list[str | None] = []

    def call(name: str | None) -> None:
        calls.append(name)
        if name == "first":
            with pytest.raises(NotRun) as said:
                other.around(call)("second")
            assert said.value.verdict == Verdict.UNSTARTED

    mine.around(call)("first")
    for turn in (mine, other):
        with pytest.raises(NotRun) as said:
            turn.around(call)("first")
        assert said.value.verdict == Verdict.EXPIRED
    other.around(call)("second")
    other.around(call)(None)
    other.around(call)(None)
    assert calls == ["first", "second", None, None]
    for number in range(100):
        mine.around(call)(f"{number:016x}")
    assert len((tmp_path / "every" / "t.run").read_text().split()) == BEGUN


@pytest.mark.asyncio
async def test_a_turn_is_given_up_by_a_run_that_fails_or_is_cancelled_at_whatever_moment(tmp_path: Path) -> None:
    turn = Turn(tmp_path / "every" / "t.run")

    async def fail(name: str | None) -> None:
        raise ValueError(name)

    async def last(name: str | None) -> None:
        await asyncio.sleep(10)

    with pytest.raises(ValueError, match="a"):
        await turn.around_async(fail)("a")
    for steps in range(8):
        run = asyncio.ensure_future(turn.around_async(last)(f"cancelled after {steps} steps".replace(" ", "-")))
        for _ in range(steps):
            await asyncio.sleep(0.002)
        run.cancel()
        await asyncio.wait([run])
        assert run.cancelled()

        async def none(name: str | None) -> None: ...

        await turn.around_async(none)(f"after-{steps}")
