"""Messages with a key at a worker: one at a time, one after another (rules §8.2).

Of each key one parcel is current: it stands among those that may be started, or a message of it runs. All others of the
key, and what is left of that parcel while its first message runs, stand behind it and are not looked at."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from msgspec import Struct, field

from zerowait.engines.brokerless.protocol.frames import ORDINARY
from zerowait.engines.brokerless.protocol.worker.parcel import Parcel

Name = tuple[int, bytes]  # (outbox, key)


class Line(Struct, eq=False):
    """running: the message that runs, by its parcel and its index there."""

    behind: deque[Parcel] = field(default_factory=deque[Parcel])
    running: tuple[Parcel, int] | None = None
    since: float = 0.0


def name_of(parcel: Parcel) -> Name | None:
    """None: it stands in no line. Suspects do not: they are alone in their lanes."""
    key = parcel.delivery.key
    return None if key is None or parcel.lane != ORDINARY else (parcel.box, key)


class Lines:
    """Of one channel."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: dict[Name, Line] = {}

    def __bool__(self) -> bool:
        return bool(self._lines)

    def join(self, name: Name, parcel: Parcel) -> bool:
        """Whether it is current at once; else it stands behind."""
        line = self._lines.get(name)
        if line is not None:
            line.behind.append(parcel)
            return False
        self._lines[name] = Line()
        return True

    def starts(self, name: Name, parcel: Parcel, now: float) -> None:
        """The message at which the parcel stands runs from now on."""
        line = self._lines[name]
        line.running, line.since = (parcel, parcel.at), now
        parcel.at += 1
        if parcel.at < parcel.stop:
            line.behind.appendleft(parcel)

    def ends(self, parcel: Parcel, index: int) -> Parcel | None:
        """That one has been handled. Gives the parcel that is current now, if there is one and it has not been told."""
        name = name_of(parcel)
        line = self._lines.get(name) if name is not None else None
        if name is None or line is None or line.running != (parcel, index):
            return None
        line.running = None
        return self.next(name)

    def next(self, name: Name) -> Parcel | None:
        """The current one has left."""
        line = self._lines[name]
        if line.running is not None:
            return None
        if line.behind:
            return line.behind.popleft()
        del self._lines[name]
        return None

    def leave(self, name: Name) -> None:
        """All of it that had not begun has been taken out."""
        line = self._lines.get(name)
        if line is not None and line.running is None:
            del self._lines[name]

    def fails(self, parcel: Parcel, index: int) -> list[Parcel]:
        """That one has ended otherwise. Gives all that stood behind it."""
        name = name_of(parcel)
        line = self._lines.get(name) if name is not None else None
        if name is None or line is None or line.running != (parcel, index):
            return []
        del self._lines[name]
        return list(line.behind)

    def behind(self, box: int | None = None) -> Iterator[tuple[Name, deque[Parcel]]]:
        """All that stands behind, of one outbox."""
        return iter([(name, line.behind) for name, line in self._lines.items() if box is None or name[0] == box])

    def lasting(self, before: float) -> list[Parcel]:
        """Takes out what stands behind a message that runs since before that time."""
        found: list[Parcel] = []
        for line in self._lines.values():
            if line.running is not None and line.behind and line.since < before:
                found.extend(line.behind)
                line.behind.clear()
        return found
