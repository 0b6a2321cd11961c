"""When what waits expires: nothing is kept of what is over before its time."""

from __future__ import annotations

from math import inf

from msgspec import Struct

from zerowait.engines.brokerless.protocol.owner.expiry import FEW, Expiry
from zerowait.message import Segment
from zerowait.numbers import Numbers
from zerowait.requests.keyed import FEW as FEW_KEYED
from zerowait.requests.keyed import KeyQueues

DAY_US = 86_400_000_000


def segment(first: int, expires: int | None = DAY_US, key: bytes | None = None) -> Segment:
    return Segment(
        channel="work", epoch=1, first=first, count=1, body=b"", ends=b"", accepted_at=0, expires=expires, key=key
    )


class Piece(Struct, eq=False):
    def living(self, after: int) -> tuple[int, int] | None:
        return (0, 1) if after == 0 else None


def test_what_is_over_before_its_time_is_forgotten_and_what_lives_expires() -> None:
    # given many that are over soon, and a few that live
    living = Numbers([(10, 2), (5_000, 1)])
    expiry = Expiry(lambda now: int(now * 1e6), lambda box: {1: living})
    for number in range(1, 20_000):
        expiry.watch(7, segment(number), number, 1)

    # then few are kept
    assert len(expiry._heap) <= FEW + 1

    # and in the end those that live are told
    told = set(expiry.over(DAY_US / 1e6))
    assert {(7, 1, 10, 1), (7, 1, 11, 1), (7, 1, 5_000, 1)} <= told
    assert expiry.wake() == inf


def test_of_an_outbox_that_cannot_say_what_lives_everything_is_kept() -> None:
    expiry = Expiry(lambda now: int(now * 1e6), lambda box: None)
    for number in range(1, FEW * 5):
        expiry.watch(7, segment(number), number, 1)
    assert len(expiry.over(DAY_US / 1e6)) == FEW * 5 - 1


def test_deadlines_of_requests_with_a_key_are_kept_while_they_wait() -> None:
    # given one key that is never free, and others whose requests go at once
    queues: KeyQueues[Piece] = KeyQueues()
    queues.join(Piece(), segment(1, key=b"busy"))
    queues.join(Piece(), segment(2, key=b"busy"))
    for number in range(3, 20_000):
        said = segment(number, key=b"free")
        queues.join(Piece(), said)
        while queues.next(("work", b"free")) is not None:
            pass
    assert len(queues._times) <= FEW_KEYED + 1
    assert len(list(queues.expired(DAY_US))) == 2, "both that wait"
