"""Taking an address: whose it is now, and what to tell the person who wanted it."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import sys
from contextlib import suppress
from pathlib import Path

from zerowait.engines.brokerless.addresses import Address
from zerowait.errors import SettingsError, UsageError, ZerowaitError

_PROBE_S = 0.5


def clear_path(path: str) -> None:
    """Makes a path free for a socket: what a dead process left goes, what a living one holds stays.

    libzmq removes whatever is there before it binds, so that a second process would take the address in silence.
    Raises UsageError or SettingsError, and then nothing was touched.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        if not Path(path).parent.is_dir():
            raise SettingsError(
                f"Cannot listen at ipc://{path}: there is no folder {Path(path).parent}. Make it, with mode 0700."
            ) from None
        return
    except OSError as error:
        raise SettingsError(f"Cannot listen at ipc://{path}: {error.strerror}. Choose another path.") from None
    if not stat.S_ISSOCK(status.st_mode):
        raise SettingsError(
            f"Cannot listen at ipc://{path}: there is something else than a socket. It was left alone; choose another "
            "path, or remove it."
        )
    probe = socket.socket(socket.AF_UNIX)
    with probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                os.unlink(path)
            return
        except (TimeoutError, BlockingIOError):
            pass  # somebody is there, and busy
        except OSError as error:
            raise SettingsError(
                f"Cannot listen at ipc://{path}: whether somebody does so already cannot be seen ({error.strerror}). "
                "It was left alone; choose another path."
            ) from None
        raise UsageError(in_use(f"ipc://{path}", _peer_pid(probe)))


def in_use(endpoint: str, pid: int | None) -> str:
    by = f" by process {pid}{_command(pid)}" if pid else ""
    return (
        f"Cannot listen at {endpoint}: it is in use{by}. Stop that process, or choose another address; who need not be "
        "reached from other machines listens nowhere: leave `listen` out of its settings."
    )


def cannot_listen(address: Address, code: int | None, words: str) -> ZerowaitError:
    """code: the errno that binding gave; words: its text."""
    endpoint = address.endpoint
    if code == errno.EADDRINUSE:
        return UsageError(in_use(endpoint, _tcp_owner(address.port) if address.scheme == "tcp" else None))
    if code in (errno.EMFILE, errno.ENFILE):
        return UsageError(
            f"Cannot listen at {endpoint}: {words}. Raise the limit of open files (`ulimit -n`), or find what leaves "
            "them open."
        )
    if code == errno.EACCES and address.scheme == "tcp":
        return SettingsError(f"Cannot listen at {endpoint}: {words}. Choose a port above 1023, such as 5511.")
    if code in (errno.EADDRNOTAVAIL, errno.ENODEV, errno.EINVAL) and address.scheme == "tcp":
        return SettingsError(
            f"Cannot listen at {endpoint}: {address.host} is not an address of this machine and not the name of one. "
            'Write one of its addresses, or "*" for all of them.'
        )
    return SettingsError(f"Cannot listen at {endpoint}: {words}. Choose another address.")


def _peer_pid(connected: socket.socket) -> int | None:
    """Which process listens at the other end of a local socket."""
    try:
        if sys.platform == "darwin":
            return int(connected.getsockopt(0, 2))  # SOL_LOCAL, LOCAL_PEERPID
        pid, _, _ = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    except (OSError, AttributeError):
        return None
    return int(pid) or None


def _tcp_owner(port: int) -> int | None:
    """Which process of ours listens at a port; None where the system does not show it."""
    listening = set[str]()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError, ValueError, IndexError):
            rows = [line.split() for line in Path(table).read_text(encoding="ascii").splitlines()[1:]]
            listening |= {
                f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port
            }
    if not listening:
        return None
    for process in os.listdir("/proc"):
        if process.isdecimal() and _holds(process, listening):
            return int(process)
    return None


def _holds(process: str, sockets: set[str]) -> bool:
    folder = f"/proc/{process}/fd"
    try:
        descriptors = os.listdir(folder)
    except OSError:
        return False  # another user's, or gone
    for descriptor in descriptors:
        with suppress(OSError):
            if os.readlink(f"{folder}/{descriptor}") in sockets:
                return True
    return False


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    command = " ".join(words).strip()
    return f" ({command[:80]})" if command else ""
