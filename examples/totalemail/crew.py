"""The processes of a run: started, watched, started again, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Self

from examples.totalemail.lifeline import VARIABLE as LIFELINE_VARIABLE

SERVICES = ("parse", "details", "attachments", "store")  # `details` is headers and urls; ingest is no service
RESTARTS = 3  # a service that ends by itself more often will not be better the next time
LEAVING = 5.0  # seconds for an orderly end
ROOT = Path(__file__).resolve().parents[2]


class CrewError(Exception):
    """A process does not run; the sentence says which, and what it wrote last."""


class Crew:
    """Runs each service by `zerowait run`, in a process of its own, writing its log to `<folder>/<name>.log`.

    Use it as a context manager: when the block ends, however it ends, no process is left.
    """

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._words: dict[str, list[str]] = {}
        self._restarts: Counter[str] = Counter()
        self._lifeline, self._our_end = os.pipe()
        path = os.pathsep.join(part for part in (str(ROOT), env.get("PYTHONPATH", "")) if part)
        self._env = {**env, "PYTHONPATH": path, LIFELINE_VARIABLE: str(self._lifeline)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, service: str) -> int:
        """Gives the process id. The service need not be ready for anything: what is sent to it waits."""
        self._words[service] = ["-m", "zerowait", "run", f"examples.totalemail.services:{service}"]
        return self._spawn(service)

    def start_ingest(self, run: str, paths: Sequence[Path], rounds: int) -> int:
        words = ["-m", "examples.totalemail", "ingest", "--run", run, "--rounds", str(rounds), "--"]
        self._words["ingest"] = [*words, *(str(path) for path in paths)]
        return self._spawn("ingest")

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def kill(self, service: str) -> int:
        """SIGKILL: it gets no chance to say anything to anybody. Gives the process id, when it is dead."""
        process = self._running.pop(service)
        process.kill()
        process.wait()
        return process.pid

    def mend(self) -> list[str]:
        """Start again what ended by itself; gives a sentence for each. Raises CrewError if that does not help.

        An ingest that was killed begins from the first mail: what it pushes twice does no harm.
        """
        sentences: list[str] = []
        for name, process in list(self._running.items()):
            code = process.poll()
            if code is None or (name == "ingest" and code == 0):
                continue
            self._restarts[name] += 1
            if self._restarts[name] > RESTARTS or (name == "ingest" and code > 0):
                raise CrewError(f"{name} ended with code {code}. Its last words:\n{self.last_words(name)}")
            sentences.append(f"{name} ended by itself with code {code} and was started again as {self._spawn(name)}")
        return sentences

    def last_words(self, name: str, lines: int = 15) -> str:
        try:
            written = (self._folder / f"{name}.log").read_text(errors="replace").splitlines()
        except OSError:
            return "  (none)"
        return "\n".join(f"  {line}" for line in written[-lines:]) or "  (none)"

    def stop(self) -> None:
        """Ask all to leave, and kill those that have not within LEAVING seconds."""
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        deadline = monotonic() + LEAVING
        try:
            for process in self._running.values():
                try:
                    process.wait(max(0.0, deadline - monotonic()))
                except subprocess.TimeoutExpired:
                    pass
        finally:  # also when somebody presses Ctrl-C again meanwhile
            for process in self._running.values():
                process.kill()
                process.wait()
            self._running.clear()
            for end in (self._lifeline, self._our_end):
                os.close(end)

    def _spawn(self, name: str) -> int:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, *self._words[name]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                pass_fds=(self._lifeline,),
                start_new_session=True,  # Ctrl-C is for us alone: we end the others in order
            )
        return self._running[name].pid
