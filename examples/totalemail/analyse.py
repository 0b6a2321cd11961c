"""Analyse mails: start the services, push everything in, and write what they found as soon as all is accounted for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from examples.totalemail.crew import SERVICES, Crew
from examples.totalemail.display import display
from examples.totalemail.mailboxes import TAKEN
from examples.totalemail.report import write_lines
from examples.totalemail.run import Ending, Run, follow, new_run


def analyse(paths: Sequence[Path], json: IO[bytes] | None, store: Path | None, patience: float) -> int:
    """Gives the exit code: 0, every mail has a report; 1, some have none (too large, dead, or missing).

    json: where the reports go, a line each. Everything else is said on standard error.
    """
    with new_run(store) as run:
        with Crew(run.folder, run.env) as crew, display(sys.stderr) as shown:
            for service in SERVICES:
                crew.start(service)
            crew.start_ingest(run.id, paths, rounds=1)
            ending = follow(run, crew, shown, patience, lambda counts, intake: None)
        if json is not None:
            write_lines(run.shelf.reports(run.id), json)
            json.flush()
        complete = _tell(ending, run)
        run.keep = bool(ending.dead or ending.lost)
    return 0 if complete else 1


def _tell(ending: Ending, run: Run) -> bool:
    """Say how it ended, a line for each mail that has no report; True: there is none."""
    intake = ending.intake
    for sentence in intake.refused:
        _say(f"refused: {sentence}")
    if intake.n_refused > len(intake.refused):
        _say(f"refused: {intake.n_refused - len(intake.refused):,} more")
    for letter in ending.dead:
        _say(f"dead: {letter.file or letter.id} at {letter.channel}: {letter.reason}")
    died = {letter.number for letter in ending.dead}
    if ending.lost:
        missing = [number for number in run.shelf.missing(run.id, intake.mails) if number not in died]
        shown = ", ".join(f"{number:,}" for number in missing[:20])
        _say(f"missing: mails number {shown}{' …' if len(missing) > 20 else ''}: nothing has moved for too long")
    if ending.dead or ending.lost:
        place = f"ZEROWAIT_HOME={run.env['ZEROWAIT_HOME']} ZEROWAIT_NAMESPACE={run.env['ZEROWAIT_NAMESPACE']}"
        _say(f"Nothing is thrown away. Logs are in {run.folder}; dead letters: {place} zerowait dead list")
    if not intake.mails:
        _say(f"No mails were found there. {TAKEN}")
    parts = [_count(intake.mails, "mail"), _count(ending.counts.reports, "report")]
    for count, word in ((intake.n_refused, "refused"), (ending.n_dead, "dead"), (ending.lost, "missing")):
        if count:
            parts.append(f"{count:,} {word}")
    _say(f"{', '.join(parts)}, {ending.seconds:.1f} s")
    return bool(intake.mails) and not (intake.n_refused or ending.dead or ending.lost)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)
