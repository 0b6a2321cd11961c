"""Where mails are found, and that each is found once, whole and untouched."""

from __future__ import annotations

import mailbox
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from examples.totalemail import mailboxes
from examples.totalemail.mailboxes import Found, Refused, search

MAILS = Path(mailboxes.__file__).parent / "mails"
LARGE = 1 << 20


def files(*paths: Path, most_bytes: int = LARGE) -> list[str]:
    return [found.file for found in search(paths, most_bytes) if isinstance(found, Found)]


def test_a_folder_gives_its_mails_and_boxes_and_nothing_else(tmp_path: Path) -> None:
    # given
    (tmp_path / "deeper").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("b.eml", "a.eml", "README.md", "deeper/c.EML", ".hidden.eml", ".git/d.eml"):
        (tmp_path / name).write_bytes(b"Subject: x\n\n")
    (tmp_path / "box.mbox").write_bytes(b"From a\nSubject: 1\n\nFrom a\nSubject: 2\n\n")
    (tmp_path / "Inbox").write_bytes(b"From a\nSubject: 3\n\n")
    (tmp_path / "notes").write_bytes(b"no mail")
    # when, then
    assert files(tmp_path) == ["Inbox#1", "a.eml", "b.eml", "box.mbox#1", "box.mbox#2", "deeper/c.EML"]


def test_in_a_folder_what_begins_as_a_mail_is_one_whatever_it_is_called(tmp_path: Path) -> None:
    # given mails as collections name them, and files that only have lines with colons
    mails = {
        "00001.7c53336b37003a92": b"Return-Path: <a@example.org>\nReceived: from x\n\tby y\nFrom: a\n\nhello",
        "1.": b"Message-ID: <1@x>\r\nDate: Mon, 14 May 2001\r\n\r\nhello",
        "00002.txt": b"From a@example.org Thu Aug 22\nX-Mailer: z\n folded\nFrom: a\nSubject: b\n\nhello",
    }
    others = {
        "notes.txt": b"To: do tomorrow\nwash the car",
        "script.py": b"import re\nsubject: str\ndate: str\n",
        "settings.yaml": b"name: x\nversion: 1\n",
        "one.txt": b"Subject: only this\n\n",
        "empty": b"",
        "picture.png": b"\x89PNG\r\n\x1a\n",
        "folded": b" Subject: x\nFrom: y\n\n",
    }
    for name, data in (mails | others).items():
        (tmp_path / name).write_bytes(data)
    # when, then: each is one mail, with all its bytes
    assert {found.file: found.data for found in search([tmp_path], LARGE) if isinstance(found, Found)} == mails


def test_a_maildir_gives_what_is_new_and_what_is_read_and_its_subfolders(tmp_path: Path) -> None:
    # given
    for folder in ("cur", "new", "tmp", ".Sent/cur", ".Sent/new"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("cur/1.host:2,S", "new/2.host", "tmp/3.host", ".Sent/cur/4.host:2,S"):
        (tmp_path / name).write_bytes(b"Subject: x\n\n")
    # when, then
    assert files(tmp_path) == [".Sent/cur/4.host:2,S", "cur/1.host:2,S", "new/2.host"]


def test_a_mail_keeps_its_bytes_even_if_it_begins_like_an_mbox() -> None:
    for path in MAILS.glob("*.eml"):
        assert list(search([path], LARGE)) == [Found(path.name, path.read_bytes())]


def test_our_box_is_split_as_the_standard_library_splits_it() -> None:
    path = MAILS / "box.mbox"
    box = mailbox.mbox(path, create=False)
    try:
        assert [found.data for found in search([path], LARGE) if isinstance(found, Found)] == [
            box.get_bytes(key)
            for key in box.keys()  # noqa: SIM118 - a mailbox iterates over its messages
        ]
    finally:
        box.close()


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from([b"From a\n", b"From ", b"\n", b"x\n", b">From \n", b"\r\n", b"abc", b"Fr"]), max_size=20)
)
def test_any_box_is_split_as_the_standard_library_splits_it(tmp_path: Path, pieces: list[bytes]) -> None:
    path = tmp_path / "any.mbox"
    path.write_bytes(b"".join(pieces))
    box = mailbox.mbox(path, create=False)
    try:
        expected = [box.get_bytes(key) for key in box.keys()]  # noqa: SIM118
    finally:
        box.close()
    assert [found.data for found in search([path], LARGE) if isinstance(found, Found)] == expected


def test_a_mail_that_is_too_large_is_refused_with_its_size_and_the_others_are_found(tmp_path: Path) -> None:
    # given
    (tmp_path / "a.eml").write_bytes(b"x" * 101)
    (tmp_path / "b.eml").write_bytes(b"x" * 100)
    (tmp_path / "c.mbox").write_bytes(b"From a\n" + b"x" * 5_000 + b"\n\nFrom b\nsmall\n")
    # when
    found = list(search([tmp_path], 100))
    # then
    assert found == [
        Refused("a.eml", "has 101 bytes; a mail may have 100, which is what fits into a message."),
        Found("b.eml", b"x" * 100),
        Refused("c.mbox#1", "has 5,001 bytes; a mail may have 100, which is what fits into a message."),
        Found("c.mbox#2", b"small\n"),
    ]


def test_what_cannot_be_read_is_refused_with_the_reason_and_the_search_goes_on(tmp_path: Path) -> None:
    (tmp_path / "gone.eml").symlink_to(tmp_path / "nowhere")
    (tmp_path / "here.eml").write_bytes(b"Subject: x\n\n")
    assert list(search([tmp_path / "gone.eml", tmp_path / "here.eml"], LARGE)) == [
        Refused("gone.eml", "could not be read: No such file or directory."),
        Found("here.eml", b"Subject: x\n\n"),
    ]
