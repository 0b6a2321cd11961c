"""REQ: bare peers that ask what we answer. A ROUTER speaks with any number of them at once.

Each question is asked here as every other request of this process, so that whoever serves the channel answers it, and
its deadline, a worker's death and a handler's error end it. The peer then gets exactly one answer. A bare socket knows
no errors: what has failed, for whatever reason, is answered with an empty frame, counted, and named in our log, because
a REQ that gets nothing waits for ever.

ZeroMQ holds a thousand messages for a peer. A DEALER with more questions out than that is answered faster than it can
take: what ZeroMQ has no room for waits here, in order. While much waits nothing more is read, of nobody, for a ROUTER
cannot choose; so one that takes nothing for long is given up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from msgspec import Struct

from zerowait.engines.brokerless.plainly.envelope import NO_ANSWER, parted
from zerowait.engines.brokerless.plainly.port import RETRY_S, Around, Port, log
from zerowait.engines.brokerless.wire import PlainHeard, Wire
from zerowait.errors import EncodeError, NotAccepted, TooLarge
from zerowait.plain import Plain
from zerowait.requests.bundle import Bundle

Envelope = list[bytes]

KEPT_BYTES = 32 << 20  # of answers that their peers have no room for: while more wait, no question is read
KEPT_COST = 400  # of each, for what is around its bytes
PATIENCE_S = 10.0  # while that much waits, a peer that takes nothing for so long is given up
SOON_S = 0.005  # a ROUTER does not say when a peer has room; this soon one that takes is tried again


class _Kept(Struct, eq=False):
    """What a peer had no room for, the oldest first. since: when it last took something."""

    answers: deque[list[bytes]]
    since: float
    is_deaf: bool = False  # given up: one answer is left to try it with


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
        self.gone = 0  # answers whose peer had left, or did not read for long
        self._decode = decode
        self._ask = ask
        self._encode = encode
        self._held: deque[tuple[Envelope, bytes]] = deque()  # read, but there was no room to ask
        self._told_held = False
        self._asked: dict[int, tuple[Envelope, Bundle, int]] = {}  # without an answer
        self._count = 0
        self._ended: deque[int] = deque()  # of those: what is answered
        self._refusals: deque[Envelope] = deque()
        self._kept: dict[bytes, _Kept] = {}  # by peer
        self._kept_bytes = 0
        self._told_slow = False
        self._again_at = 0.0  # when those are tried again

    def has_kept(self) -> bool:
        """Whether answers wait for peers that still take some."""
        return any(not kept.is_deaf for kept in self._kept.values())

    def has_work(self) -> bool:
        return bool(self._ended or self._refusals)

    def turn(self, wire: Wire) -> float | None:
        if (wait := self.opening(wire)) is not None:
            return wait
        while self._held and self._is_asked(*self._held[0]):
            self._held.popleft()
        try:
            again = self._send_kept(wire)
            self._answer(wire)
        except Exception as error:
            return self.trouble(f"could not be sent to: {error}")
        is_much = self._is_much()
        wire.hold_plain(self.socket, bool(self._held) or is_much or self.around.draining)
        if self._kept:
            return again or SOON_S
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
        parts = [*envelope, frame]
        kept = self._kept.get(envelope[0])
        if kept is None:
            taken = wire.send_parts(self.socket, parts)
            if taken is None:
                self._drop(1, "it has left")
            if taken is not False:
                return
            kept = self._kept[envelope[0]] = _Kept(deque(), self.around.clock())
        elif kept.is_deaf:
            self._drop(1, "it does not read")
            return
        kept.answers.append(parts)
        self._kept_bytes += _cost(parts)

    def _send_kept(self, wire: Wire) -> float:
        """As much as their peers have room for. Gives when to come back, in seconds; 0: nothing waits."""
        now = self.around.clock()
        if not self._kept or now < self._again_at:
            return self._again_at - now if self._kept else 0.0
        is_any = False
        for who, kept in list(self._kept.items()):
            while kept.answers:
                taken = wire.send_parts(self.socket, kept.answers[0])
                if taken is False:
                    break
                if taken is None:
                    self._drop(len(kept.answers), "it has left")
                    self._kept_bytes -= sum(map(_cost, kept.answers))
                    kept.answers.clear()
                    break
                self._kept_bytes -= _cost(kept.answers.popleft())
                kept.since, kept.is_deaf, is_any = now, False, True
            if not kept.answers:
                del self._kept[who]
        wait = SOON_S if is_any else RETRY_S
        self._again_at = now + wait
        return wait

    def _is_much(self) -> bool:
        """Whether so much waits for peers that nothing more should be read. Who only costs room is given up."""
        now = self.around.clock()
        if self._kept_bytes > KEPT_BYTES:
            if not self._told_slow:
                log.warning(
                    "channel %s: bare peers that ask (%s) do not read their answers as fast as they ask: %d MiB of "
                    "answers wait, and no questions are read meanwhile",
                    self.channel,
                    self.where(),
                    KEPT_BYTES >> 20,
                )
            self._told_slow = True
            for kept in self._kept.values():
                if now - kept.since >= PATIENCE_S and len(kept.answers) > 1:
                    self._drop(len(kept.answers) - 1, f"it has not read for {PATIENCE_S:g} s")
                    while len(kept.answers) > 1:
                        self._kept_bytes -= _cost(kept.answers.pop())
                    kept.is_deaf = True
        elif not self._kept:
            self._told_slow = False
        return self._kept_bytes > KEPT_BYTES

    def _drop(self, count: int, why: str) -> None:
        before, self.gone = self.gone, self.gone + count
        if self.gone.bit_length() > before.bit_length():  # 1, 2, 4, 8 …
            log.info(
                "channel %s: an answer for a bare peer (%s) is dropped: %s. %d so far",
                self.channel,
                self.where(),
                why,
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
        self._again_at = 0.0
        self._send_kept(wire)
        self._answer(wire)
        for envelope in [*(envelope for envelope, _, _ in self._asked.values()), *(each for each, _ in self._held)]:
            self.failed += 1
            self._send(wire, envelope, NO_ANSWER)
        self._asked.clear()
        self._held.clear()
        self._drop_kept()

    def _drop_kept(self) -> None:
        count = sum(len(kept.answers) for kept in self._kept.values())
        if count:
            self._drop(count, "it did not read until we left")
        self._kept.clear()
        self._kept_bytes = 0


def _cost(parts: list[bytes]) -> int:
    return KEPT_COST + sum(map(len, parts))
