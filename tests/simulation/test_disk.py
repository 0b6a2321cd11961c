"""The simulated disk forgets what a real one may forget, and nothing else."""

from __future__ import annotations

from pathlib import Path
from random import Random

import apsw
import pytest

from zerowait.outbox.database import Database, check, create
from zerowait.testing.disk import SimulatedDisk
from zerowait.testing.medium import SECTOR, File

PATH = Path("/outbox/a.db")


def cut(file: File, seed: int) -> bytes:
    """What a power cut leaves of it."""
    file.forget(Random(seed))
    return bytes(file.stable)


def test_what_is_synced_survives_a_power_cut() -> None:
    file = File()
    file.write(0, b"a" * 4_096)
    file.sync()
    assert cut(file, 1) == b"a" * 4_096


def test_what_is_not_synced_is_lost_kept_or_torn_by_the_seed() -> None:
    old, new = b"a" * 4_096, b"b" * 4_096
    found: set[str] = set()
    for seed in range(100):
        file = File(old)
        file.write(0, new)
        left = cut(file, seed)
        assert len(left) == 4_096
        if left not in (old, new):
            sectors = {left[at : at + SECTOR] for at in range(0, 4_096, SECTOR)}
            found.add("sectors" if sectors == {old[:SECTOR], new[:SECTOR]} and left[0] == ord("a") else "torn")
        else:
            found.add("lost" if left == old else "kept")
    assert found == {"lost", "kept", "torn", "sectors"}


def test_after_a_sync_that_failed_no_later_one_makes_those_writes_last() -> None:
    lost = 0
    for seed in range(20):
        file = File(b"a" * 10)
        file.write(0, b"b" * 10)
        file.forget(Random(seed))  # the sync fails
        assert file.data == b"b" * 10  # whoever reads sees them all the same
        file.sync()
        lost += cut(file, 0) != b"b" * 10
    assert lost > 5


def outbox(disk: SimulatedDisk) -> Database:
    if not check(PATH, disk):
        create(PATH, 7, "somebody", 0, disk)
    return Database(PATH, disk)


def add(database: Database, instance: int) -> None:
    database.begin()
    database.run("INSERT INTO noted VALUES (?, 0)", (instance,))
    database.commit()


def noted(database: Database) -> list[int]:
    return [row[0] for row in database.rows("SELECT instance FROM noted ORDER BY 1")]


def test_a_commit_survives_and_one_that_was_begun_does_not() -> None:
    for seed in range(20):
        disk = SimulatedDisk(Random(seed))
        database = outbox(disk)
        add(database, 1)
        database.begin()
        database.run("INSERT INTO noted VALUES (2, 0)")
        disk.part(power=True)
        database.close()
        assert noted(outbox(disk)) == [1]


def test_a_process_that_is_killed_leaves_all_that_it_has_written() -> None:
    disk = SimulatedDisk(Random(1))
    database = outbox(disk)
    add(database, 1)
    disk.part(power=False)
    database.close()
    assert noted(outbox(disk)) == [1]


def test_at_each_step_of_a_commit_a_power_cut_leaves_all_of_it_or_nothing() -> None:
    found: set[int] = set()
    for seed in range(200):
        disk = SimulatedDisk(Random(seed))
        database = outbox(disk)
        add(database, 1)
        disk.light(1 + seed % 8, power=True)
        add(database, 2)
        blown = disk.blown
        disk.part(power=True)
        database.close()
        left = noted(outbox(disk))
        assert left == [1, 2] or (left == [1] and blown)
        found.add(len(left))
    assert found == {1, 2}


def test_at_each_step_of_making_an_outbox_a_power_cut_leaves_a_whole_one_or_none() -> None:
    found: set[bool] = set()
    for seed in range(200):
        disk = SimulatedDisk(Random(seed))
        disk.light(1 + seed % 60, power=True)
        create(PATH, 7, "somebody", 0, disk)
        blown = disk.blown
        disk.part(power=True)
        is_there = check(PATH, disk)
        assert is_there or blown
        database = outbox(disk)
        assert database.rows("PRAGMA integrity_check") == [("ok",)]
        assert database.rows("SELECT id, name FROM box") == [((7).to_bytes(8, "big"), "somebody")]
        found.add(is_there)
    assert found == {True, False}


def test_the_end_of_a_dead_life_touches_nobody() -> None:
    disk = SimulatedDisk(Random(1))
    dead = outbox(disk)
    add(dead, 1)
    disk.part(power=False)
    living = outbox(disk)
    add(living, 2)
    add(dead, 3)
    dead.close()  # it writes its log into its file, and removes it
    assert noted(living) == [1, 2]


@pytest.mark.parametrize(
    ("trouble", "error"), [("full", apsw.FullError), ("write", apsw.IOError), ("sync", apsw.IOError)]
)
def test_a_disk_in_trouble_fails_until_it_is_well_again(trouble: str, error: type[Exception]) -> None:
    disk = SimulatedDisk(Random(1))
    database = outbox(disk)
    disk.trouble = trouble  # type: ignore[assignment]
    with pytest.raises(error):
        add(database, 1)
    database.roll_back()
    disk.trouble = ""
    disk.part(power=False)
    database.close()
    again = outbox(disk)
    add(again, 2)
    assert 2 in noted(again)
    assert disk.failures
