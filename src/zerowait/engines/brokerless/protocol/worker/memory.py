"""What this process knows of messages that it has run, until their owner confirms that it is durably settled.

OUTCOME → the owner commits → CONFIRM → forgotten. A message that arrives again meanwhile is answered from here, not
run. So the memory for duplicates is exact: there is no window of time or count to tune (rules §2.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from zerowait.engines.brokerless.protocol.frames import Outcome, Part, array_of, payloads
from zerowait.engines.brokerless.protocol.worker.kept import KeptOutcomes
from zerowait.engines.brokerless.protocol.worker.outcomes import (
    ANY_SIZE,
    PARTS,
    Answer,
    Known,
    answer_frames,
    outcome_frames,
)
from zerowait.message import Verdict
from zerowait.numbers import Numbers

Name = tuple[int, int, int]  # (epoch, fence, n)


class Ended(Struct):
    """What ended under one dispatch number. Of requests (§9) also how they were answered: with a value, or as a note
    says."""

    handled: Numbers
    others: dict[int, Known]
    answers: list[Answer] | None = None
    notes: dict[int, Known] | None = None


class Sorted(Struct):
    """A batch that arrived, in parts: (first, count)."""

    known: list[tuple[int, int]]  # handled or dead here: say it again
    here: list[tuple[int, int]]  # queued or running here: takes the newer dispatch number
    fresh: list[tuple[int, int]]
    superseded: list[tuple[int, Part]]  # outcomes that are kept in that outbox of ours, and count no more


class Memory:
    """kept: which of all that is remembered lies in an outbox of this process, too."""

    def __init__(self) -> None:
        self.kept = KeptOutcomes()
        self._ended: dict[int, dict[Name, Ended]] = {}  # outbox → dispatch → what ended under it
        self._high: dict[tuple[int, int], int] = {}  # the highest number seen of an outbox's epoch

    def boxes(self) -> list[int]:
        return list(self._ended)

    def remember(self, box: int, part: Part, verdict: Verdict, after_ms: int = 0, note: bytes = b"") -> None:
        of = self._ended.setdefault(box, {})
        name = (part.epoch, part.fence, part.n)
        ended = of.get(name)
        if ended is None:
            ended = of[name] = Ended(Numbers(), {})
        if verdict is Verdict.HANDLED:
            ended.handled.add(part.first, part.count)
        else:
            for number in range(part.first, part.first + part.count):
                ended.others[number] = Known(verdict, after_ms, note)

    def recall(self, box: int, part: Part, verdict: Verdict, after_ms: int, note: bytes) -> None:
        """Remembered since an earlier life."""
        self.remember(box, part, verdict, after_ms, note)
        name = (box, part.epoch)
        self._high[name] = max(self._high.get(name, 0), part.first + part.count - 1)

    def answered(self, box: int, answer: Answer) -> None:
        """These have been answered: remembered as handled, with the answer."""
        part = answer.part
        self.remember(box, part, Verdict.HANDLED)
        ended = self._ended[box][part.epoch, part.fence, part.n]
        if answer.note is None:
            ended.answers = ended.answers or []
            ended.answers.append(answer)
        else:
            ended.notes = ended.notes or {}
            ended.notes[part.first] = answer.note

    def sort(self, box: int, epoch: int, ranges: Iterable[tuple[int, int]], here: Numbers | None) -> Sorted:
        """What of a batch is known, held, or to be run. In the ordinary case, numbers above all seen, this looks at
        nothing."""
        result = Sorted([], [], [], [])
        name = (box, epoch)
        for first, count in ranges:
            high = self._high.get(name, 0)
            self._high[name] = max(high, first + count - 1)
            if first > high:
                result.fresh.append((first, count))
                continue
            held = here.overlap(first, count) if here else []
            result.here.extend(held)
            for at, many in Numbers(held).missing(first, count):
                self._sort(box, epoch, at, many, result)
        return result

    def _sort(self, box: int, epoch: int, first: int, count: int, result: Sorted) -> None:
        """`handled` and `dead` stand; after any other outcome a newer dispatch does run, and supersedes it."""
        final, passing = Numbers(), Numbers()
        for name, ended in self._ended.get(box, {}).items():
            if name[0] != epoch:
                continue
            for at, many in ended.handled.overlap(first, count):
                final.add(at, many)
            for number, known in ended.others.items():
                if first <= number < first + count:
                    (final if known.verdict is Verdict.DEAD else passing).add(number, 1)
        result.known.extend(final)
        for at, many in passing:
            for start, n in final.missing(at, many):
                result.superseded.extend(self._supersede(box, epoch, start, n))
        result.fresh.extend(final.missing(first, count))

    def _supersede(self, box: int, epoch: int, first: int, count: int) -> list[tuple[int, Part]]:
        kept: list[tuple[int, Part]] = []
        for name in [name for name in self._ended[box] if name[0] == epoch]:
            part = Part(epoch, first, count, name[1], name[2])
            self._forget(box, part)
            kept.extend(self.kept.forget(box, part))
        return kept

    def again(
        self, box: int, epoch: int, ranges: Iterable[tuple[int, int]], fence: int, n: int, most: int
    ) -> list[Outcome]:
        """What is known of these, which have come under that dispatch, to be said once more.

        `dead` quotes it: under the older one, of which its owner wants to know nothing any more, it would change
        nothing, and the message would be in flight here for ever. It is still that older one that is confirmed."""
        wanted = Numbers(ranges)
        if not wanted:
            return []
        said = self._outcomes(box, (epoch, wanted), most)
        # Their owner does not know that they were handled, or it would not have sent them: it is asked to choose again.
        again: list[Outcome] = []
        for each in said:
            if each.verdict == Verdict.RELEASED:
                again.append(replace(each, verdict=Verdict.HANDLED))
            elif each.verdict == Verdict.DEAD:
                parts = tuple(Part(part.epoch, part.first, part.count, fence, n) for part in each.parts)
                again.append(replace(each, parts=parts))
            else:
                again.append(each)
        return again

    def replay(self, box: int, most: int = ANY_SIZE) -> list[Outcome]:
        """All that this outbox's owner has not confirmed, for one who takes at most so many bytes in a message."""
        return self._outcomes(box, None, most)

    def amend(self, box: int, number: int, note: Known) -> None:
        """What that stream is said to have ended with, from now on."""
        for ended in self._ended.get(box, {}).values():
            if ended.notes is not None and number in ended.notes:
                ended.notes[number] = note

    def _outcomes(self, box: int, wanted: tuple[int, Numbers] | None, most: int) -> list[Outcome]:
        """`wanted`: an epoch, and which numbers of it; None: all."""
        handled: list[Part] = []
        answers: list[Answer] = []
        others: list[tuple[Part, Known]] = []
        for (epoch, fence, n), ended in self._ended.get(box, {}).items():
            if wanted is not None and wanted[0] != epoch:
                continue
            for first, count in ended.handled:
                ranges = [(first, count)] if wanted is None else wanted[1].overlap(first, count)
                parts = [Part(epoch, at, many, fence, n) for at, many in ranges]
                if ended.answers is None and ended.notes is None:
                    handled.extend(parts)
                else:
                    answers.extend(answer for part in parts for answer in _answers(ended, part))
            for number, known in ended.others.items():
                if wanted is None or number in wanted[1]:
                    others.append((Part(epoch, number, 1, fence, n), known))
        return [*self._said(box, handled, others, most), *answer_frames(box, answers, most)]

    def _said(self, box: int, handled: list[Part], others: list[tuple[Part, Known]], most: int) -> list[Outcome]:
        said: list[Outcome] = []
        if self.kept:
            handled, claims = self.kept.apart(box, handled)
            others = [(part, known) for part, known in others if not self.kept.unsaid(box, part)]
            for (verdict, home), parts in claims.items():
                said.extend(Outcome(box, verdict, tuple(some), outputs=home) for some in _chunks(parts))
        said += [Outcome(box, Verdict.HANDLED, tuple(parts)) for parts in _chunks(handled)]
        for verdict in dict.fromkeys(known.verdict for _, known in others):
            said.extend(outcome_frames(box, verdict, [pair for pair in others if pair[1].verdict is verdict], most))
        return said

    def told(self, box: int, parts: Iterable[Part], most: int) -> list[Outcome]:
        """What is known of these, each under its own dispatch."""
        handled: list[Part] = []
        others: list[tuple[Part, Known]] = []
        for part in parts:
            ended = self._ended.get(box, {}).get((part.epoch, part.fence, part.n))
            if ended is None:
                continue
            ranges = ended.handled.overlap(part.first, part.count)
            handled += [Part(part.epoch, first, count, part.fence, part.n) for first, count in ranges]
            if ended.others:
                for number in range(part.first, part.first + part.count):
                    known = ended.others.get(number)
                    if known is not None:
                        others.append((Part(part.epoch, number, 1, part.fence, part.n), known))
        return self._said(box, handled, others, most)

    def confirm(self, box: int, parts: Iterable[Part]) -> None:
        """Durably settled at the owner. One that names another dispatch than the outcome's is ignored (rules §2.2).
        What is kept in an outbox of ours stays until that has let it go."""
        for part in parts:
            if self.kept and (here := self.kept.known(box, part)):
                for first, count in here.missing(part.first, part.count):
                    self._forget(box, Part(part.epoch, first, count, part.fence, part.n))
            else:
                self._forget(box, part)

    def forget(self, box: int, part: Part) -> None:
        """It is remembered no more, nor kept."""
        self._forget(box, part)
        self.kept.forget(box, part)

    def _forget(self, box: int, part: Part) -> None:
        of = self._ended.get(box)
        name = (part.epoch, part.fence, part.n)
        ended = of.get(name) if of is not None else None
        if of is None or ended is None:
            return
        for first, count in ended.handled.overlap(part.first, part.count):
            ended.handled.remove(first, count)
        if not ended.handled:
            ended.answers = ended.notes = None
        if ended.others:
            for number in [n for n in ended.others if part.first <= n < part.first + part.count]:
                del ended.others[number]
        if not ended.handled and not ended.others:
            del of[name]
            if not of:
                del self._ended[box]

    def is_told(self, box: int, epoch: int, number: int) -> bool:
        """Whether no outcome of that message waits to be confirmed."""
        return not any(
            name[0] == epoch and (number in ended.others or ended.handled.overlap(number, 1))
            for name, ended in self._ended.get(box, {}).items()
        )

    def unconfirmed(self, box: int | None = None) -> int:
        """Messages whose outcome waits to be confirmed."""
        boxes = self._ended.values() if box is None else [self._ended.get(box, {})]
        return sum(len(ended.handled) + len(ended.others) for of in boxes for ended in of.values())

    def opened(self, box: int, epoch: int, held: Iterable[int]) -> None:
        """A later opening of this outbox: of epochs of which nothing lies here, nothing need be known any more. `held`:
        epochs of which something is queued or runs."""
        keep = {epoch, *held, *(name[0] for name in self._ended.get(box, ()))}
        for name in [name for name in self._high if name[0] == box and name[1] not in keep]:
            del self._high[name]

    def drop(self, box: int) -> None:
        """Its owner lived in memory and is gone, or said that nothing is left: nobody will ever ask. What lies in an
        outbox of ours is remembered until it has gone from there."""
        for part in self.parts(box):
            self.confirm(box, [part])
        if box in self._ended:
            return
        for name in [name for name in self._high if name[0] == box]:
            del self._high[name]

    def parts(self, box: int) -> list[Part]:
        """All that is remembered of it."""
        return [
            Part(epoch, first, count, fence, n)
            for (epoch, fence, n), ended in self._ended.get(box, {}).items()
            for first, count in (*ended.handled, *((number, 1) for number in ended.others))
        ]


def _answers(ended: Ended, part: Part) -> Iterator[Answer]:
    """What was answered to these, one by one: seldom asked for, after a connection was lost."""
    for number, note in sorted((ended.notes or {}).items()):
        if part.first <= number < part.first + part.count:
            yield Answer(Part(part.epoch, number, 1, part.fence, part.n), note=note)
    for answer in ended.answers or ():
        each = payloads(array_of([answer.payloads], answer.part.count))
        for number, payload in enumerate(each, answer.part.first):
            if part.first <= number < part.first + part.count:
                yield Answer(Part(part.epoch, number, 1, part.fence, part.n), payload)


def _chunks(parts: list[Part]) -> Iterator[list[Part]]:
    return (parts[at : at + PARTS] for at in range(0, len(parts), PARTS))
