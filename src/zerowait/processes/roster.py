"""What becomes of the processes that serve one app: who is started, told to stop or killed, and when.

starting ──serves──▶ serving ──ends──▶ resting ──its wait is over──▶ starting …        until `stop`: then nobody is

Decides only: the time is passed in, orders come out. Positions count from 0.
"""

from __future__ import annotations

import signal
from enum import Enum

from msgspec import Struct

STEADY_S = 10.0  # who has served for so long did not die of how it starts
FIRST_WAIT_S = 0.5  # before who died young is started again; doubles each time
LONGEST_WAIT_S = 30.0
CLOSING_S = 5.0  # beyond `drain`: outcomes are confirmed, resources close
LOOKS = 4  # in each `stuck_after`

FAILED = 1
NOT_WHOLE = 4  # something that ran was given up


class Ending(Struct, frozen=True):
    """How a process ended: of the two, the one that is known."""

    exit_code: int | None = None
    signal: int | None = None

    @classmethod
    def of(cls, returncode: int) -> Ending:
        """returncode: as subprocess gives it."""
        return cls(signal=-returncode) if returncode < 0 else cls(exit_code=returncode)

    def __str__(self) -> str:
        if self.signal is None:
            return f"exit code {self.exit_code}"
        try:
            return f"signal {self.signal} ({signal.Signals(self.signal).name})"
        except ValueError:  # a real-time signal
            return f"signal {self.signal}"


class Start(Struct, frozen=True):
    position: int


class Stop(Struct, frozen=True):
    """It is to finish what it runs, and to end."""

    position: int


class Kill(Struct, frozen=True):
    position: int
    why: str  # a clause; empty: it was asked for


Order = Start | Stop | Kill


class Phase(Enum):
    ABSENT = "it has not been started"
    STARTING = "it does not serve yet"
    SERVING = "it serves"
    RESTING = "it has ended, and is started again after a while"
    OVER = "it has ended, and is not started again"


class _Member:
    def __init__(self) -> None:
        self.phase = Phase.ABSENT
        self.since = 0.0  # of its phase
        self.until = 0.0  # of its rest
        self.has_served = False
        self.early_ends = 0  # in a row
        self.quiet_s = 0.0  # how long its loop has not turned
        self.is_killed = False

    @property
    def is_alive(self) -> bool:
        return self.phase in (Phase.STARTING, Phase.SERVING)

    def enter(self, phase: Phase, now: float) -> None:
        self.phase, self.since, self.quiet_s, self.is_killed = phase, now, 0.0, False


class Roster:
    """count: of processes. stuck_after: seconds without a turn of its loop after which a process is killed; 0: none is.

    orders: what is to be done, oldest first; taken by whoever does it. exit_code: what it all ends with, once all have
    ended.
    """

    def __init__(self, count: int, stuck_after: float) -> None:
        self.orders: list[Order] = []
        self._members = [_Member() for _ in range(count)]
        self._stuck_after = stuck_after
        self._looked_at = 0.0
        self._drain = 0.0
        self._stops_at: float | None = None  # when it was told to
        self._code = 0

    @property
    def exit_code(self) -> int | None:
        if self._stops_at is None or any(member.is_alive for member in self._members):
            return None
        return self._code

    @property
    def is_stopping(self) -> bool:
        return self._stops_at is not None

    def begin(self, now: float) -> None:
        """Starts one alone: what keeps it from serving keeps all, and is said once."""
        self._looked_at = now
        self._start(0, now)

    def serves(self, position: int, now: float, drain: float) -> bool:
        """It has started, and takes `drain` seconds at most to stop. True: all serve now, for the first time."""
        member = self._members[position]
        self._drain = max(self._drain, drain)
        were_all = self._have_all_served()
        member.enter(Phase.SERVING, now)
        member.has_served = True
        if self._stops_at is not None:
            return False
        for other, each in enumerate(self._members):
            if each.phase is Phase.ABSENT:
                self._start(other, now)
        return self._have_all_served() and not were_all

    def turned(self, position: int) -> None:
        """Its loop turns."""
        self._members[position].quiet_s = 0.0

    def ended(self, position: int, ending: Ending, now: float) -> float | None:
        """Gives after how many seconds it is started again; None: it is not."""
        member = self._members[position]
        has_begun = member.phase is Phase.SERVING
        served_s = now - member.since if has_begun else 0.0
        was_killed = member.is_killed
        member.enter(Phase.OVER, now)
        if self._stops_at is not None:
            if has_begun and (was_killed or ending.exit_code != 0):
                self._code = self._code or NOT_WHOLE
            return None
        if not member.has_served:  # somebody is watching, and can mend what is wrong
            self._code = ending.exit_code or FAILED
            self.stop(now)
            return None
        member.early_ends = 0 if served_s >= STEADY_S else member.early_ends + 1
        wait = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** (member.early_ends - 1)) if member.early_ends else 0.0
        member.enter(Phase.RESTING, now)
        member.until = now + wait
        return wait

    def stop(self, now: float) -> None:
        """All are to finish what they run. Again: nothing more."""
        if self._stops_at is not None:
            return
        self._stops_at = now
        for position, member in enumerate(self._members):
            if member.is_alive:
                self.orders.append(Stop(position))
            else:
                member.enter(Phase.OVER, now)

    def leave(self, code: int) -> None:
        """All end at once. code: what it ends with then."""
        self._code = code
        for position, member in enumerate(self._members):
            self._kill(position, member, "")

    def look(self, now: float) -> float | None:
        """Orders what is due, and says when to look again; None: when something happens."""
        # Only time in which this process ran counts: who stood still together with it may not be heard yet.
        passed = now - self._looked_at
        if self._stuck_after:
            passed = min(passed, self._stuck_after / LOOKS)
        self._looked_at = now
        times: list[float] = []
        for position, member in enumerate(self._members):
            if member.phase is Phase.RESTING:
                if now >= member.until:
                    self._start(position, now)
                else:
                    times.append(member.until)
            elif member.phase is Phase.SERVING and self._stuck_after:
                member.quiet_s += passed
                if member.quiet_s > self._stuck_after:
                    self._kill(position, member, f"its loop has not turned for {self._stuck_after:g} s (stuck_after)")
                else:
                    times.append(now + self._stuck_after / LOOKS)
        if self._stops_at is not None:
            limit = self._stops_at + self._drain + CLOSING_S
            for position, member in enumerate(self._members):
                if member.is_alive and now >= limit:
                    self._kill(position, member, f"it has not ended {now - self._stops_at:.0f} s after it was told to")
            if now < limit:
                times.append(limit)
        return min(times, default=None)

    def _start(self, position: int, now: float) -> None:
        self._members[position].enter(Phase.STARTING, now)
        self.orders.append(Start(position))

    def _kill(self, position: int, member: _Member, why: str) -> None:
        if member.is_alive and not member.is_killed:
            member.is_killed = True
            self.orders.append(Kill(position, why))

    def _have_all_served(self) -> bool:
        return all(member.has_served for member in self._members)
