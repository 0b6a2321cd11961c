"""The checker finds what it is there to find: each test keeps the books of a small world and spoils one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from zerowait.message import Death, Mark
from zerowait.testing import order
from zerowait.testing.causes import Causes
from zerowait.testing.checker import Books, check
from zerowait.testing.cluster import CONFIG, Cluster
from zerowait.testing.deaths import judge
from zerowait.testing.history import LEFT, History, Life, Message, Run, payload_of
from zerowait.testing.plan import plan
from zerowait.testing.timeline import START, Timeline

BOX, WORKER = 9, 5


class World:
    """Message 0 was handled, 1 failed and is dead, 2 expired, 3 was refused, 4 is of a sender that died."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.history = History(self.timeline)
        self.messages = [
            self.history.pushed(BOX, payload_of(token, 10), expires=token == 2) for token in range(5)
        ]  # fmt: skip
        for message, fate in zip(
            self.messages, ("accepted", "accepted", "accepted", "refused", "unknown"), strict=True
        ):
            message.fate = fate
        self.run(0, "handled")
        self.run(1, "dead")
        self.books = Books(BOX, accepted=4, handled=2, dead=1, expired=1, letters={1: "rejected"}, failures={1: 1})
        self.run(4, "handled")

    def run(self, token: int, ending: str, at: float = START, *, worker: int = WORKER, ended: bool = True) -> Run:
        run = Run(worker, (BOX, 1, token + 1), at, ending)
        self.history.started(self.messages[token].payload, run)
        run.ended_at = at + 0.01 if ended else None
        return run

    def wrong(self) -> list[str]:
        return check(self.history, [self.books])


def test_a_world_in_which_all_is_well_passes() -> None:
    assert World().wrong() == []


def spoil_run(token: int) -> Callable[[World], None]:
    def spoil(world: World) -> None:
        world.messages[token].runs.clear()

    return spoil


def say(token: int, what: str) -> Callable[[World], None]:
    return lambda world: world.messages[token].said.append(what)


def count(name: str, by: int) -> Callable[[World], None]:
    return lambda world: setattr(world.books, name, getattr(world.books, name) + by)


def strange(world: World) -> None:
    world.history.started(payload_of(77, 10), Run(WORKER, (BOX, 1, 9), START, "handled"))


def alter(world: World) -> None:
    world.history.started(payload_of(0, 100), Run(WORKER, (BOX, 1, 1), START, "handled"))


