"""`zerowait push` against a client that only writes down what it is given."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Self

import pytest

from tests.unit.cli.conftest import Zerowait
from zerowait.engines.brokerless.telling import Stays
from zerowait.errors import Dead, EncodeError, QueueFull, StoreError
from zerowait.notices import DeadLettered


class Fates:
    """What the next runs of the command meet: what becomes of each message, by number."""

    def __init__(self) -> None:
        self.pushed: list[tuple[str, Any, bool | None]] = []
        self.refused: dict[int, Exception] = {}
        self.ends: dict[int, Exception] = {}
        self.left: dict[tuple[str, str, bool], Stays] = {}
        self.name = ""
        self.drain = -1.0
        self.closed = 0
        self.letters: list[DeadLettered] = []
        self.tell: Any = None


class Done:
    def __init__(self, value: Any = None, error: Exception | None = None) -> None:
        self.value, self.error = value, error

    def result(self, timeout: float | None = None) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class Closing:
    def __init__(self, fates: Fates) -> None:
        self.fates = fates

    def result(self, timeout: float | None = None) -> int:
        return sum(stays.messages for stays in self.fates.left.values())


@pytest.fixture
def fates(monkeypatch: pytest.MonkeyPatch) -> Fates:
    fates = Fates()

    class Client:
        def __init__(self, name: str, *, settings: Any) -> None:
            fates.name, fates.drain = name, settings.drain

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *error: object) -> None:
            self.close()

        def push(self, channel: str, value: object, *, durable: bool | None = None) -> Any:
            number = len(fates.pushed)
            if (error := fates.refused.pop(number, None)) is not None:
                raise error
            fates.pushed.append((channel, value, durable))
            end = fates.ends.get(number)
            state = "handled" if end is None else "dead" if isinstance(end, Dead) else "stored"

            def result(timeout: float | None) -> None: ...

            return SimpleNamespace(
                id=f"7f3a-{number}", channel=channel, state=state, result=result, handled=Done(error=end)
            )

        def listen(self, kind: object, fn: Any) -> None:
            fates.tell = fn

        def close(self) -> Closing:
            while fates.letters:
                fates.tell(fates.letters.pop(0))
            fates.closed += 1
            return Closing(fates)

        def _open(self) -> Any:  # what it has open, which a closed client no longer gives
            inventory = SimpleNamespace(is_new=self._is_new)
            return SimpleNamespace(left=fates.left, unstored={}, estate=SimpleNamespace(inventory=inventory))

        def _is_new(self, id: str) -> bool:
            return not id.startswith("old")

    monkeypatch.setitem(sys.modules, "zerowait.client", SimpleNamespace(Client=Client))
    return fates


Stdin = Callable[[str], None]


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Stdin:
    return lambda text: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def full(*, room: Exception | None = None) -> QueueFull:
    return QueueFull(limit_bytes=100, limit_messages=1, room=Done(error=room))  # type: ignore[arg-type]


def test_a_message_is_json(zerowait: Zerowait, fates: Fates) -> None:
    ran = zerowait("push", "mail.parse", '{"path": "a.eml", "n": [1, null]}')
    assert ran.code == 0
    assert fates.pushed == [("mail.parse", {"path": "a.eml", "n": [1, None]}, None)]
    assert ran.out == ""
    assert "1 message pushed to mail.parse" in ran.err
    assert fates.closed


def test_a_message_that_became_a_dead_letter_is_no_success(zerowait: Zerowait, fates: Fates) -> None:
    letters = [
        DeadLettered(channel="mail.parse", id="old-0", reason="of an earlier run"),
        DeadLettered(channel="mail.parse", id="7f3a-1", reason="expected int, got str"),
    ]
    fates.letters = letters.copy()
    ran = zerowait("push", "mail.parse", "1")
    assert ran.code == 1
    assert "1 message pushed to mail.parse; 1 dead letter: expected int, got str. See `zerowait dead show" in ran.err
    assert "1 message of earlier runs became a dead letter: see `zerowait dead list`" in ran.err
    assert "of an earlier run" not in ran.err
    assert "nothing waits any more" not in ran.err
    fates.letters = letters.copy()
    assert zerowait("push", "mail.parse", "1", "--count", "2").code == 4, "some of them did what they should"


def test_a_message_that_is_no_json_is_told_how_to_write_text(zerowait: Zerowait, fates: Fates) -> None:
    ran = zerowait("push", "lines", "hello")
    assert ran.code == 2
    assert "'\"hello\"'" in ran.err
    assert not fates.pushed


def test_a_negative_number_is_a_message_and_a_mistyped_option_is_none(zerowait: Zerowait, fates: Fates) -> None:
    assert zerowait("push", "numbers", "-1").code == 0
    assert fates.pushed == [("numbers", -1, None)]
    assert zerowait("push", "numbers", "1", "--cuont", "3").code == 2
    assert zerowait("push", "numbers", "--cuont").code == 2
    assert len(fates.pushed) == 1


@pytest.mark.parametrize(
    "said", [["--cuont", "2"], ["--cuont=2"], ["1", "--cuont", "2"], ["--cuont"], ["--wait", "--cuont", "2"]]
)
def test_a_mistyped_option_is_told_the_nearest(zerowait: Zerowait, fates: Fates, said: list[str]) -> None:
    ran = zerowait("push", "numbers", *said)
    assert ran.code == 2
    assert "No such option" in ran.err
    assert "Did you mean" in ran.err
    assert "--count" in ran.err
    assert not fates.pushed


def test_a_negative_number_beside_options_is_a_message(zerowait: Zerowait, fates: Fates) -> None:
    assert zerowait("push", "numbers", "-5", "--count", "2").code == 0
    assert zerowait("push", "numbers", "--", "-5.5e1").code == 0
    assert fates.pushed == [("numbers", -5, None), ("numbers", -5, None), ("numbers", -55.0, None)]


def test_each_line_of_stdin_is_a_message(zerowait: Zerowait, fates: Fates, stdin: Stdin) -> None:
    stdin('1\n\n"two"\n{"n": 3}')
    assert zerowait("push", "numbers").code == 0
    assert [value for _, value, _ in fates.pushed] == [1, "two", {"n": 3}]


def test_count_repeats_each_message(zerowait: Zerowait, fates: Fates, stdin: Stdin) -> None:
    stdin("1\n2\n")
    assert zerowait("push", "numbers", "-", "--count", "2").code == 0
    assert [value for _, value, _ in fates.pushed] == [1, 1, 2, 2]


def test_ids_are_one_json_object_a_line_with_their_line(zerowait: Zerowait, fates: Fates, stdin: Stdin) -> None:
    stdin("1\n\n2\n")
    lines = [json.loads(line) for line in zerowait("push", "numbers", "--json").out.splitlines()]
    assert [(line["id"], line["line"], line["channel"]) for line in lines] == [
        ("7f3a-0", 1, "numbers"),
        ("7f3a-1", 3, "numbers"),
    ]


def test_a_bad_line_ends_it_and_says_what_was_accepted(zerowait: Zerowait, fates: Fates, stdin: Stdin) -> None:
    stdin("1\n2\n{oops\n4\n")
    ran = zerowait("push", "numbers")
    assert ran.code == 4
    assert "line 3: this is not JSON: expecting property name enclosed in double quotes at column 2" in ran.err
    assert "2 messages before it were accepted" in ran.err
    assert len(fates.pushed) == 2
    assert fates.closed


def test_a_refused_first_line_is_a_plain_failure(zerowait: Zerowait, fates: Fates, stdin: Stdin) -> None:
    stdin('"x"\n')
    fates.refused[0] = EncodeError("expected an int", path="$")
    ran = zerowait("push", "numbers")
    assert ran.code == 1
    assert "line 1: expected an int" in ran.err


def test_a_full_outbox_is_waited_for(zerowait: Zerowait, fates: Fates, stdin: Stdin) -> None:
    stdin("1\n2\n")
    fates.refused[1] = full()
    assert zerowait("push", "numbers").code == 0
    assert len(fates.pushed) == 2


def test_an_outbox_that_stays_full_is_said_with_the_line(zerowait: Zerowait, fates: Fates, stdin: Stdin) -> None:
    stdin("1\n2\n")
    fates.refused[1] = full(room=TimeoutError())
    ran = zerowait("push", "numbers", "--timeout", "1")
    assert ran.code == 4
    assert "line 2: The outbox on disk is full" in ran.err


def test_a_failing_store_is_unavailable(zerowait: Zerowait, fates: Fates) -> None:
    fates.refused[0] = StoreError("the disk is full")
    assert zerowait("push", "numbers", "1").code == 3


def test_waiting_says_what_became_of_each(zerowait: Zerowait, fates: Fates, stdin: Stdin) -> None:
    stdin("1\n2\n3\n")
    fates.ends = {1: Dead(reason="division by zero", attempts=10), 2: TimeoutError()}
    ran = zerowait("push", "numbers", "--wait", "--json")
    assert ran.code == 4
    assert "1 handled, 1 dead, 1 still waiting" in ran.err
    assert "line 2:" in ran.err
    states = [json.loads(line)["state"] for line in ran.out.splitlines()]
    assert states == ["handled", "dead", "stored"]
    assert fates.drain == 0, "who has waited need not wait again for leaving"


def test_nothing_handled_is_a_failure(zerowait: Zerowait, fates: Fates) -> None:
    fates.ends = {0: TimeoutError()}
    assert zerowait("push", "numbers", "1", "--wait", "--timeout", "0.1").code == 1


def test_what_stays_in_the_outbox_is_said_and_is_no_failure(zerowait: Zerowait, fates: Fates) -> None:
    fates.left["cron", "numbers", True] = Stays(messages=1)
    ran = zerowait("push", "numbers", "1", "--name", "cron", "--drain", "0")
    assert ran.code == 0
    assert "1 message in the outbox waits for a worker: nobody takes numbers" in ran.err
    assert (fates.name, fates.drain) == ("cron", 0)


@pytest.mark.parametrize("options", [[], ["--wait", "--timeout", "0.1"], ["--memory"]])
def test_the_addresses_that_were_tried_in_vain_are_said_with_what_to_do(
    zerowait: Zerowait, fates: Fates, options: list[str]
) -> None:
    fates.ends = {0: TimeoutError()}
    fates.left["cli", "numbers", "--memory" not in options] = Stays(messages=1, tried="tcp://a:1: nobody listens there")
    ran = zerowait("push", "numbers", "1", *options)
    assert ". Tried tcp://a:1: nobody listens there. Start a worker there, or correct the address (" in ran.err
    assert "[addresses] in zerowait.toml, or ZEROWAIT_ADDRESSES" in ran.err


def test_a_worker_that_is_known_and_was_not_met_is_named(zerowait: Zerowait, fates: Fates) -> None:
    fates.left["cli", "numbers", True] = Stays(messages=1, unmet=("w (pid 7)",), tried="tcp://a:1: no answer yet")
    ran = zerowait("push", "numbers", "1")
    assert "1 message in the outbox waits for w (pid 7), with which there is no connection\n" in ran.err


def test_what_was_only_in_memory_and_not_taken_is_lost(zerowait: Zerowait, fates: Fates) -> None:
    fates.ends = {0: TimeoutError(), 1: TimeoutError()}
    ran = zerowait("push", "numbers", "1", "--count", "3", "--memory")
    assert ran.code == 4
    assert "lost" in ran.err
    assert [durable for _, _, durable in fates.pushed] == [False] * 3


def test_what_is_handled_what_is_not_due_and_what_waits_are_told_apart(zerowait: Zerowait, fates: Fates) -> None:
    fates.left["cli", "numbers", True] = Stays(messages=6, handled=1, later=3, due_in_s=60.0, served=True)
    ran = zerowait("push", "numbers", "1", "--count", "6")
    assert ran.code == 0
    assert "6 messages pushed to numbers; 1 message is being handled by workers, " in ran.err
    assert re.search(r" 3 messages are not due before \d\d:\d\d:\d\d, ", ran.err)
    assert " 2 messages in the outbox wait for a free worker\n" in ran.err
    assert ran.err.count("pushed") == 1
    assert "earlier runs" not in ran.err


def test_what_earlier_runs_have_left_is_told_in_one_line_as_what_it_is(zerowait: Zerowait, fates: Fates) -> None:
    fates.left = {
        ("cli", "numbers", True): Stays(messages=5, handled=3, later=1, due_in_s=60.0, earlier=4, later_earlier=1),
        ("cli", "numbres", True): Stays(messages=2, earlier=2),
        ("cli", "numbers", False): Stays(messages=7),
    }
    ran = zerowait("push", "numbers", "1")
    assert ran.code == 0
    waits, old = ran.err.splitlines()
    assert waits == "1 message pushed to numbers; 1 message in the outbox waits for a worker: nobody takes numbers"
    assert old == (
        "6 messages of earlier runs are in the outbox cli, too (4 for numbers, 2 for numbres): see `zerowait status`"
    )
    fates.left["cli", "numbers", True] = Stays(messages=4, earlier=4)
    assert "1 message pushed to numbers: nothing of it waits any more" in zerowait("push", "numbers", "1").err


def test_a_name_that_no_channel_can_have_is_refused_before_anything_is_opened(zerowait: Zerowait) -> None:
    zerowait("push", "numbers", "1", "--drain", "0")
    ran = zerowait("push", "bad name!", "1")
    assert ran.code == 2
    [line] = ran.err.splitlines()
    assert line.startswith("error: 'bad name!' cannot be the name of a channel")


def test_nothing_on_stdin_is_said_to_be_nothing(zerowait: Zerowait, fates: Fates, stdin: Stdin) -> None:
    stdin("\n")
    assert "0 messages pushed to numbers: there was none on stdin" in zerowait("push", "numbers").err


def test_what_was_accepted_before_a_bad_line_is_waited_for(zerowait: Zerowait, fates: Fates, stdin: Stdin) -> None:
    stdin("1\n2\n\xff{\n")
    ran = zerowait("push", "numbers", "--wait", "--json")
    assert ran.code == 4
    assert [json.loads(line)["state"] for line in ran.out.splitlines()] == ["handled", "handled"]
    assert ran.err.index("2 handled") < ran.err.index("line 3: this is not JSON")


def test_a_message_that_is_no_json_is_told_where(zerowait: Zerowait, fates: Fates) -> None:
    assert "expecting value at line 2, column 3" in zerowait("push", "numbers", "[1,\n  oops]").err


def test_a_channels_own_durability_holds(
    zerowait: Zerowait, fates: Fates, monkeypatch: pytest.MonkeyPatch, stdin: Stdin
) -> None:
    monkeypatch.setenv("ZEROWAIT_CHANNELS", '{"numbers": {"durable": false}}')
    fates.ends = {0: TimeoutError()}
    ran = zerowait("push", "numbers", "1")
    assert [durable for _, _, durable in fates.pushed] == [None]
    assert ran.code == 1
    assert "1 lost" in ran.err


def test_a_channel_bound_to_a_bare_socket_is_refused(
    zerowait: Zerowait, fates: Fates, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = '{"numbers": {"plain": {"encoding": "text", "bind": "tcp://127.0.0.1:5559"}}}'
    monkeypatch.setenv("ZEROWAIT_CHANNELS", plain)
    ran = zerowait("push", "numbers", "1")
    assert ran.code == 2
    assert "tcp://127.0.0.1:5559" in ran.err
    assert not fates.pushed
