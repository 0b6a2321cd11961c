"""What has come and was not read yet. A turn reads a bounded part of it, so that when thousands speak at once their
words lie here for seconds: who was not heard meanwhile was perhaps only not read."""

from __future__ import annotations

from collections import deque

from zerowait.engines.brokerless.dialled import FRAMES_A_TURN


class Unread:
    """A listener gives each who has said something his turn, so many of them in each of ours: whoever said something
    before the last turns, of which all fit into so many, was heard."""

    def __init__(self) -> None:
        self._last = float("-inf")  # when was read last
        self._behind: deque[float] = deque()  # when was read before each of the last turns that did not read all

    def read(self, peers: int, now: float, *, is_behind: bool) -> float:
        """After each turn's reading: of what had come by the time that this gives each peer's first word was read;
        infinity: all is. peers: how many may have said something. is_behind: there was more than a turn reads."""
        last, self._last = self._last, now
        if not is_behind:
            if self._behind:
                self._behind.clear()
            return float("inf")
        self._behind.append(last)
        # One more: whose turn it is when the first of them begins is not known.
        while len(self._behind) > 1 + -(-peers // FRAMES_A_TURN):
            self._behind.popleft()
        return self._behind[0]
