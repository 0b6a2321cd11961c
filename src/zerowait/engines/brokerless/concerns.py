"""What may be wrong with a channel that is pushed to: nobody serves it, or services of different names do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from zerowait.engines.brokerless.contacts import Contacts
from zerowait.engines.brokerless.finding import Wanted
from zerowait.engines.brokerless.protocol.effects import Say
from zerowait.engines.brokerless.protocol.owner.contracts import said as mismatch_said
from zerowait.engines.brokerless.protocol.owner.owner import Owner

SHARED_MOST = 1_000  # channels and names that are remembered as told
LONELY_S, LONELY_AGAIN_S = 10.0, 60.0  # how long nobody may serve what waits before that is told, and told again


class Concerns:
    """On the network thread.

    say: what is told of a process. lonely: what is told of a channel, with who serves what, and what is wrong with its
    addresses.
    """

    def __init__(
        self,
        wanted: Wanted,
        owner: Owner,
        contacts: Contacts,
        *,
        say: Callable[[Say], None],
        lonely: Callable[[str, Sequence[str], Mapping[str, str]], None],
    ) -> None:
        self._wanted = wanted
        self._owner = owner
        self._contacts = contacts
        self._say = say
        self._tell_lonely = lonely
        self._lonely: dict[str, tuple[float, float]] = {}  # since when, and when it was told last
        self._shared: set[tuple[str, ...]] = set()  # channel and the names that serve it, as it was told

    def look(self, now: float) -> None:
        self._look_at_lonely(now)
        self._look_at_shared()

    def _look_at_shared(self) -> None:
        """Services of different names serve one channel: each may have been meant to get all of it."""
        for channel in self._wanted.channels:
            links = self._owner.workers(channel)
            names = sorted({link.hello.name for link in links if link.hello is not None}) if len(links) > 1 else []
            if len(names) > 1 and (told := (channel, *names)) not in self._shared and len(self._shared) < SHARED_MOST:
                self._shared.add(told)
                self._say(Say("shared", f"{', '.join(names[:-1])} and {names[-1]}", 0, channel))

    def _look_at_lonely(self, now: float) -> None:
        """A wait that nobody can end says so: after 10 s, then every minute."""
        owner = self._owner
        waiting = {channel for channel in owner.dispatch.channels() if not owner.workers(channel)}
        for channel in waiting:
            since, told = self._lonely.setdefault(channel, (now, now - LONELY_AGAIN_S))
            if now - since >= LONELY_S and now - told >= LONELY_AGAIN_S:
                self._lonely[channel] = since, now
                misfits = owner.misfits(channel)
                for link, mismatch in misfits:
                    self._say(mismatch_said(link, channel, mismatch))
                if misfits:
                    continue  # it is served, by those who expect something else
                served = {*owner.channels_served(), *self._contacts.channels()}
                self._tell_lonely(channel, sorted(served), self._contacts.troubles(channel))
        for channel in [channel for channel in self._lonely if channel not in waiting]:
            del self._lonely[channel]
