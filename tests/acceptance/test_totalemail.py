"""The demonstration application does its main job: on real mail, over a kill, as its user starts it.

The real mails are hostile and not ours to publish: they stay where ZEROWAIT_TEST_EMAILS says, and are only read.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from examples.totalemail import facts, mailboxes
from examples.totalemail.contracts import MAIL_BYTES
from examples.totalemail.mailboxes import Found
from examples.totalemail.report import Report
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
OWN_MAILS = ROOT / "examples" / "totalemail" / "mails"
JUDGEMENTS = {"ambiguous"}  # of the expected facts: what is said about them, not of the mail

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def expected(real_emails: Path) -> dict[str, Any]:
    facts_of_all: dict[str, Any] = json.loads((real_emails / "expected.json").read_text())
    return facts_of_all


def differences(found: Mapping[str, Mapping[str, Any]], files: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Each demanded fact that is not as expected, in words."""
    for name, facts_of_file in files.items():
        if name not in found:
            yield f"{name}: no report"
            continue
        for fact, value in facts_of_file.items():
            if fact not in JUDGEMENTS and fact not in facts_of_file["ambiguous"] and found[name].get(fact) != value:
                yield f"{name}: {fact} is {found[name].get(fact)!r}, expected {value!r}"


def message_ids(reports: Mapping[str, Mapping[str, Any]], box: str) -> list[str | None]:
    in_box = {name: report for name, report in reports.items() if name.startswith(f"{box}#")}
    return [in_box[f"{box}#{number}"]["message_id"] for number in range(1, len(in_box) + 1)]


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "examples.totalemail", *map(str, words)]


def analyse(paths: list[Path], out: Path) -> tuple[subprocess.CompletedProcess[str], dict[str, dict[str, Any]]]:
    done = subprocess.run(
        command("analyse", *paths, "--json", out), cwd=ROOT, capture_output=True, text=True, timeout=150, check=False
    )
    reports = [json.loads(line) for line in out.read_bytes().splitlines()] if out.exists() else []
    by_file = {report["file"]: report for report in reports}
    assert len(by_file) == len(reports), "a file has two reports"
    return done, by_file


def processes_in(namespace: str) -> list[int]:
    """The other living processes that have this namespace in their environment."""
    wanted = f"ZEROWAIT_NAMESPACE={namespace}"
    if sys.platform == "linux":
        return [
            int(folder.name)
            for folder in Path("/proc").glob("[0-9]*")
            if int(folder.name) != os.getpid() and wanted.encode() in _environment(folder)
        ]
    listed = subprocess.run(["ps", "-axwwE", "-o", "pid=,command="], capture_output=True, text=True, check=True)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if wanted in line]


def _environment(folder: Path) -> list[bytes]:
    try:
        return (folder / "environ").read_bytes().split(b"\0")
    except OSError:  # it has just ended, or is another user's
        return []


