"""Proof of life and death on one machine.

Each process life (an *instance*) holds the lock of a file of its own, `instances/<16 hex>`. The kernel lets go of it at
the process's end however that came, and not before: a stopped, swapped-out or stuck process keeps it. So whoever can
take the lock of the very file that the instance named (same boot, device, inode, and its id inside) has proof that the
instance is over. Anything else, a missing file above all, proves nothing.

The file of the dead is kept for a while: everybody who had to do with it needs the proof, not only who comes first.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any

from msgspec import DecodeError, Struct, json

from zerowait.engines.brokerless import started
from zerowait.engines.brokerless.locks import OPEN_FLAGS, FileLock, answer, ask

READ_BYTES = 4_096
PROOF_KEPT_S = 600.0  # longer than any grace, so that the last to ask is answered too
DEAD = b"\ndead "
ENDED = b"\nended "


class Standing(Enum):
    """What can be said of an instance, from this process, now."""

    ALIVE = "its lock is held"
    DEAD = "its lock can be taken: proof"
    UNKNOWN = "no proof either way: other boot, or its file is missing or another"


def boot_id() -> str:
    """What tells this boot of the machine from any other; empty where the system does not say: no proof then."""
    if sys.platform == "darwin":
        # The time of boot moves when the clock is set: then nothing is proved until a restart, which is safe.
        return _sysctl("kern.bootsessionuuid") or _sysctl("kern.boottime")
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def be_born(folder: Path, instance: int, name: str, boot: str) -> FileLock:
    """Makes the lock file of this life, never to be seen unlocked. Raises StoreError, FileExistsError."""
    about = {"name": name, "pid": os.getpid(), "boot": boot, "since": time.time_ns() // 1000}
    return FileLock.born(folder / f"{instance:016x}", f"{instance:016x}\n".encode() + json.encode(about) + b"\n")


def standing(folder: Path, here: str, instance: int, boot: str, device: int, inode: int) -> Standing:
    """What can be said of the instance that named this boot, device and inode. here: this machine's boot id."""
    if not here or boot != here:
        return Standing.UNKNOWN
    return _examine(f"{folder}/{instance:016x}", instance, (device, inode))[0]


def is_over(folder: Path, instance: int) -> bool:
    """Whether this instance, of which nothing is known but its id, is proved dead: its file is there, and unlocked."""
    return _examine(f"{folder}/{instance:016x}", instance, None)[0] is Standing.DEAD


def list_path(folder: Path, instance: int) -> Path:
    """Where the list of what that instance runs lies."""
    return folder / f"{instance:016x}.runs"


def lying_path(folder: Path, instance: int) -> Path:
    """Where the list of what that instance has not begun lies."""
    return folder / f"{instance:016x}.lies"


def called(folder: Path, instance: int) -> str:
    """The name that this instance gave itself when it was born; empty if its file does not say."""
    try:
        lines = (folder / f"{instance:016x}").read_bytes()[:READ_BYTES].split(b"\n")
        return str(json.decode(lines[1], type=dict[str, Any]).get("name", ""))
    except (OSError, IndexError, DecodeError, UnicodeDecodeError):
        return ""


class End(Struct, frozen=True):
    """How a process ended, as its parent has seen it."""

    exit_code: int | None = None
    signal: int | None = None


def say_how(descriptor: int, exit_code: int | None, signal: int | None) -> None:
    """Writes into the lock file of a life how it ended. descriptor: a share of its lock, which its parent keeps until
    this is written: so whoever has proof that it is over can read it."""
    with suppress(OSError):  # no room: then nobody learns it
        os.write(descriptor, ENDED + json.encode(End(exit_code, signal)) + b"\n")


def how_it_ended(folder: Path, instance: int) -> End:
    """What the parent of that instance has written; nothing, if it had none that did."""
    try:
        _, found, rest = (folder / f"{instance:016x}").read_bytes()[:READ_BYTES].partition(ENDED)
        return json.decode(rest.split(b"\n")[0], type=End) if found else End()
    except (OSError, DecodeError):
        return End()


def tidy(folder: Path, instance: int) -> bool:
    """Removes the files of an instance proved dead long enough ago. True: it is gone."""
    path = f"{folder}/{instance:016x}"
    found, dead_s = _examine(path, instance, None)
    if found is Standing.DEAD and dead_s > PROOF_KEPT_S:
        # An id is never used again: the path cannot have come to mean another life since.
        with suppress(FileNotFoundError):
            os.unlink(path)
        started.discard(list_path(folder, instance))
        started.discard(lying_path(folder, instance))
        return True
    return False


def _examine(path: str, instance: int, named: tuple[int, int] | None) -> tuple[Standing, float]:
    """The standing, and for how many seconds it has been known to be dead."""
    try:
        descriptor = os.open(path, OPEN_FLAGS | os.O_APPEND)
    except OSError:
        return Standing.UNKNOWN, 0.0
    asking = False
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or named not in (None, (status.st_dev, status.st_ino)):
            return Standing.UNKNOWN, 0.0
        asking = ask(descriptor)
        if not asking:
            return Standing.ALIVE, 0.0
        content = os.pread(descriptor, READ_BYTES, 0)
        if content[:17] != b"%016x\n" % instance:
            return Standing.UNKNOWN, 0.0
        if DEAD in content:
            return Standing.DEAD, time.time() - status.st_mtime
        # Two at once may both write this: it says the same twice.
        with suppress(OSError):
            os.write(descriptor, DEAD + time.strftime("%Y-%m-%dT%H:%M:%SZ\n", time.gmtime()).encode())
        return Standing.DEAD, 0.0
    except OSError:
        return Standing.UNKNOWN, 0.0
    finally:
        if asking:
            answer(descriptor)
        os.close(descriptor)


def _sysctl(name: str) -> str:
    try:
        done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=2, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
