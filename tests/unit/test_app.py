from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from datetime import UTC, datetime
from math import inf
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import msgspec
import pytest

from zerowait.app import App
from zerowait.channels import PushChannel
from zerowait.context import Context
from zerowait.errors import RetryLater, SettingsError, UsageError
from zerowait.handlers.registry import HandlerSpec
from zerowait.handlers.visits import Visit
from zerowait.message import Delivery
from zerowait.retry import Retry
from zerowait.settings import Settings
from zerowait.settings_channels import ChannelSettings

if TYPE_CHECKING:
    from zerowait.client import Client


class RawMail(msgspec.Struct):
    path: str


class Created(msgspec.Struct, tag=True):
    n: int


class Deleted(msgspec.Struct, tag=True):
    n: int


PARSE = PushChannel[RawMail]("mail.parse")
LINES = PushChannel[str]("mail.lines")
ORDER = PushChannel[Created | Deleted]("order")


# With the numbers of parameters of the lambdas below, whose types are inferred from these.
Function = Callable[[Any], Any] | Callable[[Any, Any], Any]


def spec_of(app: App[Any]) -> HandlerSpec:
    (spec,) = app._registry.handlers()
    return spec


def registered(fn: Function, channel: Any = "numbers", **options: Any) -> HandlerSpec:
    app = App("test")
    decorate = cast("Callable[[Function], Function]", app.pull(channel, **options))
    assert decorate(fn) is fn
    return spec_of(app)


# What a handler is


def test_a_plain_function_of_one_value() -> None:
    def show(number: int) -> None: ...

    spec = registered(show)

    assert (spec.kind, spec.channel, spec.fn) == ("push", "numbers", show)
    assert (spec.is_async, spec.is_generator, spec.wants_ctx) == (False, False, False)
    assert spec.codec.type is int


def test_a_coroutine_function_that_wants_the_context() -> None:
    async def parse(mail: RawMail, ctx: Context) -> None: ...

    spec = registered(parse, PARSE, timeout=30, retry=Retry(attempts=5), concurrency=7)

    assert (spec.is_async, spec.wants_ctx) == (True, True)
    assert (spec.timeout, spec.retry, spec.concurrency) == (30, Retry(attempts=5), 7)
    assert spec.declared == PARSE
    assert spec.codec is PARSE.codec()


def test_lambdas_builtins_and_partials_are_functions() -> None:
    def add(number: int, *, by: int = 0) -> None: ...

    assert not registered(lambda value: None).wants_ctx
    assert not registered(print).wants_ctx
    assert not registered(functools.partial(add, by=1)).wants_ctx
    assert registered(lambda value, ctx: None).wants_ctx
    assert not registered(lambda value, verbose=False: None).wants_ctx


def test_the_context_may_be_called_anything_if_it_is_annotated() -> None:
    def parse(mail: RawMail, message: Context[Any]) -> None: ...

    assert registered(parse, PARSE).wants_ctx


MailContext: TypeAlias = Context[Any]


def test_the_context_may_be_annotated_by_another_name_of_its_type() -> None:
    def parse(mail: RawMail, message: MailContext | None) -> None: ...

    assert registered(parse, PARSE).wants_ctx


def test_a_second_value_that_does_not_say_it_is_the_context_is_refused() -> None:
    def send(mail: RawMail, context_id: RequestContextId) -> None: ...

    with pytest.raises(UsageError, match=r"takes two values, a and b.*`ctx: Context`.*one struct"):
        registered(lambda a, b: None)
    with pytest.raises(UsageError, match="takes two values, mail and context_id"):
        registered(send, PARSE)


def test_without_an_annotation_a_string_channel_takes_whatever_comes() -> None:
    assert registered(lambda value: None).codec.type is Any


def test_a_class_defined_beside_the_handler_is_found() -> None:
    class Local(msgspec.Struct):
        a: int

    app = App("test")

    @app.pull("local")
    def handle(value: Local) -> None: ...

    assert spec_of(app).codec.type is Local


def test_an_annotation_that_exists_only_for_checkers_is_an_error_that_says_so() -> None:
    def handle(value: Client) -> None: ...

    spec = registered(handle)

    with pytest.raises(UsageError, match="import it outside of `if TYPE_CHECKING:`"):
        _ = spec.codec


def test_with_a_declared_channel_such_an_annotation_does_no_harm() -> None:
    def handle(value: Client) -> None: ...

    assert registered(handle, PARSE).codec is PARSE.codec()


class RequestContextId(str): ...


class Service:
    def method(self, mail: RawMail) -> None: ...

    @staticmethod
    def static(mail: RawMail) -> None: ...

    def __call__(self, mail: RawMail) -> None: ...


