"""What was asked in a simulated world, who began it, and what whoever asked was told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct, field

from zerowait.testing.timeline import Timeline

Kind = Literal["request", "stream"]
SURE, AGAIN, FLOW, NOWHERE = "sure", "again", "flow", "nowhere"  # channels; what is asked at AGAIN may run twice
KINDS: dict[str, Kind] = {SURE: "request", AGAIN: "request", FLOW: "stream", NOWHERE: "request"}
Name = tuple[int, int, int]  # (asker, epoch, number)


class Start(Struct, eq=False):
    """A handler at work. worker: the instance. number: of this start in the whole world. ending: how it is to end.
    ended_at: None while it runs, or if its process died first. given: items of a stream."""

    worker: int
    number: int
    name: Name
    at: float
    ending: str  # "answers", "raises", "refuses", "kills", "endless"; "cancelled" or "late" once it has ended so
    taken_at: float
    ended_at: float | None = None
    given: int = 0


class Question(Struct, eq=False):
    """One request, or one stream. until: when its time is over; None: never. most: of a stream's items its reader reads
    so many, and leaves; None: all. ends: what whoever asked was told. reported: what the protocol has said of it."""

    token: int
    channel: str
    asker: int
    hedged: bool
    asked_at: float
    until: float | None
    most: int | None = None
    cancelled_at: float | None = None
    ends: list[str] = field(default_factory=list[str])
    ended_at: float = 0.0
    certainly_not_run: bool = False  # it was said to be so
    reported: list[str] = field(default_factory=list[str])
    starts: list[Start] = field(default_factory=list[Start])
    read: int = 0
    units: int = 0  # of items that have come
    wrong: list[str] = field(default_factory=list[str])

    @property
    def is_stream(self) -> bool:
        return KINDS[self.channel] == "stream"

    @property
    def may_repeat(self) -> bool:
        return self.channel == AGAIN


class QuestionBook:
    """All of them. tell: of what happens, for the hash of the world."""

    def __init__(self, timeline: Timeline, tell: Callable[..., None]) -> None:
        self._timeline = timeline
        self.tell = tell
        self.asked: dict[int, Question] = {}
        self.strangers: list[str] = []
        self.stopped: dict[tuple[int, Name], float] = {}  # (worker, question) → when it heard that nobody waits
        self.resumed_at: dict[int, float] = {}  # of processes that stood still, when that was over last
        self._starts = 0

    def ask(self, question: Question) -> Question:
        self.asked[question.token] = question
        self.tell("ask", question.token, question.channel)
        return question

    def begins(self, token: object, worker: int, name: Name, taken_at: float) -> tuple[Question, Start] | None:
        """A handler is called. None: nobody has asked that."""
        question = self.asked.get(token) if isinstance(token, int) else None
        if question is None or question.asker != name[0]:
            self.strangers.append(f"{name} brought {token!r:.40}")
            return None
        self._starts += 1
        start = Start(worker, self._starts, name, self._timeline.now, "answers", taken_at)
        question.starts.append(start)
        self.tell("begins", question.token, worker, *name)
        return question, start

    def ends(self, question: Question, how: str, *, certainly_not_run: bool = False) -> None:
        """Whoever asked is told."""
        question.ends.append(how)
        question.ended_at = self._timeline.now
        question.certainly_not_run = question.certainly_not_run or certainly_not_run
        self.tell("ends", question.token, how)

    def hears(self, worker: int, names: list[Name]) -> None:
        """That worker hears that nobody waits for these."""
        for name in names:
            self.stopped.setdefault((worker, name), self._timeline.now)
