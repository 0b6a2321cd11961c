"""The display with bars; imported only where rich is installed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from time import monotonic
from typing import IO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from examples.totalemail.display import STAGES
from examples.totalemail.store import Counts


class Bars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._began = monotonic()
        self._tasks = {stage: progress.add_task(stage, total=None) for stage in STAGES}

    def show(self, counts: Counts, mails: int | None) -> None:
        for stage, task in self._tasks.items():
            self._progress.update(task, completed=getattr(counts, stage), total=mails)

    def say(self, sentence: str, strong: bool = False) -> None:
        style = "bold red" if strong else "default"
        self._progress.console.print(
            f"[dim]{monotonic() - self._began:6.1f} s[/]  [{style}]{escape(sentence)}[/]", highlight=False
        )


@contextmanager
def bars(stream: IO[str]) -> Generator[Bars]:
    columns = (
        TextColumn("  {task.description:<12}"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(file=stream)) as progress:
        yield Bars(progress)
