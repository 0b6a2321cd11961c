"""How any thread wakes the one that owns the sockets."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

from zerowait.callbacks import running_loop


class Bell:
    """A pipe that the sleeper watches, and two flags that spare it the pipe.

    Ringing is common and sleeping is not: who rings first says that he wants the sleeper (`_wanted`), and writes to the
    pipe only if it sleeps. The sleeper first says that it sleeps, and then looks whether it is wanted. Each writes his
    own flag before he reads the other's, so at least one of them sees the other, whatever the threads' order.
    """

    def __init__(self) -> None:
        self.descriptor, self._far = os.pipe()
        for descriptor in (self.descriptor, self._far):
            os.set_blocking(descriptor, False)
        self._wanted = False
        self._asleep = False
        self._write_at_once = _write_at_once()
        # Re-entrant, for a signal handler may ring while its own thread does. Held by whoever uses `_far`, so that a
        # late ring never writes into a file that has got the closed pipe's number.
        self._lock = threading.RLock()

    def ring(self) -> None:
        """From any thread or signal handler: the sleeper wakes, or does not fall asleep. After `close()`: nothing."""
        if self._wanted:
            return
        self._wanted = True
        if self._asleep:
            with self._lock:
                if self._far >= 0:
                    if self._write_at_once is not None and running_loop() is not None:
                        self._write_at_once(self._far, b"\0", 1)
                        return
                    try:
                        os.write(self._far, b"\0")
                    except BlockingIOError:
                        pass  # so full that it wakes anyway

    def lie_down(self) -> bool:
        """Says that its owner falls asleep now. True: it is wanted, and must not."""
        self._asleep = True
        return self._wanted

    def rise(self) -> None:
        """Its owner is awake and looks at everything after this: whoever rings now rings for the next sleep."""
        self._asleep = False
        self._wanted = False

    def hush(self) -> None:
        """The pipe was seen to be readable."""
        try:
            os.read(self.descriptor, 4096)
        except BlockingIOError:
            pass

    def mute(self) -> None:
        """From now on a ring does nothing. For a child process, whose copy of the pipe rings in its parent."""
        self._far = -1

    def close(self) -> None:
        with self._lock:
            if self.descriptor >= 0:
                os.close(self.descriptor)
                os.close(self._far)
            self.descriptor = self._far = -1


def _write_at_once() -> Callable[[int, bytes, int], int] | None:
    """write(2) for event loops, which keeps the interpreter: `os.write` gives it up for the microsecond that it takes,
    and beside busy threads it comes back after 5 ms for each of them. The pipe never blocks; if it is full, it wakes
    anyway. None where there are no event loops."""
    if "asyncio" not in sys.modules:
        return None
    from ctypes import PyDLL, c_char_p, c_int, c_size_t, c_ssize_t

    write = PyDLL(None).write
    write.argtypes, write.restype = (c_int, c_char_p, c_size_t), c_ssize_t
    return write
