"""The main job, in real processes: push and never wait, and every message is accounted for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Literal

import pytest

from tests.integration.services import WORK, Work
from tests.programs import Serve, services
from tests.waiting import wait_until
from zerowait import App, Client, Dead, PushChannel, QueueFull, Receipt, Retry, Settings
from zerowait.errors import Cancelled, Closed, EncodeError, Expired, StoreError, TooLarge, UsageError
from zerowait.snapshot import ChannelStatus

ROOT = Path(__file__).parents[2]


@pytest.fixture
def serve(witness: Path) -> Iterator[Serve]:
    with services("tests.integration.services") as serve:
        yield serve


def lines(witness: Path, word: str) -> list[list[str]]:
    return [line.split() for line in witness.read_text().splitlines() if line.startswith(word + " ")]


def unsettled(zw: Client) -> int:
    return sum(box.unsettled for box in zw.status().boxes)


def assert_exact(zw: Client) -> None:
    """The ledger of each channel, against itself and against what it may be."""
    for box in zw.status().boxes:
        for row in box.channels:
            settled = row.handled + row.dead + row.expired + row.dropped
            assert row.accepted == settled + row.waiting + row.in_flight, row
            assert min(row.waiting, row.in_flight) >= 0, row


@pytest.mark.parametrize("durable", [True, False])
def test_a_push_is_handled_by_a_worker_that_was_there(durable: bool, serve: Serve, witness: Path) -> None:
    serve("echo")
    with Client("sender") as zw:
        receipts = [zw.push(WORK, Work(n), durable=durable) for n in range(100)]
        for receipt in receipts:
            receipt.handled.result(10)
        assert {receipt.state for receipt in receipts} == {"handled"}
        assert_exact(zw)
    assert sorted(int(number) for _, number, *_ in lines(witness, "end")) == list(range(100))


@pytest.mark.parametrize("durable", [True, False])
def test_a_push_waits_for_a_worker_that_comes_later(durable: bool, serve: Serve) -> None:
    with Client("sender") as zw:
        receipt = zw.push(WORK, Work(1), durable=durable)
        receipt.result(5)
        assert receipt.state == "stored"
        assert zw.status().boxes
        serve("echo")
        receipt.handled.result(10)


@pytest.mark.parametrize("durable", [True, False])
def test_what_is_urgent_is_handled_before_what_waits_though_that_was_pushed_and_read_before(
    durable: bool, settings: Settings
) -> None:
    app, handled, go_on = App("later", settings=settings), list[int](), threading.Event()

    @app.pull("urgent.first", concurrency=1)
    def work(value: tuple[int, bytes]) -> None:
        assert go_on.wait(20)
        handled.append(value[0])

    with Client("sender", settings=settings) as zw:

        def push(first: int, priority: Literal["low", "normal", "high"], count: int = 20) -> list[Receipt]:
            return [
                zw.push("urgent.first", (first + n, bytes(50_000)), priority=priority, durable=durable)
                for n in range(count)
            ]

        # given more than is read ahead, and an urgent one among what was there before the worker
        receipts = [*push(0, "low", 200), *push(1_000, "normal"), *push(2_000, "high")]
        receipts[-1].result(20)
        with app:
            wait_until(lambda: any(box.in_flight for box in in_channel(zw, "urgent.first")), within=10)
            # when more comes while the handler stands
            receipts += push(3_000, "high")
            receipts[-1].result(20)
            go_on.set()
            for receipt in receipts:
                receipt.handled.result(30)
    high = [*range(2_000, 2_020), *range(3_000, 3_020)]
    assert handled == [*high, *range(1_000, 1_020), *range(200)]


def in_channel(zw: Client, channel: str) -> list[ChannelStatus]:
    return [row for box in zw.status().boxes for row in box.channels if row.channel == channel]


def test_what_a_killed_worker_held_is_given_to_another_at_once(serve: Serve, witness: Path) -> None:
    first = serve("echo")
    serve("echo")  # before there is work: on a busy machine the first would have done all of it until this one is there
    with Client("sender") as zw:
        zw.workers(WORK).at_least(2).result(20)
        receipts = [zw.push(WORK, Work(n, 0.3)) for n in range(40)]
        mine = str(first.pid)
        wait_until(lambda: sum(pid == mine for _, _, pid, _ in lines(witness, "begin")) >= 4, within=20)
        first.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        begun = {number for _, number, pid, _ in lines(witness, "begin") if pid == str(first.pid)}
        held = begun - {number for _, number, _, _ in lines(witness, "end")}
        # What had ended there may run again too, if its outcome had not been settled by then.
        unsettled_there = begun - {str(n) for n, receipt in enumerate(receipts) if receipt.handled.done()}
        wait_until(lambda: held & {n for _, n, pid, _ in lines(witness, "begin") if pid != str(first.pid)}, within=5)
        assert time.monotonic() - killed < 3, "a proof of death does not wait for the grace"
        for receipt in receipts:
            receipt.handled.result(20)
        assert_exact(zw)
    runs = Counter(number for _, number, *_ in lines(witness, "begin"))
    assert len(runs) == 40
    assert {number for number, times in runs.items() if times > 1} <= unsettled_there, "nothing else ran again"


def test_what_a_killed_sender_had_stored_is_delivered_by_the_next_of_its_name(serve: Serve, witness: Path) -> None:
    program = (
        "import os, signal\nfrom tests.integration.services import WORK, Work\nfrom zerowait import Client\n"
        "zw = Client('sender')\n"
        "for n in range(50): last = zw.push(WORK, Work(n))\n"
        "last.result(10)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    died = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert died.returncode == -signal.SIGKILL
    serve("echo")
    with Client("sender") as zw:
        zw.push(WORK, Work(50)).handled.result(10)
        wait_until(lambda: len(lines(witness, "end")) == 51, within=10)
        wait_until(lambda: unsettled(zw) == 0, within=10)
        assert_exact(zw)
    assert sorted(int(number) for _, number, *_ in lines(witness, "end")) == list(range(51))


def test_a_script_that_is_gone_is_delivered_for_by_another_process_of_the_machine(serve: Serve, witness: Path) -> None:
    with Client("script") as zw:
        zw.push(WORK, Work(1)).result(5)
    serve("echo")
    with Client("somebody"):
        wait_until(lambda: lines(witness, "end"), within=15)


def test_a_sender_may_listen_and_workers_dial_in(serve: Serve, home: Path, witness: Path) -> None:
    settings = Settings(home=home, namespace="sender-side", listen="tcp://127.0.0.1:0")
    with Client("sender", settings=settings) as zw:
        assert zw._opened is not None
        endpoint = zw._opened.node.endpoints[-1]
        serve("echo", ZEROWAIT_NAMESPACE="worker-side", ZEROWAIT_ADDRESSES=f"work={endpoint}")
        zw.push(WORK, Work(1)).handled.result(10)


def test_a_worker_may_listen_over_ipv6(serve: Serve, home: Path, witness: Path) -> None:
    import socket

    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as probe:
            port = probe.getsockname()[1]
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    serve("echo", ZEROWAIT_NAMESPACE="worker-side", ZEROWAIT_LISTEN=f"tcp://[::1]:{port}")
    settings = Settings(home=home, namespace="sender-side", addresses={"work": f"tcp://[::1]:{port}"})
    with Client("sender", settings=settings) as zw:
        zw.push(WORK, Work(1)).handled.result(10)


def test_a_message_larger_than_a_frame_travels_whole() -> None:
    blobs = PushChannel[bytes]("blobs")
    app, got = App("taker"), list[bytes]()

    @app.pull(blobs)
    def take(blob: bytes) -> None:
        got.append(blob)

    sent = [os.urandom(size) for size in (0, 1, 250_000, 300_000, 5_000_000)]
    with app, Client("sender") as zw:
        receipts = [zw.push(blobs, blob) for blob in sent]
        for receipt in receipts:
            receipt.handled.result(20)
        with pytest.raises(TooLarge, match="nothing was taken"):
            zw.push(blobs, bytes(17 << 20))
    assert sorted(got) == sorted(sent)


def test_a_full_outbox_takes_nothing_and_tells_when_there_is_room(home: Path, namespace: str) -> None:
    settings = Settings(home=home, namespace=namespace, outbox_messages=100)
    with Client("sender", settings=settings) as zw:
        for n in range(100):
            zw.push("later", n)
        with pytest.raises(QueueFull) as full:
            zw.push("later", 100)
        assert full.value.limit_messages == 100
        assert not full.value.room.done()
        assert sum(row.accepted for box in zw.status().boxes for row in box.channels) == 100
        app, got = App("late"), list[int]()

        @app.pull("later")
        def take(number: int) -> None:
            got.append(number)

        with app:
            full.value.room.result(10)
            zw.push("later", 100).handled.result(10)
        assert sorted(got) == list(range(101))


def test_a_failing_handler_is_retried_and_then_its_message_is_a_dead_letter(serve: Serve, witness: Path) -> None:
    serve("failing")
    with Client("sender") as zw:
        good, odd, unlucky = (zw.push("failing", n) for n in (2, 1, 13))
        good.handled.result(10)
        with pytest.raises(Dead) as dead:
            odd.handled.result(10)
        assert dead.value.attempts == 2
        assert "1 is odd" in dead.value.reason
        assert "services.py" in dead.value.traceback
        with pytest.raises(Dead, match="unlucky"):
            unlucky.handled.result(10)
        assert_exact(zw)
    assert Counter(number for _, number in lines(witness, "tried")) == {"2": 1, "1": 2, "13": 1}


def test_what_does_not_fit_the_handler_is_a_dead_letter_and_the_rest_is_handled(serve: Serve) -> None:
    serve("failing")
    with Client("sender") as zw:
        receipts = [zw.push("failing", value) for value in (2, "three", 4)]
        receipts[0].handled.result(10)
        receipts[2].handled.result(10)
        with pytest.raises(Dead, match="int"):
            receipts[1].handled.result(10)


def test_sigterm_finishes_what_runs_and_hands_back_the_rest(serve: Serve, witness: Path) -> None:
    worker = serve("echo")
    with Client("sender") as zw:
        receipts = [zw.push(WORK, Work(n, 0.5)) for n in range(30)]
        wait_until(lambda: len(lines(witness, "begin")) >= 8, within=10)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(10) == 0
        begun = {number for _, number, *_ in lines(witness, "begin")}
        assert begun == {number for _, number, *_ in lines(witness, "end")}, "what had begun has ended"
        serve("echo")
        for receipt in receipts:
            receipt.handled.result(20)
        assert_exact(zw)
    runs = Counter(number for _, number, *_ in lines(witness, "begin"))
    assert set(runs.values()) == {1}, "a drain doubles nothing"
    assert {attempt for *_, attempt in lines(witness, "begin")} == {"1"}, "what was handed back counts as no attempt"


def test_a_stopped_worker_that_comes_back_in_time_runs_nothing_twice(serve: Serve, witness: Path) -> None:
    worker = serve("echo")
    with Client("sender") as zw:
        receipts = [zw.push(WORK, Work(n, 0.2)) for n in range(40)]
        wait_until(lambda: len(lines(witness, "begin")) >= 8, within=10)
        worker.send_signal(signal.SIGSTOP)
        wait_until(
            lambda: any(peer.state != "up" for peer in zw.status().peers), within=8, that="the silence is noticed"
        )
        worker.send_signal(signal.SIGCONT)
        for receipt in receipts:
            receipt.handled.result(20)
        assert_exact(zw)
    assert set(Counter(number for _, number, *_ in lines(witness, "begin")).values()) == {1}


def test_two_workers_share_a_channel(serve: Serve, witness: Path) -> None:
    for _ in range(2):
        serve("echo")
    with Client("sender") as zw:
        zw.workers(WORK).at_least(2).result(10)
        for receipt in [zw.push(WORK, Work(n, 0.02)) for n in range(200)]:
            receipt.handled.result(20)
    shares = Counter(pid for _, _, pid, _ in lines(witness, "end"))
    assert len(shares) == 2
    assert min(shares.values()) >= 60


def test_a_delayed_push_waits_for_its_time_and_one_too_late_expires() -> None:
    app, got = App("taker"), list[tuple[str, float]]()

    @app.pull("timed")
    def take(word: str) -> None:
        got.append((word, time.monotonic()))

    with Client("sender") as zw:
        began = time.monotonic()
        late = zw.push("timed", "late", ttl=0.2)
        with pytest.raises(Expired):
            late.handled.result(10)
        with app:
            zw.push("timed", "delayed", delay=0.5).handled.result(10)
        assert_exact(zw)
    assert [word for word, _ in got] == ["delayed"]
    assert got[0][1] - began >= 0.5


def test_a_push_can_be_withdrawn_while_nobody_has_it() -> None:
    with Client("sender") as zw:
        receipt = zw.push("nobody", 1)
        assert receipt.withdraw().result(5) is True
        assert receipt.state == "withdrawn"
        with pytest.raises(Cancelled):
            receipt.handled.result(1)
        assert_exact(zw)
        assert unsettled(zw) == 0


def test_the_callers_mistakes_are_raised_at_the_call_and_nothing_is_taken() -> None:
    with Client("sender") as zw:
        with pytest.raises(EncodeError, match="Work"):
            zw.push(WORK, "no work")  # type: ignore[misc]
        with pytest.raises(EncodeError) as wrong:
            zw.push("things", {"list": [1, object()]})
        assert wrong.value.path == "$['list'][1]"
        with pytest.raises(UsageError, match="time zone"):
            zw.push("things", 1, at=datetime(2030, 1, 1))  # noqa: DTZ001 (the mistake)
        with pytest.raises(UsageError):
            zw.push("things", 1, colour="red")  # type: ignore[call-overload]
        assert not [row for box in zw.status().boxes for row in box.channels if row.accepted]
    with pytest.raises(Closed):
        zw.push("things", 1)


def test_a_forked_child_opens_its_own_and_leaves_its_parents_alone(serve: Serve, witness: Path) -> None:
    serve("echo")
    with Client("sender") as zw:
        zw.push(WORK, Work(1)).handled.result(10)
        child = os.fork()
        if child == 0:
            try:
                zw.push(WORK, Work(2)).handled.result(10)
                zw.close().result(5)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        zw.push(WORK, Work(3)).handled.result(10)
    assert sorted(number for _, number, *_ in lines(witness, "end")) == ["1", "2", "3"]


def test_push_all_holds_back_while_the_outbox_is_full(home: Path, namespace: str, serve: Serve) -> None:
    serve("echo")
    settings = Settings(home=home, namespace=namespace, outbox_messages=50)
    with Client("sender", settings=settings) as zw:
        assert zw.push_all(WORK, (Work(n) for n in range(1_000))).result(30) == 1_000
        wait_until(lambda: unsettled(zw) == 0, within=10)
        assert_exact(zw)


@pytest.mark.asyncio
async def test_one_client_serves_a_loop_as_well(serve: Serve) -> None:
    serve("echo")
    async with Client("sender") as zw:
        receipt = await zw.push(WORK, Work(1))
        assert receipt.state in ("stored", "sent", "handled")
        assert receipt.id
        await receipt.handled
        with pytest.raises(UsageError, match="await"):
            zw.push(WORK, Work(2)).handled.result(1)
        assert await zw.push_all(WORK, [Work(3), Work(4)]) == 2


def test_nobody_waits_for_a_client_that_ends_with_everybody_absent() -> None:
    zw = Client("sender")
    receipts = [zw.push("nobody", n) for n in range(10_000)]
    receipts[-1].result(20)
    began = time.monotonic()
    assert zw.close().result(10) == 10_000
    assert time.monotonic() - began < 2


def test_a_retry_policy_of_one_attempt_means_none() -> None:
    app, tries = App("once"), list[int]()

    @app.pull("once", retry=Retry(attempts=1))
    def fail(number: int) -> None:
        tries.append(number)
        raise RuntimeError("no")

    with app as zw, pytest.raises(Dead):
        zw.push("once", 1).handled.result(10)
    assert tries == [1]


def test_a_block_that_pushes_to_its_own_channel_ends_when_that_is_handled() -> None:
    app, got = App("own"), list[int]()

    @app.pull("own")
    def take(number: int) -> None:
        got.append(number)

    began = time.monotonic()
    with app as zw:
        for n in range(50):
            zw.push("own", n, durable=n % 2 == 0)
    assert sorted(got) == list(range(50))
    assert time.monotonic() - began < 4


def test_messages_of_a_dead_worker_go_on_at_once_when_their_sender_comes_back_too(serve: Serve, witness: Path) -> None:
    worker = serve("echo")
    with Client("sender") as zw:
        zw.push(WORK, Work(1, 30.0))
        wait_until(lambda: lines(witness, "begin"), within=10)
        zw.close(0).result(5)
    worker.send_signal(signal.SIGKILL)
    worker.wait(5)
    serve("echo")
    began = time.monotonic()
    with Client("sender") as zw:
        wait_until(lambda: len(lines(witness, "begin")) == 2, within=10)
        assert time.monotonic() - began < 3.5, "a worker that is proved dead is not waited for"
        zw.close(0).result(5)


def test_after_a_full_disk_what_waited_goes_on_without_a_restart(tmp_path: Path) -> None:
    import shutil

    room = tmp_path / "small"
    room.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs", str(room)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        settings = Settings(home=room / "zw", namespace="full")
        app, got = App("taker", settings=Settings(home=room / "zw", namespace="full")), list[int]()

        @app.pull("sized")
        def take(message: tuple[int, bytes]) -> None:
            got.append(message[0])

        with Client("sender", settings=settings) as zw:
            ballast = room / "ballast"
            ballast.write_bytes(bytes(1_500_000))
            accepted = 0
            with pytest.raises(StoreError, match="room"):
                accepted = fill(zw)
            accepted = sum(row.accepted for box in zw.status().boxes for row in box.channels)
            ballast.unlink()
            began = time.monotonic()
            wait_until(lambda: try_push(zw, accepted), within=5)
            assert time.monotonic() - began < 2.5
            with app:
                wait_until(lambda: set(got) >= set(range(accepted)), within=20)
            assert_exact(zw)
    finally:
        subprocess.run(["umount", "-l", str(room)], check=False)


def fill(zw: Client) -> int:
    """Pushes until that raises."""
    for number in range(100_000):
        with suppress(TimeoutError):  # accepted, and stored as soon as there is room
            zw.push("sized", (number, bytes(10_000))).result(0.5)
    return 100_000


def try_push(zw: Client, number: int) -> bool:
    try:
        zw.push("sized", (number, b"")).result(5)
    except StoreError:
        return False
    return True


def test_what_is_pushed_again_by_its_id_is_handled_once_across_restarts_of_its_sender(
    serve: Serve, witness: Path
) -> None:
    program = (
        "from tests.integration.services import WORK, Work\nfrom zerowait import Client\n"
        "with Client('sender') as zw:\n"
        "    receipt = zw.push(WORK, Work(1), id='bill-1').result(10)\n"
        "    receipt.handled.result(10)\n"
        "    print(receipt.id, receipt.duplicate, receipt.state)\n"
    )
    serve("echo")
    said = [
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for _ in range(3)
    ]
    ids, duplicates, states = zip(*(line.split() for line in said), strict=True)
    assert len(set(ids)) == 1
    assert duplicates == ("False", "True", "True")
    assert set(states) == {"handled"}
    assert len(lines(witness, "begin")) == 1
