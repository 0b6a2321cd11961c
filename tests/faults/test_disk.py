"""A disk that is full, and one whose writes and syncs fail."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import machine
from tests.faults.history import Kind
from tests.faults.kills import until_stored
from tests.faults.nursery import Nursery
from tests.faults.scene import Scene
from tests.waiting import wait_until

MIB = 1 << 20


@pytest.fixture
def small(home: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    machine.need("small file systems")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(home)], check=True)
    yield home
    subprocess.run(["umount", "-l", str(home)], check=False)


@pytest.fixture
def full_scene(nursery: Nursery, small: Path, tmp_path: Path, namespace: str) -> Iterator[Scene]:
    scene = Scene(nursery, tmp_path, small, namespace)
    yield scene
    scene.close()


def test_pushes_to_a_full_disk_are_refused_and_all_that_was_taken_is_delivered_when_there_is_room(
    full_scene: Scene, small: Path
) -> None:
    scene = full_scene
    ballast = small / "ballast"
    scene.worker()
    sender = scene.sender(pace=0.001, most_bytes=4_000)
    scene.until(Kind.SETTLED, 20)
    for _ in range(2):
        fill_for_good(scene, ballast)
        ballast.unlink()
        freed = time.monotonic()
        assert scene.until(Kind.ACCEPTED, 10, after=freed, within=10) - freed < 4
    sender.signal(signal.SIGUSR1)
    scene.until(Kind.READY, by=sender)
    until_stored(scene, sender)
    report = scene.assert_accounted()
    assert report.repeated == 0
    assert report.refused >= 6


def test_what_has_filled_the_disk_by_itself_is_taken_away_by_a_worker_that_comes_then(full_scene: Scene) -> None:
    scene = full_scene
    sender = scene.sender(pace=0.0005, most_bytes=4_000)  # nobody takes it, until there is no room
    scene.until(Kind.REFUSED, 3)
    came = time.monotonic()
    scene.worker()
    scene.until(Kind.ACCEPTED, 20, after=came, within=20)
    sender.signal(signal.SIGUSR1)
    scene.until(Kind.READY, by=sender)
    until_stored(scene, sender)
    assert scene.assert_accounted().repeated == 0


def fill_for_good(scene: Scene, ballast: Path) -> None:
    """Also with what an outbox gives back once it has noticed that room is scarce: until pushes are refused."""
    before = time.monotonic()
    for _ in range(20):
        fill(ballast)
        try:
            scene.until(Kind.REFUSED, 3, after=before, within=1.5)
        except AssertionError:
            continue
        return
    raise AssertionError("pushes were never refused, though the disk was full again and again")


def fill(ballast: Path) -> None:
    """Until not a byte fits."""
    with ballast.open("ab", buffering=0) as file:
        for size in (MIB, 4096):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                pass


def test_a_sender_killed_while_its_disk_is_full_loses_nothing_that_was_stored(full_scene: Scene, small: Path) -> None:
    scene = full_scene
    ballast = small / "ballast"
    sender = scene.sender(pace=0.001, most_bytes=4_000)  # no worker yet: all lies on disk
    scene.until(Kind.ACCEPTED, 50)
    fill(ballast)
    scene.until(Kind.REFUSED, 1)
    scene.kill(sender)
    ballast.unlink()
    scene.worker()
    second = scene.next_sender(count=20)
    scene.until(Kind.ACCEPTED, 20, by=second)
    assert scene.assert_accounted().repeated == 0


# The first 50 or so of each go by while the outbox is made and opened. Writes do not fail for ever: what gathers
# meanwhile takes more of them than there are between two faults.
@pytest.mark.long
@pytest.mark.parametrize(
    "inject",
    [
        "fdatasync,fsync:error=EIO:when=40+31",
        "pwrite64:error=EIO:when=120..123",
        "pwrite64:error=ENOSPC:when=120..123",
        "fdatasync,fsync:error=EIO:when=40..42",
        "pwrite64:signal=KILL:when=197",
        "fdatasync,fsync:signal=KILL:when=61",
    ],
)
def test_writes_and_syncs_that_fail_make_no_false_promise(scene: Scene, inject: str) -> None:
    machine.need("strace")
    scene.worker()
    sender = scene.traced_sender(inject, pace=0.002, most_bytes=2_000)
    if "KILL" in inject:
        sender.until_over(30)
        scene.killed(sender)
        second = scene.next_sender(count=20)
        scene.until(Kind.ACCEPTED, 20, by=second)
    else:
        wait_until(lambda: "cannot be written" in sender.log(), within=30, that="the fault was met")
        scene.until(Kind.ACCEPTED, 20, by=sender, after=time.monotonic(), within=30)
        sender.signal(signal.SIGUSR1)
        scene.until(Kind.READY, by=sender)
        until_stored(scene, sender)
    assert scene.assert_accounted(within=30).repeated == 0
