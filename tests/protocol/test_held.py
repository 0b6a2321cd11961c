"""Rules §4.3, the half about an interpreter that is held: its process lives, and cannot run a line. What it has begun
stays with it, however long that is; what it has not is given to another, and does not begin there any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import pytest

from tests.protocol.puppet import BOX, CHANNEL, Puppet, Stage
from tests.protocol.store import Store
from tests.protocol.world import Process, World
from zerowait.engines.brokerless.protocol.frames import Drop, Owned
from zerowait.engines.brokerless.protocol.owner.suspects import lane_of
from zerowait.engines.brokerless.protocol.worker.unbegun import BOXES, PARCELS, Listing, Unbegun, blank, read
from zerowait.numbers import Numbers

X = 201
EPOCH = 3


# -- the list that a worker keeps --------------------------------------------------------------------------------------


class Listed:
    """A worker with a list, and an owner whose words it has heard."""

    def __init__(self, runners: int = 4, *, durable: bool = True) -> None:
        self.words = blank()
        self.stage = Stage(services={CHANNEL: runners})
        self.clock: Callable[[], float] = lambda: self.stage.now
        self.stage.core.worker.list_unbegun(Unbegun(self.words), lambda: self.clock())
        self.owned = Owned(BOX, EPOCH, "owner", durable)
        self.owner = self.stage.peer(X, boxes=[self.owned])

    def send(self, first: int, count: int, n: int = 1, key: bytes | None = None) -> None:
        self.owner.send(first, count, n=n, epoch=EPOCH, fence=EPOCH, key=key)

    def listing(self) -> Listing:
        found = read(self.words, self.words)
        assert found is not None
        return found

    def unbegun(self) -> list[tuple[int, int]]:
        return list(self.listing().unbegun.get((BOX, EPOCH), Numbers()))

    def spares(self, first: int, count: int = 1, n: int = 1) -> list[tuple[int, int]]:
        return self.listing().spares(BOX, EPOCH, (EPOCH, n), first, count)


def test_the_list_names_what_lies_there_and_has_not_begun() -> None:
    at = Listed()
    at.send(1, 6)
    assert at.unbegun() == [(1, 6)]
    taken = at.stage.take(most=2)
    assert at.unbegun() == [(3, 4)]
    at.owner.say(Drop(BOX, 0, ((EPOCH, 4, 1),)))
    assert at.unbegun() == [(3, 1), (5, 2)], "what is left of a batch is listed as before"
    assert at.stage.take(most=2) is not None
    assert at.unbegun() == [(5, 2)]
    at.stage.end(taken)
    assert at.unbegun() == [(5, 2)], "what has ended, and is not told, has begun"
    assert at.stage.take(most=2) is not None
    assert at.unbegun() == []


def test_of_a_key_only_the_message_that_runs_has_begun() -> None:
    at = Listed()
    at.send(1, 3, key=b"k")
    at.send(4, 1, n=2, key=b"k")
    taken = at.stage.take(most=4)
    assert at.unbegun() == [(2, 3)]
    at.stage.end(taken)
    assert at.unbegun() == [(2, 3)]
    assert at.stage.take(most=4) is not None
    assert at.unbegun() == [(3, 2)]


def test_a_batch_that_has_not_been_read_is_known_by_its_dispatch() -> None:
    at = Listed()
    assert at.spares(1, n=1) == [(1, 1)], "its owner was met, and nothing has come"
    at.send(1, 1, n=1)
    assert at.stage.take() is not None
    assert at.spares(1, n=1) == []
    assert at.spares(2, n=2) == [(2, 1)]
    assert at.listing().spares(BOX + 1, EPOCH, (EPOCH, 9), 1, 1) == [], (
        "of an outbox that it has not met nothing is known"
    )


def test_what_runs_of_an_outbox_that_was_forgotten_has_been_read_when_its_owner_is_back() -> None:
    at = Listed(durable=False)
    at.send(1, 1, n=7)
    assert at.stage.take() is not None
    at.owner.lose()
    at.stage.step(at.stage.config.resume_grace + 0.1)
    assert at.spares(1, n=7) == []
    again = Puppet(at.stage, X, boxes=[at.owned], serial=2)
    again.greet()
    again.tell()
    assert at.spares(1, n=7) == [], "it runs"
    assert at.spares(2, n=8) == [(2, 1)]


class Glanced(Listed):
    """Whose list is looked at after each word that is written: the interpreter may be held between any two."""

    def __init__(self, *, durable: bool = True) -> None:
        super().__init__(durable=durable)
        self.glance: Callable[[], object] = lambda: None
        self.stage.core.worker.desk.unbegun = Unbegun(cast("memoryview[int]", self))
        self.stage.core.worker.desk.unbegun.met(BOX, EPOCH, ())

    def __setitem__(self, at: int, word: int) -> None:
        self.words[at] = word
        self.glance()

    def __getitem__(self, at: int) -> int:
        return self.words[at]

    def cast(self, format: Literal["B"]) -> memoryview[int]:
        return self.words.cast(format)


def test_what_runs_has_been_read_at_each_moment_in_which_its_owner_is_met_again() -> None:
    at = Glanced(durable=False)
    at.send(1, 1, n=7)
    assert at.stage.take() is not None
    at.owner.lose()
    at.stage.step(at.stage.config.resume_grace + 0.1)

    found: list[list[tuple[int, int]]] = []
    at.glance = lambda: found.append(at.spares(1, n=7))
    again = Puppet(at.stage, X, boxes=[at.owned], serial=2)
    again.greet()
    again.tell()

    assert len(found) > 3
    assert not any(found), "for one moment it counted as not begun, and who looked then gave it to another"


@pytest.mark.parametrize("has_ended", [False, True])
def test_a_list_that_comes_late_knows_what_was_read_before(has_ended: bool) -> None:
    """It could not be made when this process began to serve: for want of room, say."""
    stage = Stage(services={CHANNEL: 1})
    owner = stage.peer(X, boxes=[Owned(BOX, EPOCH, "owner", True)])
    owner.send(1, 1, n=7, epoch=EPOCH, fence=EPOCH)
    taken = stage.take()
    if has_ended:
        stage.end(taken)  # and its owner has not said that he knows
    words = blank()
    stage.core.worker.list_unbegun(Unbegun(words), lambda: stage.now)
    found = read(words, words)
    assert found is not None
    assert found.spares(BOX, EPOCH, (EPOCH, 7), 1, 1) == []
    assert found.spares(BOX, EPOCH, (EPOCH, 8), 2, 1) == [(2, 1)]


def test_what_has_ended_unheard_has_been_read_when_there_is_room_for_its_outbox_at_last() -> None:
    at = Listed()
    unbegun = at.stage.core.worker.desk.unbegun
    unbegun.forget(BOX)
    for box in range(1, BOXES + 2):
        unbegun.met(BOX + box, 1, ())
    at.send(1, 1, n=7)
    at.stage.end(at.stage.take())
    at.owner.lose()
    unbegun.forget(BOX + 1)
    again = Puppet(at.stage, X, boxes=[at.owned], serial=2)
    again.greet()
    again.tell()
    assert at.spares(1, n=7) == []
    assert at.spares(2, n=8) == [(2, 1)]


@pytest.mark.parametrize("renewed", [False, True])
def test_a_runner_that_stood_still_as_it_took_a_message_does_not_begin_it(renewed: bool) -> None:
    """It had looked at the permission, and not told yet that it begins: so it was found that it has not, and another
    has the message by now. That its owner is heard again before it goes on does not make it its own again."""
    at = Listed()
    at.send(1, 2)

    def stood() -> float:
        assert at.unbegun() == [(2, 1)], "it tells first, and asks then"
        at.stage.now += 20.0
        if renewed:
            at.stage.core.worker.owners.permit(BOX).until = at.stage.now + 5.0
        return at.stage.now

    at.clock = stood
    assert at.stage.take() is None
    assert at.unbegun() == [(1, 2)]
    assert at.stage.core.worker.desk.queued(CHANNEL) == 2
    at.clock = lambda: at.stage.now
    assert (at.stage.take() is not None) == renewed, "it asks anew"


def test_an_entry_that_changes_while_it_is_read_names_nothing() -> None:
    at = Listed()
    at.send(1, 4)
    once = memoryview(bytes(at.words)).cast("Q")
    assert at.stage.take() is not None
    found = read(once, at.words)
    assert found is not None
    assert found.unbegun == {}
    found = read(at.words, at.words[:-1])
    assert found is None


def test_what_finds_no_room_in_the_list_counts_as_begun() -> None:
    words = blank()
    at = Listed()
    at.stage.core.worker.list_unbegun(unbegun := Unbegun(words), lambda: at.stage.now)
    for number in range(PARCELS + 1):
        at.send(1 + 2 * number, 1, n=number + 1)
    found = read(words, words)
    assert found is not None
    assert len(found.unbegun[BOX, EPOCH]) == PARCELS
    for number in range(PARCELS + 1):  # and there is room again when they have begun
        assert at.stage.take() is not None, number
    at.send(9_999, 1, n=9_999)
    found = read(words, words)
    assert found is not None
    assert list(found.unbegun[BOX, EPOCH]) == [(9_999, 1)]

    for box in range(1, BOXES + 10):
        unbegun.met(box, 1, ())
    found = read(words, words)
    assert found is not None
    assert len(found.read) == BOXES
    assert found.spares(BOXES + 9, 1, (1, 5), 1, 1) == []


# -- what its owner does -----------------------------------------------------------------------------------------------


class Two:
    """An owner, and a worker that is quick: when all begins it runs message 6, and 7 to 10 lie there."""

    def __init__(self, messages: int = 12, *, key: bytes | None = None) -> None:
        self.world = World()
        self.store = Store(BOX)
        self.owner = Process(self.world, "owner", boxes=[self.store])
        self.first = self.worker("first")
        self.world.dial(self.owner, self.first)
        self.owner.push(CHANNEL, messages, key=key)
        self.run(0.11)
        self.before = len(self.world.runs)
        self.second: Process | None = None

    def worker(self, name: str) -> Process:
        process = Process(self.world, name, services={CHANNEL: 1})
        process.handler = lambda channel, epoch, number: (0.02, None)
        return process

    def run(self, seconds: float) -> None:
        self.world.run(self.world.now + seconds)

    def help(self) -> None:
        self.second = self.worker("second")
        self.world.dial(self.owner, self.second)

    def ran(self, process: Process | None) -> list[int]:
        """What that one has begun since."""
        return [run.name[2] for run in self.world.runs[self.before :] if run.process is process]

    def twice(self) -> list[int]:
        return sorted(name[2] for name, runs in self.world.by_name.items() if len(runs) > 1)

    def comes_to_rest(self) -> None:
        self.world.dial(self.owner, self.first)
        self.run(3.0)
        assert not self.store.rows
        assert self.store.is_exact()


def grace(world: World) -> float:
    return world.config.silence + world.config.resume_grace


def test_what_lies_there_is_taken_back_when_it_cannot_begin_any_more_and_not_before() -> None:
    at = Two()
    at.first.hold()
    at.help()
    at.run(grace(at.world) - 0.3)
    assert at.ran(at.second) == [11, 12], "what was not sent there"
    at.run(1.0)
    assert at.ran(at.second) == [11, 12, 7, 8, 9, 10]
    at.first.resume()
    at.comes_to_rest()
    assert at.ran(at.first) == []
    assert at.twice() == []


def test_what_lies_unread_before_one_who_is_held_is_taken_back_too() -> None:
    at = Two(6)
    at.first.hold()
    at.owner.push(CHANNEL, 3)
    at.run(1.0)
    assert at.owner.core.owner.in_flight(BOX)[CHANNEL] > 1, "something was sent"
    at.help()
    at.run(grace(at.world))
    assert sorted(at.ran(at.second)) == [7, 8, 9]
    at.first.resume()
    at.comes_to_rest()
    assert at.ran(at.first) == []
    assert at.twice() == []


def test_nothing_is_taken_back_from_one_who_may_still_begin_it() -> None:
    """It was silent, and its connection given up, and it goes on within the grace, when its permission lasts still."""
    at = Two()
    at.first.hold()
    at.help()
    at.run(at.world.config.silence + 1.5)
    assert at.owner.says("lost")
    at.first.resume()
    at.run(0.2)
    assert at.ran(at.first) == [7]
    at.comes_to_rest()
    assert at.twice() == []


def test_one_who_is_stopped_is_gone_with_all_that_it_has_begun() -> None:
    at = Two()
    at.first.pause()
    at.help()
    at.run(grace(at.world) + 2.0)
    assert at.owner.says("gone")
    assert 6 in at.ran(at.second)


def test_one_who_is_stopped_while_it_is_held_is_gone_after_another_grace() -> None:
    at = Two()
    at.first.hold()
    at.help()
    at.run(grace(at.world) + 2.0)
    at.first.held = False
    at.run(at.world.config.resume_grace - 0.1)
    assert 6 not in at.ran(at.second)
    at.run(2.0)
    assert at.owner.says("gone")
    assert 6 in at.ran(at.second)


@pytest.mark.parametrize("held_s", [7.8, 30.0])
def test_one_who_goes_on_has_time_to_come_back_before_it_counts_as_gone(held_s: float) -> None:
    at = Two()
    at.first.hold()
    at.run(held_s)
    at.help()
    at.first.resume()
    at.run(1.5)
    at.comes_to_rest()
    assert not at.owner.says("gone")
    assert at.twice() == []


def test_of_a_key_nothing_overtakes_what_the_one_who_is_held_has_begun() -> None:
    at = Two(key=b"k")
    at.first.hold()
    begun = [run.name[2] for run in at.world.runs]
    at.help()
    at.run(grace(at.world) + 5.0)
    assert at.ran(at.second) == []
    at.first.resume()
    at.run(1.0)
    at.comes_to_rest()
    assert at.twice() == []
    assert begun
    assert [run.name[2] for run in at.world.runs] == list(range(1, 13))


def test_one_who_dies_while_it_is_held_has_died_of_what_it_had_begun() -> None:
    at = Two()
    at.first.hold()
    at.run(grace(at.world) + 1.0)
    at.first.kill(9)
    at.run(2.0)
    suspects = [each for each in at.owner.core.owner.dispatch.suspects if each.segment.marks]
    assert [(each.first, each.segment.marks and lane_of(each.segment.marks)) for each in suspects] == [(6, 1)]
    at.help()
    at.run(3.0)
    assert sorted(at.ran(at.second)) == list(range(6, 13))
    assert at.twice() == [6]


def test_it_is_told_once_who_is_held() -> None:
    at = Two()
    at.first.hold()
    at.run(grace(at.world) + 10.0)
    (said,) = at.owner.says("stuck")
    assert "has not run a line of Python for 8." in said
    assert not at.owner.says("gone")
