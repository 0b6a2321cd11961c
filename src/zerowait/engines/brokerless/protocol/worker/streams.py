"""Streams on their way out: items that handlers give, as far as their readers have made room for them (rules §9).

A handler gives items into its Outflow, on whatever thread it runs, and waits where that has no room; here they leave in
CHUNKs. What the reader has not said to be there is kept: it goes again on the connection on which he asks for it.

An item that is larger than he takes ends its stream there, in words: he would end the link, and at each link on which
it came again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from zerowait.engines.brokerless.protocol.effects import Cancel, Effects
from zerowait.engines.brokerless.protocol.frames import Chunk, Credit, Part, array_of, payloads
from zerowait.engines.brokerless.protocol.link import Link
from zerowait.engines.brokerless.protocol.worker.outcomes import Known
from zerowait.large import refused
from zerowait.message import BODY_START, UNIT_BYTES, Verdict

CHUNK_BYTES = 128 * 1024  # a CHUNK of several items is no larger
CHUNK_ITEMS = 1_024
STREAM_UNITS = 16  # the credit of a stream before its reader has said anything


class Outflow:
    """One stream. Its handler calls `has_room`, `put` and `when_room`; all else is the network thread's."""

    __slots__ = (
        "_on_room",
        "_used",
        "box",
        "conn",
        "epoch",
        "has_ended",
        "is_noted",
        "limit",
        "number",
        "serial",
        "unseen",
        "waiting",
    )

    def __init__(self, box: int, epoch: int, number: int) -> None:
        self.box = box
        self.epoch = epoch
        self.number = number
        self.limit = STREAM_UNITS
        self.waiting: deque[bytes] = deque()  # items that no CHUNK has taken
        self.is_noted = False  # the network thread is told of them
        self.serial = 0
        self.unseen: deque[Chunk] = deque()  # sent, or to be sent, and not said to be there
        self.conn = 0  # where the reader has asked last
        self.has_ended = False
        self._used = 0
        self._on_room: Callable[[], object] | None = None

    def has_room(self) -> bool:
        return self._used < self.limit

    def put(self, payload: bytes) -> None:
        self._used += 1 + len(payload) // UNIT_BYTES  # `units`, once for each item
        self.waiting.append(payload)

    def when_room(self, call: Callable[[], object] | None) -> None:
        """Calls back once, when there is room. Whoever has said this looks once more whether there is."""
        self._on_room = call

    def grant(self, limit: int) -> None:
        self.limit = max(self.limit, limit)
        call, self._on_room = self._on_room, None
        if call is not None:
            call()

    def gather(self) -> list[Chunk]:
        """What has been given since, in CHUNKs."""
        self.is_noted = False  # before the look: what comes from now on is told again
        made: list[Chunk] = []
        waiting = self.waiting
        while waiting:
            item = waiting.popleft()
            items, size = [item], len(item)
            while waiting and len(items) < CHUNK_ITEMS:
                item = waiting[0]
                size += len(item)
                if size > CHUNK_BYTES:
                    break
                items.append(item)
                waiting.popleft()
            made.append(Chunk(self.box, self.number, self.serial, array_of(items, len(items))))
            self.serial += 1
        self.unseen.extend(made)
        return made

    def cut(self, most: int) -> int:
        """Ends it before the first item of more than so many bytes that is kept: gives how many it has; 0: there is
        none. What stands before it in its CHUNK is kept."""
        for at, chunk in enumerate(self.unseen):
            if len(chunk.body) - BODY_START > most:
                items = [bytes(item) for item in payloads(chunk.body)]
                fitting = next((index for index, item in enumerate(items) if len(item) > most), len(items))
                if fitting == len(items):
                    continue  # together they are more, as those of any CHUNK may be
                while len(self.unseen) > at:
                    self.unseen.pop()
                if fitting:
                    self.unseen.append(Chunk(self.box, self.number, chunk.serial, array_of(items[:fitting], fitting)))
                self.serial = chunk.serial + (fitting > 0)
                return len(items[fitting])
        return 0

    def throw_away(self) -> None:
        """Nobody reads what has been given."""
        self.is_noted = False  # as in `gather`
        self.waiting.clear()
        self.unseen.clear()


