"""Damaged files: what is whole in them is found, and saved."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from tests.unit.outbox.boxes import Bench, Time, handled, values
from zerowait.errors import StoreError
from zerowait.message import Bury
from zerowait.outbox.salvage import Report, Salvage

Maker = Callable[..., Bench]
SEGMENTS = 40


@pytest.fixture
def left(on_disk: Maker) -> Bench:
    """Forty segments of three messages each wait in a closed file; of the first one message is handled, one dead."""
    bench = on_disk()
    for at in range(SEGMENTS):
        bench.push(*(f"{at}-{n} {'x' * 900}" for n in range(3)))
        (segment,) = bench.turn()
        if at == 0:
            bench.turn(handled(segment, 0, 1), Bury("mail", segment.epoch, segment.first + 1, 3, b"\x80", segment.seq))
    bench.box.close()
    return bench


def path_of(bench: Bench) -> Path:
    assert bench.path is not None
    return bench.path


def checked(path: Path) -> Report:
    salvage = Salvage(path)
    try:
        return salvage.report()
    finally:
        salvage.close()


def repaired(path: Path, time: Time) -> tuple[Report, Path]:
    salvage = Salvage(path)
    try:
        return salvage.rewrite(7, "tester", time.now_us())
    finally:
        salvage.close()


def spoil_bodies(path: Path, where: str) -> None:
    """Other bytes than were written, with the checksum of what was."""
    connection = apsw.Connection(str(path))
    connection.execute(f"UPDATE body SET bytes = zeroblob(length(bytes)) WHERE {where}")  # pyright: ignore[reportUnknownMemberType]
    connection.close()


def spoil_pages(path: Path, pages: range) -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek(4_096 * page)
            file.write(os.urandom(4_096))


def test_a_whole_file_is_found_whole_and_is_as_it_was(left: Bench) -> None:
    before = path_of(left).read_bytes()
    report = checked(path_of(left))
    assert report.is_whole
    assert (report.waiting, report.dead, report.damaged) == ({"mail": 3 * SEGMENTS - 2}, {"mail": 1}, {})
    assert path_of(left).read_bytes() == before


def test_a_body_that_is_not_what_was_written_is_found_and_all_others_are_saved(left: Bench, time: Time) -> None:
    path = path_of(left)
    spoil_bodies(path, "id IN (SELECT body FROM message WHERE state = 0 ORDER BY seq LIMIT 2 OFFSET 5)")
    spoilt = path.read_bytes()
    assert checked(path).damaged == {"mail": 6}
    report, kept = repaired(path, time)
    assert report.damaged == {"mail": 6}
    assert kept.read_bytes() == spoilt
    assert checked(path).is_whole
    # the next life delivers what is whole, and its ledger is exact
    left.reopen(first=True)
    row = left.row()
    assert (row.accepted, row.handled, row.dead, row.dropped) == (3 * SEGMENTS, 1, 1, 6)
    assert row.waiting_and_in_flight == 3 * SEGMENTS - 8
    delivered = values(left.turns())
    assert len(set(delivered)) == len(delivered) == 3 * SEGMENTS - 8
    assert left.room()[0] == 3 * SEGMENTS - 7


@pytest.mark.parametrize("first", [12, 25, 40, 50])
def test_pages_full_of_anything_cost_what_lay_on_them_and_nothing_else(left: Bench, time: Time, first: int) -> None:
    path = path_of(left)
    pages = path.stat().st_size // 4_096
    assert pages > first + 2, "the damage is within the file"
    spoil_pages(path, range(first, first + 2))
    report, kept = repaired(path, time)
    assert not report.is_whole
    assert kept.exists()
    left.reopen(first=True)
    row, delivered = left.row(), values(left.turns())
    # what is said to be saved is delivered, each once, with its own payload; the books are exact
    assert len(delivered) == row.waiting_and_in_flight == report.waiting.get("mail", 0)
    assert len(delivered) >= 3 * SEGMENTS - 2 - 3 * 40
    assert all(value.startswith(tuple(f"{at}-" for at in range(SEGMENTS))) for value in delivered)
    assert len(set(delivered)) == len(delivered)
    assert row.accepted == row.handled + row.dead + row.expired + row.dropped + row.waiting_and_in_flight


def test_a_file_that_ends_in_the_middle_gives_what_is_before(left: Bench, time: Time) -> None:
    path = path_of(left)
    with path.open("r+b") as file:
        file.truncate(4_096 * (path.stat().st_size // 8_192))
    report, _ = repaired(path, time)
    assert not report.is_whole
    left.reopen(first=True)
    assert len(values(left.turns())) == report.waiting.get("mail", 0) > 0


def test_a_file_without_anything_readable_is_refused_and_left_as_it_was(left: Bench) -> None:
    path = path_of(left)
    spoil_pages(path, range(1, path.stat().st_size // 4_096))
    before = path.read_bytes()
    with pytest.raises(StoreError) as refused:
        Salvage(path)
    assert str(path) in str(refused.value)
    assert path.read_bytes() == before


def test_a_new_file_that_cannot_be_written_leaves_the_old_one(left: Bench, time: Time) -> None:
    path = path_of(left)
    before = path.read_bytes()
    in_the_way = path.with_name(path.name + ".repaired")
    in_the_way.mkdir()
    with pytest.raises(StoreError):
        repaired(path, time)
    assert path.read_bytes() == before