def two(path: str, data: bytes) -> None: ...


def three(a: int, b: int, c: int) -> None: ...


def none() -> None: ...


def by_name(value: int, *, limit: int) -> None: ...


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (Service().method, "is a method"),
        (Service.method, "is a method"),
        (Service(), "no function"),
        (Service, "no function"),
        (3, "no function"),
        (two, "takes two values"),
        (three, "takes 3 values"),
        (none, "takes nothing"),
        (by_name, "wants limit by name"),
    ],
    ids=lambda each: each if isinstance(each, str) else getattr(each, "__name__", "object"),
)
def test_what_is_no_plain_function_of_one_value_is_refused(fn: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        registered(fn)


def test_a_static_method_taken_from_its_class_is_a_function() -> None:
    assert registered(Service.static, PARSE).fn is Service.static


# What it takes


def wide(order: object) -> None: ...


def whole(order: Created | Deleted) -> None: ...


def wider(order: Created | Deleted | None) -> None: ...


def unsaid(order) -> None: ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize("fn", [wide, whole, wider, cast("Any", unsaid)], ids=lambda fn: fn.__name__)
def test_an_annotation_that_takes_all_that_the_channel_carries_is_right(fn: Any) -> None:
    registered(fn, ORDER)


def part(order: Created) -> None: ...


def other(order: str) -> None: ...


@pytest.mark.parametrize("fn", [part, other], ids=lambda fn: fn.__name__)
def test_an_annotation_that_takes_less_than_the_channel_carries_is_refused(fn: Any) -> None:
    with pytest.raises(UsageError, match=r"carries Created \| Deleted"):
        registered(fn, ORDER)


# What it gives


def gives(mail: RawMail) -> int:
    return 1


async def gives_later(mail: RawMail) -> int:
    return 1


def yields(mail: RawMail):  # type: ignore[no-untyped-def]
    yield 1


def awaits(mail: RawMail) -> Awaitable[int]: ...  # type: ignore[empty-body]


@pytest.mark.parametrize("fn", [gives, gives_later, yields, awaits], ids=lambda fn: fn.__name__)
def test_a_result_without_a_target_goes_nowhere_and_is_refused(fn: Any) -> None:
    with pytest.raises(UsageError, match="goes nowhere"):
        registered(fn, PARSE)


def nothing(mail: RawMail) -> None: ...


def unsaid_result(mail: RawMail): ...  # type: ignore[no-untyped-def]


def wrapped(mail: RawMail) -> Awaitable[None]: ...  # type: ignore[empty-body]


def anything(mail: RawMail) -> Any: ...


@pytest.mark.parametrize("fn", [nothing, unsaid_result, wrapped, anything], ids=lambda fn: fn.__name__)
def test_a_handler_that_gives_nothing_or_does_not_say_is_right(fn: Any) -> None:
    registered(fn, PARSE)


def one(mail: RawMail) -> str | None: ...


def items(mail: RawMail) -> Iterator[str]:
    yield ""


async def items_later(mail: RawMail) -> AsyncIterator[str]:
    yield ""


async def later(mail: RawMail) -> str:
    return ""


@pytest.mark.parametrize(
    ("fn", "is_async", "is_generator"),
    [(one, False, False), (items, False, True), (items_later, True, True), (later, True, False)],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_a_stage_gives_one_or_none_or_yields(fn: Any, is_async: bool, is_generator: bool) -> None:
    spec = registered(fn, PARSE, to=LINES)

    assert (spec.is_async, spec.is_generator, spec.to) == (is_async, is_generator, (LINES,))


def test_several_targets_channels_and_names_get_everything() -> None:
    assert registered(one, PARSE, to=[LINES, "elsewhere"]).to == (LINES, "elsewhere")


def as_list(mail: RawMail) -> list[str]: ...  # type: ignore[empty-body]


def as_iterable(mail: RawMail) -> Iterable[str]: ...  # type: ignore[empty-body]


def numbers(mail: RawMail) -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(("fn", "says"), [(gives, "gives int"), (numbers, "gives int"), (as_list, "yield them")])
def test_a_stage_that_gives_what_its_target_does_not_carry_is_refused(fn: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        registered(fn, PARSE, to=LINES)


# What is said of it


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"timeout": 30}, "nothing can stop a thread"),
        ({"timeout": 0}, "seconds as a number above 0"),
        ({"timeout": "30"}, "seconds as a number above 0"),
        ({"concurrency": 0}, "at least 1"),
        ({"concurrency": True}, "at least 1"),
        ({"retry": 5}, r"retry=Retry\(attempts=5\)"),
        ({"inbox": "file"}, r"\"memory\" or \"disk\", not .file."),
        ({"to": []}, "sends nowhere"),
        ({"to": 3}, "takes push channels or names"),
        ({"to": [3]}, "takes push channels or names"),
        ({"to": "a b"}, "cannot be the name"),
        ({"durable": True}, "sender's business"),
        ({"concurency": 3}, "Did you mean concurrency="),
    ],
    ids=repr,
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        registered(nothing if "to" not in options else one, PARSE, **options)


