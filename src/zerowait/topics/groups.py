"""Durable groups: what is published is pushed for each of them, through the publisher's own outbox.

The channel of a group is `<pattern>@<group>`: a push channel as any other, so that what waits for a group that is away
is stored, redelivered, retried and dead-lettered by the same rules. Which groups there are is remembered on disk, a
file each in `groups/<client>` of the namespace, so that a publisher that starts knows of them before they come.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from zerowait.codec import Codec
from zerowait.errors import QueueFull, ZerowaitError
from zerowait.outbox.entrance import Ready
from zerowait.outbox.lane import Lane
from zerowait.outbox.sheaf import Sheaf
from zerowait.patterns import TOPIC_HEADER, is_wild, matches, parted
from zerowait.pending import Promise
from zerowait.topics.safe import HeldEvent, Safe

log = logging.getLogger("zerowait.outbox")

GROUPS_MOST = 1_024
HELD_BYTES = 16 << 20  # of what is published before the groups are known: as long as a disk that stands still allows
READ_AGAIN_S = 0.5
_LINE = "write `await zw.publish(…)`"


class Groups:
    """folder: where they are remembered. lane: the way into the outbox for a group's channel. promise: makes one.
    want: told of a channel whose workers are to be found. behind: runs something that may start a thread, behind
    whoever publishes. changed: told that there is another group, or one less.

    Which there are is read once, behind the first event: what is published meanwhile is held, in its order."""

    def __init__(
        self,
        folder: Callable[[], Path],
        *,
        lane: Callable[[str, Codec[Any]], Lane],
        promise: Callable[[str], Promise[Any]],
        want: Callable[[str], None],
        behind: Callable[[Callable[[], None]], object] = lambda act: act(),
    ) -> None:
        self.changed: Callable[[], None] = _nothing
        self._folder = folder
        self._lane = lane
        self._promise = promise
        self._want = want
        self._behind = behind
        self._known: dict[str, tuple[str, str]] | None = None  # channel → (pattern, group); None: not read yet
        self._early: dict[str, tuple[str, str]] = {}  # met before they were read
        self._held: list[HeldEvent] = []
        self._held_bytes = 0
        self._room: Promise[None] | None = None  # of who was refused because too much is held
        self._is_open = False  # they are known, and nothing is held: what is published is appended at once
        self._opening: Future[None] | None = None
        self._error: ZerowaitError | None = None  # they will never be known
        self._lock = threading.RLock()  # never held while the disk is waited for: the network thread takes it, too
        self._reading = threading.Lock()
        self._writing = threading.Lock()

    # -- from not known to known ---------------------------------------------------------------------------------------

    def read(self) -> Future[None]:
        """Has them read behind whoever asks. Done when what is published goes to them at once."""
        with self._lock:
            opening, is_first = self._opening, self._opening is None
            if opening is None:
                opening = self._opening = Future()
                opening.set_running_or_notify_cancel()  # who awaits it may be cancelled
                if self._error is not None:
                    opening.set_exception(self._error)
                elif self._is_open:
                    opening.set_result(None)
            is_first = is_first and not opening.done()
        if is_first:
            self._behind(self._read_behind)
        return opening

    def known(self) -> dict[str, tuple[str, str]]:
        """All that there are. Read at first use, on this thread: not for the network thread, nor for whoever publishes
        (`seen`, `read`). Raises OSError if that cannot be; then it is as before."""
        if not self._is_open:
            self._open()
        assert self._known is not None
        return self._known

    def _open(self) -> None:
        with self._reading:
            if self._is_open:
                return
            found = self._remembered()
            with self._lock:
                early = ((channel, both) for channel, both in self._early.items() if channel not in found)
                new = dict(islice(early, max(0, GROUPS_MOST - len(found))))
                self._known, self._early = found | new, {}
            self._let_go()
        for channel, both in new.items():
            self._keep(channel, both)
        self.changed()

    def _let_go(self) -> None:
        """What was held goes its way, and what comes meanwhile behind it."""
        while True:
            with self._lock:
                held, self._held, self._held_bytes = self._held, [], 0
                room, self._room = self._room, None
                if not held:
                    self._is_open = True
                    if self._opening is not None and not self._opening.done():
                        self._opening.set_result(None)
            if room is not None:
                room.set(None)
            if not held:
                return
            for each in held:
                taken: list[tuple[Sheaf, int]] = []
                try:
                    self._append(taken, self._of(each.topic, each.codec), each.topic, each.payload, each.headers)
                except Exception as error:  # whoever waits for it is told
                    each.went(error)
                else:
                    each.went(taken)

    def fail(self, error: ZerowaitError) -> None:
        """They will not be read any more: the client is at its end."""
        with self._lock:
            held, self._held, self._held_bytes = self._held, [], 0
            room, self._room = self._room, None
            if not self._is_open:
                self._error = error
                if self._opening is not None and not self._opening.done():
                    self._opening.set_exception(error)
        for each in held:
            each.went(error)
        if room is not None:
            room.set(None)

    def _read_behind(self) -> None:
        try:
            threading.Thread(target=self._read_patiently, name="zerowait groups", daemon=True).start()
        except RuntimeError:  # the interpreter is at its end, and starts no more threads: nobody waits for this one
            with suppress(OSError):
                self.known()

    def _read_patiently(self) -> None:
        """Until they could be read: not to know of a group is to lose what is published for it."""
        is_told = False
        while self._error is None:
            try:
                self.known()
            except OSError as error:
                if not is_told:
                    is_told = True
                    log.warning(
                        "which durable groups there are cannot be read from %s (%s), and is tried again until it can: "
                        "what is published is held meanwhile, at most %d MiB of it, and an app does not begin before",
                        self._folder(), error.strerror, HELD_BYTES >> 20,
                    )  # fmt: skip
                time.sleep(READ_AGAIN_S)
            else:
                return

    def _remembered(self) -> dict[str, tuple[str, str]]:
        return remembered(self._folder())

    def seen(self) -> dict[str, tuple[str, str]]:
        """Those that are in memory: for an event loop and the network thread, which wait for no disk."""
        with self._lock:
            return {**(self._known or {}), **self._early}

    # -- what is published ---------------------------------------------------------------------------------------------

    def of(self, topic: str, codec: Codec[Any]) -> tuple[tuple[Lane, bool], ...] | None:
        """(channel's lane, whether the topic is to be said) of the groups that get this topic. None: which there are is
        not known yet, and is being read."""
        if not self._is_open:
            self.read()
            return None
        return self._of(topic, codec)

    def _of(self, topic: str, codec: Codec[Any]) -> tuple[tuple[Lane, bool], ...]:
        found: list[tuple[Lane, bool]] = []
        with self._lock:
            for channel, (pattern, _) in (self._known or {}).items():
                if matches(pattern, topic):
                    found.append((self._lane(channel, codec), is_wild(pattern)))
        return tuple(found)

    def hold(
        self, topic: str, codec: Codec[Any], payload: bytes, headers: Mapping[str, str] | None
    ) -> HeldEvent | None:
        """Until it is known which groups get it; None: that is known by now. Raises QueueFull, and why they will never
        be known; then nothing was taken."""
        with self._lock:
            if self._is_open:
                return None
            if self._error is not None:
                raise self._error
            held = HeldEvent(self._promise(_LINE), topic, codec, payload, headers)
            if self._held_bytes + held.nbytes <= HELD_BYTES:
                self._held.append(held)
                self._held_bytes += held.nbytes
                return held
            room = self._room = self._room or self._promise("write `await error.room`")
        words = (
            f"For which durable groups this is kept could not be read yet from {self._folder()}, and "
            f"{HELD_BYTES >> 20} MiB wait for that: the event on {topic} was not taken, "
            "what was published before is kept. Try again when `error.room` is done, and look at that disk."
        )
        raise QueueFull(words, limit_bytes=HELD_BYTES, limit_messages=0, room=room, channel=topic, durable=True)

    def is_holding(self) -> bool:
        """Whether something was published that is not on its way to the outbox yet."""
        with self._lock:
            is_going = self._known is not None  # what was held goes its way, and may be in nobody's list by now
            return not self._is_open and self._error is None and (is_going or bool(self._held))

    # -- which there are -----------------------------------------------------------------------------------------------

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
        self._want(channel)  # also of one that an earlier life has met: who asks for subscribers is to find it
        if is_read and is_new:
            self._begin(channel, both)
        elif not is_read:
            self.read()

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
        self._append(taken, lanes, topic, payload, headers, force=False)
        return Safe(self._promise(_LINE), taken)

    def _append(
        self,
        taken: list[tuple[Sheaf, int]],
        lanes: tuple[tuple[Lane, bool], ...],
        topic: str,
        payload: bytes,
        headers: Mapping[str, str] | None,
        *,
        force: bool = True,
    ) -> None:
        for lane, says_topic in lanes:
            said = _said(headers, topic, says_topic)
            taken.append(lane.append(payload, headers=said, force=force or bool(taken)))


def folder_of(home: Path, namespace: str, client: str = "") -> Path:
    """Where the groups of a client are remembered; without its name, the folders of all clients."""
    return home / namespace / "groups" / client


def remembered(folder: Path) -> dict[str, tuple[str, str]]:
    """The groups of which a file there tells: channel → (pattern, group). Raises OSError for a folder that is there and
    cannot be read, for want of descriptors say: that is no sign that there are none."""
    found: dict[str, tuple[str, str]] = {}
    with suppress(FileNotFoundError):
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
