"""Names that somebody makes up, one for each answer that he wants say, do not fill the memory of who meets them."""

from __future__ import annotations

import pytest

from tests.waiting import wait_until
from zerowait import App, Client, PushChannel, RequestChannel, Settings
from zerowait.engines.brokerless import finding
from zerowait.engines.brokerless.protocol.owner import contracts
from zerowait.engines.brokerless.protocol.owner.sender import Sender

MOST = 40
ASKED = RequestChannel[int, int]("made.asked", idempotent=True)
NOT_ASKED = RequestChannel[int, int]("made.not.asked", idempotent=True)


def sender_of(client: Client) -> Sender:
    return client._open().node.core.owner.sender


def test_channels_that_were_used_once_are_forgotten_and_known_again_when_they_are_used(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contracts, "CHANNELS_MOST", MOST)
    app, got = App("sink", settings=settings), list[str]()

    @app.pull("made.up.0")
    def first(value: str) -> None:
        got.append(value)

    with Client("maker", settings=settings) as zw:
        waits = zw.push("made.waits", 1, durable=False)
        for n in range(10 * MOST):
            zw.workers(PushChannel[str](f"made.up.{n}"))
            zw.workers(RequestChannel[int, int](f"made.up.asked.{n}"))
        node = zw._open().node
        node.call(lambda: None).result(10)
        sender = sender_of(zw)
        for table in (sender.contracts._ours, sender._kinds, node._wanted.channels):
            assert len(table) <= 2 * MOST
        assert "made.waits" in sender.contracts._ours, "something waits for it"
        wait_until(lambda: waits.state == "stored", within=5)
        assert "made.up.0" not in node._wanted.channels
        with app:
            assert zw.push(PushChannel[str]("made.up.0"), "found").handled.result(30) is None
    assert got == ["found"]


def test_channels_that_were_only_asked_for_are_forgotten_and_found_again_when_they_are_asked_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "ASKED_MOST", MOST)
    app = App("sink", settings=settings)

    @app.pull("made.up.0")
    def first(value: str) -> None: ...

    with Client("asker", settings=settings) as zw:
        for n in range(10 * MOST):
            assert not len(zw.workers(f"made.up.{n}"))
        wanted = zw._open().node._wanted
        assert len(wanted.channels) == MOST
        assert "made.up.0" not in wanted.channels
        with app:
            zw.workers("made.up.0").at_least(1).result(10)
        zw.push("made.up.1", "waits", durable=False)
        for n in range(10 * MOST):
            assert not len(zw.workers(f"made.up.again.{n}"))
        assert "made.up.1" in wanted.channels, "something is pushed there"
        assert len(wanted.channels) == MOST + 1


def test_what_a_peer_serves_and_nobody_asks_for_is_not_kept(settings: Settings) -> None:
    app = App("server", settings=settings)

    @app.reply(ASKED)
    async def answer(number: int) -> int:
        return number

    @app.reply(NOT_ASKED)
    async def other(number: int) -> int:
        return number

    with Client("asker", settings=settings) as zw:
        with app:
            assert zw.request(ASKED, 1).result(30) == 1
            assert sender_of(zw).idempotent == {"made.asked"}
            assert zw.request(NOT_ASKED, 2).result(30) == 2
            assert sender_of(zw).idempotent == {"made.asked", "made.not.asked"}
        wait_until(lambda: not zw.workers(ASKED), within=10)
        assert not any(custody.in_flight for custody in zw._open().node.core.owner.custody.values())
