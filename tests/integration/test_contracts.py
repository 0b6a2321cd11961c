"""What users see when the two ends of a channel do not agree."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest

from tests.integration.services import WORK, Work
from tests.programs import ZEROWAIT, Start, finished
from tests.waiting import wait_until
from zerowait import App, Client, PushChannel, RequestChannel, Settings
from zerowait.errors import ContractMismatch, UsageError
from zerowait.notices import Mismatched
from zerowait.snapshot import ChannelStatus

ROOT = Path(__file__).parents[2]


def row(zw: Client) -> ChannelStatus | None:
    """None while its outbox is being opened."""
    return next((row for box in zw.status().boxes for row in box.channels if row.channel == "work"), None)


def has(zw: Client, *, waiting: int = 0, handled: int = 0) -> bool:
    there = row(zw)
    return there is not None and (there.waiting, there.in_flight, there.handled, there.dead) == (waiting, 0, handled, 0)


def test_messages_wait_for_a_worker_of_their_type_and_everybody_is_told_why(
    start: Start, witness: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # given a worker that was deployed with another type
    start(*ZEROWAIT, "run", "tests.integration.services:newer").until(lambda newer: "Ctrl-C" in newer.err)
    told: list[Mismatched] = []
    with caplog.at_level(logging.WARNING, "zerowait.peers"), Client("sender") as zw:
        zw.listen(Mismatched, told.append)

        # when messages are pushed
        receipts = [zw.push(WORK, Work(number)) for number in range(5)]

        # then nothing is sent, nothing is a dead letter, and who looks learns why
        (notice,) = wait_until(lambda: told, within=10)
        assert (notice.channel, notice.name) == ("work", "newer")
        assert notice.difference == "the field count is expected and is not sent"
        assert notice.sent == "a record (number: int, seconds: float)"
        assert notice.expected == "a record (count: int)"
        assert notice.sentence in caplog.text
        wait_until(lambda: has(zw, waiting=5), within=10)
        assert [peer.mismatches for peer in zw.status().peers] == [{"work": notice.difference}]
        shown = finished(*ZEROWAIT, "status", folder=tmp_path)
        assert f"sends nothing of work to {notice.process}: {notice.difference}" in shown.stdout + shown.stderr
        assert len(zw.workers(WORK)) == 0
        with pytest.raises(ContractMismatch, match=r"newer \(pid \d+\) expects a record"):
            zw.workers(WORK).at_least(1).result(10)

        # and when a worker of their type comes, it gets them all
        start(*ZEROWAIT, "run", "tests.integration.services:echo")
        for receipt in receipts:
            receipt.handled.result(15)
        assert has(zw, handled=5)
    assert "renamed" not in witness.read_text()


def test_closing_does_not_wait_for_workers_that_do_not_fit(caplog: pytest.LogCaptureFixture) -> None:
    app = App("newer")

    @app.pull(PushChannel[str]("work"))
    async def take(value: str) -> None:
        raise AssertionError(value)

    told: list[Mismatched] = []
    with app:
        zw = Client("sender")
        with zw:
            zw.listen(Mismatched, told.append)
            zw.push(WORK, Work(1)).result(5)
            wait_until(lambda: told, within=10)
            assert zw.close(drain=30).result(5) == 1
    who = f"newer (pid {os.getpid()})"
    assert f"(1 for work: wait for a worker of their type, {who} expects another)" in caplog.text


def test_an_app_does_not_give_itself_what_it_does_not_expect() -> None:
    app = App("both")
    told: list[Mismatched] = []

    @app.pull(PushChannel[str]("work"))
    async def take(value: str) -> None:
        raise AssertionError(value)

    with app:
        app.client.listen(Mismatched, told.append)
        app.client.push(WORK, Work(1))
        (notice,) = wait_until(lambda: told, within=10)
        assert (notice.name, notice.expected) == ("both", "str")
        began = time.monotonic()
    assert time.monotonic() - began < 4, "the end of the block waited for what nobody takes"


def test_what_a_script_has_left_waits_for_its_type_wherever_it_is_taken_over(start: Start, witness: Path) -> None:
    newer = start(*ZEROWAIT, "run", "tests.integration.services:newer")
    newer.until(lambda newer: "Ctrl-C" in newer.err)
    with Client("script") as zw:
        for number in range(3):
            zw.push(WORK, Work(number))
        zw.close(0).result(5)
    newer.until(lambda newer: "Nothing of work is sent to newer" in newer.err, within=20)
    start(*ZEROWAIT, "run", "tests.integration.services:echo")
    newer.until(lambda newer: witness.read_text().count("end") == 3, within=20)
    assert "renamed" not in witness.read_text()
    assert "dead" not in newer.err


def test_a_push_of_another_type_to_the_same_channel_is_refused_and_keeps_nothing_from_going(settings: Settings) -> None:
    got: list[int] = []
    app = App("worker", settings=settings)

    @app.pull(PushChannel[int]("one.type"))
    async def take(n: int) -> None:
        got.append(n)

    with app, Client("sender", settings=settings) as zw:
        zw.push(PushChannel[int]("one.type"), 7).handled.result(20)
        with pytest.raises(UsageError, match=r"one\.type carries int in this process, and str is sent to it here"):
            zw.push(PushChannel[str]("one.type"), "oops")
        zw.push(PushChannel[int]("one.type"), 8).handled.result(20)
        ask = RequestChannel[int, int]("one.question")
        zw.workers(ask)
        with pytest.raises(UsageError, match=r"one\.question carries int in this process, and str is sent"):
            zw.request(RequestChannel[str, int]("one.question"), "oops")
    assert got == [7, 8]
