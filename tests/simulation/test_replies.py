"""The checker of requests: each test keeps the books of a small world, and spoils one line of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from zerowait.testing.causes import Causes
from zerowait.testing.cluster import CONFIG, Cluster
from zerowait.testing.history import History, Life
from zerowait.testing.plan import plan
from zerowait.testing.questions import AGAIN, FLOW, SURE, Question, Start
from zerowait.testing.replies import Replies
from zerowait.testing.timeline import START, Timeline

ASKER, X, Y = 4, 5, 6


class World:
    """Request 0 was answered by X, 1 may run twice, 2 is a stream, 3 was never begun and has expired."""

    def __init__(self) -> None:
        timeline = Timeline()
        self.history = History(timeline)
        cluster = Cluster(plan(1), timeline, self.history)
        self.book = cluster.around.questions
        for instance, name in ((ASKER, "asker"), (X, "x"), (Y, "y")):
            self.history.lives[instance] = Life(instance, name, instance != ASKER, START - 1)
        self.replies = Replies(self.book, self.history.lives, Causes(cluster))
        for token, channel in enumerate((SURE, AGAIN, FLOW, SURE)):
            question = self.book.ask(Question(token, channel, ASKER, False, START, START + 3.0))
            how, at = ("answered", 0.1) if token < 3 else ("expired", 3.0)
            question.ends, question.ended_at = [how], START + at
            question.reported = ["answered"] if token < 3 else ["expired, not run"]
            question.certainly_not_run = token == 3
            if token < 3:
                self.start(token, X, 0.0)

    def start(self, token: int, worker: int, at: float) -> Start:
        question = self.book.asked[token]
        name = (ASKER, 1, token + 1)
        start = Start(
            worker,
            1 + sum(len(each.starts) for each in self.book.asked.values()),
            name,
            START + at,
            "answers",
            START + at,
        )
        start.ended_at = start.at + 0.05
        question.starts.append(start)
        return start

    def wrong(self) -> list[str]:
        return self.replies.judge([])


def test_a_world_in_which_all_is_well_passes() -> None:
    assert World().wrong() == []


def change(token: int, **what: object) -> Callable[[World], object]:
    def spoil(world: World) -> None:
        for name, value in what.items():
            setattr(world.book.asked[token], name, value)

    return spoil


def late_start(world: World) -> None:
    world.start(0, X, 0.0)
    world.book.asked[0].starts.pop(0)
    world.book.stopped[X, (ASKER, 1, 1)] = START - 0.5


PLANTED: dict[str, tuple[Callable[[World], object], str]] = {
    "it never ends": (change(0, ends=[]), "has ended 0 times"),
    "it ends twice": (change(0, ends=["answered", "answered"]), "has ended 2 times"),
    "it fails twice": (change(3, reported=["lost", "expired"]), "has come to"),
    "it fails when it was answered": (change(0, reported=["answered", "expired"]), "has come to"),
    "told not to have run": (change(0, certainly_not_run=True), "told not to have run"),
    "reported not to have run": (change(0, reported=["nobody, not run"], ends=["nobody"]), "told not to have run"),
    "it ends long after its time": (change(3, ended_at=START + 4), "its time was over"),
    "it expires before its time": (change(3, ended_at=START + 1), "it expired at"),
    "it expires, and had any time": (change(3, until=None), "had any time"),
    "nobody has cancelled it": (change(0, ends=["cancelled"]), "nobody has done so"),
    "nobody was lost": (change(0, ends=["lost"]), "and none was"),
    "begun twice": (lambda world: world.start(0, Y, 1.0), "may not run twice"),
    "begun twice by one": (lambda world: world.start(2, X, 1.0), "may not run twice"),
    "begun again without a cause": (lambda world: world.start(1, Y, 1.0), "without a cause"),
    "begun where it was known that nobody waits": (late_start, "nobody waits for it"),
    "a stranger": (lambda world: world.book.begins(77, X, (ASKER, 1, 9), START), "unexpected"),
    "another's": (lambda world: world.book.begins(0, X, (99, 1, 1), START), "unexpected"),
    "what a reader found": (lambda world: world.book.asked[2].wrong.append("out of order"), "out of order"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_planted_is_found(planted: str) -> None:
    world = World()
    spoil, words = PLANTED[planted]
    spoil(world)
    assert [line for line in world.wrong() if words in line], world.wrong()


def test_a_death_and_a_silence_are_causes_of_a_second_start_of_what_may_run_twice() -> None:
    world = World()
    world.start(1, Y, 1.0)
    world.history.lives[X].ended_at = START + 0.5
    assert world.wrong() == []
    assert world.replies.again == {"death": 1}
    world = World()
    world.start(1, Y, 3.0)
    assert CONFIG.resume_grace == 1.25
    world.history.lives[X].breaks[ASKER] = [(START + 0.01, START + 2.0)]
    assert world.wrong() == []
    assert world.replies.again == {"silence": 1}


def test_a_hedge_is_one_cause_and_no_more() -> None:
    world = World()
    world.book.asked[1].hedged = True
    world.start(1, Y, 0.01)
    assert world.wrong() == []
    world.start(1, X, 0.02)
    assert "without a cause" in world.wrong()[0]


def test_who_stood_still_when_its_time_was_over_is_told_when_he_goes_on() -> None:
    world = World()
    world.book.asked[3].ended_at = START + 5.0
    world.book.resumed_at[ASKER] = START + 4.95
    assert world.wrong() == []


def test_of_a_stream_that_has_ended_what_has_not_come_may_be_lost() -> None:
    world = World()
    world.book.asked[2].reported = ["answered", "lost"]
    assert world.wrong() == []
