"""When an event is safe for durable groups: what `publish` gives is done then."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Final

from zerowait.codec import Codec
from zerowait.outbox.sheaf import Sheaf
from zerowait.pending import Pending, Promise

HELD_COST: Final = 512  # of each event that is held, beside its payload


class Safe:
    """What was appended for groups: in which sheaf, at which place."""

    def __init__(self, promise: Promise[int], taken: list[tuple[Sheaf, int]]) -> None:
        self._promise = promise
        self.taken = taken

    def beside(self, published: Pending[int]) -> Pending[int]:
        """Done when it is safe for all groups, and addressed to those who are there; counts both."""
        promise, taken = self._promise, self.taken

        def over() -> None:
            error = next((sheaf.error for sheaf, _ in taken if sheaf.error is not None), None)
            if error is None:
                error = published.exception()
            if error is not None:
                promise.fail(error)
            else:
                promise.set(published.result() + len(taken))

        left, lock = len(taken) + 1, threading.Lock()

        def one() -> None:
            nonlocal left
            with lock:
                left -= 1
                is_over = left == 0
            if is_over:
                over()

        published._watch(one)
        for sheaf, index in taken:
            sheaf.when_stored(index, one)
        return promise


class HeldEvent:
    """An event that was published before it was known which groups there are."""

    def __init__(
        self, promise: Promise[int], topic: str, codec: Codec[Any], payload: bytes, headers: Mapping[str, str] | None
    ) -> None:
        self._promise = promise
        self.topic, self.codec, self.payload, self.headers = topic, codec, payload, headers
        self.nbytes = len(payload) + HELD_COST
        self._lock = threading.Lock()
        self._taken: list[tuple[Sheaf, int]] | Exception | None = None
        self._published: Pending[int] | None = None

    def beside(self, published: Pending[int]) -> Pending[int]:
        """As that of `Safe`."""
        with self._lock:
            self._published = published
        self._look()
        return self._promise

    def went(self, taken: list[tuple[Sheaf, int]] | Exception) -> None:
        """Appended for all groups there are; or it could not be, and why."""
        with self._lock:
            self._taken = taken
        self._look()

    def _look(self) -> None:
        with self._lock:
            published, taken = self._published, self._taken
            if published is None or taken is None:
                return
            self._published = None  # whoever comes second finds nothing to do
        if isinstance(taken, Exception):
            self._promise.fail(taken)
        else:
            Safe(self._promise, taken).beside(published)
