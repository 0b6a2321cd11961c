"""The child's end of the line to the process that started it.

Upwards go lines of JSON: that it serves, with the lock of its life beside it, and that its loop turns. Downwards comes
one word, to stop; and the end of the line, when the parent is gone: who started it would start it twice otherwise.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, MutableMapping
from contextlib import suppress

from msgspec import Struct, json
from msgspec.structs import replace

from zerowait.message import Service
from zerowait.processes.roster import LOOKS
from zerowait.settings import Settings

VARIABLE = "_ZEROWAIT_PARENT"  # no name of a setting: <descriptor>:<position>
STOP = b"stop\n"
LONGEST_TURN_S = 1.0


class Started(Struct, frozen=True, kw_only=True):
    """What runs, for a banner. source: the file that it was imported from, where that is known."""

    version: str
    pid: int
    name: str
    instance: int
    namespace: str
    endpoints: tuple[str, ...]
    serves: tuple[Service, ...]
    drain: float
    subscribes: dict[str, str]  # topics, and who handles each event
    timed: dict[str, str]  # channels of handlers that run by the clock, and when
    source: str = ""


class Serves(Struct, frozen=True, tag="serves"):
    started: Started


class Turns(Struct, frozen=True, tag="turns"):
    """Its handlers' loop turns."""


class Parent:
    """The process that started this one. position: of this one among its children, from 0."""

    def __init__(self, line: socket.socket, position: int) -> None:
        self.position = position
        self._line = line
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn: asyncio.TimerHandle | None = None

    @classmethod
    def inherited(cls, env: MutableMapping[str, str] = os.environ) -> Parent | None:
        """Who started this process for that; None: somebody else. Asked once: what this one starts is not its heir."""
        named = env.pop(VARIABLE, "")
        if not named:
            return None
        descriptor, _, position = named.partition(":")
        line = socket.socket(fileno=int(descriptor))
        line.set_inheritable(False)
        line.setblocking(False)
        return cls(line, int(position))

    def settings(self, settings: Settings) -> Settings:
        """For this process: no two can listen at the same address."""
        return replace(settings, listen=tuple(nth(endpoint, self.position) for endpoint in settings.listen))

    def attend(self, on_stop: Callable[[bool], None]) -> None:
        """on_stop: called on the running loop when this process is to stop, with whether its parent is still there;
        perhaps more than once."""
        self._loop = loop = asyncio.get_running_loop()
        loop.add_reader(self._line, self._read, on_stop)

    def serves(self, started: Started, life: int | None, stuck_after: float) -> None:
        """Tells it what runs, and gives it a share in the lock of this life. life: its descriptor."""
        line = json.encode(Serves(started)) + b"\n"
        self._line.setblocking(True)
        with suppress(OSError):  # it is gone, and the reader is told
            sent = socket.send_fds(self._line, [line], [] if life is None else [life])
            self._line.sendall(line[sent:])
        self._line.setblocking(False)
        if stuck_after:
            self._turns(min(LONGEST_TURN_S, stuck_after / LOOKS))

    def leave(self) -> None:
        """Nothing is told or heard any more. The line stays: it ends with the process."""
        if self._turn is not None:
            self._turn.cancel()
        if self._loop is not None:
            self._loop.remove_reader(self._line)

    def _read(self, on_stop: Callable[[bool], None]) -> None:
        try:
            told = self._line.recv(1_024)
        except BlockingIOError:
            return
        except OSError:
            told = b""
        if not told:
            self.leave()
        on_stop(bool(told))

    def _turns(self, every: float) -> None:
        assert self._loop is not None
        with suppress(OSError):  # it stands still: then it does not look at who is stuck either
            self._line.send(json.encode(Turns()) + b"\n")
        self._turn = self._loop.call_later(every, self._turns, every)


def nth(endpoint: str, position: int) -> str:
    """The address of the process at that position: the next port for each, or the next path."""
    if endpoint.startswith("ipc://"):
        return f"{endpoint}.{position}" if position else endpoint
    host, _, port = endpoint.rpartition(":")
    return f"{host}:{int(port) + position}" if port.isdigit() and int(port) else endpoint
