"""Whose the messages are that lie here: for each outbox the link to its owner, the highest opening seen of it, and
until when what is queued of it may be started."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from zerowait.engines.brokerless.protocol.config import Config
from zerowait.engines.brokerless.protocol.frames import Owned
from zerowait.engines.brokerless.protocol.link import Link
from zerowait.engines.brokerless.protocol.worker.parcel import Permit


class Owners:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._links: dict[int, Link] = {}
        self._permits: dict[int, Permit] = {}
        self._fences: dict[int, int] = {}
        self._lost: dict[int, tuple[float, Owned]] = {}  # its owner is not there, since when
        self._kept_since: dict[int, float] = {}  # durable outboxes whose owner is gone: outcomes wait for the next one

    def link(self, box: int) -> Link | None:
        return self._links.get(box)

    def present(self) -> Iterable[int]:
        return self._links.keys()

    def __contains__(self, box: int) -> bool:
        """Whether its owner is there, or may be back: else nobody will ever ask what became of its messages."""
        return box in self._fences

    def fence(self, box: int) -> int:
        return self._fences.get(box, 0)

    def permit(self, box: int) -> Permit:
        return self._permits[box]

    def announced(self, owned: Owned, link: Link) -> None:
        """This opening of the outbox is the present one. Nothing of it starts before it has answered our HELD."""
        box = owned.box
        self._fences[box] = owned.epoch
        self._links[box] = link
        self._lost.pop(box, None)
        self._kept_since.pop(box, None)
        permit = self._permits.setdefault(box, Permit())
        permit.resuming = True
        permit.until = link.permitted_until

    def renew(self, link: Link, until: float) -> None:
        link.permitted_until = max(until, link.permitted_until)
        for box in link.boxes:
            if self._links.get(box) is link:
                self._permits[box].until = link.permitted_until

    def lost(self, owned: Owned, link: Link, now: float) -> None:
        """Its link is over, or its STATE does not name it any more."""
        if self._links.get(owned.box) is link:
            del self._links[owned.box]
            self._permits[owned.box].resuming = True
            self._lost[owned.box] = (now, owned)

    def over(self, now: float) -> list[Owned]:
        """Those whose owner has not come back within the grace."""
        return [owned for since, owned in self._lost.values() if now >= since + self._config.resume_grace]

    def keep(self, owned: Owned, now: float) -> None:
        self._lost.pop(owned.box, None)
        self._kept_since.setdefault(owned.box, now)

    def kept_long_enough(self, now: float) -> list[int]:
        return [box for box, since in self._kept_since.items() if now >= since + self._config.outcome_keep]

    def forget(self, box: int) -> None:
        for table in (self._lost, self._kept_since):
            table.pop(box, None)
        self._fences.pop(box, None)
        self._permits.pop(box, None)

    def wake(self) -> float:
        if not self._lost and not self._kept_since:
            return inf
        over = min((since for since, _ in self._lost.values()), default=inf) + self._config.resume_grace
        return min(over, min(self._kept_since.values(), default=inf) + self._config.outcome_keep)
