"""`zerowait run`: serve an app until it is told to stop."""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from zerowait.cli.output import colours, styled, tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zerowait.processes.child import Started


@click.command("run")
@click.argument("target", metavar="MODULE:APP")
@click.option("--namespace", help="Which processes to meet on this machine.")
@click.option(
    "--listen",
    multiple=True,
    metavar="ENDPOINT",
    help="Where other machines reach it, as tcp://0.0.0.0:5511; may be repeated.",
)
@click.option(
    "--processes",
    type=click.IntRange(1),
    metavar="N",
    help="How many processes serve it, for handlers that need more than one core; who dies is started again.",
)
@click.option(
    "--stuck-after",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Kill and start again one of several processes whose loop has not turned for so long.",
)
@click.option("--drain", type=click.FloatRange(0), metavar="SECONDS", help="How long stopping waits for what runs.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="What is logged, from this level on."
)
@click.option("--log-format", type=click.Choice(["text", "json"]), help="How it is logged.")
def command(
    target: str,
    namespace: str | None,
    listen: tuple[str, ...],
    processes: int | None,
    stuck_after: float | None,
    drain: float | None,
    log_level: str | None,
    log_format: str | None,
) -> int:
    """Serve the handlers of an app: `printer:app` is `app` in printer.py of this folder.

    Every option is a setting too, in zerowait.toml or in the environment (--drain is ZEROWAIT_DRAIN).
    The first SIGTERM or Ctrl-C finishes what runs and gives back what was not begun; a second one leaves at once.
    Exits with 0 after that, with 4 if something still ran when --drain was over, with 1 to 3 if it could not serve.
    Several processes listen at one port each: the one that --listen names, and those that follow it.

    \b
    zerowait run printer:app
    zerowait run printer:app --processes 4
    zerowait run service.mail:app --listen tcp://0.0.0.0:5511 --log-format json
    """
    from zerowait import log, serving
    from zerowait.cli.finding import find_app
    from zerowait.errors import ZerowaitError
    from zerowait.processes.child import Parent
    from zerowait.processes.parent import supervise
    from zerowait.settings import Settings

    flags: dict[str, Any] = {
        "namespace": namespace,
        "listen": list(listen) or None,
        "processes": processes,
        "stuck_after": stuck_after,
        "drain": drain,
        "log_level": log_level,
        "log_format": log_format,
    }
    settings = Settings.load(flags=flags)  # before anything of the user's is imported: a mistake is said at once
    parent = Parent.inherited()
    _tell_the_process(flags)
    is_ours = log.configure(
        settings.log_level, settings.log_format, coloured=colours(sys.stderr), which=parent is not None
    )
    if parent is None and settings.processes > 1:  # each imports the app, and this one need not
        return supervise(settings, lambda started: _banner(target, started))
    out: object = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(line_buffering=True)  # what a handler printed is there even if the worker is killed
    app = find_app(target)
    if app._settings is not None:
        app._settings = replace(app._settings, **{name: value for name, value in flags.items() if value is not None})
    held = _HeldErrors(logging.getLogger().handlers[-1] if is_ours else None)

    def has_started(started: Sequence[Started]) -> None:
        held.release()
        if parent is None:
            _banner(target, started)

    try:
        source = getattr(sys.modules.get(target.partition(":")[0]), "__file__", None) or ""
        return serving.run(app, has_started, parent, source)
    except ZerowaitError as error:
        held.forget(str(error))  # that is what the command ends with
        raise
    finally:
        held.release()


class _HeldErrors(logging.Filter):
    """Holds back the errors that are logged while it starts: the one that ends the command is said once, by its end.

    handler: the one of this command's own log; None: the program writes its log as it likes, and nothing is held.
    """

    def __init__(self, handler: logging.Handler | None) -> None:
        super().__init__()
        self._handler = handler
        self._held: list[logging.LogRecord] = []
        if handler is not None:
            handler.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        is_held = record.levelno >= logging.ERROR and record.exc_info is None and record.name.startswith("zerowait")
        if is_held:
            self._held.append(record)
        return not is_held

    def forget(self, said: str) -> None:
        self._held = [record for record in self._held if said not in record.getMessage()]

    def release(self) -> None:
        """Writes what it still holds, and holds nothing from then on."""
        if self._handler is None:
            return
        self._handler.removeFilter(self)
        held, self._held = self._held, []
        for record in held:
            self._handler.handle(record)


def _tell_the_process(flags: dict[str, Any]) -> None:
    """Makes flags the settings of the whole process: of the app, and of the clients in the modules it imports."""
    for name, value in flags.items():
        if value is not None:
            os.environ[f"ZEROWAIT_{name.upper()}"] = ",".join(value) if name == "listen" else str(value)


def _banner(target: str, all_started: Sequence[Started]) -> None:
    """What was imported, which channels, which address, and how to stop: for the person who started it."""
    started, is_one = all_started[0], len(all_started) == 1
    stop = f"Ctrl-C or SIGTERM: finishes what runs, for at most {started.drain:g} s; a second one leaves at once"
    facts = [
        ("app", f"{started.name} ({target}{f' from {started.source}' if started.source else ''})"),
        *(("serves", line) for line in _served(started)),
        # That of this machine, which is the first, each finds by itself; of many it would only be in the way.
        *(("address", endpoint) for each in all_started for endpoint in each.endpoints[0 if is_one else 1 :]),
        ("namespace", started.namespace),
        ("process", " ".join(str(each.pid) for each in all_started)),
        ("stop", stop),
    ]
    lines, before = [styled(f"zerowait {started.version}", sys.stderr, bold=True)], ""
    for name, fact in facts:
        lines.append(f"  {name if name != before else '':<10} {fact}")
        before = name
    tell("\n".join(lines))


def _served(started: Started) -> list[str]:
    if not started.serves and not started.subscribes:
        return ["nothing: this app has no handlers"]
    width = max(len(channel) for channel in (*(each.channel for each in started.serves), *started.subscribes))
    when = {each.channel: started.timed.get(each.channel, f"{each.concurrency} at a time") for each in started.serves}
    return [f"{channel:<{width}}  {said}" for channel, said in (when | dict(started.subscribes)).items()]
