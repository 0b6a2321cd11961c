"""`zerowait status`: who is there, and what became of all messages."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from zerowait.cli.output import (
    OK,
    PARTIAL,
    UNAVAILABLE,
    age,
    give,
    give_json,
    give_table,
    styled,
    tell,
    tell_silent,
)
from zerowait.cli.reach import Found, Reach, tell_unreadable
from zerowait.names import process_name
from zerowait.snapshot import BoxStatus, ChannelStatus, PeerStatus
from zerowait.words import plural

NUMBERS = (
    "accepted",
    "handled",
    "dead",
    "expired",
    "dropped",
    "waiting",
    "in flight",
    "running",
    "queued",
    "ended",
    "refused",
    "asked",
    "answered",
    "failed",
    "cancelled",
    "outstanding",
    "published",
    "subscribers",
    "pid",
    "oldest",
    "silent",
)

COUNTS = ("accepted", "handled", "dead", "expired", "dropped", "waiting", "in_flight")
REQUEST_COUNTS = ("asked", "answered", "failed", "cancelled", "outstanding")


@click.command("status")
@click.option("--namespace", help="Whose processes on this machine; else the setting.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def command(namespace: str | None, as_json: bool) -> int:
    """Show the processes of this namespace, their peers, and the ledger of each channel.

    \b
    accepted = handled + dead + expired + dropped + waiting + in flight
    asked = answered + failed + cancelled + outstanding (of requests)
    OLDEST is how long the oldest unsettled message of the channel has been there.
    REFUSED are frames of bare ZeroMQ senders that could not be read; shown if there are any.
    Of a topic WAITING is what was not sent yet, to the slowest of its subscribers; of a durable
    group (TOPIC@GROUP, which has a ledger of its own) what is not handled yet.
    """
    reach = Reach.named(namespace)
    found = reach.status()
    if as_json:
        give_json(
            {
                "namespace": reach.namespace,
                "home": str(reach.home),
                "processes": found.statuses,
                "outboxes_without_process": found.boxes,
                "no_answer": found.silent,
                "not_readable": found.unreadable,
            }
        )
    elif found.statuses or found.boxes:
        _show(found)
    elif not found.silent and not found.unreadable:
        tell(f"Nobody is there: no process and no message in namespace {reach.namespace!r} of {reach.home}.")
    tell_silent(found.silent)
    tell_unreadable(found)
    unknown = [f"{process_name(each.name, each.pid)}: {what}" for each in found.statuses for what in each.unknown]
    for line in unknown:
        tell(f"{styled('not known:', sys.stderr, fg='yellow')} {line}")
    if found.silent:
        return PARTIAL if found.statuses or found.boxes else UNAVAILABLE
    return PARTIAL if unknown else OK


def _show(found: Found) -> None:
    tables = [
        _process_table(found),
        _served_table(found),
        _ledger_table(found),
        _request_table(found),
        _topic_table(found),
        _peer_table(found),
    ]
    for number, (headings, rows) in enumerate([table for table in tables if table[1]]):
        if number:
            give("")
        give_table(headings, rows, right=NUMBERS)
    for each in found.statuses:
        who = process_name(each.name, each.pid)
        for peer in each.peers:
            for channel, difference in sorted(peer.mismatches.items()):
                tell(
                    f"\n{who} sends nothing of {channel} to {_called(peer)}: {difference}. Its messages wait; deploy "
                    "both ends with the same contract"
                )
        if each.released_undecided:
            tell(
                f"\n{who}: what was sent for {plural(each.released_undecided, 'message')} left "
                "without the word of their senders, who were away for longer than undecided_after. Should they have "
                "given such a message to another worker, its outputs leave twice"
            )
    waiting = [box for box in found.boxes if box.unsettled]
    if waiting:
        names = sorted({box.name for box in waiting})
        count = sum(box.unsettled for box in waiting)
        them = "it" if count == 1 else "them"
        outboxes = "an outbox" if len(waiting) == 1 else "outboxes"
        tell(
            f"\n{plural(count, 'message')} in {outboxes} without a process. The "
            f"next process called {' or '.join(names)} delivers {them}, or any process here that reaches a worker for "
            f"{them}, or now: zerowait outbox deliver {names[0]}"
        )


def _process_table(found: Found) -> tuple[list[str], list[list[str]]]:
    headings = ["process", "pid", "state", "up for", "version", "peers"]
    return headings, [
        [each.name, str(each.pid), each.state, age(each.started_at), each.version, f"{len(each.peers)}"]
        for each in found.statuses
    ]


def _served_table(found: Found) -> tuple[list[str], list[list[str]]]:
    headings = ["serves", "by", "pid", "at a time", "running", "queued", "ended"]
    any_refused = any(served.refused for each in found.statuses for served in each.serves)
    rows: list[list[str]] = []
    for each in found.statuses:
        for served in each.serves:
            row = [served.channel, each.name, str(each.pid), str(served.concurrency)]
            row += [f"{served.running:,}", f"{served.queued:,}", f"{served.ended:,}"]
            rows.append([*row, f"{served.refused:,}"] if any_refused else row)
    return [*headings, "refused"] if any_refused else headings, rows


def _ledger_table(found: Found) -> tuple[list[str], list[list[str]]]:
    headings = [
        "channel",
        "pushed by",
        "accepted",
        "handled",
        "dead",
        "expired",
        "dropped",
        "waiting",
        "in flight",
        "oldest",
    ]
    # Outboxes of one name in one place are one line: a process may have taken over several.
    together: dict[tuple[str, str], list[ChannelStatus]] = {}
    for whose, box in _boxes(found):
        for ledger in box.channels:
            together.setdefault((ledger.channel, whose), []).append(ledger)
    return headings, [[*names, *_sums(ledgers)] for names, ledgers in sorted(together.items())]


def _request_table(found: Found) -> tuple[list[str], list[list[str]]]:
    headings = ["channel", "asked by", *REQUEST_COUNTS]
    return headings, [
        [each.channel, process_name(status.name, status.pid), *(f"{getattr(each, name):,}" for name in REQUEST_COUNTS)]
        for status in found.statuses
        for each in status.requests
    ]


def _topic_table(found: Found) -> tuple[list[str], list[list[str]]]:
    headings = ["topic", "published by", "published", "subscribed as", "subscribers", "waiting", "dropped"]
    rows: list[list[str]] = []
    for status in found.statuses:
        for topic in status.topics:
            names = [topic.topic, process_name(status.name, status.pid), f"{topic.published:,}"]
            for each in topic.subscriptions:
                durable = f"{each.pattern}@{each.group}"
                one_of = f"{each.pattern} by group {each.group}" if each.group else each.pattern
                counts = (each.subscribers, each.waiting + each.in_flight, each.dropped)
                rows.append([*names, durable if each.durable else one_of, *(f"{n:,}" for n in counts)])
            if not topic.subscriptions:
                rows.append([*names, "", "0", "0", "0"])
    return headings, rows


def _sums(ledgers: list[ChannelStatus]) -> list[str]:
    counts = [sum(getattr(ledger, name) for ledger in ledgers) for name in COUNTS]
    oldest = min((ledger.oldest_at for ledger in ledgers if ledger.oldest_at is not None), default=None)
    return [*[f"{n:,}" for n in counts], age(oldest)]


def _boxes(found: Found) -> Iterator[tuple[str, BoxStatus]]:
    for each in found.statuses:
        for box in each.boxes:
            if box.name == each.name:
                yield f"{box.name} (pid {each.pid}{'' if box.durable else ', in memory'})", box
            else:
                yield f"{box.name}, kept by {process_name(each.name, each.pid)}", box
    for box in found.boxes:
        yield f"{box.name} (no process)", box


def _called(peer: PeerStatus) -> str:
    """As the log calls it, but for the pid of one on another machine, which is not known here."""
    if peer.pid is not None:
        return process_name(peer.name, peer.pid)
    return f"{peer.name} (at {peer.address})" if peer.address else peer.name


def _peer_table(found: Found) -> tuple[list[str], list[list[str]]]:
    headings = ["process", "peer", "state", "in flight", "silent", "address", "serves"]
    return headings, [
        [
            process_name(each.name, each.pid),
            peer.name,
            peer.state,
            f"{peer.in_flight:,}",
            f"{peer.silent_for_s:.1f} s",
            peer.address,
            ", ".join(peer.serves),
        ]
        for each in found.statuses
        for peer in each.peers
    ]
