"""`zerowait version`."""

from __future__ import annotations

import platform

import click

from zerowait.cli.output import give, give_json


@click.command("version")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def command(as_json: bool) -> None:
    """Show the versions of zerowait, Python, pyzmq, libzmq (with what it can do) and SQLite."""
    from importlib.metadata import version

    import zerowait
    from zerowait.engines.brokerless.wire import libzmq
    from zerowait.outbox.database import sqlite_version

    library = libzmq()
    versions = {
        "zerowait": zerowait.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()}, {platform.system()})",
        "pyzmq": version("pyzmq"),
        "libzmq": library.version,
        "libzmq_capabilities": library.capabilities,
        "msgspec": version("msgspec"),
        "apsw": version("apsw"),
        "sqlite": sqlite_version(),
    }
    if as_json:
        give_json(versions)
        return
    for name, value in versions.items():
        if name == "libzmq_capabilities":
            continue
        shown = f"{value} ({', '.join(library.capabilities)})" if name == "libzmq" else str(value)
        give(f"{name:<9} {shown}")
