"""Where this process stands in its namespace: the sockets that it listens on, and what it announces of itself. Both are
kept against whatever removes files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from zerowait.engines.brokerless.directory import Directory, Entry, Me
from zerowait.engines.brokerless.protocol.config import Identity
from zerowait.engines.brokerless.wire import Wire
from zerowait.errors import StoreError, ZerowaitError

log = logging.getLogger("zerowait.node")


class Footing:
    """On the network thread.

    me: this life, begun already. since_us: since when it is there. become: told when its lock file is another.
    own: told where it listens, so that it does not dial itself. endpoints: where it listens, as others dial it; the
    local one first.
    """

    def __init__(
        self,
        directory: Directory,
        me: Me,
        wire: Wire,
        since_us: int,
        *,
        become: Callable[[Identity], None],
        own: Callable[[Iterable[str]], None],
    ) -> None:
        self._directory = directory
        self._me = me
        self._wire = wire
        self._since_us = since_us
        self._become = become
        self._own = own
        self.endpoints: list[str] = []
        self._serves: Mapping[str, str] = {}
        self._boxes: tuple[int, ...] = ()
        self._publishes: tuple[str, ...] = ()
        self._subscribes: tuple[str, ...] = ()
        self._is_announced = False
        self._failed = ""  # what was said last of mending or announcing that failed

    def listen(self, addresses: Sequence[str]) -> None:
        """Raises ZerowaitError."""
        self.endpoints = [self._wire.listen(endpoint) for endpoint in [self._me.socket, *addresses]]
        self._directory.listening()
        self._own([*self.endpoints, *addresses])

    def announce(
        self, serves: Mapping[str, str], boxes: Iterable[int], publishes: Iterable[str], subscribes: Iterable[str]
    ) -> None:
        """serves: channel → kind. boxes: the outboxes that it has open. publishes, subscribes: topics. Raises
        StoreError the first time, when nobody could ever find this process; later it is logged, and tried again at
        each look at the directory: what this process has to do goes on without it."""
        self._serves, self._boxes = serves, tuple(boxes)
        self._publishes, self._subscribes = tuple(publishes), tuple(subscribes)
        try:
            self._announce()
        except StoreError as error:
            if not self._is_announced:
                raise
            self._say(error)
        else:
            self._is_announced, self._failed = True, ""

    def _announce(self) -> None:
        me = self._me
        entry = Entry(
            instance=me.instance, name=me.name, pid=os.getpid(), boot=me.boot, device=me.device, inode=me.inode,
            endpoints=tuple(self.endpoints), serves=dict(self._serves), boxes=self._boxes, since=self._since_us,
            publishes=self._publishes, subscribes=self._subscribes,
        )  # fmt: skip
        self._directory.announce(entry)

    def mend(self) -> None:
        """Something removed the folders, the lock file or the socket of this process (a cleaning of old files, say):
        they are made and bound again. Who is connected already stays so, by the socket that has no file any more."""
        try:
            mended = self._directory.mend()
            if mended is None:
                return
            self._me = mended.me
            self._become(identity_of(mended.me))
            if mended.listen:
                self.endpoints[0] = self._wire.listen(mended.me.socket)
                self._directory.listening()
                self._own(self.endpoints)
            self._announce()
        except ZerowaitError as error:
            self._say(error)
        else:
            self._failed = ""
            log.warning("%s: something removed files of this process below %s; they are made again, and it can be "
                        "reached as before", self._me.name, self._directory.root)  # fmt: skip

    def _say(self, error: ZerowaitError) -> None:
        if str(error) != self._failed:
            self._failed = str(error)
            log.warning("%s; it is tried again each second", str(error).rstrip("."))


def identity_of(me: Me) -> Identity:
    return Identity(instance=me.instance, name=me.name, pid=os.getpid(), boot=me.boot, device=me.device, inode=me.inode)
