"""An outbox fails and comes back, with a real file on a disk that fails when told to (rules §2.7).

Between the turn in which it came back and the moment when the network thread hears of it, that decides about messages
for an opening that is over. Here everything happens in just that moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from tests.protocol.puppet import BOX, CHANNEL, Puppet, Stage
from tests.simulation.test_disk import PATH
from tests.simulation.test_found import no_room
from zerowait.engines.brokerless.outboxes import Outboxes
from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.effects import Dispatched, Reopen, Returned, Send, Withdrawn
from zerowait.engines.brokerless.protocol.frames import Batch, Confirm, Goodbye, Outcome, Part, Served
from zerowait.errors import StoreError
from zerowait.message import Bury, Segment, Verdict
from zerowait.outbox.intake import Intake, Limits
from zerowait.outbox.lane import Lane
from zerowait.outbox.ledger import LedgerRow
from zerowait.outbox.letters import Letters
from zerowait.outbox.outbox import Outbox
from zerowait.testing.disk import SimulatedDisk, Trouble
from zerowait.testing.store import Store
from zerowait.testing.timeline import Timeline

X, Y = 201, 202
TURN_S = 0.05  # how long a turn of the store takes here: so long nobody hears of what it did


class Disk(Stage):
    """A core whose outbox lies on a simulated disk, with a store of its own time."""

    def __init__(self, disk: SimulatedDisk | None = None, time: Timeline | None = None) -> None:
        super().__init__()
        self.time = time or Timeline()
        self.now = self.time.now
        self.disk = disk or SimulatedDisk(Random(1))
        self.keeper = Store(
            self.time, self._offered, lambda box: None, lambda: TURN_S, lambda act: act(), lambda: False
        )
        self.letters: list[tuple[int, int]] = []  # as they are told to whoever listens
        self.taken_back: list[bool | None] = []
        self.outboxes = Outboxes(
            "tested", submit=self.keeper.submit, buried=self._buried, wake=lambda: None, now=lambda: self.now
        )
        self.outboxes.open(self.core)
        self.box = self.opened()
        self.outboxes.own(self.box, {})
        self.keeper.add(self.box)
        self.view = SimpleNamespace(box=BOX, epoch=self.box.epoch)
        self.store = self.view  # type: ignore[assignment]
        self.step()

    def begins_anew(self) -> None:
        """Its process is killed, and the next one opens what it has left."""
        self.keeper.stop()
        self.disk.part(power=False)
        self.__init__(self.disk, self.time)  # type: ignore[misc]

    def opened(self) -> Outbox:
        intake = Intake(Limits(), durable=True, wake=lambda: None, room=no_room, now_us=self._now_us)
        return Outbox.open(
            PATH, "tested", now_us=self._now_us, id=BOX, intake=intake, disk=self.disk, steady=self.time.steady_ns
        )

    def _now_us(self) -> int:
        return self.wall_us(self.now)

    def _buried(self, box: int, change: Bury) -> None:
        self.letters.append((change.epoch, change.number))

    def _offered(self, box: Outbox, epoch: int, segments: list[Segment], done: int) -> None:
        self.outboxes.offered(box.id, epoch, segments, done)

    def push(self, count: int = 1, *, key: bytes | None = None, **how: Any) -> Any:
        """One sheaf: one row. Gives the place of the last."""
        lane = Lane(self.box.intake, CHANNEL)
        places = [lane.append(b"\xc0", key=key) if key else lane.append(b"\xc0") for _ in range(count)]
        self.keeper.wake()
        return places[-1]

    def step(self, seconds: float = 0.0, *, pause: bool = False) -> None:
        if not hasattr(self, "keeper"):
            return
        until = self.now + seconds
        while True:
            self.time.run(self.now)
            self.outboxes.take(self.outboxes.offers())
            custody = self.core.owner.custody.get(BOX)
            self.view.epoch = custody.epoch if custody is not None else 0
            self.core.wake(self.now)
            self.core.flush(self.now)
            self._perform()
            self.core.next_wake()
            if self.now >= until:
                return
            self.now = min(until, self.now + 0.01)

    def _perform(self) -> None:
        while self.core.effects:
            for effect in self.core.effects.take():
                self.effects.append(effect)
                match effect:
                    case Send():
                        self.puppets[effect.conn].hear(effect.data)
                    case Dispatched():
                        self.outboxes.dispatched(effect)
                    case Returned():
                        self.outboxes.returned(effect)
                    case Withdrawn():
                        self.outboxes.withdrawn(effect)
                    case Reopen():
                        self._reopen(effect.floor_epoch)
                    case _:
                        pass
            for ticket in self.core.effects.take_tickets():
                self.outboxes.commit(ticket)
            self.core.flush(self.now)

    def _reopen(self, floor: int) -> None:
        """As the estate does it."""

        def rise() -> None:
            try:
                self.box.raise_epoch(floor)
            except StoreError:
                return
            self.time.after(TURN_S, lambda: self.outboxes.reopened(self.box))

        self.keeper.ask(rise)

    # -- what tests want ---------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], bool], within: float = 10.0) -> float:
        began = self.now
        while not condition():
            assert self.now - began < within, "it did not come to pass"
            self.step(0.01)
        return self.now - began

    def fails(self, trouble: Trouble = "sync") -> None:
        """The disk does, and the outbox notices."""
        self.disk.trouble = trouble
        self.push()
        self.until(self.keeper.is_broken)

    def comes_back(self) -> None:
        """The disk is well, and the outbox has come back: the network thread has not heard of it."""
        before = self.box.epoch
        self.disk.trouble = ""
        self.until(lambda: self.box.epoch != before)
        assert self.core.owner.custody[BOX].epoch == before

    def fails_and_comes_back(self) -> None:
        self.fails()
        self.comes_back()

    def hears_of_it(self) -> None:
        self.until(lambda: BOX in self.core.owner.custody and self.core.owner.custody[BOX].epoch == self.box.epoch)

    def withdraw(self, epoch: int, number: int) -> None:
        self.outboxes.withdraw(BOX, epoch, number, self.taken_back.append)

    def row(self) -> LedgerRow:
        row = self.box.ledger.rows()[CHANNEL]
        assert row.accepted == row.handled + row.dead + row.expired + row.dropped + row.waiting_and_in_flight
        return row

    def worker(self, instance: int, credit: int = 100) -> Puppet:
        return self.peer(instance, channels=[CHANNEL], credit=credit)

    def failures(self) -> list[int]:
        return [row[0] for row in self.box.read("SELECT attempt FROM message ORDER BY epoch, first")]


def parts(puppet: Puppet) -> list[Part]:
    return [
        Part(batch.epoch, first, count, batch.fence, batch.n)
        for batch in puppet.all(Batch)
        for first, count in batch.ranges
    ]


def sent(puppet: Puppet) -> Counter[tuple[int, int]]:
    return Counter((part.epoch, n) for part in parts(puppet) for n in range(part.first, part.first + part.count))


def one(part: Part, number: int) -> Part:
    return Part(part.epoch, number, 1, part.fence, part.n)


def tell(puppet: Puppet, verdict: Verdict, *told: Part, after_ms: int = 0) -> None:
    notes = tuple((p.epoch, n, after_ms, b"\x80") for p in told for n in range(p.first, p.first + p.count))
    puppet.say(Outcome(BOX, verdict, told, notes if verdict in (Verdict.RETRY, Verdict.DEAD) else ()))


def handles_all(puppet: Puppet) -> None:
    tell(puppet, Verdict.HANDLED, *parts(puppet))


@pytest.fixture
def disk() -> Disk:
    return Disk()


def given_in_flight(disk: Disk, count: int = 1, key: bytes | None = None) -> tuple[Puppet, Part]:
    x = disk.worker(X)
    disk.push(count, key=key)
    disk.until(lambda: bool(parts(x)))
    (part,) = parts(x)
    assert part.count == count
    return x, part


def lost(disk: Disk, puppet: Puppet) -> None:
    puppet.lose()
    disk.step(disk.config.resume_grace + 1)


def test_what_failed_while_its_outbox_came_back_waits_once_if_its_worker_does_not_come_back(disk: Disk) -> None:
    x, part = given_in_flight(disk, 3)
    disk.fails_and_comes_back()
    # when one of three fails for an opening that is over, and its worker is never heard again
    tell(x, Verdict.RETRY, one(part, 2))
    disk.hears_of_it()
    lost(disk, x)
    y = disk.worker(Y)
    disk.step(1)
    # then each has gone out once
    assert [sent(y)[part.epoch, number] for number in (1, 2, 3)] == [1, 1, 1]
    handles_all(y)
    disk.step(1)
    assert (disk.row().handled, disk.row().waiting_and_in_flight) == (4, 0)


def test_what_failed_while_its_outbox_came_back_has_failed_once_if_it_is_said_again(disk: Disk) -> None:
    x, part = given_in_flight(disk)
    disk.fails_and_comes_back()
    tell(x, Verdict.RETRY, part, after_ms=60_000)
    disk.hears_of_it()
    assert not x.all(Confirm)
    tell(x, Verdict.RETRY, part, after_ms=60_000)
    x.held()
    disk.step(1)
    assert x.all(Confirm)
    assert sorted(disk.failures()) == [0, 1]


def test_a_letter_made_for_an_opening_that_is_over_is_not_sent_once_more(disk: Disk) -> None:
    x, part = given_in_flight(disk, 3)
    disk.fails_and_comes_back()
    tell(x, Verdict.DEAD, one(part, 2))
    disk.hears_of_it()
    lost(disk, x)
    y = disk.worker(Y)
    disk.step(1)
    letters = [(letter.epoch, letter.number) for letter in Letters(disk.box).page()]
    assert not set(letters) & set(sent(y)), "a dead letter was sent"
    assert disk.letters == letters


def test_a_letter_that_is_said_again_to_the_next_opening_is_one_and_told_once(disk: Disk) -> None:
    x, part = given_in_flight(disk, 3)
    disk.fails_and_comes_back()
    tell(x, Verdict.DEAD, one(part, 2))
    disk.hears_of_it()
    tell(x, Verdict.DEAD, one(part, 2))
    x.held(running=(one(part, 1), one(part, 3)))
    disk.step(1)
    assert disk.row().dead == len(Letters(disk.box).page()) == 1
    assert disk.letters == [(part.epoch, 2)]


def test_a_letter_that_reached_the_disk_with_the_opening_is_told_once(disk: Disk) -> None:
    x, part = given_in_flight(disk)
    disk.fails()
    tell(x, Verdict.DEAD, part)
    assert disk.letters == [], "told before it is true"
    disk.comes_back()
    disk.hears_of_it()
    tell(x, Verdict.DEAD, part)
    x.held()
    disk.step(1)
    assert disk.row().dead == 1
    assert disk.letters == [(part.epoch, part.first)]


def test_what_is_taken_back_while_its_outbox_comes_back_is_dropped_and_whoever_asked_is_told(disk: Disk) -> None:
    sheaf, index = disk.push()
    disk.step(1)
    disk.fails_and_comes_back()
    disk.withdraw(sheaf.epoch, sheaf.first + index)
    disk.step()
    disk.hears_of_it()
    y = disk.worker(Y)
    disk.step(1)
    assert (sheaf.epoch, sheaf.first + index) not in sent(y)
    assert disk.taken_back == [True]
    assert disk.row().dropped == 1


@pytest.mark.parametrize("when", ["before it fails", "while it fails"])
def test_who_takes_something_back_from_an_outbox_that_fails_is_told_once_it_is_well(disk: Disk, when: str) -> None:
    sheaf, index = disk.push()
    disk.step(1)
    if when == "while it fails":
        disk.fails()
    else:
        disk.disk.trouble = "sync"
    disk.withdraw(sheaf.epoch, sheaf.first + index)
    disk.until(disk.keeper.is_broken)
    disk.step(1)
    assert disk.taken_back == []
    disk.disk.trouble = ""
    disk.step(3)
    assert disk.taken_back == [True]
    assert disk.row().dropped == 1


def test_what_is_dropped_of_a_channel_while_its_outbox_comes_back_is_dropped(disk: Disk) -> None:
    disk.push(3)
    disk.step(1)
    disk.fails_and_comes_back()
    told: list[bool] = []
    disk.outboxes.drop(BOX, CHANNEL, (1 << 62, 0), (), lambda: told.append(True))
    disk.step(3)
    y = disk.worker(Y)
    disk.step(1)
    assert told == [True]
    assert disk.row().dropped == 3
    assert sum(sent(y).values()) == 1, "but what was pushed when it failed"


def test_a_row_put_off_for_an_opening_that_is_over_is_offered_once(disk: Disk) -> None:
    # given a row with a key, whose first message fails: the others go back to the outbox, to wait behind it
    x, part = given_in_flight(disk, 3, key=b"k")
    disk.fails_and_comes_back()
    tell(x, Verdict.RETRY, one(part, 1), after_ms=1)
    tell(x, Verdict.UNSTARTED, Part(part.epoch, 2, 2, part.fence, part.n))
    disk.hears_of_it()
    disk.step(0.2)
    lost(disk, x)
    y = disk.worker(Y)
    # when another handles whatever it gets
    for _ in range(20):
        disk.step(0.1)
        handles_all(y)
    # then it gets each once, in their order
    order = [n for each in parts(y) for n in range(each.first, each.first + each.count) if n in range(1, 4)]
    assert order == [1, 2, 3]
    assert (disk.row().handled, disk.row().waiting_and_in_flight) == (4, 0)


def test_the_past_is_owed_to_workers_of_this_life_also_after_a_fence(disk: Disk) -> None:
    """Without: what a worker of this life still runs goes to another at once."""
    x, part = given_in_flight(disk)
    y = disk.worker(Y)
    y.say(Goodbye(frames.FENCED, "opened by somebody else", BOX, disk.box.epoch + 1_000))
    disk.step(1)
    disk.hears_of_it()
    y.held()
    y.grant(100, serial=2)
    disk.step(1)
    assert not parts(y)
    x.held(running=(part,))
    disk.step(1)
    assert not parts(y)
    tell(x, Verdict.HANDLED, part)
    disk.step(1)
    assert disk.row().handled == 1


@pytest.mark.parametrize("trouble", ["sync", "write", "full"])
@pytest.mark.parametrize("seconds", [0.5, 5.0])
def test_a_fenced_outbox_whose_disk_fails_is_owned_again_two_seconds_after_it_is_well(
    disk: Disk, trouble: Trouble, seconds: float
) -> None:
    x, part = given_in_flight(disk)
    disk.disk.trouble = trouble
    fence = disk.box.epoch + 3_600_000
    x.say(Goodbye(frames.FENCED, "opened by somebody else", BOX, fence))
    disk.step(seconds)
    assert BOX not in disk.core.owner.custody
    disk.disk.trouble = ""
    took = disk.until(lambda: BOX in disk.core.owner.custody, within=5)
    assert took <= 2.0
    assert disk.core.owner.custody[BOX].epoch == disk.box.epoch > fence
    # and what was in flight goes on
    x.held(running=(part,))
    x.grant(100, serial=2)
    tell(x, Verdict.HANDLED, part)
    disk.push()
    disk.step(1)
    assert disk.row().handled == 1
    assert len(parts(x)) == 2


def test_a_failure_that_reached_the_disk_with_the_opening_is_counted_once_though_it_is_said_again(disk: Disk) -> None:
    x, part = given_in_flight(disk, 3)
    disk.fails()
    tell(x, Verdict.RETRY, one(part, 2), after_ms=60_000)
    disk.comes_back()
    disk.hears_of_it()
    tell(x, Verdict.RETRY, one(part, 2), after_ms=60_000)
    x.held(running=(one(part, 1), one(part, 3)))
    disk.step(1)
    assert x.all(Confirm)
    assert sorted(disk.failures()) == [0, 0, 1]


def test_a_failure_is_counted_once_though_it_is_said_again_to_the_next_life_and_the_next_failure_is_counted(
    disk: Disk,
) -> None:
    x, part = given_in_flight(disk, 3)
    tell(x, Verdict.RETRY, one(part, 2), after_ms=60_000)
    disk.until(lambda: bool(x.all(Confirm)))  # which is lost
    # when its owner begins a new life, and is told again
    disk.begins_anew()
    x = Puppet(disk, X, channels=[CHANNEL])
    x.greet()
    x.say(frames.State((Served(CHANNEL),)))
    tell(x, Verdict.RETRY, one(part, 2), after_ms=0)
    x.held()
    x.grant(100)
    disk.step(1)
    assert sorted(disk.failures()) == [0, 1], "the row of the other two, and its own"
    # and it fails once more
    again = next(each for each in parts(x) if each.first == 2)
    tell(x, Verdict.RETRY, again, after_ms=60_000)
    disk.step(1)
    assert sorted(disk.failures()) == [0, 2]
