"""The power of the disk is cut while messages are pushed: what a receipt said is there afterwards, and nothing else is
counted."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import machine
from tests.faults.checker import Name
from tests.faults.history import Kind, Record
from tests.faults.lives import Item
from tests.faults.nursery import Nursery
from tests.faults.power import Disk
from tests.faults.scene import Life, Scene
from zerowait.codec import Codec
from zerowait.outbox.intake import Limits
from zerowait.outbox.outbox import Outbox

Told = Callable[[str], None]
CUTS = 6
READ = Codec[Item](Item).decode_list


@pytest.fixture(params=["a drive without a cache", "a drive that loses its cache"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, home: Path) -> Iterator[Disk]:
    machine.need("disks in files (loop devices)")
    disk = Disk(tmp_path / "image", home, cached="loses" in request.param)
    yield disk
    disk.remove()


@pytest.fixture
def powered(nursery: Nursery, disk: Disk, tmp_path: Path, namespace: str) -> Iterator[Scene]:
    scene = Scene(nursery, tmp_path, disk.place, namespace)
    yield scene
    scene.close()


def cut(scene: Scene, disk: Disk, *lives: Life) -> None:
    """All is dark. A sync that is under way while ext4 shuts down may come back as if it had been done (seen by a
    receipt within the call): on a machine without power nobody would have heard of it."""
    since = time.monotonic()
    disk.cut()
    for life in lives:
        life.kill()
        scene.dark(life, since)
    scene.look_anew()
    disk.restore()
    for life in lives:
        scene.killed(life)


def found_on(disk: Disk, to: Path) -> list[Name]:
    """The messages that a copy of the outboxes there holds, opened for itself; their ledgers count just these."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir()
    found: list[Name] = []
    for number, path in enumerate(sorted(disk.place.glob("*/outbox/*.db"))):
        copy = to / f"{number}.db"
        for suffix in ("", "-wal"):
            if (part := path.with_name(path.name + suffix)).exists():
                shutil.copyfile(part, copy.with_name(copy.name + suffix))
        box = Outbox.open(copy, "copy", Limits(), now_us=lambda: time.time_ns() // 1_000)
        try:
            bodies = box.read("SELECT body.bytes FROM message JOIN body ON body.id = message.body WHERE state = 0")
            here = [(item.sender, item.number) for (body,) in bodies for item in READ(body)]
            rows = box.ledger.rows().values()
            assert sum(row.accepted for row in rows) == len(here)
            assert sum(row.waiting_and_in_flight for row in rows) == len(here)
            found += here
        finally:
            box.close()
    return found


def named(records: list[Record]) -> set[Name]:
    return {(record.sender, record.number) for record in records}


@pytest.mark.timeout(180)
def test_what_a_receipt_called_stored_outlives_every_power_cut_and_is_delivered(
    powered: Scene, disk: Disk, tmp_path: Path, told: Told
) -> None:
    chance, kept = random.Random(11), 0
    for _ in range(CUTS):
        sender = powered.next_sender(pace=0.0005, most_bytes=3_000)
        powered.until(Kind.ACCEPTED, 20, by=sender, within=30)
        time.sleep(chance.random() * 0.3)  # when it is cut is what is tried
        cut(powered, disk, sender)
        found = found_on(disk, tmp_path / "copy")
        stored = named(powered.of(Kind.ACCEPTED))
        assert len(set(found)) == len(found), "something lies there twice"
        assert stored <= set(found) <= named(powered.of(Kind.ATTEMPT))
        kept = len(found) - len(stored)
    powered.worker()
    last = powered.next_sender(count=20)
    powered.until(Kind.ACCEPTED, 20, by=last)
    report = powered.assert_accounted(within=60)
    assert report.repeated == 0
    told(f"{CUTS} power cuts: {report.accepted} receipts kept, {kept} more were on disk and had not been told yet")


@pytest.mark.long
@pytest.mark.timeout(180)
def test_a_power_cut_of_both_ends_loses_nothing_and_repeats_only_what_was_not_settled(
    powered: Scene, disk: Disk
) -> None:
    chance = random.Random(12)
    for _ in range(CUTS // 2):
        worker = powered.worker(seconds=0.005)
        sender = powered.next_sender(pace=0.001, most_bytes=3_000)
        powered.until(Kind.SETTLED, 20, by=sender, within=30)
        time.sleep(chance.random() * 0.3)
        cut(powered, disk, sender, worker)
    powered.worker()
    last = powered.next_sender(count=20)
    powered.until(Kind.ACCEPTED, 20, by=last)
    powered.assert_accounted(within=60)


def test_the_cut_is_a_real_one_without_syncs_it_loses(powered: Scene, disk: Disk) -> None:
    """That nothing is lost above is worth something only because of this."""
    machine.need("strace")
    sender = powered.traced_sender("fdatasync,fsync:retval=0", pace=0.001)
    powered.until(Kind.ACCEPTED, 50, by=sender, within=30)
    cut(powered, disk, sender)
    assert len(lost_after(powered)) >= 20


def test_the_cache_of_the_drive_is_really_lost_where_it_is_not_flushed(
    nursery: Nursery, tmp_path: Path, home: Path, namespace: str
) -> None:
    machine.need("disks in files (loop devices)")
    disk = Disk(tmp_path / "image", home, cached=True, flushes=False)
    scene = Scene(nursery, tmp_path, disk.place, namespace)
    try:
        sender = scene.sender(pace=0.001)
        scene.until(Kind.ACCEPTED, 50, by=sender, within=30)
        cut(scene, disk, sender)
        assert len(lost_after(scene)) >= 20
    finally:
        scene.close()
        disk.remove()


def lost_after(scene: Scene) -> list[str]:
    """What the next life finds missing."""
    scene.worker()
    last = scene.next_sender(count=1)
    scene.until(Kind.ACCEPTED, 1, by=last)
    return [words for words in scene.report(within=30).violations if words.startswith("lost")]
