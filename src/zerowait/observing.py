"""Looking in: the status of this process, and the questions of the command line. Reads; what it changes, it is told
to."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from zerowait.errors import ZerowaitError
from zerowait.outbox.answering import box_status, letters_answer
from zerowait.snapshot import Answer, BoxStatus, ChannelStatus, PeerStatus, Question, ServedStatus, Status

if TYPE_CHECKING:
    from zerowait.engines.brokerless.node import PeerView
    from zerowait.opening import Opened
    from zerowait.outbox.intake import Intake
    from zerowait.outbox.outbox import Outbox

log = logging.getLogger("zerowait")
T = TypeVar("T")

PATIENCE_S = 0.5  # a turn takes milliseconds, an fsync of a slow disk some hundred


def status_of(opened: Opened) -> Status:
    """Any thread but the network's and the store's. What those two do not say within PATIENCE_S is left away, and said
    to be unknown."""
    from zerowait import __version__

    node, estate = opened.node, opened.estate
    is_open = node.counter is not None
    core = node.core if is_open else None
    serves = core.worker.services.values() if core is not None else ()
    refused = opened.plain.refused()
    # All are asked before any is waited for: a thread that is in the middle of something costs its time once.
    boxes = estate.boxes()
    asked = [estate.ask(box, box.oldest) for box in boxes]
    views: Future[list[PeerView]] | None = node.call(node.peers) if is_open else None
    waiting = _Waiting()
    peers = waiting.for_(views, "its peers", "the network thread") if views is not None else None
    oldest = [
        waiting.for_(each, f"oldest of outbox {box.name}", _owner(box)) for box, each in zip(boxes, asked, strict=True)
    ]
    return Status(
        name=opened.name,
        instance=f"{node.instance:016x}",
        pid=os.getpid(),
        version=__version__,
        started_at=opened.started_at,
        namespace=opened.settings.namespace,
        state="starting" if core is None else "draining" if core.worker.draining else "running",
        boxes=[
            *(box_status(box, node.in_flight(box.id), at or {}) for box, at in zip(boxes, oldest, strict=True)),
            *(_unopened(opened, intake) for intake in estate.unopened()),
        ],
        peers=[
            PeerStatus(
                name=peer.name,
                instance=f"{peer.instance:016x}",
                pid=peer.pid if peer.is_local else None,
                address=peer.address,
                state=peer.state,
                serves=list(peer.serves),
                in_flight=peer.in_flight,
                silent_for_s=peer.silent_for_s,
                mismatches=peer.mismatches,
            )
            for peer in peers or ()
        ],
        serves=[
            ServedStatus(
                channel=service.channel,
                concurrency=service.concurrency,
                running=core.worker.desk.running(service.channel) if core is not None else 0,
                queued=core.worker.desk.queued(service.channel) if core is not None else 0,
                refused=refused.get(service.channel, 0),
            )
            for service in serves
        ],
        unknown=waiting.unknown,
    )


class _Waiting:
    """For answers of other threads, PATIENCE_S for all of them together."""

    def __init__(self) -> None:
        self._until = time.monotonic() + PATIENCE_S
        self.unknown: list[str] = []

    def for_(self, asked: Future[T], what: str, who: str) -> T | None:
        try:
            return asked.result(max(0.0, self._until - time.monotonic()))
        except TimeoutError:
            self.unknown.append(f"{what}: {who} is busy and did not answer within {PATIENCE_S:g} s; ask again")
        except ZerowaitError as error:
            self.unknown.append(f"{what}: {error}")
        return None


def _owner(box: Outbox) -> str:
    return "the store thread" if box.durable else "the network thread"


def _unopened(opened: Opened, intake: Intake) -> BoxStatus:
    """What is accepted while its outbox is still being opened: it waits."""
    counts = intake.counts()
    channels = [ChannelStatus(channel=c, accepted=n, waiting=n) for c, n in sorted(counts.items())]
    return BoxStatus(id="", name=opened.name, path=None, durable=intake.durable, channels=channels)


def answer(opened: Opened, body: bytes, reply: Callable[[bytes], None]) -> None:
    """A question that came over the local socket. Called on the network thread, which must not wait: a thread does."""
    import threading

    def work() -> None:
        try:
            question = msgspec.msgpack.decode(body, type=Question)
            said = Answer(True, _answer(opened, question))
        except ZerowaitError as error:
            said = Answer(False, error=str(error))
        except Exception as error:
            log.exception("a question of the command line could not be answered")
            said = Answer(False, error=f"{type(error).__name__}: {error}")
        reply(msgspec.msgpack.encode(said))

    threading.Thread(target=work, name="zerowait answering", daemon=True).start()


def _answer(opened: Opened, question: Question) -> Any:
    estate, args = opened.estate, question.args
    boxes = estate.boxes()
    if question.verb == "status":
        return msgspec.to_builtins(status_of(opened))
    if question.verb == "outbox.deliver":
        named = [box for box in boxes if box.name == args.get("name")]
        return sum(row.waiting_and_in_flight for box in named for row in box.ledger.rows().values())
    answers = [estate.ask(box, partial(letters_answer, box, question)).result(30.0) for box in boxes]
    if question.verb == "dead.show":
        return next((letter for letter in answers if letter is not None), None)
    return [found for each in answers for found in each]
