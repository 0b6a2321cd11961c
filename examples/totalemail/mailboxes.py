"""Where mails are found: files, folders, mboxes and Maildirs, one mail after another, never a whole box in memory.

Which is which is told by looks, for nobody wants to say it: a folder that holds `cur` and `new` is a Maildir; a file
whose name ends in `.mbox` or `.mbx`, or that has no ending and begins with "From ", is an mbox; in other folders every
`.eml` is a mail, and so is every other file that begins with a mail's header, as collections of mails name theirs
anything; what is neither (a README, a picture) is passed over. A file that is named outright is a mail unless it looks
like an mbox.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

MBOX_ENDINGS = frozenset({".mbox", ".mbx"})
MAILDIR_FOLDERS = ("new", "cur")
TAKEN = "Of a folder, its .eml files are taken, what else begins with a mail's header, its mboxes and Maildirs."
LINE_BYTES = 1024 * 1024  # a longer line is read in pieces
HEAD_BYTES = 4 * 1024  # of a file, to see whether it begins with a mail's header
_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")
_FIELDS = frozenset(  # of which a mail has several, and hardly anything else that has lines with colons
    b"bcc cc content-transfer-encoding content-type date delivered-to from message-id mime-version received reply-to "
    b"return-path sender subject to".split()
)


class Found(NamedTuple):
    """A mail, its bytes untouched; for one out of an mbox, `file` is "name.mbox#n", counted from 1."""

    file: str
    data: bytes


class Refused(NamedTuple):
    """What is not taken, and why, in a sentence."""

    file: str
    reason: str


def search(paths: Iterable[Path], most_bytes: int) -> Iterator[Found | Refused]:
    """The mails at these paths, in the order of their names.

    most_bytes: a mail that is larger is refused; no more than that of it is ever in memory. What cannot be read is
    refused with the system's reason and the search goes on.
    """
    for path in paths:
        if path.is_dir():
            yield from _in_folder(path, path, most_bytes)
        else:
            yield from _in_file(path, _shown(path.name), most_bytes)


def _in_folder(folder: Path, top: Path, most_bytes: int) -> Iterator[Found | Refused]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield _unreadable(_below(folder, top), error)
        return
    is_maildir = {entry.name for entry in entries if entry.is_dir()}.issuperset(MAILDIR_FOLDERS)
    for entry in entries:
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            if is_maildir and entry.name in MAILDIR_FOLDERS:
                yield from _in_maildir(path, top, most_bytes)
            elif (is_maildir and entry.name != "tmp") or not entry.name.startswith("."):
                yield from _in_folder(path, top, most_bytes)
        elif entry.is_file() and not entry.name.startswith(".") and (_is_mbox(path) or _is_mail(path)):
            yield from _in_file(path, _below(path, top), most_bytes)


def _in_maildir(folder: Path, top: Path, most_bytes: int) -> Iterator[Found | Refused]:
    try:
        paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    except OSError as error:
        yield _unreadable(_below(folder, top), error)
        return
    for path in paths:
        yield from _one_mail(path, _below(path, top), most_bytes)


def _in_file(path: Path, shown: str, most_bytes: int) -> Iterator[Found | Refused]:
    if not path.is_file() and path.exists():  # a pipe would be waited for without end
        yield Refused(shown, "is neither a file nor a folder.")
    elif _is_mbox(path):
        yield from _in_mbox(path, shown, most_bytes)
    else:
        yield from _one_mail(path, shown, most_bytes)


def _one_mail(path: Path, shown: str, most_bytes: int) -> Iterator[Found | Refused]:
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= most_bytes else b""
    except OSError as error:
        yield _unreadable(shown, error)
        return
    size = max(size, len(data))
    yield Found(shown, data) if size <= most_bytes else _too_large(shown, size, most_bytes)


def _in_mbox(path: Path, shown: str, most_bytes: int) -> Iterator[Found | Refused]:
    """Split where the standard library's `mailbox.mbox` splits: at every line that begins with "From "."""
    try:
        with path.open("rb") as file:
            for number, (size, data) in enumerate(_split(file, most_bytes), start=1):
                name = f"{shown}#{number}"
                yield Found(name, data) if size <= most_bytes else _too_large(name, size, most_bytes)
    except OSError as error:
        yield _unreadable(shown, error)


def _split(file: BufferedReader, most_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Each message of an mbox as its size and its bytes; of a message that is too large only the size is true.

    The empty line before the next "From " belongs to the mbox, not to the message.
    """
    lines: list[bytes] = []
    size = 0
    inside = in_from_line = ends_empty = False
    line_begins = True  # what is read next begins a line, and is not the rest of a very long one
    while piece := file.readline(LINE_BYTES):
        if line_begins and piece.startswith(b"From "):
            if inside:
                yield _whole(lines, size, ends_empty)
            lines, size, inside, in_from_line, ends_empty = [], 0, True, True, False
        elif inside and not in_from_line:
            size += len(piece)
            if size <= most_bytes + 1:
                lines.append(piece)
            ends_empty = line_begins and piece == b"\n"
        line_begins = piece.endswith(b"\n")
        in_from_line = in_from_line and not line_begins
    if inside:
        yield _whole(lines, size, ends_empty)


def _whole(lines: list[bytes], size: int, ends_empty: bool) -> tuple[int, bytes]:
    data = b"".join(lines)
    return (size - 1, data.removesuffix(b"\n")) if ends_empty else (size, data)


def _is_mbox(path: Path) -> bool:
    if path.suffix:
        return path.suffix.lower() in MBOX_ENDINGS
    try:
        with path.open("rb") as file:
            return file.read(5) == b"From "
    except OSError:
        return False


def _is_mail(path: Path) -> bool:
    if path.suffix.lower() == ".eml":
        return True
    try:
        with path.open("rb") as file:
            return _begins_with_header(file.read(HEAD_BYTES))
    except OSError:
        return False


def _begins_with_header(head: bytes) -> bool:
    """Lines of fields and their continuations from the first on, two of them such as mails have. The sender's line
    with which an mbox begins a mail may stand before them."""
    lines = head.splitlines()
    if head.startswith(b"From "):
        del lines[0]
    known: set[bytes] = set()
    for number, line in enumerate(lines):
        if number and line[:1] in (b" ", b"\t"):
            continue
        field = _FIELD.match(line)
        if field is None:
            return False
        known |= _FIELDS & {field[1].lower()}
        if len(known) == 2:
            return True
    return False


def _unreadable(shown: str, error: OSError) -> Refused:
    return Refused(shown, f"could not be read: {error.strerror}.")


def _too_large(shown: str, size: int, most_bytes: int) -> Refused:
    return Refused(shown, f"has {size:,} bytes; a mail may have {most_bytes:,}, which is what fits into a message.")


def _below(path: Path, top: Path) -> str:
    return _shown(path.relative_to(top).as_posix())


def _shown(name: str) -> str:
    """File names are bytes to the system; what is no UTF-8 in one is written as it is escaped in Python."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
