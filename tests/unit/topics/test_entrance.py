"""What a call of `publish` means: for whom it is taken, and that nothing was taken where it raises."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.stalling import stall_groups
from tests.waiting import wait_until
from zerowait import Topic
from zerowait.callbacks import Callbacks
from zerowait.errors import QueueFull, UsageError, ZerowaitError
from zerowait.pending import Promise
from zerowait.settings import Settings
from zerowait.topics import entrance
from zerowait.topics import groups as groups_module
from zerowait.topics.bundle import Press, TopicLane
from zerowait.topics.entrance import TopicEntrance
from zerowait.topics.groups import Groups
from zerowait.topics.safe import HELD_COST

RELIABLE = Topic[int]("acc", reliable=True)


class Box:
    """A group's way into the outbox, and what is there for it. refuses: raised at the next."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.error: Exception | None = None
        self.refuses: Exception | None = None
        self.taken: list[bytes] = []

    def append(self, payload: bytes, *, headers: Mapping[str, str] | None, force: bool) -> tuple[Box, int]:
        if self.refuses is not None and not force:
            raise self.refuses
        self.taken.append(payload)
        return self, len(self.taken)

    def when_stored(self, index: int, call: Callable[[], object]) -> None:
        call()


class Desk:
    """A publisher's entrance, and what is behind it."""

    def __init__(self, folder: Path, *, knows: bool = True) -> None:
        self.callbacks = Callbacks("test")
        self.boxes: dict[str, Box] = {}
        self.short: dict[Any, TopicLane] = {}
        self.press = Press(
            self.callbacks,
            now_us=lambda: 1,
            wake=lambda: None,
            give_way=lambda: None,
            room=lambda: Promise[None](self.callbacks),
        )
        self.groups = Groups(
            lambda: folder / "groups" / "bank",
            lane=lambda channel, codec: self.box(channel),
            promise=lambda line: Promise[Any](self.callbacks),
            want=lambda channel: None,
        )
        if knows:
            self.groups.known()
        self.announced: dict[str, int] = {}
        self.entrance = TopicEntrance(Settings(), self.press, self.groups, short=self.short, announce=self._announce)

    def _announce(self, pattern: str, codec: Any, history: int) -> None:
        self.announced[pattern] = max(history, self.announced.get(pattern, 0))

    def box(self, channel: str) -> Any:
        return self.boxes.setdefault(channel, Box(channel))

    def publish(self, to: Any, value: Any, **options: Any) -> Any:
        return self.entrance.publish(to, value, options)

    def turn(self, room: int | None = None) -> int:
        """One of the network thread, with so much room in the fullest queue; gives how many events it has taken."""
        taken = 0
        for bundle in self.press.take():
            for at, (lane, start) in enumerate(bundle.runs):
                stop = bundle.runs[at + 1][1] if at + 1 < len(bundle.runs) else len(bundle.ends)
                lane.published += stop - start
            taken += len(bundle.ends)
            bundle.addressed({})
        for _ in range(2):
            self.press.allow(1, lambda: [">"], lambda pattern: room)
        return taken


