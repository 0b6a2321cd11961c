"""A bar that shows how far a loader is."""

from __future__ import annotations

import importlib.util
import time

from zerowait.errors import UsageError

BAR_S = 0.1  # how often a bar is drawn anew


def check_progress(progress: bool) -> None:
    """Raises UsageError if bars are asked for and cannot be shown."""
    if progress and importlib.util.find_spec("rich") is None:
        raise UsageError("progress=True needs rich: pip install 'zerowait[rich]'.")


class Bar:
    """On stderr, as all that is not the program's own output. label: before it. total: None if it is not known."""

    def __init__(self, label: str, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._bar = Progress(console=Console(stderr=True))
        self._task = self._bar.add_task(label, total=total)
        self._drawn = 0.0

    def start(self) -> None:
        self._bar.start()

    def show(self, count: int) -> None:
        now = time.monotonic()
        if now - self._drawn >= BAR_S:
            self._drawn = now
            self._bar.update(self._task, completed=count)

    def stop(self, count: int) -> None:
        self._bar.update(self._task, completed=count)
        self._bar.stop()
