"""What the processes of a simulated world share, and the outboxes that outlive them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from zerowait.engines.brokerless.protocol.config import Config
from zerowait.engines.brokerless.protocol.frames import Obituary
from zerowait.engines.brokerless.protocol.worker.unbegun import Listing
from zerowait.outbox.intake import Limits
from zerowait.outbox.outbox import Outbox
from zerowait.testing.crew import Sends, Temper
from zerowait.testing.disk import SimulatedDisk
from zerowait.testing.durable import GroupBook
from zerowait.testing.events import EventBook
from zerowait.testing.history import History, Message
from zerowait.testing.network import Network
from zerowait.testing.questions import QuestionBook
from zerowait.testing.timeline import Timeline

if TYPE_CHECKING:
    from zerowait.testing.node import Node


class Home:
    """An outbox file, and the process that has it open, if any: what its lock would say."""

    def __init__(self, box: int, name: str, rng: Random) -> None:
        self.box = box
        self.name = name
        self.disk = SimulatedDisk(rng)
        self.path = Path(f"/outbox/{box:016x}.db")
        self.owner: Node | None = None


class Surroundings:
    """What all processes of a world share.

    ending: how an instance has ended, if that can be proved to another. ended: how earlier lives of that name have, as
    far as the next of them finds out. boot: of the machine of that process. proves: whether all are on one machine.
    looked: what one that is silent has not begun, if it is held, and whether it has stood still until now. died: a
    handler has ended its process."""

    def __init__(self, timeline: Timeline, network: Network, history: History, config: Config, rng: Random) -> None:
        self.timeline = timeline
        self.network = network
        self.history = history
        self.config = config
        self.rng = rng
        self.events = EventBook(history.tell)
        self.groups = GroupBook()
        self.is_well: Callable[[], bool] = lambda: False
        self.questions = QuestionBook(timeline, history.tell)
        # A clock that is set on by ten years would make dead letters old at once, as it should.
        self.limits = Limits(store_grace=2.0, letter_days=100_000.0)
        self.commit_s = 0.001
        self.job = 1
        self.keeps: frozenset[str] = frozenset()  # channels whose outcomes lie on their worker's disk
        self.sends: Sends = lambda channel, token: []
        self.temper: Temper = lambda token: (0.01, "handled")
        self.turned: Callable[[Node], None] = lambda node: None
        self.stored: Callable[[Node, Outbox], None] = lambda node, box: None
        self.ending: Callable[[int], Obituary | None] = lambda instance: None
        self.ended: Callable[[str], list[Obituary]] = lambda name: []
        self.proves = False
        self.looked: Callable[[int], tuple[Listing | None, bool]] = lambda instance: (None, False)
        self.boot: Callable[[str], str] = lambda name: "this boot"
        self.died: Callable[[Node, Message | None], None] = lambda node, message: None