def test_a_decorator_without_its_channel_says_what_to_write() -> None:
    app = App("test")

    with pytest.raises(UsageError, match="wants its channel"):
        app.pull(nothing)(nothing)  # type: ignore[call-overload]
    with pytest.raises(UsageError, match=r'write @app\.pull\("name"\)'):
        app.pull(nothing)  # type: ignore[call-overload]


def test_settings_win_over_the_decorator_and_defaults_fill_the_rest() -> None:
    app = App("test")
    app.pull(PARSE, concurrency=4, timeout=30, retry=Retry(attempts=5))(later_nothing)
    app.pull("numbers")(print)
    app.pull("async")(later_nothing)
    settings = Settings(channels={"mail.parse": ChannelSettings(concurrency=8, attempts=2, timeout=1)})

    parse, show, default = app._registry.handlers(settings)

    assert (parse.concurrency, parse.timeout, parse.retry) == (8, 1, Retry(attempts=2))
    assert (show.concurrency, show.timeout, show.retry) == (min(32, (os.cpu_count() or 1) + 4), None, Retry())
    assert default.concurrency == 32


async def later_nothing(mail: RawMail) -> None: ...


def test_a_timeout_for_a_plain_function_is_refused_from_settings_too() -> None:
    app = App("test")
    app.pull(PARSE)(nothing)

    with pytest.raises(SettingsError, match="nothing can stop a thread"):
        app._registry.handlers(Settings(channels={"mail.parse": ChannelSettings(timeout=3)}))


# Apps


def test_one_channel_has_one_handler_and_both_are_named() -> None:
    app = App("test")
    app.pull(PARSE)(nothing)

    with pytest.raises(UsageError, match=r"nothing \(test_app.py:\d+\) and .*anything \(test_app.py:\d+\)"):
        app.pull("mail.parse")(anything)


def test_a_notebooks_cell_may_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def cell() -> Callable[[int], None]:
        def show(number: int) -> None: ...

        return show

    app = App("test")
    app.pull("numbers")(cell())
    with pytest.raises(UsageError, match="two handlers"):
        app.pull("numbers")(cell())

    monkeypatch.setattr("builtins.__IPYTHON__", True, raising=False)
    again = app.pull("numbers")(cell())

    assert spec_of(app).fn is again


def test_an_app_serves_what_it_includes_whatever_the_order_of_imports() -> None:
    app, mails, orders = App("all"), App("mails"), App("orders")
    mails.pull(PARSE)(nothing)
    app.include(mails)
    mails.include(orders)
    orders.pull(ORDER)(whole)

    assert [each.channel for each in app._registry.handlers()] == ["mail.parse", "order"]
    assert len(orders._registry) == 1


def test_an_included_app_may_not_serve_what_is_served_already() -> None:
    app, mails = App("all"), App("mails")
    app.pull(PARSE)(nothing)
    mails.pull(PARSE)(anything)

    with pytest.raises(UsageError, match="has two handlers"):
        app.include(mails)


def test_apps_cannot_include_one_another() -> None:
    one, two = App("one"), App("two")
    one.include(two)

    with pytest.raises(UsageError, match="cannot include"):
        two.include(one)
    with pytest.raises(UsageError, match="cannot include"):
        one.include(one)


class Called:
    channel: str

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self._visit = SimpleNamespace(served=channel)


@pytest.mark.asyncio
async def test_an_included_apps_middleware_is_about_its_own_handlers() -> None:
    app, mails = App("all"), App("mails")
    seen: list[str] = []
    mails.pull(PARSE)(nothing)
    app.pull(ORDER)(whole)

    @mails.middleware
    async def mark(ctx: Context[Any], call: Callable[[], Awaitable[Any]]) -> Any:
        seen.append(ctx.channel)
        return await call()

    async def call() -> int:
        return 3

    app.include(mails)
    (layer,) = app._registry.layers()

    assert [await layer(Called(name), call) for name in ("mail.parse", "order")] == [3, 3]
    assert seen == ["mail.parse"]


