"""`zerowait dead`: messages that no attempt got through, why, and what to do with them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar

import click

from zerowait.cli.output import (
    FAILED,
    MISUSED,
    OK,
    PARTIAL,
    UNAVAILABLE,
    Failure,
    age,
    confirm,
    give,
    give_json,
    give_table,
    local,
    plural,
    styled,
    tell,
    tell_silent,
)
from zerowait.cli.reach import PAGE, Found, Reach, Reply
from zerowait.snapshot import LetterDetail, Question

F = TypeVar("F", bound=Callable[..., Any])


def _common(command: F) -> F:
    command = click.option("--namespace", help="Whose outboxes on this machine; else the setting.")(command)
    return click.option("--json", "as_json", is_flag=True, help="Write JSON, one object a line.")(command)


def _chosen(command: F) -> F:
    command = click.option("--yes", is_flag=True, help="Do not ask.")(command)
    command = click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many, the oldest first.")(
        command
    )
    command = click.option("--channel", help="All of this channel.")(command)
    command = click.option("--all", "everything", is_flag=True, help="All of them.")(command)
    return click.argument("ids", nargs=-1, metavar="[ID]...")(command)


@click.group("dead")
def command() -> None:
    """Dead letters: messages that no attempt got through. They are kept, and no longer tried.

    \b
    zerowait dead list --channel mail.parse
    zerowait dead show ID                      payload, attempts, reason, traceback
    zerowait dead retry --channel mail.parse   once the cause is mended
    """


@command.command("list")
@click.option("--channel", help="Only of this channel.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, metavar="N", help="At most so many.")
@_common
def list_letters(channel: str | None, limit: int, namespace: str | None, as_json: bool) -> int:
    """List dead letters, the newest last, each with the reason that sent it there."""
    reach = Reach.named(namespace)
    found = reach.letters(channel, limit)
    for letter in found.letters if as_json else ():
        give_json(letter)
    if not as_json and found.letters:
        give_table(
            ["id", "channel", "died", "attempts", "outbox", "reason"],
            [
                [each.id, each.channel, f"{age(each.died_at)} ago", str(each.attempts), each.box, _short(each.reason)]
                for each in found.letters
            ],
            right=("attempts",),
        )
        if len(found.letters) == limit:
            tell(f"These are the first {limit}; there may be more: --limit")
    elif not found.letters and not found.silent:
        _tell_none(reach, channel)
    tell_silent(found.silent)
    return _code(found)


@command.command("show")
@click.argument("id")
@_common
def show_letter(id: str, namespace: str | None, as_json: bool) -> int:
    """Show one dead letter whole: its payload, what was tried, and the traceback of the last failure."""
    replies = Reach.named(namespace).ask_all(Question("dead.show", {"id": id}))
    for reply in replies:
        if (letter := reply.value(LetterDetail)) is not None:
            _show(letter, as_json)
            return OK
    silent = _silent(replies)
    tell_silent(silent)
    who = "Those who answered have" if silent else "There is"
    raise Failure(f"{who} no dead letter {id}.", UNAVAILABLE if silent else FAILED)


@command.command("retry")
@_chosen
@_common
def retry(**options: Any) -> int:
    """Give dead letters back to their channels, as if they had never been tried.

    Name them by their IDs, or by --channel or --all.
    """
    return _act("retry", **options)


@command.command("drop")
@_chosen
@_common
def drop(**options: Any) -> int:
    """Drop dead letters for good. The ledger counts them as dropped."""
    return _act("drop", **options)


def _act(
    what: Literal["retry", "drop"],
    *,
    ids: tuple[str, ...],
    channel: str | None,
    everything: bool,
    limit: int | None,
    yes: bool,
    namespace: str | None,
    as_json: bool,
) -> int:
    if bool(ids) + bool(channel) + everything != 1:
        raise Failure(f"Say which: zerowait dead {what} ID…, --channel NAME or --all.", MISUSED)
    if ids and limit is not None:
        raise Failure("--limit goes with --channel or --all: the IDs say already how many.", MISUSED)
    reach = Reach.named(namespace)
    asked = ids
    if not ids:
        # What is confirmed is what is done: these letters, and none that died since.
        found = reach.letters(channel, limit)
        tell_silent(found.silent)
        asked = tuple(letter.id for letter in found.letters)
        if not asked:
            _tell_none(reach, channel)
            return _code(found)
        verb = "Retry" if what == "retry" else "Drop for good"
        confirm(f"{verb} {plural(len(asked), 'dead letter')}{f' of {channel}' if channel else ''}?", yes=yes)
    elif what == "drop":
        confirm(f"Drop {plural(len(ids), 'dead letter')} for good?", yes=yes)
    done, silent = _done(reach, what, asked)
    tell_silent(silent)
    for id in asked if as_json else ():
        if id in done:
            give_json({"id": id, "done": what})
    tell(f"{plural(len(done), 'dead letter')} {'given back to be tried again' if what == 'retry' else 'dropped'}")
    missing = [id for id in asked if id not in done]
    if not missing:
        return OK
    shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5:,} more" if len(missing) > 5 else "")
    tell(f"{styled('not found:', sys.stderr, fg='yellow')} {shown}")
    return PARTIAL if done else UNAVAILABLE if silent else FAILED


def _done(reach: Reach, what: Literal["retry", "drop"], ids: Sequence[str]) -> tuple[set[str], dict[str, str]]:
    """The ids for which it was done; and who did not answer."""
    done: set[str] = set()
    silent: dict[str, str] = {}
    for start in range(0, len(ids), PAGE):
        args = {"ids": list(ids[start : start + PAGE])}
        replies = reach.ask_all(Question("dead.retry" if what == "retry" else "dead.drop", args))
        silent.update(_silent(replies))
        for reply in replies:
            done.update(reply.value(list[str]) or [])
    return done, silent


def _silent(replies: Iterable[Reply]) -> dict[str, str]:
    return {reply.who: reply.answer.error for reply in replies if not reply.answer.ok}


def _code(found: Found) -> int:
    return OK if not found.silent else PARTIAL if found.letters else UNAVAILABLE


def _tell_none(reach: Reach, channel: str | None) -> None:
    tell(f"No dead letters{f' of {channel}' if channel else ''} in namespace {reach.namespace!r}.")


def _show(letter: LetterDetail, as_json: bool) -> None:
    payload = _readable(letter.payload)
    if as_json:
        from msgspec import to_builtins

        give_json({**to_builtins(letter), "payload": payload})
        return
    facts = {
        "id": letter.id,
        "channel": letter.channel,
        "outbox": letter.box,
        "accepted": local(letter.accepted_at),
        "died": local(letter.died_at),
        "attempts": str(letter.attempts),
        "rule": letter.rule,
        "worker": letter.worker,
        "reason": f"{letter.type}: {letter.reason}" if letter.type else letter.reason,
        "headers": ", ".join(f"{name}={value}" for name, value in letter.headers.items()),
    }
    for name, fact in facts.items():
        if fact:
            give(f"{styled(f'{name:<9}', sys.stdout, bold=True)} {fact}")
    from msgspec import json

    give(f"{styled('payload', sys.stdout, bold=True)}")
    give(json.format(json.encode(payload), indent=2).decode())
    if letter.traceback:
        give(f"{styled('traceback', sys.stdout, bold=True)}")
        give(letter.traceback.rstrip())


def _readable(payload: bytes) -> object:
    """The message as JSON can show it; bytes that are no text as base64."""
    from msgspec import DecodeError, msgpack, to_builtins

    try:
        return to_builtins(msgpack.decode(payload), str_keys=True)
    except (DecodeError, ValueError):
        return payload


def _short(reason: str) -> str:
    line = reason.partition("\n")[0]
    return line if len(line) <= 80 else line[:79] + "…"
