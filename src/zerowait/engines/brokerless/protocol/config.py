"""What the protocol is told at its start. Seconds, unless a name says otherwise."""

from __future__ import annotations

from msgspec import Struct


class Config(Struct, frozen=True, kw_only=True):
    ping: float = 1.0
    silence: float = 3.0  # nothing heard for so long: the connection is given up
    resume_grace: float = 5.0  # a link that comes back within it resumes; nothing is run twice
    proof_within: float = 0.3  # how long to look for a proof of death before the grace counts
    prefetch: int = 50_000  # upper bound of a channel's window at a worker, in units
    horizon: float = 0.1  # the window holds this much work beyond what runs
    tick: float = 0.02  # the window grows at most twofold in each
    idle_after: float = 0.2  # runners all busy and nothing started for so long: the queue is handed back
    stuck: float = 3.0  # a handlers' loop that has not turned for so long gets no new work
    handshake: float = 5.0
    outcome_keep: float = 7 * 86_400.0  # how long outcomes are kept for a durable outbox whose owner is gone
    undecided_after: float = 600.0  # without a link to who could choose: outputs leave all the same
    drain: float = 5.0
    no_responder: float = 1.0  # a request that nobody serves for so long fails
    topic_bytes: int = 64 << 20  # of events that wait for subscribers, or are kept for later ones, a pattern each
    message_bytes: int = 16 * 1024 * 1024
    crash_limit: int = 3  # deaths of workers while a message ran, one of them alone: then it is a dead letter
    alone_within: float = 2.0  # how long a worker stands still for a message that is to run alone and does not come


class Identity(Struct, frozen=True, kw_only=True):
    """This process, as its HELLO names it."""

    instance: int
    name: str
    pid: int = 0
    boot: str = ""
    device: int = 0
    inode: int = 0
