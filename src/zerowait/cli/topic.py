"""`zerowait topic`: durable groups of subscribers, for whom publishers keep what is published."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from zerowait.cli.outbox import drop_waiting, tell_in_flight
from zerowait.cli.output import (
    FAILED,
    OK,
    PARTIAL,
    UNAVAILABLE,
    Failure,
    confirm,
    give_json,
    tell,
    tell_silent,
)
from zerowait.cli.reach import Reach, Reply
from zerowait.names import nearest
from zerowait.patterns import channel_of
from zerowait.snapshot import GroupStatus, Question, WaitingStatus
from zerowait.topics.groups import folder_of, forget, remembered
from zerowait.words import plural


@click.group("topic")
def command() -> None:
    """Topics, and the durable groups for which publishers keep what is published."""


@command.command("forget", short_help="Forget a durable group, and drop what waits for it.")
@click.argument("topic")
@click.argument("group")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--namespace", help="Whose publishers on this machine; else the setting.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON, one object for each outbox.")
def forget_group(topic: str, group: str, yes: bool, namespace: str | None, as_json: bool) -> int:
    """Forget the durable GROUP of TOPIC that will not come back, and drop what waits for it.

    No publisher here keeps anything for it any more; the ledger counts what waited as dropped. Dead letters stay, see
    `zerowait dead`. A group that has a process is refused: it would be remembered again at once.

    \b
    zerowait topic forget 'prices.*' billing
    """
    reach = Reach.named(namespace)
    channel = channel_of(topic, group)
    folders = _folders(reach)
    said = reach.ask_all(Question("topic.group", {"channel": channel}), living_only=True)
    told = [each for reply in said if (each := reply.value(GroupStatus)) is not None]
    there, silent = _waiting(reach, channel)
    silent = {**_silent(said), **silent}
    tell_silent(silent)
    groups = {name for each in told for name in each.groups}
    try:
        groups.update(name for each in folders for name in remembered(each))
    except OSError as error:
        raise Failure(f"{error.filename} cannot be read ({error.strerror}): nothing was forgotten.", FAILED) from None
    held = sum(box.waiting for box in there)
    if channel not in groups and not held:
        if silent:
            return UNAVAILABLE
        raise Failure(f"No publisher here knows a durable group {group} of {topic}.{_hint(channel, groups)}", FAILED)
    members = sorted({name for each in told for name in each.members})
    if members:
        raise Failure(
            f"The durable group {group} of {topic} is there: {', '.join(members)}. Stop it, and whatever would start "
            "it again, before it is forgotten; until then its events are delivered to it.",
            FAILED,
        )
    events = f"{plural(held, 'event')} that {'waits' if held == 1 else 'wait'} for it"
    confirm(f"Forget the durable group {group} of {topic}, and drop {events} for good?", yes=yes)

    silent |= _silent(reach.ask_all(Question("topic.forget", {"channel": channel}), living_only=True))
    for folder in folders:  # of publishers that do not run
        forget(folder, channel)
    # Once more: what was published since the question was still kept for it, and nothing is from here on.
    there, lost = _waiting(reach, channel)
    dropped, more = drop_waiting(reach, None, channel, [box for box in there if box.waiting])
    silent = {**silent, **lost, **more}
    tell_silent({who: why for who, why in silent.items() if who in lost or who in more})
    for id, count in dropped.items() if as_json else ():
        give_json({"box": id, "topic": topic, "group": group, "dropped": count})
    tell(f"forgotten, and {plural(sum(dropped.values()), 'event')} dropped")
    tell_in_flight(there, channel)
    return PARTIAL if silent else OK


def _waiting(reach: Reach, channel: str) -> tuple[list[WaitingStatus], dict[str, str]]:
    """What waits for the channel in each outbox here; and who did not answer."""
    replies = reach.ask_all(Question("outbox.waiting", {"name": None, "channel": channel}))
    return [box for reply in replies for box in reply.value(list[WaitingStatus]) or ()], _silent(replies)


def _silent(replies: Iterable[Reply]) -> dict[str, str]:
    return {reply.who: reply.answer.error for reply in replies if not reply.answer.ok}


def _folders(reach: Reach) -> list[Path]:
    """Where the clients of this namespace remember groups."""
    above = folder_of(reach.home, reach.namespace)
    return sorted(each for each in above.iterdir() if each.is_dir()) if above.is_dir() else []


def _hint(channel: str, groups: Iterable[str]) -> str:
    names = sorted(groups)
    meant = nearest(channel, names)
    if meant is not None:
        pattern, _, group = meant.rpartition("@")
        return f" Did you mean {pattern} {group}?"
    return f" There are: {', '.join(names)}." if names else ""
