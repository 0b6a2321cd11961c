"""The facts of our own mails, worked out by hand from their text."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from examples.totalemail import facts
from examples.totalemail.facts import Attachment, Headers

MAILS = Path(facts.__file__).parent / "mails"


class Read:
    """A mail as the three services see it."""

    def __init__(self, raw: bytes) -> None:
        mail = facts.parse(raw)
        texts, leaves = facts.texts(mail), facts.leaves(mail)
        self.headers: Headers = facts.headers(facts.outline(mail))
        self.urls: list[str] = facts.urls(texts)
        self.attachments: list[Attachment] = facts.attachments(leaves)

    @property
    def names(self) -> list[str | None]:
        return [attachment.filename for attachment in self.attachments]


def mail(start: str) -> Read:
    [path] = MAILS.glob(f"{start}-*.eml")
    return Read(path.read_bytes())


def test_a_plain_mail_is_one_part_with_its_link() -> None:
    read = mail("01")
    assert read.headers == Headers(
        subject="Minutes of Monday",
        from_="Ada <ada@example.org>",
        from_name="Ada",
        from_address="ada@example.org",
        message_id="<01@example.org>",
        content_types=["text/plain"],
        n_leaf_parts=1,
        defects=[],
    )
    assert read.urls == ["https://example.org/minutes/2026-11-02"]
    assert read.attachments == []


def test_html_is_not_unescaped_and_quotes_end_a_link() -> None:
    assert mail("02").urls == ["http://example.com/off", "https://example.com/week/44?a=1&amp;b=2"]


def test_a_link_in_both_alternatives_counts_once_and_capitals_are_kept() -> None:
    read = mail("03")
    assert read.urls == ["HTTPS://EXAMPLE.ORG/Mirror)", "https://example.org/engine"]
    assert read.headers.from_name == "Babbage, Charles"
    assert read.headers.content_types == ["multipart/alternative", "text/plain", "text/html"]
    assert read.headers.n_leaf_parts == 2


def test_an_attachment_is_hashed_after_its_base64_is_undone() -> None:
    content = b"%PDF-1.4\n% a page without anything on it\n%%EOF\n"
    assert mail("04").attachments == [
        Attachment("report.pdf", "application/pdf", len(content), sha256(content).hexdigest())
    ]


def test_a_quoted_printable_attachment_is_decoded_and_its_links_are_not_the_mails() -> None:
    content = "item,price\ncafé,2€\nhttps://example.org/not-a-body,0".encode()
    read = mail("05")
    assert read.attachments == [Attachment("prices.csv", "text/csv", len(content), sha256(content).hexdigest())]
    assert read.urls == []


def test_a_file_name_in_pieces_of_rfc_2231_is_put_together() -> None:
    assert mail("06").names == ["árbol en flor.png"]


def test_an_encoded_word_in_a_file_name_stays_as_it_stands() -> None:
    read = mail("07")
    assert read.names == ["=?utf-8?B?0LfQsNC80LXRgtC60LgudHh0?="]
    assert read.headers.subject == "Привет"
    assert read.headers.from_name == "Жанна"
    assert read.urls == ["https://example.org/файл"]


def test_an_attached_mail_is_walked_into_but_the_subject_is_the_outer_ones() -> None:
    read = mail("08")
    assert read.headers.subject == "Fwd: a question"
    assert read.headers.message_id == "<08@example.org>"
    assert read.headers.content_types == ["multipart/mixed", "text/plain", "message/rfc822", "text/plain"]
    assert read.urls == ["https://example.com/q"]


def test_attachments_and_links_are_found_two_mails_deep() -> None:
    read = mail("09")
    assert len(read.headers.content_types) == 8
    assert read.headers.n_leaf_parts == 4
    assert read.attachments == [
        Attachment("data.bin", "application/octet-stream", 6, sha256(bytes(range(6))).hexdigest())
    ]
    assert read.urls == ["http://example.com/bottom"]


def test_an_inline_picture_without_a_name_is_no_attachment() -> None:
    assert mail("10").attachments == []


def test_a_name_makes_an_attachment_wherever_it_is_nested() -> None:
    assert mail("11").names == ["dot.png", "notes.txt"]


def test_raw_8_bit_headers_show_that_they_cannot_be_read() -> None:
    read = mail("12")
    assert read.headers.subject == "Caf\ufffd in the morning"
    assert read.headers.from_address == "jose@example.org"
    assert read.urls == ["https://example.org/café"]


@pytest.mark.parametrize(
    ("start", "urls"),
    [
        ("14", ["http://example.org/second", "https://example.org/first"]),
        ("15", ["http://example.org/old"]),
        ("16", ["https://example.org/one", "https://example.org/three", "https://example.org/two"]),
    ],
)
def test_every_kind_of_line_end_is_read(start: str, urls: list[str]) -> None:
    read = mail(start)
    assert read.urls == urls
    assert read.headers.message_id == f"<{start}@example.org>"


def test_a_missing_subject_is_none_and_an_empty_one_is_empty() -> None:
    assert mail("17").headers.subject is None
    assert mail("18").headers.subject == ""


def test_a_mail_without_any_header_still_has_a_report() -> None:
    read = mail("19")
    assert (read.headers.subject, read.headers.from_, read.headers.from_address) == (None, None, None)
    assert read.headers.message_id is None
    assert read.urls == ["https://example.org/body-only"]


def test_a_hundred_links_are_a_hundred_though_one_comes_twice() -> None:
    assert mail("21").urls == [f"https://example.com/item/{number:03}" for number in range(100)]


def test_a_link_ends_at_white_space_angle_brackets_and_quotes_only() -> None:
    assert mail("22").urls == [
        "HTTP://example.org/CAPITALS,https://example.org/comma",
        "https://example.org/angle",
        "https://example.org/bracket)",
        "https://example.org/dot.",
        "https://example.org/quoted",
    ]


@pytest.mark.parametrize(
    ("start", "subject", "urls"),
    [
        ("23", "你好", ["https://example.com/你好"]),
        ("24", "会議", ["https://example.com/kaigi"]),
        ("25", "An unknown charset", ["https://example.org/café"]),
        ("26", "utf-8, it says", ["https://example.org/caf\ufffd"]),
        ("27", "“quoted” € 5", ["https://example.org/€"]),
    ],
)
def test_each_charset_is_read_as_it_is_declared(start: str, subject: str, urls: list[str]) -> None:
    read = mail(start)
    assert read.headers.subject == subject
    assert read.urls == urls


@pytest.mark.parametrize(
    ("start", "defects"),
    [
        ("28", ["CloseBoundaryNotFoundDefect"]),
        ("29", ["MultipartInvariantViolationDefect", "NoBoundaryInMultipartDefect"]),
        ("30", ["MultipartInvariantViolationDefect", "StartBoundaryNotFoundDefect"]),
        ("32", ["MissingHeaderBodySeparatorDefect"]),
    ],
)
def test_what_is_broken_is_said(start: str, defects: list[str]) -> None:
    assert mail(start).headers.defects == defects


def test_defects_of_base64_are_found_though_they_show_only_when_it_is_decoded() -> None:
    read = mail("31")
    assert "InvalidBase64CharactersDefect" in read.headers.defects
    assert read.urls == ["https://example.org/base64"]


def test_a_link_in_a_multipart_without_boundary_is_in_no_readable_part() -> None:
    assert mail("29").urls == []


def test_a_word_of_an_unknown_charset_stays_as_it_stands() -> None:
    assert mail("34").headers.subject == "=?x-martian?Q?What=3F?= =?utf-8?Q?half"


def test_a_folded_header_is_one_line() -> None:
    read = mail("36")
    assert read.headers.subject == "A subject that goes on and on and on"
    assert read.headers.from_name == "Ada King, Countess of Lovelace"
    assert read.headers.message_id == "<36@example.org>"


def test_the_first_of_two_subjects_counts() -> None:
    read = mail("37")
    assert read.headers.subject == "The first counts"
    assert read.headers.from_address == "ada@example.org"


def test_all_of_twelve_attachments_are_hashed() -> None:
    assert mail("41").attachments == [
        Attachment(
            f"file {number:02}.dat",
            "application/octet-stream",
            number * 100,
            sha256(bytes([number]) * (number * 100)).hexdigest(),
        )
        for number in range(1, 13)
    ]


def test_names_that_no_file_should_have_are_only_text() -> None:
    assert mail("44").names == ["../../etc/passwd", 'a "quoted" name; with semicolon.txt', None, "r\ufffdsum\ufffd.txt"]


@pytest.mark.parametrize(
    "charset", ["rot13", "hex", "undefined", "idna", "no\0thing", "x" * 300, "utf-7", "unicode_escape"]
)
def test_no_declared_charset_can_break_it(charset: str) -> None:
    raw = (
        f"Content-Type: text/plain; charset={charset}\n\n".encode()
        + b"https://example.org/ \xff\xed\xa0\x80 \\ud800 +2AA-"
    )
    read = Read(raw)
    assert read.urls == ["https://example.org/"]


def test_what_is_found_can_always_be_written_as_utf_8() -> None:
    # given: 8-bit bytes wherever a mail may have text, and surrogates by way of utf-7
    raw = (
        b"From: \xff <\xff@example.org>\nSubject: \xff\nMessage-ID: <\xff>\n"
        b"Content-Type: multipart/mixed; boundary=b\n\n"
        b"--b\nContent-Type: text/\xff; name=\xff\n\n\xff\n"
        b"--b\nContent-Type: text/plain; charset=utf-7\n\nhttps://example.org/+2AA-\n--b--\n"
    )
    # when
    read = Read(raw)
    # then
    for text in (read.headers.subject, read.headers.from_, read.headers.message_id, *read.names, *read.urls):
        assert text is not None
        text.encode()
    "".join(read.headers.content_types).encode()
