"""Whether who ends its process is found soon, and nobody else is condemned (rules §5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from math import inf

from zerowait.testing.causes import SLACK_S
from zerowait.testing.cluster import CONFIG
from zerowait.testing.history import LEFT, History, Message, Run
from zerowait.testing.plan import KILLS, Plan

Name = tuple[int, int, int]  # (outbox, epoch, number)
WITH_PROOF = 3  # runs of a killer: aside after the first, alone after the second
WITHOUT = 5  # where all that was held is suspect, the death of another may come between


def judge(plan: Plan, history: History, condemned: Collection[int], silences: Counter[int]) -> list[str]:
    """condemned: dead letters with the rule `crashes`, by token. silences: how often each message was started once more
    because its worker could not be heard."""
    wrong = _marked_without_having_run(history)
    for message in history.messages.values():
        deaths = {run.worker for run in message.runs if _is_death(history, run)}
        named = {run.name for run in message.runs}
        # Of a job of many that had just begun it is not known which of them ran.
        listed = {life.instance for life in history.lives.values() if any(life.lists(name) for name in named)}
        counted = [worker for worker in deaths | listed if not _is_spared(history, named, worker)]
        token, killed = message.token, len(deaths - _spared(history, message))
        if token in condemned and len(counted) < WITH_PROOF:
            wrong.append(f"condemned: message {token}, which {killed} workers have died of")
        if plan.tempers.get(token) in KILLS and killed > (most := _most(plan, history, message, silences[token])):
            wrong.append(f"not found: message {token} has killed {killed} workers, and {most} are enough")
    return wrong


def _is_death(history: History, run: Run) -> bool:
    """It ended with its process. Of the end of a machine nobody knows whether it was one."""
    life = history.lives[run.worker]
    has_died = life.ended_at is not None and life.how != LEFT
    return run.ended_at is None and has_died and not life.is_silent


def _spared(history: History, message: Message) -> set[int]:
    """Workers whose deaths did not count when it was started again."""
    starts = [*(run.started_at for run in message.runs[1:]), inf]
    return {
        run.worker
        for run, until in zip(message.runs, starts, strict=False)
        if _is_spared(history, {run.name}, run.worker, until)
    }


def _is_spared(history: History, named: Collection[Name], worker: int, until: float = inf) -> bool:
    """One that was draining leaves no mark (§5.1): its owner has noted none by then. Where nobody finds its list, who
    has not heard that it was draining may note one."""
    noted = (history.marks.get((name, worker)) for name in named)
    return history.lives[worker].was_leaving and not any(each is not None and each.at <= until for each in noted)


def _most(plan: Plan, history: History, message: Message, silences: int) -> int:
    if plan.proves and plan.lists:
        return WITH_PROOF + silences
    # A death that is not proved is known to its owner alone, which may die of it; or may have given up before whom it
    # did not hear, and silence by itself is no death (§5.4).
    lives = () if plan.proves else [history.lives[run.worker] for run in message.runs]
    unheard = sum(life.unheard_s(message.box) >= CONFIG.silence - SLACK_S for life in lives)
    return WITHOUT + silences + unheard + history.openings[message.box] - 1


def _marked_without_having_run(history: History) -> list[str]:
    """A list clears all that was only queued."""
    return [
        f"suspected: {name} of the death of {history.lives[instance].name}, whose list does not name it"
        for (name, instance), noted in sorted(history.marks.items())
        if noted.ran and not history.lives[instance].lists(name)
    ]
