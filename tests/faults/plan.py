"""What a process of these tests is to do, as it is told to it."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct


class Plan(Struct, frozen=True, kw_only=True):
    """Seconds and bytes. point, nth: where in the product it is to kill itself (see `points`), at which passage.
    network: the process in whose network namespace it is to live; None: in this one."""

    role: Literal["sender", "worker", "stage", "host"]
    folder: str = ""  # of histories
    log: str = "/dev/null"
    settings: dict[str, Any] = {}
    network: int | None = None
    point: str = ""
    nth: int = 1

    # A sender
    sender: int = 0
    count: int | None = None  # None: until it is told to stop
    pace: float = 0.001
    most_bytes: int = 1_000

    # A stage of a chain: the first has what a sender pushes
    stage: int = 1
    inbox: Literal["memory", "disk"] = "memory"

    # A worker
    concurrency: int = 4
    seconds: float = 0.001  # of a handler
    block_at: int | None = None  # the handler of this message stops the loop, for
    block_s: float = 0.0
