"""Rules §5: finding the killer without hurting the innocent. Whole processes on virtual time, and the owner and the
worker alone where a rule is about one of them."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from msgspec import msgpack

from tests.protocol.puppet import BOX, CHANNEL, Puppet, Stage
from tests.protocol.store import Store
from tests.protocol.world import Process, World
from zerowait.engines.brokerless.protocol.config import Config
from zerowait.engines.brokerless.protocol.frames import (
    ALONE,
    ASIDE,
    Batch,
    Confirm,
    Credit,
    Drop,
    Obituary,
    Outcome,
    Owned,
    Part,
    ProtocolError,
    Want,
    check_obituaries,
    encode,
)
from zerowait.engines.brokerless.protocol.owner.marking import Marking
from zerowait.engines.brokerless.protocol.owner.suspects import Evidence, is_convicted, lane_of, verdict_of
from zerowait.engines.brokerless.protocol.worker.lanes import Phase
from zerowait.message import Change, Death, Marks, Segment, Verdict
from zerowait.message import Outcome as Ended
from zerowait.numbers import Numbers

X, Y, Z = 201, 202, 203
ELSEWHERE = "the boot of another machine"


# -- what is known against a message ---------------------------------------------------------------------------------


def death(instance: int, *, proved: bool = True, ran: bool = True, alone: bool = False) -> Death:
    return Death(instance, "mail", proved, ran, alone)


def test_the_lane_of_a_message_is_the_number_of_its_deaths_two_at_most() -> None:
    marks = Marks()
    lanes = [lane_of(marks)]
    for instance in (X, Y, Z):
        marks = marks.died(death(instance))
        lanes.append(lane_of(marks))
    assert lanes == [0, ASIDE, ALONE, ALONE]


@pytest.mark.parametrize(
    ("deaths", "guilty"),
    [
        ([death(X), death(Y), death(Z, alone=True)], True),
        ([death(X), death(Y), death(Z)], False),  # none of them alone
        ([death(X), death(Y, alone=True)], False),
        ([death(X, proved=False), death(Y), death(Z, alone=True)], False),
        ([death(X, ran=False), death(Y), death(Z, alone=True)], False),  # it was only held there
        ([death(n, proved=False, ran=False, alone=True) for n in (X, Y, Z)], True),
        ([death(n, proved=False, ran=False, alone=n > X) for n in (X, Y, Z)], False),
    ],
)
def test_guilty_is_who_ran_at_three_proved_deaths_one_alone_or_at_as_many_alone(
    deaths: list[Death], guilty: bool
) -> None:
    assert is_convicted(Marks(tuple(deaths)), 3) is guilty


def test_a_death_at_whom_it_ran_alone_counts_as_alone_and_ends_the_note() -> None:
    marks = Marks().alone(X).died(death(X))
    assert marks == Marks((death(X, alone=True),), 0)
    assert Marks().alone(Y).died(death(X)).alone_at == Y


def test_what_is_learned_later_of_the_same_death_completes_it() -> None:
    marks = Marks().died(Death(X, "mail")).died(Death(X, "", True, True, False, None, 9))
    assert marks.deaths == (Death(X, "mail", True, True, False, None, 9),)


def test_a_list_clears_whom_it_does_not_name_and_convicts_nobody_else() -> None:
    evidence = Evidence()
    evidence.told(Obituary(X, 1, None, ((BOX, 5, 10, 3),), True))
    marks = Marks((Death(X),))
    assert evidence.revise((BOX, 5, 13), marks) == ([], [X])
    died, cleared = evidence.revise((BOX, 5, 12), marks)
    assert (cleared, died[0].ran, died[0].exit_code) == ([], True, 1)
    assert evidence.revise((BOX, 5, 12), marks.died(died[0])) == ([], []), "it is all said"


def test_an_obituary_that_no_process_can_have_earned_is_refused() -> None:
    with pytest.raises(ProtocolError, match="obituary"):
        check_obituaries([Obituary(X, None, 9, ((BOX, 1, 1, 1 << 40),))])


def test_a_dead_letter_of_crashes_says_how_each_worker_has_died() -> None:
    deaths = (
        Death(X, "mail", proved=True, ran=True, exit_code=3),
        Death(Y, "post", proved=True, ran=True, alone=True, signal=9),
        Death(Z),
    )
    note = msgpack.decode(verdict_of(Marks(deaths), 1, 5))
    ends = f"mail: exit code 3; post: signal 9; {Z:016x}: without proof"
    assert note["reason"] == f"its worker died three times while it ran ({ends}); it may have been handled"
    assert (note["rule"], note["attempts"], note["at"]) == ("crashes", 4, 5)
    named = ("worker", "proved", "ran", "alone", "exit_code", "signal")
    assert [tuple(each[name] for name in named) for each in note["deaths"]] == [
        ("mail", True, True, False, 3, None),
        ("post", True, True, True, None, 9),
        ("", False, False, False, None, None),
    ]


# -- whole processes -------------------------------------------------------------------------------------------------


class Fleet:
    """A sender and some workers, started again when they have died."""

    def __init__(
        self,
        *,
        workers: int = 3,
        runners: int = 4,
        job: int = 1,
        work_s: float = 0.01,
        proofs: bool = True,
        lists: bool = True,
        takes_along: bool = False,
        config: Config | None = None,
    ) -> None:
        self.world = World(config)
        self.world.proofs, self.world.lists = proofs, lists
        self.boot = "" if not proofs else None
        self.store = Store(700)
        self.runners, self.job, self.work_s = runners, job, work_s
        self.takes_along = takes_along
        self.killers: set[int] = set()
        self.killed: Counter[int] = Counter()  # by whom
        self.deaths = 0
        self.epoch = 0
        self.sender: Process | None = None
        self.workers: list[Process | None] = [None] * workers
        self.start_sender()
        for index in range(workers):
            self.start_worker(index)

    def start_sender(self) -> None:
        self.sender = self._process("sender", boxes=[self.store], commit_s=0.001)
        for instance in sorted(self.store.noted):
            self._look_up(instance)
        for worker in self.workers:
            if worker is not None and worker.alive:
                self.world.dial(self.sender, worker)

    def _look_up(self, instance: int) -> None:
        """Who opens an outbox asks whether those are over that it has noted."""
        dead = self.world.by_instance(instance)
        if dead is not None and not dead.alive and self.world.proofs:
            assert self.sender is not None
            self.sender.core.buried(instance, self.world.now, dead.obituary())

    def _process(self, name: str, **how: object) -> Process:
        if not self.world.proofs:
            how["boot"] = f"{ELSEWHERE} {next(self.world.instances)}"
        return Process(self.world, name, **how)  # type: ignore[arg-type]

    def start_worker(self, index: int) -> None:
        worker = self._process(f"worker{index}", services={CHANNEL: self.runners}, job=self.job)
        self.workers[index] = worker
        worker.handler = lambda channel, epoch, number: self._handle(index, worker, number)
        if self.sender is not None and self.sender.alive:
            self.world.dial(self.sender, worker)

    def _handle(self, index: int, worker: Process, number: int) -> tuple[float, Ended | None]:
        if number in self.killers and worker.alive:
            self.killed[number] += 1
            self.world.call(self.world.now + self.work_s / 2, lambda: self._die(index, worker))
            return 1_000.0, None
        return self.work_s, None

    def _die(self, index: int, worker: Process) -> None:
        if not worker.alive:
            return
        self.deaths += 1
        worker.kill(3)
        self.workers[index] = None
        self.world.call(self.world.now + 0.5, lambda: self.start_worker(index))
        sender = self.sender
        if self.takes_along and sender is not None and sender.alive:
            sender.kill()
            self.sender = None
            self.world.call(self.world.now + 0.7, self.start_sender)

    def push(self, count: int, killers: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        assert self.sender is not None
        self.killers |= killers
        made = self.sender.push(CHANNEL, count)
        self.epoch = made.epoch

    def run(self, until: float) -> None:
        self.world.run_while(lambda: bool(self.store.rows), until)

    def condemned(self) -> set[int]:
        return {number for _, number in self.store.letters}

    def note(self, number: int) -> dict[str, object]:
        found: dict[str, object] = msgpack.decode(self.store.letters[self.epoch, number].note)
        return found


def test_a_killer_runs_three_times_and_is_a_dead_letter_that_says_so() -> None:
    fleet = Fleet()
    fleet.push(200, {77})
    fleet.run(60.0)
    assert fleet.killed == {77: 3}
    assert fleet.condemned() == {77}
    assert fleet.store.counts[Verdict.HANDLED] == 199
    note = fleet.note(77)
    assert note["rule"] == "crashes"
    assert note["reason"] == (
        "its worker died three times while it ran "
        f"({'; '.join(f'{each} exit code 3' for each in _names(note))}); it may have been handled"
    )
    assert note["attempts"] == 3
    assert fleet.store.letters[fleet.epoch, 77].failures == 3


def _names(note: dict[str, object]) -> list[str]:
    deaths = note["deaths"]
    assert isinstance(deaths, list)
    return [f"{each['worker']}:" for each in deaths]


@pytest.mark.parametrize("takes_along", [False, True])
def test_no_innocent_is_condemned_and_every_killer_runs_three_times(takes_along: bool) -> None:
    killers, condemned = 0, 0
    for seed in range(60):
        chance = random.Random(seed)
        fleet = Fleet(
            workers=chance.randint(1, 3),
            runners=chance.choice([1, 4, 8]),
            job=chance.choice([1, 1, 8]),
            work_s=chance.choice([0.001, 0.01, 0.05]),
            takes_along=takes_along,
            config=Config(prefetch=chance.choice([8, 64])),
        )
        count = chance.choice([20, 60, 150])
        guilty = set(chance.sample(range(1, count + 1), chance.randint(1, 4)))
        fleet.push(count, guilty)
        fleet.run(300.0)
        assert not fleet.store.rows, f"seed {seed}: {len(fleet.store.rows)} never settle"
        assert fleet.condemned() == guilty, f"seed {seed}: {fleet.condemned()} condemned, {guilty} are guilty"
        assert fleet.store.counts[Verdict.HANDLED] == count - len(guilty)
        assert set(fleet.killed.values()) == {3}, f"seed {seed}: {fleet.killed}"
        killers += len(guilty)
        condemned += len(fleet.condemned())
    assert (condemned, killers) == (killers, killers)


def test_without_lists_and_proofs_a_killer_runs_four_or_five_times_and_no_innocent_is_condemned() -> None:
    for seed in range(20):
        chance = random.Random(seed)
        fleet = Fleet(workers=chance.randint(1, 3), proofs=False, config=Config(prefetch=chance.choice([8, 32])))
        guilty = {chance.randint(1, 60)}
        fleet.push(60, guilty)
        fleet.run(400.0)
        assert fleet.condemned() == guilty, f"seed {seed}"
        assert set(fleet.killed.values()) <= {4, 5}, f"seed {seed}: {fleet.killed}"


def test_with_proofs_but_without_lists_it_is_found_all_the_same() -> None:
    for seed in range(10):
        chance = random.Random(seed)
        fleet = Fleet(workers=chance.randint(1, 3), lists=False, config=Config(prefetch=32))
        guilty = {chance.randint(1, 60)}
        fleet.push(60, guilty)
        fleet.run(200.0)
        assert fleet.condemned() == guilty, f"seed {seed}"
        assert set(fleet.killed.values()) <= {4, 5}, f"seed {seed}: {fleet.killed}"


def test_who_takes_its_sender_along_and_leaves_no_proof_condemns_nobody_else() -> None:
    fleet = Fleet(proofs=False, takes_along=True)
    fleet.push(100, {50})
    fleet.run(200.0)
    assert fleet.store.counts[Verdict.HANDLED] == 99
    assert fleet.condemned() == set()


@pytest.mark.timeout(300)
def test_after_one_death_with_a_full_window_the_channel_keeps_its_rate() -> None:
    def handled_in(seconds: float, *, dies: bool) -> int:
        fleet = Fleet(workers=3, runners=1, work_s=0.045, lists=False, config=Config(prefetch=64))
        # Draft rule: one link empty for each suspect, and the channel waits.
        fleet.push(3_000)
        fleet.world.run(1.0)
        if dies:
            victim = fleet.workers[0]
            assert victim is not None
            victim.kill()
            fleet.world.call(1.2, lambda: fleet.start_worker(0))
        before = fleet.store.counts[Verdict.HANDLED]
        fleet.world.run(1.5)
        fleet.world.run(1.0 + seconds)
        return fleet.store.counts[Verdict.HANDLED] - before

    assert handled_in(40.0, dies=True) > 0.9 * handled_in(40.0, dies=False)


def test_suspects_do_not_spin_at_a_worker_that_drains() -> None:
    fleet = Fleet(workers=1, runners=1, work_s=0.5, lists=False)
    fleet.push(20)
    fleet.world.run(0.2)
    first = fleet.workers[0]
    assert first is not None
    first.kill()
    fleet.start_worker(0)
    fleet.world.run(1.0)
    drains = fleet.workers[0]
    assert drains is not None
    drains.core.drain()
    fleet.world.touch(drains)
    sent = fleet.world.dispatched
    fleet.world.run(8.0)
    assert fleet.world.dispatched == sent, "something was sent to a worker that wants no more"
    assert drains.core.is_drained()


def test_who_was_leaving_when_it_died_leaves_no_suspects() -> None:
    fleet = Fleet(workers=1, runners=2, work_s=2.0)
    fleet.push(2)
    fleet.world.run(0.2)
    leaves = fleet.workers[0]
    assert leaves is not None
    leaves.core.drain()
    fleet.world.touch(leaves)
    fleet.world.run(0.4)
    leaves.kill()
    fleet.start_worker(0)
    fleet.run(10.0)
    assert not fleet.store.rows
    assert all(not runs[-1].process.core.worker.lanes for runs in fleet.world.by_name.values())


def test_silence_alone_makes_nobody_suspect() -> None:
    world = World()
    store = Store(700)
    sender = Process(world, "sender", boxes=[store], boot=ELSEWHERE)
    worker = Process(world, "worker", services={CHANNEL: 1})
    worker.handler = lambda channel, epoch, number: (100.0, None)
    world.dial(sender, worker)
    sender.push(CHANNEL, 3)
    world.run(1.0)
    world.partition(sender, worker)
    world.run(20.0)
    assert sender.core.owner.dispatch.waiting(CHANNEL) == 3
    assert not sender.core.owner.dispatch.suspects


def test_who_comes_back_clears_the_marks_that_its_absence_has_made() -> None:
    world = World()
    store = Store(700)
    sender = Process(world, "sender", boxes=[store], boot=ELSEWHERE)
    worker = Process(world, "worker", services={CHANNEL: 1})
    worker.handler = lambda channel, epoch, number: (9.0, Ended(Verdict.RETRY, 0.1))
    world.dial(sender, worker)
    sender.push(CHANNEL, 1)
    world.run(1.0)
    world.cut_all(sender, worker)
    world.run(8.0)
    assert list(sender.core.owner.dispatch.suspects), "its connection closed, and it has not come back"
    world.dial(sender, worker)
    world.run(20.0)
    assert not sender.core.owner.dispatch.suspects
    assert [row.marks for row in store.rows.values()] == [None]


# -- the owner, by itself --------------------------------------------------------------------------------------------


def owner_with(deaths: int, *, holds_commits: bool = False) -> tuple[Stage, Part]:
    """Message 1, which was there at so many deaths."""
    stage = Stage(store=Store(BOX))
    stage.push(1)
    part = Part(0, 1, 1, 0, 0)
    for number in range(deaths):
        worker = stage.peer(900 + number, channels=[CHANNEL], credit=1)
        sent = worker.last(Batch)
        part = Part(sent.epoch, 1, 1, sent.fence, sent.n)
        stage.holds_commits = holds_commits and number == deaths - 1
        stage.core.buried(worker.instance, stage.now, obituary(worker.instance, sent.epoch))
        stage.step()
    return stage, part


def obituary(instance: int, epoch: int, number: int = 1) -> Obituary:
    return Obituary(instance, None, 9, ((BOX, epoch, number, 1),), True)


def test_a_death_is_durable_before_the_message_is_offered_again() -> None:
    stage, _ = owner_with(1, holds_commits=True)
    y = stage.peer(Y, channels=[CHANNEL], credit=1)
    assert not y.all(Batch)
    stage.holds_commits = False
    stage.commit()
    stage.step()
    assert y.last(Batch).lane == ASIDE


def test_what_is_only_queued_there_goes_on_among_the_others() -> None:
    stage = Stage(store=Store(BOX))
    stage.push(3)
    x = stage.peer(X, channels=[CHANNEL], credit=3)
    stage.core.buried(X, stage.now, obituary(X, x.last(Batch).epoch, 2))
    stage.step()
    y = stage.peer(Y, channels=[CHANNEL], credit=3)
    lanes = {first: batch.lane for batch in y.all(Batch) for first, _ in batch.ranges}
    assert lanes == {1: 0, 3: 0, 2: ASIDE}


def test_nothing_goes_aside_before_the_first_credit_of_that_lane() -> None:
    stage, _ = owner_with(1)
    y = stage.peer(Y, channels=[CHANNEL])  # gives none
    y.grant(10)
    assert [(want.lane, want.waiting) for want in y.all(Want)] == [(ASIDE, 1)]
    assert not y.all(Batch)
    y.say(Credit(CHANNEL, ASIDE, 1, 1))
    assert y.last(Batch).lane == ASIDE


def test_alone_is_asked_of_one_link_and_noted_before_it_is_sent() -> None:
    stage, _ = owner_with(2)
    x, y = stage.peer(X, channels=[CHANNEL]), stage.peer(Y, channels=[CHANNEL])
    asked = [puppet for puppet in (x, y) if puppet.all(Want)]
    assert asked == [x]
    assert x.last(Want).lane == ALONE
    stage.holds_commits = True
    x.say(Credit(CHANNEL, ALONE, 1, 1))
    assert not x.all(Batch), "it left before it was noted where it runs"
    stage.commit()
    stage.step()
    assert x.last(Batch).lane == ALONE
    assert stage.store is not None
    assert [row.marks.alone_at for row in stage.store.rows.values() if row.marks] == [X]


@pytest.mark.parametrize("verdict", [Verdict.UNSTARTED, Verdict.RETRY])
def test_any_outcome_but_handled_ends_the_note_of_who_runs_it_alone(verdict: Verdict) -> None:
    stage, _ = owner_with(2)
    x = stage.peer(X, channels=[CHANNEL], credit=1)
    sent = x.last(Batch)
    assert sent.lane == ALONE
    x.credit = 0
    x.say(Outcome(BOX, verdict, (Part(sent.epoch, 1, 1, sent.fence, sent.n),)))
    assert stage.store is not None
    assert [row.marks.alone_at for row in stage.store.rows.values() if row.marks] == [0]


@pytest.mark.parametrize("has_answered", [True, False])
def test_who_has_said_what_it_holds_has_not_died_of_what_its_sender_had_only_noted(has_answered: bool) -> None:
    """Its sender died between the note and the batch. The next life heard that X ran nothing of it, but before its row
    was looked at X died of something else: that was taken for a death of this one, alone."""
    # given a message that is noted to run alone at X
    stage, _ = owner_with(2)
    x = stage.peer(X, channels=[CHANNEL])
    x.say(Credit(CHANNEL, ALONE, 1, 1))
    store = stage.store
    assert store is not None
    assert [row.marks.alone_at for row in store.rows.values() if row.marks] == [X]
    # when X has told the next life of its sender that it holds nothing, or has not, and dies, and then the row is read
    later = Stage(store=store)
    if has_answered:
        later.peer(X, channels=[CHANNEL])
    later.core.buried(X, later.now)
    later.core.owner.offer(BOX, store.due_now(later.wall_us(later.now)))
    later.step()
    # then it has not died of this one, or may have
    (marks,) = [row.marks for row in store.rows.values() if row.marks]
    assert marks.alone_at == 0
    assert [death.instance for death in marks.deaths if death.alone] == ([] if has_answered else [X])


def test_a_withdrawn_credit_is_confirmed_and_another_link_is_asked() -> None:
    stage, _ = owner_with(2)
    x, y = stage.peer(X, channels=[CHANNEL]), stage.peer(Y, channels=[CHANNEL])
    assert stage.store is not None
    for puppet in (x, y):
        puppet.forget()
    # Granted and withdrawn before the owner could act.
    x.stage.core.receive(x.conn, encode(Credit(CHANNEL, ALONE, 1, 1)), stage.now)
    x.say(Credit(CHANNEL, ALONE, 0, 2))
    assert x.last(Want) == Want(CHANNEL, ALONE, 0, 2, 0)
    assert y.last(Want) == Want(CHANNEL, ALONE, 0, 0, 1)


def test_attempt_counts_failures_and_proved_deaths_and_retry_failures_only() -> None:
    stage, _ = owner_with(1)
    y = stage.peer(Y, channels=[CHANNEL], credit=1)
    sent = y.last(Batch)
    assert (sent.failures, sent.deaths) == ({}, {1: 1})
    y.say(Outcome(BOX, Verdict.RETRY, (Part(sent.epoch, 1, 1, sent.fence, sent.n),), ((sent.epoch, 1, 0, b""),)))
    stage.core.owner.offer(BOX, stage.store.due_now(stage.wall_us(stage.now)) if stage.store else [])
    stage.step()
    again = y.last(Batch)
    assert (again.failures, again.deaths, again.lane) == ({1: 1}, {1: 1}, ASIDE)


def test_a_later_obituary_frees_whom_it_does_not_name() -> None:
    stage = Stage(store=Store(BOX))
    stage.push(2)
    x = stage.peer(X, channels=[CHANNEL], credit=2)
    epoch = x.last(Batch).epoch
    stage.core.buried(X, stage.now)  # proof, and no list
    stage.step()
    assert len(list(stage.core.owner.dispatch.suspects)) == 2
    stage.core.buried(X, stage.now, obituary(X, epoch, 2))
    stage.step()
    y = stage.peer(Y, channels=[CHANNEL], credit=2)
    lanes = {first: (batch.lane, batch.deaths) for batch in y.all(Batch) for first, _ in batch.ranges}
    assert lanes == {1: (0, {}), 2: (ASIDE, {2: 1})}


def test_what_another_has_by_then_is_marked_when_it_comes_back() -> None:
    stage = Stage(store=Store(BOX), boot="here")
    stage.push(1)
    x = stage.peer(X, channels=[CHANNEL], credit=1)
    epoch = x.last(Batch).epoch
    x.answers = False
    stage.step(stage.config.silence + stage.config.resume_grace + 1.0)  # silent, and gone: no death
    y = stage.peer(Y, channels=[CHANNEL], credit=1)
    sent = y.last(Batch)
    assert sent.lane == 0
    stage.core.buried(X, stage.now, obituary(X, epoch))
    stage.step()
    assert y.all(Drop)[1:] == [], "it runs there, and goes on"
    y.say(Outcome(BOX, Verdict.UNSTARTED, (Part(sent.epoch, 1, 1, sent.fence, sent.n),)))
    stage.step()
    assert y.last(Batch).lane == ASIDE


def row(*deaths: Death) -> Segment:
    return Segment(
        channel=CHANNEL, epoch=1, first=3, count=1, body=b"", ends=b"", accepted_at=0, marks=Marks(deaths) or None
    )


def left_out(marking: Marking, segment: Segment) -> list[tuple[int, int]]:
    absent = Numbers()
    marking.leave_out(segment, absent)
    return list(absent)


def test_a_row_read_before_its_death_was_proved_does_not_say_that_it_is() -> None:
    """It is offered again with what is proved: taken the first time, too, it would be in two places."""
    # given: a row that has the death of X, of whom no proof was known; now there is one, on its way to the disk
    marking = Marking()
    marking.want(1, 3, [death(X)], [], ticket=7)
    # then what was read before waits
    assert left_out(marking, row(death(X, proved=False, ran=False))) == [(3, 1)]
    assert left_out(marking, row()) == [(3, 1)]
    # and what was read after it is what was waited for, once
    assert left_out(marking, row(death(Y), death(X))) == []
    assert not marking


def test_a_row_that_is_to_lose_a_death_and_has_another_says_so_when_both_are_written() -> None:
    marking = Marking()
    marking.want(1, 3, [death(X), death(Y)], [], ticket=7)
    marking.want(1, 3, [], [X], ticket=8)
    assert left_out(marking, row(death(X), death(Y))) == [(3, 1)]
    assert left_out(marking, row()) == [(3, 1)]
    marking.lasting(1, 3, 7)
    assert marking
    assert left_out(marking, row(death(Y))) == []
    assert not marking


# -- the worker, by itself -------------------------------------------------------------------------------------------


def worker(runners: int = 2) -> tuple[Stage, Puppet]:
    stage = Stage(services={CHANNEL: runners})
    return stage, stage.peer(X, boxes=[Owned(BOX, 1)])


def suspect(puppet: Puppet, number: int, lane: int, n: int) -> Part:
    return puppet.send(number, n=n, lane=lane)


def lanes_of(puppet: Puppet, lane: int) -> list[int]:
    return [credit.limit for credit in puppet.all(Credit) if credit.lane == lane]


def phase_of(stage: Stage) -> Phase:
    return stage.core.worker.lanes.phase


def test_a_worker_gives_each_link_one_suspect_and_one_more_for_each_that_it_has_survived() -> None:
    stage, x = worker(runners=20)
    x.say(Want(CHANNEL, ASIDE, 0, 0, 40))
    assert lanes_of(x, ASIDE) == [1]
    suspect(x, 1, ASIDE, 1)
    x.say(Want(CHANNEL, ASIDE, 1, 1, 39))
    assert lanes_of(x, ASIDE) == [1], "a second one while the first is here"
    number, given = 1, [1]
    while number < 31:
        runs = [stage.take() for _ in range(given[-1])]
        assert stage.take() is None
        for each in runs:
            stage.end(each)
        given.append(lanes_of(x, ASIDE)[-1] - number)
        for _ in range(given[-1]):
            number += 1
            suspect(x, number, ASIDE, number)
    assert given == [1, 2, 4, 8, 8, 8], "as many beside one another as may have to run alone"


def test_what_a_worker_has_survived_counts_for_those_suspects_only() -> None:
    stage, x = worker(runners=20)
    x.say(Want(CHANNEL, ASIDE, 0, 0, 3))
    suspect(x, 1, ASIDE, 1)
    stage.end(stage.take())
    assert lanes_of(x, ASIDE) == [1, 3]
    x.say(Want(CHANNEL, ASIDE, 1, 2, 0))
    assert lanes_of(x, ASIDE) == [1, 3, 1], "what is not used is taken back"
    x.say(Want(CHANNEL, ASIDE, 1, 3, 5))
    assert lanes_of(x, ASIDE) == [1, 3, 1, 2], "of those that come next nothing is known"


def test_suspects_that_did_nothing_are_back_soon_however_long_they_run() -> None:
    fleet = Fleet(workers=1, runners=64, work_s=1.0)
    fleet.push(64)
    fleet.world.run(0.5)
    fleet._die(0, _there(fleet.workers[0]))
    began = fleet.world.now
    fleet.run(100.0)
    assert fleet.store.counts[Verdict.HANDLED] == 64
    assert fleet.world.now - began < 13.0, "64 of them one by one take 64 s"


def test_a_killer_among_many_suspects_makes_few_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    twice: set[tuple[int, int]] = set()
    apply = Store.apply

    def watched(store: Store, changes: list[Change]) -> None:
        apply(store, changes)
        twice.update(name for name, row in store.rows.items() if row.marks is not None and len(row.marks.deaths) > 1)

    monkeypatch.setattr(Store, "apply", watched)
    alone: list[int] = []
    for killer in (1, 20, 64):
        fleet = Fleet(workers=1, runners=64, work_s=0.1)
        fleet.push(64, {killer})
        fleet.run(100.0)
        assert fleet.condemned() == {killer}
        assert fleet.killed == {killer: 3}
        alone.append(len(twice))
        twice.clear()
    assert alone[0] == 1, "the first one goes by itself"
    assert 1 < max(alone) <= 8


def _there(process: Process | None) -> Process:
    assert process is not None
    return process


def test_a_worker_stands_still_for_one_that_is_to_run_alone() -> None:
    stage, x = worker()
    x.send(1, n=1)
    runs = stage.take()
    x.send(2, n=2)
    x.say(Want(CHANNEL, ALONE, 0, 0, 1))
    assert stage.take() is None, "something was started although one is to run alone"
    assert lanes_of(x, ALONE) == []
    stage.end(runs)
    assert lanes_of(x, ALONE) == [1]
    part = suspect(x, 7, ALONE, 3)
    alone = stage.take()
    assert alone is not None
    assert alone.delivery.number(alone.start) == 7
    assert stage.take() is None
    stage.end(alone)
    assert stage.take() is None, "who kills this process now has killed it alone, as far as its owner knows"
    x.say(Confirm(BOX, (part,)))
    rest = stage.take()
    assert rest is not None
    assert rest.delivery.number(rest.start) == 2


def test_a_credit_for_one_alone_is_withdrawn_if_nothing_comes_within_two_seconds() -> None:
    stage, x = worker()
    x.say(Want(CHANNEL, ALONE, 0, 0, 1))
    assert lanes_of(x, ALONE) == [1]
    stage.step(1.9)
    x.send(1, n=1)
    assert stage.take() is None
    stage.step(0.2)
    assert lanes_of(x, ALONE) == [1, 0]
    x.send(2, n=2)
    assert stage.take() is not None


def test_one_that_comes_too_late_to_run_alone_is_handed_back() -> None:
    stage, x = worker()
    x.say(Want(CHANNEL, ALONE, 0, 0, 1))
    stage.step(2.1)
    part = suspect(x, 1, ALONE, 1)
    assert x.last(Outcome) == Outcome(BOX, Verdict.UNSTARTED, (part,))
    assert stage.take() is None


def test_a_worker_moves_again_when_nobody_wants_to_run_alone_any_more() -> None:
    stage, x = worker()
    x.send(1, n=1)
    first = stage.take()
    x.send(2, n=2)
    x.say(Want(CHANNEL, ALONE, 0, 0, 1))
    assert stage.take() is None
    x.say(Want(CHANNEL, ALONE, 0, 0, 0))
    assert stage.take() is not None
    stage.end(first)


def test_a_worker_moves_again_when_the_link_is_lost_for_which_it_stood_still() -> None:
    stage, x = worker()
    x.send(1, n=1)
    stage.take()
    y = stage.peer(Y, boxes=[Owned(BOX + 1, 1)])
    y.say(Want(CHANNEL, ALONE, 0, 0, 1))
    x.send(2, n=2)
    assert stage.take() is None
    y.lose()
    assert stage.core.worker.lanes.phase is Phase.MOVING
    assert stage.take() is not None


def test_what_runs_for_hours_stops_ordinary_work_for_half_of_the_time_at_most() -> None:
    stage, x = worker()
    x.send(1, n=1)
    long = stage.take()
    x.say(Want(CHANNEL, ALONE, 0, 0, 1))
    stood = 0.0
    for _ in range(600):
        stage.step(0.1)
        stood += 0.1 if stage.core.worker.lanes.is_active() else 0.0
    assert 0 < stood <= 0.6 * 60.0
    assert lanes_of(x, ALONE) == []
    stage.end(long)
    stage.step(60.0)
    assert lanes_of(x, ALONE)[0] == 1, "it is still wanted, and now nothing runs"


def test_while_one_runs_alone_for_long_others_get_what_lies_here() -> None:
    stage, x = worker()
    x.say(Want(CHANNEL, ALONE, 0, 0, 1))
    suspect(x, 7, ALONE, 1)
    alone = stage.take()
    waits = x.send(8, n=2)
    stage.step(stage.config.idle_after + 0.1)
    assert x.last(Outcome) == Outcome(BOX, Verdict.UNSTARTED, (waits,))
    stage.end(alone)
    assert phase_of(stage) is Phase.TELLING
    stage.step(stage.config.alone_within + 0.1)
    assert phase_of(stage) is Phase.MOVING, "an owner that says nothing is not waited for longer"


def test_a_worker_that_drains_wants_no_suspects() -> None:
    stage, x = worker()
    x.say(Want(CHANNEL, ASIDE, 0, 0, 2))
    stage.core.drain()
    stage.step()
    assert lanes_of(x, ASIDE) == [1, 0]
    assert not stage.core.is_drained(), "its owner may still send one"
    x.say(Want(CHANNEL, ASIDE, 0, 2, 2))
    x.say(Want(CHANNEL, ALONE, 0, 0, 2))
    assert lanes_of(x, ALONE) == []


def test_a_batch_of_many_has_no_place_in_a_lane_of_suspects() -> None:
    _, x = worker()
    x.send(1, 2, lane=ASIDE)
    assert x.closed
