"""What lies in the outboxes of a process: looked at by any thread, while their own go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from zerowait.outbox.intake import Intake
from zerowait.outbox.ledger import Ledger
from zerowait.outbox.outbox import Outbox
from zerowait.outbox.staying import Staying, staying

NEVER = 1 << 62  # an epoch that none reaches


class Inventory:
    """boxes: those that are open. intakes: of our own, whatever is open. ask: runs something on the thread that owns
    that outbox."""

    def __init__(
        self,
        boxes: Callable[[], Sequence[Outbox]],
        intakes: Callable[[], Sequence[Intake]],
        ask: Callable[[Outbox, Callable[[], Any]], Future[Any]],
    ) -> None:
        self._boxes = boxes
        self._intakes = intakes
        self._ask = ask
        self._disk: Outbox | None = None
        self._first_epoch = 0  # of that one, in this life
        self._memory_id = 0
        self._oldest: dict[int, Future[dict[str, int]]] = {}  # what `oldest_known` has asked, and was told
        self._oldest_known: dict[int, dict[str, int]] = {}

    def opened_own(self, box: Outbox) -> None:
        """One of our own is open, for the first time or again; under the lock of who opens."""
        if box.durable:
            self._disk, self._first_epoch = box, self._first_epoch or box.epoch
        else:
            self._memory_id = box.id

    def forget(self, box: Outbox) -> None:
        """It is given back; likewise."""
        self._oldest.pop(box.id, None)
        self._oldest_known.pop(box.id, None)

    def ledgers(self) -> list[Ledger]:
        return [box.ledger for box in self._boxes()]

    def oldest_known(self, box: Outbox) -> dict[str, int] | None:
        """What `Outbox.oldest` gave when it was asked here last, and asks once more; None: nothing yet. Any thread,
        and none waits."""
        asked = self._oldest.get(box.id)
        if asked is not None and not asked.done():
            return self._oldest_known.get(box.id)
        if asked is not None and asked.exception() is None:
            self._oldest_known[box.id] = asked.result()
        self._oldest[box.id] = self._ask(box, box.oldest)
        return self._oldest_known.get(box.id)

    def waiting(self) -> set[str]:
        """Channels of which something has been accepted and is not settled. Any thread."""
        accepted = (channel for intake in self._intakes() for channel in intake.counts())
        return {*accepted, *(channel for ledger in self.ledgers() for channel in ledger.unsettled())}

    def is_stored(self) -> bool:
        """Whether everything that was accepted has reached its outbox."""
        return not any(intake.counts() for intake in self._intakes())

    def accepted(self) -> int:
        """How many messages have ever been accepted by the outboxes that are open. Any thread."""
        return sum(row.accepted for ledger in self.ledgers() for row in ledger.rows().values())

    def is_choosing(self) -> bool:
        """Whether what handlers have sent waits until it is known whose runs were chosen, here or elsewhere."""
        return any(box.prepared() or box.stubs() for box in self._boxes())

    def is_new(self, id: str) -> bool:
        """Whether this life has accepted the message of that name."""
        box, _, rest = id.partition("-")
        mine = self._disk
        if mine is None or int(box, 16) != mine.id:
            return int(box, 16) == self._memory_id
        return int(rest.partition("-")[0], 36) >= self._first_epoch

    def staying(self) -> list[tuple[Outbox, Future[dict[str, Staying]]]]:
        """For each outbox on disk in which something waits or is in flight: what that is. What this life has accepted
        itself lies in our own, in epochs from its first on."""
        boxes = [box for box in self._boxes() if box.durable and box.ledger.unsettled()]
        mine = self._disk
        return [
            (box, self._ask(box, partial(staying, box, self._first_epoch if box is mine else NEVER))) for box in boxes
        ]

    def is_settled(self) -> bool:
        """Whether nothing is left to deliver, and nobody will ask whose outputs were chosen."""
        return not any(box.ledger.unsettled() or box.stubs() for box in self._boxes())
