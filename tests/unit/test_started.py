"""The list of what a process runs, and who reads it after its death."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from zerowait.engines.brokerless import presence
from zerowait.engines.brokerless.directory import Directory
from zerowait.engines.brokerless.started import Started, read


def test_what_the_runners_have_begun_is_read_from_the_file(tmp_path: Path) -> None:
    started = Started(tmp_path / "list", 3)
    assert read(tmp_path / "list") == ()
    started.begin(0, 2**64 - 1, 5, 10, 1)
    started.begin(2, 7, 5, 11, 128)
    assert read(tmp_path / "list") == ((2**64 - 1, 5, 10, 1), (7, 5, 11, 128))
    started.begin(2, 7, 5, 139, 1)
    started.end(0)
    assert read(tmp_path / "list") == ((7, 5, 139, 1),)


def test_the_list_of_a_killed_process_says_what_it_was_at(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from zerowait.engines.brokerless.started import Started\n"
        "Started(Path(sys.argv[1]), 2).begin(1, 7, 5, 11, 3)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    died = subprocess.run([sys.executable, "-c", program, str(tmp_path / "list")], check=False)
    assert died.returncode == -signal.SIGKILL
    assert read(tmp_path / "list") == ((7, 5, 11, 3),)


def test_what_is_no_list_is_read_as_none(tmp_path: Path) -> None:
    path = tmp_path / "list"
    assert read(path) is None
    Started(path, 2).begin(0, 7, 5, 11, 3)
    whole = path.read_bytes()
    for wrong in (b"", b"something else entirely", whole[:-1], b"x" + whole[1:]):
        path.write_bytes(wrong)
        assert read(path) is None, wrong


def test_a_slot_that_cannot_be_true_names_nothing(tmp_path: Path) -> None:
    started = Started(tmp_path / "list", 2)
    started.begin(0, 7, 5, 11, 1 << 40)
    started.begin(1, 7, 5, 0, 1)
    assert read(tmp_path / "list") == ()


def test_who_leaves_in_order_names_nothing_although_something_still_runs(tmp_path: Path) -> None:
    started = Started(tmp_path / "list", 2)
    started.begin(0, 7, 5, 11, 1)
    started.leave(remove=False)
    assert read(tmp_path / "list") == ()
    started.leave(remove=True)
    assert not (tmp_path / "list").exists()


def test_who_dies_while_it_leaves_names_nothing_whatever_its_runners_begin_and_end(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "state", "test")
    instance = secrets.randbits(64)
    directory.enter(instance, "mail")
    started = directory.list_started(instance, 2)
    assert started is not None
    started.begin(0, 7, 5, 11, 1)
    directory.drain()
    started.begin(1, 7, 5, 12, 1)
    started.end(0)
    assert directory._life is not None
    directory._life.release()  # as the kernel does it at the end of a process
    assert directory.ran(instance) == ()
    assert directory.ending(instance).listed, "that nothing ran there is known"
    directory.leave()


def test_the_next_process_of_a_name_finds_how_earlier_ones_have_ended(tmp_path: Path) -> None:
    lives = [Directory(tmp_path / "state", "test") for _ in range(3)]
    ids = [secrets.randbits(64) for _ in lives]
    for life, instance, name in zip(lives, ids, ("mail", "post", "mail"), strict=True):
        life.enter(instance, name)
        started = life.list_started(instance, 1)
        assert started is not None
        started.begin(0, 7, 5, instance % 1_000 + 1, 1)
    looks = Directory(tmp_path / "state", "test")
    assert looks.ended("mail", 8) == [], "they live"
    for life in lives[:2]:
        assert life._life is not None
        life._life.release()  # as the kernel does it at the end of a process
    assert looks.ended("mail", 8) == [ids[0]]
    assert looks.ran(ids[0]) == ((7, 5, ids[0] % 1_000 + 1, 1),)
    lives[2].leave()
    assert looks.ran(ids[2]) is None


def test_lists_stay_as_long_as_the_proof_that_they_belong_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = Directory(tmp_path / "state", "test")
    instance = secrets.randbits(64)
    directory.enter(instance, "mail")
    assert directory.list_started(instance, 1) is not None
    assert directory.list_lying(instance) is not None
    folder = tmp_path / "state" / "test" / "instances"
    assert directory._life is not None
    directory._life.release()
    assert presence.is_over(folder, instance)
    lists = presence.list_path(folder, instance), presence.lying_path(folder, instance)
    assert not presence.tidy(folder, instance)
    assert all(path.exists() for path in lists), "somebody may still ask"
    monkeypatch.setattr(presence, "PROOF_KEPT_S", -1.0)
    assert presence.tidy(folder, instance)
    assert not any(path.exists() for path in lists)


def test_who_leaves_keeps_no_descriptor_and_a_late_end_goes_nowhere(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    started = Started(tmp_path / "runs", 2)
    started.begin(1, 7, 1, 3, 1)
    started.leave(remove=False)
    started.end(1)
    started.begin(0, 7, 1, 3, 1)
    assert read(tmp_path / "runs") == ()
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) == before
