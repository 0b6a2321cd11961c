"""Whole processes on simulated disks and a simulated network, treated badly; the same seed does the same for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.simulation.beside import BESIDE, BUDGET_S, SEEDS, Beside
from tests.simulation.seeds import cores, play, play_on_all_cores, replay
from zerowait.testing.simulation import simulate


@pytest.mark.slow
@pytest.mark.beside
@pytest.mark.timeout(600)
def test_nothing_is_lost_and_everything_comes_to_rest_whatever_goes_wrong(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    # Since the first of all tests began, if there were others.
    beside = request.config.stash.get(BESIDE, None) or Beside(SEEDS, cores(), BUDGET_S)
    try:
        tally = beside.tally(within=500)
    finally:
        beside.end()
    with capsys.disabled():
        print(f"\n{tally.words()}")
    assert tally.is_good(), tally.words()


@pytest.mark.parametrize("seed", [3, 17, 118])
def test_a_seed_played_twice_is_the_same_to_the_last_frame(seed: int) -> None:
    assert simulate(seed) == simulate(seed)


def test_a_seed_is_the_same_in_another_process_with_other_hashes_of_strings() -> None:
    """What is iterated over must not depend on where Python happens to put it."""
    program = "from zerowait.testing.simulation import simulate; print([simulate(s).hash for s in (5, 23)])"
    said = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": str(salt), "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for salt in (1, 2)
    }  # fmt: skip
    assert len(said) == 1


def test_what_processes_play_beside_one_another_is_counted_together() -> None:
    all_cores, alone = play_on_all_cores([range(1, 3), range(3, 4)]), play(range(1, 4))
    beside = Beside(3, 2, until=60)
    for together in (all_cores, beside.tally(within=50)):
        assert together.seeds == 3
        assert (together.steps, together.fired) == (alone.steps, alone.fired)
        assert (together.counts, together.ends, together.topics) == (alone.counts, alone.ends, alone.topics)


def test_a_process_that_breaks_while_it_plays_is_no_good_tally() -> None:
    beside = Beside(3, 1, until=60)
    try:
        os.kill(beside.pids[0], signal.SIGKILL)
        with pytest.raises(subprocess.CalledProcessError):
            beside.tally(within=50)
    finally:
        beside.end()


def test_a_seed_that_fails_names_the_command_that_plays_it_again() -> None:
    assert replay(7) == "make simulate SEEDS=1 FROM=7"
