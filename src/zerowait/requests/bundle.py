"""Requests that were asked one after another on one lane, and where their answers are found.

As with pushes nothing is kept for each of them but its place. What comes back comes for many at once: a list, as long
as the bundle, says for each place which Span has its answer, and a span of a thousand is one assignment to a slice.
Values are decoded by whoever asks first, all that came in one frame in one typed call: never on the network thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from zerowait.answers import End, Failed
from zerowait.message import BODY_START
from zerowait.names import message_id
from zerowait.outbox.lane import Lane
from zerowait.outbox.sheaf import Origin, Sheaf, Terms

if TYPE_CHECKING:
    from zerowait.codec import Codec
    from zerowait.failures import Errors
    from zerowait.outbox.intake import Intake


class Box(Protocol):
    """The outbox of requests, as far as whoever has one of its bundles needs it: see `box.Requests`. Any thread."""

    id: int
    wakers: dict[Any, Any]

    def reads(self, bundle: Bundle, index: int, reader: Callable[[], Any]) -> list[bytes]: ...
    def feed(self, bundle: Bundle, index: int, limit: int, *, over: bool = False) -> None: ...
    def cancel(self, bundle: Bundle, index: int) -> None: ...
    def cancel_later(self, bundle: Bundle, index: int) -> None: ...
    def unseen(self, bundle: Bundle, index: int, failed: Failed, count: int) -> None: ...


class AskLane(Lane):
    """Where requests of one channel gather that have the same time, and the same to expect of the answer.

    out: of the answer. errors: of the contract. is_stream: many answers each. hedge: a second worker is asked.
    """

    __slots__ = ("errors", "hedge", "is_stream", "out", "requests")

    def __init__(
        self,
        intake: Intake,
        channel: str,
        exact: type | None,
        encode_into: Callable[[Any, bytearray, int], object] | None,
        *,
        timeout: float | None,
        out: Codec[Any],
        errors: Errors,
        requests: Box,
        is_stream: bool = False,
        hedge: bool = False,
    ) -> None:
        super().__init__(intake, channel, exact, encode_into, timeout, 0)
        self.out = out
        self.errors = errors
        self.requests = requests
        self.is_stream = is_stream
        self.hedge = hedge

    def put(self, value: object) -> tuple[Sheaf, int]:
        """The short way, of a value of `exact`. Raises what encoding raises, QueueFull, TooLarge, Closed; then nothing
        was taken."""
        slot = self.slot
        try:
            sheaf = slot.pop()
        except IndexError:
            pass
        else:
            try:
                buffer, ends = sheaf.buffer, sheaf.ends
                self.encode_into(value, buffer, -1)  # type: ignore[misc]  # a lane with `exact` has it
                index = len(ends)
                ends.append(size := len(buffer))
                if size > sheaf.most_bytes or index >= sheaf.last_index:
                    sheaf, slot, mine, index = self.full(sheaf)
                    return mine, index
                return sheaf, index
            except BaseException:
                del sheaf.buffer[sheaf.ends[-1] if sheaf.ends else BODY_START :]  # no call: nothing can interrupt it
                raise
            finally:
                slot.append(sheaf)
        return self.first(value)


class Bundle(Sheaf):
    """A sheaf of requests. `ended`, `streams` and `watchers` are changed under the intake's `watch`.

    ended: for each place what has become of it, None while nobody knows; shorter than the bundle until it was taken.
    streams: index → whoever reads what comes of it. early: of those that were cancelled before they were taken.
    """

    __slots__ = ("early", "ended", "looked", "streams", "watchers")

    lane: AskLane

    def __init__(self, lane: Origin, slot: list[Sheaf], terms: Terms, messages: int, nbytes: int) -> None:
        self.ended: list[End | None] = []
        self.early: dict[int, End] | None = None
        self.streams: dict[int, Any] | None = None
        self.watchers: dict[int, list[Callable[[], object]]] | None = None
        self.looked: set[int] | None = None  # failures that somebody was told of
        super().__init__(lane, slot, terms, messages, nbytes)

    def is_done(self, index: int) -> bool:
        ended = self.ended
        if index < len(ended):
            return ended[index] is not None
        return self.early is not None and index in self.early

    def value(self, index: int) -> Any:
        end = self.ended[index] if index < len(self.ended) else (self.early or {})[index]
        assert end is not None, "asked before it is done"
        return end.value(self, index)

    def id(self, index: int) -> str:
        """`<instance>-<epoch>-<number>`, once it was taken; "" before."""
        box: int = self.lane.requests.id
        return message_id(box, self.epoch, self.first + index) if index < len(self.ended) else ""

    def watch(self, index: int, call: Callable[[], object]) -> None:
        """Calls back once when that one has ended; at once if it has. On the thread that notices."""
        with self.lane.intake.watch:
            if not self.is_done(index):
                if self.watchers is None:
                    self.watchers = {}
                self.watchers.setdefault(index, []).append(call)
                return
        call()

    def unwatch(self, index: int, call: Callable[[], object]) -> bool:
        """Takes that back. True: nobody else waits for it."""
        with self.lane.intake.watch:
            watchers = self.watchers
            if watchers is None or index not in watchers:
                return True
            calls = watchers[index]
            if call in calls:
                calls.remove(call)
            if not calls:
                del watchers[index]
                return True
            return False

    def end(self, start: int, stop: int, end: End) -> tuple[int, list[Callable[[], object]]]:
        """These have ended, those that had not before. Gives how many, and whom to tell. Under the intake's `watch`."""
        ended = self.ended
        count = ended[start:stop].count(None)
        if count == stop - start:
            ended[start:stop] = [end] * count
        else:
            for index in range(start, stop):
                if ended[index] is None:
                    ended[index] = end
        calls: list[Callable[[], object]] = []
        watchers = self.watchers
        if count and watchers:
            few = len(watchers) < stop - start
            mine = (
                [i for i in watchers if start <= i < stop] if few else [i for i in range(start, stop) if i in watchers]
            )
            for index in mine:
                calls += watchers.pop(index)
        return count, calls

    def told(self, index: int) -> None:
        """Somebody was told of its failure."""
        if self.looked is None:
            self.looked = set()
        self.looked.add(index)

    def __del__(self) -> None:
        """The last of its replies is gone: failures that nobody has seen are said, once."""
        try:
            unseen = [
                (index, end)
                for index, end in enumerate(self.ended)
                if isinstance(end, Failed) and (self.looked is None or index not in self.looked)
            ]
            if unseen:
                self.lane.requests.unseen(self, unseen[0][0], unseen[0][1], len(unseen))
        except AttributeError:  # of one that was never whole
            return
