"""What a process that ends still waits for (rules §11.2)."""

from __future__ import annotations

from tests.protocol.puppet import BOX, CHANNEL, Puppet, Stage
from tests.protocol.store import Store
from zerowait.engines.brokerless.protocol import ending
from zerowait.engines.brokerless.protocol.frames import Batch, Outcome, Part, Served, State
from zerowait.message import Verdict

X = 201


def test_what_nobody_takes_is_not_waited_for() -> None:
    stage = Stage(store=Store(BOX))
    stage.push(3)
    assert ending.is_settled(stage.core)
    stage.peer(X, channels=["another"])
    assert ending.is_settled(stage.core)


def test_what_is_in_flight_is_waited_for_until_it_is_settled() -> None:
    stage = Stage(store=Store(BOX))
    x = stage.peer(X, channels=[CHANNEL], credit=1)
    stage.push()
    assert not ending.is_settled(stage.core)
    sent = x.last(Batch)
    x.say(Outcome(BOX, Verdict.HANDLED, (Part(sent.epoch, 1, 1, sent.fence, sent.n),)))
    assert ending.is_settled(stage.core)


def test_what_waits_is_waited_for_while_a_worker_takes_more() -> None:
    stage = Stage(store=Store(BOX))
    x = stage.peer(X, channels=[CHANNEL])
    stage.push(2)
    assert not ending.is_settled(stage.core), "its worker may grant credit in a moment"
    x.tell(draining=True)
    assert ending.is_settled(stage.core), "it takes nothing any more"


def test_who_is_met_and_has_not_said_what_he_serves_may_take_it() -> None:
    stage = Stage(store=Store(BOX))
    stage.push()
    assert not ending.may_answer(stage.core)
    slow = Puppet(stage, X, channels=[CHANNEL])
    assert ending.may_answer(stage.core), "dialled"
    slow.greet()
    assert ending.may_answer(stage.core), "greeted"
    slow.say(State((Served(CHANNEL),)))
    assert not ending.may_answer(stage.core)
    assert not ending.is_settled(stage.core), "from here on it is somebody who takes it"
