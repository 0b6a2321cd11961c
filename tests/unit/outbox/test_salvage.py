"""Damaged files: what is whole in them is found, and saved."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from tests.unit.outbox.boxes import Bench, Time, handled, values
from tests.unit.outbox.test_claims import prepared
from zerowait.errors import StoreError
from zerowait.message import Bury, Choose, Keep, Release, Verdict
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


def spoil(path: Path, sql: str) -> None:
    """A value that no outbox has written, in a file that SQLite finds whole."""
    connection = apsw.Connection(str(path))
    connection.execute(sql)  # pyright: ignore[reportUnknownMemberType]
    connection.close()


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


ROW = "(SELECT seq FROM message WHERE state = 0 ORDER BY seq LIMIT 1 OFFSET 5)"
NO_TEXT = "CAST(x'eb80ff' AS TEXT)"


@pytest.mark.parametrize(
    "column",
    [
        "gone = x'0102030405'",
        "gone = x'01020304'",
        "gone = 'abcdefgh'",
        f"gone = {NO_TEXT}",
        "headers = x'c1'",
        "headers = 'text'",
        "headers = x'8101a1ff'",
        f"note = {NO_TEXT}",
        "note = 'text'",
        "epoch = -5",
        "epoch = 'text'",
        f"epoch = {NO_TEXT}",
        "first = 1.5",
        "first = -1",
        "count = 0",
        "count = 'three'",
        "channel = 99",
        "channel = x'01'",
        "priority = 7",
        "state = 77",
        "state = 'dead'",
        "attempt = 'often'",
        "accepted_at = 9223372036854775807",
        "due = 'soon'",
        "body = 'mine'",
        "body = (SELECT max(body) FROM message WHERE state = 0)",
    ],
)
def test_a_row_with_a_value_that_none_has_is_given_up_alone(left: Bench, time: Time, column: str) -> None:
    path = path_of(left)
    spoil(path, f"UPDATE message SET {column} WHERE seq = {ROW}")
    gave_up = repaired(path, time)[0]
    assert (gave_up.lost, gave_up.is_whole) == ({"mail": 3}, False)
    assert checked(path).is_whole
    left.reopen(first=True)
    row, delivered = left.row(), values(left.turns())
    assert len(set(delivered)) == len(delivered) == row.waiting_and_in_flight == 3 * SEGMENTS - 5
    assert row.dropped == 3


@pytest.mark.parametrize(
    "column", ["lengths = 'q'", f"lengths = {NO_TEXT}", "bytes = 5", f"bytes = {NO_TEXT}", "crc = 'sum'"]
)
def test_a_body_with_a_value_that_none_has_is_given_up_alone(left: Bench, time: Time, column: str) -> None:
    path = path_of(left)
    spoil(path, f"UPDATE body SET {column} WHERE id = (SELECT body FROM message WHERE seq = {ROW})")
    gave_up = repaired(path, time)[0]
    assert (gave_up.damaged, gave_up.lost) == ({"mail": 3}, {"mail": 3})
    left.reopen(first=True)
    assert len(values(left.turns())) == 3 * SEGMENTS - 5


@pytest.mark.parametrize("value", [NO_TEXT, "x'6d61696c'"])
def test_a_channel_whose_name_is_no_text_is_given_up_alone(left: Bench, time: Time, value: str) -> None:
    path = path_of(left)
    left.reopen(first=True)
    left.push("kept", channel="other")
    left.turn()
    left.box.close()
    spoil(path, f"UPDATE ledger SET name = {value} WHERE name = 'mail'")
    gave_up = repaired(path, time)[0]
    assert list(gave_up.lost.values()) == [3 * SEGMENTS - 1]
    assert gave_up.waiting == {"other": 1}
    left.reopen(first=True)
    assert values(left.turns()) == ["kept"]


@pytest.mark.parametrize("column", ["accepted = 'many'", "handled = x'00'", f"dead = {NO_TEXT}", f"types = {NO_TEXT}"])
def test_a_number_of_the_ledger_that_is_none_costs_no_message(left: Bench, time: Time, column: str) -> None:
    path = path_of(left)
    spoil(path, f"UPDATE ledger SET {column}")
    repaired(path, time)
    left.reopen(first=True)
    row, delivered = left.row(), values(left.turns())
    assert len(delivered) == row.waiting_and_in_flight == 3 * SEGMENTS - 2
    assert row.accepted == row.handled + row.dead + row.expired + row.dropped + row.waiting_and_in_flight


@pytest.mark.parametrize(
    "sql",
    [
        f"UPDATE box SET name = {NO_TEXT}",
        "UPDATE box SET epoch = 'text'",
        "UPDATE box SET id = 'text'",
        f"INSERT INTO noted VALUES (1, {NO_TEXT})",
        "INSERT INTO noted VALUES (1, 'text')",
        "INSERT INTO known VALUES ('text', x'00', 'text', 1, 1, 'text', NULL)",
    ],
)
def test_what_stands_beside_the_messages_costs_none(left: Bench, time: Time, sql: str) -> None:
    path = path_of(left)
    spoil(path, sql)
    checked(path)
    repaired(path, time)
    left.reopen(first=True)
    assert len(values(left.turns())) == 3 * SEGMENTS - 2


@pytest.mark.parametrize("with_log", [True, False])
def test_a_new_file_that_cannot_take_the_name_leaves_the_old_one_with_its_log(
    left: Bench, time: Time, monkeypatch: pytest.MonkeyPatch, with_log: bool
) -> None:
    path, real = path_of(left), Path.replace
    log = Path(f"{path}-wal")
    salvage = Salvage(path)

    def refuse(self: Path, target: Path) -> Path:
        if target == path:
            raise OSError(5, "I/O error")
        return real(self, target)

    def no_checkpoint(**how: bool) -> None:
        log.write_bytes(b"what is not in the file yet")
        raise apsw.IOError("no")

    monkeypatch.setattr(Path, "replace", refuse)
    if with_log:
        monkeypatch.setattr(salvage._database, "checkpoint", no_checkpoint)
    before = path.read_bytes()
    with pytest.raises(StoreError):
        salvage.rewrite(7, "tester", time.now_us())
    assert path.read_bytes() == before
    if with_log:
        assert log.read_bytes() == b"what is not in the file yet"
    assert [each.name for each in path.parent.iterdir() if "damaged" in each.name or "repaired" in each.name] == []
    salvage.close()


def test_a_copy_that_was_left_by_one_who_was_killed_goes_with_the_next_look(left: Bench) -> None:
    path = path_of(left)
    leftovers = [path.with_name(f"{path.name}.lengthened{end}") for end in ("", "-wal", "-shm")]
    for each in leftovers:
        each.write_bytes(b"left")
    assert checked(path).is_whole
    assert not any(each.exists() for each in leftovers)


def test_a_file_that_cannot_be_opened_is_left_and_not_sent_back_to_repair(left: Bench) -> None:
    path = path_of(left)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 3_900)
    before = path.read_bytes()
    with pytest.raises(StoreError) as refused:
        Salvage(path)
    assert ".recover" in str(refused.value)
    assert "outbox repair" not in str(refused.value)
    assert path.read_bytes() == before


def test_a_new_file_that_cannot_be_written_leaves_the_old_one(left: Bench, time: Time) -> None:
    path = path_of(left)
    before = path.read_bytes()
    in_the_way = path.with_name(path.name + ".repaired")
    in_the_way.mkdir()
    with pytest.raises(StoreError):
        repaired(path, time)
    assert path.read_bytes() == before


def test_outputs_that_wait_for_their_choice_and_what_was_chosen_are_saved(on_disk: Maker, time: Time) -> None:
    bench = on_disk()
    bench.push("chosen", "waits")
    (segment,) = bench.turn()
    bench.turn(
        Keep(0xF00D, 3, 1, 2, 3, 1, Verdict.HANDLED, prepared=[prepared((1, "a"), (2, "b"))]),
        Choose("mail", segment.epoch, segment.first, 1, 0xAAAA, segment.seq),
    )
    bench.box.close()
    report, _ = repaired(path_of(bench), time)
    assert report.is_whole
    bench.reopen(first=True)
    assert (bench.box.prepared(), bench.box.stubs()) == (2, 1)
    assert bench.row().handled == 1
    segments = bench.turn(Release(0xF00D, 3, 1, 2, 3, 1))
    segments += bench.turns()
    assert sorted(values(segments)) == ["a", "b", "waits"]
