"""What the services say to one another: the channels and the values that travel on them.

A service needs this file and nothing else of the others.

    ingest ─▶ PARSE ─▶ parse ─┬▶ HEADERS ─────▶ headers ─────┐
                              ├▶ URLS ────────▶ urls ────────┼▶ STORE ─▶ store
                              └▶ ATTACHMENTS ─▶ attachments ─┘            ▲
    ingest ─────────────────────────── INTAKE ───────────────────────────┘
"""

from __future__ import annotations

from msgspec import Struct

from examples.totalemail.facts import Attachment, Headers, Leaf, Outline, Text
from zerowait import PushChannel

# A message may have 16 MiB. What is around the mail in it (run, file name, lengths) needs a little of that.
MAIL_BYTES = 16 * 1024 * 1024 - 64 * 1024


class RawMail(Struct, frozen=True):
    """One mail as its bytes: the `number`-th (from 1) of the run, found in `file`."""

    run: str
    number: int
    file: str
    data: bytes


class Ticket(Struct, frozen=True):
    """Which mail of which run a part belongs to. Two files may hold the same mail: then only `sha256` is the same."""

    run: str
    number: int
    file: str
    sha256: str
    size: int


class ToHeaders(Struct, frozen=True):
    ticket: Ticket
    outline: Outline


class ToUrls(Struct, frozen=True):
    ticket: Ticket
    texts: list[Text]


class ToAttachments(Struct, frozen=True):
    ticket: Ticket
    leaves: list[Leaf]


class HeadersPart(Struct, frozen=True, tag="headers"):
    ticket: Ticket
    facts: Headers


class UrlsPart(Struct, frozen=True, tag="urls"):
    ticket: Ticket
    facts: list[str]


class AttachmentsPart(Struct, frozen=True, tag="attachments"):
    ticket: Ticket
    facts: list[Attachment]


Part = HeadersPart | UrlsPart | AttachmentsPart


class Intake(Struct, frozen=True):
    """What ingest has to say at its end: how many mails it pushed, and what it did not take, a sentence each.

    Of very many sentences only the first are said; `n_refused` counts all.
    """

    run: str
    mails: int
    n_refused: int
    refused: list[str]


PARSE = PushChannel[RawMail]("totalemail.parse")
HEADERS = PushChannel[ToHeaders]("totalemail.headers")
URLS = PushChannel[ToUrls]("totalemail.urls")
ATTACHMENTS = PushChannel[ToAttachments]("totalemail.attachments")
STORE = PushChannel[HeadersPart | UrlsPart | AttachmentsPart]("totalemail.store")
INTAKE = PushChannel[Intake]("totalemail.intake")
