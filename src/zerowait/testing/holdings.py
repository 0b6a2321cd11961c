"""The outboxes that a simulated process has open: what passes between its store and its network thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zerowait.engines.brokerless.outboxes import Outboxes
from zerowait.errors import Room, StoreError
from zerowait.message import Segment
from zerowait.outbox.intake import Intake
from zerowait.outbox.outbox import Outbox
from zerowait.testing.store import Store
from zerowait.testing.surroundings import Home

if TYPE_CHECKING:
    from zerowait.testing.node import Node


class Holdings:
    """outboxes: as a network thread has them, none in memory; all is done at once when the store tells of a turn."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._around = around = node.around
        self.store = Store(
            around.timeline, self._offered, self._stored, lambda: around.commit_s * (0.5 + around.rng.random()),
            node.when_awake, lambda: around.rng.random() < 0.05,
        )  # fmt: skip
        self.homes: dict[int, Home] = {}
        self.boxes: dict[int, Outbox] = {}
        self.intake: Intake | None = None
        self.outboxes = Outboxes(
            node.name, submit=self.store.submit, buried=lambda box, bury: None, wake=node.touch,
            now=lambda: around.timeline.now,
        )  # fmt: skip
        self.outboxes.open(node.core)

    def open(self, home: Home, *, pushes: bool) -> Outbox | None:
        """Opens that file, or makes it. None: it cannot be now. pushes: what is pushed here goes into it."""
        node, around = self._node, self._around
        intake = None
        if pushes:
            intake = Intake(around.limits, durable=True, wake=self.store.wake, room=_no_room, now_us=node.now_us)
        try:
            box = Outbox.open(
                home.path, node.name, around.limits, now_us=node.now_us, id=home.box, intake=intake, disk=home.disk,
                steady=around.timeline.steady_ns,
            )  # fmt: skip
        except StoreError as error:
            around.history.tell("not opened", home.box, error.message)
            return None
        home.owner = node
        self.homes[box.id], self.boxes[box.id] = home, box
        if pushes:
            self.intake = intake
        around.history.opened(box.id)
        around.history.clocks.setdefault(box.id, []).append((around.timeline.now, node.wall_us(0.0)))
        around.history.tell("open", node.instance, box.id, box.epoch)
        self.outboxes.own(box, {})
        for instance in box.noted:
            if (obituary := around.ending(instance)) is not None:
                node.core.buried(instance, around.timeline.now, obituary)
        node.link_to_itself()
        self.store.add(box)
        node.touch()
        around.stored(node, box)
        return box

    # -- what the store tells ----------------------------------------------------------------------------------------

    def _stored(self, box: Outbox) -> None:
        self._around.history.tell("turn", self._node.instance, box.id, box.turns, box.epoch)
        self._around.stored(self._node, box)

    def _offered(self, box: Outbox, epoch: int, segments: list[Segment], done: int) -> None:
        custody = self._node.core.owner.custody.get(box.id)
        if custody is not None and box.epoch != custody.epoch:  # it failed and came back
            self._around.history.opened(box.id)
        self.outboxes.offered(box.id, epoch, segments, done)
        self.outboxes.take(self.outboxes.offers())

    def _reopened(self, box: Outbox) -> None:
        self._around.history.opened(box.id)
        self.outboxes.reopened(box)
        self._node.touch()

    # -- what the protocol wants done --------------------------------------------------------------------------------

    def raise_epoch(self, id: int, floor_epoch: int) -> None:
        box = self.boxes.get(id)
        if box is None:
            return

        def rise() -> None:
            try:
                box.raise_epoch(floor_epoch)
            except StoreError:
                return
            finally:
                self._around.stored(self._node, box)
            self._around.timeline.after(0.0, lambda: self._node.when_awake(lambda: self._reopened(box)))

        self.store.ask(rise)


def _no_room() -> Room:
    raise AssertionError("the outboxes of a simulated world are never full")
