"""Durable groups: what is published is pushed for each of them, through the publisher's own outbox.

The channel of a group is `<pattern>@<group>`: a push channel as any other, so that what waits for a group that is away
is stored, redelivered, retried and dead-lettered by the same rules. Which groups there are is remembered on disk, a
file each in `groups/<client>` of the namespace, so that a publisher that starts knows of them before they come.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from zerowait.codec import Codec
from zerowait.outbox.entrance import Ready
from zerowait.outbox.lane import Lane
from zerowait.outbox.sheaf import Sheaf
from zerowait.patterns import TOPIC_HEADER, is_wild, matches, parted
from zerowait.pending import Pending, Promise

log = logging.getLogger("zerowait.outbox")

GROUPS_MOST = 1_024


class Safe:
    """What was appended for groups: in which sheaf, at which place."""

    def __init__(self, promise: Promise[int], taken: list[tuple[Sheaf, int]]) -> None:
        self._promise = promise
        self.taken = taken

    def beside(self, published: Pending[int]) -> Pending[int]:
        """Done when it is safe for all groups, and addressed to those who are there; counts both."""
        promise, taken = self._promise, self.taken

        def over() -> None:
            error = next((sheaf.error for sheaf, _ in taken if sheaf.error is not None), None)
            if error is None:
                error = published.exception()
            if error is not None:
                promise.fail(error)
            else:
                promise.set(published.result() + len(taken))

        left, lock = len(taken) + 1, threading.Lock()

        def one() -> None:
            nonlocal left
            with lock:
                left -= 1
                is_over = left == 0
            if is_over:
                over()

        published._watch(one)
        for sheaf, index in taken:
            sheaf.when_stored(index, one)
        return promise


class Groups:
    """folder: where they are remembered. lane: the way into the outbox for a group's channel. promise: makes one.
    want: told of a channel whose workers are to be found. changed: told that there is another group, or one less."""

    def __init__(
        self,
        folder: Callable[[], Path],
        *,
        lane: Callable[[str, Codec[Any]], Lane],
        promise: Callable[[str], Promise[Any]],
        want: Callable[[str], None],
    ) -> None:
        self.changed: Callable[[], None] = _nothing
        self._folder = folder
        self._lane = lane
        self._promise = promise
        self._want = want
        self._known: dict[str, tuple[str, str]] | None = None  # channel → (pattern, group); None: not read yet
        self._early: dict[str, tuple[str, str]] = {}  # met before they were read
        self._lock = threading.RLock()  # never held while the disk is waited for: the network thread takes it, too
        self._reading = threading.Lock()
        self._writing = threading.Lock()

    def known(self) -> dict[str, tuple[str, str]]:
        """All that there are. Read at first use, on this thread: not for the network thread (`seen`)."""
        if self._known is None:
            for channel, both in self._read().items():
                self._begin(channel, both)
        assert self._known is not None
        return self._known

    def _read(self) -> dict[str, tuple[str, str]]:
        """Gives those that were met meanwhile and are new; none to whoever finds that another was quicker."""
        with self._reading:
            if self._known is not None:
                return {}
            found = self._remembered()
            with self._lock:
                early = ((channel, both) for channel, both in self._early.items() if channel not in found)
                new = dict(islice(early, max(0, GROUPS_MOST - len(found))))
                self._known, self._early = found | new, {}
            return new

    def _read_behind(self) -> None:
        threading.Thread(target=self.known, name="zerowait groups", daemon=True).start()

    def _remembered(self) -> dict[str, tuple[str, str]]:
        return remembered(self._folder())

    def seen(self) -> dict[str, tuple[str, str]]:
        """Those that are in memory: for an event loop and the network thread, which wait for no disk."""
        with self._lock:
            return {**(self._known or {}), **self._early}

    def of(self, topic: str, codec: Codec[Any]) -> tuple[Any, ...]:
        """(channel's lane, whether the topic is to be said) of the groups that get this topic."""
        found: list[tuple[Lane, bool]] = []
        known = self.known()
        with self._lock:
            for channel, (pattern, _) in known.items():
                if matches(pattern, topic):
                    found.append((self._lane(channel, codec), is_wild(pattern)))
        return tuple(found)

    def met(self, channel: str) -> None:
        """A process serves this group: it is remembered from now on. On the network thread, which waits for no disk."""
        both = parted(channel)
        with self._lock:
            is_read = self._known is not None
            known = self._early if self._known is None else self._known
            is_new = channel not in known
            if both is None or (is_new and len(known) >= GROUPS_MOST):
                return
            known[channel] = both
            is_first = is_new and len(known) == 1
        self._want(channel)  # also of one that an earlier life has met: who asks for subscribers is to find it
        if is_read and is_new:
            self._begin(channel, both)
        elif is_first and not is_read:
            self._read_behind()

    def _begin(self, channel: str, both: tuple[str, str]) -> None:
        self._keep(channel, both)
        self.changed()

    def _keep(self, channel: str, both: tuple[str, str]) -> None:
        threading.Thread(target=self._remember, args=(channel, both), name="zerowait groups", daemon=True).start()

    def forget(self, channel: str) -> bool:
        """Nothing more is kept for this group, unless it comes back: then it is met anew. False: it was not known.
        Waits for the disk; raises OSError if that cannot forget it."""
        known = self.known()
        with self._lock:
            was_known = known.pop(channel, None) is not None
        if was_known:
            self.changed()
        with self._writing:
            was_there = forget(self._folder(), channel)
        return was_known or was_there

    def _remember(self, channel: str, both: tuple[str, str]) -> None:
        try:
            with self._writing:
                if channel not in self.known():  # forgotten meanwhile
                    return
                folder = self._folder()
                for each in (folder.parent, folder):
                    each.mkdir(mode=0o700, exist_ok=True)
                with open(_file(folder, channel), "wb") as file:
                    os.fsync(file.fileno())
                _sync(folder)
        except OSError as error:
            log.warning(
                "the durable group %s of %s cannot be remembered (%s): what is published is kept for it as long as "
                "this process lives, and from the next one's start only once the group is there",
                both[1],
                both[0],
                error,
            )

    def ready(
        self, lanes: tuple[tuple[Lane, bool], ...], topic: str, payload: bytes, headers: Mapping[str, str] | None
    ) -> list[Ready]:
        """What is to be pushed for each of them."""
        return [
            Ready(lane, payload, {"headers": said} if (said := _said(headers, topic, says_topic)) else {})
            for lane, says_topic in lanes
        ]

    def append(
        self,
        lanes: tuple[tuple[Lane, bool], ...],
        topic: str,
        payload: bytes,
        headers: Mapping[str, str] | None,
    ) -> Safe:
        """Stores it for each of them. Raises as a push does, and then nothing was taken: the first is refused, or none
        is."""
        taken: list[tuple[Sheaf, int]] = []
        for lane, says_topic in lanes:
            said = _said(headers, topic, says_topic)
            taken.append(lane.append(payload, headers=said, force=bool(taken)))
        return Safe(self._promise("write `await zw.publish(…)`"), taken)


def folder_of(home: Path, namespace: str, client: str = "") -> Path:
    """Where the groups of a client are remembered; without its name, the folders of all clients."""
    return home / namespace / "groups" / client


def remembered(folder: Path) -> dict[str, tuple[str, str]]:
    """The groups of which a file there tells: channel → (pattern, group)."""
    found: dict[str, tuple[str, str]] = {}
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):
            channel = unquote(name)
            if not name.startswith(".") and (both := parted(channel)) is not None:
                found[channel] = both
    return found


def forget(folder: Path, channel: str) -> bool:
    """Removes what tells of it there; whether there was something. Raises OSError."""
    try:
        os.unlink(_file(folder, channel))
    except FileNotFoundError:
        return False
    _sync(folder)
    return True


def _file(folder: Path, channel: str) -> Path:
    return folder / quote(channel, safe="@")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _said(headers: Mapping[str, str] | None, topic: str, says_topic: bool) -> Mapping[str, str] | None:
    return {**(headers or {}), TOPIC_HEADER: topic} if says_topic else headers or None


def _nothing() -> None:
    return None
