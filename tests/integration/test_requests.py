"""Requests and streams between real processes: one answer or one exception, whichever process dies."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.asked import (
    ADD,
    BYTES,
    COUNT,
    COUNT_PLAINLY,
    DEADLINE,
    NESTED,
    PIECES,
    PUSHED,
    RELAYED,
    SLOW,
    SLOW_AGAIN,
    NotFound,
)
from tests.programs import Serve, services
from tests.waiting import wait_until, wait_until_in_loop
from zerowait import Client, Expired, NoResponder, PeerLost, RemoteError, Settings, StreamChannel
from zerowait.errors import BadAnswer, Cancelled
from zerowait.errors import UsageError as Usage

ROOT = Path(__file__).parents[2]


@pytest.fixture
def serve(witness: Path) -> Iterator[Serve]:
    with services("tests.integration.asked") as serve:
        yield serve


def said(witness: Path, words: str) -> list[list[str]]:
    return [line.split() for line in witness.read_text().splitlines() if line.startswith(words + " ")]


def ledger(zw: Client, channel: str) -> tuple[int, int, int, int, int]:
    (row,) = (each for each in zw.status().requests if each.channel == channel)
    assert row.asked == row.answered + row.failed + row.cancelled + row.outstanding
    return row.asked, row.answered, row.failed, row.cancelled, row.outstanding


def test_any_number_is_asked_and_each_has_its_own_answer(serve: Serve) -> None:
    serve("answering")
    with Client("asker") as zw:
        replies = [zw.request(ADD, n + 100) for n in range(5_000)]
        assert [reply.result(60) for reply in replies] == [n + 101 for n in range(5_000)]
        assert ledger(zw, "ask.add") == (5_000, 5_000, 0, 0, 0)
        assert repr(replies[0]).endswith(": 101>")


@pytest.mark.asyncio
async def test_a_thousand_tasks_await_their_answers_in_one_loop(serve: Serve) -> None:
    serve("answering")
    async with Client("asker") as zw:
        found = await asyncio.gather(*(zw.request(ADD, n + 100) for n in range(1_000)))
        assert found == [n + 101 for n in range(1_000)]
        done, pending = await asyncio.wait([asyncio.ensure_future(zw.request(ADD, 20)) for _ in range(3)], timeout=30)
        assert (len(done), len(pending)) == (3, 0)
        assert await asyncio.wait_for(zw.request(ADD, 1), 30) == 2


def test_exceptions_of_the_contract_come_as_themselves_and_others_as_remote_errors(serve: Serve) -> None:
    serve("answering")
    with Client("asker") as zw:
        with pytest.raises(NotFound) as contract:
            zw.request(ADD, -4).result(30)
        assert (contract.value.name, contract.value.near) == ("-4", ["0"])
        with pytest.raises(RemoteError, match="ValueError: unlucky") as other:
            zw.request(ADD, 13).result(30)
        assert (other.value.type, other.value.message) == ("ValueError", "unlucky")
        assert "in add" in other.value.traceback
        assert "At the worker:" in "".join(other.value.__notes__)
        with pytest.raises(BadAnswer) as bad:
            zw.request("ask.add", 1, returns=str).result(30)
        assert bad.value.path == "$"
        with pytest.raises(RemoteError, match="NotFound"):  # by name there is no contract whose list names it
            zw.request("ask.add", -1).result(30)
        assert ledger(zw, "ask.add") == (4, 1, 3, 0, 0)


@pytest.mark.parametrize("most", [16 << 20, 1 << 20])
def test_an_answer_that_is_too_large_fails_at_once_and_all_else_goes_on(
    most: int, serve: Serve, settings: Settings
) -> None:
    """Too large for both, or for who asks only. It ended their connection, and each that came after it."""
    serve("answering")
    of_asker = Settings(home=settings.home, namespace=settings.namespace, message_bytes=most)
    with Client("asker", settings=of_asker) as zw:
        zw.workers(BYTES).at_least(1).result(30)
        large = most + (1 << 20)
        for _ in range(2):
            with pytest.raises(BadAnswer, match=r"is too large: .* raise message_bytes"):
                zw.request(BYTES, large).result(20)
            assert zw.request(ADD, 1).result(20) == 2
        with pytest.raises(RemoteError, match=r"NotFound: its fields are .* message_bytes"):
            zw.request(BYTES, -large).result(20)
        sizes: list[int] = []
        with pytest.raises(BadAnswer, match="too large"):
            sizes.extend(len(piece) for piece in zw.stream(PIECES, [1, 100_000, large, 2], timeout=20))
        assert sizes == [1, 100_000]
        assert [len(piece) for piece in zw.stream(PIECES, [most - 5] * 3, timeout=20)] == [most - 5] * 3
        many = [zw.request(BYTES, 100 << 10) for _ in range(64)]
        assert [len(reply.result(20)) for reply in many] == [100 << 10] * 64
        assert len(zw.request(BYTES, most - 5).result(20)) == most - 5
        zw.push(PUSHED, 1).handled.result(20)
        assert ledger(zw, "ask.add") == (2, 2, 0, 0, 0)


def test_nobody_serves_it_and_that_is_said_after_a_second() -> None:
    with Client("asker") as zw:
        began = time.monotonic()
        with pytest.raises(NoResponder, match="nobody serves that channel"):
            zw.request(ADD, 1).result(30)
        assert 0.9 < time.monotonic() - began < 20


def test_a_request_waits_for_a_worker_that_comes_in_time(serve: Serve, settings: Settings) -> None:
    with Client("asker", settings=Settings(home=settings.home, namespace=settings.namespace, no_responder=60)) as zw:
        reply = zw.request(ADD, 1)
        serve("answering")
        assert reply.result(60) == 2


def test_a_killed_worker_s_requests_fail_at_once_and_the_client_recovers(serve: Serve, witness: Path) -> None:
    first = serve("answering")
    with Client("asker") as zw:
        replies = [zw.request(SLOW, 60.0, timeout=100) for _ in range(3)]
        wait_until(lambda: len(said(witness, "begin")) == 3, within=30)
        first.send_signal(signal.SIGKILL)
        first.wait(10)
        killed = time.monotonic()
        for reply in replies:
            with pytest.raises(PeerLost) as lost:
                reply.result(30)
            assert lost.value.peer == "answering"
        assert time.monotonic() - killed < 4, "a proof of death does not wait for the grace"
        serve("answering")
        zw.workers(ADD).at_least(1).result(30)
        assert zw.request(ADD, 1).result(30) == 2
        assert ledger(zw, "ask.slow") == (3, 0, 3, 0, 0)


def test_an_idempotent_request_is_asked_of_another_when_its_worker_is_killed(serve: Serve, witness: Path) -> None:
    workers = [serve("answering"), serve("twin")]
    with Client("asker") as zw:
        zw.workers(SLOW_AGAIN).at_least(2).result(30)
        reply = zw.request(SLOW_AGAIN, 2.0, timeout=100)
        wait_until(lambda: said(witness, "begin"), within=30)
        (begun,) = said(witness, "begin")
        (first,) = (each for each in workers if str(each.pid) == begun[1])
        first.send_signal(signal.SIGKILL)
        (second,) = (each for each in workers if each is not first)
        assert reply.result(60) == second.pid
        assert len(said(witness, "begin")) == 2
        assert ledger(zw, "ask.again") == (1, 1, 0, 0, 0)


def test_a_hedged_request_is_asked_of_a_second_worker_and_the_loser_is_cancelled(serve: Serve, witness: Path) -> None:
    serve("answering")
    serve("twin")
    with Client("asker") as zw:
        zw.workers(SLOW_AGAIN).at_least(2).result(30)
        reply = zw.request(SLOW_AGAIN, 3.0, timeout=100, hedge=True)
        winner = reply.result(60)
        assert len({pid for _, pid, _ in said(witness, "begin")}) == 2
        wait_until(lambda: said(witness, "cancelled") or len(said(witness, "end")) == 2, within=30)
        assert winner in {int(pid) for _, pid, _ in said(witness, "end")}


def test_cancel_ends_the_run(serve: Serve, witness: Path) -> None:
    serve("answering")
    with Client("asker") as zw:
        reply = zw.request(SLOW, 60.0)
        wait_until(lambda: said(witness, "begin"), within=30)
        reply.cancel()
        assert reply.cancelled()
        with pytest.raises(Cancelled):
            reply.result(1)
        wait_until(lambda: said(witness, "cancelled"), within=30)
        assert ledger(zw, "ask.slow") == (1, 0, 0, 1, 0)
        assert zw.request(ADD, 1).result(30) == 2


@pytest.mark.asyncio
async def test_a_task_that_is_cancelled_cancels_its_request_unless_another_awaits_it(
    serve: Serve, witness: Path
) -> None:
    serve("answering")
    async with Client("asker") as zw:
        reply = zw.request(SLOW, 60.0)

        async def wait() -> int:
            return await reply

        first, second = asyncio.create_task(wait()), asyncio.create_task(wait())
        await wait_until_in_loop(lambda: said(witness, "begin"), within=30)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert not reply.done()
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert reply.cancelled()
        await wait_until_in_loop(lambda: said(witness, "cancelled"), within=30)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await zw.request(SLOW, 60.0)
        await wait_until_in_loop(lambda: ledger(zw, "ask.slow") == (2, 0, 0, 2, 0), within=30)


def test_a_request_that_was_made_in_turn_is_cancelled_too(serve: Serve, witness: Path) -> None:
    serve("answering")
    serve("relay")
    with Client("asker") as zw:
        reply = zw.request(NESTED, 60.0)
        wait_until(lambda: said(witness, "begin"), within=30)
        reply.cancel()
        wait_until(lambda: said(witness, "nested cancelled") and said(witness, "cancelled"), within=30)


def test_who_asked_is_killed_and_his_runs_end(serve: Serve, witness: Path) -> None:
    serve("answering")
    program = (
        "from tests.integration.asked import SLOW\nfrom zerowait import Client\n"
        "with Client('asker') as zw: zw.request(SLOW, 60.0, timeout=100).result()"
    )
    asker = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    try:
        wait_until(lambda: said(witness, "begin"), within=30)
    finally:
        asker.kill()
        asker.wait(10)
    wait_until(lambda: said(witness, "cancelled"), within=30)


def test_the_deadline_ends_the_waiting_and_the_run(serve: Serve, witness: Path) -> None:
    serve("answering")
    with Client("asker") as zw:
        zw.workers(SLOW).at_least(1).result(30)
        with pytest.raises(Expired) as late:
            zw.request(SLOW, 60.0, timeout=0.5).result(30)
        assert late.value.sent
        wait_until(lambda: said(witness, "cancelled") or not said(witness, "begin"), within=30)
        assert ledger(zw, "ask.slow") == (1, 0, 1, 0, 0)


@pytest.mark.parametrize("channel", [RELAYED, "ask.relayed.plainly"], ids=["async", "plain"])
def test_what_is_left_of_the_time_travels_and_shrinks(channel: object, serve: Serve) -> None:
    serve("answering")
    serve("relay")
    with Client("asker") as zw:
        zw.workers(DEADLINE).at_least(1).result(30)
        here, nested, by_client = zw.request(channel, None, timeout=20).result(30)  # type: ignore[call-overload]
        assert 20 > here >= nested >= by_client > 0


def test_a_stream_is_read_to_its_end_in_order(serve: Serve) -> None:
    serve("answering")
    with Client("asker") as zw:
        assert list(zw.stream(COUNT, 20_000)) == list(range(20_000))
        assert sum(zw.stream(COUNT_PLAINLY, 5_000)) == sum(range(5_000))
        assert ledger(zw, "ask.count") == (1, 1, 0, 0, 0)


@pytest.mark.asyncio
async def test_a_slow_reader_holds_the_producer_and_leaving_ends_it(serve: Serve, witness: Path) -> None:
    serve("answering")
    async with Client("asker") as zw:
        async with zw.stream(COUNT, 10**9) as numbers:
            assert [await anext(numbers) for _ in range(3)] == [0, 1, 2]
            await asyncio.sleep(0.5)  # time in which a producer that is not held would go on
            assert said(witness, "at")[-1] == ["at", "0"], "it is a hundred ahead"
            async for number in numbers:
                if number == 5_000:
                    break
        await wait_until_in_loop(lambda: said(witness, "count over"), within=30)
        assert int(said(witness, "at")[-1][1]) < 5_000 + 3 * 2_048


def test_leaving_the_loop_early_ends_the_stream(serve: Serve, witness: Path) -> None:
    serve("answering")
    with Client("asker") as zw:
        for number in zw.stream(COUNT, 10**9):
            if number == 10:
                break
        wait_until(lambda: said(witness, "count over"), within=30)
        for number in zw.stream(COUNT_PLAINLY, 10**9):
            if number == 10:
                break
        wait_until(lambda: said(witness, "plain count over"), within=30)


def test_a_stream_whose_worker_is_killed_ends_as_lost(serve: Serve) -> None:
    worker = serve("answering")
    with Client("asker") as zw:
        numbers = zw.stream(COUNT, 10**9)
        assert next(numbers) == 0
        worker.send_signal(signal.SIGKILL)
        with pytest.raises(PeerLost):
            for _ in numbers:
                pass


def test_a_client_that_is_closed_tells_who_waits(serve: Serve) -> None:
    serve("answering")
    zw = Client("asker")
    with zw:
        reply = zw.request(SLOW, 60.0)
        zw.close(0.1).result(30)
        with pytest.raises(Cancelled, match="closed"):
            reply.result(1)


def test_a_channel_of_another_kind_is_told_at_the_call_once_that_is_known(serve: Serve) -> None:
    serve("answering")
    with Client("asker") as zw:
        zw.workers(ADD).at_least(1).result(30)
        with pytest.raises(Usage, match="served as a request channel by answering"):
            zw.push("ask.add", 1)
        with pytest.raises(Usage, match=r"served as a request channel .*Use request\(\)"):
            zw.stream(StreamChannel[int, int]("ask.add"), 1)
