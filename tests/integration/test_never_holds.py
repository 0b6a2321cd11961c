"""What an event loop may call: nothing of it waits for another thread, whatever that one waits for, and nothing of it
touches a file or a socket."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import wait_until_in_loop
from zerowait import Client, PushChannel, QueueFull, RequestChannel, Settings, StreamChannel, Topic
from zerowait.outbox.database import Database

ROOT = Path(__file__).parents[2]
DURABLE = PushChannel[bytes]("never.holds", durable=True)
MEMORY = PushChannel[bytes]("never.holds.memory", durable=False)
ASKED = RequestChannel[bytes, bytes]("never.holds.asked")
STREAMED = StreamChannel[bytes, bytes]("never.holds.streamed")
EVENTS = Topic[bytes]("never.holds.events")
_numbers = count()
BLOBS = [bytes(size) for size in (1, 1_000, 65_536)]


def calls(zw: Client, blob: bytes) -> dict[str, Callable[[], Any]]:
    """Every public call, on a client that is open."""
    receipt = zw.push(DURABLE, blob)
    topic = f"never.holds.{next(_numbers)}"  # each time the first event of a topic, which has most to do
    return {
        "push": lambda: zw.push(DURABLE, blob),
        "push in memory": lambda: zw.push(MEMORY, blob),
        "push by name": lambda: zw.push("never.holds.named", blob),
        "push with options": lambda: zw.push(DURABLE, blob, delay=3_600.0, headers={"a": "b"}),
        "push_all": lambda: zw.push_all(DURABLE, [blob] * 3).done(),
        "receipt": lambda: (receipt.done(), receipt.state, receipt.id, receipt.handled.done(), repr(receipt)),
        "add_done_callback": lambda: receipt.add_done_callback(lambda over: None),
        "withdraw": receipt.withdraw,
        "status": zw.status,
        "publish": lambda: (zw.publish(topic, blob).done(), zw.publish(topic, blob)),
        "publish with options": lambda: zw.publish(EVENTS, blob, retain=True, headers={"a": "b"}),
        "subscribe": lambda: zw.subscribe(topic, replay=1).cancel(),
        "subscribers": lambda: (len(zw.subscribers(EVENTS)), zw.subscribers(topic).at_least(1).done()),
        "publishers": lambda: (len(zw.publishers(EVENTS)), zw.publishers(topic).at_least(1).done()),
        "request": lambda: zw.request(ASKED, blob, timeout=0.1).cancel(),
        "request by name": lambda: zw.request(topic, blob, timeout=0.1, key="a").done(),
        "stream": lambda: zw.stream(STREAMED, blob, timeout=0.1).cancel(),
        "map": lambda: zw.map(ASKED, [blob] * 3, timeout=0.1).cancel(),
        "workers": lambda: (len(zw.workers(DURABLE)), zw.workers(DURABLE).at_least(1).done()),
        "listen": lambda: zw.listen(object, print)(),
        "repr": lambda: repr(zw),
    }


class Stall:
    """A disk whose commits stand still while `moves` is not set; stands: one does."""

    def __init__(self) -> None:
        self.moves, self.stands = threading.Event(), threading.Event()
        self.moves.set()

    def wait(self) -> None:
        if not self.moves.is_set():
            self.stands.set()
            self.moves.wait(60)


@pytest.fixture
def stalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stall]:
    stall, commit = Stall(), Database.commit

    def commit_when_it_moves(database: Database) -> None:
        stall.wait()
        commit(database)

    monkeypatch.setattr(Database, "commit", commit_when_it_moves)
    yield stall
    stall.moves.set()


async def waits_of(zw: Client, rounds: int) -> Counter[str]:
    """How often each verb made this thread sleep, called so often."""
    waited = Counter[str]()
    for number in range(rounds):
        for name, call in calls(zw, BLOBS[number % len(BLOBS)]).items():
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
            with suppress(QueueFull):
                call()
            waited[name] += resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before
        await asyncio.sleep(0)  # each call may have a turn of the loop for itself
    return waited


@pytest.mark.skipif(not hasattr(resource, "RUSAGE_THREAD"), reason="only Linux counts the waits of a thread")
@pytest.mark.asyncio
async def test_no_call_waits_although_the_disk_and_the_network_thread_stand_still(
    settings: Settings, stalled: Stall
) -> None:
    # Given a client whose store thread stands in a commit, and whose network thread is held as well: so hardly anybody
    # else of this process wants the interpreter, and whatever waits is seen to.
    zw, held, is_held = Client("never-holds", settings=settings), threading.Event(), threading.Event()

    def hold() -> None:
        is_held.set()
        held.wait(60)

    await zw.push(DURABLE, b"")
    zw.push(MEMORY, b"")
    await wait_until_in_loop(lambda: not zw.status().unknown, within=10)
    stalled.moves.clear()
    zw.push(DURABLE, b"")
    zw._open().node.call(hold)
    await wait_until_in_loop(lambda: stalled.stands.is_set() and is_held.is_set(), within=10)
    # When everything is called that there is
    rounds, began = 100, time.monotonic()
    waited = await waits_of(zw, rounds)
    # A page of memory or the machine may take one of a hundred; a thread that wants the interpreter at that moment, a
    # few more of one verb. What waits by itself does so each time.
    for _ in range(2):
        if max(waited.values()) > rounds / 10:
            waited &= await waits_of(zw, rounds)
    took = time.monotonic() - began
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    closing = zw.close(0)
    waited["close"] = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before
    # Then none of it went to sleep.
    held.set()
    stalled.moves.set()
    await closing
    assert {name: times for name, times in waited.items() if times > rounds / 10} == {}
    assert took < 30, "a status alone waits half a second, were it on a thread"


@pytest.mark.asyncio
async def test_on_an_event_loop_a_status_does_not_wait_and_knows_at_the_next_look(settings: Settings) -> None:
    async with Client("looking", settings=settings) as zw:
        await zw.push(DURABLE, b"")
        first = zw.status()
        assert [(each.waiting, each.oldest_at) for each in first.boxes[0].channels] == [(1, None)]
        assert [words.split(":")[0] for words in first.unknown] == ["oldest of outbox looking"]
        await wait_until_in_loop(lambda: not zw.status().unknown, within=10)
        assert zw.status().boxes[0].channels[0].oldest_at is not None
        await zw.close(0)


@pytest.mark.asyncio
async def test_what_an_event_loop_pushes_in_memory_wakes_the_network_thread(settings: Settings) -> None:
    async with Client("waking", settings=settings) as zw:
        for _ in range(20):
            receipt = zw.push(MEMORY, b"")
            await wait_until_in_loop(lambda receipt=receipt: receipt.id != "", within=5)  # type: ignore[misc]
        await zw.close(0)


def test_no_call_touches_a_file_or_a_socket_on_the_thread_that_makes_it(settings: Settings) -> None:
    # An audit hook stays for ever: so in a process of its own.
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(settings.home), settings.namespace],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


WATCHED = """
import asyncio, os, random, sys, threading
import tests.integration.test_never_holds as here
from zerowait import Client, Settings
from zerowait.outbox.database import Database