PLANTED: dict[str, tuple[Callable[[World], object], str]] = {
    "never handled": (spoil_run(0), "lost: message 0"),
    "its letter is gone": (lambda world: world.books.letters.clear(), "lost: message 1"),
    "nobody pushed it": (strange, "unexpected"),
    "other bytes": (alter, "altered: message 0"),
    "refused and run": (lambda world: world.run(3, "handled"), "refused and delivered: message 3"),
    "refused and a letter": (lambda world: world.books.letters.update({3: "?"}), "refused and delivered: message 3"),
    "no reason": (lambda world: world.books.letters.update({1: ""}), "dead without a reason: message 1"),
    "no failure": (spoil_run(1), "dead without a failure: message 1"),
    "no failure counted": (lambda world: world.books.failures.update({1: 0}), "miscounted: message 1"),
    "a failure counted twice": (lambda world: world.books.failures.update({1: 2}), "miscounted: message 1"),
    "a letter of nobody": (lambda world: world.books.letters.update({77: "?"}), "a dead letter 77"),
    "nobody was told": (lambda world: setattr(world.messages[0], "fate", "pending"), "undecided"),
    "told as handled": (say(1, "handled"), "told as handled, and never was: message 1"),
    "told as dead": (say(0, "dead"), "told as dead, and there is no letter: message 0"),
    "told as expired": (say(0, "expired"), "had no time to: message 0"),
    "told as begun": (say(2, "begun"), "never had: message 2"),
    "one too few accepted": (count("accepted", -2), "says 2 accepted, and there were 3 to 4"),
    "one too many accepted": (count("accepted", 1), "says 5 accepted"),
    "one too many handled": (count("handled", 1), "says 3 handled"),
    "one too many dead": (count("dead", 1), "says 2 dead, and there were 1"),
    "one too many expired": (count("expired", 1), "says 2 expired"),
    "dropped for no reason": (count("dropped", 1), "says 1 dropped"),
    "one still waits": (count("waiting", 1), "says 1 waiting"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_planted_is_found(planted: str) -> None:
    world = World()
    spoil, words = PLANTED[planted]
    spoil(world)
    assert [line for line in world.wrong() if words in line], world.wrong()


# -- what handlers send -----------------------------------------------------------------------------------------------

OUTPUTS = {token: (payload_of(token, 10), "", "") for token in (101, 102, 103)}


class Sending(World):
    """Message 0 was handled by a run that sends 101 and 102, and by one that sends all three; 101 and 102 have left."""

    def __init__(self, *left: int) -> None:
        super().__init__()
        again = self.run(0, "handled", START + 1.0)
        for run, tokens in ((self.messages[0].runs[0], (101, 102)), (again, (101, 102, 103))):
            self.history.sent(self.messages[0], run, [OUTPUTS[token] for token in tokens])
        for token in left:
            self.history.started(OUTPUTS[token][0], Run(WORKER, (BOX + 1, 1, token), START + 2.0, "handled"))

    def outputs(self) -> list[str]:
        return [words for words in self.wrong() if "sent" in words]


@pytest.mark.parametrize("left", [(101, 102), (101, 102, 103)])
def test_all_that_one_run_sends_leaves(left: tuple[int, ...]) -> None:
    assert Sending(*left).outputs() == []


@pytest.mark.parametrize(
    ("left", "words"), [((101,), "sent in part"), ((101, 103), "sent in part"), ((), "not sent: what was sent")]
)
def test_what_no_run_sends_is_found(left: tuple[int, ...], words: str) -> None:
    assert words in Sending(*left).outputs()[0]


def test_nothing_leaves_where_the_run_that_was_chosen_sends_nothing() -> None:
    world = Sending()
    world.run(0, "handled", START + 1.5)
    assert world.outputs() == []


# -- second starts -----------------------------------------------------------------------------------------------------


class Starts:
    """One message that is started twice, by workers 5 and 6."""

    def __init__(self, ending: str = "handled", *, ended: bool = True) -> None:
        timeline = Timeline()
        self.history = History(timeline)
        self.causes = Causes(Cluster(plan(1), timeline, self.history))
        self.life = self.history.lives[5] = Life(5, "x", True, START)
        self.history.lives[6] = Life(6, "y", True, START)
        message: Message = self.history.pushed(BOX, payload_of(0, 10), expires=False)
        self.before = Run(5, (BOX, 1, 1), START + 1.0, ending, START + 1.1 if ended else None)
        self.after = Run(6, (BOX, 1, 1), START + 4.0, "handled", START + 4.1)
        message.runs += [self.before, self.after]

    def judge(self) -> tuple[list[str], dict[str, int]]:
        return self.causes.judge(), dict(self.causes.counted)


def test_a_second_start_without_a_cause_is_wrong() -> None:
    assert "without a cause" in Starts().judge()[0][0]


def test_a_retry_is_a_cause() -> None:
    assert Starts("retry").judge() == ([], {"retry": 1})


def test_a_retry_that_had_not_ended_is_none() -> None:
    assert Starts("retry", ended=False).judge()[0]


def test_a_death_is_a_cause_for_as_many_as_the_dead_held_and_no_more() -> None:
    starts = Starts(ended=False)
    starts.life.ended_at, starts.life.unsettled = START + 2.0, 1
    assert starts.judge() == ([], {"death": 1})
    starts.life.unsettled = 0
    assert "which held 0" in starts.judge()[0][0]


def test_a_death_after_the_second_start_is_none() -> None:
    starts = Starts(ended=False)
    starts.life.ended_at, starts.life.unsettled = START + 5.0, 1
    assert starts.judge()[0]


@pytest.mark.parametrize(("since", "until", "is_cause"), [(1.05, 3.9, True), (1.05, 1.5, False), (3.9, 9.0, False)])
def test_a_silence_as_long_as_the_grace_is_a_cause(since: float, until: float, is_cause: bool) -> None:
    starts = Starts(ended=False)
    starts.life.breaks[BOX] = [(START + since, START + until)]
    assert CONFIG.resume_grace == 1.25
    assert (starts.judge()[0] == []) is is_cause


@pytest.mark.parametrize(("taken", "is_cause"), [(0.9, True), (3.8, False), (None, False)])
def test_a_silence_with_the_second_is_a_cause_if_its_runner_had_taken_the_message_before(
    taken: float | None, is_cause: bool
) -> None:
    starts = Starts(ended=False)
    starts.history.lives[6].breaks[BOX] = [(START + 1.0, START + 3.7)]
    starts.after.taken_at = START + taken if taken is not None else None
    assert (starts.judge()[0] == []) is is_cause


@pytest.mark.parametrize(("waits", "is_wrong"), [(2.9, False), (3.1, True)])
def test_what_has_failed_must_not_begin_before_its_time(waits: float, *, is_wrong: bool) -> None:
    starts = Starts("retry")  # which has failed at 1.1, and begins again at 4.0
    starts.before.wait_s = waits
    assert bool(starts.judge()[0]) is is_wrong


def test_what_has_failed_may_begin_before_its_time_if_its_worker_died_and_may_not_have_been_heard() -> None:
    starts = Starts("retry")
    starts.before.wait_s = 10.0
    starts.life.ended_at, starts.life.unsettled = START + 2.0, 1
    assert starts.judge() == ([], {"death": 1})


@pytest.mark.parametrize(("at", "delay", "is_wrong"), [(0.0, 0.9, False), (0.0, 1.1, True), (0.5, 0.6, True)])
def test_what_is_pushed_with_a_delay_must_not_begin_before_its_time(at: float, delay: float, *, is_wrong: bool) -> None:
    starts = Starts("retry")
    message = starts.history.messages[0]
    message.pushed_at, message.delay_s = START + at, delay
    assert any("before its time" in words for words in starts.judge()[0]) is is_wrong


@pytest.mark.parametrize(
    ("openings", "is_wrong"),
    [
        ([(0.0, 0), (2.0, 60)], False),
        ([(0.0, 60), (2.0, 0)], True),  # set back: no time has passed
        ([(0.0, 60)], True),  # it was ahead from the beginning of that life
        ([(0.0, 0), (5.0, 60)], True),  # later
    ],
)
def test_a_clock_that_was_set_on_between_two_lives_of_an_outbox_makes_due_what_waits(
    openings: list[tuple[float, int]], *, is_wrong: bool
) -> None:
    starts = Starts("retry")
    starts.before.wait_s = 10.0
    starts.history.clocks[BOX] = [(START + at, ahead * 1_000_000) for at, ahead in openings]
    assert bool(starts.judge()[0]) is is_wrong


# -- who ends its process ----------------------------------------------------------------------------------------------


class Deaths:
    """Message 0, which is a killer or is not, and the workers that have died while it ran."""

    def __init__(self, *, is_killer: bool = True, proves: bool = True, lists: bool = True) -> None:
        tempers = {0: "handler kills"} if is_killer else {}
        self.plan = replace(plan(1), proves=proves, lists=lists, tempers=tempers)
        self.history = History(Timeline())
        self.message = self.history.pushed(BOX, payload_of(0, 10), expires=False)
        self.history.openings[BOX] = 1

    def die(self, times: int, *, how: str = "a handler", is_silent: bool = False, was_leaving: bool = False) -> None:
        for instance in range(len(self.history.lives), len(self.history.lives) + times):
            life = self.history.lives[instance] = Life(instance, f"worker{instance}", True, START, START + 1, how)
            life.is_silent, life.was_leaving = is_silent, was_leaving
            self.message.runs.append(Run(instance, (BOX, 1, 1), START, "kills"))

    def judge(self, *, is_condemned: bool = True, silences: int = 0) -> list[str]:
        condemned = {0} if is_condemned else set[int]()
        return judge(self.plan, self.history, condemned, Counter({0: silences}))


def test_a_killer_runs_three_times_with_proof_and_five_times_without() -> None:
    for proof, most in ((True, 3), (False, 5)):
        deaths = Deaths(proves=proof)
        deaths.die(most)
        assert deaths.judge() == []
        deaths.die(1)
        assert "not found: message 0" in deaths.judge()[0]
        assert deaths.judge(silences=1) == [], "two ran it at once"


def test_the_end_of_a_machine_and_of_who_leaves_is_no_death() -> None:
    deaths = Deaths()
    deaths.die(3)
    deaths.die(2, is_silent=True)
    deaths.die(2, how=LEFT)
    assert deaths.judge() == []


def test_a_death_while_leaving_is_none_unless_somebody_has_noted_it() -> None:
    """Seed 50310: a killer ended three, and one that was leaving."""
    deaths = Deaths()
    deaths.die(1, was_leaving=True)
    deaths.die(3)
    assert deaths.judge() == []
    deaths.history.marked(BOX, Mark("work", 1, 1, (Death(0, ran=False),)))
    assert "not found: message 0" in deaths.judge()[0], "its owner had not heard that it was leaving"
    for run in deaths.message.runs[1:]:
        run.started_at = START - 1.0
    assert deaths.judge() == [], "it was noted, but by a later life of its owner"


@pytest.mark.parametrize(
    ("seconds", "proof", "is_spared"), [(0.8, False, True), (0.5, False, False), (0.8, True, False)]
)
def test_an_unproved_death_in_silence_is_none_for_who_had_given_the_dead_up(
    seconds: float, proof: bool, is_spared: bool
) -> None:
    """Seed 1700: a worker that was held for longer than `silence` died of what it ran; its owner had ended the
    connection before, and could not see it end."""
    deaths = Deaths(proves=proof)
    deaths.die(6 if not proof else 4)
    life = deaths.history.lives[0]
    assert life.ended_at is not None
    life.broken_since[BOX] = life.ended_at - seconds
    assert (deaths.judge() == []) is is_spared


def test_who_was_only_there_when_one_that_was_leaving_died_must_not_be_condemned() -> None:
    deaths = Deaths(is_killer=False)
    deaths.die(2)
    deaths.die(1, was_leaving=True)
    assert "condemned: message 0" in deaths.judge()[0]


def test_who_was_there_at_fewer_deaths_must_not_be_condemned() -> None:
    deaths = Deaths(is_killer=False)
    deaths.die(2)
    assert "condemned: message 0" in deaths.judge()[0]
    assert deaths.judge(is_condemned=False) == []
    deaths.die(1)
    assert deaths.judge() == [], "nobody can tell it from a killer"


def test_what_was_only_queued_must_not_be_suspected() -> None:
    deaths = Deaths()
    deaths.die(1)
    deaths.history.lives[0].running = ((BOX, 1, 1, 1),)
    deaths.history.marked(BOX, Mark("work", 1, 1, (Death(0, ran=True),)))
    assert deaths.judge(is_condemned=False) == []
    deaths.history.marked(BOX, Mark("work", 1, 2, (Death(0, ran=True),)))
    assert "suspected: (9, 1, 2)" in deaths.judge(is_condemned=False)[0]


class KeyedWorld(World):
    """Messages 0, 1 and 2 have one key and were handled one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.causes = Causes(Cluster(plan(1), self.timeline, self.history))
        for message in self.messages[:3]:
            message.key, message.expires, message.fate = "a", False, "accepted"
            message.runs.clear()
        self.history.lives[WORKER] = Life(WORKER, "w", True, START)
        self.history.lives[WORKER + 1] = Life(WORKER + 1, "x", True, START)
        for token in range(3):
            self.run(token, "handled", START + 0.1 * token)

    def out_of_order(self) -> list[str]:
        return order.judge(self.history, set(), self.causes)


def test_keys_that_are_handled_in_order_pass() -> None:
    assert KeyedWorld().out_of_order() == []


def test_one_that_begins_before_what_was_pushed_before_it_is_over_is_found() -> None:
    world = KeyedWorld()
    world.messages[2].runs.clear()
    world.run(2, "handled", START + 0.05)
    assert world.out_of_order() == ["key a: message 2 was begun before message 1 was handled"]


def test_a_failed_run_does_not_let_the_next_begin() -> None:
    world = KeyedWorld()
    world.messages[1].runs[0].ending = "retry"
    world.run(1, "handled", START + 0.5)
    assert world.out_of_order() == ["key a: message 2 was begun before message 1 was handled"]


def test_two_of_a_key_at_once_are_found_unless_the_first_had_died_or_was_cut_off() -> None:
    def at_once(world: KeyedWorld) -> int:
        return sum(" ran at x when message " in line for line in world.out_of_order())

    world = KeyedWorld()
    world.messages[0].runs.clear()
    run = world.run(0, "handled", START, worker=WORKER + 1)
    run.ended_at = START + 3.0
    assert at_once(world) == 2
    life = world.history.lives[WORKER + 1]
    life.ended_at = START + 0.05
    assert at_once(world) == 0
    life.ended_at = None
    life.breaks[BOX] = [(START - CONFIG.resume_grace, START + 1.0)]
    assert at_once(world) == 0
    life.breaks.clear()
    world.run(0, "handled", START - 0.1)  # somebody else has handled it, so that it runs there for another cause
    assert at_once(world) == 0
