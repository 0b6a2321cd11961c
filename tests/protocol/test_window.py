"""What the table of rules §7 does not show: units, totals, who is given first, and what settings say."""

from __future__ import annotations

import pytest

from tests.protocol.puppet import BOX, CHANNEL, Stage
from tests.protocol.store import Store
from tests.protocol.world import Process, World
from tests.protocol.world import Store as WorldStore
from zerowait.engines.brokerless.protocol.config import Config
from zerowait.engines.brokerless.protocol.frames import Batch, Want
from zerowait.engines.brokerless.protocol.owner.credit import Credit
from zerowait.engines.brokerless.protocol.worker.window import Window
from zerowait.message import UNIT_BYTES

X, Y = 201, 202


def sent_to(batches: list[Batch]) -> int:
    return sum(count for batch in batches for _, count in batch.ranges)


def test_both_ends_reckon_what_a_message_costs_alike_and_large_ones_cost_more() -> None:
    """Without: each of them makes the difference larger, until a link stands still or a worker drowns."""
    world = World()
    sender = Process(world, "sender", boxes=[WorldStore(1)])
    worker = Process(world, "worker", services={CHANNEL: 200})
    worker.handler = lambda channel, epoch, number: (100.0, None)
    world.dial(sender, worker)
    world.run(1.0)
    sizes = [10, UNIT_BYTES - 1, UNIT_BYTES, 5 * UNIT_BYTES + 1, 10]
    for size in sizes:
        sender.push(CHANNEL, [size])
        world.run(world.now + 0.01)
    window = worker.core.worker.windows[CHANNEL]
    [link] = [link for link in sender.core.links.values() if link.side == "both"]
    expected = len(sizes) + 1 + 5
    assert link.credit(CHANNEL).sent == expected
    assert window.held() == expected


def test_a_limit_is_a_total_that_may_be_heard_twice_and_an_older_one_is_not_heard() -> None:
    credit = Credit()
    assert not credit.grant(5, 1)
    credit.spend(3)
    assert not credit.grant(5, 1)
    assert credit.left() == 2
    assert credit.grant(4, 3), "it fell: that must be confirmed"
    assert not credit.grant(9, 2), "said before the one that was heard last"
    assert credit.left() == 1


def test_a_lowered_limit_is_confirmed_with_its_number_at_once() -> None:
    stage = Stage(store=Store(BOX))
    x = stage.peer(X, channels=[CHANNEL], credit=9)
    x.forget()
    x.grant(4, serial=2)
    assert [(want.seen, want.sent) for want in x.all(Want)] == [(2, 0)]


def window_of_two(held_back: int) -> tuple[Window, Credit]:
    """All of it was granted to the first of two that both want something, and a part is asked back."""
    window = Window(CHANNEL, 4, Config())
    owner = Credit()
    for conn in (1, 2):
        window.joined(conn)
    window.want(1, Want(CHANNEL, 0, 0, 0, 9))
    for _, said in window.grants():
        owner.grant(said.limit, said.serial)
    assert owner.left() == 4
    if held_back:
        owner.spend(held_back)
    window.want(2, Want(CHANNEL, 0, 0, 0, 9))
    for _, said in window.grants():
        assert owner.grant(said.limit, said.serial)
    assert owner.limit == 2
    return window, owner


def test_what_is_asked_back_is_given_on_when_its_owner_has_confirmed_that_very_credit() -> None:
    window, owner = window_of_two(0)
    assert not window.grants(), "given on before it was given back"
    window.want(1, Want(CHANNEL, 0, 0, owner.serial - 1, 9))
    assert not window.grants(), "it answers an earlier one"
    window.want(1, Want(CHANNEL, 0, 0, owner.serial, 9))
    assert [(conn, said.limit) for conn, said in window.grants()] == [(2, 2)]


def test_the_same_limit_said_twice_is_two_credits() -> None:
    """Without: one that was said, raised and said again counts as confirmed by the first."""
    window = Window(CHANNEL, 4, Config())
    window.joined(1)
    window.want(1, Want(CHANNEL, 0, 0, 0, 9))
    share = window._shares[1]
    raised = window.grants()[0][1]
    low = share.lower(CHANNEL, 1)
    assert low is not None
    again = share.higher(CHANNEL, 3)
    lowest = share.lower(CHANNEL, 1)
    assert lowest is not None
    assert (low.limit, lowest.limit) == (1, 1)
    assert raised.serial < low.serial < again.serial < lowest.serial
    share.want(Want(CHANNEL, 0, 0, low.serial, 9))
    assert share.highest() == again.limit, "what was said between may still be used"
    share.want(Want(CHANNEL, 0, 0, lowest.serial, 9))
    assert share.highest() == 1


