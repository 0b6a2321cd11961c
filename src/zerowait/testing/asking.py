"""Requests and streams of a simulated world: who asks when, who stops waiting, and how those behave who answer."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

from zerowait.message import Service
from zerowait.testing.answering import Manner, Repliers
from zerowait.testing.asker import Asker
from zerowait.testing.history import payload_of
from zerowait.testing.plan import KILLS, REFORMS
from zerowait.testing.questions import AGAIN, FLOW, SURE, Question, QuestionBook
from zerowait.testing.timeline import START
from zerowait.testing.traffic import Ask

if TYPE_CHECKING:
    from zerowait.testing.cluster import Cluster
    from zerowait.testing.node import Node

HURRY = 40  # so many items of a stream are given where all is to come to rest


class Asking:
    def __init__(self, cluster: Cluster, book: QuestionBook) -> None:
        self._cluster = cluster
        self._book = book
        self._plan = cluster.plan
        self._rng = Random(f"asking {cluster.plan.seed}")

    def schedule(self) -> None:
        at = self._cluster.timeline.call
        for ask in self._plan.asks:
            at(START + ask.at, partial(self._ask, ask))
        for when, token in self._plan.cancels:
            at(START + when, partial(self._cancel, token))

    def _ask(self, ask: Ask) -> None:
        node = self._cluster.senders[ask.sender]
        if node is None or node.paused:
            return
        if node.asker is None:
            node.asker = Asker(node)
        now = self._cluster.timeline.now
        until = now + ask.timeout if ask.timeout is not None else None
        for token in ask.tokens:
            question = self._book.ask(
                Question(token, ask.channel, node.instance, ask.hedged, now, until, most=ask.most)
            )
            payload = payload_of(token, self._rng.choice((10, 100, 3_000)))
            node.asker.ask(question, payload, ask.timeout, ask.pace)
            if ask.most == 0:  # before it is on its way
                node.asker.cancel(question)

    def _cancel(self, token: int) -> None:
        question = self._book.asked.get(token)
        if question is None or question.ends:
            return
        node = next(node for node in self._cluster.nodes if node.instance == question.asker)
        if node.alive and not node.paused and node.asker is not None:
            node.asker.cancel(question)

    # -- who answers -------------------------------------------------------------------------------------------------

    def serve(self, node: Node) -> list[Service]:
        """That process answers from now on."""
        channels: dict[str, int] = dict.fromkeys((SURE, AGAIN, FLOW), self._plan.runners)
        node.repliers = Repliers(node, channels, self._manner, self._plan.job, partial(self._killed, node))
        return [
            Service(name, "stream" if name == FLOW else "request", runners, idempotent=name == AGAIN)
            for name, runners in channels.items()
        ]

    def _killed(self, node: Node, question: Question) -> None:
        kind = self._plan.manners.get(question.token, "")
        asker = next(each for each in self._cluster.nodes if each.instance == question.asker)
        self._cluster.killed_by_handler(node, kind, asker if kind == "handler kills both ends" else None)

    def _manner(self, question: Question) -> Manner:
        """How the next run of it goes."""
        cluster, token = self._cluster, question.token
        kind = self._plan.manners.get(token, "")
        seconds = self._plan.handler_s * (0.5 + self._rng.random())
        is_deaf = token % 3 == 0
        items = self._rng.choice((0, 1, 5, 40, 120)) if question.is_stream else 0
        if kind in KILLS and len(question.starts) <= REFORMS:
            return Manner(min(seconds, 0.01), "kills", min(items, 5))
        if kind in ("handler rejects", "handler fails"):
            cluster.fired.add(kind)
            return Manner(seconds, "refuses" if kind == "handler rejects" else "raises", items, is_deaf)
        if question.is_stream and token % 4 == 0 and question.most is not None:
            return Manner(seconds, "endless", is_deaf=is_deaf)
        if cluster.healed:
            return Manner(min(seconds, 0.005), "answers", min(items, HURRY), is_deaf)
        if kind == "slow handler":
            cluster.fired.add(kind)
            return Manner(self._rng.uniform(0.3, 4.0), "answers", min(items, 5), is_deaf)
        return Manner(seconds, "answers", items, is_deaf)
