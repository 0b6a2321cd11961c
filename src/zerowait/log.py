"""What the library says while it runs, and how the command line writes it.

The library only calls `logging.getLogger("zerowait…")`: it adds no handler but a NullHandler, sets no level and never
touches the root, so that a program's own logging takes its lines as it takes anybody's. One logger for each room
(`zerowait.outbox`, `zerowait.links`, `zerowait.handlers`, …). Lines are sentences; the values in them are also fields
of the record (`extra={"channel": …, "message_id": …}`), for who writes JSON or filters. No payload is ever logged.

| level | for |
|---|---|
| ERROR | somebody has to act: messages are lost or cannot move until then |
| WARNING | something waits and will stay so: nobody serves a channel, a dead letter, messages left behind |
| INFO | the life of a process: started, a peer came or went, draining, stopped |
| DEBUG | each step: a link's phases, commits, windows |

`zerowait run` writes them to stderr with the two formatters here, and leaves everything alone if the program that it
imported has set up logging itself.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from msgspec import json

ROOT = "zerowait"

# What every record has; the rest of its attributes came by `extra`.
_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """`2026-03-04 05:06:07.089 warning zerowait.links  nobody serves mail.prase; did you mean mail.parse?`

    The date is left out for a terminal, where somebody is looking now. Times are local. which: of several processes
    that write to one place, each says its number: `zerowait.links[4711]`.
    """

    def __init__(self, *, dated: bool = True, coloured: bool = False, which: bool = False) -> None:
        super().__init__()
        self._which = which
        self._form = "%Y-%m-%d %H:%M:%S" if dated else "%H:%M:%S"
        self._coloured = coloured

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone().strftime(self._form)
        level = f"{record.levelname.lower():<7}"
        if self._coloured and record.levelno >= logging.WARNING:
            level = f"\x1b[{31 if record.levelno >= logging.ERROR else 33}m{level}\x1b[0m"
        name = f"{record.name}[{record.process}]" if self._which else record.name
        line = f"{at}.{int(record.msecs):03d} {level} {name}  {record.getMessage()}"
        return "\n".join([line, *_trouble(self, record)])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: at (ISO 8601, UTC), level, logger, message, the fields given by `extra`, and error if the
    record has an exception (its traceback, without local variables). which: as for text, in the field process."""

    def __init__(self, *, which: bool = False) -> None:
        super().__init__()
        self._which = which

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._which:
            line["process"] = record.process
        line.update((name, value) for name, value in vars(record).items() if name not in _ORDINARY)
        if trouble := _trouble(self, record):
            line["error"] = "\n".join(trouble)
        return json.encode(line, enc_hook=repr).decode()


def configure(
    level: str,
    form: Literal["text", "json"],
    stream: TextIO | None = None,
    *,
    coloured: bool = False,
    which: bool = False,
) -> bool:
    """Writes the log of the whole process to the stream (else stderr), from `level` on. For programs, not libraries.
    which: each line says of which process it is.

    False, and nothing was changed, if the root logger has handlers already: then the program has decided for itself.
    """
    root = logging.getLogger()
    if root.handlers:
        return False
    to = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(to)
    text = TextFormatter(dated=not to.isatty(), coloured=coloured, which=which)
    handler.setFormatter(JsonFormatter(which=which) if form == "json" else text)
    root.addHandler(handler)
    root.setLevel(level.upper())
    return True


def _trouble(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    found = [formatter.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
    if record.stack_info:
        found.append(formatter.formatStack(record.stack_info))
    return found
