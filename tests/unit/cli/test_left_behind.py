"""Outboxes that no process owns: the command line opens them itself, under their lock."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import msgspec
import pytest
from msgspec import structs

from tests.unit.cli.conftest import Zerowait
from tests.waiting import wait_until
from zerowait import Client, Settings
from zerowait.cli import delivering
from zerowait.cli import reach as reaching
from zerowait.cli.reach import Found, Place, Reach
from zerowait.engines.brokerless.directory import Directory
from zerowait.engines.brokerless.shelf import OutboxLock
from zerowait.message import Bury
from zerowait.outbox.letters import Letters
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


def test_what_lies_in_an_outbox_that_somebody_looks_into_is_found_all_the_same(
    zerowait: Zerowait, directory: Directory, dead: str
) -> None:
    [file] = directory.outboxes("counter")
    lock = directory.lock_outbox(file.path)
    assert lock is not None
    looking = threading.Timer(0.1, lock.release)
    looking.start()
    assert listed(zerowait) == [dead]
    looking.join()


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


def test_one_that_was_given_back_and_died_again_says_so(zerowait: Zerowait, dead: str, directory: Directory) -> None:
    zerowait("dead", "retry", dead)
    bury(directory, 1)
    [told] = [json.loads(line) for line in zerowait("dead", "list", "--json").out.splitlines()]
    assert (told["attempts"], told["retried"]) == (10, 1)
    assert "10 +1 retried" in zerowait("dead", "list").out
    assert "1 time before" in zerowait("dead", "show", dead).out


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (["--error", "ZeroDivision"], True),
        (["--error", "division by zero"], True),
        (["--error", "KeyError"], False),
        (["--error", "reason"], False),  # what a part of it is called,
        (["--error", "printer"], False),  # or who said so, is no error
        (["--text", "n"], True),
        (["--text", "absent"], False),
        (["--newer", "1h"], True),
        (["--older", "1h"], False),
        (["--older", "0s"], True),
        (["--channel", "numbers", "--error", "attempts", "--newer", "2d"], True),
        (["--channel", "others", "--error", "attempts"], False),
    ],
)
def test_letters_are_chosen_by_all_that_is_said(zerowait: Zerowait, dead: str, said: list[str], found: bool) -> None:
    lines = zerowait("dead", "list", "--json", *said).out.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ([dead] if found else [])
    ran = zerowait("dead", "drop", "--yes", *said)
    assert ran.code == 0
    assert channels(zerowait).get("dropped", 0) == int(found)


def test_a_time_that_is_none_is_refused_with_how_to_write_it(zerowait: Zerowait, dead: str) -> None:
    ran = zerowait("dead", "list", "--older", "soon")
    assert ran.code == 2
    assert "write 90s, 15m, 2h or 3d" in ran.err


def test_a_letter_with_another_payload_waits_with_it(zerowait: Zerowait, dead: str) -> None:
    edited = zerowait("dead", "edit", dead, '{"n": 5}')
    assert edited.code == 0
    assert f"zerowait dead retry {dead}" in edited.err
    assert listed(zerowait) == [dead]
    assert json.loads(zerowait("dead", "show", dead, "--json").out)["payload"] == {"n": 5}
    assert zerowait("dead", "edit", dead, '{"n": 6}', "--retry").code == 0
    assert channels(zerowait) == {"accepted": 2, "waiting": 2}


def test_what_is_no_json_changes_no_letter(zerowait: Zerowait, dead: str) -> None:
    ran = zerowait("dead", "edit", dead, "{n: 5}")
    assert ran.code == 2
    assert "nothing was changed" in ran.err
    assert json.loads(zerowait("dead", "show", dead, "--json").out)["payload"] == {"n": 0}
    assert zerowait("dead", "edit", dead, '{"n": 0}').code == 0
    assert zerowait("dead", "edit", dead[:-1] + "9", '{"n": 0}').code == 1


def test_a_number_that_no_message_carries_changes_no_letter(zerowait: Zerowait, dead: str) -> None:
    ran = zerowait("dead", "edit", dead, "99999999999999999999999")
    assert ran.code == 2
    assert "more than 64 bits" in ran.err
    assert "Traceback" not in ran.err
    assert json.loads(zerowait("dead", "show", dead, "--json").out)["payload"] == {"n": 0}


def test_a_payload_that_is_too_large_is_refused_for_that_alone(zerowait: Zerowait, dead: str) -> None:
    ran = zerowait("dead", "edit", dead, json.dumps("x" * 17_000_000))
    assert ran.code == 1
    assert "allowed" in ran.err
    assert "no answer" not in ran.err
    assert "not there" not in ran.err
    assert json.loads(zerowait("dead", "show", dead, "--json").out)["payload"] == {"n": 0}


def test_the_first_or_last_characters_of_an_id_stand_for_it(zerowait: Zerowait, dead: str) -> None:
    for part in (dead[:4], dead[:17], dead.rpartition("-")[0], dead[-4:], dead.partition("-")[2]):
        assert json.loads(zerowait("dead", "show", part, "--json").out)["id"] == dead
    assert zerowait("dead", "edit", dead[:6], '{"n": 5}').code == 0
    short = zerowait("dead", "show", dead[:3])
    assert short.code == 1
    assert "at least 4 characters" in short.err
    assert zerowait("dead", "retry", dead[:4], dead).code == 0
    assert listed(zerowait) == []
    assert channels(zerowait) == {"accepted": 2, "waiting": 2}


@pytest.mark.parametrize("verb", ["show", "edit", "retry", "drop"])
def test_an_id_of_which_too_little_is_said_does_nothing_and_names_those_that_it_may_be(
    zerowait: Zerowait, dead: str, directory: Directory, verb: str
) -> None:
    bury(directory, 2)
    other = dead[:-1] + "2"
    payload = ['{"n": 9}'] if verb == "edit" else []
    ran = zerowait("dead", verb, dead[:5], *payload)
    assert ran.code == 2
    assert ran.err.startswith(f"error: {dead[:5]} stands in the IDs of several dead letters:\n")
    assert all(f"  {id}  numbers" in ran.err for id in (dead, other))
    assert listed(zerowait) == [dead, other]
    # one of them whole is that one, though the others begin with it
    assert json.loads(zerowait("dead", "show", other, "--json").out)["payload"] == {"n": 1}


def test_a_whole_id_does_not_stand_for_a_longer_one(
    zerowait: Zerowait, settings: Settings, directory: Directory
) -> None:
    with Client("counter", settings=settings) as client:
        first = client.push("numbers", 0).result(5)
        client.push_all("numbers", list(range(1, 12))).result(5)
        client.close(0).result(5)
    bury(directory, 12)
    [other] = listed(zerowait)
    assert other == f"{first.id}2"
    ran = zerowait("dead", "drop", first.id, "--yes")
    assert ran.code == 1
    assert f"not found: {first.id}\n" in ran.err
    assert listed(zerowait) == [other]


def test_a_payload_that_a_process_refuses_is_refused_without_asking_it_again(
    zerowait: Zerowait, dead: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who leaves says no, too, for a moment: so a refusal was asked for again, for three seconds."""
    monkeypatch.setattr(reaching, "TAKEN_OVER_S", 60.0)
    with Client("counter", settings=structs.replace(settings, message_bytes=4_096)) as counter:
        wait_until(lambda: any(box.durable for box in counter.status().boxes), within=10)
        began = time.monotonic()
        ran = zerowait("dead", "edit", dead, json.dumps("x" * 5_000))
        assert time.monotonic() - began < 30
    assert ran.code == 1
    assert "allowed" in ran.err


