"""What is said of a mail: pure functions from bytes to facts, which know nothing of zerowait.

Mails are hostile. Nothing here opens, resolves or fetches what a mail names; bytes are parsed, counted and hashed. The
parser is the standard library's under its `compat32` policy: the only one that takes every byte sequence that calls
itself a mail and gives the same for it in every Python.
"""

from __future__ import annotations

import email
import re
from collections.abc import Iterable, Iterator
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from email.policy import compat32
from email.utils import parseaddr
from hashlib import sha256

from msgspec import Struct, field

URL = re.compile(r"https?://[^\s<>\"']+", re.IGNORECASE)
SURROGATE = re.compile("[\ud800-\udfff]")
# The first of each is what a reader of the mail sees; all others say how it travelled.
WANTED = frozenset({"subject", "from", "message-id"})
READABLE = frozenset({"text/plain", "text/html"})


class Outline(Struct, frozen=True):
    """A mail's shape, and its first subject, from and message-id as they stand in it."""

    fields: dict[str, bytes]
    content_types: list[str]
    n_leaf_parts: int
    defects: list[str]


class Text(Struct, frozen=True):
    """A body that a person reads, transfer encoding undone, still in its own charset."""

    data: bytes
    charset: str


class Leaf(Struct, frozen=True):
    """An attachment, transfer encoding undone."""

    filename: str | None
    content_type: str
    data: bytes


class Headers(Struct, frozen=True):
    """Subject and sender in readable characters (None: the mail has no such header), and the shape of the mail."""

    subject: str | None
    from_: str | None = field(name="from")
    from_name: str | None
    from_address: str | None
    message_id: str | None
    content_types: list[str]
    n_leaf_parts: int
    defects: list[str]


class Attachment(Struct, frozen=True):
    filename: str | None
    content_type: str
    size: int
    sha256: str


def parse(raw: bytes) -> Message:
    return email.message_from_bytes(raw)


def outline(mail: Message) -> Outline:
    """The shape of a mail and its undecoded headers.

    Ask for it after `texts` and `leaves`: a base64 body shows its defects only when somebody decodes it.
    """
    parts = list(mail.walk())
    return Outline(
        fields=_fields(mail),
        content_types=[_printable(part.get_content_type()) for part in parts],
        n_leaf_parts=sum(not part.is_multipart() for part in parts),
        defects=sorted({type(defect).__name__ for part in parts for defect in part.defects}),
    )


def texts(mail: Message) -> list[Text]:
    """The bodies that a person reads, still in their own charset."""
    return [
        Text(data=_payload(part), charset=_charset(part))
        for part in _leaf_parts(mail)
        if not _is_attachment(part) and part.get_content_type() in READABLE
    ]


def leaves(mail: Message) -> list[Leaf]:
    """The attachments: leaf parts that say so, or that have a file name."""
    return [
        Leaf(filename=_filename(part), content_type=_printable(part.get_content_type()), data=_payload(part))
        for part in _leaf_parts(mail)
        if _is_attachment(part)
    ]


def headers(outline: Outline) -> Headers:
    fields = outline.fields
    sender = _decoded(fields, "from")
    name, address = parseaddr(sender or "")
    message_id = fields.get("message-id")
    return Headers(
        subject=_decoded(fields, "subject"),
        from_=sender,
        from_name=name or None,
        from_address=address or None,
        message_id=None if message_id is None else str(_as_parsed("message-id", message_id)).strip(),
        content_types=outline.content_types,
        n_leaf_parts=outline.n_leaf_parts,
        defects=outline.defects,
    )


def urls(bodies: Iterable[Text]) -> list[str]:
    """Every http(s) address in the bodies, once, sorted. Not trimmed, not unescaped, never visited."""
    return sorted({_printable(url) for body in bodies for url in URL.findall(_characters(body))})


def attachments(parts: Iterable[Leaf]) -> list[Attachment]:
    return [
        Attachment(
            filename=leaf.filename,
            content_type=leaf.content_type,
            size=len(leaf.data),
            sha256=sha256(leaf.data).hexdigest(),
        )
        for leaf in parts
    ]


def _leaf_parts(mail: Message) -> Iterator[Message]:
    return (part for part in mail.walk() if not part.is_multipart())


def _is_attachment(part: Message) -> bool:
    return part.get_content_disposition() == "attachment" or bool(part.get_filename())


def _payload(part: Message) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _charset(part: Message) -> str:
    return _printable(part.get_content_charset() or "utf-8")


def _filename(part: Message) -> str | None:
    name = part.get_filename()
    return " ".join(_printable(name).split()) if name else None


def _characters(body: Text) -> str:
    try:
        return body.data.decode(body.charset, errors="replace")
    except (LookupError, ValueError):  # a charset that Python does not know, or that is no text encoding
        return body.data.decode("latin-1")


def _fields(mail: Message) -> dict[str, bytes]:
    """The first of each wanted header, as the bytes of the mail.

    Headers that a parser of str has read can hold lone surrogates in place of 8-bit bytes, which no encoding carries.
    """
    found: dict[str, bytes] = {}
    for name, value in mail.raw_items():
        if name.lower() in WANTED:
            found.setdefault(name.lower(), str(value).encode("utf-8", "surrogateescape"))
    return found


def _as_parsed(name: str, value: bytes) -> object:
    """What `Message.get` gives for it: a str, or a `Header` of unknown charset if it holds 8-bit bytes."""
    return compat32.header_fetch_parse(name, value.decode("ascii", "surrogateescape"))


def _decoded(fields: dict[str, bytes], name: str) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    parsed = _as_parsed(name, value)
    try:
        text = str(make_header(decode_header(parsed)))  # type: ignore[arg-type]
    except (HeaderParseError, LookupError, ValueError):  # broken base64, an unknown charset: as it stands
        text = str(parsed)
    return " ".join(_printable(text).split())


def _printable(text: str) -> str:
    """Without the lone surrogates that stand for undecodable bytes: neither JSON nor msgpack can carry them."""
    return SURROGATE.sub("\ufffd", text)
