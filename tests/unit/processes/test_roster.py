"""Which process is started, told to stop or killed, and when: on virtual time."""

from __future__ import annotations

import pytest

from zerowait.processes.roster import (
    CLOSING_S,
    FIRST_WAIT_S,
    LONGEST_WAIT_S,
    NOT_WHOLE,
    STEADY_S,
    Ending,
    Kill,
    Order,
    Roster,
    Start,
    Stop,
)

DRAIN = 5.0
KILLED = Ending(signal=9)
LEFT = Ending(exit_code=0)


def taken(roster: Roster) -> list[Order]:
    orders = roster.orders[:]
    roster.orders.clear()
    return orders


def serving(count: int, *, stuck_after: float = 0.0) -> Roster:
    """All serve, since 0."""
    roster = Roster(count, stuck_after)
    roster.begin(0.0)
    for position in range(count):
        roster.serves(position, 0.0, DRAIN)
    roster.orders.clear()
    return roster


def test_the_first_starts_alone_and_the_others_once_it_serves() -> None:
    roster = Roster(3, 0.0)
    roster.begin(0.0)
    assert taken(roster) == [Start(0)]

    assert not roster.serves(0, 1.0, DRAIN)
    assert taken(roster) == [Start(1), Start(2)]

    assert not roster.serves(2, 2.0, DRAIN)
    assert roster.serves(1, 2.5, DRAIN), "now all of them serve"
    assert not taken(roster)


@pytest.mark.parametrize(("position", "ending", "code"), [(0, Ending(2), 2), (1, Ending(3), 3), (0, KILLED, 1)])
def test_what_keeps_one_from_serving_at_first_ends_all_with_its_exit_code(
    position: int, ending: Ending, code: int
) -> None:
    roster = Roster(2, 0.0)
    roster.begin(0.0)
    if position:
        roster.serves(0, 1.0, DRAIN)
    taken(roster)

    assert roster.ended(position, ending, 2.0) is None

    others = [Stop(0)] if position else []
    assert taken(roster) == others
    if others:
        assert roster.exit_code is None
        roster.ended(0, LEFT, 3.0)
    assert roster.exit_code == code


def test_who_dies_after_serving_for_long_is_started_again_at_once() -> None:
    roster = serving(2)
    assert roster.ended(1, KILLED, STEADY_S) == 0.0
    roster.look(STEADY_S)
    assert taken(roster) == [Start(1)]


def test_who_dies_young_again_and_again_is_started_after_longer_and_longer_waits() -> None:
    roster, now, waits = serving(1), 0.0, list[float]()
    for _ in range(9):
        wait = roster.ended(0, KILLED, now)
        assert wait is not None
        waits.append(wait)
        assert roster.look(now) == now + wait
        assert not taken(roster)
        now += wait
        roster.look(now)
        assert taken(roster) == [Start(0)]
        now += 1.0
        roster.serves(0, now, DRAIN)
    assert waits[:4] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S, 8 * FIRST_WAIT_S]
    assert waits[-1] == LONGEST_WAIT_S

    assert roster.ended(0, KILLED, now + STEADY_S) == 0.0, "it is forgiven once it has served for long"


def test_one_that_cannot_start_again_does_not_stop_the_others() -> None:
    roster = serving(2)
    roster.ended(1, KILLED, 20.0)
    roster.look(20.0)
    taken(roster)
    assert roster.ended(1, Ending(3), 21.0) == FIRST_WAIT_S
    assert roster.exit_code is None
    assert not taken(roster)


def test_a_stop_asks_all_and_ends_with_0_once_all_have_drained() -> None:
    roster = serving(2)
    roster.stop(30.0)
    assert taken(roster) == [Stop(0), Stop(1)]
    assert roster.ended(0, LEFT, 31.0) is None
    assert roster.exit_code is None
    roster.ended(1, LEFT, 32.0)
    assert roster.exit_code == 0


