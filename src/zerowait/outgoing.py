"""The way out of a handler: through the app's own outbox, where what it sends lies until its run is chosen.

What nobody chooses leaves at once: what goes to a bare socket, what is sent for an event, what a reply sends, and an
event itself, but for its durable groups."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from zerowait.feeding import EventFeed
from zerowait.handlers.outputs import Opening, Output, Spooled, Tagged
from zerowait.message import Delivery, Prepared, Sent, Spool, Unspool
from zerowait.outbox.bundle import Gathered, bundle, gather
from zerowait.outbox.entrance import Ready
from zerowait.outbox.sheaf import MESSAGE_COST, Sheaf
from zerowait.topics.entrance import ReadyEvent

if TYPE_CHECKING:
    from zerowait.opening import Opened


class _Opening:
    """Outputs whose outbox is not open yet."""

    def __init__(self, opened: Opened, durable: bool, parts: list[Prepared]) -> None:
        self._opened = opened
        self._durable = durable
        self._parts = parts

    def when_open(self, callback: Callable[[Sent | BaseException], object]) -> None:
        def is_open(home: int | BaseException) -> None:
            callback(Sent(home, self._parts) if isinstance(home, int) else home)

        self._opened.estate.when_home(self._durable, is_open)


class _Spooled:
    """Outputs of a run that goes on."""

    def __init__(self, parts: list[Prepared]) -> None:
        self.parts = parts
        self.stored: Future[None] = Future()
        self.stored.set_running_or_notify_cancel()  # who awaits it may be cancelled, and the store thread tells it then


class _Released:
    """Outputs on their way to safety: one message after another was taken, each in some sheaf."""

    def __init__(self, taken: list[tuple[Sheaf, int]]) -> None:
        self._taken = taken

    def when_stored(self, callback: Callable[[BaseException | None], object]) -> None:
        left = len(self._taken)
        lock = threading.Lock()

        def one() -> None:
            nonlocal left
            with lock:
                left -= 1
                over = left == 0
            if over:
                callback(next((sheaf.error for sheaf, _ in self._taken if sheaf.error is not None), None))

        for sheaf, index in self._taken:
            sheaf.when_stored(index, one)


class Outgoing:
    """All that the handlers of an app send. See `handlers.outputs.Outputs`."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    def prepare(self, to: object, value: object, options: Mapping[str, Any]) -> Output:
        return self._opened.entrance.prepare(to, value, options)

    def prepare_event(self, to: object, value: object, options: Mapping[str, Any]) -> Output:
        return self._opened.feeds.entrance.prepare(to, value, options)

    def gather(self, to: object) -> Gathered | None:
        lane = self._opened.entrance.short(to)
        return gather(lane) if lane is not None else None

    def size(self, output: Output) -> int:
        assert isinstance(output, (Ready, ReadyEvent))
        return len(output.payload) + MESSAGE_COST

    def spool(self, delivery: Delivery, index: int, outputs: list[Output]) -> _Spooled | None:
        ready = [(index, output) for output in outputs if isinstance(output, Ready)]
        if len(ready) < len(outputs) or isinstance(delivery.token, EventFeed):
            return None  # events are for those who are there, and nobody chooses what is sent for one
        intakes = [output.lane.intake for _, output in ready]
        durable = delivery.durable or any(intake.durable for intake in intakes)
        home = self._opened.estate.home(True)
        if not home or not durable or any(intake.is_plain for intake in intakes):
            return None
        spooled = _Spooled(bundle(ready, self._opened.now_us()))
        number = delivery.number(index)
        told = partial(spooled.stored.set_result, None)
        change = Spool(delivery.box, delivery.epoch, number, number - index, spooled.parts, told)
        self._opened.estate.submit(home, 0, [change], {})
        return spooled

    def unspool(self, spooled: Spooled) -> None:
        assert isinstance(spooled, _Spooled)
        self._opened.estate.submit(self._opened.estate.home(True), 0, [Unspool(spooled.parts)], {})

    def send(self, delivery: Delivery, outputs: list[Tagged]) -> Sent | Opening | None:
        opened = self._opened
        kept: list[tuple[int, Ready]] = []
        parts: list[Prepared] = []
        durable = delivery.durable  # an output is at least as durable as its input
        for index, output in outputs:
            if isinstance(output, _Spooled):
                parts += output.parts
                durable = True
                continue
            if isinstance(output, Gathered):
                if isinstance(delivery.token, EventFeed):
                    for each in output.apart():
                        opened.entrance.release(each)
                    continue
                if kept:  # sent before
                    parts += bundle(kept, opened.now_us())
                    kept = []
                durable = durable or output.lane.intake.durable
                parts.append(output.closed(opened.now_us()))
                continue
            # An event is for those who are there; what goes to durable groups is chosen as every push is.
            for ready in opened.feeds.entrance.leave(output) if isinstance(output, ReadyEvent) else [output]:
                assert isinstance(ready, Ready)
                intake = ready.lane.intake
                # A bare socket acknowledges nothing, and nobody owns an event: there is nothing to choose.
                if intake.is_plain or isinstance(delivery.token, EventFeed):
                    opened.entrance.release(ready)
                    continue
                durable = durable or intake.durable
                kept.append((index, ready))
        parts += bundle(kept, opened.now_us())
        if not parts:
            return None
        home = opened.estate.home(durable)
        return Sent(home, parts) if home else _Opening(opened, durable, parts)

    def release(self, outputs: list[Tagged]) -> _Released:
        last: dict[int, tuple[Sheaf, int]] = {}
        for _, output in outputs:
            assert isinstance(output, Ready)
            sheaf, index = self._opened.entrance.release(output)
            last[id(sheaf)] = sheaf, index  # the last of each is stored when all before it are
        return _Released(list(last.values()))
