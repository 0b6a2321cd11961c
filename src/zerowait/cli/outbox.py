"""`zerowait outbox`: the files in which messages wait, and delivering those that nobody looks after."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click
from msgspec import Struct, to_builtins

from zerowait.cli import delivering, options
from zerowait.cli.output import (
    FAILED,
    OK,
    PARTIAL,
    UNAVAILABLE,
    Failure,
    age,
    confirm,
    give_json,
    give_table,
    tell,
    tell_silent,
)
from zerowait.cli.reach import LOOK_S, TAKEN_OVER_S, Reach, tell_unreadable
from zerowait.errors import StoreError
from zerowait.names import nearest
from zerowait.snapshot import BoxStatus, Question, WaitingStatus
from zerowait.words import plural

if TYPE_CHECKING:
    from zerowait.engines.brokerless.directory import OutboxFile
    from zerowait.outbox.salvage import Report, Salvage


@click.group("outbox")
def command() -> None:
    """The files in which messages wait until they are settled."""


@command.command("list", short_help="List the outboxes on disk, and what waits in them.")
@click.option("--namespace", help="Whose outboxes on this machine; else the setting.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON, one object a line.")
def list_boxes(namespace: str | None, as_json: bool) -> int:
    """List the outboxes on disk, who has them open, and what waits in them."""
    reach = Reach.named(namespace)
    found = reach.status()
    boxes: list[tuple[int | None, BoxStatus]] = [
        (each.pid, box) for each in found.statuses for box in each.boxes if box.path is not None
    ]
    boxes += [(None, box) for box in found.boxes]
    for pid, box in boxes if as_json else ():
        give_json(_facts(pid, box))
    if not as_json and boxes:
        give_table(
            ["name", "process", "unsettled", "dead", "oldest", "file"],
            [
                [
                    box.name,
                    f"pid {pid}" if pid is not None else "none",
                    f"{box.unsettled:,}",
                    f"{sum(each.dead for each in box.channels):,}",
                    age(min((each.oldest_at for each in box.channels if each.oldest_at is not None), default=None)),
                    box.path or "",
                ]
                for pid, box in boxes
            ],
            right=("unsettled", "dead", "oldest"),
        )
    tell_silent(found.silent)
    tell_unreadable(found)
    if not boxes and not found.silent and not found.unreadable:
        tell(f"No outboxes in namespace {reach.namespace!r}.")
    return OK if not found.silent else PARTIAL if boxes else UNAVAILABLE


@command.command("deliver", short_help="Deliver what an outbox still holds, now.")
@click.argument("name")
@options.timeout("How long to go on while messages are left.")
@click.option("--namespace", help="Whose outboxes on this machine; else the setting.")
def deliver(name: str, timeout: float, namespace: str | None) -> int:
    """Deliver what the outboxes called NAME still hold, to whoever serves it now.

    An outbox that a living process has open is that process's to deliver: it is only asked. One that a script is just
    leaving, or another process just looking into, is waited for, some seconds.
    """
    reach = Reach.named(namespace)
    if not reach.files(name):
        raise _no_outbox(reach, name)
    return delivering.deliver(reach, name, timeout)


@command.command("check", short_help="Read outboxes wholly; change nothing.")
@click.argument("name", required=False)
@click.option("--namespace", help="Whose outboxes on this machine; else the setting.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON, one object for each outbox.")
def check(name: str | None, namespace: str | None, as_json: bool) -> int:
    """Read the outboxes (called NAME) wholly: is everything in them what was written? Changes nothing.

    One that a process has open is left to that: it looks at each body that it reads, and says so.
    """
    reach = Reach.named(namespace)
    reports = _reports(reach, name, lambda salvage, file: (salvage.report(), None))
    _give_reports(reports, as_json=as_json)
    for file, report, _ in reports.found:
        if not report.is_whole:
            tell(f"Save what is whole in it: zerowait outbox repair {file.name}")
    return reports.code()


@command.command("repair", short_help="Save what is whole in a damaged outbox.")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--namespace", help="Whose outboxes on this machine; else the setting.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON, one object for each outbox.")
def repair(name: str, yes: bool, namespace: str | None, as_json: bool) -> int:
    """Save what is whole in the damaged outboxes called NAME.

    Each gets a new file of what is whole; what is not is counted as dropped. The damaged file is kept beside it.

    Damage to the first pages of a file, which say what is where, is not covered: such a file is left as it was, and
    `sqlite3 COPY .recover` shows what is left of a copy of it.
    """
    reach = Reach.named(namespace)
    before = _reports(reach, name, lambda salvage, file: (salvage.report(), None))
    damaged = {file.path for file, report, _ in before.found if not report.is_whole}
    if not damaged:
        _give_reports(before, as_json=as_json)
        if not before.silent and not before.in_use:  # of those nothing is known
            tell(f"Nothing is damaged in the outbox {name}, so nothing was changed.")
        return before.code()
    whole = sum(sum((*report.waiting.values(), *report.dead.values())) for _, report, _ in before.found)
    lost = sum(sum(report.lost.values()) for _, report, _ in before.found)
    given_up = f", and give up {lost:,} that cannot be read" if lost else "; none is lost"
    confirm(f"Save {plural(whole, 'message')} of {name}{given_up}?", yes=yes)

    def save(salvage: Salvage, file: OutboxFile) -> tuple[Report, str | None]:
        if file.path not in damaged:
            return salvage.report(), None
        report, kept = salvage.rewrite(file.id, file.name, time.time_ns() // 1_000)
        return report, str(kept)

    reports = _reports(reach, name, save)
    _give_reports(reports, as_json=as_json)
    for _, _, kept in reports.found:
        if kept is not None:
            tell(f"The damaged file is kept: {kept}")
    return UNAVAILABLE if not reports.found else PARTIAL if reports.silent or reports.in_use else OK


class _Reports(Struct):
    """found: file, what is in it, and where the damaged one is kept. silent: what could not be read, and why."""

    found: list[tuple[OutboxFile, Report, str | None]] = []
    in_use: int = 0
    silent: dict[str, str] = {}

    def code(self) -> int:
        if any(not report.is_whole for _, report, _ in self.found):
            return FAILED
        return OK if not self.silent and not self.in_use else PARTIAL if self.found else UNAVAILABLE


def _reports(
    reach: Reach, name: str | None, look: Callable[[Salvage, OutboxFile], tuple[Report, str | None]]
) -> _Reports:
    """What `look` gives for each outbox that nobody has open, under its lock."""
    from zerowait.outbox.salvage import Salvage

    files = reach.files(name)
    if not files and name is not None:
        raise _no_outbox(reach, name)
    reports = _Reports()
    for file in files:
        with reach.locked(file) as mine:
            if not mine:
                reports.in_use += 1
                continue
            try:
                salvage = Salvage(file.path)
                try:
                    reports.found.append((file, *look(salvage, file)))
                finally:
                    salvage.close()
            except StoreError as error:
                reports.silent[file.path.name] = str(error)
    if reports.in_use:
        tell(f"{plural(reports.in_use, 'outbox', 'outboxes')} left to the process that has it open")
    tell_silent(reports.silent)
    return reports


def _give_reports(reports: _Reports, *, as_json: bool) -> None:
    for file, report, kept in reports.found if as_json else ():
        give_json({"name": file.name, "whole": report.is_whole, "kept": kept, **to_builtins(report)})
    if as_json or not reports.found:
        return
    give_table(
        ["name", "state", "waiting", "dead", "lost", "file"],
        [
            [
                file.name,
                "whole" if report.is_whole else "damaged",
                f"{sum(report.waiting.values()):,}",
                f"{sum(report.dead.values()):,}",
                f"{sum(report.lost.values()):,}",
                report.path,
            ]
            for file, report, _ in reports.found
        ],
        right=("waiting", "dead", "lost"),
    )
    for _, report, _ in reports.found:
        for problem in report.problems:
            tell(problem)


def _no_outbox(reach: Reach, name: str) -> Failure:
    names = sorted({file.name for file in reach.files()})
    return Failure(f"There is no outbox called {name!r} in namespace {reach.namespace!r}.{_hint(name, names)}", FAILED)


def _hint(name: str, names: Sequence[str]) -> str:
    meant = nearest(name, list(names))
    return f" Did you mean {meant}?" if meant else f" There are: {', '.join(names)}." if names else ""


@command.command("drop", short_help="Drop for good what waits for a channel.")
@click.argument("name")
@click.option("--channel", required=True, help="Whose waiting messages are dropped.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--namespace", help="Whose outboxes on this machine; else the setting.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON, one object for each outbox.")
def drop(name: str, channel: str, yes: bool, namespace: str | None, as_json: bool) -> int:
    """Drop for good what waits for a channel in the outboxes called NAME: of a misspelt one, say.

    The ledger counts it as dropped, and who holds a receipt of it is told. What a worker has is left alone, and so is
    what is pushed after the question. Dead letters are dropped by `zerowait dead drop`.

    \b
    zerowait outbox drop cli --channel numbres
    """
    reach = Reach.named(namespace)
    replies = reach.ask_all(Question("outbox.waiting", {"name": name, "channel": channel}), outbox=name)
    silent = {reply.who: reply.answer.error for reply in replies if not reply.answer.ok}
    there = [box for reply in replies for box in reply.value(list[WaitingStatus]) or ()]
    tell_silent(silent)
    if not there:
        if silent:
            return UNAVAILABLE
        raise _no_outbox(reach, name)
    waiting = sum(box.waiting for box in there)
    if not waiting:
        names = sorted({other for box in there for other in box.channels} - {channel})
        tell(f"No message waits for channel {channel!r} in the outbox {name}.{_hint(channel, names)}")
        tell_in_flight(there, channel)
        return PARTIAL if silent else OK
    confirm(f"Drop {plural(waiting, 'message')} for {channel} in the outbox {name} for good?", yes=yes)
    dropped, lost = drop_waiting(reach, name, channel, there)
    tell_silent(lost)
    for box in there if as_json else ():
        give_json({"box": box.box, "name": name, "channel": channel, "dropped": dropped.get(box.box, 0)})
    tell(f"{plural(sum(dropped.values()), 'message')} dropped")
    tell_in_flight(there, channel)
    if any(box.sent_to and dropped.get(box.box) for box in there):
        tell("An outbox without a process had sent messages to workers: what they have begun they may still end.")
    if not silent and not lost and len(dropped) == len(there):
        return OK
    return PARTIAL if dropped else UNAVAILABLE


def drop_waiting(
    reach: Reach, name: str | None, channel: str, there: Sequence[WaitingStatus]
) -> tuple[dict[str, int], dict[str, str]]:
    """Drops it in the outboxes of that name (None: of any). How many were dropped in each, and who did not answer."""
    left, dropped = {box.box: box.last for box in there}, dict[str, int]()
    until = time.monotonic() + TAKEN_OVER_S
    while left and time.monotonic() < until:
        replies = reach.ask_all(Question("outbox.drop", {"channel": channel, "boxes": left}), outbox=name)
        for reply in replies:
            for id, (count, more) in (reply.value(dict[str, tuple[int, bool]]) or {}).items():
                dropped[id] = dropped.get(id, 0) + count
                if more:
                    until = time.monotonic() + TAKEN_OVER_S
                else:
                    left.pop(id, None)
        if silent := {reply.who: reply.answer.error for reply in replies if not reply.answer.ok}:
            return dropped, silent
        if left:  # it has more, or has changed hands since we looked and is found at its new owner's
            time.sleep(LOOK_S)
    return dropped, {f"outbox {name}.{id}": "it has changed hands and was not found again" for id in left}


def tell_in_flight(there: Sequence[WaitingStatus], channel: str) -> None:
    if flying := sum(box.in_flight for box in there):
        tell(
            f"{plural(flying, 'message')} for {channel} {'is' if flying == 1 else 'are'} in flight at workers and left "
            "alone: each is handled there or waits again."
        )


def _facts(pid: int | None, box: BoxStatus) -> dict[str, object]:
    return {"pid": pid, "unsettled": box.unsettled, **to_builtins(box)}
