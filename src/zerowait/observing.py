"""Looking in: the status of this process, and the questions of the command line. Reads; what it changes, it is told
to."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from zerowait.errors import ZerowaitError
from zerowait.outbox.answering import box_status, letters_answer
from zerowait.snapshot import Answer, BoxStatus, ChannelStatus, PeerStatus, Question, ServedStatus, Status

if TYPE_CHECKING:
    from zerowait.opening import Opened
    from zerowait.outbox.intake import Intake

log = logging.getLogger("zerowait")


def status_of(opened: Opened, oldest: dict[int, int | None] | None = None) -> Status:
    """oldest: outbox → when its oldest unsettled message was accepted, where that was asked for (it costs a look into
    the file)."""
    from zerowait import __version__

    node = opened.node
    is_open = node.counter is not None
    core = node.core if is_open else None
    serves = core.worker.services.values() if core is not None else ()
    return Status(
        name=opened.name,
        instance=f"{node.instance:016x}",
        pid=os.getpid(),
        version=__version__,
        started_at=opened.started_at,
        namespace=opened.settings.namespace,
        state="starting" if core is None else "draining" if core.worker.draining else "running",
        boxes=[
            *(box_status(box, node.in_flight(box.id), (oldest or {}).get(box.id)) for box in opened.estate.boxes()),
            *(_unopened(opened, intake) for intake in opened.estate.unopened()),
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
            for peer in (node.call(node.peers).result(5.0) if is_open else ())
        ],
        serves=[
            ServedStatus(
                channel=service.channel,
                concurrency=service.concurrency,
                running=core.worker.desk.running(service.channel) if core is not None else 0,
                queued=core.worker.desk.queued(service.channel) if core is not None else 0,
            )
            for service in serves
        ],
    )


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
        oldest = {box.id: estate.ask(box, box.oldest).result(5.0) for box in boxes}
        return msgspec.to_builtins(status_of(opened, oldest))
    if question.verb == "outbox.deliver":
        named = [box for box in boxes if box.name == args.get("name")]
        return sum(row.waiting_and_in_flight for box in named for row in box.ledger.rows().values())
    answers = [estate.ask(box, partial(letters_answer, box, question)).result(30.0) for box in boxes]
    if question.verb == "dead.show":
        return next((letter for letter in answers if letter is not None), None)
    return [found for each in answers for found in each]
