"""The entrance: pushes every mail it finds, one message a mail, and never waits for whoever parses them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from examples.totalemail.contracts import INTAKE, MAIL_BYTES, PARSE, Intake, RawMail
from examples.totalemail.lifeline import lifeline
from examples.totalemail.mailboxes import Found, search
from zerowait import Client

STAY = 7 * 24 * 3600.0  # seconds
SENTENCES = 1_000


class Entrance:
    """Finds the mails of a run and counts them while they are taken from it."""

    def __init__(self, run: str, paths: Sequence[Path], rounds: int = 1) -> None:
        self._run, self._paths, self._rounds = run, paths, rounds
        self.mails = 0
        self.n_refused = 0
        self.refused: list[str] = []

    def __iter__(self) -> Iterator[RawMail]:
        for lap in range(self._rounds):
            for found in search(self._paths, MAIL_BYTES):
                if isinstance(found, Found):
                    self.mails += 1
                    yield RawMail(self._run, self.mails, found.file, found.data)
                elif lap == 0:
                    self.n_refused += 1
                    if len(self.refused) < SENTENCES:
                        self.refused.append(f"{found.file} {found.reason}")

    def said(self) -> Intake:
        return Intake(self._run, self.mails, self.n_refused, self.refused)


def ingest(run: str, paths: Sequence[Path], rounds: int = 1) -> None:
    """Push all mails at these paths, `rounds` times over, and stay until workers have taken them."""
    with lifeline(), Client("totalemail-ingest") as zw:
        entrance = Entrance(run, paths, rounds)
        zw.push_all(PARSE, entrance).result()
        zw.push(INTAKE, entrance.said())
        # It could leave now, for all is on disk and others of this machine would deliver it. It stays while somebody
        # takes mails from it, so that what is waiting is waiting in a process that can be looked at.
        for channel in (PARSE, INTAKE):
            zw.workers(channel).at_least(1).result()
        zw.close(drain=STAY).result()
