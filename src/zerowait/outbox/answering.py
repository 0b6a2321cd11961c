"""What an outbox answers to people: its ledger, its dead letters. On the thread that owns it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from zerowait.errors import Closed, StoreError, UsageError, ZerowaitError
from zerowait.outbox.letters import Letter, Letters
from zerowait.outbox.outbox import Outbox
from zerowait.outbox.waiting import drop
from zerowait.snapshot import (
    Answer,
    BoxStatus,
    ChannelStatus,
    DeathStatus,
    LetterDetail,
    LetterFilter,
    LetterStatus,
    Question,
    WaitingStatus,
    moment,
)


def box_status(box: Outbox, in_flight: Mapping[str, int], oldest: Mapping[str, int]) -> BoxStatus:
    """in_flight: read before this, so that what is settled meanwhile counts once, as handled. oldest: see
    `Outbox.oldest`. Any thread."""
    channels: list[ChannelStatus] = []
    for channel, row in sorted(box.ledger.rows().items()):
        left = row.waiting_and_in_flight
        flying = min(in_flight.get(channel, 0), left)
        channels.append(
            ChannelStatus(
                channel=channel,
                accepted=row.accepted,
                handled=row.handled,
                dead=row.dead,
                expired=row.expired,
                dropped=row.dropped,
                waiting=left - flying,
                in_flight=flying,
                oldest_at=moment(oldest[channel]) if channel in oldest and left else None,
            )
        )
    path = str(box.path) if box.path is not None else None
    return BoxStatus(id=f"{box.id:016x}", name=box.name, path=path, durable=box.durable, channels=channels)


def answer(box: Outbox, question: Question) -> Answer:
    """A question about a file that nobody else has open."""
    try:
        if question.verb == "status":
            return Answer(True, msgspec.to_builtins(box_status(box, {}, box.oldest())))
        if question.verb == "outbox.waiting":
            mine = question.args.get("name") in (None, box.name)
            status = waiting_status(box, question.args["channel"], {}, sent_to=len(box.noted))
            return Answer(True, [msgspec.to_builtins(status)] if mine else [])
        if question.verb == "outbox.drop":
            last = question.args["boxes"].get(f"{box.id:016x}")
            if last is None:
                return Answer(True, {})
            return Answer(True, {f"{box.id:016x}": (drop(box, question.args["channel"], (last[0], last[1])), False)})
        if question.verb == "channel.types":
            return Answer(True, [])
        return Answer(True, letters_answer(box, question))
    except ZerowaitError as error:
        return refusal(error)


def refusal(error: ZerowaitError) -> Answer:
    """What was asked for cannot be: now, for want of the disk or of its owner; or ever, as it was asked."""
    return Answer(False, error=str(error), is_final=not isinstance(error, StoreError | Closed))


def waiting_status(box: Outbox, channel: str, in_flight: Mapping[str, int], *, sent_to: int = 0) -> WaitingStatus:
    """in_flight: read before this."""
    left = {name: count for name in box.ledger.ids if (count := box.ledger.row(name).waiting_and_in_flight)}
    flying = min(in_flight.get(channel, 0), left.get(channel, 0))
    return WaitingStatus(
        box=f"{box.id:016x}",
        waiting=left.get(channel, 0) - flying,
        in_flight=flying,
        last=box.newest(),
        channels=sorted(left),
        sent_to=sent_to,
    )


def letters_answer(box: Outbox, question: Question) -> Any:
    """The part of one outbox in the answer to a question about dead letters. Raises StoreError, UsageError."""
    letters, args = Letters(box), question.args
    match question.verb:
        case "dead.list":
            after = next((id for id in args.get("after") or () if id.startswith(f"{box.id:016x}-")), None)
            which = msgspec.convert(args.get("which") or {}, LetterFilter)
            page = letters.page(which, limit=args.get("limit") or 50, after=after)
            return [msgspec.to_builtins(LetterStatus(**_facts(box, each))) for each in page]
        case "dead.show":
            one = letters.show(args["id"])
            return None if one is None else msgspec.to_builtins(_detail(box, one, letters), builtin_types=(bytes,))
        case "dead.edit":
            return letters.edit(args["id"], args["payload"])
        case "dead.retry":
            return letters.retry(args["ids"])
        case "dead.drop":
            return letters.drop(args["ids"])
        case verb:
            raise UsageError(f"The question {verb!r} is not known here: the two programs are of different versions.")


def _facts(box: Outbox, letter: Letter) -> dict[str, Any]:
    noted = letter.noted()
    return {
        "id": letter.id,
        "channel": letter.channel,
        "box": box.name,
        "accepted_at": moment(letter.accepted_at),
        "died_at": moment(letter.died_at) if letter.died_at else None,
        "attempts": letter.failures,
        "reason": str(noted.get("reason", "")),
        "rule": str(noted.get("rule", "")),
        "worker": str(noted.get("worker", "")),
        "size_bytes": letter.size_bytes,
        "retried": letter.retried,
    }


def _detail(box: Outbox, letter: Letter, letters: Letters) -> LetterDetail:
    noted = letter.noted()
    return LetterDetail(
        **_facts(box, letter),
        payload=letters.payload(letter),
        type=str(noted.get("type", "")),
        traceback=str(noted.get("traceback", "")),
        headers=letter.headers,
        deaths=_deaths(noted.get("deaths")),
    )


def _deaths(noted: object) -> list[DeathStatus]:
    try:
        return msgspec.convert(noted or [], list[DeathStatus])
    except msgspec.ValidationError:  # a note is what some worker has sent
        return []
