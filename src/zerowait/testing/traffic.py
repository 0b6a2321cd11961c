"""What is done in a simulated world by those who use it: pushes, requests and streams, and what is published."""

from __future__ import annotations

from random import Random

from msgspec import Struct

from zerowait.testing.events import TOPICS
from zerowait.testing.questions import AGAIN, FLOW, NOWHERE, SURE

LEAVES = (None, None, None, 0, 1, 20, 60)  # after how many items a stream's reader does; None: never


class Push(Struct, frozen=True):
    at: float
    sender: int
    tokens: tuple[int, ...]
    ttl: float | None = None
    delay: float | None = None
    keys: tuple[str, ...] = ()  # of the tokens; "": none


class Ask(Struct, frozen=True):
    """timeout: seconds; None: any time. most: of a stream's items; pace: seconds that its reader takes for some."""

    at: float
    sender: int
    tokens: tuple[int, ...]
    channel: str
    timeout: float | None
    hedged: bool = False
    most: int | None = None
    pace: float = 0.0


class Publication(Struct, frozen=True):
    """Events that are published together: their topics."""

    at: float
    sender: int
    topics: tuple[str, ...]


class Join(Struct, frozen=True):
    """A subscription of each life of that worker. after: seconds after its life began. most: events that are taken at
    once; pace: seconds between two times."""

    worker: int
    after: float
    pattern: str
    queue: int
    overflow: str
    replay: int
    group: str
    most: int
    pace: float


def pushes(seed: int, rng: Random, count: int, senders: int, during_s: float) -> list[Push]:
    made: list[Push] = []
    token = 0
    keyed = Random(f"keys {seed}")
    names = keyed.choice(("", "a", "ab", "abcd"))  # in a quarter of the seeds none
    for _ in range(count):
        many = rng.choice((1, 1, 1, 2, 3, 6))
        ttl = rng.uniform(0.2, 3.0) if rng.random() < 0.1 else None
        delay = rng.uniform(0.05, 1.0) if rng.random() < 0.1 else None
        tokens = tuple(range(token, token + many))
        keys = _keys(keyed, names, many)
        made.append(Push(rng.uniform(0.0, during_s), rng.randrange(senders), tokens, ttl, delay, keys))
        token += many
    return sorted(made, key=lambda push: push.at)


def _keys(rng: Random, names: str, count: int) -> tuple[str, ...]:
    """Some in a row with one key, some with keys in turn, some without any."""
    if not names or rng.random() < 0.3:
        return ("",) * count
    if rng.random() < 0.5:
        return (rng.choice(names),) * count
    return tuple(rng.choice(names) for _ in range(count))


def asks(rng: Random, count: int, senders: int, during_s: float) -> list[Ask]:
    made: list[Ask] = []
    token = 0
    for _ in range(count):
        channel = rng.choice((SURE, SURE, AGAIN, AGAIN, FLOW, FLOW, NOWHERE if rng.random() < 0.1 else SURE))
        many = 1 if channel == FLOW else rng.choice((1, 1, 2, 4))
        timeout = rng.choice((None, 3.0, 3.0)) if channel == FLOW else rng.choice((0.1, 1.0, 3.0, 10.0))
        made.append(
            Ask(
                rng.uniform(0.0, during_s),
                rng.randrange(senders),
                tuple(range(token, token + many)),
                channel,
                timeout,
                channel == AGAIN and rng.random() < 0.5,
                rng.choice(LEAVES) if channel == FLOW else None,
                rng.choice((0.0, 0.01, 0.2)) if channel == FLOW else 0.0,
            )
        )
        token += many
    return sorted(made, key=lambda ask: ask.at)


def publications(rng: Random, count: int, senders: int, during_s: float) -> list[Publication]:
    made = [
        Publication(
            rng.uniform(0.0, during_s),
            rng.randrange(senders),
            tuple(rng.choice(TOPICS) for _ in range(rng.choice((1, 1, 2, 5, 12)))),
        )
        for _ in range(count)
    ]
    return sorted(made, key=lambda each: each.at)


def joins(rng: Random, count: int, workers: int, during_s: float) -> list[Join]:
    return [
        Join(
            rng.randrange(workers),
            rng.choice((0.0, 0.0, rng.uniform(0.0, during_s))),
            rng.choice(("t.a", "t.*", ">", ">", "u.c")),
            rng.choice((4, 20, 1_000)),
            rng.choice(("drop_oldest", "drop_oldest", "drop_oldest", "conflate", "disconnect")),
            rng.choice((0, 0, 3, 100)),
            rng.choice(("", "", "", "g")),
            rng.choice((1, 4, 64)),
            rng.choice((0.0, 0.0, 0.02, 0.3)),
        )
        for _ in range(count)
    ]
