"""What people read."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import wait_until
from zerowait import notices
from zerowait.callbacks import Callbacks
from zerowait.engines.brokerless.protocol.effects import WE_LEAVE, Say
from zerowait.engines.brokerless.telling import REFUSALS_MOST, Stays, Telling
from zerowait.outbox.attempt import Notice as OutboxNotice


@pytest.fixture
def telling(caplog: pytest.LogCaptureFixture) -> Iterator[Telling]:
    caplog.set_level(logging.DEBUG, "zerowait.peers")
    callbacks = Callbacks("me")
    yield Telling("me", callbacks)
    callbacks.stop()


def test_a_lonely_channel_is_told_with_who_is_there_and_what_is_wrong(
    telling: Telling, caplog: pytest.LogCaptureFixture
) -> None:
    served = [f"other.{n:02}" for n in range(12)] + ["mail.parse"]
    telling.lonely("mail.prase", 3, served, {"tcp://127.0.0.1:5599": "connection refused", "tcp://b:1": ""})
    assert "Did you mean mail.parse? Served are: mail.parse, other.00" in caplog.text
    assert "and 3 more" in caplog.text
    assert "tcp://127.0.0.1:5599: connection refused; tcp://b:1: no answer yet." in caplog.text
    caplog.clear()
    telling.lonely("mail.prase", 3, [], {})
    assert "No channel has a worker that is known here." in caplog.text


def test_of_a_channel_whose_worker_does_not_answer_that_worker_is_told_and_no_other_channel(
    telling: Telling, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[notices.Notice] = []
    telling.listen(notices.Unserved, got.append)
    words = "mail (pid 7) serves that channel, and has not answered for 12 s: it is stopped."
    telling.lonely("mail.parse", 3, ["mail.prase"], {}, words)
    assert caplog.messages == [f"messages of channel mail.parse wait here, safe: {words}"]
    wait_until(lambda: len(got) == 1, within=5)
    assert got[0].sentence == f"3 messages wait for mail.parse: {words[:-1]}"


def test_who_says_goodbye_has_left_and_is_not_lost(telling: Telling, caplog: pytest.LogCaptureFixture) -> None:
    for words in ("it left", "it had to leave"):  # with nothing of its own left, or with something
        telling.say(Say("lost", words, 1), "client (pid 1)")
        telling.say(Say("left", "", 1), "client (pid 1)")
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO] == [
        "client (pid 1) has left"
    ] * 2
    telling.say(Say("lost", WE_LEAVE, 1), "client (pid 1)")
    assert "is kept for it" not in caplog.text
    telling.say(Say("lost", "", 1), "client (pid 1)")
    assert "is kept for it" in caplog.text


@pytest.mark.parametrize(("topic", "end"), [("dead", "w (pid 1) has died"), ("gone", "w (pid 1) is gone (too late)")])
def test_who_had_something_at_a_process_that_ends_is_warned_and_who_had_nothing_only_told(
    telling: Telling, caplog: pytest.LogCaptureFixture, topic: str, end: str
) -> None:
    for messages in (0, 1):
        telling.say(Say(topic, "too late", 1, messages=messages), "w (pid 1)")
    nothing, one = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert nothing == ("INFO", end)
    assert one[0] == "WARNING"
    assert one[1].startswith(f"{end}; what it had begun is given to others")


def test_why_events_waited_for_a_publisher_that_left_is_not_guessed(
    telling: Telling, caplog: pytest.LogCaptureFixture
) -> None:
    words = "1 event of a.* that waited there for the group g is missed"
    telling.say(Say("unsent", words, 1, "a.*"), "w (pid 1)")
    advice = "A longer `drain` there, a larger queue= here, or taking them quicker, misses fewer"
    assert caplog.messages == [f"w (pid 1) has left, and {words}. {advice}"]


def test_words_of_strangers_are_remembered_up_to_a_bound(telling: Telling, caplog: pytest.LogCaptureFixture) -> None:
    for n in range(2_000):
        telling.say(Say("refused", f"nonsense {n}", 1), "somebody")
    assert len(telling._refused) <= REFUSALS_MOST
    assert len(caplog.records) < 300


def test_who_dials_again_and_again_in_another_version_does_not_fill_the_log(
    telling: Telling, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(1_000):
        telling.say(Say("refused", "it speaks protocol 2 to 3, this process 1 to 1: upgrade the older one"), "x")
    assert len(caplog.records) == 10
    assert "upgrade the older one" in caplog.text


def test_each_stop_ends_its_own_listening_only(telling: Telling) -> None:
    got: list[notices.Notice] = []
    first = telling.listen(notices.PeerUp, got.append)
    second = telling.listen(notices.PeerUp, got.append)
    first()
    first()
    telling.say(Say("met", "", 1), "somebody")
    wait_until(lambda: len(got) == 1, within=5)
    second()
    assert not telling._listeners


def test_one_message_is_it_and_several_are_they(telling: Telling, caplog: pytest.LogCaptureFixture) -> None:
    telling.left({("me", "a", True): Stays(messages=1)}, Path("/x"), {"b": 1})
    assert "1 message (1 for a: nobody takes it) undelivered in /x. It will be delivered" in caplog.text
    assert "1 message (1 for b) that lay only in memory: it is lost" in caplog.text
    caplog.clear()
    telling.left({("me", "a", True): Stays(messages=2)}, Path("/x"), {"b": 2})
    assert "They will be delivered by the next process named me" in caplog.text
    assert "they are lost" in caplog.text


def test_what_is_handled_what_is_not_due_and_what_waits_are_told_apart(
    telling: Telling, caplog: pytest.LogCaptureFixture
) -> None:
    left = {
        ("me", "a", True): Stays(messages=9, handled=9, later=3, due_in_s=60.0).of(6),
        ("me", "b", True): Stays(handled=1, later=2, due_in_s=60.0, served=True).of(6),
        ("me", "c", True): Stays(later=2, due_in_s=90_000.0).of(1),
        ("me", "d", True): Stays(served=True).of(2),
        ("me", "e", True): Stays(unfit=("old",)).of(2),
    }
    telling.left(left, Path("/x"), {})
    [said] = caplog.messages
    assert "(6 for a: being handled; 6 for b: 1 being handled, 2 not due before " in said
    assert ", 3 wait for a free worker; 1 for c: not due before 20" in said
    assert "; 2 for d: wait for a free worker; " in said
    assert "; 2 for e: wait for a worker of their type, old expects another) undelivered" in said


def test_what_is_left_in_the_outbox_of_another_is_told_by_its_name(
    telling: Telling, caplog: pytest.LogCaptureFixture
) -> None:
    left = {("me", "a", True): 1, ("cli", "a", True): 2, ("cli", "b", True): 1}
    telling.left({where: Stays(messages=count) for where, count in left.items()}, Path("/x"), {})
    cli, me = caplog.messages
    left_behind = "me leaves 3 messages (2 for a: nobody takes them; 1 for b: nobody takes it) undelivered"
    assert cli.startswith(f"{left_behind} in the outbox of cli in /x. They")
    assert "by the next process named cli" in cli
    assert cli.endswith("`zerowait outbox deliver cli`")
    assert me.startswith("me leaves 1 message (1 for a: nobody takes it) undelivered in /x. It")
    assert me.endswith("`zerowait outbox deliver me`")


def test_of_the_same_refusal_notices_are_as_few_as_lines(telling: Telling, caplog: pytest.LogCaptureFixture) -> None:
    got: list[notices.Notice] = []
    telling.listen(notices.Refused, got.append)
    telling.listen(notices.PeerStuck, got.append)
    for _ in range(100):
        telling.say(Say("refused", "a frame cannot be read", 1), "mail (pid 7)")
        telling.say(Say("refused by", "not ours", 1), "mail (pid 7)")
    telling.say(Say("stuck", "its loop", 1, seconds=3.2), "mail (pid 7)")
    wait_until(lambda: len(got) == 8, within=5)
    assert got[0] == notices.Refused(peer="mail (pid 7)", reason="a frame cannot be read")
    assert got[-1] == notices.PeerStuck(name="mail", instance=f"{1:016x}", seconds=3.2, process="mail (pid 7)")


def test_each_outbox_that_fails_is_told_with_its_path_and_for_how_long(telling: Telling) -> None:
    got: list[notices.Notice] = []
    telling.listen(notices.Notice, got.append)
    telling.outbox(OutboxNotice("failed", "The outbox /a cannot …", reason="No space left on device"), Path("/a"))
    telling.outbox(OutboxNotice("failed", "The outbox in memory …", reason="why"), None)
    telling.outbox(OutboxNotice("mended", "The outbox /a can be written again."), Path("/a"))
    wait_until(lambda: len(got) == 3, within=5)
    broken, _, mended = got
    assert broken.sentence.startswith("The outbox /a cannot be written (No space left on device)")
    assert isinstance(mended, notices.StoreMended)
    assert mended.path == "/a"
    assert 0 <= mended.seconds < 5


def _gone(returned: int) -> notices.PeerGone:
    return notices.PeerGone(name="b", instance="f" * 16, how="died", returned=returned, process="b (pid 7)")


def test_a_notice_calls_a_process_as_the_log_does(telling: Telling, caplog: pytest.LogCaptureFixture) -> None:
    got: list[notices.Notice] = []
    telling.listen(notices.Notice, got.append)
    who = "mail (pid 7 at tcp://far:5511)"
    telling.say(Say("met", "", 1), who)
    telling.say(Say("mismatch", "no such field", 1, "a", types=("int", "str")), who)
    telling.say(Say("stuck", "its loop", 1, seconds=3.2), who)
    telling.say(Say("dead", "", 1), who)
    wait_until(lambda: len(got) == 4, within=5)
    assert all(who in said for said in [*caplog.messages, *(each.sentence for each in got)])


def test_one_message_and_several_are_said_as_such() -> None:
    assert notices.Unserved(channel="a", waiting=1).sentence.startswith("1 message waits for a,")
    assert notices.Unserved(channel="a", waiting=2).sentence.startswith("2 messages wait for a,")
    gone = [_gone(n).sentence for n in range(3)]
    assert gone[0] == "b (pid 7) is gone (died)"
    assert "the message that it had is given" in gone[1]
    assert "the 2 messages that it had are given" in gone[2]
