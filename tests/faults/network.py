"""Two hosts with a cable between them, on this machine: two network namespaces and a pair of virtual interfaces.

A host is a process that lives in a namespace of its own; its namespace, and with it the cable, ends when the last
process in it does. So nothing is left behind, however a test ends, and nothing here touches the machine's own network.
"""

from __future__ import annotations

import os
import subprocess
from typing import Any

from tests.faults.plan import Plan
from tests.faults.scene import Life, Scene
from tests.waiting import wait_until

LEFT, RIGHT = "10.231.7.1", "10.231.7.2"  # only ever inside the two namespaces
PORT = 5511


class Network:
    """left and right: process ids whose namespace a Plan may name."""

    def __init__(self, scene: Scene) -> None:
        self.settings: dict[str, Any] = {}
        self.left, self.right = (scene.start(Plan(role="host")).pid for _ in range(2))
        here = _namespace(None)
        wait_until(
            lambda: here not in (_namespace(self.left), _namespace(self.right)), within=5, that="both hosts are there"
        )
        self.on(self.left, f"ip link add zw0 type veth peer name zw0 netns {self.right}")
        for host, address in ((self.left, LEFT), (self.right, RIGHT)):
            self.on(host, f"ip address add {address}/30 dev zw0")
            self.on(host, "ip link set zw0 up")
            self.on(host, "ip link set lo up")

    def on(self, host: int, command: str) -> str:
        """Runs that on this host. Raises AssertionError with what it said if it fails."""
        done = subprocess.run(
            ["nsenter", "-t", str(host), "-n", "sh", "-c", command],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def cut(self, *, to_left: bool = True, to_right: bool = True) -> None:
        """From now on nothing arrives there: no packet, and no word that it was refused."""
        for host, cut in ((self.left, to_left), (self.right, to_right)):
            if cut:
                self.on(
                    host,
                    "nft 'add table inet zw; add chain inet zw in { type filter hook input priority 0; }; "
                    "add rule inet zw in iifname zw0 drop'",
                )

    def heal(self) -> None:
        for host in (self.left, self.right):
            self.on(host, "nft 'add table inet zw; delete table inet zw'")

    def reset(self, host: int) -> None:
        """Every connection of our port ends as if the other end had reset it."""
        self.on(host, f"ss -K 'dport = {PORT} or sport = {PORT}'")

    def slow(self, rate: str) -> None:
        """Both directions carry so much (`tc` rates), and drop what would have to wait longer than 2 s."""
        for host in (self.left, self.right):
            self.on(host, f"tc qdisc replace dev zw0 root tbf rate {rate} burst 16k latency 2s")

    # The sender lives at the left, and dials; the worker listens at the right. Two homes: no proof of death.

    def sender(self, scene: Scene, **plan: Any) -> Life:
        home = f"{scene.settings['home']}/left"
        addresses = {"faults": f"tcp://{RIGHT}:{PORT}"}
        return scene.sender(network=self.left, settings={"home": home, "addresses": addresses} | self.settings, **plan)

    def worker(self, scene: Scene, **plan: Any) -> Life:
        home = f"{scene.settings['home']}/right"
        return scene.worker(
            network=self.right, settings={"home": home, "listen": f"tcp://{RIGHT}:{PORT}"} | self.settings, **plan
        )


def _namespace(pid: int | None) -> int:
    try:
        return os.stat(f"/proc/{pid or 'self'}/ns/net").st_ino
    except OSError:
        return _namespace(None)
