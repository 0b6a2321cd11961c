"""One run: a folder, a namespace of its own, and the loop that follows the mails until all are accounted for."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from time import monotonic, sleep

from msgspec import Struct

from examples.totalemail.contracts import Intake
from examples.totalemail.crew import Crew, CrewError
from examples.totalemail.dead import DeadLetter, dead_letters, is_settled
from examples.totalemail.display import Display
from examples.totalemail.services import STORE_VARIABLE
from examples.totalemail.store import Counts, Shelf

STALLED = 2.5  # seconds without news after which it is asked whether anything is still on its way
ASK_AGAIN = 1.0


class Run:
    """Where a run has its files, and what its processes are told by their environment.

    folder: removed at the end, unless `keep` is set by then. id: so that what an earlier run left in a home of the
    user's own is not taken for ours.
    """

    def __init__(self, folder: Path, store: Path | None) -> None:
        self.id = token_hex(8)
        self.folder = folder
        self.keep = False
        self.env = {
            "ZEROWAIT_HOME": str(folder / "home"),
            "ZEROWAIT_NAMESPACE": f"totalemail-{self.id}",
            **{name: value for name, value in os.environ.items() if not name.startswith("TOTALEMAIL_")},
            STORE_VARIABLE: str(store or folder / "totalemail.db"),
        }
        self.shelf = Shelf(Path(self.env[STORE_VARIABLE]))


@contextmanager
def new_run(store: Path | None = None) -> Generator[Run]:
    folder = Path(tempfile.mkdtemp(prefix="totalemail-"))
    run = None
    try:
        run = Run(folder, store)
        yield run
    except CrewError as error:
        if run is not None:
            run.keep = True
        raise CrewError(f"{error}\nThe logs of the processes are in {folder}.") from None
    finally:
        if run is not None:
            run.shelf.close()
        if run is None or not run.keep:
            shutil.rmtree(folder, ignore_errors=True)


class Ending(Struct):
    """How a run ended. Seconds are from the start of its processes to its last report."""

    intake: Intake
    counts: Counts
    dead: list[DeadLetter]
    seconds: float

    @property
    def n_dead(self) -> int:
        """Mails, not letters: one mail can be dead at two services."""
        return len({letter.number for letter in self.dead if letter.number is not None})

    @property
    def lost(self) -> int:
        return self.intake.mails - self.counts.reports - self.n_dead


def follow(
    run: Run, crew: Crew, display: Display, patience: float, at_news: Callable[[Counts, Intake | None], None]
) -> Ending:
    """Watch until every mail has a report or is dead, or nothing has moved for `patience` seconds.

    at_news is called again and again with how far the run is and, once ingest has ended, what it said. Raises
    CrewError when a process cannot be kept running, or nothing moves before ingest has ended.
    """
    began = moved = monotonic()
    asked = 0.0
    before = Counts()
    settled = 0
    while True:
        looked = monotonic()
        intake, counts = run.shelf.intake(run.id), run.shelf.counts(run.id)
        looking = monotonic() - looked
        for sentence in crew.mend():
            display.say(sentence)
        at_news(counts, intake)
        display.show(counts, intake.mails if intake else None)
        if counts != before:
            before, moved, settled = counts, looked, 0
        quiet = looked - moved
        if intake is None and quiet > patience:
            words = crew.last_words("ingest")
            raise CrewError(
                f"Nothing has moved for {quiet:.0f} s, and ingest is not at its end. Its last words:\n{words}"
            )
        if intake is not None:
            if quiet > STALLED and looked - asked > ASK_AGAIN:
                # Asked twice, for the processes answer one after another and a message may move on meanwhile.
                settled, asked = settled + 1 if is_settled(run.env) else 0, monotonic()
            if counts.reports >= intake.mails or settled >= 2 or quiet > patience:
                counts = run.shelf.counts(run.id)  # what was settled while we asked
                dead = dead_letters(run.env, run.id) if counts.reports < intake.mails else []
                return Ending(intake, counts, dead, moved - began)
        sleep(max(0.1, 5 * looking))  # a large run is looked at less often
