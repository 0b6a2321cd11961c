"""The process's supply of file descriptors: every connection takes one, every dialled one four."""

from __future__ import annotations

import fcntl
import os
import resource
import termios


def raise_descriptor_limit(wanted: int = 65_536) -> int:
    """Raises the limit of open files to `wanted`, as far as the system permits, and gives it; never lowers it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    goal = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    # macOS says "unlimited" and then refuses what is above its kernel's own bound.
    for limit in (goal, min(goal, 10_240)):
        if soft == resource.RLIM_INFINITY or soft >= limit:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (ValueError, OSError):
            continue
        return limit
    return soft


class Spare:
    """A descriptor that is held so that it can be given up when it is the last."""

    def __init__(self) -> None:
        self._held = _take()

    def is_held(self) -> bool:
        return self._held >= 0

    def give_up(self) -> None:
        if self._held >= 0:
            os.close(self._held)
        self._held = -1

    def take_back(self) -> None:
        if self._held < 0:
            self._held = _take()


def has_unread(descriptor: int) -> bool:
    """Whether something has come by this connection that ZeroMQ's thread has not read yet. Of a descriptor that is
    another's by now it says that other's."""
    if descriptor < 0:
        return False
    try:
        return any(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))
    except OSError:
        return False


def is_any_left() -> bool:
    probe = _take()
    if probe < 0:
        return False
    os.close(probe)
    return True


def _take() -> int:
    try:
        return os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return -1
