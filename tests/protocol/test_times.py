"""Time on its way (rules §8.3): what travels is what is left, never the time of day."""

from __future__ import annotations

import pytest

from tests.protocol.puppet import BOX, CHANNEL, Stage
from tests.protocol.store import START_US, Store
from zerowait.engines.brokerless.protocol.frames import Batch, Outcome, Owned, Part
from zerowait.message import Verdict

X, Y = 201, 202


def test_what_is_left_is_told_with_each_batch_as_it_is_then() -> None:
    # given one that must begin within ten seconds, and is sent after two
    stage = Stage(store=Store(BOX))
    x = stage.peer(X, channels=[CHANNEL])
    stage.push(expires=stage.wall_us(stage.now) + 10_000_000)
    stage.step(2.0)
    x.grant(1)
    sent = x.last(Batch)
    assert sent.left_ms[1] == pytest.approx(8_000, abs=2)

    # when it comes back three seconds later, and goes to another
    stage.step(3.0)
    x.say(Outcome(BOX, Verdict.UNSTARTED, (Part(sent.epoch, 1, 1, sent.fence, sent.n),)))
    y = stage.peer(Y, channels=[CHANNEL], credit=1)

    # then that one has less
    assert y.last(Batch).left_ms[1] == pytest.approx(5_000, abs=2)


def test_a_worker_reckons_by_its_own_clock_whatever_the_time_of_day_is_there() -> None:
    """Without: where the clocks of two machines differ by a minute, what has ten seconds has expired on arrival, or
    never does."""
    for accepted_at in (0, START_US - 60_000_000, START_US + 60_000_000):
        stage = Stage(services={CHANNEL: 1})
        x = stage.peer(X, boxes=[Owned(BOX, 3, "owner")])
        stage.step(7.0)
        x.send(1, epoch=3, fence=3, left_ms={1: 10_000}, accepted_at=accepted_at)
        taken = stage.take()
        assert taken is not None
        assert taken.delivery.expires == pytest.approx(stage.now + 10.0, abs=0.02)


def test_what_waits_for_a_worker_and_expires_goes_to_nobody() -> None:
    stage = Stage(store=Store(BOX))
    assert stage.store is not None
    stage.push(2, expires=stage.wall_us(stage.now) + 1_000_000)
    stage.push()
    stage.step(1.1)
    x = stage.peer(X, channels=[CHANNEL], credit=5)
    assert [batch.ranges for batch in x.all(Batch)] == [((3, 1),)]
    assert stage.store.counts[Verdict.EXPIRED] == 2
    assert stage.store.is_exact()


def test_what_is_in_flight_is_not_expired_here_for_its_worker_judges_it() -> None:
    """Without: it is settled as expired while it runs, and what its run sends belongs to nothing."""
    stage = Stage(store=Store(BOX))
    assert stage.store is not None
    x = stage.peer(X, channels=[CHANNEL], credit=1)
    stage.push(expires=stage.wall_us(stage.now) + 1_000_000)
    sent = x.last(Batch)
    stage.step(2.0)
    assert stage.core.owner.in_flight(BOX) == {CHANNEL: 1}
    assert stage.store.counts[Verdict.EXPIRED] == 0
    x.say(Outcome(BOX, Verdict.HANDLED, (Part(sent.epoch, 1, 1, sent.fence, sent.n),)))
    assert stage.store.counts[Verdict.HANDLED] == 1
