"""Topics as they are declared, and what is wrong with a handler of one, said when the module is imported."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from zerowait import App, Client, Context, PushChannel, Retry, Topic
from zerowait.errors import UsageError
from zerowait.patterns import channel_of, parted

FLAGGED = Topic[str]("mail.flagged.*", retain=True, history=10)


def test_at_fills_the_places() -> None:
    assert FLAGGED.at("spam").name == "mail.flagged.spam"
    assert Topic[int](">").at("a", "b").name == "a.b"
    assert Topic[int]("a.*.b.>").at("x", "y", "z").name == "a.x.b.y.z"
    assert FLAGGED.at("spam") == Topic[str]("mail.flagged.spam")
    assert hash(FLAGGED.at("spam")) == hash(Topic[str]("mail.flagged.spam"))


def test_what_at_makes_keeps_what_was_declared() -> None:
    spam = FLAGGED.at("spam")
    assert (spam.retain, spam.history, spam.reliable) == (True, 10, False)
    assert spam.declared == "mail.flagged.*"
    assert not spam.is_pattern
    assert FLAGGED.is_pattern
    again = pickle.loads(pickle.dumps(spam))
    assert again == spam
    assert again.declared == "mail.flagged.*"


@pytest.mark.parametrize("words", [(), ("a", "b"), ("a.b",), ("",), ("*",), (3,)])
def test_words_that_do_not_fill_them_are_refused(words: tuple[Any, ...]) -> None:
    with pytest.raises(UsageError, match="at\\("):
        FLAGGED.at(*words)


@pytest.mark.parametrize("name", ["a..b", "a.*b", "a.>.b", "", "a b", ">a", "x" * 201])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        Topic[int](name)


@pytest.mark.parametrize(
    "terms", [{"durable": True}, {"history": -1}, {"history": 1.5}, {"retain": "yes"}, {"reliable": 1}, {"ttl": 3}]
)
def test_terms_that_make_no_sense_are_refused(terms: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Topic[int]("a", **terms)


def test_other_channels_have_no_patterns() -> None:
    with pytest.raises(UsageError, match="Only topics"):
        PushChannel[int]("mail.*")


def test_a_group_has_a_channel() -> None:
    assert parted(channel_of("mail.>", "billing")) == ("mail.>", "billing")
    assert parted("mail.parse") is None


def refused(said: str, topic: Any = FLAGGED, **options: Any) -> None:
    app = App("app")

    def handler(value: str) -> None: ...

    with pytest.raises(UsageError, match=said):
        app.subscribe(topic, **options)(handler)


def test_a_durable_subscription_wants_a_group() -> None:
    refused("durable=True wants a group", durable=True)
    refused("queue= says what becomes", durable=True, group="billing", queue=10)
    refused("a group of subscribers", group="no group")


def test_options_are_looked_at_when_the_module_is_imported() -> None:
    refused("overflow=", overflow="block")
    refused("queue=", queue=0)
    refused("replay=", replay=-1)
    refused("Did you mean group", grup="billing")
    refused("of kind push", topic=PushChannel[str]("mail"))
    refused("takes a Topic", topic=3)
    refused("nothing can stop a thread", timeout=1)
    refused("retry of", retry=3)


def test_a_handler_of_another_type_is_refused() -> None:
    app = App("app")

    def of_numbers(value: int) -> None: ...
    def gives(value: str) -> int:
        return 1

    with pytest.raises(UsageError, match="carries str"):
        app.subscribe(FLAGGED)(of_numbers)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="goes nowhere"):
        app.subscribe(FLAGGED)(gives)  # type: ignore[type-var]
    with pytest.raises(UsageError, match="wants its topic"):
        app.subscribe(gives)  # type: ignore[call-overload]


def test_one_name_has_one_handler_and_a_group_is_another() -> None:
    app = App("app")

    @app.subscribe(FLAGGED)
    def one(value: str) -> None: ...

    @app.subscribe(FLAGGED, group="a")
    def two(value: str, ctx: Context) -> None: ...

    @app.subscribe(FLAGGED, group="b", durable=True, retry=Retry(attempts=3))
    def three(value: str) -> None: ...

    with pytest.raises(UsageError, match="two handlers"):
        app.subscribe("mail.flagged.*")(three)
    with pytest.raises(UsageError, match="two handlers"):
        app.subscribe(FLAGGED, group="a")(one)


def test_what_is_no_topic_is_not_published_to() -> None:
    with Client("bank") as zw:
        with pytest.raises(UsageError, match="of kind push"):
            zw.publish(PushChannel[int]("mail"), 1)  # type: ignore[call-overload]
        with pytest.raises(UsageError, match="of kind push"):
            zw.subscribe(PushChannel[int]("mail"))  # type: ignore[call-overload]
        with pytest.raises(UsageError, match="of kind topic"):
            zw.push(FLAGGED.at("a"), "b")  # type: ignore[call-overload]
        with pytest.raises(UsageError, match="retain="):
            zw.publish("a", 1, retain=3)  # type: ignore[call-overload]
        with pytest.raises(UsageError, match="Headers are text"):
            zw.publish("a", 1, headers={"a": 1})  # type: ignore[dict-item]