class Streams:
    """link: to who owns an outbox, if he is there. lies: whether that request of an outbox is queued or runs here."""

    def __init__(self, effects: Effects, link: Callable[[int], Link | None], lies: Callable[[int, int], bool]) -> None:
        self._effects = effects
        self._link = link
        self._lies = lies
        self._flows: dict[tuple[int, int], Outflow] = {}
        self._early: dict[tuple[int, int], tuple[int, int]] = {}  # limit and connection, before a handler has begun
        self._unread: set[tuple[int, int]] = set()  # run still, and nobody wants what they give
        self.refused: dict[tuple[int, int], bytes] = {}  # run still, and end with this: their reader takes no such item

    def __len__(self) -> int:
        return len(self._flows)

    def feed(self, link: Link, credit: Credit) -> None:
        """The reader has made room, and says what is there."""
        name = credit.box, credit.number
        flow = self._flows.get(name)
        if flow is None:
            # Of one that does not lie here, it is over: nobody will ask for what is kept of it.
            if self._lies(*name) and name not in self._unread:
                self._early[name] = credit.limit, link.conn
            return
        while flow.unseen and flow.unseen[0].serial < credit.serial:
            flow.unseen.popleft()
        if flow.conn != link.conn:
            flow.conn = link.conn
            for chunk in flow.unseen:
                self._effects.send(link.conn, chunk)
        flow.grant(credit.limit)
        if flow.has_ended and not flow.unseen:
            del self._flows[name]

    def resumed(self, box: int, conn: int) -> None:
        """Its owner has said on this connection which streams he reads: the others that have ended nobody does."""
        for name in [name for name in self._flows if name[0] == box]:
            flow = self._flows[name]
            if flow.has_ended and flow.conn != conn:
                del self._flows[name]

    def flow(self, outflows: Iterable[Outflow]) -> None:
        """Handlers have given items of these."""
        for flow in outflows:
            name = flow.box, flow.number
            if name in self._unread:
                flow.throw_away()
                continue
            if self.refused and name in self.refused:
                flow.is_noted = False  # as in `gather`
                flow.waiting.clear()
                continue
            if not flow.has_ended and name not in self._flows:
                self._flows[name] = flow
                limit, flow.conn = self._early.pop(name, (0, 0))
                flow.grant(limit)
            self._send(flow)

    def _send(self, flow: Outflow) -> None:
        link = self._link(flow.box)
        made = flow.gather()
        if link is None:
            return
        limit = link.message_bytes + BODY_START
        for chunk in made:
            if len(chunk.body) > limit and self._is_cut(flow, link):
                made = [each for each in flow.unseen if each.serial >= made[0].serial]
                break
        if link.conn == flow.conn:
            for chunk in made:
                self._effects.send(link.conn, chunk)

    def _is_cut(self, flow: Outflow, link: Link) -> bool:
        """Whether its reader takes something of it not. Then it ends before that, and its handler is stopped."""
        size = flow.cut(link.message_bytes)
        if size:
            self.refused[flow.box, flow.number] = refused(size, link.message_bytes, what="an item")
            self._effects.add(Cancel(flow.box, ((flow.epoch, flow.number, 1),)))
        return bool(size)

    def fit(self, box: int, link: Link) -> list[tuple[int, Known]]:
        """That outbox has a new link, whose other end may take less. Gives what those end with, in place of what is
        remembered, that have ended already."""
        found: list[tuple[int, Known]] = []
        for flow in [flow for (of, _), flow in self._flows.items() if of == box]:
            if self._is_cut(flow, link) and flow.has_ended:
                note = self.refused.pop((box, flow.number))
                found.append((flow.number, Known(Verdict.HANDLED, flow.serial, note)))
        return found

    def end(self, box: int, number: int) -> int:
        """Its handler has given the last item: how many CHUNKs there are."""
        flow = self._flows.get((box, number))
        self._early.pop((box, number), None)
        if flow is None or (box, number) in self._unread:
            self.drop(box, number)
            return flow.serial if flow is not None else 0
        if (box, number) in self.refused:
            flow.waiting.clear()
        self._send(flow)
        flow.has_ended = True
        if not flow.unseen:
            del self._flows[box, number]
        return flow.serial

    def left(self, box: int, ranges: Iterable[tuple[int, int, int]], running: Iterable[Part]) -> None:
        """Nobody reads these: what has been given of them is kept no more, nor what those that run may yet give. They
        are cancelled, which a run may cross that has come to its end."""
        for name in [name for name in self._flows if name[0] == box]:
            if any(first <= name[1] < first + count for _, first, count in ranges):
                self._forget(name)
        for part in running:
            for name in ((box, number) for number in range(part.first, part.first + part.count)):
                self._early.pop(name, None)
                self._unread.add(name)

    def leave(self, box: int, parts: Iterable[Part]) -> None:
        """These have left, and will not end here: nobody reads what they gave."""
        if self._flows or self._early or self._unread:
            for part in parts:
                for number in range(part.first, part.first + part.count):
                    self.drop(box, number)

    def answered(self, box: int, parts: Iterable[Part]) -> None:
        """These have ended, and were no streams."""
        if self._unread:
            self._unread.difference_update(
                (box, number) for part in parts for number in range(part.first, part.first + part.count)
            )

    def drop(self, box: int, number: int | None = None) -> None:
        """Nobody reads it any more; None: none of this outbox."""
        if number is not None:
            self._forget((box, number))
            self._early.pop((box, number), None)
            self._unread.discard((box, number))
            return
        for name in [name for name in self._flows if name[0] == box]:
            self._forget(name)
        for name in [name for name in self._early if name[0] == box]:
            del self._early[name]
        self._unread = {name for name in self._unread if name[0] != box}

    def _forget(self, name: tuple[int, int]) -> None:
        self.refused.pop(name, None)
        flow = self._flows.pop(name, None)
        if flow is not None:
            flow.has_ended = True
            flow.unseen.clear()
