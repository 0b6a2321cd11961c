"""One run: a folder, a namespace of its own, and the loop that follows the mails until all are accounted for."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from threading import current_thread, main_thread
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
        own = f"totalemail-{self.id}"
        self.env = {
            "ZEROWAIT_HOME": str(folder / "home"),
            "ZEROWAIT_NAMESPACE": own,
            **{name: value for name, value in os.environ.items() if not name.startswith("TOTALEMAIL_")},
            STORE_VARIABLE: str(store or folder / "totalemail.db"),
        }
        # What our namespace holds in a home of the user's own; a namespace of the user's is not ours to remove.
        is_own = self.env["ZEROWAIT_NAMESPACE"] == own
        self.state = Path(self.env["ZEROWAIT_HOME"]).expanduser() / own if is_own else None
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
            with _undisturbed():
                for each in [folder, *([run.state] if run is not None and run.state is not None else [])]:
                    shutil.rmtree(each, ignore_errors=True)


@contextmanager
def _undisturbed() -> Generator[None]:
    """Who presses Ctrl-C again while the files are removed gets them removed all the same."""
    if current_thread() is not main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    run: Run,
    crew: Crew,
    display: Display,
    patience: float,
    at_news: Callable[[Counts, Intake | None], None],
    mails: int | None = None,
) -> Ending:
    """Watch until every mail has a report or is dead, or nothing has moved for `patience` seconds.

    at_news is called again and again with how far the run is and, once ingest has ended, what it said. mails:
    how many there will be, if that is known before. Raises CrewError when a process cannot be kept running, or nothing
    moves before ingest has ended.
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
        display.show(counts, intake.mails if intake else mails)
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
