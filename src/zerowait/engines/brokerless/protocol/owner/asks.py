"""What is different where the messages are requests (rules §9): somebody waits for each, and not for ever.

A request is a message of an outbox in memory that lives as long as its process. It is picked, sent, credited, resumed
and settled as any other. But nobody is asked a second time for what may have run, unless it may run twice; who waits is
told at once that nobody will answer; and who has stopped waiting stops the run.

    waiting ──nobody serves it for `no_responder`──▶ nobody
       ├──────its time is over─────────────────────▶ expired, certainly not run
       └──────cancelled────────────────────────────▶ nothing is sent
    in flight ──its worker is dead or gone─────────▶ lost; if idempotent it waits again
       ├────────its time is over───────────────────▶ expired, DROP with cancel
       └────────cancelled──────────────────────────▶ DROP with cancel
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from heapq import heappop, heappush
from math import inf
from typing import Any

from zerowait.engines.brokerless.protocol.config import Config
from zerowait.engines.brokerless.protocol.effects import Chunked, Effects, Unanswered, Why
from zerowait.engines.brokerless.protocol.frames import (
    MALFORMED,
    UNEXPECTED,
    Chunk,
    Confirm,
    Credit,
    Drop,
    Held,
    Outcome,
    Part,
    ProtocolError,
    count_of,
)
from zerowait.engines.brokerless.protocol.link import Link
from zerowait.engines.brokerless.protocol.owner.custody import Custody
from zerowait.engines.brokerless.protocol.owner.dispatch import Dispatch
from zerowait.engines.brokerless.protocol.owner.flights import Slice
from zerowait.engines.brokerless.protocol.owner.sender import Sender
from zerowait.engines.brokerless.protocol.peers import Peers
from zerowait.message import BODY_START, SEGMENT_MESSAGES, UNIT_BYTES, Again, Bury, Change, Settle, Verdict
from zerowait.numbers import Numbers

STREAM = "stream"
STREAM_UNITS = 16  # the credit of a stream before its reader has said anything
ALL = 1 << 32  # in the place of the next CHUNK: nothing of that stream need be kept
SAMPLES, SAMPLES_NEEDED = 256, 20  # of how long answers take, for a channel's p95
UNKNOWN_S = 0.1  # in place of a p95 that is not known yet
REMEMBERED = 4_096  # batches whose time of sending is kept, and names of workers

ROUNDED_US = 1_000  # so much earlier than here its time may be over at a worker: it travels in whole milliseconds
MANY = 1_024  # outcomes that are confirmed without waiting for a tick

Range = tuple[int, int, int]  # (epoch, first, count)


class Flow:
    """A stream, as its reader's process knows it."""

    __slots__ = ("channel", "instance", "limit", "seen", "units")

    def __init__(self, channel: str, instance: int) -> None:
        self.channel = channel
        self.instance = instance  # where it comes from
        self.limit = STREAM_UNITS
        self.seen = 0
        self.units = 0  # that have come, at least

    def take(self, body: bytes) -> None:
        """The next CHUNK has come. What nobody has made room for would fill the memory here, so it ends the link."""
        count, size = count_of(body), len(body) - BODY_START
        if not 0 < count <= SEGMENT_MESSAGES:
            raise ProtocolError(MALFORMED, f"a CHUNK of {count} items")
        if self.units + count > self.limit:  # the last item may overdraw
            words = f"a CHUNK of {self.channel} beyond the {self.limit} units of credit for its stream"
            raise ProtocolError(UNEXPECTED, words)
        # One item exactly; of several no less than this, which need not look at each: none of them costs less than 1,
        # nor all of them less than their bytes.
        self.units += 1 + size // UNIT_BYTES if count == 1 else max(count, size // UNIT_BYTES)
        self.seen += 1


class _Box:
    """What is known of the requests of one box beside its custody."""

    def __init__(self) -> None:
        self.begun = Numbers()  # wait again, or are asked again, after somebody who had them was lost
        self.lost = ""  # who that was last
        self.losses: dict[int, int] = {}  # how often
        self.doubled = Numbers()  # a second worker has been asked
        self.flows: dict[int, Flow] = {}
        # worker → it cannot have thought us gone before that time, since it said last what it holds
        self.known_until: dict[int, float] = {}

    def reads_no_more(self, first: int, count: int) -> None:
        """Streams that have failed, or that nobody wants."""
        if self.flows:
            for number in range(first, first + count):
                self.flows.pop(number, None)


