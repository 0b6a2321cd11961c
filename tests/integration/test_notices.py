"""What a program is told by `Client.listen`, each by what really causes it."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import apsw
import pytest
import zmq

from tests.integration.services import WORK, Work
from tests.programs import ZEROWAIT, Start
from tests.unit.outbox.faults import Faults
from tests.waiting import wait_until
from zerowait import App, Client, Plain, PushChannel, Settings, notices
from zerowait.engines.brokerless import concerns
from zerowait.errors import StoreError

ROOT = Path(__file__).parents[2]
N = TypeVar("N", bound=notices.Notice)


class Heard(list[Any]):
    def only(self, kind: type[N], within: float = 10) -> N:
        """The one notice of this kind that came."""
        found = wait_until(lambda: [each for each in self if isinstance(each, kind)], within=within)
        assert len(found) == 1, found
        return found[0]


@pytest.fixture
def heard() -> Heard:
    return Heard()


def test_a_peer_comes_with_its_channels_and_dies_with_what_it_had(start: Start, heard: Heard, witness: Path) -> None:
    echo = start(*ZEROWAIT, "run", "tests.integration.services:echo")
    echo.until(lambda echo: "Ctrl-C" in echo.err)
    with Client("sender") as zw:
        zw.listen(notices.Notice, heard.append)
        for number in range(3):
            zw.push(WORK, Work(number, seconds=60), durable=False)
        up = heard.only(notices.PeerUp)
        assert (up.name, up.channels) == ("echo", ("work",))
        wait_until(lambda: witness.read_text().count("begin") == 3, within=10)
        echo.process.kill()
        gone = heard.only(notices.PeerGone)
        assert (gone.name, gone.instance, gone.how, gone.returned) == ("echo", up.instance, "died", 3)
        zw.close(0).result(5)


def test_a_peer_that_leaves_has_said_goodbye_and_keeps_nothing(heard: Heard) -> None:
    app, done = App("leaver"), threading.Event()

    @app.pull("numbers")
    async def take(number: int) -> None:
        done.set()

    with Client("sender") as zw:
        zw.listen(notices.PeerGone, heard.append)
        with app:
            zw.push("numbers", 1)
            assert done.wait(10)
        gone = heard.only(notices.PeerGone)
        assert (gone.name, gone.how, gone.returned) == ("leaver", "said goodbye", 0)


def test_a_peer_whose_loop_does_not_turn_is_stuck(heard: Heard) -> None:
    app, release = App("blocker"), threading.Event()

    @app.pull("numbers")
    async def block(number: int) -> None:
        release.wait(30)  # what a user's mistake looks like

    with Client("sender") as zw, app:
        zw.listen(notices.PeerStuck, heard.append)
        zw.push("numbers", 1)
        try:
            stuck = heard.only(notices.PeerStuck, within=15)
        finally:
            release.set()
        assert stuck.name == "blocker"
        assert 3.0 <= stuck.seconds < 6.0
        assert len(stuck.instance) == 16


def test_an_outbox_that_cannot_be_written_is_told_with_its_path_and_when_it_can_be_again(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults, real = Faults(), apsw.Connection

    def connect(path: str, flags: int) -> apsw.Connection:
        return real(path, flags, vfs=faults.name if path != ":memory:" else None)

    monkeypatch.setattr(apsw, "Connection", connect)
    with Client("sender") as zw:
        zw.listen(notices.Notice, heard.append)
        zw.push("numbers", 1).result(5)
        (path,) = (box.path for box in zw.status().boxes)
        for error, reason in ((apsw.FullError, "No space left on device"), (apsw.IOError, "")):
            heard.clear()
            faults.failing = error
            zw.push("numbers", 2)
            broken = heard.only(notices.StoreBroken)
            assert broken.path == path
            assert reason in broken.reason
            with pytest.raises(StoreError):
                zw.push("numbers", 3)
            faults.failing = None
            mended = heard.only(notices.StoreMended)
            assert mended.path == path
            assert 0 < mended.seconds < 10
            wait_until(lambda: all(box.unsettled for box in zw.status().boxes), within=5)


def test_a_channel_that_nobody_serves_is_told_with_how_many_wait(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concerns, "LONELY_S", 0.2)
    app = App("served")

    @app.pull("mail.parse")
    async def take(number: int) -> None: ...

    @app.pull("billing")
    async def bill(number: int) -> None: ...

    with app, Client("sender") as zw:
        zw.listen(notices.Unserved, heard.append)
        zw.push("mail.prase", 1, durable=False)
        zw.push("mail.prase", 2, delay=600)
        zw.push("mail.prase", 3).result(5)
        told = heard.only(notices.Unserved)
        assert (told.channel, told.waiting) == ("mail.prase", 3)
        assert told.served == ("mail.parse", "billing")


def test_a_stranger_that_speaks_zeromq_and_not_our_protocol_is_refused(
    heard: Heard, home: Path, namespace: str
) -> None:
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        probe.close()
        settings = Settings(home=home, namespace=namespace, listen=f"tcp://127.0.0.1:{port}")
        zw = stack.enter_context(Client("sender", settings=settings))
        zw.listen(notices.Notice, heard.append)
        zw.status()
        context = stack.enter_context(zmq.Context())
        stranger = stack.enter_context(context.socket(zmq.DEALER))
        stranger.linger = 0
        stranger.connect(f"tcp://127.0.0.1:{port}")
        stranger.send(b"good day")
        refused = heard.only(notices.Refused)
        assert refused.peer.startswith("somebody who dialled ")
        assert f":{port}" in refused.peer
        assert refused.reason.startswith("the first frame is no zerowait HELLO")


def test_a_bare_sender_that_nobody_can_read_is_refused(heard: Heard, home: Path) -> None:
    endpoint = f"ipc://{home}/bare"
    app = App("taker")

    @app.pull(PushChannel[int]("bare", plain=Plain("json", bind=endpoint)))
    async def take(number: int) -> None: ...

    with app, zmq.Context() as context, context.socket(zmq.PUSH) as bare:
        app.client.listen(notices.Refused, heard.append)
        bare.linger = 0
        bare.connect(endpoint)
        bare.send(b"{no json")
        refused = heard.only(notices.Refused)
        assert refused.peer == f"a bare ZeroMQ sender of bare ({endpoint})"
        assert refused.reason


def test_apps_hear_what_their_client_hears(heard: Heard) -> None:
    """An app has no `listen` of its own: its client has."""
    app, other, done = App("taker"), Client("sender"), threading.Event()

    @app.pull("numbers")
    async def take(number: int) -> None:
        done.set()

    with app:
        app.client.listen(notices.PeerUp, heard.append)
        with other:
            other.push("numbers", 1)
            assert done.wait(10)
        up = heard.only(notices.PeerUp)
        assert (up.name, up.channels) == ("sender", ())
