"""What is said to who has waited in vain: for whom, who is there, and what is wrong with the addresses."""

from __future__ import annotations

import pytest

from zerowait import App, Client, NoResponder, RequestChannel, Settings

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
