"""The command line as a user has it: real processes in a namespace of their own."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.programs import ZEROWAIT, Program, Start, finished, programs
from tests.waiting import wait_until
from zerowait import __version__
from zerowait.cli.output import PARTIAL
from zerowait.processes.roster import NOT_WHOLE

PRINTER = """
from zerowait import App, Reject

app = App("printer")


@app.pull("numbers")
def show(number: int) -> None:
    if number < 0:
        raise Reject("no negative numbers")
    print(f"shown {number}\\n", end="", flush=True)  # one write: threads share the stream
"""

STUCK = """
import time
from zerowait import App

app = App("printer")


@app.pull("numbers")
def show(number: int) -> None:
    print("begun", flush=True)
    time.sleep(60)


if __name__ == "__main__":
    app.run()
"""

PARTS = """
import msgspec
from zerowait import App, Reject

app = App("printer")


class Part(msgspec.Struct):
    data: bytes
    more: list[bytes] = []


@app.pull("parts")
def show(part: Part) -> None:
    if not part.data:
        raise Reject("it is empty")
    print(f"shown {len(part.data) + len(b''.join(part.more))}\\n", end="", flush=True)
"""

Zerowait = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "printer.py").write_text(PRINTER, encoding="utf-8")
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    with programs(folder) as start:
        yield start


@pytest.fixture
def zerowait(folder: Path) -> Zerowait:
    def run(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return finished(*ZEROWAIT, *args, folder=folder, stdin=stdin)

    return run


@pytest.fixture
def printer(start: Start) -> Program:
    return running(start)


def running(start: Start, *options: str) -> Program:
    program = start(*ZEROWAIT, "run", "printer:app", *options)
    program.until(lambda it: "stop" in it.err, that="the banner says how to stop")
    return program


def shown(program: Program) -> list[int]:
    return [int(number) for number in re.findall(r"shown (-?\d+)", program.out)]


def status(zerowait: Zerowait) -> dict[str, Any]:
    ran = zerowait("status", "--json")
    assert ran.returncode == 0, ran.stderr
    told: dict[str, Any] = json.loads(ran.stdout)
    return told


def test_the_banner_says_what_runs_where_and_how_to_stop(printer: Program, namespace: str) -> None:
    for part in ("printer:app", "printer.py", "numbers", namespace, str(printer.process.pid), "Ctrl-C", __version__):
        assert part in printer.err
    assert "ipc://" in printer.err
    assert printer.out == ""


def test_what_is_pushed_is_handled(printer: Program, zerowait: Zerowait) -> None:
    ran = zerowait("push", "numbers", "42", "--wait")
    assert ran.returncode == 0, ran.stderr
    assert "1 handled" in ran.stderr
    (status,) = json.loads(zerowait("status", "--json").stdout)["processes"]
    assert [(served["channel"], served["ended"]) for served in status["serves"]] == [("numbers", 1)]
    assert shown(printer) == [42]


def test_lines_on_stdin_are_messages_with_ids(printer: Program, zerowait: Zerowait) -> None:
    ran = zerowait("push", "numbers", "--json", "--wait", "--count", "2", stdin="1\n2\n3\n")
    assert ran.returncode == 0, ran.stderr
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line["line"] for line in told] == [1, 1, 2, 2, 3, 3]
    assert len({line["id"] for line in told}) == 6
    assert sorted(shown(printer)) == [1, 1, 2, 2, 3, 3]


def test_base64_is_bytes_for_a_worker_whose_type_has_bytes(start: Start, zerowait: Zerowait, folder: Path) -> None:
    (folder / "printer.py").write_text(PARTS, encoding="utf-8")
    ran = zerowait("push", "parts", '{"data": "AP8="}', "--bytes", "data")
    assert ran.returncode == 0, ran.stderr
    printer = running(start)
    printer.until(lambda it: shown(it) == [2], that="what was pushed before anybody said his type")

    ran = zerowait("push", "parts", "--wait", stdin='{"data": "AP8A"}\n{"data": "AAAAAA==", "more": ["AP8="]}\n')
    assert ran.returncode == 0, ran.stderr
    assert sorted(shown(printer)) == [2, 3, 6]
    ran = zerowait("push", "parts", stdin='{"data": ""}\n{"data": "no base64"}\n')
    assert ran.returncode == 4, ran.stderr
    assert "line 2: $.data is bytes, which JSON has as base64, and this is none" in ran.stderr
    assert "1 message before it was accepted" in ran.stderr

    [letter] = [json.loads(line)["id"] for line in zerowait("dead", "list", "--json").stdout.splitlines()] or [""]
    assert zerowait("dead", "edit", letter, '{"data": "AP8AAA=="}', "--retry").returncode == 0
    printer.until(lambda it: 4 in shown(it), that="a letter is mended with bytes where it had none")


def test_memory_messages_are_handled_too(printer: Program, zerowait: Zerowait) -> None:
    ran = zerowait("push", "numbers", "7", "--memory")
    assert ran.returncode == 0, ran.stderr
    assert shown(printer) == [7]


def test_what_workers_still_handle_when_push_leaves_is_told_apart_from_what_waits(
    start: Start, zerowait: Zerowait, folder: Path
) -> None:
    (folder / "printer.py").write_text(STUCK, encoding="utf-8")
    running(start)
    ran = zerowait("push", "numbers", "1", "--drain", "1")
    assert ran.returncode == 0
    assert "1 message is being handled by workers" in ran.stderr
    assert "in the outbox waits" not in ran.stderr


def test_memory_messages_that_nobody_takes_are_said_to_be_lost(zerowait: Zerowait) -> None:
    ran = zerowait("push", "numbers", "7", "--memory", "--drain", "0")
    assert ran.returncode == 1
    assert "lost" in ran.stderr


def test_what_nobody_takes_stays_and_is_delivered_when_somebody_comes(start: Start, zerowait: Zerowait) -> None:
    ran = zerowait("push", "numbers", stdin="1\n2\n3\n")
    assert ran.returncode == 0, ran.stderr
    assert "3 messages in the outbox" in ran.stderr

    [box] = status(zerowait)["outboxes_without_process"]
    assert box["name"] == "cli"
    assert box["channels"][0]["waiting"] == 3
    assert "zerowait outbox deliver cli" in zerowait("status").stderr

    printer = running(start)
    printer.until(lambda it: sorted(shown(it)) == [1, 2, 3], that="a process of another name delivers them")
    wait_until(lambda: not status(zerowait)["outboxes_without_process"], within=10)


def test_outbox_deliver_delivers_now(start: Start, zerowait: Zerowait) -> None:
    assert zerowait("push", "numbers", "5", "--drain", "0", "--name", "cron").returncode == 0
    listed = zerowait("outbox", "list")
    assert "cron" in listed.stdout
    assert "none" in listed.stdout

    nobody = zerowait("outbox", "deliver", "cron", "--timeout", "0.2")
    assert nobody.returncode == 3, nobody.stderr

    printer = running(start)
    ran = zerowait("outbox", "deliver", "cron")
    assert ran.returncode in (0, 1), ran.stderr  # 1: the printer was quicker and the outbox is gone
    printer.until(lambda it: shown(it) == [5])


def ledger_of(zerowait: Zerowait, channel: str) -> dict[str, int]:
    """Of the one outbox that has the channel; zeros while there is none."""
    told = status(zerowait)
    boxes: list[dict[str, Any]] = [box for each in told["processes"] for box in each["boxes"]]
    rows: list[dict[str, Any]] = [row for box in boxes for row in box["channels"] if row["channel"] == channel]
    return {name: sum(row[name] for row in rows) for name in ("accepted", "handled", "dropped", "waiting", "in_flight")}


def test_what_waits_for_a_misspelt_channel_is_dropped_from_a_file_without_a_process(zerowait: Zerowait) -> None:
    for channel, name in (("numbres", "cron"), ("numbers", "cron"), ("numbres", "other")):
        assert zerowait("push", channel, "1", "--count", "3", "--drain", "0", "--name", name).returncode == 0

    assert zerowait("outbox", "drop", "cron", "--channel", "numbres").returncode == 2, "nobody to ask, and no --yes"
    ran = zerowait("outbox", "drop", "cron", "--channel", "numbres", "--yes", "--json")
    assert ran.returncode == 0, ran.stderr
    assert [json.loads(line)["dropped"] for line in ran.stdout.splitlines()] == [3]
    boxes = {box["name"]: box["channels"] for box in status(zerowait)["outboxes_without_process"]}
    left = {(name, row["channel"]): (row["waiting"], row["dropped"]) for name in boxes for row in boxes[name]}
    assert left == {("cron", "numbres"): (0, 3), ("cron", "numbers"): (3, 0), ("other", "numbres"): (3, 0)}
    assert "No message waits" in zerowait("outbox", "drop", "cron", "--channel", "numbres", "--yes").stderr


SENDER = """
import sys, time
from zerowait import Client, PushChannel

