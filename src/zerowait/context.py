"""What a handler is given beside the value: the message's particulars, the app's resources, and the way out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from zerowait.channels import In, PushChannel, RequestChannel
from zerowait.errors import Cancelled, RetryLater

if TYPE_CHECKING:
    # Checkers bundle typing_extensions, so that the default needs no dependency. Without one, a bare `Context` would be
    # refused by a strict checker.
    from typing import Unpack

    from typing_extensions import TypeVar as TypeVarWithDefault

    from zerowait.channels import PushOptions, RequestOptions
    from zerowait.client import Client
    from zerowait.handlers.visits import Visit
    from zerowait.replies import Reply
    from zerowait.topic import Topic

    R_co = TypeVarWithDefault("R_co", covariant=True, default=object)
else:
    R_co = TypeVar("R_co", covariant=True)

Answer = TypeVar("Answer")
T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Context(Generic[R_co]):
    """One run of a handler for one message; given to handlers that take `ctx`. Bare `Context` is `Context[object]`.

    Made by zerowait. Everything may be read as long as one likes; `push` belongs to the run and ends with it.
    """

    __slots__ = ("_client", "_visit")

    def __init__(self, visit: Visit, client: Callable[[], Client]) -> None:
        self._visit = visit
        self._client = client

    @property
    def resources(self) -> R_co:
        """What the app's `resources` gave when they were opened; None if it has none."""
        given: R_co = self._visit.resources
        return given

    @property
    def client(self) -> Client:
        """The app's client. What it sends leaves now, even if the handler fails; `push` of this context does not."""
        return self._client()

    @property
    def id(self) -> str:
        """The message's id, as in its sender's receipt."""
        return self._visit.id

    @property
    def channel(self) -> str:
        """The channel's name; of an event the topic's, without any `*` or `>`."""
        return self._visit.channel

    @property
    def attempt(self) -> int:
        """Which run of a handler for this message this is, from 1."""
        return self._visit.attempt

    @property
    def sender(self) -> str:
        """The name of the client or app that pushed it."""
        return self._visit.delivery.sender

    @property
    def sent_at(self) -> datetime:
        """When it was pushed, UTC, by the sender's clock."""
        return _EPOCH + timedelta(microseconds=self._visit.delivery.accepted_at)

    @property
    def key(self) -> str | None:
        """The key it was pushed with."""
        key = self._visit.delivery.key
        return None if key is None else key.decode()

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers it was pushed with; empty if there were none."""
        return self._visit.headers

    @property
    def missed(self) -> int:
        """Events that matched and were lost directly before this one; -1: nobody knows how many, for its publisher was
        started anew. 0 for what was pushed."""
        return self._visit.missed

    @overload
    def push(self, to: PushChannel[In], value: In, **options: Unpack[PushOptions]) -> None: ...
    @overload
    def push(self, to: str, value: object, **options: Unpack[PushOptions]) -> None: ...
    def push(self, to: Any, value: Any, **options: Any) -> None:
        """Sends as part of this run's outcome: once, when the handler has succeeded, and not at all if it fails.

        Once also if the handler runs twice, because its worker died, say: what a run sends is kept beside its outcome,
        and leaves when the sender of the message has chosen that run. It is at least as durable as the message.
        Checked and encoded now; the options are those of `Client.push`. Gives nothing to wait for, since waiting here
        for what leaves at the end could never end. A full outbox does not refuse it: what was begun may be finished.
        Raises EncodeError and TooLarge, and UsageError once the handler has ended (use a client there).
        """
        self._visit.push(to, value, options)

    @overload
    def request(
        self, to: RequestChannel[In, Answer], value: In, **options: Unpack[RequestOptions]
    ) -> Reply[Answer]: ...
    @overload
    def request(
        self, to: str, value: object, *, returns: type[Answer], **options: Unpack[RequestOptions]
    ) -> Reply[Answer]: ...
    @overload
    def request(
        self, to: str, value: object, *, returns: Any = ..., **options: Unpack[RequestOptions]
    ) -> Reply[Any]: ...
    def request(self, to: Any, value: Any, **options: Any) -> Reply[Any]:
        """Asks now, as `Client.request` does, and belongs to this run: it gets at most what is left of the handler's
        deadline, and is cancelled with it.

        Raises UsageError once the handler has ended (use a client there), and what `Client.request` raises.
        """
        reply: Reply[Any] = self._visit.ask(self._client(), to, value, options)
        return reply

    @overload
    def publish(
        self, to: Topic[T], value: T, *, retain: bool | None = None, headers: Mapping[str, str] | None = None
    ) -> None: ...
    @overload
    def publish(
        self, to: str, value: object, *, retain: bool | None = None, headers: Mapping[str, str] | None = None
    ) -> None: ...
    def publish(self, to: Any, value: Any, **options: Any) -> None:
        """Publishes as part of this run's outcome: once it has succeeded, and not at all if it fails.

        Checked and encoded now; the options are those of `Client.publish`. Raises EncodeError and TooLarge, and
        UsageError once the handler has ended (use a client there).
        """
        self._visit.publish(to, value, {name: said for name, said in options.items() if said is not None})

    def remaining(self) -> float:
        """Seconds until the handler's deadline, at least 0; inf if it has none."""
        return max(0.0, self._visit.deadline - time.monotonic())

    def checkpoint(self) -> None:
        """For plain functions, which nothing can stop: call it now and then in long work.

        Raises TimeoutError past the deadline, and RetryLater if the process is leaving, so that the message goes to
        another worker. Of a request: Cancelled if nobody waits for its answer any more, and not because the process is
        leaving, which would be no answer. Let them pass.
        """
        if self._visit.cancelled:
            raise Cancelled("nobody waits for the answer any more", channel=self.channel, id=self.id)
        if self._visit.leaving() and not self._visit.answers:
            raise RetryLater(0, "the worker is leaving")
        if self.remaining() == 0.0:
            raise TimeoutError("the handler's time is over")

    def __repr__(self) -> str:
        visit = self._visit
        box, _, rest = visit.id.partition("-")
        return f"<Context {self.channel} {box[:4]}-{rest}: attempt {visit.attempt}>"
