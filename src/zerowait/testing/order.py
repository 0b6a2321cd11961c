"""The order of keys: of what one sender pushed with one key nothing may begin before all that it pushed earlier with it
is over, and no two may run at once.

Two causes excuse a second run of a message while others of its key are at work, the same as anywhere: its worker died,
so that it has ended; or its owner and that worker could not hear each other for the whole grace."""

from __future__ import annotations

from zerowait.testing.causes import Causes
from zerowait.testing.history import History, Message, Run


def judge(history: History, letters: set[int], causes: Causes) -> list[str]:
    """All that is wrong; empty if nothing is. letters: the dead ones at the end."""
    keys: dict[tuple[int, str], list[Message]] = {}
    for message in history.messages.values():  # in the order of pushing
        if message.key and message.fate != "refused":
            keys.setdefault((message.box, message.key), []).append(message)
    wrong: list[str] = []
    for (_, key), messages in keys.items():
        wrong += _out_of_order(key, messages, letters)
        wrong += _at_once(history, key, messages, causes)
    return wrong


def _out_of_order(key: str, messages: list[Message], letters: set[int]) -> list[str]:
    over_at, last = 0.0, -1
    wrong: list[str] = []
    for message in messages:
        first = min((run.started_at for run in message.runs), default=None)
        if first is not None and first < over_at:
            wrong.append(f"key {key}: message {message.token} was begun before message {last} was handled")
        handled = [run.ended_at for run in message.runs if run.ending == "handled" and run.ended_at is not None]
        # What is dropped, expired or dead is over without a run; when, only its outbox knew.
        if handled and not (message.expires or "withdrawal asked" in message.said or message.token in letters):
            over_at, last = max(over_at, min(handled)), message.token
    return wrong


def _at_once(history: History, key: str, messages: list[Message], causes: Causes) -> list[str]:
    def end_of(run: Run) -> float:
        ended = [at for at in (run.ended_at, history.lives[run.worker].ended_at) if at is not None]
        return min(ended, default=float("inf"))

    runs = sorted(((run, message) for message in messages for run in message.runs), key=lambda each: each[0].started_at)
    wrong: list[str] = []
    for at, (after, of) in enumerate(runs):
        for before, message in runs[:at]:
            if message.expires or _handled_by(message, before, after.started_at):
                # The next life of its sender may find its time over before it hears who runs it; and one who was
                # thought gone may have come back and handled it, while another was at it for that reason.
                continue
            if end_of(before) > after.started_at and not causes.is_silent(message, before, after):
                wrong.append(
                    f"key {key}: message {message.token} ran at {history.lives[before.worker].name} when message "
                    f"{of.token} was begun at {after.started_at:.3f} by {history.lives[after.worker].name}"
                )
    return wrong


def _handled_by(message: Message, but: Run, at: float) -> bool:
    """Whether another run of it has handled it by then. That there were two has a cause, or is found elsewhere."""
    others = (run for run in message.runs if run is not but and run.ending == "handled")
    return any(run.ended_at is not None and run.ended_at <= at for run in others)
