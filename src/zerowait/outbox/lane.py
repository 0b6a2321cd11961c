"""Where pushes of one channel meet its outbox: open sheaves, and what happens at their limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from zerowait.errors import TooLarge
from zerowait.message import BODY_START, SEGMENT_BYTES, SEGMENT_MESSAGES
from zerowait.outbox.sheaf import MESSAGE_COST, Sheaf, Terms

if TYPE_CHECKING:
    from zerowait.outbox.intake import Intake


class Lane:
    """The accepting side for one channel in one outbox, with what its pushes have in common.

    exact: the class a value must be of for the short way; None sends every push to `append`.
    ttl: seconds until a message expires, None for never.
    """

    __slots__ = ("_others", "channel", "encode_into", "exact", "intake", "priority", "slot", "ttl")

    def __init__(
        self,
        intake: Intake,
        channel: str,
        exact: type | None = None,
        encode_into: Callable[[Any, bytearray, int], object] | None = None,
        ttl: float | None = None,
        priority: int = 0,
    ) -> None:
        self.intake = intake
        self.channel = channel
        # The trip-wires know segments, not messages: with a smaller limit each message must be looked at.
        short = encode_into is not None and intake.limits.message_bytes >= SEGMENT_BYTES
        self.exact = exact if short else None
        self.encode_into = encode_into
        self.ttl = ttl
        self.priority = priority
        self.slot: list[Sheaf] = []
        self._others: dict[tuple[int | None, int | None, int], list[Sheaf]] = {}

    def first(self, value: object) -> tuple[Sheaf, int]:
        """The push that finds no open sheaf: begin one, and wake the owner once the message is in it.

        Raises what encoding raises, QueueFull, TooLarge, StoreError, Closed; then nothing was taken.
        """
        assert self.encode_into is not None
        slot = self.slot
        sheaf = self.begin()
        try:
            self.encode_into(value, sheaf.buffer, -1)
            sheaf.ends.append(size := len(sheaf.buffer))
            if size > sheaf.most_bytes or sheaf.last_index <= 0:
                sheaf, slot, mine, index = self.full(sheaf)
                return mine, index
            return sheaf, 0
        except BaseException:
            sheaf.undo()
            raise
        finally:
            slot.append(sheaf)
            # Not before: the owner, woken by `begin`, would find the sheaf in our hands and come back for it.
            self.intake.wake()

    def begin(self) -> Sheaf:
        """A new sheaf with room of its own, the caller's, who appends it to `slot` and then wakes the owner.

        Raises QueueFull, StoreError, Closed.
        """
        return self._begin(self.slot, None, None, self.priority, MESSAGE_COST, force=False, alone=False)

    def full(self, sheaf: Sheaf) -> tuple[Sheaf, list[Sheaf], Sheaf, int]:
        """Decide about the last message of a sheaf that tripped a wire; the caller has the sheaf and keeps it.

        Gives (sheaf to append, list to append it to, sheaf that has the message, its index there). Raises QueueFull and
        TooLarge; then the message is out of the sheaf again and the sheaf belongs back in its slot.
        """
        intake = self.intake
        if intake.attend(sheaf):
            intake.wake()
            return sheaf, intake.closing, sheaf, len(sheaf.ends) - 1
        try:
            return self._decide(sheaf, len(sheaf.buffer), len(sheaf.ends) - 1)
        finally:
            sheaf.attended = False

    def _decide(self, sheaf: Sheaf, size: int, index: int) -> tuple[Sheaf, list[Sheaf], Sheaf, int]:
        intake = self.intake
        if size <= SEGMENT_BYTES and intake.extend(sheaf):
            over = index >= SEGMENT_MESSAGES - 1 or sheaf.used_bytes >= SEGMENT_BYTES
            return sheaf, intake.closing if over else sheaf.slot, sheaf, index
        before = sheaf.ends[-2] if index else BODY_START
        payload = bytes(memoryview(sheaf.buffer)[before:])
        sheaf.ends.pop()
        sheaf.undo()
        if size <= SEGMENT_BYTES:
            raise intake.refusal(self.channel)
        mine, at = self.append(payload)
        return sheaf, intake.closing if sheaf.ends else sheaf.slot, mine, at

    def append(
        self,
        payload: bytes,
        *,
        due: int | None = None,
        expires: int | None = None,
        priority: int | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,
        key: bytes | None = None,
        force: bool = False,
    ) -> tuple[Sheaf, int]:
        """Take one encoded message, of any size and with any options; gives where it is: sheaf and index.

        due, expires: microseconds UTC; expires counts from due if only the lane's ttl says so. force: an output of a
        run already begun, which is taken although the outbox is full. Raises TooLarge, QueueFull, StoreError, Closed;
        then nothing was taken.
        """
        limit = self.intake.limits.message_bytes
        if len(payload) > limit:
            raise TooLarge(size_bytes=len(payload), limit_bytes=limit, channel=self.channel)
        if due is not None and self.ttl is not None and expires is None:
            expires = due + int(self.ttl * 1e6)
        priority = self.priority if priority is None else priority
        if key is not None:
            with self.intake.keyed.lock:
                return self._append_keyed(key, payload, due, expires, priority, headers, id, force)
        cost = len(payload) + MESSAGE_COST
        slot = self._slot(due, expires, priority)
        alone = id is not None or len(payload) > SEGMENT_BYTES - BODY_START
        found: Sheaf | None = None
        try:
            if alone:
                slot = []
            found = slot.pop()
        except IndexError:
            pass  # begun below: what that raises is not the consequence of an IndexError
        begun = found is None
        sheaf = found or self._begin(slot, due, expires, priority, cost, id=id, force=force, alone=alone)
        back = slot
        try:
            if self.intake.attend(sheaf) or (not alone and len(sheaf.buffer) + len(payload) > SEGMENT_BYTES):
                back = self.intake.closing
                begun = True
                return self._append_to_new(slot, payload, due, expires, priority, headers, id, force)
            self._put(sheaf, payload, headers, force)
            index = len(sheaf.ends)
            if alone or index >= SEGMENT_MESSAGES:
                back = self.intake.closing
            return sheaf, index - 1
        finally:
            sheaf.attended = False
            back.append(sheaf)
            if begun:
                self.intake.wake()

    def _append_keyed(
        self,
        key: bytes,
        payload: bytes,
        due: int | None,
        expires: int | None,
        priority: int,
        headers: Mapping[str, str] | None,
        id: str | None,
        force: bool,
    ) -> tuple[Sheaf, int]:
        """Of a key only the sheaf that was begun last is added to: numbers follow the order in which sheaves were
        begun, so whatever does not fit it closes it, and comes after it."""
        intake, alone = self.intake, id is not None or len(payload) > SEGMENT_BYTES - BODY_START
        terms = (None, None, priority) if due is None and expires is None else self._rounded(due, expires, priority)
        opened = intake.keyed.open(self.channel, key)
        slot, sheaf = opened.slot, None
        try:
            sheaf = slot.pop()
        except IndexError:
            pass  # its owner has taken it
        if sheaf is not None:
            fits = opened.lane is self and opened.terms == terms and not alone
            if intake.attend(sheaf) or not fits or len(sheaf.buffer) + len(payload) > SEGMENT_BYTES:
                sheaf.attended = False
                intake.closing.append(sheaf)
                sheaf = None
        begun = sheaf is None
        if sheaf is None:
            cost = len(payload) + MESSAGE_COST
            sheaf = self._begin(slot, due, expires, priority, cost, id=id, key=key, force=force, alone=alone)
            opened.lane, opened.terms = self, terms
        back = slot
        try:
            sheaf.attended = True
            self._put(sheaf, payload, headers, force)
            index = len(sheaf.ends)
            if alone or index >= SEGMENT_MESSAGES:
                back = intake.closing
            return sheaf, index - 1
        finally:
            sheaf.attended = False
            back.append(sheaf)
            if begun:
                intake.wake()

    def _append_to_new(
        self,
        slot: list[Sheaf],
        payload: bytes,
        due: int | None,
        expires: int | None,
        priority: int,
        headers: Mapping[str, str] | None,
        id: str | None,
        force: bool,
    ) -> tuple[Sheaf, int]:
        cost = len(payload) + MESSAGE_COST
        sheaf = self._begin(slot, due, expires, priority, cost, id=id, force=force, alone=id is not None)
        try:
            sheaf.attended = True
            self._put(sheaf, payload, headers, force)
            return sheaf, 0
        finally:
            sheaf.attended = False
            slot.append(sheaf)

    def _put(self, sheaf: Sheaf, payload: bytes, headers: Mapping[str, str] | None, force: bool) -> None:
        index = len(sheaf.ends)
        try:
            if headers:
                sheaf.headers = {**(sheaf.headers or {}), index: headers}
            sheaf.buffer += payload
            sheaf.ends.append(len(sheaf.buffer))
            tripped = index >= sheaf.last_index or len(sheaf.buffer) > sheaf.most_bytes
            if tripped and not self.intake.extend(sheaf, force=force):
                sheaf.ends.pop()
                raise self.intake.refusal(self.channel)
        except BaseException:
            sheaf.undo()
            if sheaf.headers is not None:
                sheaf.headers.pop(len(sheaf.ends), None)
            raise

    def _slot(self, due: int | None, expires: int | None, priority: int) -> list[Sheaf]:
        if due is None and expires is None and priority == self.priority:
            return self.slot
        key = self._rounded(due, expires, priority)
        slot = self._others.get(key)
        if slot is None:
            if len(self._others) >= 64:
                self._others.clear()
            slot = self._others[key] = []
        return slot

    @staticmethod
    def _rounded(due: int | None, expires: int | None, priority: int) -> tuple[int | None, int | None, int]:
        """Whole milliseconds, so that a loop of pushes with `delay=` or `ttl=` does not make a row of each."""
        return (due and -(-due // 1000), expires and -(-expires // 1000), priority)

    def _begin(
        self,
        slot: list[Sheaf],
        due: int | None,
        expires: int | None,
        priority: int,
        cost: int,
        *,
        id: str | None = None,
        key: bytes | None = None,
        force: bool,
        alone: bool,
    ) -> Sheaf:
        intake = self.intake
        now = intake.now_us()
        if due is not None:
            due = -(-due // 1000) * 1000
        if expires is not None:
            expires = -(-expires // 1000) * 1000
        elif self.ttl is not None:
            expires = now + int(self.ttl * 1e6)
        return intake.begin(self, slot, Terms(now, due, expires, priority, id, key), cost, force=force, alone=alone)
