"""The table of rules §7, and what else a window must do, on virtual time.

What the draft of the protocol did is what must not happen; what the rules reach must be reached or beaten.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from tests.protocol.world import Handler, Process, Store, World

CHANNEL = "work"
MS = 0.001


def cluster(
    senders: int, workers: int, runners: int, handler: Handler, *, latency_s: float = 0.0002, job: int = 1
) -> tuple[World, list[Process], list[Process]]:
    """All senders connected with all workers, and a second gone by."""
    world = World(latency_s=latency_s)
    owners = [Process(world, f"sender{index}", boxes=[Store(100 + index)]) for index in range(senders)]
    served = [Process(world, f"worker{index}", services={CHANNEL: runners}, job=job) for index in range(workers)]
    for worker in served:
        worker.handler = handler
        for owner in owners:
            world.dial(owner, worker)
    world.run(1.0)
    return world, owners, served


def taking(seconds: float) -> Handler:
    return lambda channel, epoch, number: (seconds, None)


def test_row_1_ten_second_handlers_keep_all_runners_of_two_workers_busy() -> None:
    world, (sender,), _ = cluster(1, 2, 32, taking(10.0))
    sender.push(CHANNEL, 500)
    world.run(1.0 + 35.0)
    print(f"done after 35 s: {world.ended()} (draft 6, rules 192)")
    assert world.ended() >= 192


@pytest.mark.parametrize("seconds", [0.1, 1.0, 10.0])
def test_row_2_a_slow_worker_of_fifty_senders_hoards_two_messages(seconds: float) -> None:
    world, senders, (worker,) = cluster(50, 1, 1, taking(seconds))
    for sender in senders:
        sender.push(CHANNEL, 5)
    world.run(1.0 + 40 * seconds)
    print(f"hoarded with {seconds:g} s: {worker.most_held} (draft 50, rules 2)")
    assert worker.most_held <= 2
    assert world.ended() >= 39, "the runner was left without work"


def test_row_3_a_thousand_senders_of_one_message_each_all_have_their_turn() -> None:
    world, senders, _ = cluster(1_000, 2, 10, taking(0.1))
    for sender in senders:
        sender.push(CHANNEL, 1)
    ideal = 1_000 * 0.1 / 20
    world.run(1.0 + ideal * 1.01)
    print(f"done after {ideal * 1.01:.2f} s: {world.ended()} (draft 519, rules 1,000)")
    assert world.ended() == 1_000


def test_row_4_occasional_senders_do_not_wait_behind_a_busy_one() -> None:
    chance = random.Random(4)
    world, (busy, *others), _ = cluster(20, 1, 4, lambda *_: (chance.uniform(4, 6) * MS, None))
    pushed: dict[tuple[int, int, int], float] = {}
    busy.push(CHANNEL, 20_000)

    def occasionally(sender: Process) -> Callable[[], None]:
        def push() -> None:
            made = sender.push(CHANNEL, 1)
            pushed[next(iter(sender.stores)), made.epoch, made.first] = world.now
            world.call(world.now + chance.expovariate(2), push)

        return push

    for sender in others:
        world.call(world.now + chance.expovariate(2), occasionally(sender))
    world.run(11.0)

    waits = sorted(runs[0].started_at - pushed[name] for name, runs in world.by_name.items() if name in pushed)
    half, most = waits[len(waits) // 2] / MS, waits[len(waits) * 99 // 100] / MS
    print(f"{len(waits)} waits, p50 / p99: {half:.1f} / {most:.1f} ms (draft 99 / 105, rules 2.2 / 4.2)")
    assert half <= 2.2
    assert most <= 4.2
    assert world.ended() >= 0.98 * 4 * 10 / (5 * MS)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_row_5_a_few_long_tasks_do_not_hold_up_the_short_ones(seed: int) -> None:
    count = 8_500
    long = set(random.Random(seed).sample(range(1, count + 1), count * 2 // 1_000))
    world, (sender,), _ = cluster(1, 2, 2, lambda _c, _e, number: (10.0 if number in long else MS, None))
    for _ in range(0, count, 500):
        sender.push(CHANNEL, 500)
    world.run(1.0 + 60.0)
    share = (sum(10.0 if n in long else MS for n in range(1, count + 1))) / 4
    last = max(run.started_at for run in world.runs) - 1.0
    print(f"last start {last:.1f} s of {share:.1f} (draft 51.2 of 44.5, rules 42.0 of 44.5)")
    assert world.ended() == count
    assert last / share <= 42.0 / 44.5 * 1.02  # where the long ones lie moves it by a percent or two


def test_row_6_a_hundred_busy_senders_fill_one_window_not_a_hundred() -> None:
    world, senders, (worker,) = cluster(100, 1, 4, taking(5 * MS))
    for sender in senders:
        sender.push(CHANNEL, 100)
    world.run(1.0 + 5.0)
    print(f"held: {worker.most_held} (draft 8,000, rules 83)")
    assert worker.most_held <= 4 + 0.1 / (5 * MS) * 4
    assert world.ended() >= 0.99 * 4 * 5 / (5 * MS)


@pytest.mark.parametrize(("workers", "runners", "senders"), [(2, 4, 1), (3, 8, 2), (5, 2, 3)])
def test_ten_millisecond_handlers_keep_all_runners_busy_to_the_end(workers: int, runners: int, senders: int) -> None:
    world, owners, _ = cluster(senders, workers, runners, taking(10 * MS))
    for owner in owners:
        owner.push(CHANNEL, 600)
    world.run(1.0 + 20.0)
    last = max(run.ended_at or 0.0 for run in world.runs) - 2 * 10 * MS
    busy = sum(max(0.0, min(run.ended_at or last, last) - min(run.started_at, last)) for run in world.runs)
    share = busy / ((last - 1.0) * workers * runners)
    print(f"{workers} workers of {runners} runners: {100 * share:.1f} % busy")
    assert world.ended() == 600 * senders
    assert share >= 0.95


def rate_each(workers: int) -> float:
    """Messages a second of one worker among so many, 10 µs a message, all of its runners on one core."""
    world, (sender,), _ = cluster(1, workers, 1, taking(0.000_01), job=128)
    count = 60_000 * workers
    for _ in range(count // 1_000):
        sender.push(CHANNEL, 1_000)
    world.run(1.0 + 5.0)
    assert world.ended() == count
    return 60_000 / (max(run.ended_at or 0.0 for run in world.runs) - 1.0)


def test_each_of_two_fast_workers_is_nearly_as_fast_as_a_lone_one() -> None:
    alone, together = rate_each(1), rate_each(2)
    print(f"alone {alone:,.0f}/s, each of two {together:,.0f}/s")
    assert together >= 0.9 * alone


def test_the_window_of_a_fast_handler_grows_to_its_bound_in_a_quarter_of_a_second() -> None:
    world, (sender,), (worker,) = cluster(1, 1, 32, taking(0.000_000_1), latency_s=MS, job=128)
    for _ in range(1_000):
        sender.push(CHANNEL, 1_024)
    window = worker.core.worker.windows[CHANNEL]
    sizes = []
    while world.now < 1.29:
        world.run(world.now + 0.02)
        sizes.append(window.size)
    print("window each 20 ms:", sizes)
    assert max(sizes[:13]) == 50_000
    assert all(after <= 2 * before for before, after in pairwise(sizes))


def test_credit_is_renewed_before_it_runs_out_and_costs_few_frames() -> None:
    """A durable sender at a million a second: the handler never waits, and control frames are fewer than batches."""
    world, (sender,), (worker,) = cluster(1, 1, 1, taking(0.000_001), job=1_024)
    sender.commit_s = MS
    left = 400_000

    def push() -> None:
        nonlocal left
        while left > 0 and sender.core.owner.dispatch.waiting(CHANNEL) < 8_192:
            sender.push(CHANNEL, 1_024)
            left -= 1_024
        if left > 0:
            world.call(world.now + 0.5 * MS, push)

    push()
    world.run_while(lambda: world.ended() < 100_000, 10.0)  # the window has grown by then
    frames, batches, since = worker.frames["Credit"] + sender.frames["Want"], sender.frames["Batch"], world.now
    ended = world.ended()
    world.run_while(lambda: world.ended() < 380_000, 10.0)
    busy = (world.ended() - ended) * 0.000_001 / (world.now - since)
    frames = worker.frames["Credit"] + sender.frames["Want"] - frames
    batches = sender.frames["Batch"] - batches
    print(f"{frames} CREDIT and WANT for {batches} batches, handler busy {100 * busy:.0f} %")
    assert frames < 2 * (world.ended() - ended) / 1_024
    assert frames < batches
    assert busy >= 0.97


def test_a_lone_message_after_another_needs_no_round_trip() -> None:
    world, (sender,), _ = cluster(1, 1, 4, taking(0.0))
    for _ in range(50):
        pushed = world.now
        sender.push(CHANNEL, 1)
        world.run(world.now + 0.01)
        assert world.runs[-1].started_at - pushed == pytest.approx(world.latency_s)
    assert sender.frames["Want"] == 0


def test_what_was_promised_to_an_idle_link_is_asked_back_for_one_that_needs_it() -> None:
    """Without: one sender's standing credit would be the only one, and the other sender would wait for ever."""
    world, (idle, busy), (worker,) = cluster(2, 1, 1, taking(1.0))
    busy.push(CHANNEL, 3)
    world.run(1.0 + 3.5)
    assert world.ended() == 3
    idle.push(CHANNEL, 3)
    world.run(world.now + 3.5)
    assert world.ended() == 6
    assert worker.most_held <= 2


def test_a_sender_that_stops_with_the_whole_credit_holds_up_others_for_the_silence_only() -> None:
    world, (stopped, other), _ = cluster(2, 1, 1, taking(1.0))
    stopped.push(CHANNEL, 5)
    world.run(1.5)
    stopped.pause()
    other.push(CHANNEL, 2)
    world.run(1.5 + 3.0 + 3.5)
    assert {run.name[0] for run in world.runs[-2:]} == {101}