with Client("sender") as zw:
    for n in range(20_000):
        receipt = zw.push("numbers", n)
        zw.push("numbres", "x" * 600)
    receipt.result()
    kept = zw.push("numbres", "the last")
    try:
        kept.handled.result()
    except Exception as error:
        print(type(error).__name__, flush=True)
    time.sleep(60)
"""


def test_a_living_process_drops_what_waits_and_leaves_what_is_at_a_worker(
    start: Start, zerowait: Zerowait, folder: Path
) -> None:
    # Given a backlog far beyond what is read ahead, and a worker that has some of the other channel in hand.
    (folder / "printer.py").write_text(STUCK, encoding="utf-8")
    (folder / "sender.py").write_text(SENDER, encoding="utf-8")
    running(start)
    sender = start(ZEROWAIT[0], "sender.py")
    pushed = {"accepted": 20_001, "handled": 0, "dropped": 0, "waiting": 20_001, "in_flight": 0}
    wait_until(lambda: ledger_of(zerowait, "numbres") == pushed, within=30)
    wait_until(lambda: ledger_of(zerowait, "numbers")["in_flight"], within=10)

    ran = zerowait("outbox", "drop", "sender", "--channel", "numbres", "--yes")
    assert ran.returncode == 0, ran.stderr
    assert "20,001 messages dropped" in ran.stderr
    assert ledger_of(zerowait, "numbres") == pushed | {"dropped": 20_001, "waiting": 0}
    sender.until(lambda it: "Cancelled" in it.out, that="who holds a receipt is told")

    ran = zerowait("outbox", "drop", "sender", "--channel", "numbers", "--yes")
    assert ran.returncode == 0, ran.stderr
    after = ledger_of(zerowait, "numbers")
    assert "in flight at workers and left alone" in ran.stderr
    assert after["waiting"] == 0
    assert after["in_flight"] > 0
    assert after["dropped"] == 20_000 - after["in_flight"]


def test_status_tells_of_the_living(printer: Program, zerowait: Zerowait, namespace: str) -> None:
    told = status(zerowait)
    assert told["namespace"] == namespace
    [process] = told["processes"]
    assert (process["name"], process["pid"]) == ("printer", printer.process.pid)
    assert process["serves"][0]["channel"] == "numbers"
    assert "printer" in zerowait("status").stdout


def test_namespaces_never_meet(printer: Program, zerowait: Zerowait) -> None:
    ran = zerowait("push", "numbers", "1", "--namespace", "elsewhere", "--drain", "0.3")
    assert "in the outbox" in ran.stderr
    assert json.loads(zerowait("status", "--json", "--namespace", "elsewhere").stdout)["processes"] == []
    assert shown(printer) == []


def test_a_push_whose_message_died_at_once_fails_without_waiting_for_it(printer: Program, zerowait: Zerowait) -> None:
    ran = zerowait("push", "numbers", "-1")
    assert ran.returncode == 1
    assert "1 dead letter: no negative numbers" in ran.stderr


def test_a_dead_letter_is_listed_shown_and_dropped(printer: Program, zerowait: Zerowait) -> None:
    ran = zerowait("push", "numbers", "-1", "--wait")
    assert ran.returncode == 1
    assert "no negative numbers" in ran.stderr

    [letter] = [json.loads(line) for line in zerowait("dead", "list", "--json").stdout.splitlines()]
    assert letter["channel"] == "numbers"
    assert letter["reason"] == "no negative numbers"
    shown = zerowait("dead", "show", letter["id"])
    assert shown.returncode == 0
    assert "no negative numbers" in shown.stdout
    assert "-1" in shown.stdout

    assert zerowait("dead", "drop", "--all").returncode == 2, "nobody to ask, and no --yes"
    assert zerowait("dead", "drop", "--all", "--yes").returncode == 0
    assert zerowait("dead", "list").stdout == ""


def test_a_dead_letter_is_handled_once_the_cause_is_mended(start: Start, zerowait: Zerowait, folder: Path) -> None:
    before = running(start)
    assert zerowait("push", "numbers", "-1", "--wait").returncode == 1
    before.signal(signal.SIGTERM)
    before.ended()

    (folder / "printer.py").write_text(PRINTER.replace("number < 0", "False"), encoding="utf-8")
    after = running(start)
    assert zerowait("dead", "retry", "--channel", "numbers", "--yes").returncode == 0
    after.until(lambda it: shown(it) == [-1])


def test_sigterm_ends_it_and_leaves_nothing(printer: Program, zerowait: Zerowait) -> None:
    printer.signal(signal.SIGTERM)
    assert printer.ended() == 0
    told = status(zerowait)
    assert told["processes"] == []
    assert told["no_answer"] == {}


def test_ctrl_c_ends_it_without_a_traceback(printer: Program) -> None:
    printer.signal(signal.SIGINT)
    assert printer.ended() == 0
    assert "Traceback" not in printer.err


@pytest.mark.parametrize("command", [(*ZEROWAIT, "run", "printer:app"), (ZEROWAIT[0], "printer.py")], ids=["run", "py"])
def test_a_drain_that_was_not_whole_is_told_by_the_exit_code(
    start: Start, zerowait: Zerowait, folder: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "printer.py").write_text(STUCK, encoding="utf-8")
    monkeypatch.setenv("ZEROWAIT_DRAIN", "0.1")
    printer = start(*command)
    assert zerowait("push", "numbers", "1").returncode == 0
    printer.until(lambda it: "begun" in it.out)
    printer.signal(signal.SIGTERM)
    assert printer.ended() == NOT_WHOLE == PARTIAL
    assert "Still being handled" in printer.err or command[1] == "printer.py"  # which configures no log


RESOURCES = """
from contextlib import contextmanager
from zerowait import App


