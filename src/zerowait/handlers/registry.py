"""The handlers of an app: what each serves, how it is called, and what was decided for it."""

from __future__ import annotations

import builtins
import os
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from zerowait.channels import Channel, PushChannel
from zerowait.codec import Codec
from zerowait.errors import SettingsError, UsageError
from zerowait.handlers.reading import UNREAD, called, read
from zerowait.handlers.rhythm import Rhythm
from zerowait.retry import Retry
from zerowait.settings import Settings
from zerowait.settings_channels import ChannelSettings

ASYNC_CONCURRENCY = 32

Target = PushChannel[Any] | str
Layer = Callable[[Any, Callable[[], Awaitable[Any]]], Awaitable[Any]]


class Feed(Struct, frozen=True):
    """What a handler is subscribed to. group: of all processes that name it, one handles each event; "": each does."""

    pattern: str
    group: str = ""
    replay: int = 0
    replay_seconds: float = 0.0
    queue: int = 1_000
    overflow: int = 0

    def terms(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("replay", "replay_seconds", "queue", "overflow")}


class HandlerSpec(Struct, frozen=True, kw_only=True, dict=True):
    """One handler: what it serves and how it is run. concurrency, timeout, retry: None where nothing was said.

    declared: the channel, None if only its name was given. value_type: what the handler takes by its annotation.
    to: channels, or their names, that get what it returns. result_type: what it gives by its annotation; of a stream
    each item. idempotent: of requests, whether one may run twice. rhythm: when it runs by the clock. around: what each
    call goes through before middleware and all else, with the value; it may raise NotRun.
    inbox: "disk" if each outcome is on disk before it is told. feed: of a subscription that no outbox is behind,
    what it is.
    """

    kind: str
    channel: str
    fn: Callable[..., Any]
    is_async: bool
    is_generator: bool
    wants_ctx: bool
    value_type: Any = UNREAD
    declared: Channel | None = None
    to: tuple[Target, ...] = ()
    result_type: Any = UNREAD
    idempotent: bool = False
    concurrency: int | None = None
    timeout: float | None = None
    retry: Retry | None = None
    rhythm: Rhythm | None = None
    around: Callable[[Callable[[Any], Any]], Callable[[Any], Any]] | None = None
    inbox: str = "memory"
    feed: Feed | None = None

    @cached_property
    def codec(self) -> Codec[Any]:
        """Of the values it takes. Raises UsageError if no message can be of that type, or if it is not to be found."""
        if self.declared is not None:
            return self.declared.codec()
        if self.value_type is not UNREAD:
            return Codec(self.value_type)
        later = read(self.fn)  # an annotation may name what was defined after the handler
        if later.value is UNREAD and later.annotation is not None:
            raise UsageError(
                f"The annotation {later.annotation!r} of {called(self.fn)} cannot be found when it runs: import it "
                "outside of `if TYPE_CHECKING:`, or give @app.pull a PushChannel with the type."
            )
        return Codec(Any if later.value is UNREAD else later.value)

    @property
    def answers(self) -> Codec[Any]:
        """Of what it answers. Raises UsageError if no message can be of that type."""
        if self.declared is not None:
            return self.declared.answer_codec()
        return Codec(Any if self.result_type is UNREAD else self.result_type)

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """The exceptions of its contract."""
        return self.declared.terms.errors if self.declared is not None else ()

    def under(self, decided: ChannelSettings) -> HandlerSpec:
        """As it runs when the settings decide this for its channel, with all defaults filled in."""
        timeout = decided.timeout
        if self.kind != "push" and not self.is_async:
            timeout = None  # it is also how long who asks waits, which goes for a plain function too
        elif timeout is not None and not self.is_async:
            raise SettingsError(
                f"timeout = {decided.timeout:g} for channel {self.channel}: {called(self.fn)} is a plain function, and "
                "nothing can stop a thread. Make it `async def`, or leave the timeout away."
            )
        default = ASYNC_CONCURRENCY if self.is_async else min(32, (os.cpu_count() or 1) + 4)
        return replace(
            self,
            concurrency=decided.concurrency or self.concurrency or default,
            timeout=self.timeout if timeout is None else timeout,
            retry=decided.retry(self.retry or Retry()),
        )


class Registry:
    """What an app serves, by channel: one handler for each, whichever module it comes from."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._by_channel: dict[str, HandlerSpec] = {}
        self._layers: list[Layer] = []
        self._includers: list[Registry] = []

    def __len__(self) -> int:
        return len(self._by_channel)

    def handlers(self, settings: Settings | None = None) -> list[HandlerSpec]:
        """In the order of their registration; with settings, as they run under them."""
        found = list(self._by_channel.values())
        return found if settings is None else [each.under(settings.channel(each.channel)) for each in found]

    def layers(self) -> tuple[Layer, ...]:
        """Middleware, the outermost first."""
        return tuple(self._layers)

    def add(self, spec: HandlerSpec) -> None:
        """Raises UsageError if the channel is served already."""
        other = self._by_channel.get(spec.channel)
        if other is not None and not _is_redefined(other.fn, spec.fn):
            raise UsageError(
                f"Channel {spec.channel!r} of app {self.name!r} has two handlers, {called(other.fn)} and "
                f"{called(spec.fn)}: each message goes to one. Give them a channel each and push to both, or join them."
            )
        self._by_channel[spec.channel] = spec
        for includer in self._includers:
            includer.add(spec)

    def add_layer(self, layer: Layer) -> None:
        self._layers.append(layer)
        for includer in self._includers:
            includer._add_layer_of(self, layer)

    def include(self, other: Registry) -> None:
        """Takes over all that the other has, and all that it gets later: modules may be imported in any order."""
        if other is self or other._includes(self):
            raise UsageError(f"App {self.name!r} cannot include {other.name!r}: that one includes it.")
        if self in other._includers:
            return
        for spec in other.handlers():
            self.add(spec)
        for layer in other._layers:
            self._add_layer_of(other, layer)
        other._includers.append(self)

    def _includes(self, other: Registry) -> bool:
        return any(each is self or self._includes(each) for each in other._includers)

    def _add_layer_of(self, other: Registry, layer: Layer) -> None:
        # An included app's middleware is about that app's handlers only.
        async def for_its_own(ctx: Any, call: Callable[[], Awaitable[Any]]) -> Any:
            return await (layer(ctx, call) if ctx._visit.served in other._by_channel else call())

        self.add_layer(for_its_own)


def _is_redefined(old: Callable[..., Any], new: Callable[..., Any]) -> bool:
    # Running a notebook's cell again defines its handlers again.
    same = (old.__module__, old.__qualname__) == (new.__module__, new.__qualname__)
    return old is new or (same and hasattr(builtins, "__IPYTHON__"))
