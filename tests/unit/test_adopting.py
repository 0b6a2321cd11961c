"""The thread that looks after outboxes that nobody has open, and what it says while it cannot."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from tests.waiting import wait_until
from zerowait import adopting
from zerowait.adopting import Adopter
from zerowait.engines.brokerless.shelf import OutboxFile
from zerowait.errors import StoreError


class Folder:
    """Of outboxes. error: why it cannot be listed."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error
        self.looks = 0

    def outboxes(self) -> list[OutboxFile]:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return []


def looked(folder: Folder) -> None:
    """Several times, from now on."""
    seen = folder.looks
    wait_until(lambda: folder.looks >= seen + 5, within=10, that="it has looked again")


@pytest.mark.parametrize(
    ("error", "words", "is_told_where"),
    [
        (StoreError("The outboxes in /here cannot be listed: Too many open files."), "Too many open files", False),
        (RuntimeError("a bug"), "went wrong", True),
    ],
    ids=["no descriptors", "a bug"],
)
def test_what_keeps_it_from_looking_is_said_once_and_again_after_it_had_gone_well(
    error: Exception, words: str, is_told_where: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # given a folder that cannot be listed, for a while
    monkeypatch.setattr(adopting, "ADOPT_S", 0.001)
    caplog.set_level(logging.INFO)
    folder = Folder(error)
    opened: Any = SimpleNamespace(name="adopting", node=SimpleNamespace(directory=folder))
    never: Any = None
    adopter = Adopter(opened, is_ready=lambda: True, open=never, close=never, is_empty=never, mind=lambda: None)
    adopter.start()
    try:
        # when it looks again and again
        looked(folder)
        # then that is one record, with a traceback only if it is a bug of ours
        assert [words in record.getMessage() for record in caplog.records] == [True]
        assert bool(caplog.records[0].exc_info) is is_told_where
        # and once more if it comes back after it was mended
        folder.error = None
        looked(folder)
        folder.error = error
        looked(folder)
        assert len(caplog.records) == 2
    finally:
        adopter.stop()
