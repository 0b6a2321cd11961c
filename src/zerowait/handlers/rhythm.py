"""When something is due that happens by the clock. Wall times in seconds go in and come out; nothing waits here.

Processes that do the same agree by a mark that they share: the time of the last firing, or of the beginning.
"""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf
from typing import Any
from zoneinfo import ZoneInfo

from msgspec import Struct

from zerowait.errors import UsageError

LEAST_S = 0.1  # who wants it more often wants a loop
LATE_S = 60.0  # a time by the calendar that passed longer ago than this has been missed


class Rhythm(Struct, frozen=True):
    """seconds, or the five fields of a cron line and the name of the time zone in which they are meant."""

    seconds: float | None = None
    cron: str = ""
    timezone: str = "UTC"

    def after(self, mark: float) -> float:
        """The first time after this one."""
        if self.seconds is not None:
            return mark + self.seconds
        from cronsim import CronSim

        return next(CronSim(self.cron, datetime.fromtimestamp(mark, ZoneInfo(self.timezone)))).timestamp()

    def __str__(self) -> str:
        return f"every {self.seconds:g} s" if self.seconds is not None else f"cron {self.cron} {self.timezone}"


class Look(Struct, frozen=True):
    """What is to be done now: fire or not, the mark from now on, and when to look again. missed: a time that passed
    while nobody looked, and for which it is too late."""

    fire: bool
    mark: float
    again: float
    missed: float | None = None


def look(rhythm: Rhythm, mark: float | None, now: float) -> Look:
    """What a look at `now` finds. mark: None at the very first.

    Whatever was missed while no process lived fires once if it is told in seconds, and not at all if it is told by the
    calendar: who wrote 3 o'clock does not want it at 9.
    """
    if mark is None or mark > now:  # a clock that was set back must not stop it for as long
        return Look(False, now, rhythm.after(now))
    due = rhythm.after(mark)
    if due > now:
        return Look(False, mark, due)
    if rhythm.seconds is not None:
        # In step as long as it keeps up; from now on if a whole turn was lost.
        mark = due if now < rhythm.after(due) else now
        return Look(True, mark, rhythm.after(mark))
    if now - due > LATE_S:
        return Look(False, now, rhythm.after(now), missed=due)
    return Look(True, due, rhythm.after(max(due, now)))


def rhythm_of(seconds: object, cron: object, timezone: object) -> Rhythm:
    """Raises UsageError for what is no rhythm."""
    if (seconds is None) == (cron is None):
        raise UsageError('@app.every takes seconds, as in @app.every(60), or cron="0 3 * * *": one of the two.')
    if not isinstance(timezone, str):
        raise UsageError(f'timezone= takes a name such as "Europe/Berlin", not {timezone!r}.')
    if seconds is not None:
        return _in_seconds(seconds, timezone)
    if not isinstance(cron, str):
        raise UsageError(f'cron= takes five fields in a string, as in cron="0 3 * * *", not {cron!r}.')
    from cronsim import CronSim, CronSimError

    try:
        zone = ZoneInfo(timezone)
    except (KeyError, ValueError, OSError):
        raise UsageError(
            f'{timezone!r} is no time zone that this machine knows: write one such as "Europe/Berlin".'
        ) from None
    try:
        if len(cron.split()) != 5:
            raise CronSimError(f"{len(cron.split())} fields")
        CronSim(cron, datetime.now(UTC).astimezone(zone))
    except CronSimError as error:
        raise UsageError(
            f"cron={cron!r} is no cron line: {error}. It has five fields: minute, hour, day of the month, month, day "
            'of the week, as in "0 3 * * *" for each day at 3:00.'
        ) from None
    return Rhythm(cron=cron, timezone=timezone)


def _in_seconds(seconds: Any, timezone: str) -> Rhythm:
    if timezone != "UTC":
        raise UsageError("timezone= belongs to cron=: seconds are the same everywhere.")
    if type(seconds) not in (int, float) or not LEAST_S <= seconds < inf:
        raise UsageError(f"@app.every takes seconds as a number, at least {LEAST_S:g}, not {seconds!r}.")
    return Rhythm(seconds=float(seconds))
