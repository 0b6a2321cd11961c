"""What is told of peers, and how often all of them are looked at for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.protocol.puppet import CHANNEL, Stage
from zerowait.engines.brokerless.finding import Wanted
from zerowait.engines.brokerless.herald import Herald
from zerowait.engines.brokerless.protocol.effects import Say


class Bench:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stage = Stage(services={CHANNEL: 1})
        self.told: list[str] = []
        self.names: set[str] = set()
        self.addresses: dict[int, str] = {}
        self.looks = 0
        sender = self.stage.core.owner.sender
        right: Callable[[], Any] = sender.kinds_served

        def counted() -> Any:
            self.looks += 1
            return right()

        monkeypatch.setattr(sender, "kinds_served", counted)
        self.herald = Herald(
            Wanted(lambda: None), self.stage.core, self._told, lambda _: "", lambda conn: self.addresses.get(conn, "")
        )

    def _told(self, said: Say, name: str) -> None:
        self.told.append(said.topic)
        self.names.add(name)

    def turn(self) -> None:
        """As the network thread does it: all that is to be said, and then a look."""
        for effect in self.stage.effects:
            if isinstance(effect, Say):
                self.herald.say(effect)
        self.stage.effects.clear()
        self.herald.look()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_peers_that_serve_nothing_cost_no_look_at_all_the_others(bench: Bench) -> None:
    """Each of three thousand peers that came back at once cost a look at all of them."""
    for instance in range(300, 320):
        bench.stage.peer(instance)
        bench.turn()
    assert bench.told.count("met") == 20
    assert bench.looks == 0


def test_peers_that_serve_something_are_looked_at_once_a_turn_and_when_they_go(bench: Bench) -> None:
    peers = [bench.stage.peer(instance, channels=["other"]) for instance in range(300, 320)]
    bench.turn()
    assert bench.looks == 1
    assert bench.herald.other_kind("other", "request") == ("push", "peer319 (pid 1)")
    for peer in peers:
        peer.lose()
    bench.turn()
    assert bench.looks == 2
    assert bench.herald.other_kind("other", "request") is None


def test_who_waits_for_news_is_called_after_each_turn_with_any_until_it_has_heard_enough(bench: Bench) -> None:
    seen: list[bool] = []

    def look() -> bool:
        seen.append(True)
        return len(seen) == 3

    bench.herald.watch(look)
    assert len(seen) == 1
    bench.turn()
    assert len(seen) == 1, "there was no news"
    for instance in (300, 301, 302):
        bench.stage.peer(instance)
        bench.stage.peer(instance + 10)
        bench.turn()
    assert len(seen) == 3


def test_a_process_has_one_name_in_all_that_is_told_of_it_to_the_end(bench: Bench) -> None:
    peer = bench.stage.peer(300)
    bench.addresses[peer.conn] = "tcp://far:5511"  # it is on another machine, and was dialled there
    bench.turn()
    bench.addresses.clear()
    peer.lose()
    bench.stage.core.buried(300, bench.stage.now)
    bench.stage.step()
    bench.turn()
    assert {"met", "lost", "dead"} <= set(bench.told)
    assert bench.names == {"peer300 (pid 1 at tcp://far:5511)"}
