"""Files that are removed or exchanged under an open outbox."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import apsw
import pytest

from tests.unit.outbox.boxes import Bench, Time, values
from tests.unit.outbox.conftest import Maker
from tests.unit.outbox.faults import Faults
from zerowait.errors import StoreError
from zerowait.outbox import place as place_module
from zerowait.outbox.place import Standing


@pytest.fixture(autouse=True)
def _looks_at_each_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place_module, "LOOK", 0.0)


def path_of(bench: Bench) -> Path:
    assert bench.box.path is not None
    return bench.box.path


def told(bench: Bench) -> list[str]:
    kinds = [notice.kind for notice in bench.box.notices]
    bench.box.notices.clear()
    return kinds


REMOVALS = [("",), ("", "-wal"), ("-wal",)]


@pytest.mark.parametrize("ends", REMOVALS, ids=["the file", "the file and its log", "the log"])
def test_what_was_removed_is_written_anew_with_all_that_was_in_it(on_disk: Maker, ends: tuple[str, ...]) -> None:
    bench = on_disk()
    bench.push("a", "b")
    bench.push("c", channel="other")
    bench.turn()
    epoch, id = bench.box.epoch, bench.box.id
    for end in ends:
        Path(f"{path_of(bench)}{end}").unlink()
    bench.push("d")  # accepted before anybody noticed
    assert bench.box.is_displaced()
    assert sorted(values(bench.turns())) == ["a", "b", "c", "d"]  # offered again, under an epoch of its own
    assert told(bench) == ["failed", "mended"]
    assert not bench.box.is_displaced()
    assert (bench.box.epoch > epoch, bench.box.id) == (True, id)
    assert (bench.row().accepted, bench.row("other").accepted) == (3, 1)
    assert oct(path_of(bench).stat().st_mode & 0o777) == "0o600"
    bench.reopen()
    assert sorted(values(bench.turns())) == ["a", "b", "c", "d"]


def test_what_is_removed_between_the_last_turn_and_closing_is_there_for_the_next_life(on_disk: Maker) -> None:
    bench = on_disk()
    bench.push("a")
    bench.turn()
    bench.push("b")
    path_of(bench).unlink()
    bench.reopen()
    assert values(bench.turns()) == ["a", "b"]


def test_an_empty_outbox_that_was_removed_leaves_nothing_at_closing(on_disk: Maker) -> None:
    bench = on_disk()
    path_of(bench).unlink()
    bench.box.close()
    assert list(path_of(bench).parent.iterdir()) == []


def test_while_its_folder_is_gone_everything_is_kept_and_verbs_say_so_and_then_it_goes_on(
    on_disk: Maker, time: Time, tmp_path: Path
) -> None:
    folder = tmp_path / "outbox"
    folder.mkdir()
    bench = Bench(folder / "tester.0000000000000001.db", time)
    bench.push("a")
    bench.turn()
    shutil.rmtree(folder)
    bench.push("b")
    for _ in range(2):
        with pytest.raises(StoreError, match="do not end it") as raised:
            bench.turn()
        assert raised.value.path == str(path_of(bench))
        with pytest.raises(StoreError):
            bench.push("refused")
    assert told(bench) == ["failed"]
    folder.mkdir()
    assert values(bench.turns()) == ["a", "b"]
    assert told(bench) == ["failed", "mended"]
    bench.push("c")
    bench.reopen()
    assert values(bench.turns()) == ["a", "b", "c"]
    bench.box.close()


def test_a_disk_that_fails_while_it_is_written_anew_loses_nothing(on_disk: Maker, faults: Faults) -> None:
    bench = on_disk()
    bench.push("a")
    bench.turn()
    path_of(bench).unlink()
    for error in (apsw.FullError, apsw.IOError):
        faults.failing = error
        with pytest.raises(StoreError):
            bench.turn()
        assert not path_of(bench).exists()
    faults.failing = None
    assert values(bench.turns()) == ["a"]


def test_another_file_in_its_place_is_not_touched_and_once_it_is_moved_away_all_goes_on(
    on_disk: Maker, tmp_path: Path
) -> None:
    bench, another = on_disk(), on_disk()
    another.push("theirs")
    another.box.close()
    bench.push("a")
    bench.turn()
    content = path_of(another).read_bytes()
    os.replace(path_of(another), path_of(bench))
    bench.push("b")
    with pytest.raises(StoreError, match="Move that file away"):
        bench.turn()
    with pytest.raises(StoreError):
        bench.push("refused")
    assert path_of(bench).read_bytes() == content
    path_of(bench).rename(tmp_path / "away")
    assert values(bench.turns()) == ["a", "b"]


def test_who_must_end_while_another_file_is_in_its_place_saves_what_it_held_beside_it(
    on_disk: Maker, time: Time
) -> None:
    bench, another = on_disk(), on_disk()
    another.push("theirs")
    another.box.close()
    bench.push("a")
    bench.turn()
    content = path_of(another).read_bytes()
    os.replace(path_of(another), path_of(bench))
    bench.box.close()
    assert path_of(bench).read_bytes() == content
    saved = path_of(bench).with_name(path_of(bench).name + ".saved1")
    assert str(saved) in bench.box.notices[-1].text
    os.replace(saved, path_of(bench))  # as it says
    bench.reopen(first=True)
    assert values(bench.turns()) == ["a"]


def test_a_lock_file_that_was_removed_is_taken_again_before_anything_is_written(on_disk: Maker) -> None:
    class Removed:
        taken = 0

        def release(self) -> None: ...
        def intact(self) -> bool:
            return self.taken > 1

        def restore(self) -> None:
            self.taken += 1
            if self.taken == 1:
                raise StoreError("another has it", path="x")

    bench = on_disk()
    bench.box._file._lock = Removed()
    bench.push("a")
    with pytest.raises(StoreError, match="another has it"):
        bench.turn()
    assert values(bench.turns()) == ["a"]


def test_it_is_looked_at_once_a_second_and_not_at_each_turn(on_disk: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(place_module, "LOOK", 1.0)
    monkeypatch.setattr(place_module, "monotonic", lambda: now)
    bench = on_disk()
    looks: list[Standing] = []
    assert bench.box._file._place is not None
    look = bench.box._file._place.look

    def counted() -> Standing:
        looks.append(look())
        return looks[-1]

    monkeypatch.setattr(bench.box._file._place, "look", counted)
    for _ in range(3):
        for number in range(20):
            bench.push(number)
            bench.turn()
        now += 1.0
    assert looks == [Standing.THERE] * 2
