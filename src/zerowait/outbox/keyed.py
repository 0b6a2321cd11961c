"""The open sheaves of keys: what is pushed with one key keeps its order, whichever thread or lane it comes by."""

from __future__ import annotations

from threading import RLock
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field

if TYPE_CHECKING:
    from zerowait.outbox.sheaf import Origin, Sheaf

REMEMBERED: Final = (
    256  # keys whose sheaf may be added to; who pushes with more at once makes more rows, no more memory
)


class Open(Struct):
    """Where a key's last sheaf lies while nobody has it, and what the messages in it have in common."""

    slot: list[Sheaf] = field(default_factory=list["Sheaf"])
    lane: Origin | None = None
    terms: tuple[int | None, int | None, int] | None = None


class Keyed:
    """lock: held while a message with a key is taken. Whoever has it has the last sheaf of every key, or the owner of
    the outbox has taken it: there is never a second one that an earlier message could still go into."""

    def __init__(self) -> None:
        self.lock = RLock()  # a signal handler may push, too
        self._open: dict[tuple[str, bytes], Open] = {}

    def open(self, channel: str, key: bytes) -> Open:
        """Of that key; under the lock."""
        opened = self._open.get((channel, key))
        if opened is None:
            if len(self._open) >= REMEMBERED:
                self._open.clear()  # the intake knows the sheaves: their owner takes them
            opened = self._open[channel, key] = Open()
        return opened
