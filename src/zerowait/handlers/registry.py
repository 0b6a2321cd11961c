"""The handlers of an app: what each serves, how it is called, and what was decided for it."""

from __future__ import annotations

import builtins
import os
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import cached_property
from math import inf
from typing import Any, cast

from msgspec import Struct
from msgspec.structs import replace

from zerowait.channels import Channel, PushChannel, RequestChannel, StreamChannel
from zerowait.codec import Codec
from zerowait.contract import type_name
from zerowait.errors import SettingsError, UsageError
from zerowait.handlers.reading import UNREAD, Reading, called, items_of, read, unmet
from zerowait.handlers.rhythm import Rhythm
from zerowait.names import check_channel
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
    each item. idempotent: of requests, whether one may run twice. rhythm: when it runs by the clock.
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


def pull_spec(
    fn: Callable[..., Any],
    channel: PushChannel[Any] | str,
    *,
    to: Target | Iterable[Target] | None = None,
    concurrency: int | None = None,
    timeout: float | None = None,
    retry: Retry | None = None,
    inbox: str = "memory",
    names: Mapping[str, Any] | None = None,
) -> HandlerSpec:
    """The record of an `@app.pull`. names: of the place where it stands, for annotations.

    Raises UsageError for all that can be known to be wrong before anything runs.
    """
    name, declared = pulled(channel)
    reading = read(fn, names)
    targets = _targets(to, name)
    _compare_value(fn, reading, declared)
    _compare_result(fn, reading, targets)
    _check_options(concurrency, timeout, retry, inbox, called(fn))
    if timeout is not None and not reading.is_async:
        raise UsageError(
            f"{called(fn)} is a plain function, and nothing can stop a thread: timeout={timeout:g} could not be kept. "
            "Make it `async def`, or call `ctx.checkpoint()` in it now and then."
        )
    return HandlerSpec(
        kind="push",
        channel=name,
        fn=fn,
        is_async=reading.is_async,
        is_generator=reading.is_generator,
        wants_ctx=reading.wants_ctx,
        value_type=reading.value,
        declared=declared,
        to=targets,
        concurrency=concurrency,
        timeout=timeout,
        retry=retry,
        inbox=inbox,
    )


def reply_spec(
    fn: Callable[..., Any],
    channel: RequestChannel[Any, Any] | StreamChannel[Any, Any] | str,
    *,
    concurrency: int | None = None,
    timeout: float | None = None,
    idempotent: bool | None = None,
    names: Mapping[str, Any] | None = None,
) -> HandlerSpec:
    """The record of an `@app.reply`. names: of the place where it stands, for annotations.

    Raises UsageError for all that can be known to be wrong before anything runs.
    """
    name, declared = replied(channel)
    reading = read(fn, names)
    kind = declared.kind if declared is not None else "stream" if reading.is_generator else "request"
    _compare_value(fn, reading, declared)
    _compare_answer(fn, reading, declared)
    _check_options(concurrency, timeout, None, "memory", called(fn))
    if timeout is not None and not reading.is_async:
        raise UsageError(
            f"{called(fn)} is a plain function, and nothing can stop a thread: timeout={timeout:g} could not be kept. "
            "Make it `async def`, or call `ctx.checkpoint()` in it now and then, which knows the request's deadline."
        )
    if idempotent is not None and not isinstance(idempotent, bool):
        raise UsageError(f"idempotent= is True or False, not {idempotent!r}.")
    if idempotent is not None and declared is not None:
        raise UsageError(
            f"idempotent= of the handler of {name!r} belongs to its contract, which both ends share: say it there, "
            f"{type(declared).__name__}({name!r}, idempotent={idempotent})."
        )
    if idempotent and kind == "stream":
        raise UsageError(f"idempotent= of the handler of {name!r}: a stream is never asked again.")
    return HandlerSpec(
        kind=kind,
        channel=name,
        fn=fn,
        is_async=reading.is_async,
        is_generator=reading.is_generator,
        wants_ctx=reading.wants_ctx,
        value_type=reading.value,
        result_type=_item(reading.result) if kind == "stream" else reading.result,
        declared=declared,
        idempotent=bool(idempotent) if declared is None else declared.terms.idempotent,
        concurrency=concurrency,
        timeout=timeout,
    )


def replied(channel: object) -> tuple[str, Channel | None]:
    """The name and, if it is declared, the channel of an `@app.reply`."""
    if isinstance(channel, str):
        return check_channel(channel), None
    if isinstance(channel, Channel):
        if channel.kind in ("request", "stream"):
            return channel.name, channel
        raise UsageError(
            f"@app.reply serves request and stream channels, and {channel!r} is of kind {channel.kind}"
            f"{': use @app.pull.' if channel.kind == 'push' else '.'}"
        )
    if callable(channel):
        raise UsageError('@app.reply wants its channel: write @app.reply("count"), or @app.reply(COUNT).')
    raise UsageError(f"@app.reply takes a RequestChannel, a StreamChannel or a name, not {channel!r}.")


