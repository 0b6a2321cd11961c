"""The states and what happens in each of them, as data: the protocol, its test and the diagrams in the documentation
read these."""

from __future__ import annotations

from zerowait.engines.brokerless.protocol import frames
from zerowait.engines.brokerless.protocol.frames import Frame
from zerowait.engines.brokerless.protocol.link import LinkPhase

ACCEPT = "accept"
VIOLATION = "violation"  # GOODBYE with UNEXPECTED, and the link is over
IGNORE = "ignore"

_BEFORE_STATE = {frames.State, frames.Ping, frames.Pong, frames.Goodbye, frames.Control, frames.Fragment}
_LATER_PATTERNS = {frames.Chunk, frames.Subscribe, frames.Event, frames.Schema}

# (phase, frame) → what happens. HELLO is read by `frames.decode_hello` alone; anything else first is a stranger.
LINK: dict[tuple[LinkPhase, type], str] = {}
_frame: type
for _frame in frames.FRAMES:
    LINK[LinkPhase.DIALLED, _frame] = ACCEPT if _frame is frames.Hello else VIOLATION
    LINK[LinkPhase.GREETED, _frame] = ACCEPT if _frame in _BEFORE_STATE else VIOLATION
    LINK[LinkPhase.READY, _frame] = VIOLATION if _frame is frames.Hello else ACCEPT
    LINK[LinkPhase.LOST, _frame] = IGNORE
for _frame in _LATER_PATTERNS:
    LINK[LinkPhase.READY, _frame] = IGNORE


def is_expected(phase: LinkPhase, frame: Frame) -> bool:
    return LINK[phase, frame.__class__] != VIOLATION
