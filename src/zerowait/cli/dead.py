"""`zerowait dead`: messages that no attempt got through, why, and what to do with them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, TypeVar

import click

from zerowait.cli.binary import Binary, NotBytes
from zerowait.cli.options import ago, as_bytes, text
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
    styled,
    tell,
    tell_silent,
)
from zerowait.cli.payload import editable, encoded, parsed, readable
from zerowait.cli.prefix import whole_ids
from zerowait.cli.reach import PAGE, Found, Reach, Reply, tell_unreadable
from zerowait.snapshot import LetterDetail, LetterFilter, LetterStatus, Question
from zerowait.words import plural

F = TypeVar("F", bound=Callable[..., Any])


def _common(command: F) -> F:
    command = click.option("--namespace", help="Whose outboxes on this machine; else the setting.")(command)
    return click.option("--json", "as_json", is_flag=True, help="Write JSON, one object a line.")(command)


def _filtered(command: F) -> F:
    command = click.option("--newer", type=ago, metavar="AGE", help="Died less than so long ago: 90s, 15m, 2h, 3d.")(
        command
    )
    command = click.option("--older", type=ago, metavar="AGE", help="Died longer ago than that.")(command)
    command = click.option("--text", type=text, help="With this in the payload; case matters.")(command)
    command = click.option(
        "--error", type=text, help="With this in the reason, rule, exception or traceback; case matters."
    )(command)
    return click.option("--channel", type=text, help="Of this channel.")(command)


def _which(
    channel: str | None, error: str | None, text: str | None, older: float | None, newer: float | None
) -> LetterFilter:
    now_us = time.time_ns() // 1_000
    return LetterFilter(
        channel=channel,
        error=error,
        text=text,
        died_before_us=None if older is None else now_us - int(older * 1e6),
        died_after_us=None if newer is None else now_us - int(newer * 1e6),
    )


def _chosen(command: F) -> F:
    command = click.option("--yes", is_flag=True, help="Do not ask.")(command)
    command = click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many, the oldest first.")(
        command
    )
    command = _filtered(command)
    command = click.option("--all", "everything", is_flag=True, help="All of them.")(command)
    return click.argument("ids", nargs=-1, metavar="[ID]...")(command)


@click.group("dead")
def command() -> None:
    """Dead letters: messages that no attempt got through. They are kept, and no longer tried.

    \b
    zerowait dead list --channel mail.parse
    zerowait dead show ID                      payload, attempts, reason, traceback
    zerowait dead edit ID --retry              mend its payload in an editor, and give it back
    zerowait dead retry --channel mail.parse   once the cause is mended
    zerowait dead drop --error TooOld --older 2d
    """


@command.command("list", short_help="List dead letters, each with its reason.")
@_filtered
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, metavar="N", help="At most so many.")
@_common
def list_letters(limit: int, namespace: str | None, as_json: bool, **said: Any) -> int:
    """List dead letters, the newest last, each with the reason that sent it there."""
    which = _which(**said)
    reach = Reach.named(namespace)
    found = reach.letters(which, limit)
    for letter in found.letters if as_json else ():
        give_json(letter)
    if not as_json and found.letters:
        give_table(
            ["id", "channel", "died", "attempts", "outbox", "reason"],
            [
                [each.id, each.channel, f"{age(each.died_at)} ago", _attempts(each), each.box, _short(each.reason)]
                for each in found.letters
            ],
            right=("attempts",),
        )
        if len(found.letters) == limit:
            tell(f"These are the first {limit}; there may be more: --limit")
    elif not found.letters and not found.silent:
        _tell_none(reach, which)
    tell_silent(found.silent)
    tell_unreadable(found)
    return _code(found)


@command.command("show", short_help="Show one whole: payload, attempts, traceback.")
@click.argument("id")
@_common
def show_letter(id: str, namespace: str | None, as_json: bool) -> int:
    """Show one dead letter whole: its payload, what was tried, and the traceback of the last failure.

    The first or last characters of its ID are enough, at least 4, where no other begins or ends with them.
    """
    reach = Reach.named(namespace)
    _show(reach.letter(*whole_ids(reach, [id])), as_json)
    return OK


@command.command("edit", short_help="Put another payload in place of one's.")
@click.argument("id")
@click.argument("payload", metavar="[JSON]", required=False)
@click.option("--retry", "and_retry", is_flag=True, help="Give it back to its channel then.")
@as_bytes
@_common
def edit(
    id: str, payload: str | None, and_retry: bool, paths: tuple[str, ...], namespace: str | None, as_json: bool
) -> int:
    """Put another payload in place of a dead letter's: JSON, `-` for standard input, or what an editor ($EDITOR) gives.

    It stays a dead letter until it is given back. The first or last characters of its ID are enough, at least 4, where
    no other begins or ends with them.

    Bytes are base64, as `zerowait dead show` prints them: where the type of a worker on this machine has bytes, where
    --bytes says so, and where no type says anything and there were bytes before.
    """
    # What can be said without anybody's answer is said before they are asked.
    if payload is None and not sys.stdin.isatty():
        raise Failure("There is no terminal for an editor: give the payload as JSON, or - to read it.", MISUSED)
    if payload == "-":
        payload = sys.stdin.read()
    if payload is not None:
        parsed(payload)
    reach = Reach.named(namespace)
    [id] = whole_ids(reach, [id])
    letter = reach.letter(id)
    before, value = editable(letter)
    if payload is None:
        payload = click.edit(before, extension=".json")
    if payload is None or payload.strip() == before.strip():
        tell("Nothing was changed.")
        return OK
    try:
        binary = Binary(() if paths else reach.types(letter.channel), paths)
    except NotBytes as error:
        raise Failure(f"{error}.", MISUSED) from None
    question = Question("dead.edit", {"id": id, "payload": encoded(payload, binary, value)})
    replies = reach.ask_for_letters(question, lambda reply: reply.value(bool) is True)
    if not any(reply.value(bool) for reply in replies):
        # Who has it may have refused the payload, or not have answered: only if neither is so, it is gone.
        why = " ".join(f"{who}: {error}" for who, error in _silent(replies).items())
        raise Failure(f"Dead letter {id} was not changed: {why or 'it is not there any more.'}")
    if and_retry:
        return _act("retry", ids=(id,), limit=None, everything=False, yes=True, namespace=namespace, as_json=as_json)
    if as_json:
        give_json({"id": id, "done": "edit"})
    tell(f"Dead letter {id} has that payload now. Give it back: zerowait dead retry {id}")
    return OK


@command.command("retry", short_help="Give dead letters back to their channels.")
@_chosen
@_common
def retry(**options: Any) -> int:
    """Give dead letters back to their channels, as if they had never been tried.

    Name them by their IDs, of which the first or last characters are enough (at least 4), or say which; all that is
    said must be so.
    """
    return _act("retry", **options)


@command.command("drop")
@_chosen
@_common
def drop(**options: Any) -> int:
    """Drop dead letters for good. The ledger counts them as dropped.

    Name them as for retry.
    """
    return _act("drop", **options)


def _act(
    what: Literal["retry", "drop"],
    *,
    ids: tuple[str, ...],
    everything: bool,
    limit: int | None,
    yes: bool,
    namespace: str | None,
    as_json: bool,
    channel: str | None = None,
    error: str | None = None,
    text: str | None = None,
    older: float | None = None,
    newer: float | None = None,
) -> int:
    which = _which(channel, error, text, older, newer)
    if everything and not which.is_all:
        raise Failure(
            "--all and a filter (--channel, --error, --text, --older, --newer) contradict each other: leave --all away "
            "for those that the filter means, or the filter for all.",
            MISUSED,
        )
    if bool(ids) + (not which.is_all) + everything != 1:
        raise Failure(
            f"Say which: zerowait dead {what} ID…, --all, or some of --channel, --error, --text, --older and --newer.",
            MISUSED,
        )
    if ids and limit is not None:
        raise Failure("--limit goes with --all or a filter: the IDs say already how many.", MISUSED)
    reach = Reach.named(namespace)
    asked = tuple(dict.fromkeys(whole_ids(reach, ids)))
    if not ids:
        # What is confirmed is what is done: these letters, and none that died since.
        found = reach.letters(which, limit)
        tell_silent(found.silent)
        asked = tuple(letter.id for letter in found.letters)
        if not asked:
            _tell_none(reach, which)
            return _code(found)
        verb = "Retry" if what == "retry" else "Drop for good"
        confirm(f"{verb} {plural(len(asked), 'dead letter')}{_said(which)}?", yes=yes)
    elif what == "drop" and not yes:
        for id in asked:
            reach.letter(id)  # raises Failure: a question about nothing is none
        confirm(f"Drop {plural(len(asked), 'dead letter')} for good?", yes=yes)
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
        page = list(ids[start : start + PAGE])
        question = Question("dead.retry" if what == "retry" else "dead.drop", {"ids": page})
        replies = reach.ask_for_letters(question, partial(_is_done, len(page)))
        silent.update(_silent(replies))
        for reply in replies:
            done.update(reply.value(list[str]) or [])
    return done, silent


def _is_done(count: int, reply: Reply) -> bool:
    return len(reply.value(list[str]) or ()) == count


def _silent(replies: Iterable[Reply]) -> dict[str, str]:
    return {reply.who: reply.answer.error for reply in replies if not reply.answer.ok}


def _code(found: Found) -> int:
    return OK if not found.silent else PARTIAL if found.letters else UNAVAILABLE


def _tell_none(reach: Reach, which: LetterFilter) -> None:
    tell(f"No dead letters{_said(which)} in namespace {reach.namespace!r}.")


def _said(which: LetterFilter) -> str:
    """Which they are, in words, to be put behind `dead letters`."""
    said = f" of {which.channel}" if which.channel else ""
    if which.error is not None:
        said += f" with {which.error!r} in their error"
    if which.text is not None:
        said += f" with {which.text!r} in their payload"
    if which.died_before_us is not None:
        said += f" that died before {local(datetime.fromtimestamp(which.died_before_us / 1e6, UTC))}"
    if which.died_after_us is not None:
        said += f" that died since {local(datetime.fromtimestamp(which.died_after_us / 1e6, UTC))}"
    return said


def _attempts(letter: LetterStatus) -> str:
    return f"{letter.attempts} +{letter.retried} retried" if letter.retried else str(letter.attempts)


def _show(letter: LetterDetail, as_json: bool) -> None:
    payload = readable(letter.payload)
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
        "retried": f"{plural(letter.retried, 'time')} before" if letter.retried else "",
        "rule": letter.rule,
        "worker": letter.worker,
        "reason": _reason(letter),
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


def _reason(letter: LetterDetail) -> str:
    """With the exception's name, which most reasons begin with."""
    named = not letter.type or letter.reason.startswith(letter.type)
    return letter.reason if named else f"{letter.type}: {letter.reason}"


def _short(reason: str) -> str:
    line = reason.partition("\n")[0]
    return line if len(line) <= 80 else line[:79] + "…"
