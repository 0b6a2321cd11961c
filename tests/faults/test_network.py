"""A cable that is cut, cut one way, torn again and again, or slow."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from tests.faults import machine
from tests.faults.history import Kind
from tests.faults.kills import until_stored
from tests.faults.network import Network
from tests.faults.scene import Life, Scene
from tests.waiting import wait_until
from zerowait.snapshot import PeerStatus, Question, Status

QUICK = {"ping": 0.3, "silence": 1.0, "resume_grace": 2.0}  # where it is not the figures that are measured
Told = Callable[[str], None]


@pytest.fixture
def network(scene: Scene) -> Network:
    machine.need("network namespaces", "virtual links")
    return Network(scene)


def peers_of(scene: Scene, life: Life) -> list[PeerStatus]:
    for reach in scene.reaches():
        for reply in reach.ask_all(Question("status"), living_only=True):
            status = reply.value(Status)
            if status is not None and status.pid == life.pid:
                return status.peers
    return []


def states(scene: Scene, life: Life) -> set[str]:
    return {peer.state for peer in peers_of(scene, life)}


@pytest.mark.parametrize("ways", ["both ways", "to the sender", "to the worker"])
def test_a_short_partition_loses_and_repeats_nothing_and_is_noticed_and_overcome_in_time(
    scene: Scene, network: Network, told: Told, ways: str
) -> None:
    machine.need("nftables")
    if ways != "both ways":
        network.settings = QUICK
    network.worker(scene)
    sender = network.sender(scene, pace=0.005)
    scene.until(Kind.SETTLED, 20)
    cut = time.monotonic()
    network.cut(to_left=ways != "to the worker", to_right=ways != "to the sender")
    wait_until(lambda: states(scene, sender) - {"up"}, within=8, that="the silence is noticed")
    noticed = time.monotonic() - cut
    scene.away(cut)
    network.heal()
    healed = time.monotonic()
    # The packets of the broken connection may still come: what is settled from now on went over a new one.
    flow = scene.until(Kind.STARTED, 5, after=healed) - healed
    scene.back()
    until_stored_and_still(scene, sender)
    told(f"partition {ways}: noticed after {noticed:.2f} s, flow {flow:.2f} s after it healed")
    report = scene.assert_accounted()
    assert report.repeated == 0, "it was over before the grace was"
    assert noticed < 5
    assert flow < 4


def until_stored_and_still(scene: Scene, sender: Life) -> None:
    sender.signal(signal.SIGUSR1)
    scene.until(Kind.READY, by=sender)
    until_stored(scene, sender)


def test_connections_that_are_reset_again_and_again_lose_and_repeat_nothing(
    scene: Scene, network: Network, told: Told
) -> None:
    machine.need("killing connections (ss -K)")
    network.worker(scene)
    sender = network.sender(scene, pace=0.001, most_bytes=20_000)
    scene.until(Kind.SETTLED, 20)
    resets, slowest = 6, 0.0
    for number in range(resets):
        network.reset(network.left if number % 2 else network.right)
        at = time.monotonic()
        wait_until(lambda number=number: sender.log().count("is lost") > number, within=8)  # type: ignore[misc]
        wait_until(lambda: states(scene, sender) == {"up"}, within=8)
        slowest = max(slowest, scene.until(Kind.STARTED, 3, after=time.monotonic()) - at)
    until_stored_and_still(scene, sender)
    told(f"{resets} resets: at most {slowest:.2f} s until the next three were begun")
    assert scene.assert_accounted().repeated == 0
    assert slowest < 4


@pytest.mark.long
def test_on_a_slow_link_signs_of_life_are_not_starved_behind_bulk(scene: Scene, network: Network, told: Told) -> None:
    machine.need("shaping (tbf)")
    network.slow("1mbit")
    network.worker(scene)
    sender = network.sender(scene, count=7, pace=0, most_bytes=250_000)
    began = time.monotonic()
    scene.until(Kind.ACCEPTED, 7, by=sender)
    seen: set[str] = set()

    def all_settled() -> bool:
        seen.update(states(scene, sender))
        return len(scene.of(Kind.SETTLED)) == 7

    wait_until(all_settled, within=30)
    told(f"slow link: 7 messages of up to 250 kB over 1 Mbit/s in {time.monotonic() - began:.1f} s, states {seen}")
    # Stuck is what a peer is called whose answer waits behind two seconds of bulk; its link stays.
    assert seen <= {"up", "stuck"}, "a link that carries as much as it can was called silent"
    assert "is lost" not in sender.log()
    assert scene.assert_accounted().repeated == 0


def test_a_partition_beyond_every_grace_repeats_only_what_ran_and_gives_the_rest_to_others(
    scene: Scene, network: Network
) -> None:
    machine.need("nftables")
    network.settings = QUICK
    far = network.worker(scene, seconds=0.02)
    sender = network.sender(scene, pace=0.005)
    scene.until(Kind.SETTLED, 20)
    cut = time.monotonic()
    network.cut()
    # A second worker beside the sender, at home in its directory.
    near = scene.worker(network=network.left, settings={"home": sender.plan.settings["home"]} | QUICK, seconds=0.02)
    scene.until(Kind.STARTED, 20, by=near, after=cut, within=15)
    lapsed = scene.of(Kind.STARTED, by=far)[-1].at
    wait_until(
        lambda: not any(peer.in_flight for peer in peers_of(scene, sender) if peer.pid == far.pid),
        within=15,
        that="what the far one had is taken back",
    )
    network.heal()
    scene.cut_off(far, cut, max(lapsed, cut))
    scene.until(Kind.STARTED, 5, by=far, after=time.monotonic(), within=10)
    until_stored_and_still(scene, sender)
    scene.assert_accounted()
