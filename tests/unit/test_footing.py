"""What a process says of itself in the directory, when that cannot be written."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from zerowait.engines.brokerless.directory import Directory, Entry
from zerowait.engines.brokerless.footing import Footing
from zerowait.engines.brokerless.wire import Wire
from zerowait.errors import StoreError


class Full(Directory):
    """On a disk that may be full."""

    is_full = False

    def announce(self, entry: Entry) -> None:
        if self.is_full:
            raise StoreError("the entry of this process cannot be written: no room.", path=str(self.root), errno=28)
        super().announce(entry)


@pytest.fixture
def directory(home: Path) -> Iterator[Full]:
    made = Full(home, "test")
    yield made
    made.leave()


def footing_in(directory: Directory) -> Footing:
    me = directory.enter(7, "mail")
    wire: Wire = object()  # type: ignore[assignment]  # nothing here listens
    return Footing(directory, me, wire, time.time_ns() // 1000, become=lambda me: None, own=lambda endpoints: None)


def announce(footing: Footing, *channels: str) -> None:
    footing.announce(dict.fromkeys(channels, "push"), (), (), ())


def test_who_cannot_be_announced_at_all_does_not_begin(directory: Full) -> None:
    directory.is_full = True
    with pytest.raises(StoreError):
        announce(footing_in(directory), "numbers")


def test_news_that_cannot_be_announced_are_told_once_each_time_that_it_fails_anew(
    directory: Full, caplog: pytest.LogCaptureFixture
) -> None:
    # given: a process that others see
    footing = footing_in(directory)
    announce(footing, "a")
    # when its disk is full for a while, has room, and is full again
    with caplog.at_level(logging.WARNING):
        for is_full in (True, True, False, True):
            directory.is_full = is_full
            announce(footing, "b")
    # then it goes on, and each of the two times was told
    assert [record.message for record in caplog.records] == [
        "the entry of this process cannot be written: no room; it is tried again each second"
    ] * 2