class Asks:
    def __init__(
        self,
        effects: Effects,
        peers: Peers,
        config: Config,
        custody: Mapping[int, Custody],
        dispatch: Dispatch,
        sender: Sender,
    ) -> None:
        self._effects = effects
        self._peers = peers
        self._config = config
        self._custody = custody
        self._dispatch = dispatch
        self._sender = sender
        self._boxes: dict[int, _Box] = {}
        self._fresh: list[Slice] = []  # wait since the last flush
        self._patience: list[tuple[float, int, Range, str]] = []  # until when somebody must serve it
        self._hedges: list[tuple[float, int, Range, int]] = []  # from when on another than that one is asked, too
        self._sent_at: dict[tuple[int, int], tuple[float, str]] = {}  # (box, n) → of batches of channels with hedges
        self._took: dict[str, deque[float]] = {}  # channel that is hedged → how long answers took, seconds
        self._names: dict[int, str] = {}
        self._confirms: dict[int, dict[int, list[Part]]] = {}  # connection → box → to be confirmed
        self._confirm_at = inf
        sender.asked = self._sent
        sender.deserted = self._deserted

    def __bool__(self) -> bool:
        return bool(self._boxes)

    def open(self, box: int) -> None:
        self._boxes[box] = _Box()

    def close(self, box: int) -> None:
        self._boxes.pop(box, None)

    def __contains__(self, box: int) -> bool:
        return box in self._boxes

    # -- waiting ---------------------------------------------------------------------------------------------------

    def waits(self, pieces: Iterable[Slice]) -> None:
        """These wait from now on: of a stream nothing has been given."""
        for piece in pieces:
            self._boxes[piece.box].reads_no_more(piece.first, piece.count)
            self._fresh.append(piece)

    def _deserted(self, channel: str) -> None:
        """Nobody serves it any more."""
        self._fresh.extend(
            piece for box in self._boxes for piece in self._dispatch.pieces(box) if piece.segment.channel == channel
        )

    def send(self, now: float) -> None:
        """After what could go has gone."""
        if self._fresh:
            until = now + self._config.no_responder
            fresh, self._fresh = self._fresh, []
            for piece in fresh:
                channel = piece.segment.channel
                if not self._sender.workers(channel):
                    heappush(self._patience, (until, piece.box, (*piece.name, piece.count), channel))

    def cancel(self, box: int, epoch: int, first: int, count: int = 1) -> None:
        """Nobody waits for these any more."""
        custody = self._custody.get(box)
        if custody is not None:
            flows = self._boxes[box].flows
            for number in range(first, first + count) if flows else ():
                if (flow := flows.get(number)) is not None:  # it may have ended, and nothing is in flight of it
                    self.feed(box, number, flow.limit, over=True)
            if not self._dispatch.remove(box, epoch, first, count):
                self._abandon(custody, epoch, first, count)

    def expired(self, custody: Custody, epoch: int, first: int, count: int) -> None:
        """Their time is over, wherever they are."""
        for piece in self._dispatch.remove(custody.box, epoch, first, count):
            self._fail(piece.box, (*piece.name, piece.count), "expired")
        for at, many in self._abandon(custody, epoch, first, count):
            self._boxes[custody.box].reads_no_more(at, many)
            self._effects.add(Unanswered(custody.box, epoch, at, many, "expired", True))

    def _abandon(self, custody: Custody, epoch: int, first: int, count: int) -> Numbers:
        """Who runs these need not. Gives which of them were in flight."""
        found = Numbers()
        for holder, at, many in custody.abandon(epoch, first, count):
            found.add(at, many)
            self.stop(holder, custody.box, (epoch, at, many))
        return found

    def stop(self, holder: int, box: int, numbers: Range) -> None:
        """To whoever has these: nobody wants the answer. Who is not there now is told when he says what he holds."""
        peer = self._peers.get(holder)
        link = peer.link if peer is not None else None
        if link is not None and box in link.resumed:
            self._effects.follow(box, Drop(box, 0, (numbers,), True), link.conn)

    def _fail(self, box: int, numbers: Range, why: Why, words: str = "", peer: str = "") -> None:
        """Of what waits: what had been asked before may have run."""
        epoch, first, count = numbers
        asked = self._boxes[box]
        asked.reads_no_more(first, count)
        begun = asked.begun.overlap(first, count) if asked.begun else []
        for at, many in begun:
            asked.begun.remove(at, many)
            if why == "expired":
                self._effects.add(Unanswered(box, epoch, at, many, "expired", True))
            else:
                self._effects.add(Unanswered(box, epoch, at, many, "lost", True, asked.lost))
        for at, many in Numbers(begun).missing(first, count):
            self._effects.add(Unanswered(box, epoch, at, many, why, False, peer, words))

    # -- in flight -------------------------------------------------------------------------------------------------

    def _sent(self, link: Link, piece: Slice, n: int, now: float) -> None:
        """A batch of requests goes to that link."""
        segment = piece.segment
        if link.hello is not None and link.instance not in self._names:
            self._names[link.instance] = link.hello.name
            _prune(self._names)
        if self._sender.kind_of(segment.channel) == STREAM:
            asked = self._boxes[piece.box]
            for number in range(piece.first, piece.first + piece.count):
                asked.flows[number] = Flow(segment.channel, link.instance)
                self._tell(piece.box, number, asked.flows[number], link)
            return
        if segment.hedge:
            self._took.setdefault(segment.channel, deque(maxlen=SAMPLES))
            at = now + self._p95(segment.channel)
            heappush(self._hedges, (at, piece.box, (*piece.name, piece.count), link.instance))
        if segment.channel in self._took:
            self._sent_at[piece.box, n] = now, segment.channel
            _prune(self._sent_at)

    def lost(self, custody: Custody, instance: int, pieces: list[Slice]) -> list[Slice]:
        """Its worker is dead or gone. Gives what is asked of another: what may run twice, and nobody else has."""
        asked, again = self._may_have_run(custody, instance, pieces)
        asked.known_until.pop(instance, None)
        for number, flow in list(asked.flows.items()):  # answered, and not all of it is here
            if flow.instance == instance:
                self._lose(custody.box, (custody.epoch, number, 1), asked.lost)
        return again

    def closed(self, link: Link) -> None:
        """A session is over. Its worker had heard us when it answered a PING, or as we greeted it. Where it has not
        said what it holds, it may have thought us gone before that session already: the next one is to find out."""
        for box, asked in self._boxes.items():
            if box in link.resumed:
                heard_until = max(link.permitted_until, link.opened_at + self._config.resume_grace)
                asked.known_until[link.instance] = max(asked.known_until.get(link.instance, 0.0), heard_until)

    def is_known(self, box: int, instance: int, now: float) -> bool:
        """Whether that worker, which is back, cannot have thought us gone meanwhile."""
        return now < self._boxes[box].known_until.get(instance, 0.0)

    def unsure(self, custody: Custody, instance: int, pieces: list[Slice], held: Held) -> list[Slice]:
        """It is back, and may have thought us gone: then it has stopped what it ran and forgotten what it had answered
        (rules §2.6, §9.5). What of this it does not hold may have run. Gives what may run twice."""
        asked, again = self._may_have_run(custody, instance, pieces)
        there = Numbers((part.first, part.count) for part in (*held.queued, *held.running))
        for number, flow in list(asked.flows.items()):
            if flow.instance == instance and number not in there:
                self.feed(custody.box, number, flow.limit, over=True)  # it has just been told that we read it
                self._lose(custody.box, (custody.epoch, number, 1), asked.lost)
        return again

    def _may_have_run(self, custody: Custody, instance: int, pieces: list[Slice]) -> tuple[_Box, list[Slice]]:
        """Who had these has forgotten them, or is no more. Gives those that may run twice, and nobody else has."""
        asked = self._boxes[custody.box]
        asked.lost = self._names.get(instance, f"{instance:016x}")
        again: list[Slice] = []
        for piece in self._alone(custody, pieces):
            if piece.segment.channel in self._sender.idempotent:
                again.extend(self._once_more(asked, piece))
            else:
                self._lose(custody.box, (*piece.name, piece.count), asked.lost)
        return asked, again

    def returned(self, pieces: Iterable[Slice], wall_us: int) -> None:
        """A worker that is back does not hold these. One whose time is over it may have stopped, and says no more."""
        for piece in pieces:
            expires = piece.segment.expires
            if expires is not None and wall_us >= expires - ROUNDED_US:
                self._boxes[piece.box].begun.add(piece.first, piece.count)

    def _once_more(self, asked: _Box, piece: Slice) -> list[Slice]:
        """What may be asked of another: a request that ends each process that runs it must not go through all."""
        asked.begun.add(piece.first, piece.count)
        tired: list[int] = []
        for number in range(piece.first, piece.first + piece.count):
            lost = asked.losses[number] = asked.losses.get(number, 0) + 1
            if lost >= self._config.crash_limit:
                tired.append(number)
                self._lose(piece.box, (piece.segment.epoch, number, 1), asked.lost)
        rest = Numbers((number, 1) for number in tired).missing(piece.first, piece.count)
        return [Slice(piece.box, piece.segment, first, count) for first, count in rest]

    def _lose(self, box: int, numbers: Range, peer: str) -> None:
        self._boxes[box].reads_no_more(*numbers[1:])
        self._effects.add(Unanswered(box, *numbers, "lost", True, peer))

    def again(self, custody: Custody, pieces: list[Slice]) -> list[Slice]:
        """What of this waits again: what another has, too, does not."""
        pieces = self._alone(custody, pieces)
        self.waits(pieces)
        return pieces

    def _alone(self, custody: Custody, pieces: list[Slice]) -> list[Slice]:
        doubled = self._boxes[custody.box].doubled
        if not doubled:
            return pieces
        found: list[Slice] = []
        for piece in pieces:
            flying = Numbers((at, many) for _, at, many in custody.flights.over(*piece.name, piece.count))
            alone = flying.missing(piece.first, piece.count)
            found.extend(Slice(piece.box, piece.segment, at, many) for at, many in alone)
            for at, many in alone:
                doubled.remove(at, many)
        return found

    def ended(self, custody: Custody, changes: Iterable[Change]) -> None:
        """These have ended at their worker without an answer. Its time was over before it ran; or somebody who knows
        no requests has said what is none of theirs to say."""
        for change in changes:
            if isinstance(change, Settle):
                self._fail(custody.box, (change.epoch, change.first, change.count), "expired")
            elif isinstance(change, (Again, Bury)):
                self._lose(custody.box, (change.epoch, change.number, 1), "")

    def settled(self, custody: Custody, outcome: Outcome, now: float) -> None:
        """The first answer wins: who else has been asked need not go on."""
        asked = self._boxes[custody.box]
        for part in outcome.parts if outcome.verdict == Verdict.HANDLED else ():
            if asked.begun:
                asked.begun.remove(part.first, part.count)
                if not asked.begun:
                    asked.losses.clear()
            if asked.doubled and (both := asked.doubled.overlap(part.first, part.count)):
                for at, many in both:
                    self._abandon(custody, part.epoch, at, many)
                    asked.doubled.remove(at, many)
            if self._sent_at and (sent := self._sent_at.get((custody.box, part.n))) is not None:
                self._took[sent[1]].append(now - sent[0])
        custody.forgotten()

    def resumed(self, custody: Custody, link: Link, running: Iterable[Part]) -> list[Range]:
        """A worker is back. `running`: what it runs, and was not asked to by the present state of things. What waits
        goes on there; nobody wants the rest: gives that."""
        unwanted: list[Range] = []
        for part in running:
            waiting = self._dispatch.remove(custody.box, part.epoch, part.first, part.count)
            for piece in waiting:
                custody.adopt(link.instance, Part(part.epoch, piece.first, piece.count, part.fence, part.n), [piece])
            adopted = Numbers((piece.first, piece.count) for piece in waiting)
            unwanted.extend((part.epoch, at, many) for at, many in adopted.missing(part.first, part.count))
        for number, flow in self._boxes[custody.box].flows.items():
            if flow.instance == link.instance:
                self._tell(custody.box, number, flow, link)
        return unwanted

    def confirm(self, box: int, parts: Iterable[Part], link: Link, now: float) -> None:
        """These outcomes are known here. Who answers need not be woken by that: it is said at the next tick."""
        mine = self._confirms.setdefault(link.conn, {}).setdefault(box, [])
        mine.extend(parts)
        if len(mine) >= MANY:
            self._confirm(link.conn)
        else:
            self._confirm_at = min(self._confirm_at, now + self._config.tick)

    def _confirm(self, conn: int) -> None:
        for box, parts in self._confirms.pop(conn, {}).items():
            self._effects.send(conn, Confirm(box, tuple(parts)))

    # -- streams ---------------------------------------------------------------------------------------------------

    def chunk(self, link: Link, chunk: Chunk) -> None:
        asked = self._boxes.get(chunk.box)
        flow = asked.flows.get(chunk.number) if asked is not None else None
        if flow is not None and flow.instance == link.instance and chunk.serial == flow.seen:
            flow.take(chunk.body)  # one that comes again, after a new connection, is here already
            self._effects.add(Chunked(chunk))

    def feed(self, box: int, number: int, limit: int, *, over: bool) -> None:
        """Its reader takes so many units in all. over: everything has come, or he wants no more of it."""
        asked = self._boxes.get(box)
        flow = asked.flows.get(number) if asked is not None else None
        if asked is None or flow is None:
            return
        flow.limit = max(flow.limit, limit)
        if over:
            flow.seen = ALL
        peer = self._peers.get(flow.instance)
        if peer is not None and peer.link is not None and box in peer.link.resumed:
            self._tell(box, number, flow, peer.link)
        if over:
            del asked.flows[number]

    def _tell(self, box: int, number: int, flow: Flow, link: Link) -> None:
        self._effects.send(link.conn, Credit(flow.channel, 0, flow.limit, flow.seen, box, number))

    # -- time ------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        if now >= self._confirm_at:
            self._confirm_at = inf
            for conn in list(self._confirms):
                self._confirm(conn)
        while self._patience and self._patience[0][0] <= now:
            _, box, numbers, channel = heappop(self._patience)
            if box in self._boxes and not self._sender.workers(channel):
                peer, words = self._mismatch(channel)
                for piece in self._dispatch.remove(box, *numbers):
                    where = (*piece.name, piece.count)
                    self._fail(box, where, "mismatch" if words else "nobody", words, peer)
        while self._hedges and self._hedges[0][0] <= now:
            _, box, numbers, holder = heappop(self._hedges)
            if box in self._boxes:
                self._hedge(self._custody[box], numbers, holder, now)

    def _mismatch(self, channel: str) -> tuple[str, str]:
        """Who serves it otherwise than it is asked here, and in what."""
        for link, mismatch in self._sender.misfits(channel):
            return (link.hello.name if link.hello is not None else ""), mismatch.difference
        kind, instance = self._sender.kinds_served().get(channel, ("", 0))
        if not kind:
            return "", ""
        words = f"it is asked here as a {self._sender.kind_of(channel)} channel, and served as a {kind} channel"
        peer = self._peers.get(instance)
        return (peer.hello.name if peer is not None else ""), words

    def _hedge(self, custody: Custody, numbers: Range, holder: int, now: float) -> None:
        """A second worker is asked for what the first has not answered yet."""
        asked = self._boxes[custody.box]
        for flight, first, count in list(custody.flights.over(*numbers)):
            if flight.holder != holder:
                continue
            for at, many in asked.doubled.missing(first, count):
                for segment, start, n in flight.pieces(at, many):
                    assert segment is not None
                    link = self._sender.other(segment.channel, custody.box, holder)
                    taken = min(n, link.credit(segment.channel).left()) if link is not None else 0
                    if link is not None:
                        asked.doubled.add(start, taken)
                        self._sender.batch(link, Slice(custody.box, segment, start, taken), now, hedged=True)
                    if taken < n:  # nobody is free: it is looked again
                        later = now + max(self._p95(segment.channel), self._config.tick)
                        rest = (flight.epoch, start + taken, n - taken)
                        heappush(self._hedges, (later, custody.box, rest, holder))

    def _p95(self, channel: str) -> float:
        took = self._took.get(channel)
        if took is None or len(took) < SAMPLES_NEEDED:
            return UNKNOWN_S
        return sorted(took)[len(took) * 95 // 100]

    def wake(self) -> float:
        waits = self._patience[0][0] if self._patience else inf
        return min(waits, self._hedges[0][0] if self._hedges else inf, self._confirm_at)


def _prune(table: dict[Any, Any]) -> None:
    while len(table) > REMEMBERED:
        del table[next(iter(table))]
