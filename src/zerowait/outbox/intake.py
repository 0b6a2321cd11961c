"""The side of an outbox that any thread may touch: where pushes gather until the thread that owns it takes them.

A push must cost a fraction of a microsecond, so that its common case takes no lock: a lane keeps its open sheaf in a
list, its slot, and whoever pops it from there owns it until it is appended again. Both are one operation of the
interpreter. The common case stands in `Client.push`; the argument `sheaf` changes hands exactly once on each way out.

All that is rare happens under the intake's lock: beginning a sheaf, which sets room aside for a whole segment, and what
a tripped wire (`most_bytes`, `last_index`) leads to. Room is counted exactly: what is set aside and not used by the
other open sheaves is called in before anybody is refused.

An exception from outside (KeyboardInterrupt) can strike between `slot.pop()` and the name it is bound to; then nobody
has the sheaf. The intake therefore lists all that have been begun. What is neither in its slot nor given back for
PATIENCE is copied out as far as it is whole, and looked at again later: if a push was only very slow, its message
follows with a number that was kept for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import RLock
from time import monotonic, sleep
from typing import Any, Final

from msgspec import Struct

from zerowait.callbacks import running_loop
from zerowait.errors import Closed, QueueFull, Room, StoreError
from zerowait.message import BODY_START, SEGMENT_BYTES, SEGMENT_MESSAGES
from zerowait.outbox.keyed import Keyed
from zerowait.outbox.sheaf import MESSAGE_COST, Origin, Piece, Sheaf, Terms
from zerowait.turns import LONGEST_NAP_ON_LOOP_S, InTurn

PATIENCE: Final = 2.0  # seconds, and PATIENCE_TURNS turns: a thread that gets no turn for long is not lost
PATIENCE_TURNS: Final = 50
FEW: Final = 16
GIVES_WAY: Final = 64  # with keys, as seldom as once for so many sheaves that wait to be taken
CALL_IN: Final = 0.1  # seconds, at most, that a push at the limit waits for another thread in the middle of its own
# So much is pushed and not stored: pushes begin to give way, once a segment, the longer the more there is above it.
# It is what a program's memory grows by while it pushes faster than its disk writes: with one that takes 16 MB a second
# about 12 MiB are pushed and not stored.
PRESSED_BYTES: Final = 4 << 20
NAP: Final = 0.002  # seconds for each MiB
LONGEST_NAP: Final = 0.05
BEHIND_NAP: Final = 0.001  # seconds a segment, while workers take what must be read back for them (see `is_behind`)
FOR_OUTPUTS: Final = 1.1  # of the limit: so far what handlers send may fill it while work is still taken
ROOMY: Final = 0.9  # QueueFull.room is done when this part is used: not at each message that leaves


class Limits(Struct, frozen=True, kw_only=True):
    """How much an outbox may hold. Bytes are payloads and MESSAGE_COST for each message.

    What handlers send is taken beyond that: their runs had begun, and without it A → B → A would stand still for ever.
    """

    messages: int = 1_000_000
    nbytes: int = 2 << 30
    message_bytes: int = 16 << 20
    letters: int = 10_000
    letter_days: float = 30.0
    choice_days: float = (
        7.0  # how long it is remembered whose outputs were chosen, if they are never said to be released
    )
    store_grace: float = 30.0  # seconds that a failing file may take to come back before waiters are told
    ids: int = 100_000  # of messages (`id=`), remembered
    id_hours: float = 24.0

    @property
    def ids_kept_us(self) -> int:
        return int(self.id_hours * 3_600_000_000)


class Intake:
    """What pushes have left for the owner of an outbox, and how much room there is.

    wake: called when the owner has something to take; any thread, cheap if the owner is awake. room: makes what
    `QueueFull.room` is (see `on_room`). now_us: microseconds UTC.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        durable: bool,
        wake: Callable[[], object],
        room: Callable[[], Room],
        now_us: Callable[[], int],
    ) -> None:
        self.limits = limits
        self.durable = durable
        self.wake = wake
        self.room = room
        self.now_us = now_us
        self.broken: StoreError | None = None  # raised by every verb until the file can be written again
        self.closed: str | None = None  # the name of the client that was closed: verbs raise Closed
        self.make: Callable[[Origin, list[Sheaf], Terms, int, int], Sheaf] = Sheaf
        self.box = 0  # the outbox's id, once it is open
        self.pid = 0  # of the process it belongs to; a forked child has no part in it
        self.give_way: Callable[[], object] = _nothing  # lets the thread that carries messages on finish its turn
        # What workers take is read back from the disk, for it was pushed faster than they took it. That costs as much
        # as to store it: they would never catch up with who goes on pushing at full speed, though they could.
        self.is_behind = False
        self.disk_pressure = 0  # as `pressure`: how near its disk is to being full
        self.is_plain = False  # what is taken here goes to a bare socket, which acknowledges nothing
        self.callbacks: Any = None  # what receipts call back on, and how they withdraw: given by who composes
        self.withdraw: Callable[[Sheaf, int], Any] | None = None
        self.keyed = Keyed()
        self.closing: list[Sheaf] = []  # full sheaves: nobody adds to them
        # Re-entrant: a signal handler or a `__del__` may push in the middle of what its thread does under them. There
        # nothing reads, and writes after a call, what such a push changes.
        self.watch = RLock()  # of states and watchers of all sheaves
        self.watched: set[Sheaf] = set()
        self.held = 0  # sheaves that the last `take` had to leave: the owner looks again within about a millisecond
        self._lock = RLock()
        self._begun: list[Sheaf] = []
        self._taken: dict[Sheaf, tuple[int, int]] = {}  # not yet on disk: how many messages, and bytes
        self._taken_bytes = 0
        self._cut: list[Sheaf] = []
        self._missing: dict[Sheaf, tuple[float, int]] = {}  # since when, and for how many turns, it is out of its slot
        self._most_messages = limits.messages
        self._most_bytes = max(MESSAGE_COST, limits.nbytes)
        self._messages = 0  # stored, taken, and set aside for open sheaves
        self._bytes = 0
        self._room_watchers: list[Callable[[], object]] = []
        self._in_turn = InTurn()

    # Room

    def begin(self, lane: Origin, slot: list[Sheaf], terms: Terms, cost: int, *, force: bool, alone: bool) -> Sheaf:
        """For lanes: a sheaf with room for at least one message of that cost."""
        # Made anew each time: an exception that is raised twice keeps the frames of both.
        if self.closed is not None:
            raise Closed(name=self.closed)
        if self.broken is not None and not force:
            raise StoreError(self.broken.message, path=self.broken.path, errno=self.broken.errno)
        if terms.key is None or len(self._begun) % GIVES_WAY == 0:  # a key's sheaf is no segment's worth
            self._give_way()
        sheaf = None
        with self._lock:
            room = None if force else self._free(1, cost, spare=None)
            if room is not None or force:
                sheaf = self._made(lane, slot, terms, cost, room or (1, cost), alone=alone)
        if sheaf is None:
            raise self.refusal(lane.channel)  # outside: what waits for room asks under the lock
        return sheaf

    def _give_way(self) -> None:
        """Let the owner keep up: once a segment, and only if much is pushed and not stored.

        A thread that pushes without a pause keeps the interpreter from the one that stores, whose every step would wait
        5 ms for it; what gathers meanwhile lies in memory.
        """
        loop = running_loop()
        if loop is not None and not self._in_turn.may_wait(loop):
            return
        begun = self._begun
        unstored = self._taken_bytes
        if len(begun) > 1:
            unstored += len(begun) * len(begun[len(begun) // 2].buffer)  # to add them up would cost more than it tells
        if unstored > PRESSED_BYTES:
            longest = LONGEST_NAP if loop is None else LONGEST_NAP_ON_LOOP_S
            sleep(min(longest, NAP * (unstored - PRESSED_BYTES) / (1 << 20)))
        elif self.is_behind:
            sleep(BEHIND_NAP)
        else:
            self.give_way()

    def _made(
        self,
        lane: Origin,
        slot: list[Sheaf],
        terms: Terms,
        cost: int,
        room: tuple[int, int],
        *,
        alone: bool,
    ) -> Sheaf:
        messages, nbytes = room
        if alone:
            messages, nbytes = 1, cost
        else:
            # Half of what is left at most, so that at the limit several threads need not call in from each other; and
            # little for messages with a time of their own, which are often alone with it.
            most = SEGMENT_MESSAGES if slot is lane.slot else FEW
            messages = max(1, min(most, messages // 2))
            nbytes = max(cost, min(SEGMENT_BYTES * most // SEGMENT_MESSAGES + MESSAGE_COST * messages, nbytes // 2))
        sheaf = self.make(lane, slot, terms, messages, nbytes)
        self._messages += messages
        self._bytes += nbytes
        self._begun.append(sheaf)
        return sheaf

    def extend(self, sheaf: Sheaf, *, force: bool = False) -> bool:
        """See that what is in the sheaf, the caller's, is covered by room of its own; False: the last one is not."""
        with self._lock:
            messages, nbytes = len(sheaf.ends), sheaf.used_bytes
            lacking_messages = max(0, messages - sheaf.reserved_messages)
            lacking_bytes = max(0, nbytes - sheaf.reserved_bytes)
            room: tuple[int, int] | None = (0, 0)
            if lacking_messages or lacking_bytes:
                # Lacking one of the two, it may have too much of the other, which another waits for.
                spare_bytes = sheaf.reserved_bytes - nbytes if lacking_bytes == 0 else 0
                self._shrink(sheaf, min(sheaf.reserved_messages, messages), sheaf.reserved_bytes - spare_bytes)
                room = None if force else self._free(lacking_messages, lacking_bytes, spare=sheaf)
            elif messages < SEGMENT_MESSAGES:
                room = self._left()
            if room is None:
                if not force:
                    self._shrink(sheaf, min(sheaf.reserved_messages, messages - 1), sheaf.reserved_bytes)
                    return False
                room = (lacking_messages, lacking_bytes)
            more_messages = max(lacking_messages, min(room[0] // 2, SEGMENT_MESSAGES - sheaf.reserved_messages))
            most_bytes = SEGMENT_BYTES + MESSAGE_COST * SEGMENT_MESSAGES
            more_bytes = max(lacking_bytes, min(room[1] // 2, most_bytes - sheaf.reserved_bytes))
            self._messages += more_messages
            self._bytes += more_bytes
            sheaf.reserve(sheaf.reserved_messages + more_messages, sheaf.reserved_bytes + more_bytes)
            return True

    def attend(self, sheaf: Sheaf) -> bool:
        """The caller, who has the sheaf, is going to change it slowly: it is not lost. True: it was taken for lost."""
        sheaf.attended = True  # before the lock, which may be long in coming
        with self._lock:
            return sheaf.cut is not None

    def refusal(self, channel: str) -> QueueFull:
        return QueueFull(
            limit_bytes=self.limits.nbytes,
            limit_messages=self.limits.messages,
            room=self.room(),
            channel=channel,
            durable=self.durable,
        )

    def _left(self) -> tuple[int, int]:
        return max(0, self._most_messages - self._messages), max(0, self._most_bytes - self._bytes)

    def _free(self, messages: int, nbytes: int, spare: Sheaf | None) -> tuple[int, int] | None:
        """What room is left, if it is at least so much; else what is set aside elsewhere and not used is called in."""
        give_up = 0.0
        while True:
            left = self._left()
            if left[0] >= messages and left[1] >= nbytes:
                return left
            full = set(self.closing)
            unseen = [sheaf for sheaf in self._begun if sheaf is not spare and not self._call_in(sheaf, full)]
            left = self._left()
            if left[0] >= messages and left[1] >= nbytes:
                return left
            # Some other thread is in the middle of a push, with room that it may not use. That is over in a moment.
            now = monotonic()
            give_up = give_up or now + CALL_IN
            if not unseen or now > give_up:
                return None
            self._lock.release()
            try:
                sleep(0.0002)
            finally:
                self._lock.acquire()

    def _call_in(self, sheaf: Sheaf, full: set[Sheaf]) -> bool:
        """Take back what the sheaf has set aside and does not use; False if a push has it at this moment."""
        if sheaf in full or sheaf.attended:
            # Who attends to it waits for our lock, and will ask for what the message in hand needs.
            self._shrink_to_used(sheaf)
            return True
        slot = sheaf.slot
        others: list[Sheaf] = []
        found = False
        try:
            for _ in range(len(slot)):
                other = slot.pop()
                others.append(other)
                if other is sheaf:
                    found = True
                    break
        except IndexError:
            pass
        if found:
            self._shrink_to_used(sheaf)
        slot += others
        return found

    def _shrink(self, sheaf: Sheaf, messages: int, nbytes: int) -> None:
        self._messages -= sheaf.reserved_messages - messages
        self._bytes -= sheaf.reserved_bytes - nbytes
        sheaf.reserve(messages, nbytes)

    def _shrink_to_used(self, sheaf: Sheaf) -> None:
        messages = min(sheaf.reserved_messages, len(sheaf.ends))
        self._shrink(sheaf, messages, min(sheaf.reserved_bytes, sheaf.used_bytes))

    def settled(self, messages: int, nbytes: int) -> None:
        """Room given back: so many messages and bytes (payload and MESSAGE_COST each) are gone from the outbox."""
        with self._lock:
            self._messages -= messages
            self._bytes -= nbytes
        self._tell_of_room()

    def load(self, messages: int, nbytes: int) -> None:
        """What the file already held when it was opened."""
        with self._lock:
            self._messages += messages
            self._bytes += nbytes

    def on_room(self, callback: Callable[[], object]) -> None:
        """Call back once, when at most nine tenths of what pushes may use is used; at once if that is so.

        On the thread that notices. Also called when the outbox closes, since then the next push says why not.
        """
        with self._lock:
            if not self._is_roomy() and self.closed is None:
                self._room_watchers.append(callback)
                return
        callback()

    def _is_roomy(self) -> bool:
        return self._messages <= self._most_messages * ROOMY and self._bytes <= self._most_bytes * ROOMY

    def pressure(self, before: int) -> int:
        """What is to be taken for handlers that send: 0, as much as they do; 1, one message at a time, for pushes are
        refused and outputs use what is kept for them; 2, nothing, for that is used, too. before: what this gave last;
        it falls to 0 where `QueueFull.room` is done, and not at each message that leaves."""
        limits = self.limits
        used = max(self._messages / max(1, limits.messages), self._bytes / max(1, limits.nbytes))
        if used >= FOR_OUTPUTS:
            return 2
        return max(self.disk_pressure, 1 if used >= 1.0 or (before and used > ROOMY) else 0)

    def _tell_of_room(self) -> None:
        if self._room_watchers and (self.closed is not None or self._is_roomy()):
            with self._lock:
                callbacks, self._room_watchers = self._room_watchers, []
            for callback in callbacks:
                callback()

    # For the thread that owns the outbox

    def take(self) -> list[tuple[Sheaf, Piece]]:
        """All that has been pushed, in the order in which the sheaves were begun, and off their hands.

        What a push holds at this moment is left (`held` says how many): look again soon.
        """
        taken: list[tuple[Sheaf, Piece]] = []
        if not self._begun and not self._cut:
            self.held = 0
            return taken
        with self._lock:
            begun, self._begun = self._begun, []
            available = self._gather(begun)
            left: list[Sheaf] = []
            now = monotonic()
            for sheaf in begun:
                if sheaf in available:
                    available.remove(sheaf)
                    if self._missing:
                        self._missing.pop(sheaf, None)
                    self._shrink(sheaf, len(sheaf.ends), sheaf.used_bytes)
                    piece = sheaf.let_go()
                elif self._is_lost(sheaf, now):
                    piece = sheaf.copy_out()
                    self._shrink(sheaf, piece.count, len(piece.body) - BODY_START + MESSAGE_COST * piece.count)
                    sheaf.last_index = -1
                    self._cut.append(sheaf)
                else:
                    left.append(sheaf)
                    continue
                if piece.count:
                    taken.append((sheaf, piece))
                    messages, nbytes = self._taken.get(sheaf, (0, 0))
                    self._taken[sheaf] = messages + piece.count, nbytes + len(piece.body)
                    self._taken_bytes += len(piece.body)
            self._begun[:0] = left
            self.held = len(left)
            for sheaf in available:  # begun since
                sheaf.slot.append(sheaf)
        self._tell_of_room()
        return taken

    def _gather(self, begun: list[Sheaf]) -> set[Sheaf]:
        available: set[Sheaf] = set()
        if len(begun) == 1 and not self.closing and not self._cut:
            try:
                available.add(begun[0].slot.pop())
            except IndexError:
                pass
            return available
        slots = [self.closing, *{id(sheaf.slot): sheaf.slot for sheaf in (*begun, *self._cut)}.values()]
        for slot in slots:
            try:
                for _ in range(len(slot)):
                    available.add(slot.pop())
            except IndexError:
                continue
        for sheaf in [cut for cut in self._cut if cut in available]:
            self._cut.remove(sheaf)
            begun.append(sheaf)
        return available

    def _is_lost(self, sheaf: Sheaf, now: float) -> bool:
        since, turns = self._missing.get(sheaf, (now, 0))
        if now - since > PATIENCE and turns >= PATIENCE_TURNS and not sheaf.attended:
            del self._missing[sheaf]
            return True
        self._missing[sheaf] = since, turns + 1
        return False

    def stored(self, taken: Iterable[tuple[Sheaf, int]]) -> None:
        """So many messages of these are in the ledger now, or given up."""
        with self._lock:
            for sheaf, count in taken:
                messages, nbytes = self._taken.pop(sheaf)
                if messages > count:
                    self._taken[sheaf] = messages - count, nbytes
                else:
                    self._taken_bytes -= nbytes

    @property
    def has_begun(self) -> bool:
        """Whether something lies here that nobody has taken. Any thread."""
        return bool(self._begun)

    def counts(self) -> dict[str, int]:
        """For each channel, how many messages are accepted and not yet in the ledger. Any thread."""
        counts: dict[str, int] = {}
        with self._lock:
            for sheaf in self._begun:
                counts[sheaf.channel] = counts.get(sheaf.channel, 0) + len(sheaf.ends)
            for sheaf, (count, _) in self._taken.items():
                counts[sheaf.channel] = counts.get(sheaf.channel, 0) + count
        return counts

    def close(self, name: str) -> None:
        """Accept nothing more; what is open is taken by the next turn."""
        self.closed = name
        self._tell_of_room()


def _nothing() -> None:
    return None
