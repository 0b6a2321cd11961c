"""PUSH and PULL: work for bare peers, and from them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Lock

from zerowait.engines.brokerless.plainly.port import RETRY_S, Around, Port, log
from zerowait.engines.brokerless.wire import PlainHeard, Wire
from zerowait.errors import EncodeError, NotAccepted, TooLarge
from zerowait.message import BODY_START
from zerowait.outbox.intake import Intake
from zerowait.outbox.sheaf import MESSAGE_COST, Piece, Sheaf
from zerowait.plain import Plain

HELD_S = 0.001  # how soon a sheaf is looked at again that a push had in hand


class PushPort(Port):
    """A channel of ours that goes to a bare PULL."""

    kind = "push"
    meanwhile = "what was pushed waits here"

    def __init__(self, channel: str, plain: Plain, around: Around, intake: Intake) -> None:
        super().__init__(channel, plain, around)
        self._intake = intake
        self._waiting: deque[tuple[Sheaf, Piece]] = deque()
        self._sent = 0  # messages of the first piece; the intake counts a piece whole until all of it is sent
        self._lock = Lock()  # of the moment in which a piece is over

    def turn(self, wire: Wire) -> float | None:
        if (wait := self.opening(wire)) is not None:
            return wait
        self._waiting.extend(self._intake.take())
        try:
            is_sent = self._send(wire)
        except Exception as error:
            return self.trouble(f"could not be sent to: {error}")
        if not is_sent:
            return RETRY_S
        return HELD_S if self._intake.held else None

    def _send(self, wire: Wire) -> bool:
        while self._waiting:
            sheaf, piece = self._waiting[0]
            body, ends = memoryview(piece.body), memoryview(piece.ends).cast("I")
            while self._sent < piece.count:
                start = ends[self._sent - 1] if self._sent else BODY_START
                if not wire.send_plain(self.socket, bytes(body[start : ends[self._sent]])):
                    return False
                self._sent += 1
            with self._lock:  # whoever counts sees the piece whole and sent, or not at all
                self._waiting.popleft()
                self._sent = 0
                self._intake.stored([(sheaf, piece.count)])
            sheaf.stored()
            self._intake.settled(piece.count, len(piece.body) - BODY_START + MESSAGE_COST * piece.count)
        return True

    def left(self) -> int:
        """Messages that no bare socket has taken yet, each counted once. Any thread."""
        with self._lock:
            return max(0, sum(self._intake.counts().values()) - self._sent)


class PullPort(Port):
    """A bare PUSH that feeds a channel that we serve."""

    kind = "pull"

    def __init__(
        self,
        channel: str,
        plain: Plain,
        around: Around,
        decode: Callable[[bytes], bytes],
        accept: Callable[[bytes], None],
    ) -> None:
        super().__init__(channel, plain, around)
        self._decode = decode
        self._accept = accept
        self._held: deque[bytes] = deque()  # read, but the outbox was full
        self._told_held = False

    def turn(self, wire: Wire) -> float | None:
        if (wait := self.opening(wire)) is not None:
            return wait
        while self._held and self._is_accepted(self._held[0]):
            self._held.popleft()
        wire.hold_plain(self.socket, bool(self._held) or self.around.draining)
        return RETRY_S if self._held else None

    def heard(self, event: PlainHeard) -> None:
        if len(event.parts) != 1:
            self.refuse(f"a message of {len(event.parts)} frames, where one is expected")
            return
        try:
            payload = self._decode(event.parts[0])
        except Exception as error:  # a stranger's bytes, read as a type of the user's: whatever it is, it is theirs
            self.refuse(str(error) or repr(error))
            return
        if self._held or not self._is_accepted(payload):
            self._held.append(payload)

    def _is_accepted(self, payload: bytes) -> bool:
        """False: there is no room for it now."""
        try:
            self._accept(payload)
        except (TooLarge, EncodeError) as error:  # there never will be
            self.refuse(str(error))
            return True
        except NotAccepted as error:
            if not self._told_held:
                log.warning("channel %s: a bare sender is held back: %s", self.channel, error)
            self._told_held = True
            return False
        self._told_held = False
        return True
