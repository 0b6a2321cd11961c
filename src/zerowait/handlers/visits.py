"""What a handler may know of the message it works on, and do as part of its outcome: what a `Context` is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

from zerowait.ambient import DEADLINE
from zerowait.errors import UsageError
from zerowait.handlers.outputs import Output, Outputs, Spooled
from zerowait.message import Delivery
from zerowait.patterns import TOPIC_HEADER, parted

SPOOL_BYTES = 1 << 20
MANY = 64  # replies of a run; then those that are done are forgotten
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Visit:
    """One run of a handler for one message. Made only for handlers that ask for it: it costs more than a small handler.

    deadline: `time.monotonic` at which an `async def` handler is cancelled; inf: never.
    leaving: whether the process drains, so that a long plain function may end by itself.
    """

    __slots__ = (
        "_bytes",
        "_outputs",
        "_spooled",
        "answers",
        "asked",
        "cancelled",
        "deadline",
        "delivery",
        "index",
        "leaving",
        "outputs",
        "over",
        "resources",
        "served",
        "until",
    )

    def __init__(
        self,
        delivery: Delivery,
        index: int,
        resources: Any,
        outputs: Outputs,
        leaving: Callable[[], bool],
        deadline: float = inf,
    ) -> None:
        self.delivery = delivery
        self.index = index
        self.resources = resources
        self.deadline = deadline
        self.leaving = leaving
        self.outputs: list[Output] = []  # leave if the handler succeeds
        self.over = False
        self.until: float | None = None  # the deadline by the clock of DEADLINE
        self.answers = False  # it works on a request
        self.asked: list[Any] = []  # replies that it waits for, perhaps
        self.cancelled = False  # nobody waits for its answer any more
        self._outputs = outputs
        self._bytes = 0  # of the outputs in memory
        self._spooled: list[Spooled] = []
        self.served = delivery.channel  # what its handler serves: for events a pattern, perhaps of a group

    @property
    def number(self) -> int:
        return self.delivery.number(self.index)

    @property
    def id(self) -> str:
        """As the sender's receipt has it: outbox, epoch, number."""
        return message_id(self.delivery, self.index)

    @property
    def attempt(self) -> int:
        """Counts from 1: what failed, and what ended with its worker."""
        failures, deaths, number = self.delivery.failures, self.delivery.deaths, self.number
        return 1 + (failures.get(number, 0) if failures else 0) + (deaths.get(number, 0) if deaths else 0)

    @property
    def channel(self) -> str:
        """The channel, or the topic of an event."""
        pattern_and_group = parted(self.delivery.channel)
        if pattern_and_group is None:
            return self.delivery.channel
        return self._headers().get(TOPIC_HEADER) or pattern_and_group[0]

    @property
    def missed(self) -> int:
        """Events lost directly before this one."""
        missed = self.delivery.missed
        return missed.get(self.index, 0) if missed else 0

    @property
    def headers(self) -> Mapping[str, str]:
        headers = self._headers()
        if TOPIC_HEADER in headers:
            return {name: said for name, said in headers.items() if name != TOPIC_HEADER}
        return headers

    def _headers(self) -> Mapping[str, str]:
        headers = self.delivery.headers
        return (headers.get(self.number) if headers else None) or {}

    def push(self, to: object, value: object, options: Mapping[str, Any]) -> None:
        """Part of the outcome: checked and encoded now, sent if the handler succeeds.

        Raises the caller's mistakes, and UsageError once the handler has ended.
        """
        self._check()
        self._take(self._outputs.prepare(to, value, options))

    def publish(self, to: object, value: object, options: Mapping[str, Any]) -> None:
        """The same for an event."""
        self._check()
        self._take(self._outputs.prepare_event(to, value, options))

    def _check(self) -> None:
        if self.over:
            raise UsageError(
                f"This context belongs to a run of {self.delivery.channel!r} that has ended: what it sends could no "
                "longer be part of its outcome. Send with a client, or keep the handler running until all is pushed."
            )

    def _take(self, output: Output) -> None:
        self.outputs.append(output)
        self._bytes += self._outputs.size(output)

    def spool(self) -> Spooled | None:
        """For a generator, which may give more than memory holds: when there is much, it goes to the disk, and whoever
        draws from the generator waits for that. None: go on."""
        if self._bytes < SPOOL_BYTES:
            return None
        self._bytes = 0
        spooled = self._outputs.spool(self.delivery, self.index, self.outputs)
        if spooled is not None:
            self._spooled.append(spooled)
            self.outputs = []
        return spooled

    def succeeded(self) -> list[Output]:
        """All that is part of the outcome."""
        return [*self._spooled, *self.outputs] if self._spooled else self.outputs

    def failed(self) -> None:
        for spooled in self._spooled:
            self._outputs.unspool(spooled)
        self._spooled.clear()

    def ask(self, client: Any, to: object, value: object, options: Mapping[str, Any]) -> Any:
        """Now: a reply that belongs to this run."""
        if self.over:
            raise UsageError(
                f"This context belongs to a run of {self.delivery.channel!r} that has ended: what it asks could no "
                "longer be cancelled with it. Ask with a client."
            )
        token = DEADLINE.set(self.until)
        try:
            reply = client.request(to, value, **options)
        finally:
            DEADLINE.reset(token)
        if len(self.asked) >= MANY:
            self.asked = [each for each in self.asked if not each.done()]
        self.asked.append(reply)
        return reply

    def cancel(self) -> None:
        """Nobody waits for it: nor for what it has asked in turn. Any thread."""
        self.cancelled = True
        for reply in list(self.asked):
            reply.cancel()


def message_id(delivery: Delivery, index: int) -> str:
    epoch, digits = delivery.epoch, ""
    while epoch:
        epoch, digit = divmod(epoch, 36)
        digits = DIGITS[digit] + digits
    return f"{delivery.box:016x}-{digits or '0'}-{delivery.number(index)}"
