"""What a person sees while a run lasts: bars on a terminal, a line a second everywhere else."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from time import monotonic
from typing import IO, Protocol

from examples.totalemail.store import Counts

STAGES = ("headers", "urls", "attachments", "reports")


class Display(Protocol):
    def show(self, counts: Counts, mails: int | None) -> None:
        """How far the run is; mails: how many there are, None until that is known."""

    def say(self, sentence: str, strong: bool = False) -> None:
        """Something happened."""


@contextmanager
def display(stream: IO[str]) -> Generator[Display]:
    """Bars, if the stream is a terminal and rich is installed (`pip install zerowait[rich]`); lines otherwise."""
    if stream.isatty():
        try:
            from examples.totalemail.bars import bars
        except ImportError:
            pass
        else:
            with bars(stream) as shown:
                yield shown
            return
    yield Lines(stream)


class Lines:
    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._began = monotonic()
        self._said = 0.0

    def show(self, counts: Counts, mails: int | None) -> None:
        now = monotonic()
        if now - self._said < 1.0:
            return
        self._said = now
        done = ", ".join(f"{stage} {getattr(counts, stage):,}" for stage in STAGES)
        self._line(f"{done}{'' if mails is None else f' of {mails:,}'}")

    def say(self, sentence: str, strong: bool = False) -> None:
        self._line(f"{'** ' if strong else ''}{sentence}")

    def _line(self, text: str) -> None:
        print(f"{monotonic() - self._began:6.1f} s  {text}", file=self._stream, flush=True)