@contextmanager
def database():
    {before}
    yield
    {after}


app = App("printer", resources=database)
"""


def test_resources_that_cannot_be_opened_or_closed_are_a_failure(
    start: Start, zerowait: Zerowait, folder: Path
) -> None:
    (folder / "printer.py").write_text(RESOURCES.format(before="1 / 0  # while opening", after=""), encoding="utf-8")
    ran = zerowait("run", "printer:app")
    assert ran.returncode == 1
    assert "ZeroDivisionError" in ran.stderr

    # Of another length: compiled in the same second, a file of the same one would be taken for the old.
    (folder / "printer.py").write_text(RESOURCES.format(before="", after="1 / 0"), encoding="utf-8")
    printer = running(start)
    printer.signal(signal.SIGTERM)
    assert printer.ended() == 1
    assert "ZeroDivisionError" in printer.err
    assert status(zerowait)["processes"] == []


def test_a_process_killed_is_not_there_any_more(printer: Program, zerowait: Zerowait) -> None:
    printer.signal(signal.SIGKILL)
    printer.ended()
    assert status(zerowait)["processes"] == []


def test_an_app_that_cannot_be_found_is_misuse(zerowait: Zerowait) -> None:
    ran = zerowait("run", "printr:app")
    assert ran.returncode == 2
    assert "Did you mean printer?" in ran.stderr


def test_what_keeps_it_from_starting_is_said_once(zerowait: Zerowait) -> None:
    ran = zerowait("run", "printer:app", "--listen", "tcp://192.0.2.1:5511")
    assert ran.returncode == 2
    assert ran.stderr.count("192.0.2.1:5511") == 1, ran.stderr


def test_an_address_that_another_has_is_no_success(zerowait: Zerowait) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        ran = zerowait("run", "printer:app", "--listen", f"tcp://127.0.0.1:{other.getsockname()[1]}")
    assert ran.returncode not in (0, 4), ran.stderr
    assert ran.stderr.startswith("error:")


def test_what_a_handler_printed_is_there_when_the_worker_is_killed(
    start: Start, zerowait: Zerowait, folder: Path
) -> None:
    (folder / "printer.py").write_text(PRINTER.replace(", flush=True", ""), encoding="utf-8")
    printer = running(start)
    assert zerowait("push", "numbers", "7", "--wait").returncode == 0
    printer.signal(signal.SIGKILL)
    printer.ended()
    assert shown(printer) == [7]


def test_a_mistaken_option_is_misuse_before_anything_is_imported(zerowait: Zerowait, folder: Path) -> None:
    (folder / "printer.py").write_text("print('imported')", encoding="utf-8")
    ran = zerowait("run", "printer:app", "--listen", "nonsense")
    assert ran.returncode == 2
    assert "--listen" in ran.stderr
    assert ran.stdout == ""


def test_the_log_can_be_json(start: Start) -> None:
    program = running(start, "--log-format", "json", "--log-level", "debug")
    program.signal(signal.SIGTERM)
    program.ended()
    lines = [line for line in program.err.splitlines() if line.startswith("{")]
    assert lines
    assert all({"at", "level", "logger", "message"} <= json.loads(line).keys() for line in lines)


def test_version_tells_of_all_that_it_stands_on(zerowait: Zerowait) -> None:
    told = json.loads(zerowait("version", "--json").stdout)
    assert told["zerowait"] == __version__
    assert told["libzmq"].count(".") == 2
    assert "curve" in told["libzmq_capabilities"]
    assert told["sqlite"].startswith("3.")
    assert "libzmq" in zerowait("version").stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("redirected", [">/dev/full", ">&-", ">/dev/full 2>&-", ">&- 2>&-"])
def test_no_traceback_where_nothing_can_be_written(zerowait: Zerowait, folder: Path, redirected: str) -> None:
    zerowait("push", "numbers", "1")
    command = f"{sys.executable} -m zerowait status {redirected}"
    ran = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=30, check=False)
    assert "Traceback" not in ran.stderr
    if "full" in redirected:
        assert ran.returncode == 1
        assert "cannot be written: No space" in ran.stderr or "2>&-" in redirected


@pytest.mark.parametrize(("stdin", "said"), [("1\n", "1 message pushed to numbers; 1 lost"), ("1\n2\n3\n", "3 lost")])
def test_what_no_outbox_could_take_is_no_success(folder: Path, stdin: str, said: str) -> None:
    # given: a file cannot grow to what an outbox needs
    limited = ["bash", "-c", 'ulimit -f 20; exec "$@"', "bash"]
    # when
    ran = finished(*limited, *ZEROWAIT, "push", "numbers", folder=folder, stdin=stdin)
    # then
    assert ran.returncode == 3, ran.stderr
    assert "cannot be made" in ran.stderr
    assert said in ran.stderr
    assert "nothing waits" not in ran.stderr


def test_a_client_that_ends_says_what_no_outbox_could_take(folder: Path) -> None:
    program = "from zerowait import Client\nwith Client('x') as zw:\n    for n in range(3): zw.push('numbers', n)\n"
    limited = ["bash", "-c", 'ulimit -f 20; exec "$@"', "bash"]
    ran = finished(*limited, sys.executable, "-c", program, folder=folder)
    assert ran.returncode == 0
    assert "x ends with 3 messages (3 for numbers) in no outbox" in ran.stderr
    assert "they are lost" in ran.stderr
