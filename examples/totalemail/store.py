"""The shelf: an SQLite file in which the parts of each mail come together, in any order, as often as they like.

What is known of a mail is kept under its content, `(sha256, part)`; which mails of a run have which parts, under its
number in the run. A part that arrives again overwrites itself with the same and is counted: that is all the harm that a
second run of this handler can do. A report exists when the mail's three parts do.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import msgspec

from examples.totalemail.contracts import Intake, Part
from examples.totalemail.facts import Attachment, Headers
from examples.totalemail.report import Report

# NORMAL: a killed process loses nothing of what was committed. A power cut may, and here that is good enough.
SETUP = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS part (
    sha256 TEXT, part TEXT, facts BLOB NOT NULL, PRIMARY KEY (sha256, part)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mail (
    run TEXT, number INTEGER, file TEXT NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL,
    headers INTEGER NOT NULL DEFAULT 0,  -- how often that part has arrived
    urls INTEGER NOT NULL DEFAULT 0,
    attachments INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS intake (run TEXT PRIMARY KEY, said BLOB NOT NULL) WITHOUT ROWID;
"""

KEEP_PART = """
INSERT INTO part (sha256, part, facts) VALUES (?, ?, ?)
ON CONFLICT (sha256, part) DO UPDATE SET facts = excluded.facts
"""

KEEP_ARRIVAL = """
INSERT INTO mail (run, number, file, sha256, size, {part}) VALUES (?, ?, ?, ?, ?, 1)
ON CONFLICT (run, number) DO UPDATE SET {part} = {part} + 1
"""

KEEP_INTAKE = "INSERT INTO intake (run, said) VALUES (?, ?) ON CONFLICT (run) DO UPDATE SET said = excluded.said"

COUNTS = """
SELECT coalesce(sum(headers > 0), 0), coalesce(sum(urls > 0), 0), coalesce(sum(attachments > 0), 0),
       coalesce(sum(headers AND urls AND attachments), 0),
       coalesce(sum(max(headers - 1, 0) + max(urls - 1, 0) + max(attachments - 1, 0)), 0)
FROM mail WHERE run = ?
"""

REPORTS = """
SELECT mail.file, mail.sha256, mail.size, h.facts, u.facts, a.facts
FROM mail
JOIN part AS h ON h.sha256 = mail.sha256 AND h.part = 'headers'
JOIN part AS u ON u.sha256 = mail.sha256 AND u.part = 'urls'
JOIN part AS a ON a.sha256 = mail.sha256 AND a.part = 'attachments'
WHERE run = ? AND headers AND urls AND attachments
ORDER BY number
"""


class Counts(NamedTuple):
    """How far a run is: mails that have this part, mails that have all, and parts that arrived once more."""

    headers: int = 0
    urls: int = 0
    attachments: int = 0
    reports: int = 0
    repeats: int = 0


class Shelf:
    """One connection to the file, usable from any thread; other processes may have theirs.

    Raises sqlite3.Error when the file cannot be opened or written; nothing of the failed call is kept then.
    """

    def __init__(self, path: Path) -> None:
        self._lock = Lock()
        self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        self._db.executescript(SETUP)

    def keep(self, part: Part) -> None:
        """Committed when it returns, so the message may be settled then."""
        ticket = part.ticket
        name = str(part.__struct_config__.tag)
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            with self._db:
                self._db.execute(KEEP_PART, (ticket.sha256, name, msgspec.json.encode(part.facts)))
                self._db.execute(
                    KEEP_ARRIVAL.format(part=name),
                    (ticket.run, ticket.number, ticket.file, ticket.sha256, ticket.size),
                )

    def keep_intake(self, intake: Intake) -> None:
        with self._lock:
            self._db.execute(KEEP_INTAKE, (intake.run, msgspec.json.encode(intake)))

    def intake(self, run: str) -> Intake | None:
        """What ingest said at its end; None: it is still at work."""
        with self._lock:
            row = self._db.execute("SELECT said FROM intake WHERE run = ?", (run,)).fetchone()
        return None if row is None else msgspec.json.decode(row[0], type=Intake)

    def counts(self, run: str) -> Counts:
        with self._lock:
            return Counts(*self._db.execute(COUNTS, (run,)).fetchone())

    def missing(self, run: str, mails: int) -> Iterator[int]:
        """The numbers of 1 … mails that have no report."""
        with self._lock:
            rows = self._db.execute(
                "SELECT number FROM mail WHERE run = ? AND headers AND urls AND attachments ORDER BY number", (run,)
            ).fetchall()
        reported = {number for (number,) in rows}
        return (number for number in range(1, mails + 1) if number not in reported)

    def reports(self, run: str) -> Iterator[Report]:
        """Every report there is, in the order in which the mails were found."""
        with self._lock:
            for file, sha256, size, headers, urls, attachments in self._db.execute(REPORTS, (run,)):
                yield Report.of(
                    file,
                    sha256,
                    size,
                    msgspec.json.decode(headers, type=Headers),
                    msgspec.json.decode(urls, type=list[str]),
                    msgspec.json.decode(attachments, type=list[Attachment]),
                )

    def close(self) -> None:
        self._db.close()
