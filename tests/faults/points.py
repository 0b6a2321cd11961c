"""Named points at which a process kills itself, in the product but unknown to it.

In the process that is to die, before it begins, the function at that point is replaced by one that dies at the n-th
passage, before or after doing what it does. Nothing here is reached in any other process.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.faults import lives
from zerowait.engines.brokerless.node import Node
from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.owner.choices import Choices
from zerowait.engines.brokerless.protocol.owner.owner import Owner
from zerowait.engines.brokerless.protocol.worker.claims import Claims
from zerowait.engines.brokerless.protocol.worker.outcomes import Outcomes
from zerowait.engines.brokerless.protocol.worker.worker import Worker
from zerowait.engines.brokerless.wire import Wire
from zerowait.handlers.crew import Crew
from zerowait.handlers.stage import Stage
from zerowait.message import Verdict
from zerowait.outbox import outbox
from zerowait.outbox.claims import Claiming
from zerowait.outbox.database import Database
from zerowait.outbox.outbox import Outbox

Die = Callable[[], None]
Test = Callable[..., bool]

LEFT_S = 0.02  # in which what ZeroMQ was given has left


def arm(point: str, nth: int) -> None:
    """This process dies at the n-th passage of that point."""
    passages = iter(range(1, nth + 1))
    lock = threading.Lock()

    def die() -> None:
        with lock:
            if next(passages, nth) >= nth:
                os.kill(os.getpid(), signal.SIGKILL)

    (POINTS | CHAIN_POINTS)[point](die)


def _always(*args: Any, **options: Any) -> bool:
    return True


def _before(owner: Any, name: str, die: Die, when: Test = _always) -> None:
    real = getattr(owner, name)

    def armed(*args: Any, **options: Any) -> Any:
        if when(*args, **options):
            die()
        return real(*args, **options)

    setattr(owner, name, armed)


def _after(owner: Any, name: str, die: Die, when: Test = _always, *, pause: float = 0.0) -> None:
    real = getattr(owner, name)

    def armed(*args: Any, **options: Any) -> Any:
        given = real(*args, **options)
        if when(*args, **options):
            time.sleep(pause)
            die()
        return given

    setattr(owner, name, armed)


def _is(kind: type[object]) -> Test:
    """Of Wire.send: whether such a frame is sent."""

    def test(wire: Wire, conn: int, data: bytes) -> bool:
        try:
            return isinstance(frames.decode(data), kind)
        except frames.ProtocolError:  # a HELLO
            return False

    return test


def _durable(box: Outbox, *args: object) -> bool:
    return box.durable


def _has_new(box: Outbox, attempt: Any) -> bool:
    return box.durable and bool(attempt.fresh)


def _settles(box: Outbox, attempt: Any) -> bool:
    return box.durable and bool(attempt.settlement.messages)


def _is_handled(outcomes: Outcomes, box: int, verdict: Verdict, *rest: object) -> bool:
    return verdict is Verdict.HANDLED


def _takes_over(node: Node, box: Any, types: Any = None, **options: Any) -> bool:
    return bool(box.durable and box.noted)


def _says(verdict: Verdict) -> Test:
    """Of Wire.send: whether an OUTCOME with outputs, or of outputs that have left, is sent."""

    def test(wire: Wire, conn: int, data: bytes) -> bool:
        try:
            frame = frames.decode(data)
        except frames.ProtocolError:
            return False
        return isinstance(frame, frames.Outcome) and bool(frame.outputs) and frame.verdict == verdict

    return test


def _keeps(claiming: Claiming, *args: object) -> bool:
    return bool(claiming._kept)


def _has_kept(box: Outbox, attempt: Any) -> bool:
    return box.durable and bool(attempt.claiming._kept)


def _has_released(box: Outbox, attempt: Any) -> bool:
    return box.durable and bool(attempt.claiming.released)


def _has_chosen(box: Outbox, attempt: Any) -> bool:
    return box.durable and bool(attempt.choosing._made)


def _check_often() -> None:
    """So that a short life has some."""
    for name in ("WAL_IDLE_PAGES", "WAL_MOST_PAGES"):
        setattr(outbox, name, 8)


def _in_checkpoint(die: Die) -> None:
    """A checkpoint is one long call: a thread kills meanwhile."""
    _check_often()
    real = Database.checkpoint

    def armed(self: Database, **options: bool) -> None:
        begun = threading.Event()

        def kill() -> None:
            begun.wait()
            die()

        thread = threading.Thread(target=kill)
        thread.start()
        begun.set()
        real(self, **options)
        thread.join()

    Database.checkpoint = armed  # type: ignore[method-assign]


def _after_checkpoint(die: Die) -> None:
    _check_often()
    _after(Database, "checkpoint", die)


def _opened_again(die: Die) -> None:
    """Its new epoch is on disk, and nobody has been told."""
    real = Outbox.open.__func__  # type: ignore[attr-defined]

    def armed(cls: type[Outbox], path: Any, *args: Any, **options: Any) -> Outbox:
        box: Outbox = real(cls, path, *args, **options)
        if path is not None and box.noted:
            die()
        return box

    Outbox.open = classmethod(armed)  # type: ignore[method-assign,assignment]


POINTS: dict[str, Callable[[Die], None]] = {
    "sender before append": lambda die: _before(Outbox, "_insert", die, _durable),
    "sender after append": lambda die: _after(Outbox, "_insert", die, _durable),
    "sender after commit": lambda die: _before(Outbox, "_apply", die, _has_new),
    "sender gave the frame to ZeroMQ": lambda die: _after(Wire, "send", die, _is(frames.Batch)),
    "sender after the frame left": lambda die: _after(Wire, "send", die, _is(frames.Batch), pause=LEFT_S),
    "sender on outcome": lambda die: _before(Owner, "_outcome", die),
    "sender settled in its file": lambda die: _before(Outbox, "_apply", die, _settles),
    "sender before CONFIRM": lambda die: _before(Owner, "committed", die),
    "sender after CONFIRM left": lambda die: _after(Wire, "send", die, _is(frames.Confirm), pause=LEFT_S),
    "sender during checkpoint": _in_checkpoint,
    "sender after checkpoint": _after_checkpoint,
    "sender adopting, its epoch raised": _opened_again,
    "sender adopting, its outbox announced": lambda die: _after(Node, "own", die, _takes_over),
    "worker after receive": lambda die: _before(Worker, "_batch", die),
    "worker admitted": lambda die: _after(Worker, "_batch", die),
    "worker before handler": lambda die: _before(Crew, "_begin", die),
    "worker in handler": lambda die: _before(lives, "in_handler", die),
    "worker after handler": lambda die: _before(lives, "after_handler", die),
    "worker outcome remembered": lambda die: _before(Outcomes, "tell", die, _is_handled),
    "worker gave the outcome to ZeroMQ": lambda die: _after(Wire, "send", die, _is(frames.Outcome)),
    "worker after the outcome left": lambda die: _after(Wire, "send", die, _is(frames.Outcome), pause=LEFT_S),
    "worker draining, handed back": lambda die: _after(Worker, "leave", die),
    "worker drained": lambda die: _before(Stage, "close", die),
}

# Of a chain. "stage": in the process whose handler sends; "owner": in the one that has pushed what is handled there.
CHAIN_POINTS: dict[str, Callable[[Die], None]] = {
    "stage: prepared, not committed": lambda die: _after(Claiming, "write", die, _keeps),
    "stage: prepared, on its disk": lambda die: _before(Outbox, "_apply", die, _has_kept),
    "stage: after its claim left": lambda die: _after(Wire, "send", die, _says(Verdict.HANDLED), pause=LEFT_S),
    "stage: on CONFIRM": lambda die: _before(Claims, "confirm", die),
    "stage: accepted, on its disk": lambda die: _before(Outbox, "_apply", die, _has_released),
    "stage: after `released` left": lambda die: _after(Wire, "send", die, _says(Verdict.RELEASED), pause=LEFT_S),
    "owner: on a claim": lambda die: _before(Choices, "choose", die),
    "owner: has chosen, on its disk": lambda die: _before(Outbox, "_apply", die, _has_chosen),
    "owner: after CONFIRM left": lambda die: _after(Wire, "send", die, _is(frames.Confirm), pause=LEFT_S),
    "owner: on `released`": lambda die: _before(Choices, "release", die),
}
