"""How fast a channel works here: an average over about a tenth of a second, in which only time counts that it worked
in."""

from __future__ import annotations

from collections import deque


class Rate:
    def __init__(self, horizon: float) -> None:
        self._horizon = horizon
        self._ticks: deque[tuple[float, float]] = deque()  # (seconds worked, units done)
        self._done = 0.0
        self._since: float | None = None  # when the present tick began, or work in it did

    @property
    def is_idle(self) -> bool:
        return self._since is None

    def work(self, now: float) -> None:
        """There is something to do."""
        if self._since is None:
            self._since = now

    def done(self, cost: float) -> None:
        self._done += cost

    def tick(self, now: float, *, working: bool) -> None:
        """The end of a tick; `working`: there is still something to do."""
        if self._since is None:
            return
        if now > self._since:
            self._ticks.append((now - self._since, self._done))
        self._done = 0.0
        self._since = now if working else None
        seconds = sum(worked for worked, _ in self._ticks)
        while len(self._ticks) > 1 and seconds - self._ticks[0][0] >= self._horizon - 1e-9:
            seconds -= self._ticks.popleft()[0]

    def forget(self) -> None:
        self._ticks.clear()

    def units_a_second(self) -> float:
        seconds = sum(worked for worked, _ in self._ticks)
        return sum(done for _, done in self._ticks) / seconds if seconds else 0.0