def _item(result: Any) -> Any:
    """What an iterator gives, by its annotation."""
    return UNREAD if result is UNREAD else (typing.get_args(result) or (UNREAD,))[0]


def _compare_answer(fn: Callable[..., Any], reading: Reading, declared: Channel | None) -> None:
    if declared is None:
        return
    wanted = declared.types[1]
    if declared.kind == "stream":
        if not reading.is_generator:
            raise UsageError(
                f"{called(fn)} returns one answer, and {declared!r} is for many: yield them, or use a RequestChannel."
            )
        given = _item(reading.result)
        verb = "yields"
    else:
        if reading.is_generator:
            raise UsageError(
                f"{called(fn)} yields, and {declared!r} is for one answer: return it, or use a StreamChannel."
            )
        given, verb = reading.result, "returns"
    if unmet(given, wanted) is not None:
        raise UsageError(
            f"{called(fn)} {verb} {type_name(given)}, and {declared!r} promises {type_name(wanted)}: make the "
            "annotation and the channel agree."
        )


def pulled(channel: object) -> tuple[str, Channel | None]:
    """The name and, if it is declared, the channel of an `@app.pull`."""
    if isinstance(channel, str):
        return check_channel(channel), None
    if isinstance(channel, Channel):
        if channel.kind == "push":
            return channel.name, channel
        use = ": use @app.reply" if channel.kind in ("request", "stream") else ""
        raise UsageError(f"@app.pull serves push channels, and {channel!r} is of kind {channel.kind}{use}.")
    if callable(channel):
        raise UsageError('@app.pull wants its channel: write @app.pull("numbers"), or @app.pull(PARSE).')
    raise UsageError(f"@app.pull takes a PushChannel or a name, not {channel!r}.")


def _check_options(concurrency: object, timeout: object, retry: object, inbox: object, whose: str) -> None:
    if inbox not in ("memory", "disk"):
        raise UsageError(f'inbox of {whose} is "memory" or "disk", not {inbox!r:.80}.')
    if concurrency is not None and (type(concurrency) is not int or concurrency < 1):
        raise UsageError(f"concurrency of {whose} is how many run at once, at least 1, not {concurrency!r}.")
    if timeout is not None and (type(timeout) not in (int, float) or not 0 < cast("float", timeout) < inf):
        raise UsageError(f"timeout of {whose} takes seconds as a number above 0, not {timeout!r}.")
    if retry is not None and not isinstance(retry, Retry):
        raise UsageError(f"retry of {whose} is a policy, as in retry=Retry(attempts=5), not {retry!r}.")


def _targets(to: Target | Iterable[Target] | None, own: str) -> tuple[Target, ...]:
    if to is None:
        return ()
    targets: tuple[Target, ...] = tuple(to) if isinstance(to, (list, tuple, set, frozenset)) else (cast("Target", to),)
    for target in targets:
        _check_target(target, own)
    if not targets:
        raise UsageError(f"to=[] of the handler of {own!r} sends nowhere: leave it away, or name a channel.")
    return targets


def _check_target(target: object, own: str) -> None:
    if isinstance(target, str):
        check_channel(target)
    elif not isinstance(target, PushChannel):
        raise UsageError(f"to= of the handler of {own!r} takes push channels or names, one or a list, not {target!r}.")


def _compare_value(fn: Callable[..., Any], reading: Reading, declared: Channel | None) -> None:
    if declared is None:
        return
    sent = declared.types[0]
    if unmet(sent, reading.value) is not None:
        raise UsageError(
            f"{called(fn)} takes {type_name(reading.value)}, and {declared!r} carries {type_name(sent)}: "
            "make the annotation and the channel agree."
        )


def _compare_result(fn: Callable[..., Any], reading: Reading, targets: tuple[Target, ...]) -> None:
    if not targets:
        if reading.is_generator or unmet(reading.result, None) is not None:
            said = "yields" if reading.is_generator else f"returns {type_name(reading.result)}"
            raise UsageError(
                f"{called(fn)} {said}, and that goes nowhere: a pull handler returns nothing. Say where it goes, "
                "@app.pull(…, to=…)."
            )
        return
    for target in targets:
        if isinstance(target, str):
            continue
        wanted = target.types[0]
        if (wrong := unmet(items_of(reading.result), wanted)) is not None:
            hint = " To send each item of a list, yield them." if wrong.startswith("list[") else ""
            raise UsageError(
                f"{called(fn)} gives {wrong}, and {target!r} carries {type_name(wanted)}: make them agree.{hint}"
            )
