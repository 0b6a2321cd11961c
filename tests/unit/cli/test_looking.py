"""`status`, `dead` and `outbox` against processes and outboxes that only answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tests.unit.cli.conftest import Zerowait
from zerowait.cli.reach import TAKEN, Place, Reach
from zerowait.errors import StoreError
from zerowait.snapshot import (
    Answer,
    BoxStatus,
    ChannelStatus,
    LetterDetail,
    PeerStatus,
    Question,
    RequestStatus,
    ServedStatus,
    Status,
    SubscriptionStatus,
    TopicStatus,
    WaitingStatus,
    moment,
)

NOW = datetime.now(UTC)


def ledger(channel: str = "numbers", **counts: int) -> ChannelStatus:
    return ChannelStatus(channel=channel, **counts, oldest_at=datetime.now(UTC) - timedelta(minutes=5))


def box(name: str = "counter", *channels: ChannelStatus) -> BoxStatus:
    return BoxStatus(
        id="00ff", name=name, path=f"/home/x/{name}.00ff.db", durable=True, channels=list(channels or [ledger()])
    )


def process(name: str = "printer", *boxes: BoxStatus) -> Status:
    return Status(
        name=name,
        instance="0a0b",
        pid=4711,
        version="0.1.0",
        started_at=NOW - timedelta(hours=3),
        namespace="default",
        state="running",
        boxes=list(boxes),
        peers=[PeerStatus(name="mail", instance="0c", pid=12, address="ipc:///x", state="up", serves=["mail.parse"])],
        serves=[ServedStatus(channel="numbers", concurrency=32)],
    )


def letter(id: str, channel: str = "numbers", minutes: int = 1) -> LetterDetail:
    return LetterDetail(
        id=id,
        channel=channel,
        box="counter",
        accepted_at=NOW - timedelta(hours=1),
        died_at=NOW - timedelta(minutes=minutes),
        attempts=10,
        reason="division by zero",
        rule="attempts=10",
        worker="printer",
        payload=msgspec.msgpack.encode({"n": 0, "raw": b"\xff"}),
        type="ZeroDivisionError",
        traceback='File "printer.py", line 7, in show',
    )


class Somebody:
    """A process or an outbox: answers as the real ones do."""

    def __init__(self, who: str, status: Status | BoxStatus | None = None, *letters: LetterDetail) -> None:
        self.who, self.status = who, status
        self.letters = {letter.id: letter for letter in letters}
        self.asked: list[Question] = []
        self.waiting: list[WaitingStatus] = []

    def ask(self, question: Question) -> Answer:
        self.asked.append(question)
        if self.status is None:
            raise StoreError("no answer within 3 s")
        return Answer(True, msgspec.to_builtins(self._value(question), builtin_types=(bytes,)))

    def _value(self, question: Question) -> Any:
        args = question.args
        if question.verb == "status":
            return self.status
        if question.verb == "dead.list":
            found = [each for each in self.letters.values() if args["which"]["channel"] in (None, each.channel)]
            start = max([0, *(1 + at for at, each in enumerate(found) if each.id in args["after"])])
            return found[start : start + args["limit"]]
        if question.verb == "dead.show":
            return self.letters.get(args["id"])
        if question.verb == "outbox.waiting":
            return [each for each in self.waiting if args["name"] == "cli"]
        if question.verb == "outbox.drop":
            return {each.box: self._drop(each) for each in self.waiting if args["boxes"].get(each.box) == each.last}
        if question.verb in ("dead.retry", "dead.drop"):
            return [id for id in args["ids"] if self.letters.pop(id, None) is not None]
        return 3

    def _drop(self, waiting: WaitingStatus) -> tuple[int, bool]:
        """Two at a time, so that who asks must ask again."""
        n = min(2, waiting.waiting)
        self.waiting = [
            replace(each, waiting=each.waiting - n) if each.box == waiting.box else each for each in self.waiting
        ]
        return n, waiting.waiting > n


There = Callable[..., None]


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> There:
    """Who is in the namespace: processes, and outboxes without one."""

    def put(processes: list[Somebody] = [], files: list[Somebody] = []) -> None:  # noqa: B006
        places = [Place(each.who, each.ask) for each in processes]
        places += [Place(each.who, each.ask, living=False) for each in files]

        def all_of_them(reach: Reach, within: float = 0.0) -> list[Place]:
            return places

        monkeypatch.setattr(Reach, "places", all_of_them)

    return put


# ── status


def test_nobody_there_is_said_and_nothing_is_made(zerowait: Zerowait, home: Path, namespace: str) -> None:
    ran = zerowait("status")
    assert (ran.code, ran.out) == (0, "")
    assert namespace in ran.err
    assert not list(home.iterdir())


def test_status_shows_processes_ledgers_and_peers(zerowait: Zerowait, there: There) -> None:
    there([Somebody("printer (pid 4711)", process("printer", box("printer", ledger(accepted=1_234, handled=1_230))))])
    ran = zerowait("status")
    assert ran.code == 0
    assert "1,234" in ran.out
    assert "printer (pid 4711)" in ran.out
    assert "mail.parse" in ran.out
    assert "5 min" in ran.out
    assert ran.err == ""


def test_status_shows_the_ledger_of_requests(zerowait: Zerowait, there: There) -> None:
    asked = RequestStatus(channel="mail.count", asked=4_321, answered=4_300, failed=12, cancelled=7, outstanding=2)
    there([Somebody("printer (pid 4711)", replace(process("printer"), requests=[asked]))])
    [line] = [line for line in zerowait("status").out.splitlines() if line.startswith("mail.count")]
    assert line.split()[1:] == ["printer", "(pid", "4711)", "4,321", "4,300", "12", "7", "2"]
    [row] = json.loads(zerowait("status", "--json").out)["processes"][0]["requests"]
    assert row["asked"] == row["answered"] + row["failed"] + row["cancelled"] + row["outstanding"]


def test_status_shows_topics_a_line_for_each_that_subscribes(zerowait: Zerowait, there: There) -> None:
    prices = TopicStatus(
        topic="prices.*",
        published=12_345,
        subscriptions=[
            SubscriptionStatus(pattern="prices.eur", subscribers=3, waiting=7, dropped=1_000),
            SubscriptionStatus(pattern=">", group="audit", subscribers=2),
            SubscriptionStatus(pattern="prices.*", group="billing", durable=True, waiting=40, in_flight=2),
        ],
    )
    there([Somebody("bank (pid 4711)", replace(process("bank"), topics=[prices, TopicStatus(topic="news")]))])
    lines = zerowait("status").out.splitlines()
    [at] = [number for number, line in enumerate(lines) if line.startswith("TOPIC")]
    rows = [line.replace("bank (pid 4711)", "bank").split() for line in lines[at + 1 : at + 5]]
    assert rows == [
        ["prices.*", "bank", "12,345", "prices.eur", "3", "7", "1,000"],
        ["prices.*", "bank", "12,345", ">", "by", "group", "audit", "2", "0", "0"],
        ["prices.*", "bank", "12,345", "prices.*@billing", "0", "42", "0"],
        ["news", "bank", "0", "0", "0", "0"],
    ]
    [shown, _] = json.loads(zerowait("status", "--json").out)["processes"][0]["topics"]
    assert [each["waiting"] for each in shown["subscriptions"]] == [7, 0, 40]


def test_what_left_without_the_word_of_its_sender_is_said_where_there_is_any(zerowait: Zerowait, there: There) -> None:
    there([Somebody("stage (pid 4711)", process("stage"))])
    assert "undecided_after" not in zerowait("status").err
    there([Somebody("stage (pid 4711)", replace(process("stage"), released_undecided=1_234))])
    assert "stage (pid 4711): what was sent for 1,234 messages left without the word" in zerowait("status").err
    assert json.loads(zerowait("status", "--json").out)["processes"][0]["released_undecided"] == 1_234


@pytest.mark.parametrize(
    ("pid", "address", "called"),
    [(12, "ipc:///x", "mail (pid 12)"), (None, "tcp://far:5511", "mail (at tcp://far:5511)"), (None, "", "mail")],
)
def test_who_expects_another_type_is_named_as_far_as_he_is_known(
    zerowait: Zerowait, there: There, pid: int | None, address: str, called: str
) -> None:
    peer = PeerStatus(
        name="mail",
        instance="0c",
        pid=pid,
        address=address,
        state="up",
        serves=[],
        mismatches={"work": "no field"},
    )
    there([Somebody("printer (pid 4711)", msgspec.structs.replace(process(), peers=[peer]))])
    ran = zerowait("status")
    assert f"printer (pid 4711) sends nothing of work to {called}: no field." in ran.err + ran.out


def test_outboxes_taken_over_say_who_keeps_them_and_stand_together(zerowait: Zerowait, there: There) -> None:
    boxes = [box("cli", ledger(accepted=1_000, waiting=3)), box("cli", ledger(accepted=234, waiting=1))]
    there([Somebody("printer (pid 4711)", process("printer", *boxes))])
    [line] = [line for line in zerowait("status").out.splitlines() if "cli, kept by printer (pid 4711)" in line]
    assert "1,234" in line


def test_one_message_without_a_process_is_one(zerowait: Zerowait, there: There) -> None:
    there([], [Somebody("counter", box("counter", ledger(accepted=1, waiting=1)))])
    assert "1 message in an outbox without a process" in zerowait("status").err


def test_messages_without_a_process_come_with_what_to_do(zerowait: Zerowait, there: There) -> None:
    there([], [Somebody("counter", box("counter", ledger(accepted=3, waiting=3)))])
    ran = zerowait("status")
    assert ran.code == 0
    assert "counter (no process)" in ran.out
    assert "zerowait outbox deliver counter" in ran.err


def test_a_silent_process_is_named_and_the_rest_is_shown(zerowait: Zerowait, there: There) -> None:
    there([Somebody("printer (pid 4711)", process()), Somebody("stuck (pid 9)")])
    ran = zerowait("status")
    assert ran.code == 4
    assert "stuck (pid 9): no answer within 3 s" in ran.err
    assert "printer" in ran.out


def test_only_silence_is_unavailable(zerowait: Zerowait, there: There) -> None:
    there([Somebody("stuck (pid 9)")], [Somebody("counter.00ff.db")])
    ran = zerowait("status")
    assert ran.code == 3
    assert "counter.00ff.db: no answer" in ran.err


def test_refused_frames_of_bare_senders_are_shown_where_there_are_any(zerowait: Zerowait, there: There) -> None:
    there([Somebody("printer (pid 4711)", process("printer", box()))])
    assert "REFUSED" not in zerowait("status").out
    plain = ServedStatus(channel="texts", concurrency=4, refused=1_234)
    there([Somebody("printer (pid 4711)", replace(process("printer", box()), serves=[plain]))])
    shown = zerowait("status").out
    assert "REFUSED" in shown
    assert "1,234" in shown
    assert json.loads(zerowait("status", "--json").out)["processes"][0]["serves"][0]["refused"] == 1_234


def test_what_a_process_could_not_find_out_in_time_is_named_beside_what_it_could(
    zerowait: Zerowait, there: There
) -> None:
    there([Somebody("printer (pid 4711)", replace(process("printer", box()), unknown=["its peers: busy"]))])
    ran = zerowait("status")
    assert ran.code == 4
    assert "counter" in ran.out
    assert "not known: printer (pid 4711): its peers: busy" in ran.err


def test_status_as_json_is_one_object(zerowait: Zerowait, there: There, namespace: str) -> None:
    there([Somebody("printer", process("printer", box()))], [Somebody("counter", box("counter", ledger(waiting=2)))])
    told = json.loads(zerowait("status", "--json").out)
    assert told["namespace"] == namespace
    assert told["processes"][0]["boxes"][0]["channels"][0]["channel"] == "numbers"
    assert told["outboxes_without_process"][0]["channels"][0]["waiting"] == 2
    assert datetime.fromisoformat(told["processes"][0]["started_at"]) < datetime.now(UTC)


def test_a_status_is_the_same_after_its_travel() -> None:
    status = process("printer", box())
    assert msgspec.convert(msgspec.msgpack.decode(msgspec.msgpack.encode(status)), Status) == status
    assert msgspec.convert(status.as_dict(), Status) == status
    assert moment(1_000_000) == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)


# ── dead


def test_dead_letters_are_listed_from_everywhere_the_oldest_first(zerowait: Zerowait, there: There) -> None:
    there(
        [Somebody("a", process(), letter("a-1", minutes=1), letter("a-2", minutes=9))],
        [Somebody("b", box(), letter("b-1", minutes=5))],
    )
    ran = zerowait("dead", "list")
    assert ran.code == 0
    assert [line.split()[0] for line in ran.out.splitlines()] == ["ID", "a-2", "b-1", "a-1"]
    assert "division by zero" in ran.out


def test_dead_letters_are_filtered_and_bounded(zerowait: Zerowait, there: There) -> None:
    there([Somebody("a", process(), letter("a-1"), letter("a-2", "other"), letter("a-3"))])
    lines = zerowait("dead", "list", "--channel", "numbers", "--limit", "1", "--json").out.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["a-1"]


def test_no_dead_letters_is_no_failure(zerowait: Zerowait, there: There) -> None:
    there([Somebody("a", process())])
    ran = zerowait("dead", "list", "--channel", "numbers")
    assert (ran.code, ran.out) == (0, "")
    assert "No dead letters of numbers" in ran.err


def test_a_dead_letter_is_shown_whole(zerowait: Zerowait, there: There) -> None:
    there([Somebody("a", process())], [Somebody("b", box(), letter("b-1"))])
    ran = zerowait("dead", "show", "b-1")
    assert ran.code == 0
    for part in ("ZeroDivisionError: division by zero", '"n": 0', "printer.py", "attempts  10"):
        assert part in ran.out
    told = json.loads(zerowait("dead", "show", "b-1", "--json").out)
    assert told["payload"]["n"] == 0


def test_a_letter_that_is_not_there_fails(zerowait: Zerowait, there: There) -> None:
    there([Somebody("a", process())])
    ran = zerowait("dead", "show", "x-1")
    assert ran.code == 1
    assert "no dead letter x-1" in ran.err


def test_a_letter_that_nobody_could_be_asked_for_is_unavailable(zerowait: Zerowait, there: There) -> None:
    there([Somebody("stuck (pid 9)")])
    ran = zerowait("dead", "show", "x-1")
    assert ran.code == 3
    assert "stuck (pid 9)" in ran.err


def test_the_beginning_of_an_id_does_nothing_while_somebody_may_have_another(zerowait: Zerowait, there: There) -> None:
    whole = "99611a6e08e4fe57-mwrovvl7-1"
    place = Somebody("a", process(), letter(whole))
    there([place, Somebody("stuck (pid 9)")])
    ran = zerowait("dead", "drop", "9961", "--yes")
    assert ran.code == 3
    assert f"write {whole}" in ran.err
    assert set(place.letters) == {whole}


@pytest.mark.parametrize("verb", ["retry", "drop"])
def test_bulk_obeys_the_filter_and_needs_a_yes(zerowait: Zerowait, there: There, verb: str) -> None:
    place = Somebody("a", process(), letter("a-1"), letter("a-2", "other"), letter("a-3"))
    there([place])
    refused = zerowait("dead", verb, "--channel", "numbers")
    assert refused.code == 2
    assert "2 dead letters of numbers" in refused.err
    assert set(place.letters) == {"a-1", "a-2", "a-3"}

    done = zerowait("dead", verb, "--channel", "numbers", "--yes", "--json")
    assert done.code == 0
    assert [json.loads(line)["id"] for line in done.out.splitlines()] == ["a-1", "a-3"]
    assert set(place.letters) == {"a-2"}


def test_one_letter_is_retried_by_its_id_without_asking(zerowait: Zerowait, there: There) -> None:
    place = Somebody("b", box(), letter("b-1"))
    there([], [place])
    ran = zerowait("dead", "retry", "b-1")
    assert ran.code == 0
    assert not place.letters


def test_some_done_and_some_not_is_partial(zerowait: Zerowait, there: There) -> None:
    there([Somebody("a", process(), letter("a-1"))])
    ran = zerowait("dead", "retry", "a-1", "nonsense")
    assert ran.code == 4
    assert "nonsense" in ran.err
    assert zerowait("dead", "retry", "nonsense").code == 1


def test_which_letters_must_be_said_in_one_way(zerowait: Zerowait, there: There) -> None:
    there([Somebody("a", process(), letter("a-1"))])
    assert zerowait("dead", "retry").code == 2
    assert zerowait("dead", "retry", "a-1", "--all").code == 2
    limited = zerowait("dead", "retry", "a-1", "--limit", "3")
    assert limited.code == 2
    assert "--limit goes with --all or a filter" in limited.err


def test_all_and_a_filter_are_told_to_contradict_each_other(zerowait: Zerowait, there: There) -> None:
    place = Somebody("a", process(), letter("a-1"), letter("a-2", "other"))
    there([place])
    ran = zerowait("dead", "drop", "--all", "--channel", "numbers", "--yes")
    assert (ran.code, len(place.letters)) == (2, 2)
    assert "contradict each other" in ran.err


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("division by zero", "ZeroDivisionError: division by zero"),
        ("ZeroDivisionError: division by zero", "ZeroDivisionError: division by zero"),
    ],
)
def test_the_exception_of_a_dead_letter_is_named_once(
    zerowait: Zerowait, there: There, reason: str, shown: str
) -> None:
    there([Somebody("a", process(), replace(letter("a-1"), reason=reason))])
    [line] = [line for line in zerowait("dead", "show", "a-1").out.splitlines() if line.startswith("reason")]
    assert line.split(maxsplit=1)[1] == shown


def test_many_letters_are_asked_for_in_bounded_questions(zerowait: Zerowait, there: There) -> None:
    place = Somebody("a", process(), *[letter(f"a-{n}") for n in range(1_200)])
    there([place])
    assert zerowait("dead", "drop", "--all", "--yes").code == 0
    assert [len(asked.args["ids"]) for asked in place.asked if asked.verb == "dead.drop"] == [500, 500, 200]


# ── outbox


def test_outboxes_are_listed_with_who_has_them_open(zerowait: Zerowait, there: There) -> None:
    there(
        [Somebody("a", process("printer", box("printer")))], [Somebody("b", box("counter", ledger(waiting=2, dead=1)))]
    )
    ran = zerowait("outbox", "list")
    assert ran.code == 0
    assert "pid 4711" in ran.out
    assert "none" in ran.out
    lines = [json.loads(line) for line in zerowait("outbox", "list", "--json").out.splitlines()]
    assert [(line["name"], line["pid"], line["unsettled"]) for line in lines] == [
        ("printer", 4711, 0),
        ("counter", None, 2),
    ]


def test_an_outbox_that_does_not_exist_is_no_silent_success(zerowait: Zerowait) -> None:
    ran = zerowait("outbox", "deliver", "nobody")
    assert ran.code == 1
    assert "no outbox called 'nobody'" in ran.err


def waits(box: str = "00ff", waiting: int = 3, in_flight: int = 0, **how: Any) -> WaitingStatus:
    last, channels = (7, 9), ["numbers", "numbres"]
    return WaitingStatus(box=box, waiting=waiting, in_flight=in_flight, last=last, channels=channels, **how)


def test_dropping_what_waits_is_confirmed_by_its_number_and_goes_on_until_all_is_dropped(
    zerowait: Zerowait, there: There
) -> None:
    living, file = Somebody("cli (pid 9)", process()), Somebody("cli.01ff.db", box())
    living.waiting, file.waiting = [waits(in_flight=2)], [waits("01ff", 5, sent_to=1)]
    there([living], [file])
    refused = zerowait("outbox", "drop", "cli", "--channel", "numbres")
    assert refused.code == 2
    assert "Drop 8 messages for numbres in the outbox cli for good?" in refused.err

    ran = zerowait("outbox", "drop", "cli", "--channel", "numbres", "--yes", "--json")
    assert ran.code == 0, ran.err
    assert [(told["box"], told["dropped"]) for told in map(json.loads, ran.out.splitlines())] == [
        ("00ff", 3),
        ("01ff", 5),
    ]
    assert "8 messages dropped" in ran.err
    assert "2 messages for numbres are in flight at workers and left alone" in ran.err
    assert "what they have begun they may still end" in ran.err


def test_workers_are_spoken_of_only_where_something_of_theirs_was_dropped(zerowait: Zerowait, there: There) -> None:
    living, file = Somebody("cli (pid 9)", process()), Somebody("cli.01ff.db", box())
    living.waiting, file.waiting = [waits()], [waits("01ff", 0, sent_to=1)]
    there([living], [file])
    assert "they may still end" not in zerowait("outbox", "drop", "cli", "--channel", "numbres", "--yes").err
    there([], [file])
    ran = zerowait("outbox", "drop", "cli", "--channel", "numbres", "--yes")
    assert "No message waits" in ran.err
    assert "they may still end" not in ran.err


def test_a_channel_for_which_nothing_waits_is_told_with_the_nearest_that_has_something(
    zerowait: Zerowait, there: There
) -> None:
    place = Somebody("cli (pid 9)", process())
    place.waiting = [waits(waiting=0)]
    there([place])
    ran = zerowait("outbox", "drop", "cli", "--channel", "numbrs")
    assert (ran.code, ran.out) == (0, "")
    assert "No message waits for channel 'numbrs' in the outbox cli. Did you mean numbres?" in ran.err


def test_dropping_from_an_outbox_that_is_not_there_or_does_not_answer_is_no_success(
    zerowait: Zerowait, there: There
) -> None:
    assert zerowait("outbox", "drop", "nobody", "--channel", "numbers").code == 1
    there([Somebody("stuck (pid 9)")])
    assert zerowait("outbox", "drop", "cli", "--channel", "numbers").code == 3


def test_an_outbox_taken_since_we_looked_is_passed_over(monkeypatch: pytest.MonkeyPatch, zerowait: Zerowait) -> None:
    gone = Place("counter.00ff.db", lambda question: TAKEN, living=False)

    def as_it_was(reach: Reach, within: float = 0.0) -> list[Place]:
        return [gone]

    monkeypatch.setattr(Reach, "places", as_it_was)
    assert zerowait("status").code == 0


def test_a_folder_that_this_user_may_not_look_into_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, zerowait: Zerowait
) -> None:
    def denied(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("zerowait.cli.reach.os", SimpleNamespace(stat=denied))
    ran = zerowait("status")
    assert ran.code == 3
    assert "cannot be looked into: Permission denied" in ran.err
