"""No service outlives the program that started it, however that one ends.

The starter keeps the writing end of a pipe and never writes. When it is gone, by Ctrl-C, SIGKILL or a closed terminal,
the system closes that end, and every service reads the end of the file.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from threading import Thread
from time import sleep

VARIABLE = "TOTALEMAIL_LIFELINE"
PATIENCE = 5.0  # seconds for an orderly end


@contextmanager
def lifeline() -> Generator[None]:
    """While the block lasts, this process ends as by SIGTERM when its starter is gone. Started by hand: nothing."""
    if said := os.environ.get(VARIABLE):
        Thread(target=_wait_for_the_end, args=(int(said),), name="lifeline", daemon=True).start()
    yield


def _wait_for_the_end(end: int) -> None:
    os.read(end, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    sleep(PATIENCE)
    os.kill(os.getpid(), signal.SIGKILL)
