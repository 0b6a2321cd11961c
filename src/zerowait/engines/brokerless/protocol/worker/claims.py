"""Outcomes that lie in this process's own outboxes: they are on disk before they are said, what they send leaves when
they were chosen, and whoever finds them after a crash asks again (rules §2.5, §6).

    the run ends ──keep──▶ durable ──OUTCOME──▶ CONFIRM chosen ──release──▶ durable ──`released`──▶ CONFIRM: forgotten
                                                CONFIRM not chosen, or nothing was sent ──discard──▶ forgotten

None of it is met by a channel that keeps nothing and a handler that sends nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf

from zerowait.engines.brokerless.protocol.config import Config
from zerowait.engines.brokerless.protocol.effects import Effects, Say, Ticket
from zerowait.engines.brokerless.protocol.frames import Outcome, Part
from zerowait.engines.brokerless.protocol.link import Link
from zerowait.engines.brokerless.protocol.worker.keeping import Keeping
from zerowait.engines.brokerless.protocol.worker.memory import Memory
from zerowait.message import SEGMENT_MESSAGES, Keep, Kept, Sent, Verdict


class Claims:
    """home: our outbox on disk, where outcomes are kept; 0 while there is none. link: to the owner of an outbox, if he
    is there."""

    def __init__(self, effects: Effects, config: Config, memory: Memory, link: Callable[[int], Link | None]) -> None:
        self.home = 0
        self.released_unasked = 0  # messages whose outputs have left without being chosen, in this life
        self._effects = effects
        self._config = config
        self._memory = memory
        self._link = link
        self._keeping = Keeping(effects)
        self._over: set[int] = set()  # outboxes whose owner has said that nothing of its own is left
        self._alone: dict[int, float] = {}  # outboxes of others without a link to their owner: since when

    # -- our outboxes ------------------------------------------------------------------------------------------------

    def opened(self, home: int, kept: Iterable[Kept], now: float) -> None:
        """That outbox of ours is open, perhaps again; `kept`: what an earlier life has left in it."""
        self._keeping.opened(home)
        found: dict[int, list[Part]] = {}
        for each in kept:
            part = Part(each.epoch, each.first, each.count, each.fence, each.n)
            verdict = Verdict.HANDLED if each.verdict is Verdict.RELEASED else each.verdict
            self._memory.recall(each.origin, part, verdict, each.after_ms, each.note)
            self._memory.kept.found(
                each.origin, part, home, has_outputs=each.has_outputs, released=each.verdict is Verdict.RELEASED
            )
            found.setdefault(each.origin, []).append(part)
            if self._link(each.origin) is None:
                self._alone.setdefault(each.origin, now)
        for box, parts in found.items():
            self._tell(box, parts)

    def closed(self, home: int) -> None:
        """It is ours no more: who has it now tells what lies in it."""
        self._keeping.closed(home)
        for box, part in self._memory.kept.left(home):
            self._memory.forget(box, part)

    def is_home(self, home: int) -> bool:
        """Whether something in that outbox of ours waits for the owners of others."""
        return self._keeping.is_busy(home) or self._memory.kept.is_home(home)

    # -- runs have ended ---------------------------------------------------------------------------------------------

    def keep(
        self,
        box: int,
        part: Part,
        verdict: Verdict,
        after_ms: int = 0,
        note: bytes = b"",
        outputs: Sent | None = None,
        shift: int = 0,
    ) -> None:
        """Of that outbox. It is remembered at once, and said when it is durable."""
        if box in self._over:
            return  # it was settled by another run, and nobody will ask for this one
        home = outputs.home if outputs is not None else self.home
        self._memory.remember(box, part, verdict, after_ms, note)
        self._memory.kept.keep(box, part, home, has_outputs=outputs is not None)
        prepared = outputs.parts if outputs is not None else ()
        self._keeping.keep(
            home,
            Keep(
                box, part.epoch, part.first, part.count, part.fence, part.n, verdict, after_ms, note, prepared, shift
            ),
        )  # fmt: skip

    def superseded(self, box: int, kept: Iterable[tuple[int, Part]]) -> None:
        """These run again."""
        for home, part in kept:
            self._keeping.discard(home, box, part)

    # -- their owner decides -----------------------------------------------------------------------------------------

    def confirm(self, box: int, part: Part, *, chosen: bool) -> None:
        kept = self._memory.kept
        for home, mine in list(kept.waiting(box, part)):
            if chosen:
                self._keeping.release(home, box, mine)
            else:
                self._keeping.discard(home, box, mine)
        for home, mine in list(kept.over(box, part)):
            if chosen:
                self._say_released(box, [mine], home)  # it has been asked again, and does not know yet
            else:
                self._keeping.discard(home, box, mine)
        for home, mine in list(kept.plain(box, part)):
            self._keeping.discard(home, box, mine)

    def dropped(self, box: int, *, claims: bool) -> None:
        """Nobody will ever confirm these. claims: nor choose."""
        kept = self._memory.kept
        for part in self._memory.parts(box):
            gone = [*kept.plain(box, part), *kept.over(box, part)]
            if claims:
                gone += [*kept.waiting(box, part), *kept.on_their_way(box, part)]
            for home, mine in gone:
                self._keeping.discard(home, box, mine)

    def over(self, box: int) -> None:
        """Its owner has said that nothing of its own is left: what still runs of it was settled by another run."""
        self._over.add(box)

    def met(self, box: int) -> None:
        """There is a link to its owner."""
        self._alone.pop(box, None)
        self._over.discard(box)

    def lost(self, box: int, now: float) -> None:
        self._alone.setdefault(box, now)

    def sought(self) -> list[int]:
        """Outboxes of others whose owner is not there, and is to be asked about what was kept."""
        return [box for box in self._memory.kept.boxes() if box in self._alone] if self._alone else []

    def tick(self, now: float) -> None:
        """Whose owner has been away for long is not waited for: a possible repetition is better than a stage that
        stands still."""
        if not self._alone or not self._memory.kept:
            return
        for box, since in list(self._alone.items()):
            if now < since + self._config.undecided_after:
                continue
            if now >= since + self._config.outcome_keep:
                self.dropped(box, claims=True)  # it never came back: nobody will ask
                self._memory.drop(box)
                continue
            undecided = self._memory.kept.undecided(box)
            for home, part in undecided:
                self._memory.kept.left_unasked(box, part, home)
                self._keeping.release(home, box, part, unasked=True)
            if undecided:
                messages = sum(part.count for _, part in undecided)
                self.released_unasked += messages
                words = (
                    f"the owner of outbox {box:016x} has been away for {self._config.undecided_after:g} s: what was "
                    f"sent for {messages} of its messages leaves now, though it may have chosen another run"
                )
                self._effects.add(Say("undecided", words, messages=messages))

    def wake(self) -> float:
        if not self._alone or not self._memory.kept:
            return inf
        times = [
            since + (self._config.undecided_after if self._memory.kept.undecided(box) else self._config.outcome_keep)
            for box in self._memory.kept.boxes()
            if (since := self._alone.get(box)) is not None
        ]
        return min(times, default=inf)

    # -- it is durable -----------------------------------------------------------------------------------------------

    def committed(self, ticket: Ticket) -> None:
        self._keeping.committed(ticket)
        home, kept = ticket.box, self._memory.kept
        said: dict[int, list[Part]] = {}
        for box, part in ticket.kept:
            said.setdefault(box, []).extend(kept.stored(box, part, home))
        for box, parts in said.items():
            self._tell(box, parts)
        left: dict[int, list[Part]] = {}
        for box, part in ticket.released:
            left.setdefault(box, []).extend(kept.released(box, part, home))
        for box, parts in left.items():
            self._say_released(box, parts, home)
        for box, part in ticket.discarded:
            self._memory.forget(box, part)

    def _tell(self, box: int, parts: list[Part]) -> None:
        link = self._link(box)
        if link is not None:  # else it is said when its owner is back
            for outcome in self._memory.told(box, _joined(parts), link.message_bytes):
                self._effects.send(link.conn, outcome)

    def _say_released(self, box: int, parts: list[Part], home: int) -> None:
        link = self._link(box)
        if link is not None and parts:
            self._effects.send(link.conn, Outcome(box, Verdict.RELEASED, tuple(_joined(parts)), outputs=home))


def _joined(parts: list[Part]) -> list[Part]:
    """The same in fewer ranges: neighbours of one dispatch are said together."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else part
        same = (last.epoch, last.fence, last.n) == (part.epoch, part.fence, part.n)
        if same and last.first + last.count == part.first and last.count + part.count <= SEGMENT_MESSAGES:
            joined[-1] = Part(last.epoch, last.first, last.count + part.count, last.fence, last.n)
        else:
            joined.append(part)
    return joined
