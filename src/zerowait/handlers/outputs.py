"""What a handler sends: checked and encoded while it runs, released only if it succeeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

# A message that is encoded and waits for its handler to succeed. What it is made of is the outbox's own business.
Output = object


class Stored(Protocol):
    """Outputs on their way to safety."""

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

    def send(self, outputs: list[Output]) -> Stored | None:
        """Accepts them all, in this order, though the outbox is full. None: they are as safe as they get already."""
        ...