@pytest.mark.parametrize("ending", [Ending(NOT_WHOLE), KILLED, Ending(1)])
def test_a_stop_ends_with_4_if_one_did_not_finish_what_it_ran(ending: Ending) -> None:
    roster = serving(2)
    roster.stop(30.0)
    roster.ended(0, ending, 31.0)
    roster.ended(1, LEFT, 31.0)
    assert roster.exit_code == NOT_WHOLE


def test_who_does_not_serve_yet_when_all_stop_leaves_nothing_unfinished() -> None:
    roster = serving(2)
    roster.ended(0, KILLED, STEADY_S)
    roster.look(STEADY_S)
    assert taken(roster) == [Start(0)]
    roster.stop(STEADY_S + 1.0)
    roster.ended(0, Ending(signal=15), STEADY_S + 1.1)
    roster.ended(1, LEFT, STEADY_S + 1.2)
    assert roster.exit_code == 0


def test_nobody_is_started_again_after_a_stop() -> None:
    roster = serving(2)
    roster.ended(0, KILLED, 1.0)
    roster.stop(1.1)
    assert taken(roster) == [Stop(1)]
    roster.look(5.0)
    assert not taken(roster)
    roster.ended(1, LEFT, 5.1)
    assert roster.exit_code == 0


def test_who_does_not_end_after_its_drain_is_killed_once() -> None:
    roster = serving(1)
    roster.stop(30.0)
    taken(roster)
    limit = 30.0 + DRAIN + CLOSING_S
    assert roster.look(30.0) == limit
    roster.look(limit - 0.1)
    assert not taken(roster)
    roster.look(limit)
    (order,) = taken(roster)
    assert isinstance(order, Kill)
    assert "was told to" in order.why
    roster.look(limit + 1.0)
    assert not taken(roster), "a kill needs no other"
    roster.ended(0, KILLED, limit + 1.1)
    assert roster.exit_code == NOT_WHOLE


def test_to_leave_at_once_kills_all_and_ends_with_the_signal() -> None:
    roster = serving(2)
    roster.stop(30.0)
    taken(roster)
    roster.leave(130)
    assert taken(roster) == [Kill(0, ""), Kill(1, "")]
    roster.ended(0, KILLED, 30.1)
    roster.ended(1, KILLED, 30.1)
    assert roster.exit_code == 130


def test_only_whose_loop_stands_for_stuck_after_is_killed() -> None:
    roster, now = serving(2, stuck_after=4.0), 0.0
    killed: list[Order] = []
    while not killed and now < 20.0:
        roster.turned(0)
        at = roster.look(now)
        killed = taken(roster)
        if not killed:
            assert at is not None
            now = at
    assert [order.position for order in killed if isinstance(order, Kill)] == [1]
    assert 4.0 < now <= 6.0
    assert "4 s" in str(killed)


def test_time_in_which_the_parent_stood_itself_is_not_held_against_them() -> None:
    roster = serving(2, stuck_after=4.0)
    for now in (1.0, 100.0, 200.0):  # it was stopped, and its children with it
        roster.look(now)
    assert not taken(roster)


def test_nobody_is_stuck_while_it_starts_or_where_stuck_after_is_not_said() -> None:
    starting, unsaid = Roster(1, 4.0), serving(1)
    starting.begin(0.0)
    taken(starting)
    for now in range(100):
        starting.look(float(now))
        assert unsaid.look(float(now)) is None
    assert not taken(starting)
    assert not taken(unsaid)


@pytest.mark.parametrize(
    ("returncode", "said"),
    [(3, "exit code 3"), (-9, "signal 9 (SIGKILL)"), (-11, "signal 11 (SIGSEGV)"), (-40, "signal 40")],
)
def test_an_ending_is_said_as_the_system_calls_it(returncode: int, said: str) -> None:
    assert str(Ending.of(returncode)) == said
