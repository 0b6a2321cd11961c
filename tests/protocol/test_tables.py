"""Every cell of the tables of rules §12, against the real thing: the message is brought into the state, the event
happens, and what is seen is what the cell says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.protocol.puppet import BOX, CHANNEL, Puppet, Stage
from tests.protocol.store import START_US, Store, prepared
from tests.protocol.vectors import TWO, VECTORS
from zerowait.engines.brokerless.protocol import frames, tables
from zerowait.engines.brokerless.protocol.effects import Cancel, Withdrawn
from zerowait.engines.brokerless.protocol.frames import (
    ALONE,
    ASIDE,
    Batch,
    Confirm,
    Drop,
    Frame,
    Goodbye,
    Held,
    Obituary,
    Outcome,
    Owned,
    Part,
    State,
    Want,
)
from zerowait.engines.brokerless.protocol.link import LinkPhase
from zerowait.engines.brokerless.protocol.owner.suspects import lane_of
from zerowait.engines.brokerless.protocol.tables import (
    CLAIM,
    IN_FLIGHT,
    ITEM,
    KNOWN,
    LIFE,
    LINK,
    MESSAGE,
    QUEUED,
    RUNNING,
    SETTLED,
    STUB,
    UNKNOWN,
    WAITING,
)
from zerowait.engines.brokerless.protocol.worker.parcel import Taken
from zerowait.engines.brokerless.protocol.worker.unbegun import Listing
from zerowait.message import Outcome as Ended
from zerowait.message import Sent, Verdict
from zerowait.numbers import Numbers

IMPOSSIBLE = tables.IMPOSSIBLE
DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"
X, Y, Z = 201, 202, 203
ANOTHER_EPOCH = 5
P_OF_X, P_OF_Y = 301, 302  # where they keep what their handlers send


# -- a message at its owner --------------------------------------------------------------------------------------------


class AtOwner:
    """Message 1 of an outbox, in a state. In flight is at X; Y is another worker."""

    def __init__(self, state: str, boot: str = "") -> None:
        self.store = Store(BOX)
        self.stage = Stage(store=self.store, boot="here")
        self.state = state
        self.sent: Batch | None = None
        self.x = self.stage.peer(X, channels=[CHANNEL], credit=0 if state == WAITING else 1, boot=boot)
        self.y = self.stage.peer(Y, channels=[CHANNEL])
        self.expires = START_US + int((self.stage.now + 60.0) * 1e6)
        self.epoch = self.store.epoch
        self.stage.push(expires=self.expires)
        if state != WAITING:
            self.sent = self.x.last(Batch)
        if state in (SETTLED, STUB):
            outputs = P_OF_X if state == STUB else 0
            self.x.say(Outcome(BOX, Verdict.HANDLED, (self.part(),), outputs=outputs))
            assert not self.store.rows
        self.counts = dict(self.store.counts)
        self.forget()

    def forget(self) -> None:
        self.x.forget()
        self.y.forget()

    def anew(self, boot: str) -> AtOwner:
        """The same, with X on a machine of that boot."""
        return AtOwner(self.state, boot)

    def part(self) -> Part:
        n = self.sent.n if self.sent is not None else 1
        return Part(self.epoch, 1, 1, self.epoch, n)

    def holder(self) -> int | None:
        flights = self.stage.core.owner.custody[BOX].flights.over(self.epoch, 1, 1)
        return next((flight.holder for flight, _, _ in flights), None)

    def is_waiting(self) -> bool:
        return any(piece.first <= 1 < piece.first + piece.count for piece in self.stage.core.owner.pieces(BOX))

    def obituary(self, instance: int, number: int) -> Obituary:
        """number: what ran there; 0: that is not known."""
        running = ((BOX, self.epoch, number, 1),) if number else ()
        return Obituary(instance, None, 9, running, bool(number))

    def waits(self) -> str:
        """In which lane, and whether a mark had to be durable before."""
        before = self.is_waiting()
        self.stage.holds_commits = False
        self.stage.commit()
        self.stage.step()
        if not self.is_waiting():
            return "?"
        aside = any(
            lane_of(piece.segment.marks) == ASIDE
            for piece in self.stage.core.owner.dispatch.suspects
            if piece.segment.marks is not None
        )
        if not aside:
            return "waiting" if before else "?"
        return "?" if before else "marked; once durable aside"

    def changed(self) -> list[Verdict]:
        return [verdict for verdict, count in self.store.counts.items() if count > self.counts[verdict]]

    def names(self, puppet: Puppet) -> bool:
        """Whether it was told to drop the message."""
        return any((self.epoch, 1, 1) in drop.ranges for drop in puppet.all(Drop))

    def come_back(self, puppet: Puppet, **held: tuple[Part, ...]) -> Puppet:
        """The same process on another connection, before the grace is over."""
        again = Puppet(self.stage, puppet.instance, channels=[CHANNEL], serial=puppet.hello.serial + 1)
        again.greet()
        again.say(State((frames.Served(CHANNEL),)))
        again.held(**held)
        return again

    def lose(self) -> None:
        """X is thought gone, and may come back: the message waits, and X knows it under its last dispatch."""
        self.x.lose()
        self.stage.step(self.stage.config.resume_grace)


def take(noted: bool) -> Callable[[AtOwner], str]:
    def run(at: AtOwner) -> str:
        if at.state != WAITING:
            assert not at.is_waiting(), "it could be taken"
            return IMPOSSIBLE
        if noted:
            at.stage.core.owner.custody[BOX].noted.add(X)
            at.x.grant(1)
            assert at.holder() == X
            assert at.x.all(Batch)
            assert not at.store.noted
            return "in flight, BATCH"
        at.stage.holds_commits = True
        at.x.grant(1)
        assert at.holder() == X, "claimed"
        assert not at.x.all(Batch), "a batch left before its worker was noted"
        at.stage.commit()
        at.stage.step()
        assert X in at.store.noted
        return "claimed; once durable BATCH" if at.x.all(Batch) else "?"

    return run


def handled(holder: bool) -> Callable[[AtOwner], str]:
    def run(at: AtOwner) -> str:
        if holder and at.state == WAITING:
            assert at.holder() is None
            return IMPOSSIBLE
        puppet = at.x if holder else at.y
        part = at.part() if holder else Part(at.epoch, 1, 1, ANOTHER_EPOCH, 9)
        at.stage.holds_commits = True
        puppet.say(Outcome(BOX, Verdict.HANDLED, (part,)))
        assert not puppet.all(Confirm) or at.state in (SETTLED, STUB), "confirmed before it was durable"
        at.stage.commit()
        at.stage.step()
        said = ["settle"] if at.changed() == [Verdict.HANDLED] else []
        assert not at.is_waiting()
        assert at.holder() is None
        if any(part in confirm.parts for confirm in puppet.all(Confirm)):
            said.append("CONFIRM")
        if at.names(at.x):
            said.append("DROP at its holder")
        return ", ".join(said)

    return run


def claimed(holder: bool) -> Callable[[AtOwner], str]:
    def run(at: AtOwner) -> str:
        if holder and at.state == WAITING:
            return IMPOSSIBLE
        puppet, outputs = (at.x, P_OF_X) if holder else (at.y, P_OF_Y)
        part = at.part() if holder else Part(at.epoch, 1, 1, ANOTHER_EPOCH, 9)
        at.stage.holds_commits = True
        puppet.say(Outcome(BOX, Verdict.HANDLED, (part,), outputs=outputs))
        assert not puppet.all(Confirm), "nobody is told what is not durable"
        at.stage.commit()
        at.stage.step()
        said = ["settle"] if at.changed() == [Verdict.HANDLED] else []
        assert not at.is_waiting()
        assert at.holder() is None
        if said and at.store.stubs == {(at.epoch, 1): outputs}:
            said.append("stub")
        said.append(confirmed(puppet, part))
        if at.names(at.x):
            said.append("DROP at its holder")
        return ", ".join(said)

    return run


def confirmed(puppet: Puppet, part: Part) -> str:
    (confirm,) = puppet.all(Confirm)
    assert confirm.parts == (part,)
    return "CONFIRM chosen" if confirm.chosen else "CONFIRM not chosen"


def released(at: AtOwner) -> str:
    was = at.holder()
    stubs = dict(at.store.stubs)
    at.x.say(Outcome(BOX, Verdict.RELEASED, (at.part(),), outputs=P_OF_X))
    assert at.holder() == was
    assert not at.changed()
    gone = ["stub gone"] if stubs and not at.store.stubs else []
    return ", ".join([*gone, confirmed(at.x, at.part())])


def verdict(said: Verdict, *, last: bool) -> Callable[[AtOwner], str]:
    def run(at: AtOwner) -> str:
        part = at.part()
        puppet = at.x
        if at.state == WAITING and last:
            at = AtOwner(IN_FLIGHT)  # its last dispatch went to one that is thought gone
            part = at.part()
            at.lose()
            assert at.is_waiting()
            puppet = Puppet(at.stage, X, channels=[CHANNEL], serial=2)
            puppet.greet()
            puppet.say(State((frames.Served(CHANNEL),)))
        elif not last:
            part = Part(at.epoch, 1, 1, ANOTHER_EPOCH, 9)
        was = at.holder()
        puppet.say(Outcome(BOX, said, (part,), ((at.epoch, 1, 60_000, b"why"),)))
        seen = []
        row = at.store.rows.get((at.epoch, 1))
        failed = row is not None and row.failures == 1 and not at.is_waiting()
        if failed or at.changed() in ([Verdict.DEAD], [Verdict.EXPIRED]):
            seen.append("apply")
        elif was is not None and at.holder() is None and at.is_waiting():
            seen.append("waiting")
        else:
            assert at.holder() == was, "what changes nothing moved it"
        if any(part in confirm.parts for confirm in puppet.all(Confirm)):
            seen.append("CONFIRM")
        return ", ".join(seen)

    return run


def held(*, running: bool, holder: bool) -> Callable[[AtOwner], str]:
    def run(at: AtOwner) -> str:
        if holder and at.state != IN_FLIGHT:
            return IMPOSSIBLE
        puppet = at.x if holder else at.y
        part = at.part() if holder else Part(at.epoch, 1, 1, ANOTHER_EPOCH, 9)
        puppet.lose()
        again = at.come_back(puppet, running=(part,)) if running else at.come_back(puppet, queued=(part,))
        at.stage.step()
        assert again.all(Drop), "HELD was not answered"
        if at.names(again):
            assert at.holder() != puppet.instance
            return "DROP"
        if holder:
            return "keep" if at.holder() == X and not at.is_waiting() else "?"
        if at.state == WAITING:
            return "adopt" if at.holder() == Y and not at.is_waiting() else "?"
        assert at.state in (SETTLED, STUB) or at.holder() == X
        assert not at.is_waiting()
        return "let run"

    return run


def loss(how: str) -> Callable[[AtOwner], str]:
    def run(at: AtOwner) -> str:
        if at.state != IN_FLIGHT:
            assert at.holder() is None
            return IMPOSSIBLE
        at.stage.holds_commits = how not in ("not held", "left")
        if how == "left":
            at.x.say(Goodbye(frames.LEAVING))
        elif how == "silent":
            at.x.answers = False
            at.stage.step(at.stage.config.silence + at.stage.config.resume_grace + 0.1)
        else:
            at.x.lose()
        if how == "not held":
            at.come_back(at.x)
        elif how == "gone":
            at.stage.step(at.stage.config.resume_grace - 0.1)
            assert at.holder() == X, "given back before the grace was over"
            at.stage.step(0.2)
        elif how in ("named", "not named", "no list"):
            number = {"named": 1, "not named": 2, "no list": 0}[how]
            at.stage.core.buried(X, at.stage.now, at.obituary(X, number))
            at.stage.step()
        assert at.holder() is None
        return at.waits()

    return run


def standing(*, begun: bool) -> Callable[[AtOwner], str]:
    """X is on this machine, lives, and none of its lines has run for longer than the grace."""

    def run(at: AtOwner) -> str:
        if at.state != IN_FLIGHT:
            assert at.holder() is None
            return IMPOSSIBLE
        at = at.anew("here")
        unbegun = Numbers([(2 if begun else 1, 1)])
        at.stage.listings[X] = Listing(0, {BOX: (at.epoch, 1)}, {(BOX, at.epoch): unbegun})
        at.x.answers = False
        at.stage.step(at.stage.config.silence + at.stage.config.resume_grace - 0.1)
        assert at.holder() == X, "looked at before the grace was over"
        at.stage.step(2.0)
        if at.holder() == X:
            return "keep" if not at.is_waiting() else "?"
        return at.waits()

    return run


def named_by_another(at: AtOwner) -> str:
    """Z is dead, which had it once, as far as its list tells."""
    at.stage.holds_commits = at.state == WAITING
    at.stage.core.buried(Z, at.stage.now, at.obituary(Z, 1))
    at.stage.step()
    if at.state == WAITING:
        return at.waits()
    if at.state in (SETTLED, STUB):
        return "nothing" if not at.store.rows and not at.is_waiting() else "?"
    assert at.holder() == X
    assert at.x.all(Drop) == []
    at.x.credit = 0
    at.x.say(Outcome(BOX, Verdict.UNSTARTED, (at.part(),)))
    assert [lane_of(each.segment.marks) for each in at.stage.core.owner.dispatch.suspects if each.segment.marks] == [1]
    return "marked when it comes back"


def expires(at: AtOwner) -> str:
    if at.state in (SETTLED, STUB):
        return IMPOSSIBLE
    at.stage.step(61.0)
    if at.changed() == [Verdict.EXPIRED]:
        assert not at.is_waiting()
        return "expired"
    assert at.sent is not None
    assert at.sent.left_ms[1] in (59_999, 60_000)
    return "the worker judges" if at.holder() == X else "?"


def withdrawn(*, begun: bool) -> Callable[[AtOwner], str]:
    def run(at: AtOwner) -> str:
        if begun and at.state == WAITING:
            return IMPOSSIBLE
        at.stage.core.owner.withdrawals.withdraw(BOX, at.epoch, 1)
        at.stage.step()
        seen = []
        if at.names(at.x):
            seen.append("DROP")
            assert not at.stage.effect(Withdrawn), "answered before the worker was"
            at.x.say(Outcome(BOX, Verdict.STARTED if begun else Verdict.UNSTARTED, (at.part(),)))
        (answer,) = at.stage.effect(Withdrawn)
        assert isinstance(answer, Withdrawn)
        if answer.taken_back:
            assert at.changed() == [Verdict.DROPPED]
            assert not at.is_waiting()
            seen.append("dropped: True")
        elif answer.taken_back is None:
            assert not at.changed()
            seen.append("its row says")
        else:
            assert at.holder() == X
            seen.append("False")
        return "; ".join(seen)

    return run


OWNER_EVENTS: dict[str, Callable[[AtOwner], str]] = {
    "take, worker noted": take(True),
    "take, worker not noted": take(False),
    "`handled`, from its holder": handled(True),
    "`handled`, from another": handled(False),
    "`handled` with outputs, from its holder": claimed(True),
    "`handled` with outputs, from another": claimed(False),
    "`released`": released,
    "`retry`, last dispatch": verdict(Verdict.RETRY, last=True),
    "`dead`, last dispatch": verdict(Verdict.DEAD, last=True),
    "`expired`, last dispatch": verdict(Verdict.EXPIRED, last=True),
    "`unstarted`, last dispatch": verdict(Verdict.UNSTARTED, last=True),
    "another verdict, older dispatch": verdict(Verdict.RETRY, last=False),
    "HELD, running, from its holder": held(running=True, holder=True),
    "HELD, running, from another": held(running=True, holder=False),
    "HELD, queued, from its holder": held(running=False, holder=True),
    "HELD, queued, from another": held(running=False, holder=False),
    "not in its holder's HELD": loss("not held"),
    "its holder has left": loss("left"),
    "its holder is gone, after silence": loss("silent"),
    "its holder is gone, its connection was closed": loss("gone"),
    "its holder is held, and has not begun it": standing(begun=False),
    "its holder is held, and may have begun it": standing(begun=True),
    "its holder is dead, its list names it": loss("named"),
    "its holder is dead, its list does not name it": loss("not named"),
    "its holder is dead, without a list": loss("no list"),
    "the list of another that is dead names it": named_by_another,
    "ttl over": expires,
    "withdraw, it had not begun": withdrawn(begun=False),
    "withdraw, it had begun": withdrawn(begun=True),
}


# -- a message at a worker ---------------------------------------------------------------------------------------------


class AtWorker:
    """Message 1 of an outbox whose epoch is 3, at a worker of one runner, in a state."""

    def __init__(self, state: str, *, ended: Ended | None = None) -> None:
        self.stage = Stage(services={CHANNEL: 1})
        self.state = state
        self.owner = self.stage.peer(X, boxes=[Owned(BOX, 3, "owner")])
        self.part = Part(3, 1, 1, 3, 1)
        self.run: Taken | None = None
        if state != UNKNOWN:
            self.part = self.owner.send(1, n=1, epoch=3, fence=3)
        if state in (RUNNING, KNOWN):
            self.run = self.stage.take()
            assert self.run is not None
        if state == KNOWN:
            self.stage.end(self.run, ended)
        self.owner.forget()

    def seen(self) -> str:
        """Where the message is."""
        desk, memory = self.stage.core.worker.desk, self.stage.core.worker.memory
        if desk.queued(CHANNEL):
            return QUEUED
        if desk.running(CHANNEL):
            return RUNNING
        return KNOWN if memory.unconfirmed(BOX) else UNKNOWN

    def said(self, verdict: Verdict) -> list[Part]:
        return [part for outcome in self.owner.all(Outcome) if outcome.verdict == verdict for part in outcome.parts]

    def fate(self) -> str:
        """What became of what had not begun, for those events after which it is gone or stays."""
        if self.state == QUEUED:
            assert self.seen() == UNKNOWN
            return "gone, `unstarted`" if self.said(Verdict.UNSTARTED) == [self.part] else "dropped"
        assert self.seen() == self.state
        assert not self.said(Verdict.UNSTARTED)
        if self.state == RUNNING and self.said(Verdict.STARTED) == [self.part]:
            return "`started`"
        return "nothing"


def fenced(at: AtWorker) -> str:
    at.owner.send(1, n=2, epoch=3, fence=2)
    assert at.seen() == at.state
    goodbye = at.owner.last(Goodbye)
    assert (goodbye.code, goodbye.box, goodbye.fence) == (frames.FENCED, BOX, 3)
    assert not at.owner.closed
    return "GOODBYE(fenced)"


def batch(at: AtWorker) -> str:
    newer = at.owner.send(1, n=2, epoch=3, fence=3)
    if at.state == UNKNOWN:
        return "queue" if at.seen() == QUEUED else "?"
    assert at.seen() == at.state, "it would run twice"
    if at.state == KNOWN:
        return "said again" if at.said(Verdict.HANDLED) == [at.part] else "?"
    if at.state == QUEUED:
        at.run = at.stage.take()
    at.stage.end(at.run)
    return "newer dispatch taken" if at.said(Verdict.HANDLED) == [newer] else "?"


def batch_after_another_outcome(at: AtWorker) -> str:
    if at.state != KNOWN:
        return IMPOSSIBLE
    for ended in (Ended(Verdict.RETRY, 1.0), Ended(Verdict.UNSTARTED), Ended(Verdict.EXPIRED)):
        again = AtWorker(KNOWN, ended=ended)
        newer = again.owner.send(1, n=2, epoch=3, fence=3)
        assert again.seen() == QUEUED
        again.stage.end(again.stage.take())
        assert again.said(Verdict.HANDLED) == [newer]
        assert again.stage.core.worker.memory.unconfirmed(BOX) == 1, "the older outcome is still remembered"
    buried = AtWorker(KNOWN, ended=Ended(Verdict.DEAD))
    newer = buried.owner.send(1, n=2, epoch=3, fence=3)
    assert buried.said(Verdict.DEAD) == [newer], "under the older dispatch it would change nothing"
    return "queue"


def batch_while_draining(at: AtWorker) -> str:
    if at.state == QUEUED:
        at.stage.core.drain()
        assert at.seen() == UNKNOWN, "what is queued goes back when draining begins"
        return IMPOSSIBLE
    at.stage.core.drain()
    at.stage.step()
    at.owner.forget()
    newer = at.owner.send(1, n=2, epoch=3, fence=3)
    if at.said(Verdict.UNSTARTED) == [newer]:
        return "`unstarted`"
    if at.state == RUNNING:
        at.stage.end(at.run)
        return "newer dispatch taken" if at.said(Verdict.HANDLED) == [newer] else "?"
    return "said again" if at.said(Verdict.HANDLED) == [at.part] else "?"


def batch_to_run_alone(at: AtWorker) -> str:
    newer = at.owner.send(1, n=2, epoch=3, fence=3, lane=ALONE)
    if at.said(Verdict.UNSTARTED) == [newer]:
        return "`unstarted`" if at.seen() == UNKNOWN else "?"
    assert at.seen() == at.state, "it would run twice"
    if at.state == KNOWN:
        return "said again" if at.said(Verdict.HANDLED) == [at.part] else "?"
    at.stage.end(at.run or at.stage.take())
    return "newer dispatch taken" if at.said(Verdict.HANDLED) == [newer] else "?"


def runner_while_another_is_to_run_alone(at: AtWorker) -> str:
    at.owner.say(Want(CHANNEL, ALONE, 0, 0, 1))
    assert at.stage.take() is None
    return "stays" if at.state == QUEUED and at.seen() == QUEUED else IMPOSSIBLE


def runner(*, permitted: bool) -> Callable[[AtWorker], str]:
    def run(at: AtWorker) -> str:
        if not permitted:
            at.owner.answers = False  # no PONG: permission ends before anybody can have taken it back
            at.stage.now += at.stage.config.resume_grace
        taken = at.stage.take()
        if at.state != QUEUED:
            assert taken is None
            return IMPOSSIBLE
        if taken is None:
            return "stays" if at.seen() == QUEUED else "?"
        return "running" if at.seen() == RUNNING else "?"

    return run


def drop(kind: str) -> Callable[[AtWorker], str]:
    def run(at: AtWorker) -> str:
        answers = at.stage.core.links[at.owner.conn].held[BOX] if kind == "answer" else 0
        at.owner.say(Drop(BOX, answers, ((3, 1, 1),), kind == "cancel"))
        cancelled = at.stage.effect(Cancel)
        assert cancelled == ([Cancel(BOX, ((3, 1, 1),))] if kind == "cancel" and at.state == RUNNING else [])
        return "cancelled" if cancelled else at.fate()

    return run


def end_of_a_cancelled_run(at: AtWorker) -> str:
    if at.state != RUNNING:
        return IMPOSSIBLE
    at.stage.end(at.run, Ended(Verdict.CANCELLED, answers=b""))
    assert not at.owner.all(Outcome), "nobody waits for it"
    return "forgotten" if at.seen() == UNKNOWN else "?"


def end_of_run(at: AtWorker) -> str:
    if at.state != RUNNING:
        assert at.stage.core.worker.desk.running(CHANNEL) == 0
        return IMPOSSIBLE
    at.stage.end(at.run)
    return "known, OUTCOME" if at.seen() == KNOWN and at.said(Verdict.HANDLED) == [at.part] else "?"


def confirm(*, that: bool) -> Callable[[AtWorker], str]:
    def run(at: AtWorker) -> str:
        if that and at.state != KNOWN:
            return IMPOSSIBLE
        at.owner.say(Confirm(BOX, (at.part if that else Part(3, 1, 1, 3, 99),)))
        if that:
            return "forgotten" if at.seen() == UNKNOWN else "?"
        return "nothing" if at.seen() == at.state else "?"

    return run


def taken_away(event: str) -> Callable[[AtWorker], str]:
    def run(at: AtWorker) -> str:
        if at.state == UNKNOWN:
            return IMPOSSIBLE
        if event == "busy":
            at.stage.config = at.stage.core.config
            if at.state == QUEUED:
                at.owner.send(2, n=2, epoch=3, fence=3)
                at.part = Part(3, 2, 1, 3, 2)
                at.stage.take()  # the one runner is busy with the first
                at.owner.forget()
            at.stage.step(0.15)
            assert not at.said(Verdict.UNSTARTED)
            at.stage.step(0.1)
            if at.state == QUEUED:
                assert at.stage.core.worker.desk.queued(CHANNEL) == 0
                return "gone, `unstarted`" if at.said(Verdict.UNSTARTED) == [at.part] else "?"
        elif event == "channel":
            at.stage.core.serve([])
            at.stage.step()
            assert at.owner.last(State).channels == ()
        elif event == "draining":
            at.stage.core.drain()
            at.stage.step()
            assert at.owner.last(State).draining
        else:
            at.owner.lose()
            at.stage.step(at.stage.config.resume_grace + 0.1)
        fate = at.fate()
        if at.state == RUNNING and fate == "nothing":
            at.owner.answers = True
            return "runs on"
        if event == "gone" and at.state == KNOWN:
            return "kept, if the outbox is durable" if not forgets_memory_outboxes() else "?"
        return fate if at.state == QUEUED or event == "busy" else "nothing"

    return run


def forgets_memory_outboxes() -> bool:
    stage = Stage(services={CHANNEL: 1})
    owner = stage.peer(X, boxes=[Owned(BOX, 3, "owner", False)])
    owner.send(1, n=1, epoch=3, fence=3)
    stage.end(stage.take())
    owner.lose()
    stage.step(stage.config.resume_grace + 0.1)
    return bool(stage.core.worker.memory.unconfirmed(BOX))


# -- an outcome with outputs at a worker -------------------------------------------------------------------------------


HOME = 88


class AtClaim:
    """Message 1 of an outbox whose epoch is 3 was handled here, and its handler has sent something."""

    def __init__(self, state: str, *, durable: bool = True) -> None:
        self.home = Store(HOME)
        self.stage = Stage(store=self.home, services={CHANNEL: 1})
        self.stage.core.keep_in(HOME)
        self.state = state
        self.owned = Owned(BOX, 3, "owner", durable)
        self.owner = self.stage.peer(X, boxes=[self.owned])
        self.part = self.owner.send(1, n=1, epoch=3, fence=3)
        self.stage.holds_commits = True
        sent = Sent(HOME, [prepared(0, [b"\x01"])])
        self.stage.end(self.stage.take(), Ended(Verdict.HANDLED, outputs=sent))
        assert not self.owner.all(Outcome), "said before it was durable"
        if state != tables.UNSAID:
            self.commit()
        if state == tables.RELEASED:
            self.owner.say(Confirm(BOX, (self.part,), True))
            self.commit()
        self.owner.forget()

    def commit(self) -> None:
        self.stage.holds_commits = False
        self.stage.commit()
        self.stage.step()

    def said(self, puppet: Puppet | None = None) -> list[str]:
        told = []
        for outcome in (puppet or self.owner).all(Outcome):
            assert outcome.parts == (self.part,)
            assert outcome.outputs == HOME
            told.append({Verdict.HANDLED: "OUTCOME", Verdict.RELEASED: "`released`"}[Verdict(outcome.verdict)])
        return told

    def fate(self, puppet: Puppet | None = None) -> str:
        """What has become of it, after all was committed."""
        was_there = self.state != tables.RELEASED
        self.commit()
        fate: list[str] = []
        if was_there and self.home.released == [b"\x01"]:
            fate.append("accepted")
        gone = not self.stage.core.worker.memory.unconfirmed(BOX)
        if gone:
            assert not self.home.claims
            fate += ["dropped"] if was_there else []
            fate.append("forgotten")
        return ", ".join(fate)


def durable_now(at: AtClaim) -> str:
    if at.state != tables.UNSAID:
        return IMPOSSIBLE
    at.commit()
    return ", ".join(at.said())


def opened_again(at: AtClaim) -> str:
    """As after an error: what waited for its commits is lost with that opening."""
    at.stage.tickets.clear()
    at.stage.open()
    at.commit()
    return "once durable OUTCOME" if at.said() == ["OUTCOME"] else "nothing" if not at.said() else "?"


def batch_again(at: AtClaim) -> str:
    at.owner.send(1, n=2, epoch=3, fence=3)
    assert at.stage.core.worker.desk.queued(CHANNEL) == 0, "it would run twice"
    return ", ".join(at.said()) or "nothing"


def new_session(at: AtClaim) -> str:
    at.owner.lose()
    again = Puppet(at.stage, X, boxes=[at.owned], serial=2)
    again.greet()
    again.say(State((), (at.owned,)))
    told = at.said(again)
    if told:
        assert isinstance(next(each for each in again.heard if isinstance(each, Outcome | Held)), Outcome)
        return ", ".join(told)
    at.commit()
    return "once durable " + ", ".join(at.said(again))


def another_life(at: AtClaim) -> str:
    at.stage.tickets.clear()
    stage = Stage(instance=101, services={CHANNEL: 1})
    stage.store = at.home
    epoch = at.home.open(stage.wall_us(stage.now) // 1_000)
    stage.core.own(HOME, epoch, "tested", durable=True, noted=(), now=stage.now, kept=at.home.kept())
    again = Puppet(stage, X, boxes=[at.owned])
    again.greet()
    again.say(State((), (at.owned,)))
    return ", ".join(at.said(again)) or "nothing"


def choice(*, chosen: bool) -> Callable[[AtClaim], str]:
    def run(at: AtClaim) -> str:
        at.stage.holds_commits = True
        at.owner.say(Confirm(BOX, (at.part,), chosen))
        assert at.state == tables.RELEASED or not at.said(), "said before it was durable"
        if at.state == tables.UNSAID:
            return "nothing" if not at.home.released else "?"
        fate = at.fate()
        told = ", ".join(at.said())
        if fate == "accepted":
            return f"accepted; once durable {told}"
        return fate or told

    return run


def undecided(at: AtClaim) -> str:
    at.owner.answers = False
    at.owner.lose()
    at.stage.now += at.stage.config.undecided_after - 1.0
    at.stage.step()
    assert len(at.home.released) == (at.state == tables.RELEASED)
    at.stage.now += 1.1
    at.stage.step()
    if at.state == tables.UNSAID:
        return "nothing" if not at.home.released else "?"
    fate = at.fate()
    if fate == "accepted":
        (kept,) = at.home.kept()
        assert kept.verdict is Verdict.HANDLED, "it is still asked whether it was chosen"
        assert at.stage.core.worker.claims.released_unasked == 1, "and it is counted"
    return fate or "nothing"


def last_word(at: AtClaim) -> str:
    at.stage.holds_commits = True
    at.owner.say(Goodbye())
    return at.fate()


def disowned(at: AtClaim) -> str:
    at.stage.tickets.clear()
    at.stage.core.disown(HOME)
    at.stage.step()
    return "forgotten" if not at.stage.core.worker.memory.unconfirmed(BOX) else "?"


CLAIM_EVENTS: dict[str, Callable[[AtClaim], str]] = {
    "it is durable": durable_now,
    "its outbox is opened again": opened_again,
    "BATCH": batch_again,
    "a new session": new_session,
    "another life": another_life,
    "CONFIRM chosen": choice(chosen=True),
    "CONFIRM not chosen": choice(chosen=False),
    "no link to its owner for undecided_after": undecided,
    "its owner's last word: nothing is left": last_word,
    "its outbox belongs to another": disowned,
}


WORKER_EVENTS: dict[str, Callable[[AtWorker], str]] = {
    "BATCH, fence too low": fenced,
    "BATCH": batch,
    "BATCH after another outcome than `handled` or `dead`": batch_after_another_outcome,
    "BATCH to run alone, and nothing stands still for it": batch_to_run_alone,
    "BATCH while draining": batch_while_draining,
    "a runner, with permission": runner(permitted=True),
    "a runner, without permission": runner(permitted=False),
    "a runner, while another is to run alone": runner_while_another_is_to_run_alone,
    "DROP": drop("unasked"),
    "DROP in answer to HELD": drop("answer"),
    "DROP with cancel": drop("cancel"),
    "end of its run": end_of_run,
    "end of its run, cancelled": end_of_a_cancelled_run,
    "CONFIRM of that dispatch": confirm(that=True),
    "CONFIRM of another dispatch": confirm(that=False),
    "all runners busy for 0.2 s": taken_away("busy"),
    "its channel is served no more": taken_away("channel"),
    "draining": taken_away("draining"),
    "owner gone for the grace": taken_away("gone"),
}


# -- the tests ---------------------------------------------------------------------------------------------------------

_executed: dict[str, set[object]] = {"message": set(), "item": set(), "claim": set(), "link": set(), "life": set()}


@pytest.mark.parametrize(("event", "state"), MESSAGE)
def test_a_message_at_its_owner_does_what_the_table_says(event: str, state: str) -> None:
    assert OWNER_EVENTS[event](AtOwner(state)) == MESSAGE[event, state]
    _executed["message"].add((event, state))


@pytest.mark.parametrize(("event", "state"), ITEM)
def test_a_message_at_a_worker_does_what_the_table_says(event: str, state: str) -> None:
    assert WORKER_EVENTS[event](AtWorker(state)) == ITEM[event, state]
    _executed["item"].add((event, state))


@pytest.mark.parametrize(("event", "state"), list(CLAIM))
def test_an_outcome_with_outputs_does_what_the_table_says(event: str, state: str) -> None:
    assert CLAIM_EVENTS[event](AtClaim(state)) == CLAIM[event, state]
    _executed["claim"].add((event, state))


def frame_of(kind: type) -> Frame:
    return next(vector.frame for vector in VECTORS if type(vector.frame) is kind)


@pytest.mark.parametrize(
    ("phase", "kind"), LINK, ids=lambda each: getattr(each, "value", getattr(each, "__name__", ""))
)
def test_a_link_does_with_each_frame_what_the_table_says(phase: LinkPhase, kind: type) -> None:
    store = Store(BOX)
    stage = Stage(store=store, services={CHANNEL: 1})
    puppet = Puppet(stage, X, channels=[CHANNEL], boxes=[Owned(TWO.box, 1, "owner")])
    if phase is not LinkPhase.DIALLED:
        puppet.greet()
    if phase in (LinkPhase.READY, LinkPhase.LOST):
        puppet.tell()
    if phase is LinkPhase.LOST:
        puppet.lose()
    elif puppet.conn in stage.core.links:
        assert stage.core.links[puppet.conn].phase is phase
    puppet.forget()
    frame = frame_of(kind)
    if isinstance(frame, Held):
        return  # said once already by this peer; a second one is a violation of another rule
    puppet.say(frame)
    what = LINK[phase, kind]
    ends = isinstance(frame, Goodbye) and phase is not LinkPhase.LOST and frame.code != frames.FENCED
    if what == tables.VIOLATION:
        assert puppet.closed
        assert puppet.last(Goodbye).code in (frames.UNEXPECTED, frames.NOT_OURS)
    elif what == tables.IGNORE:
        assert not puppet.closed
        assert not [each for each in puppet.heard if isinstance(each, Goodbye)]
    elif not ends:
        assert not puppet.closed, puppet.heard
    _executed["link"].add((phase, kind))


def life(before: str, after: str, event: str) -> None:
    """Brings a link into the state, and lets it pass into the next."""
    stage = Stage(store=Store(BOX))
    puppet = Puppet(stage, X, channels=[CHANNEL])
    core = stage.core

    def phase() -> str:
        link = core.links.get(puppet.conn)
        if link is None:
            if core.peers.is_dead(X):
                return "dead"
            return "gone" if core.peers.get(X) is None and puppet.hello.serial == 1 and was_ready else "lost"
        return "resuming" if link.phase is LinkPhase.READY and BOX not in link.resumed else link.phase.value

    was_ready = before in ("ready", "lost", "gone")
    if before != "dialled":
        puppet.greet()
    if before in ("resuming", "ready", "lost", "gone"):
        puppet.say(State((frames.Served(CHANNEL),)))
    if before in ("ready", "lost", "gone"):
        puppet.held()
    if before in ("lost", "gone"):
        puppet.lose()
    if before == "gone":
        stage.step(stage.config.resume_grace + 0.01)
    if before != "lost":
        assert phase() == before
    match event.split(" ")[0]:
        case "HELLO":
            puppet.greet()
        case "STATE":
            puppet.say(State((frames.Served(CHANNEL),)))
        case "HELD":
            puppet.held()
        case "no":
            puppet.answers = False
            stage.step(stage.config.handshake + 0.1)
        case "closed,":
            puppet.answers = False
            stage.step(stage.config.silence + 0.1)
            assert puppet.closed
        case "a":
            puppet = Puppet(stage, X, channels=[CHANNEL], serial=2)
        case "resume_grace":
            stage.step(stage.config.resume_grace + 0.01)
        case "proof,":
            core.buried(X, stage.now)
    assert phase() == after


@pytest.mark.parametrize(("before", "event", "after"), LIFE)
def test_a_link_passes_from_phase_to_phase_as_the_diagram_says(before: str, event: str, after: str) -> None:
    life(before, after, event)
    _executed["life"].add((before, event, after))


def test_a_second_held_in_one_session_is_a_violation() -> None:
    stage = Stage(store=Store(BOX))
    puppet = stage.peer(X, channels=[CHANNEL])
    puppet.held()
    assert puppet.last(Goodbye).code == frames.UNEXPECTED
    _executed["link"].update({(phase, Held) for phase in LinkPhase})


def test_every_event_of_the_tables_can_be_executed() -> None:
    assert {event for event, _ in MESSAGE} == set(OWNER_EVENTS)
    assert {event for event, _ in ITEM} == set(WORKER_EVENTS)
    assert {event for event, _ in CLAIM} == set(CLAIM_EVENTS)


def test_every_cell_was_executed(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> None:
    """The last of this file. With a selection of tests it has nothing to say."""
    wanted: dict[str, set[object]] = {
        "message": set(MESSAGE),
        "item": set(ITEM),
        "claim": set(CLAIM),
        "link": set(LINK),
        "life": set(LIFE),
    }
    here = [item for item in request.session.items if item.fspath == request.node.fspath]
    if len(here) < sum(len(cells) for cells in wanted.values()):
        pytest.skip("only a part of the cells was selected")
    count, total = (sum(len(cells) for cells in table.values()) for table in (_executed, wanted))
    with capsys.disabled():
        print(f"\ntables of the protocol: {count} of {total} cells ({100 * count // total} %)")
    assert _executed == wanted


def test_the_tables_in_the_documentation_are_current() -> None:
    if not DOCUMENT.exists():
        pytest.skip("docs/protocol.md is not written yet")
    text = DOCUMENT.read_text(encoding="utf-8")
    assert tables.BEGIN in text, f"docs/protocol.md has no {tables.BEGIN}"
    shown = text.split(tables.BEGIN)[1].split(tables.END)[0]
    assert shown.strip() == tables.markdown().strip(), "write `tables.markdown()` between the marks"
