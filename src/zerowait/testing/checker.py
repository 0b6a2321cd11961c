"""The books at the end: what was said of each message, what was done with it, and what its outbox says became of it.

A queue needs accounting, no search for an order in which it all could have been: each message is looked at once."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from zerowait.outbox.letters import Letters
from zerowait.testing.history import History, Message, token_of
from zerowait.testing.surroundings import Home


class Books(Struct):
    """What an outbox says at the end. letters: the reason of each dead letter, by its token; failures: how often each
    has failed, as it says; crashed: those of them that workers have died of."""

    box: int
    accepted: int = 0
    handled: int = 0
    dead: int = 0
    expired: int = 0
    dropped: int = 0
    waiting: int = 0
    letters: dict[int, str] = field(default_factory=dict[int, str])
    failures: dict[int, int] = field(default_factory=dict[int, int])
    crashed: set[int] = field(default_factory=set[int])

    @staticmethod
    def of(home: Home) -> Books:
        assert home.owner is not None
        box = home.owner.boxes[home.box]
        books = Books(home.box)
        for row in box.ledger.rows().values():
            books.accepted += row.accepted
            books.handled += row.handled
            books.dead += row.dead
            books.expired += row.expired
            books.dropped += row.dropped
            books.waiting += row.waiting_and_in_flight
        letters = Letters(box)
        for letter in letters.page(limit=1_000):
            token = token_of(letters.payload(letter))
            books.letters[token] = str(letter.noted().get("reason", ""))
            books.failures[token] = letter.failures
            if letter.noted().get("rule") == "crashes":
                books.crashed.add(token)
        return books


def check(history: History, books: list[Books]) -> list[str]:
    """All that is wrong; empty if nothing is."""
    wrong: list[str] = [f"unexpected: {words}" for words in history.strangers]
    crashed = {token for each in books for token in each.crashed}
    letters = {token: reason for each in books for token, reason in each.letters.items()}
    wrong += [f"dead without a reason: message {token}" for token, reason in letters.items() if not reason]
    wrong += [f"unexpected: a dead letter {token}" for token in letters if token not in history.messages]
    for message in history.messages.values():
        if message.fate != "prepared":
            wrong += _check_message(message, message.token in letters, message.token in crashed)
    wrong += _check_outputs(history, letters)
    for each in books:
        wrong += [line for token, told in each.failures.items() if token not in each.crashed
                  for line in _check_failures(history, token, told)]  # fmt: skip
        mine = [message for message in history.messages.values() if message.box == each.box]
        wrong += _check_totals(each, mine)
    return wrong


def _check_message(message: Message, is_letter: bool, has_crashed: bool) -> list[str]:
    wrong: list[str] = []
    token, said = message.token, message.said
    handled = any(run.ending == "handled" and run.ended_at is not None for run in message.runs)
    if message.wrong:
        wrong.append(f"altered: message {token}: {message.wrong}")
    if message.fate == "pending":
        wrong.append(f"undecided: nobody was told whether message {token} was accepted")
    if message.fate == "refused" and (message.runs or is_letter):
        wrong.append(f"refused and delivered: message {token}")
    may_be_dropped = "withdrawal asked" in said
    if message.fate == "accepted" and not (handled or is_letter or message.expires or may_be_dropped):
        wrong.append(f"lost: message {token}, started {len(message.runs)} times, its receipt says {said or 'nothing'}")
    if is_letter and not has_crashed and not any(run.ending in ("dead", "retry") for run in message.runs):
        wrong.append(f"dead without a failure: message {token}")
    if "handled" in said and not handled:
        wrong.append(f"told as handled, and never was: message {token}")
    if "dead" in said and not is_letter:
        wrong.append(f"told as dead, and there is no letter: message {token}")
    if "expired" in said and not message.expires:
        wrong.append(f"told as expired, and had no time to: message {token}")
    if "begun" in said and not message.runs:
        wrong.append(f"not taken back for it had begun, and never had: message {token}")
    return wrong


def _check_outputs(history: History, letters: Mapping[int, str]) -> list[str]:
    """What a handler sends for a message has one name, whoever ran it; all of it leaves, or nothing."""
    wrong: list[str] = []
    outputs: dict[int, list[Message]] = {}
    for message in history.messages.values():
        if message.of is not None:
            outputs.setdefault(message.of, []).append(message)
            names = {run.name for run in message.runs}
            if len(names) > 1:
                wrong.append(f"sent twice: {message.token}, for message {message.of}, as {sorted(names)}")
    for token, sent in outputs.items():
        message = history.messages[token]
        left = frozenset(each.token for each in sent if each.runs)
        # What goes to durable groups is for those that the worker knows: another run may send for another one more.
        wholes = {run.sent for run in message.runs if run.ending == "handled" and run.ended_at is not None}
        if left and left not in wholes:
            wrong.append(f"sent in part: what was sent for message {token}, {sorted(left)}")
        if token in letters:
            if left:
                wrong.append(f"sent for a dead letter: message {token}")
            continue
        is_handled = message.fate == "accepted" and not message.expires and "withdrawal asked" not in message.said
        if is_handled and not left and left not in wholes:
            wrong.append(f"not sent: what was sent for message {token} is nowhere, and it was handled")
    return wrong


def _check_failures(history: History, token: int, told: int) -> list[str]:
    """A failure counts once, also if it is told again to the next opening; one that was told under an older dispatch
    does not count at all."""
    message = history.messages.get(token)
    runs = message.runs if message is not None else []
    most = sum(run.ended_at is not None and run.ending in ("dead", "retry") for run in runs)
    if 1 <= told <= most:
        return []
    return [f"miscounted: message {token} has failed {most} times at most, and its letter says {told}"]


def _check_totals(books: Books, messages: list[Message]) -> list[str]:
    """The ledger against what the handlers and the receipts say."""
    fates = [message.fate for message in messages]
    least, most = fates.count("accepted"), fates.count("accepted") + fates.count("unknown")
    handled = sum(any(run.ending == "handled" and run.ended_at is not None for run in m.runs) for m in messages)
    limits = {
        "accepted": (books.accepted, least, most),
        "handled": (books.handled, 0, handled),
        "dead": (books.dead, len(books.letters), len(books.letters)),
        "expired": (books.expired, 0, sum(message.expires for message in messages)),
        "dropped": (books.dropped, 0, sum("withdrawal asked" in message.said for message in messages)),
        "waiting": (books.waiting, 0, 0),
    }
    return [
        f"the ledger of {books.box:x} says {told} {name}, and there were {f'{low} to {high}' if low < high else high}"
        for name, (told, low, high) in limits.items()
        if not low <= told <= high
    ]
