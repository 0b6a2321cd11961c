"""The services. Each is an App of its own, run by `zerowait run examples.totalemail.services:parse` and so on.

None of them knows where another runs or whether it runs at all: what they say to one another is in `contracts`, and
what is pushed to a service that is away waits on the sender's disk until it is back.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from examples.totalemail import facts
from examples.totalemail.contracts import (
    ATTACHMENTS,
    HEADERS,
    INTAKE,
    PARSE,
    STORE,
    URLS,
    AttachmentsPart,
    HeadersPart,
    Intake,
    RawMail,
    Ticket,
    ToAttachments,
    ToHeaders,
    ToUrls,
    UrlsPart,
)
from examples.totalemail.journal import Journal
from examples.totalemail.lifeline import lifeline
from examples.totalemail.store import Shelf
from zerowait import App, Context, Retry

STORE_VARIABLE = "TOTALEMAIL_STORE"
JOURNAL_VARIABLE = "TOTALEMAIL_JOURNAL"
PAUSE_VARIABLE = "TOTALEMAIL_PAUSE"  # "seconds first last": what mails of these numbers are made to take

# The same bytes give the same failure: a mail that cannot be parsed is a dead letter at once.
ONCE = Retry(attempts=1)


class Bench:
    """The workplace of `attachments` in the demonstration: where it notes what it does, and what takes longer there."""

    def __init__(self, journal: Journal, pause: str) -> None:
        seconds, first, last = pause.split()
        self.journal = journal
        self._seconds, self._slow = float(seconds), range(int(first), int(last) + 1)

    def pause(self, number: int) -> float:
        return self._seconds if number in self._slow else 0.0


@contextmanager
def bench() -> Generator[Bench | None]:
    path = os.environ.get(JOURNAL_VARIABLE)
    with lifeline():
        if path is None:
            yield None
        else:
            journal = Journal(Path(path))
            yield Bench(journal, os.environ.get(PAUSE_VARIABLE, "0 0 0"))
            journal.close()


@contextmanager
def shelf() -> Generator[Shelf]:
    with lifeline():
        opened = Shelf(Path(os.environ.get(STORE_VARIABLE, "totalemail.db")))
        yield opened
        opened.close()


parse = App("totalemail-parse", resources=lifeline)
headers = App("totalemail-headers", resources=lifeline)
urls = App("totalemail-urls", resources=lifeline)
attachments = App("totalemail-attachments", resources=bench)
store = App("totalemail-store", resources=shelf)


# Two threads: parsing is all Python, which runs one at a time; the second is there while the first waits for nothing.
@parse.pull(PARSE, concurrency=2, retry=ONCE)
def take_apart(mail: RawMail, ctx: Context) -> None:
    parsed = facts.parse(mail.data)
    texts, leaves = facts.texts(parsed), facts.leaves(parsed)
    ticket = Ticket(mail.run, mail.number, mail.file, sha256(mail.data).hexdigest(), len(mail.data))
    ctx.push(HEADERS, ToHeaders(ticket, facts.outline(parsed)))
    ctx.push(URLS, ToUrls(ticket, texts))
    ctx.push(ATTACHMENTS, ToAttachments(ticket, leaves))


@headers.pull(HEADERS, to=STORE, retry=ONCE)
async def read_headers(mail: ToHeaders) -> HeadersPart:
    return HeadersPart(mail.ticket, facts.headers(mail.outline))


@urls.pull(URLS, to=STORE, retry=ONCE)
async def find_urls(mail: ToUrls) -> UrlsPart:
    return UrlsPart(mail.ticket, facts.urls(mail.texts))


# Many at once: what a real service does with an attachment (ask a scanner, ask another team) is mostly waiting.
@attachments.pull(ATTACHMENTS, to=STORE, concurrency=64, retry=ONCE)
async def weigh(mail: ToAttachments, ctx: Context[Bench | None]) -> AttachmentsPart:
    if ctx.resources is None:
        return AttachmentsPart(mail.ticket, facts.attachments(mail.leaves))
    with ctx.resources.journal.entry(mail.ticket.number):
        await asyncio.sleep(ctx.resources.pause(mail.ticket.number))
        return AttachmentsPart(mail.ticket, facts.attachments(mail.leaves))


@store.pull(STORE, concurrency=1)
def keep(part: HeadersPart | UrlsPart | AttachmentsPart, ctx: Context[Shelf]) -> None:
    ctx.resources.keep(part)


@store.pull(INTAKE, concurrency=1)
def keep_intake(intake: Intake, ctx: Context[Shelf]) -> None:
    ctx.resources.keep_intake(intake)


# Two services in one process, because they are small.
details = App("totalemail-details", resources=lifeline)
details.include(headers)
details.include(urls)
