"""Where the processes of these tests are born: one small process that has imported everything, and forks.

So a life begins in some milliseconds where a new interpreter takes 300, and thousands of kills are a matter of minutes.
It reads plans, one a line, and writes the process id of each. All end with it, and it ends with whoever started it,
however that ends.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
import traceback
from importlib import import_module
from pathlib import Path

import msgspec

from tests.faults.plan import Plan

PR_SET_PDEATHSIG = 1
BROKE = "broke"  # the file in the folder of histories that says that a life ended by an error of its own


class Nursery:
    """The end of it that tests hold."""

    def __init__(self) -> None:
        root = Path(__file__).parents[2]
        path = os.pathsep.join([str(root / "src"), str(root)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            cwd=root,
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def born(self, plan: Plan) -> int:
        """Starts a life; its process id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(plan) + b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)
        for end in (self._process.stdin, self._process.stdout):
            assert end is not None
            end.close()


def main() -> None:
    die_with_parent()
    for early in ("lives", "points"):
        import_module(f"tests.faults.{early}")  # what the children need is here before they are
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    # A sender is told by it to push no more, perhaps before it has begun to listen: by then it must not die of it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    parent = os.getpid()
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            be_born(msgspec.json.decode(line, type=Plan), parent)
        os.write(1, b"%d\n" % child)


def be_born(plan: Plan, parent: int) -> None:
    from tests.faults.lives import live

    code = 70
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        die_with_parent()
        if os.getppid() != parent:
            os._exit(code)
        os.setsid()
        null, log = os.open("/dev/null", os.O_RDWR), os.open(plan.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for end, of in ((0, null), (1, log), (2, log)):
            os.dup2(of, end)
        live(plan)
        code = 0
    except BaseException:
        traceback.print_exc()
        if plan.folder:
            Path(plan.folder, BROKE).write_text(traceback.format_exc())
    finally:
        sys.stderr.flush()
        os._exit(code)


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
