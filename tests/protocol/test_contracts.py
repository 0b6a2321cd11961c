"""Both ends of a channel expect the same: who does not gets nothing of it, and nothing is lost (wire-and-store §2)."""

from __future__ import annotations

import pytest

from tests.protocol.puppet import BOX, CHANNEL, Puppet, Stage
from tests.protocol.store import Store
from zerowait.contract import Description, fingerprint, packed
from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.effects import Say
from zerowait.engines.brokerless.protocol.frames import Batch, Goodbye, Held, Schema, Served, State, Want
from zerowait.message import Service

X, Y = 201, 202
SENT: Description = ["record", None, False, False, [["body", "bytes", True, True], ["id", "str", True, True]]]
WIDER: Description = [
    "record", None, False, False,
    [["body", "bytes", True, True], ["id", "str", True, True], ["size", "int", False, True]],
]  # fmt: skip
OTHER: Description = ["record", None, False, False, [["body", "bytes", True, True], ["id", "int", True, True]]]


def owner(*sent: Description) -> Stage:
    stage = Stage(store=Store(BOX))
    for each in sent:
        stage.core.declare(CHANNEL, packed(each))
    return stage


def worker(stage: Stage, instance: int, type: Description | None, **how: object) -> Puppet:
    return stage.peer(instance, channels=[CHANNEL], credit=10, type=type, **how)


def mismatches(stage: Stage) -> list[Say]:
    return [effect for effect in stage.effects if isinstance(effect, Say) and effect.topic == "mismatch"]


def got(puppet: Puppet) -> int:
    return sum(count for batch in puppet.all(Batch) for _, count in batch.ranges)


@pytest.mark.parametrize("theirs", [SENT, None], ids=["the same", "not said"])
def test_equal_fingerprints_and_those_not_said_cost_no_frame(theirs: Description | None) -> None:
    stage = owner(SENT)
    x = worker(stage, X, theirs)
    stage.push(3)
    assert got(x) == 3
    assert not x.all(Schema)


def test_where_fingerprints_differ_nothing_leaves_before_the_description_is_here() -> None:
    stage = owner(SENT)
    x = worker(stage, X, WIDER)
    stage.push(3)
    assert x.all(Schema) == [Schema(fingerprint(WIDER))]
    assert not got(x)
    assert not stage.core.owner.workers(CHANNEL)
    x.describe()
    assert got(x) == 3, "a new optional field is no difference"
    assert not mismatches(stage)
    assert [link.instance for link in stage.core.owner.workers(CHANNEL)] == [X]


def test_a_worker_that_does_not_fit_gets_nothing_and_the_messages_wait() -> None:
    stage = owner(SENT)
    x = worker(stage, X, OTHER)
    x.describe()
    stage.push(3)
    stage.step(2.0)
    assert not x.all(Batch)
    assert stage.core.owner.dispatch.waiting(CHANNEL) == 3
    assert all(want.waiting == 0 for want in x.all(Want)), "nothing is set aside for what does not come"
    (said,) = mismatches(stage)
    assert (said.instance, said.channel) == (X, CHANNEL)
    assert said.words == "the field id is sent as str and expected as int"
    assert said.types == ("a record (body: bytes, id: str)", "a record (body: bytes, id: int)")
    assert not stage.core.owner.workers(CHANNEL)
    assert [(link.instance, each.difference) for link, each in stage.core.owner.misfits(CHANNEL)] == [(X, said.words)]


def test_another_worker_that_fits_gets_them_all() -> None:
    stage = owner(SENT)
    x, y = worker(stage, X, OTHER), worker(stage, Y, SENT)
    x.describe()
    stage.push(8)
    assert (got(x), got(y)) == (0, 8)


def test_what_waited_goes_when_the_worker_comes_back_with_the_right_type() -> None:
    stage = owner(SENT)
    x = worker(stage, X, OTHER)
    x.describe()
    stage.push(2)
    x.lose()
    y = worker(stage, Y, WIDER)
    y.describe()
    assert got(y) == 2


def test_a_state_with_another_type_is_compared_anew() -> None:
    stage = owner(SENT)
    x = worker(stage, X, OTHER)
    x.describe()
    stage.push(2)
    x.type = SENT
    x.say(State((Served(CHANNEL, fingerprint=fingerprint(SENT)),)))
    assert got(x) == 2
    x.type = OTHER
    x.say(State((Served(CHANNEL, fingerprint=fingerprint(OTHER)),)))
    stage.push(2)
    assert got(x) == 2
    assert len(x.all(Schema)) == 1, "its answer is remembered for this connection"


def test_a_type_that_is_sent_later_is_compared_too_and_all_must_fit() -> None:
    """Messages of one channel lie in one queue: which of them is of which type, nobody can tell any more."""
    stage = owner(SENT)
    x = worker(stage, X, SENT)
    stage.push()
    assert got(x) == 1
    stage.core.declare(CHANNEL, packed(OTHER))
    stage.step()
    x.describe()
    stage.push()
    assert got(x) == 1
    assert mismatches(stage)[0].words == "the field id is sent as int and expected as str"


def test_who_wanted_something_before_it_was_known_is_told_that_nothing_comes() -> None:
    stage = owner(SENT)
    x = stage.peer(X, channels=[CHANNEL], type=SENT)
    stage.push(3)
    assert x.last(Want).waiting == 3
    stage.core.declare(CHANNEL, packed(OTHER))
    stage.step()
    assert x.last(Want).waiting == 0


def test_a_name_in_place_of_a_channel_is_compared_with_nothing() -> None:
    stage = owner("any")
    x = worker(stage, X, OTHER)
    stage.push(3)
    assert got(x) == 3
    assert not x.all(Schema)


