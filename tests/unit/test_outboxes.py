"""Between the protocol and the outboxes, with outboxes that a test writes down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Literal

import pytest

from tests.protocol import store
from zerowait.engines.brokerless.outboxes import DRAWN_BYTES, Outboxes
from zerowait.engines.brokerless.protocol.config import Config, Identity
from zerowait.engines.brokerless.protocol.core import Core
from zerowait.engines.brokerless.protocol.effects import PATIENCE, Dispatched, Returned
from zerowait.message import Again, Bury, Change, Death, Kept, Mark, Marks, Note, Segment, Unstub


def segment(epoch: int, first: int, count: int, seq: int = 0) -> Segment:
    return store.segment("mail", epoch, first, [10] * count, seq=seq)


class Box:
    """Remembers what it is told, and gives what the test has put into `next`."""

    def __init__(self, id: int, *, durable: bool) -> None:
        self.id, self.epoch, self.name, self.durable = id, 5, "tester", durable
        self.noted: Iterable[int] = ()
        self.kept: Iterable[Kept] = ()
        self.next: list[Segment] = []
        self.turns: list[tuple[list[Change], dict[str, int]]] = []
        self.moves: list[tuple[int, int, int, str]] = []
        self.due: float | None = None

    def begin(self) -> list[Segment]:
        given, self.next = self.next, []
        return given

    def turn(self, changes: Sequence[Change], drawn: dict[str, int]) -> list[Segment]:
        self.turns.append((list(changes), drawn))
        return self.begin()

    def next_due(self) -> float | None:
        return self.due

    def moved(self, seq: int, first: int, count: int, state: Literal["sent", "stored"]) -> None:
        self.moves.append((seq, first, count, state))


class Bench:
    def __init__(self, *boxes: Box) -> None:
        self.submitted: list[tuple[int, list[Change], dict[str, int]]] = []
        self.woken = 0
        self.core = Core(
            Identity(instance=1, name="tester"), Config(), lock=nullcontext(), wall_us=lambda now: int(now * 1e6)
        )
        self.outboxes = Outboxes("tester", submit=self._submit, buried=lambda box, bury: None, wake=self._wake)
        self.outboxes.open(self.core)
        for box in boxes:
            self.outboxes.own(box, {})

    def _submit(self, box: int, epoch: int, changes: Sequence[Change], drawn: dict[str, int]) -> int:
        self.submitted.append((box, list(changes), drawn))
        return len(self.submitted)

    def _wake(self) -> None:
        self.woken += 1

    def take(self) -> None:
        self.outboxes.take(self.outboxes.offers())

    def waiting(self, box: Box) -> int:
        return sum(piece.count for piece in self.core.owner.pieces(box.id))


def test_what_an_outbox_offers_waits_in_dispatch_and_what_an_earlier_epoch_offered_does_not() -> None:
    box = Box(1, durable=True)
    bench = Bench(box)
    bench.outboxes.offered(1, 4, [segment(4, 1, 3)], 0)
    bench.outboxes.offered(1, 5, [segment(5, 1, 2)], 0)
    assert (bench.woken, bench.outboxes.has_work(), bench.waiting(box)) == (2, True, 0)
    bench.take()
    assert (bench.outboxes.has_work(), bench.waiting(box)) == (False, 2)


def test_an_outbox_that_came_back_under_a_new_epoch_is_owned_under_it_before_its_offer_counts() -> None:
    box = Box(1, durable=True)
    bench = Bench(box)
    box.epoch = 9
    bench.outboxes.offered(1, 9, [segment(9, 1, 2)], 0)
    bench.take()
    assert bench.core.owner.custody[1].epoch == 9
    assert bench.waiting(box) == 2


def test_who_is_marked_while_its_outbox_comes_back_waits_once() -> None:
    """Seeds 61906 and 62570: what the new opening had read was older than a mark that the old one had sent off, and the
    message waited among the others and alone in its row."""
    # given a mark on its way to the disk, and an outbox that has come back and been read before it
    box = Box(1, durable=True)
    bench = Bench(box)
    ticket = bench.core.effects.commit(1, [Mark("mail", 5, 2, (Death(7),), (), 3)])
    ticket.marked.append((5, 2))
    for each in bench.core.effects.take_tickets():
        bench.outboxes.commit(each)
    box.epoch = 9
    bench.outboxes.offered(1, 9, [segment(5, 1, 3, seq=3)], 0)
    # when that is offered
    bench.take()
    # then it is left out
    assert [(piece.first, piece.count) for piece in bench.core.owner.pieces(1)] == [(1, 1), (3, 1)]
    # until it is offered with its mark
    alone = segment(5, 2, 1, seq=8)
    alone.marks = Marks((Death(7),))
    bench.outboxes.offered(1, 9, [alone], 1)
    bench.take()
    assert sorted(piece.first for piece in bench.core.owner.pieces(1)) == [1, 2, 3]
    assert not bench.core.owner.custody[1].marking


def test_what_waits_for_a_commit_on_disk_is_over_with_the_turn_that_made_it_durable() -> None:
    box = Box(1, durable=True)
    bench = Bench(box)
    for instance in (7, 8):
        bench.core.effects.commit(1, [Note(instance)])
        for ticket in bench.core.effects.take_tickets():
            bench.outboxes.commit(ticket)
    assert [changes for _, changes, _ in bench.submitted] == [[Note(7)], [Note(8)]]
    assert not bench.outboxes.is_at_rest(1)
    bench.outboxes.offered(1, 5, [], 1)
    bench.take()
    assert bench.core.effects.undecided(1) == [Note(8)]
    assert not bench.outboxes.is_at_rest(1)
    bench.outboxes.offered(1, 5, [], 2)
    bench.take()
    assert bench.core.effects.undecided(1) == []
    assert bench.outboxes.is_at_rest(1)


def test_a_letter_that_was_made_while_both_threads_ended_is_told_once() -> None:
    """Without: one push of fifty that died at once was closed as one that nothing waits for."""
    bench, told = Bench(Box(1, durable=True)), list[int]()

    def buried(box: int, bury: Bury) -> None:
        told.append(bury.number)

    bench.outboxes._buried = buried
    letters = [Bury("mail", 5, number, 1) for number in (1, 2, 3)]
    for letter in letters:
        bench.core.effects.commit(1, [letter])
        for ticket in bench.core.effects.take_tickets():
            bench.outboxes.commit(ticket)
    letters[0].is_made = True
    bench.outboxes.offered(1, 5, [], 1)
    bench.take()
    # when the second is made, the third is not, and nobody looks at what the store thread gave last
    letters[1].is_made = True
    bench.outboxes.tell_last_letters()
    bench.outboxes.tell_last_letters()
    assert told == [1, 2]


def test_an_outbox_is_not_at_rest_while_something_of_it_is_put_off() -> None:
    """Without: a file that was taken over is given back with the stub that was to go."""
    bench = Bench(Box(1, durable=True))
    bench.core.wake(10.0)
    bench.core.effects.commit(1, [Unstub(5, 1, 1, 99)], patient=True)
    assert not bench.core.effects
    assert not bench.outboxes.is_at_rest(1)
    bench.core.wake(10.0 + PATIENCE)
    [ticket] = bench.core.effects.take_tickets()
    bench.outboxes.commit(ticket)
    bench.outboxes.offered(1, 5, [], 1)
    bench.take()
    assert bench.outboxes.is_at_rest(1)


def test_what_was_not_taken_in_its_turn_is_due_now_and_not_long_since() -> None:
    """Without: a process that was held up by an error takes itself for one that has slept for ever."""
    bench = Bench(Box(1, durable=True))
    bench.core.wake(10.0)
    bench.core.effects.commit(1, [Note(7)])
    assert bench.core.effects.wake() == 10.0


@pytest.mark.parametrize("durable", [True, False])
def test_what_failed_at_somebody_thought_gone_and_is_due_with_the_commit_waits_again(durable: bool) -> None:
    """Without: it was taken for what had been read before its failure was known, and stood still until a restart."""
    box = Box(1, durable=durable)
    bench = Bench(box)
    # given a change of a message whose row is not in memory
    ticket = bench.core.effects.commit(1, [Again("mail", 5, 2, 0, 0, b"\x80", 0, 4, 9)])
    bench.core.owner.custody[1].absent(5, 2, 1)
    ticket.phantoms.append((5, 2, 1))
    # when the very turn that makes it gives that message, which is due
    again = [store.segment("mail", 5, 2, [10], seq=8, failures=1, due=1)]
    if not durable:
        box.next = again
    for each in bench.core.effects.take_tickets():
        bench.outboxes.commit(each)
    if durable:
        bench.outboxes.offered(1, 5, again, 1)
        bench.take()
    # then it waits
    assert bench.waiting(box) == 1


def test_what_is_begun_in_memory_gets_its_rows_once_with_a_change_or_without() -> None:
    box = Box(1, durable=False)
    bench = Bench(box)
    # given a push of which nothing becomes at once
    box.next = [segment(5, 1, 1)]
    bench.outboxes.pushed()
    bench.outboxes.begin()
    assert bench.waiting(box) == 1
    box.next = [segment(5, 2, 1)]
    assert bench.outboxes.make_rows(), "and what came meanwhile is offered"
    assert (box.turns, bench.waiting(box)) == ([([], {})], 2)
    assert not bench.outboxes.make_rows()
    # and one that leads to a change
    bench.outboxes.pushed()
    bench.outboxes.begin()
    bench.core.effects.commit(1, [Note(7)])
    for ticket in bench.core.effects.take_tickets():
        bench.outboxes.commit(ticket)
    assert not bench.outboxes.make_rows()
    assert box.turns[1:] == [([Note(7)], {})]
    assert bench.core.effects.undecided(1) == []
    assert bench.submitted == []


def test_receipts_move_as_it_is_sent_and_comes_back_and_the_store_thread_learns_what_was_drawn_when_it_is_much() -> (
    None
):
    box = Box(1, durable=True)
    bench = Bench(box)
    sent = segment(5, 1, 4, seq=3)
    bench.outboxes.dispatched(Dispatched(1, sent, 1, 4, DRAWN_BYTES - 1))
    bench.outboxes.tell_drawn()
    assert bench.submitted == []
    bench.outboxes.returned(Returned(1, 3, 2, 2))
    bench.outboxes.dispatched(Dispatched(1, sent, 2, 2, 1))
    bench.outboxes.tell_drawn()
    assert bench.submitted == [(1, [], {sent.channel: DRAWN_BYTES})]
    assert box.moves == [(3, 1, 4, "sent"), (3, 2, 2, "stored"), (3, 2, 2, "sent")]
    bench.outboxes.tell_drawn()
    assert len(bench.submitted) == 1
