"""How much of a channel this worker lets its owners send: one window for all links together.

The window is what runs at once, and a tenth of a second's work beyond it: large enough that a fast handler never
waits for the next batch, small enough that a slow one hoards nothing that another worker could do (the table in rules
§7 is its test). It is shared evenly by the links that want something, those who hold least first; links that want
nothing keep a standing credit of one while there is room, so that a first message needs no round trip.

    window = held here (queued or running, from whatever session) + what links may still send + room

Every link has an allowance: one that wants something its even part, one that does not a credit of one, as long as
those together are at most half of what the window holds beyond the runners. Who has less than its allowance finds
room, or what others have beyond theirs is asked back; what others hold beyond theirs is work, and ends. So nobody
waits for ever, and nothing goes back and forth: within the allowances nothing is asked back."""

from __future__ import annotations

from math import ceil

from zerowait.engines.brokerless.protocol.config import Config
from zerowait.engines.brokerless.protocol.frames import Credit, Want
from zerowait.engines.brokerless.protocol.worker.rate import Rate
from zerowait.engines.brokerless.protocol.worker.share import TINY, Share

FEW = 8  # what a link that wants nothing may send, if there are few links: it is told so once for all of them
STEP = 4  # credit is renewed when a quarter of a link's part is used: seldom enough to cost nothing, early enough