def test_what_nobody_has_declared_here_goes_to_any_worker() -> None:
    stage = owner()
    x = worker(stage, X, OTHER)
    stage.push(3)
    assert got(x) == 3


def test_a_channel_of_another_kind_gets_no_pushes() -> None:
    stage = owner(SENT)
    x = stage.peer(X)
    x.say(State((Served(CHANNEL, "request"),)))
    x.held()
    x.grant(10)
    stage.push()
    assert not got(x)
    assert "served as a request channel" in mismatches(stage)[0].words


def test_a_mismatch_is_told_once_for_each_process_and_not_for_each_connection() -> None:
    stage = owner(SENT)
    for serial in (1, 2, 3):
        x = worker(stage, X, OTHER, serial=serial)
        x.describe()
        x.lose()
    assert len(mismatches(stage)) == 1
    worker(stage, Y, OTHER).describe()
    assert len(mismatches(stage)) == 2


@pytest.mark.parametrize("description", ["nonsense", ["record"], [], ["up", 7], ["union", 5], ["list"]])
def test_a_description_of_no_sense_is_a_mismatch_and_no_error(description: Description) -> None:
    stage = owner(SENT)
    x = worker(stage, X, description)
    x.describe()
    stage.push()
    assert not got(x)
    assert len(mismatches(stage)) == 1
    assert not x.closed


def test_a_description_that_belies_its_fingerprint_ends_the_connection() -> None:
    stage = owner(SENT)
    x = worker(stage, X, OTHER)
    x.say(Schema(fingerprint(OTHER), packed(SENT)))
    assert x.last(Goodbye).code == frames.MALFORMED
    assert x.closed


def test_a_description_that_nobody_asked_for_changes_nothing() -> None:
    stage = owner(SENT)
    x = worker(stage, X, SENT)
    x.say(Schema(fingerprint(OTHER), packed(OTHER)), Schema(b"?" * 16, b"\xc1"))
    stage.push()
    assert got(x) == 1
    assert not x.closed


def test_a_worker_describes_what_it_serves_and_nothing_else() -> None:
    stage = Stage()
    stage.core.serve([Service(CHANNEL, "push", 1, fingerprint(OTHER), description=packed(OTHER))])
    x = stage.peer(X)
    assert x.last(State).channels[0].fingerprint == fingerprint(OTHER)
    x.say(Schema(fingerprint(OTHER)))
    assert x.all(Schema) == [Schema(fingerprint(OTHER), packed(OTHER))]
    x.say(Schema(fingerprint(SENT)))
    assert len(x.all(Schema)) == 1


def test_what_is_held_there_from_before_goes_on() -> None:
    """It ran under the agreement of its time; taking it back would only run it twice."""
    stage = owner(SENT)
    x = worker(stage, X, SENT)
    stage.push(2)
    (batch,) = x.all(Batch)
    stage.core.declare(CHANNEL, packed(OTHER))
    stage.step()
    x.describe()
    part = frames.Part(batch.epoch, 1, 2, batch.fence, batch.n)
    x.say(frames.Outcome(BOX, 1, (part,)))
    assert stage.store is not None
    assert not stage.store.rows
    assert not x.all(Held)


# -- what others have left ---------------------------------------------------------------------------------------------


def adopter(*left: Description, adopted: bool = True) -> Stage:
    """A process that opens an outbox in which two messages of these types lie."""
    store = Store(BOX)
    stage = Stage()
    stage.store = store
    stage.core.left(BOX, CHANNEL, [packed(each) for each in left], adopted=adopted)
    stage.open()
    stage.push(2)
    return stage


def test_what_another_process_has_left_goes_only_where_its_type_is_expected() -> None:
    stage = adopter(SENT)
    stage.core.declare(CHANNEL, packed(OTHER))
    x, y = worker(stage, X, OTHER), worker(stage, Y, WIDER)
    x.describe()
    assert not got(x), "what this process sends itself says nothing of it"
    y.describe()
    assert (got(x), got(y)) == (0, 2)


def test_what_waits_for_another_does_not_hold_a_closing_process_up() -> None:
    stage = adopter(SENT)
    worker(stage, X, OTHER).describe()
    assert not stage.core.owner.takers(CHANNEL)
    y = stage.peer(Y, channels=[CHANNEL], type=SENT)
    assert [link.instance for link in stage.core.owner.takers(CHANNEL)] == [Y]
    y.grant(2)
    assert got(y) == 2


def test_what_an_earlier_life_has_left_goes_by_its_own_type_until_this_one_says_what_it_sends() -> None:
    """Then the contract has been deployed anew; what cannot be read becomes a dead letter, with its reason."""
    stage = adopter(SENT, adopted=False)
    x = worker(stage, X, OTHER)
    x.describe()
    assert not got(x)
    stage.core.declare(CHANNEL, packed(OTHER))
    stage.step()
    assert got(x) == 2


def test_an_outbox_that_is_opened_while_workers_are_there_is_compared_at_once() -> None:
    stage = Stage()
    x = Puppet(stage, X, channels=[CHANNEL], type=OTHER)
    x.greet()
    x.tell()
    stage.store = Store(BOX)
    stage.core.left(BOX, CHANNEL, [packed(SENT)], adopted=True)
    stage.open()
    x.held()
    x.grant(5)
    x.describe()
    stage.push(2)
    assert not got(x)
    assert mismatches(stage)[0].words == "the field id is sent as str and expected as int"
    stage.core.disown(BOX)
    assert not next(iter(stage.core.links.values())).unfit
