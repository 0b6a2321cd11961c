"""Why a message was started again. Each second start has a cause that the rules name (§13), or something is wrong.

The causes: the run before failed, and its time to run again has come, or was handed back; its worker's life ended; or
its outbox's owner and that worker could not hear each other for the whole grace. And nothing is started for the first
time before it is due."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from zerowait.testing.cluster import CONFIG, Cluster
from zerowait.testing.history import LEFT, Message, Run
from zerowait.testing.node import Node

DEATH, DEATH_WHILE_LEAVING = "death", "death while leaving"
ROUNDED_S = 1e-5  # times on disk are whole microseconds, rounded here and there
SLACK_S = 0.15  # how much earlier than both of them we may notice that they hear each other again


class Causes:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.counted: Counter[str] = Counter()
        self.silences: Counter[int] = Counter()  # by message

    def sample(self) -> None:
        """Who can hear whom now."""
        now = self._cluster.timeline.now
        lives = self._cluster.history.lives
        owners = [(home.box, home.owner) for home in self._cluster.homes]
        owners += [(node.instance, node if node.alive else None) for node in self._cluster.nodes if node.asker]
        for worker in self._cluster.nodes:
            life = lives[worker.instance]
            if not life.serves or (life.ended_at is not None and life.is_sampled):
                continue
            life.is_sampled = not worker.alive
            for box, owner in owners:
                if owner is not None and worker.alive and self._hear_each_other(owner, worker, box):
                    since = life.broken_since.pop(box, None)
                    if since is not None:
                        life.breaks.setdefault(box, []).append((since, now))
                else:
                    life.broken_since.setdefault(box, now)

    def _hear_each_other(self, owner: Node, worker: Node, box: int) -> bool:
        if owner is worker:
            return not owner.paused
        if owner.paused or worker.paused or self._cluster.network.is_walled(owner, worker):
            return False
        peer = owner.core.peers.get(worker.instance)
        link = peer.link if peer is not None else None
        return link is not None and box in link.resumed

    def judge(self) -> list[str]:
        wrong: list[str] = []
        deaths: Counter[int] = Counter()
        for message in self._cluster.history.messages.values():
            if message.runs and not self._is_due(message, message.pushed_at, message.delay_s, message.runs[0]):
                at = f"{self._start(message.runs[0])}, {message.delay_s:g} s after {message.pushed_at:.3f} it was due"
                wrong.append(f"message {message.token} was started before its time {at}")
            for before, after in pairwise(message.runs):
                cause = self._cause(message, before, after)
                if not cause:
                    starts = f"{self._start(before)} and again {self._start(after)}"
                    wrong.append(f"message {message.token} {before.name} was started {starts} without a cause")
                elif cause in (DEATH, DEATH_WHILE_LEAVING):
                    deaths[before.worker] += 1
                elif cause == "silence":
                    self.silences[message.token] += 1
                self.counted[cause] += 1
        for worker, restarted in deaths.items():
            life = self._cluster.history.lives[worker]
            if restarted > life.unsettled:
                wrong.append(
                    f"{restarted} were started again for the death of {life.name}, which held {life.unsettled}"
                )
        return wrong

    def _start(self, run: Run) -> str:
        return f"at {run.started_at:.3f} by {self._cluster.history.lives[run.worker].name}"

    def _cause(self, message: Message, before: Run, after: Run) -> str:
        # What has failed runs again before its time only for another cause: that was not heard.
        if (
            before.ended_at is not None
            and before.ended_at <= after.started_at
            and before.ending in ("retry", "unstarted")
            and self._is_due(message, before.ended_at, before.wait_s, after)
        ):
            return before.ending
        life = self._cluster.history.lives[before.worker]
        if life.ended_at is not None and life.ended_at <= after.started_at:
            if life.how == LEFT:
                return "left"
            return DEATH_WHILE_LEAVING if life.was_leaving else DEATH
        return "silence" if self.is_silent(message, before, after) else ""

    def _is_due(self, message: Message, since: float, wait_s: float, run: Run) -> bool:
        """Whether it began so many seconds after that, as its outbox knows the time."""
        early = since + wait_s - run.started_at - ROUNDED_S
        return early <= 0 or early <= self._cluster.history.set_on_s(message.box, since, run.started_at)

    def is_silent(self, message: Message, before: Run, after: Run) -> bool:
        """Either may have had it in hand while it could not be heard: the first, which ran it, or the second, whose
        runner had taken it together with one that took long."""
        since = after.taken_at if after.taken_at is not None else after.started_at
        until = self._until_held(message.box, before, after.started_at)
        silent = self.lost_sight(message.box, before.worker, before.started_at, until)
        return silent or self.lost_sight(message.box, after.worker, since, after.started_at)

    def _until_held(self, box: int, before: Run, now: float) -> float:
        """The silence of one that is held on this machine is none: what it has begun stays with it (§4.3). But for the
        next to open that outbox, who cannot know what it had."""
        if self._cluster.history.opened_at.get(box, now) >= before.started_at:
            return now
        life = self._cluster.history.lives[before.worker]
        return next((since for since, until in life.holds if since <= now < until), now)

    def lost_sight(self, box: int, worker: int, since: float, until: float) -> bool:
        """Whether the owner of that outbox and that worker did not hear each other for the grace, in that time."""
        life = self._cluster.history.lives[worker]
        breaks = [*life.breaks.get(box, ())]
        if box in life.broken_since:
            breaks.append((life.broken_since[box], self._cluster.timeline.now))
        return any(
            end > since and min(end, until) - start >= CONFIG.resume_grace - SLACK_S
            for start, end in breaks
            if start < until
        )
