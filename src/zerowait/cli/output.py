"""What every command shares in its manners: data on stdout, messages on stderr, colours, tables, exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

import click

OK = 0
FAILED = 1
MISUSED = 2  # a wrong option, an app that cannot be imported
UNAVAILABLE = 3  # a process does not answer, an outbox cannot be opened
PARTIAL = 4  # done for some and not for others
INTERRUPTED = 130
TERMINATED = 143


class Failure(Exception):
    """Ends the command with a sentence on stderr and one of the codes above."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.code = code

    def show(self) -> None:
        tell(f"{styled('error:', sys.stderr, fg='red', bold=True)} {self.message}")


def colours(stream: TextIO, env: Mapping[str, str] | None = None) -> bool:
    """NO_COLOR wins over CLICOLOR_FORCE over CLICOLOR; else a terminal gets colours, unless it is a dumb one."""
    env = os.environ if env is None else env
    if env.get("NO_COLOR"):
        return False
    if env.get("CLICOLOR_FORCE", "0") not in ("", "0"):
        return True
    return env.get("CLICOLOR") != "0" and env.get("TERM") != "dumb" and stream.isatty()


def styled(text: str, stream: TextIO, **style: Any) -> str:
    return click.style(text, **style) if colours(stream) else text


def tell(message: str) -> None:
    """A message for the person at the terminal, never data."""
    click.echo(message, err=True, color=colours(sys.stderr))


def give(line: str) -> None:
    """Data, for whoever reads stdout."""
    click.echo(line, color=colours(sys.stdout))


def give_json(value: object, *, indented: bool = False) -> None:
    from msgspec import json

    text = json.encode(value)
    give((json.format(text, indent=2) if indented else text).decode())


def give_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[str] = ()) -> None:
    """Columns with headings; right: which of them are numbers. By rich on a terminal, if that is installed."""
    rows = [list(row) for row in rows]
    numbers = set(right)
    if sys.stdout.isatty() and _give_rich_table(headings, rows, numbers):
        return
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]
    to_right = [heading in numbers for heading in headings]

    def line(cells: Sequence[str]) -> str:
        aligned = zip(cells, widths, to_right, strict=True)
        return "  ".join(cell.rjust(width) if at_right else cell.ljust(width) for cell, width, at_right in aligned)

    give(styled(line([heading.upper() for heading in headings]).rstrip(), sys.stdout, bold=True))
    for row in rows:
        give(line(row).rstrip())


def _give_rich_table(headings: Sequence[str], rows: Sequence[Sequence[str]], numbers: set[str]) -> bool:
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading.upper(), justify="right" if heading in numbers else "left")
    for row in rows:
        table.add_row(*[Text(cell) for cell in row])
    Console(no_color=not colours(sys.stdout)).print(table)
    return True


def tell_silent(silent: Mapping[str, str]) -> None:
    """Who did not answer, and why."""
    for who, reason in silent.items():
        tell(f"{styled('no answer:', sys.stderr, fg='yellow')} {who}: {reason}")


def age(at: datetime | None, now: datetime | None = None) -> str:
    """How long ago, in the one unit that matters: `340 ms`, `12 s`, `3 min`, `5 h`, `2 d`; nothing if never."""
    if at is None:
        return ""
    seconds = max(0.0, ((now or datetime.now(UTC)) - at).total_seconds())
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for limit, size, unit in ((100, 1, "s"), (6_000, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def local(at: datetime | None) -> str:
    """A time as the person at this machine reads it."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if at is not None else ""


def confirm(question: str, *, yes: bool) -> None:
    """Asks before what cannot be undone. Without a terminal there is nobody to ask: then only --yes will do."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Failure(f"{question} There is no terminal to confirm that: say --yes.", MISUSED)
    click.confirm(question, abort=True, err=True)
