"""Two owners and two workers, treated in every way that Hypothesis can think of.

ZEROWAIT_MACHINE=2000 tries that many histories, other ones each time.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.protocol.cluster import Cluster

OWNER = st.integers(0, 1)
WORKER = st.integers(0, 1)
HISTORIES = 240  # about twenty seconds
# Read at import, because the tests' own settings are taken out of the environment before they run.
WANTED = int(os.environ.get("ZEROWAIT_MACHINE", "0"))


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()

    @rule(owner=OWNER, count=st.sampled_from([1, 3, 30, 150]), size=st.sampled_from([10, 40_000]))
    def push(self, owner: int, count: int, size: int) -> None:
        self.cluster.push(owner, count, size)

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.1, 1.0, 4.0, 9.0]), redial=st.booleans())
    def time_passes(self, seconds: float, redial: bool) -> None:
        self.cluster.run(seconds, redial=redial)

    @rule(work_s=st.sampled_from([0.001, 0.02, 0.3, 1.5]))
    def work_changes(self, work_s: float) -> None:
        self.cluster.work_s = work_s

    @rule(owner=OWNER, worker=WORKER, half=st.sampled_from(["", "owner", "worker"]))
    def a_connection_breaks(self, owner: int, worker: int, half: str) -> None:
        self.cluster.cut(owner, worker, half=half)

    @rule(owner=OWNER, worker=WORKER, back=st.booleans(), both=st.booleans())
    def they_dial_again(self, owner: int, worker: int, back: bool, both: bool) -> None:
        self.cluster.dial(owner, worker, back=back, both=both)

    @rule(owner=OWNER, worker=WORKER, both=st.booleans(), back=st.booleans())
    def a_network_breaks(self, owner: int, worker: int, both: bool, back: bool) -> None:
        self.cluster.partition(owner, worker, both=both, back=back)

    @rule()
    def networks_heal(self) -> None:
        self.cluster.heal()

    @rule(owner=OWNER)
    def an_owner_is_killed(self, owner: int) -> None:
        self.cluster.kill_owner(owner)

    @rule(owner=OWNER)
    def an_owner_starts(self, owner: int) -> None:
        self.cluster.start_owner(owner)

    @rule(worker=WORKER)
    def a_worker_is_killed(self, worker: int) -> None:
        self.cluster.kill_worker(worker)

    @rule(worker=WORKER)
    def a_worker_leaves(self, worker: int) -> None:
        self.cluster.leave_worker(worker)

    @rule(worker=WORKER)
    def a_worker_starts(self, worker: int) -> None:
        self.cluster.start_worker(worker)

    @rule(owner=OWNER)
    def an_owner_is_stopped(self, owner: int) -> None:
        self.cluster.pause(self.cluster.owners[owner])

    @rule(worker=WORKER)
    def a_worker_is_stopped(self, worker: int) -> None:
        self.cluster.pause(self.cluster.workers[worker])

    @rule()
    def what_was_stopped_goes_on(self) -> None:
        self.cluster.resume_all()

    @rule(owner=OWNER, back=st.integers(0, 500))
    def a_message_is_withdrawn(self, owner: int, back: int) -> None:
        self.cluster.withdraw(owner, back)

    @invariant()
    def everything_is_accounted_for(self) -> None:
        self.cluster.check()

    def teardown(self) -> None:
        self.cluster.settle()
        self.cluster.check()
        self.cluster.check_settled()


class KeyedMachine(Machine):
    @rule(owner=OWNER, count=st.sampled_from([1, 2, 7, 40]), key=st.sampled_from([b"a", b"a", b"b"]))
    def push_with_a_key(self, owner: int, count: int, key: bytes) -> None:
        self.cluster.push(owner, count, key=key)

    @rule(owner=OWNER)
    def push_keys_in_turn(self, owner: int) -> None:
        for key in (b"a", b"b", b"c", b"a"):
            self.cluster.push(owner, 1, key=key)


@pytest.mark.timeout(0 if WANTED else 240)
def test_nothing_is_lost_and_nothing_runs_twice_without_a_cause() -> None:
    play(Machine, HISTORIES)


@pytest.mark.timeout(0 if WANTED else 240)
def test_messages_of_a_key_are_handled_in_the_order_of_pushing_and_never_two_at_once() -> None:
    play(KeyedMachine, HISTORIES // 2)


def play(machine: type[Machine], histories: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=WANTED or histories,
            stateful_step_count=40,
            deadline=None,
            derandomize=not WANTED,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate] if not WANTED else [Phase.generate, Phase.shrink],
        ),
    )
