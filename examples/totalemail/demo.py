"""The demonstration: mails through five processes, one of which is killed about half-way; nothing is lost."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from time import monotonic

from click import echo, style

from examples.totalemail.contracts import MAIL_BYTES, Intake
from examples.totalemail.crew import SERVICES, Crew
from examples.totalemail.display import Display, display
from examples.totalemail.journal import Witness
from examples.totalemail.mailboxes import TAKEN, Found, search
from examples.totalemail.run import Ending, follow, new_run
from examples.totalemail.services import JOURNAL_VARIABLE, PAUSE_VARIABLE
from examples.totalemail.store import Counts

OWN_MAILS = Path(__file__).resolve().parent / "mails"
# 64 at once, each made to take 0.2 s, are 320 mails/s at most: some five seconds on any machine that can do more, and
# at least 20 in flight on every machine that can do 100/s. Of more mails than these only the middle ones take so long.
MAILS = 1_500
PAUSE = 0.2
VICTIM = "attachments"
IN_FLIGHT = 20  # what is promised
ENOUGH = IN_FLIGHT + 4  # a few may end between the look and the kill

PICTURE = f"""
  ingest ──▶ parse ──┬──▶ headers ──────┐
                     ├──▶ urls ─────────┼──▶ store ──▶ report
                     └──▶ attachments ──┘

  Five processes (headers and urls share one) that never wait for one another.
  About half-way, {VICTIM} is killed with SIGKILL in the middle of its work, and started again.
"""


class Accident:
    """Kills the victim when half of the reports are there and enough is in flight, and starts it again."""

    def __init__(self, crew: Crew, witness: Witness, shown: Display) -> None:
        self._crew, self._witness, self._shown = crew, witness, shown
        self._killed_at = 0.0
        self._announced = False
        self.in_flight: frozenset[int] | None = None  # the mails that the victim died over

    def watch(self, counts: Counts, intake: Intake | None) -> None:
        self._witness.look()
        if self.in_flight is not None:
            self._watch_return()
        elif intake is not None and counts.reports * 2 >= intake.mails and self._is_busy():
            self._kill()

    def _is_busy(self) -> bool:
        return len(self._witness.in_flight_at(self._crew.pid(VICTIM))) >= ENOUGH

    def _kill(self) -> None:
        dead = self._crew.kill(VICTIM)
        self._killed_at = monotonic()
        self._witness.look()
        self.in_flight = self._witness.in_flight_at(dead)
        self._shown.say(f"SIGKILL to {VICTIM} (process {dead}), which was working on {len(self.in_flight)} mails", True)
        self._shown.say(f"{VICTIM} started again as process {self._crew.start(VICTIM)}")

    def _watch_return(self) -> None:
        if not self._announced and self.in_flight and self.in_flight <= self._witness.redelivered():
            self._announced = True
            seconds = monotonic() - self._killed_at
            self._shown.say(f"all {len(self.in_flight)} are being worked on again, {seconds:.1f} s after the kill")


def demo(paths: Sequence[Path], rounds: int | None) -> int:
    """Gives the exit code: 0 if nothing was lost and what died with the worker was delivered again; 1 otherwise."""
    paths = paths or [OWN_MAILS]
    n_mails = sum(isinstance(found, Found) for found in search(paths, MAIL_BYTES))
    if not n_mails:
        echo(f"No mails were found at {', '.join(map(str, paths))}. {TAKEN}", err=True)
        return 1
    rounds = rounds or ceil(MAILS / n_mails)
    echo(f"\n{style('totalemail', bold=True)}: {n_mails:,} mails, pushed {_times(rounds)}\n{PICTURE}")
    with new_run() as run:
        journal = run.folder / "journal"
        env = {**run.env, JOURNAL_VARIABLE: str(journal), PAUSE_VARIABLE: _pause(n_mails * rounds)}
        witness = Witness(journal)
        with Crew(run.folder, env) as crew, display(sys.stdout) as shown:
            for service in SERVICES:
                crew.start(service)
            crew.start_ingest(run.id, paths, rounds)
            accident = Accident(crew, witness, shown)
            ending = follow(run, crew, shown, patience=60.0, at_news=accident.watch, mails=n_mails * rounds)
        witness.look()
        faults = _faults(ending, accident.in_flight, len(witness.redelivered()))
        _table(ending, accident.in_flight, len(witness.redelivered()), faults)
        run.keep = bool(faults)
        if faults:
            echo(f"The logs of the processes are in {run.folder}.", err=True)
    return 1 if faults else 0


def _times(rounds: int) -> str:
    return "once" if rounds == 1 else f"{rounds:,} times over"


def _pause(n_mails: int) -> str:
    middle = n_mails // 2
    return f"{PAUSE} {max(1, middle - MAILS // 2)} {middle + MAILS // 2 + 1}"


def _faults(ending: Ending, in_flight: frozenset[int] | None, redelivered: int) -> list[str]:
    faults: list[str] = []
    if ending.lost:
        faults.append(f"{ending.lost:,} mails have no report and are not dead.")
    if in_flight is None:
        faults.append(f"{VICTIM} was not killed: it never had {ENOUGH} mails in flight in the second half of the run.")
    elif len(in_flight) < IN_FLIGHT:
        faults.append(f"{VICTIM} had only {len(in_flight)} mails in flight when it was killed.")
    elif not redelivered:
        faults.append("Nothing was delivered again after the kill.")
    if ending.counts.repeats:
        faults.append(
            f"{ending.counts.repeats:,} parts arrived twice: what a handler sends leaves once, however often it ran."
        )
    return faults


def _table(ending: Ending, in_flight: frozenset[int] | None, redelivered: int, faults: list[str]) -> None:
    rate = ending.counts.reports / max(ending.seconds, 0.001)
    rows = [
        ("mails in", f"{ending.intake.mails:,}", "pushed by ingest"),
        ("reports out", f"{ending.counts.reports:,}", "headers, urls and attachments of a mail together"),
        ("in flight", f"{len(in_flight or ()):,}", f"begun by {VICTIM} and not ended when it was killed"),
        (
            "redelivered",
            f"{redelivered:,}",
            "begun again by its successor; may be more: also what it had ended and not yet reported",
        ),
        (
            "repeated",
            f"{ending.counts.repeats:,}",
            "parts that arrived in the store twice, though their mail was done twice",
        ),
        ("lost", f"{ending.lost:,}", "mails in, less reports out and dead letters"),
        ("time", f"{ending.seconds:.1f} s", f"{rate:,.0f} mails a second"),
    ]
    if ending.dead:
        rows.insert(4, ("dead letters", f"{ending.n_dead:,}", "could not be parsed; kept, with the reason"))
    echo()
    for name, value, meaning in rows:
        echo(f"  {style(f'{name:<13}', bold=True)}{value:>8}   {meaning}")
    echo()
    for file, reason in sorted({(letter.file or letter.id, letter.reason) for letter in ending.dead}):
        echo(f"  dead: {file}: {reason}")
    for fault in faults:
        echo(style(f"  FAILED: {fault}", fg="red"))
    if not faults:
        echo(style("  Every mail is accounted for.", fg="green"))
    echo()
