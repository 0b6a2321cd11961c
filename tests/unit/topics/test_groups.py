"""Durable groups: what a publisher remembers of them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until
from zerowait.codec import Codec
from zerowait.errors import Closed
from zerowait.topics.groups import Groups, remembered

BILLING = "prices.*@billing"


class Publisher:
    """One life of a client that remembers in this folder."""

    def __init__(self, folder: Path) -> None:
        self.changes = 0
        self.groups = Groups(lambda: folder, lane=self._lane, promise=self._lane, want=lambda channel: None)
        self.groups.changed = self._changed

    def _changed(self) -> None:
        self.changes += 1

    def _lane(self, *_: Any) -> Any:
        raise AssertionError("nothing is published here")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "groups" / "bank"


def test_a_group_that_was_met_is_known_to_the_next_life(folder: Path) -> None:
    first = Publisher(folder)
    first.groups.met(BILLING)
    wait_until(lambda: remembered(folder), within=5)

    assert first.changes == 1
    assert Publisher(folder).groups.known() == {BILLING: ("prices.*", "billing")}


def test_a_group_that_was_forgotten_is_known_to_nobody_until_it_is_back(folder: Path) -> None:
    first = Publisher(folder)
    assert first.groups.known() == {}
    first.groups.met(BILLING)
    first.groups.met("orders.>@billing")
    wait_until(lambda: len(remembered(folder)) == 2, within=5)

    assert first.groups.forget(BILLING)
    assert not first.groups.forget(BILLING)
    assert list(first.groups.known()) == ["orders.>@billing"] == list(Publisher(folder).groups.known())
    assert first.changes == 4

    first.groups.met(BILLING)
    wait_until(lambda: BILLING in remembered(folder), within=5)


def test_a_group_that_is_forgotten_before_it_was_written_is_not_written(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    publisher = Publisher(folder)
    with publisher.groups._writing:  # the disk is busy
        publisher.groups.met(BILLING)
        publisher.groups.known().pop(BILLING)  # as `forget` does first
    publisher.groups.met("orders.>@billing")
    wait_until(lambda: remembered(folder), within=5)

    assert list(remembered(folder)) == ["orders.>@billing"]


def test_what_nobody_remembers_is_no_error(folder: Path) -> None:
    assert not Publisher(folder).groups.forget(BILLING)
    assert remembered(folder) == {}


class Disk(Groups):
    """Which stands still until it is told to move, and knows who has read it."""

    def __init__(self, folder: Path, there: dict[str, tuple[str, str]]) -> None:
        self.wanted: set[str] = set()
        super().__init__(
            lambda: folder,
            lane=lambda channel, codec: channel,  # type: ignore[arg-type, return-value]
            promise=lambda words: None,  # type: ignore[arg-type, return-value]
            want=self.wanted.add,
        )
        self.there = there
        self.moves = threading.Event()
        self.readers: list[int] = []

    def _remembered(self) -> dict[str, tuple[str, str]]:
        self.readers.append(threading.get_ident())
        assert self.moves.wait(10)
        return dict(self.there)


def test_a_group_is_met_and_seen_without_waiting_for_a_disk_that_nobody_has_read(folder: Path) -> None:
    # Given a disk that stands still, on which another group is remembered.
    disk = Disk(folder, {"orders.>@audit": ("orders.>", "audit")})

    # When a group is met, as the network thread meets it.
    disk.met(BILLING)
    disk.met(BILLING)

    # Then that has waited for nothing, and whoever publishes next has both, however he is read.
    assert disk.seen() == {BILLING: ("prices.*", "billing")}
    assert disk.wanted == {BILLING}
    assert disk.of("prices.eur", Codec(int)) is None, "it is not known yet"
    disk.moves.set()
    disk.read().result(5)
    assert [str(lane) for lane, _ in disk.of("prices.eur", Codec(int)) or ()] == [BILLING]
    assert set(disk.seen()) == {BILLING, "orders.>@audit"}
    wait_until(lambda: list(remembered(folder)) == [BILLING], within=5)
    assert len(disk.readers) == 1
    assert threading.get_ident() not in disk.readers


def test_a_group_that_was_remembered_is_no_news_when_it_is_met_before_it_was_read(folder: Path) -> None:
    disk = Disk(folder, {BILLING: ("prices.*", "billing")})
    disk.met(BILLING)
    disk.moves.set()

    assert disk.known() == {BILLING: ("prices.*", "billing")}
    assert disk.wanted == {BILLING}, "its members are looked for all the same"
    assert remembered(folder) == {}, "it is not written once more"


def test_a_folder_that_cannot_be_read_is_no_sign_that_there_are_no_groups(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without descriptors, say: what was published then was kept for no group that an earlier life had met."""
    # Given a folder that cannot be read.
    folder.parent.mkdir(parents=True)
    folder.write_text("in its place")
    publisher = Publisher(folder)

    # When somebody wants to publish.
    known = publisher.groups.read()
    wait_until(lambda: "cannot be read" in caplog.text, within=5)

    # Then that waits until it can be read, and is told once.
    assert not known.done()
    assert not publisher.groups.is_holding(), "nothing was published: who closes has nothing to wait for"
    folder.unlink()
    folder.mkdir()
    (folder / BILLING).touch()
    known.result(5)
    assert publisher.groups.known() == {BILLING: ("prices.*", "billing")}
    assert caplog.text.count("cannot be read") == 1


def test_a_folder_that_cannot_be_read_keeps_nobody_who_closes(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("in its place")
    groups = Publisher(folder).groups
    known = groups.read()
    groups.fail(Closed(name="bank"))
    assert isinstance(known.exception(5), Closed)
    wait_until(lambda: not any(each.name == "zerowait groups" for each in threading.enumerate()), within=5)


def test_who_closes_waits_for_what_was_published_until_it_is_on_its_way(folder: Path) -> None:
    disk = Disk(folder, {})
    known = disk.read()
    assert not disk.is_holding()
    assert disk.hold("prices.eur", Codec(int), b"\x07", None) is not None
    assert disk.is_holding()
    disk.moves.set()
    known.result(5)
    assert not disk.is_holding()
    assert disk.hold("prices.eur", Codec(int), b"\x07", None) is None
