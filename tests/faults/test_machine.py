"""A machine that cannot do something is skipped by name, with the reason and what would help."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.faults import machine


@pytest.fixture(autouse=True)
def _looked_at_anew() -> Iterator[None]:
    machine.lacks.cache_clear()
    yield
    machine.lacks.cache_clear()


def test_a_tool_that_is_not_there_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(tool: str) -> None:
        return None

    monkeypatch.setattr(shutil, "which", nothing)
    with pytest.raises(pytest.skip.Exception, match=r"strace: there is no strace here \(apt-get install strace\)"):
        machine.need("strace")


def test_what_the_machine_refuses_is_told_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(machine.PROBES, "the impossible", "ls /where/nothing/is")
    with pytest.raises(pytest.skip.Exception, match=r"the impossible: this machine refuses.*No such file"):
        machine.need("the impossible")


def test_what_can_be_done_is_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(machine.PROBES, "the possible", "true")
    machine.need("the possible")
