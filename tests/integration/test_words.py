"""What is said to who has waited in vain: for whom, who is there, and what is wrong with the addresses."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.asked import ADD as ASKED
from tests.integration.asked import BLOCKS
from tests.programs import Serve, services
from tests.waiting import wait_until
from zerowait import App, Client, Expired, NoResponder, RequestChannel, Settings

ADD = RequestChannel[int, int]("words.add")


def test_a_wait_for_workers_that_is_over_says_who_is_there_and_what_was_meant(settings: Settings) -> None:
    app = App("answering", settings=settings)

    @app.reply(ADD)
    async def add(n: int) -> int:
        return n + 1

    with app, Client("asker", settings=settings) as zw:
        zw.workers(ADD).at_least(1).result(30)
        with pytest.raises(TimeoutError, match=r"zw\.workers\('words\.add'\)\.at_least\(2\): there is 1 \(answering\)"):
            zw.workers(ADD).at_least(2).result(0.2)
        for none in ("words.ad", "words.sub"):
            waiting = zw.workers(none).at_least(1)
            with pytest.raises(TimeoutError, match=r"there is none\. Did you mean words\.add\? Served are: words\.add"):
                waiting.result(2)


def test_who_asks_at_a_wrong_address_is_told_the_address_and_what_is_wrong_there(settings: Settings) -> None:
    wrong = Settings(home=settings.home, namespace=settings.namespace, addresses={"words.*": "tcp://127.0.0.1:9"})
    with Client("asker", settings=wrong) as zw, pytest.raises(NoResponder) as raised:
        zw.request(ADD, 1).result(30)
    assert "Its addresses: tcp://127.0.0.1:9: " in str(raised.value)
    assert str(raised.value).count("tcp://127.0.0.1:9") == 1


@pytest.fixture
def serve(witness: Path) -> Iterator[Serve]:
    with services("tests.integration.asked") as serve:
        yield serve


def test_who_asks_where_a_worker_is_stopped_is_told_who_it_is_and_for_how_long(
    serve: Serve, settings: Settings
) -> None:
    quick = Settings(
        home=settings.home, namespace=settings.namespace, ping=0.2, silence=0.6, resume_grace=0.6, no_responder=0.3
    )
    worker = serve("answering")
    with Client("asker", settings=quick) as zw, Client("newcomer", settings=quick) as newcomer:
        assert zw.request(ASKED, 1).result(30) == 2
        worker.send_signal(signal.SIGSTOP)
        try:
            wait_until(lambda: not zw.workers(ASKED), within=10)
            for client in (zw, newcomer):
                with pytest.raises(NoResponder) as raised:
                    client.request(ASKED, 1).result(30)
                said = str(raised.value)
                assert "was not sent, and certainly did not run: " in said
                assert re.search(rf"answering \(pid {worker.pid}\) serves that channel, and has not .* for \d+ s", said)
                assert "Let it go on, restart it, or start another worker" in said
                assert "ask.slow" not in said, "it is no other channel that is meant"
            with pytest.raises(TimeoutError, match=rf"there is none\. answering \(pid {worker.pid}\) serves"):
                zw.workers(ASKED).at_least(1).result(0.2)
        finally:
            worker.send_signal(signal.SIGCONT)
        zw.workers(ASKED).at_least(1).result(30)
        assert zw.request(ASKED, 1).result(30) == 2


def test_of_a_worker_that_was_killed_nobody_says_that_it_does_not_answer(serve: Serve, settings: Settings) -> None:
    worker = serve("answering")
    with Client("asker", settings=settings) as zw:
        assert zw.request(ASKED, 1).result(30) == 2
        worker.kill()
        worker.wait(10)
        wait_until(lambda: not zw.workers(ASKED), within=10)
        with pytest.raises(NoResponder, match="nobody serves that channel"):
            zw.request(ASKED, 1).result(30)


def test_who_ran_out_of_time_before_a_blocked_worker_is_told_who_stands_still(serve: Serve, settings: Settings) -> None:
    worker = serve("answering")
    with Client("asker", settings=settings) as zw:
        blocking = zw.request(BLOCKS, 30.0)
        wait_until(lambda: any(peer.state == "stuck" for peer in zw.status().peers), within=20)
        with pytest.raises(Expired) as raised:
            zw.request(ASKED, 1, timeout=0.3).result(30)
        said = str(raised.value)
        assert "it certainly did not run" in said.lower()
        assert f"answering (pid {worker.pid}) serves that channel, and its handlers' loop has not turned for" in said
        blocking.cancel()
        worker.kill()
