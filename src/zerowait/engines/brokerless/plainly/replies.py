"""REQ: bare peers that ask what we answer. A ROUTER speaks with any number of them at once.

Each question is asked here as every other request of this process, so that whoever serves the channel answers it, and
its deadline, a worker's death and a handler's error end it. The peer then gets exactly one answer. A bare socket knows
no errors: what has failed, for whatever reason, is answered with an empty frame, counted, and named in our log, because
a REQ that gets nothing waits for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from zerowait.engines.brokerless.plainly.envelope import NO_ANSWER, parted
from zerowait.engines.brokerless.plainly.port import RETRY_S, Around, Port, log
from zerowait.engines.brokerless.wire import PlainHeard, Wire
from zerowait.errors import EncodeError, NotAccepted, TooLarge
from zerowait.plain import Plain
from zerowait.requests.bundle import Bundle

Envelope = list[bytes]


class ReplyPort(Port):
    """decode: a frame to a payload. ask: takes a payload; raises NotAccepted while there is no room. encode: a value to
    a frame."""

    kind = "router"

    def __init__(
        self,
        channel: str,
        plain: Plain,
        around: Around,
        *,
        decode: Callable[[bytes], bytes],
        ask: Callable[[bytes], tuple[Bundle, int]],
        encode: Callable[[Any], bytes],
    ) -> None:
        super().__init__(channel, plain, around)
        self.failed = 0  # answered with an empty frame
        self.gone = 0  # answers whose peer had left, or did not read
        self._decode = decode
        self._ask = ask
        self._encode = encode
        self._held: deque[tuple[Envelope, bytes]] = deque()  # read, but there was no room to ask
        self._told_held = False
        self._asked: dict[int, tuple[Envelope, Bundle, int]] = {}  # without an answer
        self._count = 0
        self._ended: deque[int] = deque()  # of those: what is answered
        self._refusals: deque[Envelope] = deque()

    def has_work(self) -> bool:
        return bool(self._ended or self._refusals)

    def turn(self, wire: Wire) -> float | None:
        if (wait := self.opening(wire)) is not None:
            return wait
        while self._held and self._is_asked(*self._held[0]):
            self._held.popleft()
        try:
            self._answer(wire)
        except Exception as error:
            return self.trouble(f"could not be sent to: {error}")
        wire.hold_plain(self.socket, bool(self._held) or self.around.draining)
        return RETRY_S if self._held else None

    def heard(self, event: PlainHeard) -> None:
        found = parted(event.parts[1:])  # the first names the peer
        if found is None:
            self.refuse("a message without the empty frame that a REQ puts before its question; nothing answers it")
            return
        envelope, body = [event.parts[0], *found[0]], found[1]
        if len(body) != 1 or not event.complete:
            self._turn_down(envelope, f"a question of {len(body)} frames, where one is expected")
            return
        try:
            payload = self._decode(body[0])
        except Exception as error:  # a stranger's bytes, read as a type of the user's: whatever it is, it is theirs
            self._turn_down(envelope, str(error) or repr(error))
            return
        if self._held or not self._is_asked(envelope, payload):
            self._held.append((envelope, payload))

    def _turn_down(self, envelope: Envelope, words: str) -> None:
        self.refuse(words)
        self._refusals.append(envelope)

    def _is_asked(self, envelope: Envelope, payload: bytes) -> bool:
        """False: there is no room for it now."""
        try:
            bundle, index = self._ask(payload)
        except (TooLarge, EncodeError) as error:  # there never will be
            self._turn_down(envelope, str(error))
            return True
        except NotAccepted as error:
            if not self._told_held:
                log.warning("channel %s: bare peers that ask are held back: %s", self.channel, error)
            self._told_held = True
            return False
        self._told_held = False
        self._count += 1
        self._asked[self._count] = envelope, bundle, index
        bundle.watch(index, partial(self._ended.append, self._count))
        return True

    def _answer(self, wire: Wire) -> None:
        while self._refusals:
            self._send(wire, self._refusals.popleft(), NO_ANSWER)
        while self._ended:
            found = self._asked.pop(self._ended.popleft(), None)
            if found is None:
                continue
            envelope, bundle, index = found
            try:
                frame = self._encode(bundle.value(index))
            except Exception as error:  # the handler's, or whatever kept it from answering
                self._failed(error)
                frame = NO_ANSWER
            self._send(wire, envelope, frame)

    def _send(self, wire: Wire, envelope: Envelope, frame: bytes) -> None:
        if not wire.send_parts(self.socket, [*envelope, frame]):
            self.gone += 1
            if self.gone & (self.gone - 1) == 0:
                log.info(
                    "channel %s: an answer for a bare peer (%s) is dropped: it has left, or does not read. %d so far",
                    self.channel,
                    self.where(),
                    self.gone,
                )

    def _failed(self, error: Exception) -> None:
        self.failed += 1
        if self.failed & (self.failed - 1) == 0:
            log.warning(
                "channel %s: a bare peer (%s) got an empty answer: %s: %s. %d so far",
                self.channel,
                self.where(),
                type(error).__name__,
                str(error).rstrip("."),
                self.failed,
            )

    def leave(self, wire: Wire) -> None:
        """The process goes: who waits is not left waiting."""
        if self.socket < 0:
            return
        self._answer(wire)
        for envelope in [*(envelope for envelope, _, _ in self._asked.values()), *(each for each, _ in self._held)]:
            self.failed += 1
            self._send(wire, envelope, NO_ANSWER)
        self._asked.clear()
        self._held.clear()
