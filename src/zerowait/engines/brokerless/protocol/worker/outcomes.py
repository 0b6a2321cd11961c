"""OUTCOME: how messages have ended, said to their owners in as few frames as it takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from zerowait.engines.brokerless.protocol.effects import Effects
from zerowait.engines.brokerless.protocol.frames import Outcome, Part, array_of, payloads
from zerowait.engines.brokerless.protocol.worker.owners import Owners
from zerowait.large import NOTE_BYTES, refused, shortened
from zerowait.message import SEGMENT_MESSAGES, Verdict
from zerowait.numbers import Numbers

Dispatch = tuple[int, int, int, int]  # (outbox, epoch, fence, n)

# An OUTCOME stays below one frame: what is cut in fragments can be passed by what is said later (a HELD, above all).
NOTES_BYTES = 64 * 1024
ANSWERS_BYTES = 128 * 1024
PARTS = 1_024
ANY_SIZE = 1 << 62  # in place of what who reads them takes: only what they are about is looked at, or it was seen to


class Known(Struct, gc=False):
    """How a run of one message ended, otherwise than handled."""

    verdict: Verdict
    after_ms: int = 0
    note: bytes = b""


class Answer(Struct, gc=False):
    """What is told of requests that lie together: their answers' payloads one after another, or, of one, a note."""

    part: Part
    payloads: bytes = b""
    note: Known | None = None


class Outcomes:
    """What owners are told. Who is not there is told nothing: it is remembered, and said again when he is back.

    handed_back: while this process leaves, what its owners have not confirmed to have back."""

    def __init__(self, effects: Effects, owners: Owners) -> None:
        self._effects = effects
        self._owners = owners
        self.leaving = False
        self.handed_back: set[tuple[int, Part]] = set()

    def tell(self, box: int, verdict: Verdict, parts: Sequence[Part], after_ms: int = 0, note: bytes = b"") -> None:
        """These have ended in that way, all alike."""
        link = self._owners.link(box)
        if link is None:
            return
        if self.leaving and verdict is Verdict.UNSTARTED:
            self.handed_back.update((box, part) for part in parts)
        if verdict is Verdict.HANDLED:
            self._effects.send(link.conn, Outcome(box, verdict, tuple(parts)))
            return
        known = Known(verdict, after_ms, note)
        for outcome in outcome_frames(box, verdict, [(part, known) for part in parts], link.message_bytes):
            self._effects.send(link.conn, outcome)

    def handled(self, handled: dict[Dispatch, list[tuple[int, int]]]) -> None:
        """What was handled of each dispatch, in as few frames as it takes."""
        said: dict[int, list[Part]] = {}
        for (box, epoch, fence, n), ranges in handled.items():
            whole = Numbers(ranges) if len(ranges) > 1 else ranges
            said.setdefault(box, []).extend(Part(epoch, first, count, fence, n) for first, count in whole)
        for box, parts in said.items():
            self.tell(box, Verdict.HANDLED, parts)

    def closed(self) -> None:
        """A connection has gone. What was handed back and not confirmed is not in our next HELD: its owner will see
        that."""
        self.handed_back = {(box, part) for box, part in self.handed_back if self._owners.link(box) is not None}


def outcome_frames(box: int, verdict: Verdict, ends: Iterable[tuple[Part, Known]], most: int) -> Iterator[Outcome]:
    """One verdict about these, in as many frames as their notes need. most: bytes of a message that its owner takes."""
    parts: list[Part] = []
    notes: list[tuple[int, int, int, bytes]] = []
    size = 0
    noted = verdict in (Verdict.RETRY, Verdict.DEAD)
    most = max(most, NOTE_BYTES)
    for part, known in ends:
        if noted and len(known.note) > most:
            known = replace(known, note=shortened(known.note, most))
        more = part.count * len(known.note) if noted else 0
        if parts and (size + more > NOTES_BYTES or len(parts) >= PARTS):
            yield Outcome(box, verdict, tuple(parts), tuple(notes))
            parts, notes, size = [], [], 0
        parts.append(part)
        size += more
        if noted:
            notes.extend((part.epoch, part.first + i, known.after_ms, known.note) for i in range(part.count))
    if parts:
        yield Outcome(box, verdict, tuple(parts), tuple(notes))


def answer_frames(box: int, answers: Iterable[Answer], most: int) -> Iterator[Outcome]:
    """These answers, in as few frames as they need, for one who takes at most so many bytes in a message. He would end
    the link at a larger one, and at each link on which it came again."""
    parts: list[Part] = []
    notes: list[tuple[int, int, int, bytes]] = []
    bodies: list[bytes] = []
    size = count = 0

    def outcome() -> Outcome:
        body = array_of(bodies, count) if bodies else b""
        return Outcome(box, Verdict.HANDLED, tuple(parts), tuple(notes), body=body)

    for answer in answers:
        part, note = answer.part, answer.note
        more = len(answer.payloads) if note is None else len(note.note)
        if more > most:
            if parts:
                yield outcome()
                parts, notes, bodies, size, count = [], [], [], 0, 0
            yield from answer_frames(box, _taken(answer, most), ANY_SIZE)
            continue
        if parts and (size + more > ANSWERS_BYTES or len(parts) >= PARTS):
            yield outcome()
            parts, notes, bodies, size, count = [], [], [], 0, 0
        last = parts[-1] if parts else None
        if last is not None and _goes_on(last, part):
            parts[-1] = Part(last.epoch, last.first, last.count + part.count, last.fence, last.n)
        else:
            parts.append(part)
        size += more
        if note is None:
            bodies.append(answer.payloads)
            count += part.count
        else:
            notes.append((part.epoch, part.first, note.after_ms, note.note))
    if parts:
        yield outcome()


def _taken(answer: Answer, most: int) -> Iterator[Answer]:
    """One by one, and in place of each that is larger than who asked takes: that it is."""
    part, note = answer.part, answer.note
    if note is not None:
        room = max(most, NOTE_BYTES)
        fits = len(note.note) <= room
        yield answer if fits else Answer(part, note=replace(note, note=shortened(note.note, room)))
        return
    for number, payload in enumerate(payloads(array_of([answer.payloads], part.count)), part.first):
        one = Part(part.epoch, number, 1, part.fence, part.n)
        if len(payload) <= most:
            yield Answer(one, payload)
        else:
            yield Answer(one, note=Known(Verdict.HANDLED, note=refused(len(payload), most)))


def _goes_on(last: Part, part: Part) -> bool:
    is_next = part.first == last.first + last.count and last.count + part.count <= SEGMENT_MESSAGES
    return is_next and (part.epoch, part.fence, part.n) == (last.epoch, last.fence, last.n)
