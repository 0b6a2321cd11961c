"""`make mutants` plants them all; here it is seen that this does what it says."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from types import FunctionType

import pytest

from tests.mutants.hunt import hunt
from tests.mutants.planting import BUGS, bug, planted
from zerowait.engines.brokerless.protocol.worker.parcel import Permit
from zerowait.testing.simulation import simulate


@pytest.mark.parametrize("words", BUGS)
def test_a_bug_is_there_while_it_is_planted_and_gone_afterwards(words: str) -> None:
    puts: list[tuple[object, str, object]] = []

    def put(owner: object, name: str, made: object) -> None:
        puts.append((owner, name, vars(owner)[name]))

    BUGS[words](put)
    assert puts
    with planted(words):
        assert all(vars(owner)[name] is not right for owner, name, right in puts)
    assert all(vars(owner)[name] is right for owner, name, right in puts)


@pytest.mark.parametrize("words", BUGS)
def test_what_is_planted_is_called_as_what_is_right(words: str) -> None:
    """Else whoever calls it fails, which any test would find, whatever the bug."""

    def put(owner: object, name: str, made: Callable[[object], object]) -> None:
        right = vars(owner)[name]
        bug = made(right)
        if isinstance(right, FunctionType) and callable(bug):
            told = signature(right).parameters.values()
            by_name = {each.name: None for each in told if each.kind is Parameter.KEYWORD_ONLY}
            in_order = [
                each for each in told if each.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
            ]
            signature(bug).bind(*in_order, **by_name)

    BUGS[words](put)


def test_a_seed_is_well_again_once_the_bug_is_out() -> None:
    before = simulate(10)
    with planted("an outcome is confirmed before it is settled on disk"):
        assert simulate(10).hash != before.hash
    assert simulate(10) == before


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("words", ["credit for what is handed back leaks", "a receipt is done before the commit"])
def test_the_simulation_finds_a_bug_within_a_hundred_seeds(words: str) -> None:
    find = hunt(words, 100)
    assert find.by.startswith("seed "), find


def test_what_is_no_bug_is_not_found_by_seeds() -> None:
    words = "nothing is wrong with this"
    bug(words)(lambda put: put(Permit, "allows", lambda right: lambda self, now: right(self, now)))
    try:
        with planted(words):
            assert simulate(3).wrong == ()
    finally:
        del BUGS[words]
