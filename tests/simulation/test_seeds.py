"""Whole processes on simulated disks and a simulated network, treated badly; the same seed does the same for ever."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.simulation.seeds import cores, play, play_on_all_cores, replay
from zerowait.testing.simulation import simulate

SEEDS = 2_000
BUDGET_S = 80.0  # of each core; what a slow machine does not play in that time is left out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_is_lost_and_everything_comes_to_rest_whatever_goes_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    beside = cores()
    tally = play_on_all_cores([range(1 + one, SEEDS + 1, beside) for one in range(beside)], until=BUDGET_S)
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
    beside, alone = play_on_all_cores([range(3, 5), range(5, 6)]), play(range(3, 6))
    assert beside.seeds == 3
    assert (beside.steps, beside.fired) == (alone.steps, alone.fired)
    assert (beside.counts, beside.ends, beside.topics) == (alone.counts, alone.ends, alone.topics)


def test_a_seed_that_fails_names_the_command_that_plays_it_again() -> None:
    assert replay(7) == "make simulate SEEDS=1 FROM=7"
