"""An app: handlers, the resources they share, and the doors by which it is run. It holds no logic of running."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from inspect import currentframe
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, overload

from zerowait.channels import PushChannel, RequestChannel, StreamChannel
from zerowait.context import Context
from zerowait.decorators import refuse_unknown
from zerowait.errors import UsageError
from zerowait.handlers.every import timed_spec
from zerowait.handlers.registry import Registry
from zerowait.handlers.rhythm import rhythm_of
from zerowait.handlers.specs import pull_spec, reply_spec
from zerowait.handlers.topical import subscribed, topic_spec
from zerowait.names import check_process

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from types import TracebackType
    from typing import Unpack

    from typing_extensions import TypeVar as TypeVarWithDefault

    from zerowait.client import Client
    from zerowait.decorators import (
        Answering,
        Every,
        Forward,
        ForwardByName,
        Pull,
        PullOptions,
        ReplyOptions,
        SubscribeOptions,
        Yielding,
    )
    from zerowait.settings import Settings
    from zerowait.topic import Topic

    R = TypeVarWithDefault("R", default=Any)
else:
    R = TypeVar("R")

In = TypeVar("In")
Out = TypeVar("Out")
F = TypeVar("F", bound=Callable[..., Any])

Call: TypeAlias = Callable[[], Awaitable[Any]]


class App(Generic[R]):
    """A service: `@app.pull` registers its handlers; `run`, `serve`, `with` and `async with` serve them.

    name: lasting, `[A-Za-z0-9_-]{1,64}`; outbox files are found again under it. resources: called once a process,
    before the first message; what its context manager gives is `ctx.resources`, and it is left after the last message.
    settings: in place of `Settings.load()`, which is called when the app is first run, not before.

    Making an app and registering handlers starts nothing. Raises UsageError for a name that is none.
    """

    def __init__(
        self,
        name: str,
        *,
        resources: Callable[[], AbstractAsyncContextManager[R] | AbstractContextManager[R]] | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.name = check_process(name, "an app")
        if resources is not None and not callable(resources):
            raise UsageError(
                "resources= takes a function that gives a context manager, as one decorated with @asynccontextmanager "
                f"does, without calling it: not {resources!r}."
            )
        self._resources = resources
        self._settings = settings
        self._registry = Registry(name)

    @overload
    def pull(self, channel: PushChannel[In], *, to: None = None, **options: Unpack[PullOptions]) -> Pull[In, R]: ...
    @overload
    def pull(
        self,
        channel: PushChannel[In],
        *,
        to: PushChannel[Out] | Sequence[PushChannel[Out]],
        **options: Unpack[PullOptions],
    ) -> Forward[In, Out, R]: ...
    @overload
    def pull(
        self, channel: PushChannel[In], *, to: str | Sequence[str], **options: Unpack[PullOptions]
    ) -> ForwardByName[In, R]: ...
    @overload
    def pull(
        self,
        channel: str,
        *,
        to: str | PushChannel[Any] | Sequence[str | PushChannel[Any]] | None = None,
        **options: Unpack[PullOptions],
    ) -> Callable[[F], F]: ...
    def pull(self, channel: Any, *, to: Any = None, **options: Any) -> Any:
        """Registers the handler of a push channel: of all workers that pull it, one handles each message.

        The handler is `def` (run in threads) or `async def` (on the loop), of one value and, if it wants it, of
        `ctx: Context`; it is given back unchanged. Its value's type is the channel's, else its annotation's. It returns
        nothing, unless `to` says where its results go: a value is one message, None none, a generator's items are one
        each, and a list is one message that is a list; several targets each get everything.

        What it raises is a failure, retried by `retry` and then a dead letter. The other options: see PullOptions.
        Raises UsageError, when the module is imported, for whatever can be known to be wrong by then.
        """
        _refuse_handler(channel, "pull")
        refuse_unknown(options, "pull")
        names = _names_there()

        def register(fn: F) -> F:
            spec = pull_spec(fn, channel, to=to, names=names, **options)
            self._registry.add(spec)
            _remember_channel(fn, spec.channel)
            return fn

        return register

    @overload
    def reply(self, channel: RequestChannel[In, Out], **options: Unpack[ReplyOptions]) -> Answering[In, Out, R]: ...
    @overload
    def reply(self, channel: StreamChannel[In, Out], **options: Unpack[ReplyOptions]) -> Yielding[In, Out, R]: ...
    @overload
    def reply(self, channel: str, *, idempotent: bool = ..., **options: Unpack[ReplyOptions]) -> Callable[[F], F]: ...
    def reply(self, channel: Any, **options: Any) -> Any:
        """Registers the handler of a request or stream channel: of all workers that reply to it, one answers each.

        As with `pull` it is `def` or `async def`, of one value and, if it wants it, of `ctx: Context`. What it returns
        is the answer; for a StreamChannel it yields them, and is held where its reader is slow. It is not retried: what
        it raises is the answer, as itself if the channel's `errors` name it, else as a RemoteError. An `async def` is
        cancelled when nobody waits any more. idempotent: with a name only; of a channel its contract says it.

        concurrency, timeout: see ReplyOptions. Raises UsageError, when the module is imported, for whatever can be
        known to be wrong by then.
        """
        _refuse_handler(channel, "reply")
        refuse_unknown(options, "reply")
        names = _names_there()

        def register(fn: F) -> F:
            spec = reply_spec(fn, channel, names=names, **options)
            self._registry.add(spec)
            _remember_channel(fn, spec.channel)
            return fn

        return register

    @overload
    def subscribe(self, topic: Topic[In], **options: Unpack[SubscribeOptions]) -> Pull[In, R]: ...
    @overload
    def subscribe(self, topic: str, **options: Unpack[SubscribeOptions]) -> Callable[[F], F]: ...
    def subscribe(self, topic: Any, **options: Any) -> Any:
        """Registers the handler of a topic, or of all that its pattern matches: each process handles each event, or
        with `group="billing"` one process of that group.

        The handler is as one of `pull` is, and returns nothing; `ctx.channel` is the concrete topic, `ctx.missed` how
        many events were lost directly before this one. What it raises is logged, and retried if `retry` says so; with
        `durable=True`, which wants a group, it is as with a push. Options: see SubscribeOptions.
        Raises UsageError, when the module is imported, for whatever can be known to be wrong by then.
        """
        refuse_unknown(options, "subscribe")
        names = _names_there()
        subscribed(topic)

        def register(fn: F) -> F:
            self._registry.add(topic_spec(fn, topic, names=names, **options))
            return fn

        return register

    @overload
    def every(self, seconds: float) -> Every[R]: ...
    @overload
    def every(self, *, cron: str, timezone: str = "UTC") -> Every[R]: ...
    def every(self, seconds: Any = None, *, cron: Any = None, timezone: Any = "UTC") -> Any:
        """Registers what is done by the clock: each `seconds` (at least 0.1), or at the times of a cron line of five
        fields, in the time zone of that name.

        Of all processes of this user, namespace and machine that serve this app, one does it each time; a process that
        dies just then leaves one time out, and nothing is done twice. What has not begun when the next is due is left
        out. A time that passed while no process served: in seconds it is made up for once, by a cron line it is not,
        and a line in the log says so.

        The handler takes nothing, or `ctx: Context`, and returns nothing; what it sends by `ctx.push` leaves if it
        succeeds. What it raises is a dead letter at once, for it comes again by itself; `zerowait dead list` shows it
        as long as the process lives. Raises UsageError, when the module is imported, for what is no time or no handler.
        """
        rhythm = rhythm_of(seconds, cron, timezone)
        names = _names_there()

        def register(fn: F) -> F:
            self._registry.add(timed_spec(fn, rhythm, self.name, names=names))
            return fn

        return register

    def middleware(
        self, fn: Callable[[Context[R], Call], Awaitable[Any]]
    ) -> Callable[[Context[R], Call], Awaitable[Any]]:
        """Registers `async def m(ctx, call)`, run around each handler of this app: `return await call()` goes on.

        The first registered is the outermost. What it raises counts as the handler's failure.
        """
        self._registry.add_layer(fn)
        return fn

    def include(self, other: App[Any]) -> None:
        """Serves another app's handlers too, with its middleware, those it registers later included.

        They get this app's resources. Raises UsageError if both serve a channel.
        """
        self._registry.include(other._registry)

    @property
    def client(self) -> Client:
        """The app's own client, of its name, sharing its sockets and outbox; usable like any other, anywhere.

        In a handler, what leaves only with success is `ctx.push`; this one's messages leave now.
        """
        from zerowait import serving

        return serving.client_of(self)

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT, then drains; a second signal leaves at once. For a program's main part.

        Returns after a whole drain. Raises SystemExit(4) if something still ran when `drain` was over (its message goes
        to another worker), and whatever keeps it from serving: an address in use, an error of its resources.
        """
        from zerowait import serving

        if code := serving.run(self):
            raise SystemExit(code)

    async def serve(self) -> None:
        """Serves on the running loop, whose signals are the caller's; cancelling it drains."""
        from zerowait import serving

        await serving.serve(self)

    def __enter__(self) -> Client:
        """Serves on a thread with a loop of its own while the block lasts; leaving drains."""
        from zerowait import serving

        return serving.enter(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        from zerowait import serving

        serving.leave(self)

    async def __aenter__(self) -> Client:
        """Serves on the running loop while the block lasts; leaving drains."""
        from zerowait import serving

        return await serving.aenter(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        from zerowait import serving

        await serving.aleave(self)

    @asynccontextmanager
    async def lifespan(self, asgi: object = None) -> AsyncGenerator[None, None]:
        """For a web framework: `FastAPI(lifespan=app.lifespan)` serves while the web app lives."""
        async with self:
            yield

    def __repr__(self) -> str:
        count = len(self._registry)
        plural = "" if count == 1 else "s"
        state = "running" if vars(self).get("_serving") else "not running"
        return f"<App {self.name}: {count} handler{plural}, {state}>"


def _refuse_handler(channel: Any, verb: str) -> None:
    """In place of a channel: the decorator was written without its brackets."""
    if callable(channel) and not isinstance(channel, type):
        name = getattr(channel, "__qualname__", repr(channel))
        raise UsageError(f'@app.{verb} wants its channel, and this is {name}: write @app.{verb}("name").')


def _names_there() -> dict[str, Any]:
    """Of the place where a decorator of the app is written: classes defined beside the handler, inside a function, are
    found only there."""
    here = currentframe()
    app = here.f_back if here is not None else None
    return app.f_back.f_locals if app is not None and app.f_back is not None else {}


def _remember_channel(fn: Any, channel: str) -> None:
    # So that `zw.push(parse, …)` can name the channel to push to.
    try:
        fn.__zerowait_channel__ = channel
    except AttributeError:  # a builtin
        pass
