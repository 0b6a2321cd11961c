"""Between two openings of an outbox that fails and comes back, or that a worker has fenced (rules §1.2, §2.7).

An outbox leaves out what comes for an opening that is over: the next has been offered these messages as they were, and
decides about them anew. Workers say again how something ended, and time passes again; who is suspect, and what was
asked to be dropped, nobody says twice, so that is carried over. Said twice, it changes nothing."""

from __future__ import annotations

from zerowait.engines.brokerless.protocol.effects import Effects, Ticket
from zerowait.engines.brokerless.protocol.owner.custody import Custody
from zerowait.engines.brokerless.protocol.owner.trial import Trial
from zerowait.message import Mark, Settle, Verdict


class Openings:
    """fences: outboxes that are to be opened above that epoch, and are nobody's until then."""

    def __init__(self, effects: Effects, trial: Trial) -> None:
        self.fences: dict[int, int] = {}
        self._effects = effects
        self._trial = trial
        self._undecided: dict[int, list[Ticket]] = {}

    def over(self, box: int, tickets: list[Ticket]) -> None:
        """An opening has ended, and these were not durable."""
        self._undecided[box] = tickets

    def begins(self, custody: Custody) -> None:
        """The next one, before it is offered anything."""
        self.fences.pop(custody.box, None)
        for before in self._undecided.pop(custody.box, ()):
            self._decide_again(custody, before)

    def forget(self, box: int) -> None:
        """It is ours no more."""
        self.fences.pop(box, None)
        self._undecided.pop(box, None)

    def _decide_again(self, custody: Custody, before: Ticket) -> None:
        for change in before.changes:
            if isinstance(change, Mark):
                self._trial.mark_again(custody, change)
            elif isinstance(change, Settle) and change.verdict is Verdict.DROPPED:
                gone = custody.vanish(change.epoch, change.first, change.count, Verdict.DROPPED)
                ticket = self._effects.commit(custody.box, [gone])
                ticket.phantoms.append((change.epoch, change.first, change.count))
        if before.withdrawn:
            self._effects.ticket(custody.box).withdrawn.extend(before.withdrawn)
