"""What other threads want done on the network thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from zerowait.errors import Closed

T = TypeVar("T")


class Calls:
    """`call` is for any thread; all else for the one that runs them. wake: tells that one that there is something."""

    def __init__(self, name: str, wake: Callable[[], None]) -> None:
        self._name = name
        self._wake = wake
        self._waiting: deque[Callable[[Exception | None], None]] = deque()
        self._has_ended = False
        self._error: Exception | None = None

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def call(self, fn: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        # It is done, whoever waits for it: a task that is cancelled would cancel this too, and to set its result would
        # raise on the thread that runs it.
        future.set_running_or_notify_cancel()

        def run(refused: Exception | None) -> None:
            if refused is not None:
                future.set_exception(refused)
                return
            try:
                future.set_result(fn())
            except BaseException as error:
                future.set_exception(error)

        self._waiting.append(run)
        if self._has_ended:
            self._refuse()
        else:
            self._wake()
        return future

    def run(self) -> None:
        while self._waiting:
            self._waiting.popleft()(None)

    def end(self, error: Exception | None = None) -> None:
        """Nobody will run these any more: whoever waits is told, and whoever calls from now on. error: why; None: it
        was closed."""
        self._error = error
        self._has_ended = True
        self._refuse()

    def _refuse(self) -> None:
        while self._waiting:
            try:
                self._waiting.popleft()(self._error or Closed(name=self._name))
            except IndexError:  # another thread was quicker
                return
