"""The runners of a simulated process: handlers that take time, and end as the seed wants."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import partial
from typing import Protocol

from msgspec import msgpack

from zerowait.engines.brokerless.protocol.core import Core
from zerowait.engines.brokerless.protocol.worker.parcel import Taken
from zerowait.message import ARRAY32, BODY_HEADER, BODY_START, Outcome, Prepared, Sent, Verdict
from zerowait.testing.durable import check_arrival
from zerowait.testing.history import History, Message, Output, Run
from zerowait.testing.timeline import Timeline

REASONS = {
    "dead": msgpack.encode({"reason": "rejected", "rule": "reject"}),
    "retry": msgpack.encode({"reason": "it failed", "rule": "retry"}),
}
RETRY_S, LATER_S = 0.1, 0.6  # until what has failed is to run again; of every fifth message the second
SLOW_S = 0.02  # a job that lasts so long is listed only with the message that runs
NEXT = "next"
_VERDICTS = {"dead": Verdict.DEAD, "retry": Verdict.RETRY, "unstarted": Verdict.UNSTARTED}


class Temper(Protocol):
    """How handlers behave: how long the next run of a message takes, in seconds, and how it ends."""

    def __call__(self, token: int, /) -> tuple[float, str]: ...


class Sends(Protocol):
    """What the handler of that channel sends for a message: payloads, for the next stage."""

    def __call__(self, channel: str, token: int, /) -> list[bytes]: ...


class Tells(Protocol):
    """What it publishes for durable groups: as it is kept, and for the books. index: the message's."""

    def __call__(self, channel: str, token: int, index: int, /) -> tuple[list[Prepared], list[Output]]: ...


class Crew:
    """at_once: how many messages a runner takes. kills: called when a handler takes its process along. home: the outbox
    where what handlers send is to lie.

    begun: what it has begun, by runner: the list that outlives it. A job is listed as a whole until it lasts."""

    def __init__(
        self,
        timeline: Timeline,
        history: History,
        core: Core,
        temper: Temper,
        services: dict[str, int],
        at_once: int,
        awake: Callable[[Callable[[], None]], None],
        touch: Callable[[], None],
        kills: Callable[[Message | None], None],
        sends: Sends,
    ) -> None:
        self.home = 0
        self.tells: Tells = lambda channel, token, index: ([], [])
        self._sends = sends
        self._timeline = timeline
        self._history = history
        self._core = core
        self._temper = temper
        self._services = services
        self._at_once = at_once
        self._awake = awake
        self._touch = touch
        self._kills = kills
        self._busy = dict.fromkeys(services, 0)
        self.begun: dict[int, tuple[int, int, int, int]] = {}  # by `id` of the job: (outbox, epoch, first, count)

    def serve(self, channel: str, runners: int) -> None:
        """That one, too, from now on."""
        self._services[channel] = runners
        self._busy[channel] = 0

    def ready(self, channel: str) -> None:
        while self._busy.get(channel, 0) < self._services.get(channel, 0):
            taken = self._core.worker.desk.start(channel, self._at_once, self._timeline.now)
            if taken is None:
                return
            self._busy[channel] += 1
            self._next(channel, taken, taken.start, self._timeline.now)

    def is_busy(self) -> bool:
        return any(self._busy.values())

    def _next(self, channel: str, taken: Taken, index: int, taken_at: float) -> None:
        if index == taken.stop:
            self._busy[channel] -= 1
            del self.begun[id(taken)]
            self.ready(channel)
            return
        delivery = taken.delivery
        payload = delivery.payload(index)
        name = (delivery.box, delivery.epoch, delivery.number(index))
        lasts = self._timeline.now - taken_at >= SLOW_S
        self.begun[id(taken)] = (*name, 1 if lasts else taken.stop - index)
        run = Run(self._core.me.instance, name, self._timeline.now, "handled", taken_at=taken_at)
        message = self._history.started(payload, run)
        seconds = 0.0
        if message is not None:
            headers = dict(delivery.headers.get(name[2], {})) if delivery.headers else {}
            message.wrong = message.wrong or check_arrival(message, channel, headers)
            seconds, run.ending = self._temper(message.token)
        self._timeline.after(seconds, lambda: self._awake(partial(self._end, channel, taken, index, run, message)))

    def _end(self, channel: str, taken: Taken, index: int, run: Run, message: Message | None) -> None:
        if run.ending == "kills":
            self._kills(message)
            return
        run.ended_at = self._timeline.now
        outcome = None
        if run.ending != "handled":
            if run.ending == "retry":
                run.wait_s = LATER_S if message is not None and message.token % 5 == 4 else RETRY_S
            outcome = Outcome(_VERDICTS[run.ending], run.wait_s, REASONS.get(run.ending, b""))
        elif message is not None:
            parts, outputs = self.tells(channel, message.token, index)
            if payloads := self._sends(channel, message.token):
                parts.append(_prepared(index, payloads))
                outputs += [(payload, "", "") for payload in payloads]
            if parts:
                self._history.sent(message, run, outputs)
                outcome = Outcome(Verdict.HANDLED, outputs=Sent(self.home, parts))
        if message is not None:
            self._history.tell("end", message.token, run.worker, run.ending)
        self._core.finish([(taken, index, index + 1, outcome)])
        self._touch()
        self._next(channel, taken, index + 1, run.taken_at or run.started_at)


def _prepared(index: int, payloads: list[bytes]) -> Prepared:
    body, ends = bytearray(BODY_START), array("I")
    for payload in payloads:
        body += payload
        ends.append(len(body))
    BODY_HEADER.pack_into(body, 0, ARRAY32, len(ends))
    return Prepared(NEXT, body, ends.tobytes(), [index] * len(ends), 0)