def test_what_waits_for_a_commit_at_its_owner_is_on_its_way_whatever_was_asked_back_since() -> None:
    window, owner = window_of_two(4)
    window.want(1, Want(CHANNEL, 0, owner.sent, owner.serial, 5))
    assert not window.grants(), "four are on their way, and there is room for four"
    window.received(1, 4, 0.0)
    window.released(1, 3)
    assert window.grants()[0][0] == 2


def test_a_few_slow_ones_that_end_in_one_moment_do_not_make_the_window_larger() -> None:
    """Without: four runners of a second each that end together look like forty messages a second, and four more are
    taken from those who could begin them elsewhere."""
    window = Window(CHANNEL, 4, Config())
    window.joined(1)
    now = 0.0
    window.received(1, 4, now)
    for _ in range(3):
        for _ in range(50):
            now += 0.02
            window.tick(now, 4)
            assert window.size == 4
        window.finished(1, 4)
        window.received(1, 4, now)
    window.check()


def test_a_window_is_no_larger_than_its_setting_says() -> None:
    config = Config(prefetch=1_000)
    ours, theirs = Window(CHANNEL, 2, config, prefetch=5), Window(CHANNEL, 2, config)
    for window in (ours, theirs):
        window.joined(1)
        now = 0.0
        for _ in range(50):
            window.received(1, 1_000, now)
            now += 0.02
            window.finished(1, 1_000)
            window.received(1, 1, now)
            window.tick(now, 2)
            window.released(1, 1)
    assert ours.size == 5
    assert theirs.size == 1_000
    assert Window(CHANNEL, 8, config, prefetch=5).size == 8, "never less than what runs at once"


def test_what_room_there_is_goes_to_those_who_hold_least() -> None:
    window = Window(CHANNEL, 12, Config())
    for conn in (1, 2, 3):
        window.joined(conn)
    window.received(1, 8, 0.0)
    window.received(3, 1, 0.0)
    for conn, sent in ((1, 8), (3, 1), (2, 0)):
        window.want(conn, Want(CHANNEL, 0, sent, 0, 9))
    assert window.room() == 3
    assert {conn: credit.limit for conn, credit in window.grants()} == {2: 3}
    window.check()
    assert window.room() == 0


def test_a_lone_message_goes_to_the_link_with_most_credit() -> None:
    for first, second in ((1, 5), (5, 1)):
        stage = Stage(store=Store(BOX))
        x = stage.peer(X, channels=[CHANNEL], credit=first)
        y = stage.peer(Y, channels=[CHANNEL], credit=second)
        stage.push()
        assert (sent_to(x.all(Batch)), sent_to(y.all(Batch))) == ((0, 1) if first == 1 else (1, 0))


@pytest.mark.parametrize("many", [6, 60])
def test_a_backlog_is_split_by_the_credit_that_is_left(many: int) -> None:
    stage = Stage(store=Store(BOX))
    x = stage.peer(X, channels=[CHANNEL], credit=20)
    y = stage.peer(Y, channels=[CHANNEL], credit=40)
    stage.push(many)
    assert (sent_to(x.all(Batch)), sent_to(y.all(Batch))) == (many // 3, 2 * many // 3)


def test_a_new_session_begins_at_nothing_on_both_ends_and_what_is_held_counts() -> None:
    """Without: what a broken connection has swallowed is never granted again; or what is held is granted twice."""
    world = World()
    sender = Process(world, "sender", boxes=[WorldStore(1)])
    worker = Process(world, "worker", services={CHANNEL: 2})
    worker.handler = lambda channel, epoch, number: (60.0, None)
    world.dial(sender, worker)
    sender.push(CHANNEL, 10)
    world.run(1.0)
    window = worker.core.worker.windows[CHANNEL]
    for _ in range(20):
        world.cut_all(sender, worker)
        world.run(world.now + 0.1)
        world.dial(sender, worker)
        world.run(world.now + 0.5)
        [link] = [link for link in sender.core.links.values() if link.side == "both"]
        assert link.credit(CHANNEL).sent <= 1
        assert window.held() <= 2
    worker.handler = lambda channel, epoch, number: (0.01, None)
    world.run(world.now + 70.0)
    assert world.ended() == 10
