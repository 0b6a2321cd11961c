"""What this machine lets tests do to it: each fault that needs more than a signal is tried once, in a namespace of its
own. What cannot be done is skipped, and the summary of the tests says why."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from functools import cache

import pytest

# What is needed → how it is tried. All of it happens in namespaces that end with the command.
PROBES: dict[str, str] = {
    "network namespaces": "unshare -n true",
    "virtual links": "unshare -n ip link add zw0 type veth peer name zw1",
    "nftables": "unshare -n sh -c 'nft add table inet zw && nft add chain inet zw in \"{ type filter hook input "
    "priority 0; }\" && nft add rule inet zw in tcp dport 9 drop'",
    "shaping (tbf)": "unshare -n tc qdisc add dev lo root tbf rate 1mbit burst 16k latency 400ms",
    "killing connections (ss -K)": "unshare -n sh -c 'ip link set lo up && ss -K dst 127.0.0.1 dport = 9'",
    "small file systems": "unshare -m mount -t tmpfs -o size=1m none /mnt",
    "disks in files (loop devices)": "truncate -s 4M $IMAGE && mkfs.ext4 -q -F $IMAGE && "
    "unshare -m mount -o loop $IMAGE /mnt",
    "strace": "strace -f -qq -o /dev/null -e trace=write -e inject=write:error=EIO:when=9999 true",
}
TOOLS = ("unshare", "nft", "tc", "ss", "ip", "mount", "mkfs.ext4", "strace")
INSTEAD = {
    "nftables": "apt-get install nftables",
    "shaping (tbf)": "apt-get install iproute2",
    "strace": "apt-get install strace",
    "disks in files (loop devices)": "apt-get install e2fsprogs",
}


@cache
def lacks(what: str) -> str | None:
    """Why that cannot be done here; None: it can."""
    command = PROBES[what]
    tools = [
        word for word in ("unshare", "nft", "tc", "ss", "ip", "mount", "mkfs.ext4", "strace") if f"{word} " in command
    ]
    missing = [tool for tool in tools if shutil.which(tool) is None]
    remedy = f" ({INSTEAD[what]})" if what in INSTEAD and missing else ""
    if missing:
        return f"{what}: there is no {' and no '.join(missing)} here{remedy}"
    with tempfile.NamedTemporaryFile() as image:
        tried = subprocess.run(
            ["sh", "-c", command],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"IMAGE": image.name},
        )
    if tried.returncode:
        said = (tried.stderr or tried.stdout).strip().splitlines()
        who = "" if os.geteuid() == 0 else ", not being root"
        return f"{what}: this machine refuses{who}: {said[-1] if said else f'exit code {tried.returncode}'}"
    return None


def need(*what: str) -> None:
    """Skips the test, with the reason, if one of these is not to be had."""
    for each in what:
        if (reason := lacks(each)) is not None:
            pytest.skip(reason)
