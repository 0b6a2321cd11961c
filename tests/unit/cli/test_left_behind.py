"""Outboxes that no process owns: the command line opens them itself, under their lock."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import msgspec
import pytest

from tests.unit.cli.conftest import Zerowait
from zerowait import Client, Settings
from zerowait.engines.brokerless.directory import Directory
from zerowait.message import Bury
from zerowait.outbox.outbox import Outbox

Directories = Callable[[], Directory]


@pytest.fixture
def directory(settings: Settings) -> Directory:
    return Directory(settings.home_folder(), settings.namespace)


@pytest.fixture
def dead(settings: Settings, directory: Directory) -> str:
    """Two messages are left behind, and the first of them is a dead letter; its id."""
    client = Client("counter", settings=settings)
    with client:
        first, _ = client.push("numbers", {"n": 0}).result(5), client.push("numbers", {"n": 1}).result(5)
        client.close(0).result(5)
    bury(directory, 1)
    return first.id


def bury(directory: Directory, number: int) -> None:
    [file] = directory.outboxes("counter")
    lock = directory.lock_outbox(file.path)
    assert lock is not None
    box = Outbox.open(file.path, file.name, now_us=lambda: time.time_ns() // 1_000, lock=lock)
    note = {"reason": "division by zero", "rule": "attempts", "type": "ZeroDivisionError", "worker": "printer"}
    for segment in box.turn():
        if segment.first <= number < segment.first + segment.count:
            box.turn([Bury("numbers", segment.epoch, number, 10, msgspec.msgpack.encode(note), segment.seq)])
    box.close()


def listed(zerowait: Zerowait) -> list[str]:
    return [json.loads(line)["id"] for line in zerowait("dead", "list", "--json").out.splitlines()]


def channels(zerowait: Zerowait) -> dict[str, int]:
    [box] = json.loads(zerowait("status", "--json").out)["outboxes_without_process"]
    [ledger] = box["channels"]
    return {name: count for name, count in ledger.items() if isinstance(count, int) and count}


def test_their_ledger_is_shown(zerowait: Zerowait, dead: str) -> None:
    assert channels(zerowait) == {"accepted": 2, "dead": 1, "waiting": 1}
    assert "counter (no process)" in zerowait("status").out


def test_their_dead_letters_are_listed_and_shown(zerowait: Zerowait, dead: str) -> None:
    assert listed(zerowait) == [dead]
    told = json.loads(zerowait("dead", "show", dead, "--json").out)
    assert told["payload"] == {"n": 0}
    assert (told["reason"], told["type"], told["attempts"]) == ("division by zero", "ZeroDivisionError", 10)


def test_a_dead_letter_given_back_waits_again(zerowait: Zerowait, dead: str) -> None:
    assert zerowait("dead", "retry", dead).code == 0
    assert listed(zerowait) == []
    assert channels(zerowait) == {"accepted": 2, "waiting": 2}


def test_a_dead_letter_dropped_is_counted(zerowait: Zerowait, dead: str) -> None:
    assert zerowait("dead", "drop", "--channel", "numbers", "--yes").code == 0
    assert listed(zerowait) == []
    assert channels(zerowait) == {"accepted": 2, "dropped": 1, "waiting": 1}


def test_looking_leaves_the_file_to_others(zerowait: Zerowait, dead: str, directory: Directory) -> None:
    zerowait("status")
    [file] = directory.outboxes("counter")
    assert not file.owned


def test_a_file_that_somebody_has_open_is_not_opened(zerowait: Zerowait, dead: str, directory: Directory) -> None:
    [file] = directory.outboxes("counter")
    lock = directory.lock_outbox(file.path)
    assert lock is not None
    with lock:
        assert listed(zerowait) == []
        assert zerowait("dead", "retry", dead).code == 1


def test_a_foreign_file_is_named_and_left_as_it_was(zerowait: Zerowait, dead: str, directory: Directory) -> None:
    [file] = directory.outboxes("counter")
    foreign = file.path.with_name("counter.00000000000000aa.db")
    foreign.write_bytes(b"no database at all, but long enough to look at" * 100)
    before = foreign.read_bytes()
    ran = zerowait("status")
    assert ran.code == 4
    assert str(foreign) in ran.err
    assert "numbers" in ran.out
    assert foreign.read_bytes() == before