@contextmanager
def started(*words: str | Path) -> Generator[subprocess.Popen[str]]:
    process = subprocess.Popen(command(*words), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_every_fact_of_the_real_mails_is_as_computed_elsewhere(real_emails: Path, expected: dict[str, Any]) -> None:
    # given
    found: dict[str, dict[str, Any]] = {}
    for mail in mailboxes.search([real_emails], MAIL_BYTES):
        assert isinstance(mail, Found)
        parsed = facts.parse(mail.data)
        texts, leaves = facts.texts(parsed), facts.leaves(parsed)
        # when
        report = Report.of(
            mail.file,
            sha256(mail.data).hexdigest(),
            len(mail.data),
            facts.headers(facts.outline(parsed)),
            facts.urls(texts),
            facts.attachments(leaves),
        )
        found[mail.file] = msgspec.to_builtins(report)
    # then
    assert list(differences(found, expected["files"])) == []
    for box, said in expected["mboxes"].items():
        assert message_ids(found, box) == said["message_ids"]
    assert len(found) == expected["count"] + sum(said["n_messages"] for said in expected["mboxes"].values())


def test_the_application_finds_every_fact_of_the_real_mails(
    real_emails: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    # when
    done, found = analyse([real_emails], tmp_path / "out.jsonl")
    # then
    assert done.returncode == 0, done.stderr
    assert list(differences(found, expected["files"])) == []
    for box, said in expected["mboxes"].items():
        assert message_ids(found, box) == said["message_ids"]
    assert len(found) == expected["count"] + sum(said["n_messages"] for said in expected["mboxes"].values())


def test_our_own_mails_and_a_maildir_are_reported_and_one_too_large_is_refused(tmp_path: Path) -> None:
    # given
    maildir = tmp_path / "Mail"
    for folder in ("cur", "new", "tmp"):
        (maildir / folder).mkdir(parents=True)
    (maildir / "cur" / "1.host:2,S").write_bytes((OWN_MAILS / "01-plain.eml").read_bytes())
    with (tmp_path / "large.eml").open("wb") as large:
        large.truncate(16 * 1024 * 1024 + 1)
    # when
    done, found = analyse([OWN_MAILS, maildir, tmp_path / "large.eml"], tmp_path / "out.jsonl")
    # then
    names = {path.name for path in OWN_MAILS.glob("*.eml")} | {f"box.mbox#{number}" for number in range(1, 5)}
    assert set(found) == names | {"cur/1.host:2,S"}, done.stderr
    assert found["cur/1.host:2,S"] == {**found["01-plain.eml"], "file": "cur/1.host:2,S"}
    assert message_ids(found, "box.mbox") == ["<box-1@example.org>", "<box-2@example.com>", None, "<box-4@example.org>"]
    assert "refused: large.eml has 16,777,217 bytes" in done.stderr
    assert done.returncode == 1
    assert done.stdout == ""


def test_a_mail_that_cannot_be_parsed_is_listed_as_dead_and_all_others_are_reported(tmp_path: Path) -> None:
    # given: a mail in a mail in a mail, deeper than Python goes
    (tmp_path / "abyss.eml").write_bytes(b"Content-Type: message/rfc822\n\n" * 3_000)
    (tmp_path / "plain.eml").write_bytes(b"Subject: hello\n\nworld\n")
    # when
    done, found = analyse([tmp_path], tmp_path / "out.jsonl")
    # then
    assert set(found) == {"plain.eml"}
    assert re.search(r"dead: abyss\.eml at totalemail\.parse: .*RecursionError", done.stderr), done.stderr
    assert done.returncode == 1


def test_a_path_that_does_not_exist_is_wrong_usage(tmp_path: Path) -> None:
    done, _ = analyse([tmp_path / "nowhere"], tmp_path / "out.jsonl")
    assert done.returncode == 2
    assert "nowhere" in done.stderr


def test_the_demonstration_kills_a_worker_and_loses_nothing(namespace: str) -> None:
    # when
    done = subprocess.run(command("demo"), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    # then
    assert done.returncode == 0, done.stdout + done.stderr
    table = {
        name: int(value.replace(",", ""))
        for name, value in re.findall(r"^  (\w[\w ]+?)  +([\d,]+)   ", done.stdout, re.MULTILINE)
    }
    assert table["lost"] == 0
    assert table["redelivered"] >= 1
    assert table["repeated"] == 0, "what a handler sends leaves once, however often it ran"
    assert table["in flight"] >= 20
    assert table["reports out"] == table["mails in"] > 0
    assert processes_in(namespace) == []


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.long),
        pytest.param(signal.SIGKILL, marks=pytest.mark.long),
    ],
)
def test_however_the_demonstration_is_stopped_no_process_is_left(number: signal.Signals, namespace: str) -> None:
    with started("demo") as process:
        # given
        wait_until(lambda: len(processes_in(namespace)) >= 5, within=30, that="all five processes run")
        # when
        process.send_signal(number)
        process.wait(timeout=30)
        # then
        wait_until(lambda: not processes_in(namespace), within=15, that="no process is left")
