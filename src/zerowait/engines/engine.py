"""The seam between what carries messages and what runs handlers. Neither side knows more of the other than this.

An engine admits deliveries at its **desk**; the runners take **jobs** from there, pieces of a delivery, and say how
each piece ended. Whole batches cross: nothing here is called once per message unless one ends otherwise than well.

    network thread                                   handlers' loop and threads
    admit a delivery at the desk
    handlers.ready(channel)  ──── one wake-up ────▶  an idle runner
                                                     job = desk.start(channel, most)
                                                     … runs delivery.values[job.start : job.stop] …
    outcomes leave           ◀────────────────────   desk.finish(job, start, stop, outcome)

Every message of a job gets exactly one `finish`, in pieces of any size and order, from any thread, or none at all if it
was still running when its process had to leave: its owner then gives it to another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from msgspec import Struct

from zerowait.message import Delivery, Outcome, Service


class Job(Struct, gc=False, frozen=True):
    """Run `delivery.values[start:stop]`: indexes into the delivery, not message numbers."""

    delivery: Delivery
    start: int
    stop: int


class Desk(Protocol):
    """What the engine gives to the runners. Any thread; nothing here waits."""

    def start(self, channel: str, most: int) -> Job | None:
        """Takes up to `most` (at least 1) messages that may be started now, all of one delivery.

        One atomic pop that includes the test of permission: what it gives counts as running from here on and is not
        given to anybody else; what it does not give may still be taken back by its owner. None: nothing may be started.
        Of a delivery with a key one message at a time, and none of that key before the one given last has been handled.
        """
        ...

    def finish(self, job: Job, start: int, stop: int, outcome: Outcome | None) -> None:
        """How `delivery.values[start:stop]` ended; None: handled. Each index once.

        job: as `start` gave it, or a part of one that was divided; start and stop lie within it.
        Outcome(UNSTARTED) hands back what the job held and no handler was called for: its attempt is not counted.
        Of requests that were answered: Outcome(HANDLED, answers=payloads); with a note and no answers for what one has
        failed with, or for the end of a stream. Outcome(CANCELLED, answers=b"") if nobody waits for it any more.
        Cheap: it appends, and wakes the network thread only if that sleeps.
        """
        ...

    def flow(self, job: Job, index: int) -> Outflow:
        """For the items of a stream, of the request that is `delivery.values[index]`."""
        ...

    def flowing(self, flow: Any) -> None:
        """Something was put into it. Cheap, as `finish` is."""
        ...


class Outflow(Protocol):
    """A stream that a handler gives, item by item, as its reader makes room. Of the one runner whose stream it is."""

    is_noted: bool  # what was put last will be sent: `Desk.flowing` need not be told

    def has_room(self) -> bool: ...
    def put(self, payload: bytes) -> None:
        """Gives one more item. To be followed by `Desk.flowing`; what does not wait for room is taken all the same."""
        ...

    def when_room(self, call: Callable[[], object] | None) -> None:
        """Calls back once, on any thread, when there is room; None: no more. Look again after saying so."""
        ...


class Started(Protocol):
    """Where the runners say what they have begun, each in a slot of its own, so that it is known should they never
    end. Costs less than a microsecond, and never waits."""

    def begin(self, slot: int, box: int, epoch: int, first: int, count: int) -> None:
        """That runner has begun these messages; what it had begun before is over. More than one only while handlers
        are so quick that one after another would cost more than they do."""
        ...

    def end(self, slot: int) -> None:
        """That runner is at nothing."""
        ...


class Handlers(Protocol):
    """What the runners give to the engine."""

    @property
    def services(self) -> Sequence[Service]:
        """What is served, as peers are told; known before anything runs, and unchanging."""
        ...

    def ready(self, channel: str) -> None:
        """Something of the channel may be started that was not there before: a runner that idles is woken.

        Any thread, cheap, to be called after the admission and without holding what `Desk.start` needs. However often
        it is called in a burst, the loop is woken once, and not at all if no runner idles.
        """
        ...

    def cancel(self, box: int, ranges: Sequence[tuple[int, int, int]]) -> None:
        """Nobody waits any more for the answers to these requests, (epoch, first, count), or, without any, to those of
        that box: their runs are cancelled, as far as they can be. Any thread, cheap."""
        ...

    def beat(self) -> float:
        """The time (`time.monotonic`) at which the handlers' loop last turned, at most 0.3 s ago while it is well."""
        ...

    def watch(self, now: float) -> None:
        """Looks whether the loop turns, and names in the log what blocks it. now: `time.monotonic`. To be called about
        four times a second from a thread other than the loop's."""
        ...