class Stalled(Desk):
    """Of which the folder of groups can be read only when that is let."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "groups" / "bank").mkdir(parents=True)
        (folder / "groups" / "bank" / "acc@bill").touch()
        self.moves = stall_groups(monkeypatch)
        super().__init__(folder, knows=False)

    def let_it_move(self) -> None:
        self.moves.set()
        self.groups.read().result(5)
        wait_until(lambda: all(lane.groups is not None for lane in self.entrance._lanes.values()), within=5)


@pytest.fixture
def stalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stalled]:
    desk = Stalled(tmp_path, monkeypatch)
    yield desk
    desk.moves.set()


def test_what_is_published_before_it_is_known_for_whom_it_is_to_be_kept_is_kept_in_its_order(stalled: Stalled) -> None:
    # given a group that is remembered, and a disk that stands still
    first = [stalled.publish("acc", number) for number in range(3)]
    other = stalled.publish("elsewhere", 0)
    # when what was published is addressed to those who are there: that has not waited
    assert stalled.turn() == 4
    # then it is not safe yet, and becomes so when the disk moves; what comes then comes behind it
    assert not any(each.done() for each in first)
    assert not stalled.short
    stalled.let_it_move()
    stalled.publish("acc", 3)
    assert stalled.boxes["acc@bill"].taken == [bytes([number]) for number in range(4)]
    assert [each.result(5) for each in first] == [1, 1, 1]
    assert other.result(5) == 0
    assert set(stalled.short) == {"elsewhere"}, "where no group gets it, events go the short way from now on"


def test_threads_that_publish_while_the_groups_become_known_keep_their_order(stalled: Stalled) -> None:
    def publish(sender: int) -> None:
        for number in range(500):
            stalled.publish("acc", sender * 1_000 + number)

    threads = [threading.Thread(target=publish, args=(sender,)) for sender in range(3)]
    for thread in threads:
        thread.start()
    stalled.let_it_move()
    for thread in threads:
        thread.join(10)
    taken = [msgspec.msgpack.decode(payload) for payload in stalled.boxes["acc@bill"].taken]
    for sender in range(3):
        assert [each for each in taken if each // 1_000 == sender] == [sender * 1_000 + n for n in range(500)]


def test_no_more_is_held_than_memory_bears_and_what_is_refused_has_nobody(
    stalled: Stalled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups_module, "HELD_BYTES", 2 * (HELD_COST + 1))
    stalled.publish(RELIABLE, 1)
    stalled.publish(RELIABLE, 2)
    with pytest.raises(QueueFull, match="could not be read yet") as full:
        stalled.publish(RELIABLE, 3)
    assert stalled.turn(room=1) == 2
    assert not full.value.room.done()
    stalled.let_it_move()
    full.value.room.result(5)
    stalled.publish(RELIABLE, 3)
    assert stalled.boxes["acc@bill"].taken == [b"\x01", b"\x02", b"\x03"]


def test_who_waits_for_what_was_held_is_told_when_the_client_ends_before(stalled: Stalled) -> None:
    held = stalled.publish("acc", 1)
    stalled.turn()
    stalled.groups.fail(over := ZerowaitError("over"))
    assert str(held.exception(0)) == str(over)
    with pytest.raises(ZerowaitError, match="over"):
        stalled.publish("acc", 2)
    assert stalled.turn() == 0


def test_what_the_outbox_refuses_of_what_was_held_is_told(stalled: Stalled) -> None:
    def refused(*said: Any, **more: Any) -> Any:
        raise ZerowaitError("no more")

    stalled.box("acc@bill").append = refused
    held = stalled.publish("acc", 1)
    stalled.turn()
    stalled.let_it_move()
    with pytest.raises(ZerowaitError, match="no more"):
        held.result(5)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_what_is_refused_because_a_queue_is_full_no_durable_group_has_got(desk: Desk) -> None:
    desk.groups.met("acc@bill")
    desk.publish(RELIABLE, 1)
    desk.turn(room=1)
    desk.publish(RELIABLE, 2)
    with pytest.raises(QueueFull) as full:
        desk.publish(RELIABLE, 3)

    assert desk.boxes["acc@bill"].taken == [b"\x01", b"\x02"]
    desk.turn(room=1)
    assert full.value.room.done()
    desk.publish(RELIABLE, 3)
    assert desk.boxes["acc@bill"].taken == [b"\x01", b"\x02", b"\x03"]


def test_what_a_full_outbox_refuses_takes_no_room_in_a_queue_and_is_not_published(desk: Desk) -> None:
    desk.groups.met("acc@bill")
    desk.publish(RELIABLE, 1)
    assert desk.turn(room=1) == 1
    desk.boxes["acc@bill"].refuses = refused = ZerowaitError("full")
    for _ in range(3):
        with pytest.raises(ZerowaitError) as raised:
            desk.publish(RELIABLE, 2)
        assert raised.value is refused
    desk.boxes["acc@bill"].refuses = None

    desk.publish(RELIABLE, 2)
    assert desk.turn() == 1


def test_what_a_group_has_got_while_the_client_ends_is_said_and_not_raised(desk: Desk) -> None:
    """Who is told by an exception that nothing was taken publishes it again."""
    desk.groups.met("acc@bill")
    box = desk.box("acc@bill")

    def append(*said: Any, **more: Any) -> Any:
        desk.press.close("bank")
        desk.press.fail(ZerowaitError("over"))
        return Box.append(box, *said, **more)

    box.append = append
    pending = desk.publish(RELIABLE, 1)

    assert box.taken == [b"\x01"]
    with pytest.raises(ZerowaitError, match="over"):
        pending.result(0)


def aside(call: Callable[[], object]) -> threading.Thread:
    """On another thread; comes back when that has done it, or waits for us."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(0.2)
    return thread


