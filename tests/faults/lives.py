"""The programs whose processes are killed: a sender that pushes, and a worker that handles. They use zerowait as
anybody does, and write down what they did (`history`). `python -m tests.faults.lives PLAN` is one such life.

SIGUSR1 ends a sender's pushing, SIGTERM its life; SIGUSR2 has it write into its log where its threads are.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from tests.faults.history import History, Kind, hash_of, payload
from tests.faults.plan import Plan
from zerowait import App, Client, Context, PushChannel, Settings, serving
from zerowait.errors import OutcomeUnknown, ZerowaitError
from zerowait.pending import Pending
from zerowait.receipts import Receipt

# A child of the nursery shall begin at once: what is imported at first use is imported before it is born.
for _early in ("opening", "estate", "telling", "handlers.stage", "engines.brokerless.node", "outbox.keeper"):
    with suppress(ImportError):
        __import__(f"zerowait.{_early}")

CLONE_NEWNET = 0x40000000


class Item(msgspec.Struct):
    sender: int
    number: int
    blob: bytes


CHANNEL = PushChannel[Item]("faults")
SECOND = PushChannel[Item]("faults.second")
THIRD = PushChannel[Item]("faults.third")
ARRIVED = "arrived"  # in the folder of histories: number, and id of the message, of all that the last stage has handled
PARTS = 2  # of each message there


def in_handler() -> None:
    """A place for a named point."""


def after_handler() -> None:
    """A place for a named point."""


def live(plan: Plan) -> None:
    """One life, to its end."""
    for name in [name for name in os.environ if name.startswith("ZEROWAIT_")]:
        del os.environ[name]
    logging.basicConfig(format="%(relativeCreated)d %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    if plan.network is not None:
        enter_network(plan.network)
    if plan.role == "host":
        leave_network()
        signal.pause()
        return
    if plan.point:
        from tests.faults.points import arm

        arm(plan.point, plan.nth)
    history = History(Path(plan.folder), os.getpid())
    settings = Settings(**plan.settings)
    if plan.role == "sender":
        send(plan, settings, history)
    elif plan.role == "stage":
        serve_stage(plan, settings, history)
    else:
        serve(plan, settings, history)
    history.note(Kind.LEFT)


def send(plan: Plan, settings: Settings, history: History) -> None:
    stop, end = signal.SIGUSR1, signal.SIGTERM
    signal.pthread_sigmask(signal.SIG_BLOCK, {stop, end})  # before there are threads: they are taken below
    zw = Client("faults-sender", settings=settings)
    number, told = 0, 0
    while not told and (plan.count is None or number < plan.count):
        blob = payload(plan.sender, number, plan.most_bytes)
        taken = push(zw, history, Item(plan.sender, number, blob))
        number += 1
        pause = plan.pace if taken else 0.05
        if pause or number % 64 == 0:
            told = told_within(pause)
    history.note(Kind.READY)
    while told != end:
        told = told_within(60)
    zw.close().result()


def told_within(seconds: float) -> int:
    """The signal that has come; 0: none."""
    signals = {signal.SIGUSR1, signal.SIGTERM}
    came = signal.sigtimedwait(signals, seconds)
    # Stopped and continued beyond its time-out, Python's sigtimedwait gives what is no signal.
    return came.si_signo if came is not None and came.si_signo in signals else 0


def push(zw: Client, history: History, item: Item) -> bool:
    sender, number, hash = item.sender, item.number, hash_of(item.blob)
    history.note(Kind.ATTEMPT, sender, number, hash)
    try:
        receipt = zw.push(CHANNEL, item)
    except ZerowaitError as error:
        history.note(Kind.REFUSED, sender, number, hash)
        logging.getLogger("faults").info("%d was refused: %s", number, error)
        return False

    def stored(over: Receipt) -> None:
        match over.exception():
            case None:
                history.note(Kind.ACCEPTED, sender, number, hash)
            case OutcomeUnknown():
                history.note(Kind.UNKNOWN, sender, number, hash)
            case error:  # its outbox could never be opened
                history.note(Kind.REFUSED, sender, number, hash)
                logging.getLogger("faults").info("%d was given back: %s", number, error)

    receipt.add_done_callback(stored)

    def handled(over: Pending[None]) -> None:
        if over.exception() is None:
            history.note(Kind.SETTLED, sender, number, hash)

    receipt.handled.add_done_callback(handled)
    return True


def serve(plan: Plan, settings: Settings, history: History) -> None:
    app = App("faults-worker", settings=settings)

    @app.pull(CHANNEL, concurrency=plan.concurrency, inbox=plan.inbox)
    async def handle(item: Item, ctx: Context) -> None:
        hash = hash_of(item.blob)
        history.note(Kind.STARTED, item.sender, item.number, hash, ctx.attempt)
        in_handler()
        if item.number == plan.block_at and ctx.attempt == 1:
            time.sleep(plan.block_s)  # noqa: ASYNC251 (the fault)
        if plan.seconds:
            await asyncio.sleep(plan.seconds)
        history.note(Kind.HANDLED, item.sender, item.number, hash, ctx.attempt)
        after_handler()

    serving.run(app, lambda started: history.note(Kind.READY))


def serve_stage(plan: Plan, settings: Settings, history: History) -> None:
    """The first sends each message on by its context, the second makes parts of it, the third writes them down."""
    app = App(f"faults-stage{plan.stage}", settings=settings)

    if plan.stage == 1:

        @app.pull(CHANNEL, concurrency=plan.concurrency, inbox=plan.inbox)
        async def forward(item: Item, ctx: Context) -> None:
            ctx.push(SECOND, item)
            if plan.seconds:
                await asyncio.sleep(plan.seconds)

    elif plan.stage == 2:

        @app.pull(SECOND, to=THIRD, concurrency=plan.concurrency, inbox=plan.inbox)
        def part(item: Item) -> Iterator[Item]:
            for n in range(PARTS):
                yield Item(item.sender, item.number * PARTS + n, b"")

    else:
        arrived = os.open(Path(plan.folder) / ARRIVED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

        @app.pull(THIRD, concurrency=plan.concurrency, inbox=plan.inbox)
        async def arrive(item: Item, ctx: Context) -> None:
            os.write(arrived, f"{item.sender} {item.number} {ctx.id}\n".encode())

    serving.run(app, lambda started: history.note(Kind.READY))


# -- networks ----------------------------------------------------------------------------------------------------------


def enter_network(pid: int) -> None:
    """To live in that process's network namespace. Before there are threads."""
    with open(f"/proc/{pid}/ns/net", "rb") as there:
        _call("setns", there.fileno(), CLONE_NEWNET)


def leave_network() -> None:
    """To a network namespace of our own, which ends with us and whoever has entered it."""
    _call("unshare", CLONE_NEWNET)


def _call(name: str, *args: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*args):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    from tests.faults.nursery import die_with_parent

    die_with_parent()
    live(msgspec.json.decode(sys.argv[1], type=Plan))
