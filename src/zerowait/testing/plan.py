"""What a seed means: how large the world is, what is pushed when, how handlers behave, and what goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from msgspec import Struct

from zerowait.testing.durable import GROUPED, TEMPERS, Serve, serves, told
from zerowait.testing.traffic import Ask, Join, Publication, Push, asks, joins, publications, pushes

# All that can go wrong. Each kind is in about a third of the plans, but for those with a share of their own.
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
    "handler holds",  # the interpreter: its process lives, and nothing of it goes on
    "handler kills both ends",  # its process, and the one that owns the message
    "worker leaves",
    "worker joins",
    "versions mixed",  # some say what a later version might
)
KILLS: Final = {"handler kills", "handler kills both ends"}
OF_HANDLERS: Final = {"slow handler", "handler fails", "handler rejects"} | KILLS
HOLDS: Final = "handler holds"
HELD_S: Final = 3.0  # so long at most
HOLDS_SHARE: Final = 0.75  # of the worlds in which something is pushed
SHARE: Final = 0.4
GROUPS_SHARE: Final = 0.5  # of the worlds in which something is published
TELLS_SHARE: Final = 0.45  # of the worlds in which something is pushed: there handlers publish for durable groups
TELLS: Final = (("t.a",), ("t.b", "u.c"), ("u.c", "", "t.a"))
SHARE_OF_SOME: Final = 0.6  # of what cannot happen in every world
REFORMS: Final = 20  # runs of a killer after which it does well: who leaves no trace would kill for ever
LONGEST_S: Final = 4.5  # from there on nothing goes wrong any more
OF_DISKS: Final = {"disk full", "write error", "sync error", "killed in a commit", "adoption"}


class Event(Struct, frozen=True):
    """at: seconds from the beginning. lasts: seconds until it is over. one, other: who, modulo how many there are."""

    at: float
    kind: str
    lasts: float
    one: int
    other: int


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
    asks: tuple[Ask, ...]
    cancels: tuple[tuple[float, int], ...]  # at, token
    publications: tuple[Publication, ...]
    joins: tuple[Join, ...]
    events: tuple[Event, ...]
    tempers: dict[int, str]  # token → which kind of handler it meets; the others do well
    manners: dict[int, str]  # likewise, of requests
    mixes: bool  # whether some processes are of a later version
    healed_s: float  # seconds from the beginning after which nothing goes wrong any more
    sends: tuple[int, ...]  # how many messages a handler sends on, by token modulo its length; empty: one stage only
    keeps: frozenset[str]  # channels whose outcomes lie on their worker's disk
    serves: tuple[Serve, ...]  # who serves durable groups of topics
    tells: tuple[str, ...]  # where a handler publishes for them, by token modulo its length; "": nowhere

    @property
    def has_files(self) -> bool:
        """Whether senders have outboxes."""
        return bool(self.pushes or self.serves)

    @property
    def has_homes(self) -> bool:
        """Whether workers have outboxes of their own."""
        return bool(self.sends or self.keeps or self.tells)


class Size(Struct, frozen=True):
    """How large a world is. Most are small: what goes wrong in few steps is found there in less time."""

    senders: tuple[int, ...]
    workers: tuple[int, ...]
    pushes: tuple[int, int]
    asks: tuple[int, int]
    publications: tuple[int, int]
    joins: tuple[int, int]
    busy_s: float  # so long something new is done
    trouble_s: float  # so long something new goes wrong


SMALL: Final = Size((1, 1, 2), (1, 2, 2), (4, 10), (4, 12), (6, 16), (1, 3), 0.6, 0.8)
BIG: Final = Size((1, 2, 2, 3), (1, 2, 2, 3), (8, 24), (8, 24), (10, 40), (2, 6), 1.2, 1.6)


# What is done in a world: pushed, asked, published.
MIXTURES: Final = (
    (True, False, False),
    (True, False, False),
    (True, True, False),
    (False, True, False),
    (True, False, True),
    (False, False, True),
    (True, True, True),
)


def plan(seed: int) -> Plan:
    rng = Random(f"plan {seed}")
    size = BIG if rng.random() < 0.2 else SMALL
    pushing, asking, publishing = rng.choice(MIXTURES)
    senders, workers = rng.choice(size.senders), rng.choice(size.workers)
    pushed = pushes(seed, rng, rng.randint(*size.pushes), senders, size.busy_s) if pushing else []
    asked = asks(Random(f"asks {seed}"), rng.randint(*size.asks), senders, size.busy_s) if asking else []
    topical = Random(f"topics {seed}")
    published = publications(topical, topical.randint(*size.publications), senders, size.busy_s) if publishing else []
    joined = joins(topical, topical.randint(*size.joins), workers, size.busy_s) if publishing else []
    tokens = [token for push in pushed for token in push.tokens]
    questions = [token for ask in asked for token in ask.tokens]
    tempers: dict[int, str] = {}
    manners: dict[int, str] = {}
    events: list[Event] = []
    chosen: set[str] = set()
    for kind in FAULTS:
        if kind == HOLDS:
            continue  # below, with dice of its own
        share = SHARE_OF_SOME if kind in OF_DISKS or kind in OF_HANDLERS - KILLS else SHARE
        if rng.random() >= share:
            continue
        chosen.add(kind)
        if kind == "versions mixed":
            continue
        if kind in OF_HANDLERS:
            for those, kinds in ((tokens, tempers), (questions, manners)):
                if those:
                    kinds.update({rng.choice(those): kind for _ in range(rng.choice((1, 2, 4)))})
            continue
        for _ in range(rng.choice((1, 1, 2))):
            # Now and then longer than silence and grace together, so that what was held is given to another.
            lasts = rng.choice((0.05, 0.3, 0.6, 2.4)) * rng.uniform(0.5, 1.5)
            if kind in OF_DISKS:
                lasts += 0.3
            events.append(Event(rng.uniform(0.02, size.trouble_s), kind, lasts, rng.randrange(12), rng.randrange(12)))
    # Of their own, so that worlds of one stage are as they always were.
    stages = Random(f"stages {seed}")
    sends = stages.choice(((), (), (1,), (1,), (1, 0, 2)))
    keeps = frozenset(name for name in ("work", "next") if stages.random() < 0.25)
    keeps = keeps if pushing else frozenset[str]()
    # Likewise, so that worlds without durable groups are as they always were.
    grouped = Random(f"groups {seed}")
    served = serves(grouped, workers, size.busy_s) if publishing and grouped.random() < GROUPS_SHARE else []
    if served:
        for kind in [each for each in FAULTS if each in OF_HANDLERS & chosen]:
            tempers.update({GROUPED + grouped.randrange(TEMPERS): kind for _ in range(grouped.choice((1, 2)))})
        keeps |= {each.channel for each in served if grouped.random() < 0.25}
    # Likewise, of worlds where handlers publish for them.
    telling = Random(f"handlers publish {seed}")
    tells = telling.choice(TELLS) if pushing and telling.random() < TELLS_SHARE else ()
    if tells:
        served = served or serves(telling, workers, size.busy_s)
        for kind in [each for each in FAULTS if each in OF_HANDLERS & chosen]:
            tempers[told(telling.choice(tokens), telling.choice(served).channel)] = kind
    # Likewise, of worlds where a handler holds the interpreter. Such a world has time enough for the longest hold.
    holding = Random(f"holds {seed}")
    if pushing and holding.random() < HOLDS_SHARE:
        free = [token for token in tokens if token not in tempers]
        tempers.update({holding.choice(free): HOLDS for _ in range(holding.choice((2, 3, 4))) if free})
    healed_s = min(LONGEST_S, max([size.busy_s, *(event.at + event.lasts for event in events)]))
    if HOLDS in tempers.values():
        healed_s = max(healed_s, size.busy_s + HELD_S)
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
        pushes=tuple(pushed),
        withdrawals=_some(rng, tokens, (0, 0, 1, 3)),
        asks=tuple(asked),
        cancels=_some(rng, questions, (0, 1, 3, 6)),
        publications=tuple(published),
        joins=tuple(joined),
        events=tuple(sorted(events, key=lambda event: event.at)),
        tempers=tempers,
        manners=manners,
        mixes="versions mixed" in chosen,
        healed_s=healed_s,
        sends=sends if pushing else (),
        keeps=keeps,
        serves=tuple(served),
        tells=tells,
    )


def _some(rng: Random, tokens: Sequence[int], counts: Sequence[int]) -> tuple[tuple[float, int], ...]:
    """Some of them, and when."""
    count = rng.choice(counts) if tokens else 0
    return tuple((rng.uniform(0.1, 2.0), rng.choice(tokens)) for _ in range(count))
