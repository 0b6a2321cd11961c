"""How processes meet, and how they part (rules §1.3, §3.1, §4.1, §4.4)."""

from __future__ import annotations

from tests.protocol.puppet import BOX, CHANNEL, Puppet, Stage
from tests.protocol.store import Store
from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.effects import Say
from zerowait.engines.brokerless.protocol.frames import (
    Batch,
    Goodbye,
    Hello,
    Obituary,
    Outcome,
    Owned,
    Part,
    Served,
    State,
)
from zerowait.message import Verdict

X, Y = 201, 202


def test_with_who_speaks_no_common_version_nothing_is_lost_and_it_is_said_in_words() -> None:
    stage = Stage(store=Store(BOX))
    stage.push(2)
    newer = Puppet(stage, X)
    said = frames.MAGIC + bytes((2, 3)) + frames.encode(Hello(X, "newer"))[6:]
    stage.core.receive(newer.conn, said, stage.now)
    stage.step()
    refusal = newer.last(Goodbye)
    assert refusal.code == frames.NO_COMMON_VERSION
    assert "2 to 3" in refusal.words
    assert "1 to 1" in refusal.words
    assert newer.closed
    assert not newer.all(State)
    assert [effect.words for effect in stage.effects if isinstance(effect, Say) and effect.topic == "refused"] == [
        refusal.words
    ]
    y = stage.peer(Y, channels=[CHANNEL], credit=5)
    assert y.last(Batch).ranges == ((1, 2),)


def test_who_is_refused_for_its_version_says_why_here_and_waits_on() -> None:
    """Its GOODBYE is the first thing that comes: it cannot say HELLO in a version that we read."""
    stage = Stage(store=Store(BOX))
    stage.push()
    newer = Puppet(stage, X, dials=False)
    newer.say(Goodbye(frames.NO_COMMON_VERSION, "it speaks protocol 1 to 1, this process 2 to 3: upgrade the older"))
    assert newer.closed
    [said] = [effect for effect in stage.effects if isinstance(effect, Say) and effect.topic == "refused by"]
    assert "2 to 3" in said.words
    assert stage.core.owner.dispatch.waiting(CHANNEL) == 1


def test_where_versions_overlap_the_link_is_used() -> None:
    stage = Stage(store=Store(BOX))
    stage.push()
    wider = Puppet(stage, X, channels=[CHANNEL], credit=5)
    said = frames.encode(wider.hello)
    stage.core.receive(wider.conn, said[:4] + bytes((0, 7)) + said[6:], stage.now)
    stage.step()
    wider.tell()
    assert wider.last(Batch).ranges == ((1, 1),)


def test_what_is_served_and_owned_later_is_told_to_those_who_are_there() -> None:
    stage = Stage(store=Store(BOX), services={CHANNEL: 1})
    x = stage.peer(X)
    before = x.last(State)
    assert [served.channel for served in before.channels] == [CHANNEL]
    assert [(owned.box, owned.epoch) for owned in before.boxes] == [(BOX, stage.core.owner.custody[BOX].epoch)]
    epoch = stage.open()
    assert [(owned.box, owned.epoch) for owned in x.last(State).boxes] == [(BOX, epoch)]
    stage.core.serve([])
    stage.step()
    assert x.last(State).channels == ()


def test_an_outcome_on_a_connection_that_was_given_up_changes_nothing() -> None:
    """It comes between the frames of the connection that has replaced it. What it says is said again there."""
    stage = Stage(store=Store(BOX))
    x = stage.peer(X, channels=[CHANNEL], credit=5)
    stage.push()
    sent = x.last(Batch)
    x.lose()
    done = Outcome(BOX, Verdict.HANDLED, (Part(sent.epoch, 1, 1, sent.fence, sent.n),))
    x.say(done)
    assert stage.store is not None
    assert stage.store.counts[Verdict.HANDLED] == 0
    again = Puppet(stage, X, channels=[CHANNEL], serial=2)
    again.greet()
    again.say(State((Served(CHANNEL),)))
    again.say(done)
    assert stage.store.counts[Verdict.HANDLED] == 1


def test_how_an_earlier_life_has_ended_is_told_to_everybody_who_is_met() -> None:
    """The next process of that name has the proof; whoever had given it work elsewhere has none."""
    stage = Stage()
    stage.core.inherit([Obituary(900 + number, None, 9) for number in range(10)])
    x = stage.peer(X)
    assert [each.instance for each in x.last(State).obituaries] == list(range(902, 910)), "the last eight"


def test_who_leaves_and_has_something_left_does_not_say_its_last_word() -> None:
    """Without: its workers forget how its messages have ended, and its next life runs them again."""
    for left in (True, False):
        stage = Stage(services={CHANNEL: 1})
        x = stage.peer(X, boxes=[Owned(BOX, 3, "owner")])
        x.send(1, epoch=3, fence=3)
        stage.end(stage.take())
        leaving = Stage(store=Store(BOX))
        y = leaving.peer(Y)
        leaving.core.farewell(leaving.now, final=not left)
        leaving.step()
        x.say(y.last(Goodbye))
        assert x.closed
        assert stage.core.worker.memory.unconfirmed() == (1 if left else 0)
