"""Dead letters: which of them are found."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from tests.unit.outbox.boxes import Bench
from zerowait.message import Bury
from zerowait.outbox.letters import Letters
from zerowait.snapshot import LetterFilter

Maker = Callable[..., Bench]
NOTE = {"reason": "boom", "rule": "attempts", "type": "KeyError", "traceback": "line 7, in show", "worker": "printer"}


def bury(bench: Bench, *reasons: str) -> None:
    """A dead letter for each of them, in this order."""
    bench.push(*reasons)
    (segment,) = bench.turn()
    for at, reason in enumerate(reasons):
        note = msgspec.msgpack.encode(NOTE | {"reason": reason})
        bench.turn(Bury("mail", segment.epoch, segment.first + at, 3, note, segment.seq))


@pytest.mark.parametrize("text", ["boom", "attempts", "KeyError", "in show"])
def test_an_error_is_looked_for_in_what_is_said_of_it(make: Maker, text: str) -> None:
    bench = make()
    bury(bench, "boom")
    assert len(Letters(bench.box).page(LetterFilter(error=text))) == 1


@pytest.mark.parametrize("text", ["reason", "rule", "type", "traceback", "worker", "printer"])
def test_an_error_is_not_looked_for_in_names(make: Maker, text: str) -> None:
    bench = make()
    bury(bench, "boom")
    assert Letters(bench.box).page(LetterFilter(error=text)) == []


def test_pages_are_full_although_most_letters_that_were_read_are_not_meant(make: Maker) -> None:
    bench = make()
    bury(bench, *("the worker left" if at % 7 == 6 else "boom" for at in range(28)))
    letters, which = Letters(bench.box), LetterFilter(error="worker")
    first = letters.page(which, limit=3)
    rest = letters.page(which, limit=3, after=first[-1].id)
    assert [letter.noted()["reason"] for letter in first + rest] == ["the worker left"] * 4
    assert (len(first), len({letter.id for letter in first + rest})) == (3, 4)
