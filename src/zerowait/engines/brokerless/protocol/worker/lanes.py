"""The lanes of suspects, as the worker sees them (rules §5.2): what it lets its owners send beside ordinary work, and
when it stands still for a message that is to run alone.

Aside: to each link that has suspects, one; and one more for each that has ended here, up to ASIDE_MOST. Alone: one in
the whole process.

    moving ──wanted──▶ emptying ──nothing runs──▶ granted ──its BATCH──▶ running ──it has ended──▶ telling ──▶ moving
                          │                          │ not come in time: credit withdrawn ───────────────────▶ moving
                          └── not wanted any more, its link is lost, or what runs lasts ────────────────────▶ moving

What has ended is told, and nothing else begins before its owner has that for good: whoever killed this process
meanwhile would have it convicted, for nothing is noted of what ran alone but that it did.

Afterwards ordinary work has at least as long as it has stood still, whoever else wants to run one alone. What runs here
may last for hours: then it moves on after a while, and stands still for twice as long the next time. So half of the
time is the ordinary work's whatever happens, and however long runs last, some day nothing runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from math import inf

from zerowait.engines.brokerless.protocol.config import Config
from zerowait.engines.brokerless.protocol.frames import ALONE, ASIDE, Credit, Part, Want
from zerowait.engines.brokerless.protocol.worker.desk import Desk
from zerowait.engines.brokerless.protocol.worker.share import Share

Name = tuple[int, str]  # (connection, channel)

# Most deaths are nobody's fault (a deploy, the system short of memory), and what was running then must not come back
# one by one, each as long as its run lasts. But as many as run beside one another when the next process dies have to
# run alone, one after the other: so confidence grows with what this process has survived, and not far.
ASIDE_MOST = 8


class Phase(Enum):
    MOVING = "moving"
    EMPTYING = "emptying"
    GRANTED = "granted"
    RUNNING = "running"
    TELLING = "telling"


class Lanes:
    """is_told: whether the owner of that message (outbox, epoch, number) has its outcome for good."""

    def __init__(self, config: Config, desk: Desk, is_told: Callable[[int, int, int], bool]) -> None:
        self._config = config
        self._desk = desk
        self._is_told = is_told
        self._alone: tuple[int, int, int] | None = None  # what was admitted last to run alone
        self._shares: dict[tuple[int, str, int], Share] = {}
        self._rested: set[str] = set()  # channels whose runners were all busy with something long: no suspects now
        self._wanted: dict[Name, None] = {}  # who wants to run one alone; who has waited longest stands first
        self._current: Name | None = None
        self._since = 0.0
        self._until = 0.0
        self._move_until = 0.0  # ordinary work has its turn
        self._patience = config.alone_within  # how long to stand still while something runs
        self.phase = Phase.MOVING
        self.closed = False
        self._paused = False
        self._has_changed = False  # somebody may be given more, or less

    def __bool__(self) -> bool:
        return self._has_changed or bool(self._wanted) or self.phase is not Phase.MOVING

    @property
    def paused(self) -> bool:
        """Nothing is taken for a while."""
        return self._paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._paused = paused
        self._has_changed = True

    def _share(self, conn: int, channel: str, lane: int) -> Share:
        share = self._shares.get((conn, channel, lane))
        if share is None:
            share = self._shares[conn, channel, lane] = Share(lane)
        return share

    # -- what happens ------------------------------------------------------------------------------------------------

    def want(self, conn: int, frame: Want) -> None:
        share = self._share(conn, frame.channel, frame.lane)
        share.want(frame)
        self._has_changed = True
        if frame.lane == ASIDE and not share.waiting:
            share.survived = 0  # of those it tells of next, nothing is known
        if frame.lane == ALONE:
            if share.waiting and not self.closed:
                self._wanted.setdefault((conn, frame.channel))
            else:
                self._wanted.pop((conn, frame.channel), None)

    def received(self, conn: int, channel: str, lane: int, cost: int) -> None:
        share = self._share(conn, channel, lane)
        share.received += cost
        self._has_changed = True
        if lane == ALONE and share.sent < share.received:
            # The last WANT was about this one. Its owner may have asked for the next before this could leave.
            share.waiting = 0
            self._wanted.pop((conn, channel), None)

    def admitted(self, conn: int, channel: str, lane: int, name: tuple[int, int, int], now: float) -> None:
        """It is queued here from now on. name: outbox, epoch, number."""
        self._share(conn, channel, lane).held += 1
        if lane == ALONE:
            self.phase, self._alone = Phase.RUNNING, name
            self._until = now + self._config.alone_within

    def ended(self, conn: int, channel: str, lane: int) -> None:
        """It has run, and this process lives."""
        share = self._shares.get((conn, channel, lane))
        if share is not None:
            share.survived += 1
            self.left(conn, channel, lane)

    def confirmed(self, box: int, parts: Sequence[Part]) -> None:
        """Their owner has how these have ended; what they have sent may still be on its way."""
        if self.phase is Phase.TELLING and self._alone is not None and self._alone[0] == box:
            _, epoch, number = self._alone
            if any(part.epoch == epoch and part.first <= number < part.first + part.count for part in parts):
                self._alone = None

    def left(self, conn: int, channel: str, lane: int) -> None:
        """It has ended, or left without having begun."""
        share = self._shares.get((conn, channel, lane))
        if share is not None:
            share.release(1)
            self._has_changed = True

    def lost(self, conn: int) -> None:
        """That session is over."""
        for name in [name for name in self._shares if name[0] == conn]:
            del self._shares[name]
        for wanted in [wanted for wanted in self._wanted if wanted[0] == conn]:
            del self._wanted[wanted]

    def expects(self, conn: int, channel: str) -> bool:
        """Whether it stands still for this very message."""
        return self.phase is Phase.GRANTED and self._current == (conn, channel) and not self.closed

    def rest(self, channel: str) -> None:
        """What was queued of it has been handed back: suspects too come again when something has moved."""
        self._rested.add(channel)

    def moved(self, channel: str) -> None:
        if channel in self._rested:
            self._rested.discard(channel)
            self._has_changed = True

    def close(self) -> None:
        """Leaving: nothing more is taken."""
        self.closed = self._has_changed = True
        self._wanted.clear()

    # -- what follows ------------------------------------------------------------------------------------------------

    def grants(self, now: float) -> Iterator[tuple[int, Credit]]:
        """Who is told a new limit now."""
        if self._has_changed:
            self._has_changed = False
            yield from self._beside()
        if self._wanted or self.phase is not Phase.MOVING:
            yield from self._stand(now)

    def _beside(self) -> Iterator[tuple[int, Credit]]:
        for (conn, channel, lane), share in list(self._shares.items()):
            if self.closed or (lane == ASIDE and not share.waiting):
                if (credit := share.lower(channel, 0)) is not None:  # what it has not used is not for those of later
                    yield conn, credit
            elif more := self._room(channel, lane, share):
                yield conn, share.higher(channel, more)

    def _room(self, channel: str, lane: int, share: Share) -> int:
        """How many suspects more it is given."""
        if lane != ASIDE or not share.waiting or channel in self._rested or self.paused:
            return 0
        return max(0, min(1 + share.survived, ASIDE_MOST) - share.committed())

    def _stand(self, now: float) -> Iterator[tuple[int, Credit]]:
        if self.phase is Phase.MOVING:
            if self._wanted and now >= self._move_until and not self.paused:
                self._current = next(iter(self._wanted))
                self.phase, self._since = Phase.EMPTYING, now
                self._desk.stand_still(True)
            else:
                return
        assert self._current is not None, "it stands still for nobody"
        conn, channel = self._current
        share = self._shares.get((conn, channel, ALONE))
        if self.phase is Phase.EMPTYING:
            if self.closed or self._current not in self._wanted:
                self._move(now)
            elif share is not None and not self._desk.total_running():
                self._patience = self._config.alone_within
                del self._wanted[self._current]
                self.phase, self._until = Phase.GRANTED, now + self._config.alone_within
                yield conn, share.higher(channel, 1)
            elif now >= self._since + self._patience:
                self._patience *= 2
                self._wanted[self._current] = self._wanted.pop(self._current)  # the next one may be luckier
                self._move(now)
        elif self.phase is Phase.GRANTED:
            # Not wanted any more, unless it is on its way already.
            given_up = share is None or not (share.waiting or share.sent > share.received)
            if given_up or self.closed or now >= self._until:
                if share is not None and (credit := share.lower(channel, 0)) is not None:
                    yield conn, credit
                self._move(now)
        elif self.phase is Phase.RUNNING:
            if not self._desk.total_running() and not self._desk.is_queued_alone():
                self.phase, self._until = Phase.TELLING, now + self._config.alone_within
                yield from self._stand(now)
        elif self.closed or now >= self._until or self._alone is None or self._is_told(*self._alone):
            self._move(now)

    def refused(self, now: float) -> None:
        """The message has come that it stood still for, and is none that can be run."""
        self._move(now)

    def is_overdue(self, now: float) -> bool:
        """The message that is to run alone has not begun, for want of permission: it goes back."""
        return self.phase is Phase.RUNNING and now >= self._until and self._desk.is_queued_alone()

    def stood(self, now: float) -> float:
        """For how long nothing has been started, for the sake of one."""
        return now - self._since if self.phase is not Phase.MOVING else 0.0

    def _move(self, now: float) -> None:
        self.phase, self._current, self._alone = Phase.MOVING, None, None
        self._move_until = now + (now - self._since)
        self._desk.stand_still(False)

    def is_active(self) -> bool:
        return self.phase is not Phase.MOVING

    def wake(self) -> float:
        if self.phase is Phase.MOVING:
            return self._move_until if self._wanted else inf
        return self._since + self._patience if self.phase is Phase.EMPTYING else self._until

    def is_given_back(self) -> bool:
        """Every owner has confirmed that nothing more will come."""
        return not any(share.outstanding() for share in self._shares.values())