def test_a_group_that_is_met_while_a_topic_is_published_to_for_the_first_time_gets_what_follows(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, met = desk.groups.of, list[threading.Thread]()

    def racing(*said: Any) -> Any:
        found = of(*said)
        if not met and threading.current_thread() is threading.main_thread():
            met.append(aside(partial(desk.groups.met, "race@group")))
        return found

    monkeypatch.setattr(desk.groups, "of", racing)
    desk.publish("race", 1)
    for thread in met:
        thread.join(5)
    desk.publish("race", 2)

    assert len(met) == len(desk.boxes) == 1
    assert all(box.taken[-1] == b"\x02" for box in desk.boxes.values())
    assert not desk.short


class Slow(dict[Any, TopicLane]):
    """The short ways, of which one that is dropped takes its time."""

    calls: Callable[[], object] | None = None

    def pop(self, *said: Any) -> Any:
        call, self.calls = self.calls, None
        if call is not None:
            aside(call)
        return super().pop(*said)


def test_threads_that_make_up_topics_do_not_stand_in_one_anothers_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entrance, "REMEMBERED", 16)
    desk = Desk(tmp_path)
    short = Slow()
    desk.entrance._short = short
    for number in range(16):
        desk.publish(f"made.up.{number}", number)
    done: list[Any] = []
    short.calls = lambda: done.append(desk.publish("made.up.by.another", 0))
    desk.publish("made.up.16", 16)

    wait_until(lambda: done, within=5)
    assert desk.turn() == 18


@pytest.mark.parametrize("reliable", [False, True])
def test_made_up_topics_are_not_remembered_for_ever(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, *, reliable: bool
) -> None:
    monkeypatch.setattr(entrance, "REMEMBERED", 16)
    made_up = Topic[int]("made.up.*", reliable=reliable)
    for number in range(100):
        desk.publish(made_up.at(str(number)), number)
        desk.turn(room=1)

    assert len(desk.entrance._lanes) <= 16
    assert not desk.press._allowances._stirred
    if reliable:  # one that was dropped is as good as new
        desk.publish(made_up.at("0"), 0)
        with pytest.raises(QueueFull) as full:
            desk.publish(made_up.at("0"), 1)
        desk.turn(room=1)
        assert full.value.room.done()


@pytest.mark.parametrize(
    "said", [{"history": 5}, {"retain": True}, {"reliable": True}], ids=lambda said: next(iter(said))
)
def test_equal_topics_that_are_not_declared_alike_are_refused(desk: Desk, said: dict[str, Any]) -> None:
    """One of the two would keep nothing of what it says it keeps, without a word."""
    pattern, other = Topic[int]("h.*", history=10), Topic[int]("h.b", **said)
    desk.publish(pattern.at("b"), 1)
    desk.turn()
    with pytest.raises(UsageError, match=r"declared twice.* with history=10 .*published on.*" + next(iter(said))):
        desk.publish(other, 2)

    desk.publish(pattern.at("b"), 3)
    assert desk.turn() == 1


def test_equal_topics_that_are_declared_alike_are_each_known_as_they_were_declared(desk: Desk) -> None:
    pattern, other = Topic[int]("h.*", history=10), Topic[int]("h.b", history=10)
    for to in (pattern.at("b"), other, pattern.at("b")):
        desk.publish(to, 1)
        desk.turn()

    assert desk.announced == {"h.*": 10, "h.b": 10}
