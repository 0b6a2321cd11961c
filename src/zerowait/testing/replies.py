"""Whether each request has ended once, and rightly, and was begun no more often than the rules allow (§9)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from zerowait.testing.causes import Causes
from zerowait.testing.history import LEFT, Life
from zerowait.testing.node import Node
from zerowait.testing.questions import Question, QuestionBook, Start

PROMPT_S = 0.1  # so much after its time is over whoever asked knows it, unless his process stood still


class Replies:
    def __init__(self, book: QuestionBook, lives: dict[int, Life], causes: Causes) -> None:
        self._book = book
        self._lives = lives
        self._causes = causes
        self.ends: Counter[str] = Counter()
        self.again: Counter[str] = Counter()  # why a request was begun again

    def judge(self, nodes: Iterable[Node]) -> list[str]:
        """All that is wrong; empty if nothing is."""
        wrong = [f"unexpected: {words}" for words in self._book.strangers]
        for question in self._book.asked.values():
            wrong += [f"request {question.token} of {question.channel}: {words}" for words in self._of(question)]
            self.ends.update(question.ends)
        for node in nodes:
            if node.alive:
                wrong += _at_rest(node)
        return wrong

    def _of(self, question: Question) -> list[str]:
        return [*question.wrong, *self._end(question), *self._starts(question), *self._stopped(question)]

    def _end(self, question: Question) -> list[str]:
        wrong: list[str] = []
        asker = self._lives[question.asker]
        if len(question.ends) > 1 or (not question.ends and asker.ended_at is None):
            wrong.append(f"it has ended {len(question.ends)} times: {question.ends}")
        failures = [what for what in question.reported if what != "answered"]
        if question.is_stream and question.reported[:1] == ["answered"] and failures == ["lost"]:
            failures = []  # before all of it had come
        if len(failures) > 1 or (failures and question.reported[0] == "answered"):
            wrong.append(f"it has come to {question.reported}")
        told_not_run = question.certainly_not_run or any(what.endswith("not run") for what in question.reported)
        if told_not_run and question.starts:
            wrong.append(f"it was told not to have run ({question.reported}), and was begun")
        if not question.ends:
            return wrong
        how, at = question.ends[0], question.ended_at
        if question.until is not None:
            prompt = max(question.until, self._book.resumed_at.get(question.asker, 0.0)) + PROMPT_S
            if at > prompt and not question.is_stream:
                wrong.append(f"its time was over at {question.until:.3f}, and it ended at {at:.3f}")
            if how == "expired" and at < question.until - 0.001:
                wrong.append(f"it expired at {at:.3f}, and had time until {question.until:.3f}")
        elif how == "expired":
            wrong.append("it expired, and had any time")
        if how == "cancelled" and question.cancelled_at is None:
            wrong.append("it was cancelled, and nobody has done so")
        if how == "lost" and not self._was_anybody_lost(question):
            wrong.append("its worker was lost, and none was")
        return wrong

    def _was_anybody_lost(self, question: Question) -> bool:
        """Somebody who serves has ended, or was not heard for the grace."""
        return any(
            life.serves
            and (
                (life.ended_at is not None and question.asked_at - 10 <= life.ended_at <= question.ended_at)
                or self._causes.lost_sight(question.asker, life.instance, question.asked_at, question.ended_at)
            )
            for life in self._lives.values()
        )

    def _starts(self, question: Question) -> list[str]:
        if not question.may_repeat:
            if len(question.starts) > 1:
                return [f"it may not run twice, and was begun {self._told(question.starts)}"]
            return []
        without, caused = 0, 0
        for before, after in pairwise(question.starts):
            cause = self._cause(question, before, after)
            without += not cause
            caused += bool(cause)
            self.again[cause or "hedge"] += 1
        if without > (1 + caused if question.hedged else 0):
            return [f"it was begun again without a cause: {self._told(question.starts)}"]
        return []

    def _cause(self, question: Question, before: Start, after: Start) -> str:
        life = self._lives[before.worker]
        if life.ended_at is not None and life.ended_at <= after.at:
            return "left" if life.how == LEFT else "death"
        lost = self._causes.lost_sight
        if lost(question.asker, before.worker, before.at, after.at):
            return "silence"
        return "silence" if lost(question.asker, after.worker, after.taken_at, after.at) else ""

    def _told(self, starts: list[Start]) -> str:
        return " and ".join(f"at {start.at:.3f} by {self._lives[start.worker].name}" for start in starts)

    def _stopped(self, question: Question) -> list[str]:
        """What nobody waits for does not begin any more where that is known."""
        return [
            f"it was begun at {start.at:.3f} by {self._lives[start.worker].name}, where it was known since {heard:.3f} "
            "that nobody waits for it"
            for start in question.starts
            if (heard := self._book.stopped.get((start.worker, start.name))) is not None and start.at > heard
        ]


def _at_rest(node: Node) -> list[str]:
    """Nothing of requests is kept anywhere."""
    wrong: list[str] = []
    if node.asker is not None:
        box, owner = node.instance, node.core.owner
        if left := node.asker.outstanding():
            wrong.append(f"{node.name} counts {left} requests as outstanding at the end")
        if any(owner.in_flight(box).values()) or owner.pieces(box):
            wrong.append(f"{node.name} has requests in hand at the end")
        if flows := owner.asks._boxes[box].flows:
            wrong.append(f"{node.name} waits for the streams {list(flows)} at the end")
    if streams := len(node.core.worker.streams):
        wrong.append(f"{node.name} keeps {streams} streams at the end")
    if early := node.core.worker.streams._early:
        wrong.append(f"{node.name} keeps room for {len(early)} streams that have ended, or never begun")
    return wrong