def test_what_is_no_json_is_refused_before_anybody_is_asked(
    zerowait: Zerowait, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def letter(_: Reach, id: str) -> None:
        asked.append(id)

    monkeypatch.setattr(Reach, "letter", letter)
    ran = zerowait("dead", "edit", "x-1", "{n: 5}")
    assert ran.code == 2
    assert "That is no JSON" in ran.err
    assert not asked


@pytest.mark.parametrize("option", ["--error", "--text", "--channel"])
def test_bytes_that_are_no_text_are_refused(zerowait: Zerowait, dead: str, option: str) -> None:
    ran = zerowait("dead", "list", option, "a\udcff")
    assert ran.code == 2
    assert "is not UTF-8" in ran.err
    assert option in ran.err


def test_a_dead_letter_dropped_is_counted(zerowait: Zerowait, dead: str) -> None:
    assert zerowait("dead", "drop", "--channel", "numbers", "--yes").code == 0
    assert listed(zerowait) == []
    assert channels(zerowait) == {"accepted": 2, "dropped": 1, "waiting": 1}


def spoil(directory: Directory) -> None:
    """One of the bodies is not what was written."""
    import apsw

    [file] = directory.outboxes("counter")
    connection = apsw.Connection(str(file.path))
    spoiling = "UPDATE body SET bytes = zeroblob(length(bytes)) WHERE id = (SELECT max(id) FROM body)"
    connection.execute(spoiling)  # pyright: ignore[reportUnknownMemberType]
    connection.close()


def test_a_whole_outbox_is_checked_and_has_nothing_to_repair(zerowait: Zerowait, dead: str) -> None:
    ran = zerowait("outbox", "check")
    assert ran.code == 0
    assert "whole" in ran.out
    ran = zerowait("outbox", "repair", "counter")
    assert (ran.code, "Nothing is damaged" in ran.err) == (0, True)


def test_a_damaged_outbox_is_found_and_repaired(zerowait: Zerowait, dead: str, directory: Directory) -> None:
    spoil(directory)
    checked = zerowait("outbox", "check", "counter", "--json")
    assert checked.code == 1
    [report] = [json.loads(line) for line in checked.out.splitlines()]
    assert (report["whole"], sum(report["damaged"].values())) == (False, 1)
    assert "zerowait outbox repair counter" in checked.err
    # nothing is given up unasked
    assert zerowait("outbox", "repair", "counter").code == 2
    repaired = zerowait("outbox", "repair", "counter", "--yes")
    assert repaired.code == 0
    assert ".damaged-" in repaired.err
    assert zerowait("outbox", "check").code == 0
    counts = channels(zerowait)
    assert (counts["accepted"], counts["dropped"]) == (2, 1)
    # and it is an outbox like any other
    assert [file.owned for file in directory.outboxes("counter")] == [False]
    assert zerowait("outbox", "drop", "counter", "--channel", "numbers", "--yes").code == 0


def test_what_is_given_up_is_counted_in_messages_however_few_rows_they_were_in(
    zerowait: Zerowait, settings: Settings, directory: Directory
) -> None:
    import apsw

    with Client("counter", settings=settings) as client:
        receipts = [client.push("numbers", {"n": n}) for n in range(40)]
        for receipt in receipts:
            receipt.result(5)
        client.close(0).result(5)
    [file] = directory.outboxes("counter")
    connection = apsw.Connection(str(file.path))
    [(rows,)] = connection.execute("SELECT count(*) FROM message")  # pyright: ignore[reportUnknownMemberType]
    connection.execute("UPDATE message SET gone = x'01'")  # pyright: ignore[reportUnknownMemberType]
    connection.close()
    assert rows < 40
    refused = zerowait("outbox", "repair", "counter")
    assert refused.code == 2
    assert "Save 0 messages of counter, and give up 40 that cannot be read?" in refused.err
    assert zerowait("outbox", "repair", "counter", "--yes").code == 0
    assert channels(zerowait) == {"accepted": 40, "dropped": 40}


def test_a_file_that_cannot_be_opened_is_neither_whole_nor_sent_round_in_circles(
    zerowait: Zerowait, dead: str, directory: Directory
) -> None:
    [file] = directory.outboxes("counter")
    with file.path.open("r+b") as broken:
        broken.seek(100)
        broken.write(b"\xff" * 3_900)
    before = file.path.read_bytes()
    ran = zerowait("outbox", "repair", "counter", "--yes")
    assert ran.code == 3
    assert "sqlite3 COPY .recover" in ran.err
    assert "left as it was" in ran.err
    assert "zerowait outbox repair" not in ran.err
    assert "Nothing is damaged" not in ran.err
    assert file.path.read_bytes() == before


def test_what_repair_does_not_cover_is_in_its_help(zerowait: Zerowait) -> None:
    assert ".recover" in zerowait("outbox", "repair", "--help").out


def test_an_outbox_in_use_is_left_to_its_process(zerowait: Zerowait, dead: str, directory: Directory) -> None:
    [file] = directory.outboxes("counter")
    lock = directory.lock_outbox(file.path)
    assert lock is not None
    with lock:
        ran = zerowait("outbox", "check", "counter")
    assert ran.code == 3
    assert "left to the process that has it open" in ran.err


def test_looking_leaves_the_file_to_others(zerowait: Zerowait, dead: str, directory: Directory) -> None:
    zerowait("status")
    [file] = directory.outboxes("counter")
    assert not file.owned


def test_a_file_that_somebody_has_open_is_not_opened(
    zerowait: Zerowait, dead: str, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "TAKEN_OVER_S", 0.2)
    [file] = directory.outboxes("counter")
    lock = directory.lock_outbox(file.path)
    assert lock is not None
    with lock:
        assert listed(zerowait) == []
        assert zerowait("dead", "retry", dead).code == 3, "whether it is there, only who has it knows"


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


def test_an_outbox_of_another_version_is_labelled_and_changes_no_exit_code(
    zerowait: Zerowait, dead: str, directory: Directory
) -> None:
    path, _, lock = directory.new_outbox("ancient")
    [file] = directory.outboxes("counter")
    content = bytearray(file.path.read_bytes())
    content[60:64] = (1).to_bytes(4, "big")  # user_version
    path.write_bytes(content)
    lock.release()
    for command in (["status"], ["outbox", "list"], ["dead", "list"]):
        ran = zerowait(*command)
        assert ran.code == 0, ran
        assert "the outbox ancient is of format 1, not readable by this version" in ran.err
        assert f"remove the file {path}" in ran.err
        assert "no answer" not in ran.err
        assert "counter" in ran.out
    [told] = json.loads(zerowait("status", "--json").out)["not_readable"]
    assert told == {"name": "ancient", "path": str(path), "format": 1}
    file.path.unlink()
    ran = zerowait("status")
    assert ran.code == 0, ran
    assert "Nobody is there" not in ran.err


def test_what_nobody_serves_is_said_at_delivering_and_not_how_to_deliver_it(zerowait: Zerowait, dead: str) -> None:
    ran = zerowait("outbox", "deliver", "counter", "--timeout", "0.2")
    assert ran.code == 3
    assert "0 delivered, 1 left" in ran.err
    assert "Nobody serves numbers" in ran.err
    assert "zerowait outbox deliver" not in ran.err


def test_what_somebody_holds_for_a_moment_is_waited_for_and_delivered(
    zerowait: Zerowait, dead: str, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given that whoever left it, or looks into it, lets go of it after our first look
    [file] = directory.outboxes("counter")
    lock = directory.lock_outbox(file.path)
    assert lock is not None
    places, looks = Reach.places, 0

    def places_and_then_let_go(reach: Reach, within: float) -> list[Place]:
        nonlocal looks
        found, looks = places(reach, within), looks + 1
        if lock.held:
            lock.release()
        return found

    monkeypatch.setattr(Reach, "places", places_and_then_let_go)
    ran = zerowait("outbox", "deliver", "counter", "--timeout", "0.2")
    assert looks > 1
    assert "1 message of counter to deliver" in ran.err
    assert "0 delivered, 1 left" in ran.err
    assert ran.code == 3


def test_what_is_taken_over_while_it_is_to_be_delivered_is_not_called_delivered(
    zerowait: Zerowait, dead: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given that another process of that name takes it just before we do
    status, other, taking, taken = (
        Reach.status_of_all,
        Client("counter", settings=settings),
        ExitStack(),
        list[Client](),
    )

    def status_and_then_taken(reach: Reach, name: str) -> Found:
        found = status(reach, name)
        if not taken:
            taken.append(other)
            taking.enter_context(other)
            wait_until(lambda: any(box.unsettled for box in other.status().boxes), within=10)
        return found

    monkeypatch.setattr(Reach, "status_of_all", status_and_then_taken)
    monkeypatch.setattr(delivering, "TAKEN_OVER_S", 0.2)
    with taking:
        ran = zerowait("outbox", "deliver", "counter")
        other.close(0).result(5)
    assert "1 message of counter to deliver" in ran.err
    assert "0 delivered, 0 left" in ran.err
    assert f"counter (pid {os.getpid()}) has 1 message of counter and goes on delivering it." in ran.err
    assert ran.code == 0


@pytest.mark.parametrize("deed", ["list", "show", "edit", "retry", "retry all", "drop"])
def test_a_dead_letter_is_found_though_its_outbox_changes_hands_between_the_look_and_the_question(
    zerowait: Zerowait, dead: str, directory: Directory, monkeypatch: pytest.MonkeyPatch, deed: str
) -> None:
    # given that somebody opens it after we have looked, and is done with it after that
    [file] = directory.outboxes("counter")
    places, locks = Reach.places, list[OutboxLock]()

    def places_and_then_taken(reach: Reach, within: float = 0.0) -> list[Place]:
        for lock in locks:
            lock.release()
        found = places(reach, within)
        if not locks:
            taken = directory.lock_outbox(file.path)
            assert taken is not None
            locks.append(taken)
        return found

    monkeypatch.setattr(Reach, "places", places_and_then_taken)
    said = {
        "list": lambda: zerowait("dead", "list"),
        "show": lambda: zerowait("dead", "show", dead),
        "edit": lambda: zerowait("dead", "edit", dead, '{"n": 2}'),
        "retry": lambda: zerowait("dead", "retry", dead),
        "retry all": lambda: zerowait("dead", "retry", "--all", "--yes"),
        "drop": lambda: zerowait("dead", "drop", dead, "--yes"),
    }[deed]()
    assert locks
    assert (said.code, "not found" in said.err, "No dead letters" in said.err) == (0, False, False)
    assert dead in said.out or "1 dead letter" in said.err or f"Dead letter {dead} has that payload now" in said.err


def test_a_dead_letter_whose_outbox_stays_between_two_hands_is_not_called_nothing(
    zerowait: Zerowait, dead: str, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "TAKEN_OVER_S", 0.2)
    [file] = directory.outboxes("counter")
    lock = directory.lock_outbox(file.path)
    assert lock is not None
    with lock:
        for deed in (("list",), ("show", dead), ("retry", dead), ("retry", "--all", "--yes")):
            ran = zerowait("dead", *deed)
            assert ran.code == 3
            assert "somebody opens or closes it at this moment: ask again" in ran.err


def test_what_nobody_tells_of_is_not_called_nothing(
    zerowait: Zerowait, dead: str, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "TAKEN_OVER_S", 0.2)
    [file] = directory.outboxes("counter")
    lock = directory.lock_outbox(file.path)
    assert lock is not None
    with lock:
        ran = zerowait("outbox", "deliver", "counter")
    assert ran.code == 3
    assert f"no answer: outbox {file.path.name}: somebody has it open" in ran.err
    assert "to deliver" not in ran.err
    assert "No message" not in ran.err


def test_whoever_has_it_open_is_named_and_goes_on(zerowait: Zerowait, dead: str, settings: Settings) -> None:
    with Client("counter", settings=settings) as client:
        client.push("numbers", {"n": 2}).result(5)
        ran = zerowait("outbox", "deliver", "counter")
        assert ran.code == 0
        assert f"counter (pid {os.getpid()}) has 2 messages of counter and goes on delivering them." in ran.err
        client.close(0).result(5)


def test_an_outbox_in_which_nothing_waits_is_said_to_be_so(zerowait: Zerowait, dead: str, directory: Directory) -> None:
    bury(directory, 2)
    ran = zerowait("outbox", "deliver", "counter")
    assert (ran.code, ran.err) == (
        0,
        "No message of counter waits: only dead letters are there (zerowait dead list).\n",
    )


@pytest.fixture
def dead_bytes(settings: Settings, directory: Directory) -> str:
    client = Client("counter", settings=settings)
    with client:
        pushed = client.push("parts", {"name": "a", "data": b"\x00\xff", "more": [b"x"]}).result(5)
        client.close(0).result(5)
    bury(directory, 1)
    return pushed.id


def payload_of(zerowait: Zerowait, letter: str) -> object:
    return json.loads(zerowait("dead", "show", letter, "--json").out)["payload"]


def test_what_is_shown_of_bytes_is_bytes_again_when_it_is_edited(
    zerowait: Zerowait, dead_bytes: str, directory: Directory
) -> None:
    assert payload_of(zerowait, dead_bytes) == {"name": "a", "data": "AP8=", "more": ["eA=="]}
    ran = zerowait("dead", "edit", dead_bytes, '{"name": "b", "data": "AQI=", "more": ["eA==", "eQ=="]}')
    assert ran.code == 0, ran
    assert payload_of(zerowait, dead_bytes) == {"name": "b", "data": "AQI=", "more": ["eA==", "eQ=="]}
    [file] = directory.outboxes("counter")
    lock = directory.lock_outbox(file.path)
    assert lock is not None
    box = Outbox.open(file.path, file.name, now_us=lambda: time.time_ns() // 1_000, lock=lock)
    letters = Letters(box)
    [letter] = letters.page()
    assert msgspec.msgpack.decode(letters.payload(letter)) == {"name": "b", "data": b"\x01\x02", "more": [b"x", b"y"]}
    box.close()


def test_bytes_that_are_no_base64_change_no_letter(zerowait: Zerowait, dead_bytes: str) -> None:
    ran = zerowait("dead", "edit", dead_bytes, '{"name": "b", "data": "plain text", "more": []}')
    assert ran.code == 2
    assert "$.data is bytes, which JSON has as base64" in ran.err
    assert "nothing was changed" in ran.err
    ran = zerowait("dead", "edit", dead_bytes, '{"name": "Yg==", "data": "AQI="}', "--bytes", "name")
    assert ran.code == 0, ran
    ran = zerowait("dead", "edit", dead_bytes, '{"data": "AQI="}', "--bytes", "name")
    assert (ran.code, "there is no string in that place" in ran.err) == (2, True)


def test_nobody_is_asked_whether_to_drop_what_is_not_there(zerowait: Zerowait, dead: str) -> None:
    ran = zerowait("dead", "drop", "nowhere-1")
    assert ran.code == 1
    assert "There is no dead letter nowhere-1" in ran.err
    assert "confirm" in zerowait("dead", "drop", dead).err, "what is there is asked for"
