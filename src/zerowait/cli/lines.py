"""The messages that a command is given: JSON as an argument, or a line each on stdin."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from zerowait.cli.output import MISUSED, Failure, tell


def messages(given: str) -> Iterator[tuple[int | None, object]]:
    """The messages and the lines they stand on; no line for one that was given as an argument."""
    from msgspec import json

    if given != "-":
        try:
            yield None, json.decode(given)
        except (ValueError, RecursionError):
            hint = "" if given[:1] in '{["' else f" For the text itself write '\"{given}\"'."
            raise Failure(f"the message is not JSON: {_fault(given)}.{hint}", MISUSED) from None
        return
    if sys.stdin.isatty():
        tell("Write one JSON value a line; Ctrl-D ends.")
    for number, line in enumerate(sys.stdin.buffer, 1):
        if not line.strip():
            continue
        try:
            yield number, json.decode(line)
        except (ValueError, RecursionError):
            raise NotJson(number, f"this is not JSON: {_fault(line)}.") from None


def _fault(text: str | bytes) -> str:
    """What keeps it from being JSON, and where, for people: whoever reads it fast only says the byte."""
    import json

    try:
        json.loads(text.decode() if isinstance(text, bytes) else text)
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}" if isinstance(text, str) else f"column {error.colno}"
        return f"{error.msg[:1].lower()}{error.msg[1:]} at {at}"
    except UnicodeError as error:
        return f"it is not UTF-8 ({error})"
    except RecursionError:
        return "it is nested too deeply"
    return "NaN, Infinity and numbers out of range are not part of it"


class NotJson(Exception):
    """A line of stdin, and what is wrong with it."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(line, reason)
        self.line, self.reason = line, reason
