from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerowait.errors import UsageError
from zerowait.retry import Retry


def test_waits_double_up_to_the_longest() -> None:
    policy = Retry(delay=1, factor=2, max_delay=5)

    assert [policy.delay_for(n, 1.0) for n in range(1, 6)] == [1, 2, 4, 5, 5]


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_wait_is_anything_between_nothing_and_the_longest(failures: int, random: float) -> None:
    policy = Retry()

    assert 0 <= policy.delay_for(failures, random) <= policy.max_delay


def test_no_delay_means_at_once_however_often() -> None:
    assert Retry(delay=0).delay_for(5_000, 0.99) == 0


def test_it_gives_up_after_its_attempts() -> None:
    policy = Retry(attempts=3)

    assert [policy.gives_up(n, 0) for n in (1, 2, 3, 4)] == [False, False, True, True]


def test_one_attempt_means_no_retry() -> None:
    assert Retry(attempts=1).gives_up(1, 0)


def test_it_gives_up_when_the_message_is_too_old() -> None:
    policy = Retry(max_age=60)

    assert not policy.gives_up(1, 59.9)
    assert policy.gives_up(1, 60)


def test_some_failures_are_the_last_at_once() -> None:
    assert Retry(unless=LookupError).is_final(KeyError("x"))
    assert Retry(unless=(ValueError, KeyError)).is_final(KeyError("x"))
    assert not Retry(unless=ValueError).is_final(KeyError("x"))
    assert not Retry().is_final(KeyError("x"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"attempts": True},
        {"attempts": 2.5},
        {"attempts": "3"},
        {"delay": -1},
        {"delay": "1"},
        {"delay": float("inf")},
        {"delay": float("nan")},
        {"factor": 0.5},
        {"factor": None},
        {"max_delay": -1},
        {"max_age": -1},
        {"max_age": "1h"},
        {"unless": "ValueError"},
        {"unless": (ValueError, 3)},
        {"unless": ValueError("an instance")},
    ],
    ids=repr,
)
def test_a_policy_that_makes_no_sense_is_refused_when_it_is_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"Retry\({next(iter(wrong))}=…\)"):
        Retry(**wrong)


def test_a_policy_is_named_and_cannot_be_changed() -> None:
    policy = Retry(attempts=5)

    with pytest.raises(TypeError):
        Retry(5)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        policy.attempts = 6  # type: ignore[misc]
