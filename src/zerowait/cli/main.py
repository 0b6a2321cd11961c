"""`zerowait`: the commands, found by name and imported when called, and what every end of a command has in common."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from zerowait.cli.output import FAILED, INTERRUPTED, MISUSED, TERMINATED, UNAVAILABLE, Failure, tell

# name → module and one line for the overview: so that `zerowait --help` need not import them all.
COMMANDS = {
    "run": ("zerowait.cli.run", "Run an app: serve its channels until SIGTERM or Ctrl-C."),
    "push": ("zerowait.cli.push", "Push messages: JSON from the command line, or lines on stdin."),
    "status": ("zerowait.cli.status", "Show the processes of this namespace and the ledger of each channel."),
    "dead": ("zerowait.cli.dead", "List, show, edit, retry and drop dead letters."),
    "outbox": ("zerowait.cli.outbox", "List, check, repair outboxes, deliver what was left behind, drop what waits."),
    "topic": ("zerowait.cli.topic", "Forget a durable group of subscribers that will not come back."),
    "version": ("zerowait.cli.version", "Show the versions of zerowait and of what it stands on."),
}

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)  # of stdout, when it is a file

EXIT_CODES = """\b
Exit codes: 0 done; 1 failed; 2 wrong usage or import error; 3 a process does
not answer or an outbox cannot be opened; 4 done for some and not for others;
130 interrupted (Ctrl-C); 143 terminated."""


class Commands(click.Group):
    """Imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = import_module(COMMANDS[cmd_name][0]).command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from zerowait.names import nearest

            meant = nearest(args[0], list(COMMANDS))
            hint = f"Did you mean {meant!r}?" if meant else f"There are: {', '.join(COMMANDS)}."
            raise click.UsageError(f"No such command {args[0]!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="zerowait", message="zerowait %(version)s")
def cli() -> None:
    """Python services hand work to one another without waiting and without a broker.

    \b
    zerowait run printer:app              serve the handlers of `app` in printer.py
    zerowait push numbers 42              push one message to the channel numbers
    zerowait status                       who is there, and what became of all messages
    """


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and ends the process with its exit code."""
    _have_streams()
    # A command that is terminated closes what it opened. `run` puts its own handler in place of this one.
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(ended(lambda: cli(args, prog_name="zerowait", standalone_mode=False)))


def ended(command: Callable[[], Any]) -> int:
    """Runs it and gives the exit code; what it raises is written for the person who reads it."""
    from zerowait.errors import NotAccepted, SettingsError, UsageError, ZerowaitError

    try:
        code = command()
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as left:
        return left.exit_code
    except (click.Abort, KeyboardInterrupt):
        tell("")
        return INTERRUPTED
    except click.ClickException as failure:
        failure.show()
        return failure.exit_code
    except Failure as failure:
        failure.show()
        return failure.code
    except BrokenPipeError:
        # Whoever read stdout has gone (`| head`).
        _silence()
        return FAILED
    except ZerowaitError as error:
        Failure(str(error)).show()
        if isinstance(error, SettingsError | UsageError):
            return MISUSED
        return UNAVAILABLE if isinstance(error, NotAccepted) else FAILED
    except OSError as error:
        if error.errno not in UNWRITABLE or error.filename is not None:
            raise
        _silence()
        Failure(f"The output cannot be written: {error.strerror}.").show()
        return FAILED


def _silence() -> None:
    """What stdout still holds goes nowhere: the interpreter flushes it again at its end, and must not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _have_streams() -> None:
    """Whoever started us may have closed them (`>&-`); what is written then goes nowhere, as it is meant to."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _terminated(number: int, frame: object) -> NoReturn:
    sys.exit(TERMINATED)
