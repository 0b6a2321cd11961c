"""A whole process, as far as it is pure, among peers that say anything: frames that are well made and make no sense,
out of their order, about messages and outboxes that are not theirs.

What they say is a talk: records of a byte that says who speaks and what happens after it, the length of a frame in two
bytes, and the frame."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence

import msgspec

from tests.fuzz.mutations import mutated
from tests.protocol.puppet import BOX, CHANNEL, Puppet, Stage
from tests.protocol.store import START_US, Store, prepared, segment
from tests.protocol.vectors import VECTORS
from zerowait.contract import describe, fingerprint, packed
from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.frames import Frame, Owned, Part
from zerowait.engines.brokerless.protocol.owner.dispatch import body_of
from zerowait.engines.brokerless.protocol.owner.flights import Slice
from zerowait.message import (
    Again,
    Alone,
    Bury,
    Change,
    Choose,
    Discard,
    Forget,
    Keep,
    Mark,
    Note,
    Outcome,
    Release,
    Sent,
    Service,
    Settle,
    Shelve,
    Spool,
    Unspool,
    Unstub,
    Verdict,
)

HEAD = struct.Struct("<BH")
OWNER, WORKER, STRANGER, BOTH = range(4)  # who speaks: the lowest two bits
# What happens after it: the next three
NOTHING, HANDLED, RETRIED, DEAD, STARTED, TIME, LOST, PUSHED = range(8)
THEIR_BOX, THEIR_EPOCH = 99, 5
OUR_EPOCH = Stage.wall_us(1_000.0) // 1_000
TALK_MOST = 24  # frames of one talk
INT64 = 1 << 63


class Guarded(Store):
    """What a file takes: numbers of 64 bits with a sign."""

    def apply(self, changes: list[Change]) -> None:
        for change in changes:
            match change:
                case Settle():
                    given = [change.epoch, change.first, change.first + change.count, change.seq]
                case Again():
                    given = [change.epoch, change.number, change.failures, change.due, change.seq]
                case Bury():
                    given = [change.epoch, change.number, change.failures, change.seq]
                case Mark() | Alone():
                    given = [change.epoch, change.number, change.seq]
                case Choose():
                    given = [change.epoch, change.first, change.first + change.count, change.seq]
                    given.append(change.outputs - INT64)
                case Unstub():
                    given = [change.epoch, change.first, change.first + change.count, change.outputs - INT64]
                case Keep():
                    given = [change.epoch, change.first + change.count, change.after_ms, change.origin - INT64]
                    given += [change.fence - INT64, change.n - INT64]
                case Release() | Discard():
                    given = [change.epoch, change.first + change.count, change.origin - INT64]
                case Shelve():
                    given = [change.epoch, change.first, change.seq]
                case Spool() | Unspool():
                    raise AssertionError("no frame leads to this")
                case Note() | Forget():  # 64 bits without a sign; the file's are made of them
                    given = [change.instance - INT64]
            assert all(-INT64 <= each < INT64 for each in given), f"no file can take {change}"
            assert not isinstance(change, (Settle, Choose, Keep)) or 0 < change.count <= 1_024, f"endless: {change}"
        super().apply(changes)


def hear(data: bytes) -> None:
    """Nothing that is said raises anything, or leads to something that cannot be written; and it goes
    on: credit adds up, and who comes after it is greeted."""
    Puppet._conns = 0
    stage = Stage(store=Guarded(BOX), services={CHANNEL: 2})
    stage.core.keep_in(BOX)
    keeps = bool(data) and data[-1] % 2 == 0
    stage.core.serve([Service(CHANNEL, "push", 2, keeps=keeps)])
    peers = [
        stage.peer(1, boxes=[Owned(THEIR_BOX, THEIR_EPOCH, "theirs")]),
        stage.peer(2, channels=[CHANNEL], credit=2),
        Puppet(stage, 3),
        stage.peer(4, boxes=[Owned(THEIR_BOX + 1, THEIR_EPOCH)], channels=[CHANNEL, "other"], credit=1),
    ]
    stage.core.declare(CHANNEL, packed(describe(int)))
    stage.push(3)
    for does, frame in talk(data):
        who = peers[does & 3]
        stage.core.receive(who.conn, frame, stage.now)
        stage.step()
        happens(stage, peers, does)
    for window in stage.core.worker.windows.values():
        window.check()
    stage.step(0.02)
    still_there(stage)


def happens(stage: Stage, peers: list[Puppet], does: int) -> None:
    match (does >> 2) & 7:
        case 1 | 2 | 3:
            verdict = ((does >> 2) & 7, does >> 5)
            while (taken := stage.take(most=2)) is not None:
                how = None if verdict[0] == HANDLED else Verdict.RETRY if verdict[0] == RETRIED else Verdict.DEAD
                if how is None and verdict[1] % 2:  # it has sent something
                    sent = Sent(BOX, [prepared(taken.start, [b"\x01"])])
                    stage.end(taken, Outcome(Verdict.HANDLED, outputs=sent))
                else:
                    stage.end(taken, None if how is None else Outcome(how, 0.5, b"\x80"))
        case 4:
            stage.take()
        case 5:
            stage.step((0.1, 1.5, 3.5, 9.0)[does >> 6], pause=True)
        case 6:
            peers[does & 3].lose()
            peers[does & 3] = stage.peer((does & 3) + 1, boxes=[Owned(THEIR_BOX, THEIR_EPOCH + 1)], serial=2)
        case 7:
            stage.push(does >> 5 or 1, size=100)
        case _:
            pass


def still_there(stage: Stage) -> None:
    """Who comes now is greeted and gets a session, whatever was said before."""
    late = stage.peer(1 << 40, channels=["late"])
    assert late.all(frames.State), "nobody is greeted any more"
    assert not late.closed


def talk(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    for _ in range(TALK_MOST):
        if len(data) < at + HEAD.size:
            return
        does, size = HEAD.unpack_from(data, at)
        at += HEAD.size
        yield does, data[at : at + size]
        at += size


def written(said: Sequence[tuple[int, bytes]]) -> bytes:
    return b"".join(HEAD.pack(does, len(frame[:65_535])) + frame[:65_535] for does, frame in said)


def mutated_talk(data: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes:
    """One frame of it is another, or it has another order, or other things happen meanwhile."""
    said = list(talk(data))
    if not said or chance.random() < 0.05:
        return mutated(data, chance, others[:20])
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(said))
        does, frame = said[at]
        match chance.randrange(8):
            case 0:
                said.insert(chance.randrange(len(said) + 1), said[at])
            case 1 if len(said) > 1:
                del said[at]
            case 2:
                chance.shuffle(said)
            case 3:
                said[at] = chance.randrange(256), frame
            case 4:
                other = list(talk(chance.choice(others))) if others else said
                said[at:at] = other[:8]
            case _:
                said[at] = does, mutated(frame, chance, [encoded for _, encoded in said])
    return written(said[:TALK_MOST])


# -- what they begin with ----------------------------------------------------------------------------------------------


def batch(first: int, count: int, n: int, **changes: object) -> Frame:
    body, ends, base = body_of(Slice(THEIR_BOX, segment(CHANNEL, THEIR_EPOCH, first, [4] * count), first, count))
    whole = frames.Batch(
        box=THEIR_BOX, epoch=THEIR_EPOCH, fence=THEIR_EPOCH, n=n, channel=CHANNEL, lane=0, ranges=((first, count),),
        accepted_at=(START_US, START_US), sender="", failures={first: 1}, keys={}, left_ms={first: 500}, traces={},
        headers={first: {"a": "b"}}, base=base, ends=memoryview(ends), body=memoryview(body),
    )  # fmt: skip
    return msgspec.structs.replace(whole, **changes)


def _seeds() -> list[bytes]:
    ours = Part(OUR_EPOCH, 1, 1, OUR_EPOCH, 1)
    late = Part(OUR_EPOCH, 2, 2, OUR_EPOCH, 2)
    theirs = Part(THEIR_EPOCH, 1, 4, THEIR_EPOCH, 1)
    int_type, text = describe(int), describe(str)
    pieces = frames.fragments(frames.encode(batch(1, 4, 1)), 3)
    conversations: list[list[tuple[int, Frame]]] = [
        [(OWNER | HANDLED << 2, batch(1, 4, 1)), (OWNER, frames.Confirm(THEIR_BOX, (theirs,)))],
        [(OWNER | STARTED << 2, batch(1, 4, 1)), (OWNER, frames.Drop(THEIR_BOX, 0, ((THEIR_EPOCH, 1, 4),)))],
        [(OWNER | RETRIED << 2, batch(1, 4, 1)), (OWNER | DEAD << 2, batch(1, 4, 2)), (OWNER, batch(3, 4, 3))],
        [
            (OWNER, frames.Want(CHANNEL, 0, 0, 1, 500)),
            (OWNER | TIME << 2, batch(1, 1, 1)),
            (OWNER, frames.Want(CHANNEL, 0, 1, 2, 499)),
        ],
        [
            (WORKER | PUSHED << 2, frames.Credit(CHANNEL, 0, 9, 2)),
            (WORKER, frames.Outcome(BOX, Verdict.RETRY, (ours,), ((OUR_EPOCH, 1, 2_500, b"\x80"),))),
            (WORKER | TIME << 2, frames.Outcome(BOX, Verdict.HANDLED, (late,))),
        ],
        [
            (WORKER | LOST << 2, frames.Outcome(BOX, Verdict.DEAD, (ours,))),
            (WORKER, frames.Held(BOX, 1, (ours,), (late,), OUR_EPOCH)),
        ],
        [(WORKER, frames.Outcome(BOX, verdict, (ours, late))) for verdict in Verdict],
        [
            (WORKER, frames.State((frames.Served(CHANNEL, "push", fingerprint=fingerprint(text)),))),
            (WORKER, frames.Schema(fingerprint(text), packed(text))),
            (WORKER, frames.Schema(fingerprint(int_type), packed(int_type))),
        ],
        [
            (OWNER | HANDLED << 2 | 1 << 5, batch(1, 4, 1)),  # its handler has sent something
            (OWNER, frames.Confirm(THEIR_BOX, (theirs,), True)),
            (OWNER, frames.Confirm(THEIR_BOX, (theirs,), False)),
        ],
        [
            (OWNER | HANDLED << 2 | 1 << 5, batch(1, 2, 1)),
            (OWNER | TIME << 2 | 3 << 6, frames.Confirm(THEIR_BOX, (theirs,), False)),
            (OWNER, batch(1, 4, 2)),
        ],
        [
            (WORKER, frames.Outcome(BOX, Verdict.HANDLED, (ours,), outputs=THEIR_BOX)),
            (BOTH, frames.Outcome(BOX, Verdict.HANDLED, (ours, late), outputs=THEIR_BOX + 1)),
            (WORKER, frames.Outcome(BOX, Verdict.RELEASED, (ours,), outputs=THEIR_BOX)),
        ],
        [(OWNER, frames.decode(piece)) for piece in pieces],
        [(STRANGER, frames.Hello(3, "c", 1, "", 0, 0, 5)), (STRANGER | TIME << 2, frames.State())],
        [(BOTH, frames.Goodbye(frames.FENCED, "later", BOX, OUR_EPOCH + 7)), (OWNER, frames.Goodbye())],
        [(BOTH, frames.Pong(1, 9_000)), (OWNER, frames.Pong(2, 0)), (WORKER | TIME << 2, frames.Ping(1 << 63))],
        [
            (OWNER, frames.State((), (Owned(THEIR_BOX, THEIR_EPOCH + 1, "again"), Owned(BOX, OUR_EPOCH + 1)))),
            (OWNER | HANDLED << 2, batch(1, 1, 1, epoch=THEIR_EPOCH, fence=THEIR_EPOCH + 1)),
        ],
    ]  # fmt: skip
    every = [(who | PUSHED << 2, vector.frame) for vector in VECTORS for who in (OWNER, WORKER)]
    conversations += [every[at : at + 4] for at in range(0, len(every), 4)]
    return [written([(does, frames.encode(frame)) for does, frame in each]) for each in conversations]


SEEDS = _seeds()

__all__ = ["SEEDS", "hear", "mutated_talk"]