@pytest.mark.parametrize("name", ["", "a b", "a.b", "a" * 65, 3], ids=repr)
def test_an_app_needs_a_name_that_can_be_a_files(name: Any) -> None:
    with pytest.raises(UsageError, match="an app"):
        App(name)


def test_resources_are_given_uncalled() -> None:
    with pytest.raises(UsageError, match="without calling it"):
        App("test", resources=3)  # type: ignore[arg-type]


def test_a_handler_remembers_its_channel_for_whoever_pushes_to_the_function() -> None:
    app = App("test")

    @app.pull(PARSE)
    def parse(mail: RawMail) -> None: ...

    assert getattr(parse, "__zerowait_channel__", None) == "mail.parse"


def test_it_is_shown_with_its_handlers() -> None:
    app = App("mail")
    app.pull(PARSE)(nothing)

    assert repr(app) == "<App mail: 1 handler, not running>"


# Contexts


class NoOutputs:
    def prepare(self, to: object, value: object, options: Any) -> Any:
        return (to, value, dict(options))

    def prepare_event(self, to: object, value: object, options: Any) -> Any:
        return self.prepare(to, value, options)

    def gather(self, to: object) -> None:
        return None

    def size(self, output: Any) -> int:
        return 100

    def spool(self, delivery: Delivery, index: int, outputs: list[Any]) -> None:
        return None

    def unspool(self, spooled: Any) -> None:
        raise AssertionError("nothing was spooled")

    def send(self, delivery: Delivery, outputs: list[Any]) -> None:
        raise AssertionError("nothing leaves before the handler has succeeded")

    def release(self, outputs: list[Any]) -> Any:
        raise AssertionError("nothing leaves before the handler has succeeded")


def visit(**changes: Any) -> Visit:
    body = b"\xdd\x00\x00\x00\x02\x01\x02"
    given: dict[str, Any] = {
        "channel": "mail.parse",
        "box": 0xABCD,
        "epoch": 37,
        "ranges": ((5, 2),),
        "count": 2,
        "body": body,
        "ends": msgspec.msgpack.encode(b""),
        "accepted_at": 1_700_000_000_000_001,
        "sender": "api",
    }
    leaving = changes.pop("leaving", lambda: False)
    deadline = changes.pop("deadline", inf)
    delivery = Delivery(**(given | changes))
    return Visit(delivery, 1, "resources", NoOutputs(), leaving, deadline)


def context(**changes: Any) -> Context[Any]:
    return Context(visit(**changes), lambda: "client")  # type: ignore[arg-type,return-value]


def test_a_context_tells_the_particulars_of_its_message() -> None:
    ctx = context(failures={6: 2}, headers={6: {"by": "hand"}}, key=b"ann")

    assert ctx.id == "000000000000abcd-11-6"
    assert (ctx.channel, ctx.sender, ctx.attempt, ctx.key) == ("mail.parse", "api", 3, "ann")
    assert ctx.headers == {"by": "hand"}
    assert ctx.sent_at == datetime(2023, 11, 14, 22, 13, 20, 1, tzinfo=UTC)
    assert (ctx.resources, ctx.missed) == ("resources", 0)
    client: object = ctx.client
    assert client == "client"
    assert repr(ctx) == "<Context mail.parse 0000-11-6: attempt 3>"


def test_a_message_without_anything_has_empty_headers_and_no_key() -> None:
    ctx = context()

    assert (ctx.headers, ctx.key, ctx.attempt, ctx.remaining()) == ({}, None, 1, inf)


def test_a_push_of_a_context_is_gathered_and_gives_nothing_to_wait_for() -> None:
    at_work = visit()
    ctx: Context[Any] = Context(at_work, lambda: "client")  # type: ignore[arg-type,return-value]

    given: Any = ctx.push(LINES, "a", ttl=3)

    assert given is None
    assert at_work.outputs == [(LINES, "a", {"ttl": 3})]


def test_a_push_after_the_handler_has_ended_is_refused() -> None:
    at_work = visit()
    at_work.over = True

    with pytest.raises(UsageError, match="client"):
        Context(at_work, lambda: "client").push(LINES, "a")  # type: ignore[arg-type,return-value]


def test_a_checkpoint_lets_pass_what_is_in_time() -> None:
    context().checkpoint()


def test_a_checkpoint_ends_what_is_late_or_must_leave() -> None:
    with pytest.raises(TimeoutError):
        context(deadline=0.0).checkpoint()
    with pytest.raises(RetryLater, match="leaving"):
        context(leaving=lambda: True).checkpoint()


def test_the_time_left_never_falls_below_nothing() -> None:
    assert context(deadline=0.0).remaining() == 0.0
