"""Who may be a killer: messages that were there when a worker died, until they are handled or found guilty (rules §5).

A death leaves a mark on what ran there, as far as that process's list tells, else on all that it held. The mark is
durable before the message is offered again; so it comes here from the outbox, alone in its row, with all its marks. How
many it has decides its lane: one, and it goes aside, a single one or few to a link beside the ordinary work; two, and
it runs alone in a process. What dies then has died of it: so nobody innocent is condemned, whatever was in the same
window, and nothing of the channel waits for a trial.

    ordinary ──death──▶ aside ──death──▶ alone at X ──death──▶ … until `crash_limit`: a dead letter
        ▲                 │                  │
        └──── X is back, or its list does not name it ────┘    handled: it is gone, whatever it was suspected of"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeVar

from msgspec import msgpack

from zerowait.engines.brokerless.protocol.frames import ALONE, Obituary
from zerowait.engines.brokerless.protocol.owner.flights import Slice
from zerowait.message import BODY_START, Death, Marks

REMEMBERED = 4_096  # of processes: what they ran when they died, or that they live

Name = tuple[int, int, int]  # (outbox, epoch, number)
T = TypeVar("T")


def lane_of(marks: Marks) -> int:
    return min(len(marks.deaths), ALONE)


def is_convicted(marks: Marks, limit: int) -> bool:
    """Enough proved deaths while it ran, one of them alone; or as many alone, where proof cannot be had."""
    proved = [death for death in marks.deaths if death.proved and death.ran]
    alone = sum(death.alone for death in marks.deaths)
    return (len(proved) >= limit and any(death.alone for death in proved)) or alone >= limit


def runs_of(marks: Marks, failures: int) -> int:
    """How often it has run, as far as that is known: every death of a convicted message counts."""
    return failures + len(marks.deaths)


def verdict_of(marks: Marks, failures: int, now_us: int) -> bytes:
    """The note of its dead letter, for people."""
    many = len(marks.deaths)
    times = {1: "once", 2: "twice", 3: "three times"}.get(many, f"{many} times")
    ends = "; ".join(_end_of(death) for death in marks.deaths)
    return msgpack.encode(
        {
            "reason": f"its worker died {times} while it ran ({ends}); it may have been handled",
            "rule": "crashes",
            "type": "",
            "traceback": "",
            "worker": marks.deaths[-1].name,
            "at": now_us,
            "attempts": runs_of(marks, failures),
            "deaths": [
                {
                    "instance": f"{death.instance:016x}",
                    "worker": death.name,
                    "proved": death.proved,
                    "ran": death.ran,
                    "alone": death.alone,
                    "exit_code": death.exit_code,
                    "signal": death.signal,
                }
                for death in marks.deaths
            ],
        }
    )


def _end_of(death: Death) -> str:
    who = death.name or f"{death.instance:016x}"
    if death.signal is not None:
        return f"{who}: signal {death.signal}"
    if death.exit_code is not None:
        return f"{who}: exit code {death.exit_code}"
    return who if death.proved else f"{who}: without proof"


class Evidence:
    """What is known of processes that marks name: what they ran at their end, or that they live after all."""

    def __init__(self) -> None:
        self._lists: dict[int, Obituary] = {}  # insertion order: the oldest go first
        self._living: dict[int, None] = {}
        self._names: dict[int, str] = {}

    def lives(self, instance: int) -> None:
        self._living.pop(instance, None)
        _remember(self._living, instance, None)

    def died(self, instance: int, name: str) -> None:
        """name: empty if it is not known."""
        self._living.pop(instance, None)
        if name:
            _remember(self._names, instance, name)

    def told(self, obituary: Obituary) -> bool:
        """What ran there at its end. False: nothing that was not known."""
        known = self._lists.get(obituary.instance)
        if not obituary.listed or known == obituary:
            return False
        if known is not None:  # the kernel's word and the supervisor's complete one another
            code = obituary.exit_code if obituary.exit_code is not None else known.exit_code
            signal = obituary.signal if obituary.signal is not None else known.signal
            obituary = Obituary(obituary.instance, code, signal, obituary.running, True)
        _remember(self._lists, obituary.instance, obituary)
        return True

    def ending(self, instance: int) -> Obituary | None:
        return self._lists.get(instance)

    def names(self, instance: int, name: Name) -> bool:
        """Whether its list names this message."""
        obituary = self._lists[instance]
        return any(
            (box, epoch) == name[:2] and first <= name[2] < first + count
            for box, epoch, first, count in obituary.running
        )

    def death(self, instance: int, *, name: str = "", proved: bool, ran: bool) -> Death:
        obituary = self._lists.get(instance)
        code, signal = (obituary.exit_code, obituary.signal) if obituary is not None else (None, None)
        return Death(instance, name or self._names.get(instance, ""), proved, ran, False, code, signal)

    def revise(self, name: Name, marks: Marks) -> tuple[list[Death], list[int]]:
        """What of its marks is to be said otherwise: deaths of which more is known, and those that are none of it."""
        died: list[Death] = []
        cleared: list[int] = []
        for death in marks.deaths:
            instance = death.instance
            if instance in self._living:
                cleared.append(instance)
            elif instance in self._lists:
                if not self.names(instance, name):
                    cleared.append(instance)
                    continue
                fuller = self.death(instance, proved=True, ran=True)
                if Marks((death,)).died(fuller).deaths != (death,):
                    died.append(fuller)
        return died, cleared


def _remember(table: dict[int, T], instance: int, what: T) -> None:
    table[instance] = what
    while len(table) > REMEMBERED:
        del table[next(iter(table))]


class Suspects:
    """Those that wait, by channel and lane."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, int], dict[Name, Slice]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __iter__(self) -> Iterator[Slice]:
        return iter([piece for waiting in self._waiting.values() for piece in waiting.values()])

    def put(self, piece: Slice) -> None:
        segment = piece.segment
        assert segment.marks is not None, "not a suspect"
        assert piece.count == 1, "a suspect is alone in its row"
        waiting = self._waiting.setdefault((segment.channel, lane_of(segment.marks)), {})
        waiting[piece.box, segment.epoch, piece.first] = piece

    def channels(self) -> set[str]:
        return {channel for channel, _ in self._waiting}

    def boxes(self, channel: str) -> set[int]:
        return {box for (of, _), waiting in self._waiting.items() if of == channel for box, _, _ in waiting}

    def count(self, channel: str) -> int:
        return sum(len(waiting) for (of, _), waiting in self._waiting.items() if of == channel)

    def waiting_for(self, channel: str, lane: int, boxes: Collection[int], message_bytes: int) -> int:
        """How many wait, if any of them could go to a link on which these outboxes have resumed."""
        waiting = self._waiting.get((channel, lane), {})
        suits = any(self._suits(piece, boxes, message_bytes) for piece in waiting.values())
        return len(waiting) if suits else 0

    @staticmethod
    def _suits(piece: Slice, boxes: Collection[int], message_bytes: int) -> bool:
        return piece.box in boxes and len(piece.segment.body) - BODY_START <= message_bytes

    def pop(self, channel: str, lane: int, boxes: Collection[int], message_bytes: int) -> Slice | None:
        waiting = self._waiting.get((channel, lane), {})
        found = next((name for name, each in waiting.items() if self._suits(each, boxes, message_bytes)), None)
        if found is None:
            return None
        piece = waiting.pop(found)
        self._tidy()
        return piece

    def remove(self, box: int, epoch: int, first: int, count: int) -> list[Slice]:
        """These do not wait any more. Gives those that did."""
        taken: list[Slice] = []
        for waiting in self._waiting.values():
            names = [name for name in waiting if name[:2] == (box, epoch) and first <= name[2] < first + count]
            taken.extend(waiting.pop(name) for name in names)
        self._tidy()
        return taken

    def disown(self, box: int) -> None:
        for waiting in self._waiting.values():
            for name in [name for name in waiting if name[0] == box]:
                del waiting[name]
        self._tidy()

    def _tidy(self) -> None:
        for key in [key for key, waiting in self._waiting.items() if not waiting]:
            del self._waiting[key]