class Window:
    """One channel's window at this worker."""

    def __init__(self, channel: str, concurrency: int, config: Config, prefetch: int = 0) -> None:
        self.channel = channel
        self.concurrency = concurrency
        self.closed = False  # nothing more is wanted: leaving, or not served any more
        self.paused = False  # the handlers' loop stands
        self._most: int | None = None  # how much is wanted at a time while there is little room for what handlers send
        self._only: int | None = None  # and of whom
        self.size = concurrency
        self._config = config
        self._prefetch = max(prefetch or config.prefetch, concurrency)
        self._rate = Rate(config.horizon)
        self._shares: dict[int, Share] = {}
        self._hungry: dict[int, Share] = {}  # those that want something; who has been given last stands last
        self._spare: dict[int, Share] = {}  # those that want nothing and may send; who was heard last stands last
        self._bare: dict[int, Share] = {}  # those that want nothing and may send nothing
        self._committed = 0  # over all shares
        self._elsewhere = 0.0  # held from sessions that are over
        self._held = 0.0  # over all sessions
        self._recall = False
        self._ticked = False

    @property
    def rate(self) -> float:
        return min(self._rate.units_a_second(), self._rate.most(self.concurrency))

    # -- what happens ------------------------------------------------------------------------------------------------

    def joined(self, conn: int) -> None:
        if conn not in self._shares:
            share = self._shares[conn] = Share()
            self._book(conn, share)

    def left(self, conn: int) -> None:
        """The session is over; what it brought stays held, and counts against the window."""
        share = self._shares.pop(conn, None)
        if share is not None:
            self._committed -= share.booked
            self._elsewhere += share.held
            for group in (self._hungry, self._spare, self._bare):
                group.pop(conn, None)

    def received(self, conn: int, cost: int, now: float) -> None:
        share = self._shares.get(conn)
        self._held += cost
        if share is not None:
            share.received += cost
            share.held += cost
            self._spare.pop(conn, None)  # heard last: it comes back at the end
            self._book(conn, share)
        else:
            self._elsewhere += cost
        self._rate.work(now)

    def released(self, conn: int, cost: float) -> None:
        """It ended, was dropped or handed back: it is not held any more."""
        share = self._shares.get(conn)
        self._held = self._held - cost if self._held - cost > TINY else 0.0
        if share is None:
            self._elsewhere = self._elsewhere - cost if self._elsewhere - cost > TINY else 0.0
        else:
            share.release(cost)
            self._book(conn, share)

    def finished(self, conn: int, cost: float) -> None:
        self.released(conn, cost)
        self._rate.done(cost)

    def want(self, conn: int, frame: Want) -> None:
        share = self._shares.get(conn)
        if share is not None:
            share.want(frame)
            self._book(conn, share)

    def hand_back(self) -> None:
        """The runners are all busy with something long: nothing is expected beyond them until they move again, and what
        may still be sent is asked back."""
        self._rate.forget()
        self.size = self.concurrency
        self._recall = True

    def bound(self, most: int | None, only: int | None = None) -> None:
        """So much at a time and no more, from that link if one is named; None: as much as the handlers do. What may
        still be sent is asked back."""
        if (most, only) != (self._most, self._only):
            self._recall = self._recall or most is not None
            self._most, self._only = most, only

    def _book(self, conn: int, share: Share) -> None:
        committed = share.committed()
        self._committed += committed - share.booked
        share.booked = committed
        group = self._hungry if share.waiting else self._spare if share.outstanding() else self._bare
        if conn not in group:
            for other in (self._hungry, self._spare, self._bare):
                other.pop(conn, None)
            group[conn] = share

    # -- what follows ------------------------------------------------------------------------------------------------

    def tick(self, now: float, running: int) -> None:
        """Follows the rate; grows at most twofold a tick. `running`: messages; a runner of fast ones has many at
        once."""
        self._ticked = True
        self._rate.tick(now, working=self._held > 0, running=min(running, self.concurrency))
        wanted = int(self.concurrency + self.rate * self._config.horizon)
        self.size = max(self.concurrency, min(wanted, self.size * 2, self._prefetch))

    def held(self) -> float:
        return self._held

    def is_active(self) -> bool:
        return not self._rate.is_idle

    def room(self) -> int:
        return self.size - ceil(self._elsewhere - TINY) - self._committed

    def grants(self) -> list[tuple[int, Credit]]:
        """Who is told a new limit now."""
        if self.closed or self.paused or self._recall:
            self._recall = False
            asked = [self._lower(conn, share, 0) for conn, share in self._shares.items()]
            lowered = [credit for credit in asked if credit is not None]
            if self.closed or self.paused or lowered:
                return lowered
        if self._most is not None:
            return self._trickle(self._most)
        said = self._feed() if self._hungry else []
        return [*said, *self._stand()] if self._bare else said

    def _feed(self) -> list[tuple[int, Credit]]:
        """Those that want something, evenly."""
        standing = self._standing()
        part = max(1, (self.size - ceil(self._elsewhere - TINY) - standing) // len(self._hungry))
        said: list[tuple[int, Credit]] = []
        room, starving = self.room(), False
        # Small steps would cost a frame each, unless the runners would soon have nothing to do.
        low = self._held < self.concurrency + (self.size - self.concurrency) // 2
        hungry = list(self._hungry.items())
        if part > 1:
            hungry.sort(key=lambda item: item[1].booked)
        for conn, share in hungry:
            lacks = part - share.booked
            if lacks <= 0:
                continue
            if room <= 0:
                starving = True  # perhaps it has some credit left, but less than is its due
                break
            more, bare = min(lacks, room), not share.outstanding()
            if more >= max(1, part // STEP) or (bare and (low or not share.booked)):
                said.append(self._raise(conn, share, more))
                room -= more
        return [*said, *self._ask_back(part, standing)] if starving else said

    def _trickle(self, most: int) -> list[tuple[int, Credit]]:
        """Those that want something, in turn."""
        room = most - ceil(self._elsewhere - TINY) - self._committed
        wanting = [each for each in self._hungry.items() if self._only is None or each[0] == self._only]
        return [self._raise(conn, share, 1) for conn, share in wanting[: max(0, room)]]

    def _standing(self) -> int:
        """How many of the links that want nothing may keep a credit of one."""
        beyond = self.size - self.concurrency - len(self._hungry)
        return min(len(self._bare) + len(self._spare), max(0, beyond // 2)) if self._hungry else len(self._shares)

    def _ask_back(self, part: int, standing: int) -> list[tuple[int, Credit]]:
        """Somebody has less than its allowance, and there is no room: what others have beyond theirs is asked for. It
        is given on once they have confirmed."""
        said: list[tuple[int, Credit] | None] = []
        excess = sum(share.allowed() for share in self._spare.values()) - standing
        for keep in (1, 0):
            for conn, share in list(self._spare.items()) if excess > 0 else ():
                beyond = share.allowed() - keep
                if beyond > 0 and excess > 0:
                    excess -= beyond
                    said.append(self._lower(conn, share, keep))
        for conn, share in list(self._hungry.items()):
            # What was asked back before and is not confirmed is booked still: it must not be asked back of the rest.
            keep = max(0, part - ceil(share.held - TINY))
            if share.allowed() > keep:
                said.append(self._lower(conn, share, keep))
        return [credit for credit in said if credit is not None]

    def _stand(self) -> list[tuple[int, Credit]]:
        """Those that want nothing may send one, or as much again as they hold: they have just used what they had. That
        can wait for the end of what they have sent, or the next tick: a frame of its own would wake its reader, who
        perhaps waits for nothing else than that end; and who has more to send meanwhile says so."""
        told, self._ticked = self._ticked, False
        said: list[tuple[int, Credit]] = []
        room = min(self.room(), self._standing() - len(self._spare)) if self._hungry else self.room()
        for conn, share in list(self._bare.items()):
            if room <= 0:
                break
            held = ceil(share.held - TINY)
            if held > 0 and not told:
                continue
            few = min(FEW, self.concurrency // (4 * len(self._shares)))  # they would all run at once
            more = min(room, max(1, few, min(held, self.size // len(self._shares) - held)))
            said.append(self._raise(conn, share, more))
            room -= more
        return said

    def _raise(self, conn: int, share: Share, more: int) -> tuple[int, Credit]:
        credit = share.higher(self.channel, more)
        self._hungry.pop(conn, None)  # given last: it comes back at the end
        self._book(conn, share)
        return conn, credit

    def _lower(self, conn: int, share: Share, keep: int) -> tuple[int, Credit] | None:
        credit = share.lower(self.channel, keep)
        if credit is None:
            return None
        self._book(conn, share)
        return conn, credit

    def check(self) -> None:
        """What is kept in sums must be what the shares add up to."""
        assert self._committed == sum(share.committed() for share in self._shares.values()), "credit is booked wrongly"
        assert abs(self._held - self._elsewhere - sum(share.held for share in self._shares.values())) < 1e-3
        groups = [*self._hungry, *self._spare, *self._bare]
        assert sorted(groups) == sorted(self._shares), "a link is in two groups, or in none"

    def is_given_back(self) -> bool:
        """Closed, and every owner has confirmed that nothing more will come."""
        return self.closed and not any(share.outstanding() for share in self._shares.values())
