"""The decorators of an app: what may be said of a handler, and, for type checkers, which functions each takes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, TypeVar, overload

from zerowait.context import Context
from zerowait.errors import UsageError
from zerowait.names import nearest

if TYPE_CHECKING:
    from zerowait.retry import Retry

X = TypeVar("X", bound=Awaitable[None] | None)
P_in = TypeVar("P_in")
P_out = TypeVar("P_out")
P_r = TypeVar("P_r")


class PullOptions(TypedDict, total=False):
    """What may be said of a pull handler.

    concurrency: how many of its messages run at once in a process; 32 for `async def`, `min(32, cores + 4)` for `def`.
    timeout: seconds that one run of an `async def` may take; then it is cancelled, which counts as a failure.
    retry: what becomes of a failure; `Retry()` unless said otherwise.
    inbox: "disk" if each outcome shall be on this process's disk before its sender is told, so that after a crash of
    the worker only what was running then is run again (and what ended within its last commit). It costs a share in a
    commit, never one for each message. "memory", the default, costs nothing: then what had ended and was not yet
    settled on its sender's disk, a few milliseconds' work, may run again, too.
    """

    concurrency: int | None
    timeout: float | None
    retry: Retry | None
    inbox: Literal["memory", "disk"]


class Pull(Protocol[P_in, P_r]):
    """Decorates a handler that returns nothing, of the value and, if it wants it, of the context."""

    @overload
    def __call__(self, fn: Callable[[P_in], X], /) -> Callable[[P_in], X]: ...
    @overload
    def __call__(self, fn: Callable[[P_in, Context[P_r]], X], /) -> Callable[[P_in, Context[P_r]], X]: ...


class SubscribeOptions(TypedDict, total=False):
    """What may be said of a subscription.

    group: of all processes that name it, one handles each event; else each process does. durable: what is published
    while the group is away waits in the publisher's outbox, and is acknowledged, retried and dead-lettered as a push.
    replay, replay_seconds, overflow, queue: those of `Client.subscribe`; not with durable.
    concurrency, timeout: those of a pull. retry: what becomes of a failure; once is enough unless it is said here, or
    the group is durable.
    """

    group: str | None
    durable: bool
    replay: int
    replay_seconds: float
    overflow: Literal["drop_oldest", "conflate", "disconnect"]
    queue: int
    concurrency: int | None
    timeout: float | None
    retry: Retry | None


class Every(Protocol[P_r]):
    """Decorates a handler that runs by the clock: of nothing, or of the context."""

    @overload
    def __call__(self, fn: Callable[[], X], /) -> Callable[[], X]: ...
    @overload
    def __call__(self, fn: Callable[[Context[P_r]], X], /) -> Callable[[Context[P_r]], X]: ...


class Forward(Protocol[P_in, P_out, P_r]):
    """Decorates a stage: what it returns goes on, None does not, a generator's items go on one by one."""

    @overload
    def __call__(self, fn: Callable[[P_in], Iterator[P_out]], /) -> Callable[[P_in], Iterator[P_out]]: ...
    @overload
    def __call__(self, fn: Callable[[P_in], AsyncIterator[P_out]], /) -> Callable[[P_in], AsyncIterator[P_out]]: ...
    @overload
    def __call__(
        self, fn: Callable[[P_in], Awaitable[P_out | None]], /
    ) -> Callable[[P_in], Awaitable[P_out | None]]: ...
    @overload
    def __call__(self, fn: Callable[[P_in], P_out | None], /) -> Callable[[P_in], P_out | None]: ...
    @overload
    def __call__(
        self, fn: Callable[[P_in, Context[P_r]], Iterator[P_out]], /
    ) -> Callable[[P_in, Context[P_r]], Iterator[P_out]]: ...
    @overload
    def __call__(
        self, fn: Callable[[P_in, Context[P_r]], AsyncIterator[P_out]], /
    ) -> Callable[[P_in, Context[P_r]], AsyncIterator[P_out]]: ...
    @overload
    def __call__(
        self, fn: Callable[[P_in, Context[P_r]], Awaitable[P_out | None]], /
    ) -> Callable[[P_in, Context[P_r]], Awaitable[P_out | None]]: ...
    @overload
    def __call__(
        self, fn: Callable[[P_in, Context[P_r]], P_out | None], /
    ) -> Callable[[P_in, Context[P_r]], P_out | None]: ...