caller, watching, seen = threading.get_ident(), False, []

def note(what):
    if watching and threading.get_ident() == caller:
        seen.append(what)

IO = ("open", "os.", "import", "socket.", "sqlite3.", "shutil.", "tempfile.", "fcntl.", "subprocess.", "pathlib.")
sys.addaudithook(lambda event, args: note((event, args)) if event.startswith(IO) else None)

def watched(owner, name):
    real = getattr(owner, name)
    def call(*args, **kwargs):
        note((name, args[:1]))
        return real(*args, **kwargs)
    setattr(owner, name, call)

# What is not audited: what touches an open file, and what looks at names.
for name in ("write", "read", "fsync", "fdatasync", "stat", "lstat", "pread", "pwrite", "close", "unlink", "access"):
    watched(os, name)
for name in ("one", "rows", "commit", "insert", "checkpoint", "begin"):
    watched(Database, name)
# What gives the interpreter up, to come back after 5 ms for each busy thread.
watched(os, "urandom")
watched(random, "_urandom")

async def main():
    global watching
    loop = asyncio.get_running_loop()
    async def turn():
        global watching
        watching = False
        await asyncio.sleep(0.01)
        watching = True
    settings = Settings(home=sys.argv[1], namespace=sys.argv[2])
    first_verbs = {
        "push": lambda zw: zw.push(here.DURABLE, b""),
        "again": lambda zw: zw.push(here.DURABLE, b""),
        "publish": lambda zw: zw.publish(here.EVENTS, b""),
        "subscribe": lambda zw: zw.subscribe(here.EVENTS),
        "request": lambda zw: zw.request(here.ASKED, b""),
        "map": lambda zw: zw.map(here.ASKED, [b""]),
        "workers": lambda zw: len(zw.workers(here.DURABLE)),
        "subscribers": lambda zw: len(zw.subscribers(here.EVENTS)),
    }
    for name, verb in first_verbs.items():
        zw = Client(name, settings=settings)
        watching = True
        first = verb(zw)                         # the first verb: everything is opened behind it
        second = zw.push(here.DURABLE, b"")
        zw.push(here.MEMORY, b"")
        watching = False
        await second
        for blob in here.BLOBS * 5:
            watching = True
            for what, call in here.calls(zw, blob).items():
                call()
            await turn()
        watching = True
        loading = asyncio.ensure_future(_all(zw))
        watching = False
        await loading
        watching = True
        closing = zw.close(0)
        watching = False
        await closing

async def _all(zw):
    return await zw.push_all(here.DURABLE, [b""] * 100)

asyncio.run(main())
assert not seen, seen[:10]
"""


def test_the_network_thread_reads_nothing_of_durable_groups(settings: Settings) -> None:
    """Whether it meets one before anything is published, or looks for who has not subscribed."""
    done = subprocess.run(
        [sys.executable, "-c", GROUPED, str(settings.home), settings.namespace],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


GROUPED = """
import sys, threading
from pathlib import Path
from tests.waiting import wait_until
from zerowait import App, Client, Settings, Topic
from zerowait.engines.brokerless import topical
from zerowait.topics.groups import folder_of, remembered

topical.LONELY_S = 0.1
settings = Settings(home=sys.argv[1], namespace=sys.argv[2])
folder = folder_of(Path(sys.argv[1]), sys.argv[2], "bank")
seen, touched = [], []

def note(event, args):
    if any(str(folder) in str(arg) for arg in args):
        (seen if threading.current_thread().name.startswith("zerowait network") else touched).append((event, args))

sys.addaudithook(note)
ORDERS, got = Topic[int]("orders.>"), []
billing = App("billing", settings=settings)

@billing.subscribe(ORDERS, group="billing", durable=True)
def bill(order: int) -> None:
    got.append(order)

for life in range(2):
    with billing, Client("bank", settings=settings) as bank:
        bank.subscribers(ORDERS).at_least(1).result(10)   # announced, and nothing is published yet
        wait_until(lambda: list(remembered(folder)) == ["orders.>@billing"], within=10)
        assert bank.publish(ORDERS.at("new"), life).result(10) == 1
        bank.publish("news.today", life).result(10)       # which nobody has subscribed to
        node = bank._open().node
        wait_until(lambda: "news.today" in node.topical._heard, within=10)
        wait_until(lambda: len(got) > life, within=10)
assert got == [0, 1], got
assert touched
assert not seen, seen
"""
