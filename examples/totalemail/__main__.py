"""python -m examples.totalemail analyse PATH… --json OUT  |  demo"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import IO

import click

from examples.totalemail.crew import CrewError

PATHS = click.argument(
    "paths", nargs=-1, required=True, type=click.Path(exists=True, readable=True, path_type=Path), metavar="PATH…"
)


@click.group()
def totalemail() -> None:
    """Mails through services that never wait for one another. Opens, resolves and fetches nothing that a mail names."""


@totalemail.command()
@PATHS
@click.option(
    "--json", metavar="OUT", type=click.File("wb", lazy=False), help="The reports, one JSON line each; -: stdout."
)
@click.option("--store", type=click.Path(dir_okay=False, path_type=Path), help="Keep the reports' SQLite file.")
@click.option("--patience", default=60.0, show_default=True, help="Seconds without progress until it gives up.")
def analyse(paths: tuple[Path, ...], json: IO[bytes] | None, store: Path | None, patience: float) -> int:
    """Report on mails: files, folders, mbox files and Maildirs.

    Exit codes: 0, every mail has a report; 1, some have none (too large, dead, or missing); 2, wrong usage.
    """
    from examples.totalemail.analyse import analyse as run

    return run(paths, json, store, patience)


@totalemail.command()
@click.option("--rounds", type=click.IntRange(1), help="How often all mails are pushed.")
def demo(rounds: int | None) -> int:
    """Kill a service in the middle of its work and see that no mail is lost. MAILS=PATH takes mails of your own."""
    from examples.totalemail.demo import demo as run

    own = os.environ.get("MAILS")
    if own and not Path(own).exists():
        raise click.UsageError(f"MAILS={own}: there is no such file or folder.")
    return run([Path(own)] if own else [], rounds)


@totalemail.command(hidden=True)
@PATHS
@click.option("--run", required=True)
@click.option("--rounds", type=click.IntRange(1), default=1)
def ingest(paths: tuple[Path, ...], run: str, rounds: int) -> int:
    """The process at the entrance; `analyse` and `demo` start it."""
    from examples.totalemail.ingest import ingest as push

    push(run, paths, rounds)
    return 0


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        return int(totalemail.main(standalone_mode=False, prog_name="python -m examples.totalemail") or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("Stopped; no process is left.", file=sys.stderr)
        return 128 + signal.SIGINT
    except CrewError as error:
        print(error, file=sys.stderr)
        return 1


def _leave(number: int, frame: FrameType | None) -> None:
    # As an exception, so that every `with` on the way out ends its processes.
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
