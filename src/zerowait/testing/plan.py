"""What a seed means: how large the world is, what is pushed when, how handlers behave, and what goes wrong."""

from __future__ import annotations

from random import Random
from typing import Final

from msgspec import Struct

# All that can go wrong. Each kind is in about a third of the plans.
FAULTS: Final = (
    "slow network",
    "partition",
    "one-way partition",
    "connection cut",
    "late frames",  # of a connection that only one end knows to be over
    "old frames first",  # in a new connection, before its HELLO
    "dialled twice",
    "sender killed",
    "worker killed",
    "killed in a commit",
    "power cut",
    "adoption",
    "disk full",
    "write error",
    "sync error",
    "sender paused",
    "worker paused",
    "wall clock set",
    "slow handler",
    "handler fails",
    "handler rejects",
    "handler kills",
    "handler kills both ends",  # its process, and the one that owns the message
    "worker leaves",
    "worker joins",
)
KILLS: Final = {"handler kills", "handler kills both ends"}
OF_HANDLERS: Final = {"slow handler", "handler fails", "handler rejects"} | KILLS
SHARE: Final = 0.38
PUSHING_S: Final = 1.2
TROUBLE_S: Final = 1.6
LONGEST_S: Final = 4.5  # from there on nothing goes wrong any more
OF_DISKS: Final = {"disk full", "write error", "sync error"}


class Event(Struct, frozen=True):
    """at: seconds from the beginning. lasts: seconds until it is over. one, other: who, modulo how many there are."""

    at: float
    kind: str
    lasts: float
    one: int
    other: int


class Push(Struct, frozen=True):
    at: float
    sender: int
    tokens: tuple[int, ...]
    ttl: float | None = None
    delay: float | None = None
    keys: tuple[str, ...] = ()  # of the tokens; "": none


class Plan(Struct, frozen=True):
    seed: int
    senders: int
    workers: int
    runners: int
    job: int
    latency_s: float
    commit_s: float
    handler_s: float
    proves: bool  # whether deaths can be proved: all on one machine
    lists: bool  # whether the dead leave a list of what they ran
    heirs: bool  # whether the next process of that name finds it, and tells
    pushes: tuple[Push, ...]
    withdrawals: tuple[tuple[float, int], ...]  # at, token
    events: tuple[Event, ...]
    tempers: dict[int, str]  # token → which kind of handler it meets; the others do well
    healed_s: float  # seconds from the beginning after which nothing goes wrong any more
    sends: tuple[int, ...]  # how many messages a handler sends on, by token modulo its length; empty: one stage only
    keeps: frozenset[str]  # channels whose outcomes lie on their worker's disk

    @property
    def has_homes(self) -> bool:
        """Whether workers have outboxes of their own."""
        return bool(self.sends or self.keeps)


def plan(seed: int) -> Plan:
    rng = Random(f"plan {seed}")
    senders, workers = rng.choice((1, 2, 2, 3)), rng.choice((1, 2, 2, 3))
    chosen = [kind for kind in FAULTS if rng.random() < SHARE]
    pushes: list[Push] = []
    token = 0
    keyed = Random(f"keys {seed}")
    names = keyed.choice(("", "a", "ab", "abcd"))  # in a quarter of the seeds none
    for _ in range(rng.randint(8, 24)):
        count = rng.choice((1, 1, 1, 2, 3, 6))
        ttl = rng.uniform(0.2, 3.0) if rng.random() < 0.1 else None
        delay = rng.uniform(0.05, 1.0) if rng.random() < 0.1 else None
        tokens = tuple(range(token, token + count))
        push = Push(rng.uniform(0.0, PUSHING_S), rng.randrange(senders), tokens, ttl, delay, _keys(keyed, names, count))
        pushes.append(push)
        token += count
    events: list[Event] = []
    tempers: dict[int, str] = {}
    for kind in chosen:
        if kind in OF_HANDLERS:
            tempers.update({rng.randrange(token): kind for _ in range(rng.choice((1, 2, 4)))})
            continue
        for _ in range(rng.choice((1, 1, 2))):
            # Now and then longer than silence and grace together, so that what was held is given to another.
            lasts = rng.choice((0.05, 0.3, 0.6, 2.4)) * rng.uniform(0.5, 1.5)
            if kind in OF_DISKS:
                lasts += 0.3
            events.append(Event(rng.uniform(0.02, TROUBLE_S), kind, lasts, rng.randrange(12), rng.randrange(12)))
    # Of their own, so that worlds of one stage are as they always were.
    stages = Random(f"stages {seed}")
    sends = stages.choice(((), (), (1,), (1,), (1, 0, 2)))
    keeps = frozenset(name for name in ("work", "next") if stages.random() < 0.25)
    return Plan(
        seed=seed,
        senders=senders,
        workers=workers,
        runners=rng.choice((1, 2, 4)),
        job=rng.choice((1, 1, 2, 4)),
        latency_s=rng.choice((0.0002, 0.002, 0.02)),
        commit_s=rng.choice((0.0005, 0.003, 0.02)),
        handler_s=rng.choice((0.002, 0.01, 0.04)),
        proves=(proves := rng.random() < 0.5),
        lists=rng.random() < 0.8,
        heirs=rng.random() < 0.5 or proves,
        pushes=tuple(sorted(pushes, key=lambda push: push.at)),
        withdrawals=tuple((rng.uniform(0.1, 2.0), rng.randrange(token)) for _ in range(rng.choice((0, 0, 1, 3)))),
        events=tuple(sorted(events, key=lambda event: event.at)),
        tempers=tempers,
        healed_s=min(LONGEST_S, max([1.8, *(event.at + event.lasts for event in events)])),
        sends=sends,
        keeps=keeps,
    )


def _keys(rng: Random, names: str, count: int) -> tuple[str, ...]:
    """Some in a row with one key, some with keys in turn, some without any."""
    if not names or rng.random() < 0.3:
        return ("",) * count
    if rng.random() < 0.5:
        return (rng.choice(names),) * count
    return tuple(rng.choice(names) for _ in range(count))
