"""Starting real programs in tests, and waiting for what they write."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.waiting import wait_until

ZEROWAIT = (sys.executable, "-m", "zerowait")


Serve = Callable[..., "subprocess.Popen[str]"]


@contextmanager
def services(module: str) -> Generator[Serve, None, None]:
    """Starts `zerowait run MODULE:NAME`, with these in its environment, and gives it once it serves."""
    root, running = Path(__file__).parents[1], list[subprocess.Popen[str]]()

    def start(name: str, **env: str) -> subprocess.Popen[str]:
        command = [*ZEROWAIT, "run", f"{module}:{name}"]
        process = subprocess.Popen(command, cwd=root, env=os.environ | env, stderr=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stderr is not None
        for line in process.stderr:
            if "Ctrl-C" in line:
                break
        threading.Thread(target=process.stderr.read, daemon=True).start()
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        assert process.stderr is not None
        process.stderr.close()


class Program:
    """A running process whose output can be looked at meanwhile."""

    def __init__(self, args: Sequence[str | Path], folder: Path, number: int) -> None:
        self._out, self._err = folder / f"program{number}.out", folder / f"program{number}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [str(arg) for arg in args],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                env=os.environ | {"NO_COLOR": "1"},
            )

    @property
    def out(self) -> str:
        return self._out.read_text(encoding="utf-8", errors="replace")

    @property
    def err(self) -> str:
        return self._err.read_text(encoding="utf-8", errors="replace")

    def until(self, condition: Callable[[Program], Any], *, within: float = 15, that: str | None = None) -> Any:
        """Waits for something of it; fails at once, with its output, if it ends before."""

        def met() -> Any:
            if given := condition(self):
                return given
            assert self.process.poll() is None, f"it ended with {self.process.returncode} before that:\n{self}"
            return None

        try:
            return wait_until(met, within=within, that=that)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self}") from None

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self, within: float = 15) -> int:
        """Waits for its end; gives its exit code."""
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not ended within {within:g} s\n{self}") from None

    def __str__(self) -> str:
        return f"-- stdout\n{self.out}\n-- stderr\n{self.err}"


Start = Callable[..., Program]


@contextmanager
def programs(folder: Path) -> Generator[Start]:
    """Gives a function that starts programs in the folder. Those that still run at the end are killed."""
    started: list[Program] = []

    def start(*args: str | Path) -> Program:
        program = Program(args, folder, len(started))
        started.append(program)
        return program

    try:
        yield start
    finally:
        for program in started:
            if program.process.poll() is None:
                program.process.kill()
                program.process.wait(10)


def finished(*args: str | Path, folder: Path, stdin: str = "", within: float = 30) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end."""
    return subprocess.run(
        [str(arg) for arg in args],
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
        env=os.environ | {"NO_COLOR": "1"},
    )
