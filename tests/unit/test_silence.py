"""Who served a channel and fell silent is remembered: so many, and so long."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from zerowait.engines.brokerless.protocol.effects import Say
from zerowait.engines.brokerless.silence import KEPT, KEPT_S, Silence


def _nobody(channel: str) -> list[Any]:
    return []


def _nowhere(instance: int) -> str:
    return ""


class World:
    """Peers that serve channels of their own making, and are lost."""

    def __init__(self) -> None:
        self.peers: dict[int, Any] = {}
        self.dead: set[int] = set()
        core: Any = SimpleNamespace(peers=self.peers, owner=SimpleNamespace(sender=SimpleNamespace(serving=_nobody)))
        contacts: Any = SimpleNamespace(address_met=_nowhere, local_workers=_nobody)
        self.silence = Silence(core, contacts, self.is_dead)

    def is_dead(self, instance: int, boot: str, device: int, inode: int) -> bool:
        return instance in self.dead

    def loses(self, instance: int, channel: str, heard_at: float = 100.0, words: str = "nothing heard for 3 s") -> None:
        hello = SimpleNamespace(name="mail", pid=instance, boot="b", device=1, inode=2)
        self.peers[instance] = SimpleNamespace(
            hello=hello, serves=frozenset({channel}), draining=False, heard_at=heard_at, link=None
        )
        self.silence.say(Say("lost", words, instance))


def test_one_that_fell_silent_is_named_until_it_is_back_dead_or_long_gone() -> None:
    world = World()
    world.loses(7, "a")
    assert world.silence.of("a", 108.0).startswith("mail (pid 7) serves that channel, and has not answered for 8 s: ")
    assert world.silence.of("b", 108.0) == ""
    world.silence.say(Say("met", "", 7))
    assert world.silence.of("a", 109.0) == ""
    world.loses(7, "a")
    world.dead.add(7)
    assert world.silence.of("a", 110.0) == ""
    world.loses(8, "a")
    assert world.silence.of("a", 100.0 + KEPT_S) == ""
    world.loses(9, "a", words="it left")
    assert world.silence.of("a", 111.0) == ""


def test_of_several_some_are_named_and_the_rest_counted() -> None:
    world = World()
    for instance in range(1, 6):
        world.loses(instance, "a")
    said = world.silence.of("a", 108.0)
    assert "mail (pid 3) serves that channel" in said
    assert ", and 2 more: they are stopped, hang or are cut off. Let them go on" in said


def test_so_many_are_remembered_whoever_comes_and_goes() -> None:
    world = World()
    for instance in range(1, 3 * KEPT):
        world.loses(instance, f"made.up.{instance}")
    assert len(world.silence._silent) == KEPT
