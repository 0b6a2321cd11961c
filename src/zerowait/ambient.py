"""What a handler's run is to the verbs that are called in it, without being passed to them: context variables."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

# In a handler: what is told of a push that goes around its context, by a client. It is set once for all runs of a
# runner, and read by the first push of a sheaf and not by each: so neither a run nor the short way of a push pays.
AROUND: ContextVar[Callable[[Any], None] | None] = ContextVar("zerowait_around", default=None)

# In a handler that works on a request: until when its answer is wanted, by the clock that runs while the machine
# sleeps. What is asked meanwhile gets at most what is left. Set once a job, not for each message.
DEADLINE: ContextVar[float | None] = ContextVar("zerowait_deadline", default=None)


class Waits(Protocol):
    """A handler's thread waits for a reply: so that it is noticed when all of them wait for one another."""

    def waits(self, channel: str) -> None: ...
    def goes_on(self) -> None: ...


# In the thread of a plain handler: who is told when it waits. Set once a thread.
WAITS: ContextVar[Waits | None] = ContextVar("zerowait_waits", default=None)
