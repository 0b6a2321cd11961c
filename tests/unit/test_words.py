"""How many there are, in words."""

from __future__ import annotations

import pytest

from zerowait.words import plural


@pytest.mark.parametrize(
    ("n", "said"), [(0, "0 messages"), (1, "1 message"), (2, "2 messages"), (1_000, "1,000 messages")]
)
def test_numbers_are_said_with_their_noun(n: int, said: str) -> None:
    assert plural(n, "message") == said


def test_a_noun_that_takes_no_s_says_what_several_are() -> None:
    assert plural(2, "process", "processes") == "2 processes"
