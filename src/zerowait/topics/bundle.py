"""Where publishing begins: events gather in a bundle until the network thread takes it.

As with pushes the short way takes no lock: whoever pops the bundle from its slot owns it. But events of one thread must
keep their order over all topics, so there is one slot for all of them, and an event goes into the newest bundle only:
who finds an older one there, which another thread has just put back, closes it.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Collection, Mapping
from threading import Lock
from time import sleep
from typing import Any, Final

from zerowait.callbacks import Callbacks, running_loop
from zerowait.errors import Closed, QueueFull, ZerowaitError
from zerowait.message import ARRAY32, BODY_HEADER, BODY_START, SEGMENT_BYTES, SEGMENT_MESSAGES
from zerowait.publications import Published
from zerowait.topics.allowance import Allowance, Allowances
from zerowait.turns import LONGEST_NAP_ON_LOOP_S, InTurn

PRESSED: Final = 8  # bundles that wait: from here on who publishes naps, so that the thread that sends keeps up
NAP_S: Final = 0.001
LONGEST_NAP_S: Final = 0.02
BUNDLES_MOST: Final = 256  # and from here on is refused: that thread stands still

RETAIN, RELIABLE = 1, 2  # what is said of a run


class TopicLane:
    """One topic, as it is published to. exact: the class of values that go the short way; is_short: unless durable
    groups get it too. groups: their channels; None: not known yet. encode: a value to what is published, given where
    that is for a bare socket."""

    __slots__ = (
        "accepted", "allowances", "codec", "declared", "encode", "encode_into", "exact", "flags", "groups", "is_plain",
        "is_short", "name", "press", "published", "reliable", "slot", "terms", "version",
    )  # fmt: skip

    def __init__(
        self,
        press: Press,
        name: str,
        codec: Any,
        exact: type | None,
        *,
        retain: bool = False,
        reliable: bool = False,
        encode: Callable[[Any], bytes] | None = None,
    ) -> None:
        self.press = press
        self.slot = press.slot
        self.name = name
        self.codec = codec
        self.exact = None if reliable else exact
        self.encode_into = codec.encode_into
        self.encode: Callable[[Any], bytes] = encode or codec.encode
        self.is_plain = encode is not None
        self.flags = RETAIN * retain | RELIABLE * reliable
        self.reliable = reliable
        self.groups: tuple[Any, ...] | None = ()
        self.is_short = False
        # As it was declared when it was first published on, and by which patterns that is known to others.
        self.terms: Any = None
        self.declared: set[str] = set()
        # Of a reliable one: how many were accepted, how many of them have been published, and whose queues they fill,
        # as of which version of the patterns that are subscribed to.
        self.accepted = 0
        self.published = 0
        self.allowances: tuple[Allowance, ...] = ()
        self.version = -1


class Bundle:
    """Events in the order in which they were published. Whoever has it in hand owns it, until it is taken."""

    __slots__ = ("buffer", "counts", "ends", "error", "headers", "lane", "runs", "sent_at", "watch", "watchers")

    def __init__(self, sent_at: int, watch: Lock) -> None:
        self.sent_at = sent_at
        self.buffer = bytearray(BODY_START)
        self.ends: list[int] = []
        self.runs: list[tuple[TopicLane, int]] = []  # (lane, position of the first)
        self.lane: TopicLane | None = None  # of the last run
        self.headers: dict[int, Mapping[str, str]] | None = None
        self.counts: Mapping[str, int] | None = None  # topic → to how many it was addressed, once that is known
        self.error: Exception | None = None
        self.watch = watch
        self.watchers: list[Callable[[], object]] | None = None

    def turn(self, lane: TopicLane) -> None:
        """What comes next is on another topic."""
        self.lane = lane
        self.runs.append((lane, len(self.ends)))

    def add(self, lane: TopicLane, payload: bytes, headers: Mapping[str, str] | None) -> None:
        if headers:
            if self.headers is None:
                self.headers = {}
            self.headers[len(self.ends)] = headers
        if self.lane is not lane:
            self.turn(lane)
        self.buffer += payload
        self.ends.append(len(self.buffer))

    def undo(self) -> None:
        """Drops what an interrupted or failed encoding has left behind the last whole event."""
        del self.buffer[self.ends[-1] if self.ends else BODY_START :]
        if self.runs and self.runs[-1][1] >= len(self.ends):
            self.runs.pop()
            self.lane = self.runs[-1][0] if self.runs else None

    def is_full(self) -> bool:
        return len(self.buffer) >= SEGMENT_BYTES or len(self.ends) >= SEGMENT_MESSAGES

    def let_go(self) -> tuple[bytearray, memoryview, tuple[tuple[str, int, int, int], ...]]:
        """Body, ends and runs, for who publishes them: (topic, start, stop, what is said of it)."""
        body, ends = self.buffer, array("I", self.ends)
        BODY_HEADER.pack_into(body, 0, ARRAY32, len(ends))
        starts = [*(at for _, at in self.runs[1:]), len(ends)]
        runs = tuple(
            (lane.name, start, stop, lane.flags) for (lane, start), stop in zip(self.runs, starts, strict=True)
        )
        self.buffer, self.ends = bytearray(BODY_START), []
        return body, memoryview(ends), runs

    def addressed(self, counts: Mapping[str, int]) -> None:
        self.counts = counts
        self._tell()

    def failed(self, error: Exception) -> None:
        self.error = error
        self.addressed({})

    def _tell(self) -> None:
        with self.watch:
            watchers, self.watchers = self.watchers, None
        for call in watchers or ():
            call()

    def when_addressed(self, call: Callable[[], object]) -> None:
        with self.watch:
            if self.counts is None:
                if self.watchers is None:
                    self.watchers = []
                self.watchers.append(call)
                return
        call()

    def forget(self, call: Callable[[], object]) -> None:
        with self.watch:
            if self.watchers is not None and call in self.watchers:
                self.watchers.remove(call)


class Press:
    """All bundles of a client. wake: tells the network thread; give_way: lets it finish its turn."""

    def __init__(
        self,
        callbacks: Callbacks,
        *,
        now_us: Callable[[], int],
        wake: Callable[[], object],
        give_way: Callable[[], object],
        room: Callable[[], Any],
    ) -> None:
        self.callbacks = callbacks
        self.slot: list[Bundle] = []
        self.closed: list[Bundle] = []  # nobody adds to them
        self.newest: Bundle | None = None
        self.error: ZerowaitError | None = None  # raised by every verb
        self.is_over: str | None = None  # the name of the client that was closed
        self._now_us = now_us
        self._wake = wake
        self._give_way = give_way
        self._room = room
        self._begun: deque[Bundle] = deque()
        self._in_turn = InTurn()
        self._lock = Lock()
        self._watch = Lock()
        self._rooms: list[Any] = []
        self._allowances = Allowances()

    # Any thread

    def publish(
        self, lane: TopicLane, payload: bytes, headers: Mapping[str, str] | None = None, *, force: bool = False
    ) -> Published:
        """The careful way. force: though queues are full. Raises Closed, QueueFull, and what opening the client
        raised."""
        self.reserve(lane, force=force)
        return self.publish_reserved(lane, payload, headers)

    def reserve(self, lane: TopicLane, *, force: bool = False) -> None:
        """Room for one event: what may be refused of it. `publish_reserved` or `give_back` is to follow. Raises as
        `publish` does."""
        self._check(lane, force=force)
        if lane.reliable:
            with self._lock:
                if not self._allowances.take(lane, force=force):
                    raise self._full(lane, self._allowances.most(lane))

    def give_back(self, lane: TopicLane) -> None:
        """What was reserved is not wanted any more."""
        if lane.reliable:
            with self._lock:
                self._allowances.give_back(lane)
            self._wake()  # somebody may wait for it

    def publish_reserved(self, lane: TopicLane, payload: bytes, headers: Mapping[str, str] | None = None) -> Published:
        """Raises nothing: if the client is at its end, what is given says so."""
        with self._lock:
            if self.error is not None:  # nobody takes anything any more
                over = Bundle(self._now_us(), self._watch)
                over.failed(self.error)
                return Published(over, lane)
            bundle = self._grab(len(payload))
            is_new = bundle is None
            if bundle is None:
                self.newest = bundle = Bundle(self._now_us(), self._watch)
                self._begun.append(bundle)
            bundle.add(lane, payload, headers)
            (self.closed if bundle.is_full() else self.slot).append(bundle)
        if is_new:
            self._wake()
            self._keep_pace()
        return Published(bundle, lane)

    def _check(self, lane: TopicLane, *, force: bool) -> None:
        if self.is_over is not None:
            raise Closed(name=self.is_over)
        if self.error is not None:
            raise self.error
        if len(self._begun) >= BUNDLES_MOST and not force:
            raise self._full(lane, BUNDLES_MOST * SEGMENT_MESSAGES)

    def _full(self, lane: TopicLane, most: int) -> QueueFull:
        room = self._room()
        if lane.reliable:
            self._allowances.wait(lane, room)
        else:
            self._rooms.append(room)
        self._wake()
        return QueueFull(limit_bytes=0, limit_messages=most, room=room, channel=lane.name, durable=False)

    def _grab(self, nbytes: int) -> Bundle | None:
        """The newest, if nobody has it in hand and it has room for so many bytes."""
        while True:
            try:
                bundle = self.slot.pop()
            except IndexError:
                return None
            if bundle is self.newest and len(bundle.buffer) + nbytes <= SEGMENT_BYTES and not bundle.is_full():
                return bundle
            self.closed.append(bundle)

    def _keep_pace(self) -> None:
        loop = running_loop()
        if loop is not None and not self._in_turn.may_wait(loop):
            return
        waiting = len(self._begun)
        if waiting > PRESSED:
            longest = LONGEST_NAP_S if loop is None else LONGEST_NAP_ON_LOOP_S
            sleep(min(longest, NAP_S * (waiting - PRESSED)))
        else:
            self._give_way()

    # The network thread

    def has_work(self) -> bool:
        return bool(self._begun)

    def take(self) -> list[Bundle]:
        """All that is in nobody's hand, in its order; what comes after a bundle that is, waits for it."""
        taken: list[Bundle] = []
        if not self._begun:
            return taken
        with self._lock:
            available: set[Bundle] = set()
            for slot in (self.slot, self.closed):
                try:
                    while True:
                        available.add(slot.pop())
                except IndexError:
                    pass
            while self._begun and self._begun[0] in available:
                bundle = self._begun.popleft()
                available.discard(bundle)
                if bundle is self.newest:
                    self.newest = None
                bundle.undo()
                taken.append(bundle)
            for bundle in available:
                (self.slot if bundle is self.newest else self.closed).append(bundle)
            rooms, self._rooms = self._rooms, []
        for room in rooms:
            room.set(None)
        return taken

    def allow(self, version: int, patterns: Callable[[], Collection[str]], room: Callable[[str], int | None]) -> None:
        """How much more of reliable topics may be accepted than has been published. patterns: that are subscribed to,
        of which there is a new version whenever one comes or goes; room: of the fullest queue of one, None: there is
        none."""
        if not self._allowances:
            return
        with self._lock:
            rooms = {pattern: room(pattern) for pattern in self._allowances.used()}
            told = self._allowances.renew(version, patterns, rooms)
        for each in told:
            each.set(None)

    def fail(self, error: ZerowaitError) -> None:
        """Nothing will ever be published."""
        self.error = error
        for bundle in self.take():
            bundle.failed(error)

    def close(self, name: str) -> None:
        self.is_over = name
        with self._lock:
            rooms, self._rooms = [*self._rooms, *self._allowances.all_rooms()], []
        for room in rooms:
            room.set(None)
