"""Handlers of topics.

One that stands for itself, or shares with its group, is fed by the publishers themselves. A durable group is the
handler of a push channel, `<pattern>@<group>`, to which publishers push what it is to have: so waiting, retries and
dead letters are those of every push.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from zerowait.channels import Channel
from zerowait.errors import UsageError
from zerowait.handlers.fitting import check_result, check_terms, check_value
from zerowait.handlers.reading import called, read
from zerowait.handlers.registry import Feed, HandlerSpec
from zerowait.names import check_process, check_topic
from zerowait.patterns import channel_of
from zerowait.retry import Retry
from zerowait.topic import Topic, check_plain_terms, checked


def topic_spec(
    fn: Callable[..., Any],
    topic: object,
    *,
    group: str | None = None,
    durable: bool = False,
    concurrency: int | None = None,
    timeout: float | None = None,
    retry: Retry | None = None,
    names: Mapping[str, Any] | None = None,
    **options: Any,
) -> HandlerSpec:
    """The record of an `@app.subscribe`. names: of the place where it stands, for annotations.

    Raises UsageError for all that can be known to be wrong before anything runs.
    """
    name, declared = subscribed(topic)
    if not isinstance(durable, bool):
        raise UsageError(f"durable= of @app.subscribe is True or False, not {durable!r}.")
    if group is not None:
        check_process(group, "a group of subscribers")
    terms = checked(options)
    if durable:
        if group is None:
            raise UsageError(
                f"{called(fn)}: durable=True wants a group, for what waits must wait for somebody: "
                '@app.subscribe(topic, group="billing", durable=True).'
            )
        for said in options:
            raise UsageError(
                f"{called(fn)}: {said}= says what becomes of events that nobody keeps, and those of a durable group "
                "wait in their publisher's outbox: leave it away."
            )
    if declared is not None and declared.terms.plain is not None:
        check_plain_terms(name, terms, group or "")
    reading = read(fn, names)
    check_value(fn, reading, declared)
    check_result(fn, reading, ())
    check_terms(fn, reading, concurrency, timeout, retry)
    return HandlerSpec(
        kind="push" if durable else "topic",
        channel=channel_of(name, group) if group else name,
        fn=fn,
        is_async=reading.is_async,
        is_generator=reading.is_generator,
        wants_ctx=reading.wants_ctx,
        value_type=reading.value,
        declared=declared,
        concurrency=concurrency,
        timeout=timeout,
        retry=retry or (None if durable else Retry(attempts=1)),
        feed=None if durable else Feed(name, group or "", **terms),
    )


def subscribed(topic: object) -> tuple[str, Channel | None]:
    """The name and, if it is declared, the topic of an `@app.subscribe`."""
    if isinstance(topic, str):
        return check_topic(topic), None
    if isinstance(topic, Topic):
        declared = cast("Any", topic)
        return declared.name, declared
    if isinstance(topic, Channel):
        raise UsageError(f"@app.subscribe is for topics, and {topic!r} is of kind {topic.kind}.")
    if callable(topic):
        raise UsageError('@app.subscribe wants its topic: write @app.subscribe("mail.*"), or @app.subscribe(FLAGGED).')
    raise UsageError(f"@app.subscribe takes a Topic or a topic's name, not {topic!r}.")
