"""What a handler sends: checked and encoded while it runs, released only if it succeeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from zerowait.message import Delivery, Sent

# A message that is encoded and waits for its handler to succeed. What it is made of is the outbox's own business.
Output = object


# With the index in its delivery of the message that it is sent for.
Tagged = tuple[int, Output]


class Opening(Protocol):
    """The outbox in which outputs are to lie is not open yet."""

    def when_open(self, callback: Callable[[Sent | BaseException], object]) -> None:
        """Calls back once, on any thread, perhaps at once: what is to be kept, or why it cannot be."""
        ...


class Spooled(Protocol):
    """Outputs of a run that goes on, on their way to the disk. It stands among the outputs of its run."""

    stored: Future[None]


class Gathered(Protocol):
    """Values for one target in one body. It stands among the outputs of its run, under the index of the first."""

    def take(self, value: object, index: int) -> bool:
        """Encodes the value, sent for the message with that index, into the body. False: it does not go in there, and
        nothing was taken; `prepare` can do it, or says what is wrong."""
        ...


class Released(Protocol):
    """Outputs that nobody chooses, on their way to safety."""

    def when_stored(self, callback: Callable[[BaseException | None], object]) -> None:
        """Calls back once, on any thread, perhaps at once: None when all are safe, the error if they cannot be."""
        ...


class Outputs(Protocol):
    """The way out of a handler. Any thread; nothing here waits."""

    def prepare(self, to: object, value: object, options: Mapping[str, Any]) -> Output:
        """Checks and encodes now, sends nothing. `to` is a channel or its name; the options are those of `push`.

        Raises the caller's mistakes: EncodeError, TooLarge, UsageError.
        """
        ...

    def prepare_event(self, to: object, value: object, options: Mapping[str, Any]) -> Output:
        """The same for what is published. `to` is a topic or its name; the options are those of `publish`."""
        ...

    def gather(self, to: object) -> Gathered | None:
        """The short way, without options, for a target that `prepare` has sent to. None: there is none to it."""
        ...

    def size(self, output: Output) -> int:
        """Bytes that it takes in memory, about."""
        ...

    def spool(self, delivery: Delivery, index: int, outputs: list[Output]) -> Spooled | None:
        """What the run of that message has sent so far goes to the disk, though it may yet fail. None: it stays in
        memory."""
        ...

    def unspool(self, spooled: Spooled) -> None:
        """That run has failed."""
        ...

    def send(self, delivery: Delivery, outputs: list[Tagged]) -> Sent | Opening | None:
        """The runs have succeeded: what is to be kept with their outcome, in this order, until they are chosen, though
        the outbox is full. None: they have left already, for nobody chooses there.

        Raises what prevents it; then nothing was sent, and the runs have failed.
        """
        ...

    def release(self, outputs: list[Tagged]) -> Released:
        """The runs have answered requests, which have no owner who would choose: these leave now, though the outbox is
        full. Raises what prevents it."""
        ...
