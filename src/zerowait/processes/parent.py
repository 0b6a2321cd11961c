"""The process that starts the others, watches them, and stops them: what the roster orders, done."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from msgspec import DecodeError, json

from zerowait.engines.brokerless import presence
from zerowait.errors import UsageError
from zerowait.processes.child import STOP, VARIABLE, Serves, Started, Turns
from zerowait.processes.roster import Ending, Kill, Roster, Start, Stop
from zerowait.settings import Settings

log = logging.getLogger("zerowait.processes")

READ_BYTES = 1 << 16
MOST_DESCRIPTORS = 1  # the lock of its life


def again() -> list[str]:
    """The command that this process was started with."""
    return [sys.executable, *sys.orig_argv[1:]]


def supervise(
    settings: Settings,
    on_started: Callable[[Sequence[Started]], None] | None = None,
    command: Sequence[str] | None = None,
) -> int:
    """Serves with `settings.processes` processes until SIGTERM or SIGINT; gives the exit code, as one would.

    command: what each of them runs; else what this one was started with. on_started: called once all serve. A second
    signal leaves at once. Raises UsageError where it cannot be told to stop: in a thread that is not the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        raise UsageError(
            f"processes = {settings.processes} needs the main thread, where signals arrive: call run() there, or set "
            "processes = 1 and start the processes yourself."
        )
    parent = _Parent(settings, again() if command is None else command, on_started)
    return asyncio.run(parent.run())


class _Line:
    """To one child. life: a share in the lock of its life, once it has sent that."""

    def __init__(self, position: int, line: socket.socket) -> None:
        self.position = position
        self.pid = 0
        self.began = time.monotonic()
        self.life: int | None = None
        self._line = line
        self._rest = b""

    def read(self) -> list[Serves | Turns]:
        """What has come. Ends with the line: whether its process has is another question."""
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._line, READ_BYTES, MOST_DESCRIPTORS)
            except OSError:
                break
            for descriptor in descriptors:
                if self.life is None:
                    self.life = descriptor
                else:
                    os.close(descriptor)
            if not data:
                asyncio.get_running_loop().remove_reader(self._line)
                break
            self._rest += data
        *lines, self._rest = self._rest.split(b"\n")
        found: list[Serves | Turns] = []
        for line in lines:
            with suppress(DecodeError):  # of another version, which was installed meanwhile
                found.append(json.decode(line, type=Serves | Turns))
        return found

    def stop(self) -> None:
        with suppress(OSError):  # it has ended
            if self.life is not None:
                self._line.send(STOP)  # no signal: it may have had one itself, and a second one means to leave at once
            else:
                os.kill(self.pid, signal.SIGTERM)  # who imports a large program still does not listen to a line

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self, ending: Ending) -> None:
        """Its process has ended. Nobody could prove that until now, so that all who can also learn how."""
        asyncio.get_running_loop().remove_reader(self._line)
        self._line.close()
        if self.life is not None:
            if ending.exit_code != 0:
                presence.say_how(self.life, ending.exit_code, ending.signal)
            os.close(self.life)
            self.life = None


class _Parent:
    def __init__(
        self, settings: Settings, command: Sequence[str], on_started: Callable[[Sequence[Started]], None] | None
    ) -> None:
        self._command = command
        self._count = settings.processes
        self._on_started = on_started
        self._roster = Roster(settings.processes, settings.stuck_after)
        self._lines: dict[int, _Line] = {}
        self._started: dict[int, Started] = {}
        self._watching: set[asyncio.Task[None]] = set()
        self._happened = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        try:
            self._roster.begin(time.monotonic())
            while True:
                next_at = self._roster.look(time.monotonic())
                await self._obey()
                if (code := self._roster.exit_code) is not None:
                    return code
                self._happened.clear()
                with suppress(TimeoutError):
                    wait = None if next_at is None else max(0.0, next_at - time.monotonic())
                    await asyncio.wait_for(self._happened.wait(), wait)
        finally:
            for line in self._lines.values():
                line.kill()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _signalled(self, number: int) -> None:
        name = signal.Signals(number).name
        if self._roster.is_stopping:
            log.warning("%s: leaving at once; what runs here is given to others", name)
            self._roster.leave(128 + number)
        else:
            what = "they finish what they run; once more to leave at once" if self._lines else "none of them runs"
            log.info("%s: stopping %d processes: %s", name, self._count, what)
            self._roster.stop(time.monotonic())
        self._happened.set()

    async def _obey(self) -> None:
        orders = self._roster.orders
        while orders:
            match orders.pop(0):
                case Start(position):
                    await self._start(position)
                case Stop(position) if (line := self._lines.get(position)) is not None:
                    line.stop()
                case Kill(position, why) if (line := self._lines.get(position)) is not None:
                    if why:
                        log.error("process %d is killed: %s. What it ran is given to others.", line.pid, why)
                    line.kill()
                case _:
                    pass  # it has ended meanwhile

    async def _start(self, position: int) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.DEVNULL,
                    env={**os.environ, VARIABLE: f"{theirs.fileno()}:{position}"},
                    pass_fds=(theirs.fileno(),),
                )
            except OSError as error:
                ours.close()
                log.error("a process cannot be started: %s: %s", self._command[0], error.strerror or error)
                self._tell_end(position, Ending(exit_code=1), 0, 0.0)
                return
        line = self._lines[position] = _Line(position, ours)
        line.pid = process.pid
        asyncio.get_running_loop().add_reader(ours, self._read, line)
        watching = asyncio.create_task(self._watch(line, process), name=f"zerowait process {process.pid}")
        self._watching.add(watching)
        watching.add_done_callback(self._watching.discard)

    async def _watch(self, line: _Line, process: asyncio.subprocess.Process) -> None:
        ending = Ending.of(await process.wait())
        self._read(line)  # its last words
        line.close(ending)
        del self._lines[line.position]
        self._tell_end(line.position, ending, line.pid, time.monotonic() - line.began)

    def _tell_end(self, position: int, ending: Ending, pid: int, lived_s: float) -> None:
        was_stopping = self._roster.is_stopping
        wait = self._roster.ended(position, ending, time.monotonic())
        if wait is not None:
            when = f"in {wait:g} s" if wait else "at once"
            log.error("process %d has ended after %.1f s: %s; another is started %s", pid, lived_s, ending, when)
        elif not was_stopping and self._count > 1 and self._started:
            log.error("process %d could not serve (%s): the others stop", pid, ending)
        elif was_stopping and ending.exit_code != 0:
            log.warning("process %d has ended while it stopped: %s", pid, ending)
        self._happened.set()

    def _read(self, line: _Line) -> None:
        for said in line.read():
            self._roster.turned(line.position)
            if isinstance(said, Serves):
                is_new = line.position not in self._started
                self._started[line.position] = said.started
                whole = self._roster.serves(line.position, time.monotonic(), said.started.drain)
                if whole and self._on_started is not None:
                    self._on_started([started for _, started in sorted(self._started.items())])
                elif not is_new:
                    log.info("process %d serves", line.pid)
                self._happened.set()
