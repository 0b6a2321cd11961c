"""How fast a channel works here: an average over about a tenth of a second, in which only time counts that it worked
in."""

from __future__ import annotations

from collections import deque
from math import inf

HALF = 0.5  # what a new measurement of how long a message takes counts for


class Rate:
    def __init__(self, horizon: float) -> None:
        self._horizon = horizon
        self._ticks: deque[tuple[float, float]] = deque()  # (seconds worked, units done)
        self._done = 0.0
        self._since: float | None = None  # when the present tick began, or work in it did
        self._busy = 0.0  # seconds of all runners together since something was done
        self._takes: float | None = None  # seconds a unit keeps a runner busy

    @property
    def is_idle(self) -> bool:
        return self._since is None

    def work(self, now: float) -> None:
        """There is something to do."""
        if self._since is None:
            self._since = now

    def done(self, cost: float) -> None:
        self._done += cost

    def tick(self, now: float, *, working: bool, running: int) -> None:
        """The end of a tick; `working`: there is still something to do; `running`: how many runners are at work."""
        if self._since is None:
            return
        if now > self._since:
            self._ticks.append((now - self._since, self._done))
            self._measure(now - self._since, running)
        self._done = 0.0
        self._since = now if working else None
        seconds = sum(worked for worked, _ in self._ticks)
        while len(self._ticks) > 1 and seconds - self._ticks[0][0] >= self._horizon - 1e-9:
            seconds -= self._ticks.popleft()[0]

    def _measure(self, seconds: float, running: int) -> None:
        self._busy += seconds * running
        if self._done and self._busy:
            takes = self._busy / self._done
            self._takes = takes if self._takes is None else HALF * takes + (1 - HALF) * self._takes
            self._busy = 0.0

    def forget(self) -> None:
        self._ticks.clear()

    def most(self, runners: int) -> float:
        """What so many runners can do. Of what takes longer than the average's tenth of a second, a few may end in
        one moment, and that they do so again in the next the average alone would believe."""
        return runners / self._takes if self._takes else inf

    def units_a_second(self) -> float:
        seconds = sum(worked for worked, _ in self._ticks)
        return sum(done for _, done in self._ticks) / seconds if seconds else 0.0
