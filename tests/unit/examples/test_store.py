"""Parts come together in the store in any order, as often as they like."""

from __future__ import annotations

import random
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import msgspec
import pytest

from examples.totalemail.contracts import AttachmentsPart, HeadersPart, Intake, Part, Ticket, UrlsPart
from examples.totalemail.facts import Attachment, Headers
from examples.totalemail.report import write_lines
from examples.totalemail.store import Counts, Shelf

HEADERS = Headers("Hello", "Ada <ada@example.org>", "Ada", "ada@example.org", "<1@example.org>", ["text/plain"], 1, [])


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    opened = Shelf(tmp_path / "store.db")
    yield opened
    opened.close()


def parts(number: int, sha256: str = "5ad1", run: str = "run") -> list[Part]:
    ticket = Ticket(run, number, f"{number}.eml", sha256, 100)
    return [
        HeadersPart(ticket, HEADERS),
        UrlsPart(ticket, ["https://example.org/"]),
        AttachmentsPart(ticket, [Attachment("a.txt", "text/plain", 1, "ca97")]),
    ]


def test_a_report_exists_when_all_three_parts_do(shelf: Shelf) -> None:
    headers, urls, attachments = parts(1)
    shelf.keep(urls)
    shelf.keep(headers)
    assert shelf.counts("run") == Counts(headers=1, urls=1, attachments=0, reports=0, repeats=0)
    assert list(shelf.reports("run")) == []
    shelf.keep(attachments)
    assert shelf.counts("run").reports == 1
    assert [report.file for report in shelf.reports("run")] == ["1.eml"]


def test_parts_that_arrive_again_are_counted_and_change_nothing(shelf: Shelf) -> None:
    # given
    for part in parts(1):
        shelf.keep(part)
    before = list(shelf.reports("run"))
    # when
    for part in [*parts(1), *parts(1)]:
        shelf.keep(part)
    # then
    assert list(shelf.reports("run")) == before
    assert shelf.counts("run") == Counts(headers=1, urls=1, attachments=1, reports=1, repeats=6)


def test_the_order_of_arrival_does_not_matter(shelf: Shelf) -> None:
    # given
    arriving = [part for number in range(1, 21) for part in parts(number, sha256=f"{number:04}")]
    random.Random(5).shuffle(arriving)
    # when
    for part in arriving:
        shelf.keep(part)
    # then
    assert [report.file for report in shelf.reports("run")] == [f"{number}.eml" for number in range(1, 21)]


def test_two_files_with_the_same_mail_have_a_report_each(shelf: Shelf) -> None:
    for part in [*parts(1), *parts(2)]:
        shelf.keep(part)
    assert [(report.file, report.sha256) for report in shelf.reports("run")] == [("1.eml", "5ad1"), ("2.eml", "5ad1")]


def test_what_an_earlier_run_left_behind_is_not_ours(shelf: Shelf) -> None:
    for part in parts(1, run="earlier"):
        shelf.keep(part)
    assert shelf.counts("run") == Counts()
    assert list(shelf.reports("run")) == []


def test_the_mails_without_a_report_are_named_by_their_numbers(shelf: Shelf) -> None:
    for part in [*parts(1), *parts(3), parts(4)[0]]:
        shelf.keep(part)
    assert list(shelf.missing("run", mails=5)) == [2, 4, 5]


def test_another_process_sees_what_was_kept(shelf: Shelf, tmp_path: Path) -> None:
    said = Intake("run", 2, 1, ["large.eml has 17 bytes."])
    other = Shelf(tmp_path / "store.db")
    try:
        assert other.intake("run") is None
        shelf.keep_intake(said)
        for part in parts(1):
            shelf.keep(part)
        assert other.intake("run") == said
        assert other.counts("run").reports == 1
    finally:
        other.close()


def test_a_report_is_one_line_of_json_with_the_fields_in_order(shelf: Shelf) -> None:
    # given
    for part in parts(1):
        shelf.keep(part)
    lines = BytesIO()
    # when
    written = write_lines(shelf.reports("run"), lines)
    # then
    assert written == 1
    assert lines.getvalue().endswith(b"}\n")
    assert msgspec.json.decode(lines.getvalue()) == {
        "file": "1.eml",
        "sha256": "5ad1",
        "size": 100,
        "subject": "Hello",
        "from": "Ada <ada@example.org>",
        "from_name": "Ada",
        "from_address": "ada@example.org",
        "message_id": "<1@example.org>",
        "n_parts": 1,
        "n_leaf_parts": 1,
        "content_types": ["text/plain"],
        "n_attachments": 1,
        "attachments": [{"filename": "a.txt", "content_type": "text/plain", "size": 1, "sha256": "ca97"}],
        "urls": ["https://example.org/"],
        "defects": [],
    }
