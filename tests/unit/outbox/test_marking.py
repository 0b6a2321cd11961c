"""What the owner of an outbox makes of a suspect that is offered while its row is being marked, against what the outbox
does with those marks: it must be offered once, and neither twice nor never."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.unit.outbox.boxes import Bench, Time
from zerowait.engines.brokerless.protocol.owner.marking import Marking
from zerowait.message import Alone, Death, Mark, Marks, Segment
from zerowait.numbers import Numbers

Maker = Callable[..., Bench]


def known(marking: Marking, segment: Segment) -> bool:
    """Whether it may go out as it was offered."""
    absent = Numbers()
    marking.leave_out(segment, absent)
    return bool(absent.missing(segment.first, segment.count))


@pytest.mark.parametrize("seed", range(60))
def test_a_suspect_is_offered_once_whatever_its_row_is_to_say_meanwhile(on_disk: Maker, time: Time, seed: int) -> None:
    rng = random.Random(seed)

    def death() -> Death:
        return Death(rng.choice([1, 2]), proved=rng.random() < 0.5, ran=rng.random() < 0.5)

    # given: a message of which an earlier life has noted something, and that was read
    bench = on_disk()
    bench.push("suspect")
    (segment,) = bench.turns()
    for _ in range(rng.randrange(3)):
        time.pass_(1)
        (segment,) = bench.turn(Mark("mail", segment.epoch, segment.first, (death(),), (), segment.seq), drawn=False)
    if segment.marks is not None and rng.random() < 0.4:
        bench.turn(Alone("mail", segment.epoch, segment.first, rng.choice([1, 2]), segment.seq))
    time.pass_(1)
    bench.reopen()
    (segment,) = bench.turns()
    # when more is learned, by whom it was not read, before and after it is offered
    marking, offered = Marking(), 0
    changes: list[Mark] = []
    for ticket in range(1, rng.randrange(2, 5)):
        died, cleared = ((death(),), ()) if rng.random() < 0.6 else ((), (rng.choice([1, 2]),))
        changes.append(Mark("", segment.epoch, segment.first, died, cleared, 0))
        marking.want(segment.epoch, segment.first, died, cleared, ticket)
    offered += known(marking, segment)
    at = 0
    while at < len(changes):
        most = rng.randrange(1, 4)
        time.pass_(1)
        again = bench.turn(*changes[at : at + most], drawn=False)
        at += most
        marking.lasting(segment.epoch, segment.first, min(at, len(changes)))
        offered += sum(known(marking, each) for each in again)
    offered += sum(known(marking, each) for each in bench.turns())
    # then it waits in one place
    assert offered == 1
    assert not marking


def test_a_row_that_says_it_by_chance_is_read_again_all_the_same() -> None:
    # given: a death that is noted and taken back, by changes that are both on their way
    marking = Marking()
    marking.want(1, 1, [Death(5, proved=True)], [], 1)
    marking.want(1, 1, [], [5], 2)
    # when the row is offered as it was before, which is what it will be: then it is left out, for it comes again
    row = Segment("mail", 1, 1, 1, b"", b"", 0, marks=Marks((Death(7),)))
    assert not known(marking, row)
    # and what has been read since goes out
    marking.lasting(1, 1, 1)
    assert not known(marking, Segment("mail", 1, 1, 1, b"", b"", 0, marks=Marks((Death(7), Death(5, proved=True)))))
    marking.lasting(1, 1, 2)
    assert known(marking, row)
