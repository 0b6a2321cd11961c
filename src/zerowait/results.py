"""What verbs return beside receipts: seldom written by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from zerowait.mapping import Completed, Results
from zerowait.pending import Pending, Promise
from zerowait.spreading import Item
from zerowait.streams import Stream
from zerowait.subscriptions import Subscription

__all__ = ["Completed", "Item", "Meeting", "Observer", "Peers", "Results", "Stream", "Subscription"]


class Observer(Protocol):
    """Who knows the peers: asked from any thread, never waits."""

    def peers(self, role: str, channel: str) -> Sequence[str]:
        """The names of the processes connected now in that role for the channel: "workers", "subscribers" …"""
        ...

    def when_peers(self, role: str, channel: str, n: int) -> Pending[None]:
        """Done once there are at least n."""
        ...


class Meeting(Promise[None], gc=True, weakref=True):
    """What `at_least` gives. It can only be waited for: one that nobody looks at did nothing, and says so."""

    where: str = ""  # file:line
    said: str = ""
    is_looked_at: bool = False

    seen: str = ""  # who was there at the last look, in words

    def done(self) -> bool:
        self.is_looked_at = True
        return self.is_over

    def __repr__(self) -> str:
        return f"<Pending zw.{self.said}{f': {self.seen}' if self.seen else ''}>"

    def _watch(self, call: Callable[[], object]) -> None:
        self.is_looked_at = True
        super()._watch(call)  # by name: msgspec makes the class anew

    def __del__(self) -> None:
        if not self.is_looked_at:
            import logging

            logging.getLogger("zerowait").warning(
                "%s: zw.%s was never waited for, so the program went on without them: write `.result()` or `await`",
                self.where,
                self.said,
            )


class Peers:
    """Those at the other end of a channel, as they are at each look: `len(peers)`, and their names by iteration."""

    __slots__ = ("_channel", "_observer", "_role")

    def __init__(self, observer: Observer, role: str, channel: str) -> None:
        self._observer = observer
        self._role = role
        self._channel = channel

    def __len__(self) -> int:
        return len(self._observer.peers(self._role, self._channel))

    def __iter__(self) -> Iterator[str]:
        return iter(self._observer.peers(self._role, self._channel))

    def __bool__(self) -> bool:
        return len(self) > 0

    def at_least(self, n: int) -> Pending[None]:
        """Done once at least n are connected: the start of a run that wants them all, without sleeping.

        Wait for it: `await zw.workers(PARSE).at_least(4)`, or `.result(timeout=10)`. Raises ContractMismatch if so many
        serve the channel and some of them expect another type than this process sends: those do not count.
        """
        return self._observer.when_peers(self._role, self._channel, n)

    def __repr__(self) -> str:
        count = len(self)
        return f"<Peers {self._channel}: {count} {self._role[:-1] if count == 1 else self._role}>"
