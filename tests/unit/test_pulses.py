"""Who is held: two signs of it, and what is read of it then."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from zerowait.engines.brokerless import unbegun_file
from zerowait.engines.brokerless.directory import Directory
from zerowait.engines.brokerless.protocol.worker.unbegun import Unbegun
from zerowait.engines.brokerless.pulses import FRESH_S, STILL_S, Looked, Pulses
from zerowait.engines.brokerless.unbegun_file import Reading

BOX = 7


class Other:
    """Another process of this machine, as far as its files and its socket show."""

    def __init__(self, home: Path) -> None:
        self.felt: list[Pulses] = []
        self.directory = Directory(home, "test")
        self.instance = secrets.randbits(63) | 1
        self.directory.enter(self.instance, "mail")
        unbegun = self.directory.list_lying(self.instance)
        assert unbegun is not None
        self.unbegun: Unbegun = unbegun
        self.unbegun.met(BOX, 5, ())
        path = self.directory.socket_of(self.instance)
        assert path is not None
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._listening.setblocking(False)

    def greets(self) -> None:
        """As ZeroMQ's thread does, whoever comes."""
        while True:
            try:
                came, _ = self._listening.accept()
            except BlockingIOError:
                return
            came.sendall(b"\xff\0\0\0\0\0\0\0\x01\x7f")
            came.close()

    def close(self) -> None:
        self._listening.close()
        self.directory.leave()


@pytest.fixture
def other(home: Path) -> Iterator[Other]:
    other = Other(home)
    yield other
    for pulses in other.felt:
        pulses.close()
    other.close()


def felt(other: Other, *, beats: bool = False, greets: bool = True, seconds: int = 5) -> tuple[Pulses, float]:
    pulses = Pulses(Directory(other.directory._home, "test"))
    other.felt.append(pulses)
    for second in range(seconds + 1):
        pulses.feel(other.instance, 100.0 + second)
        if beats:
            other.unbegun.beat()
        if greets:
            other.greets()
    return pulses, 100.0 + seconds


def test_one_whose_threads_greet_while_none_of_its_lines_runs_is_held(other: Other) -> None:
    pulses, now = felt(other)
    listing = pulses.look(other.instance, now).listing
    assert listing is not None
    assert listing.read == {BOX: (5, 0)}


def test_one_that_is_stopped_greets_nobody(other: Other) -> None:
    pulses, now = felt(other, greets=False)
    assert pulses.look(other.instance, now) == Looked()


def test_one_that_has_greeted_and_does_not_any_more_is_not_held(other: Other) -> None:
    pulses, now = felt(other)
    for later in range(1, 5):
        pulses.feel(other.instance, now + later)
        if later == 1:
            other.greets()
    assert pulses.look(other.instance, now + 2 + FRESH_S + 0.1) == Looked()


def test_one_that_turns_is_cut_off_and_not_held(other: Other) -> None:
    pulses, now = felt(other, beats=True)
    assert pulses.look(other.instance, now) == Looked()


def test_one_that_turns_again_after_it_stood_still_is_about_to_come_back(other: Other) -> None:
    pulses, now = felt(other)
    other.unbegun.beat()
    assert pulses.look(other.instance, now) == Looked(stirs=True)
    assert pulses.look(other.instance, now + STILL_S / 2) == Looked(stirs=True)


def test_one_that_keeps_no_list_is_not_held(other: Other) -> None:
    os.unlink(other.directory.lying_path(other.instance))
    pulses, now = felt(other)
    assert pulses.look(other.instance, now) == Looked()
    other.directory.lying_path(other.instance).write_bytes(b"something else")
    pulses, now = felt(other)
    assert pulses.look(other.instance, now) == Looked()


def test_nothing_is_kept_open_of_who_is_back(other: Other) -> None:
    before = len(os.listdir("/dev/fd"))
    pulses, _ = felt(other)
    assert len(os.listdir("/dev/fd")) > before
    pulses.forget(other.instance)
    assert len(os.listdir("/dev/fd")) == before


def test_a_list_goes_with_its_process(home: Path) -> None:
    other = Other(home)
    path = other.directory.lying_path(other.instance)
    assert path.exists()
    other.close()
    assert not path.exists()


def test_a_list_that_is_no_list_is_read_as_none(tmp_path: Path) -> None:
    path = tmp_path / "list"
    unbegun_file.write(path)
    whole = path.read_bytes()
    for wrong in (b"", whole[:-1], b"x" + whole[1:]):
        path.write_bytes(wrong)
        with closing(Reading(path)) as reading:
            assert reading.listing() is None
    path.write_bytes(whole)
    with closing(Reading(path)) as reading:
        assert reading.beats() == 0
        assert reading.listing() is not None
