"""What `publish` gives: to how many an event was addressed, once that is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zerowait.callbacks import Callbacks
from zerowait.pending import Pending, refuse_elsewhere


class Published(Pending[int]):
    """What `publish` gives: done when the event is addressed; the number is how many subscriptions it goes to."""

    bundle: Any  # zerowait.topics.bundle: the bundle that it was put into, and the lane by which
    lane: Any

    def done(self) -> bool:
        return self.bundle.counts is not None

    def _value(self) -> int:
        if self.bundle.error is not None:
            raise self.bundle.error
        count: int = self.bundle.counts.get(self.lane.name, 0)
        return count

    def _watch(self, call: Callable[[], object]) -> None:
        self.bundle.when_addressed(call)

    def _unwatch(self, call: Callable[[], object]) -> None:
        self.bundle.forget(call)

    def _here(self) -> None:
        if self.bundle.counts is None:
            refuse_elsewhere(self.lane.press.callbacks.pid, "This event")

    def _same(self, other: object) -> bool:
        return isinstance(other, Published) and other.bundle is self.bundle and other.lane is self.lane

    def _callbacks(self) -> Callbacks:
        callbacks: Callbacks = self.lane.press.callbacks
        return callbacks

    def _line(self) -> str:
        return "write `await zw.publish(…)`"

    def __repr__(self) -> str:
        state = f"addressed to {self._value()}" if self.done() and self.bundle.error is None else "waiting"
        return f"<Published {self.lane.name}: {state}>"
