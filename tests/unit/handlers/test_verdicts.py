"""What an exception means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.unit.handlers.fakes import delivery
from zerowait.errors import Reject, RetryLater
from zerowait.handlers.verdicts import Judge, Overdue, Undecodable, story_of, type_of
from zerowait.message import Outcome, Verdict
from zerowait.retry import Retry

NOW = 2_000_000_000
JUDGE = Judge("mail@host", chance=lambda: 0.5, now_us=lambda: NOW)


def raised(error: BaseException) -> BaseException:
    password = "hunter2"  # noqa: F841 # pyright: ignore[reportUnusedVariable] (must not be told)
    try:
        raise error
    except BaseException as caught:
        return caught


def judged(error: BaseException, retry: Retry | None = None, failures: int = 0, age_s: float = 0) -> Outcome:
    one = delivery([0], failures={1: failures}, accepted_at=NOW - int(age_s * 1e6))
    return JUDGE.judge(raised(error), retry or Retry(), one, 0)


def note(outcome: Outcome) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.msgpack.decode(outcome.note)
    return told


def test_a_failure_is_tried_again_after_the_policys_delay() -> None:
    outcome = judged(ValueError("no"), Retry(delay=4, factor=3), failures=1)
    assert (outcome.verdict, outcome.after) == (Verdict.RETRY, 6.0)


@pytest.mark.parametrize(
    ("error", "retry", "failures", "age_s", "rule"),
    [
        (ValueError("no"), Retry(attempts=3), 2, 0, "attempts"),
        (ValueError("no"), Retry(attempts=1), 0, 0, "attempts"),
        (ValueError("no"), Retry(max_age=10), 0, 11, "max_age"),
        (ValueError("no"), Retry(unless=LookupError), 0, 0, "retry"),
        (KeyError("no"), Retry(unless=LookupError), 0, 0, "unless"),
        (Reject("no"), Retry(), 0, 0, "reject"),
        (Undecodable("no"), Retry(), 0, 0, "decode"),
        (RetryLater(after=3), Retry(), 0, 0, "retry_later"),
        (RetryLater(after=3), Retry(attempts=2), 1, 0, "attempts"),
        (SystemExit(2), Retry(), 0, 0, "retry"),
    ],
)
def test_a_rule_decides_and_is_named(
    error: BaseException, retry: Retry, failures: int, age_s: float, rule: str
) -> None:
    outcome = judged(error, retry, failures, age_s)
    assert note(outcome)["rule"] == rule
    assert outcome.verdict is (Verdict.RETRY if rule in ("retry", "retry_later") else Verdict.DEAD)


def test_the_note_is_for_people() -> None:
    told = note(judged(ValueError("no such mail"), failures=4))
    assert told["reason"] == "ValueError: no such mail"
    assert told["type"] == "ValueError"
    assert told["worker"] == "mail@host"
    assert told["at"] == NOW
    assert told["attempts"] == 5
    assert "in raised" in told["traceback"]
    assert set(told) == {"reason", "rule", "type", "traceback", "worker", "at", "attempts"}


def test_a_decision_is_told_in_the_handlers_own_words() -> None:
    assert note(judged(Reject("empty mail")))["reason"] == "empty mail"
    assert note(judged(RetryLater(after=5)))["reason"] == "try again in 5 s"
    assert note(judged(Overdue(30)))["reason"] == "timed out after 30 s"
    assert note(judged(Overdue(30)))["type"] == "TimeoutError"


def test_a_traceback_holds_no_local_variables_and_all_causes() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error
    except ValueError as error:
        story = story_of(raised(error), 16_384)
    assert "inner" in story
    assert "outer" in story
    assert "direct cause" in story
    assert "hunter2'" not in story.replace('password = "hunter2"', "")


def test_a_traceback_is_cut_in_its_middle_and_never_too_long() -> None:
    story = story_of(raised(ValueError("x" * 50_000 + "the end")), 4_096)
    assert len(story.encode()) <= 4_096
    assert story.startswith("Traceback")
    assert story.endswith("the end\n")
    assert "bytes left out" in story
    assert story_of(raised(ValueError("x")), 0) == ""


def test_a_deep_recursion_is_told_quickly_and_in_bounds() -> None:
    def deeper(n: int) -> None:
        deeper(n + 1)

    with pytest.raises(RecursionError) as caught:
        deeper(0)
    assert len(story_of(caught.value, 16_384).encode()) <= 16_384


def test_exceptions_that_cannot_be_told_are_told_anyhow() -> None:
    class Hostile(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "__str__ raised" in note(judged(Hostile()))["reason"]
    assert note(judged(ValueError("\udcff")))["reason"] == "ValueError: \\udcff"
    assert len(note(judged(ValueError("y" * 100_000)))["reason"].encode()) <= 2_048


def test_a_group_of_exceptions_is_told_whole() -> None:
    told = note(judged(ExceptionGroup("several", [ValueError("one"), KeyError("two")])))
    assert "one" in told["traceback"]
    assert "two" in told["traceback"]


def test_a_class_of_ours_is_told_by_the_name_of_what_it_stands_for() -> None:
    assert type_of(Undecodable("no")) == "msgspec.ValidationError"
    assert type_of(Overdue(1)) == "TimeoutError"


def deep() -> None:
    try:
        raise OSError("busy")
    except OSError:
        deep()  # "try again": each failure has the one before as its context


def chain() -> None:
    last: BaseException | None = None
    for n in range(1_500):
        following = ValueError(n)
        following.__cause__ = last
        last = following
    assert last is not None
    raise last


def ring() -> None:
    one, other = ValueError("one"), KeyError("other")
    one.__context__, other.__context__ = other, one
    raise one


def unspeakable() -> None:
    raise type("\ud800", (ValueError,), {})("x")


def hostile() -> None:
    class Hostile(Exception):
        def __str__(self) -> str:
            raise SystemExit(3)

    raise Hostile


@pytest.mark.parametrize("fails", [deep, chain, ring, unspeakable, hostile], ids=lambda each: str(each.__name__))
def test_whatever_a_handler_raises_is_judged_and_its_note_can_be_sent(fails: Callable[[], None]) -> None:
    # Else its runner dies, its message hangs, and so does the channel once all runners have.
    with pytest.raises(Exception) as caught:  # noqa: PT011
        fails()
    outcome = judged(caught.value)
    assert outcome.verdict is Verdict.RETRY
    told = note(outcome)
    assert told["reason"]
    assert "Traceback (most recent call last)" in told["traceback"]
    assert len(told["traceback"].encode()) <= 16_384
