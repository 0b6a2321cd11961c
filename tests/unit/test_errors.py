from __future__ import annotations

import inspect

import pytest

from zerowait import errors
from zerowait.errors import (
    Closed,
    ContractMismatch,
    Dead,
    Expired,
    NotAccepted,
    NotHandled,
    OutcomeUnknown,
    QueueFull,
    Reject,
    RemoteError,
    RetryLater,
    SettingsError,
    StoreError,
    TooLarge,
    UsageError,
    Verdict,
    ZerowaitError,
)

CLASSES = [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, Exception)]


class Room:
    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> None:
        return None

    def __await__(self):  # type: ignore[no-untyped-def]
        yield


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_says_in_its_docstring_what_it_is_about(kind: type[Exception]) -> None:
    assert kind.__doc__ is not None
    assert len(kind.__doc__) > 40


def test_what_people_already_catch_catches_ours() -> None:
    assert issubclass(Expired, TimeoutError)
    assert issubclass(StoreError, OSError)
    assert issubclass(errors.NotPermitted, PermissionError)
    assert issubclass(OutcomeUnknown, OSError)
    assert issubclass(SettingsError, ValueError)
    assert issubclass(UsageError, RuntimeError)


def test_a_verdict_is_not_an_error_of_ours() -> None:
    assert not issubclass(Verdict, ZerowaitError)
    assert issubclass(RetryLater, Verdict)
    assert issubclass(Reject, Verdict)


def test_whoever_catches_not_accepted_catches_what_a_verb_raises_itself_and_nothing_else() -> None:
    assert {each.__name__ for each in CLASSES if issubclass(each, NotAccepted) and each is not NotAccepted} == {
        "QueueFull",
        "EncodeError",
        "TooLarge",
        "StoreError",
        "Closed",
    }
    assert not any(issubclass(each, NotHandled) for each in CLASSES if issubclass(each, NotAccepted))


def test_a_full_outbox_says_its_bounds_and_what_to_do() -> None:
    room = Room()

    error = QueueFull(limit_bytes=2 << 30, limit_messages=1_000_000, room=room, channel="mail.parse")

    assert (error.limit_bytes, error.limit_messages, error.room) == (2 << 30, 1_000_000, room)
    assert "mail.parse was not taken" in str(error)
    assert "2 GiB" in str(error)
    assert "outbox_bytes" in str(error)


def test_a_full_memory_names_the_settings_of_memory() -> None:
    error = QueueFull(limit_bytes=64 << 20, limit_messages=100_000, room=Room(), durable=False)

    assert "memory_messages and memory_bytes" in str(error)


def test_an_error_of_the_store_reads_as_a_sentence_and_keeps_the_number() -> None:
    error = StoreError("The disk is full.", path="/var/x.db", errno=28)

    assert str(error) == "The disk is full."
    assert (error.errno, error.path) == (28, "/var/x.db")


def test_an_expiry_says_whether_it_may_have_run() -> None:
    assert "certainly did not run" in str(Expired(channel="mail.parse", id="7f-1-2"))
    assert "may have run" in str(Expired(channel="mail.parse", sent=True))


def test_the_workers_traceback_is_shown_below_the_error() -> None:
    error = RemoteError(type="ValueError", message="bad", traceback="Traceback …", channel="mail.count", id="1")

    assert str(error) == "The handler of mail.count raised ValueError: bad"
    assert error.message == "bad"
    assert error.__notes__ == ["At the worker:\nTraceback …"]


def test_a_dead_letter_says_why_and_how_to_give_it_back() -> None:
    error = Dead(reason="empty mail", attempts=5, channel="mail.parse", id="7f-1-2")

    assert (error.reason, error.attempts, error.id, error.channel) == ("empty mail", 5, "7f-1-2", "mail.parse")
    assert "after 5 attempts: empty mail" in str(error)
    assert "zerowait dead retry" in str(error)


def test_sizes_are_written_as_people_write_them() -> None:
    error = TooLarge(size_bytes=20 << 20, limit_bytes=16 << 20, channel="mail.parse")

    assert "20 MiB, more than the 16 MiB allowed" in str(error)


def test_an_unknown_setting_begins_with_its_origin() -> None:
    assert str(SettingsError("there is no setting pign.", origin="zerowait.toml:3")).startswith("zerowait.toml:3: ")


def test_other_sentences_name_what_they_are_about() -> None:
    assert "'api' is closed" in str(Closed(name="api"))
    assert "the field a is missing" in str(ContractMismatch(difference="the field a is missing", channel="x"))
    assert "may be on disk" in str(OutcomeUnknown(channel="x", path="/a.db"))


def test_a_handler_may_ask_for_another_time() -> None:
    later = RetryLater(after=60, reason="busy")

    assert (later.after, later.reason) == (60.0, "busy")


@pytest.mark.parametrize("after", [-1, float("inf"), float("nan"), "60", True, None])
def test_another_time_must_be_seconds(after: object) -> None:
    with pytest.raises(UsageError, match="takes seconds"):
        RetryLater(after=after)  # type: ignore[arg-type]
