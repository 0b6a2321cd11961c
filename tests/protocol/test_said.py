"""What the core says to people: the facts that a notice is made of, beside the sentence."""

from __future__ import annotations

import pytest

from tests.protocol.puppet import BOX, CHANNEL, Puppet, Stage
from tests.protocol.store import Store
from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.effects import Say
from zerowait.engines.brokerless.protocol.frames import Batch, Goodbye, Outcome, Part, Pong, Served, State

X = 201


def only(stage: Stage, topic: str) -> Say:
    (said,) = [effect for effect in stage.effects if isinstance(effect, Say) and effect.topic == topic]
    return said


def holding(stage: Stage, count: int) -> Puppet:
    x = stage.peer(X, channels=[CHANNEL], credit=10)
    stage.push(count)
    assert sum(many for batch in x.all(Batch) for _, many in batch.ranges) == count
    return x


def test_who_is_met_is_told_with_what_it_serves() -> None:
    stage = Stage(store=Store(BOX))
    stage.peer(X, channels=["b", "a"])
    assert (only(stage, "met").instance, only(stage, "met").channels) == (X, ("b", "a"))


def test_a_state_is_told_with_what_is_served_also_of_who_is_lost_before_anybody_looks() -> None:
    """A durable group that came and went while its publisher stood still was not kept anything for."""
    stage = Stage(store=Store(BOX))
    x = stage.peer(X, channels=[CHANNEL])
    stage.effects.clear()
    stage.core.receive(x.conn, frames.encode(State((Served("prices.*@billing", "push"),))), stage.now)
    x.lose()
    assert stage.core.owner.channels_served() == {}
    said = [each for each in stage.effects if isinstance(each, Say) and each.topic == "state"]
    assert [each.channels for each in said] == [("prices.*@billing",)]


@pytest.mark.parametrize("topic", ["dead", "gone", "left"])
def test_who_is_gone_is_told_with_how_many_messages_others_get(topic: str) -> None:
    stage = Stage(store=Store(BOX))
    x = holding(stage, 3)
    batch = x.last(Batch)
    x.say(Outcome(BOX, 1, (Part(batch.epoch, 1, 1, batch.fence, batch.n),)))
    if topic == "dead":
        stage.core.buried(X, stage.now)
        stage.step()
    elif topic == "gone":
        x.lose()
        stage.step(stage.config.resume_grace + 0.1)
    else:
        x.say(Goodbye(frames.LEAVING, "it had to leave"))
    assert only(stage, topic).messages == 2
    assert stage.core.owner.dispatch.waiting(CHANNEL) == 2


def test_who_is_gone_and_had_nothing_returns_nothing() -> None:
    stage = Stage(store=Store(BOX))
    stage.peer(X, channels=[CHANNEL]).say(Goodbye(0))
    assert only(stage, "left").messages == 0


def test_a_loop_that_does_not_turn_is_told_with_its_seconds() -> None:
    stage = Stage(store=Store(BOX))
    x = stage.peer(X, channels=[CHANNEL])
    x.answers = False
    for still_ms in (2_900, 3_400, 4_400):
        stage.step(0.5)
        x.say(Pong(x.last(frames.Ping).serial, still_ms))
    assert only(stage, "stuck").seconds == pytest.approx(3.4)


def test_who_does_not_answer_is_told_with_the_seconds_of_its_silence() -> None:
    stage = Stage(store=Store(BOX))
    x = stage.peer(X, channels=[CHANNEL])
    x.answers = False
    for _ in range(9):
        stage.step(0.5)
        x.want(0, sent=0, seen=0)  # the transport lives
    assert only(stage, "stuck").seconds == stage.config.stuck


def test_a_refusal_names_the_connection_of_who_has_not_said_his_name() -> None:
    stage = Stage()
    stranger = Puppet(stage, X)
    stage.core.receive(stranger.conn, b"good day", stage.now)
    stage.step()
    assert (only(stage, "refused").conn, only(stage, "refused").instance) == (stranger.conn, 0)
