"""Options that several commands have, each written once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from zerowait.settings_fields import LONGEST

F = TypeVar("F", bound=Callable[..., Any])


def timeout(help: str) -> Callable[[F], F]:
    """How long a command waits for workers: seconds, above 0, 30 if it is not said. help: what it waits for."""
    return click.option(
        "--timeout",
        type=click.FloatRange(0, LONGEST, min_open=True),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help=help,
    )


def as_bytes(command: F) -> F:
    """Where strings of the message given are base64 of bytes."""
    return click.option(
        "--bytes",
        "paths",
        multiple=True,
        metavar="PLACE",
        help="The string in this place is base64 of bytes: data, parts[].data, or $ for all of it. May be repeated. "
        "Not needed where a process of this machine serves the channel with a type that has bytes there.",
    )(command)


_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


def ago(value: str) -> float:
    """A time ago, for an option: `90s`, `15m`, `2h`, `3d`; seconds without a unit."""
    number, unit = (value[:-1], value[-1:]) if value[-1:] in _UNITS else (value, "s")
    try:
        seconds = float(number) * _UNITS[unit]
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds < 1e10:
        raise click.BadParameter(f"{value!r} is no time: write 90s, 15m, 2h or 3d.")
    return seconds


def text(value: str) -> str:
    """Text, for an option: an argument may be any bytes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise click.BadParameter(f"{value!r} is not UTF-8, and no text of a message is anything else.") from None
    return value
