"""Options that several commands have, each written once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def timeout(help: str) -> Callable[[F], F]:
    """How long a command waits for workers: seconds, above 0, 30 if it is not said. help: what it waits for."""
    return click.option(
        "--timeout",
        type=click.FloatRange(0, min_open=True),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help=help,
    )
