"""What only a file can do: outlive its process, be refused, be full, fail, be damaged."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from time import monotonic

import apsw
import pytest

from tests.unit.outbox.boxes import START_US, Bench, Time, handled, values
from tests.unit.outbox.faults import Faults
from zerowait.errors import OutcomeUnknown, StoreError
from zerowait.message import Again, Bury, Change, Forget, Note, Settle, Verdict
from zerowait.outbox import database as database_module
from zerowait.outbox.database import VERSION, Database
from zerowait.outbox.letters import Letters
from zerowait.outbox.outbox import Outbox

Maker = Callable[..., Bench]


def path_of(bench: Bench) -> Path:
    assert bench.path is not None
    return bench.path


# Lives


def test_another_life_has_exact_numbers_and_offers_all_that_was_not_settled(on_disk: Maker, time: Time) -> None:
    bench = on_disk()
    bench.push(*range(10), headers={"a": "b"})
    (segment,) = bench.turn()
    bench.push("other", channel="other")
    bench.turn()
    bench.turn(
        handled(segment, 0, 3),
        Again("mail", segment.epoch, segment.first + 5, 2, time.now_us() + 5_000_000, b"\x80", segment.seq),
        Bury("mail", segment.epoch, segment.first + 7, 1, b"\x80", segment.seq),
        Note(2**64 - 3),
        Note(4),
        Forget(4),
    )
    before, room, epoch = bench.box.ledger.rows(), bench.room(), bench.box.epoch
    time.pass_(1)
    bench.reopen()
    assert bench.box.ledger.rows() == before
    assert bench.room() == room
    assert bench.box.epoch > epoch
    assert bench.box.noted == {2**64 - 3}
    got = bench.turns()
    assert {(s.channel, s.epoch, s.first): values([s]) for s in got} == {
        ("mail", epoch, 1): [3, 4, 6, 8, 9],
        ("other", epoch, 11): ["other"],
    }
    assert got[0].headers == {number: {"a": "b"} for number in range(1, 11)}
    time.pass_(4.1)
    (again,) = bench.turn()
    assert (values([again]), again.failures, again.first) == ([5], 2, 6)
    assert len(Letters(bench.box).page()) == 1


def test_the_epoch_rises_above_time_the_last_one_and_a_floor(on_disk: Maker, time: Time) -> None:
    bench = on_disk()
    assert bench.box.epoch == START_US // 1_000
    bench.push("kept")
    bench.reopen()
    assert bench.box.epoch == START_US // 1_000 + 1
    bench.reopen(floor_epoch=START_US)
    assert bench.box.epoch == START_US + 1
    bench.push("a")
    assert bench.box.raise_epoch(START_US + 50) == START_US + 51
    (segment, *_) = [s for s in bench.turns() if s.epoch == START_US + 51]
    assert (segment.first, values([segment])) == (1, ["a"])


def test_a_wall_clock_set_back_between_lives_counts_as_no_time_passed(on_disk: Maker, time: Time) -> None:
    bench = on_disk()
    bench.push("a", due=time.now_us() + 60_000_000)
    bench.turn()
    time.pass_(20)
    bench.push("b", channel="other")
    bench.turn()
    time.wall_us -= 86_400_000_000
    bench.reopen()
    assert bench.box.next_due() == 0.0  # what is ready
    bench.turns()
    assert bench.box.next_due() == pytest.approx(40, abs=0.1)
    time.pass_(40.2)
    assert values(bench.turn()) == ["a"]


def test_an_empty_outbox_is_removed_at_closing_and_its_lock_released(time: Time, tmp_path: Path) -> None:
    class Lock:
        released = 0

        def intact(self) -> bool:
            return True

        def restore(self) -> None:
            raise AssertionError

        def release(self) -> None:
            self.released += 1

    lock = Lock()
    path = tmp_path / "a.1.db"
    box = Outbox.open(path, "a", now_us=time.now_us, lock=lock)
    box.close()
    assert list(tmp_path.iterdir()) == []
    assert lock.released == 1
    with pytest.raises(StoreError):
        box.turn()
    bench = Bench(path, time)
    bench.push("a")
    bench.box.close()  # a close stores what was pushed
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.1.db"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_was_stored_before_a_kill_is_there_and_the_ledger_fits(tmp_path: Path) -> None:
    # given a process that pushes, settles and says what it knows to be stored, until it is killed
    script = dedent("""
        import sys, itertools
        from pathlib import Path
        from tests.unit.outbox.boxes import Bench, handled, values
        from time import time_ns
        class Real:
            def now_us(self): return time_ns() // 1000
        bench = Bench(Path(sys.argv[1]), Real())
        for n in itertools.count():
            bench.push(*range(n * 10, n * 10 + 10))
            segments = bench.turn()
            for s in segments:
                print("stored", *values([s]), flush=True)
                bench.turn(handled(s, 0, 4))
                print("handled", *values([s])[:4], flush=True)
    """)
    path = tmp_path / "killed.1.db"
    for turns in (40, 300):
        root = Path(__file__).parents[3]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "src")])}
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(turns)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        # the kill may have come in the middle of a line
        lines = [line.split() for line in said if line.endswith("\n")]
        stored = {int(n) for words in lines if words[0] == "stored" for n in words[1:]}
        done = {int(n) for words in lines if words[0] == "handled" for n in words[1:]}
        # then what it knew to be stored and not handled is here, and at most one turn more
        bench = Bench(path, Time())
        here = values(bench.turns())
        assert len(here) == len(set(here))
        assert stored - done <= set(here) | done
        assert len((stored - done) - set(here)) <= 4
        assert len(set(here) - stored) <= 10
        assert not done & set(here)
        row = bench.row()
        assert row.waiting_and_in_flight == len(here)
        assert row.accepted == row.handled + len(here)
        assert bench.room()[0] == len(here)
        out = list(bench.box._books.ahead.out.values())
        bench.turn(*(Settle("mail", row.epoch, row.first, row.count, Verdict.HANDLED, row.seq) for row in out))
        assert bench.box.is_empty()
        bench.box.close()


# Refusals


def refused(path: Path, time: Time) -> StoreError:
    before = path.read_bytes(), path.stat().st_mtime_ns, sorted(entry.name for entry in path.parent.iterdir())
    with pytest.raises(StoreError) as refusal:
        Outbox.open(path, "a", now_us=time.now_us)
    assert before == (path.read_bytes(), path.stat().st_mtime_ns, sorted(entry.name for entry in path.parent.iterdir()))
    assert str(path) in str(refusal.value)
    assert refusal.value.path == str(path)
    return refusal.value


def test_what_is_no_database_is_refused_and_left_as_it_was(time: Time, tmp_path: Path) -> None:
    path = tmp_path / "a.1.db"
    for content in (b"hello", b"x" * 5_000, b"SQLite format 3\0"):
        path.write_bytes(content)
        assert "not a database" in str(refused(path, time))


def test_a_database_of_another_program_is_refused_and_left_as_it_was(time: Time, tmp_path: Path) -> None:
    path = tmp_path / "a.1.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.execute("PRAGMA user_version = 1")
    other.close()
    assert "another program" in str(refused(path, time))


def test_an_outbox_of_another_version_is_refused_and_left_as_it_was(on_disk: Maker, time: Time) -> None:
    bench = on_disk()
    bench.push("a")
    bench.box.close()
    for version, word in ((VERSION + 1, "newer"), (VERSION - 1, "older")):
        connection = sqlite3.connect(path_of(bench))
        connection.execute("PRAGMA journal_mode = delete")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.close()
        assert word in str(refused(path_of(bench), time))


def test_a_file_that_may_not_be_read_is_refused(time: Time, tmp_path: Path) -> None:
    path = tmp_path / "a.1.db"
    path.mkdir()
    with pytest.raises(StoreError) as refusal:
        Outbox.open(path, "a", now_us=time.now_us)
    assert refusal.value.errno is not None


def test_an_outbox_half_made_by_a_process_that_was_killed_is_made_anew(time: Time, tmp_path: Path) -> None:
    path = tmp_path / "a.1.db"
    for leftover in ("a.1.db.new", "a.1.db.new-journal"):
        (tmp_path / leftover).write_bytes(b"half")
    bench = Bench(path, time)
    bench.push("a")
    bench.turn()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.1.db", "a.1.db-wal"]
    bench.box.close()


def test_an_outbox_in_a_folder_that_is_not_there_says_what_to_do(time: Time, tmp_path: Path) -> None:
    with pytest.raises(StoreError) as refusal:
        Outbox.open(tmp_path / "nowhere" / "a.1.db", "a", now_us=time.now_us)
    assert "ZEROWAIT_HOME" in str(refusal.value)


# Failing


@pytest.mark.parametrize("error", [apsw.FullError, apsw.IOError])
@pytest.mark.parametrize("what", [{"write"}, {"sync"}, {"write", "sync"}])
@pytest.mark.parametrize("done", [False, True])
def test_after_a_failing_disk_everything_is_there_once(
    faults: Faults, on_disk: Maker, time: Time, error: type[Exception], what: set[str], done: bool
) -> None:
    # given messages stored, in flight, and a disk that fails while more are pushed and settled
    bench = on_disk()
    bench.push(*range(10))
    (segment,) = bench.turn()
    faults.failing, faults.what, faults.done_all_the_same = error, what, done and what == {"sync"}
    sheaf, index = bench.push("while it failed")
    stored: list[str] = []
    sheaf.when_stored(index, lambda: stored.append("stored"))
    changes: list[Change] = [handled(segment, 0, 4), Bury("mail", segment.epoch, 5, 1, b"\x80", segment.seq), Note(7)]
    for attempt in range(3):
        with pytest.raises(StoreError) as failure:
            bench.box.turn(changes if attempt == 0 else ())
        assert failure.value.errno is not None
        assert stored == []
        with pytest.raises(StoreError):
            bench.push("refused", channel="new")
        row = bench.row()
        assert (row.accepted, row.handled, row.dead, row.waiting_and_in_flight) == (11, 0, 0, 11)
    assert faults.failures >= 3
    # when it works again
    faults.failing = None
    got = bench.turns()
    # then all is as if nothing had been, without another life; under a new epoch what is not settled is offered again
    again = [5, 6, 7, 8, 9] if bench.box.epoch > segment.epoch else []
    assert sorted(values(got), key=str) == [*again, "while it failed"]
    assert stored == ["stored"]
    assert sheaf.epoch in {each.epoch for each in got}
    row = bench.row()
    assert (row.accepted, row.handled, row.dead, row.waiting_and_in_flight) == (11, 4, 1, 6)
    if error is apsw.IOError:
        assert bench.box.epoch > segment.epoch
    bench.push("later")
    bench.turns()
    before, room = bench.box.ledger.rows(), bench.room()
    bench.reopen()
    assert bench.box.ledger.rows() == before
    assert bench.room() == room
    assert sorted(map(str, values(bench.turns()))) == sorted(map(str, [5, 6, 7, 8, 9, "while it failed", "later"]))
    assert bench.box.noted == {7}


@pytest.mark.parametrize("done", [False, True])
def test_what_is_due_later_is_not_forgotten_if_the_disk_fails_after_all_was_written(
    faults: Faults, on_disk: Maker, time: Time, done: bool
) -> None:
    """Where nothing else of its channel waited, nobody looked for what was due there once the file was open again."""
    bench = on_disk()
    faults.failing, faults.what, faults.done_all_the_same = apsw.IOError, {"sync"}, done
    bench.push("in a while", due=START_US + 5_000_000)
    with pytest.raises(StoreError):
        bench.box.turn()
    faults.failing = None
    assert values(bench.turns()) == []
    assert bench.box.next_due() == pytest.approx(5.0, abs=0.01)
    time.pass_(6)
    assert values(bench.turns()) == ["in a while"]


@pytest.mark.parametrize("done", [False, True])
def test_looking_after_dead_letters_on_a_failing_disk_leaves_the_ledger_exact(
    faults: Faults, on_disk: Maker, time: Time, done: bool
) -> None:
    bench = on_disk()
    bench.push(*range(4))
    (segment,) = bench.turn()
    bench.turn(*(Bury("mail", segment.epoch, segment.first + i, 1, b"\x80", segment.seq) for i in range(4)))
    first, second, *_ = (letter.id for letter in Letters(bench.box).page())
    for act, id in ((Letters(bench.box).retry, first), (Letters(bench.box).drop, second)):
        faults.failing, faults.what, faults.done_all_the_same = apsw.IOError, {"sync"}, done
        with pytest.raises(StoreError):
            act([id])
        faults.failing = None
        time.pass_(1)
        bench.turns()
        # it was done, or it is done now; the books agree with the file either way
        assert act([id]) in ([], [id])
    time.pass_(1)
    bench.turns()
    row = bench.row()
    assert (row.dead, row.dropped, row.waiting_and_in_flight, bench.room()[0]) == (2, 1, 1, 3)
    before, room = bench.box.ledger.rows(), bench.room()
    bench.reopen()
    assert (bench.box.ledger.rows(), bench.room()) == (before, room)


def test_a_file_that_stays_closed_is_told_to_who_waits_and_what_was_stored_is_safe(
    faults: Faults, on_disk: Maker, time: Time
) -> None:
    bench = on_disk(store_grace=0.0)
    bench.push("stored")
    bench.turn()
    faults.failing = apsw.IOError
    sheaf, index = bench.push("lost, perhaps")
    told: list[str] = []
    sheaf.when_settled(index, lambda: told.append("told"))
    for _ in range(2):
        with pytest.raises(StoreError):
            bench.turn()
    assert told == ["told"]
    assert isinstance(sheaf.error, OutcomeUnknown)
    assert sheaf.state(index) == "unknown"
    assert bench.row().waiting_and_in_flight == 1
    faults.failing = None
    assert values(bench.turns()) == ["stored"]  # offered again under the new epoch
    bench.push("after")
    assert values(bench.turns()) == ["after"]
    assert (bench.row().accepted, bench.room()[0]) == (2, 2)


def test_what_a_quota_refuses_waits_as_it_does_for_a_full_disk(
    faults: Faults, on_disk: Maker, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: a user who has used up his share of the disk, which SQLite takes for an I/O error
    bench = on_disk(store_grace=0.0)
    bench.push("stored")
    bench.turn()

    def used_up(_: Database) -> int:
        return errno.EDQUOT

    monkeypatch.setattr(Database, "errno", used_up)
    faults.failing = apsw.IOError
    sheaf, index = bench.push("held")
    # when that lasts
    for _ in range(3):
        with pytest.raises(StoreError, match="what this user may have on its disk is used up") as failure:
            bench.turn()
        assert failure.value.errno == errno.EDQUOT
    # then nobody is told that it is lost, and it is there when there is room
    assert sheaf.error is None
    faults.failing = None
    assert values(bench.turns()) == ["stored", "held"]
    assert sheaf.is_stored(index)


def test_a_file_that_was_removed_or_exchanged_under_us_is_not_written(
    faults: Faults, on_disk: Maker, time: Time
) -> None:
    bench, another = on_disk(), on_disk()
    for each in (bench, another):
        each.push("a")
        each.turn()
    another.box.close()
    faults.failing = apsw.IOError
    bench.push("b")
    with pytest.raises(StoreError):
        bench.turn()
    faults.failing = None
    path = path_of(bench)
    path.unlink()
    Path(f"{path}-wal").unlink(missing_ok=True)
    with pytest.raises(StoreError, match="is gone"):
        bench.turn()
    content = path_of(another).read_bytes()
    path.write_bytes(content)
    with pytest.raises(StoreError, match="another than the one"):
        bench.turn()


def test_a_disk_that_is_full_is_left_alone_until_there_is_room(tmp_path: Path) -> None:
    script = dedent("""
        import resource, sys
        from pathlib import Path
        from tests.unit.outbox.boxes import Bench, Time, values
        from zerowait.errors import StoreError
        bench = Bench(Path(sys.argv[1]), Time())
        bench.push("stored")
        assert values(bench.turn()) == ["stored"]
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
        bench.push("x" * 500_000)
        for _ in range(3):
            try:
                bench.turn()
            except StoreError as error:
                assert error.errno is not None, error
            else:
                raise AssertionError("written beyond the limit")
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert [len(v) for v in values(bench.turns())] == [6, 500_000]  # what was in hand is offered again
        assert bench.row().waiting_and_in_flight == 2
        print("fine")
    """)
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "src")])}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "full.1.db")], capture_output=True, text=True, env=environment
    )
    assert done.stdout == "fine\n", done.stderr


# Damage


def test_a_segment_whose_checksum_is_wrong_is_set_aside_and_the_rest_delivered(on_disk: Maker) -> None:
    bench = on_disk()
    for i in range(5):
        bench.push(*(f"{i}-{j}" for j in range(3)))
        bench.turn()
    bench.push("L" * 100_000)
    bench.turn()
    bench.box.close()
    connection = sqlite3.connect(path_of(bench))
    bodies = connection.execute("SELECT id, bytes FROM body ORDER BY id").fetchall()
    for at in (1, 5):
        id, body = bodies[at]
        connection.execute("UPDATE body SET bytes = ? WHERE id = ?", (body[:-1] + bytes([body[-1] ^ 1]), id))
    connection.execute("DELETE FROM body WHERE id = ?", (bodies[3][0],))
    connection.commit()
    connection.close()
    bench = Bench(path_of(bench), Time())
    assert values(bench.turns()) == [f"{i}-{j}" for i in (0, 2, 4) for j in range(3)]
    assert bench.box.set_aside == 7
    assert sum(notice.count for notice in bench.box.notices if notice.kind == "damaged") == 7
    row = bench.row()
    assert (row.accepted, row.dropped, row.waiting_and_in_flight) == (16, 7, 9)
    assert not bench.box.is_empty()
    bench.reopen()
    assert len(values(bench.turns())) == 9
    assert bench.box.set_aside == 0
    bench.box.close()


def test_a_damaged_page_does_not_stop_what_lies_elsewhere(on_disk: Maker) -> None:
    bench = on_disk()
    for i in range(400):
        bench.push(f"{i:04}" + "x" * 500)
        bench.turn()
    bench.box.close()
    path = path_of(bench)
    content = bytearray(path.read_bytes())
    at = content.index(b"0200xxxx")
    page = at // 4096 * 4096
    content[page : page + 4096] = bytes(4096)
    path.write_bytes(content)
    bench = Bench(path, Time())
    here = {int(value[:4]) for value in values(bench.turns())}
    assert len(here) >= 380
    assert 200 not in here
    assert bench.box.set_aside == 400 - len(here)
    assert bench.row().waiting_and_in_flight == len(here)
    bench.box.close()


# Room on disk


def test_the_log_is_shortened_and_free_pages_are_given_back_at_rest(on_disk: Maker) -> None:
    bench = on_disk()
    for _ in range(60):
        bench.push("x" * 250_000)
        bench.turn()
    assert bench.box._file.database.wal_pages > database_module.WAL_IDLE_PAGES  # type: ignore[union-attr]
    while bench.box.rest():
        pass
    grown = path_of(bench).stat().st_size
    assert grown > 60 * 250_000
    bench.turn(*(handled(segment) for segment in bench.segments))
    while bench.box.rest():
        pass
    bench.box.rest()
    bench.box._file.database.checkpoint(truncate=True)  # type: ignore[union-attr]
    assert path_of(bench).stat().st_size < 6 * 1024 * 1024


@pytest.mark.long
def test_a_backlog_lies_on_disk_and_not_in_memory(on_disk: Maker, time: Time) -> None:
    bench = on_disk(messages=10**7, nbytes=1 << 36)
    lane = bench.lane()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for turn in range(100):
        for i in range(2_000):
            lane.append(b"\xce" + (turn * 2_000 + i).to_bytes(4, "big"))
            bench.intake.closing.append(lane.slot.pop())  # a row for each
        bench.turn(drawn=False)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"\n200,000 rows on disk: {grown / 1024:.0f} MB more at most, {len(bench.box._books.ahead.out):,} rows out")
    assert grown < 60 * 1024
    # another life begins with as little, and reads all of them in order
    bench.reopen()
    began = monotonic()
    got = values(bench.box.turn())
    print(f"reading the first {len(got):,} rows of one message: {(monotonic() - began) / len(got) * 1e6:.1f} us each")
    while len(got) < 200_000:
        segments = bench.box.turn([handled(s) for s in bench.segments], {"mail": 5 * 10**6})
        assert segments
        got += values(segments)
        bench.segments = segments
    assert got == list(range(200_000))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 80 * 1024


def test_the_types_of_what_was_pushed_are_kept_for_who_opens_the_file_next(on_disk: Maker) -> None:
    bench = on_disk()
    bench.push("untold")
    bench.turns()
    assert not bench.box.ledger.types
    bench.box.ledger.declared = {"mail": b"\x91\xc4\x01a", "other": b"?"}
    bench.push("told")
    bench.turns()
    assert bench.box.ledger.types == {"mail": b"\x91\xc4\x01a"}
    bench.box.ledger.declared = {"mail": b"\x91\xc4\x01b"}
    bench.reopen()
    assert bench.box.ledger.types == {"mail": b"\x91\xc4\x01a"}, "nothing was pushed under the new one"


@pytest.mark.parametrize("arrives", [False, True])
def test_types_of_a_transaction_that_fails_are_written_with_the_next(
    on_disk: Maker, faults: Faults, arrives: bool
) -> None:
    bench = on_disk()
    bench.box.ledger.declared = {"mail": b"\x91\xc4\x01a"}
    bench.push("a")
    faults.failing, faults.done_all_the_same, faults.what = apsw.IOError, arrives, {"sync"}
    with pytest.raises(StoreError):
        bench.box.turn()
    assert not bench.box.ledger.types
    faults.failing = None
    bench.turns()
    assert bench.box.ledger.types == {"mail": b"\x91\xc4\x01a"}
    bench.reopen()
    assert bench.box.ledger.types == {"mail": b"\x91\xc4\x01a"}


def test_to_make_an_outbox_takes_no_lock_that_a_fork_could_find_held(
    on_disk: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A child that was forked while the store thread read a file of the package, or had SQLite make the tables for the
    # first time, waited for that thread, which it has not, for ever.
    def refuse(*_: object) -> None:
        raise AssertionError("read, or made, at the import")

    monkeypatch.setattr(database_module, "files", refuse)
    monkeypatch.setattr(database_module, "_made_blank", refuse)
    bench = on_disk()
    bench.push("a")
    assert values(bench.turn()) == ["a"]
