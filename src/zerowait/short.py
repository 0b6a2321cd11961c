"""The short ways of a client: a lane for each target that a verb has sent to before, and that takes no lock.

They are begun by the careful way (`outbox.entrance`, `requests.entrance`, `topics.entrance`), and a verb that finds
none goes that way again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zerowait.outbox.lane import Lane
    from zerowait.requests.bundle import AskLane
    from zerowait.topics.bundle import TopicLane


class ShortWays:
    """By what the caller has named: a channel or a topic, or its name. Any thread."""

    def __init__(self) -> None:
        self.pushes: dict[Any, Lane] = {}
        self.requests: dict[Any, AskLane] = {}
        self.events: dict[Any, TopicLane] = {}

    def end(self) -> None:
        """All of them, by whatever ends them: closing, a fork."""
        self.pushes.clear()
        self.requests.clear()
        self.events.clear()

    def end_at(self, channel: str) -> None:
        """Somebody serves it as another kind, which a short way does not look for."""
        for lanes in (self.pushes, self.requests):
            for to, lane in list(lanes.items()):
                if lane.channel == channel:
                    lanes.pop(to, None)