class ForwardByName(Protocol[P_in, P_r]):
    """Decorates a stage whose results go to channels given as strings, so that any result will do."""

    @overload
    def __call__(self, fn: Callable[[P_in], P_out], /) -> Callable[[P_in], P_out]: ...
    @overload
    def __call__(self, fn: Callable[[P_in, Context[P_r]], P_out], /) -> Callable[[P_in, Context[P_r]], P_out]: ...


class ReplyOptions(TypedDict, total=False):
    """What may be said of a handler that replies. concurrency, timeout: as of a pull handler; a run is cancelled anyway
    when nobody waits for its answer any more."""

    concurrency: int | None
    timeout: float | None


class Answering(Protocol[P_in, P_out, P_r]):
    """Decorates a handler that answers once."""

    @overload
    def __call__(self, fn: Callable[[P_in], Awaitable[P_out]], /) -> Callable[[P_in], Awaitable[P_out]]: ...
    @overload
    def __call__(self, fn: Callable[[P_in], P_out], /) -> Callable[[P_in], P_out]: ...
    @overload
    def __call__(
        self, fn: Callable[[P_in, Context[P_r]], Awaitable[P_out]], /
    ) -> Callable[[P_in, Context[P_r]], Awaitable[P_out]]: ...
    @overload
    def __call__(self, fn: Callable[[P_in, Context[P_r]], P_out], /) -> Callable[[P_in, Context[P_r]], P_out]: ...


class Yielding(Protocol[P_in, P_out, P_r]):
    """Decorates a handler that yields its answers."""

    @overload
    def __call__(self, fn: Callable[[P_in], Iterator[P_out]], /) -> Callable[[P_in], Iterator[P_out]]: ...
    @overload
    def __call__(self, fn: Callable[[P_in], AsyncIterator[P_out]], /) -> Callable[[P_in], AsyncIterator[P_out]]: ...
    @overload
    def __call__(
        self, fn: Callable[[P_in, Context[P_r]], Iterator[P_out]], /
    ) -> Callable[[P_in, Context[P_r]], Iterator[P_out]]: ...
    @overload
    def __call__(
        self, fn: Callable[[P_in, Context[P_r]], AsyncIterator[P_out]], /
    ) -> Callable[[P_in, Context[P_r]], AsyncIterator[P_out]]: ...


_NO_PULL = {
    "durable": "whether a message is stored is its sender's business: say it on the channel, or at the push",
    "ttl": "how long a message may wait is its sender's business: say it on the channel, or at the push",
    "attempts": "say retry=Retry(attempts=…)",
    "timezone": "only @app.every has it",
    "group": "only a subscription has a group; all who pull a channel share its messages",
    "errors": "the exceptions of a contract are said on the channel, which both ends share",
}
_NO_REPLY = {
    "retry": "a request is not retried: what the handler raises is its answer",
    "to": "what it returns goes back to who asked; to send something on use ctx.push",
    "inbox": "a request lives in the memory of who asks, and ends with it",
}
_KNOWN = {
    "pull": ("to", *PullOptions.__annotations__),
    "reply": (*ReplyOptions.__annotations__, "idempotent"),
    "subscribe": tuple(SubscribeOptions.__annotations__),
}
_ELSEWHERE: dict[str, dict[str, str]] = {"pull": _NO_PULL, "reply": _NO_PULL | _NO_REPLY, "subscribe": {}}


def refuse_unknown(options: dict[str, Any], verb: Literal["pull", "reply", "subscribe"]) -> None:
    """Raises UsageError for what that decorator does not take, and says where it is said, or what may be meant."""
    known, elsewhere = _KNOWN[verb], _ELSEWHERE[verb]
    for name in options.keys() - set(known):
        if name in elsewhere:
            raise UsageError(f"@app.{verb} takes no {name}=: {elsewhere[name]}.")
        meant = nearest(name, sorted(known))
        hint = f"Did you mean {meant}=?" if meant else f"It takes {', '.join(known)}."
        raise UsageError(f"@app.{verb} takes no {name}=. {hint}")
