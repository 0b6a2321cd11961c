"""Where done-callbacks run: in the event loop that they come from, or else on one thread of zerowait's."""

from __future__ import annotations

import os
import sys
import threading
from _thread import start_new_thread
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop


def running_loop() -> AbstractEventLoop | None:
    """The event loop that runs on this thread. asyncio is not imported for the question."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    loop: AbstractEventLoop | None = asyncio._get_running_loop()
    return loop


def begin(thread: threading.Thread) -> None:
    """Starts it. On an event loop without waiting until it runs, which `start` does: that gives the interpreter up, and
    beside busy threads it comes back after 5 ms for each of them."""
    if running_loop() is None:
        thread.start()
    else:
        start_new_thread(thread.start, ())


class Call:
    """A registered callback: called at most once, and not after it was removed."""

    __slots__ = ("fn", "of", "watcher")

    def __init__(self, fn: Callable[[Any], object], of: Any) -> None:
        self.fn: Callable[[Any], object] | None = fn
        self.of = of
        self.watcher: Callable[[], object] | None = None

    def drop(self) -> None:
        self.fn = self.of = self.watcher = None

    def __call__(self) -> None:
        fn, of = self.fn, self.of
        self.drop()
        if fn is not None:
            fn(of)


class Callbacks:
    """The thread on which callbacks from outside a loop run, one after another. It starts with the first of them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: deque[Callable[[], object] | None] = deque()
        self._there = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._known: list[Call] = []
        self._prune_at = 64
        self.pid = os.getpid()

    def remember(self, call: Call) -> None:
        with self._lock:
            if len(self._known) >= self._prune_at:
                self._known = [known for known in self._known if known.fn is not None]
                self._prune_at = max(64, 2 * len(self._known))
            self._known.append(call)

    def forget(self, fn: object, is_it: Callable[[object], bool]) -> list[Callable[[], object]]:
        """Ends all that `fn` is registered for with what `is_it` knows again; gives what watches for each."""
        found: list[Callable[[], object]] = []
        with self._lock:
            for call in self._known:
                watcher = call.watcher
                if watcher is not None and call.fn == fn and is_it(call.of):
                    call.drop()
                    found.append(watcher)
            if found:
                self._known = [known for known in self._known if known.fn is not None]
        return found

    def call(self, fn: Callable[[], object]) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"zerowait callbacks {self._name}", daemon=True)
                self._thread.is_zerowait_callbacks = True  # type: ignore[attr-defined]
                begin(self._thread)
        self._queue.append(fn)
        self._there.release()

    def flush(self, seconds: float) -> None:
        """Waits until what was to be called back so far has been, so long at most."""
        with self._lock:
            thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        over = threading.Event()
        self.call(over.set)
        over.wait(seconds)

    def stop(self) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.append(None)
            self._there.release()
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join(1.0)

    def _run(self) -> None:
        while True:
            self._there.acquire()
            fn = self._queue.popleft()
            if fn is None:
                return
            try:
                fn()
            except BaseException:  # also a SystemExit: nobody would run the callbacks after it
                import logging

                logging.getLogger("zerowait").exception("a callback raised; the others run on")
            del fn  # what it holds on to is not kept until the next one comes
